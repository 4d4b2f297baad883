//! From a trained ONNX model to a `.fhe` artefact.
//!
//! | module | does |
//! |---|---|
//! | [`onnx`] | reads ONNX into a tensor graph and the client's head and tail, and writes tensor graphs as ONNX |
//! | [`oracle`] | runs ONNX in the clear with tract |
#![forbid(unsafe_code)]

pub mod onnx;
pub mod oracle;
