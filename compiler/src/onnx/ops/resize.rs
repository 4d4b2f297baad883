//! Resize and Upsample: each coordinate is a sparse row of at most two (linear) or four (cubic) factors.

use peregrine_ir::tensor::TensorOp;
use peregrine_ir::{AxisMap, Separable};

use super::{axis_refusal, image_shape};
use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};

/// Which input coordinate an output coordinate lies at.
#[derive(Clone, Copy, Debug)]
enum Transform {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNn,
}

/// How an input coordinate between two pixels is rounded.
#[derive(Clone, Copy, Debug)]
enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Nearest(Nearest),
    Linear,
    /// Keys' kernel of this coefficient.
    Cubic(f64),
}

/// One axis: extents and scale.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: usize,
    output: usize,
    scale: f32,
}

/// Resize.
pub(super) fn resize(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let (scales, sizes) = match node.opset < 11 {
        true => (t.optional(node, 1)?, None),
        false => (t.optional(node, 2)?, t.optional(node, 3)?),
    };
    let asymmetric = if node.opset < 11 { "asymmetric" } else { "half_pixel" };
    let rounding = if node.opset < 11 { "floor" } else { "round_prefer_floor" };
    let transform = transform(node.text_or("coordinate_transformation_mode", asymmetric)?)?;
    let mode = mode(node, node.text_or("nearest_mode", rounding)?)?;
    if node.int_or("antialias", 0)? != 0 || node.int_or("exclude_outside", 0)? != 0 {
        return Err(Refusal::new("antialias and exclude_outside are not supported", "export without them"));
    }
    if !matches!(node.text_or("keep_aspect_ratio_policy", "stretch")?, "stretch") {
        return Err(Refusal::new("it keeps the aspect ratio", "export with fixed sizes"));
    }
    let x = t.data(node, 0)?;
    let extents = image_shape(t.shape(x))?;
    let input = [1, extents[0], extents[1], extents[2]];
    let chosen = match node.ints("axes")? {
        Some(axes) => super::shape::normal_axes(axes, 4)?,
        None => (0..4).collect(),
    };
    let scales = scales.map(|c| c.to_f64()).filter(|s| !s.is_empty());
    let sizes = sizes.map(|c| c.to_i64()).filter(|s| !s.is_empty());
    let bad = || Refusal::new("its scales or sizes do not fit its operand", "export the model again");
    let mut axes = input.map(|extent| Axis { input: extent, output: extent, scale: 1.0 });
    for (i, &axis) in chosen.iter().enumerate() {
        let from = input[axis];
        axes[axis] = match (&scales, &sizes) {
            (_, Some(sizes)) => {
                let output =
                    sizes.get(i).and_then(|&s| usize::try_from(s).ok()).filter(|&s| s > 0).ok_or_else(bad)?;
                Axis { input: from, output, scale: output as f32 / from as f32 }
            }
            (Some(scales), None) => scaled(from, *scales.get(i).ok_or_else(bad)?).ok_or_else(bad)?,
            (None, None) => return Err(bad()),
        };
    }
    emit(t, node, x, axes, transform, mode)
}

/// Upsample of operator set 9.
pub(super) fn upsample(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let extents = image_shape(t.shape(x))?;
    let scales = t.constant(node, 1)?.to_f64();
    let bad = || Refusal::new("its scales do not fit its operand", "export the model again");
    let input = [1, extents[0], extents[1], extents[2]];
    let mut axes = input.map(|extent| Axis { input: extent, output: extent, scale: 1.0 });
    for (axis, place) in axes.iter_mut().enumerate() {
        *place = scaled(input[axis], *scales.get(axis).ok_or_else(bad)?).ok_or_else(bad)?;
    }
    let mode = mode(node, "floor")?;
    emit(t, node, x, axes, Transform::Asymmetric, mode)
}

fn scaled(input: usize, scale: f64) -> Option<Axis> {
    let scale = scale as f32;
    let output = (input as f32 * scale).floor();
    let usable = scale > 0.0 && (1.0..(1 << 20) as f32).contains(&output);
    usable.then_some(Axis { input, output: output as usize, scale })
}

fn transform(name: &str) -> Result<Transform, Refusal> {
    Ok(match name {
        "half_pixel" => Transform::HalfPixel,
        "half_pixel_symmetric" => Transform::HalfPixelSymmetric,
        "pytorch_half_pixel" => Transform::PytorchHalfPixel,
        "align_corners" => Transform::AlignCorners,
        "asymmetric" => Transform::Asymmetric,
        "tf_half_pixel_for_nn" => Transform::TfHalfPixelForNn,
        other => {
            return Err(Refusal::new(
                format!("coordinate transformation {other:?} is not supported"),
                "export with half_pixel, asymmetric or align_corners",
            ));
        }
    })
}

fn mode(node: NodeView<'_>, rounding: &str) -> Result<Mode, Refusal> {
    Ok(match node.text_or("mode", "nearest")? {
        "linear" | "bilinear" => Mode::Linear,
        "cubic" => Mode::Cubic(f64::from(node.float("cubic_coeff_a")?.unwrap_or(-0.75))),
        "nearest" => Mode::Nearest(match rounding {
            "round_prefer_floor" => Nearest::RoundPreferFloor,
            "round_prefer_ceil" => Nearest::RoundPreferCeil,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            other => {
                return Err(Refusal::new(
                    format!("rounding {other:?} is not known"),
                    "export the model again",
                ));
            }
        }),
        other => {
            return Err(Refusal::new(format!("mode {other:?} is not supported"), "use nearest or linear"));
        }
    })
}

fn emit(
    t: &mut Translator,
    node: NodeView<'_>,
    x: peregrine_ir::ValueId,
    axes: [Axis; 4],
    transform: Transform,
    mode: Mode,
) -> Result<Value, Refusal> {
    let [batch, spatial @ ..] = axes;
    if batch.input != batch.output {
        return Err(Refusal::new("it resizes the batch", "keep batch 1"));
    }
    let map = |axis: Axis| {
        let rows = (0..axis.output).flat_map(|out| {
            let at = axis.position(out, transform);
            taps(at, axis.input, mode).into_iter().map(move |(i, factor)| (out as i64, i, factor as f32))
        });
        AxisMap::collect(axis.input as u32, axis.output as u32, rows).map_err(axis_refusal)
    };
    let [c, h, w] = spatial;
    let map = Separable { maps: [map(c)?, map(h)?, map(w)?] };
    if map.is_identity() {
        return Ok(Value::Data(x));
    }
    t.emit_value(node, TensorOp::Separable(map), &[x])
}

impl Axis {
    /// In `f32`, as ONNX runtimes compute it: rounding decides which pixel is nearest.
    fn position(self, out: usize, transform: Transform) -> f64 {
        if self.input == self.output && self.scale == 1.0 {
            return out as f64;
        }
        let (at, scale) = (out as f32, self.scale);
        let (input, output) = (self.input as f32, self.output as f32);
        f64::from(match transform {
            Transform::HalfPixel => (at + 0.5) / scale - 0.5,
            Transform::HalfPixelSymmetric => {
                let shrink = output / (scale * input);
                input / 2.0 * (1.0 - shrink) + (at + 0.5) / scale - 0.5
            }
            Transform::PytorchHalfPixel if self.output > 1 => (at + 0.5) / scale - 0.5,
            Transform::PytorchHalfPixel => 0.0,
            Transform::AlignCorners if self.output > 1 => at * (input - 1.0) / (output - 1.0),
            Transform::AlignCorners => 0.0,
            Transform::Asymmetric => at / scale,
            Transform::TfHalfPixelForNn => (at + 0.5) / scale,
        })
    }
}

/// Input coordinates and their factors at a position; coordinates outside count as the border.
fn taps(at: f64, extent: usize, mode: Mode) -> Vec<(i64, f64)> {
    let inside = |i: f64| i.clamp(0.0, extent as f64 - 1.0) as i64;
    let floor = at.floor();
    let fraction = at - floor;
    match mode {
        Mode::Nearest(rounding) => {
            let rounded = match rounding {
                Nearest::RoundPreferFloor => (at - 0.5).ceil(),
                Nearest::RoundPreferCeil => (at + 0.5).floor(),
                Nearest::Floor => floor,
                Nearest::Ceil => at.ceil(),
            };
            vec![(inside(rounded), 1.0)]
        }
        Mode::Linear => vec![(inside(floor), 1.0 - fraction), (inside(floor + 1.0), fraction)],
        Mode::Cubic(a) => {
            let near = |d: f64| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
            let far = |d: f64| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
            let factors = [far(1.0 + fraction), near(fraction), near(1.0 - fraction), far(2.0 - fraction)];
            (-1..3).zip(factors).map(|(step, factor)| (inside(floor + f64::from(step)), factor)).collect()
        }
    }
}
