//! What can be wrong with what the client is given.

use std::path::PathBuf;

use peregrine_data::DataError;
use thiserror::Error;

use super::decode::{AnchorsError, DecodeError};

/// Why an input, a flag or a client model is refused.
#[derive(Debug, Error)]
pub enum ClientError {
    /// A file cannot be read, or is neither a picture nor an array that can be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The outputs are not those of the detector family asked for.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The anchors given cannot be used.
    #[error(transparent)]
    Anchors(#[from] AnchorsError),
    /// A flag that is about pictures, and an input that is none.
    #[error("--{flag} is about pictures, and the input is none")]
    NoPicture {
        /// The flag.
        flag: &'static str,
    },
    /// The client's key file.
    #[error("client key {path}: {reason}", path = path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A drawing cannot be written.
    #[error("cannot write the picture {path}: {reason}", path = path.display())]
    Draw {
        /// The file.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// An input has the wrong shape.
    #[error(
        "{what} has shape {found}, the model's input `{input}` needs {expected} (a leading batch of 1 may be left out)"
    )]
    Shape {
        /// File or tensor.
        what: String,
        /// Its shape.
        found: String,
        /// Name of the model input.
        input: String,
        /// Shape of the model input.
        expected: String,
    },
    /// The model's input is empty or unreasonably large.
    #[error(
        "the model's input `{input}` has shape {shape}, which is empty or too large; compile the model again"
    )]
    InputSize {
        /// Name of the model input.
        input: String,
        /// Its shape.
        shape: String,
    },
    /// A picture was given to a model whose input is none.
    #[error("{path} is a picture, but the model's input `{input}` of shape {shape} is none (1 or 3 channels, 4 extents); give an .npy array", path = path.display())]
    NotAnImageModel {
        /// The file.
        path: PathBuf,
        /// Name of the model input.
        input: String,
        /// Its shape.
        shape: String,
    },
    /// `--mean` or `--std` does not fit.
    #[error(
        "--{flag} has {found} values, the model's input has {channels} channels; give one value or one per channel"
    )]
    Normalisation {
        /// `mean` or `std`.
        flag: &'static str,
        /// Number of values.
        found: usize,
        /// Channels.
        channels: usize,
    },
    /// A standard deviation of zero, or a number that is not finite.
    #[error("--{flag} holds {value}; every value must be finite{and}", and = if *flag == "std" { " and positive" } else { "" })]
    NormalisationValue {
        /// `mean` or `std`.
        flag: &'static str,
        /// The value.
        value: f32,
    },
    /// A number of the input is not finite.
    #[error("{what} holds {value} at element {index}; every input must be finite")]
    NotFinite {
        /// File or tensor.
        what: String,
        /// The value.
        value: f64,
        /// Row-major index.
        index: usize,
    },
    /// The client's head or tail model cannot be loaded or run.
    #[error("the {part} cannot be {action}: {reason}{fix}", fix = part.fix())]
    Onnx {
        /// `head` or `tail`.
        part: Part,
        /// `loaded` or `run`.
        action: &'static str,
        /// Cause.
        reason: String,
    },
    /// An ONNX file cannot be used.
    #[error("cannot use the ONNX model {path}: {reason}", path = path.display())]
    OnnxFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// Head and program disagree on how many inputs there are.
    #[error("the program has {program} inputs, the {part} has {found}")]
    Count {
        /// Part of the client.
        part: Part,
        /// Program inputs.
        program: usize,
        /// Tensors at hand.
        found: usize,
    },
    /// The labels file has no line.
    #[error("{path} holds no label; write one class name a line", path = path.display())]
    NoLabels {
        /// The file.
        path: PathBuf,
    },
}

/// A part of the client's work in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Before encryption.
    Head,
    /// After decryption.
    Tail,
    /// A whole model, in the clear.
    Model,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Head => "client head of the artefact",
            Self::Tail => "client tail of the artefact",
            Self::Model => "ONNX model",
        })
    }
}

impl Part {
    fn fix(self) -> &'static str {
        match self {
            Self::Head | Self::Tail => "; compile the model again",
            Self::Model => "",
        }
    }
}
