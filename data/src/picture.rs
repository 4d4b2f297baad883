//! Pictures to model inputs: decode, resize, divide by 255, subtract the mean, divide by the standard deviation.

use std::io::Cursor;
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};
use peregrine_ir::client::{ImageOrder, ImageSpec, PixelFormat};

use crate::error::DataError;

/// Largest extent of a picture, and most memory its decoder may take: a hostile file must not exhaust its reader.
const MAX_EXTENT: u32 = 1 << 15;
const MAX_DECODER_BYTES: u64 = 1 << 29;
/// What a letterbox is filled with: mid-grey, as in Darknet.
const BARS: f32 = 127.5;

/// Endings of picture files, lower case.
pub const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];

/// How a picture of another size is brought to the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resize {
    /// Each axis on its own: the picture is distorted.
    #[default]
    Stretch,
    /// By one factor, centred between grey bars, as detectors are trained.
    Letterbox,
}

/// Where a picture lies in the model's input, in pixels: `model = picture * scale + offset`, per axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Columns and rows of the picture.
    pub size: [u32; 2],
    /// Factor of x and y.
    pub scale: [f64; 2],
    /// Offset of x and y.
    pub offset: [f64; 2],
}

impl Placement {
    /// Where a picture of `size` (columns, rows) lies in an input of `room` (columns, rows), and the columns and rows that
    /// it takes there.
    pub fn of(size: [u32; 2], room: [u32; 2], resize: Resize) -> (Self, [u32; 2]) {
        let ratio = |axis: usize| f64::from(room[axis]) / f64::from(size[axis].max(1));
        let taken = match resize {
            Resize::Stretch => room,
            Resize::Letterbox => {
                let factor = ratio(0).min(ratio(1));
                let extent = |axis: usize| {
                    ((f64::from(size[axis]) * factor).round() as u32).clamp(1, room[axis].max(1))
                };
                [extent(0), extent(1)]
            }
        };
        let scale = [0, 1].map(|axis| f64::from(taken[axis]) / f64::from(size[axis].max(1)));
        let offset = [0, 1].map(|axis| f64::from((room[axis] - taken[axis]) / 2));
        (Self { size, scale, offset }, taken)
    }

    /// The picture's coordinate of a model coordinate, kept inside the picture.
    pub fn to_picture(&self, axis: usize, at: f64) -> f64 {
        ((at - self.offset[axis]) / self.scale[axis]).clamp(0.0, f64::from(self.size[axis]))
    }
}

/// Decodes a picture file within limits of memory and extent; `path` is what errors name.
///
/// # Errors
/// [`DataError::Picture`].
pub fn decode(path: &Path, bytes: &[u8]) -> Result<DynamicImage, DataError> {
    let refuse = |reason: String| DataError::Picture { path: path.to_owned(), reason };
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| refuse(e.to_string()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_EXTENT);
    limits.max_image_height = Some(MAX_EXTENT);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    reader.decode().map_err(|e| refuse(e.to_string()))
}

/// A picture as model input.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Pixels in 0..=255 of the model's size, channel by channel.
    pub planes: Vec<f32>,
    /// Where the picture lies in it.
    pub placement: Placement,
}

/// Resizes a picture to the model's input.
pub fn fit(picture: &DynamicImage, spec: &ImageSpec, resize: Resize) -> Fitted {
    let (size, room) = ([picture.width(), picture.height()], [spec.width, spec.height]);
    let (placement, taken) = Placement::of(size, room, resize);
    let inner = planes(&pixels(picture, spec.format, taken), spec.format);
    if taken == room {
        return Fitted { planes: inner, placement };
    }
    let [width, height] = room.map(|extent| extent as usize);
    let [inner_width, inner_height] = taken.map(|extent| extent as usize);
    let (left, top) = (placement.offset[0] as usize, placement.offset[1] as usize);
    let mut planes = vec![BARS; channels(spec.format) * width * height];
    for (i, row) in inner.chunks(inner_width).enumerate() {
        let (c, y) = (i / inner_height, i % inner_height);
        let start = (c * height + top + y) * width + left;
        planes[start..start + inner_width].copy_from_slice(row);
    }
    Fitted { planes, placement }
}

/// Bytes of a picture stretched to `size` (columns, rows): row by row, channels innermost.
pub fn pixels(picture: &DynamicImage, format: PixelFormat, size: [u32; 2]) -> Vec<u8> {
    let bytes = |picture: &DynamicImage| match format {
        PixelFormat::Gray => picture.to_luma8().into_raw(),
        PixelFormat::Rgb => picture.to_rgb8().into_raw(),
    };
    if [picture.width(), picture.height()] == size {
        bytes(picture)
    } else {
        bytes(&picture.resize_exact(size[0], size[1], FilterType::Triangle))
    }
}

/// Pixels channel by channel.
fn planes(pixels: &[u8], format: PixelFormat) -> Vec<f32> {
    let channels = channels(format);
    (0..channels).flat_map(|c| pixels.iter().skip(c).step_by(channels).map(|&p| f32::from(p))).collect()
}

/// Channels of a pixel format.
pub fn channels(format: PixelFormat) -> usize {
    match format {
        PixelFormat::Gray => 1,
        PixelFormat::Rgb => 3,
    }
}

/// Divides pixels (0..=255, channel by channel) by 255, normalises, and orders them as the model's input.
pub fn normalise(planes: &[f32], spec: &ImageSpec) -> Vec<f32> {
    let (channels, map) = (channels(spec.format), spec.height as usize * spec.width as usize);
    let value = |c: usize, i: usize| (planes[c * map + i] / 255.0 - spec.mean[c]) / spec.std[c];
    match spec.order {
        ImageOrder::Nchw => (0..channels * map).map(|i| value(i / map, i % map)).collect(),
        ImageOrder::Nhwc => (0..channels * map).map(|i| value(i % channels, i / channels)).collect(),
    }
}

/// Pixel planes of an array of bytes that has the model's shape and axis order.
pub fn planes_of_tensor(pixels: &[u8], spec: &ImageSpec) -> Vec<f32> {
    let (channels, map) = (channels(spec.format), spec.height as usize * spec.width as usize);
    match spec.order {
        ImageOrder::Nchw => pixels.iter().map(|&p| f32::from(p)).collect(),
        ImageOrder::Nhwc => {
            (0..channels * map).map(|i| f32::from(pixels[i % map * channels + i / map])).collect()
        }
    }
}

/// Shape of the input that [`normalise`] makes.
pub fn tensor_shape(spec: &ImageSpec) -> Vec<usize> {
    let (c, h, w) = (channels(spec.format), spec.height as usize, spec.width as usize);
    match spec.order {
        ImageOrder::Nchw => vec![1, c, h, w],
        ImageOrder::Nhwc => vec![1, h, w, c],
    }
}

/// The image input that a shape suggests: one or three channels, pixels divided by 255.
pub fn guessed_spec(shape: &[usize]) -> Option<ImageSpec> {
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
    let channels = channels(format);
    Some(ImageSpec { format, order, height, width, mean: vec![0.0; channels], std: vec![1.0; channels] })
}

/// Pixel planes of a smooth, deterministic picture: crossed waves, a disc and a ramp, different in every channel.
pub fn test_pattern(spec: &ImageSpec) -> Vec<f32> {
    let (h, w) = (spec.height.max(1) as usize, spec.width.max(1) as usize);
    let pixel = |i: usize| {
        let (c, row, column) = (i / (h * w), i / w % h, i % w);
        let (y, x, phase) = (row as f32 / h as f32, column as f32 / w as f32, c as f32 * 2.1);
        let disc = if (y - 0.5).hypot(x - 0.5) < 0.3 { 0.3 } else { 0.0 };
        let waves = (x * 9.0 + phase).sin() * (y * 7.0 - phase).cos();
        (255.0 * (0.35 + disc + 0.2 * waves + 0.1 * y)).clamp(0.0, 255.0)
    };
    (0..channels(spec.format) * h * w).map(pixel).collect()
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    fn spec(height: u32, width: u32, order: ImageOrder) -> ImageSpec {
        let (mean, std) = (vec![0.5, 0.0, 0.25], vec![0.5, 1.0, 2.0]);
        ImageSpec { format: PixelFormat::Rgb, order, height, width, mean, std }
    }

    #[test]
    fn orders_agree() {
        let planes: Vec<f32> = (0..18).map(|i| i as f32).collect();
        let (chw, hwc) = (spec(2, 3, ImageOrder::Nchw), spec(2, 3, ImageOrder::Nhwc));
        let (a, b) = (normalise(&planes, &chw), normalise(&planes, &hwc));
        assert_eq!(a[6 * 2 + 4], (16.0 / 255.0 - 0.25) / 2.0);
        assert_eq!(b[4 * 3 + 2], a[6 * 2 + 4]);
        let bytes: Vec<u8> = (0..18).map(|i| i / 3 + i % 3 * 6).collect();
        assert_eq!(planes_of_tensor(&bytes, &hwc), planes);
        assert_eq!((tensor_shape(&chw), tensor_shape(&hwc)), (vec![1, 3, 2, 3], vec![1, 2, 3, 3]));
    }

    #[test]
    fn a_letterbox_keeps_proportions_and_its_inverse_leads_back() {
        // 400x200 into 100x100: 100x50, 25 grey rows above and below.
        let picture = DynamicImage::ImageRgb8(RgbImage::from_pixel(400, 200, Rgb([255, 0, 51])));
        let fitted = fit(&picture, &spec(100, 100, ImageOrder::Nchw), Resize::Letterbox);
        let placement = fitted.placement;
        assert_eq!((placement.scale, placement.offset), ([0.25, 0.25], [0.0, 25.0]));
        let row = |c: usize, y: usize| fitted.planes[(c * 100 + y) * 100 + 50];
        assert_eq!([row(0, 24), row(0, 25), row(0, 74), row(0, 75)], [BARS, 255.0, 255.0, BARS]);
        assert_eq!([row(1, 24), row(1, 50), row(2, 50)], [BARS, 0.0, 51.0]);
        assert_eq!((placement.to_picture(0, 50.0), placement.to_picture(1, 50.0)), (200.0, 100.0));
        assert_eq!((placement.to_picture(1, 3.0), placement.to_picture(1, 99.0)), (0.0, 200.0), "clipped");
    }

    #[test]
    fn pixels_are_rows_with_channels_innermost() {
        let picture = RgbImage::from_fn(2, 2, |x, y| Rgb([x as u8, y as u8, 9]));
        let picture = DynamicImage::ImageRgb8(picture);
        assert_eq!(pixels(&picture, PixelFormat::Rgb, [2, 2]), [0, 0, 9, 1, 0, 9, 0, 1, 9, 1, 1, 9]);
        assert_eq!(pixels(&picture, PixelFormat::Rgb, [4, 1]).len(), 12);
        assert_eq!(pixels(&picture, PixelFormat::Gray, [4, 1]).len(), 4);
    }

    #[test]
    fn stretching_scales_each_axis() {
        let (placement, taken) = Placement::of([400, 200], [100, 100], Resize::Stretch);
        assert_eq!((placement.scale, placement.offset, taken), ([0.25, 0.5], [0.0, 0.0], [100, 100]));
        assert_eq!(placement.to_picture(1, 25.0), 50.0);
    }

    #[test]
    fn extreme_proportions_keep_a_pixel() {
        let (placement, taken) = Placement::of([30_000, 1], [32, 32], Resize::Letterbox);
        assert_eq!(taken, [32, 1]);
        assert!(placement.scale.iter().all(|s| *s > 0.0));
    }

    #[test]
    fn specs_are_guessed_from_shapes() {
        let nhwc = guessed_spec(&[1, 8, 9, 3]).expect("a picture");
        assert_eq!((nhwc.order, nhwc.height, nhwc.width), (ImageOrder::Nhwc, 8, 9));
        assert_eq!(guessed_spec(&[1, 5, 9, 7]), None);
        assert_eq!(guessed_spec(&[1, 48]), None);
        let nothing = decode(Path::new("p.png"), b"\x89PNG\r\n\x1a\nnothing").expect_err("no picture");
        assert!(nothing.to_string().contains("p.png"), "{nothing}");
    }
}
