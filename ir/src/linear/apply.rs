//! A planned linear call on slots in the clear: what the evaluator does, in `f64`.

use peregrine_ckks::evaluator::linear::{GiantStep, Stage};
use rayon::prelude::*;

use super::CallPlan;

/// Runs a planned call on slot vectors, rotation by rotation as the evaluator does on ciphertexts.
///
/// `weights[t]` are the weights of term t, `inputs[i]` the slots of input i of the plan, repeating with their length (a
/// power of two). Gives one slot vector per output, of the largest period of the call. `disturb(giant, sums, slots)` may
/// change each giant step's inner sum before it is rotated; `sums[s]` is the sum of the squares of the operand slots
/// that were multiplied into slot s. Without a disturbance the sums are not computed and `sums` is empty.
pub fn apply_clear(
    call: &CallPlan,
    weights: &[&[f32]],
    inputs: &[&[f64]],
    disturb: Option<&(dyn Fn(usize, &[f64], &mut [f64]) + Sync)>,
) -> Vec<Vec<f64>> {
    let length = call.maps.iter().map(|m| m.period() as usize).max().unwrap_or(1);
    let mut outputs = vec![vec![0.0; length]; call.plan.outputs as usize];
    let mut first_giant = 0;
    for stage in &call.plan.stages {
        let sums: Vec<Vec<f64>> = (stage.giants.par_iter().enumerate())
            .map(|(index, giant)| {
                let squares = disturb.map(|disturb| (first_giant + index, disturb));
                giant_step(call, giant, length, weights, inputs, squares)
            })
            .collect();
        for (giant, sum) in stage.giants.iter().zip(&sums) {
            add_rotated(&mut outputs[giant.output as usize], sum, giant.rotation.get() as usize);
        }
        first_giant += stage.giants.len();
        fold(stage, &mut outputs);
    }
    outputs
}

type Disturb<'a> = (usize, &'a (dyn Fn(usize, &[f64], &mut [f64]) + Sync));

fn giant_step(
    call: &CallPlan,
    giant: &GiantStep,
    length: usize,
    weights: &[&[f32]],
    inputs: &[&[f64]],
    disturb: Option<Disturb<'_>>,
) -> Vec<f64> {
    let mut sum = vec![0.0; length];
    let mut squares = vec![0.0; if disturb.is_some() { length } else { 0 }];
    for term in &giant.terms {
        let planned = call.diagonals[term.diagonal.0 as usize];
        let map = &call.maps[planned.term as usize];
        let Some(diagonal) = map.expand(planned.key, weights[planned.term as usize], planned.giant) else {
            continue;
        };
        let input = inputs[term.input as usize];
        let baby = call.plan.babies[term.input as usize][term.baby as usize].get() as usize;
        let (in_mask, diagonal_mask) = (input.len() - 1, diagonal.len() - 1);
        for (s, sum) in sum.iter_mut().enumerate() {
            *sum += diagonal[s & diagonal_mask] * input[(s + baby) & in_mask];
        }
        for (s, square) in squares.iter_mut().enumerate() {
            *square += input[(s + baby) & in_mask].powi(2);
        }
    }
    if let Some((index, disturb)) = disturb {
        disturb(index, &squares, &mut sum);
    }
    sum
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
    let mask = slots.len() - 1;
    for (i, out) in output.iter_mut().enumerate() {
        *out += slots[(i + rotation) & mask];
    }
}
