//! Levels and exact scales: stage packed to stage leveled.
//!
//! Data after a linear map is at scale 2^D. A polynomial's last product is not rescaled (about 2^2D), so the next linear
//! map, with weights of W bits, ends at 2^(2D+W) and one rescale by a prime of D+W bits brings it back to 2^D: one prime
//! per convolution and activation of degree 2 (lazy rescale). Inputs are encrypted as if just squared.
//!
//! The pass works in depth (rescales since the input). The prime at each depth is fixed by the first operation that rescales
//! there; an operation whose prime would not fit moves deeper (its operand is dropped), so that every scale is right by
//! construction. Level = number of depths - depth.

use peregrine_ir::fhe::{CipherTy, FheGraph, FheOp, MonicPoly, PackedTy, Stage};
use peregrine_ir::{EntityId, Graph, Level, Node, Origin, Scale, ValueId};

use super::LowerError;

/// Scales of a plan, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Data scale D: values after a linear map are encoded at 2^D.
    pub data_bits: u32,
    /// Weight scale W: weights are encoded at about 2^W or more.
    pub weight_bits: u32,
}

impl Precision {
    /// Scales that share one 50-bit prime per linear map best, by the highest degree: polynomials of degree 5 and more
    /// rescale two powers, whose rounding errors their coefficients magnify, so they want the larger data scale; below that the
    /// rounding of weights (about 2^(6 - W) per product) weighs more. Measured on the noise model (BENCHMARKS.md).
    pub fn of_degree(degree: u32) -> Self {
        if degree > 4 {
            Self { data_bits: 30, weight_bits: 20 }
        } else {
            Self { data_bits: 28, weight_bits: 22 }
        }
    }
}

/// Largest prime, in bits.
pub const MAX_PRIME_BITS: u32 = 50;
/// Smallest prime that the plan asks for: below, too few primes are 1 mod 2N.
pub const MIN_PRIME_BITS: u32 = 25;
/// Bits of q_0 above the data scale: room for values beyond unit range and the sign.
const HEADROOM_BITS: u32 = 10;
/// A product inside a polynomial accepts a prime of D - BELOW ..= D + ABOVE bits.
const BELOW: u32 = 1;
const ABOVE: u32 = 2;

/// Assigns levels and scales.
///
/// # Errors
/// A bug of an earlier pass (a polynomial of an input at the wrong scale, say).
pub fn assign(packed: &FheGraph, precision: Precision) -> Result<FheGraph, LowerError> {
    let mut chain = Chain { bits: Vec::new(), precision };
    let mut placed: Vec<Placed> = Vec::with_capacity(packed.nodes.len());
    let users = packed.users();
    for (id, node) in packed.nodes.iter() {
        let place = match &node.op {
            FheOp::Input { .. } => chain.input(packed, &users[id.index()]),
            FheOp::Linear { .. } => chain.linear(node, &placed)?,
            FheOp::Poly(poly) => chain.polynomial(*poly, node, &placed)?,
            FheOp::Add | FheOp::Drop { .. } | FheOp::Bootstrap(_) => {
                return Err(LowerError::bug("packing makes no Add, Drop or Bootstrap"));
            }
        };
        placed.push(place);
    }
    rebuild(packed, &chain, &placed)
}

/// Where an operation runs and what it gives.
#[derive(Clone, Copy, Debug)]
struct Placed {
    /// Depth of the operands when the operation runs.
    runs_at: u32,
    /// Depth of the result.
    depth: u32,
    /// About log2 of the result's scale.
    scale_bits: u32,
}

struct Chain {
    bits: Vec<Option<u32>>,
    precision: Precision,
}

impl Chain {
    fn input(&self, graph: &FheGraph, users: &[ValueId]) -> Placed {
        let squared = users.iter().all(|u| matches!(graph.nodes[*u].op, FheOp::Linear { .. }));
        let d = self.precision.data_bits;
        Placed { runs_at: 0, depth: 0, scale_bits: if squared { 2 * d } else { d } }
    }

    fn linear(
        &mut self,
        node: &Node<peregrine_ir::fhe::Fhe>,
        placed: &[Placed],
    ) -> Result<Placed, LowerError> {
        let Precision { data_bits: d, weight_bits: w } = self.precision;
        let operands = node.args.iter().map(|a| placed[a.index()]);
        let (depth, scale) =
            operands.fold((0, 0), |(depth, scale), p| (depth.max(p.depth), scale.max(p.scale_bits)));
        let need = (scale + w).saturating_sub(d).max(MIN_PRIME_BITS);
        if need > MAX_PRIME_BITS {
            return Err(LowerError::bug(format!("a linear map would need a prime of {need} bits")));
        }
        let runs_at = self.first_fit(depth, 1, |have| have >= need);
        self.claim(runs_at, need);
        Ok(Placed { runs_at, depth: runs_at + 1, scale_bits: d })
    }

    fn polynomial(
        &mut self,
        poly: MonicPoly,
        node: &Node<peregrine_ir::fhe::Fhe>,
        placed: &[Placed],
    ) -> Result<Placed, LowerError> {
        let d = self.precision.data_bits;
        let operand = placed[node.args[0].index()];
        if operand.scale_bits != d {
            return Err(LowerError::bug(format!(
                "{}: polynomial of an unrescaled value",
                node.origin.as_str()
            )));
        }
        let want = d.max(MIN_PRIME_BITS);
        let near = |have: u32| (want - BELOW..=want + ABOVE).contains(&have);
        let runs_at = self.first_fit(operand.depth, poly.levels(), near);
        for i in 0..poly.levels() {
            self.claim(runs_at + i, want);
        }
        Ok(Placed { runs_at, depth: runs_at + poly.levels(), scale_bits: 2 * d })
    }

    /// First depth from `from` on where `count` consecutive primes are free or accepted.
    fn first_fit(&self, from: u32, count: u32, accepts: impl Fn(u32) -> bool) -> u32 {
        let free_or_fit = |depth: u32| self.bits.get(depth as usize).copied().flatten().is_none_or(&accepts);
        (from..).find(|&start| (0..count).all(|i| free_or_fit(start + i))).unwrap_or(from)
    }

    fn claim(&mut self, depth: u32, bits: u32) {
        let depth = depth as usize;
        if self.bits.len() <= depth {
            self.bits.resize(depth + 1, None);
        }
        self.bits[depth].get_or_insert(bits);
    }

    fn levels(&self) -> u32 {
        self.bits.len() as u32
    }

    /// Bits of q_0, q_1, ...: the prime of depth d is q_(levels - d).
    fn by_level(&self) -> Vec<u32> {
        let base = (self.precision.data_bits + HEADROOM_BITS).clamp(MIN_PRIME_BITS, MAX_PRIME_BITS);
        let tail = self.bits.iter().rev().map(|b| b.unwrap_or(MIN_PRIME_BITS));
        std::iter::once(base).chain(tail).collect()
    }
}

/// Scale of a polynomial's result: S_k^2 with S_(i+1) = S_i^2 / q_(level-i).
pub fn poly_scale(poly: MonicPoly, operand: &Scale, level: Level) -> Scale {
    let mut scale = operand.clone();
    for i in 0..poly.levels() {
        scale = scale.square().div(&Scale::prime(level.0 - i));
    }
    scale.square()
}

fn rebuild(packed: &FheGraph, chain: &Chain, placed: &[Placed]) -> Result<FheGraph, LowerError> {
    let mut tables = packed.tables.clone();
    tables.chain_bits = chain.by_level();
    tables.stage = Stage::Leveled;
    let graph = Graph::new(packed.name.clone(), tables);
    let mut out = Leveler::new(graph);
    let level = |depth: u32| Level(chain.levels() - depth);
    let mut renamed: Vec<ValueId> = Vec::with_capacity(placed.len());
    for (id, node) in packed.nodes.iter() {
        let place = placed[id.index()];
        let args: Vec<ValueId> =
            node.args.iter().map(|a| out.dropped(renamed[a.index()], level(place.runs_at))).collect();
        let scale = match &node.op {
            FheOp::Poly(poly) => poly_scale(*poly, &out.ciphers[args[0].index()].scale, level(place.runs_at)),
            _ => Scale::pow2(place.scale_bits as i32),
        };
        let cipher = CipherTy { level: level(place.depth), scale };
        renamed.push(out.add(node.op.clone(), args, node.ty.clone(), cipher, node.origin.clone()));
    }
    for port in &packed.outputs {
        let mut port = port.clone();
        port.value = renamed[port.value.index()];
        out.graph.outputs.push(port);
    }
    Ok(out.graph)
}

/// A leveled graph under construction.
pub(super) struct Leveler {
    pub(super) graph: FheGraph,
    /// Level and scale of each value of `graph`.
    ciphers: Vec<CipherTy>,
    drops: Vec<(ValueId, Level, ValueId)>,
}

impl Leveler {
    pub(super) fn new(graph: FheGraph) -> Self {
        Self { graph, ciphers: Vec::new(), drops: Vec::new() }
    }

    /// Scale of a value.
    pub(super) fn scale(&self, value: ValueId) -> &Scale {
        &self.ciphers[value.index()].scale
    }

    pub(super) fn add(
        &mut self,
        op: FheOp,
        args: Vec<ValueId>,
        ty: PackedTy,
        cipher: CipherTy,
        origin: Origin,
    ) -> ValueId {
        self.ciphers.push(cipher.clone());
        self.graph.add(op, args, PackedTy { cipher: Some(cipher), ..ty }, origin)
    }

    /// `value` at `level`, through a Drop if it is higher.
    pub(super) fn dropped(&mut self, value: ValueId, level: Level) -> ValueId {
        let cipher = self.ciphers[value.index()].clone();
        if cipher.level == level {
            return value;
        }
        if let Some(&(_, _, known)) = self.drops.iter().find(|(v, l, _)| *v == value && *l == level) {
            return known;
        }
        let node = &self.graph.nodes[value];
        let (ty, origin) = (node.ty.clone(), node.origin.clone());
        let lowered = CipherTy { level, scale: cipher.scale };
        let id = self.add(FheOp::Drop { to: level }, vec![value], ty, lowered, origin);
        self.drops.push((value, level, id));
        id
    }
}
