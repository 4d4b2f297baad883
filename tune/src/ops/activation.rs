//! The activations of the original network.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::channels::{Stretch, map, pattern};
use crate::tensor::Tensor;

/// An activation; parameters per channel are given apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// x or alpha x
    LeakyRelu {
        /// Slope for x < 0.
        alpha: f32,
    },
    /// x or slope_c x
    PRelu,
    /// min(max(x, low), high)
    Clip {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// x sigmoid(x)
    Silu,
    /// min(max(alpha x + beta, 0), 1)
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// x min(max(x / 6 + 1 / 2, 0), 1)
    HardSwish,
    /// x Phi(x)
    Gelu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    GeluTanh,
    /// ln(1 + e^x)
    Softplus,
    /// x tanh(Softplus(x))
    Mish,
    /// x or alpha (e^x - 1)
    Elu {
        /// Factor for x < 0.
        alpha: f32,
    },
    /// tanh(x)
    Tanh,
}

impl Activation {
    /// Value at `x`; `slope` is PRelu's.
    pub fn value(self, x: f64, slope: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::LeakyRelu { alpha } => x.max(0.0) + f64::from(alpha) * x.min(0.0),
            Self::PRelu => x.max(0.0) + slope * x.min(0.0),
            Self::Clip { low, high } => x.max(f64::from(low)).min(f64::from(high)),
            Self::Sigmoid => sigmoid(x),
            Self::Silu => x * sigmoid(x),
            Self::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Gelu => x * phi(x),
            Self::GeluTanh => 0.5 * x * (1.0 + gelu_argument(x).tanh()),
            Self::Softplus => softplus(x),
            Self::Mish => x * softplus(x).tanh(),
            Self::Elu { alpha } => x.max(0.0) + f64::from(alpha) * x.min(0.0).exp_m1(),
            Self::Tanh => x.tanh(),
        }
    }

    /// Slope at `x`; at a corner that of the right side.
    pub fn slope(self, x: f64, slope: f64) -> f64 {
        let step = |inside: bool, value: f64| if inside { value } else { 0.0 };
        match self {
            Self::Relu => step(x > 0.0, 1.0),
            Self::LeakyRelu { alpha } => {
                if x > 0.0 {
                    1.0
                } else {
                    f64::from(alpha)
                }
            }
            Self::PRelu => {
                if x > 0.0 {
                    1.0
                } else {
                    slope
                }
            }
            Self::Clip { low, high } => step(x > f64::from(low) && x < f64::from(high), 1.0),
            Self::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
            Self::Silu => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
            Self::HardSigmoid { alpha, beta } => {
                let line = f64::from(alpha) * x + f64::from(beta);
                step(line > 0.0 && line < 1.0, f64::from(alpha))
            }
            Self::HardSwish if x <= -3.0 => 0.0,
            Self::HardSwish if x >= 3.0 => 1.0,
            Self::HardSwish => x / 3.0 + 0.5,
            Self::Gelu => phi(x) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
            Self::GeluTanh => {
                let t = gelu_argument(x).tanh();
                let inner = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
            }
            Self::Softplus => sigmoid(x),
            Self::Mish => {
                let t = softplus(x).tanh();
                t + x * (1.0 - t * t) * sigmoid(x)
            }
            Self::Elu { alpha } => {
                if x > 0.0 {
                    1.0
                } else {
                    f64::from(alpha) * x.exp()
                }
            }
            Self::Tanh => 1.0 - x.tanh().powi(2),
        }
    }

    /// `y = f(x)`; `slopes` are PRelu's, one per channel.
    pub fn forward(self, x: &Tensor, slopes: &[f32], y: &mut Tensor) {
        match self {
            Self::Relu => map(x, y, &Clamp { low: 0.0, high: f32::INFINITY }),
            Self::Clip { low, high } => map(x, y, &Clamp { low, high }),
            Self::LeakyRelu { alpha } => map(x, y, &Leaky { alpha }),
            _ => map(x, y, &Values { function: self, slopes: self.slopes(x.shape.c, slopes) }),
        }
    }

    /// Turns `grad = dy` into `dx`.
    pub fn backward(self, x: &Tensor, slopes: &[f32], grad: &mut Tensor) {
        match self {
            Self::Relu => map(x, grad, &Inside { low: 0.0, high: f32::INFINITY }),
            Self::Clip { low, high } => map(x, grad, &Inside { low, high }),
            _ => map(x, grad, &Slopes { function: self, slopes: self.slopes(x.shape.c, slopes) }),
        }
    }

    fn slopes(self, channels: usize, slopes: &[f32]) -> Vec<f32> {
        match self {
            Self::PRelu if slopes.len() == 1 => pattern(&vec![slopes[0]; channels]),
            Self::PRelu => pattern(slopes),
            _ => pattern(&vec![0.0; channels]),
        }
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
struct Values {
    function: Activation,
    slopes: Vec<f32>,
}

impl Stretch for Values {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        for ((y, x), s) in y.iter_mut().zip(x).zip(&self.slopes) {
            *y = self.function.value(f64::from(*x), f64::from(*s)) as f32;
        }
    }
}

/// Slopes of any activation, number by number.
struct Slopes {
    function: Activation,
    slopes: Vec<f32>,
}

impl Stretch for Slopes {
    #[inline(always)]
    fn run(&self, x: &[f32], d: &mut [f32]) {
        for ((d, x), s) in d.iter_mut().zip(x).zip(&self.slopes) {
            *d *= self.function.slope(f64::from(*x), f64::from(*s)) as f32;
        }
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn gelu_argument(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Distribution function of the standard normal.
fn phi(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * FRAC_1_SQRT_2))
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
        let relu = |x| Activation::Relu.value(x, 0.0);
        let silu = |x| Activation::Silu.value(x, 0.0);
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

    #[test]
    fn slopes_are_those_of_the_values() {
        let all = [
            Activation::Relu,
            Activation::LeakyRelu { alpha: 0.1 },
            Activation::PRelu,
            Activation::Clip { low: -0.5, high: 6.0 },
            Activation::Sigmoid,
            Activation::Silu,
            Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
            Activation::HardSwish,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Softplus,
            Activation::Mish,
            Activation::Elu { alpha: 0.7 },
            Activation::Tanh,
        ];
        for f in all {
            for x in [-7.3, -2.9, -0.7, -0.2, 0.3, 1.1, 2.2, 4.1, 8.0] {
                let h = 1e-5;
                let numeric = (f.value(x + h, 0.3) - f.value(x - h, 0.3)) / (2.0 * h);
                assert!((numeric - f.slope(x, 0.3)).abs() < 1e-6, "{f:?} at {x}");
            }
        }
    }
}
