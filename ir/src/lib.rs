//! The three IR levels of Peregrine, their layouts, verifiers and text form, and the `.fhe` container.
//!
//! | level | module | a value is |
//! |---|---|---|
//! | tensor | [`tensor`] | a real tensor in the clear, shaped as in ONNX (batch 1) |
//! | fhe | [`fhe`] | a tensor packed into ciphertexts by a [`layout::Layout`], with level and exact scale |
//! | program | [`program`] | a ciphertext register |
//!
//! This crate holds data and its meaning only: no ONNX, no cryptography, no files but the container.
#![deny(unsafe_code)]

pub mod axis;
pub mod bytes;
pub mod client;
pub mod consts;
pub mod container;
pub mod entity;
pub mod fhe;
pub mod graph;
pub mod layout;
pub mod linear;
pub mod marks;
pub mod program;
mod refresh;
#[cfg(test)]
mod samples;
pub mod tensor;
pub mod text;
pub mod verify;

pub use axis::{AxisEntry, AxisError, AxisMap, AxisRun, Separable};
pub use consts::{ConstData, ConstId, ConstPool, ConstTensor};
pub use entity::{EntityId, PrimaryMap};
pub use graph::{Dialect, Graph, Node, Origin, OutputPort, ValueId};
pub use layout::{Digit, Layout, LayoutError, Place};
pub use peregrine_ckks::bootstrap::{Arcsine, BootstrapSpec, EvalModSpec, PrimeRun};
pub use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
pub use peregrine_ckks::units::{GaloisElement, Level, Rotation, Scale, Slots};
pub use refresh::{MAX_LIFT_BITS, MAX_RANGE_BITS, RefreshForm};
