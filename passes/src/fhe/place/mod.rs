//! Programs that bootstrap: every operation and every refresh is placed on a chain of primes that does not follow from the graph but
//! from bootstrapping, and the chain itself is chosen among those that the ring admits.
//!
//! | file | what |
//! |---|---|
//! | [`rules`] | what one operation may do on a chain |
//! | [`search`] | the least-time placement of all, by dynamic programming |
//! | [`chains`] | chains worth trying |
//! | [`rebuild`] | the leveled graph of a placement |

pub mod chains;
pub mod rebuild;
pub mod rules;
pub mod search;
#[cfg(test)]
mod tests;

use peregrine_ckks::bootstrap::BootstrapParams;
use peregrine_ckks::params::Params;
use peregrine_ir::fhe::{Fhe, FheGraph, FheOp, MonicPoly};
use peregrine_ir::{BootstrapSpec, EntityId, Level, Node, Slots};

use self::chains::Candidate;
use self::rules::{MARGIN_BITS, RefreshRules, Rules, Step, StepKind};
use self::search::{NARROW, Placement, WIDTH, place};
use super::LowerError;
use super::cost::{LinearCounts, Machine};
use super::level::Precision;
use super::plan_keys::fast_counts;
use super::refresh_cost::refresh_seconds;
use super::share::variants;
use super::split::{CallShape, terms_of};

/// What the operations of a packed graph cost, whatever the chain: counted once, priced for every chain that is tried.
#[derive(Debug)]
pub struct Workload<'a> {
    graph: &'a FheGraph,
    /// For each linear operation what each split of its baby steps counts.
    splits: Vec<Vec<LinearCounts>>,
    precision: Precision,
}

/// A placed graph with the ring that it is placed on.
#[derive(Debug)]
pub struct Placed {
    /// The ring.
    pub params: BootstrapParams,
    /// What runs where.
    pub placement: Placement,
}

impl<'a> Workload<'a> {
    /// Counts the operations of a packed graph.
    ///
    /// # Errors
    /// A bug of packing: operations that it does not make.
    pub fn of(graph: &'a FheGraph, precision: Precision, slots: Slots) -> Result<Self, LowerError> {
        let mut known = Vec::new();
        let splits = graph.nodes.values().map(|node| counts(graph, node, slots, &mut known));
        let splits = splits.collect::<Result<_, _>>()?;
        Ok(Self { graph, splits, precision })
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

    /// The least-time placement on the chain of `params` by a search of this width; `None` if the chain is too short.
    pub fn place(
        &self,
        params: &BootstrapParams,
        machine: &Machine,
        inputs_at: Level,
        width: usize,
    ) -> Option<Placement> {
        let spec = params.spec();
        let mut bits = chain_bits(spec);
        bits.truncate(inputs_at.limbs());
        let scale_bits = spec.eval_mod.prime_bits - spec.ratio_bits;
        let refresh = RefreshRules {
            input_level: spec.input_level().0,
            output_level: spec.output_level().0,
            scale_bits,
        };
        let scales = (self.precision.data_bits, self.precision.weight_bits);
        let rules = Rules::new(bits, scales, Some(refresh), &self.poly_levels());
        let steps = self.steps(params, machine);
        let kept: Vec<usize> = self.graph.outputs.iter().map(|port| port.value.index()).collect();
        place(&steps, &kept, &rules, width)
    }

    /// The fastest placements over all rings of degree 2^`log_n`, at most `count`: a narrow search on every chain, a wide one on the
    /// best where the narrow one had to guess.
    pub fn best(&self, log_n: u32, machine: &Machine, count: usize) -> Vec<(Candidate, Placement)> {
        let place =
            |candidate: &Candidate, width| self.place(&candidate.params, machine, candidate.inputs_at, width);
        let narrow = chains::candidates(log_n, self)
            .into_iter()
            .filter_map(|candidate| place(&candidate, NARROW).map(|placement| (candidate, placement)));
        let mut placed: Vec<(Candidate, Placement)> = narrow.collect();
        // Where the chain is long enough without refreshes, a leveled plan does better; such a placement stands if there is no other.
        if placed.iter().any(|(_, placement)| placement.refreshes()) {
            placed.retain(|(_, placement)| placement.refreshes());
        }
        placed.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        placed.truncate(count);
        for (candidate, placement) in placed.iter_mut().filter(|(_, placement)| placement.gap() > 0.0) {
            let wide = place(candidate, WIDTH).filter(|wide| wide.seconds <= placement.seconds);
            *placement = wide.unwrap_or_else(|| placement.clone());
        }
        placed.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        placed
    }

    fn steps(&self, params: &BootstrapParams, machine: &Machine) -> Vec<Step> {
        let users = self.graph.users();
        let price = |(id, node): (peregrine_ir::ValueId, &Node<Fhe>)| {
            let users = &users[id.index()];
            let kind = kind_of(self.graph, node, users, self.precision);
            let seconds = (0..params.main().q().len() as u32)
                .map(|level| self.seconds(id.index(), node, params.main(), machine, Level(level)))
                .collect();
            let args = node.args.iter().map(|arg| arg.index()).collect();
            let refresh = matches!(kind, StepKind::Linear).then(|| {
                let layout = &self.graph.tables.layouts[node.ty.layout];
                let seconds = refresh_seconds(machine, params, layout.period, layout.ciphertexts);
                (seconds / machine.parallel, range_bits(node.ty.reach))
            });
            Step { kind, args, seconds, refresh }
        };
        self.graph.nodes.iter().map(price).collect()
    }

    fn seconds(
        &self,
        index: usize,
        node: &Node<Fhe>,
        params: &Params,
        machine: &Machine,
        level: Level,
    ) -> f64 {
        let ciphertexts = f64::from(self.graph.tables.layouts[node.ty.layout].ciphertexts);
        let product =
            |level: Level| machine.key_switch_seconds(params, level) + machine.rescale_seconds(params, level);
        let seconds = match &node.op {
            FheOp::Linear { .. } => {
                let of = |counts: &LinearCounts| machine.linear_seconds(counts, params, level);
                let best = self.splits[index].iter().map(of).fold(f64::INFINITY, f64::min);
                best + ciphertexts * 2.0 * machine.rescale_seconds(params, level)
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

fn counts(
    graph: &FheGraph,
    node: &Node<Fhe>,
    slots: Slots,
    known: &mut Vec<(CallShape, Vec<LinearCounts>)>,
) -> Result<Vec<LinearCounts>, LowerError> {
    match &node.op {
        FheOp::Input { .. } | FheOp::Poly(_) => Ok(Vec::new()),
        FheOp::Linear { .. } => {
            let terms = terms_of(graph, node);
            let shape = CallShape::of(&terms, &[], slots);
            if let Some((_, counts)) = known.iter().find(|(other, _)| *other == shape) {
                return Ok(counts.clone());
            }
            let counts = fast_counts(&variants(&terms, slots));
            known.push((shape, counts.clone()));
            Ok(counts)
        }
        FheOp::Add | FheOp::Drop { .. } | FheOp::Bootstrap(_) => {
            Err(LowerError::bug("packing makes no Add, Drop or Bootstrap"))
        }
    }
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
