//! Encoded plaintexts as small integers of a subring.

use crate::arith::Modulus;
use crate::kernels::Kernels;
use crate::units::{Scale, Slots};

/// Integer coefficients, as narrow as they fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coefficients {
    /// Every coefficient fits 32 bits.
    I32(Box<[i32]>),
    /// Every coefficient fits 63 bits.
    I64(Box<[i64]>),
}

impl Coefficients {
    /// The narrowest representation of `values`.
    pub fn new(values: Vec<i64>) -> Coefficients {
        match values.iter().map(|&value| i32::try_from(value)).collect() {
            Ok(narrow) => Coefficients::I32(narrow),
            Err(_) => Coefficients::I64(values.into()),
        }
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

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        match self {
            Coefficients::I32(values) => size_of_val(&values[..]),
            Coefficients::I64(values) => size_of_val(&values[..]),
        }
    }
}

/// An encoded vector of `period` real slots: the polynomial `2^shift * sum_k c_k X^(k*N/(2*period))`, `k < 2*period`.
///
/// It takes a fraction of the memory of its limbs and is expanded to NTT values where it is used. In the slots of the
/// whole ring the vector repeats every `period` slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntPlaintext {
    period: Slots,
    coefficients: Coefficients,
    shift: u32,
    scale: Scale,
}

impl IntPlaintext {
    /// # Panics
    /// If there are not `2 * period` coefficients.
    pub(crate) fn new(period: Slots, coefficients: Coefficients, shift: u32, scale: Scale) -> IntPlaintext {
        assert_eq!(coefficients.len(), 2 * period.get() as usize, "two coefficients per slot");
        IntPlaintext { period, coefficients, shift, scale }
    }

    /// Number of slots after which the vector repeats.
    pub fn period(&self) -> Slots {
        self.period
    }

    /// The `2 * period` integers `c_k`.
    pub fn coefficients(&self) -> &Coefficients {
        &self.coefficients
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
