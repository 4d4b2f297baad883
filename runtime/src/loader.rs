//! Loading an artefact: nothing of it is used before all of it is checked.

use std::path::Path;
use std::sync::Arc;

use peregrine_ckks::params::Params;
use peregrine_ir::client::ClientPart;
use peregrine_ir::container;
use peregrine_ir::program::Program;

use crate::error::RuntimeError;
use crate::interface::Interface;

/// A checked artefact.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The program.
    pub program: Arc<Program>,
    /// What the client needs besides the interface.
    pub client: Arc<ClientPart>,
    /// What client and server agree on.
    pub interface: Arc<Interface>,
}

impl Loaded {
    /// Reads a `.fhe` file: checksums, limits, the program verifier, the security of the parameters.
    ///
    /// # Errors
    /// [`RuntimeError::Load`], [`RuntimeError::Params`], [`RuntimeError::Program`].
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        let artefact = container::read(path)?;
        let params = artefact.program.params.clone().check()?;
        Self::checked(artefact.program, artefact.client, &params)
    }

    /// A program that passed the verifier, its client part and its parameters.
    ///
    /// # Errors
    /// [`RuntimeError::Program`] when inputs or outputs do not fit their layouts.
    pub fn checked(program: Program, client: ClientPart, params: &Params) -> Result<Self, RuntimeError> {
        let interface = Interface::of(&program, params)?;
        Ok(Self { program: Arc::new(program), client: Arc::new(client), interface })
    }
}
