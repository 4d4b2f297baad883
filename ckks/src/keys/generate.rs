//! Key generation.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use super::secret::{SecretKey, small_to_ntt};
use super::{PublicKey, SwitchingKey, expand_uniform, uniform_object};
use crate::context::Context;
use crate::error::Error;
use crate::params::security::EPHEMERAL_WEIGHT;
use crate::ring::poly::{Basis, Ntt, RnsPoly};
use crate::ring::sampler::{PublicSeed, Purpose, SecretSeed};
use crate::units::{GaloisElement, Level};

/// Makes keys from one root of operating-system entropy. Every object gets seeds of its own, derived from the root
/// and a counter, so that no randomness is ever used twice.
pub struct KeyGenerator {
    ctx: Context,
    root: SecretSeed,
    objects: AtomicU64,
}

/// Where a switching key comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    Square,
    Automorphism(GaloisElement),
    /// Another secret with these coefficients.
    Secret(&'a [i64]),
}

impl Origin<'_> {
    fn element(self) -> Option<GaloisElement> {
        match self {
            Origin::Square | Origin::Secret(_) => None,
            Origin::Automorphism(element) => Some(element),
        }
    }
}

impl KeyGenerator {
    /// A generator with fresh entropy.
    pub fn new(ctx: &Context) -> KeyGenerator {
        KeyGenerator { ctx: ctx.clone(), root: SecretSeed::from_os(), objects: AtomicU64::new(0) }
    }

    /// A generator whose keys anyone who knows `seed` can compute: for reproducible tests only.
    pub fn insecure_deterministic_for_tests(ctx: &Context, seed: [u8; 32]) -> KeyGenerator {
        KeyGenerator { ctx: ctx.clone(), root: SecretSeed::from_bytes(seed), objects: AtomicU64::new(0) }
    }

    fn object_seed(&self) -> SecretSeed {
        self.root.child(Purpose::Object, &[self.objects.fetch_add(1, Ordering::Relaxed)])
    }

    /// A new uniform ternary secret key.
    pub fn secret(&self) -> SecretKey {
        SecretKey::generate(&self.ctx, &self.object_seed())
    }

    /// A public encryption key.
    ///
    /// # Errors
    /// [`Error::ForeignParameters`] if `sk` was made for other parameters.
    pub fn public(&self, sk: &SecretKey) -> Result<PublicKey, Error> {
        sk.check("public key generation", &self.ctx)?;
        let seed = self.object_seed();
        let public = seed.public_seed(&[]);
        let basis = Basis::Q(self.ctx.params().max_level());
        let a = expand_uniform(&self.ctx, &public, &[], basis);
        let b = encrypt_zero(&self.ctx, sk, &seed, &[], &a, basis);
        Ok(PublicKey { fingerprint: self.ctx.params().fingerprint(), seed: public, b, a })
    }

    /// A relinearisation key for levels up to `level`.
    ///
    /// # Errors
    /// [`Error::LevelOutOfRange`], [`Error::ForeignParameters`].
    pub fn relin(&self, sk: &SecretKey, level: Level) -> Result<SwitchingKey, Error> {
        self.switching(sk, Origin::Square, level)
    }

    /// A key for the automorphism `X -> X^element` for levels up to `level`.
    ///
    /// # Errors
    /// [`Error::LevelOutOfRange`], [`Error::ForeignParameters`], [`Error::ForeignGaloisElement`].
    pub fn galois(
        &self,
        sk: &SecretKey,
        element: GaloisElement,
        level: Level,
    ) -> Result<SwitchingKey, Error> {
        self.switching(sk, Origin::Automorphism(element), level)
    }

    /// Several automorphism keys, in parallel.
    ///
    /// # Errors
    /// As [`galois`](Self::galois), for the first that fails.
    pub fn galois_set(
        &self,
        sk: &SecretKey,
        wanted: &[(GaloisElement, Level)],
    ) -> Result<Vec<SwitchingKey>, Error> {
        wanted.par_iter().map(|&(element, level)| self.galois(sk, element, level)).collect()
    }

    /// The keys of sparse-secret encapsulation (Bossuat et al., eprint 2022/024) for a new secret of weight
    /// [`EPHEMERAL_WEIGHT`](crate::params::security::EPHEMERAL_WEIGHT), which is forgotten here: from `sk` to it, modulo the
    /// lowest prime and the special primes of `ephemeral` only, and back to `sk` for levels up to `top`.
    ///
    /// # Errors
    /// [`Error::LevelOutOfRange`], [`Error::ForeignParameters`].
    pub(crate) fn encapsulation(
        &self,
        sk: &SecretKey,
        ephemeral: &Context,
        top: Level,
    ) -> Result<[SwitchingKey; 2], Error> {
        sk.check("encapsulation key generation", &self.ctx)?;
        let generator =
            KeyGenerator { ctx: ephemeral.clone(), root: self.object_seed(), objects: AtomicU64::new(0) };
        let mut coefficients = Zeroizing::new(vec![0; ephemeral.n()]);
        let mut stream = generator.object_seed().stream(Purpose::Secret, &[]);
        stream.fill_sparse_ternary(&mut coefficients, EPHEMERAL_WEIGHT);
        let back = self.switching(sk, Origin::Secret(&coefficients), top)?;
        let sparse = SecretKey::from_coefficients(ephemeral, coefficients);
        let there = generator.switching(&sparse, Origin::Secret(sk.coefficients()), Level(0))?;
        Ok([there, back])
    }

    fn switching(&self, sk: &SecretKey, origin: Origin<'_>, level: Level) -> Result<SwitchingKey, Error> {
        let op = "switching key generation";
        sk.check(op, &self.ctx)?;
        self.ctx.check_level(op, level)?;
        let source = self.source(sk, origin, level)?;
        let seed = self.object_seed();
        let public = seed.public_seed(&[]);
        let digits = self.ctx.params().digits_at(level);
        let digit = |j: usize| self.key_digit(sk, &source, &seed, &public, origin, j);
        let b: Vec<_> = (0..digits).into_par_iter().map(digit).collect();
        Ok(SwitchingKey { element: origin.element(), level, seed: public, digits: b })
    }

    /// NTT values of `s^2`, of the automorphic image of `s` or of another secret, modulo the Q limbs of `level`.
    fn source(
        &self,
        sk: &SecretKey,
        origin: Origin<'_>,
        level: Level,
    ) -> Result<Zeroizing<RnsPoly<Ntt>>, Error> {
        let mut source: RnsPoly<Ntt> = self.ctx.zero(Basis::Q(level));
        let kernels = self.ctx.kernels();
        match origin {
            Origin::Square => {
                let square = |(i, limb): (usize, &mut [u64])| {
                    kernels.mul(&self.ctx.q_moduli()[i], limb, sk.q_limb(i), sk.q_limb(i));
                };
                source.par_limbs_mut().enumerate().for_each(square);
            }
            Origin::Automorphism(element) => {
                let permutation = self.ctx.automorphism(element)?;
                let permute =
                    |(i, limb): (usize, &mut [u64])| kernels.permute(limb, sk.q_limb(i), &permutation);
                source.par_limbs_mut().enumerate().for_each(permute);
            }
            Origin::Secret(coefficients) => source = small_to_ntt(&self.ctx, coefficients, Basis::Q(level)),
        }
        Ok(Zeroizing::new(source))
    }

    fn key_digit(
        &self,
        sk: &SecretKey,
        source: &RnsPoly<Ntt>,
        seed: &SecretSeed,
        public: &PublicSeed,
        origin: Origin<'_>,
        digit: usize,
    ) -> super::KeyDigit {
        let ctx = &self.ctx;
        let level = Level(source.q_limbs() as u32 - 1);
        let a = expand_uniform(ctx, public, &uniform_object(origin.element(), digit), Basis::Qp(level));
        let mut b = encrypt_zero(ctx, sk, seed, &[digit as u64], &a, Basis::Qp(level));
        let alpha = ctx.params().alpha();
        let (start, end) = (digit * alpha, ((digit + 1) * alpha).min(level.limbs()));
        let n = ctx.n();
        let gadget = &mut b.words_mut()[start * n..end * n];
        gadget.par_chunks_exact_mut(n).enumerate().for_each(|(offset, limb)| {
            let i = start + offset;
            let modulus = &ctx.q_moduli()[i];
            let p = ctx.params().p().iter().fold(1, |product, &p| modulus.mul(product, modulus.reduce(p)));
            let mut scaled = Zeroizing::new(source.limb(i).to_vec());
            ctx.kernels().mul_scalar_assign(modulus, &mut scaled, modulus.factor(p));
            ctx.kernels().add_assign(modulus, limb, &scaled);
        });
        super::KeyDigit { b, a }
    }
}

/// `-a*s + e` with a fresh error of the stream `indices` of `seed`.
pub(crate) fn encrypt_zero(
    ctx: &Context,
    sk: &SecretKey,
    seed: &SecretSeed,
    indices: &[u64],
    a: &RnsPoly<Ntt>,
    basis: Basis,
) -> RnsPoly<Ntt> {
    let mut b = error_poly(ctx, seed, indices, basis);
    let q_limbs = b.q_limbs();
    b.par_limbs_mut().enumerate().for_each(|(i, limb)| {
        let modulus = ctx.table(q_limbs, i).modulus();
        let mut product = vec![0; limb.len()];
        ctx.kernels().mul(modulus, &mut product, a.limb(i), sk.limb(q_limbs, i));
        ctx.kernels().sub_assign(modulus, limb, &product);
        product.zeroize();
    });
    b
}

/// A fresh error polynomial in the NTT domain.
pub(crate) fn error_poly(ctx: &Context, seed: &SecretSeed, indices: &[u64], basis: Basis) -> RnsPoly<Ntt> {
    let mut error = Zeroizing::new(vec![0; ctx.n()]);
    seed.stream(Purpose::Error, indices).fill_error(&mut error);
    small_to_ntt(ctx, &error, basis)
}
