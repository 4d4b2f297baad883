//! Why a compilation fails, and whose fault it is.

use std::path::PathBuf;

use peregrine_data::DataError;
use peregrine_ir::container::ContainerError;
use peregrine_ir::program::ClearError;
use peregrine_passes::PassError;
use peregrine_passes::fhe::LowerError;
use peregrine_passes::pipeline::PipelineError;
use thiserror::Error;

use crate::fidelity::FidelityError;
use crate::gate::GateError;
use crate::onnx::{ExportError, ImportError};
use crate::oracle::OracleError;

/// Whose fault a failure is; the exit code of `peregrinec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Input or flags: 1.
    User,
    /// A limit of the method or of the precision asked for: 2.
    Limit,
    /// The compiler: 101.
    Bug,
}

impl Blame {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Limit => 2,
            Self::Bug => 101,
        }
    }
}

/// Why a compilation fails.
#[derive(Debug, Error)]
pub enum CompileError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The ONNX file is refused.
    #[error("{path}: {source}")]
    Import {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ImportError,
    },
    /// A sample or calibration file is refused.
    #[error(transparent)]
    Input(#[from] DataError),
    /// The client's head does not run.
    #[error("the model's input normalisation cannot be run: {0}")]
    Head(OracleError),
    /// Class names cannot be read.
    #[error("{path}: {why}")]
    Labels {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The figures of a machine cannot be used.
    #[error("{path}: {why}; peregrine-run calibrate -o FILE measures them")]
    Machine {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The passes refuse the model.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A pass was asked for that does not exist.
    #[error("--dump-ir after:{pass}: there is no such pass in this compilation; the passes are: {known}")]
    UnknownPass {
        /// The name given.
        pass: String,
        /// Passes that ran.
        known: String,
    },
    /// No scales keep the precision that was asked for.
    #[error(
        "no scales of data and weights keep {wanted} bits of the output: the most precise plan is predicted to keep {most:.1}; ask for less with --precision, or lower --degree"
    )]
    Precision {
        /// Bits asked for.
        wanted: f64,
        /// Most that a plan keeps.
        most: f64,
    },
    /// A program does not run in the clear: a bug.
    #[error("compiler bug: the program does not run in the clear: {0}")]
    Clear(ClearError),
    /// The imported model is not the original.
    #[error(transparent)]
    Fidelity(#[from] FidelityError),
    /// The gate stays closed.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The polynomial model cannot be written as ONNX.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The report cannot be serialised.
    #[error("compiler bug: the report cannot be written as JSON: {why}")]
    Report {
        /// What is wrong.
        why: String,
    },
    /// The artefact cannot be written.
    #[error("cannot write the artefact: {0}")]
    Container(#[from] ContainerError),
}

impl CompileError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Input(_)
            | Self::Labels { .. }
            | Self::Machine { .. }
            | Self::UnknownPass { .. } => Blame::User,
            Self::Import { .. } | Self::Head(_) | Self::Container(_) => Blame::User,
            Self::Pipeline(error) => pipeline_blame(error),
            Self::Gate(GateError::Tolerance { .. } | GateError::RunsAway { .. }) | Self::Precision { .. } => {
                Blame::Limit
            }
            Self::Gate(GateError::Pass(error)) => pass_blame(error),
            Self::Fidelity(FidelityError::Graph(error)) => pass_blame(error),
            Self::Fidelity(_) | Self::Gate(_) | Self::Export(_) | Self::Report { .. } | Self::Clear(_) => {
                Blame::Bug
            }
        }
    }
}

fn pipeline_blame(error: &PipelineError) -> Blame {
    match error {
        PipelineError::Tensor(error) => pass_blame(error),
        PipelineError::Lower(
            LowerError::TooDeep { .. }
            | LowerError::NoPlacement { .. }
            | LowerError::KeysMemory { .. }
            | LowerError::Slower { .. },
        ) => Blame::Limit,
        PipelineError::Lower(LowerError::Bug(_)) | PipelineError::Invalid { .. } => Blame::Bug,
        PipelineError::Lower(LowerError::Unsupported { .. }) | PipelineError::MissingCalibration { .. } => {
            Blame::User
        }
    }
}

fn pass_blame(error: &PassError) -> Blame {
    match error {
        PassError::Stage { .. } | PassError::Type { .. } | PassError::Invalid { .. } => Blame::Bug,
        _ => Blame::User,
    }
}
