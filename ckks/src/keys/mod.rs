//! Keys. The secret key stays with the client; the evaluator only ever sees [`EvalKeys`].

mod generate;
mod secret;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;

pub use generate::KeyGenerator;
pub(crate) use generate::{encrypt_zero, error_poly};
pub use secret::SecretKey;
pub(crate) use secret::small_to_ntt;

use crate::context::Context;
use crate::error::Error;
use crate::ring::poly::{Basis, Ntt, RnsPoly};
use crate::ring::sampler::PublicSeed;
use crate::units::{GaloisElement, Level};

/// Index of the first special prime among the limbs a stream is derived for, so that a limb's stream depends on its
/// prime and not on the level of the key.
const SPECIAL_LIMB: u64 = 1 << 32;

/// Fills a polynomial with uniform NTT values, limb by limb in parallel, from a public seed.
pub(crate) fn expand_uniform(ctx: &Context, seed: &PublicSeed, object: &[u64], basis: Basis) -> RnsPoly<Ntt> {
    let mut poly: RnsPoly<Ntt> = ctx.zero(basis);
    let q_limbs = poly.q_limbs();
    poly.par_limbs_mut().enumerate().for_each(|(i, limb)| {
        let id = if i < q_limbs { i as u64 } else { SPECIAL_LIMB + (i - q_limbs) as u64 };
        let indices: Vec<u64> = object.iter().copied().chain([id]).collect();
        seed.stream(&indices).fill_uniform(ctx.table(q_limbs, i).modulus(), limb);
    });
    poly
}

/// An encryption of zero under the secret key, `b = -a*s + e` modulo the whole Q chain.
#[derive(Clone)]
pub struct PublicKey {
    pub(crate) fingerprint: [u8; 32],
    pub(crate) seed: PublicSeed,
    pub(crate) b: RnsPoly<Ntt>,
    pub(crate) a: RnsPoly<Ntt>,
}

impl PublicKey {
    pub(crate) fn from_seeded(ctx: &Context, seed: PublicSeed, b: RnsPoly<Ntt>) -> PublicKey {
        let a = expand_uniform(ctx, &seed, &[], Basis::Q(ctx.params().max_level()));
        PublicKey { fingerprint: ctx.params().fingerprint(), seed, b, a }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?})", self.b)
    }
}

/// One digit of a switching key: `b = -a*s + e + g*s'`, where the gadget `g` is `P` on the limbs of the digit and 0
/// on the others. NTT domain, limbs `q_0..=q_level` and all special primes.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigit {
    pub(crate) b: RnsPoly<Ntt>,
    pub(crate) a: RnsPoly<Ntt>,
}

impl KeyDigit {
    /// The part without the secret.
    pub fn b(&self) -> &RnsPoly<Ntt> {
        &self.b
    }

    /// The uniform part.
    pub fn a(&self) -> &RnsPoly<Ntt> {
        &self.a
    }
}

/// A hybrid switching key (Han and Ki, eprint 2019/688) from `s'` to `s`, usable at every level up to its own.
#[derive(Clone, PartialEq, Eq)]
pub struct SwitchingKey {
    pub(crate) element: Option<GaloisElement>,
    pub(crate) level: Level,
    pub(crate) seed: PublicSeed,
    pub(crate) digits: Vec<KeyDigit>,
}

impl SwitchingKey {
    /// The automorphism it undoes; `None` for relinearisation, which switches from `s^2`.
    pub fn element(&self) -> Option<GaloisElement> {
        self.element
    }

    /// The highest level at which it works.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The digits, lowest limbs first.
    pub fn digits(&self) -> &[KeyDigit] {
        &self.digits
    }

    /// Bytes of residues, expanded.
    pub fn bytes(&self) -> usize {
        self.digits.iter().map(|digit| size_of_val(digit.b.words()) + size_of_val(digit.a.words())).sum()
    }

    /// Rebuilds the uniform parts from the seed.
    pub(crate) fn from_seeded(
        ctx: &Context,
        element: Option<GaloisElement>,
        level: Level,
        seed: PublicSeed,
        b: Vec<RnsPoly<Ntt>>,
    ) -> SwitchingKey {
        let expand = |(digit, b): (usize, RnsPoly<Ntt>)| {
            let a = expand_uniform(ctx, &seed, &uniform_object(element, digit), Basis::Qp(level));
            KeyDigit { b, a }
        };
        let digits = b.into_par_iter().enumerate().map(expand).collect();
        SwitchingKey { element, level, seed, digits }
    }
}

impl fmt::Debug for SwitchingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SwitchingKey { element, level, digits, .. } = self;
        write!(f, "SwitchingKey({element:?}, level {level}, {} digits)", digits.len())
    }
}

/// Indices of the uniform part of a digit; element 0 stands for relinearisation.
fn uniform_object(element: Option<GaloisElement>, digit: usize) -> [u64; 2] {
    [element.map_or(0, |element| u64::from(element.get())), digit as u64]
}

/// What a server needs to compute: relinearisation and rotation keys, never a secret key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvalKeys {
    relin: Option<SwitchingKey>,
    galois: BTreeMap<GaloisElement, SwitchingKey>,
}

impl EvalKeys {
    /// No keys.
    pub fn new() -> EvalKeys {
        EvalKeys::default()
    }

    /// Adds a key, in place of one for the same purpose.
    pub fn insert(&mut self, key: SwitchingKey) {
        match key.element {
            None => self.relin = Some(key),
            Some(element) => drop(self.galois.insert(element, key)),
        }
    }

    /// Takes out the relinearisation key (`None`) or the key of an automorphism.
    pub fn remove(&mut self, element: Option<GaloisElement>) -> Option<SwitchingKey> {
        match element {
            None => self.relin.take(),
            Some(element) => self.galois.remove(&element),
        }
    }

    /// The relinearisation key for use at `level`.
    ///
    /// # Errors
    /// [`Error::MissingRelinKey`] if there is none or only one for lower levels.
    pub fn relin(&self, level: Level) -> Result<&SwitchingKey, Error> {
        match &self.relin {
            Some(key) if key.level >= level => Ok(key),
            other => Err(Error::MissingRelinKey { level, available: other.as_ref().map(|key| key.level) }),
        }
    }

    /// The key of an automorphism for use at `level`.
    ///
    /// # Errors
    /// [`Error::MissingKey`] if there is none or only one for lower levels.
    pub fn galois(&self, element: GaloisElement, level: Level) -> Result<&SwitchingKey, Error> {
        match self.galois.get(&element) {
            Some(key) if key.level >= level => Ok(key),
            other => Err(Error::MissingKey { element, level, available: other.map(|key| key.level) }),
        }
    }

    /// Every key: relinearisation first, then by automorphism.
    pub fn iter(&self) -> impl Iterator<Item = &SwitchingKey> {
        self.relin.iter().chain(self.galois.values())
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        usize::from(self.relin.is_some()) + self.galois.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of residues, expanded.
    pub fn bytes(&self) -> usize {
        self.iter().map(SwitchingKey::bytes).sum()
    }
}

impl Extend<SwitchingKey> for EvalKeys {
    fn extend<T: IntoIterator<Item = SwitchingKey>>(&mut self, keys: T) {
        keys.into_iter().for_each(|key| self.insert(key));
    }
}

impl FromIterator<SwitchingKey> for EvalKeys {
    fn from_iter<T: IntoIterator<Item = SwitchingKey>>(keys: T) -> EvalKeys {
        let mut set = EvalKeys::new();
        set.extend(keys);
        set
    }
}
