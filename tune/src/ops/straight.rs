//! Polynomials that go on as straight lines outside of their ranges, for training.
//!
//! Outside of its range a polynomial grows like its highest power, and so do the polynomials behind it: a single operand that
//! gets out would end a run. The tangent keeps values and gradients small until the range penalty has brought it back; inside
//! of the range nothing changes, and inference has the polynomials alone.

use super::channels::{Stretch, map, pattern};
use super::poly_act::{by_length, padded, patterns};
use crate::tensor::Tensor;

/// A polynomial per channel, and the largest |x| up to which it holds.
struct Straight<const N: usize> {
    coefficients: [Vec<f32>; N],
    bounds: Vec<f32>,
}

impl<const N: usize> Straight<N> {
    fn new(patterns: &[Vec<f32>], bounds: &[f32]) -> Self {
        Self { coefficients: padded::<N>(patterns), bounds: pattern(bounds) }
    }

    /// Value, slope, and what of `x` lies outside, for place `i` of the pattern.
    #[inline(always)]
    fn at(&self, i: usize, x: f32) -> [f32; 3] {
        let bound = self.bounds[i];
        let inside = x.max(-bound).min(bound);
        let (mut value, mut slope) = (self.coefficients[N - 1][i], 0.0);
        for k in (0..N - 1).rev() {
            slope = slope * inside + value;
            value = value * inside + self.coefficients[k][i];
        }
        [value, slope, x - inside]
    }
}

/// The values.
struct Values<const N: usize>(Straight<N>);

impl<const N: usize> Stretch for Values<N> {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let [value, slope, outside] = self.0.at(i, *x);
            *y = value + slope * outside;
        }
    }
}

/// Gradients times slopes.
struct Slopes<const N: usize>(Straight<N>);

impl<const N: usize> Stretch for Slopes<N> {
    #[inline(always)]
    fn run(&self, x: &[f32], grad: &mut [f32]) {
        for (i, (grad, x)) in grad.iter_mut().zip(x).enumerate() {
            *grad *= self.0.at(i, *x)[1];
        }
    }
}

/// `y = sum_k c_k x^k` per channel for |x| up to the channel's bound, and its tangent outside.
pub fn evaluate(x: &Tensor, coefficients: &[Vec<f64>], bounds: &[f32], y: &mut Tensor) {
    let patterns = patterns(coefficients);
    by_length!(patterns, values_of(x, &patterns, bounds, y));
}

fn values_of<const N: usize>(x: &Tensor, patterns: &[Vec<f32>], bounds: &[f32], y: &mut Tensor) {
    map(x, y, &Values(Straight::<N>::new(patterns, bounds)));
}

/// Turns `grad = dy` into `dx`, coefficients and bounds being constants.
pub fn backward(x: &Tensor, coefficients: &[Vec<f64>], bounds: &[f32], grad: &mut Tensor) {
    let patterns = patterns(coefficients);
    by_length!(patterns, slopes_of(x, &patterns, bounds, grad));
}

fn slopes_of<const N: usize>(x: &Tensor, patterns: &[Vec<f32>], bounds: &[f32], grad: &mut Tensor) {
    map(x, grad, &Slopes(Straight::<N>::new(patterns, bounds)));
}
