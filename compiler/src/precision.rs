//! `--precision`: the cheapest scales of data and weights whose program keeps so many bits of the output.
//!
//! Scales fix the noise of every rescale and the rounding of every weight; the error budget says in closed form what of it reaches the
//! output. So each pair of scales is planned, and from the cheapest on those whose budget is enough are run on the noisy backend and
//! exactly, until one keeps its promise on the check input.

use peregrine_ir::program::{ClearError, ClearMachine, Noise, Program, pack_input};
use peregrine_passes::fhe::level::Precision;
use peregrine_passes::pipeline::{Compiled, Options};
use peregrine_passes::plan::{Lowered, Planner};

use crate::driver::Prepared;
use crate::error::CompileError;

/// Scales that are tried: data bits and weight bits share a prime of at most 50 bits.
const LADDER: [Precision; 8] = [
    Precision { data_bits: 25, weight_bits: 18 },
    Precision { data_bits: 26, weight_bits: 20 },
    Precision { data_bits: 27, weight_bits: 21 },
    Precision { data_bits: 26, weight_bits: 24 },
    Precision { data_bits: 27, weight_bits: 23 },
    Precision { data_bits: 28, weight_bits: 22 },
    Precision { data_bits: 30, weight_bits: 20 },
    Precision { data_bits: 32, weight_bits: 18 },
];

/// Seconds that a byte of keys is worth, as between plans.
const SECONDS_PER_KEY_BYTE: f64 = 0.5e-9;
/// Seeds that the prediction is the worst of.
const SEEDS: [u64; 2] = [0x5eed, 0x5eed + 1];

/// Bits that the closed form may be below what the noisy backend finds.
const SLACK: f64 = 0.5;

/// A plan with what it costs.
struct Candidate {
    cost: f64,
    lowered: Lowered,
}

/// Replans `compiled` with the cheapest scales that keep `wanted` bits on the check input.
///
/// # Errors
/// [`CompileError::Precision`] if none of the scales does, with the most that one reaches.
pub fn choose(
    compiled: &mut Compiled,
    prepared: &Prepared,
    settings: &Options,
    wanted: f64,
) -> Result<(), CompileError> {
    let mut candidates = candidates(compiled, settings)?;
    candidates.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    let mut most = f64::NEG_INFINITY;
    for Candidate { lowered, .. } in candidates {
        let foreseen = lowered.budget.bits();
        let bits = match foreseen + SLACK < wanted {
            true => foreseen,
            false => predicted_bits(&lowered.program, prepared)?,
        };
        if bits >= wanted {
            lowered.show(&mut |_, _| {})?;
            compiled.layouts = lowered.packed.layouts.clone();
            compiled.key_front = lowered.key_front;
            compiled.fhe = lowered.fhe;
            compiled.params = lowered.params;
            compiled.program = lowered.program;
            compiled.prediction = lowered.prediction;
            compiled.outcomes = lowered.outcomes;
            compiled.budget = lowered.budget;
            return Ok(());
        }
        most = most.max(bits);
    }
    Err(CompileError::Precision { wanted, most })
}

/// Every pair of scales that has a plan.
fn candidates(compiled: &Compiled, settings: &Options) -> Result<Vec<Candidate>, CompileError> {
    let mut found = Vec::new();
    let planner = Planner::new(&compiled.polynomial, (&compiled.ranges, &compiled.moments), settings);
    for precision in LADDER {
        let Precision { data_bits, weight_bits } = precision;
        settings.progress.step(&format!("trying scales of {data_bits} and {weight_bits} bits"));
        let Ok(lowered) = planner.lower(settings.plan, precision) else { continue };
        let cost = lowered.prediction.seconds + SECONDS_PER_KEY_BYTE * lowered.prediction.key_bytes as f64;
        found.push(Candidate { cost, lowered });
    }
    Ok(found)
}

/// Bits of an output's range below which the noise model leaves the error on the check input.
fn predicted_bits(program: &Program, prepared: &Prepared) -> Result<f64, CompileError> {
    let numbers: Vec<f64> = prepared.check_input.data.iter().map(|&v| f64::from(v)).collect();
    let run = |noise| -> Result<Vec<Vec<Vec<f64>>>, ClearError> {
        let input = pack_input(program, 0, &numbers)?;
        ClearMachine::new(program, noise)?.run(&[input], &mut |_| {})
    };
    let exact = run(Noise::None).map_err(CompileError::Clear)?;
    let mut bits = f64::INFINITY;
    for seed in SEEDS {
        let noisy = run(Noise::Model { seed }).map_err(CompileError::Clear)?;
        for (output, (exact, noisy)) in exact.iter().zip(&noisy).enumerate() {
            let unpack = |slots: &[Vec<f64>]| peregrine_ir::program::unpack_output(program, output, slots);
            let (exact, noisy) =
                (unpack(exact).map_err(CompileError::Clear)?, unpack(noisy).map_err(CompileError::Clear)?);
            bits = bits.min(agreement(&exact, &noisy));
        }
    }
    Ok(bits)
}

fn agreement(exact: &[f64], noisy: &[f64]) -> f64 {
    let (low, high) = exact.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let range = if high > low { high - low } else { high.abs().max(f64::MIN_POSITIVE) };
    let worst = exact
        .iter()
        .zip(noisy)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst: f64, e| if e > worst || e.is_nan() { e } else { worst });
    if worst.is_nan() { f64::NEG_INFINITY } else { -(worst / range).max(f64::MIN_POSITIVE).log2() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_relative_to_the_range() {
        assert!((agreement(&[0.0, 8.0], &[0.0, 8.5]) - 4.0).abs() < 1e-9);
        assert_eq!(agreement(&[1.0, 2.0], &[1.0, f64::NAN]), f64::NEG_INFINITY);
        assert!(agreement(&[1.0, 2.0], &[1.0, 2.0]) > 100.0);
    }

    #[test]
    fn data_and_weights_share_a_prime() {
        assert!(LADDER.iter().all(|p| p.data_bits + p.weight_bits <= 50));
    }
}
