//! Single-stage fine-tuning: from a trained ONNX model to one with low-degree polynomial activations, in one run.
//!
//! | module | does |
//! |---|---|
//! | [`tensor`] | batches of images, recycled memory |
//! | [`ops`] | differentiable operations with their gradients |
//! | [`net`] | networks: import from and export to tensor graphs, replacing activations, running, gradients |
//! | [`loss`], [`penalty`], [`sgd`] | what is minimised, and how |
//! | [`data`] | pictures, arrays, labels, augmentation |
//! | [`train`] | a run: steps, evaluation, checkpoints, log and report |
//! | [`tuned`] | model files in and out |
//! | [`cli`] | `peregrine-tune` |
#![forbid(unsafe_code)]

pub mod cli;
pub mod data;
pub mod loss;
pub mod net;
pub mod ops;
pub mod penalty;
pub mod sgd;
pub mod tensor;
pub mod train;
pub mod tuned;
