//! A planned linear call on slots in the clear: what the evaluator does, in `f64`.

use peregrine_ckks::encoder::Complex;
use peregrine_ckks::evaluator::linear::{Close, GiantOrder, GiantStep, Stage};
use rayon::prelude::*;

use super::{CallPlan, DiagonalSlots};

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

/// The number in a slot: real, or complex where a call joins operands.
trait Slot: Copy + Send + Sync + 'static {
    const ZERO: Self;
    fn real(value: f64) -> Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn conj(self) -> Self;
    fn squared_magnitude(self) -> f64;
    fn real_part(self) -> f64;
    fn root(call: &CallPlan, power: u32, slot: usize) -> Self;
    fn diagonal(slots: DiagonalSlots) -> Vec<Self>;
    fn disturb(add: &AddErrors<'_>, index: usize, variances: &[f64], sums: &mut [Self]);
}

impl Slot for f64 {
    const ZERO: Self = 0.0;
    fn real(value: f64) -> Self {
        value
    }
    fn plus(self, other: Self) -> Self {
        self + other
    }
    fn times(self, other: Self) -> Self {
        self * other
    }
    fn conj(self) -> Self {
        self
    }
    fn squared_magnitude(self) -> f64 {
        self * self
    }
    fn real_part(self) -> f64 {
        self
    }
    fn root(_: &CallPlan, _: u32, _: usize) -> Self {
        1.0
    }
    fn diagonal(slots: DiagonalSlots) -> Vec<Self> {
        match slots {
            DiagonalSlots::Real(slots) => slots,
            DiagonalSlots::Complex(slots) => slots.into_iter().map(|slot| slot.re).collect(),
        }
    }
    fn disturb(add: &AddErrors<'_>, index: usize, variances: &[f64], sums: &mut [Self]) {
        add(index, variances, sums);
    }
}

impl Slot for Complex {
    const ZERO: Self = Complex { re: 0.0, im: 0.0 };
    fn real(re: f64) -> Self {
        Complex { re, im: 0.0 }
    }
    fn plus(self, other: Self) -> Self {
        Complex { re: self.re + other.re, im: self.im + other.im }
    }
    fn times(self, other: Self) -> Self {
        Complex { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }
    fn conj(self) -> Self {
        Complex { re: self.re, im: -self.im }
    }
    fn squared_magnitude(self) -> f64 {
        self.re * self.re + self.im * self.im
    }
    fn real_part(self) -> f64 {
        self.re
    }
    fn root(call: &CallPlan, power: u32, slot: usize) -> Self {
        call.root(power, slot)
    }
    fn diagonal(slots: DiagonalSlots) -> Vec<Self> {
        match slots {
            DiagonalSlots::Real(slots) => slots.into_iter().map(Self::real).collect(),
            DiagonalSlots::Complex(slots) => slots,
        }
    }
    fn disturb(add: &AddErrors<'_>, index: usize, variances: &[f64], sums: &mut [Self]) {
        let mut parts = vec![0.0; sums.len()];
        add(2 * index, variances, &mut parts);
        sums.iter_mut().zip(&parts).for_each(|(sum, re)| sum.re += re);
        parts.fill(0.0);
        add(2 * index + 1, variances, &mut parts);
        sums.iter_mut().zip(&parts).for_each(|(sum, im)| sum.im += im);
    }
}

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
    if call.is_real() {
        run::<f64>(call, weights, inputs, noise)
    } else {
        run::<Complex>(call, weights, inputs, noise)
    }
}

fn run<S: Slot>(
    call: &CallPlan,
    weights: &[&[f32]],
    inputs: &[&[f64]],
    noise: Option<&CallNoise<'_>>,
) -> Vec<Vec<f64>> {
    let length = call.largest_period() as usize;
    let operands = operands::<S>(call, inputs, length);
    let step = Step { call, length, weights, operands: &operands, noise };
    let mut outputs = vec![vec![S::ZERO; length]; call.plan.outputs as usize];
    let mut index = 0;
    for stage in &call.plan.stages {
        let mut running = vec![vec![S::ZERO; length]; outputs.len()];
        for giants in stage.giants.chunks(GIANTS_AT_ONCE) {
            let sums: Vec<Vec<S>> =
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
    let closed = |slot: &S| match call.plan.close {
        Close::Sum => slot.real_part(),
        Close::AddConjugate => slot.plus(slot.conj()).real_part(),
    };
    outputs.iter().map(|output| output.iter().map(closed).collect()).collect()
}

/// The inputs, then the joined operands, then the turned ones. Joined ones are as long as the call.
fn operands<S: Slot>(call: &CallPlan, inputs: &[&[f64]], length: usize) -> Vec<Vec<S>> {
    let mut operands: Vec<Vec<S>> =
        inputs.iter().map(|input| input.iter().map(|&slot| S::real(slot)).collect()).collect();
    for join in &call.plan.joined {
        let (first, second) = (&operands[join.first as usize], &operands[join.second as usize]);
        let by = join.rotation.get() as usize;
        let slot = |i: usize| {
            let rotated = second[(i + by) % second.len()];
            first[i % first.len()].plus(S::root(call, join.power, i).times(rotated))
        };
        let joined = (0..length).map(slot).collect();
        operands.push(joined);
    }
    for turn in &call.plan.turned {
        let mut slots = operands[turn.input as usize].clone();
        let by = turn.rotation.get() as usize % slots.len();
        slots.rotate_left(by);
        operands.push(slots);
    }
    operands
}

struct Step<'a, S> {
    call: &'a CallPlan,
    length: usize,
    weights: &'a [&'a [f32]],
    operands: &'a [Vec<S>],
    noise: Option<&'a CallNoise<'a>>,
}

impl<S: Slot> Step<'_, S> {
    /// The sum of the products of a giant step, not yet rotated.
    fn inner_sum(&self, index: usize, giant: &GiantStep) -> Vec<S> {
        let call = self.call;
        let mut sum = vec![S::ZERO; self.length];
        let mut variance = vec![0.0; if self.noise.is_some() { self.length } else { 0 }];
        for term in &giant.terms {
            let id = term.diagonal.0 as usize;
            let diagonal = S::diagonal(call.expand(id, self.weights));
            let input = &self.operands[term.input as usize];
            let baby = call.plan.babies[term.input as usize][term.baby as usize].get() as usize;
            for run in runs(self.length, diagonal.len(), input.len(), baby) {
                let products = diagonal[run.diagonal..].iter().zip(&input[run.input..]);
                let sums = &mut sum[run.at..run.at + run.len];
                sums.iter_mut().zip(products).for_each(|(sum, (d, x))| *sum = sum.plus(d.times(*x)));
            }
            let Some(noise) = self.noise else { continue };
            let of_weights = noise.weights[call.diagonals[id].term as usize];
            let (source, switches) = call.plan.source(term.input);
            let switches = switches + usize::from(baby != 0);
            let of_input = switches as f64 * noise.rotated[source as usize];
            for run in runs(self.length, diagonal.len(), input.len(), baby) {
                let factors = diagonal[run.diagonal..].iter().zip(&input[run.input..]);
                let variances = &mut variance[run.at..run.at + run.len];
                variances.iter_mut().zip(factors).for_each(|(v, (d, x))| {
                    *v += of_weights * x.squared_magnitude() + of_input * d.squared_magnitude();
                });
            }
        }
        if let Some(noise) = self.noise {
            S::disturb(noise.add, index, &variance, &mut sum);
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

fn fold<S: Slot>(stage: &Stage, outputs: &mut [Vec<S>]) {
    for rotation in &stage.fold {
        for output in &mut *outputs {
            let copy = output.clone();
            add_rotated(output, &copy, rotation.get() as usize);
        }
    }
}

/// `output[i] += slots[i + rotation]`, cyclic in the power-of-two length.
fn add_rotated<S: Slot>(output: &mut [S], slots: &[S], rotation: usize) {
    let (wrapped, first) = slots.split_at(rotation & (slots.len() - 1));
    let rotated = first.iter().chain(wrapped);
    output.iter_mut().zip(rotated).for_each(|(out, slot)| *out = out.plus(*slot));
}
