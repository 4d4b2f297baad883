//! Transposed convolution: zeros between the pixels, then a convolution of stride 1 with the kernel turned over.

use peregrine_ir::tensor::{Conv, TensorOp};
use peregrine_ir::{AxisMap, Separable};

use super::conv::explicit_pads;
use super::{axis_refusal, column, image_shape, pair};
use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};

/// One axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    extent: i64,
    stride: i64,
    /// Padding of the convolution before and after; negative amounts crop.
    pads: [i64; 2],
}

/// ConvTranspose: weights and bias must be constant.
pub(super) fn conv_transpose(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if column::applies(t, node)? {
        return column::on_column(t, node, conv_transpose);
    }
    let x = t.data(node, 0)?;
    let [channels, h, w] = image_shape(t.shape(x))?;
    let weights = t.constant(node, 1)?;
    let &[inputs, per_group, kh, kw] = weights.shape() else {
        return Err(Refusal::new(
            "its weights are not of two dimensions",
            "only two-dimensional convolutions are supported",
        ));
    };
    let groups =
        usize::try_from(node.int_or("group", 1)?).ok().filter(|&g| g > 0 && inputs.is_multiple_of(g));
    let groups = groups
        .ok_or_else(|| Refusal::new("its groups do not divide its channels", "export the model again"))?;
    if inputs != channels || kh * kw == 0 {
        return Err(Refusal::new("its weights do not fit its operand", "export the model again"));
    }
    let axes = axes(node, [h, w], [kh, kw])?;
    let flipped = flipped(&weights.to_f32(), [groups, inputs / groups, per_group], [kh, kw]);
    let shape = [groups * per_group, inputs / groups, kh, kw];
    let weights = t.floats(&shape, flipped);
    let bias = t.optional(node, 2)?.map(|b| t.floats(&shape[..1], b.to_f32()));
    let map = |axis: Axis| {
        let crop = axis.pads.map(|p| p.min(0));
        let output = (axis.extent - 1) * axis.stride + 1 + crop[0] + crop[1];
        let output = u32::try_from(output).unwrap_or(0);
        AxisMap::spread(axis.extent as u32, output, crop[0], axis.stride).map_err(axis_refusal)
    };
    let maps = [AxisMap::identity(channels as u32), map(axes[0])?, map(axes[1])?];
    let spread = Separable { maps };
    let x = if spread.is_identity() { x } else { t.emit(node, TensorOp::Separable(spread), &[x])? };
    let pad = |axis: usize, side: usize| axes[axis].pads[side].max(0) as u32;
    let pads = [pad(0, 0), pad(1, 0), pad(0, 1), pad(1, 1)];
    let dilation = pair("dilations", node.ints("dilations")?, 1)?;
    let conv = Conv { weights, bias, stride: [1, 1], pads, dilation, groups: groups as u32 };
    t.emit_value(node, TensorOp::Conv(conv), &[x])
}

fn axes(node: NodeView<'_>, input: [usize; 2], kernel: [usize; 2]) -> Result<[Axis; 2], Refusal> {
    let stride = pair("strides", node.ints("strides")?, 1)?;
    let dilation = pair("dilations", node.ints("dilations")?, 1)?;
    let bad = |name: &str| {
        Refusal::new(format!("attribute {name:?} is not two numbers"), "use two spatial dimensions")
    };
    let two = |name: &str| -> Result<Option<[i64; 2]>, Refusal> {
        node.ints(name)?.map(|list| list.try_into().map_err(|_| bad(name))).transpose()
    };
    let extra = two("output_padding")?.unwrap_or([0; 2]);
    let shape = two("output_shape")?;
    let auto = node.text_or("auto_pad", "NOTSET")?;
    let explicit = explicit_pads(node)?;
    let axis = |a: usize| {
        let (extent, step) = (input[a] as i64, i64::from(stride[a]));
        let reach = (kernel[a] as i64 - 1) * i64::from(dilation[a]) + 1;
        let whole = step * (extent - 1) + extra[a] + reach;
        let split = |total: i64| match auto {
            "SAME_LOWER" => [total - total / 2, total / 2],
            _ => [total / 2, total - total / 2],
        };
        let padding = match (shape, auto) {
            (Some(shape), _) => split(whole - shape[a]),
            (None, "SAME_UPPER" | "SAME_LOWER") => split((whole - extent * step).max(0)),
            (None, "VALID") => [0, 0],
            (None, _) => [i64::from(explicit[a]), i64::from(explicit[2 + a])],
        };
        let pads = [reach - 1 - padding[0], reach - 1 - padding[1] + extra[a]];
        Axis { extent, stride: step, pads }
    };
    Ok([axis(0), axis(1)])
}

/// `[group, in, out, kh, kw]` as `[group, out, in, kh, kw]` with rows and columns in reverse.
fn flipped(weights: &[f32], [groups, inputs, outputs]: [usize; 3], [kh, kw]: [usize; 2]) -> Vec<f32> {
    let taps = kh * kw;
    let mut out = Vec::with_capacity(weights.len());
    for g in 0..groups {
        for o in 0..outputs {
            for i in 0..inputs {
                let kernel = &weights[((g * inputs + i) * outputs + o) * taps..][..taps];
                out.extend(kernel.iter().rev());
            }
        }
    }
    out
}
