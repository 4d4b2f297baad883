//! Why a run ends early.

use std::path::PathBuf;

use peregrine_data::DataError;
use thiserror::Error;

use crate::net::ReplaceError;

/// Why a run ends early.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The teacher is another kind of network.
    #[error("the teacher has other {what} than the model")]
    Teacher {
        /// What differs.
        what: &'static str,
    },
    /// Data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Replacing activations.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// The client's head fails.
    #[error("the model's input normalisation cannot be run: {0}")]
    Head(String),
    /// Labels are needed.
    #[error(
        "the data have no labels: give --labels FILE or folders per class, or --distil to learn from the original model"
    )]
    NoLabels,
    /// The model has no classes.
    #[error(
        "the model has no single row of class scores: use --distil to learn its outputs from the original model"
    )]
    NoClasses,
    /// A label that the model does not have.
    #[error("the data have the label {label}, the model has {classes} classes")]
    Label {
        /// Label.
        label: usize,
        /// Classes of the model.
        classes: usize,
    },
    /// Too few samples for a batch norm.
    #[error("{images} image(s) are too few to train on")]
    TooFew {
        /// Samples.
        images: usize,
    },
    /// The loss ran away.
    #[error(
        "training diverged at step {step}: layer {layer:?} {what}; use a smaller --lr, a higher --degree, --range-penalty, or try --blend"
    )]
    Diverged {
        /// Step.
        step: usize,
        /// First layer that is broken, or the one whose range ran away farthest.
        layer: String,
        /// What happened to it.
        what: String,
    },
    /// A checkpoint cannot be written or read.
    #[error("checkpoint {path}: {why}")]
    Checkpoint {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A checkpoint of another run.
    #[error("the checkpoint is not of this model and these options: {why}")]
    Mismatch {
        /// First difference.
        why: String,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// File.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}
