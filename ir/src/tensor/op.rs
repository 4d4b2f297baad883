//! The closed set of tensor operations.

use super::Activation;
use crate::axis::Separable;
use crate::consts::ConstId;

/// Attributes of a convolution. Weights are `[c_out, c_in / groups, kh, kw]`, the bias `[c_out]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Weights.
    pub weights: ConstId,
    /// Bias.
    pub bias: Option<ConstId>,
    /// Strides (rows, columns).
    pub stride: [u32; 2],
    /// Zero padding: top, left, bottom, right.
    pub pads: [u32; 4],
    /// Dilations (rows, columns).
    pub dilation: [u32; 2],
    /// Channel groups.
    pub groups: u32,
}

/// Pooling function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Mean of the taps inside the input.
    AverageExcludePad,
    /// Mean of all taps, padding counted as zero.
    AverageIncludePad,
    /// Maximum.
    Max,
}

/// Attributes of a pooling window.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Function.
    pub kind: PoolKind,
    /// Window (rows, columns).
    pub kernel: [u32; 2],
    /// Strides (rows, columns).
    pub stride: [u32; 2],
    /// Padding: top, left, bottom, right.
    pub pads: [u32; 4],
}

/// An operation of the tensor level. Operands are in the node's `args`.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorOp {
    /// The encrypted input; no operand. Named as in ONNX.
    Input {
        /// ONNX input name.
        name: String,
    },
    /// Convolution of a `[1, C, H, W]` tensor.
    Conv(Conv),
    /// `y = W x + b` on `[1, F]`; weights `[out, in]`, bias `[out]`.
    FullyConnected {
        /// Weights.
        weights: ConstId,
        /// Bias.
        bias: Option<ConstId>,
    },
    /// `y[c] = mul[c] x[c] + add[c]` along axis 1 (a batch norm in inference mode, or a constant multiply/add).
    ChannelAffine {
        /// Factors `[C]`.
        mul: ConstId,
        /// Offsets `[C]`.
        add: ConstId,
    },
    /// A non-linearity.
    Activation(Activation),
    /// Per-channel polynomial `y = sum_k coefficients[c, k] x^k`; coefficients `[C or 1, degree + 1]`, f64.
    Poly {
        /// Coefficients.
        coefficients: ConstId,
    },
    /// Sum of two tensors of one shape.
    Add,
    /// Difference of two tensors of one shape.
    Sub,
    /// Element-wise product of two tensors of one shape; `Mul(x, x)` is a square.
    Mul,
    /// Pooling over windows.
    Pool(Pool),
    /// Mean over rows and columns, `[1, C, H, W]` to `[1, C, 1, 1]`.
    GlobalAveragePool,
    /// Zero padding of rows and columns: top, left, bottom, right.
    Pad {
        /// Amounts.
        pads: [u32; 4],
    },
    /// Row-major reshape, batch kept 1.
    Reshape {
        /// New shape.
        shape: Vec<usize>,
    },
    /// A sparse linear map of each coordinate of a `[1, C, H, W]` tensor, or of the features of a `[1, F]` tensor (then
    /// those of row and column are `1 -> 1`).
    Separable(Separable),
}

impl TensorOp {
    /// Its name in the text form.
    pub const fn mnemonic(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Conv(_) => "conv",
            Self::FullyConnected { .. } => "fully_connected",
            Self::ChannelAffine { .. } => "channel_affine",
            Self::Activation(activation) => activation.mnemonic(),
            Self::Poly { .. } => "poly",
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Pool(_) => "pool",
            Self::GlobalAveragePool => "global_average_pool",
            Self::Pad { .. } => "pad",
            Self::Reshape { .. } => "reshape",
            Self::Separable(_) => "separable",
        }
    }

    /// Number of operands.
    pub const fn arity(&self) -> usize {
        match self {
            Self::Input { .. } => 0,
            Self::Add | Self::Sub | Self::Mul => 2,
            Self::Conv(_)
            | Self::FullyConnected { .. }
            | Self::ChannelAffine { .. }
            | Self::Activation(_)
            | Self::Poly { .. }
            | Self::Pool(_)
            | Self::GlobalAveragePool
            | Self::Pad { .. }
            | Self::Reshape { .. }
            | Self::Separable(_) => 1,
        }
    }
}
