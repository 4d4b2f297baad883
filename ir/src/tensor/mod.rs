//! Level 1: ONNX-like operations on shaped real tensors, batch 1.
//!
//! Stages: [`Stage::Imported`] (as translated from ONNX) -> [`Stage::Canonical`] (batch norms folded, pads inside
//! convolutions, reshapes normal, constants folded) -> [`Stage::Polynomial`] (no other non-linearity left).

mod infer;
mod op;
mod verify;

pub use infer::{TypeError, infer};
pub use op::{Activation, Conv, Pool, PoolKind, TensorOp};
pub use verify::verify;

use crate::consts::ConstPool;
use crate::graph::{Dialect, Graph};

/// What a tensor graph promises; each stage includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// As translated from ONNX.
    Imported,
    /// Only Input, Conv, FullyConnected, Activation, Poly, Add, AvgPool and Reshape-free flattening; no batch norms, no Pad nodes.
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
