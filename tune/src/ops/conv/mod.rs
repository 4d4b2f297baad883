//! Convolutions with strides, pads, dilations and groups: the one hot operation of training.
//!
//! Weights are `[group, ky, kx, c_in / groups, c_out / groups]`, row-major, so that a kernel row of one pixel is consecutive
//! in weights and in an NHWC image alike.

mod depthwise;
mod geometry;
mod kernel;
#[cfg(test)]
mod tests;
mod winograd;

use pulp::Arch;
use rayon::prelude::*;

pub use geometry::Geometry;
use geometry::{Border, Phase, Tap, plan};
use kernel::{Gather, Packed, Plan, Scatter};

use crate::tensor::Tensor;

/// Images of a pointwise convolution are cut into pieces of this many pixels.
const POINTS: usize = 256;
/// Most bytes of partial weight gradients.
const PARTIAL_BYTES: usize = 64 << 20;
/// Most partial weight gradients.
const PARTIALS: usize = 8;

/// A convolution with the plans of its three directions.
#[derive(Clone, Debug)]
pub struct Convolution {
    geometry: Geometry,
    taps: Vec<Tap>,
    bases: Vec<usize>,
    places: Vec<usize>,
    phases: Vec<Phase>,
}

impl Convolution {
    /// Plans a convolution.
    pub fn new(geometry: Geometry) -> Self {
        let (taps, phases) = (geometry.taps(), geometry.phases());
        let bases = geometry.bases();
        let places = (0..bases.len()).map(|i| i * geometry.c_out).collect();
        Self { geometry, taps, bases, places, phases }
    }

    /// Its extents.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// `y = w * x + bias`; writes all of `y`.
    pub fn forward(&self, x: &Tensor, weights: &[f32], bias: Option<&[f32]>, y: &mut Tensor) {
        let g = &self.geometry;
        if g.is_depthwise() {
            return depthwise::forward(self, x, weights, bias, y);
        }
        if winograd::applies(g) {
            return winograd::forward(g, x, weights, bias, y);
        }
        let (ci, co) = (g.c_in / g.groups, g.c_out / g.groups);
        let depth = self.taps.len() * ci;
        let packed: Vec<Packed> =
            weights.chunks_exact(depth * co).map(|w| Packed::new(depth, co, 1, |k| &w[k * co..])).collect();
        if g.is_pointwise() && g.groups == 1 {
            return self.pointwise(&x.data, g.c_in, &packed[0], bias, &mut y.data);
        }
        let plans: Vec<Plan> = (0..g.groups).map(|i| plan(&self.bases, &self.taps, ci, i * ci)).collect();
        let places: Vec<Vec<usize>> =
            (0..g.groups).map(|i| self.places.iter().map(|p| p + i * co).collect()).collect();
        let (border, input) = (g.border(), [g.input[0], g.input[1], g.c_in]);
        y.images_mut().zip(x.images()).for_each_init(Vec::new, |scratch, (out, x)| {
            let x = pad(x, input, border, scratch);
            for (i, (plan, weights)) in plans.iter().zip(&packed).enumerate() {
                let bias = bias.map(|b| &b[i * co..(i + 1) * co]);
                let (bases, runs, places) = (&plan.bases, &plan.runs, &places[i]);
                Arch::new().dispatch(Gather { x, bases, runs, weights, bias, places, out });
            }
        });
    }

    /// `dx` of the gradient `dy`; writes all of `dx`.
    pub fn input_grad(&self, dy: &Tensor, weights: &[f32], dx: &mut Tensor) {
        let g = &self.geometry;
        if g.is_depthwise() {
            return depthwise::input_grad(self, dy, weights, dx);
        }
        if winograd::applies(g) {
            return winograd::input_grad(g, dy, weights, dx);
        }
        let (ci, co) = (g.c_in / g.groups, g.c_out / g.groups);
        if g.is_pointwise() && g.groups == 1 {
            let packed = Packed::new(co, ci, co, |k| &weights[k..]);
            return self.pointwise(&dy.data, g.c_out, &packed, None, &mut dx.data);
        }
        let size = self.taps.len() * ci * co;
        let work: Vec<(Plan, Packed, Vec<usize>)> = (0..g.groups)
            .flat_map(|i| self.phases.iter().map(move |phase| (i, phase)))
            .map(|(i, phase)| {
                let w = &weights[i * size..(i + 1) * size];
                // Row (tap, output channel), column input channel.
                let row = |k: usize| {
                    let tap = &phase.taps[k / co];
                    &w[(tap.ky * g.kernel[1] + tap.kx) * ci * co + k % co..]
                };
                let packed = Packed::new(phase.taps.len() * co, ci, co, row);
                let places = phase.places.iter().map(|p| p + i * ci).collect();
                (plan(&phase.bases, &phase.taps, co, i * co), packed, places)
            })
            .collect();
        let [rows, columns] = g.output();
        let (border, output) = (g.gradient_border(), [rows, columns, g.c_out]);
        dx.images_mut().zip(dy.images()).for_each_init(Vec::new, |scratch, (out, dy)| {
            let x = pad(dy, output, border, scratch);
            for (plan, weights, places) in &work {
                let (bases, runs) = (&plan.bases, &plan.runs);
                Arch::new().dispatch(Gather { x, bases, runs, weights, bias: None, places, out });
            }
        });
    }

    /// Adds the gradient by the weights.
    pub fn weight_grad(&self, x: &Tensor, dy: &Tensor, grad: &mut [f32]) {
        let g = &self.geometry;
        if winograd::applies(g) {
            return winograd::weight_grad(g, x, dy, grad);
        }
        let parts = (PARTIAL_BYTES / (4 * g.weights())).clamp(2, PARTIALS);
        let (border, input) = (g.border(), [g.input[0], g.input[1], g.c_in]);
        if g.is_pointwise() && g.groups == 1 {
            let rows = dy.shape.pixels().div_ceil(parts);
            let bases: Vec<usize> = (0..POINTS).map(|i| i * g.c_in).collect();
            let plan = plan(&bases, &self.taps, g.c_in, 0);
            let pieces = x.data.par_chunks(rows * g.c_in).zip(dy.data.par_chunks(rows * g.c_out));
            return accumulate(pieces, grad, |(x, dy), grad| {
                for (x, dy) in x.chunks(POINTS * g.c_in).zip(dy.chunks(POINTS * g.c_out)) {
                    self.scatter(x, &plan, dy, 0, grad);
                }
            });
        }
        let plans: Vec<Plan> = (0..g.groups)
            .map(|i| plan(&self.bases, &self.taps, g.c_in / g.groups, i * g.c_in / g.groups))
            .collect();
        let images = x.shape.n.div_ceil(parts);
        let (sx, sy) = (x.shape.image(), dy.shape.image());
        let pieces = x.data.par_chunks(images * sx).zip(dy.data.par_chunks(images * sy));
        accumulate(pieces, grad, |(x, dy), grad| {
            let mut scratch = Vec::new();
            for (x, dy) in x.chunks(sx).zip(dy.chunks(sy)) {
                let x = pad(x, input, border, &mut scratch);
                if g.is_depthwise() {
                    depthwise::weight_grad(self, x, dy, grad);
                    continue;
                }
                for (i, (plan, grad)) in plans.iter().zip(grad.chunks_mut(g.weights() / g.groups)).enumerate()
                {
                    self.scatter(x, plan, dy, i, grad);
                }
            }
        });
    }

    fn scatter(&self, x: &[f32], plan: &Plan, dy: &[f32], group: usize, grad: &mut [f32]) {
        let g = &self.geometry;
        let columns = g.c_out / g.groups;
        debug_assert_eq!(grad.len(), plan.depth() * columns);
        let (bases, runs, step, skip) = (&plan.bases, &plan.runs, g.c_out, group * columns);
        Arch::new().dispatch(Scatter { x, bases, runs, dy, step, skip, columns, grad });
    }

    /// Pixels times a matrix.
    fn pointwise(&self, x: &[f32], depth: usize, weights: &Packed, bias: Option<&[f32]>, y: &mut [f32]) {
        let columns = y.len() / (x.len() / depth);
        let bases: Vec<usize> = (0..POINTS).map(|i| i * depth).collect();
        let places: Vec<usize> = (0..POINTS).map(|i| i * columns).collect();
        let runs = [kernel::Run { offset: 0, len: depth }];
        y.par_chunks_mut(POINTS * columns).zip(x.par_chunks(POINTS * depth)).for_each(|(out, x)| {
            let count = x.len() / depth;
            let (bases, places) = (&bases[..count], &places[..count]);
            Arch::new().dispatch(Gather { x, bases, runs: &runs, weights, bias, places, out });
        });
    }
}

/// Runs `work` on each piece with a gradient of its own, and adds these to `grad` in order.
fn accumulate<T: Send>(
    pieces: impl IndexedParallelIterator<Item = T>,
    grad: &mut [f32],
    work: impl Fn(T, &mut [f32]) + Sync,
) {
    let len = grad.len();
    let parts: Vec<Vec<f32>> = pieces
        .with_max_len(1)
        .map(|piece| {
            let mut part = vec![0.0; len];
            work(piece, &mut part);
            part
        })
        .collect();
    for part in parts {
        grad.iter_mut().zip(&part).for_each(|(g, p)| *g += p);
    }
}

/// Adds the gradient by a bias.
pub fn bias_grad(dy: &Tensor, grad: &mut [f32]) {
    let [sums] = super::channels::sums(dy, dy, &Sum);
    grad.iter_mut().zip(&sums).for_each(|(g, s)| *g += *s as f32);
}

struct Sum;

impl super::channels::Reduce<1> for Sum {
    #[inline(always)]
    fn run(&self, d: &[f32], _: &[f32], [sum]: &mut [&mut [f32]; 1]) {
        sum.iter_mut().zip(d).for_each(|(s, d)| *s += d);
    }
}

/// The image with its border of zeros: itself without one, else in `scratch`.
fn pad<'s>(x: &'s [f32], [h, w, c]: [usize; 3], border: Border, scratch: &'s mut Vec<f32>) -> &'s [f32] {
    if border.is_none() {
        return x;
    }
    let width = (border.left + w + border.right) * c;
    let len = (border.top + h + border.bottom) * width;
    if scratch.len() != len {
        // The border stays zero from image to image.
        scratch.clear();
        scratch.resize(len, 0.0);
    }
    let rows = scratch[border.top * width..].chunks_exact_mut(width);
    for (row, x) in rows.zip(x.chunks_exact(w * c)) {
        row[border.left * c..][..w * c].copy_from_slice(x);
    }
    scratch
}
