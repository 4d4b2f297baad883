//! Key plans of every candidate program at every price: what time and key bytes can be traded for each other, and the choice.

use peregrine_ckks::params::Params;
use peregrine_ir::program::Program;
use rayon::prelude::*;

use super::cost::{Machine, Prediction, predict, seconds_besides_calls};
use super::plan_keys::{self, KeyPlan, KeySearch};
use super::{LowerError, emit};

/// A trade of time for key bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrontPoint {
    /// Number of special primes.
    pub alpha: usize,
    /// log2 of the ciphertext and special modulus.
    pub log_qp: f64,
    /// Predicted seconds online, all cores.
    pub seconds: f64,
    /// Switching keys expanded, bytes; without those of an ephemeral secret.
    pub key_bytes: u64,
}

/// What keys may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyBudget {
    /// Weighed against time: this many seconds for a byte.
    Price(f64),
    /// At most so many bytes, and as fast as they allow.
    Bytes(u64),
}

/// A program with its keys planned.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// Parameters.
    pub params: Params,
    /// The program, split and with its manifest.
    pub program: Program,
    /// Predicted time and memory.
    pub prediction: Prediction,
    /// What there was to choose from: ascending bytes, descending time.
    pub front: Vec<FrontPoint>,
}

/// A plan for one of the candidates.
struct Planned {
    candidate: usize,
    plan: KeyPlan,
    point: FrontPoint,
}

/// Plans the keys of every candidate (programs of the graph that `search` is for, in the same ring, for different primes) at every price, and keeps the one
/// that suits the budget best.
///
/// # Errors
/// [`LowerError::KeysMemory`] when no plan is within the budget.
pub fn best(
    search: &KeySearch,
    candidates: Vec<(Params, Program)>,
    machine: &Machine,
    budget: KeyBudget,
) -> Result<Keyed, LowerError> {
    let mut planned = Vec::new();
    for (candidate, (params, program)) in candidates.iter().enumerate() {
        planned.extend(plans(search, candidate, program, params, machine)?);
    }
    let front = front(&planned);
    let best = match budget {
        KeyBudget::Price(price) => {
            let score = |p: &FrontPoint| p.seconds + price * p.key_bytes as f64;
            planned.into_iter().min_by(|a, b| score(&a.point).total_cmp(&score(&b.point)))
        }
        KeyBudget::Bytes(allowed) => {
            let needed = planned.iter().map(|p| p.point.key_bytes).min().unwrap_or(0);
            if needed > allowed {
                return Err(LowerError::KeysMemory { needed, allowed });
            }
            let fitting = planned.into_iter().filter(|p| p.point.key_bytes <= allowed);
            fitting.min_by(|a, b| a.point.seconds.total_cmp(&b.point.seconds))
        }
    };
    let Planned { candidate, plan, .. } = best.ok_or_else(|| LowerError::bug("no key plan"))?;
    let (params, mut program) =
        candidates.into_iter().nth(candidate).ok_or_else(|| LowerError::bug("no such candidate"))?;
    plan_keys::apply(&mut program, &plan);
    program.manifest = emit::manifest(&program, &params, search.calls())?;
    let prediction = predict(&program, &params, machine, search.calls())?;
    Ok(Keyed { params, program, prediction, front })
}

/// The keys of one candidate planned at every price.
fn plans(
    search: &KeySearch,
    candidate: usize,
    program: &Program,
    params: &Params,
    machine: &Machine,
) -> Result<Vec<Planned>, LowerError> {
    let besides = seconds_besides_calls(program, params, machine);
    let plan = |price: &f64| {
        let plan = search.plan(program, params, machine, *price)?;
        let point = FrontPoint {
            alpha: params.alpha(),
            log_qp: params.log_qp(),
            seconds: besides + plan.seconds / machine.parallel,
            key_bytes: plan.key_bytes,
        };
        Ok(Planned { candidate, plan, point })
    };
    plan_keys::PRICES.par_iter().map(plan).collect()
}

/// The points that no other beats in both time and bytes, ascending by bytes.
fn front(planned: &[Planned]) -> Vec<FrontPoint> {
    let mut points: Vec<FrontPoint> = planned.iter().map(|p| p.point).collect();
    points.sort_by(|a, b| a.key_bytes.cmp(&b.key_bytes).then(a.seconds.total_cmp(&b.seconds)));
    let mut least = f64::INFINITY;
    points.retain(|point| {
        let better = point.seconds < least;
        least = least.min(point.seconds);
        better
    });
    points
}
