//! Moving down the modulus chain.

use rayon::prelude::*;

use super::Evaluator;
use super::scratch::with_scratch;
use crate::ciphertext::Ciphertext;
use crate::error::Error;
use crate::ring::poly::{Ntt, RnsPoly};
use crate::units::{Level, Scale};

impl Evaluator {
    /// Divides by the top prime `q_level` with centred rounding: one level less, the scale divided exactly.
    ///
    /// # Errors
    /// [`Error::NoLevelLeft`] at level 0, [`Error::Shape`] for a foreign ciphertext.
    pub fn rescale(&self, ct: &Ciphertext) -> Result<Ciphertext, Error> {
        let op = "rescale";
        self.check(op, ct)?;
        let (level, scale) = Evaluator::rescaled(op, ct.level, &ct.scale)?;
        self.ctx.count(self.ctx.shape(ct.level.limbs()).rescale());
        let (c0, c1) =
            rayon::join(|| self.divide_by_top(&ct.c0, ct.level), || self.divide_by_top(&ct.c1, ct.level));
        Ok(Ciphertext { c0, c1, level, scale })
    }

    /// Level and scale after a rescale.
    pub(crate) fn rescaled(op: &'static str, level: Level, scale: &Scale) -> Result<(Level, Scale), Error> {
        let below = level.below(1).ok_or(Error::NoLevelLeft { op, level })?;
        Ok((below, scale.div(&Scale::prime(level.0))))
    }

    /// `(x - [x]_q)/q` for the top prime `q`, with the centred remainder. Only the top limb leaves the NTT domain: its
    /// lift to each lower prime is transformed and subtracted there.
    fn divide_by_top(&self, poly: &RnsPoly<Ntt>, level: Level) -> RnsPoly<Ntt> {
        let ctx = &self.ctx;
        let (kernels, top) = (ctx.kernels(), level.0 as usize);
        let mut quotient = poly.clone();
        let (low, remainder) = quotient.words_mut().split_at_mut(top * ctx.n());
        ctx.q_tables()[top].inverse(remainder);
        let factors = ctx.rescale_factors(level);
        low.par_chunks_exact_mut(ctx.n()).enumerate().for_each(|(i, limb)| {
            with_scratch(ctx.n(), 1, |buffers| {
                let (modulus, lifted) = (&ctx.q_moduli()[i], &mut *buffers[0]);
                kernels.recenter(modulus, lifted, remainder, &ctx.q_moduli()[top]);
                ctx.q_tables()[i].forward(lifted);
                kernels.sub_mul_scalar_assign(modulus, limb, lifted, factors[i]);
            });
        });
        quotient.truncate(top);
        quotient
    }

    /// The same message at a lower level, without any change of scale: the top limbs are dropped.
    ///
    /// # Errors
    /// [`Error::LevelOutOfRange`] if `level` is above the ciphertext's, [`Error::Shape`] for a foreign ciphertext.
    pub fn drop_to(&self, ct: &Ciphertext, level: Level) -> Result<Ciphertext, Error> {
        let op = "drop";
        self.check(op, ct)?;
        if level > ct.level {
            return Err(Error::LevelOutOfRange { op, level, max: ct.level });
        }
        let (c0, c1) = (ct.c0.truncated(level.limbs()), ct.c1.truncated(level.limbs()));
        Ok(Ciphertext { c0, c1, level, scale: ct.scale.clone() })
    }
}
