//! What a baby-step giant-step split of a linear call costs: counted on the call's diagonals, and its rotations.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::evaluator::linear::Close;
use peregrine_ckks::units::Rotation;
use peregrine_ir::fhe::{Fhe, FheGraph};
use peregrine_ir::layout::{Layout, Place};
use peregrine_ir::linear::{
    BsgsSplit, Diagonals, Imaginary, LayoutId, LinearMap, LinearMapId, ResolvedMap, Sharing, shared,
};
use peregrine_ir::program::CallTerm;
use peregrine_ir::{GaloisElement, Node, PrimaryMap, Slots};

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

/// The terms of a linear operation of an fhe graph; those that are the same value are one operand.
pub fn terms_of<'a>(graph: &'a FheGraph, node: &Node<Fhe>) -> Vec<(ResolvedMap<'a>, u32)> {
    resolve(&terms(node).unwrap_or_default(), &graph.tables.maps, &graph.tables.layouts)
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
    /// Joined ciphertext of the call's operands and rotation, each pair once.
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
    /// Rotations of operands to be joined.
    joins: Vec<i32>,
    /// Whether the result is a real part, which takes a conjugation.
    close: Close,
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
    /// Whether the result is conjugated.
    close: Close,
}

impl SplitCost {
    /// The automorphisms that need a key in a ring of degree `n`.
    pub fn elements(&self, n: usize) -> impl Iterator<Item = GaloisElement> {
        let conjugation = match self.close {
            Close::Sum => None,
            Close::AddConjugate => Some(GaloisElement::conjugation(n)),
        };
        self.rotations.iter().map(move |&r| GaloisElement::from_rotation(r, n)).chain(conjugation)
    }
}

impl CallShape {
    /// The shape of a sum of maps.
    pub fn of(terms: &[(ResolvedMap<'_>, u32)], slots: Slots) -> Self {
        let maps: Vec<Diagonals> = terms.iter().map(|(map, _)| Diagonals::of(*map)).collect();
        Self::joined(terms, &maps, &[], slots)
    }

    /// The shape of a sum of maps with these diagonals, whose operands are joined.
    pub fn joined(
        terms: &[(ResolvedMap<'_>, u32)],
        maps: &[Diagonals],
        sharings: &[Sharing],
        slots: Slots,
    ) -> Self {
        let none = Sharing::default();
        let operands: BTreeMap<u32, u32> = terms.iter().map(|(map, o)| (*o, map.input.ciphertexts)).collect();
        let first = |operand: u32| operands.range(..operand).map(|(_, count)| count).sum();
        let mut strides = BTreeSet::new();
        let mut widest = 0;
        let shapes = terms.iter().zip(maps).map(|((map, operand), diagonals)| {
            let (input, output) = (map.input.period.get(), map.output.period.get());
            let digits = [map.input, map.output].into_iter().flat_map(|l| l.digits.iter().flatten());
            strides.extend(digits.filter(|d| d.radix > 1).filter_map(|d| match d.place {
                Place::Slot(stride) => Some(stride),
                Place::Cipher(_) | Place::Block(_) => None,
            }));
            let sharing = sharings.get(*operand as usize).unwrap_or(&none);
            let products = shared(diagonals, sharing);
            let work = input.max(output) * sharing.copies();
            widest = widest.max(work);
            let first: u32 = first(*operand);
            TermShape {
                stage: work,
                modulus: input.min(output),
                rotations: distinct(products.iter().map(|product| product.rotation)),
                inputs: distinct(
                    products.iter().map(|product| (first + product.cipher_in, product.rotation)),
                ),
                outputs: distinct(products.iter().map(|product| (product.cipher_out, product.rotation))),
                products: products.len() as u64,
                period: work,
            }
        });
        let terms_shape = shapes.collect();
        let period = terms.first().map_or(1, |(map, _)| map.output.period.get());
        let complex = operands.keys().any(|&o| sharings.get(o as usize).is_some_and(Sharing::is_complex));
        let folds = std::iter::successors(Some(period), |r| r.checked_mul(2)).take_while(|&r| r < widest);
        Self {
            terms: terms_shape,
            folds: folds.collect(),
            joins: joins(&operands, sharings),
            close: if complex { Close::AddConjugate } else { Close::Sum },
            inputs: operands.values().sum(),
            outputs: terms.first().map_or(0, |(map, _)| map.output.ciphertexts),
            strides: strides.into_iter().collect(),
            slots,
        }
    }

    /// Plaintext products.
    pub fn products(&self) -> u64 {
        self.terms.iter().map(|term| term.products).sum()
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
            let stored = match self.close {
                Close::Sum => 1,
                Close::AddConjugate => 2,
            };
            counts.product_words += stored * term.products * u64::from(term.period);
        }
        let babies = distinct(babies);
        let turns = distinct(babies.iter().map(|&(input, turn, _)| (input, turn)));
        counts.turns = (turns.iter().filter(|(_, turn)| *turn != 0).count() + self.joins.len()) as u64;
        rotations.extend(self.joins.iter().map(|&shift| rotation(shift.into())));
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
        let closing = match self.close {
            Close::Sum => 0,
            Close::AddConjugate => 1,
        };
        counts.folds = (self.folds.len() as u64 + closing) * counts.outputs;
        rotations.extend(self.folds.iter().map(|&r| rotation(r.into())));
        rotations.remove(&Rotation::ZERO);
        SplitCost { counts, rotations, close: self.close }
    }
}

/// The rotations that join the ciphertexts of operands.
fn joins(operands: &BTreeMap<u32, u32>, sharings: &[Sharing]) -> Vec<i32> {
    let mut joins = Vec::new();
    for (&operand, &ciphertexts) in operands {
        let Some(sharing) = sharings.get(operand as usize) else { continue };
        let own = match sharing.imaginary {
            Imaginary::Nothing | Imaginary::Next => None,
            Imaginary::Rotated(shift) => Some(shift),
        };
        for _ in (0..ciphertexts).step_by(sharing.ciphers() as usize) {
            joins.extend(own.iter().chain(&sharing.shifts).copied().filter(|&shift| shift != 0));
        }
    }
    joins
}

fn distinct<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items
}
