//! Refit of a convolution's weights to the original network's pre-activations: one ridge regression, no gradients.
//!
//! With patches u (a trailing 1 for the bias) of the new network's input and wanted outputs T, solves
//! `(A + R) W = B + R W_trained`, A = mean(u u^T), B = mean(u T^T), R = strength * mean(diag A) on the diagonal.

use std::collections::BTreeMap;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};
use peregrine_ir::tensor::{Conv, TensorGraph, TensorOp};
use peregrine_ir::{EntityId, ValueId};
use rayon::prelude::*;

use super::solve::solve_spd;
use crate::tensor::interp::{PatchGrid, convolve};
use crate::tensor::rewrite::f32_const;

/// Largest number of weights of one output channel; larger layers keep their weights (the system is dense).
const MAX_DEPTH: usize = 1200;
/// Images are summed in this many fixed parts, so that the result does not depend on the number of threads.
const PARTS: usize = 4;
/// Ridge of the bias, relative to 1, where it is all but free.
const FREE_BIAS: f64 = 1e-9;
/// The layer before an output is held closer to its trained weights, its bias included.
const OUTPUT_FACTOR: f64 = 3.0;

/// A convolution to refit.
#[derive(Clone, Debug)]
pub(super) struct Refit {
    /// The convolution.
    pub(super) conv: ValueId,
    /// Its operand.
    pub(super) input: ValueId,
    strength: f64,
    /// Penalty of the bias: that of the weights or [`FREE_BIAS`].
    bias: BiasPenalty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BiasPenalty {
    Free,
    AsWeights,
}

/// The convolution to refit for every value that an activation or an output reads.
pub(super) fn plan(
    graph: &TensorGraph,
    users: &[Vec<ValueId>],
    differs: &[bool],
    strength: f64,
) -> BTreeMap<ValueId, Refit> {
    let mut refits = BTreeMap::new();
    let search = Search { graph, users, differs };
    for node in graph.nodes.values() {
        if let TensorOp::Activation(_) = node.op {
            let target = node.args[0];
            if let Some(conv) = search.feeding(target) {
                let input = graph.nodes[conv].args[0];
                refits.insert(target, Refit { conv, input, strength, bias: BiasPenalty::Free });
            }
        }
    }
    for output in &graph.outputs {
        let node = &graph.nodes[output.value];
        let target = if let TensorOp::Reshape { .. } = node.op { node.args[0] } else { output.value };
        if let Some(conv) = search.feeding(target) {
            let input = graph.nodes[conv].args[0];
            let bias = BiasPenalty::AsWeights;
            refits.entry(target).or_insert(Refit { conv, input, strength: OUTPUT_FACTOR * strength, bias });
        }
    }
    refits
}

struct Search<'a> {
    graph: &'a TensorGraph,
    users: &'a [Vec<ValueId>],
    differs: &'a [bool],
}

impl Search<'_> {
    /// The convolution to refit towards `target`: on sums the last one with a kernel above 1x1, else the last one.
    fn feeding(&self, target: ValueId) -> Option<ValueId> {
        let mut found = Vec::new();
        self.collect(target, &mut found);
        found.sort_unstable();
        let large = |id: &ValueId| self.shape(*id).is_some_and(|s| s[2] * s[3] > 1);
        found.iter().rev().copied().find(large).or(found.last().copied())
    }
    /// Convolutions that end in `value` through sums only, whose input differs from the original network's.
    fn collect(&self, value: ValueId, found: &mut Vec<ValueId>) {
        let node = &self.graph.nodes[value];
        match &node.op {
            TensorOp::Conv(_) => {
                let depth = self.shape(value).map_or(usize::MAX, |s| s[1] * s[2] * s[3]);
                if self.differs[node.args[0].index()] && depth < MAX_DEPTH {
                    found.push(value);
                }
            }
            TensorOp::Add if node.args[0] != node.args[1] => {
                for &arg in &node.args {
                    if self.users[arg.index()].len() == 1 && !self.graph.is_output(arg) {
                        self.collect(arg, found);
                    }
                }
            }
            _ => {}
        }
    }
    fn shape(&self, conv: ValueId) -> Option<&[usize]> {
        match &self.graph.nodes[conv].op {
            TensorOp::Conv(op) => Some(&self.graph.tables.consts[op.weights].shape),
            _ => None,
        }
    }
}

impl Refit {
    fn op<'g>(&self, graph: &'g TensorGraph) -> &'g Conv {
        match &graph.nodes[self.conv].op {
            TensorOp::Conv(conv) => conv,
            _ => unreachable!("the plan names convolutions and the fit replaces activations only"),
        }
    }

    /// The convolution's output on `x`, image after image.
    pub(super) fn output(&self, graph: &TensorGraph, x: &[f32]) -> Vec<f32> {
        let (input, output) = (&graph.nodes[self.input].ty.shape, &graph.nodes[self.conv].ty.shape);
        let images = x.len() / input.iter().product::<usize>();
        convolve(self.op(graph), &graph.tables.consts, x, input, output, images)
    }

    /// Replaces the weights by those that give `wanted` on `x`. Keeps a group's weights if its system is degenerate.
    pub(super) fn solve(&self, graph: &mut TensorGraph, x: &[f32], wanted: &[f32]) {
        let conv = self.op(graph).clone();
        let shape = graph.tables.consts[conv.weights].shape.clone();
        let mut weights = graph.tables.consts[conv.weights].to_f64();
        let mut bias = conv.bias.map_or_else(|| vec![0.0; shape[0]], |b| graph.tables.consts[b].to_f64());
        let (input, output) = (&graph.nodes[self.input].ty.shape, &graph.nodes[self.conv].ty.shape);
        let problem = Problem {
            grid: PatchGrid::of(&conv, [shape[2], shape[3]], input, output),
            inputs: input[1],
            outputs: output[1],
            groups: conv.groups as usize,
            depth: shape[1] * shape[2] * shape[3],
            x,
            wanted,
        };
        let per_group = shape[0] / problem.groups;
        for group in 0..problem.groups {
            let weights = &mut weights[group * per_group * problem.depth..][..per_group * problem.depth];
            self.solve_group(&problem, group, weights, &mut bias[group * per_group..][..per_group]);
        }
        let consts = &mut graph.tables.consts;
        let new = Conv {
            weights: consts.push(f32_const(&shape, &weights)),
            bias: Some(consts.push(f32_const(&[bias.len()], &bias))),
            ..conv
        };
        graph.nodes[self.conv].op = TensorOp::Conv(new);
    }

    fn solve_group(&self, problem: &Problem<'_>, group: usize, weights: &mut [f64], bias: &mut [f64]) {
        let (n, outputs) = (problem.depth + 1, bias.len());
        let Sums { mut gram, mut right } = problem.sums(group);
        let power = (0..n).map(|i| gram[i * (n + 1)]).sum::<f64>() / n as f64;
        let penalty = self.strength * power;
        for i in 0..n {
            let own = match self.bias {
                BiasPenalty::Free if i == problem.depth => FREE_BIAS,
                BiasPenalty::Free | BiasPenalty::AsWeights => penalty,
            };
            gram[i * (n + 1)] += own;
            for o in 0..outputs {
                right[i * outputs + o] +=
                    own * if i < problem.depth { weights[o * problem.depth + i] } else { bias[o] };
            }
        }
        if !solve_spd(&mut gram, &mut right, n) || right.iter().any(|w| !w.is_finite()) {
            return;
        }
        for o in 0..outputs {
            (0..problem.depth).for_each(|i| weights[o * problem.depth + i] = right[i * outputs + o]);
            bias[o] = right[problem.depth * outputs + o];
        }
    }
}

/// One layer's data: inputs and wanted outputs of all images.
struct Problem<'a> {
    grid: PatchGrid,
    inputs: usize,
    outputs: usize,
    groups: usize,
    depth: usize,
    x: &'a [f32],
    wanted: &'a [f32],
}

/// mean(u u^T) `[n, n]`, its lower triangle only, and mean(u T^T) `[n, outputs of the group]`.
struct Sums {
    gram: Vec<f64>,
    right: Vec<f64>,
}

impl Problem<'_> {
    fn sums(&self, group: usize) -> Sums {
        let in_map = self.grid.input[0] * self.grid.input[1];
        let images = self.x.len() / (self.inputs * in_map);
        let chunk = images.div_ceil(PARTS).max(1);
        let starts: Vec<usize> = (0..images).step_by(chunk).collect();
        let parts: Vec<Sums> = starts
            .into_par_iter()
            .map(|start| self.partial(group, start..(start + chunk).min(images)))
            .collect();
        let (n, outputs) = (self.depth + 1, self.outputs / self.groups);
        let mut total = Sums { gram: vec![0.0; n * n], right: vec![0.0; n * outputs] };
        let scale = 1.0 / (images * self.grid.output[0] * self.grid.output[1]) as f64;
        for part in parts {
            total.gram.iter_mut().zip(part.gram).for_each(|(a, b)| *a += b * scale);
            total.right.iter_mut().zip(part.right).for_each(|(a, b)| *a += b * scale);
        }
        total
    }

    fn partial(&self, group: usize, images: std::ops::Range<usize>) -> Sums {
        let (n, inputs, outputs) = (self.depth + 1, self.inputs / self.groups, self.outputs / self.groups);
        let (in_map, out_map) =
            (self.grid.input[0] * self.grid.input[1], self.grid.output[0] * self.grid.output[1]);
        let mut sums = Sums { gram: vec![0.0; n * n], right: vec![0.0; n * outputs] };
        let (mut patches, mut gram, mut right) = (Vec::new(), vec![0.0f32; n * n], vec![0.0f32; n * outputs]);
        for image in images {
            let maps = &self.x[(image * self.inputs + group * inputs) * in_map..][..inputs * in_map];
            let wanted =
                &self.wanted[(image * self.outputs + group * outputs) * out_map..][..outputs * out_map];
            self.grid.patches(maps, &mut patches);
            patches.resize(patches.len() + out_map, 1.0);
            lower_gram(&patches, out_map, &mut gram);
            product_with_transpose(&patches, wanted, out_map, &mut right);
            sums.gram.iter_mut().zip(&gram).for_each(|(s, &v)| *s += f64::from(v));
            sums.right.iter_mut().zip(&right).for_each(|(s, &v)| *s += f64::from(v));
        }
        sums
    }
}

/// Rows of a Gram matrix that are computed at once, up to the end of their block of the lower triangle.
const GRAM_ROWS: usize = 96;

/// The lower triangle of `c = a a^T` for row-major `a` `[m, k]`, `c` `[m, m]`; above it are zeros or products, too.
fn lower_gram(a: &[f32], k: usize, c: &mut [f32]) {
    let m = a.len() / k;
    for (rows, block) in c.chunks_mut(GRAM_ROWS * m).enumerate() {
        let start = rows * GRAM_ROWS;
        let end = (start + GRAM_ROWS).min(m);
        let views = (
            ArrayView2::from_shape((end - start, k), &a[start * k..end * k]),
            ArrayView2::from_shape((end, k), &a[..end * k]),
            ArrayViewMut2::from_shape((end - start, end).strides((m, 1)), block),
        );
        let (Ok(own), Ok(all), Ok(mut block)) = views else {
            unreachable!("slices are cut to the extents of the matrices")
        };
        general_mat_mul(1.0, &own, &all.t(), 0.0, &mut block);
    }
}

/// `c = a b^T` for row-major `a` `[m, k]`, `b` `[n, k]`, `c` `[m, n]`.
fn product_with_transpose(a: &[f32], b: &[f32], k: usize, c: &mut [f32]) {
    let (m, n) = (a.len() / k, b.len() / k);
    let views = (
        ArrayView2::from_shape((m, k), a),
        ArrayView2::from_shape((n, k), b),
        ArrayViewMut2::from_shape((m, n), c),
    );
    let (Ok(a), Ok(b), Ok(mut c)) = views else {
        unreachable!("slices are cut to the extents of the matrices")
    };
    general_mat_mul(1.0, &a, &b.t(), 0.0, &mut c);
}
