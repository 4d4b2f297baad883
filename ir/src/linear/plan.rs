//! Baby-step giant-step plans of linear calls: from maps and a split to the rotations and products that run.
//!
//! Compiler and runtime both derive the plan from the same recipe, so an artefact holds the split and no term lists.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::evaluator::linear::{DiagonalId, GiantStep, LinearPlan, Stage, Term};
use peregrine_ckks::units::{Rotation, Slots};

use super::diagonals::fold_rotations;
use super::{DiagonalKey, Diagonals, ResolvedMap};

/// How the rotations r of a linear call split: baby = r mod `modulus`, giant = r - baby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BsgsSplit {
    /// At least 1; 1 makes every rotation a giant step.
    pub modulus: u32,
}

/// A diagonal of a planned call: what a [`DiagonalId`] of the plan stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedDiagonal {
    /// Index of the term.
    pub term: u32,
    /// Diagonal of the term's map.
    pub key: DiagonalKey,
    /// Giant rotation that the diagonal is pre-rotated by.
    pub giant: u32,
}

/// A linear call, planned: `sum over terms of map(operand)`.
#[derive(Clone, Debug)]
pub struct CallPlan {
    /// Rotations and products for the evaluator; its inputs are the ciphertexts of operand 0, then operand 1, ...
    pub plan: LinearPlan,
    /// Meaning of each [`DiagonalId`].
    pub diagonals: Vec<PlannedDiagonal>,
    /// Enumerated maps, one per term.
    pub maps: Vec<Diagonals>,
}

/// Plans `sum over terms of map(operand)`. A term is a map and the index of its operand; terms may share an operand.
/// All maps share one output layout; `max_slots` is N/2.
///
/// Terms whose operand has a larger period than the result are folded down, largest first, and smaller ones join on
/// the way, so that every fold is shared.
pub fn plan_call(terms: &[(ResolvedMap<'_>, u32)], split: BsgsSplit, max_slots: Slots) -> CallPlan {
    let maps: Vec<Diagonals> = terms.iter().map(|(map, _)| Diagonals::of(*map)).collect();
    let mut builder = Builder::new(terms, split, max_slots);
    let period_out = terms.first().map_or(1, |(map, _)| map.output.period.get());
    let mut periods: BTreeSet<u32> =
        terms.iter().map(|(map, _)| map.input.period.get().max(period_out)).collect();
    periods.insert(period_out);
    let descending: Vec<u32> = periods.into_iter().rev().collect();
    let mut stages = Vec::new();
    for (i, &period) in descending.iter().enumerate() {
        let next = descending.get(i + 1).copied().unwrap_or(period);
        let fold = fold_rotations(period, next).into_iter().map(|r| builder.rotation(r)).collect();
        let members = (0..terms.len()).filter(|&t| terms[t].0.input.period.get().max(period_out) == period);
        let giants = builder.giants(&maps, members);
        stages.push(Stage { giants, fold });
    }
    stages.retain(|s| !s.giants.is_empty() || !s.fold.is_empty());
    let outputs = terms.first().map_or(0, |(map, _)| map.output.ciphertexts);
    let plan = LinearPlan { inputs: builder.babies.len() as u32, outputs, babies: builder.babies, stages };
    CallPlan { plan, diagonals: builder.diagonals, maps }
}

struct Builder<'a> {
    terms: &'a [(ResolvedMap<'a>, u32)],
    split: BsgsSplit,
    max_slots: Slots,
    first_input: Vec<u32>,
    babies: Vec<Vec<Rotation>>,
    baby_index: Vec<BTreeMap<Rotation, u32>>,
    diagonals: Vec<PlannedDiagonal>,
}

impl<'a> Builder<'a> {
    fn new(terms: &'a [(ResolvedMap<'a>, u32)], split: BsgsSplit, max_slots: Slots) -> Self {
        let mut ciphertexts: BTreeMap<u32, u32> = BTreeMap::new();
        for (map, operand) in terms {
            ciphertexts.insert(*operand, map.input.ciphertexts);
        }
        let mut first_input = vec![0; ciphertexts.keys().max().map_or(0, |&m| m as usize + 1)];
        let mut total = 0;
        for (operand, count) in ciphertexts {
            first_input[operand as usize] = total;
            total += count;
        }
        let babies = vec![Vec::new(); total as usize];
        let baby_index = vec![BTreeMap::new(); total as usize];
        Self { terms, split, max_slots, first_input, babies, baby_index, diagonals: Vec::new() }
    }

    fn rotation(&self, r: u32) -> Rotation {
        Rotation::new(i64::from(r), self.max_slots)
    }

    fn giants(&mut self, maps: &[Diagonals], members: impl Iterator<Item = usize>) -> Vec<GiantStep> {
        let mut steps: BTreeMap<(u32, u32), Vec<Term>> = BTreeMap::new();
        for t in members {
            for key in maps[t].keys() {
                let baby = key.rotation % self.split.modulus.max(1);
                let giant = key.rotation - baby;
                let input = self.first_input[self.terms[t].1 as usize] + key.cipher_in;
                let diagonal = DiagonalId(self.diagonals.len() as u32);
                self.diagonals.push(PlannedDiagonal { term: t as u32, key, giant });
                let baby = self.baby(input, baby);
                steps.entry((key.cipher_out, giant)).or_default().push(Term { input, baby, diagonal });
            }
        }
        let step = |((output, giant), terms)| GiantStep { output, rotation: self.rotation(giant), terms };
        steps.into_iter().map(step).collect()
    }

    fn baby(&mut self, input: u32, rotation: u32) -> u32 {
        let rotation = self.rotation(rotation);
        let babies = &mut self.babies[input as usize];
        *self.baby_index[input as usize].entry(rotation).or_insert_with(|| {
            babies.push(rotation);
            babies.len() as u32 - 1
        })
    }
}
