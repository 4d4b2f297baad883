//! Pictures to model inputs: decode, resize, divide by 255, subtract the mean, divide by the standard deviation.

use std::io::Cursor;
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};
use peregrine_ir::client::{ClientPart, ImageOrder, ImageSpec, PixelFormat};

use super::error::ClientError;
use super::tensor::shape_text;

/// Largest extent of a picture, and most memory its decoder may take: a hostile file must not exhaust the client.
const MAX_EXTENT: u32 = 1 << 15;
const MAX_DECODER_BYTES: u64 = 1 << 29;

/// Normalisation given by flags; overrides what the model says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Normalisation {
    /// Per-channel mean after division by 255, or one for all.
    pub mean: Option<Vec<f32>>,
    /// Per-channel standard deviation after division by 255, or one for all.
    pub std: Option<Vec<f32>>,
}

/// How pixels become this model's input: the model's own [`ImageSpec`] or one guessed from the input's shape, with the
/// flags applied. `None` when the input is no picture.
///
/// # Errors
/// [`ClientError::Normalisation`] and [`ClientError::NormalisationValue`] when the flags do not fit.
pub fn image_spec(client: &ClientPart, flags: &Normalisation) -> Result<Option<ImageSpec>, ClientError> {
    let Some(mut spec) = client.image.clone().or_else(|| guessed_spec(&client.input_shape)) else {
        return Ok(None);
    };
    let channels = channels(spec.format);
    spec.mean = normalised(flags.mean.as_ref().unwrap_or(&spec.mean), channels, "mean")?;
    spec.std = normalised(flags.std.as_ref().unwrap_or(&spec.std), channels, "std")?;
    Ok(Some(spec))
}

/// Channels of a pixel format.
pub fn channels(format: PixelFormat) -> usize {
    match format {
        PixelFormat::Gray => 1,
        PixelFormat::Rgb => 3,
    }
}

fn guessed_spec(shape: &[usize]) -> Option<ImageSpec> {
    let format = |c: usize| match c {
        1 => Some(PixelFormat::Gray),
        3 => Some(PixelFormat::Rgb),
        _ => None,
    };
    let &[1, a, b, c] = shape else { return None };
    let (format, order, height, width) = match (format(a), format(c)) {
        (Some(f), _) => (f, ImageOrder::Nchw, b, c),
        (None, Some(f)) => (f, ImageOrder::Nhwc, a, b),
        (None, None) => return None,
    };
    let (height, width) = (u32::try_from(height).ok()?, u32::try_from(width).ok()?);
    Some(ImageSpec { format, order, height, width, mean: vec![0.0], std: vec![1.0] })
}

fn normalised(values: &[f32], channels: usize, flag: &'static str) -> Result<Vec<f32>, ClientError> {
    if let Some(&value) = values.iter().find(|v| !v.is_finite() || (flag == "std" && **v <= 0.0)) {
        return Err(ClientError::NormalisationValue { flag, value });
    }
    match values.len() {
        1 => Ok(vec![values[0]; channels]),
        found if found == channels => Ok(values.to_vec()),
        found => Err(ClientError::Normalisation { flag, found, channels }),
    }
}

/// A picture as model input, and what the caller should know about how it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Pixels in 0..=255, planes one after the other.
    pub planes: Vec<u8>,
    /// Rows and columns that the file had, when it had to be resized.
    pub resized_from: Option<(u32, u32)>,
}

/// Decodes and resizes a picture file.
///
/// # Errors
/// [`ClientError::Read`] and [`ClientError::Picture`].
pub fn read_picture(path: &Path, bytes: &[u8], spec: &ImageSpec) -> Result<Picture, ClientError> {
    let refuse = |reason: String| ClientError::Picture { path: path.to_owned(), reason };
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| refuse(e.to_string()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_EXTENT);
    limits.max_image_height = Some(MAX_EXTENT);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let decoded = reader.decode().map_err(|e| refuse(e.to_string()))?;
    let found = (decoded.height(), decoded.width());
    let wanted = (spec.height, spec.width);
    let sized = if found == wanted {
        decoded
    } else {
        decoded.resize_exact(spec.width, spec.height, FilterType::Triangle)
    };
    Ok(Picture { planes: planes(&sized, spec.format), resized_from: (found != wanted).then_some(found) })
}

fn planes(picture: &DynamicImage, format: PixelFormat) -> Vec<u8> {
    match format {
        PixelFormat::Gray => picture.to_luma8().into_raw(),
        PixelFormat::Rgb => {
            let interleaved = picture.to_rgb8().into_raw();
            (0..3).flat_map(|c| interleaved.iter().skip(c).step_by(3).copied()).collect()
        }
    }
}

/// Normalises pixel planes (0..=255, channel by channel) and orders them as the model's input.
pub fn normalise(planes: &[f32], spec: &ImageSpec) -> Vec<f64> {
    let channels = channels(spec.format);
    let map = spec.height as usize * spec.width as usize;
    let value = |c: usize, i: usize| f64::from((planes[c * map + i] / 255.0 - spec.mean[c]) / spec.std[c]);
    match spec.order {
        ImageOrder::Nchw => {
            (0..channels).flat_map(|c| (0..map).map(move |i| (c, i))).map(|(c, i)| value(c, i)).collect()
        }
        ImageOrder::Nhwc => {
            (0..map).flat_map(|i| (0..channels).map(move |c| (c, i))).map(|(c, i)| value(c, i)).collect()
        }
    }
}

/// Shape of the input tensor that [`normalise`] makes.
pub fn tensor_shape(spec: &ImageSpec) -> Vec<usize> {
    let (c, h, w) = (channels(spec.format), spec.height as usize, spec.width as usize);
    match spec.order {
        ImageOrder::Nchw => vec![1, c, h, w],
        ImageOrder::Nhwc => vec![1, h, w, c],
    }
}

/// Checks that an image specification of an artefact describes the model's input.
///
/// # Errors
/// [`ClientError::Shape`].
pub fn check_spec(spec: &ImageSpec, client: &ClientPart) -> Result<(), ClientError> {
    let shape = tensor_shape(spec);
    if shape == client.input_shape {
        return Ok(());
    }
    Err(ClientError::Shape {
        what: "the artefact's image specification".to_owned(),
        found: shape_text(&shape),
        input: client.input_name.clone(),
        expected: shape_text(&client.input_shape),
    })
}
