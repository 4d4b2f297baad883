//! Against floats, degree by degree; refusals; equal bits on every path.

use super::*;
use crate::kernels::Kernels;
use crate::params::{ParamsLiteral, PrimeSpec};
use crate::test_support::{Fixture, literal, precision_bits, random_slots};

fn fixture() -> &'static Fixture {
    static FIXTURE: std::sync::OnceLock<Fixture> = std::sync::OnceLock::new();
    FIXTURE.get_or_init(|| {
        let params = literal(10, &[50; 9], &[50; 3]).check_insecure_for_tests().expect("valid");
        Fixture::new(&params, 50)
    })
}

fn polynomial(basis: PolynomialBasis, degree: usize, seed: u64) -> Polynomial {
    let values = random_slots(degree + 1, seed);
    let size = values.iter().map(|c| c.abs()).sum::<f64>().max(1.0);
    Polynomial::new(basis, values.iter().map(|c| (c / size + 1e-3).into()).collect()).expect("not constant")
}

fn assert_evaluates(p: &Polynomial, seed: u64, bits: f64) {
    let f = fixture();
    let slots = f.slots().get() as usize;
    let x = random_slots(slots, seed);
    // A target that no product of scales gives by chance.
    let target = Scale::pow2(49).mul(&Scale::prime(3)).div(&Scale::prime(5));
    let ct = f.encrypt(&x);
    let result = f.ev.evaluate_polynomial(&ct, p, &target, &f.keys).expect("levels and key");
    assert_eq!((result.level().0, result.scale()), (ct.level().0 - p.depth(), &target));
    let expected: Vec<f64> = x.iter().enumerate().map(|(slot, x)| p.evaluate_clear(*x, slot)).collect();
    let found = precision_bits(&f.decrypt(&result, f.slots()), &expected);
    assert!(found >= bits, "{:?}, degree {}: {found:.1} bits", p.basis(), p.degree());
}

#[test]
fn every_degree_in_both_bases() {
    for degree in (1..=40).chain([47, 63, 64, 70, 127]) {
        for basis in [PolynomialBasis::Monomial, PolynomialBasis::Chebyshev] {
            assert_evaluates(&polynomial(basis, degree, degree as u64), 1000 + degree as u64, 27.0);
        }
    }
}

#[test]
fn sparse_polynomials() {
    for (basis, terms) in [
        (PolynomialBasis::Monomial, vec![(8, 1.0)]),
        (PolynomialBasis::Monomial, vec![(0, 0.5), (16, 0.25)]),
        (PolynomialBasis::Chebyshev, vec![(5, 0.5), (21, -0.5)]),
        (PolynomialBasis::Chebyshev, vec![(31, 1.0)]),
    ] {
        let degree = terms.last().expect("terms").0;
        let mut coefficients = vec![Coefficient::ZERO; degree + 1];
        terms.iter().for_each(|&(k, value)| coefficients[k] = value.into());
        assert_evaluates(&Polynomial::new(basis, coefficients).expect("valid"), 3, 27.0);
    }
}

#[test]
fn every_slot_class_has_its_own_coefficients_at_no_extra_level() {
    let slots = fixture().slots().get() as usize;
    for basis in [PolynomialBasis::Monomial, PolynomialBasis::Chebyshev] {
        for periods in [[1, 4, slots, 2, 1, 8], [slots; 6], [2, 1, 1, 1, 1, 1]] {
            let vector = |(k, &period): (usize, &usize)| {
                let values = random_slots(period, 50 + k as u64).iter().map(|x| x / 6.0).collect::<Vec<_>>();
                if period == 1 { values[0].into() } else { Coefficient::Slots(values.into()) }
            };
            let coefficients = periods.iter().enumerate().map(vector).collect();
            let p = Polynomial::new(basis, coefficients).expect("valid");
            assert_eq!(p.depth(), 3);
            assert_evaluates(&p, 9, 27.0);
        }
    }
}

#[test]
fn ladders_may_take_several_primes_at_a_time() {
    let params =
        literal(9, &[50, 50, 50, 50, 29, 29, 50], &[50; 3]).check_insecure_for_tests().expect("valid");
    // T_2 has the scale 2^54, the powers after it 2^50 or less.
    let f = Fixture::new(&params, 52);
    let p = polynomial(PolynomialBasis::Chebyshev, 15, 4);
    let x = random_slots(256, 5);
    let ladder = Ladder::new([6, 5, 3, 2, 1].map(Level).to_vec());
    let ct = f.encrypt(&x);
    let target = Scale::pow2(49);
    let result = f.ev.evaluate_on_ladder(&ct, &p, &target, &ladder, &f.keys).expect("levels and key");
    assert_eq!((result.level(), result.scale()), (Level(1), &target));
    let expected: Vec<f64> = x.iter().map(|x| p.evaluate_clear(*x, 0)).collect();
    assert!(precision_bits(&f.decrypt(&result, f.slots()), &expected) >= 25.0);
    let high = Ladder::new([5, 4, 3, 2, 1].map(Level).to_vec());
    let refused = f.ev.evaluate_on_ladder(&ct, &p, &target, &high, &f.keys);
    assert!(matches!(refused, Err(Error::LevelMismatch { .. })));
}

#[test]
fn every_kernel_path_gives_the_same_bits() {
    let literal =
        ParamsLiteral { log_n: 6, q: vec![PrimeSpec::Bits(50); 5], p: vec![PrimeSpec::Bits(50); 2] };
    let params = literal.check_insecure_for_tests().expect("valid");
    let f = Fixture::new(&params, 50);
    let ct = f.encrypt(&random_slots(32, 1));
    let mut coefficients = polynomial(PolynomialBasis::Chebyshev, 11, 2).coefficients().to_vec();
    coefficients[3] = Coefficient::Slots(random_slots(8, 3).into());
    let p = Polynomial::new(PolynomialBasis::Chebyshev, coefficients).expect("valid");
    let run = |kernels| {
        let ctx = crate::context::Context::with_kernels(&params, kernels).expect("checked");
        Evaluator::new(&ctx).evaluate_polynomial(&ct, &p, &f.scale, &f.keys).expect("levels and key")
    };
    let expected = run(Kernels::scalar());
    for kernels in Kernels::available() {
        assert!(run(kernels) == expected, "{kernels:?}");
    }
}

#[test]
fn unfit_polynomials_and_operands_are_refused() {
    let f = fixture();
    let new = |coefficients: Vec<Coefficient>| Polynomial::new(PolynomialBasis::Monomial, coefficients);
    assert!(matches!(new(vec![]), Err(Error::Polynomial { .. })));
    assert!(matches!(new(vec![1.0.into(), 0.0.into()]), Err(Error::Polynomial { degree: 0, .. })));
    assert!(matches!(new(vec![1.0.into(); MAX_DEGREE + 2]), Err(Error::Polynomial { .. })));
    assert!(matches!(new(vec![1.0.into(), f64::NAN.into()]), Err(Error::NotFinite { .. })));
    assert!(matches!(new(vec![1.0.into(), Coefficient::Slots([1.0; 3].into())]), Err(Error::Unit(_))));
    assert!(matches!(new(vec![1.0.into(), Coefficient::Slots([].into())]), Err(Error::Unit(_))));
    let p = polynomial(PolynomialBasis::Monomial, 7, 1);
    let ct = f.encrypt(&[0.5]);
    let run = |ct: &Ciphertext, p: &Polynomial, keys: &EvalKeys| {
        f.ev.evaluate_polynomial(ct, p, &f.scale, keys).map(drop)
    };
    let low = f.ev.drop_to(&ct, Level(2)).expect("lower");
    assert!(matches!(run(&low, &p, &f.keys), Err(Error::NoLevelLeft { .. })));
    assert!(matches!(run(&ct, &p, &EvalKeys::new()), Err(Error::MissingRelinKey { .. })));
    let wide = vec![1.0; 2 * f.slots().get() as usize];
    let wide = new(vec![1.0.into(), Coefficient::Slots(wide.into())]).expect("valid alone");
    assert!(matches!(run(&ct, &wide, &f.keys), Err(Error::TooManySlots { .. })));
}
