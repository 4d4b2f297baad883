//! Scales of data and weights: those that suit the polynomials' degree, moved where rounded weights make most of the error.
//!
//! Data and weights share the bits of one prime. Copies that share products double the error of rounded weights with each doubling,
//! so the fewer products are left, the more bits weights need. The error budget of the first program tells how many; a bit that
//! moves from data to weights halves the error of the ones and doubles that of everything else.

use crate::fhe::budget::{ErrorBudget, Source};
use crate::fhe::level::{MIN_PRIME_BITS, Precision};
use crate::pipeline::{Options, PipelineError};
use crate::plan::{Lowered, Plan, Planner};

/// Most bits that are moved.
const MOST_MOVED: u32 = 2;
/// Other scales are tried where they are foreseen to leave at most this share of the variance of the outputs' error: a quarter of a bit.
const LEFT: f64 = 0.7;
/// Most that they may cost in seconds.
const SLOWER: f64 = 1.01;

/// The program of least predicted cost.
///
/// # Errors
/// Those of [`Planner::lower`].
pub fn lower(planner: &Planner<'_>, degree: u32, options: &Options) -> Result<Lowered, PipelineError> {
    let precision = options.scales(degree);
    let first = planner.lower(options.plan, precision)?;
    // Chains that bootstrap are cut for scales that suit the degree: others take longer.
    let free = options.precision.is_none() && first.plan() == Plan::Leveled;
    let Some(moved) = free.then(|| moved(precision, &first.budget)).flatten() else { return Ok(first) };
    options.progress.step(&format!("trying scales of {} and {} bits", moved.data_bits, moved.weight_bits));
    // The first program stands where the other scales have none that is as good.
    let Ok(other) = planner.lower(Plan::Leveled, moved) else { return Ok(first) };
    let gain = 2.0 * (other.budget.bits() - first.budget.bits());
    let better = gain >= -LEFT.log2() && other.prediction.seconds <= SLOWER * first.prediction.seconds;
    if !better {
        return Ok(first);
    }
    let bootstrapped = first.outcomes.into_iter().filter(|outcome| outcome.plan == Plan::Bootstrapped);
    let outcomes = other.outcomes.iter().cloned().chain(bootstrapped).collect();
    Ok(Lowered { outcomes, ..other })
}

/// Scales with bits moved to weights, if that leaves much less of the error.
fn moved(precision: Precision, budget: &ErrorBudget) -> Option<Precision> {
    let Precision { data_bits, weight_bits } = precision;
    let all: f64 = budget.sources.iter().sum();
    let rounded = budget.sources[Source::Rounding as usize] / all.max(f64::MIN_POSITIVE);
    let left = |bits: u32| {
        let factor = f64::from(1 << (2 * bits));
        rounded / factor + (1.0 - rounded) * factor
    };
    let most = MOST_MOVED.min(data_bits.saturating_sub(MIN_PRIME_BITS));
    let best = (1..=most).min_by(|&a, &b| left(a).total_cmp(&left(b))).filter(|&bits| left(bits) <= LEFT);
    best.map(|bits| Precision { data_bits: data_bits - bits, weight_bits: weight_bits + bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_share(rounded: f64) -> Option<u32> {
        let mut sources = [0.0; Source::ALL.len()];
        sources[Source::Rounding as usize] = 3.0 * rounded;
        sources[Source::Rescale as usize] = 3.0 * (1.0 - rounded);
        let budget = ErrorBudget { values: Vec::new(), outputs: Vec::new(), sources, probed: Vec::new() };
        let moved = moved(Precision { data_bits: 28, weight_bits: 22 }, &budget);
        moved.inspect(|moved| assert_eq!(moved.data_bits + moved.weight_bits, 50)).map(|m| m.weight_bits - 22)
    }

    #[test]
    fn bits_move_to_weights_where_most_of_the_error_is_theirs() {
        assert_eq!([0.2, 0.8, 0.95, 0.999].map(of_share), [None, None, Some(1), Some(2)]);
        // There is none to give.
        let all =
            ErrorBudget { values: Vec::new(), outputs: Vec::new(), sources: [1.0; 5], probed: Vec::new() };
        assert_eq!(moved(Precision { data_bits: 25, weight_bits: 18 }, &all), None);
    }
}
