//! Compiler passes, their one pipeline, the cost model and the clear interpreters.
//!
//! Passes of the tensor level are in [`tensor`], one a file, each with its purpose, precondition and postcondition; every
//! one is tested by running the clear interpreter [`tensor::interp`] before and after. [`pass::PassManager`] runs them in
//! order, verifies between them and offers each intermediate graph to a dump hook.
#![forbid(unsafe_code)]

pub mod error;
pub mod fhe;
pub mod pass;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod scales;
pub mod tensor;

pub use error::{PassError, Unsupported};
pub use pass::{Changed, Pass, PassManager, PassRecord, Verification};
