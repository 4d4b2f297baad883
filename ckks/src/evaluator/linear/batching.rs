//! In what portions a transform works, so that what it holds at once does not grow with the number of its inputs.
//!
//! Giant steps outside, inputs inside: the sums of some giant steps stay while batch after batch of inputs is decomposed, rotated,
//! and multiplied by its diagonals. One batch is decomposed once for the whole transform; several are decomposed again for
//! every portion of giant steps.

use std::ops::Range;

use super::plan::LinearPlan;
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

    pub(super) fn within(portions: Portions, plan: &LinearPlan, params: &Params, level: Level) -> Self {
        let limb = 8 * params.n() as u64;
        let extended = limb * (level.limbs() + params.alpha()) as u64;
        let inputs = plan.babies.len() as u64;
        let giant_bytes = (2 * inputs * extended).clamp(portions.giants, portions.most_giants);
        let most = plan.stages.iter().map(|stage| stage.giants.len()).max().unwrap_or(0);
        let giants = ((giant_bytes / (2 * extended)) as usize).clamp(1, most.max(1));
        let mut terms = vec![0u64; plan.babies.len()];
        plan.terms().for_each(|term| terms[term.input as usize] += 1);
        let rounds = most.div_ceil(giants).max(1) as u64;
        let raised = params.digits_at(level) as u64 * extended;
        let size = |input: usize| {
            let babies = plan.babies[input].len() as u64;
            let rotated = if is_rotated(plan, input as u32) { raised } else { 0 };
            let buffers = rayon::current_num_threads() as u64 * 2 * babies * limb;
            2 * limb * level.limbs() as u64 + rotated + buffers
        };
        // A diagonal of real slots has half as many coefficients as a limb has words, of four bytes or of eight.
        let diagonals = |input: usize| terms[input].div_ceil(rounds) * limb / 2;
        let (mut batches, mut largest, mut diagonal_bytes) = (Vec::new(), 0, 0);
        let (mut first, mut sum, mut weights) = (0u32, 0u64, 0u64);
        for input in 0..plan.babies.len() {
            let (next, diagonals) = (size(input), diagonals(input));
            if sum > 0 && sum + weights + next + diagonals > portions.batch {
                batches.push(first..input as u32);
                (first, sum, weights) = (input as u32, 0, 0);
            }
            (sum, weights) = (sum + next, weights + diagonals);
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
