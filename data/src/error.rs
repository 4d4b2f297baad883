//! What can be wrong with a user's files.

use std::path::PathBuf;

use thiserror::Error;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no picture that can be decoded.
    #[error("cannot decode the picture {path}: {reason}; PNG, JPEG and BMP are understood", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        reason: String,
    },
    /// The file is no array that can be read.
    #[error("cannot read the array {path}: {reason}", path = path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A set of samples is not put together as it should be.
    #[error("{path} is no usable set of samples: {reason}", path = path.display())]
    Set {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// Sample and model input do not fit.
    #[error("{what} {found}, the model's input is {expected}")]
    Input {
        /// The sample.
        what: String,
        /// What it holds.
        found: String,
        /// Shape of the model's input.
        expected: String,
    },
}
