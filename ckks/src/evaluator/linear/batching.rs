//! In what portions a transform works, so that what it holds at once does not grow with the number of its inputs.
//!
//! Giant steps outside, inputs inside: the sums of some giant steps stay while batch after batch of inputs is decomposed, rotated,
//! and multiplied by its diagonals. One batch is decomposed once for the whole transform; several are decomposed again for
//! every portion of giant steps.

use std::collections::BTreeSet;
use std::ops::Range;

use super::plan::{DiagonalId, LinearPlan};
use super::products::EXPANDED_LIMBS;
use crate::params::Params;
use crate::units::Level;

/// How much may be held at once, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Portions {
    /// Unfinished giant steps.
    pub(super) giants: u64,
    /// The same where a second portion would decompose many inputs again.
    pub(super) most_giants: u64,
    /// The decomposed inputs of a batch, their rotations and diagonals.
    pub(super) batch: u64,
}

const PORTIONS: Portions = Portions { giants: 512 << 20, most_giants: 2 << 30, batch: 1 << 30 };

/// The least: one giant step, one input at a time.
const LEAST: Portions = Portions { giants: 1, most_giants: 1, batch: 1 };

/// How often portions are halved before the least ones are taken.
const HALVINGS: u32 = 8;

impl Portions {
    fn divided(self, halvings: u32) -> Portions {
        let Portions { giants, most_giants, batch } = self;
        Portions {
            giants: giants >> halvings,
            most_giants: most_giants >> halvings,
            batch: batch >> halvings,
        }
    }
}

/// The portions of a transform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// Inputs (turned ones last), batch by batch.
    pub(super) inputs: Vec<Range<u32>>,
    /// Giant steps at once.
    pub(super) giants: usize,
    bytes: u64,
    diagonal_bytes: u64,
}

/// Whether a term of the plan uses a rotation of `input`.
pub(super) fn is_rotated(plan: &LinearPlan, input: u32) -> bool {
    plan.babies[input as usize].iter().any(|rotation| !rotation.is_zero())
}

impl Batching {
    /// The portions of `plan` at `level`.
    #[must_use]
    pub fn of(plan: &LinearPlan, params: &Params, level: Level) -> Self {
        Self::within(PORTIONS, plan, params, level)
    }

    /// The smallest portions of `plan` at `level`.
    #[must_use]
    pub fn least(plan: &LinearPlan, params: &Params, level: Level) -> Self {
        Self::within(LEAST, plan, params, level)
    }

    /// The largest portions, at most those of [`of`](Self::of), that take no more than `room` bytes with their diagonals; the smallest
    /// where none do. Smaller ones take longer: inputs are decomposed again for each.
    #[must_use]
    pub fn in_room(room: u64, plan: &LinearPlan, params: &Params, level: Level) -> Self {
        let smaller = |halvings| Self::within(PORTIONS.divided(halvings), plan, params, level);
        let fitting =
            (0..HALVINGS).map(smaller).find(|batching| batching.bytes + batching.diagonal_bytes <= room);
        fitting.unwrap_or_else(|| Self::least(plan, params, level))
    }

    pub(super) fn within(portions: Portions, plan: &LinearPlan, params: &Params, level: Level) -> Self {
        let limb = 8 * params.n() as u64;
        let extended = limb * (level.limbs() + params.alpha()) as u64;
        let inputs = plan.babies.len() as u64;
        let giant_bytes = (2 * inputs * extended).clamp(portions.giants, portions.most_giants);
        let most = plan.stages.iter().map(|stage| stage.giants.len()).max().unwrap_or(0);
        let giants = ((giant_bytes / (2 * extended)) as usize).clamp(1, most.max(1));
        let mut used: Vec<BTreeSet<DiagonalId>> = vec![BTreeSet::new(); plan.babies.len()];
        plan.terms().for_each(|term| _ = used[term.input as usize].insert(term.diagonal));
        let rounds = most.div_ceil(giants).max(1) as u64;
        let raised = params.digits_at(level) as u64 * extended;
        let size = |input: usize| {
            let babies = plan.babies[input].len() as u64;
            let rotated = if is_rotated(plan, input as u32) { raised } else { 0 };
            let buffers = rayon::current_num_threads() as u64 * 2 * babies * limb;
            2 * limb * level.limbs() as u64 + rotated + buffers
        };
        // A diagonal of real slots has half as many coefficients as a limb has words, of four bytes or of eight.
        let bytes_of = |diagonals: usize| (diagonals as u64).div_ceil(rounds) * limb / 2;
        let (mut batches, mut largest, mut diagonal_bytes) = (Vec::new(), 0, 0);
        let (mut first, mut sum, mut held) = (0u32, 0u64, BTreeSet::new());
        for (input, used) in used.iter().enumerate() {
            let next = size(input);
            let with_own = bytes_of(held.union(used).count());
            if sum > 0 && sum + next + with_own > portions.batch {
                batches.push(first..input as u32);
                (first, sum) = (input as u32, 0);
                held.clear();
            }
            held.extend(used);
            let weights = bytes_of(held.len());
            sum += next;
            (largest, diagonal_bytes) = (largest.max(sum), diagonal_bytes.max(weights));
        }
        batches.push(first..plan.babies.len() as u32);
        let expanded = rayon::current_num_threads() as u64 * EXPANDED_LIMBS * limb;
        let bytes = largest + expanded + 2 * giants as u64 * extended;
        Self { inputs: batches, giants, bytes, diagonal_bytes }
    }

    /// Bytes of the decomposed inputs, rotations, expanded diagonals and unfinished giant steps that are held at once, at most.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the compact diagonals of a portion, at most.
    #[must_use]
    pub fn diagonal_bytes(&self) -> u64 {
        self.diagonal_bytes
    }
}

/// What is known of a transform before it is planned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outline {
    /// Inputs, joined and turned ones included.
    pub operands: f64,
    /// Those that are rotated.
    pub decomposed: f64,
    /// Rotated operands.
    pub babies: f64,
    /// Giant steps.
    pub giants: f64,
    /// Diagonals that differ.
    pub diagonals: f64,
    /// Results.
    pub outputs: f64,
    /// Pairs of an operand and a result that have a product.
    pub pairs: f64,
    /// Threads at work.
    pub threads: f64,
}

/// The portions that a transform of an outline will have, on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Foreseen {
    /// Portions of giant steps that an operand is rotated for.
    pub rotated: f64,
    /// How often an operand is decomposed.
    pub decomposed: f64,
    /// What is held at once, in bytes, without diagonals.
    pub bytes: f64,
    /// Bytes of the diagonals of a portion, in compact form.
    pub diagonals: f64,
}

impl Outline {
    /// As [`Batching::of`] decides, for operands that are all alike.
    #[must_use]
    pub fn foresee(&self, params: &Params, level: Level) -> Foreseen {
        let limb = 8.0 * params.n() as f64;
        let extended = limb * (level.limbs() + params.alpha()) as f64;
        let operands = self.operands.max(1.0);
        let most = (2.0 * operands * extended).clamp(PORTIONS.giants as f64, PORTIONS.most_giants as f64);
        let at_once = (most / (2.0 * extended)).floor().clamp(1.0, self.giants.max(1.0));
        let rounds = (self.giants / at_once).ceil().max(1.0);
        let raised = self.decomposed * params.digits_at(level) as f64 * extended;
        let buffers = self.threads * 2.0 * self.babies * limb;
        let held = 2.0 * limb * level.limbs() as f64 * operands + raised + buffers;
        let diagonals = (self.diagonals / rounds).ceil() * limb / 2.0;
        let batches = ((held + diagonals) / PORTIONS.batch as f64).ceil().max(1.0);
        let rotated = self.rounds_of_an_operand(rounds);
        let decomposed = if batches > 1.0 { rotated } else { 1.0 };
        let expanded = self.threads * EXPANDED_LIMBS as f64 * limb;
        let bytes = held / batches + expanded + 2.0 * at_once * extended;
        Foreseen { rotated, decomposed, bytes, diagonals: diagonals / batches }
    }

    /// Portions, of so many, whose results an operand adds to: giant steps are ordered by result, and results by what they read.
    fn rounds_of_an_operand(&self, rounds: f64) -> f64 {
        let outputs = self.outputs.max(1.0);
        let (in_portion, portions_of_output) = ((outputs / rounds).max(1.0), (rounds / outputs).max(1.0));
        let read_by = (self.pairs / self.operands.max(1.0)).clamp(1.0, outputs);
        (portions_of_output * (1.0 + (read_by - 1.0) / in_portion)).min(rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{GiantStep, Stage, Term};
    use super::*;
    use crate::params::{ParamsLiteral, PrimeSpec};
    use crate::units::{Rotation, Slots};

    const BABIES: u32 = 4;
    const GIANTS: u32 = 3;

    /// Every result reads the operands that `reads` says, at four babies and three giant steps.
    fn plan(inputs: u32, outputs: u32, reads: impl Fn(u32, u32) -> bool) -> LinearPlan {
        let slots = Slots::new(1 << 14).expect("a power of two");
        let turn = |by: u32| Rotation::new(i64::from(by), slots);
        let mut next = 0..;
        let mut terms = |output: u32| -> Vec<Term> {
            let read = (0..inputs).filter(|&input| reads(input, output));
            let operands = read.flat_map(|input| (0..BABIES).map(move |baby| (input, baby)));
            let term = |((input, baby), id)| Term { input, baby, diagonal: DiagonalId(id) };
            operands.zip(&mut next).map(term).collect()
        };
        let steps = |output| (0..GIANTS).map(move |g| (output, g));
        let giant = &mut |(output, g): (u32, u32)| GiantStep {
            output,
            rotation: turn(g * BABIES),
            terms: terms(output),
        };
        LinearPlan {
            inputs,
            outputs,
            babies: (0..inputs).map(|_| (0..BABIES).map(turn).collect()).collect(),
            stages: vec![Stage {
                giants: (0..outputs).flat_map(steps).map(giant).collect(),
                ..Stage::default()
            }],
            ..LinearPlan::default()
        }
    }

    fn outline(plan: &LinearPlan) -> Outline {
        let counts = plan.counts();
        let pairs: BTreeSet<(u32, u32)> = plan.stages[0]
            .giants
            .iter()
            .flat_map(|giant| giant.terms.iter().map(|term| (term.input, giant.output)))
            .collect();
        Outline {
            operands: f64::from(plan.inputs),
            decomposed: counts.decompositions as f64,
            babies: counts.baby_rotations as f64,
            giants: plan.stages[0].giants.len() as f64,
            diagonals: plan.terms().map(|term| term.diagonal).collect::<BTreeSet<_>>().len() as f64,
            outputs: f64::from(plan.outputs),
            pairs: pairs.len() as f64,
            threads: rayon::current_num_threads() as f64,
        }
    }

    /// Rotations of operands over all portions, and decompositions.
    fn worked(plan: &LinearPlan, batching: &Batching) -> (usize, usize) {
        let (mut rotated, mut touched) = (0, 0);
        for steps in plan.stages[0].giants.chunks(batching.giants) {
            let terms = steps.iter().flat_map(|giant| &giant.terms);
            let used: BTreeSet<u32> = terms.map(|term| term.input).collect();
            touched += used.len();
            rotated += used.len() * (BABIES as usize - 1);
        }
        (rotated, if batching.inputs.len() > 1 { touched } else { plan.inputs as usize })
    }

    #[test]
    fn portions_are_foreseen_without_a_plan() {
        let literal =
            ParamsLiteral { log_n: 15, q: vec![PrimeSpec::Bits(45); 12], p: vec![PrimeSpec::Bits(45); 2] };
        let (params, level) = (literal.check().expect("valid"), Level(11));
        let dense = |inputs, outputs| plan(inputs, outputs, |_, _| true);
        let plans =
            [dense(4, 4), dense(60, 100), dense(200, 60), plan(300, 300, |input, output| input == output)];
        for plan in plans {
            let (batching, outline) = (Batching::of(&plan, &params, level), outline(&plan));
            let (foreseen, (rotated, decomposed)) =
                (outline.foresee(&params, level), worked(&plan, &batching));
            let near = |found: f64, expected: f64| (found / expected).ln().abs() < 0.25;
            let name =
                format!("{} inputs, {} outputs: {foreseen:?}, {batching:?}", plan.inputs, plan.outputs);
            assert!(near(foreseen.rotated * outline.babies, rotated as f64), "{rotated} rotations, {name}");
            assert!(
                near(foreseen.decomposed * outline.decomposed, decomposed as f64),
                "{decomposed}, {name}"
            );
            let bytes = (batching.bytes() + batching.diagonal_bytes()) as f64;
            assert!(((foreseen.bytes + foreseen.diagonals) / bytes).ln().abs() < 0.7, "{name}");
        }
    }

    #[test]
    fn portions_shrink_to_the_room() {
        let literal =
            ParamsLiteral { log_n: 13, q: vec![PrimeSpec::Bits(45); 3], p: vec![PrimeSpec::Bits(45)] };
        let (params, level) = (literal.check().expect("valid"), Level(2));
        let plan = plan(300, 400, |_, _| true);
        let (usual, least) = (Batching::of(&plan, &params, level), Batching::least(&plan, &params, level));
        let taken = |batching: &Batching| batching.bytes() + batching.diagonal_bytes();
        assert!(taken(&least) < taken(&usual) / 8);
        assert_eq!(Batching::in_room(u64::MAX, &plan, &params, level), usual);
        assert_eq!(Batching::in_room(0, &plan, &params, level), least);
        for room in [taken(&usual) - 1, taken(&usual) / 2, 2 * taken(&least)] {
            let fitting = Batching::in_room(room, &plan, &params, level);
            assert!(taken(&fitting) <= room && taken(&fitting) >= taken(&least), "{room}: {fitting:?}");
        }
    }
}
