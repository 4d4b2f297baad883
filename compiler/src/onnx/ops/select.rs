//! Operators that pick or place elements: Pad, Slice, Concat. Picking is linear: a convolution with a kernel of zeros
//! and ones, which the later passes fuse like any other.

use peregrine_ir::ValueId;
use peregrine_ir::tensor::{Conv, TensorOp};

use super::affine::per_channel;
use super::image_shape;
use super::shape::normal_axes;
use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::tensor::Constant;
use crate::onnx::translate::{Translator, Value};

/// `count` coordinates from `start`, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pick {
    start: usize,
    count: usize,
    step: usize,
}

impl Pick {
    fn all(extent: usize) -> Self {
        Self { start: 0, count: extent, step: 1 }
    }

    /// Smallest kernel (its last or an earlier tap is 1) whose valid convolution has exactly `count` results.
    fn kernel(self, extent: usize) -> usize {
        let fewest = self.start + 1;
        let results = |kernel: usize| (extent - kernel) / self.step + 1;
        if results(fewest) == self.count { fewest } else { extent - (self.count - 1) * self.step }
    }
}

/// Result channel i is channel `sources[i]` of x (zero when `None`) at the picked rows and columns.
fn select(
    t: &mut Translator,
    node: NodeView<'_>,
    x: ValueId,
    sources: &[Option<usize>],
    picks: [Pick; 2],
    bias: Option<Vec<f32>>,
) -> Result<ValueId, Refusal> {
    let [channels, h, w] = image_shape(t.shape(x))?;
    let in_place = sources.len() == channels && sources.iter().enumerate().all(|(i, s)| *s == Some(i));
    if in_place && picks == [Pick::all(h), Pick::all(w)] && bias.is_none() {
        return Ok(x);
    }
    let [kh, kw] = [picks[0].kernel(h), picks[1].kernel(w)];
    let tap = picks[0].start * kw + picks[1].start;
    let (groups, per_group) = if in_place { (channels, 1) } else { (1, channels) };
    let mut weights = vec![0.0; sources.len() * per_group * kh * kw];
    for (out, source) in sources.iter().enumerate() {
        if let Some(source) = source {
            let input = if in_place { 0 } else { *source };
            weights[(out * per_group + input) * kh * kw + tap] = 1.0;
        }
    }
    let weights = t.floats(&[sources.len(), per_group, kh, kw], weights);
    let bias = bias.map(|b| t.floats(&[sources.len()], b));
    let stride = picks.map(|p| p.step as u32);
    let conv = Conv { weights, bias, stride, pads: [0; 4], dilation: [1, 1], groups: groups as u32 };
    t.emit(node, TensorOp::Conv(conv), &[x])
}

/// Pad with zeros: rows and columns stay padding, channels become a selection.
pub(super) fn pad(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let [channels, h, w] = image_shape(t.shape(x))?;
    let mode = node.text_or("mode", "constant")?;
    if mode != "constant" {
        return Err(Refusal::new(format!("padding mode {mode:?} is not supported"), "pad with zeros"));
    }
    let value = match node.opset < 11 {
        true => f64::from(node.float("value")?.unwrap_or(0.0)),
        false => t.optional(node, 2)?.and_then(|c| c.scalar()).unwrap_or(0.0),
    };
    if value != 0.0 {
        return Err(Refusal::new(format!("it pads with {value}"), "pad with zeros"));
    }
    let amounts = pad_amounts(t, node)?;
    let [[0, 0], [before, after], [top, bottom], [left, right]] = amounts else {
        return Err(Refusal::new("it pads the batch", "keep batch 1"));
    };
    let mut padded = x;
    if before + after > 0 {
        let sources: Vec<Option<usize>> =
            (0..before + channels + after).map(|i| i.checked_sub(before).filter(|&c| c < channels)).collect();
        padded = select(t, node, x, &sources, [Pick::all(h), Pick::all(w)], None)?;
    }
    let pads = [top, left, bottom, right].map(|p| p as u32);
    if pads == [0; 4] {
        return Ok(Value::Data(padded));
    }
    t.emit_value(node, TensorOp::Pad { pads }, &[padded])
}

/// Padding before and after each of the four axes.
fn pad_amounts(t: &Translator, node: NodeView<'_>) -> Result<[[usize; 2]; 4], Refusal> {
    let bad = || Refusal::new("its pads are not eight numbers of at least 0", "use Slice to crop");
    let pads = match node.opset < 11 {
        true => node.ints("pads")?.ok_or_else(bad)?.to_vec(),
        false => t.constant(node, 1)?.to_i64(),
    };
    let axes = match t.optional(node, 3)? {
        Some(axes) => normal_axes(&axes.to_i64(), 4)?,
        None => (0..4).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(bad());
    }
    let mut amounts = [[0; 2]; 4];
    for (i, &axis) in axes.iter().enumerate() {
        let amount = |p: i64| usize::try_from(p).ok().filter(|&p| p < 1 << 16).ok_or_else(bad);
        amounts[axis] = [amount(pads[i])?, amount(pads[axes.len() + i])?];
    }
    Ok(amounts)
}

/// Slice with positive steps.
pub(super) fn slice(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let [channels, h, w] = image_shape(t.shape(x))?;
    let extents = [1, channels, h, w];
    let list = |i: usize, name: &str| -> Result<Option<Vec<i64>>, Refusal> {
        match node.opset < 10 {
            true => Ok(node.ints(name)?.map(<[i64]>::to_vec)),
            false => Ok(t.optional(node, i)?.map(|c| c.to_i64())),
        }
    };
    let bad = || Refusal::new("its starts, ends, axes and steps do not agree", "export the model again");
    let (starts, ends) = (list(1, "starts")?.ok_or_else(bad)?, list(2, "ends")?.ok_or_else(bad)?);
    let axes = match list(3, "axes")? {
        Some(axes) => normal_axes(&axes, 4)?,
        None => (0..starts.len().min(4)).collect(),
    };
    let steps = list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(bad());
    }
    let mut picks = extents.map(Pick::all);
    for (i, &axis) in axes.iter().enumerate() {
        picks[axis] = range(starts[i], ends[i], steps[i], extents[axis])?;
    }
    if picks[0] != Pick::all(1) {
        return Err(Refusal::new("it slices the batch", "keep batch 1"));
    }
    let sources: Vec<Option<usize>> =
        (0..picks[1].count).map(|i| Some(picks[1].start + i * picks[1].step)).collect();
    Ok(Value::Data(select(t, node, x, &sources, [picks[2], picks[3]], None)?))
}

fn range(start: i64, end: i64, step: i64, extent: usize) -> Result<Pick, Refusal> {
    let clamp =
        |i: i64| (if i < 0 { i.saturating_add(extent as i64) } else { i }).clamp(0, extent as i64) as usize;
    let (start, end) = (clamp(start), clamp(end));
    let step = usize::try_from(step).ok().filter(|&s| s > 0);
    let step = step.ok_or_else(|| Refusal::new("it slices backwards", "use positive steps"))?.min(extent);
    if start >= end {
        return Err(Refusal::new("it takes nothing", "remove it"));
    }
    Ok(Pick { start, count: (end - start).div_ceil(step), step })
}

/// Concat along the channels: each encrypted part is placed by a selection and the parts are added.
pub(super) fn concat(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let parts: Vec<Value> =
        (0..node.proto.input.len()).map(|i| t.value(node, i).cloned()).collect::<Result<_, _>>()?;
    let first = parts.iter().find_map(|p| if let Value::Data(id) = p { Some(*id) } else { None });
    let first = first.ok_or_else(|| Refusal::new("it has no encrypted operand", "fold it"))?;
    let [_, h, w] = image_shape(t.shape(first))?;
    if normal_axes(&[node.int_or("axis", 1)?], 4)? != [1] {
        return Err(Refusal::new("it does not concatenate along the channels", "concatenate along axis 1"));
    }
    let widths = parts.iter().map(|p| part_channels(t, p, [h, w])).collect::<Result<Vec<_>, _>>()?;
    let total: usize = widths.iter().sum();
    let mut bias = vec![0.0f32; total];
    let mut placed: Vec<(ValueId, usize, usize)> = Vec::new();
    let mut offset = 0;
    for (part, width) in parts.iter().zip(&widths) {
        match part {
            Value::Data(id) => placed.push((*id, offset, *width)),
            Value::Constant(c) => constant_part(c, [*width, h, w], &mut bias[offset..offset + width])?,
            Value::Unusable => {}
        }
        offset += width;
    }
    let mut bias = bias.iter().any(|&b| b != 0.0).then_some(bias);
    let mut sum: Option<ValueId> = None;
    for (id, offset, width) in placed {
        let sources: Vec<Option<usize>> =
            (0..total).map(|i| i.checked_sub(offset).filter(|&c| c < width)).collect();
        let part = select(t, node, id, &sources, [Pick::all(h), Pick::all(w)], bias.take())?;
        sum = Some(match sum {
            None => part,
            Some(so_far) => t.emit(node, TensorOp::Add, &[so_far, part])?,
        });
    }
    Ok(Value::Data(sum.unwrap_or(first)))
}

fn part_channels(t: &Translator, part: &Value, map: [usize; 2]) -> Result<usize, Refusal> {
    let shape = match part {
        Value::Data(id) => t.shape(*id),
        Value::Constant(c) => c.shape(),
        Value::Unusable => return Ok(0),
    };
    let [channels, h, w] = image_shape(shape)?;
    match [h, w] == map {
        true => Ok(channels),
        false => Err(Refusal::new("its operands differ in rows or columns", "export the model again")),
    }
}

fn constant_part(c: &Constant, [channels, h, w]: [usize; 3], bias: &mut [f32]) -> Result<(), Refusal> {
    let values = per_channel(c, &[1, channels, h, w])?;
    bias.iter_mut().zip(values).for_each(|(b, v)| *b = v as f32);
    Ok(())
}
