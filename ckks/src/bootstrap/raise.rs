//! ModRaise under an ephemeral sparse secret (Bossuat, Troncoso-Pastoriza, Hubaux, eprint 2022/024).
//!
//! At level 0 the ciphertext is switched to a secret of weight 32, so that lifting its parts from `q_0` to the whole chain
//! adds `q_0 * I(X)` with coefficients of `I` below 16.5. Then it is switched back to the main secret.

use rayon::prelude::*;

use super::BootstrapKeys;
use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::cost::Work;
use crate::error::Error;
use crate::evaluator::keyswitch;
use crate::ring::poly::{Ntt, RnsPoly};
use crate::units::{Level, Scale};

/// A ciphertext at level 0 to one at the top level that encrypts `message + q_0 * I`. As scale it gets `q_0`, so that its
/// coefficients are `I` plus the message over `q_0`.
pub(super) fn raise(
    main: &Context,
    ephemeral: &Context,
    ct: &Ciphertext,
    keys: &BootstrapKeys,
) -> Result<Ciphertext, Error> {
    let (mut low0, low1) = keyswitch::switch(ephemeral, &ct.c1, &keys.to_ephemeral)?;
    main.add_assign(&mut low0, &ct.c0);
    let (high0, high1) = (lift(main, low0), lift(main, low1));
    let (mut c0, c1) = keyswitch::switch(main, &high1, &keys.to_main)?;
    main.add_assign(&mut c0, &high0);
    Ok(Ciphertext { c0, c1, level: main.params().max_level(), scale: Scale::prime(0) })
}

/// The centred residues modulo `q_0` in every limb.
fn lift(ctx: &Context, low: RnsPoly<Ntt>) -> RnsPoly<Ntt> {
    let top: Level = ctx.params().max_level();
    let coefficients = ctx.inverse(low);
    let mut high: RnsPoly<Ntt> = RnsPoly::unspecified(ctx.n(), top.limbs(), 0);
    let base = &ctx.q_moduli()[0];
    ctx.count(Work::transforms(ctx.n(), top.limbs() as f64) + Work::passes(ctx.n(), top.limbs() as f64));
    high.par_limbs_mut().enumerate().for_each(|(i, limb)| {
        ctx.kernels().recenter(&ctx.q_moduli()[i], limb, coefficients.limb(0), base);
        ctx.q_tables()[i].forward(limb);
    });
    high
}
