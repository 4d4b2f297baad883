//! A prime modulus below 2^50 and the constants its reductions need.

use thiserror::Error;

/// Moduli are strictly below `2^MAX_MODULUS_BITS`: products then fit the 104 bits of a
/// 52-bit multiply-add pair with room for lazy sums, and `f64` fused multiply-add is exact.
pub const MAX_MODULUS_BITS: u32 = 50;

const WORD52: u64 = (1 << 52) - 1;

/// Why a number can't serve as a modulus.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModulusError {
    /// The modulus is even, smaller than 3, or at least 2^50.
    #[error("modulus {0} is out of range: an odd number with 3 <= q < 2^50 is needed")]
    OutOfRange(u64),
}

/// An odd modulus `3 <= q < 2^50` with precomputed Barrett constants.
///
/// Every method takes and returns canonical residues `< q` unless it says otherwise.
/// `inv` needs `q` prime.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Modulus {
    value: u64,
    bits: u32,
    /// `floor(2^(51 + bits) / q)`, in `[2^51, 2^52)`.
    product_quotient: u64,
    /// `floor(2^52 / q)`.
    word_quotient: u64,
    /// `floor(2^64 / q)`.
    wide_quotient: u64,
    /// `2^52 mod q`.
    radix: ShoupFactor,
    /// `2^64 mod q`.
    wide_radix: u64,
    reciprocal: f64,
}

/// A constant operand `w < q` with `floor(w * 2^52 / q)` (Shoup's trick for multiplying by it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShoupFactor {
    /// The operand itself.
    pub value: u64,
    /// `floor(value * 2^52 / q)`.
    pub quotient: u64,
}

impl Modulus {
    /// Checks the range of `value` and precomputes its constants.
    pub fn new(value: u64) -> Result<Self, ModulusError> {
        if value < 3 || value.is_multiple_of(2) || value >> MAX_MODULUS_BITS != 0 {
            return Err(ModulusError::OutOfRange(value));
        }
        let bits = 64 - value.leading_zeros();
        let wide = u128::from(value);
        let shoup = |operand: u64| ShoupFactor {
            value: operand,
            quotient: ((u128::from(operand) << 52) / wide) as u64,
        };
        Ok(Self {
            value,
            bits,
            product_quotient: ((1u128 << (51 + bits)) / wide) as u64,
            word_quotient: (1 << 52) / value,
            wide_quotient: ((1u128 << 64) / wide) as u64,
            radix: shoup((1 << 52) % value),
            wide_radix: ((1u128 << 64) % wide) as u64,
            reciprocal: 1.0 / value as f64,
        })
    }

    /// The modulus as a number.
    #[inline]
    pub const fn value(&self) -> u64 {
        self.value
    }

    /// Bit length of the modulus.
    #[inline]
    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// `1 / q` rounded to nearest.
    #[inline]
    pub const fn reciprocal(&self) -> f64 {
        self.reciprocal
    }

    /// `floor(2^(51 + bits) / q)`: quotient estimate of a product, see [`Modulus::mul`].
    #[inline]
    pub(crate) const fn product_quotient(&self) -> u64 {
        self.product_quotient
    }

    /// `floor(2^52 / q)`.
    #[inline]
    pub(crate) const fn word_quotient(&self) -> u64 {
        self.word_quotient
    }

    /// `2^52 mod q` as a constant operand.
    #[inline]
    pub(crate) const fn radix(&self) -> ShoupFactor {
        self.radix
    }

    /// `a + b mod q`.
    #[inline]
    pub const fn add(&self, a: u64, b: u64) -> u64 {
        self.reduce_once(a + b)
    }

    /// `a - b mod q`.
    #[inline]
    pub const fn sub(&self, a: u64, b: u64) -> u64 {
        self.reduce_once(a + self.value - b)
    }

    /// `-a mod q`.
    #[inline]
    pub const fn neg(&self, a: u64) -> u64 {
        self.reduce_once(self.value - a)
    }

    /// `a * b mod q` by Barrett reduction with one precomputed quotient.
    #[inline]
    pub const fn mul(&self, a: u64, b: u64) -> u64 {
        let product = a as u128 * b as u128;
        let head = (product >> (self.bits - 1)) as u64;
        let quotient = ((head as u128 * self.product_quotient as u128) >> 52) as u64;
        // The quotient is at most 2 too small.
        let rest = (product as u64).wrapping_sub(quotient.wrapping_mul(self.value));
        self.reduce_once(self.reduce_once(rest))
    }

    /// `x mod q` for any word.
    #[inline]
    pub const fn reduce(&self, x: u64) -> u64 {
        let quotient = ((x as u128 * self.wide_quotient as u128) >> 64) as u64;
        self.reduce_once(x - quotient * self.value)
    }

    /// `x mod q` for any double word.
    #[inline]
    pub const fn reduce_wide(&self, x: u128) -> u64 {
        let high = self.mul(self.reduce((x >> 64) as u64), self.wide_radix);
        self.add(high, self.reduce(x as u64))
    }

    /// The residue of a signed number.
    #[inline]
    pub const fn reduce_signed(&self, x: i64) -> u64 {
        let magnitude = self.reduce(x.unsigned_abs());
        if x < 0 { self.neg(magnitude) } else { magnitude }
    }

    /// The representative of `a` in `(-q/2, q/2)`.
    #[inline]
    pub const fn centred(&self, a: u64) -> i64 {
        if a > self.value / 2 { a as i64 - self.value as i64 } else { a as i64 }
    }

    /// `base^exponent mod q`.
    pub const fn pow(&self, base: u64, mut exponent: u64) -> u64 {
        let mut square = base;
        let mut power = 1;
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = self.mul(power, square);
            }
            square = self.mul(square, square);
            exponent >>= 1;
        }
        power
    }

    /// `a^-1 mod q` for prime `q` (Fermat); 0 for `a = 0`.
    pub const fn inv(&self, a: u64) -> u64 {
        self.pow(a, self.value - 2)
    }

    /// Prepares `operand` (any word) as a constant factor.
    pub const fn factor(&self, operand: u64) -> ShoupFactor {
        let value = self.reduce(operand);
        ShoupFactor { value, quotient: (((value as u128) << 52) / self.value as u128) as u64 }
    }

    /// `a * w mod q` for any `a < 2^52`.
    #[inline]
    pub const fn mul_factor(&self, a: u64, w: ShoupFactor) -> u64 {
        let quotient = ((a as u128 * w.quotient as u128) >> 52) as u64;
        let rest = a.wrapping_mul(w.value).wrapping_sub(quotient.wrapping_mul(self.value));
        self.reduce_once(rest & WORD52)
    }

    #[inline]
    const fn reduce_once(&self, x: u64) -> u64 {
        if x >= self.value { x - self.value } else { x }
    }
}
