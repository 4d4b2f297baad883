//! Level 2: operations on packed tensors. Each value carries its layout and, from stage [`Stage::Leveled`], its level
//! and exact scale.
//!
//! Semantics of the packed values. A tensor-level value T is held as V with T\[c\] = unit\[c\] * V\[c\]: `unit` (the range of
//! channel c and the sign that a monic polynomial could not carry) is folded into the maps that consume V and is kept
//! here, per value, only so that reports and checks can undo it.

mod clear;
mod op;
#[cfg(test)]
mod tests;
mod verify;

pub use clear::run as run_clear;
pub use op::{FheOp, MonicPoly};
pub use verify::verify;

use peregrine_ckks::bootstrap::BootstrapSpec;
use peregrine_ckks::units::{Level, Scale};

use crate::consts::{ConstId, ConstPool};
use crate::entity::PrimaryMap;
use crate::graph::{Dialect, Graph};
use crate::layout::Layout;
use crate::linear::{LayoutId, LinearMap, LinearMapId};

/// What an fhe graph promises; each stage includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Layouts are assigned.
    Packed,
    /// Levels and scales are assigned, every operand of an op is at the level and scale that the op asks for.
    Leveled,
}

/// Level and exact scale of a value's ciphertexts.
#[derive(Clone, Debug, PartialEq)]
pub struct CipherTy {
    /// Level.
    pub level: Level,
    /// Scale.
    pub scale: Scale,
}

/// Type of a packed value.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedTy {
    /// Layout.
    pub layout: LayoutId,
    /// Per-channel unit `[C]` (f64): tensor value = unit * packed value.
    pub unit: ConstId,
    /// Largest magnitude of a packed value that calibration saw.
    pub reach: f64,
    /// Level and scale, from stage [`Stage::Leveled`].
    pub cipher: Option<CipherTy>,
}

/// Tables of an fhe graph.
#[derive(Clone, Debug, PartialEq)]
pub struct FheTables {
    /// Constants.
    pub consts: ConstPool,
    /// Layouts.
    pub layouts: PrimaryMap<LayoutId, Layout>,
    /// Linear maps.
    pub maps: PrimaryMap<LinearMapId, LinearMap>,
    /// Slots of a ciphertext, N/2.
    pub slots: u32,
    /// Bits of the primes q_0, q_1, ... ; empty before stage [`Stage::Leveled`].
    pub chain_bits: Vec<u32>,
    /// How the chain serves bootstrapping; `None` before stage [`Stage::Leveled`] and for graphs that do not refresh.
    pub bootstrap: Option<BootstrapSpec>,
    /// Stage.
    pub stage: Stage,
}

/// The fhe level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fhe;

impl Dialect for Fhe {
    type Op = FheOp;
    type Ty = PackedTy;
    type Tables = FheTables;
}

/// A graph of the fhe level.
pub type FheGraph = Graph<Fhe>;
