//! EvalMod: slots `x = I + e`, `I` an integer and `e` small, to `e`, as `sin(2*pi*x)/(2*pi)`.
//!
//! A Chebyshev polynomial gives `k * cos(2*pi*(x - 1/4 + j)/2^r)` for some integer `j`; `r` times `y <- 2*y^2 - k^(2^j)` doubles the angle, and the
//! factor `k = (2*pi)^(-1/2^r)` grows to `1/(2*pi)` on the way (Han and Ki, eprint 2019/688).

use std::f64::consts::TAU;

use super::sine;
use super::spec::{Arcsine, EvalModSpec, RANGE};
use crate::ciphertext::Ciphertext;
use crate::error::Error;
use crate::evaluator::Evaluator;
use crate::evaluator::polynomial::{Ladder, Polynomial, PolynomialBasis};
use crate::keys::EvalKeys;
use crate::units::{Level, Scale};

/// The polynomials of the modular reduction.
#[derive(Debug, Clone)]
pub(super) struct EvalMod {
    cosine: Polynomial,
    /// `k^2, k^4, ..`, what each double angle subtracts.
    offsets: Vec<f64>,
    arcsine: Option<Polynomial>,
    working_scale: Scale,
    ladder: Ladder,
}

/// The least precision, in bits of the message, that the cosine must have in the clear.
const COSINE_BITS: i32 = 18;

impl EvalMod {
    /// The polynomials for slots at the level `start`.
    ///
    /// # Errors
    /// [`Error::Bootstrap`] if the degree is too low.
    pub(super) fn new(spec: &EvalModSpec, ratio_bits: u32, start: Level) -> Result<Self, Error> {
        let fit = sine::fit(spec.degree, RANGE, spec.double_angles, ratio_bits);
        if fit.error > 2f64.powi(-(COSINE_BITS + ratio_bits as i32)) {
            let expected = "the cosine needs a higher degree or more double angles for 18 bits of precision";
            return Err(Error::Bootstrap { expected });
        }
        let first = (1.0 / TAU).powf(0.5f64.powi(spec.double_angles as i32));
        let offsets = (1..=spec.double_angles as i32).map(|j| first.powf(2f64.powi(j))).collect();
        let arcsine = match spec.arcsine {
            Arcsine::None => None,
            degree => Some(polynomial(PolynomialBasis::Monomial, sine::arcsine(degree.degree()))?),
        };
        Ok(Self {
            cosine: polynomial(PolynomialBasis::Chebyshev, fit.coefficients)?,
            offsets,
            arcsine,
            working_scale: Scale::pow2(spec.prime_bits as i32),
            ladder: spec.ladder(start),
        })
    }

    /// Slots `x/RANGE` to slots `e`, [`EvalModSpec::levels`] levels lower.
    pub(super) fn apply(&self, ev: &Evaluator, x: &Ciphertext, keys: &EvalKeys) -> Result<Ciphertext, Error> {
        let mut y = ev.evaluate_on_ladder(x, &self.cosine, &self.working_scale, &self.ladder, keys)?;
        for offset in &self.offsets {
            // Doubled before the rescale, whose error then counts once.
            let mut square = ev.square(&y)?;
            ev.double_product(&mut square)?;
            y = ev.add_scalar(&ev.relinearize_rescale(&square, keys)?, -offset)?;
        }
        match &self.arcsine {
            None => Ok(y),
            Some(arcsine) => ev.evaluate_polynomial(&y, arcsine, &self.working_scale, keys),
        }
    }
}

fn polynomial(basis: PolynomialBasis, coefficients: Vec<f64>) -> Result<Polynomial, Error> {
    Polynomial::new(basis, coefficients.into_iter().map(Into::into).collect())
}
