//! Everything that can go wrong in a run, with what to do about it.

use std::path::PathBuf;

use peregrine_ckks::params::ParamsError;
use peregrine_ir::container::ContainerError;
use peregrine_ir::program::ClearError;
use thiserror::Error;

use crate::bytes::ByteSize;
use crate::client::ClientError;
use crate::exec::{CheckpointError, MemoryEstimate, Shortage};

/// Why a program does not run.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The artefact cannot be read or is damaged.
    #[error("cannot load the model: {0}")]
    Load(#[from] ContainerError),
    /// The parameters of the program are not secure or not valid.
    #[error("the program's encryption parameters are refused: {0}")]
    Params(#[from] ParamsError),
    /// A program that the verifier let through does not make sense here.
    #[error("the program is inconsistent at {place}: {what}")]
    Program {
        /// Instruction, input or output.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The cryptographic layer refused an operation.
    #[error("{at}: {source}")]
    Ckks {
        /// Phase or instruction and layer.
        at: String,
        /// Cause.
        source: peregrine_ckks::error::Error,
    },
    /// The run in the clear failed.
    #[error("the run in the clear failed: {0}")]
    Clear(#[from] ClearError),
    /// The input, a flag or the client's part of the artefact does not fit.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The run would not fit in memory.
    #[error(
        "this run needs {needed}, and {budget} {origin}: {estimate}. Give {advice} on a machine that has it, or compile for a smaller ring or fewer keys (peregrinec --keys-memory)"
    )]
    Memory {
        /// Least memory that the run works with.
        needed: ByteSize,
        /// What there is.
        budget: ByteSize,
        /// Where the budget comes from.
        origin: BudgetOrigin,
        /// What the memory is for.
        estimate: Box<MemoryEstimate>,
        /// The flags that would do.
        advice: String,
    },
    /// An instruction would take more memory than is left.
    #[error(
        "{place} would take the run to {needed}, and {budget} {origin}{saved}. Give --memory {mib}MiB on a machine that has it, or --scratch-dir DIR so that keys leave memory",
        needed = shortage.needed,
        budget = shortage.budget,
        origin = shortage.origin,
        mib = shortage.needed.0.div_ceil(1 << 20),
        saved = saved.as_ref().map_or_else(
            || ": the run stops".to_owned(),
            |path| format!(": the run is saved in {}, continue it with --resume", path.display())
        )
    )]
    Exhausted {
        /// The instruction.
        place: String,
        /// What is allowed and what would do.
        shortage: Shortage,
        /// The checkpoint.
        saved: Option<PathBuf>,
    },
    /// The scratch folder failed.
    #[error("scratch folder: {path}: {source}", path = path.display())]
    Scratch {
        /// The file or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A checkpoint was refused or could not be written.
    #[error("checkpoint {path}: {source}", path = path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: CheckpointError,
    },
    /// The log of an evaluation cannot be read or written, or is of another one.
    #[error("log of the evaluation {path}: {reason}", path = path.display())]
    EvalLog {
        /// The file.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// Flags that make no sense without another.
    #[error("{0}")]
    Flags(&'static str),
    /// The run was stopped by the user.
    #[error("stopped{}", saved.as_ref().map_or_else(String::new, |path| format!("; the run is saved in {}: continue it with --resume", path.display())))]
    Interrupted {
        /// The checkpoint.
        saved: Option<PathBuf>,
    },
    /// The key set lacks a key of the manifest.
    #[error("the key set does not fit the program: {missing}; make the keys from this program's manifest")]
    KeySet {
        /// What is missing.
        missing: peregrine_ckks::error::Error,
    },
    /// The program bootstraps and the key set has no keys of an ephemeral secret.
    #[error(
        "the key set does not fit the program: it bootstraps, and the keys of the ephemeral secret are missing; make the keys from this program's manifest"
    )]
    EphemeralKeys,
    /// The number of ciphertexts given is not what the program takes.
    #[error("input `{input}` is {expected} ciphertexts, {found} were given")]
    InputCiphertexts {
        /// ONNX name of the input.
        input: String,
        /// Ciphertexts of its layout.
        expected: usize,
        /// Ciphertexts given.
        found: usize,
    },
    /// A ciphertext was made for another input, level, scale or parameter set.
    #[error("ciphertext {cipher} of input `{input}` is {found}; the program takes {expected}")]
    InputCiphertext {
        /// ONNX name of the input.
        input: String,
        /// Index of the ciphertext.
        cipher: usize,
        /// Its level and scale.
        found: String,
        /// The program's level and scale.
        expected: String,
    },
    /// Threads could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// Number asked for.
        threads: usize,
        /// Cause.
        reason: String,
    },
}

/// Where a memory budget comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetOrigin {
    /// `--memory`.
    Flag,
    /// What the system reports as available.
    Available,
}

impl std::fmt::Display for BudgetOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Flag => "are allowed by --memory",
            Self::Available => "are available on this machine",
        })
    }
}

/// Adds the place to errors of the cryptographic layer.
pub(crate) trait At<T> {
    /// Names the phase or instruction that failed.
    fn at(self, place: impl FnOnce() -> String) -> Result<T, RuntimeError>;
}

impl<T> At<T> for Result<T, peregrine_ckks::error::Error> {
    fn at(self, place: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::Ckks { at: place(), source })
    }
}
