//! Constants: described by a table of the program section, their numbers are the constants section.
//!
//! Numbers are raw, little-endian, row-major, constant after constant. Of equal numbers in a row only the first is stored: so
//! are the weights of a fully connected layer after an average pool, and the zeros of a convolution that writes to a part of
//! the channels.

use std::iter::repeat_n;

use super::decode::{At, DecodeError, shape};
use super::proto;
use crate::consts::{ConstData, ConstPool, ConstTensor};

/// Most bytes that the constants of a file may have beyond those stored: what repetitions unfold to.
pub(super) const MAX_UNFOLDED: u64 = 1 << 30;
/// Most runs that are written: they are part of the program section, which has its own limit.
const MAX_RUNS: usize = 1 << 20;
/// Fewer equal numbers are not worth a run.
const MIN_EQUAL: usize = 4;

/// The table of the program section, and the constants section.
pub(super) fn encode(consts: &ConstPool) -> (Vec<proto::Const>, Vec<u8>) {
    let (mut table, mut bytes) = (Vec::with_capacity(consts.len()), Vec::new());
    let mut left = Left { bytes: MAX_UNFOLDED, runs: MAX_RUNS };
    for constant in consts.values() {
        let (element, runs) = match &constant.data {
            ConstData::F32(data) => {
                let runs = left.admit(runs(data, |a, b| a.to_bits() == b.to_bits()), size_of::<f32>());
                stored(data, &runs).into_iter().flatten().for_each(|x| bytes.extend(x.to_le_bytes()));
                (proto::Element::F32, runs)
            }
            ConstData::F64(data) => {
                let runs = left.admit(runs(data, |a, b| a.to_bits() == b.to_bits()), size_of::<f64>());
                stored(data, &runs).into_iter().flatten().for_each(|x| bytes.extend(x.to_le_bytes()));
                (proto::Element::F64, runs)
            }
        };
        let shape = constant.shape.iter().map(|&extent| extent as u64).collect();
        table.push(proto::Const { element: element.into(), shape, runs });
    }
    (table, bytes)
}

/// What the limits of a file leave for repetitions.
struct Left {
    bytes: u64,
    runs: usize,
}

impl Left {
    /// The runs, or none where they would pass a limit: then all numbers are stored.
    fn admit(&mut self, runs: Vec<u64>, width: usize) -> Vec<u64> {
        let unfolded = repetitions(&runs).sum::<u64>() * width as u64;
        let (Some(bytes), Some(count)) =
            (self.bytes.checked_sub(unfolded), self.runs.checked_sub(runs.len()))
        else {
            return Vec::new();
        };
        *self = Self { bytes, runs: count };
        runs
    }
}

/// Alternately how many numbers are stored and how many more times the last of them comes; empty if all are stored.
fn runs<T>(data: &[T], same: impl Fn(&T, &T) -> bool) -> Vec<u64> {
    let (mut runs, mut kept) = (Vec::new(), 0);
    for equal in data.chunk_by(same) {
        if equal.len() < MIN_EQUAL {
            kept += equal.len() as u64;
        } else {
            runs.extend([kept + 1, equal.len() as u64 - 1]);
            kept = 0;
        }
    }
    if kept > 0 && !runs.is_empty() {
        runs.push(kept);
    }
    runs
}

fn repetitions(runs: &[u64]) -> impl Iterator<Item = u64> {
    runs.iter().copied().skip(1).step_by(2)
}

/// The pieces of a tensor's numbers that are stored.
fn stored<'a, T>(data: &'a [T], runs: &[u64]) -> Vec<&'a [T]> {
    if runs.is_empty() {
        return vec![data];
    }
    let mut rest = data;
    let piece = |run: &[u64]| {
        let (kept, after) = rest.split_at(run[0] as usize);
        rest = run.get(1).map_or(after, |&more| &after[more as usize..]);
        kept
    };
    runs.chunks(2).map(piece).collect()
}

/// A constant as the table describes it.
struct Described {
    element: proto::Element,
    shape: Vec<usize>,
    runs: Vec<u64>,
    /// Bytes stored.
    stored: u64,
    /// Bytes that repetitions add.
    unfolded: u64,
}

impl Described {
    fn of(at: At, entry: proto::Const) -> Result<Self, DecodeError> {
        let (shape, elements) = shape(&entry.shape, at.part, at.index)?;
        let width = match entry.element() {
            proto::Element::F32 => size_of::<f32>(),
            proto::Element::F64 => size_of::<f64>(),
            proto::Element::Unspecified => return Err(at.missing("element type")),
        } as u64;
        let element = entry.element();
        let sum =
            entry.runs.iter().try_fold(0u64, |sum, &count| sum.checked_add(count).filter(|_| count > 0));
        if !entry.runs.is_empty() && sum != Some(elements) {
            return Err(at.range("numbers in its runs", sum.unwrap_or(u64::MAX)));
        }
        let repeated: u64 = repetitions(&entry.runs).sum();
        let (stored, unfolded) = ((elements - repeated) * width, repeated * width);
        Ok(Self { element, shape, runs: entry.runs, stored, unfolded })
    }

    fn tensor(self, bytes: &[u8]) -> ConstTensor {
        let data = match self.element {
            proto::Element::F64 => ConstData::F64(unfold(&f64s(bytes), &self.runs).into()),
            _ => ConstData::F32(unfold(&f32s(bytes), &self.runs).into()),
        };
        ConstTensor { shape: self.shape, data }
    }
}

/// The constants of a table; nothing is unfolded before all lengths are right.
pub(super) fn decode(table: Vec<proto::Const>, data: &[u8]) -> Result<ConstPool, DecodeError> {
    let (mut expected, mut unfolded) = (0u64, 0u64);
    let mut constants = Vec::with_capacity(table.len());
    for (index, entry) in table.into_iter().enumerate() {
        let at = At { part: "constant", index };
        let constant = Described::of(at, entry)?;
        expected = expected.saturating_add(constant.stored);
        unfolded = unfolded.saturating_add(constant.unfolded);
        if unfolded > MAX_UNFOLDED {
            return Err(at.range("bytes of repetitions, with the constants before,", unfolded));
        }
        constants.push(constant);
    }
    let found = data.len() as u64;
    if expected != found {
        return Err(DecodeError::Length { part: "the data of all constants", expected, found });
    }
    let mut rest = data;
    let tensors = constants.into_iter().map(|constant| {
        let (bytes, after) = rest.split_at(constant.stored as usize);
        rest = after;
        constant.tensor(bytes)
    });
    Ok(tensors.collect())
}

fn unfold<T: Copy>(stored: &[T], runs: &[u64]) -> Vec<T> {
    if runs.is_empty() {
        return stored.to_vec();
    }
    let mut numbers = Vec::with_capacity(runs.iter().sum::<u64>() as usize);
    let mut rest = stored;
    for run in runs.chunks(2) {
        let (kept, after) = rest.split_at(run[0] as usize);
        numbers.extend_from_slice(kept);
        if let (&[_, more], Some(&last)) = (run, kept.last()) {
            numbers.extend(repeat_n(last, more as usize));
        }
        rest = after;
    }
    numbers
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
}

fn f64s(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<8>().0.iter().map(|&chunk| f64::from_le_bytes(chunk)).collect()
}
