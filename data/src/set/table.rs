//! Sets as tables of pixels: CIFAR's binary files and csv.

use std::path::Path;

use peregrine_ir::client::ImageSpec;

use super::arrays::interleaved;
use super::{PixelArray, Set, Truth, read};
use crate::error::DataError;
use crate::picture::channels;

/// Bytes of a CIFAR picture.
const CIFAR: usize = 3 * 32 * 32;

/// Records of one or two label bytes and 3072 pixels, channel by channel; the last label byte counts (of CIFAR-100's two,
/// the fine one).
pub(super) fn of_cifar(path: &Path) -> Result<Set, DataError> {
    let bytes = read(path)?;
    let labels = [1, 2].into_iter().find(|l| !bytes.is_empty() && bytes.len().is_multiple_of(l + CIFAR));
    let Some(labels) = labels else {
        let reason =
            format!("{} bytes are no whole number of CIFAR records of 3073 or 3074 bytes", bytes.len());
        return Err(DataError::Set { path: path.to_owned(), reason });
    };
    let records = || bytes.chunks_exact(labels + CIFAR);
    let classes: Vec<usize> = records().map(|r| usize::from(r[labels - 1])).collect();
    let planes: Vec<u8> = records().flat_map(|r| r[labels..].iter().copied()).collect();
    let array = PixelArray { height: 32, width: 32, channels: 3, data: interleaved(&planes, 3, 32 * 32) };
    let samples = array.samples(|i| Truth::Class(classes[i]));
    Ok(Set { path: path.to_owned(), samples, classes: Vec::new() })
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
    let samples = PixelArray { height, width, channels, data }.samples(|i| Truth::Class(classes[i]));
    Ok(Set { path: path.to_owned(), samples, classes: Vec::new() })
}
