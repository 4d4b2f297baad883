//! The image input as the model's metadata or the flags describe it, and the class names.
//!
//! Metadata properties: `peregrine.input.mean`, `peregrine.input.std` (comma-separated, after division by 255),
//! `peregrine.input.channels` (`gray` or `rgb`), `peregrine.labels` (comma- or newline-separated, or a JSON list).

use peregrine_ir::client::{ImageOrder, ImageSpec, PixelFormat};
use thiserror::Error;
use tract_onnx::pb::ModelProto;

/// Key of the means.
pub const MEAN: &str = "peregrine.input.mean";
/// Key of the standard deviations.
pub const STD: &str = "peregrine.input.std";
/// Key of the pixel format.
pub const CHANNELS: &str = "peregrine.input.channels";
/// Key of the class names.
pub const LABELS: &str = "peregrine.labels";

/// A metadata property, or a flag that stands for it, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("model property {key:?} = {value:?}: {why}")]
pub struct MetadataError {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// What is expected.
    pub why: String,
}

/// Whose word counts where the user and the model both say something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precedence {
    /// The user's.
    #[default]
    User,
    /// The model's: the user speaks for models that say nothing.
    Model,
}

/// What the user says about the image input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageOverrides {
    /// Per-channel mean, or one for all.
    pub mean: Option<Vec<f32>>,
    /// Per-channel standard deviation, or one for all.
    pub std: Option<Vec<f32>>,
    /// Whether this counts before what the model says.
    pub precedence: Precedence,
}

/// The image input for an input of `shape`; `None` when the input is no image of one or three channels.
///
/// # Errors
/// When a property or flag does not fit.
pub fn image_spec(
    model: &ModelProto,
    shape: &[usize],
    overrides: &ImageOverrides,
) -> Result<Option<ImageSpec>, MetadataError> {
    let (order, channels, height, width) = match shape {
        [1, c @ (1 | 3), h, w] => (ImageOrder::Nchw, *c, *h, *w),
        [1, h, w, c @ (1 | 3)] => (ImageOrder::Nhwc, *c, *h, *w),
        _ => return Ok(None),
    };
    let format = if channels == 1 { PixelFormat::Gray } else { PixelFormat::Rgb };
    if let Some(stated) = property(model, CHANNELS) {
        let bad = |why: &str| MetadataError {
            key: CHANNELS.to_owned(),
            value: stated.to_owned(),
            why: why.to_owned(),
        };
        match (stated, format) {
            ("gray", PixelFormat::Gray) | ("rgb", PixelFormat::Rgb) => {}
            ("gray" | "rgb", _) => return Err(bad(&format!("the input has {channels} channels"))),
            _ => return Err(bad("gray or rgb is expected")),
        }
    }
    let mean = statistics(model, MEAN, (overrides.mean.as_deref(), overrides.precedence), channels, 0.0)?;
    let std = statistics(model, STD, (overrides.std.as_deref(), overrides.precedence), channels, 1.0)?;
    if let Some(bad) = std.iter().find(|s| **s <= 0.0) {
        return Err(MetadataError {
            key: STD.to_owned(),
            value: bad.to_string(),
            why: "it must be positive".into(),
        });
    }
    Ok(Some(ImageSpec { format, order, height: height as u32, width: width as u32, mean, std }))
}

/// Class names that the model carries.
///
/// # Errors
/// When the property is no list of names.
pub fn labels(model: &ModelProto) -> Result<Vec<String>, MetadataError> {
    match property(model, LABELS) {
        None => Ok(Vec::new()),
        Some(text) => parse_labels(text).map_err(|why| MetadataError {
            key: LABELS.to_owned(),
            value: text.chars().take(40).collect(),
            why,
        }),
    }
}

/// Class names from a JSON list, or separated by newlines, or (on one line) by commas.
///
/// # Errors
/// What is wrong with the list.
pub fn parse_labels(text: &str) -> Result<Vec<String>, String> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|e| format!("no JSON list of texts: {e}"));
    }
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    match lines.as_slice() {
        [one] if one.contains(',') => Ok(one.split(',').map(|l| l.trim().to_owned()).collect()),
        _ => Ok(lines),
    }
}

fn property<'a>(model: &'a ModelProto, key: &str) -> Option<&'a str> {
    model.metadata_props.iter().find(|p| p.key == key).map(|p| p.value.as_str())
}

fn statistics(
    model: &ModelProto,
    key: &str,
    (given, precedence): (Option<&[f32]>, Precedence),
    channels: usize,
    default: f32,
) -> Result<Vec<f32>, MetadataError> {
    let bad = |value: &str, why: &str| MetadataError {
        key: key.to_owned(),
        value: value.to_owned(),
        why: why.to_owned(),
    };
    let stated = property(model, key);
    let given = given.filter(|_| stated.is_none() || precedence == Precedence::User);
    let values = match (given, stated) {
        (Some(given), _) => given.to_vec(),
        (None, None) => vec![default],
        (None, Some(text)) => {
            let parse = |t: &str| t.trim().parse::<f32>().ok().filter(|v| v.is_finite());
            text.split(',')
                .map(parse)
                .collect::<Option<Vec<f32>>>()
                .ok_or_else(|| bad(text, "comma-separated numbers are expected"))?
        }
    };
    match values.len() {
        1 => Ok(vec![values[0]; channels]),
        n if n == channels => Ok(values),
        n => Err(bad(&format!("{values:?}"), &format!("{n} values for {channels} channels"))),
    }
}
