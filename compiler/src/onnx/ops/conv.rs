//! Convolution, and the window arithmetic that it shares with pooling.

use peregrine_ir::tensor::{Conv, TensorOp};

use super::{column, image_shape, pair};
use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};

/// Geometry of a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) kernel: [u32; 2],
    pub(super) stride: [u32; 2],
    pub(super) dilation: [u32; 2],
    /// Top, left, bottom, right.
    pub(super) pads: [u32; 4],
}

impl Window {
    /// Reads strides, dilations, pads and auto_pad; `kernel` is known from the weights or from `kernel_shape`.
    pub(super) fn read(node: NodeView<'_>, kernel: [u32; 2], input: [usize; 2]) -> Result<Self, Refusal> {
        let stride = pair("strides", node.ints("strides")?, 1)?;
        let dilation = pair("dilations", node.ints("dilations")?, 1)?;
        let mut window = Self { kernel, stride, dilation, pads: [0; 4] };
        match node.text_or("auto_pad", "NOTSET")? {
            "VALID" => {}
            "SAME_UPPER" => window.pads = window.same_pads(input, |total| total / 2),
            "SAME_LOWER" => window.pads = window.same_pads(input, |total| total - total / 2),
            "NOTSET" => window.pads = explicit_pads(node)?,
            other => {
                return Err(Refusal::new(format!("auto_pad {other:?} is not known"), "write explicit pads"));
            }
        }
        Ok(window)
    }

    /// Extent of the dilated kernel on an axis.
    pub(super) fn reach(&self, axis: usize) -> u32 {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    fn same_pads(&self, input: [usize; 2], before: impl Fn(u32) -> u32) -> [u32; 4] {
        let total = |axis: usize| {
            let (extent, stride) = (input[axis] as u32, self.stride[axis]);
            ((extent.div_ceil(stride) - 1) * stride + self.reach(axis)).saturating_sub(extent)
        };
        let [rows, columns] = [total(0), total(1)];
        let (top, left) = (before(rows), before(columns));
        [top, left, rows - top, columns - left]
    }
}

pub(super) fn explicit_pads(node: NodeView<'_>) -> Result<[u32; 4], Refusal> {
    let bad = || {
        Refusal::new(
            "attribute \"pads\" is not four numbers of at least 0",
            "use two spatial dimensions, and Slice to crop",
        )
    };
    let Some(pads) = node.ints("pads")? else { return Ok([0; 4]) };
    let pads: Vec<u32> = pads
        .iter()
        .map(|&p| u32::try_from(p).ok().filter(|&p| p < 1 << 16))
        .collect::<Option<_>>()
        .ok_or_else(bad)?;
    pads.try_into().map_err(|_| bad())
}

/// Conv: weights and bias must be constant.
pub(super) fn conv(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if column::applies(t, node)? {
        return match column::along_channels(t, node)? {
            Some(value) => Ok(value),
            None => column::on_column(t, node, conv),
        };
    }
    let x = t.data(node, 0)?;
    let [_, h, w] = image_shape(t.shape(x))?;
    let weights = t.constant(node, 1)?;
    let &[c_out, _, kh, kw] = weights.shape() else {
        let rank = weights.shape().len();
        return Err(Refusal::new(
            format!("its weights have {rank} dimensions"),
            "only two-dimensional convolutions are supported",
        ));
    };
    let kernel = pair("kernel", Some(&[kh as i64, kw as i64]), 1)?;
    if let Some(stated) = node.ints("kernel_shape")?
        && stated != [kh as i64, kw as i64]
    {
        return Err(Refusal::new("kernel_shape contradicts the weights", "export the model again"));
    }
    let window = Window::read(node, kernel, [h, w])?;
    let groups = u32::try_from(node.int_or("group", 1)?).ok().filter(|&g| g > 0);
    let groups = groups
        .ok_or_else(|| Refusal::new("attribute \"group\" is not positive", "export the model again"))?;
    let bias = t.optional(node, 2)?;
    let weights = t.floats(weights.shape(), weights.to_f32());
    let bias = bias.map(|b| t.floats(&[c_out], b.to_f32()));
    let Window { stride, dilation, pads, .. } = window;
    t.emit_value(node, TensorOp::Conv(Conv { weights, bias, stride, pads, dilation, groups }), &[x])
}
