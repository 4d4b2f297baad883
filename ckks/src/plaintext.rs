//! Encoded plaintexts as small integers of a subring.

use crate::arith::{Modulus, ShoupFactor};
use crate::encoder::Complex;
use crate::kernels::Kernels;
use crate::ring::integers::Integers;
use crate::units::{Scale, Slots};

/// Integer coefficients, as narrow as they fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coefficients {
    /// Every coefficient fits 32 bits.
    I32(Integers<i32>),
    /// Every coefficient fits 63 bits.
    I64(Integers<i64>),
}

/// Adding this to a number of a magnitude below 2^51 rounds it to the nearest integer, ties to even, which is then in the low bits.
const ROUNDING: f64 = 1.5 * (1u64 << 52) as f64;

impl Coefficients {
    /// The real parts times `factor`, then for a complex plaintext the imaginary ones, rounded to the nearest integer: the narrowest
    /// representation, if none of the products is larger than `largest`.
    pub(crate) fn rounded(pairs: &[Complex], form: Form, factor: f64, largest: f64) -> Coefficients {
        let len = form.stored(pairs.len());
        if largest < f64::from(i32::MAX) {
            let round = |value: f64| (value * factor + ROUNDING).to_bits() as i32;
            return Coefficients::I32(Integers::filled(len, |out| spread(out, pairs, round)));
        }
        let round = |value: f64| (value * factor).round_ties_even() as i64;
        Coefficients::I64(Integers::filled(len, |out| spread(out, pairs, round)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Coefficients::I32(values) => values.len(),
            Coefficients::I64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Coefficient `k`.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, k: usize) -> i64 {
        match self {
            Coefficients::I32(values) => i64::from(values[k]),
            Coefficients::I64(values) => values[k],
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        match self {
            Coefficients::I32(values) => size_of_val(&values[..]),
            Coefficients::I64(values) => size_of_val(&values[..]),
        }
    }
}

/// Real parts, then as many imaginary ones as there is room for.
fn spread<T>(out: &mut [T], pairs: &[Complex], round: impl Fn(f64) -> T) {
    let (head, tail) = out.split_at_mut(pairs.len());
    head.iter_mut().zip(pairs).for_each(|(place, pair)| *place = round(pair.re));
    tail.iter_mut().zip(pairs).for_each(|(place, pair)| *place = round(pair.im));
}

/// Which integers of a polynomial are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// All `2 * period`.
    Complex,
    /// Those of real slots: the polynomial is the same at a root of unity and at its inverse, `c_(2*period - k) = -c_k`, so
    /// that the first `period` say all.
    Real,
}

impl Form {
    /// How many integers are stored for so many slots.
    pub(crate) fn stored(self, slots: usize) -> usize {
        match self {
            Form::Complex => 2 * slots,
            Form::Real => slots,
        }
    }
}

/// An encoded vector of `period` slots: the polynomial `2^shift * sum_k c_k X^(k*N/(2*period))`, `k < 2*period`.
///
/// It takes a fraction of the memory of its limbs and is expanded to NTT values where it is used. In the slots of the
/// whole ring the vector repeats every `period` slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntPlaintext {
    period: Slots,
    form: Form,
    coefficients: Coefficients,
    shift: u32,
    scale: Scale,
}

impl IntPlaintext {
    /// # Panics
    /// If there are not as many coefficients as the form wants.
    pub(crate) fn new(
        (period, form): (Slots, Form),
        coefficients: Coefficients,
        shift: u32,
        scale: Scale,
    ) -> IntPlaintext {
        let expected = form.stored(period.get() as usize);
        assert_eq!(coefficients.len(), expected, "coefficients of a {form:?} plaintext");
        IntPlaintext { period, form, coefficients, shift, scale }
    }

    /// Number of slots after which the vector repeats.
    pub fn period(&self) -> Slots {
        self.period
    }

    /// Which of its integers it stores.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The stored integers.
    pub fn stored(&self) -> &Coefficients {
        &self.coefficients
    }

    /// The integer `c_k`, `k < 2*period`.
    ///
    /// # Panics
    /// If there is none.
    pub fn coefficient(&self, k: usize) -> i64 {
        let period = self.period.get() as usize;
        match self.form {
            Form::Complex => self.coefficients.get(k),
            Form::Real if k < period => self.coefficients.get(k),
            Form::Real if k == period => 0,
            Form::Real => -self.coefficients.get(2 * period - k),
        }
    }

    /// The power of two that multiplies every coefficient: 0 unless they exceed 62 bits.
    pub fn shift(&self) -> u32 {
        self.shift
    }

    /// The exact scale.
    pub fn scale(&self) -> &Scale {
        &self.scale
    }

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        self.coefficients.bytes()
    }

    /// Residues of the `2 * period` coefficients of the subring modulo one prime, `2^shift` included.
    ///
    /// # Panics
    /// If `out` does not hold `2 * period` words.
    pub fn residues(&self, kernels: Kernels, modulus: &Modulus, out: &mut [u64]) {
        let period = self.period.get() as usize;
        assert_eq!(out.len(), 2 * period, "a word for each coefficient");
        let (stored, rest) = out.split_at_mut(self.coefficients.len());
        self.stored_residues(kernels, modulus, stored);
        if let Some((middle, rest)) = rest.split_first_mut() {
            *middle = 0;
            rest.iter_mut().zip(stored.iter().rev()).for_each(|(word, &c)| *word = modulus.neg(c));
        }
    }

    /// The polynomial modulo `X^period - i` of the subring, where `i` is a square root of -1 modulo the prime: the half of a
    /// [real](Form::Real) plaintext's values that determines the other.
    ///
    /// # Panics
    /// If the plaintext is not real, or `out` does not hold `period` words.
    pub fn folded_residues(&self, kernels: Kernels, modulus: &Modulus, i: ShoupFactor, out: &mut [u64]) {
        assert_eq!(self.form, Form::Real, "only real slots have values in pairs");
        self.stored_residues(kernels, modulus, out);
        kernels.sub_mirrored_times(modulus, out, i);
    }

    fn stored_residues(&self, kernels: Kernels, modulus: &Modulus, out: &mut [u64]) {
        match &self.coefficients {
            Coefficients::I32(values) => kernels.from_i32(modulus, out, values),
            Coefficients::I64(values) => kernels.from_i64(modulus, out, values),
        }
        if self.shift > 0 {
            let factor = modulus.pow(2, u64::from(self.shift));
            kernels.mul_scalar_assign(modulus, out, modulus.factor(factor));
        }
    }
}
