//! Sets in `.npz` and `.npy` files.

use std::path::Path;
use std::sync::Arc;

use super::{Origin, PixelArray, Sample, Set, Source, Truth, ValueArray, read, truth};
use crate::array::{self, Array, Numbers};
use crate::error::DataError;

/// Names under which archives hold samples and labels.
const IMAGES: [&str; 4] = ["images", "x", "x_test", "data"];
const LABELS: [&str; 4] = ["labels", "y", "y_test", "label"];

pub(super) fn of_npz(path: &Path) -> Result<Set, DataError> {
    let bytes = read(path)?;
    let Some(images) = array::of_archive(path, &bytes, &IMAGES)? else {
        let reason = format!(
            "it has no array `images` (or {}), only {}",
            IMAGES[1..].join(", "),
            array::names(path, &bytes)?.join(", ")
        );
        return Err(DataError::Array { path: path.to_owned(), reason });
    };
    let mut set = of_array(path, images)?;
    if let Some(labels) = array::of_archive(path, &bytes, &LABELS)? {
        let refuse = |reason: String| DataError::Array { path: path.to_owned(), reason };
        set.set_classes(&truth::integers(labels.numbers).map_err(refuse)?)?;
        set.origin = Origin::Records;
    }
    Ok(set)
}

pub(super) fn of_npy(path: &Path) -> Result<Set, DataError> {
    of_array(path, array::parse(path, &read(path)?)?)
}

/// `[N, C, H, W]`, `[N, H, W, C]` or `[N, H, W]` bytes are pictures, `[N, ...]` floats are model inputs.
fn of_array(path: &Path, array: Array) -> Result<Set, DataError> {
    let refuse = |reason: String| DataError::Array { path: path.to_owned(), reason };
    let shape = array.shape;
    let samples = match array.numbers {
        Numbers::Pixels(data) => {
            let pictures = pictures(&shape, data).ok_or_else(|| {
                refuse(format!("bytes of shape {shape:?} are no pictures of one or three channels"))
            })?;
            pictures.samples(|_| Truth::None)
        }
        Numbers::Values(data) => {
            let [count, rest @ ..] = shape.as_slice() else {
                return Err(refuse("a single number is no set of samples".to_owned()));
            };
            let (count, array) = (*count, Arc::new(ValueArray { shape: rest.to_vec(), data }));
            let source = |index: usize| Source::Values { array: array.clone(), index };
            let sample = |i: usize| Sample { name: format!("#{i}"), truth: Truth::None, source: source(i) };
            (0..count).map(sample).collect()
        }
        Numbers::Integers(_) => {
            return Err(refuse(
                "samples are uint8 pixels or float model inputs, not other integers".to_owned(),
            ));
        }
    };
    Ok(Set { path: path.to_owned(), samples, classes: Vec::new(), origin: Origin::Nothing })
}

fn pictures(shape: &[usize], data: Vec<u8>) -> Option<PixelArray> {
    let (height, width, channels, planar) = match *shape {
        [_, c @ (1 | 3), h, w] => (h, w, c, true),
        [_, h, w, c @ (1 | 3)] => (h, w, c, false),
        [_, h, w] => (h, w, 1, false),
        _ => return None,
    };
    let data = if planar && channels > 1 { interleaved(&data, channels, height * width) } else { data };
    let (height, width) = (u32::try_from(height).ok()?, u32::try_from(width).ok()?);
    (height > 0 && width > 0).then_some(PixelArray { height, width, channels, data })
}

/// Planes to pixels, picture by picture.
pub(super) fn interleaved(data: &[u8], channels: usize, map: usize) -> Vec<u8> {
    if map == 0 {
        return Vec::new();
    }
    let picture = |p: &[u8]| -> Vec<u8> {
        (0..map).flat_map(|i| (0..channels).map(move |c| (c, i))).map(|(c, i)| p[c * map + i]).collect()
    };
    data.chunks_exact(channels * map).flat_map(picture).collect()
}
