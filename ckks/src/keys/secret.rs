//! The secret key.

use rayon::prelude::*;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::context::Context;
use crate::error::Error;
use crate::ring::poly::{Basis, Coeff, Ntt, RnsPoly};
use crate::ring::sampler::{Purpose, SecretSeed};

/// A uniform ternary secret. Wiped on drop; it has neither `Clone` nor `Debug`, so that no copy or print of it can
/// happen by accident.
///
/// ```compile_fail,E0277
/// fn printable<T: std::fmt::Debug>() {}
/// printable::<peregrine_ckks::keys::SecretKey>();
/// ```
/// ```compile_fail,E0277
/// fn copyable<T: Clone>() {}
/// copyable::<peregrine_ckks::keys::SecretKey>();
/// ```
pub struct SecretKey {
    fingerprint: [u8; 32],
    /// Ternary coefficients: what is stored.
    coefficients: Zeroizing<Vec<i64>>,
    /// NTT values over the whole of QP: what is used.
    values: RnsPoly<Ntt>,
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.values.zeroize();
    }
}

impl ZeroizeOnDrop for SecretKey {}

impl SecretKey {
    pub(super) fn generate(ctx: &Context, seed: &SecretSeed) -> SecretKey {
        let mut coefficients = Zeroizing::new(vec![0; ctx.n()]);
        seed.stream(Purpose::Secret, &[]).fill_ternary(&mut coefficients);
        SecretKey::from_coefficients(ctx, coefficients)
    }

    /// `coefficients` are `N` values in `{-1, 0, 1}`.
    pub(crate) fn from_coefficients(ctx: &Context, coefficients: Zeroizing<Vec<i64>>) -> SecretKey {
        let values = small_to_ntt(ctx, &coefficients, Basis::Qp(ctx.params().max_level()));
        SecretKey { fingerprint: ctx.params().fingerprint(), coefficients, values }
    }

    pub(crate) fn coefficients(&self) -> &[i64] {
        &self.coefficients
    }

    /// NTT values modulo Q prime `i`.
    pub(crate) fn q_limb(&self, i: usize) -> &[u64] {
        self.values.limb(i)
    }

    /// NTT values modulo limb `i` of a polynomial with `q_limbs` Q limbs followed by special limbs.
    pub(crate) fn limb(&self, q_limbs: usize, i: usize) -> &[u64] {
        if i < q_limbs { self.values.limb(i) } else { self.values.p_limb(i - q_limbs) }
    }

    /// # Errors
    /// [`Error::ForeignParameters`] if the key was made for other parameters.
    pub(crate) fn check(&self, op: &'static str, ctx: &Context) -> Result<(), Error> {
        if self.fingerprint == ctx.params().fingerprint() {
            Ok(())
        } else {
            Err(Error::ForeignParameters { op, what: "the secret key" })
        }
    }
}

/// Small signed coefficients to NTT values over a basis, limbs in parallel.
pub(crate) fn small_to_ntt(ctx: &Context, coefficients: &[i64], basis: Basis) -> RnsPoly<Ntt> {
    let mut poly: RnsPoly<Coeff> = ctx.zero(basis);
    let q_limbs = poly.q_limbs();
    poly.par_limbs_mut().enumerate().for_each(|(i, limb)| {
        let table = ctx.table(q_limbs, i);
        ctx.kernels().from_i64(table.modulus(), limb, coefficients);
        table.forward(limb);
    });
    poly.into_domain()
}
