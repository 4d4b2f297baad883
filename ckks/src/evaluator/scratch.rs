//! Limb buffers that threads keep between uses, so that inner loops neither allocate nor touch fresh pages.

use std::cell::RefCell;

use crate::ring::poly::{Ntt, RnsPoly};

/// Buffers a thread keeps at most.
const KEPT: usize = 4;

thread_local! {
    static FREE: RefCell<Vec<RnsPoly<Ntt>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `limbs` limbs of `n` words of unspecified content.
pub(super) fn with_scratch<R>(n: usize, limbs: usize, work: impl FnOnce(&mut RnsPoly<Ntt>) -> R) -> R {
    let fits = |buffer: &RnsPoly<Ntt>| buffer.n() == n && buffer.q_limbs() == limbs;
    let kept = FREE.with_borrow_mut(|free| free.iter().position(fits).map(|i| free.remove(i)));
    let mut buffer = kept.unwrap_or_else(|| RnsPoly::zero(n, limbs, 0));
    let result = work(&mut buffer);
    FREE.with_borrow_mut(|free| {
        if free.len() == KEPT {
            free.remove(0);
        }
        free.push(buffer);
    });
    result
}
