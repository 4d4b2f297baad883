//! Limb buffers of inner loops.

use smallvec::SmallVec;

use crate::ring::poly::{Ntt, RnsPoly};

/// Words between the end of a buffer and the start of the next. Inner loops work on one place of many limbs at a time; at a
/// distance of a power of two all of them would compete for the same few places of the caches. With this one, rows of 2 KiB
/// of successive buffers lie side by side.
const SKEW: usize = 264;

/// Buffers of one loop.
pub(super) type Buffers<'a> = SmallVec<[&'a mut [u64]; 32]>;

/// Calls `work` with `limbs` limbs of `n` words of unspecified content.
pub(super) fn with_scratch<R>(n: usize, limbs: usize, work: impl FnOnce(&mut Buffers<'_>) -> R) -> R {
    let mut words: RnsPoly<Ntt> = RnsPoly::unspecified(n + SKEW, limbs, 0);
    let mut buffers: Buffers<'_> = words.limbs_mut().map(|limb| &mut limb[..n]).collect();
    work(&mut buffers)
}
