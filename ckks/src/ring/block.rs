//! Storage of words: small blocks on the heap, large ones on huge pages of their own.
//!
//! Fresh memory is handed out page by page when it is first touched, which costs more than a pass of arithmetic over it, and
//! limbs of half a megabyte miss the translation cache at every page. With pages of 2 MiB both costs vanish.

use memmap2::MmapMut;

const WORD: usize = size_of::<u64>();
const LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// Blocks of this many bytes or more are mapped.
const MAPPED: usize = HUGE_PAGE / 2;

/// Bytes that a block of so many words takes: a mapped one fills its last huge page.
pub(super) fn resident_bytes(words: usize) -> u64 {
    let bytes = words * WORD;
    (if bytes >= MAPPED { bytes.next_multiple_of(HUGE_PAGE) } else { bytes }) as u64
}

/// Words that start on a cache line; those of a large block on a huge page.
#[derive(Debug)]
pub(super) struct Block {
    storage: Storage,
    start: usize,
    len: usize,
}

#[derive(Debug)]
enum Storage {
    Heap(Vec<u64>),
    Mapped(MmapMut),
}

impl Block {
    /// `len` zeros.
    pub(super) fn zeroed(len: usize) -> Block {
        match (len * WORD >= MAPPED).then(|| mapped(len * WORD)).flatten() {
            Some(map) => Block::new(Storage::Mapped(map), len, HUGE_PAGE),
            None => Block::new(Storage::Heap(vec![0; len + LINE / WORD - 1]), len, LINE),
        }
    }

    fn new(storage: Storage, len: usize, alignment: usize) -> Block {
        let start = (storage.words().as_ptr() as usize).wrapping_neg() % alignment / WORD;
        Block { storage, start, len }
    }

    /// Number of words.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.storage.words()[self.start..self.start + self.len]
    }

    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.storage.words_mut()[self.start..self.start + self.len]
    }
}

impl Storage {
    fn words(&self) -> &[u64] {
        match self {
            Storage::Heap(words) => words,
            Storage::Mapped(map) => bytemuck::cast_slice(map),
        }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        match self {
            Storage::Heap(words) => words,
            Storage::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

/// Zeros with room to start on a huge page. None if the system has no such mapping to give: the heap then decides.
fn mapped(bytes: usize) -> Option<MmapMut> {
    let map = MmapMut::map_anon((bytes + HUGE_PAGE).next_multiple_of(HUGE_PAGE)).ok()?;
    // Advice that is not taken costs speed only.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_blocks_are_aligned_zeros() {
        for (len, alignment) in [(0, LINE), (1, LINE), (1000, LINE), (MAPPED / WORD, HUGE_PAGE)] {
            let mut block = Block::zeroed(len);
            assert_eq!((block.len(), block.words().len()), (len, len));
            assert!(block.words().iter().all(|&word| word == 0));
            assert_eq!(block.words().as_ptr() as usize % alignment, 0);
            block.words_mut().fill(7);
            assert!(block.words().iter().all(|&word| word == 7));
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_none() {
        assert!(mapped(usize::MAX / 4).is_none());
    }
}
