//! Layers of one spatial dimension, `[1, C, L]`: the same layers on maps of one column, `[1, C, L, 1]`. A convolution along the
//! channels of a `[1, C, 1, 1]` tensor (efficient channel attention) is a dense layer of few diagonals.

use peregrine_ir::ValueId;
use peregrine_ir::tensor::{Conv, TensorOp};
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::Translate;
use super::conv::Window;
use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::tensor::Constant;
use crate::onnx::translate::{Translator, Value};
use crate::onnx::view::{View, elements};

/// Whether operand 0 has one spatial dimension.
pub(super) fn applies(t: &Translator, node: NodeView<'_>) -> Result<bool, Refusal> {
    Ok(t.data_shape(node, 0)?.len() == 3)
}

/// Translates a layer of one spatial dimension as one of two.
pub(super) fn on_column(
    t: &mut Translator,
    node: NodeView<'_>,
    translate: Translate,
) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    let mut proto = NodeProto { name: node.name().to_owned(), ..node.proto.clone() };
    proto.attribute.iter_mut().for_each(widen);
    let column = format!("{}/column", node.name());
    let shape = view.shape.iter().copied().chain([1]).collect();
    let operand = t.moved(view.reshaped(shape))?;
    proto.input[0] = column.clone();
    t.define(column, operand);
    if let Some(name) =
        node.input(1).filter(|_| matches!(node.proto.op_type.as_str(), "Conv" | "ConvTranspose"))
    {
        let weights = t.constant(node, 1)?;
        let shape = weights.shape().iter().copied().chain([1]).collect();
        let column = format!("{name}/column");
        t.define(column.clone(), Value::Constant(weights.reshaped(shape)));
        proto.input[1] = column;
    }
    let value = translate(t, NodeView { proto: &proto, opset: node.opset })?;
    let view = match &value {
        Value::Data(id) => View::of(*id, t.shape(*id)),
        Value::View(view) => (**view).clone(),
        Value::Constant(_) | Value::Unusable => return Ok(value),
    };
    let line = view.shape[..3].to_vec();
    t.moved(view.reshaped(line))
}

/// Gives an attribute of one spatial dimension a second one that does nothing.
fn widen(attribute: &mut AttributeProto) {
    let second = match attribute.name.as_str() {
        "kernel_shape" | "strides" | "dilations" | "output_shape" => 1,
        "pads" | "output_padding" => 0,
        _ => return,
    };
    attribute.ints = match (attribute.name.as_str(), attribute.ints.as_slice()) {
        ("pads", &[before, after]) => vec![before, 0, after, 0],
        (_, &[only]) => vec![only, second],
        _ => return,
    };
}

/// Most weights of a dense layer made from a convolution along channels.
const MAX_DENSE: usize = 1 << 22;

/// A convolution of `[1, C, L]` that reads the channels of a tensor without rows and columns, as a dense layer on these channels;
/// `None` when its operand is another one.
pub(super) fn along_channels(t: &mut Translator, node: NodeView<'_>) -> Result<Option<Value>, Refusal> {
    let view = t.view(node, 0)?;
    let Some(base) = view.parts.first().map(|part| part.base) else { return Ok(None) };
    let features = elements(t.shape(base));
    let Some(part) = view.permutation(features).cloned() else { return Ok(None) };
    let weights = t.constant(node, 1)?;
    let (&[_, channels, length], &[outputs, per_group, taps]) = (view.shape.as_slice(), weights.shape())
    else {
        return Ok(None);
    };
    // Only where the line runs over channels: a signal keeps its rows.
    if t.shape(base).get(1) != Some(&features) || length == 1 || taps == 0 {
        return Ok(None);
    }
    let mut proto = node.proto.clone();
    proto.attribute.iter_mut().for_each(widen);
    let wide = NodeView { proto: &proto, opset: node.opset };
    let window = Window::read(wide, [taps as u32, 1], [length, 1])?;
    let groups = usize::try_from(node.int_or("group", 1)?).unwrap_or(0);
    let fits = groups > 0 && channels == per_group * groups && outputs.is_multiple_of(groups);
    let room = (length + (window.pads[0] + window.pads[2]) as usize).checked_sub(window.reach(0) as usize);
    let (true, Some(room)) = (fits, room) else { return Ok(None) };
    let count = room / window.stride[0] as usize + 1;
    if outputs * count * features > MAX_DENSE {
        return Ok(None);
    }
    let numbers = weights.to_f32();
    let mut dense = vec![0.0; outputs * count * features];
    for (row, weights) in numbers.chunks(per_group * taps).enumerate() {
        let first = row / (outputs / groups) * per_group;
        for out in 0..count {
            let target = &mut dense[(row * count + out) * features..][..features];
            for (tap, &weight) in weights.iter().enumerate() {
                let (channel, tap) = (first + tap / taps, tap % taps);
                let at = out * window.stride[0] as usize + tap * window.dilation[0] as usize;
                let inside = at.checked_sub(window.pads[0] as usize).filter(|&at| at < length);
                if let Some(at) = inside {
                    target[part.table[channel * length + at] as usize] += weight;
                }
            }
        }
    }
    let bias = t.optional(node, 2)?.map(|b| b.to_f32());
    let y = dense_layer(t, node, [outputs * count, features], dense, bias)?;
    Ok(Some(t.moved(View::of(y, &[1, outputs * count, 1, 1]).reshaped(vec![1, outputs, count]))?))
}

fn dense_layer(
    t: &mut Translator,
    node: NodeView<'_>,
    [rows, features]: [usize; 2],
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
) -> Result<ValueId, Refusal> {
    let view = t.view(node, 0)?;
    let base = view.parts[0].base;
    let x = t.settle(node.name(), &View::of(base, t.shape(base)).reshaped(vec![1, features, 1, 1]))?;
    let weights = t.floats(&[rows, features, 1, 1], weights);
    let bias = bias.map(|bias| {
        let each = rows / bias.len().max(1);
        t.floats(&[rows], bias.into_iter().flat_map(|b| std::iter::repeat_n(b, each)).collect())
    });
    let conv = Conv { weights, bias, stride: [1, 1], pads: [0; 4], dilation: [1, 1], groups: 1 };
    t.emit(node, TensorOp::Conv(conv), &[x])
}

impl Constant {
    /// The same numbers in another shape of as many.
    fn reshaped(&self, shape: Vec<usize>) -> Self {
        Self::floats(shape, &self.to_f32())
    }
}
