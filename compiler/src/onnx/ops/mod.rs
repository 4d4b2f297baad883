//! One translator per operator family.
//!
//! A translator reads one node, appends to the tensor graph and returns the value of the node's first output.

mod activation;
mod affine;
mod column;
mod conv;
mod joint;
mod matmul;
mod pool;
mod resize;
mod select;
mod shape;
mod transpose;

use peregrine_ir::AxisError;

use super::error::Refusal;
use super::node::NodeView;
use super::translate::{Translator, Value};

pub(crate) use activation::recognised;
pub(crate) use select::split;

/// Translates one node.
pub(crate) type Translate = fn(&mut Translator, NodeView<'_>) -> Result<Value, Refusal>;

/// The translator of an operator, `None` when there is none.
pub(crate) fn translator(op: &str) -> Option<Translate> {
    Some(match op {
        "Conv" => conv::conv,
        "ConvTranspose" => transpose::conv_transpose,
        "Gemm" => matmul::gemm,
        "MatMul" => matmul::matmul,
        "BatchNormalization" => affine::batch_norm,
        "Add" => joint::add,
        "Sub" => joint::sub,
        "Mul" => joint::mul,
        "Div" => joint::div,
        "Sum" => joint::sum,
        "Mean" => joint::mean,
        "Neg" => affine::neg,
        "Pow" => activation::pow,
        "Relu" => activation::relu,
        "LeakyRelu" => activation::leaky_relu,
        "PRelu" => activation::prelu,
        "Clip" => activation::clip,
        "Min" => activation::min,
        "Max" => activation::max,
        "Sigmoid" => activation::sigmoid,
        "Tanh" => activation::tanh,
        "HardSigmoid" => activation::hard_sigmoid,
        "HardSwish" => activation::hard_swish,
        "Gelu" => activation::gelu,
        "Softplus" => activation::softplus,
        "Mish" => activation::mish,
        "Elu" => activation::elu,
        "Selu" => activation::selu,
        "Celu" => activation::celu,
        "AveragePool" => pool::average,
        "MaxPool" => pool::max,
        "GlobalAveragePool" => pool::global_average,
        "ReduceMean" => pool::reduce_mean,
        "ReduceSum" => pool::reduce_sum,
        "Resize" => resize::resize,
        "Upsample" => resize::upsample,
        "Pad" => select::pad,
        "Slice" => select::slice,
        "Gather" => select::gather,
        "Concat" => select::concat,
        "Expand" => select::expand,
        "Tile" => select::tile,
        "DepthToSpace" => select::depth_to_space,
        "SpaceToDepth" => select::space_to_depth,
        "Flatten" => shape::flatten,
        "Reshape" => shape::reshape,
        "Squeeze" => shape::squeeze,
        "Unsqueeze" => shape::unsqueeze,
        "Transpose" => shape::transpose,
        "Identity" => shape::same,
        "Dropout" => shape::dropout,
        "Cast" => shape::cast,
        _ => return None,
    })
}

/// The refusal of an operator without a translator.
pub(crate) fn unknown(op: &str) -> Refusal {
    let fix = match op {
        "Softmax" | "LogSoftmax" | "ArgMax" | "ArgMin" | "TopK" | "NonMaxSuppression" | "Hardmax" => {
            "it can run on the client only, after the last linear operator: cut the model here"
        }
        "GlobalMaxPool" => MAX_POOL_FIX,
        "LRN" => {
            "remove it (networks trained later do without) or replace it by BatchNormalization, and fine-tune"
        }
        "InstanceNormalization"
        | "LayerNormalization"
        | "GroupNormalization"
        | "LpNormalization"
        | "MeanVarianceNormalization" => NORM_FIX,
        "Softsign" | "ThresholdedRelu" | "Erf" | "Exp" | "Log" | "Sqrt" | "Abs" | "Sin" | "Cos" => {
            "replace the activation by Relu, HardSwish, Silu, Sigmoid, Tanh, Gelu, Elu, Mish or a polynomial and fine-tune"
        }
        "ReduceMin" => "replace it by ReduceMean and fine-tune",
        "ReduceMax" => {
            "compile with --maxpool avg, which changes the answers, or replace it by ReduceMean and fine-tune"
        }
        "QuantizeLinear"
        | "DequantizeLinear"
        | "DynamicQuantizeLinear"
        | "QLinearConv"
        | "QLinearMatMul"
        | "ConvInteger"
        | "MatMulInteger"
        | "FakeQuantize" => "export the float model, not the quantised one",
        "LSTM" | "GRU" | "RNN" | "Loop" | "If" | "Scan" => {
            "only feed-forward networks can be compiled; unroll or remove it"
        }
        _ => {
            "remove it or replace it by supported operators (Conv, Gemm, pooling, normalisation, activations, Add, Mul, Concat, Slice)"
        }
    };
    Refusal::new("this operator cannot be computed on encrypted values", fix)
}

/// The refusal of the root of a layer normalisation that is written as several nodes.
pub(crate) fn written_norm() -> Refusal {
    Refusal::new(
        "it is part of a layer normalisation written as several nodes, which divides by a deviation of encrypted values",
        NORM_FIX,
    )
}

/// The way out of a normalisation by what is encrypted.
const NORM_FIX: &str = "replace it by BatchNormalization and fine-tune";

/// The ways out of a maximum.
const MAX_POOL_FIX: &str =
    "compile with --maxpool avg, which changes the answers, or replace it by AveragePool and fine-tune";

/// The refusal of a MaxPool, which translates but has no encrypted form.
pub(crate) fn max_pool() -> Refusal {
    Refusal::new("maxima cannot be computed on encrypted values", MAX_POOL_FIX)
}

/// The refusal of a map of one coordinate.
fn axis_refusal(error: AxisError) -> Refusal {
    Refusal::new(error.to_string(), "use a smaller input")
}

/// Rows and columns of a `[1, C, H, W]` shape.
fn image_shape(shape: &[usize]) -> Result<[usize; 3], Refusal> {
    match shape {
        [1, c, h, w] => Ok([*c, *h, *w]),
        _ => Err(Refusal::new(
            format!("its input has {} dimensions, [1, C, H, W] is needed", shape.len()),
            "reshape to two spatial dimensions before it",
        )),
    }
}

/// A pair of positive 32-bit numbers from an ONNX list, `default` twice when absent.
fn pair(name: &str, list: Option<&[i64]>, default: u32) -> Result<[u32; 2], Refusal> {
    let bad = || {
        Refusal::new(format!("attribute {name:?} is not two positive numbers"), "use two spatial dimensions")
    };
    match list {
        None => Ok([default; 2]),
        Some(&[a, b]) => {
            let positive = |x: i64| u32::try_from(x).ok().filter(|&x| x > 0 && x < 1 << 16).ok_or_else(bad);
            Ok([positive(a)?, positive(b)?])
        }
        Some(_) => Err(bad()),
    }
}
