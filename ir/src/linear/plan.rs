//! Baby-step giant-step plans of linear calls: from maps and a split to the rotations and products that run.
//!
//! Compiler and runtime both derive the plan from the same recipe, so an artefact holds the split and no term lists.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use peregrine_ckks::encoder::Complex;
use peregrine_ckks::evaluator::linear::{
    Close, DiagonalId, GiantOrder, GiantStep, Join, LinearPlan, Stage, Term, Turn,
};
use peregrine_ckks::units::{Rotation, Slots};

use super::contents::{Content, Contents};
use super::diagonals::fold_rotations;
use super::share::{Imaginary, Part, Sharing, shared};
use super::spread::{Numbers, Spreading, powers_of_x};
use super::{BsgsSplit, DiagonalKey, Diagonals, ResolvedMap, SplitTable};

/// What a call is planned by, besides its maps.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// Rotations.
    pub split: &'a BsgsSplit,
    /// How each operand is joined; none where the list ends.
    pub shared: &'a [Sharing],
}

impl<'a> From<&'a BsgsSplit> for Recipe<'a> {
    fn from(split: &'a BsgsSplit) -> Self {
        Self { split, shared: &[] }
    }
}

impl Recipe<'_> {
    /// How an operand is joined.
    pub fn sharing(&self, operand: u32) -> Sharing {
        self.shared.get(operand as usize).cloned().unwrap_or_default()
    }
}

/// A diagonal of a planned call: what a [`DiagonalId`] of the plan stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedDiagonal {
    /// Index of the term.
    pub term: u32,
    /// How far the sum of its products is rotated afterwards, modulo the period.
    giant: u32,
    /// How far the operand is rotated before.
    reads: i64,
    /// Its members: from here, so many; none where the diagonal is zero.
    pub(super) members: (u32, u32),
}

impl PlannedDiagonal {
    /// How far the weights of a part are shifted within the period of their map.
    fn shift(&self, map: &Diagonals, part: &Part) -> u32 {
        match map.places_by_output() {
            true => self.giant,
            false => (-(part.shift + self.reads)).rem_euclid(1 << 32) as u32,
        }
    }

    fn holds(
        &self,
        members: &[(u32, DiagonalKey)],
        (map, contents): (&Diagonals, &Contents),
        spreading: &Spreading,
    ) -> Holds {
        let part = |&(part, key): &(u32, DiagonalKey)| {
            let shift = self.shift(map, &spreading.parts[part as usize]) % map.period();
            (part, shift, contents.content(map, key))
        };
        let mut parts: Vec<_> = members.iter().map(part).collect();
        parts.sort_unstable();
        let reads = if spreading.is_even() { 0 } else { self.reads.rem_euclid(spreading.work.into()) as u32 };
        Holds { term: self.term, reads, parts }
    }
}

/// The slots of a diagonal.
#[derive(Clone, Debug, PartialEq)]
pub enum DiagonalSlots {
    /// Weights.
    Real(Vec<f64>),
    /// Weights of several parts.
    Complex(Vec<Complex>),
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
    /// Part of a joined operand and diagonal of the term's map.
    members: Vec<(u32, DiagonalKey)>,
    spreadings: Vec<Spreading>,
    max_slots: Slots,
}

impl CallPlan {
    /// Period of a diagonal.
    pub fn period(&self, index: usize) -> u32 {
        self.spreadings[self.diagonals[index].term as usize].work
    }

    /// Integer coefficients that a diagonal is encoded to: one per slot of its period, two where slots are complex.
    pub fn coefficients(&self, index: usize) -> u64 {
        let parts = if self.spreadings[self.diagonals[index].term as usize].is_real() { 1 } else { 2 };
        parts * u64::from(self.period(index))
    }

    /// The largest period of a diagonal.
    pub fn largest_period(&self) -> u32 {
        self.spreadings.iter().map(|s| s.work).max().unwrap_or(1)
    }

    /// Whether all slots of the call are real.
    pub fn is_real(&self) -> bool {
        self.spreadings.iter().all(Spreading::is_real)
    }

    /// Largest magnitude of a slot of a diagonal of a term, for the largest weight.
    pub fn largest_slot(&self, term: usize, weight: f64) -> f64 {
        let spreading = &self.spreadings[term];
        self.factor() * weight * spreading.parts.len() as f64 / f64::from(spreading.work)
            * f64::from(self.maps[term].period())
    }

    /// The real part of a sum is half of what closes it.
    fn factor(&self) -> f64 {
        match self.plan.close {
            Close::Sum => 1.0,
            Close::AddConjugate => 0.5,
        }
    }

    /// Bytes of the tables that complex diagonals are made with.
    pub fn table_bytes(&self) -> u64 {
        self.spreadings.iter().map(Spreading::table_bytes).sum()
    }

    /// What `X^power` is in the slots of the ring that the call runs in; they repeat.
    pub(super) fn powers(&self, power: u32) -> Numbers {
        let widest = self.spreadings.iter().filter(|s| !s.is_real()).map(|s| s.work).max();
        match widest {
            // The imaginary unit is the same in every slot and ring.
            _ if power == self.max_slots.get() => Numbers { re: vec![0.0], im: vec![1.0] },
            None => Numbers { re: vec![1.0], im: vec![0.0] },
            Some(work) => powers_of_x(power / (self.max_slots.get() / work), work),
        }
    }

    /// The slots of a diagonal, for the weights of each term.
    pub fn expand(&self, index: usize, weights: &[impl AsRef<[f32]>]) -> DiagonalSlots {
        let mut expansion = Expansion::default();
        self.expand_into(index, weights, &mut expansion);
        let slots = expansion.slots;
        if slots.is_real() { DiagonalSlots::Real(slots.re) } else { DiagonalSlots::Complex(slots.complex()) }
    }

    /// As [`Self::expand`], into memory that is used again.
    pub(super) fn expand_into(
        &self,
        index: usize,
        weights: &[impl AsRef<[f32]>],
        Expansion { slots, placed }: &mut Expansion,
    ) {
        let planned = &self.diagonals[index];
        let &PlannedDiagonal { term, reads, members: (first, count), .. } = planned;
        let (map, spreading) = (&self.maps[term as usize], &self.spreadings[term as usize]);
        let (weights, period) = (weights[term as usize].as_ref(), map.period() as usize);
        let shift = |part: u32| planned.shift(map, &spreading.parts[part as usize]);
        let members = &self.members[first as usize..(first + count) as usize];
        if spreading.is_real() {
            slots.clear_real(period);
            for &(part, key) in members {
                map.expand_shifted(key, weights, (shift(part), self.factor()), &mut slots.re);
            }
            return;
        }
        slots.clear_complex(spreading.work as usize);
        for residue in spreading.residues() {
            let mut any = false;
            for &(part, key) in members {
                let (of_part, imaginary, factor) = spreading.place(part);
                if of_part != residue {
                    continue;
                }
                if !std::mem::replace(&mut any, true) {
                    placed.clear_complex(period);
                }
                let placed = if imaginary { &mut placed.im } else { &mut placed.re };
                map.expand_shifted(key, weights, (shift(part), factor * self.factor()), placed);
            }
            if any {
                spreading.spread(residue, placed, reads, slots);
            }
        }
    }
}

/// A diagonal, and what it is made in.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    pub(super) slots: Numbers,
    /// The weights of parts of one power.
    placed: Numbers,
}

/// Plans `sum over terms of map(operand)`. A term is a map and the index of its operand; terms may share an operand.
/// All maps share one output layout; `max_slots` is N/2.
///
/// Terms whose diagonals have a larger period than the result are folded down, largest first, and smaller ones join on
/// the way, so that every fold is shared.
pub fn plan_call<'a>(
    terms: &'a [(ResolvedMap<'a>, u32)],
    recipe: impl Into<Recipe<'a>>,
    max_slots: Slots,
) -> CallPlan {
    let recipe = recipe.into();
    let maps: Vec<Diagonals> = terms.iter().map(|(map, _)| Diagonals::of(*map)).collect();
    let spreading = |((_, operand), map): (&(_, u32), &Diagonals)| {
        Spreading::new(&recipe.sharing(*operand), map.period())
    };
    let spreadings: Vec<Spreading> = terms.iter().zip(&maps).map(spreading).collect();
    let mut builder = Builder::new(terms, recipe, max_slots);
    builder.join(&spreadings);
    let period_out = terms.first().map_or(1, |(map, _)| map.output.period.get());
    let mut periods: BTreeSet<u32> = spreadings.iter().map(|s| s.work).collect();
    periods.insert(period_out);
    let descending: Vec<u32> = periods.into_iter().rev().collect();
    let mut stages: Vec<Stage> = Vec::new();
    for (i, &period) in descending.iter().enumerate() {
        let next = descending.get(i + 1).copied().unwrap_or(period);
        let fold = fold_rotations(period, next).into_iter().map(|r| builder.rotation(i64::from(r))).collect();
        let members = (0..terms.len()).filter(|&t| spreadings[t].work == period);
        let giants = builder.giants((&maps, &spreadings), members);
        stages.push(Stage { giants, order: GiantOrder::Chained, fold });
    }
    let outputs = terms.first().map_or(0, |(map, _)| map.output.ciphertexts);
    if let Some(last) = stages.last_mut() {
        last.giants.extend(builder.idle(outputs));
    }
    stages.retain(|s| !s.giants.is_empty() || !s.fold.is_empty());
    let complex = terms.iter().any(|(_, operand)| recipe.sharing(*operand).is_complex());
    let close = if complex { Close::AddConjugate } else { Close::Sum };
    let (diagonals, members) = (std::mem::take(&mut builder.diagonals), std::mem::take(&mut builder.members));
    CallPlan { plan: builder.finish(outputs, stages, close), diagonals, maps, members, spreadings, max_slots }
}

/// What a diagonal holds, without the weights: diagonals of which this is equal are one.
#[derive(PartialEq, Eq, Hash)]
struct Holds {
    term: u32,
    /// Of the joined operand, modulo the period that is worked at, where that makes a difference.
    reads: u32,
    /// Part, how far its weights are shifted within their period, and what they are.
    parts: Vec<(u32, u32, Content)>,
}

struct Builder<'a> {
    terms: &'a [(ResolvedMap<'a>, u32)],
    recipe: Recipe<'a>,
    max_slots: Slots,
    first_input: Vec<u32>,
    inputs: u32,
    joined: Vec<Join>,
    /// What a ciphertext of an operand, by its index among the inputs, is once joined.
    joins: BTreeMap<u32, u32>,
    turned: Vec<Turn>,
    /// Babies of every input, then of every joined, then of every turned one.
    babies: Vec<Vec<Rotation>>,
    baby_index: Vec<BTreeMap<Rotation, u32>>,
    diagonals: Vec<PlannedDiagonal>,
    /// Diagonals by what they hold.
    known: HashMap<Holds, DiagonalId>,
    members: Vec<(u32, DiagonalKey)>,
    /// Ciphertexts of the result that diagonals lead to.
    reached: BTreeSet<u32>,
}

impl<'a> Builder<'a> {
    fn new(terms: &'a [(ResolvedMap<'a>, u32)], recipe: Recipe<'a>, max_slots: Slots) -> Self {
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
            recipe,
            max_slots,
            first_input,
            inputs: total,
            joined: Vec::new(),
            joins: BTreeMap::new(),
            turned: Vec::new(),
            babies: vec![Vec::new(); total as usize],
            baby_index: vec![BTreeMap::new(); total as usize],
            diagonals: Vec::new(),
            known: HashMap::new(),
            members: Vec::new(),
            reached: BTreeSet::new(),
        }
    }

    fn finish(self, outputs: u32, stages: Vec<Stage>, close: Close) -> LinearPlan {
        let Self { inputs, joined, turned, babies, .. } = self;
        LinearPlan { inputs, outputs, joined, turned, babies, stages, close }
    }

    fn rotation(&self, r: i64) -> Rotation {
        Rotation::new(r, self.max_slots)
    }

    /// Joins the ciphertexts of operands that are to be.
    fn join(&mut self, spreadings: &[Spreading]) {
        let mut seen = BTreeSet::new();
        for ((map, operand), spreading) in self.terms.iter().zip(spreadings) {
            let sharing = self.recipe.sharing(*operand);
            if sharing.is_none() || !seen.insert(*operand) {
                continue;
            }
            let (first, count) = (self.first_input[*operand as usize], map.input.ciphertexts);
            for cipher in (0..count).step_by(sharing.ciphers() as usize) {
                let own = first + cipher;
                let half = self.max_slots.get();
                let mut at = own;
                at = match sharing.imaginary {
                    Imaginary::Next if cipher + 1 < count => self.joined(at, own + 1, 0, half),
                    Imaginary::Nothing | Imaginary::Next => at,
                    Imaginary::Rotated(shift) => self.joined(at, own, shift, half),
                };
                let unit = half / spreading.work.min(half);
                for (&shift, power) in sharing.shifts.iter().zip(sharing.powers()) {
                    at = self.joined(at, at, shift, power * unit);
                }
                self.joins.insert(own, at);
            }
        }
        self.babies.resize(self.inputs as usize + self.joined.len(), Vec::new());
        self.baby_index.resize(self.babies.len(), BTreeMap::new());
    }

    fn joined(&mut self, first: u32, second: u32, shift: i32, power: u32) -> u32 {
        let rotation = self.rotation(shift.into());
        self.joined.push(Join { first, second, rotation, power });
        self.inputs + self.joined.len() as u32 - 1
    }

    fn giants(
        &mut self,
        (maps, spreadings): (&[Diagonals], &[Spreading]),
        members: impl Iterator<Item = usize>,
    ) -> Vec<GiantStep> {
        let mut steps: BTreeMap<u32, BTreeMap<usize, Vec<Term>>> = BTreeMap::new();
        for t in members {
            let operand = self.terms[t].1;
            let first = self.first_input[operand as usize];
            let table: SplitTable = self.recipe.split.table(maps[t].modulus());
            let contents = Contents::of(&maps[t]);
            for product in shared(&maps[t], &self.recipe.sharing(operand)) {
                let parts = table.parts(product.rotation);
                let giant = i64::from(self.recipe.split.path()[parts.giant]);
                let planned = PlannedDiagonal {
                    term: t as u32,
                    giant: giant.rem_euclid(i64::from(maps[t].period())) as u32,
                    reads: i64::from(parts.turn) + i64::from(parts.baby),
                    members: (self.members.len() as u32, product.members.len() as u32),
                };
                let holds = planned.holds(&product.members, (&maps[t], &contents), &spreadings[t]);
                let next = DiagonalId(self.diagonals.len() as u32);
                let diagonal = *self.known.entry(holds).or_insert(next);
                if diagonal == next {
                    self.diagonals.push(planned);
                    self.members.extend(product.members);
                }
                self.reached.insert(product.cipher_out);
                let own = first + product.cipher_in;
                let input = self.input(self.joins.get(&own).copied().unwrap_or(own), parts.turn);
                let baby = self.baby(input, parts.baby);
                let terms = steps.entry(product.cipher_out).or_default().entry(parts.giant).or_default();
                terms.push(Term { input, baby, diagonal });
            }
        }
        steps.into_iter().flat_map(|(output, sums)| self.chain(output, sums)).collect()
    }

    /// Ciphertexts of the result that no diagonal leads to, where windows see nothing but padding: zero times an operand.
    fn idle(&mut self, outputs: u32) -> Vec<GiantStep> {
        let unreached: Vec<u32> = (0..outputs).filter(|output| !self.reached.contains(output)).collect();
        let zero = |output: u32| {
            let diagonal = DiagonalId(self.diagonals.len() as u32);
            self.diagonals.push(PlannedDiagonal { term: 0, giant: 0, reads: 0, members: (0, 0) });
            let input = self.first_input[self.terms[0].1 as usize];
            let term = Term { input, baby: self.baby(input, 0), diagonal };
            GiantStep { output, rotation: self.rotation(0), terms: vec![term] }
        };
        unreached.into_iter().map(zero).collect()
    }

    fn chain(&self, output: u32, mut sums: BTreeMap<usize, Vec<Term>>) -> Vec<GiantStep> {
        let used: Vec<usize> = sums.keys().copied().collect();
        let step = |(at, distance)| GiantStep {
            output,
            rotation: self.rotation(distance),
            terms: sums.remove(&at).unwrap_or_default(),
        };
        self.recipe.split.chain(used).into_iter().map(step).collect()
    }

    /// Index of an operand, or of what it is after a turn.
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
        self.inputs + self.joined.len() as u32 + place as u32
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
