//! Real and complex vectors to integer polynomials and back.

mod fft;
mod lift;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use crate::context::Context;
use crate::cost::Work;
use crate::error::Error;
use crate::plaintext::{Coefficients, Form, IntPlaintext};
use crate::ring::poly::{Basis, Coeff, Ntt, RnsPoly};
use crate::units::{Scale, Slots};
pub use fft::Complex;
pub(crate) use fft::SpecialFft;

/// Coefficients are kept below `2^WORD_BITS`; larger ones share a power of two.
const WORD_BITS: u32 = 62;

/// Coefficients of `2^COEFFICIENT_BITS` and more are refused.
const COEFFICIENT_BITS: u32 = 400;

/// Encodes vectors of real slots. Any power of two up to `N/2` can be the period of the vector: it is encoded in the
/// subring `Z[X^(N/2p)]` and repeats `N/2p` times over the slots of the ring.
#[derive(Clone)]
pub struct Encoder {
    ctx: Context,
    /// Twiddles by `log2` of the period, built at first use.
    transforms: Arc<[OnceLock<SpecialFft>]>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({:?})", self.ctx)
    }
}

impl Encoder {
    /// An encoder for one ring.
    pub fn new(ctx: &Context) -> Encoder {
        let transforms = (0..ctx.params().log_n()).map(|_| OnceLock::new()).collect();
        Encoder { ctx: ctx.clone(), transforms }
    }

    fn transform(&self, period: Slots) -> &SpecialFft {
        self.transforms[period.log2() as usize].get_or_init(|| SpecialFft::new(period.get() as usize))
    }

    fn check_period(&self, op: &'static str, period: Slots) -> Result<(), Error> {
        let max = self.ctx.params().max_slots();
        if period <= max { Ok(()) } else { Err(Error::TooManySlots { op, slots: period, max }) }
    }

    /// Encodes `period` values at an exact scale, rounding each coefficient to the nearest integer.
    ///
    /// # Errors
    /// [`Error::TooManySlots`], [`Error::SlotCount`], [`Error::NotFinite`], [`Error::ForeignScale`], or
    /// [`Error::CoefficientTooLarge`] if a coefficient reaches `2^400`.
    pub fn encode(&self, values: &[f64], period: Slots, scale: &Scale) -> Result<IntPlaintext, Error> {
        self.encode_slots(
            values.iter().map(|&re| Complex { re, im: 0.0 }).collect(),
            (period, Form::Real),
            scale,
        )
    }

    /// Encodes `period` complex values; see [`encode`](Self::encode).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_complex(
        &self,
        values: &[Complex],
        period: Slots,
        scale: &Scale,
    ) -> Result<IntPlaintext, Error> {
        self.encode_slots(values.to_vec(), (period, Form::Complex), scale)
    }

    fn encode_slots(
        &self,
        mut slots: Vec<Complex>,
        (period, form): (Slots, Form),
        scale: &Scale,
    ) -> Result<IntPlaintext, Error> {
        let op = "encode";
        self.check_period(op, period)?;
        if slots.len() != period.get() as usize {
            return Err(Error::SlotCount { op, values: slots.len(), slots: period });
        }
        for (slot, value) in slots.iter().enumerate().flat_map(|(slot, z)| [(slot, z.re), (slot, z.im)]) {
            if !value.is_finite() {
                return Err(Error::NotFinite { op, slot, value });
            }
        }
        let factor = scale_value(&self.ctx, op, scale)?;
        self.transform(period).inverse(&mut slots);
        let larger = |largest: f64, c: f64| if c.abs() > largest { c.abs() } else { largest };
        let largest = slots.iter().fold(0.0, |largest, pair| match form {
            Form::Real => larger(largest, pair.re),
            Form::Complex => larger(larger(largest, pair.re), pair.im),
        });
        let largest = factor * largest;
        let shift = word_shift(op, largest, scale.log2(self.ctx.params()))?;
        let unit = 2f64.powi(-(shift as i32));
        let coefficients = Coefficients::rounded(&slots, form, factor * unit, largest * unit);
        self.ctx.count(Work::encoding(period.get()));
        Ok(IntPlaintext::new((period, form), coefficients, shift, scale.clone()))
    }

    /// Encodes one value in every slot.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_constant(&self, value: f64, scale: &Scale) -> Result<IntPlaintext, Error> {
        self.encode(&[value], Slots::new(1)?, scale)
    }

    /// Expands a plaintext to NTT values over a basis: one small transform per limb, then every value fills
    /// `N/(2*period)` neighbouring positions.
    ///
    /// # Errors
    /// [`Error::TooManySlots`], [`Error::LevelOutOfRange`].
    pub fn encode_ntt(&self, plaintext: &IntPlaintext, basis: Basis) -> Result<RnsPoly<Ntt>, Error> {
        expand(&self.ctx, plaintext, basis)
    }

    /// The first `period` real slots of a polynomial at a scale.
    ///
    /// The coefficients of the subring of the period are lifted exactly to `(-Q/2, Q/2)`, then transformed in `f64`.
    ///
    /// # Errors
    /// [`Error::TooManySlots`], [`Error::ForeignScale`], [`Error::Shape`] for a polynomial of another ring.
    pub fn decode(&self, poly: &RnsPoly<Coeff>, scale: &Scale, period: Slots) -> Result<Vec<f64>, Error> {
        Ok(self.decode_complex(poly, scale, period)?.into_iter().map(|slot| slot.re).collect())
    }

    /// The first `period` complex slots of a polynomial at a scale; see [`decode`](Self::decode).
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_complex(
        &self,
        poly: &RnsPoly<Coeff>,
        scale: &Scale,
        period: Slots,
    ) -> Result<Vec<Complex>, Error> {
        let op = "decode";
        self.check_period(op, period)?;
        let level = crate::units::Level(poly.q_limbs().saturating_sub(1) as u32);
        self.ctx.check_poly(op, poly, level)?;
        let factor = 1.0 / scale_value(&self.ctx, op, scale)?;
        let size = period.get() as usize;
        let coefficients = lift::lift(&self.ctx, poly, self.ctx.n() / (2 * size));
        let pair = |k: usize| Complex { re: coefficients[k] * factor, im: coefficients[k + size] * factor };
        let mut slots: Vec<Complex> = (0..size).map(pair).collect();
        self.transform(period).forward(&mut slots);
        Ok(slots)
    }
}

/// The scale as a float.
pub(crate) fn scale_value(ctx: &Context, op: &'static str, scale: &Scale) -> Result<f64, Error> {
    let value = scale.value(ctx.params());
    if value.is_normal() {
        return Ok(value);
    }
    Err(Error::ForeignScale { op, scale: Box::new(scale.clone()), primes: ctx.params().q().len() })
}

/// The shared power of two that brings `largest` below `2^WORD_BITS`.
pub(crate) fn word_shift(op: &'static str, largest: f64, scale_log2: f64) -> Result<u32, Error> {
    if largest < 1.0 {
        return Ok(0);
    }
    let log2 = largest.log2();
    if log2 >= f64::from(COEFFICIENT_BITS) {
        return Err(Error::CoefficientTooLarge { op, log2, limit: COEFFICIENT_BITS, scale_log2 });
    }
    let bits = log2.floor() as u32 + 1;
    Ok(bits.saturating_sub(WORD_BITS))
}

/// Expands a plaintext to NTT values over a basis, limbs in parallel.
pub(crate) fn expand(ctx: &Context, plaintext: &IntPlaintext, basis: Basis) -> Result<RnsPoly<Ntt>, Error> {
    let op = "plaintext expansion";
    ctx.check_level(op, basis.level())?;
    let (period, max) = (plaintext.period(), ctx.params().max_slots());
    if period > max {
        return Err(Error::TooManySlots { op, slots: period, max });
    }
    let mut poly: RnsPoly<Ntt> = ctx.zero(basis);
    let q_limbs = poly.q_limbs();
    ctx.count(ctx.shape(q_limbs).expansion(period.get()));
    let expand_limb = |(i, limb): (usize, &mut [u64])| {
        let table = ctx.table(q_limbs, i);
        let size = 2 * period.get() as usize;
        if size == limb.len() {
            plaintext.residues(ctx.kernels(), table.modulus(), limb);
            table.forward(limb);
            return;
        }
        let mut values = vec![0; size];
        plaintext.residues(ctx.kernels(), table.modulus(), &mut values);
        table.forward_subring(&mut values);
        for (run, value) in limb.chunks_exact_mut(ctx.n() / size).zip(values) {
            run.fill(value);
        }
    };
    poly.par_limbs_mut().enumerate().for_each(expand_limb);
    Ok(poly)
}
