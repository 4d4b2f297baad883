//! The words of a polynomial: small ones on the heap, large ones in the [arena](super::arena).

use std::ops::{Deref, DerefMut};

use super::arena::{self, Range};

const LINE: usize = 64 / size_of::<u64>();

/// Bytes of memory that so many words take.
pub(super) fn resident_bytes(words: usize) -> u64 {
    let bytes = words * size_of::<u64>();
    (if bytes >= arena::SMALLEST { arena::rounded(bytes) } else { bytes }) as u64
}

/// Bytes of memory that so many packed bytes take.
pub(super) fn packed_bytes(bytes: usize) -> u64 {
    (if bytes >= arena::SMALLEST_PACKED { arena::packed(bytes) } else { bytes }) as u64
}

/// A fixed number of words, aligned to a cache line so that vector loads never straddle two.
#[derive(Debug)]
pub(super) struct Words {
    storage: Storage,
    len: usize,
}

#[derive(Debug)]
enum Storage {
    /// With the index of the first aligned word.
    Heap(Vec<u64>, usize),
    Arena(Range),
}

impl Words {
    pub(super) fn zeroed(len: usize) -> Words {
        let mut words = Words::unspecified(len);
        if matches!(&words.storage, Storage::Arena(range) if !range.clean) {
            words.fill(0);
        }
        words
    }

    /// Words of unspecified content, for callers that write all of them.
    pub(super) fn unspecified(len: usize) -> Words {
        let bytes = len * size_of::<u64>();
        let range = if bytes >= arena::SMALLEST { Range::take(bytes) } else { None };
        let storage = range.map_or_else(|| heap(len), Storage::Arena);
        Words { storage, len }
    }

    /// Words of unspecified content that loops read one after the other, by themselves: no memory is lost for their start.
    pub(super) fn packed(len: usize) -> Words {
        let bytes = len * size_of::<u64>();
        let range = if bytes >= arena::SMALLEST_PACKED { Range::take_packed(bytes) } else { None };
        let storage = range.map_or_else(|| heap(len), Storage::Arena);
        Words { storage, len }
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

fn heap(len: usize) -> Storage {
    let words = vec![0; len + LINE - 1];
    let start = (words.as_ptr() as usize).wrapping_neg() % (LINE * size_of::<u64>()) / size_of::<u64>();
    Storage::Heap(words, start)
}

impl Deref for Words {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match &self.storage {
            Storage::Heap(words, start) => &words[*start..*start + self.len],
            Storage::Arena(range) => &range.words()[..self.len],
        }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u64] {
        match &mut self.storage {
            Storage::Heap(words, start) => &mut words[*start..*start + self.len],
            Storage::Arena(range) => &mut range.words_mut()[..self.len],
        }
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
    fn words_and_their_clones_are_aligned() {
        for len in [0, 1, 7, 64, 1000, 1 << 18] {
            let mut words = Words::zeroed(len);
            assert!(words.iter().all(|&word| word == 0));
            words.fill(7);
            let copy = words.clone();
            assert_eq!(copy.as_ptr() as usize % 64, 0);
            assert_eq!(words.as_ptr() as usize % 64, 0);
            assert_eq!(&copy[..], vec![7; len]);
            drop((words, copy));
            assert!(Words::zeroed(len).iter().all(|&word| word == 0), "used again");
        }
    }
}
