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
pub(super) fn activation(op: &Activation, consts: &ConstPool) -> Box<dyn Fn(usize, f64) -> f64 + Sync> {
    let slopes = match op {
        Activation::PRelu { slope } => consts[*slope].to_f64(),
        _ => Vec::new(),
    };
    let op = op.clone();
    Box::new(move |c, x| {
        let slope = if slopes.len() == 1 { slopes[0] } else { slopes.get(c).copied().unwrap_or(0.0) };
        activation_at(&op, slope, x)
    })
}

/// Value of an activation at `x`; `slope` is the channel's slope of a PRelu and unused otherwise.
pub fn activation_at(op: &Activation, slope: f64, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match op {
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu { alpha } => leaky(f64::from(*alpha), x),
        Activation::PRelu { .. } => leaky(slope, x),
        Activation::Clip { low, high } => x.max(f64::from(*low)).min(f64::from(*high)),
        Activation::Sigmoid => sigmoid(x),
        Activation::Silu => x * sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => hard_sigmoid(f64::from(*alpha), f64::from(*beta), x),
        Activation::HardSwish => x * hard_sigmoid(1.0 / 6.0, 0.5, x),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Softplus => softplus(x),
        Activation::Mish => x * softplus(x).tanh(),
        Activation::Elu { alpha } => {
            if x < 0.0 {
                f64::from(*alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Activation::Tanh => x.tanh(),
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn leaky(slope: f64, x: f64) -> f64 {
    if x < 0.0 { slope * x } else { x }
}

fn hard_sigmoid(alpha: f64, beta: f64, x: f64) -> f64 {
    (alpha * x + beta).clamp(0.0, 1.0)
}

/// Error function, absolute error below 1.5e-7 (Abramowitz and Stegun, 7.1.26).
fn erf(x: f64) -> f64 {
    const A: [f64; 5] = [0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429];
    let t = 1.0 / (1.0 + 0.3275911 * x.abs());
    let tail = A.iter().rev().fold(0.0, |acc, a| (acc + a) * t);
    (1.0 - tail * (-x * x).exp()).copysign(x)
}
