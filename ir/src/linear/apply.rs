//! A planned linear call on slots in the clear: what the evaluator does, in `f64`.

use std::collections::BTreeMap;

use peregrine_ckks::evaluator::linear::{Close, GiantOrder, GiantStep, Stage};
use rayon::prelude::*;

use super::CallPlan;
use super::plan::Expansion;
use super::spread::{Numbers, Run, runs};

/// `(index of the errors, variances, sums)`: adds an error of these variances to the sums.
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
/// power of two). Gives one slot vector per output, of the largest period of the call. Sums of products are real from the
/// start: no rotation or fold brings their imaginary parts into the real ones that a call ends with.
pub fn apply_clear(
    call: &CallPlan,
    weights: &[&[f32]],
    inputs: &[&[f64]],
    noise: Option<&CallNoise<'_>>,
) -> Vec<Vec<f64>> {
    let length = call.largest_period() as usize;
    let operands = operands(call, inputs, length);
    let step = Step { call, length, weights, operands: &operands, noise };
    let mut outputs = vec![vec![0.0; length]; call.plan.outputs as usize];
    let mut index = 0;
    for stage in &call.plan.stages {
        let mut running = vec![vec![0.0; length]; outputs.len()];
        for giants in stage.giants.chunks(GIANTS_AT_ONCE) {
            let sum = |scratch: &mut Scratch, (i, giant)| step.inner_sum(index + i, giant, scratch);
            let sums: Vec<Vec<f64>> = giants.par_iter().enumerate().map_init(Scratch::default, sum).collect();
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
    if call.plan.close == Close::AddConjugate {
        outputs.iter_mut().flatten().for_each(|slot| *slot += *slot);
    }
    outputs
}

/// The inputs, then the joined operands, then the turned ones. Joined ones are as long as the call.
fn operands(call: &CallPlan, inputs: &[&[f64]], length: usize) -> Vec<Numbers> {
    let real = |input: &&[f64]| Numbers { re: input.to_vec(), im: Vec::new() };
    let mut operands: Vec<Numbers> = inputs.iter().map(real).collect();
    let mut powers: BTreeMap<u32, Numbers> = BTreeMap::new();
    for join in &call.plan.joined {
        let power = powers.entry(join.power).or_insert_with(|| call.powers(join.power));
        let (first, second) = (&operands[join.first as usize], &operands[join.second as usize]);
        operands.push(joined(first, (second, join.rotation.get() as usize), power, length));
    }
    for turn in &call.plan.turned {
        let mut slots = operands[turn.input as usize].clone();
        let by = turn.rotation.get() as usize % slots.len();
        slots.re.rotate_left(by);
        if !slots.is_real() {
            slots.im.rotate_left(by);
        }
        operands.push(slots);
    }
    operands
}

/// `first + power * second`, the second rotated.
fn joined(first: &Numbers, (second, by): (&Numbers, usize), power: &Numbers, length: usize) -> Numbers {
    let mut joined = Numbers::default();
    joined.clear_complex(length);
    let at = |numbers: &Numbers, i: usize| {
        let i = i & (numbers.len() - 1);
        (numbers.re[i], if numbers.is_real() { 0.0 } else { numbers.im[i] })
    };
    for (i, (re, im)) in joined.re.iter_mut().zip(&mut joined.im).enumerate() {
        let ((a, b), (c, d), (p, q)) = (at(first, i), at(second, i + by), at(power, i));
        (*re, *im) = (a + (p * c - q * d), b + (p * d + q * c));
    }
    joined
}

struct Step<'a> {
    call: &'a CallPlan,
    length: usize,
    weights: &'a [&'a [f32]],
    operands: &'a [Numbers],
    noise: Option<&'a CallNoise<'a>>,
}

/// Memory that giant steps use one after the other.
#[derive(Default)]
struct Scratch {
    diagonal: Expansion,
    variance: Vec<f64>,
}

/// What a product adds to the variance of a slot, for each unit of the squares of operand and diagonal.
struct Variances {
    of_weights: f64,
    of_input: f64,
}

impl Step<'_> {
    /// The sum of the products of a giant step, not yet rotated.
    fn inner_sum(&self, index: usize, giant: &GiantStep, scratch: &mut Scratch) -> Vec<f64> {
        let call = self.call;
        let Scratch { diagonal, variance } = scratch;
        let mut sum = vec![0.0; self.length];
        variance.clear();
        variance.resize(if self.noise.is_some() { self.length } else { 0 }, 0.0);
        for term in &giant.terms {
            let id = term.diagonal.0 as usize;
            call.expand_into(id, self.weights, diagonal);
            let input = &self.operands[term.input as usize];
            let baby = call.plan.babies[term.input as usize][term.baby as usize].get() as usize;
            let product = Product { diagonal: &diagonal.slots, input, baby };
            let Some(noise) = self.noise else {
                product.add(&mut sum);
                continue;
            };
            let (source, switches) = call.plan.source(term.input);
            let switches = switches + usize::from(baby != 0);
            let each = Variances {
                of_weights: noise.weights[call.diagonals[id].term as usize],
                of_input: switches as f64 * noise.rotated[source as usize],
            };
            product.add_noisy(&mut sum, &each, variance);
        }
        if let Some(noise) = self.noise {
            // Those of imaginary parts, in between, end nowhere.
            let index = if call.is_real() { index } else { 2 * index };
            (noise.add)(index, variance, &mut sum);
        }
        sum
    }
}

/// A diagonal and the operand that it meets, rotated. Joined operands meet complex diagonals, others real ones.
struct Product<'a> {
    diagonal: &'a Numbers,
    input: &'a Numbers,
    baby: usize,
}

impl Product<'_> {
    fn runs(&self, length: usize) -> impl Iterator<Item = Run> {
        runs(length, self.diagonal.len(), (self.input.len(), self.baby))
    }

    fn is_real(&self) -> bool {
        self.diagonal.is_real() || self.input.is_real()
    }

    /// Adds the real part of the product to a sum.
    fn add(&self, sum: &mut [f64]) {
        for Run { at, first, second, len } in self.runs(sum.len()) {
            let sum = &mut sum[at..at + len];
            let (d, x) = (&self.diagonal.re[first..][..len], &self.input.re[second..][..len]);
            if self.is_real() {
                (0..len).for_each(|i| sum[i] += d[i] * x[i]);
                continue;
            }
            let (e, y) = (&self.diagonal.im[first..][..len], &self.input.im[second..][..len]);
            (0..len).for_each(|i| sum[i] += d[i] * x[i] - e[i] * y[i]);
        }
    }

    /// As [`Self::add`], with what rounded weights and key switches of the operand add to the variance.
    fn add_noisy(&self, sum: &mut [f64], each: &Variances, variance: &mut [f64]) {
        let Variances { of_weights, of_input } = *each;
        for Run { at, first, second, len } in self.runs(sum.len()) {
            let (sum, variance) = (&mut sum[at..][..len], &mut variance[at..][..len]);
            let (d, x) = (&self.diagonal.re[first..][..len], &self.input.re[second..][..len]);
            if self.is_real() {
                for i in 0..len {
                    sum[i] += d[i] * x[i];
                    variance[i] += of_weights * (x[i] * x[i]) + of_input * (d[i] * d[i]);
                }
                continue;
            }
            let (e, y) = (&self.diagonal.im[first..][..len], &self.input.im[second..][..len]);
            for i in 0..len {
                sum[i] += d[i] * x[i] - e[i] * y[i];
                variance[i] +=
                    of_weights * (x[i] * x[i] + y[i] * y[i]) + of_input * (d[i] * d[i] + e[i] * e[i]);
            }
        }
    }
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
    let (low, high) = output.split_at_mut(first.len());
    let add = |output: &mut [f64], slots: &[f64]| {
        output.iter_mut().zip(slots).for_each(|(out, slot)| *out += slot);
    };
    add(low, first);
    add(high, wrapped);
}
