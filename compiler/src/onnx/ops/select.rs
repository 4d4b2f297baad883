//! Operators that pick or place elements: Pad, Slice, Split, Gather, Concat, Expand, Tile, DepthToSpace, SpaceToDepth. They only move
//! elements: nothing is computed before a layer reads the result.

use super::shape::normal_axes;
use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};
use crate::onnx::view::{NOWHERE, View, elements};

/// Coordinates of every axis of a shape, unmoved.
fn unmoved(shape: &[usize]) -> Vec<Vec<u32>> {
    shape.iter().map(|&extent| (0..extent as u32).collect()).collect()
}

/// The indexed view, which must keep the batch of 1 where it has one.
fn indexed(t: &Translator, view: &View, axes: &[Vec<u32>], fill: f32) -> Result<Value, Refusal> {
    if axes.iter().any(Vec::is_empty) {
        return Err(Refusal::new("it takes nothing", "remove it"));
    }
    small(&axes.iter().map(Vec::len).collect::<Vec<_>>())?;
    t.moved(view.indexed(axes, fill))
}

/// Refuses shapes of more elements than a view may have.
fn small(shape: &[usize]) -> Result<(), Refusal> {
    let fits =
        shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d).filter(|&n| n <= crate::onnx::view::MAX_VIEW));
    match fits {
        Some(_) => Ok(()),
        None => Err(Refusal::new(
            format!("its result {} is too large", shape_text(Some(shape))),
            "use a smaller input",
        )),
    }
}

/// Pad with a constant or with the border's pixels.
pub(super) fn pad(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    let mode = node.text_or("mode", "constant")?;
    let edge = match mode {
        "constant" | "edge" | "reflect" => mode,
        _ => return Err(Refusal::new(format!("padding mode {mode:?} is not supported"), "pad with zeros")),
    };
    let fill = match node.opset < 11 {
        true => node.float("value")?.unwrap_or(0.0),
        false => t.optional(node, 2)?.and_then(|c| c.scalar()).unwrap_or(0.0) as f32,
    };
    let mut axes = unmoved(&view.shape);
    for (axis, [before, after]) in pad_amounts(t, node, view.shape.len())?.into_iter().enumerate() {
        if axis == 0 && [before, after] != [0, 0] {
            return Err(Refusal::new("it pads the batch", "keep batch 1"));
        }
        let extent = view.shape[axis] as i64;
        axes[axis] = (-before..extent + after).map(|at| padded(edge, at, extent)).collect();
    }
    indexed(t, &view, &axes, fill)
}

/// Coordinate that stands at `at`, which may lie outside the extent.
fn padded(mode: &str, at: i64, extent: i64) -> u32 {
    let inside = match mode {
        "edge" => at.clamp(0, extent - 1),
        "reflect" if extent > 1 => {
            let period = 2 * (extent - 1);
            let at = at.rem_euclid(period);
            at.min(period - at)
        }
        _ => at,
    };
    if (0..extent).contains(&inside) { inside as u32 } else { NOWHERE }
}

/// Padding before and after each axis.
fn pad_amounts(t: &Translator, node: NodeView<'_>, rank: usize) -> Result<Vec<[i64; 2]>, Refusal> {
    let bad =
        || Refusal::new("its pads are not two numbers of at least 0 for each axis", "use Slice to crop");
    let pads = match node.opset < 11 {
        true => node.ints("pads")?.ok_or_else(bad)?.to_vec(),
        false => t.constant(node, 1)?.to_i64(),
    };
    let axes = match t.optional(node, 3)? {
        Some(axes) => normal_axes(&axes.to_i64(), rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|p| !(0..1 << 16).contains(p)) {
        return Err(bad());
    }
    let mut amounts = vec![[0; 2]; rank];
    for (i, &axis) in axes.iter().enumerate() {
        amounts[axis] = [pads[i], pads[axes.len() + i]];
    }
    Ok(amounts)
}

/// Slice, backwards too.
pub(super) fn slice(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    let list = |i: usize, name: &str| -> Result<Option<Vec<i64>>, Refusal> {
        match node.opset < 10 {
            true => Ok(node.ints(name)?.map(<[i64]>::to_vec)),
            false => Ok(t.optional(node, i)?.map(|c| c.to_i64())),
        }
    };
    let bad = || Refusal::new("its starts, ends, axes and steps do not agree", "export the model again");
    let (starts, ends) = (list(1, "starts")?.ok_or_else(bad)?, list(2, "ends")?.ok_or_else(bad)?);
    let rank = view.shape.len();
    let sliced = match list(3, "axes")? {
        Some(axes) => normal_axes(&axes, rank)?,
        None => (0..starts.len().min(rank)).collect(),
    };
    let steps = list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), sliced.len(), steps.len()] != [starts.len(); 3] || steps.contains(&0) {
        return Err(bad());
    }
    let mut axes = unmoved(&view.shape);
    for (i, &axis) in sliced.iter().enumerate() {
        axes[axis] = range(starts[i], ends[i], steps[i], view.shape[axis]);
    }
    indexed(t, &view, &axes, 0.0)
}

fn range(start: i64, end: i64, step: i64, extent: usize) -> Vec<u32> {
    let extent = extent as i64;
    let from_end = |i: i64| if i < 0 { i.saturating_add(extent) } else { i };
    let (low, high) = if step > 0 { (0, extent) } else { (-1, extent - 1) };
    let start = from_end(start).clamp(low.max(0), high);
    let end = from_end(end).clamp(low, high);
    std::iter::successors(Some(start), |at| at.checked_add(step))
        .take_while(|&at| if step > 0 { at < end } else { at > end })
        .map(|at| at as u32)
        .collect()
}

/// Gather of constant indices along one axis.
pub(super) fn gather(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    let indices = t.constant(node, 1)?;
    let axis = normal_axes(&[node.int_or("axis", 0)?], view.shape.len())?[0];
    let extent = view.shape[axis] as i64;
    let place =
        |&i: &i64| u32::try_from(if i < 0 { i + extent } else { i }).ok().filter(|&i| i64::from(i) < extent);
    let chosen: Option<Vec<u32>> = indices.to_i64().iter().map(place).collect();
    let chosen =
        chosen.ok_or_else(|| Refusal::new("an index is outside its operand", "export the model again"))?;
    let mut axes = unmoved(&view.shape);
    axes[axis] = chosen;
    if axes[axis].is_empty() {
        return Err(Refusal::new("it takes nothing", "remove it"));
    }
    let mut shape = view.shape.clone();
    shape.splice(axis..=axis, indices.shape().iter().copied());
    small(&shape)?;
    t.moved(view.indexed(&axes, 0.0).reshaped(shape))
}

/// Split: all its parts.
pub(crate) fn split(t: &mut Translator, node: NodeView<'_>) -> Result<Vec<Value>, Refusal> {
    let view = t.view(node, 0)?;
    let axis = normal_axes(&[node.int_or("axis", 0)?], view.shape.len())?[0];
    let (extent, count) = (view.shape[axis], node.proto.output.len());
    let given = match node.opset < 13 {
        true => node.ints("split")?.map(<[i64]>::to_vec),
        false => t.optional(node, 1)?.map(|c| c.to_i64()),
    };
    let part = extent.div_ceil(count.max(1));
    let widths: Vec<usize> = match given {
        Some(given) => given.iter().map(|&w| usize::try_from(w).unwrap_or(0)).collect(),
        None => (0..count).map(|i| part.min(extent.saturating_sub(i * part))).collect(),
    };
    if widths.len() != count || widths.iter().sum::<usize>() != extent || widths.contains(&0) {
        return Err(Refusal::new("its parts do not fit its operand", "export the model again"));
    }
    let mut start = 0;
    let mut parts = Vec::with_capacity(count);
    for width in widths {
        let mut axes = unmoved(&view.shape);
        axes[axis] = (start..start + width).map(|i| i as u32).collect();
        parts.push(indexed(t, &view, &axes, 0.0)?);
        start += width;
    }
    Ok(parts)
}

/// Concat of encrypted and constant parts along any axis.
pub(super) fn concat(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let count = node.proto.input.len();
    let views = (0..count).map(|i| t.view(node, i)).collect::<Result<Vec<View>, _>>()?;
    let first = views.first().ok_or_else(|| Refusal::new("it has no operand", "remove it"))?;
    let axis = normal_axes(&[node.int_or("axis", 1)?], first.shape.len())?[0];
    let agrees = |view: &View| {
        view.shape.len() == first.shape.len()
            && view.shape.iter().zip(&first.shape).enumerate().all(|(i, (a, b))| i == axis || a == b)
    };
    if let Some(other) = views.iter().find(|view| !agrees(view)) {
        let (a, b) = (shape_text(Some(&first.shape)), shape_text(Some(&other.shape)));
        return Err(Refusal::new(
            format!("it joins {a} and {b}: its parts have other sizes"),
            "give an input whose sides the strides divide (--input-shape), or export the model again",
        ));
    }
    let mut shape = first.shape.clone();
    shape[axis] = views.iter().map(|v| v.shape[axis]).sum();
    small(&shape)?;
    t.moved(View::joined(&views, axis))
}

/// Expand: coordinates repeat.
pub(super) fn expand(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    let target = t.constant(node, 1)?.to_i64();
    let bad = || Refusal::new(format!("its shape {target:?} does not fit"), "export the model again");
    let rank = view.shape.len().max(target.len());
    let from: Vec<usize> =
        std::iter::repeat_n(1, rank - view.shape.len()).chain(view.shape.iter().copied()).collect();
    let mut shape = from.clone();
    for (axis, &extent) in (rank - target.len()..).zip(&target) {
        let extent = usize::try_from(extent).ok().filter(|&e| e > 0).ok_or_else(bad)?;
        shape[axis] = if extent == 1 { from[axis] } else { extent };
    }
    t.moved(expanded(view, &shape)?.ok_or_else(bad)?)
}

/// The view repeated along axes of extent 1 to `shape`; `None` when it does not broadcast to it.
pub(super) fn expanded(view: View, shape: &[usize]) -> Result<Option<View>, Refusal> {
    let Some(lead) = shape.len().checked_sub(view.shape.len()) else { return Ok(None) };
    let from: Vec<usize> = std::iter::repeat_n(1, lead).chain(view.shape.iter().copied()).collect();
    if from == shape {
        return Ok(Some(view.reshaped(from)));
    }
    small(shape)?;
    let axis = |(&own, &extent): (&usize, &usize)| match own {
        _ if own == extent => Some((0..extent as u32).collect()),
        1 => Some(vec![0; extent]),
        _ => None,
    };
    let axes: Option<Vec<Vec<u32>>> = from.iter().zip(shape).map(axis).collect();
    Ok(axes.map(|axes| view.reshaped(from.clone()).indexed(&axes, 0.0)))
}

/// Tile.
pub(super) fn tile(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    let repeats = t.constant(node, 1)?.to_i64();
    let mut axes = unmoved(&view.shape);
    let usable = repeats.len() == axes.len() && repeats.iter().all(|r| (1..1 << 16).contains(r));
    if !usable {
        return Err(Refusal::new(format!("its repeats {repeats:?} do not fit"), "export the model again"));
    }
    for (axis, &count) in axes.iter_mut().zip(&repeats) {
        *axis = axis.repeat(count as usize);
    }
    indexed(t, &view, &axes, 0.0)
}

/// DepthToSpace in both modes.
pub(super) fn depth_to_space(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let (view, [c, h, w], block) = blocks(t, node)?;
    if !c.is_multiple_of(block * block) {
        return Err(Refusal::new("its block size does not divide the channels", "export the model again"));
    }
    let depth = c / (block * block);
    let moved = match node.text_or("mode", "DCR")? {
        "CRD" => view.reshaped(vec![1, depth, block, block, h, w]).permuted(&[0, 1, 4, 2, 5, 3]),
        "DCR" => view.reshaped(vec![1, block, block, depth, h, w]).permuted(&[0, 3, 4, 1, 5, 2]),
        other => return Err(Refusal::new(format!("mode {other:?} is not known"), "use DCR or CRD")),
    };
    t.moved(moved.reshaped(vec![1, depth, h * block, w * block]))
}

/// SpaceToDepth.
pub(super) fn space_to_depth(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let (view, [c, h, w], block) = blocks(t, node)?;
    if !h.is_multiple_of(block) || !w.is_multiple_of(block) {
        return Err(Refusal::new("its block size does not divide the map", "use another input size"));
    }
    let [rows, columns] = [h / block, w / block];
    let moved = view.reshaped(vec![1, c, rows, block, columns, block]).permuted(&[0, 3, 5, 1, 2, 4]);
    t.moved(moved.reshaped(vec![1, c * block * block, rows, columns]))
}

fn blocks(t: &Translator, node: NodeView<'_>) -> Result<(View, [usize; 3], usize), Refusal> {
    let view = t.view(node, 0)?;
    let extents = super::image_shape(&view.shape)?;
    let block =
        usize::try_from(node.int_or("blocksize", 0)?).ok().filter(|&b| b > 0 && b <= elements(&view.shape));
    let block =
        block.ok_or_else(|| Refusal::new("its block size is not positive", "export the model again"))?;
    Ok((view, extents, block))
}
