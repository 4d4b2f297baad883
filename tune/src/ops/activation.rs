//! The activations of the original network, and their expansions.

use std::f64::consts::PI;

use peregrine_ir::tensor::Activation;

use super::channels::{Stretch, map, pattern};
use crate::tensor::Tensor;

/// `y = f(x)`; `slopes` are PRelu's, one per channel or one for all.
pub fn forward<S: Sync>(function: &Activation<S>, x: &Tensor, slopes: &[f32], y: &mut Tensor) {
    match function {
        Activation::Relu => map(x, y, &Clamp { low: 0.0, high: f32::INFINITY }),
        Activation::Clip { low, high } => map(x, y, &Clamp { low: *low, high: *high }),
        Activation::LeakyRelu { alpha } => map(x, y, &Leaky { alpha: *alpha }),
        Activation::PRelu { .. }
        | Activation::Sigmoid
        | Activation::Silu
        | Activation::HardSigmoid { .. }
        | Activation::HardSwish
        | Activation::Gelu
        | Activation::GeluTanh
        | Activation::Softplus
        | Activation::Mish
        | Activation::Elu { .. }
        | Activation::Tanh => map(x, y, &Values { function, slopes: per_channel(x.shape.c, slopes) }),
    }
}

/// Turns `grad = dy` into `dx`.
pub fn backward<S: Sync>(function: &Activation<S>, x: &Tensor, slopes: &[f32], grad: &mut Tensor) {
    match function {
        Activation::Relu => map(x, grad, &Inside { low: 0.0, high: f32::INFINITY }),
        Activation::Clip { low, high } => map(x, grad, &Inside { low: *low, high: *high }),
        Activation::LeakyRelu { .. }
        | Activation::PRelu { .. }
        | Activation::Sigmoid
        | Activation::Silu
        | Activation::HardSigmoid { .. }
        | Activation::HardSwish
        | Activation::Gelu
        | Activation::GeluTanh
        | Activation::Softplus
        | Activation::Mish
        | Activation::Elu { .. }
        | Activation::Tanh => map(x, grad, &Slopes { function, slopes: per_channel(x.shape.c, slopes) }),
    }
}

fn per_channel(channels: usize, slopes: &[f32]) -> Vec<f32> {
    match slopes {
        [] => pattern(&vec![0.0; channels]),
        [slope] => pattern(&vec![*slope; channels]),
        slopes => pattern(slopes),
    }
}

struct Clamp {
    low: f32,
    high: f32,
}

impl Stretch for Clamp {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x.max(self.low).min(self.high));
    }
}

/// The gradient where the operand is between the bounds.
struct Inside {
    low: f32,
    high: f32,
}

impl Stretch for Inside {
    #[inline(always)]
    fn run(&self, x: &[f32], d: &mut [f32]) {
        for (d, x) in d.iter_mut().zip(x) {
            *d = if *x > self.low && *x < self.high { *d } else { 0.0 };
        }
    }
}

struct Leaky {
    alpha: f32,
}

impl Stretch for Leaky {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > 0.0 { *x } else { self.alpha * x });
    }
}

/// Any activation, number by number.
struct Values<'f, S> {
    function: &'f Activation<S>,
    slopes: Vec<f32>,
}

impl<S: Sync> Stretch for Values<'_, S> {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        for ((y, x), s) in y.iter_mut().zip(x).zip(&self.slopes) {
            *y = self.function.value(f64::from(*x), f64::from(*s)) as f32;
        }
    }
}

/// Slopes of any activation, number by number.
struct Slopes<'f, S> {
    function: &'f Activation<S>,
    slopes: Vec<f32>,
}

impl<S: Sync> Stretch for Slopes<'_, S> {
    #[inline(always)]
    fn run(&self, x: &[f32], d: &mut [f32]) {
        for ((d, x), s) in d.iter_mut().zip(x).zip(&self.slopes) {
            *d *= self.function.derivative(f64::from(*x), f64::from(*s)) as f32;
        }
    }
}

/// Coefficients of the powers 0 to `degree` of the expansion of `f` in probabilists' Hermite polynomials, up to `degree`.
///
/// `a_n = E[f(Z) He_n(Z)] / n!` for a standard normal Z, by quadrature on [-20, 20].
pub fn hermite(f: impl Fn(f64) -> f64, degree: usize) -> Vec<f64> {
    const STEPS: usize = 80_000;
    const REACH: f64 = 20.0;
    let width = 2.0 * REACH / STEPS as f64;
    let mut moments = vec![0.0; degree + 1];
    for i in 0..STEPS {
        // Midpoints: a corner at 0 falls between two of them.
        let x = -REACH + (i as f64 + 0.5) * width;
        let weight = (-0.5 * x * x).exp() / (2.0 * PI).sqrt() * width * f(x);
        let (mut previous, mut current) = (0.0, 1.0);
        for (n, moment) in moments.iter_mut().enumerate() {
            *moment += weight * current;
            (previous, current) = (current, x * current - n as f64 * previous);
        }
    }
    let mut factorial = 1.0;
    let mut powers = vec![0.0; degree + 1];
    let (mut previous, mut current) = (vec![0.0; degree + 2], vec![0.0; degree + 2]);
    current[0] = 1.0;
    for (n, moment) in moments.iter().enumerate() {
        factorial *= (n.max(1)) as f64;
        powers.iter_mut().zip(&current).for_each(|(p, h)| *p += moment / factorial * h);
        // He_(n+1) = x He_n - n He_(n-1)
        let mut next: Vec<f64> = previous.iter().map(|h| -(n as f64) * h).collect();
        for k in (1..next.len()).rev() {
            next[k] += current[k - 1];
        }
        (previous, current) = (current, next);
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64], tolerance: f64) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < tolerance), "{a:?} {b:?}");
    }

    #[test]
    fn expansions_are_those_of_the_literature() {
        let relu = |x| <Activation>::Relu.value(x, 0.0);
        let silu = |x| <Activation>::Silu.value(x, 0.0);
        close(&hermite(relu, 2), &[0.199471, 0.5, 0.199471], 1e-6);
        close(&hermite(relu, 4), &[0.149603, 0.5, 0.299207, 0.0, -0.016623], 1e-6);
        close(&hermite(silu, 2), &[0.031198, 0.5, 0.175423], 1e-6);
        close(&hermite(silu, 4), &[0.008047, 0.5, 0.221724, 0.0, -0.007717], 1e-6);
    }

    #[test]
    fn polynomials_are_their_own_expansion() {
        let cube = |x: f64| 2.0 - x + 0.5 * x * x * x;
        close(&hermite(cube, 4), &[2.0, -1.0, 0.0, 0.5, 0.0], 1e-9);
    }
}
