//! Polynomials of slots: any degree, in the Chebyshev or the monomial basis, in the least possible depth.
//!
//! Baby-step giant-step after Paterson and Stockmeyer with exact scales (Bossuat et al., eprint 2020/1203, §5): the scale of
//! each part is fixed from the result downwards, so that all addends agree exactly. A polynomial is written as
//! `sum_g q_g * T_g + leaf` over powers of two `g`; the products of one such sum are relinearised and rescaled together.
//! Degree 31 takes 10 relinearisations, degree 63 takes 17.
//!
//! Coefficients are numbers for all slots or vectors of slots ("per channel"); both cost the same levels.

mod coefficient;
mod count;
mod evaluate;
#[cfg(test)]
mod tests;

pub use coefficient::Coefficient;

use std::borrow::Cow;

use crate::ciphertext::Ciphertext;
use crate::error::Error;
use crate::evaluator::Evaluator;
use crate::keys::EvalKeys;
use crate::units::{Level, Scale};

pub(crate) use count::Count;
use evaluate::Evaluation;
pub(crate) use evaluate::Ladder;

/// The highest degree that is accepted.
pub const MAX_DEGREE: usize = 1023;

/// What the coefficients multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolynomialBasis {
    /// `1, x, x^2, ..`.
    Monomial,
    /// The Chebyshev polynomials `T_0, T_1, ..`, for slots in `[-1, 1]`.
    Chebyshev,
}

/// A polynomial with checked coefficients.
///
/// ```
/// use peregrine_ckks::evaluator::polynomial::{Polynomial, PolynomialBasis};
/// let p = Polynomial::new(PolynomialBasis::Chebyshev, [0.5, 0.0, 2.0].map(Into::into).to_vec())?;
/// assert_eq!((p.degree(), p.depth()), (2, 2));
/// assert_eq!(p.evaluate_clear(0.5, 0), 0.5 + 2.0 * (2.0 * 0.25 - 1.0));
/// # Ok::<(), peregrine_ckks::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Polynomial {
    basis: PolynomialBasis,
    coefficients: Vec<Coefficient>,
}

impl Polynomial {
    /// A polynomial from its coefficients, the constant first. Zero coefficients at the end are dropped.
    ///
    /// # Errors
    /// [`Error::Polynomial`] for a constant or a degree above [`MAX_DEGREE`], [`Error::NotFinite`], [`Error::Unit`] for a vector
    /// whose length is no power of two.
    pub fn new(basis: PolynomialBasis, mut coefficients: Vec<Coefficient>) -> Result<Polynomial, Error> {
        coefficients.iter().try_for_each(Coefficient::check)?;
        while coefficients.last().is_some_and(Coefficient::is_zero) {
            coefficients.pop();
        }
        if !(2..=MAX_DEGREE + 1).contains(&coefficients.len()) {
            return Err(Error::Polynomial { degree: coefficients.len().saturating_sub(1), max: MAX_DEGREE });
        }
        Ok(Polynomial { basis, coefficients })
    }

    /// The basis.
    pub fn basis(&self) -> PolynomialBasis {
        self.basis
    }

    /// The coefficients, the constant first; the last is not zero.
    pub fn coefficients(&self) -> &[Coefficient] {
        &self.coefficients
    }

    /// The degree, at least 1.
    pub fn degree(&self) -> usize {
        self.coefficients.len() - 1
    }

    /// Levels it takes: `ceil(log2(degree + 1))`.
    pub fn depth(&self) -> u32 {
        usize::BITS - self.degree().leading_zeros()
    }

    /// The value at `x` with the coefficients of a slot, in the clear.
    pub fn evaluate_clear(&self, x: f64, slot: usize) -> f64 {
        let (mut previous, mut power) = (1.0, x);
        let mut sum = self.coefficients[0].at(slot);
        for coefficient in &self.coefficients[1..] {
            sum += coefficient.at(slot) * power;
            let next = match self.basis {
                PolynomialBasis::Monomial => power * x,
                PolynomialBasis::Chebyshev => 2.0 * x * power - previous,
            };
            (previous, power) = (power, next);
        }
        sum
    }
}

impl Evaluator {
    /// The polynomial of every slot, exactly at the scale `target` and [`Polynomial::depth`] levels below `x`.
    ///
    /// Precision is best if the scale of `x`, `target` and the primes on the way are of about the same size.
    ///
    /// # Errors
    /// [`Error::NoLevelLeft`] if `x` has too few levels, [`Error::MissingRelinKey`], [`Error::TooManySlots`] for a vector
    /// coefficient, [`Error::ForeignScale`], [`Error::CoefficientTooLarge`], [`Error::Shape`].
    pub fn evaluate_polynomial(
        &self,
        x: &Ciphertext,
        polynomial: &Polynomial,
        target: &Scale,
        keys: &EvalKeys,
    ) -> Result<Ciphertext, Error> {
        let ladder = Ladder::by_one(x.level(), polynomial.depth())?;
        self.evaluate_on_ladder(x, polynomial, target, &ladder, keys)
    }

    /// Like [`evaluate_polynomial`](Self::evaluate_polynomial), with chosen levels after each multiplicative depth.
    ///
    /// # Errors
    /// As [`evaluate_polynomial`](Self::evaluate_polynomial); [`Error::LevelMismatch`] if the ladder does not start at the level of
    /// `x`.
    pub(crate) fn evaluate_on_ladder(
        &self,
        x: &Ciphertext,
        polynomial: &Polynomial,
        target: &Scale,
        ladder: &Ladder,
        keys: &EvalKeys,
    ) -> Result<Ciphertext, Error> {
        let op = "polynomial evaluation";
        self.check(op, x)?;
        Evaluator::check_levels(op, ladder.level(0), x.level())?;
        let mut evaluation = Evaluation::new(self, polynomial.basis, x, ladder, keys);
        evaluation.evaluate(Cow::Borrowed(&polynomial.coefficients), polynomial.depth(), target)
    }
}

impl Ladder {
    /// One level for each depth.
    pub(crate) fn by_one(start: Level, depth: u32) -> Result<Ladder, Error> {
        let below = |count| start.below(count);
        let levels: Option<Vec<Level>> = (0..=depth).map(below).collect();
        levels.map(Ladder::new).ok_or(Error::NoLevelLeft { op: "polynomial evaluation", level: start })
    }
}
