//! What can be wrong with what the client is given.

use std::path::PathBuf;

use thiserror::Error;

/// Why an input, a flag or a client model is refused.
#[derive(Debug, Error)]
pub enum ClientError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is no picture that can be decoded.
    #[error("cannot decode the picture {path}: {reason}; PNG, JPEG and BMP are understood, and .npy arrays", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// The file is no array that can be read.
    #[error("cannot read the array {path}: {reason}", path = path.display())]
    Array {
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
    #[error("the client {part} of the artefact cannot be {action}: {reason}; compile the model again")]
    Onnx {
        /// `head` or `tail`.
        part: Part,
        /// `loaded` or `run`.
        action: &'static str,
        /// Cause.
        reason: String,
    },
    /// Head and program disagree on how many inputs there are.
    #[error("the program has {program} encrypted inputs, the client {part} gives {found}")]
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
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Head => "head",
            Self::Tail => "tail",
        })
    }
}
