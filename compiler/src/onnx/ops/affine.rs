//! Per-channel affine maps: batch normalisation and constants that broadcast over the map.

use peregrine_ir::ValueId;
use peregrine_ir::tensor::TensorOp;

use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::tensor::Constant;
use crate::onnx::translate::{Translator, Value};

/// BatchNormalization in inference mode.
pub(super) fn batch_norm(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if node.int_or("training_mode", 0)? != 0 {
        return Err(Refusal::new(
            "it is in training mode",
            "export the model in evaluation mode (model.eval())",
        ));
    }
    let x = t.data(node, 0)?;
    let channels = channels(t.shape(x))?;
    let epsilon = f64::from(node.float("epsilon")?.unwrap_or(1e-5));
    let parameter = |i: usize| -> Result<Vec<f64>, Refusal> {
        let values = t.constant(node, i)?.to_f64();
        match values.len() == channels {
            true => Ok(values),
            false => Err(Refusal::new(
                format!("input {i} has {} values for {channels} channels", values.len()),
                "export the model again",
            )),
        }
    };
    let (gamma, beta, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    if variance.iter().any(|v| *v + epsilon <= 0.0) {
        return Err(Refusal::new("a variance is negative", "export the model again"));
    }
    let mul: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    let add = (0..channels).map(|c| beta[c] - mean[c] * mul[c]).collect();
    affine(t, node, x, mul, add)
}

/// Neg.
pub(super) fn neg(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let channels = channels(t.shape(x))?;
    affine(t, node, x, vec![-1.0; channels], vec![0.0; channels])
}

/// `mul x + add`, per channel.
pub(super) fn affine(
    t: &mut Translator,
    node: NodeView<'_>,
    x: ValueId,
    mul: Vec<f64>,
    add: Vec<f64>,
) -> Result<Value, Refusal> {
    let shape = [mul.len()];
    let (mul, add) = (t.doubles(&shape, mul), t.doubles(&shape, add));
    t.emit_value(node, TensorOp::ChannelAffine { mul, add }, &[x])
}

/// Extent of axis 1.
pub(super) fn channels(shape: &[usize]) -> Result<usize, Refusal> {
    shape.get(1).copied().ok_or_else(|| {
        Refusal::new("its input has no channel axis", "reshape to [1, C] or [1, C, H, W] before it")
    })
}

/// The constant as one value per channel, when it broadcasts so over a tensor of shape `data`.
pub(super) fn per_channel(constant: &Constant, data: &[usize]) -> Result<Vec<f64>, Refusal> {
    let channels = channels(data)?;
    let values = constant.to_f64();
    if values.len() == 1 && constant.shape().len() <= data.len() {
        return Ok(vec![values[0]; channels]);
    }
    let rank = constant.shape().len();
    let from_end = data.len().saturating_sub(1);
    let varies_only_over_channels = rank <= data.len()
        && constant
            .shape()
            .iter()
            .rev()
            .enumerate()
            .all(|(i, &d)| d == 1 || (i + 1 == from_end && d == channels));
    if varies_only_over_channels {
        return Ok(values);
    }
    if let Some(uniform) = uniform_maps(constant, data, &values) {
        return Ok(uniform);
    }
    let (given, data) = (shape_text(Some(constant.shape())), shape_text(Some(data)));
    Err(Refusal::new(
        format!("its constant of shape {given} varies within the channels of {data}"),
        "only one value per channel is supported: fold it into a neighbouring layer",
    ))
}

/// One value per channel when a full-size constant is equal all over each channel's map.
fn uniform_maps(constant: &Constant, data: &[usize], values: &[f64]) -> Option<Vec<f64>> {
    if constant.shape() != data && constant.shape() != data.get(1..)? {
        return None;
    }
    let map: usize = data[2..].iter().product();
    values.chunks(map).map(|m| m.iter().all(|v| v == &m[0]).then_some(m[0])).collect()
}
