//! Sets as tables of pixels: CIFAR's binary files and csv.

use std::fs;
use std::path::{Path, PathBuf};

use peregrine_ir::client::ImageSpec;

use super::arrays::interleaved;
use super::{Origin, PixelArray, Set, Truth, read};
use crate::error::DataError;
use crate::picture::channels;

/// Bytes of a CIFAR picture.
const CIFAR: usize = 3 * 32 * 32;

/// CIFAR's training files in a folder: `data_batch*.bin` and `train.bin`, in order of their names.
pub(super) fn training_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let refuse = |source| DataError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("data_batch") && name.ends_with(".bin") || name == "train.bin" {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Records of one or two label bytes and 3072 pixels, channel by channel; the last label byte counts (of CIFAR-100's two,
/// the fine one).
pub(super) fn of_cifar(path: &Path, files: &[PathBuf]) -> Result<Set, DataError> {
    let (mut classes, mut data) = (Vec::new(), Vec::new());
    for file in files {
        let bytes = read(file)?;
        let labels = [1, 2].into_iter().find(|l| !bytes.is_empty() && bytes.len().is_multiple_of(l + CIFAR));
        let Some(labels) = labels else {
            let reason =
                format!("{} bytes are no whole number of CIFAR records of 3073 or 3074 bytes", bytes.len());
            return Err(DataError::Set { path: file.clone(), reason });
        };
        for record in bytes.chunks_exact(labels + CIFAR) {
            classes.push(usize::from(record[labels - 1]));
            data.extend(interleaved(&record[labels..], 3, 32 * 32));
        }
    }
    Ok(of_pixels(path, PixelArray { height: 32, width: 32, channels: 3, data }, &classes))
}

/// A set of pictures with their classes.
fn of_pixels(path: &Path, array: PixelArray, classes: &[usize]) -> Set {
    let samples = array.samples(|i| Truth::Class(classes[i]));
    Set { path: path.to_owned(), samples, classes: Vec::new(), origin: Origin::Records }
}

/// Rows `label,p,p,...` of the model's picture size, pixels row by row with channels innermost; a heading is skipped.
pub(super) fn of_csv(path: &Path, image: Option<&ImageSpec>) -> Result<Set, DataError> {
    let refuse = |reason: String| DataError::Set { path: path.to_owned(), reason };
    let spec = image.ok_or_else(|| refuse("the model's input is no picture, rows are pixels".to_owned()))?;
    let (height, width, channels) = (spec.height, spec.width, channels(spec.format));
    let length = height as usize * width as usize * channels;
    let text = String::from_utf8(read(path)?).map_err(|_| refuse("it is no text".to_owned()))?;
    let (mut classes, mut data) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let mut fields = line.trim().trim_end_matches(',').split(',').map(str::trim);
        let label = fields.next().unwrap_or_default();
        let Ok(class) = label.parse::<usize>() else {
            if i == 0 {
                continue;
            }
            return Err(refuse(format!("line {}: `{label}` is no class number", i + 1)));
        };
        let pixels = fields.map(|f| f.parse::<u8>().map_err(|_| f));
        let pixels: Vec<u8> = pixels
            .collect::<Result<_, _>>()
            .map_err(|f| refuse(format!("line {}: `{f}` is no pixel of 0 to 255", i + 1)))?;
        if pixels.len() != length {
            let found = pixels.len();
            return Err(refuse(format!(
                "line {}: {found} pixels, the model's input has {height}x{width}x{channels}",
                i + 1
            )));
        }
        classes.push(class);
        data.extend(pixels);
    }
    Ok(of_pixels(path, PixelArray { height, width, channels, data }, &classes))
}
