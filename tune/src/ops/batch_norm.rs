//! Batch normalisation: with the statistics of the batch in training, with running ones in evaluation.

use super::channels::{Reduce, Stretch, SumStretch, map, pattern, sums, update_sums};
use crate::tensor::Tensor;

/// Running statistics and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// Mean per channel.
    pub mean: Vec<f32>,
    /// Unbiased variance per channel.
    pub variance: Vec<f32>,
    /// Added to variances.
    pub epsilon: f32,
    /// Weight of a new batch.
    pub momentum: f32,
}

/// Statistics of one batch, kept for the gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    mean: Vec<f64>,
    inverse: Vec<f64>,
}

/// Factor and offset per channel in evaluation.
pub fn affine(running: &Running, gamma: &[f32], beta: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let mul: Vec<f64> = gamma
        .iter()
        .zip(&running.variance)
        .map(|(g, v)| f64::from(*g) / (f64::from(*v) + f64::from(running.epsilon)).sqrt())
        .collect();
    let add = (0..mul.len()).map(|c| f64::from(beta[c]) - f64::from(running.mean[c]) * mul[c]).collect();
    (mul, add)
}

/// `y = mul x + add` per channel.
pub fn apply(x: &Tensor, mul: &[f32], add: &[f32], y: &mut Tensor) {
    map(x, y, &Apply { mul: pattern(mul), add: pattern(add) });
}

struct Apply {
    mul: Vec<f32>,
    add: Vec<f32>,
}

impl Stretch for Apply {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        for (((y, x), m), a) in y.iter_mut().zip(x).zip(&self.mul).zip(&self.add) {
            *y = x * m + a;
        }
    }
}

/// Sums of distances from a pivot and of their squares.
struct Moments {
    pivot: Vec<f32>,
}

impl Reduce<2> for Moments {
    #[inline(always)]
    fn run(&self, x: &[f32], _: &[f32], [sum, square]: &mut [&mut [f32]; 2]) {
        for (((x, p), s), q) in x.iter().zip(&self.pivot).zip(sum.iter_mut()).zip(square.iter_mut()) {
            let d = x - p;
            *s += d;
            *q += d * d;
        }
    }
}

/// Mean and variance (biased) per channel.
pub fn statistics(x: &Tensor) -> (Vec<f64>, Vec<f64>) {
    let count = x.shape.pixels() as f64;
    // Squares about the first pixel: no cancellation when means are large.
    let pivot = pattern(&x.data[..x.shape.c]);
    let moments = Moments { pivot };
    let [sum, square] = sums(x, x, &moments);
    let pivot = moments.pivot;
    let centred: Vec<f64> = sum.iter().map(|s| s / count).collect();
    let variance = square.iter().zip(&centred).map(|(q, m)| (q / count - m * m).max(0.0)).collect();
    let mean = centred.iter().zip(&pivot).map(|(m, p)| m + f64::from(*p)).collect();
    (mean, variance)
}

/// Normalises by the batch, and moves the running statistics.
pub fn forward(x: &Tensor, gamma: &[f32], beta: &[f32], running: &mut Running, y: &mut Tensor) -> Saved {
    let (mean, variance) = statistics(x);
    let count = x.shape.pixels() as f64;
    let unbiased = count / (count - 1.0).max(1.0);
    let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (v + f64::from(running.epsilon)).sqrt()).collect();
    let moved = |old: f32, new: f64| old + running.momentum * (new as f32 - old);
    running.mean = running.mean.iter().zip(&mean).map(|(o, n)| moved(*o, *n)).collect();
    running.variance = running.variance.iter().zip(&variance).map(|(o, n)| moved(*o, n * unbiased)).collect();
    let mul: Vec<f32> = gamma.iter().zip(&inverse).map(|(g, i)| (f64::from(*g) * i) as f32).collect();
    let add: Vec<f32> =
        (0..mul.len()).map(|c| (f64::from(beta[c]) - mean[c] * f64::from(mul[c])) as f32).collect();
    apply(x, &mul, &add, y);
    Saved { mean, inverse }
}

/// Turns `grad = dy` into `dx`, and adds the gradients of gamma and beta.
pub fn backward(
    x: &Tensor,
    saved: &Saved,
    gamma: &[f32],
    grad: &mut Tensor,
    [gamma_grad, beta_grad]: [&mut [f32]; 2],
) {
    let count = x.shape.pixels() as f64;
    let centre: Vec<f32> = saved.mean.iter().map(|m| *m as f32).collect();
    let [dbeta, dot] = sums(x, grad, &Correlation { centre: pattern(&centre) });
    // dx = p dy + q x + r with constants per channel.
    let channels = gamma.len();
    let (mut p, mut q, mut r) = (vec![0.0f32; channels], vec![0.0f32; channels], vec![0.0f32; channels]);
    for c in 0..channels {
        let (mean, inverse) = (saved.mean[c], saved.inverse[c]);
        let dgamma = dot[c] * inverse;
        gamma_grad[c] += dgamma as f32;
        beta_grad[c] += dbeta[c] as f32;
        let factor = f64::from(gamma[c]) * inverse;
        let slope = -factor * dgamma * inverse / count;
        (p[c], q[c]) = (factor as f32, slope as f32);
        r[c] = (-factor * dbeta[c] / count - slope * mean) as f32;
    }
    map(x, grad, &Combine { p: pattern(&p), q: pattern(&q), r: pattern(&r) });
}

/// Sums of the gradient, and of its products with the centred operand.
struct Correlation {
    centre: Vec<f32>,
}

impl Reduce<2> for Correlation {
    #[inline(always)]
    fn run(&self, x: &[f32], d: &[f32], [sum, dot]: &mut [&mut [f32]; 2]) {
        let rows = x.iter().zip(d).zip(&self.centre);
        for (((x, d), c), (s, p)) in rows.zip(sum.iter_mut().zip(dot.iter_mut())) {
            *s += d;
            *p += (x - c) * d;
        }
    }
}

struct Combine {
    p: Vec<f32>,
    q: Vec<f32>,
    r: Vec<f32>,
}

impl Stretch for Combine {
    #[inline(always)]
    fn run(&self, x: &[f32], d: &mut [f32]) {
        for ((((d, x), p), q), r) in d.iter_mut().zip(x).zip(&self.p).zip(&self.q).zip(&self.r) {
            *d = p * *d + (q * x + r);
        }
    }
}

/// Turns `grad = dy` of `y = mul x + add` into `dx`, and adds the gradients of both.
pub fn apply_backward(x: &Tensor, mul: &[f32], grad: &mut Tensor, [mul_grad, add_grad]: [&mut [f32]; 2]) {
    let [dmul, dadd] = update_sums(x, grad, &Scale { mul: pattern(mul) });
    mul_grad.iter_mut().zip(&dmul).for_each(|(g, s)| *g += *s as f32);
    add_grad.iter_mut().zip(&dadd).for_each(|(g, s)| *g += *s as f32);
}

/// Turns the gradient of an affine map into its operand's.
struct Scale {
    mul: Vec<f32>,
}

impl SumStretch<2> for Scale {
    #[inline(always)]
    fn run(&self, x: &[f32], d: &mut [f32], [dmul, dadd]: &mut [&mut [f32]; 2]) {
        let rows = d.iter_mut().zip(x).zip(&self.mul);
        for (((d, x), m), (p, s)) in rows.zip(dmul.iter_mut().zip(dadd.iter_mut())) {
            *p += x * *d;
            *s += *d;
            *d *= m;
        }
    }
}
