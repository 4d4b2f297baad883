//! The words of a polynomial, in recycled storage.

use std::ops::{Deref, DerefMut};

use super::block::Block;
use super::pool;

/// A fixed number of words, aligned to a cache line so that vector loads never straddle two.
#[derive(Debug)]
pub(super) struct Words {
    /// None only while it is dropped.
    block: Option<Block>,
    len: usize,
}

impl Words {
    pub(super) fn zeroed(len: usize) -> Words {
        let recycled = pool::take(len).map(|mut block| {
            block.words_mut()[..len].fill(0);
            block
        });
        Words { block: Some(recycled.unwrap_or_else(|| Block::zeroed(len))), len }
    }

    /// Words of unspecified content, for callers that write all of them.
    pub(super) fn unspecified(len: usize) -> Words {
        Words { block: Some(pool::take(len).unwrap_or_else(|| Block::zeroed(len))), len }
    }

    /// Forgets the words from `len` on; the storage stays.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// A copy of `words`.
    pub(super) fn copied(words: &[u64]) -> Words {
        let mut copy = Words::unspecified(words.len());
        copy.copy_from_slice(words);
        copy
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        self.block.take().into_iter().for_each(pool::give);
    }
}

impl Deref for Words {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        self.block.as_ref().map_or(&[], |block| &block.words()[..self.len])
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u64] {
        self.block.as_mut().map_or(&mut [], |block| &mut block.words_mut()[..self.len])
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
        for len in [0, 1, 7, 64, 1000, 1 << 18] {
            let mut words = Words::zeroed(len);
            words.fill(7);
            let copy = words.clone();
            assert_eq!(copy.as_ptr() as usize % 64, 0);
            assert_eq!(words.as_ptr() as usize % 64, 0);
            assert_eq!(&copy[..], vec![7; len]);
        }
    }
}
