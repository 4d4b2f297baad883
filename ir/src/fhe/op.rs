//! The closed set of operations on packed tensors.

use peregrine_ckks::units::Level;

use crate::consts::ConstId;
use crate::linear::LinearMapId;
use crate::refresh::RefreshForm;

/// A per-channel monic polynomial `y = x^degree + sum_{k<degree} lower[c, k] x^k`.
///
/// The leading coefficient a of the original polynomial is gone: |a|^(1/degree) went into the map that produces x, the sign
/// of a into the maps that consume y.
///
/// Levels and scales. With k = ceil(log2 degree) - 1, an operand at level l and scale S_0 gives a result at level l - k and
/// scale S_k^2, where S_(i+1) = S_i^2 / q_(l-i): k products are rescaled on the way, the last one is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MonicPoly {
    /// Degree, 2..=8.
    pub degree: u32,
    /// Lower coefficients `[C, degree]`, f64. A column that is zero for all channels costs nothing.
    pub lower: ConstId,
}

impl MonicPoly {
    /// Levels consumed: ceil(log2 degree) - 1.
    pub fn levels(self) -> u32 {
        self.degree.max(2).next_power_of_two().ilog2() - 1
    }
}

/// An operation on packed tensors. Operands are in the node's `args`.
#[derive(Clone, Debug, PartialEq)]
pub enum FheOp {
    /// An encrypted input.
    Input {
        /// ONNX input name.
        name: String,
    },
    /// Sum of linear maps, one per operand, plus a per-channel bias `[C]` (f64); rescaled together. Operands are at one
    /// level l, with scales of their own; the result is at level l - r for r >= 1 rescales. Its scale T is free: the weights of
    /// operand i are encoded at T * q_l * .. * q_(l-r+1) / S_i.
    Linear {
        /// `maps[i]` applies to operand i. All share the result's layout.
        maps: Vec<LinearMapId>,
        /// Bias.
        bias: Option<ConstId>,
    },
    /// Per-channel polynomial; the last product is not rescaled.
    Poly(MonicPoly),
    /// Sum of two values of one layout, level, scale and unit.
    Add,
    /// Modulus drop to a lower level; the scale stays.
    Drop {
        /// New level.
        to: Level,
    },
    /// Refresh of an operand at the input level of bootstrapping.
    Bootstrap(RefreshForm),
}
