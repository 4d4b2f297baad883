//! Bootstrapping: a ciphertext at the end of its levels becomes one with levels to spend.
//!
//! In this order (SlotsToCoeffs first):
//!
//! 1. **SlotsToCoeffs** at the lowest levels, few limbs: the homomorphic DFT in factors, each a double-hoisted
//!    [linear transform](crate::evaluator::linear) of diagonals of a few merged butterfly stages. Messages become coefficients.
//! 2. **ModRaise** from `q_0` to the whole chain under an ephemeral secret of weight 32, which adds `q_0 * I(X)` with small `I`.
//!    The key to the ephemeral secret exists only modulo `q_0` and a few special primes; the main secret is uniform ternary.
//! 3. **CoeffsToSlots**, the inverse DFT. Coefficients become slots.
//! 4. **EvalMod** on the real and on the imaginary part: `x mod 1` as a sine, from a Chebyshev polynomial and double angles.
//!
//! Two real ciphertexts `x + iy` go through one bootstrap ([`Bootstrapper::refresh_pair`]); one real ciphertext alone saves the
//! second EvalMod ([`Bootstrapper::refresh`]). Vectors that repeat after fewer slots than the ring has are first projected on
//! their subring and take smaller transforms.
//!
//! Sources: Cheon et al., eprint 2018/153; Bossuat et al., eprint 2020/1203 (double hoisting, exact scales) and 2022/024
//! (encapsulation); Han and Ki, eprint 2019/688 (cosine and double angles).

mod dft;
mod eval_mod;
mod failure;
mod keys;
mod raise;
mod sine;
mod spec;
#[cfg(test)]
mod tests;
mod transform;
mod work;

use std::fmt;

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::encoder::Encoder;
use crate::error::Error;
use crate::evaluator::Evaluator;
use crate::units::{Level, Scale, Slots};

use eval_mod::EvalMod;
pub use keys::BootstrapKeys;
pub use spec::{Arcsine, BootstrapParams, BootstrapSpec, EvalModSpec, PrimeRun, RANGE};
use transform::EncodedFactor;
pub use work::Together;

/// Everything public that bootstrapping ciphertexts of one slot count and one scale takes: tables, transforms, polynomials.
pub struct Bootstrapper {
    params: BootstrapParams,
    evaluator: Evaluator,
    ephemeral: Context,
    slots: Slots,
    input_scale: Scale,
    slots_to_coeffs: Vec<EncodedFactor>,
    coeffs_to_slots: Vec<EncodedFactor>,
    eval_mod: EvalMod,
}

impl fmt::Debug for Bootstrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bootstrapper({} slots at scale {})", self.slots, self.input_scale)
    }
}

impl Bootstrapper {
    /// Tables for ciphertexts whose slots repeat after `slots` and have magnitude at most 1 at `input_scale`. `main` is the
    /// context of [`BootstrapParams::main`].
    ///
    /// # Errors
    /// [`Error::ForeignParameters`] for a context of other parameters, [`Error::TooManySlots`], [`Error::ForeignScale`],
    /// [`Error::CoefficientTooLarge`] or [`Error::Bootstrap`] for a scale that SlotsToCoeffs cannot bring to the base.
    pub fn new(
        params: &BootstrapParams,
        main: &Context,
        slots: Slots,
        input_scale: &Scale,
    ) -> Result<Bootstrapper, Error> {
        let op = "bootstrapping";
        if main.params() != params.main() {
            return Err(Error::ForeignParameters { op, what: "the context" });
        }
        let max = params.main().max_slots();
        if slots > max || slots.get() < 2 {
            return Err(Error::TooManySlots { op, slots, max });
        }
        let ephemeral = Context::with_kernels(params.ephemeral(), main.kernels())?;
        if ephemeral.q_tables()[0].psi() != main.q_tables()[0].psi() {
            return Err(Error::Bootstrap { expected: "the base prime has one root of unity in both rings" });
        }
        let encoder = Encoder::new(main);
        let spec = params.spec();
        Ok(Bootstrapper {
            slots_to_coeffs: slots_to_coeffs(params, &encoder, slots, input_scale)?,
            coeffs_to_slots: coeffs_to_slots(params, &encoder, slots)?,
            eval_mod: EvalMod::new(&spec.eval_mod, spec.ratio_bits, params.eval_mod_level())?,
            params: params.clone(),
            evaluator: Evaluator::new(main),
            ephemeral,
            slots,
            input_scale: input_scale.clone(),
        })
    }

    /// The parameters.
    pub fn params(&self) -> &BootstrapParams {
        &self.params
    }

    /// The slots after which its ciphertexts repeat.
    pub fn slots(&self) -> Slots {
        self.slots
    }

    /// The ring of the ephemeral secret.
    pub(crate) fn ephemeral(&self) -> &Context {
        &self.ephemeral
    }

    /// Bytes of the encoded diagonals.
    pub fn bytes(&self) -> usize {
        self.slots_to_coeffs.iter().chain(&self.coeffs_to_slots).map(EncodedFactor::bytes).sum()
    }

    /// Refreshes one real ciphertext.
    ///
    /// The input is at [`BootstrapParams::input_level`] or higher and at the scale of this bootstrapper; its slots repeat and
    /// are real, of magnitude at most 1. The result is at [`BootstrapParams::output_level`] and at the exact scale
    /// [`BootstrapSpec::output_scale`], near `2^(prime_bits - ratio_bits)`.
    ///
    /// # Errors
    /// [`Error::LevelOutOfRange`] for an input below the input level, [`Error::ScaleMismatch`], [`Error::MissingKey`],
    /// [`Error::MissingRelinKey`], [`Error::Shape`] for a foreign ciphertext.
    pub fn refresh(&self, x: &Ciphertext, keys: &BootstrapKeys) -> Result<Ciphertext, Error> {
        let ev = &self.evaluator;
        let raised = self.raised(&self.accept(x)?, keys)?;
        let conjugate = ev.conjugate(&raised, &keys.evaluation)?;
        self.reduce(&ev.add(&raised, &conjugate)?, keys)
    }

    /// Refreshes two real ciphertexts at once, as `x + iy`; see [`refresh`](Self::refresh).
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub fn refresh_pair(
        &self,
        x: &Ciphertext,
        y: &Ciphertext,
        keys: &BootstrapKeys,
    ) -> Result<[Ciphertext; 2], Error> {
        let ev = &self.evaluator;
        let (x, y) = (self.accept(x)?, self.accept(y)?);
        let raised = self.raised(&ev.add(&x, &ev.mul_i(&y)?)?, keys)?;
        let conjugate = ev.conjugate(&raised, &keys.evaluation)?;
        let real = ev.add(&raised, &conjugate)?;
        let imaginary = ev.mul_i(&ev.sub(&conjugate, &raised)?)?;
        drop((raised, conjugate));
        Ok([self.reduce(&real, keys)?, self.reduce(&imaginary, keys)?])
    }

    /// Checks an input and drops it to the input level.
    fn accept(&self, ct: &Ciphertext) -> Result<Ciphertext, Error> {
        let op = "bootstrap";
        self.evaluator.check(op, ct)?;
        let level = self.params.input_level();
        if ct.level < level {
            return Err(Error::LevelOutOfRange { op, level, max: ct.level });
        }
        Evaluator::check_scales(op, &self.input_scale, &ct.scale)?;
        self.evaluator.drop_to(ct, level)
    }

    /// SlotsToCoeffs, ModRaise, CoeffsToSlots: slots `x` to slots `(x/2^ratio_bits + I)/(2*RANGE)`. The last rescale is left to
    /// [`reduce`](Self::reduce): the error of the conjugation's key switch would show at the smaller scale.
    fn raised(&self, ct: &Ciphertext, keys: &BootstrapKeys) -> Result<Ciphertext, Error> {
        let (ev, evaluation) = (&self.evaluator, &keys.evaluation);
        let through = |factors: &[EncodedFactor], ct: Ciphertext| {
            factors.iter().try_fold(ct, |ct, factor| factor.apply(ev, &ct, evaluation))
        };
        // Few slots have fewer factors than there are levels.
        let low = ev.drop_to(&through(&self.slots_to_coeffs, ct.clone())?, Level(0))?;
        let mut high = raise::raise(ev.context(), &self.ephemeral, &low, keys)?;
        for rotation in self.params.trace_rotations(self.slots) {
            let turned = ev.rotate(&high, rotation, evaluation)?;
            ev.add_assign(&mut high, &turned)?;
        }
        match self.coeffs_to_slots.split_last() {
            Some((last, first)) => last.apply_unscaled(ev, &through(first, high)?, evaluation),
            None => unreachable!("at least two slots take at least one factor"),
        }
    }

    /// The rescale of the transform, EvalMod, and the scale that makes the result the message again.
    fn reduce(&self, ct: &Ciphertext, keys: &BootstrapKeys) -> Result<Ciphertext, Error> {
        let ev = &self.evaluator;
        let x = ev.drop_to(&ev.rescale(ct)?, self.params.eval_mod_level())?;
        let mut reduced = self.eval_mod.apply(ev, &x, &keys.evaluation)?;
        reduced.scale = reduced.scale.mul(&Scale::pow2(-(self.params.spec().ratio_bits as i32)));
        Ok(reduced)
    }
}

/// The first factor also brings the scale to that of level 0.
fn slots_to_coeffs(
    params: &BootstrapParams,
    encoder: &Encoder,
    slots: Slots,
    input_scale: &Scale,
) -> Result<Vec<EncodedFactor>, Error> {
    let max = params.main().max_slots();
    let groups = params.spec().down_groups(slots);
    let correction = params.spec().base_scale().div(input_scale);
    let factors = dft::slots_to_coeffs(slots, &groups, max);
    let encode = |(i, factor): (usize, &dft::Factor)| {
        let prime = Scale::prime(params.input_level().0 - i as u32);
        let scale = if i == 0 { prime.mul(&correction) } else { prime };
        EncodedFactor::new(encoder, factor, slots, &scale)
    };
    factors.iter().enumerate().map(encode).collect()
}

/// The factors divide by `2 * RANGE` and by what the trace multiplied, and bring the scale to that of EvalMod.
fn coeffs_to_slots(
    params: &BootstrapParams,
    encoder: &Encoder,
    slots: Slots,
) -> Result<Vec<EncodedFactor>, Error> {
    let max = params.main().max_slots();
    let groups = params.spec().up_groups(slots);
    let copies = f64::from(max.get() / slots.get());
    let factors = dft::coeffs_to_slots(slots, &groups, max, 1.0 / (f64::from(2 * RANGE) * copies));
    let correction = params.spec().eval_mod.input_scale().div(&Scale::prime(0));
    let encode = |(i, factor): (usize, &dft::Factor)| {
        let prime = Scale::prime(params.main().max_level().0 - i as u32);
        let scale = if i == 0 { prime.mul(&correction) } else { prime };
        EncodedFactor::new(encoder, factor, slots, &scale)
    };
    factors.iter().enumerate().map(encode).collect()
}
