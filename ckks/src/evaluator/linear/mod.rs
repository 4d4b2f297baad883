//! Linear transforms on slots: `out = sum rotate(sum diagonal * rotate(in, baby), giant)` in stages with folds.
//!
//! Baby-step giant-step with double hoisting (Bossuat et al., eprint 2020/1203, §4): every input is decomposed once;
//! baby rotations are inner products modulo `QP` that are never divided by `P`; products with diagonals are summed
//! lazily modulo `QP`; a giant step divides only its second part; one division by `P` per output ends the transform.

mod apply;
mod batching;
mod plan;
mod products;
mod sums;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use apply::{apply, apply_in_room, apply_rescaled};
pub use batching::{Batching, Foreseen, Outline};
pub use plan::{
    Close, DiagonalId, GiantOrder, GiantStep, Join, LinearCounts, LinearPlan, PlanError, Stage, Term, Turn,
};
pub use sums::ALIKE;

use crate::error::Error;
use crate::plaintext::IntPlaintext;

/// Supplies the encoded diagonals of a plan, each asked for once per portion of a transform.
pub trait DiagonalSource: Sync {
    /// The diagonal `id`, already rotated by minus the giant step it is used in.
    ///
    /// # Errors
    /// Whatever keeps the owner from supplying it, usually [`Error::Source`].
    fn diagonal(&self, id: DiagonalId) -> Result<Arc<IntPlaintext>, Error>;
}
