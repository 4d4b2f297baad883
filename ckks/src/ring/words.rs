//! A block of words that starts on a cache line.

use std::ops::{Deref, DerefMut};

use super::pool;

const LINE_BYTES: usize = 64;
const LINE_WORDS: usize = LINE_BYTES / size_of::<u64>();

/// A fixed number of words, aligned to a cache line so that vector loads never straddle two.
#[derive(Debug)]
pub(super) struct Words {
    storage: Vec<u64>,
    start: usize,
    len: usize,
}

impl Words {
    pub(super) fn zeroed(len: usize) -> Words {
        match pool::take(len + LINE_WORDS - 1) {
            Some(mut storage) => {
                storage.fill(0);
                Words::within(storage, len)
            }
            None => Words::within(vec![0; len + LINE_WORDS - 1], len),
        }
    }

    /// Words of unspecified content, for callers that write all of them.
    pub(super) fn unspecified(len: usize) -> Words {
        let storage = pool::take(len + LINE_WORDS - 1);
        Words::within(storage.unwrap_or_else(|| vec![0; len + LINE_WORDS - 1]), len)
    }

    /// A copy of `words`.
    pub(super) fn copied(words: &[u64]) -> Words {
        let mut copy = Words::unspecified(words.len());
        copy.copy_from_slice(words);
        copy
    }

    /// Aligns `len` words in storage that has room for it and is never resized again.
    fn within(storage: Vec<u64>, len: usize) -> Words {
        let start = line_start(&storage);
        Words { storage, start, len }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.storage));
    }
}

/// Words before the first cache line.
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
