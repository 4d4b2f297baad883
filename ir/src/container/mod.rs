//! The `.fhe` container: a program, its constants and the client part in one file.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic `PEREGRN\0` |
//! | 4 | version, little-endian: [`VERSION`] |
//! | 4 | number of sections, 3 |
//! | 48 each | section: kind (4), reserved zero (4), length (8), BLAKE3 of its bytes (32) |
//! | 32 | BLAKE3 of everything before |
//! | ... | the sections in order, without gaps, up to the end of the file |
//!
//! Sections: `program` (protobuf, schema in `proto/peregrine.proto`), `constants` (raw little-endian numbers, so that a
//! file is about as large as the weights; equal numbers in a row are stored once), `client` (protobuf). Every byte of a file is covered by a checksum.
//!
//! A file is untrusted: lengths are checked against limits and the file before anything is allocated, checksums before
//! anything is decoded, and the decoded program by its verifier, the security of the parameters included. The checksums
//! find damage; they authenticate nobody.

mod client;
mod constants;
mod decode;
mod encode;
mod frame;
mod mapped;
mod proto;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::client::ClientPart;
use crate::program::{Program, VerifyErrors};
use frame::Frame;

pub use decode::DecodeError;
pub use frame::{FrameError, Section, VERSION};

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Artefact {
    /// The program.
    pub program: Program,
    /// The client part.
    pub client: ClientPart,
}

/// Why a file cannot be written or read.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The operating system refuses.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Reason.
        source: io::Error,
    },
    /// The frame is wrong: not such a file, another version, truncated or damaged.
    #[error("{}: {source}", path.display())]
    Frame {
        /// File.
        path: PathBuf,
        /// Reason.
        source: FrameError,
    },
    /// A section does not decode.
    #[error("{}: {section} section: {source}", path.display())]
    Decode {
        /// File.
        path: PathBuf,
        /// Section.
        section: Section,
        /// Reason.
        source: DecodeError,
    },
    /// The program is invalid.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// File.
        path: PathBuf,
        /// What the verifier found.
        source: VerifyErrors,
    },
}

/// Writes an artefact: to a temporary file in the same directory that takes the name `path` when it is complete, so that
/// no reader sees half a file.
///
/// # Errors
/// [`ContainerError`]; an invalid program is not written.
pub fn write(path: &Path, program: &Program, client: &ClientPart) -> Result<(), ContainerError> {
    crate::program::verify(program)
        .map_err(|source| ContainerError::Invalid { path: path.to_owned(), source })?;
    let bytes = to_bytes(program, client).map_err(|fault| fault.at(path))?;
    write_atomic(path, &bytes).map_err(|source| ContainerError::Io {
        path: path.to_owned(),
        action: "write",
        source,
    })
}

fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    let mut file = builder.prefix(".peregrine-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Reads an artefact and validates all of it.
///
/// # Errors
/// [`ContainerError`] names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Artefact, ContainerError> {
    let io = |source| ContainerError::Io { path: path.to_owned(), action: "read", source };
    let bytes = mapped::Mapped::open(path).map_err(io)?;
    let artefact = from_bytes(bytes.as_slice()).map_err(|fault| fault.at(path))?;
    let invalid = |source| ContainerError::Invalid { path: path.to_owned(), source };
    crate::program::verify(&artefact.program).map_err(invalid)?;
    Ok(artefact)
}

/// A fault that does not know its file yet.
#[derive(Debug)]
enum Fault {
    Frame(FrameError),
    Decode(Section, DecodeError),
}

impl Fault {
    fn at(self, path: &Path) -> ContainerError {
        let path = path.to_owned();
        match self {
            Self::Frame(source) => ContainerError::Frame { path, source },
            Self::Decode(section, source) => ContainerError::Decode { path, section, source },
        }
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

fn to_bytes(program: &Program, client: &ClientPart) -> Result<Vec<u8>, Fault> {
    let (program, constants) = encode::program(program).map_err(|e| Fault::Decode(Section::Program, e))?;
    Ok(frame::join(&[prost::Message::encode_to_vec(&program), constants, client::encode(client)])?)
}

/// Everything but the verifier.
fn from_bytes(bytes: &[u8]) -> Result<Artefact, Fault> {
    let frame = Frame::parse(bytes)?;
    let program = decode::program(frame.section(Section::Program), frame.section(Section::Constants))
        .map_err(|e| Fault::Decode(Section::Program, e))?;
    let client =
        client::decode(frame.section(Section::Client)).map_err(|e| Fault::Decode(Section::Client, e))?;
    Ok(Artefact { program, client })
}
