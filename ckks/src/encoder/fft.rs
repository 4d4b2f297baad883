//! The special FFT: values of a real polynomial at the roots of unity whose exponents are powers of five.
//!
//! Cheon, Kim, Kim and Song (eprint 2016/421) pack `p` complex slots in a real polynomial `m` of degree below `2p`:
//! `z_j = m(zeta^(5^j))`, `zeta = exp(i*pi/(2p))`. As `zeta^(5^j * p) = i`, pairing the coefficients `k` and `k + p` as
//! `m_k + i*m_(k+p)` leaves a transform of size `p`.

use std::f64::consts::TAU;

/// A complex number.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Complex {
    /// The real part.
    pub re: f64,
    /// The imaginary part.
    pub im: f64,
}

impl Complex {
    pub(crate) const ONE: Complex = Complex { re: 1.0, im: 0.0 };

    pub(crate) fn scale(self, factor: f64) -> Complex {
        Complex { re: self.re * factor, im: self.im * factor }
    }

    pub(crate) fn add(self, other: Complex) -> Complex {
        Complex { re: self.re + other.re, im: self.im + other.im }
    }

    fn sub(self, other: Complex) -> Complex {
        Complex { re: self.re - other.re, im: self.im - other.im }
    }

    pub(crate) fn mul(self, other: Complex) -> Complex {
        Complex { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }

    pub(crate) fn conj(self) -> Complex {
        Complex { re: self.re, im: -self.im }
    }
}

/// Twiddle factors for one number of slots.
#[derive(Debug)]
pub(crate) struct SpecialFft {
    size: usize,
    /// For stage `s` (butterflies of length `2^(s+1)`): `exp(2*pi*i * 5^j / 2^(s+3))`, `j < 2^s`, one stage after the other.
    twiddles: Vec<Complex>,
}

impl SpecialFft {
    /// `size` is a power of two.
    pub(crate) fn new(size: usize) -> SpecialFft {
        let mut twiddles = Vec::with_capacity(size);
        for stage in 0..size.trailing_zeros() {
            let order = 1u64 << (stage + 3);
            let mut power = 1u64;
            for _ in 0..1u64 << stage {
                let angle = TAU * power as f64 / order as f64;
                twiddles.push(Complex { re: angle.cos(), im: angle.sin() });
                power = power * 5 % order;
            }
        }
        SpecialFft { size, twiddles }
    }

    /// The number of slots.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The `half` twiddles of the butterflies of half length `half`.
    pub(crate) fn stage(&self, half: usize) -> &[Complex] {
        &self.twiddles[half - 1..2 * half - 1]
    }

    /// Paired coefficients to slot values, in place.
    pub(crate) fn forward(&self, values: &mut [Complex]) {
        bit_reverse(values);
        let mut half = 1;
        while half < self.size {
            let twiddles = self.stage(half);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((u, v), &w) in low.iter_mut().zip(high).zip(twiddles) {
                    let t = v.mul(w);
                    (*u, *v) = (u.add(t), u.sub(t));
                }
            }
            half *= 2;
        }
    }

    /// Slot values to paired coefficients, in place.
    pub(crate) fn inverse(&self, values: &mut [Complex]) {
        let mut half = self.size / 2;
        while half > 0 {
            let twiddles = self.stage(half);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((u, v), &w) in low.iter_mut().zip(high).zip(twiddles) {
                    (*u, *v) = (u.add(*v), u.sub(*v).mul(w.conj()));
                }
            }
            half /= 2;
        }
        bit_reverse(values);
        let scale = 1.0 / self.size as f64;
        for value in values {
            *value = Complex { re: value.re * scale, im: value.im * scale };
        }
    }
}

fn bit_reverse(values: &mut [Complex]) {
    let bits = values.len().trailing_zeros();
    if bits == 0 {
        return;
    }
    for i in 0..values.len() {
        let j = i.reverse_bits() >> (usize::BITS - bits);
        if i < j {
            values.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `m(zeta^(5^j))` by Horner's rule.
    fn evaluate(coefficients: &[f64], j: u32) -> Complex {
        let order = 2 * coefficients.len() as u64;
        let exponent = (0..j).fold(1u64, |power, _| power * 5 % order);
        let angle = TAU * exponent as f64 / order as f64;
        let point = Complex { re: angle.cos(), im: angle.sin() };
        let horner = |sum: Complex, &c: &f64| sum.mul(point).add(Complex { re: c, im: 0.0 });
        coefficients.iter().rev().fold(Complex::default(), horner)
    }

    #[test]
    fn forward_evaluates_and_inverse_interpolates() {
        for log in 0..8 {
            let size = 1usize << log;
            let m: Vec<f64> = (0..2 * size).map(|k| ((k * k + 3 * k) % 17) as f64 - 8.0).collect();
            let paired: Vec<Complex> = (0..size).map(|k| Complex { re: m[k], im: m[k + size] }).collect();
            let fft = SpecialFft::new(size);
            let mut values = paired.clone();
            fft.forward(&mut values);
            for (j, value) in values.iter().enumerate() {
                let expected = evaluate(&m, j as u32);
                assert!(
                    (value.re - expected.re).abs() + (value.im - expected.im).abs() < 1e-10,
                    "{size} {j}"
                );
            }
            fft.inverse(&mut values);
            for (value, expected) in values.iter().zip(&paired) {
                assert!((value.re - expected.re).abs() + (value.im - expected.im).abs() < 1e-12);
            }
        }
    }
}
