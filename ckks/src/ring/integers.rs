//! Integers of plaintexts: few on the heap, many in the [arena](super::arena) beside the polynomials, where a memory budget sees
//! them and where they leave their pages when they go.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use bytemuck::Pod;

use super::words::Words;

/// A fixed number of integers.
#[derive(Clone)]
pub struct Integers<T> {
    words: Words,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Integers<T> {
    /// `len` integers that `fill` writes, all of them: it gets unspecified ones.
    pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [T])) -> Self {
        let words = (len * size_of::<T>()).div_ceil(size_of::<u64>());
        let mut integers = Integers { words: Words::packed(words), len, of: PhantomData };
        fill(&mut bytemuck::cast_slice_mut::<u64, T>(&mut integers.words)[..len]);
        integers
    }
}

/// Bytes of memory that so many bytes of integers take.
#[must_use]
pub fn integer_bytes(bytes: u64) -> u64 {
    super::words::packed_bytes(bytes as usize)
}

impl<T: Pod> Deref for Integers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice::<u64, T>(&self.words)[..self.len]
    }
}

impl<T: Pod + PartialEq> PartialEq for Integers<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl<T: Pod + Eq> Eq for Integers<T> {}

impl<T: Pod + fmt::Debug> fmt::Debug for Integers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self[..].fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_what_was_written_wherever_they_are() {
        for len in [0, 1, 7, 1000, 1 << 14] {
            let write = |out: &mut [i32]| (0i32..).zip(out).for_each(|(i, place)| *place = i - 500);
            let integers = Integers::filled(len, write);
            assert!((0i32..).zip(&*integers).all(|(i, &value)| value == i - 500), "{len}");
            assert_eq!(integers.len(), len);
            assert_eq!(integers.clone(), integers);
        }
        assert_eq!([integer_bytes(100), integer_bytes(64 << 10)], [100, 64 << 10]);
    }
}
