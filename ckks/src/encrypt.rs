//! Encryption and decryption: the client's side.

use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::encoder::expand;
use crate::error::Error;
use crate::keys::{PublicKey, SecretKey, encrypt_zero, error_poly, expand_uniform, small_to_ntt};
use crate::plaintext::IntPlaintext;
use crate::ring::poly::{Basis, Coeff, Ntt, RnsPoly};
use crate::ring::sampler::{PublicSeed, Purpose, SecretSeed};
use crate::units::{Level, Scale};

/// A secret-key encryption whose uniform part is a seed: half the size of a [`Ciphertext`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeededCiphertext {
    pub(crate) c0: RnsPoly<Ntt>,
    pub(crate) seed: PublicSeed,
    pub(crate) level: Level,
    pub(crate) scale: Scale,
}

impl SeededCiphertext {
    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The exact scale.
    pub fn scale(&self) -> &Scale {
        &self.scale
    }

    /// The full ciphertext.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::LevelOutOfRange`] if it belongs to other parameters.
    pub fn expand(&self, ctx: &Context) -> Result<Ciphertext, Error> {
        ctx.check_poly("expand ciphertext", &self.c0, self.level)?;
        let c1 = expand_uniform(ctx, &self.seed, &[], Basis::Q(self.level));
        Ok(Ciphertext { c0: self.c0.clone(), c1, level: self.level, scale: self.scale.clone() })
    }
}

/// Encrypts under the secret key: eight bits less noise than [`encrypt_public`] and half the bytes to send.
///
/// # Errors
/// [`Error::ForeignParameters`], [`Error::LevelOutOfRange`], [`Error::TooManySlots`].
pub fn encrypt_secret(
    ctx: &Context,
    sk: &SecretKey,
    plaintext: &IntPlaintext,
    level: Level,
) -> Result<SeededCiphertext, Error> {
    sk.check("encrypt", ctx)?;
    let message = Zeroizing::new(expand(ctx, plaintext, Basis::Q(level))?);
    let seed = SecretSeed::from_os();
    let public = seed.public_seed(&[]);
    let a = expand_uniform(ctx, &public, &[], Basis::Q(level));
    let mut c0 = encrypt_zero(ctx, sk, &seed, &[], &a, Basis::Q(level));
    ctx.add_assign(&mut c0, &message);
    Ok(SeededCiphertext { c0, seed: public, level, scale: plaintext.scale().clone() })
}

/// Encrypts under the public key: `(v*b + e0 + m, v*a + e1)` with a fresh ternary `v`.
///
/// # Errors
/// [`Error::ForeignParameters`], [`Error::LevelOutOfRange`], [`Error::TooManySlots`].
pub fn encrypt_public(
    ctx: &Context,
    pk: &PublicKey,
    plaintext: &IntPlaintext,
    level: Level,
) -> Result<Ciphertext, Error> {
    if pk.fingerprint != ctx.params().fingerprint() {
        return Err(Error::ForeignParameters { op: "encrypt", what: "the public key" });
    }
    let message = Zeroizing::new(expand(ctx, plaintext, Basis::Q(level))?);
    let seed = SecretSeed::from_os();
    let mut small = Zeroizing::new(vec![0; ctx.n()]);
    seed.stream(Purpose::Ephemeral, &[]).fill_ternary(&mut small);
    let v = Zeroizing::new(small_to_ntt(ctx, &small, Basis::Q(level)));
    let part = |key: &RnsPoly<Ntt>, index: u64| {
        let mut part = error_poly(ctx, &seed, &[index], Basis::Q(level));
        part.par_limbs_mut().enumerate().for_each(|(i, limb)| {
            ctx.kernels().mul_add_assign(&ctx.q_moduli()[i], limb, key.limb(i), v.limb(i));
        });
        part
    };
    let mut c0 = part(&pk.b, 0);
    let c1 = part(&pk.a, 1);
    ctx.add_assign(&mut c0, &message);
    Ok(Ciphertext { c0, c1, level, scale: plaintext.scale().clone() })
}

/// The noisy scaled message `c0 + c1*s`, to be decoded.
///
/// Decryptions of CKKS carry the noise of the computation and leak about the key if shared (Li and Micciancio,
/// eprint 2020/1533): keep them to the owner of the key.
///
/// # Errors
/// [`Error::ForeignParameters`], [`Error::Shape`], [`Error::LevelOutOfRange`].
pub fn decrypt(ctx: &Context, sk: &SecretKey, ct: &Ciphertext) -> Result<RnsPoly<Coeff>, Error> {
    let op = "decrypt";
    sk.check(op, ctx)?;
    ctx.check_poly(op, &ct.c0, ct.level)?;
    ctx.check_poly(op, &ct.c1, ct.level)?;
    let mut message = ct.c0.clone();
    message.par_limbs_mut().enumerate().for_each(|(i, limb)| {
        let mut product = vec![0; limb.len()];
        let modulus = &ctx.q_moduli()[i];
        ctx.kernels().mul(modulus, &mut product, ct.c1.limb(i), sk.q_limb(i));
        ctx.kernels().add_assign(modulus, limb, &product);
        product.zeroize();
    });
    Ok(ctx.inverse(message))
}
