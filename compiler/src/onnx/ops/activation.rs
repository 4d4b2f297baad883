//! Non-linearities.

use peregrine_ir::tensor::{Activation, TensorOp};
use tract_onnx::pb::NodeProto;

use super::affine::{Operand, channels, with_constant};
use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::recognise::Found;
use crate::onnx::tensor::Constant;
use crate::onnx::translate::{Translator, Value};

fn unary(t: &mut Translator, node: NodeView<'_>, activation: Activation) -> Result<Value, Refusal> {
    let x = Operand::read(t, node, 0)?;
    activated(t, node, &x, activation)
}

fn activated(
    t: &mut Translator,
    node: NodeView<'_>,
    x: &Operand,
    activation: Activation,
) -> Result<Value, Refusal> {
    let y = t.emit(node, TensorOp::Activation(activation), &[x.x])?;
    x.result(t, y)
}

/// Relu.
pub(super) fn relu(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    unary(t, node, Activation::Relu)
}

/// LeakyRelu.
pub(super) fn leaky_relu(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let alpha = node.float("alpha")?.unwrap_or(0.01);
    unary(t, node, Activation::LeakyRelu { alpha })
}

/// PRelu with slopes per channel.
pub(super) fn prelu(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let slopes = t.constant(node, 1)?;
    sloped(t, node, &slopes)
}

fn sloped(t: &mut Translator, node: NodeView<'_>, slopes: &Constant) -> Result<Value, Refusal> {
    let (x, slopes) = with_constant(t, node, 0, slopes)?;
    let slope = t.floats(&[slopes.len()], slopes.into_iter().map(|s| s as f32).collect());
    activated(t, node, &x, Activation::PRelu { slope })
}

/// Clip; bounds are attributes before opset 11, inputs since.
pub(super) fn clip(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = Operand::read(t, node, 0)?;
    let bound = |i: usize, attribute: &str, default: f32| -> Result<f32, Refusal> {
        if node.opset < 11 {
            return Ok(node.float(attribute)?.unwrap_or(default));
        }
        match t.optional(node, i)? {
            None => Ok(default),
            Some(c) => c.scalar().map(|v| v as f32).ok_or_else(|| {
                Refusal::new(format!("its {attribute} is no single number"), "use one bound for all")
            }),
        }
    };
    let (low, high) = (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?);
    clipped(t, node, &x, low, high)
}

fn clipped(
    t: &mut Translator,
    node: NodeView<'_>,
    x: &Operand,
    low: f32,
    high: f32,
) -> Result<Value, Refusal> {
    let relu = low == 0.0 && high >= f32::MAX;
    activated(t, node, x, if relu { Activation::Relu } else { Activation::Clip { low, high } })
}

/// Min of a tensor and a number.
pub(super) fn min(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let (x, bound) = bounded(t, node)?;
    clipped(t, node, &x, f32::MIN, bound)
}

/// Max of a tensor and a number.
pub(super) fn max(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let (x, bound) = bounded(t, node)?;
    clipped(t, node, &x, bound, f32::MAX)
}

fn bounded(t: &mut Translator, node: NodeView<'_>) -> Result<(Operand, f32), Refusal> {
    let refuse = || {
        Refusal::new(
            "it compares encrypted tensors",
            "only a tensor and one number can be compared: replace the layer",
        )
    };
    if node.proto.input.len() != 2 {
        return Err(refuse());
    }
    let (i, bound) = match (t.value(node, 0)?, t.value(node, 1)?) {
        (Value::Data(_) | Value::View(_), Value::Constant(c)) => (0, c.scalar()),
        (Value::Constant(c), Value::Data(_) | Value::View(_)) => (1, c.scalar()),
        _ => return Err(refuse()),
    };
    let bound = bound.ok_or_else(refuse)? as f32;
    Ok((Operand::read(t, node, i)?, bound))
}

/// Sigmoid.
pub(super) fn sigmoid(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    unary(t, node, Activation::Sigmoid)
}

/// Tanh.
pub(super) fn tanh(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    unary(t, node, Activation::Tanh)
}

/// HardSigmoid.
pub(super) fn hard_sigmoid(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let (alpha, beta) = (node.float("alpha")?.unwrap_or(0.2), node.float("beta")?.unwrap_or(0.5));
    unary(t, node, Activation::HardSigmoid { alpha, beta })
}

/// HardSwish.
pub(super) fn hard_swish(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    unary(t, node, Activation::HardSwish)
}

/// Gelu.
pub(super) fn gelu(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match node.text_or("approximate", "none")? {
        "none" => unary(t, node, Activation::Gelu),
        "tanh" => unary(t, node, Activation::GeluTanh),
        other => Err(Refusal::new(format!("approximation {other:?} is not known"), "export the model again")),
    }
}

/// Softplus.
pub(super) fn softplus(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    unary(t, node, Activation::Softplus)
}

/// Mish.
pub(super) fn mish(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    unary(t, node, Activation::Mish)
}

/// Elu.
pub(super) fn elu(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let alpha = node.float("alpha")?.unwrap_or(1.0);
    unary(t, node, Activation::Elu { alpha })
}

/// Celu of alpha 1, which is Elu; tract, the oracle of every check, leaves out the outer alpha of others.
pub(super) fn celu(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match node.float("alpha")?.unwrap_or(1.0) {
        1.0 => unary(t, node, Activation::Elu { alpha: 1.0 }),
        other => Err(Refusal::new(
            format!("its alpha is {other}, only 1 is supported"),
            "replace the activation by Elu and fine-tune",
        )),
    }
}

/// Selu: `gamma` times Elu.
pub(super) fn selu(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let alpha = node.float("alpha")?.unwrap_or(1.673_263_2);
    let gamma = node.float("gamma")?.unwrap_or(1.050_701);
    let x = Operand::read(t, node, 0)?;
    scaled(t, node, &x, [1.0, f64::from(gamma)], Activation::Elu { alpha })
}

/// `after * activation(before * x)`.
fn scaled(
    t: &mut Translator,
    node: NodeView<'_>,
    x: &Operand,
    [before, after]: [f64; 2],
    activation: Activation,
) -> Result<Value, Refusal> {
    let channels = channels(t.shape(x.x))?;
    let mut y = x.x;
    let times = |t: &mut Translator, y, factor: f64| -> Result<_, Refusal> {
        if factor == 1.0 {
            return Ok(y);
        }
        let (mul, add) =
            (t.doubles(&[channels], vec![factor; channels]), t.doubles(&[channels], vec![0.0; channels]));
        t.emit(node, TensorOp::ChannelAffine { mul, add }, &[y])
    };
    y = times(t, y, before)?;
    y = t.emit(node, TensorOp::Activation(activation), &[y])?;
    y = times(t, y, after)?;
    x.result(t, y)
}

/// An activation written as several nodes, the last of which is `node`.
pub(crate) fn recognised(
    t: &mut Translator,
    node: NodeView<'_>,
    operand: &str,
    found: &Found,
) -> Result<Value, Refusal> {
    let proto = NodeProto { input: vec![operand.to_owned()], ..node.proto.clone() };
    let node = NodeView { proto: &proto, opset: node.opset };
    match found {
        Found::Activation(activation) => unary(t, node, *activation),
        Found::Scaled { activation, before, after } => {
            let x = Operand::read(t, node, 0)?;
            scaled(t, node, &x, [*before, *after], *activation)
        }
        Found::Slopes(slopes) => sloped(t, node, slopes),
    }
}

/// Largest power translated.
const MAX_POWER: usize = 8;

/// Pow with a constant whole exponent from 1 to 8.
pub(super) fn pow(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = Operand::read(t, node, 0)?;
    channels(t.shape(x.x))?;
    let exponent = t.constant(node, 1)?.scalar();
    let whole =
        exponent.filter(|e| e.fract() == 0.0 && (1.0..=MAX_POWER as f64).contains(e)).map(|e| e as usize);
    let Some(degree) = whole else {
        return Err(Refusal::new(
            format!("its exponent is not a whole number from 1 to {MAX_POWER}"),
            "replace it by a polynomial and fine-tune",
        ));
    };
    if degree == 1 {
        return Ok(t.value(node, 0)?.clone());
    }
    let mut coefficients = vec![0.0; degree + 1];
    coefficients[degree] = 1.0;
    let coefficients = t.doubles(&[1, degree + 1], coefficients);
    let y = t.emit(node, TensorOp::Poly { coefficients }, &[x.x])?;
    x.result(t, y)
}
