//! Programs that bootstrap: every operation and every refresh is placed on a chain of primes that does not follow from the graph but
//! from bootstrapping, and the chain itself is chosen among those that the ring admits.
//!
//! | file | what |
//! |---|---|
//! | [`rules`] | what one operation may do on a chain |
//! | [`bound`] | the least time that is still to come |
//! | [`search`] | the least-time placement of all, by dynamic programming |
//! | `lanes` | levels and scales of many values, compared at once |
//! | [`chains`] | chains worth trying |
//! | [`rebuild`] | the leveled graph of a placement |

pub mod bound;
pub mod chains;
mod lanes;
pub mod rebuild;
pub mod rules;
pub mod search;
#[cfg(test)]
mod tests;

use peregrine_ckks::bootstrap::BootstrapParams;
use peregrine_ckks::params::Params;
use std::collections::HashMap;

use peregrine_ir::fhe::{Fhe, FheGraph, FheOp, MonicPoly};
use peregrine_ir::{BootstrapSpec, EntityId, Level, Node, Slots};
use rayon::prelude::*;

use self::chains::Candidate;
use self::rules::{MARGIN_BITS, RefreshRules, Rules, Step, StepKind};
use self::search::{NARROW, Placement, Problem, WIDTH};
use super::LowerError;
use super::calls::terms;
use super::cost::{LinearCounts, Machine};
use super::level::Precision;
use super::plan_keys::KeySearch;
use super::refresh_cost::refresh_seconds;

/// Chains that are searched at a time, so that each knows what the ones before it found.
const AT_ONCE: usize = 4;

/// What the operations of a packed graph cost, whatever the chain: counted once, priced for every chain that is tried.
#[derive(Debug)]
pub struct Workload<'a> {
    graph: &'a FheGraph,
    /// What each split of each shape of linear operations counts.
    splits: Vec<&'a [LinearCounts]>,
    /// Shape of each linear operation.
    shapes: Vec<Option<usize>>,
    precision: Precision,
}

impl<'a> Workload<'a> {
    /// The operations of a packed graph, whose shapes `search` has.
    ///
    /// # Errors
    /// A bug of packing: operations that it does not make.
    pub fn of(graph: &'a FheGraph, precision: Precision, search: &'a KeySearch) -> Result<Self, LowerError> {
        let shape = |node: &Node<Fhe>| match &node.op {
            FheOp::Input { .. } | FheOp::Poly(_) => Ok(None),
            FheOp::Linear { .. } => terms(node).map(|terms| search.calls().place(&terms)).transpose(),
            FheOp::Add | FheOp::Drop { .. } | FheOp::Bootstrap(_) => {
                Err(LowerError::bug("packing makes no Add, Drop or Bootstrap"))
            }
        };
        let shapes = graph.nodes.values().map(shape).collect::<Result<_, _>>()?;
        Ok(Self { graph, splits: search.fast().collect(), shapes, precision })
    }

    /// The powers that the graph's polynomials rescale on the way, each number once.
    pub fn poly_levels(&self) -> Vec<u32> {
        let mut levels: Vec<u32> = (self.graph.nodes.values())
            .filter_map(|node| match &node.op {
                FheOp::Poly(poly) => Some(poly.levels()),
                _ => None,
            })
            .collect();
        levels.sort_unstable();
        levels.dedup();
        levels
    }

    /// The scales that are asked for.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The least-time placement on a chain by a search of this width; `None` if the chain is too short.
    pub fn place(&self, candidate: &Candidate, machine: &Machine, width: usize) -> Option<Placement> {
        self.problem(candidate, machine).place(width, f64::INFINITY)
    }

    fn problem(&self, candidate: &Candidate, machine: &Machine) -> Problem {
        let spec = candidate.params.spec();
        let mut bits = chain_bits(spec);
        bits.truncate(candidate.inputs_at.limbs());
        let scale_bits = spec.eval_mod.prime_bits - spec.ratio_bits;
        let refresh = RefreshRules {
            input_level: spec.input_level().0,
            output_level: spec.output_level().0,
            scale_bits,
        };
        let scales = (self.precision.data_bits, self.precision.weight_bits);
        let rules = Rules::new(bits, scales, Some(refresh), &self.poly_levels());
        Problem::new(self.steps(&candidate.params, machine), rules)
    }

    /// The fastest placements over all rings of degree 2^`log_n`, at most `count`: a narrow search on every chain that may be among
    /// them, a wide one on the best where the narrow one had to guess.
    pub fn best(&self, log_n: u32, machine: &Machine, count: usize) -> Vec<(Candidate, Placement)> {
        let candidates = chains::candidates(log_n, self);
        let least = |candidate: Candidate| (self.problem(&candidate, machine).least_seconds(), candidate);
        let mut bounded: Vec<(f64, Candidate)> = candidates.into_par_iter().map(least).collect();
        bounded.retain(|(least, _)| least.is_finite());
        bounded.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut placed: Vec<(Candidate, Placement)> = Vec::new();
        for some in bounded.chunks(AT_ONCE) {
            let limit = worst_of(&placed, count);
            let place = |(least, candidate): &(f64, Candidate)| {
                let problem = (*least < limit).then(|| self.problem(candidate, machine))?;
                problem.place(NARROW, limit).map(|placement| (candidate.clone(), placement))
            };
            placed.extend(some.par_iter().filter_map(place).collect::<Vec<_>>());
        }
        // Where the chain is long enough without refreshes, a leveled plan does better; such a placement stands if there is no other.
        if placed.iter().any(|(_, placement)| placement.refreshes()) {
            placed.retain(|(_, placement)| placement.refreshes());
        }
        placed.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        placed.truncate(count);
        placed.par_iter_mut().filter(|(_, placement)| placement.gap() > 0.0).for_each(
            |(candidate, placement)| {
                let wide = self.problem(candidate, machine).place(WIDTH, f64::INFINITY);
                *placement = wide.unwrap_or_else(|| placement.clone());
            },
        );
        placed.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        placed
    }

    fn steps(&self, params: &BootstrapParams, machine: &Machine) -> Vec<Step> {
        let users = self.graph.users();
        let levels = 0..params.main().q().len() as u32;
        let linear: Vec<Vec<f64>> = (self.splits.iter())
            .map(|splits| {
                let at = |level| splits_seconds(splits, params.main(), machine, Level(level));
                levels.clone().map(at).collect()
            })
            .collect();
        let mut refreshes: HashMap<(Slots, u32), f64> = HashMap::new();
        let price = |(id, node): (peregrine_ir::ValueId, &Node<Fhe>)| {
            let kind = kind_of(self.graph, node, &users[id.index()], self.precision);
            let linear = self.shapes[id.index()].map(|shape| &linear[shape]);
            let seconds = levels
                .clone()
                .map(|level| self.seconds(node, linear, params.main(), machine, Level(level)))
                .collect();
            let args = node.args.iter().map(|arg| arg.index()).collect();
            let refresh = matches!(kind, StepKind::Linear).then(|| {
                let layout = &self.graph.tables.layouts[node.ty.layout];
                let key = (layout.period, layout.ciphertexts);
                let seconds =
                    *refreshes.entry(key).or_insert_with(|| refresh_seconds(machine, params, key.0, key.1));
                (seconds / machine.parallel, range_bits(node.ty.reach))
            });
            Step { kind, args, seconds, refresh }
        };
        self.graph.nodes.iter().map(price).collect()
    }

    /// Seconds of an operation at a level; `linear` has those of a linear one's products and rotations by level.
    fn seconds(
        &self,
        node: &Node<Fhe>,
        linear: Option<&Vec<f64>>,
        params: &Params,
        machine: &Machine,
        level: Level,
    ) -> f64 {
        let ciphertexts = f64::from(self.graph.tables.layouts[node.ty.layout].ciphertexts);
        let product =
            |level: Level| machine.key_switch_seconds(params, level) + machine.rescale_seconds(params, level);
        let seconds = match &node.op {
            FheOp::Linear { .. } => {
                let rescales = ciphertexts * 2.0 * machine.rescale_seconds(params, level);
                linear.map_or(f64::INFINITY, |seconds| seconds[level.0 as usize]) + rescales
            }
            FheOp::Poly(poly) => {
                let depths = products(*poly).into_iter().enumerate();
                let of = |(depth, count): (usize, f64)| {
                    count * product(Level(level.0.saturating_sub(depth as u32)))
                };
                ciphertexts * depths.map(of).sum::<f64>()
            }
            FheOp::Input { .. } | FheOp::Add | FheOp::Drop { .. } | FheOp::Bootstrap(_) => 0.0,
        };
        seconds / machine.parallel
    }
}

/// Products of two ciphertexts by depth.
fn products(poly: MonicPoly) -> Vec<f64> {
    match poly.degree {
        0..=2 => vec![1.0],
        3..=4 => vec![1.0, 1.0],
        5..=6 => vec![1.0, 2.0, 1.0],
        _ => vec![1.0, 2.0, 2.0],
    }
}

/// Seconds of the fastest split.
fn splits_seconds(splits: &[LinearCounts], params: &Params, machine: &Machine, level: Level) -> f64 {
    let of = |counts: &LinearCounts| machine.linear_seconds(counts, params, level);
    splits.iter().map(of).fold(f64::INFINITY, f64::min)
}

/// The time of the last of `count` placements that refresh; infinite while there are fewer.
fn worst_of(placed: &[(Candidate, Placement)], count: usize) -> f64 {
    let refreshing = placed.iter().filter(|(_, placement)| placement.refreshes());
    let mut seconds: Vec<f64> = refreshing.map(|(_, placement)| placement.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    count.checked_sub(1).and_then(|last| seconds.get(last)).copied().unwrap_or(f64::INFINITY)
}

/// Bits of the range that a refresh of values of this reach is made for.
pub fn range_bits(reach: f64) -> u32 {
    let bits = reach.log2().ceil().max(0.0) as u32 + MARGIN_BITS;
    bits.min(peregrine_ir::MAX_RANGE_BITS)
}

/// Bits of the primes of a specification, the lowest first.
pub fn chain_bits(spec: &BootstrapSpec) -> Vec<u32> {
    let bits = |prime: &peregrine_ir::PrimeSpec| match prime {
        peregrine_ir::PrimeSpec::Bits(bits) => *bits,
        peregrine_ir::PrimeSpec::Exact(prime) => prime.ilog2() + 1,
    };
    spec.literal().q.iter().map(bits).collect()
}

fn kind_of(
    graph: &FheGraph,
    node: &Node<Fhe>,
    users: &[peregrine_ir::ValueId],
    precision: Precision,
) -> StepKind {
    match &node.op {
        FheOp::Poly(poly) => StepKind::Poly { levels: poly.levels() },
        FheOp::Input { .. } => {
            let maps_only = users.iter().all(|user| matches!(graph.nodes[*user].op, FheOp::Linear { .. }));
            let bits = precision.data_bits;
            StepKind::Input { scale: if maps_only { 2 * bits } else { bits } }
        }
        FheOp::Linear { .. } | FheOp::Add | FheOp::Drop { .. } | FheOp::Bootstrap(_) => StepKind::Linear,
    }
}

/// Number of ciphertext bootstraps of a placement: one for a pair, one for a single ciphertext.
pub fn bootstraps(graph: &FheGraph, placement: &Placement) -> u32 {
    let of = |(node, choice): (&Node<Fhe>, &rules::Choice)| {
        let ciphertexts = graph.tables.layouts[node.ty.layout].ciphertexts;
        if choice.refresh.is_some() { ciphertexts.div_ceil(2) } else { 0 }
    };
    graph.nodes.values().zip(&placement.choices).map(of).sum()
}
