//! Element-wise operations.

use peregrine_ir::tensor::Activation;
use peregrine_ir::{ConstPool, ConstTensor};
use rayon::prelude::*;

use super::channels_of;

/// Applies `f(channel, x)` to every element.
pub(super) fn per_channel(x: &[f32], shape: &[usize], f: impl Fn(usize, f32) -> f32 + Sync) -> Vec<f32> {
    let (channels, map) = channels_of(shape);
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(map).zip(x.par_chunks(map)).enumerate().for_each(|(i, (out, x))| {
        let c = i % channels;
        out.iter_mut().zip(x).for_each(|(o, &v)| *o = f(c, v));
    });
    out
}

/// Applies `f` to pairs of elements.
pub(super) fn zip(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// Per-channel polynomial; coefficients `[C or 1, degree + 1]`.
pub(super) fn polynomial(coefficients: &ConstTensor, x: &[f32], shape: &[usize]) -> Vec<f32> {
    let rows = coefficients.shape[0];
    let width = coefficients.len() / rows.max(1);
    let table = coefficients.to_f64();
    per_channel(x, shape, |c, v| {
        let row = if rows == 1 { 0 } else { c };
        let x = f64::from(v);
        table[row * width..(row + 1) * width].iter().rev().fold(0.0, |acc, k| acc * x + k) as f32
    })
}

/// The function of an activation: `(channel, x)` to `y`.
pub(crate) fn activation(op: &Activation, consts: &ConstPool) -> Box<dyn Fn(usize, f64) -> f64 + Sync> {
    let slopes = op.slopes().map_or_else(Vec::new, |&slope| consts[slope].to_f64());
    let op = *op;
    Box::new(move |c, x| {
        let slope = if slopes.len() == 1 { slopes[0] } else { slopes.get(c).copied().unwrap_or(0.0) };
        op.value(x, slope)
    })
}
