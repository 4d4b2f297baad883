//! Recycled storage of polynomials.
//!
//! A polynomial takes megabytes and homomorphic operations make and drop several each. The system takes such blocks back,
//! and touching fresh pages costs as much as a pass of arithmetic over them.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::block::Block;

/// Blocks smaller than this many words are left to the allocator.
const SMALLEST: usize = 1 << 13;

/// Most words kept for later, 512 MiB; the oldest blocks go first.
const KEPT: usize = 1 << 26;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

struct Pool {
    blocks: VecDeque<Block>,
    words: usize,
}

/// A block of at least `len` words of unspecified content, if a kept one fits without wasting much.
pub(super) fn take(len: usize) -> Option<Block> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner).take(len)
}

/// Keeps a block for later.
pub(super) fn give(block: Block) {
    if block.len() >= SMALLEST {
        // Freed after the lock.
        let _evicted = POOL.lock().unwrap_or_else(PoisonError::into_inner).give(block);
    }
}

impl Pool {
    const fn new() -> Self {
        Self { blocks: VecDeque::new(), words: 0 }
    }

    fn take(&mut self, len: usize) -> Option<Block> {
        let fits = |block: &Block| (len.max(SMALLEST)..=len + len / 4).contains(&block.len());
        let fitting = (0..self.blocks.len()).filter(|&i| fits(&self.blocks[i]));
        // Of equal blocks the one dropped last, which may still be in the cache.
        let best = fitting.rev().min_by_key(|&i| self.blocks[i].len())?;
        let block = self.blocks.remove(best)?;
        self.words -= block.len();
        Some(block)
    }

    /// Keeps a block and returns those that are too much.
    fn give(&mut self, block: Block) -> Vec<Block> {
        self.words += block.len();
        self.blocks.push_back(block);
        let mut evicted = Vec::new();
        while self.words > KEPT
            && let Some(oldest) = self.blocks.pop_front()
        {
            self.words -= oldest.len();
            evicted.push(oldest);
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_block_that_fits_is_taken_once() {
        let mut pool = Pool::new();
        for size in [40_000, 30_000, 32_000] {
            assert!(pool.give(Block::zeroed(size)).is_empty());
        }
        assert_eq!(pool.take(29_000).map(|block| block.len()), Some(30_000));
        assert_eq!(pool.take(29_000).map(|block| block.len()), Some(32_000));
        assert!(pool.take(29_000).is_none(), "40000 words would waste too much");
        assert_eq!(pool.words, 40_000);
        assert!(pool.take(0).is_none());
    }

    #[test]
    fn the_oldest_blocks_go_when_too_much_is_kept() {
        let mut pool = Pool::new();
        for extra in 0..3 {
            assert!(pool.give(Block::zeroed(KEPT / 4 + extra)).is_empty());
        }
        let evicted = pool.give(Block::zeroed(KEPT / 4));
        assert_eq!(evicted.len(), 1);
        assert!(pool.words <= KEPT && pool.blocks.len() == 3);
        assert_eq!(pool.give(Block::zeroed(2 * KEPT)).len(), 4, "a block beyond the limit is not kept");
        assert_eq!(pool.words, 0);
    }
}
