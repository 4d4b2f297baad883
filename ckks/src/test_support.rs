//! What tests of several modules share: a small ring with keys, random slots, precision in bits.

use std::sync::OnceLock;

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::encoder::Encoder;
use crate::encrypt::{decrypt, encrypt_secret};
use crate::evaluator::Evaluator;
use crate::keys::{EvalKeys, KeyGenerator, SecretKey};
use crate::params::{Params, ParamsLiteral, PrimeSpec};
use crate::units::{GaloisElement, Level, Rotation, Scale, Slots};

/// Everything to compute on ciphertexts and look at the result.
pub(crate) struct Fixture {
    pub(crate) ctx: Context,
    pub(crate) generator: KeyGenerator,
    pub(crate) sk: SecretKey,
    pub(crate) keys: EvalKeys,
    pub(crate) encoder: Encoder,
    pub(crate) ev: Evaluator,
    pub(crate) scale: Scale,
}

/// The rotations that fixtures have keys for.
pub(crate) const ROTATIONS: [i64; 4] = [1, 3, -2, 128];

pub(crate) fn literal(log_n: u32, q: &[u32], p: &[u32]) -> ParamsLiteral {
    let bits = |sizes: &[u32]| sizes.iter().map(|&bits| PrimeSpec::Bits(bits)).collect();
    ParamsLiteral { log_n, q: bits(q), p: bits(p) }
}

impl Fixture {
    pub(crate) fn new(params: &Params, scale_bits: i32) -> Fixture {
        let ctx = Context::new(params).unwrap();
        let generator = KeyGenerator::new(&ctx);
        let sk = generator.secret();
        let top = params.max_level();
        let rotations = ROTATIONS.map(|steps| Rotation::new(steps, params.max_slots()));
        let mut wanted: Vec<_> =
            rotations.iter().map(|&r| (GaloisElement::from_rotation(r, ctx.n()), top)).collect();
        wanted.push((GaloisElement::conjugation(ctx.n()), top));
        let mut keys: EvalKeys = generator.galois_set(&sk, &wanted).unwrap().into_iter().collect();
        keys.insert(generator.relin(&sk, top).unwrap());
        let (encoder, ev) = (Encoder::new(&ctx), Evaluator::new(&ctx));
        Fixture { ctx, generator, sk, keys, encoder, ev, scale: Scale::pow2(scale_bits) }
    }

    /// An insecure ring with two digits at the top level.
    pub(crate) fn small() -> &'static Fixture {
        static SMALL: OnceLock<Fixture> = OnceLock::new();
        SMALL.get_or_init(|| {
            let params = literal(11, &[50, 40, 40, 40], &[50, 50]).check_insecure_for_tests().unwrap();
            Fixture::new(&params, 40)
        })
    }

    pub(crate) fn slots(&self) -> Slots {
        self.ctx.params().max_slots()
    }

    pub(crate) fn top(&self) -> Level {
        self.ctx.params().max_level()
    }

    pub(crate) fn rotation(&self, steps: i64) -> Rotation {
        Rotation::new(steps, self.slots())
    }

    pub(crate) fn encrypt_at(&self, values: &[f64], scale: &Scale, level: Level) -> Ciphertext {
        let period = Slots::new(values.len() as u32).unwrap();
        let plaintext = self.encoder.encode(values, period, scale).unwrap();
        encrypt_secret(&self.ctx, &self.sk, &plaintext, level).unwrap().expand(&self.ctx).unwrap()
    }

    pub(crate) fn encrypt(&self, values: &[f64]) -> Ciphertext {
        self.encrypt_at(values, &self.scale, self.top())
    }

    pub(crate) fn decrypt(&self, ct: &Ciphertext, period: Slots) -> Vec<f64> {
        let message = decrypt(&self.ctx, &self.sk, ct).unwrap();
        self.encoder.decode(&message, ct.scale(), period).unwrap()
    }

    /// Decrypts every slot and asserts a minimum precision.
    pub(crate) fn assert_bits(&self, name: &str, ct: &Ciphertext, expected: &[f64], bits: f64) {
        let found = precision_bits(&self.decrypt(ct, self.slots()), expected);
        assert!(found >= bits, "{name}: {found:.1} bits, expected at least {bits}");
    }
}

/// Reproducible values in `[-1, 1]`.
pub(crate) fn random_slots(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The precision of the worst slot: minus the binary logarithm of the largest error.
pub(crate) fn precision_bits(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    -worst.log2()
}

/// Root mean square of the differences.
pub(crate) fn rms(found: &[f64], expected: &[f64]) -> f64 {
    let sum: f64 = found.iter().zip(expected).map(|(x, y)| (x - y) * (x - y)).sum();
    (sum / found.len() as f64).sqrt()
}
