//! Pooling over windows and over whole maps.

use peregrine_ir::ValueId;
use peregrine_ir::tensor::{Pool, PoolKind, TensorOp};

use super::conv::Window;
use super::{image_shape, pair, shape};
use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};

/// AveragePool.
pub(super) fn average(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let kind = match node.int_or("count_include_pad", 0)? {
        0 => PoolKind::AverageExcludePad,
        _ => PoolKind::AverageIncludePad,
    };
    pool(t, node, kind)
}

/// MaxPool: kept, so that a later pass can refuse it together with the way out.
pub(super) fn max(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    pool(t, node, PoolKind::Max)
}

fn pool(t: &mut Translator, node: NodeView<'_>, kind: PoolKind) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let [_, h, w] = image_shape(t.shape(x))?;
    let kernel = node
        .ints("kernel_shape")?
        .ok_or_else(|| Refusal::new("it has no kernel_shape", "export the model again"))?;
    let mut window = Window::read(node, pair("kernel_shape", Some(kernel), 1)?, [h, w])?;
    if window.dilation != [1, 1] {
        return Err(Refusal::new("dilated pooling is not supported", "use a dilated depthwise Conv"));
    }
    if node.int_or("ceil_mode", 0)? != 0 {
        for (axis, extent) in [h, w].into_iter().enumerate() {
            let extra = ceil_excess(&window, axis, extent as u32);
            if extra > 0 && kind == PoolKind::AverageIncludePad {
                return Err(Refusal::new(
                    "ceil_mode with count_include_pad is not supported",
                    "pad the input explicitly",
                ));
            }
            window.pads[2 + axis] += extra;
        }
    }
    let Window { kernel, stride, pads, .. } = window;
    t.emit_value(node, TensorOp::Pool(Pool { kind, kernel, stride, pads }), &[x])
}

/// Rows that ceil_mode appends on an axis: windows that start inside the input or its leading padding count.
fn ceil_excess(window: &Window, axis: usize, extent: u32) -> u32 {
    let (stride, reach) = (window.stride[axis], window.kernel[axis]);
    let padded = extent + window.pads[axis] + window.pads[2 + axis];
    let mut count = padded.saturating_sub(reach).div_ceil(stride) + 1;
    if (count - 1) * stride >= extent + window.pads[axis] {
        count -= 1;
    }
    ((count - 1) * stride + reach).saturating_sub(padded)
}

/// GlobalAveragePool.
pub(super) fn global_average(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    image_shape(t.shape(x))?;
    t.emit_value(node, TensorOp::GlobalAveragePool, &[x])
}

/// ReduceMean over both spatial axes.
pub(super) fn reduce_mean(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let [channels, ..] = image_shape(t.shape(x))?;
    let axes = match node.opset < 18 {
        true => node.ints("axes")?.map(<[i64]>::to_vec),
        false => t.optional(node, 1)?.map(|c| c.to_i64()),
    };
    let mut axes = shape::normal_axes(&axes.unwrap_or_default(), 4)?;
    axes.sort_unstable();
    if axes != [2, 3] {
        return Err(Refusal::new(
            format!("it averages over axes {axes:?}"),
            "only the mean over both spatial axes [2, 3] is supported",
        ));
    }
    let mean = t.emit(node, TensorOp::GlobalAveragePool, &[x])?;
    match node.int_or("keepdims", 1)? {
        0 => row(t, node, mean, channels),
        _ => Ok(Value::Data(mean)),
    }
}

fn row(t: &mut Translator, node: NodeView<'_>, x: ValueId, features: usize) -> Result<Value, Refusal> {
    t.emit_value(node, TensorOp::Reshape { shape: vec![1, features] }, &[x])
}
