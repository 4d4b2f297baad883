//! Model inputs from files: pictures, `.npy` samples, calibration archives and folders, and a synthetic picture.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};
use ndarray::ArrayD;
use ndarray_npy::{NpzReader, ReadNpyExt};
use peregrine_ir::client::{ClientTensor, ImageOrder, ImageSpec, PixelFormat};
use thiserror::Error;

/// Largest extent of a picture, and most memory its decoder may take.
const MAX_EXTENT: u32 = 1 << 15;
const MAX_DECODER_BYTES: u64 = 1 << 29;
/// Name of the array that a calibration archive holds.
const ARRAY: &str = "images";
/// Endings of picture files.
const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];

/// Why an input file cannot be used.
#[derive(Debug, Error)]
pub enum InputError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A picture cannot be decoded.
    #[error("{path} is no picture that can be read ({why}); PNG, JPEG and BMP are supported")]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        why: String,
    },
    /// An archive or array cannot be decoded.
    #[error("{path} is no usable array file: {why}")]
    Array {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The numbers do not have the shape of the model's input.
    #[error("{path} holds {found}, the model's input is {expected}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// Shape found.
        found: String,
        /// Shape expected.
        expected: String,
    },
    /// The model's input is no picture.
    #[error(
        "{path} holds pictures, but the model's input {expected} is no picture of one or three channels: give a .npy or .npz of model inputs"
    )]
    NoPictureInput {
        /// The file.
        path: PathBuf,
        /// Shape of the model's input.
        expected: String,
    },
    /// A calibration folder without pictures.
    #[error("the folder {path} holds no picture (png, jpg, jpeg, bmp)")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A number that is not finite.
    #[error("{path} holds a number that is not finite")]
    NotFinite {
        /// The file.
        path: PathBuf,
    },
}

/// What files are turned into: inputs of `shape`, pictures by `image`.
#[derive(Clone, Copy, Debug)]
pub struct InputFormat<'a> {
    /// Shape of the model's input.
    pub shape: &'a [usize],
    /// Preprocessing, when the input is a picture.
    pub image: Option<&'a ImageSpec>,
}

/// Reads one input: a picture, or a `.npy` array (floats as they are, bytes as pixels).
///
/// # Errors
/// [`InputError`].
pub fn read_sample(path: &Path, format: InputFormat<'_>) -> Result<ClientTensor, InputError> {
    let bytes = read(path)?;
    if has_ending(path, &["npy"]) {
        let pixels = ArrayD::<u8>::read_npy(Cursor::new(&bytes)).ok();
        let mut inputs = match pixels {
            Some(pixels) => of_pixels(path, &with_batch(pixels, format.shape.len()), format)?,
            None => of_floats(path, floats(path, &bytes)?, format)?,
        };
        return match inputs.len() {
            1 => Ok(inputs.remove(0)),
            n => Err(shape_error(path, format!("{n} inputs"), format)),
        };
    }
    let spec = format.image.ok_or_else(|| no_picture(path, format))?;
    picture(path, &bytes, spec)
}

/// Reads calibration inputs from an `.npz` archive (array `images`) or a folder of pictures, in the order of names.
///
/// # Errors
/// [`InputError`].
pub fn read_calibration(path: &Path, format: InputFormat<'_>) -> Result<Vec<ClientTensor>, InputError> {
    if !path.is_dir() {
        return read_archive(path, format);
    }
    let unreadable = |source| InputError::Read { path: path.to_owned(), source };
    let spec = format.image.ok_or_else(|| no_picture(path, format))?;
    let entries = fs::read_dir(path).map_err(unreadable)?;
    let mut files =
        entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>, std::io::Error>>().map_err(unreadable)?;
    files.retain(|f| f.is_file() && has_ending(f, &PICTURES));
    files.sort();
    if files.is_empty() {
        return Err(InputError::Empty { path: path.to_owned() });
    }
    files.iter().map(|file| picture(file, &read(file)?, spec)).collect()
}

fn read_archive(path: &Path, format: InputFormat<'_>) -> Result<Vec<ClientTensor>, InputError> {
    let bad = |why: String| InputError::Array { path: path.to_owned(), why };
    let bytes = read(path)?;
    let mut archive = NpzReader::new(Cursor::new(&bytes)).map_err(|e| bad(e.to_string()))?;
    let names = archive.names().map_err(|e| bad(e.to_string()))?;
    let found = names.iter().find(|n| n.trim_end_matches(".npy") == ARRAY);
    let name = found.ok_or_else(|| bad(format!("it has no array {ARRAY:?}, only {}", names.join(", "))))?;
    if let Ok(pixels) = archive.by_name::<ndarray::OwnedRepr<u8>, ndarray::IxDyn>(name) {
        return of_pixels(path, &pixels, format);
    }
    if let Ok(values) = archive.by_name::<ndarray::OwnedRepr<f32>, ndarray::IxDyn>(name) {
        return of_floats(path, values, format);
    }
    match archive.by_name::<ndarray::OwnedRepr<f64>, ndarray::IxDyn>(name) {
        Ok(values) => of_floats(path, values.mapv(|v| v as f32), format),
        Err(e) => Err(bad(format!("array {ARRAY:?} is neither uint8 nor float32: {e}"))),
    }
}

fn floats(path: &Path, bytes: &[u8]) -> Result<ArrayD<f32>, InputError> {
    let single = ArrayD::<f32>::read_npy(Cursor::new(bytes));
    let double = |_| ArrayD::<f64>::read_npy(Cursor::new(bytes)).map(|a| a.mapv(|v| v as f32));
    single.or_else(double).map_err(|e| InputError::Array { path: path.to_owned(), why: e.to_string() })
}

fn with_batch(array: ArrayD<u8>, rank: usize) -> ArrayD<u8> {
    if array.ndim() + 1 == rank { array.insert_axis(ndarray::Axis(0)) } else { array }
}

/// Pixels `[B, C, H, W]` (or `[B, H, W]` of one channel), 0 to 255.
fn of_pixels(
    path: &Path,
    pixels: &ArrayD<u8>,
    format: InputFormat<'_>,
) -> Result<Vec<ClientTensor>, InputError> {
    let spec = format.image.ok_or_else(|| no_picture(path, format))?;
    let (c, h, w) = (channels(spec.format), spec.height as usize, spec.width as usize);
    let image = match *pixels.shape() {
        [_, ch, ph, pw] => [ch, ph, pw] == [c, h, w],
        [_, ph, pw] => c == 1 && [ph, pw] == [h, w],
        _ => false,
    };
    if !image {
        let found = format!("pixels of shape {:?}", pixels.shape());
        return Err(InputError::Shape {
            path: path.to_owned(),
            found,
            expected: format!("[N, {c}, {h}, {w}] as pixels"),
        });
    }
    let images = pixels.outer_iter();
    Ok(images
        .map(|image| normalise(&image.iter().map(|&p| f32::from(p)).collect::<Vec<_>>(), spec))
        .collect())
}

/// Model inputs, `[B, ...]` or one without the batch axis.
fn of_floats(
    path: &Path,
    values: ArrayD<f32>,
    format: InputFormat<'_>,
) -> Result<Vec<ClientTensor>, InputError> {
    let batched = values.ndim() == format.shape.len() && values.shape()[1..] == format.shape[1..];
    if !batched && values.shape() != &format.shape[1..] {
        return Err(shape_error(path, format!("numbers of shape {:?}", values.shape()), format));
    }
    if values.iter().any(|v| !v.is_finite()) {
        return Err(InputError::NotFinite { path: path.to_owned() });
    }
    let len: usize = format.shape.iter().product();
    let data: Vec<f32> = values.iter().copied().collect();
    Ok(data.chunks(len).map(|c| ClientTensor { shape: format.shape.to_vec(), data: c.to_vec() }).collect())
}

fn picture(path: &Path, bytes: &[u8], spec: &ImageSpec) -> Result<ClientTensor, InputError> {
    let refuse = |why: String| InputError::Picture { path: path.to_owned(), why };
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| refuse(e.to_string()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_EXTENT);
    limits.max_image_height = Some(MAX_EXTENT);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let decoded = reader.decode().map_err(|e| refuse(e.to_string()))?;
    let sized = match (decoded.height(), decoded.width()) == (spec.height, spec.width) {
        true => decoded,
        false => decoded.resize_exact(spec.width, spec.height, FilterType::Triangle),
    };
    Ok(normalise(&planes(&sized, spec.format), spec))
}

/// Pixels of a picture, channel by channel.
fn planes(picture: &DynamicImage, format: PixelFormat) -> Vec<f32> {
    match format {
        PixelFormat::Gray => picture.to_luma8().into_raw().into_iter().map(f32::from).collect(),
        PixelFormat::Rgb => {
            let interleaved = picture.to_rgb8().into_raw();
            (0..3).flat_map(|c| interleaved.iter().skip(c).step_by(3).map(|&p| f32::from(p))).collect()
        }
    }
}

/// Divides pixels (channel by channel) by 255, normalises, and orders them as the model's input.
fn normalise(planes: &[f32], spec: &ImageSpec) -> ClientTensor {
    let (channels, map) = (channels(spec.format), spec.height as usize * spec.width as usize);
    let (h, w) = (spec.height as usize, spec.width as usize);
    let value = |c: usize, i: usize| (planes[c * map + i] / 255.0 - spec.mean[c]) / spec.std[c];
    match spec.order {
        ImageOrder::Nchw => ClientTensor {
            shape: vec![1, channels, h, w],
            data: (0..channels * map).map(|i| value(i / map, i % map)).collect(),
        },
        ImageOrder::Nhwc => ClientTensor {
            shape: vec![1, h, w, channels],
            data: (0..channels * map).map(|i| value(i % channels, i / channels)).collect(),
        },
    }
}

/// A smooth, deterministic picture (crossed waves, a disc, a ramp), normalised as a real one would be; for other inputs a
/// wave in -1..1.
pub fn synthetic(format: InputFormat<'_>) -> ClientTensor {
    let Some(spec) = format.image else {
        let len = format.shape.iter().product::<usize>();
        return ClientTensor {
            shape: format.shape.to_vec(),
            data: (0..len).map(|i| (i as f32 * 0.37).sin()).collect(),
        };
    };
    let (h, w) = (spec.height as usize, spec.width as usize);
    let pixel = |i: usize| {
        let (c, row, column) = (i / (h * w), i / w % h, i % w);
        let (y, x, phase) = (row as f32 / h as f32, column as f32 / w as f32, c as f32 * 2.1);
        let disc = if (y - 0.5).hypot(x - 0.5) < 0.3 { 0.3 } else { 0.0 };
        let waves = (x * 9.0 + phase).sin() * (y * 7.0 - phase).cos();
        (255.0 * (0.35 + disc + 0.2 * waves + 0.1 * y)).clamp(0.0, 255.0)
    };
    normalise(&(0..channels(spec.format) * h * w).map(pixel).collect::<Vec<_>>(), spec)
}

fn channels(format: PixelFormat) -> usize {
    match format {
        PixelFormat::Gray => 1,
        PixelFormat::Rgb => 3,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, InputError> {
    fs::read(path).map_err(|source| InputError::Read { path: path.to_owned(), source })
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| endings.contains(&e.to_ascii_lowercase().as_str()))
}

fn no_picture(path: &Path, format: InputFormat<'_>) -> InputError {
    InputError::NoPictureInput { path: path.to_owned(), expected: format!("{:?}", format.shape) }
}

fn shape_error(path: &Path, found: String, format: InputFormat<'_>) -> InputError {
    InputError::Shape { path: path.to_owned(), found, expected: format!("{:?}", format.shape) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(order: ImageOrder) -> ImageSpec {
        let (mean, std) = (vec![0.5, 0.0, 0.25], vec![0.5, 1.0, 2.0]);
        ImageSpec { format: PixelFormat::Rgb, order, height: 2, width: 3, mean, std }
    }

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn orders_agree() {
        let planes: Vec<f32> = (0..18).map(|i| i as f32).collect();
        let (a, b) =
            (normalise(&planes, &spec(ImageOrder::Nchw)), normalise(&planes, &spec(ImageOrder::Nhwc)));
        assert_eq!(a.data[6 * 2 + 4], (16.0 / 255.0 - 0.25) / 2.0);
        assert_eq!(b.data[4 * 3 + 2], a.data[6 * 2 + 4]);
        assert_eq!((a.shape, b.shape), (vec![1, 3, 2, 3], vec![1, 2, 3, 3]));
    }

    #[test]
    fn pictures_are_resized_and_normalised() {
        let mut png = Vec::new();
        let picture = image::RgbImage::from_pixel(6, 4, image::Rgb([255, 51, 0]));
        picture.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let (folder, path) = write("a.png", &png);
        let spec = spec(ImageOrder::Nchw);
        let format = InputFormat { shape: &[1, 3, 2, 3], image: Some(&spec) };
        let sample = read_sample(&path, format).unwrap();
        assert_eq!(sample.data[..6], [1.0; 6]);
        assert!((sample.data[6] - 0.2).abs() < 1e-6);
        assert_eq!(read_calibration(folder.path(), format).unwrap(), [sample]);
        let plain = InputFormat { shape: &[1, 7], image: None };
        assert!(matches!(read_sample(&path, plain), Err(InputError::NoPictureInput { .. })));
    }

    #[test]
    fn bad_files_are_named() {
        let spec = spec(ImageOrder::Nchw);
        let format = InputFormat { shape: &[1, 3, 2, 3], image: Some(&spec) };
        let (folder, path) = write("a.png", b"no picture");
        assert!(matches!(read_sample(&path, format), Err(InputError::Picture { path: p, .. }) if p == path));
        assert!(matches!(read_calibration(&path, format), Err(InputError::Array { .. })));
        assert!(matches!(read_sample(&folder.path().join("none"), format), Err(InputError::Read { .. })));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(read_calibration(empty.path(), format), Err(InputError::Empty { .. })));
    }

    #[test]
    fn arrays() {
        use ndarray_npy::{NpzWriter, WriteNpyExt};
        let spec = spec(ImageOrder::Nchw);
        let format = InputFormat { shape: &[1, 3, 2, 3], image: Some(&spec) };
        type Archive<'a> = NpzWriter<Cursor<&'a mut Vec<u8>>>;
        let archive = |add: &dyn Fn(&mut Archive<'_>)| {
            let mut bytes = Vec::new();
            let mut npz = NpzWriter::new(Cursor::new(&mut bytes));
            add(&mut npz);
            npz.finish().unwrap();
            write("c.npz", &bytes)
        };
        let (_keep, path) =
            archive(&|npz| npz.add_array("images", &ndarray::Array4::<u8>::zeros((5, 3, 2, 3))).unwrap());
        let images = read_calibration(&path, format).unwrap();
        assert_eq!((images.len(), images[0].data[0]), (5, -1.0));
        let (_keep, path) =
            archive(&|npz| npz.add_array("images", &ndarray::Array4::<f32>::ones((2, 3, 2, 3))).unwrap());
        assert_eq!(read_calibration(&path, format).unwrap()[1].data, [1.0; 18]);
        let (_keep, path) =
            archive(&|npz| npz.add_array("images", &ndarray::Array4::<u8>::zeros((5, 3, 4, 4))).unwrap());
        assert!(matches!(read_calibration(&path, format), Err(InputError::Shape { .. })));
        let (_keep, path) = archive(&|npz| npz.add_array("x", &ndarray::Array1::<u8>::zeros(3)).unwrap());
        assert!(read_calibration(&path, format).unwrap_err().to_string().contains("images"));
        let mut npy = Vec::new();
        ndarray::Array3::<f32>::from_elem((3, 2, 3), f32::NAN).write_npy(&mut npy).unwrap();
        let (_keep, path) = write("s.npy", &npy);
        assert!(matches!(read_sample(&path, format), Err(InputError::NotFinite { .. })));
    }
}
