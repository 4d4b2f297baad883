//! Precision of every operation: the worst slot in bits, asserted.

use proptest::prelude::*;

use super::*;
use crate::encrypt::encrypt_public;
use crate::keys::EvalKeys;
use crate::noise;
use crate::plaintext::IntPlaintext;
use crate::test_support::{Fixture, ROTATIONS, literal, random_slots, rms};
use crate::units::{GaloisElement, Rotation, Slots};

/// Two encrypted random vectors, at the top level of the small ring.
struct Pair {
    f: &'static Fixture,
    x: Vec<f64>,
    y: Vec<f64>,
    cx: Ciphertext,
    cy: Ciphertext,
}

impl Pair {
    fn new() -> Pair {
        let f = Fixture::small();
        let (x, y) = (random_slots(1024, 1), random_slots(1024, 2));
        let (cx, cy) = (f.encrypt(&x), f.encrypt(&y));
        Pair { f, x, y, cx, cy }
    }

    fn map(&self, op: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        self.x.iter().zip(&self.y).map(|(&x, &y)| op(x, y)).collect()
    }

    fn plain(&self, scale: &Scale) -> IntPlaintext {
        self.f.encoder.encode(&self.y, self.f.slots(), scale).unwrap()
    }
}

fn rotated(x: &[f64], steps: i64) -> Vec<f64> {
    let n = x.len() as i64;
    (0..n).map(|i| x[(i + steps).rem_euclid(n) as usize]).collect()
}

#[test]
fn fresh_encryptions() {
    let Pair { f, x, cx, .. } = Pair::new();
    f.assert_bits("secret key", &cx, &x, 29.5);
    let pk = f.generator.public(&f.sk).unwrap();
    let plaintext = f.encoder.encode(&x, f.slots(), &f.scale).unwrap();
    for level in [Level(0), f.top()] {
        let ct = encrypt_public(&f.ctx, &pk, &plaintext, level).unwrap();
        assert_eq!((ct.level(), ct.scale()), (level, &f.scale));
        f.assert_bits("public key", &ct, &x, 24.5);
    }
}

#[test]
fn additions() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    f.assert_bits("add", &ev.add(&p.cx, &p.cy).unwrap(), &p.map(|x, y| x + y), 29.0);
    f.assert_bits("sub", &ev.sub(&p.cx, &p.cy).unwrap(), &p.map(|x, y| x - y), 29.0);
    f.assert_bits("negate", &ev.negate(&p.cx).unwrap(), &p.map(|x, _| -x), 29.5);
    let plain = p.plain(&f.scale);
    f.assert_bits("add_plain", &ev.add_plain(&p.cx, &plain).unwrap(), &p.map(|x, y| x + y), 29.5);
    f.assert_bits("sub_plain", &ev.sub_plain(&p.cx, &plain).unwrap(), &p.map(|x, y| x - y), 29.5);
    f.assert_bits("add_scalar", &ev.add_scalar(&p.cx, -0.7).unwrap(), &p.map(|x, _| x - 0.7), 29.5);
}

#[test]
fn products_with_plaintexts_and_scalars() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    let product = ev.mul_plain(&p.cx, &p.plain(&Scale::pow2(30))).unwrap();
    assert_eq!(product.scale(), &Scale::pow2(70));
    f.assert_bits("mul_plain", &product, &p.map(|x, y| x * y), 21.0);
    let product = ev.mul_plain(&p.cx, &p.plain(&f.scale)).unwrap();
    f.assert_bits("mul_plain at full scale", &product, &p.map(|x, y| x * y), 28.0);
    let product = ev.mul_scalar_int(&p.cx, -5).unwrap();
    assert_eq!(product.scale(), &f.scale);
    f.assert_bits("mul_scalar_int", &product, &p.map(|x, _| -5.0 * x), 27.0);
    let product = ev.mul_scalar(&p.cx, 0.123, &Scale::prime(3)).unwrap();
    assert_eq!(product.scale(), &Scale::pow2(40).mul(&Scale::prime(3)));
    f.assert_bits("mul_scalar", &product, &p.map(|x, _| 0.123 * x), 29.5);
    let sum = ev.add_scalar(&product, 3.5).unwrap();
    f.assert_bits("add_scalar at 80 bits", &sum, &p.map(|x, _| 0.123 * x + 3.5), 29.5);
    let bias = f.encoder.encode(&p.y, f.slots(), product.scale()).unwrap();
    let sum = ev.add_plain(&product, &bias).unwrap();
    f.assert_bits("add_plain at 80 bits", &sum, &p.map(|x, y| 0.123 * x + y), 29.5);
}

#[test]
fn products_of_ciphertexts() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    let product = ev.mul_relin(&p.cx, &p.cy, &f.keys).unwrap();
    assert_eq!(product.scale(), &Scale::pow2(80));
    f.assert_bits("mul_relin", &product, &p.map(|x, y| x * y), 28.5);
    f.assert_bits("square_relin", &ev.square_relin(&p.cx, &f.keys).unwrap(), &p.map(|x, _| x * x), 28.0);
    let sum = ev.add_products(&ev.square(&p.cx).unwrap(), &ev.mul(&p.cx, &p.cy).unwrap()).unwrap();
    let sum = ev.relinearize(&sum, &f.keys).unwrap();
    f.assert_bits("one relinearisation of a sum", &sum, &p.map(|x, y| x * x + x * y), 27.5);
}

#[test]
fn relinearisation_and_rescale_in_one_step() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    let merged = ev.mul_relin_rescale(&p.cx, &p.cy, &f.keys).unwrap();
    assert_eq!((merged.level(), merged.scale()), (Level(2), &Scale::pow2(80).div(&Scale::prime(3))));
    f.assert_bits("mul_relin_rescale", &merged, &p.map(|x, y| x * y), 28.0);
    let square = ev.square_relin_rescale(&p.cx, &f.keys).unwrap();
    assert_eq!(square.level(), Level(2));
    f.assert_bits("square_relin_rescale", &square, &p.map(|x, _| x * x), 27.5);
    let mut sum = ev.mul(&p.cx, &p.cy).unwrap();
    ev.double_product(&mut sum).unwrap();
    ev.add_scalar_to_product(&mut sum, -0.25).unwrap();
    let factor = Scale::pow2(40);
    ev.add_to_product(&mut sum, &ev.mul_scalar(&p.cx, 1.0, &factor).unwrap()).unwrap();
    ev.sub_from_product(&mut sum, &ev.mul_scalar(&p.cy, 3.0, &factor).unwrap()).unwrap();
    let sum = ev.relinearize_rescale(&sum, &f.keys).unwrap();
    f.assert_bits("a sum with a product", &sum, &p.map(|x, y| 2.0 * x * y - 0.25 + x - 3.0 * y), 26.5);
    let bottom = ev.drop_to(&p.cx, Level(0)).unwrap();
    let refused = ev.square_relin_rescale(&bottom, &f.keys).unwrap_err();
    assert!(matches!(refused, Error::NoLevelLeft { .. }), "{refused}");
}

#[test]
fn rescale_divides_by_the_prime_exactly() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    let product = ev.mul_relin(&p.cx, &p.cy, &f.keys).unwrap();
    let rescaled = ev.rescale(&product).unwrap();
    assert_eq!(rescaled.level(), Level(2));
    assert_eq!(rescaled.scale(), &Scale::pow2(80).div(&Scale::prime(3)));
    f.assert_bits("rescale", &rescaled, &p.map(|x, y| x * y), 28.0);
    let deep = ev.mul_relin(&rescaled, &ev.drop_to(&p.cx, Level(2)).unwrap(), &f.keys).unwrap();
    let deep = ev.rescale(&ev.rescale(&deep).unwrap()).unwrap();
    assert_eq!(deep.level(), Level(0));
    assert_eq!(deep.scale().to_string(), "2^120*q1^-1*q2^-1*q3^-1");
}

#[test]
fn dropping_limbs_changes_nothing_else() {
    let p = Pair::new();
    let f = p.f;
    for level in (0..=3).map(Level) {
        let dropped = f.ev.drop_to(&p.cx, level).unwrap();
        assert_eq!((dropped.level(), dropped.scale()), (level, &f.scale));
        f.assert_bits("drop", &dropped, &p.x, 29.5);
    }
}

#[test]
fn rotations_and_conjugation() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    let rotations = ROTATIONS.map(|steps| f.rotation(steps));
    let hoisted = ev.rotate_hoisted(&p.cx, &rotations, &f.keys).unwrap();
    for ((steps, rotation), hoisted) in ROTATIONS.into_iter().zip(rotations).zip(&hoisted) {
        let expected = rotated(&p.x, steps);
        f.assert_bits("rotate", &ev.rotate(&p.cx, rotation, &f.keys).unwrap(), &expected, 28.0);
        f.assert_bits("rotate_hoisted", hoisted, &expected, 28.0);
    }
    let identity = ev.rotate_hoisted(&p.cx, &[Rotation::ZERO], &EvalKeys::new()).unwrap();
    assert_eq!(identity, vec![p.cx.clone()]);
    assert_eq!(ev.rotate(&p.cx, Rotation::ZERO, &EvalKeys::new()).unwrap(), p.cx);
    f.assert_bits("conjugate", &ev.conjugate(&p.cx, &f.keys).unwrap(), &p.x, 28.0);
}

#[test]
fn keys_of_the_top_level_serve_every_level() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    for level in (0..=3).map(Level) {
        let low = ev.drop_to(&p.cx, level).unwrap();
        let turned = ev.rotate(&low, f.rotation(3), &f.keys).unwrap();
        f.assert_bits("rotate below the level of the key", &turned, &rotated(&p.x, 3), 28.0);
        let x = f.encrypt_at(&p.x, &Scale::pow2(22), level);
        let square = ev.square_relin(&x, &f.keys).unwrap();
        f.assert_bits("square below the level of the key", &square, &p.map(|x, _| x * x), 10.5);
    }
}

#[test]
fn sparse_vectors_rotate_within_their_period() {
    let f = Fixture::small();
    let period = Slots::new(16).unwrap();
    let x = random_slots(16, 6);
    let turned = f.ev.rotate(&f.encrypt(&x), f.rotation(3), &f.keys).unwrap();
    let bits = crate::test_support::precision_bits(&f.decrypt(&turned, period), &rotated(&x, 3));
    assert!(bits > 28.0, "{bits}");
}

#[test]
fn a_secure_ring_computes_a_polynomial() {
    let params = literal(14, &[50, 40, 40, 40, 40], &[50, 50]).check().unwrap();
    let f = Fixture::new(&params, 40);
    let x = random_slots(8192, 8);
    let cx = f.encrypt(&x);
    f.assert_bits("fresh at 2^14", &cx, &x, 28.0);
    let square = f.ev.rescale(&f.ev.square_relin(&cx, &f.keys).unwrap()).unwrap();
    let fourth = f.ev.rescale(&f.ev.square_relin(&square, &f.keys).unwrap()).unwrap();
    let turned = f.ev.rotate(&fourth, f.rotation(128), &f.keys).unwrap();
    let expected: Vec<f64> = rotated(&x, 128).iter().map(|x| x.powi(4)).collect();
    f.assert_bits("rotated fourth power at 2^14", &turned, &expected, 24.0);
    let pk = f.generator.public(&f.sk).unwrap();
    let plaintext = f.encoder.encode(&x, f.slots(), &f.scale).unwrap();
    f.assert_bits("public at 2^14", &encrypt_public(&f.ctx, &pk, &plaintext, f.top()).unwrap(), &x, 21.5);
}

#[test]
fn noise_is_as_modelled() {
    let f = Fixture::small();
    let n = f.ctx.n();
    let x = random_slots(1024, 12);
    let unit = 2f64.powi(40);
    let within_a_bit = |name: &str, ct: &Ciphertext, unit: f64, model: f64| {
        let found = rms(&f.decrypt(ct, f.slots()), &x) * unit;
        assert!((found / model).log2().abs() < 1.0, "{name}: measured {found}, modelled {model}");
    };
    within_a_bit("secret", &f.encrypt(&x), unit, noise::encrypt_secret_rms(n));
    let pk = f.generator.public(&f.sk).unwrap();
    let plaintext = f.encoder.encode(&x, f.slots(), &f.scale).unwrap();
    let public = encrypt_public(&f.ctx, &pk, &plaintext, f.top()).unwrap();
    within_a_bit("public", &public, unit, noise::encrypt_public_rms(n));
    let high = f.encrypt_at(&x, &Scale::pow2(80), f.top());
    within_a_bit("rescale", &f.ev.rescale(&high).unwrap(), unit, noise::rescale_rms(n));
    let turned = f.ev.rotate(&f.encrypt(&rotated(&x, -3)), f.rotation(3), &f.keys).unwrap();
    within_a_bit("rotate", &turned, unit, noise::encrypt_secret_rms(n).hypot(noise::rescale_rms(n)));
}

#[test]
fn key_switch_noise_is_as_modelled() {
    let x = random_slots(1024, 13);
    for p in [34, 50] {
        let params = literal(11, &[50, 40, 40, 40], &[p, p]).check_insecure_for_tests().unwrap();
        let f = Fixture::new(&params, 60);
        for level in [Level(0), Level(1), Level(3)] {
            let ct = f.ev.drop_to(&f.encrypt(&rotated(&x, -3)), level).unwrap();
            let ct = Ciphertext { scale: Scale::pow2(if level.0 == 0 { 40 } else { 60 }), ..ct };
            let before = f.decrypt(&ct, f.slots());
            let turned = f.decrypt(&f.ev.rotate(&ct, f.rotation(3), &f.keys).unwrap(), f.slots());
            let found = rms(&turned, &rotated(&before, 3)) * ct.scale().value(&params);
            let model = noise::key_switch_rms(&params, level);
            assert!((found / model).log2().abs() < 1.0, "P {p}, level {level}: {found} against {model}");
        }
    }
}

#[test]
fn every_instruction_set_computes_the_same_bits() {
    let p = Pair::new();
    let f = p.f;
    for kernels in crate::kernels::Kernels::available() {
        let ctx = Context::with_kernels(f.ctx.params(), kernels).unwrap();
        let ev = Evaluator::new(&ctx);
        let results = |ev: &Evaluator| {
            let product = ev.mul_relin(&p.cx, &p.cy, &f.keys).unwrap();
            let turned = ev.rotate(&p.cx, f.rotation(-2), &f.keys).unwrap();
            let hoisted = ev.rotate_hoisted(&p.cx, &[f.rotation(-2)], &f.keys).unwrap().remove(0);
            [ev.rescale(&product).unwrap(), turned, hoisted, ev.mul_plain(&p.cx, &p.plain(&f.scale)).unwrap()]
        };
        assert_eq!(results(&ev), results(&f.ev), "{kernels:?}");
    }
}

/// One step of a random program.
#[derive(Debug, Clone, Copy)]
enum Step {
    Add,
    Subtract,
    Rotate,
    Conjugate,
    Double,
    Shift,
    Multiply,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn random_programs_agree_with_the_clear(
        steps in prop::collection::vec(
            prop::sample::select(vec![
                Step::Add, Step::Subtract, Step::Rotate, Step::Conjugate, Step::Double, Step::Shift, Step::Multiply,
            ]), 1..8),
        seed in any::<u64>(),
    ) {
        let f = Fixture::small();
        let ev = &f.ev;
        let other = random_slots(1024, seed | 1);
        let mut clear = random_slots(1024, seed.wrapping_add(99));
        let mut ct = f.encrypt(&clear);
        for step in steps {
            let with = f.encrypt_at(&other, &ct.scale, ct.level);
            let zip = |op: fn(f64, f64) -> f64| clear.iter().zip(&other).map(|(&a, &b)| op(a, b)).collect();
            (ct, clear) = match step {
                Step::Add => (ev.add(&ct, &with).unwrap(), zip(|a, b| a + b)),
                Step::Subtract => (ev.sub(&ct, &with).unwrap(), zip(|a, b| a - b)),
                Step::Rotate => (ev.rotate(&ct, f.rotation(3), &f.keys).unwrap(), rotated(&clear, 3)),
                Step::Conjugate => (ev.conjugate(&ct, &f.keys).unwrap(), clear),
                Step::Double => (ev.mul_scalar_int(&ct, 2).unwrap(), zip(|a, _| 2.0 * a)),
                Step::Shift => (ev.add_scalar(&ct, -0.25).unwrap(), zip(|a, _| a - 0.25)),
                Step::Multiply if ct.level.0 > 1 => {
                    let product = ev.rescale(&ev.mul_relin(&ct, &with, &f.keys).unwrap()).unwrap();
                    (product, zip(|a, b| a * b))
                }
                Step::Multiply => (ct, clear),
            };
        }
        f.assert_bits("random program", &ct, &clear, 17.0);
    }
}

#[test]
fn mismatches_name_the_operation_and_both_values() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    let low = ev.drop_to(&p.cx, Level(1)).unwrap();
    let error = ev.add(&p.cx, &low).unwrap_err();
    assert!(matches!(error, Error::LevelMismatch { op: "add", left: Level(3), right: Level(1) }), "{error}");
    assert!(matches!(ev.mul(&low, &p.cx), Err(Error::LevelMismatch { op: "mul", .. })));
    let other = f.encrypt_at(&p.x, &Scale::pow2(41), f.top());
    let text = ev.sub(&p.cx, &other).unwrap_err().to_string();
    assert!(text.contains("sub") && text.contains("2^40") && text.contains("2^41"), "{text}");
    let almost = f.encrypt_at(&p.x, &Scale::prime(3), f.top());
    assert!(matches!(ev.add(&p.cx, &almost), Err(Error::ScaleMismatch { .. })));
    let plain = p.plain(&Scale::pow2(39));
    assert!(matches!(ev.add_plain(&p.cx, &plain), Err(Error::ScaleMismatch { .. })));
    assert!(matches!(ev.drop_to(&low, Level(2)), Err(Error::LevelOutOfRange { .. })));
    let bottom = ev.drop_to(&p.cx, Level(0)).unwrap();
    assert!(matches!(ev.rescale(&bottom), Err(Error::NoLevelLeft { op: "rescale", level: Level(0) })));
    assert!(matches!(ev.add_scalar(&p.cx, f64::INFINITY), Err(Error::NotFinite { .. })));
    assert!(matches!(ev.mul_scalar(&p.cx, 1.0, &Scale::prime(7)), Err(Error::ForeignScale { .. })));
}

#[test]
fn missing_keys_are_named() {
    let p = Pair::new();
    let (f, ev) = (p.f, &p.f.ev);
    let element = GaloisElement::from_rotation(f.rotation(7), f.ctx.n());
    let error = ev.rotate(&p.cx, f.rotation(7), &f.keys).unwrap_err();
    assert!(
        matches!(error, Error::MissingKey { element: e, available: None, .. } if e == element),
        "{error}"
    );
    let mut low: EvalKeys = [f.generator.galois(&f.sk, element, Level(1)).unwrap()].into_iter().collect();
    low.insert(f.generator.relin(&f.sk, Level(0)).unwrap());
    let error = ev.rotate_hoisted(&p.cx, &[f.rotation(7)], &low).unwrap_err();
    assert!(matches!(error, Error::MissingKey { level: Level(3), available: Some(Level(1)), .. }), "{error}");
    let error = ev.square_relin(&p.cx, &low).unwrap_err();
    assert!(matches!(error, Error::MissingRelinKey { available: Some(Level(0)), .. }), "{error}");
    assert!(matches!(ev.conjugate(&p.cx, &low), Err(Error::MissingKey { .. })));
    let dropped = ev.drop_to(&p.cx, Level(1)).unwrap();
    let turned = ev.rotate(&dropped, f.rotation(7), &low).unwrap();
    f.assert_bits("rotate with a key of level 1", &turned, &rotated(&p.x, 7), 28.0);
}

#[test]
fn foreign_ciphertexts_are_refused() {
    let p = Pair::new();
    let params = literal(10, &[50, 40], &[50]).check_insecure_for_tests().unwrap();
    let other = Evaluator::new(&Context::new(&params).unwrap());
    assert!(matches!(other.add(&p.cx, &p.cx), Err(Error::LevelOutOfRange { .. })));
    let low = p.f.ev.drop_to(&p.cx, Level(1)).unwrap();
    assert!(matches!(other.rescale(&low), Err(Error::Shape { what: "ring degree", .. })));
    assert!(matches!(other.rotate(&low, p.f.rotation(1), &p.f.keys), Err(Error::Shape { .. })));
    assert!(matches!(other.square(&low), Err(Error::Shape { .. })));
}
