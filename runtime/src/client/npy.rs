//! `.npy` arrays as model inputs.

use std::path::Path;

use ndarray_npy::npy::header::{Header, Layout};

use super::error::ClientError;

/// Numbers of an array, by element type: bytes are pixels, floats are model inputs as they are.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrayData {
    /// `uint8`
    Pixels(Vec<u8>),
    /// `float32` or `float64`
    Values(Vec<f64>),
}

/// A row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Shape.
    pub shape: Vec<usize>,
    /// Numbers.
    pub data: ArrayData,
}

/// Parses an `.npy` file. Nothing is allocated on the header's word alone: its claim is compared with the file's length
/// first.
///
/// # Errors
/// [`ClientError::Array`] when the file is damaged or of an element type other than `u1`, `<f4`, `<f8`.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Array, ClientError> {
    let refuse = |reason: String| ClientError::Array { path: path.to_owned(), reason };
    check_header_length(bytes).map_err(refuse)?;
    let mut rest = bytes;
    let header = Header::from_reader(&mut rest).map_err(|e| refuse(e.to_string()))?;
    if header.layout == Layout::Fortran && header.shape.iter().filter(|&&extent| extent > 1).count() > 1 {
        return Err(refuse("it is in Fortran order; save numpy.ascontiguousarray(x)".to_owned()));
    }
    let kind = header.type_descriptor.as_string().map_or("", String::as_str);
    let width = match kind {
        "|u1" | "<u1" | "=u1" => 1,
        "<f4" => 4,
        "<f8" => 8,
        other => {
            return Err(refuse(format!(
                "element type `{other}`; uint8, float32 and float64 (little endian) are understood"
            )));
        }
    };
    let claimed = header.shape.iter().try_fold(width, |product: usize, &extent| product.checked_mul(extent));
    if claimed != Some(rest.len()) {
        let reason = format!(
            "its header claims shape {:?} of {kind}, the file holds {} bytes of data",
            header.shape,
            rest.len()
        );
        return Err(refuse(reason));
    }
    Ok(Array { shape: header.shape, data: elements(rest, width) })
}

fn elements(data: &[u8], width: usize) -> ArrayData {
    match width {
        1 => ArrayData::Pixels(data.to_vec()),
        4 => ArrayData::Values(
            data.as_chunks::<4>().0.iter().map(|&c| f64::from(f32::from_le_bytes(c))).collect(),
        ),
        _ => ArrayData::Values(data.as_chunks::<8>().0.iter().map(|&c| f64::from_le_bytes(c)).collect()),
    }
}

/// The header's length field must stay inside the file.
fn check_header_length(bytes: &[u8]) -> Result<(), String> {
    let claimed = match bytes.get(6) {
        Some(1) => bytes.get(8..10).map(|b| u64::from(u16::from_le_bytes([b[0], b[1]])) + 10),
        Some(_) => bytes.get(8..12).map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])) + 12),
        None => None,
    };
    match claimed {
        Some(length) if length <= bytes.len() as u64 => Ok(()),
        _ => Err("the file ends inside its header".to_owned()),
    }
}
