//! Why data cannot be used.

use std::path::PathBuf;

use thiserror::Error;

/// Why data cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A picture cannot be decoded.
    #[error("{path} is no picture that can be read ({why}); PNG, JPEG and BMP are supported")]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        why: String,
    },
    /// An array file cannot be used.
    #[error("{path} is no usable array file: {why}")]
    Array {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A CIFAR file of a wrong size.
    #[error(
        "{path} is no CIFAR binary file: its {bytes} bytes are no whole number of records of 3073 or 3074 bytes"
    )]
    Cifar {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// No picture was found.
    #[error("{path} holds no picture (png, jpg, jpeg, bmp) and no CIFAR binary file")]
    Empty {
        /// File or folder.
        path: PathBuf,
    },
    /// The model's input is no picture.
    #[error(
        "{path} holds pictures, but the model's input is none of one or three channels: give a .npz of model inputs"
    )]
    NoPictures {
        /// File or folder.
        path: PathBuf,
    },
    /// Labels that do not fit.
    #[error("{path}: {why}")]
    Labels {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}
