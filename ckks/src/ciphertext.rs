//! Ciphertexts.

use crate::ring::poly::{Ntt, RnsPoly};
use crate::units::{Level, Scale};

/// An encryption `(c0, c1)` with `c0 + c1*s = scale * message + error` modulo `q_0..q_level`.
///
/// Both parts are in the NTT domain with `level + 1` limbs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ciphertext {
    pub(crate) c0: RnsPoly<Ntt>,
    pub(crate) c1: RnsPoly<Ntt>,
    pub(crate) level: Level,
    pub(crate) scale: Scale,
}

impl Ciphertext {
    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The exact scale.
    pub fn scale(&self) -> &Scale {
        &self.scale
    }

    /// The same residues read at another scale: the message is multiplied by the old scale over the new one.
    #[must_use]
    pub fn read_at(mut self, scale: Scale) -> Ciphertext {
        self.scale = scale;
        self
    }

    /// The part without the secret.
    pub fn c0(&self) -> &RnsPoly<Ntt> {
        &self.c0
    }

    /// The part multiplied by the secret.
    pub fn c1(&self) -> &RnsPoly<Ntt> {
        &self.c1
    }

    /// Bytes of residues.
    pub fn bytes(&self) -> usize {
        size_of_val(self.c0.words()) + size_of_val(self.c1.words())
    }
}

/// A product before relinearisation: `d0 + d1*s + d2*s^2`. Products can be added and relinearised once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    pub(crate) d0: RnsPoly<Ntt>,
    pub(crate) d1: RnsPoly<Ntt>,
    pub(crate) d2: RnsPoly<Ntt>,
    pub(crate) level: Level,
    pub(crate) scale: Scale,
}

impl Product {
    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The exact scale.
    pub fn scale(&self) -> &Scale {
        &self.scale
    }

    /// Bytes of residues.
    pub fn bytes(&self) -> usize {
        3 * size_of_val(self.d0.words())
    }
}
