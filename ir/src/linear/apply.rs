//! A planned linear call on slots in the clear: what the evaluator does, in `f64`.

use peregrine_ckks::evaluator::linear::{GiantOrder, GiantStep, Stage};
use rayon::prelude::*;

use super::CallPlan;

/// `(index of the giant step, variances, sums)`: adds an error of these variances to the sums.
pub type AddErrors<'a> = dyn Fn(usize, &[f64], &mut [f64]) + Sync + 'a;

/// The errors that CKKS adds inside a linear call, as variances of independent slots.
pub struct CallNoise<'a> {
    /// Variance of each weight of term t.
    pub weights: &'a [f64],
    /// Variance that a baby rotation adds to each slot of input i.
    pub rotated: &'a [f64],
    /// Adds the errors.
    pub add: &'a AddErrors<'a>,
}

/// Giant steps that are computed before they are added up: bounds the memory, not the result.
const GIANTS_AT_ONCE: usize = 16;

/// Runs a planned call on slot vectors, rotation by rotation as the evaluator does on ciphertexts.
///
/// `weights[t]` are the weights of term t, `inputs[i]` the slots of input i of the plan, repeating with their length (a
/// power of two). Gives one slot vector per output, of the largest period of the call.
pub fn apply_clear(
    call: &CallPlan,
    weights: &[&[f32]],
    inputs: &[&[f64]],
    noise: Option<&CallNoise<'_>>,
) -> Vec<Vec<f64>> {
    let length = call.maps.iter().map(|m| m.period() as usize).max().unwrap_or(1);
    let turned: Vec<Vec<f64>> = call
        .plan
        .turned
        .iter()
        .map(|turn| {
            let mut slots = inputs[turn.input as usize].to_vec();
            let by = turn.rotation.get() as usize % slots.len();
            slots.rotate_left(by);
            slots
        })
        .collect();
    let inputs: Vec<&[f64]> = inputs.iter().copied().chain(turned.iter().map(Vec::as_slice)).collect();
    let step = Step { call, length, weights, inputs: &inputs, noise };
    let mut outputs = vec![vec![0.0; length]; call.plan.outputs as usize];
    let mut index = 0;
    for stage in &call.plan.stages {
        let mut running = vec![vec![0.0; length]; outputs.len()];
        for giants in stage.giants.chunks(GIANTS_AT_ONCE) {
            let sums: Vec<Vec<f64>> =
                giants.par_iter().enumerate().map(|(i, giant)| step.inner_sum(index + i, giant)).collect();
            for (giant, sum) in giants.iter().zip(sums) {
                let (output, by) = (giant.output as usize, giant.rotation.get() as usize);
                match stage.order {
                    GiantOrder::Separate => add_rotated(&mut outputs[output], &sum, by),
                    GiantOrder::Chained => {
                        add_rotated(&mut running[output], &sum, 0);
                        running[output].rotate_left(by % length);
                    }
                }
            }
            index += giants.len();
        }
        outputs.iter_mut().zip(&running).for_each(|(output, running)| add_rotated(output, running, 0));
        fold(stage, &mut outputs);
    }
    outputs
}

struct Step<'a> {
    call: &'a CallPlan,
    length: usize,
    weights: &'a [&'a [f32]],
    inputs: &'a [&'a [f64]],
    noise: Option<&'a CallNoise<'a>>,
}

impl Step<'_> {
    /// The sum of the products of a giant step, not yet rotated.
    fn inner_sum(&self, index: usize, giant: &GiantStep) -> Vec<f64> {
        let call = self.call;
        let mut sum = vec![0.0; self.length];
        let mut diagonal = Vec::new();
        let mut variance = vec![0.0; if self.noise.is_some() { self.length } else { 0 }];
        for term in &giant.terms {
            let planned = call.diagonals[term.diagonal.0 as usize];
            let (map, weights) = (&call.maps[planned.term as usize], self.weights[planned.term as usize]);
            diagonal.clear();
            diagonal.resize(map.period() as usize, 0.0);
            map.expand_into(planned.key, weights, planned.giant, &mut diagonal);
            let input = self.inputs[term.input as usize];
            let baby = call.plan.babies[term.input as usize][term.baby as usize].get() as usize;
            let Some(noise) = self.noise else {
                for run in runs(self.length, diagonal.len(), input.len(), baby) {
                    let products = diagonal[run.diagonal..].iter().zip(&input[run.input..]);
                    let sums = &mut sum[run.at..run.at + run.len];
                    sums.iter_mut().zip(products).for_each(|(sum, (d, x))| *sum += d * x);
                }
                continue;
            };
            let of_weights = noise.weights[planned.term as usize];
            let (source, turns) = call.plan.source(term.input);
            let switches = turns + usize::from(baby != 0);
            let of_input = switches as f64 * noise.rotated[source as usize];
            for run in runs(self.length, diagonal.len(), input.len(), baby) {
                let factors = diagonal[run.diagonal..].iter().zip(&input[run.input..]);
                let range = run.at..run.at + run.len;
                let sums = sum[range.clone()].iter_mut().zip(&mut variance[range]);
                sums.zip(factors).for_each(|((sum, variance), (d, x))| {
                    *sum += d * x;
                    *variance += of_weights * x * x + of_input * d * d;
                });
            }
        }
        if let Some(noise) = self.noise {
            (noise.add)(index, &variance, &mut sum);
        }
        sum
    }
}

/// Consecutive slots: `len` from slot `at` on, which meet the diagonal and the rotated input from these entries on.
struct Run {
    at: usize,
    diagonal: usize,
    input: usize,
    len: usize,
}

/// The slots `0..length` in runs without a wrap-around; all lengths are powers of two.
fn runs(length: usize, diagonal: usize, input: usize, baby: usize) -> impl Iterator<Item = Run> {
    let run = move |at: usize| {
        let (d, i) = (at & (diagonal - 1), (at + baby) & (input - 1));
        let len = (length - at).min(diagonal - d).min(input - i);
        (at < length).then_some(Run { at, diagonal: d, input: i, len })
    };
    std::iter::successors(run(0), move |last| run(last.at + last.len))
}

fn fold(stage: &Stage, outputs: &mut [Vec<f64>]) {
    for rotation in &stage.fold {
        for output in &mut *outputs {
            let copy = output.clone();
            add_rotated(output, &copy, rotation.get() as usize);
        }
    }
}

/// `output[i] += slots[i + rotation]`, cyclic in the power-of-two length.
fn add_rotated(output: &mut [f64], slots: &[f64], rotation: usize) {
    let (wrapped, first) = slots.split_at(rotation & (slots.len() - 1));
    let rotated = first.iter().chain(wrapped);
    output.iter_mut().zip(rotated).for_each(|(out, slot)| *out += slot);
}
