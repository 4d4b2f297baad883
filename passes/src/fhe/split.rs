//! Choice of the baby-step giant-step split of a linear call by predicted time.

use std::collections::BTreeSet;

use peregrine_ckks::params::Params;
use peregrine_ir::fhe::{Fhe, FheGraph, FheOp};
use peregrine_ir::layout::Layout;
use peregrine_ir::linear::{BsgsSplit, Diagonals, LayoutId, LinearMap, LinearMapId, ResolvedMap};
use peregrine_ir::program::CallTerm;
use peregrine_ir::{Level, Node, PrimaryMap, ValueId};

use super::cost::{LinearCounts, Machine};

/// Where a call runs: what its rotations and products cost.
#[derive(Clone, Copy, Debug)]
pub struct CallCost<'a> {
    /// Primitive costs.
    pub machine: &'a Machine,
    /// Parameters.
    pub params: &'a Params,
    /// Level of the operands.
    pub level: Level,
}

/// Looks up the maps and layouts of the terms of a call.
pub fn resolve<'a>(
    terms: &[CallTerm],
    maps: &'a PrimaryMap<LinearMapId, LinearMap>,
    layouts: &'a PrimaryMap<LayoutId, Layout>,
) -> Vec<(ResolvedMap<'a>, u32)> {
    terms
        .iter()
        .map(|term| {
            let map = &maps[term.map];
            let (input, output) = (&layouts[map.input], &layouts[map.output]);
            (ResolvedMap { input, output, geometry: map.geometry }, term.operand)
        })
        .collect()
}

/// The split of least predicted time among powers of two (which contain all block, row and gap strides).
pub fn choose_split(terms: &[(ResolvedMap<'_>, u32)], cost: &CallCost<'_>) -> BsgsSplit {
    let maps: Vec<Diagonals> = terms.iter().map(|(map, _)| Diagonals::of(*map)).collect();
    let largest = maps.iter().map(Diagonals::period).max().unwrap_or(1);
    let candidates = std::iter::successors(Some(1u32), |m| Some(m * 2)).take_while(|&m| m <= largest);
    let seconds =
        |modulus: u32| cost.machine.linear_seconds(&count(terms, &maps, modulus), cost.params, cost.level);
    let best = candidates.map(|m| (seconds(m), m)).min_by(|a, b| a.0.total_cmp(&b.0));
    BsgsSplit { modulus: best.map_or(1, |(_, m)| m) }
}

/// What every split of a linear operation counts.
pub fn all_counts(graph: &FheGraph, node: &Node<Fhe>) -> Vec<LinearCounts> {
    let FheOp::Linear { maps, .. } = &node.op else { return Vec::new() };
    let operand = |arg: ValueId| node.args.iter().position(|a| *a == arg).unwrap_or(0) as u32;
    let terms: Vec<CallTerm> =
        maps.iter().zip(&node.args).map(|(&map, &arg)| CallTerm { map, operand: operand(arg) }).collect();
    let terms = resolve(&terms, &graph.tables.maps, &graph.tables.layouts);
    let maps: Vec<Diagonals> = terms.iter().map(|(map, _)| Diagonals::of(*map)).collect();
    let largest = maps.iter().map(Diagonals::period).max().unwrap_or(1);
    let candidates = std::iter::successors(Some(1u32), |m| Some(m * 2)).take_while(|&m| m <= largest);
    candidates.map(|modulus| count(&terms, &maps, modulus)).collect()
}

/// Counts what a split costs.
pub fn count(terms: &[(ResolvedMap<'_>, u32)], maps: &[Diagonals], modulus: u32) -> LinearCounts {
    let mut babies = BTreeSet::new();
    let mut giants = BTreeSet::new();
    let mut inputs = BTreeSet::new();
    let mut outputs = BTreeSet::new();
    let mut counts = LinearCounts::default();
    let mut widest_fold = 0;
    for ((map, operand), diagonals) in terms.iter().zip(maps) {
        for key in diagonals.keys() {
            let baby = key.rotation % modulus;
            let stage = map.input.period.get().max(map.output.period.get());
            inputs.insert((*operand, key.cipher_in));
            outputs.insert(key.cipher_out);
            if baby != 0 {
                babies.insert((*operand, key.cipher_in, baby));
            }
            if key.rotation != baby {
                giants.insert((stage, key.cipher_out, key.rotation - baby));
            }
            counts.products += 1;
            counts.product_slots += u64::from(diagonals.period());
        }
        widest_fold = widest_fold.max(diagonals.fold().len() as u64);
    }
    counts.inputs = inputs.len() as u64;
    counts.outputs = outputs.len() as u64;
    counts.babies = babies.len() as u64;
    counts.giants = giants.len() as u64;
    counts.folds = widest_fold * counts.outputs;
    counts
}
