use num_bigint::BigInt;
use proptest::prelude::*;

use super::*;
use crate::ring::sampler::{Purpose, SecretSeed};
use crate::test_support::{Fixture, literal, precision_bits, random_slots, rms};
use crate::units::Level;

fn decode_of(fixture: &Fixture, plaintext: &IntPlaintext, level: Level, period: Slots) -> Vec<f64> {
    let poly = fixture.encoder.encode_ntt(plaintext, Basis::Q(level)).unwrap();
    let poly = fixture.ctx.inverse(poly);
    fixture.encoder.decode(&poly, plaintext.scale(), period).unwrap()
}

#[test]
fn every_period_round_trips_and_repeats() {
    let fixture = Fixture::small();
    for log in 0..=fixture.slots().log2() {
        let period = Slots::new(1 << log).unwrap();
        let values = random_slots(1 << log, u64::from(log) + 1);
        let plaintext = fixture.encoder.encode(&values, period, &Scale::pow2(40)).unwrap();
        let repeated: Vec<f64> =
            values.iter().copied().cycle().take(fixture.slots().get() as usize).collect();
        for level in [Level(0), fixture.top()] {
            let bits = precision_bits(&decode_of(fixture, &plaintext, level, period), &values);
            assert!(bits > 32.0, "period {period}: {bits}");
            let bits = precision_bits(&decode_of(fixture, &plaintext, level, fixture.slots()), &repeated);
            assert!(bits > 32.0, "all slots of period {period}: {bits}");
        }
    }
}

#[test]
fn precision_follows_the_scale_up_to_that_of_floats() {
    let fixture = Fixture::small();
    let values = random_slots(1024, 3);
    for (scale, bits) in [(20, 13.0), (30, 23.0), (56, 44.0), (78, 44.0), (100, 44.0)] {
        let plaintext = fixture.encoder.encode(&values, fixture.slots(), &Scale::pow2(scale)).unwrap();
        let found = precision_bits(&decode_of(fixture, &plaintext, fixture.top(), fixture.slots()), &values);
        assert!(found > bits, "scale 2^{scale}: {found}");
    }
}

#[test]
fn scales_with_primes_are_exact() {
    let fixture = Fixture::small();
    let values = random_slots(64, 9);
    let scale = Scale::pow2(70).div(&Scale::prime(2)).mul(&Scale::prime(1)).div(&Scale::prime(3));
    let plaintext = fixture.encoder.encode(&values, Slots::new(64).unwrap(), &scale).unwrap();
    let found = decode_of(fixture, &plaintext, fixture.top(), Slots::new(64).unwrap());
    assert!(precision_bits(&found, &values) > 22.0);
}

#[test]
fn sparse_plaintexts_are_compact_and_narrow() {
    let fixture = Fixture::small();
    let period = Slots::new(16).unwrap();
    let small = fixture.encoder.encode(&random_slots(16, 1), period, &Scale::pow2(22)).unwrap();
    assert!(matches!(small.stored(), Coefficients::I32(_)));
    assert_eq!((small.bytes(), small.shift()), (16 * 4, 0));
    let wide = fixture.encoder.encode(&random_slots(16, 1), period, &Scale::pow2(50)).unwrap();
    assert!(matches!(wide.stored(), Coefficients::I64(_)));
    let huge = fixture.encoder.encode(&[1.0], Slots::new(1).unwrap(), &Scale::pow2(90)).unwrap();
    assert_eq!((huge.coefficient(0), huge.shift()), (1 << 61, 29));
}

#[test]
fn expansion_over_special_primes_matches_a_full_transform() {
    let fixture = Fixture::small();
    let (ctx, n) = (&fixture.ctx, fixture.ctx.n());
    let period = Slots::new(32).unwrap();
    let plaintext = fixture.encoder.encode(&random_slots(32, 5), period, &Scale::pow2(45)).unwrap();
    let expanded = fixture.encoder.encode_ntt(&plaintext, Basis::Qp(Level(1))).unwrap();
    assert_eq!((expanded.q_limbs(), expanded.p_limbs()), (2, 2));
    for (i, limb) in expanded.limbs().enumerate() {
        let table = ctx.table(2, i);
        let mut full = vec![0; n];
        for k in 0..64 {
            full[k * n / 64] = table.modulus().reduce_signed(plaintext.coefficient(k));
        }
        table.forward(&mut full);
        assert_eq!(limb, full);
    }
}

#[test]
fn the_rounding_error_is_as_modelled() {
    let fixture = Fixture::small();
    for log in [4, 10] {
        let period = Slots::new(1 << log).unwrap();
        let values = random_slots(1 << log, 77);
        let scale = Scale::pow2(20);
        let plaintext = fixture.encoder.encode(&values, period, &scale).unwrap();
        let found = rms(&decode_of(fixture, &plaintext, Level(0), period), &values) * 2f64.powi(20);
        let model = crate::noise::plaintext_rounding_rms(2 << log);
        assert!((found / model).log2().abs() < 1.0, "{found} against {model}");
    }
}

#[test]
fn bad_input_is_refused() {
    let fixture = Fixture::small();
    let encoder = &fixture.encoder;
    let slots = Slots::new(4).unwrap();
    let scale = Scale::pow2(30);
    let bad = encoder.encode(&[1.0; 3], slots, &scale);
    assert!(matches!(bad, Err(Error::SlotCount { values: 3, .. })));
    let bad = encoder.encode(&[0.0, f64::NAN, 0.0, 0.0], slots, &scale);
    assert!(matches!(bad, Err(Error::NotFinite { slot: 1, .. })));
    let bad = encoder.encode(&[1e300; 4], slots, &scale);
    assert!(matches!(bad, Err(Error::CoefficientTooLarge { .. })));
    let bad = encoder.encode(&[1e308; 4], slots, &Scale::pow2(900));
    assert!(matches!(bad, Err(Error::CoefficientTooLarge { .. })), "{bad:?}");
    let bad = encoder.encode(&[1.0; 4], slots, &Scale::prime(9));
    assert!(matches!(bad, Err(Error::ForeignScale { .. })));
    let bad = encoder.encode(&[1.0; 4], slots, &Scale::pow2(5000));
    assert!(matches!(bad, Err(Error::ForeignScale { .. })));
    let bad = encoder.encode(&vec![0.0; 2048], Slots::new(2048).unwrap(), &scale);
    assert!(matches!(bad, Err(Error::TooManySlots { .. })));
    let plaintext = encoder.encode(&[1.0; 4], slots, &scale).unwrap();
    let bad = encoder.encode_ntt(&plaintext, Basis::Q(Level(4)));
    assert!(matches!(bad, Err(Error::LevelOutOfRange { .. })));
    let foreign: RnsPoly<Coeff> = RnsPoly::zero(1024, 1, 0);
    assert!(matches!(encoder.decode(&foreign, &scale, slots), Err(Error::Shape { .. })));
    let empty: RnsPoly<Coeff> = RnsPoly::zero(2048, 0, 0);
    assert!(matches!(encoder.decode(&empty, &scale, slots), Err(Error::Shape { .. })));
}

#[test]
fn lifting_agrees_with_big_integers() {
    let params = literal(4, &[50, 28, 40, 33], &[50]).check_insecure_for_tests().unwrap();
    let ctx = Context::new(&params).unwrap();
    let modulus: BigInt = params.q().iter().map(|&q| BigInt::from(q)).product();
    let mut stream = SecretSeed::from_bytes([3; 32]).stream(Purpose::Error, &[]);
    let half: BigInt = &modulus / 2;
    let mut values: Vec<BigInt> = vec![0.into(), 1.into(), (-1).into(), half.clone(), -half];
    while values.len() < 16 {
        let bits = 10 * values.len() as u64;
        let wide = BigInt::from(stream.next_word()) << 64 | BigInt::from(stream.next_word());
        values.push((wide % (BigInt::from(1) << bits)) - (BigInt::from(1) << (bits - 1)));
    }
    let mut poly: RnsPoly<Coeff> = RnsPoly::zero(16, 4, 0);
    for (i, &q) in params.q().iter().enumerate() {
        for (k, value) in values.iter().enumerate() {
            let residue = ((value % q) + q) % q;
            poly.limb_mut(i)[k] = u64::try_from(residue).unwrap();
        }
    }
    for (value, lifted) in values.iter().zip(lift::lift(&ctx, &poly, 1)) {
        let exact: f64 = value.to_string().parse().unwrap();
        assert!((lifted - exact).abs() <= exact.abs() * 1e-15, "{lifted} against {exact}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn encoding_is_additive(a in prop::collection::vec(-100.0f64..100.0, 8), b in prop::collection::vec(-100.0f64..100.0, 8)) {
        let fixture = Fixture::small();
        let period = Slots::new(8).unwrap();
        let encode = |v: &[f64]| fixture.encoder.encode(v, period, &Scale::pow2(40)).unwrap();
        let (x, y) = (encode(&a), encode(&b));
        let mut sum = fixture.encoder.encode_ntt(&x, Basis::Q(Level(1))).unwrap();
        fixture.ctx.add_assign(&mut sum, &fixture.encoder.encode_ntt(&y, Basis::Q(Level(1))).unwrap());
        let found = fixture.encoder.decode(&fixture.ctx.inverse(sum), &Scale::pow2(40), period).unwrap();
        let expected: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        prop_assert!(precision_bits(&found, &expected) > 34.0);
    }
}
