//! The noise model: root mean square of the real-part slot error of each operation, in units of slot value times
//! scale, for a uniform ternary secret.
//!
//! An error polynomial with independent coefficients of variance `v` gives slots whose real part has variance
//! `v * N/2`. The rounding of a rescale adds `tau_0 + tau_1*s` with `tau` uniform in `[-1/2, 1/2]`: variance
//! `(1 + 2N/3)/12`. Public-key encryption adds `v*e + e_0 + e_1*s` with ternary `v`: variance `sigma^2 (1 + 4N/3)`.

use std::f64::consts::TAU;

use crate::bootstrap::{Arcsine, BootstrapSpec};
use crate::params::Params;
use crate::ring::sampler::SIGMA;
use crate::units::Level;

fn slot_rms(coefficient_variance: f64, coefficients: f64) -> f64 {
    (coefficient_variance * coefficients / 2.0).sqrt()
}

/// Error of one rescale (or of the division by `P` that ends a key switch) in a ring of degree `n`.
pub fn rescale_rms(n: usize) -> f64 {
    let n = n as f64;
    slot_rms((1.0 + n * 2.0 / 3.0) / 12.0, n)
}

/// Error of a fresh secret-key encryption in a ring of degree `n`.
pub fn encrypt_secret_rms(n: usize) -> f64 {
    slot_rms(SIGMA * SIGMA, n as f64)
}

/// Error of a fresh public-key encryption in a ring of degree `n`.
pub fn encrypt_public_rms(n: usize) -> f64 {
    let n = n as f64;
    slot_rms(SIGMA * SIGMA * (1.0 + n * 4.0 / 3.0), n)
}

/// Error of rounding a plaintext with `n_sub = 2 * period` integer coefficients.
pub fn plaintext_rounding_rms(n_sub: usize) -> f64 {
    slot_rms(1.0 / 12.0, n_sub as f64)
}

/// Error of one key switch (rotation, conjugation, relinearisation) at a level: each digit, uniform in `[-D/2, D/2]` for
/// a digit modulus `D`, meets an error polynomial of the key and is divided by `P`; then that division rounds.
pub fn key_switch_rms(params: &Params, level: Level) -> f64 {
    let log2_product = |primes: &[u64]| primes.iter().map(|&prime| (prime as f64).log2()).sum::<f64>();
    let log2_p = log2_product(params.p());
    let limbs = level.min(params.max_level()).limbs();
    let digits = params.q()[..limbs].chunks(params.alpha());
    let ratios: f64 = digits.map(|digit| (2.0 * (log2_product(digit) - log2_p)).exp2()).sum();
    let n = params.n();
    let products = slot_rms(n as f64 * SIGMA * SIGMA * ratios / 12.0, n as f64);
    products.hypot(rescale_rms(n))
}

/// Error of a bootstrap in units of the message (not of a scale), for slots of magnitude at most 1: what the presets show
/// (20.5 bits on average, 16.5 in the worst of all slots; the tail is heavier than a Gaussian's, so this is more than the root mean
/// square).
pub fn bootstrap_rms() -> f64 {
    2f64.powi(-19)
}

/// What a bootstrap without error makes of the slot `x`: the sine instead of the identity, which tells beyond magnitude 1.
pub fn bootstrap_distortion(x: f64, spec: &BootstrapSpec) -> f64 {
    if spec.eval_mod.arcsine != Arcsine::None {
        return x;
    }
    let angle = TAU / f64::from(spec.ratio_bits).exp2();
    (angle * x).sin() / angle
}
