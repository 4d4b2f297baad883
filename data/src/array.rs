//! `.npy` arrays and `.npz` archives of them.

use std::io::{Cursor, Read};
use std::path::Path;

use ndarray_npy::npy::header::{Header, Layout};
use zip::ZipArchive;

use crate::error::DataError;

/// Largest array of an archive, decompressed.
const MAX_ENTRY_BYTES: u64 = 1 << 33;

/// Numbers of an array, by element type: bytes are pixels, floats are values as they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// `uint8`
    Pixels(Vec<u8>),
    /// `float32` or `float64`
    Values(Vec<f64>),
    /// Integers wider than a byte, and `int8`.
    Integers(Vec<i64>),
}

/// A row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Shape.
    pub shape: Vec<usize>,
    /// Numbers.
    pub numbers: Numbers,
}

/// Parses an `.npy` file. Nothing is allocated on the header's word alone: its claim is compared with the file's length
/// first. `path` is what errors name.
///
/// # Errors
/// [`DataError::Array`] when the file is damaged, in Fortran order, or of an element type that is not understood.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Array, DataError> {
    let refuse = |reason: String| DataError::Array { path: path.to_owned(), reason };
    check_header_length(bytes).map_err(refuse)?;
    let mut rest = bytes;
    let header = Header::from_reader(&mut rest).map_err(|e| refuse(e.to_string()))?;
    if header.layout == Layout::Fortran && header.shape.iter().filter(|&&extent| extent > 1).count() > 1 {
        return Err(refuse("it is in Fortran order; save numpy.ascontiguousarray(x)".to_owned()));
    }
    let descriptor = header.type_descriptor.as_string().map_or("", String::as_str);
    let element = Element::parse(descriptor).ok_or_else(|| {
        refuse(format!(
            "element type `{descriptor}`; integers, float32 and float64 (little endian) are understood"
        ))
    })?;
    let width = element.width();
    let claimed = header.shape.iter().try_fold(width, |product: usize, &extent| product.checked_mul(extent));
    if claimed != Some(rest.len()) {
        let reason = format!(
            "its header claims shape {:?} of {descriptor}, the file holds {} bytes of data",
            header.shape,
            rest.len()
        );
        return Err(refuse(reason));
    }
    Ok(Array { shape: header.shape, numbers: element.numbers(rest) })
}

/// The array of an `.npz` archive that one of `names` names first; `None` when it holds none of them.
///
/// # Errors
/// [`DataError::Array`] when the archive or the array is damaged.
pub fn of_archive(path: &Path, bytes: &[u8], names: &[&str]) -> Result<Option<Array>, DataError> {
    let refuse = |reason: String| DataError::Array { path: path.to_owned(), reason };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| refuse(e.to_string()))?;
    for name in names {
        let Some(index) = archive.index_for_name(&format!("{name}.npy")) else { continue };
        let entry = archive.by_index(index).map_err(|e| refuse(e.to_string()))?;
        let mut content = Vec::new();
        let mut limited = entry.take(MAX_ENTRY_BYTES);
        limited.read_to_end(&mut content).map_err(|e| refuse(format!("array `{name}`: {e}")))?;
        return parse(path, &content).map(Some);
    }
    Ok(None)
}

/// Names of the arrays of an `.npz` archive.
///
/// # Errors
/// [`DataError::Array`] when the archive is damaged.
pub fn names(path: &Path, bytes: &[u8]) -> Result<Vec<String>, DataError> {
    let archive = ZipArchive::new(Cursor::new(bytes));
    let archive = archive.map_err(|e| DataError::Array { path: path.to_owned(), reason: e.to_string() })?;
    Ok(archive.file_names().map(|name| name.trim_end_matches(".npy").to_owned()).collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    U8,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    F32,
    F64,
}

impl Element {
    fn parse(descriptor: &str) -> Option<Self> {
        let kind = descriptor.trim_start_matches(['<', '|', '=']);
        Some(match kind {
            "u1" => Self::U8,
            "i1" => Self::I8,
            "i2" => Self::I16,
            "u2" => Self::U16,
            "i4" => Self::I32,
            "u4" => Self::U32,
            "i8" => Self::I64,
            "f4" => Self::F32,
            "f8" => Self::F64,
            _ => return None,
        })
    }

    fn width(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    fn numbers(self, data: &[u8]) -> Numbers {
        match self {
            Self::U8 => Numbers::Pixels(data.to_vec()),
            Self::I8 => Numbers::Integers(data.iter().map(|&b| i64::from(b.cast_signed())).collect()),
            Self::I16 => integers(data, i16::from_le_bytes),
            Self::U16 => integers(data, u16::from_le_bytes),
            Self::I32 => integers(data, i32::from_le_bytes),
            Self::U32 => integers(data, u32::from_le_bytes),
            Self::I64 => integers(data, i64::from_le_bytes),
            Self::F32 => values(data, f32::from_le_bytes),
            Self::F64 => values(data, f64::from_le_bytes),
        }
    }
}

fn integers<const N: usize, T: Into<i64>>(data: &[u8], read: fn([u8; N]) -> T) -> Numbers {
    Numbers::Integers(data.as_chunks::<N>().0.iter().map(|&bytes| read(bytes).into()).collect())
}

fn values<const N: usize, T: Into<f64>>(data: &[u8], read: fn([u8; N]) -> T) -> Numbers {
    Numbers::Values(data.as_chunks::<N>().0.iter().map(|&bytes| read(bytes).into()).collect())
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

#[cfg(test)]
pub(crate) mod testing {
    //! Arrays and archives as bytes.

    use std::io::{Cursor, Write};

    /// An `.npy` file; `kind` is the element type, `data` its bytes.
    pub fn npy(kind: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
        let shape: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
        let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    /// An `.npz` archive of named arrays.
    pub fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in arrays {
            let stored =
                zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            archive.start_file(format!("{name}.npy"), stored).expect("a new file");
            archive.write_all(bytes).expect("memory");
        }
        archive.finish().expect("memory").into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{npy, npz};
    use super::*;

    fn read(bytes: &[u8]) -> Result<Array, DataError> {
        parse(Path::new("x.npy"), bytes)
    }

    #[test]
    fn element_types() {
        let shorts = read(&npy("<i2", &[2], &[255, 255, 1, 0])).expect("int16");
        assert_eq!((shorts.shape, shorts.numbers), (vec![2], Numbers::Integers(vec![-1, 1])));
        let bytes = read(&npy("|u1", &[1, 2], &[3, 255])).expect("uint8");
        assert_eq!(bytes.numbers, Numbers::Pixels(vec![3, 255]));
        let float = read(&npy("<f4", &[1], &1.5f32.to_le_bytes())).expect("float32");
        assert_eq!(float.numbers, Numbers::Values(vec![1.5]));
        let complex = read(&npy("<c8", &[1], &[0; 8])).expect_err("complex numbers").to_string();
        assert!(complex.contains("element type `<c8`"), "{complex}");
    }

    #[test]
    fn claims_are_compared_with_the_length() {
        let short = read(&npy("<f4", &[1 << 40], &[0; 8])).expect_err("too short").to_string();
        assert!(short.contains("holds 8 bytes"), "{short}");
        let cut = read(b"\x93NUMPY\x01\x00\xff").expect_err("cut").to_string();
        assert!(cut.contains("ends inside its header"), "{cut}");
    }

    #[test]
    fn archives_are_searched_by_name() {
        let bytes = npz(&[("labels", npy("<i8", &[1], &[7, 0, 0, 0, 0, 0, 0, 0]))]);
        let path = Path::new("a.npz");
        assert_eq!(of_archive(path, &bytes, &["images"]).expect("readable"), None);
        let labels = of_archive(path, &bytes, &["y", "labels"]).expect("readable").expect("it is there");
        assert_eq!(labels.numbers, Numbers::Integers(vec![7]));
        assert_eq!(names(path, &bytes).expect("readable"), ["labels"]);
        assert!(of_archive(path, b"PK no archive", &["images"]).is_err());
    }
}
