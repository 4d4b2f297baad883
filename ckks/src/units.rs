//! Newtypes for the integers that look alike in a CKKS program, and the exact scale.

use std::fmt;
use std::str::FromStr;

use smallvec::SmallVec;

use crate::params::Params;

/// A value that is no valid unit, or text that does not parse as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The slot count is zero or no power of two.
    #[error("slot count {count} is no power of two; round it up to {}", count.checked_next_power_of_two().unwrap_or(1 << 31))]
    Slots {
        /// The rejected count.
        count: u32,
    },
    /// A Galois element must be odd.
    #[error("Galois element {value} is even; only odd exponents below 2N are automorphisms of the ring")]
    GaloisElement {
        /// The rejected exponent.
        value: u32,
    },
    /// The text is no scale of the form `2^56*q3^-1*q7^2`.
    #[error("`{term}` in scale `{text}` is no factor of the form `2^e`, `qI` or `qI^k` that occurs once")]
    Scale {
        /// The whole text.
        text: String,
        /// The offending factor.
        term: String,
    },
}

/// A level: a ciphertext at level `l` has the `l + 1` limbs `q_0..=q_l`; level 0 is the base limb alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Level(pub u32);

impl Level {
    /// Number of Q limbs at this level.
    pub const fn limbs(self) -> usize {
        self.0 as usize + 1
    }

    /// The level `count` below, or `None` below level 0.
    pub const fn below(self, count: u32) -> Option<Level> {
        match self.0.checked_sub(count) {
            Some(level) => Some(Level(level)),
            None => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of slots: a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slots(u32);

impl Slots {
    /// Checks that `count` is a power of two.
    ///
    /// # Errors
    /// [`UnitError::Slots`] otherwise.
    pub const fn new(count: u32) -> Result<Slots, UnitError> {
        if count.is_power_of_two() { Ok(Slots(count)) } else { Err(UnitError::Slots { count }) }
    }

    /// The count.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Base-two logarithm of the count.
    pub const fn log2(self) -> u32 {
        self.0.trailing_zeros()
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A left rotation by a number of slots: `rotate(x, r)[i] = x[i + r]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rotation(u32);

impl Rotation {
    /// The rotation that does nothing.
    pub const ZERO: Rotation = Rotation(0);

    /// Reduces a signed number of steps modulo the number of slots.
    pub const fn new(steps: i64, slots: Slots) -> Rotation {
        Rotation(steps.rem_euclid(slots.0 as i64) as u32)
    }

    /// Number of slots to the left, below the slot count it was made for.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether this is the identity.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The exponent `g` of the ring automorphism `X -> X^g`: odd, taken modulo `2N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GaloisElement(u32);

impl GaloisElement {
    /// The identity automorphism.
    pub const IDENTITY: GaloisElement = GaloisElement(1);

    /// Checks that `value` is odd. Whether it is below `2N` is checked where a ring is at hand.
    ///
    /// # Errors
    /// [`UnitError::GaloisElement`] if it is even.
    pub const fn new(value: u32) -> Result<GaloisElement, UnitError> {
        if value & 1 == 1 { Ok(GaloisElement(value)) } else { Err(UnitError::GaloisElement { value }) }
    }

    /// `5^r mod 2N`, which rotates the slots left by `r`. `n` is the ring degree, a power of two.
    pub const fn from_rotation(rotation: Rotation, n: usize) -> GaloisElement {
        let mask = 2 * n as u64 - 1;
        let (mut result, mut base, mut exponent) = (1u64, 5u64, rotation.0);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = (result * base) & mask;
            }
            base = (base * base) & mask;
            exponent >>= 1;
        }
        GaloisElement(result as u32)
    }

    /// `2N - 1`, which conjugates every slot. `n` is the ring degree.
    pub const fn conjugation(n: usize) -> GaloisElement {
        GaloisElement(2 * n as u32 - 1)
    }

    /// The exponent.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The inverse modulo `2N`: the automorphism that undoes this one.
    pub const fn inverse(self, n: usize) -> GaloisElement {
        let mask = 2 * n as u64 - 1;
        // Newton: each step doubles the number of right bits, and g * g = 1 mod 8 starts with three.
        let g = self.0 as u64;
        let mut inverse = g;
        let mut step = 0;
        while step < 5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(g.wrapping_mul(inverse)));
            step += 1;
        }
        GaloisElement((inverse & mask) as u32)
    }
}

impl fmt::Display for GaloisElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X^{}", self.0)
    }
}

/// An exact scale `2^e * prod q_i^k_i`, where `i` indexes the Q chain of the parameters.
///
/// Equality is equality of exponents: as the `q_i` are distinct odd primes, two scales are equal exactly if the
/// numbers are. Exponents saturate at the `i32` bounds, far beyond any modulus that parameters allow.
///
/// ```
/// use peregrine_ckks::units::Scale;
/// let scale = Scale::pow2(78).div(&Scale::prime(3));
/// assert_eq!(scale.to_string(), "2^78*q3^-1");
/// assert_eq!("2^78*q3^-1".parse(), Ok(scale));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Scale {
    two: i32,
    /// `(prime index, exponent)`, ascending by index, no zero exponent.
    primes: SmallVec<[(u32, i32); 2]>,
}

impl Scale {
    /// The scale 1.
    pub fn one() -> Scale {
        Scale::default()
    }

    /// `2^exponent`.
    pub fn pow2(exponent: i32) -> Scale {
        Scale { two: exponent, primes: SmallVec::new() }
    }

    /// `q_index`.
    pub fn prime(index: u32) -> Scale {
        Scale { two: 0, primes: SmallVec::from_slice(&[(index, 1)]) }
    }

    /// `primes` ascend by index and have no zero exponent.
    pub(crate) fn from_parts(two: i32, primes: &[(u32, i32)]) -> Scale {
        Scale { two, primes: SmallVec::from_slice(primes) }
    }

    /// The exact product.
    #[must_use]
    pub fn mul(&self, other: &Scale) -> Scale {
        self.combine(other, i32::saturating_add)
    }

    /// The exact quotient.
    #[must_use]
    pub fn div(&self, other: &Scale) -> Scale {
        self.combine(other, i32::saturating_sub)
    }

    /// The exact square.
    #[must_use]
    pub fn square(&self) -> Scale {
        self.mul(self)
    }

    fn combine(&self, other: &Scale, op: fn(i32, i32) -> i32) -> Scale {
        let mut primes = SmallVec::new();
        let (mut left, mut right) = (self.primes.iter().peekable(), other.primes.iter().peekable());
        loop {
            let index = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(l), None) => l.0,
                (None, Some(r)) => r.0,
                (Some(l), Some(r)) => l.0.min(r.0),
            };
            let l = left.next_if(|entry| entry.0 == index).map_or(0, |entry| entry.1);
            let r = right.next_if(|entry| entry.0 == index).map_or(0, |entry| entry.1);
            let exponent = op(l, r);
            if exponent != 0 {
                primes.push((index, exponent));
            }
        }
        Scale { two: op(self.two, other.two), primes }
    }

    /// The exponent of two.
    pub fn exponent_of_two(&self) -> i32 {
        self.two
    }

    /// `(index, exponent)` of each prime of the Q chain that divides numerator or denominator, ascending by index.
    pub fn prime_exponents(&self) -> &[(u32, i32)] {
        &self.primes
    }

    /// The largest prime index that occurs, to check a scale against a parameter set.
    pub fn max_prime_index(&self) -> Option<u32> {
        self.primes.last().map(|&(index, _)| index)
    }

    /// Base-two logarithm. NaN if a prime index is not in the chain of `params`.
    pub fn log2(&self, params: &Params) -> f64 {
        self.primes.iter().fold(f64::from(self.two), |sum, &(index, exponent)| {
            let log = params.q().get(index as usize).map_or(f64::NAN, |&q| (q as f64).log2());
            sum + f64::from(exponent) * log
        })
    }

    /// The scale as a float, to about 2^-50 relative. NaN if a prime index is not in the chain of `params`.
    pub fn value(&self, params: &Params) -> f64 {
        // Each prime is taken relative to its nearest power of two, so that no partial product overflows.
        let (mut mantissa, mut two) = (1.0f64, i64::from(self.two));
        for &(index, exponent) in &self.primes {
            let Some(&q) = params.q().get(index as usize) else { return f64::NAN };
            let bits = (q as f64).log2().round() as i32;
            mantissa *= (q as f64 / 2f64.powi(bits)).powi(exponent);
            two += i64::from(bits) * i64::from(exponent);
        }
        mantissa * 2f64.powi(two.clamp(-100_000, 100_000) as i32)
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.two != 0 || self.primes.is_empty() {
            write!(f, "2^{}", self.two)?;
        }
        for (position, &(index, exponent)) in self.primes.iter().enumerate() {
            if self.two != 0 || position > 0 {
                f.write_str("*")?;
            }
            match exponent {
                1 => write!(f, "q{index}")?,
                _ => write!(f, "q{index}^{exponent}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Scale {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Scale, UnitError> {
        let mut scale = Scale::one();
        let mut seen_two = false;
        for term in text.split('*') {
            let error = || UnitError::Scale { text: text.to_owned(), term: term.to_owned() };
            let (base, exponent) = term.split_once('^').unwrap_or((term, "1"));
            let exponent: i32 = exponent.parse().map_err(|_| error())?;
            if base == "2" {
                if std::mem::replace(&mut seen_two, true) {
                    return Err(error());
                }
                scale.two = exponent;
                continue;
            }
            let index: u32 = base.strip_prefix('q').and_then(|i| i.parse().ok()).ok_or_else(error)?;
            if exponent == 0 || scale.primes.iter().any(|entry| entry.0 == index) {
                return Err(error());
            }
            scale.primes.push((index, exponent));
        }
        scale.primes.sort_unstable();
        Ok(scale)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_scale() -> impl Strategy<Value = Scale> {
        (-200i32..200, prop::collection::btree_map(0u32..20, -3i32..4, 0..5)).prop_map(|(two, primes)| {
            let start = Scale::pow2(two);
            primes.into_iter().fold(start, |scale, (index, exponent)| {
                let prime = Scale::prime(index);
                (0..exponent.abs())
                    .fold(scale, |s, _| if exponent > 0 { s.mul(&prime) } else { s.div(&prime) })
            })
        })
    }

    proptest! {
        #[test]
        fn scale_text_round_trips(scale in any_scale()) {
            prop_assert_eq!(scale.to_string().parse::<Scale>(), Ok(scale));
        }

        #[test]
        fn scales_form_an_abelian_group(a in any_scale(), b in any_scale()) {
            prop_assert_eq!(a.mul(&b), b.mul(&a));
            prop_assert_eq!(a.mul(&b).div(&b), a.clone());
            prop_assert_eq!(a.div(&a), Scale::one());
            prop_assert_eq!(a.square(), a.mul(&a));
        }

        #[test]
        fn galois_inverse_inverts(log_n in 3u32..18, value in any::<u32>()) {
            let n = 1usize << log_n;
            let g = GaloisElement::new((value | 1) & (2 * n as u32 - 1)).unwrap();
            let product = u64::from(g.get()) * u64::from(g.inverse(n).get());
            prop_assert_eq!(product & (2 * n as u64 - 1), 1);
        }
    }

    #[test]
    fn malformed_scales_are_rejected() {
        for text in ["", "2^", "2^1*2^2", "q1*q1", "q1^0", "3^2", "q-1", "2^1*", "q1^99999999999", "2^4 "] {
            assert!(matches!(text.parse::<Scale>(), Err(UnitError::Scale { .. })), "{text}");
        }
    }

    #[test]
    fn rotations_reduce_and_compose() {
        let slots = Slots::new(16).unwrap();
        assert_eq!(Rotation::new(-1, slots).get(), 15);
        assert_eq!(Rotation::new(33, slots).get(), 1);
        assert_eq!(GaloisElement::from_rotation(Rotation::new(3, slots), 32).get(), 125 % 64);
        assert!(Slots::new(12).is_err() && Slots::new(0).is_err());
        assert!(GaloisElement::new(4).is_err());
    }
}
