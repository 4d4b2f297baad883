//! What users bring: pictures, arrays, and labelled sets of them; and how they become model inputs.
//!
//! | module | does |
//! |---|---|
//! | [`picture`] | decodes pictures, fits them to a model's input, maps coordinates back |
//! | [`mod@array`] | reads `.npy` and `.npz` without trusting their headers |
//! | [`set`] | labelled sets: class folders, tar, npz, npy, CIFAR binary, csv, pictures with boxes |
//! | [`onnx`] | what an ONNX file says about itself: local functions, metadata |
//!
//! Nothing here knows what operators mean, layouts or encryption.
#![forbid(unsafe_code)]

pub mod array;
mod error;
pub mod onnx;
pub mod picture;
pub mod set;

pub use error::DataError;
