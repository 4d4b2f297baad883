//! PolyAct-RN: a low-degree polynomial on a range that is normalised per channel.
//!
//! `y = s P(x / s)` with `s = m / B + eps`, where `m` is the largest |x| of the channel: over the batch in training (the
//! gradient flows through it), a running average of these in evaluation. `P` is the expansion of an activation in
//! probabilists' Hermite polynomials.

use rayon::prelude::*;

use super::channels::{Reduce, Stretch, SumStretch, map, pattern, pattern_len, sums, update_sums};
use super::straight;
use crate::tensor::Tensor;

/// Range that inputs are brought to.
pub const BOUND: f64 = 3.0;
/// Keeps scales positive.
pub const EPSILON: f64 = 1e-3;
/// Weight of a new batch in the running maximum.
pub const MOMENTUM: f32 = 0.1;

/// Scale of a channel whose largest |x| is `max`.
pub fn scale(max: f32) -> f64 {
    f64::from(max) / BOUND + EPSILON
}

/// Largest |x| of a channel, and where it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Largest |x|.
    pub max: f32,
    /// Index into the batch's numbers.
    pub at: usize,
}

/// What the gradient needs from the forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    /// Peaks of the batch; empty when the scales were constants.
    pub peaks: Vec<Peak>,
    /// Scales used.
    pub scales: Vec<f64>,
    /// Largest |x| up to which the polynomials held; empty when they held everywhere.
    pub bounds: Vec<f32>,
}

/// The larger of two magnitudes; a number that is no number must not hide.
#[inline(always)]
fn larger(m: f32, x: f32) -> f32 {
    if x > m || x.is_nan() { x } else { m }
}

/// Largest magnitudes by place in the pattern.
struct Largest<'a> {
    image: &'a [f32],
    largest: &'a mut [f32],
}

impl pulp::WithSimd for Largest<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        for row in self.image.chunks(self.largest.len()) {
            for (m, x) in self.largest.iter_mut().zip(row) {
                *m = larger(*m, x.abs());
            }
        }
    }
}

/// Largest |x| of each channel.
pub fn peaks(x: &Tensor) -> Vec<Peak> {
    let (c, size) = (x.shape.c, x.shape.image());
    let of_image = |image: &[f32]| -> Vec<f32> {
        let mut largest = vec![0.0f32; pattern_len(c)];
        pulp::Arch::new().dispatch(Largest { image, largest: &mut largest });
        let mut folded = vec![0.0f32; c];
        for row in largest.chunks_exact(c) {
            folded.iter_mut().zip(row).for_each(|(m, x)| *m = larger(*m, *x));
        }
        folded
    };
    let images: Vec<Vec<f32>> = x.images().map(of_image).collect();
    let of_channel = |channel: usize| {
        let mut best = 0;
        for (i, image) in images.iter().enumerate() {
            // NaN wins and stays.
            let larger = image[channel].is_nan() || image[channel] > images[best][channel];
            if larger && !images[best][channel].is_nan() {
                best = i;
            }
        }
        let max = images[best][channel];
        let pixels = x.data[best * size..][..size].iter().skip(channel).step_by(c);
        let pixel = pixels.into_iter().position(|v| v.abs() == max).unwrap_or(0);
        Peak { max, at: best * size + pixel * c + channel }
    };
    (0..c).map(of_channel).collect()
}

/// Coefficients per channel and power of `s P(x / s)`: `p_k / s^(k - 1)`. `powers` has a row for each channel.
pub fn fold(powers: &[f32], scales: &[f64]) -> Vec<Vec<f64>> {
    let row = |(p, s): (&[f32], &f64)| {
        p.iter().enumerate().map(|(k, p)| f64::from(*p) * s.powi(1 - k as i32)).collect()
    };
    powers.chunks_exact(powers.len() / scales.len()).zip(scales).map(row).collect()
}

/// One pattern per power.
pub(super) fn patterns(coefficients: &[Vec<f64>]) -> Vec<Vec<f32>> {
    let powers = coefficients.first().map_or(0, Vec::len);
    let column = |k: usize| coefficients.iter().map(|row| row[k] as f32).collect::<Vec<_>>();
    (0..powers).map(|k| pattern(&column(k))).collect()
}

/// Runs a function that is generic over the number of coefficients, 2 to 9; shorter polynomials get zeros.
macro_rules! by_length {
    ($patterns:expr, $function:ident ( $($argument:expr),* )) => {
        match $patterns.len() {
            0..=3 => $function::<3>($($argument),*),
            4..=5 => $function::<5>($($argument),*),
            _ => $function::<9>($($argument),*),
        }
    };
}
pub(super) use by_length;

/// `N` patterns, the missing ones zero.
pub(super) fn padded<const N: usize>(patterns: &[Vec<f32>]) -> [Vec<f32>; N] {
    let len = patterns.first().map_or(0, Vec::len);
    std::array::from_fn(|k| patterns.get(k).cloned().unwrap_or_else(|| vec![0.0; len]))
}

/// `y = sum_k c_k x^k` per channel.
pub fn evaluate(x: &Tensor, coefficients: &[Vec<f64>], y: &mut Tensor) {
    let patterns = patterns(coefficients);
    by_length!(patterns, evaluate_of(x, &patterns, y));
}

fn evaluate_of<const N: usize>(x: &Tensor, patterns: &[Vec<f32>], y: &mut Tensor) {
    map(x, y, &Horner(padded::<N>(patterns)));
}

/// A polynomial per channel.
struct Horner<const N: usize>([Vec<f32>; N]);

impl<const N: usize> Stretch for Horner<N> {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        let c = self.0.each_ref().map(|p| &p[..x.len()]);
        let y = &mut y[..x.len()];
        for i in 0..x.len() {
            let mut sum = c[N - 1][i];
            for k in (0..N - 1).rev() {
                sum = sum * x[i] + c[k][i];
            }
            y[i] = sum;
        }
    }
}

impl<const N: usize> SumStretch<1> for Horner<N> {
    /// `d` times the slope; sums `d (y - x y')`.
    #[inline(always)]
    fn run(&self, x: &[f32], d: &mut [f32], [sums]: &mut [&mut [f32]; 1]) {
        let c = self.0.each_ref().map(|p| &p[..x.len()]);
        let (d, sums) = (&mut d[..x.len()], &mut sums[..x.len()]);
        for i in 0..x.len() {
            let (mut value, mut slope) = (c[N - 1][i], 0.0);
            for k in (0..N - 1).rev() {
                slope = slope * x[i] + value;
                value = value * x[i] + c[k][i];
            }
            sums[i] += d[i] * (value - x[i] * slope);
            d[i] *= slope;
        }
    }
}

/// Turns `grad = dy` into `dx`, the polynomial's coefficients being constants. Returns per channel the sum of
/// `dy (y - x y')`, which is the gradient by the scale times the scale.
pub fn evaluate_backward(x: &Tensor, coefficients: &[Vec<f64>], grad: &mut Tensor) -> Vec<f64> {
    let patterns = patterns(coefficients);
    by_length!(patterns, backward_of(x, &patterns, grad))
}

fn backward_of<const N: usize>(x: &Tensor, patterns: &[Vec<f32>], grad: &mut Tensor) -> Vec<f64> {
    let [sums] = update_sums(x, grad, &Horner(padded::<N>(patterns)));
    sums
}

/// PolyAct-RN in training: scales from the batch.
pub fn forward(x: &Tensor, powers: &[f32], y: &mut Tensor) -> Saved {
    let peaks = peaks(x);
    let scales: Vec<f64> = peaks.iter().map(|p| scale(p.max)).collect();
    evaluate(x, &fold(powers, &scales), y);
    Saved { peaks, scales, bounds: Vec::new() }
}

/// Turns `grad = dy` into `dx`; with peaks, the gradient by the scales goes to them.
pub fn backward(x: &Tensor, powers: &[f32], saved: &Saved, grad: &mut Tensor) {
    let coefficients = fold(powers, &saved.scales);
    if !saved.bounds.is_empty() {
        return straight::backward(x, &coefficients, &saved.bounds, grad);
    }
    let sums = evaluate_backward(x, &coefficients, grad);
    for (c, peak) in saved.peaks.iter().enumerate() {
        let by_scale = sums[c] / saved.scales[c];
        grad.data[peak.at] += (by_scale / BOUND) as f32 * x.data[peak.at].signum();
    }
}

/// Adds the gradient by the polynomials' coefficients: the sum of `dy s (x / s)^k`, a row for each channel.
pub fn powers_grad(x: &Tensor, saved: &Saved, dy: &Tensor, grad: &mut [f32]) {
    let inverse: Vec<f32> = saved.scales.iter().map(|s| (1.0 / s) as f32).collect();
    let bounds = match saved.bounds.is_empty() {
        true => vec![f32::INFINITY; inverse.len()],
        false => saved.bounds.iter().zip(&inverse).map(|(b, r)| b * r).collect(),
    };
    let sums = sums(x, dy, &Powers { inverse: pattern(&inverse), bounds: pattern(&bounds) });
    let row = grad.len() / saved.scales.len();
    for (c, (grad, s)) in grad.chunks_exact_mut(row).zip(&saved.scales).enumerate() {
        grad.iter_mut().zip(&sums).for_each(|(g, sums)| *g += (sums[c] * s) as f32);
    }
}

/// Sums of the gradient times powers of the normalised operand, or their tangents outside of the bounds.
struct Powers {
    inverse: Vec<f32>,
    bounds: Vec<f32>,
}

impl Reduce<9> for Powers {
    #[inline(always)]
    fn run(&self, x: &[f32], d: &[f32], sums: &mut [&mut [f32]; 9]) {
        for (i, (((x, d), r), bound)) in x.iter().zip(d).zip(&self.inverse).zip(&self.bounds).enumerate() {
            let u = (x * r).max(-bound).min(*bound);
            let outside = x * r - u;
            let (mut power, mut slope) = (*d, 0.0);
            for sum in sums.iter_mut() {
                sum[i] += power + slope * outside;
                slope = slope * u + power;
                power *= u;
            }
        }
    }
}

/// Moves the running maxima towards those of a batch.
pub fn track(running: &mut [f32], peaks: &[Peak]) {
    running.iter_mut().zip(peaks).for_each(|(m, batch)| *m += MOMENTUM * (batch.max - *m));
}
