//! Non-linearities known by name: their values and slopes.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::consts::ConstId;

/// Non-linearities known by name. `S` names the slopes of a PRelu.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation<S = ConstId> {
    /// max(x, 0)
    Relu,
    /// x or alpha x
    LeakyRelu {
        /// Slope for x < 0.
        alpha: f32,
    },
    /// x or slope_c x, slopes `[C]` or `[1]`
    PRelu {
        /// Slopes for x < 0.
        slope: S,
    },
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
    /// x HardSigmoid(x; 1/6, 1/2)
    HardSwish,
    /// x Phi(x), exact form
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

impl<S> Activation<S> {
    /// Its name in the text form.
    pub const fn mnemonic(&self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::PRelu { .. } => "prelu",
            Self::Clip { .. } => "clip",
            Self::Sigmoid => "sigmoid",
            Self::Silu => "silu",
            Self::HardSigmoid { .. } => "hard_sigmoid",
            Self::HardSwish => "hard_swish",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Softplus => "softplus",
            Self::Mish => "mish",
            Self::Elu { .. } => "elu",
            Self::Tanh => "tanh",
        }
    }

    /// What names a PRelu's slopes.
    pub const fn slopes(&self) -> Option<&S> {
        match self {
            Self::PRelu { slope } => Some(slope),
            Self::Relu
            | Self::LeakyRelu { .. }
            | Self::Clip { .. }
            | Self::Sigmoid
            | Self::Silu
            | Self::HardSigmoid { .. }
            | Self::HardSwish
            | Self::Gelu
            | Self::GeluTanh
            | Self::Softplus
            | Self::Mish
            | Self::Elu { .. }
            | Self::Tanh => None,
        }
    }

    /// The same with slopes of another name.
    ///
    /// # Errors
    /// Those of `rename`, which is called for a PRelu only.
    pub fn with_slopes<T, E>(&self, rename: impl FnOnce(&S) -> Result<T, E>) -> Result<Activation<T>, E> {
        Ok(match self {
            Self::Relu => Activation::Relu,
            Self::LeakyRelu { alpha } => Activation::LeakyRelu { alpha: *alpha },
            Self::PRelu { slope } => Activation::PRelu { slope: rename(slope)? },
            Self::Clip { low, high } => Activation::Clip { low: *low, high: *high },
            Self::Sigmoid => Activation::Sigmoid,
            Self::Silu => Activation::Silu,
            Self::HardSigmoid { alpha, beta } => Activation::HardSigmoid { alpha: *alpha, beta: *beta },
            Self::HardSwish => Activation::HardSwish,
            Self::Gelu => Activation::Gelu,
            Self::GeluTanh => Activation::GeluTanh,
            Self::Softplus => Activation::Softplus,
            Self::Mish => Activation::Mish,
            Self::Elu { alpha } => Activation::Elu { alpha: *alpha },
            Self::Tanh => Activation::Tanh,
        })
    }

    /// Value at `x`; `slope` is the channel's slope of a PRelu and unused otherwise.
    pub fn value(&self, x: f64, slope: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::LeakyRelu { alpha } => leaky(f64::from(*alpha), x),
            Self::PRelu { .. } => leaky(slope, x),
            Self::Clip { low, high } => x.max(f64::from(*low)).min(f64::from(*high)),
            Self::Sigmoid => sigmoid(x),
            Self::Silu => x * sigmoid(x),
            Self::HardSigmoid { alpha, beta } => line(*alpha, *beta, x).clamp(0.0, 1.0),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Gelu => x * phi(x),
            Self::GeluTanh => 0.5 * x * (1.0 + gelu_argument(x).tanh()),
            Self::Softplus => softplus(x),
            Self::Mish => x * softplus(x).tanh(),
            Self::Elu { alpha } if x < 0.0 => f64::from(*alpha) * x.exp_m1(),
            Self::Elu { .. } => x,
            Self::Tanh => x.tanh(),
        }
    }

    /// Slope of the function at `x`; at a corner that of the left side. `slope` as for [`Activation::value`].
    pub fn derivative(&self, x: f64, slope: f64) -> f64 {
        let step = |inside: bool, value: f64| if inside { value } else { 0.0 };
        match self {
            Self::Relu => step(x > 0.0, 1.0),
            Self::LeakyRelu { alpha } => corner(f64::from(*alpha), x),
            Self::PRelu { .. } => corner(slope, x),
            Self::Clip { low, high } => step(x > f64::from(*low) && x < f64::from(*high), 1.0),
            Self::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
            Self::Silu => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
            Self::HardSigmoid { alpha, beta } => {
                let line = line(*alpha, *beta, x);
                step(line > 0.0 && line < 1.0, f64::from(*alpha))
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
            Self::Elu { alpha } => corner(f64::from(*alpha) * x.min(0.0).exp(), x),
            Self::Tanh => 1.0 - x.tanh().powi(2),
        }
    }
}

fn leaky(slope: f64, x: f64) -> f64 {
    if x < 0.0 { slope * x } else { x }
}

/// The slope of what is x on the right.
fn corner(left: f64, x: f64) -> f64 {
    if x > 0.0 { 1.0 } else { left }
}

fn line(alpha: f32, beta: f32, x: f64) -> f64 {
    f64::from(alpha) * x + f64::from(beta)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_known_ones() {
        let close = |f: Activation, x: f64, expected: f64| {
            let value = f.value(x, 0.25);
            assert!((value - expected).abs() < 1e-12, "{f:?} at {x}: {value}");
        };
        close(Activation::Relu, -2.0, 0.0);
        close(Activation::LeakyRelu { alpha: 0.5 }, -2.0, -1.0);
        close(Activation::PRelu { slope: ConstId(0) }, -2.0, -0.5);
        close(Activation::Clip { low: 0.0, high: 6.0 }, 7.0, 6.0);
        close(Activation::Sigmoid, 0.0, 0.5);
        close(Activation::Silu, 1.0, 0.731058578630005);
        close(Activation::HardSigmoid { alpha: 0.25, beta: 0.5 }, 1.0, 0.75);
        close(Activation::HardSwish, 1.0, 2.0 / 3.0);
        close(Activation::Gelu, 1.0, 0.841344746068543);
        close(Activation::Gelu, -1.0, -0.158655253931457);
        close(Activation::GeluTanh, 1.0, 0.841191990608302);
        close(Activation::Softplus, 0.0, std::f64::consts::LN_2);
        close(Activation::Softplus, -40.0, 4.248354255291589e-18);
        close(Activation::Mish, 1.0, 0.865098388267310);
        close(Activation::Elu { alpha: 0.5 }, -1.0, -0.316060279414279);
        close(Activation::Tanh, 1.0, 0.761594155955765);
    }

    #[test]
    fn derivatives_are_those_of_the_values() {
        let all = [
            Activation::Relu,
            Activation::LeakyRelu { alpha: 0.1 },
            Activation::PRelu { slope: ConstId(3) },
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
                assert!((numeric - f.derivative(x, 0.3)).abs() < 1e-6, "{f:?} at {x}");
            }
            // Another name for slopes changes nothing else.
            let renamed = f.with_slopes(|&ConstId(id)| Ok::<_, ()>(id)).unwrap();
            assert_eq!((renamed.mnemonic(), renamed.value(-0.2, 0.3)), (f.mnemonic(), f.value(-0.2, 0.3)));
            assert_eq!(renamed.slopes().copied(), f.slopes().map(|id| id.0));
        }
    }
}
