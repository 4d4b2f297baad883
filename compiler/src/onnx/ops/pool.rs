//! Pooling over windows and over whole maps.

use peregrine_ir::tensor::{Pool, PoolKind, TensorOp};
use peregrine_ir::{AxisMap, Separable, ValueId};

use super::conv::Window;
use super::{axis_refusal, column, image_shape, pair, shape};
use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};
use crate::onnx::view::{View, elements};

/// AveragePool.
pub(super) fn average(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if column::applies(t, node)? {
        return column::on_column(t, node, average);
    }
    let kind = match node.int_or("count_include_pad", 0)? {
        0 => PoolKind::AverageExcludePad,
        _ => PoolKind::AverageIncludePad,
    };
    pool(t, node, kind)
}

/// MaxPool: kept, so that a later pass can refuse it together with the way out.
pub(super) fn max(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if column::applies(t, node)? {
        return column::on_column(t, node, max);
    }
    pool(t, node, PoolKind::Max)
}

fn pool(t: &mut Translator, node: NodeView<'_>, kind: PoolKind) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let [channels, h, w] = image_shape(t.shape(x))?;
    let kernel = node
        .ints("kernel_shape")?
        .ok_or_else(|| Refusal::new("it has no kernel_shape", "export the model again"))?;
    let window = Window::read(node, pair("kernel_shape", Some(kernel), 1)?, [h, w])?;
    let rounding = if node.int_or("ceil_mode", 0)? != 0 { Rounding::Ceil } else { Rounding::Floor };
    let axes = [0, 1].map(|axis| PoolAxis::new(&window, axis, [h, w][axis] as u32, rounding));
    let [Some(rows), Some(columns)] = axes else {
        return Err(Refusal::new("its window does not fit the padded map", "use a larger input"));
    };
    if kind == PoolKind::Max {
        if window.dilation != [1, 1] {
            return Err(Refusal::new("dilated maxima are not supported", "use a dilated depthwise Conv"));
        }
    } else if window.dilation != [1, 1] || !(rows.is_plain(kind) && columns.is_plain(kind)) {
        let identity = AxisMap::identity(channels as u32);
        let maps = [identity, rows.average(kind)?, columns.average(kind)?];
        return t.emit_value(node, TensorOp::Separable(Separable { maps }), &[x]);
    }
    let Window { kernel, stride, mut pads, .. } = window;
    pads[2] += rows.overhang();
    pads[3] += columns.overhang();
    t.emit_value(node, TensorOp::Pool(Pool { kind, kernel, stride, pads }), &[x])
}

/// Whether a last window that is cut by the border counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    Floor,
    Ceil,
}

/// Windows along one axis.
#[derive(Clone, Copy, Debug)]
struct PoolAxis {
    extent: u32,
    before: u32,
    after: u32,
    kernel: u32,
    stride: u32,
    dilation: u32,
    /// Number of windows.
    count: u32,
}

impl PoolAxis {
    /// `None` when no window fits. Windows of ceil mode must start inside the input or the padding before it.
    fn new(window: &Window, axis: usize, extent: u32, rounding: Rounding) -> Option<Self> {
        let (before, after) = (window.pads[axis], window.pads[2 + axis]);
        let stride = window.stride[axis];
        let room = (extent + before + after).checked_sub(window.reach(axis))?;
        let mut count = room / stride + 1;
        if rounding == Rounding::Ceil && !room.is_multiple_of(stride) && count * stride < extent + before {
            count += 1;
        }
        let (kernel, dilation) = (window.kernel[axis], window.dilation[axis]);
        Some(Self { extent, before, after, kernel, stride, dilation, count })
    }

    /// Rows past the padding that the last window reaches.
    fn overhang(&self) -> u32 {
        let reach = (self.count - 1) * self.stride + (self.kernel - 1) * self.dilation + 1;
        reach.saturating_sub(self.extent + self.before + self.after)
    }

    /// Input coordinates of window `out`.
    fn taps(&self, out: u32) -> impl Iterator<Item = u32> + use<> {
        let (start, before, extent, dilation) = (out * self.stride, self.before, self.extent, self.dilation);
        (0..self.kernel)
            .filter_map(move |k| (start + k * dilation).checked_sub(before))
            .filter(move |&i| i < extent)
    }

    /// Number of taps that a mean divides by.
    fn divisor(&self, out: u32, kind: PoolKind) -> usize {
        match kind {
            PoolKind::AverageIncludePad => {
                let padded = self.extent + self.before + self.after;
                (0..self.kernel).filter(|k| out * self.stride + k * self.dilation < padded).count()
            }
            PoolKind::AverageExcludePad | PoolKind::Max => self.taps(out).count(),
        }
    }

    /// Whether every window divides by the same number, so that the pool is a convolution.
    fn is_plain(&self, kind: PoolKind) -> bool {
        let padding = kind == PoolKind::AverageIncludePad || self.before + self.after + self.overhang() == 0;
        padding && (0..self.count).all(|out| self.divisor(out, kind) == self.kernel as usize)
    }

    fn average(&self, kind: PoolKind) -> Result<AxisMap, Refusal> {
        let rows = (0..self.count).flat_map(|out| {
            let factor = 1.0 / self.divisor(out, kind).max(1) as f32;
            self.taps(out).map(move |i| (i64::from(out), i64::from(i), factor))
        });
        AxisMap::collect(self.extent, self.count, rows).map_err(axis_refusal)
    }
}

/// GlobalAveragePool.
pub(super) fn global_average(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if column::applies(t, node)? {
        return column::on_column(t, node, global_average);
    }
    let x = t.data(node, 0)?;
    image_shape(t.shape(x))?;
    t.emit_value(node, TensorOp::GlobalAveragePool, &[x])
}

/// ReduceMean over channels, rows or columns.
pub(super) fn reduce_mean(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    reduce(t, node, node.opset < 18, |extent| 1.0 / extent as f32)
}

/// ReduceSum over channels, rows or columns.
pub(super) fn reduce_sum(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    reduce(t, node, node.opset < 13, |_| 1.0)
}

fn reduce(
    t: &mut Translator,
    node: NodeView<'_>,
    attribute: bool,
    factor: impl Fn(usize) -> f32,
) -> Result<Value, Refusal> {
    let shape = t.data_shape(node, 0)?;
    let axes = match attribute {
        true => node.ints("axes")?.map(<[i64]>::to_vec),
        false => t.optional(node, 1)?.map(|c| c.to_i64()),
    };
    let axes = match axes {
        Some(axes) if !axes.is_empty() => shape::normal_axes(&axes, shape.len())?,
        _ => (0..shape.len()).collect(),
    };
    let kept = match node.int_or("keepdims", 1)? {
        0 => (0..shape.len()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis]).collect(),
        _ => (0..shape.len()).map(|axis| if axes.contains(&axis) { 1 } else { shape[axis] }).collect(),
    };
    let large: Vec<usize> = axes.iter().copied().filter(|&a| shape[a] != 1).collect();
    if large.is_empty() {
        let view = t.view(node, 0)?;
        return t.moved(view.reshaped(kept));
    }
    if shape.len() > 4 {
        return few_terms(t, node, &large, factor, kept);
    }
    let Reduced { x, axes, order } = reduced_map(t, node, &shape, &large)?;
    let extents = image_shape(t.shape(x))?;
    let whole_mean = axes == [2, 3] && factor(2) != 1.0;
    let y = match whole_mean {
        true => t.emit(node, TensorOp::GlobalAveragePool, &[x])?,
        false => {
            let map = |axis: usize| {
                let extent = extents[axis] as u32;
                let sum = (0..i64::from(extent)).map(|i| (0, i, factor(extents[axis])));
                match axes.contains(&(axis + 1)) {
                    true => AxisMap::collect(extent, 1, sum).map_err(axis_refusal),
                    false => Ok(AxisMap::identity(extent)),
                }
            };
            let maps = [map(0)?, map(1)?, map(2)?];
            t.emit(node, TensorOp::Separable(Separable { maps }), &[x])?
        }
    };
    t.moved(View::of(y, t.shape(y)).permuted(&order).reshaped(kept))
}

/// A map and which of its axes are reduced; the operand has its axes in this order.
struct Reduced {
    x: ValueId,
    axes: Vec<usize>,
    order: [usize; 4],
}

/// The operand as a map: a view that permutes the axes of a map (channels last) is undone.
fn reduced_map(
    t: &mut Translator,
    node: NodeView<'_>,
    shape: &[usize],
    axes: &[usize],
) -> Result<Reduced, Refusal> {
    let sorted =
        |axes: Vec<usize>| axes.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let (first, last) = ([0, 1, 2, 3], [0, 2, 3, 1]);
    let view = t.view(node, 0)?;
    if let ([_, _, _, channels], [part]) = (shape, view.parts.as_slice())
        && view.permutation(elements(t.shape(part.base))).is_some()
        && t.shape(part.base).len() == 4
        && *part.table == *View::of(part.base, t.shape(part.base)).permuted(&last).parts[0].table
    {
        debug_assert_eq!(*channels, t.shape(part.base)[1]);
        let axes = axes.iter().map(|&a| last[a]).filter(|&a| a > 0).collect();
        return Ok(Reduced { x: part.base, axes: sorted(axes), order: last });
    }
    if axes.contains(&0) || shape.len() < 2 {
        return Err(Refusal::new(
            format!("it reduces axes {axes:?} of {}", shape_text(Some(shape))),
            "reduce channels, rows or columns of a map [1, C, H, W]",
        ));
    }
    let axes = sorted(axes.to_vec());
    if shape.len() == 4 {
        return Ok(Reduced { x: t.data(node, 0)?, axes, order: first });
    }
    let map: Vec<usize> = shape.iter().copied().chain([1, 1]).take(4).collect();
    let x = t.settle(node.name(), &view.reshaped(map))?;
    Ok(Reduced { x, axes, order: first })
}

/// Most terms of a sum over the axes of a tensor that is no map.
const MAX_TERMS: usize = 64;

/// A sum over few coordinates, term by term.
fn few_terms(
    t: &mut Translator,
    node: NodeView<'_>,
    axes: &[usize],
    factor: impl Fn(usize) -> f32,
    kept: Vec<usize>,
) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    let count: usize = axes.iter().map(|&a| view.shape[a]).product();
    if count > MAX_TERMS {
        return Err(Refusal::new(
            format!("it reduces axes {axes:?} of {}", shape_text(Some(&view.shape))),
            "reduce channels, rows or columns of a map [1, C, H, W]",
        ));
    }
    let mut total: Option<ValueId> = None;
    for term in 0..count {
        let mut rest = term;
        let mut coordinates: Vec<Vec<u32>> = view.shape.iter().map(|&e| (0..e as u32).collect()).collect();
        for &axis in axes {
            coordinates[axis] = vec![(rest % view.shape[axis]) as u32];
            rest /= view.shape[axis];
        }
        let value = t.settle(node.name(), &view.indexed(&coordinates, 0.0).reshaped(kept.clone()))?;
        total = Some(match total {
            None => value,
            Some(so_far) => t.emit(node, TensorOp::Add, &[so_far, value])?,
        });
    }
    let Some(total) = total else { return t.moved(view.reshaped(kept)) };
    let factor: f64 = axes.iter().map(|&a| f64::from(factor(view.shape[a]))).product();
    let channels = super::affine::channels(t.shape(total))?;
    let scaled = super::affine::Operand::still(total);
    super::affine::affine(t, node, &scaled, vec![factor; channels], vec![0.0; channels])
}
