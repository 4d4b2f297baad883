//! From a trained ONNX model to a `.fhe` artefact.
//!
//! | module | does |
//! |---|---|
//! | [`onnx`] | reads ONNX into a tensor graph and the client's head and tail, and writes tensor graphs as ONNX |
//! | [`oracle`] | runs ONNX in the clear with tract |
//! | [`inputs`] | pictures, arrays and folders as model inputs |
//! | [`driver`] | one compilation: import, calibration, pipeline, gate, container |
//! | [`fidelity`] | compares the imported model with tract on the original |
//! | [`gate`] | runs the program on the noisy backend against tract and refuses wrong answers |
//! | [`report`] | what is known before anything is run |
//!
//! Only [`onnx`] and [`oracle`] see tract.
#![forbid(unsafe_code)]

pub mod driver;
pub mod error;
pub mod fidelity;
pub mod gate;
pub mod inputs;
pub mod onnx;
pub mod options;
pub mod oracle;
pub mod precision;
pub mod report;
