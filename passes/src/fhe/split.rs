//! What a baby-step giant-step split of a linear call costs: counted on the call's diagonals, and its rotations.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::units::Rotation;
use peregrine_ir::fhe::{Fhe, FheGraph};
use peregrine_ir::layout::{Layout, Place};
use peregrine_ir::linear::{BsgsSplit, Diagonals, LayoutId, LinearMap, LinearMapId, ResolvedMap};
use peregrine_ir::program::CallTerm;
use peregrine_ir::{Node, PrimaryMap, Slots};

use super::calls::terms;
use super::cost::LinearCounts;

/// Looks up the maps and layouts of the terms of a call.
pub fn resolve<'a>(
    terms: &[CallTerm],
    maps: &'a PrimaryMap<LinearMapId, LinearMap>,
    layouts: &'a PrimaryMap<LayoutId, Layout>,
) -> Vec<(ResolvedMap<'a>, u32)> {
    terms.iter().map(|term| (maps[term.map].resolve(layouts), term.operand)).collect()
}

/// The diagonals of one term of a call, without their weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermShape {
    /// Period that the term is computed at.
    pub stage: u32,
    /// Rotations are known modulo this.
    pub modulus: u32,
    /// The distinct rotations, ascending.
    pub rotations: Vec<u32>,
    /// Ciphertext of the call's operands and rotation, each pair once.
    inputs: Vec<(u32, u32)>,
    /// Ciphertext of the result and rotation, each pair once.
    outputs: Vec<(u32, u32)>,
    products: u64,
    period: u32,
}

/// What the rotations of a call depend on. Calls of one shape have the same splits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallShape {
    /// The terms.
    pub terms: Vec<TermShape>,
    /// Rotations that fold the result.
    folds: Vec<u32>,
    /// Ciphertexts of all operands.
    pub inputs: u32,
    /// Ciphertexts of the result.
    pub outputs: u32,
    /// Slot strides of the layouts' digits, ascending.
    pub strides: Vec<u32>,
    slots: Slots,
}

/// What a split costs, and the rotations that need keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitCost {
    /// Operations.
    pub counts: LinearCounts,
    /// Rotations, without 0.
    pub rotations: BTreeSet<Rotation>,
}

impl CallShape {
    /// The shape of a linear operation of an fhe graph.
    pub fn of_node(graph: &FheGraph, node: &Node<Fhe>, slots: Slots) -> Self {
        let terms = terms(node).unwrap_or_default();
        Self::of(&resolve(&terms, &graph.tables.maps, &graph.tables.layouts), slots)
    }

    /// The shape of a sum of maps.
    pub fn of(terms: &[(ResolvedMap<'_>, u32)], slots: Slots) -> Self {
        let operands: BTreeMap<u32, u32> = terms.iter().map(|(map, o)| (*o, map.input.ciphertexts)).collect();
        let first = |operand: u32| operands.range(..operand).map(|(_, count)| count).sum();
        let mut strides = BTreeSet::new();
        let mut widest = Vec::new();
        let shapes = terms.iter().map(|(map, operand)| {
            let (input, output) = (map.input.period.get(), map.output.period.get());
            let digits = [map.input, map.output].into_iter().flat_map(|l| l.digits.iter().flatten());
            strides.extend(digits.filter(|d| d.radix > 1).filter_map(|d| match d.place {
                Place::Slot(stride) => Some(stride),
                Place::Cipher(_) | Place::Block(_) => None,
            }));
            let diagonals = Diagonals::of(*map);
            if diagonals.fold().len() > widest.len() {
                widest = diagonals.fold();
            }
            let first: u32 = first(*operand);
            TermShape {
                stage: input.max(output),
                modulus: input.min(output),
                rotations: distinct(diagonals.keys().map(|key| key.rotation)),
                inputs: distinct(diagonals.keys().map(|key| (first + key.cipher_in, key.rotation))),
                outputs: distinct(diagonals.keys().map(|key| (key.cipher_out, key.rotation))),
                products: diagonals.len() as u64,
                period: diagonals.period(),
            }
        });
        let terms_shape = shapes.collect();
        Self {
            terms: terms_shape,
            folds: widest,
            inputs: operands.values().sum(),
            outputs: terms.first().map_or(0, |(map, _)| map.output.ciphertexts),
            strides: strides.into_iter().collect(),
            slots,
        }
    }

    /// Counts what `split` costs.
    pub fn cost(&self, split: &BsgsSplit) -> SplitCost {
        let mut counts = LinearCounts { outputs: u64::from(self.outputs), ..LinearCounts::default() };
        let mut rotations: BTreeSet<Rotation> = BTreeSet::new();
        let mut babies: Vec<(u32, i32, Rotation)> = Vec::new();
        let mut giants: BTreeMap<(u32, u32), Vec<usize>> = BTreeMap::new();
        let rotation = |r: i64| Rotation::new(r, self.slots);
        for term in &self.terms {
            let table = split.table(term.modulus);
            babies.extend(term.inputs.iter().map(|&(input, r)| {
                let parts = table.parts(r);
                (input, parts.turn, rotation(parts.baby.into()))
            }));
            for &(output, r) in &term.outputs {
                giants.entry((term.stage, output)).or_default().push(table.parts(r).giant);
            }
            counts.products += term.products;
            counts.product_slots += term.products * u64::from(term.period);
        }
        let babies = distinct(babies);
        let turns = distinct(babies.iter().map(|&(input, turn, _)| (input, turn)));
        counts.turns = turns.iter().filter(|(_, turn)| *turn != 0).count() as u64;
        rotations.extend(turns.iter().map(|&(_, turn)| rotation(turn.into())));
        let hoisted = babies.iter().filter(|(.., baby)| !baby.is_zero());
        counts.babies = hoisted.clone().count() as u64;
        counts.inputs = distinct(hoisted.map(|&(input, turn, _)| (input, turn))).len() as u64;
        rotations.extend(babies.iter().map(|&(.., baby)| baby));
        for used in giants.values() {
            let chain = split.chain(distinct(used.iter().copied()));
            counts.sums += chain.len() as u64;
            for step in chain.iter().map(|&(_, step)| rotation(step)).filter(|step| !step.is_zero()) {
                counts.giants += 1;
                rotations.insert(step);
            }
        }
        counts.folds = self.folds.len() as u64 * counts.outputs;
        rotations.extend(self.folds.iter().map(|&r| rotation(r.into())));
        rotations.remove(&Rotation::ZERO);
        SplitCost { counts, rotations }
    }
}

fn distinct<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items
}
