//! What a client gives a server besides ciphertexts.

use peregrine_ckks::bootstrap::BootstrapKeys;
use peregrine_ckks::keys::EvalKeys;

/// The public keys of a program's manifest.
#[derive(Debug)]
pub enum ServerKeys {
    /// Relinearisation and automorphisms.
    Evaluation(EvalKeys),
    /// The same and the keys of an ephemeral secret, for a program that bootstraps.
    Bootstrapping(BootstrapKeys),
}

impl From<EvalKeys> for ServerKeys {
    fn from(keys: EvalKeys) -> Self {
        Self::Evaluation(keys)
    }
}

impl ServerKeys {
    /// Relinearisation and automorphism keys.
    pub fn evaluation(&self) -> &EvalKeys {
        match self {
            Self::Evaluation(keys) => keys,
            Self::Bootstrapping(keys) => keys.evaluation(),
        }
    }

    /// The same, mutable.
    pub(super) fn evaluation_mut(&mut self) -> &mut EvalKeys {
        match self {
            Self::Evaluation(keys) => keys,
            Self::Bootstrapping(keys) => keys.evaluation_mut(),
        }
    }

    /// Bytes of residues.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Evaluation(keys) => keys.bytes() as u64,
            Self::Bootstrapping(keys) => keys.bytes() as u64,
        }
    }

    /// The keys for bootstrapping.
    pub fn bootstrapping(&self) -> Option<&BootstrapKeys> {
        match self {
            Self::Evaluation(_) => None,
            Self::Bootstrapping(keys) => Some(keys),
        }
    }
}
