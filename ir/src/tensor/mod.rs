//! Level 1: ONNX-like operations on shaped real tensors, batch 1.
//!
//! Stages: [`Stage::Imported`] (as translated from ONNX) -> [`Stage::Canonical`] (batch norms folded, pads inside
//! convolutions, reshapes normal, constants folded) -> [`Stage::Polynomial`] (no other non-linearity left).

mod activation;
mod infer;
mod op;
#[cfg(test)]
mod tests;
mod verify;

pub use activation::Activation;
pub use infer::{MAX_ELEMENTS, MAX_POLY_DEGREE, TypeError, infer};
pub use op::{Conv, Pool, PoolKind, TensorOp};
pub use verify::verify;

use std::fmt;

use crate::consts::ConstPool;
use crate::graph::{Dialect, Graph};

/// What a tensor graph promises; each stage includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// As translated from ONNX.
    Imported,
    /// Only Input, Conv, FullyConnected, Activation, Poly, Add, pools, separable maps and flattening Reshape; no batch norms,
    /// no Pad nodes.
    Canonical,
    /// Canonical, and every non-linearity is a Poly.
    Polynomial,
}

/// Type of a tensor value: its shape with batch 1 (`[1, C, H, W]` or `[1, F]`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorTy {
    /// Extents.
    pub shape: Vec<usize>,
}

impl TensorTy {
    /// A `[1, C, H, W]` tensor.
    pub fn map(c: usize, h: usize, w: usize) -> Self {
        Self { shape: vec![1, c, h, w] }
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |n, &extent| n.saturating_mul(extent))
    }
    /// Whether an extent is zero.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }
}

impl fmt::Display for TensorTy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extents: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        f.write_str(&extents.join("x"))
    }
}

/// Tables of a tensor graph.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorTables {
    /// Constants.
    pub consts: ConstPool,
    /// Stage.
    pub stage: Stage,
}

/// The tensor level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor;

impl Dialect for Tensor {
    type Op = TensorOp;
    type Ty = TensorTy;
    type Tables = TensorTables;
}

/// A graph of the tensor level.
pub type TensorGraph = Graph<Tensor>;
