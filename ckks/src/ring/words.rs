//! A block of words that starts on a cache line.

use std::ops::{Deref, DerefMut};

const LINE_BYTES: usize = 64;
const LINE_WORDS: usize = LINE_BYTES / size_of::<u64>();

/// Fixed-length zero-initialised words, aligned to a cache line so that vector loads never straddle two.
#[derive(Debug)]
pub(super) struct Words {
    storage: Vec<u64>,
    start: usize,
    len: usize,
}

impl Words {
    pub(super) fn zeroed(len: usize) -> Words {
        let storage = vec![0; len + LINE_WORDS - 1];
        let start = line_start(&storage);
        Words { storage, start, len }
    }

    /// A copy of `words`, written once: the storage is not cleared before.
    pub(super) fn copied(words: &[u64]) -> Words {
        let mut storage = Vec::with_capacity(words.len() + LINE_WORDS - 1);
        let start = line_start(&storage);
        storage.resize(start, 0);
        storage.extend_from_slice(words);
        Words { storage, start, len: words.len() }
    }
}

/// Words before the first cache line. The storage never outgrows its capacity, so that its address stays.
fn line_start(storage: &[u64]) -> usize {
    (storage.as_ptr() as usize).wrapping_neg() % LINE_BYTES / size_of::<u64>()
}

impl Deref for Words {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

impl Clone for Words {
    fn clone(&self) -> Words {
        Words::copied(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_their_clones_are_aligned() {
        for len in [0, 1, 7, 64, 1000] {
            let mut words = Words::zeroed(len);
            words.fill(7);
            let copy = words.clone();
            assert_eq!(copy.as_ptr() as usize % LINE_BYTES, 0);
            assert_eq!(words.as_ptr() as usize % LINE_BYTES, 0);
            assert_eq!(&copy[..], vec![7; len]);
        }
    }
}
