//! Baby-step giant-step plans of linear calls: from maps and a split to the rotations and products that run.
//!
//! Compiler and runtime both derive the plan from the same recipe, so an artefact holds the split and no term lists.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::evaluator::linear::{DiagonalId, GiantOrder, GiantStep, LinearPlan, Stage, Term, Turn};
use peregrine_ckks::units::{Rotation, Slots};

use super::diagonals::fold_rotations;
use super::{BsgsSplit, DiagonalKey, Diagonals, ResolvedMap, SplitTable};

/// A diagonal of a planned call: what a [`DiagonalId`] of the plan stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedDiagonal {
    /// Index of the term.
    pub term: u32,
    /// Diagonal of the term's map.
    pub key: DiagonalKey,
    /// How far the diagonal is rotated right: by its giant step, modulo its period.
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
pub fn plan_call(terms: &[(ResolvedMap<'_>, u32)], split: &BsgsSplit, max_slots: Slots) -> CallPlan {
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
        let fold = fold_rotations(period, next).into_iter().map(|r| builder.rotation(i64::from(r))).collect();
        let members = (0..terms.len()).filter(|&t| terms[t].0.input.period.get().max(period_out) == period);
        let giants = builder.giants(&maps, members);
        stages.push(Stage { giants, order: GiantOrder::Chained, fold });
    }
    stages.retain(|s| !s.giants.is_empty() || !s.fold.is_empty());
    let outputs = terms.first().map_or(0, |(map, _)| map.output.ciphertexts);
    let diagonals = std::mem::take(&mut builder.diagonals);
    CallPlan { plan: builder.finish(outputs, stages), diagonals, maps }
}

struct Builder<'a> {
    terms: &'a [(ResolvedMap<'a>, u32)],
    split: &'a BsgsSplit,
    max_slots: Slots,
    first_input: Vec<u32>,
    inputs: u32,
    turned: Vec<Turn>,
    /// Babies of every input, then of every turned one.
    babies: Vec<Vec<Rotation>>,
    baby_index: Vec<BTreeMap<Rotation, u32>>,
    diagonals: Vec<PlannedDiagonal>,
}

impl<'a> Builder<'a> {
    fn new(terms: &'a [(ResolvedMap<'a>, u32)], split: &'a BsgsSplit, max_slots: Slots) -> Self {
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
        Self {
            terms,
            split,
            max_slots,
            first_input,
            inputs: total,
            turned: Vec::new(),
            babies: vec![Vec::new(); total as usize],
            baby_index: vec![BTreeMap::new(); total as usize],
            diagonals: Vec::new(),
        }
    }

    fn finish(self, outputs: u32, stages: Vec<Stage>) -> LinearPlan {
        LinearPlan { inputs: self.inputs, outputs, turned: self.turned, babies: self.babies, stages }
    }

    fn rotation(&self, r: i64) -> Rotation {
        Rotation::new(r, self.max_slots)
    }

    fn giants(&mut self, maps: &[Diagonals], members: impl Iterator<Item = usize>) -> Vec<GiantStep> {
        let mut steps: BTreeMap<u32, BTreeMap<usize, Vec<Term>>> = BTreeMap::new();
        for t in members {
            let (map, operand) = &self.terms[t];
            let first = self.first_input[*operand as usize];
            let (period_in, period_out) = (map.input.period.get(), map.output.period.get());
            let table: SplitTable = self.split.table(period_in.min(period_out));
            for key in maps[t].keys() {
                let parts = table.parts(key.rotation);
                // A folded diagonal is placed by its operand, any other by its result: see `Diagonals`.
                let shift = if period_in <= period_out {
                    i64::from(self.split.path()[parts.giant])
                } else {
                    i64::from(key.rotation) - i64::from(parts.turn) - i64::from(parts.baby)
                };
                let giant = shift.rem_euclid(i64::from(maps[t].period())) as u32;
                let diagonal = DiagonalId(self.diagonals.len() as u32);
                self.diagonals.push(PlannedDiagonal { term: t as u32, key, giant });
                let input = self.input(first + key.cipher_in, parts.turn);
                let baby = self.baby(input, parts.baby);
                let terms = steps.entry(key.cipher_out).or_default().entry(parts.giant).or_default();
                terms.push(Term { input, baby, diagonal });
            }
        }
        steps.into_iter().flat_map(|(output, sums)| self.chain(output, sums)).collect()
    }

    fn chain(&self, output: u32, mut sums: BTreeMap<usize, Vec<Term>>) -> Vec<GiantStep> {
        let used: Vec<usize> = sums.keys().copied().collect();
        let step = |(at, distance)| GiantStep {
            output,
            rotation: self.rotation(distance),
            terms: sums.remove(&at).unwrap_or_default(),
        };
        self.split.chain(used).into_iter().map(step).collect()
    }

    /// Index of an input, or of what it is after a turn.
    fn input(&mut self, input: u32, turn: i32) -> u32 {
        if turn == 0 {
            return input;
        }
        let turn = Turn { input, rotation: self.rotation(i64::from(turn)) };
        let known = self.turned.iter().position(|t| *t == turn);
        let place = known.unwrap_or_else(|| {
            self.turned.push(turn);
            self.babies.push(Vec::new());
            self.baby_index.push(BTreeMap::new());
            self.turned.len() - 1
        });
        self.inputs + place as u32
    }

    fn baby(&mut self, input: u32, rotation: i32) -> u32 {
        let rotation = self.rotation(i64::from(rotation));
        let babies = &mut self.babies[input as usize];
        *self.baby_index[input as usize].entry(rotation).or_insert_with(|| {
            babies.push(rotation);
            babies.len() as u32 - 1
        })
    }
}
