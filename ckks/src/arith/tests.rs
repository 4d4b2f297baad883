use super::{Modulus, ModulusError};
use proptest::prelude::*;

const PRIMES: [u64; 6] =
    [3, 12289, 1_073_479_681, 1_099_510_054_913, 562_949_950_537_729, 1_125_899_902_124_033];

fn moduli() -> impl Strategy<Value = Modulus> {
    prop_oneof![proptest::sample::select(PRIMES.to_vec()), (1u64..1 << 49).prop_map(|k| 2 * k + 1),]
        .prop_map(|q| Modulus::new(q).expect("odd and below 2^50"))
}

proptest! {
    #[test]
    fn operations_agree_with_wide_division(q in moduli(), a: u64, b: u64, wide: u128, signed: i64) {
        let v = u128::from(q.value());
        let (a, b) = (a % q.value(), b % q.value());
        prop_assert_eq!(u128::from(q.mul(a, b)), u128::from(a) * u128::from(b) % v);
        prop_assert_eq!(u128::from(q.add(a, b)), (u128::from(a) + u128::from(b)) % v);
        prop_assert_eq!(u128::from(q.sub(a, b)), (u128::from(a) + v - u128::from(b)) % v);
        prop_assert_eq!(q.add(a, q.neg(a)), 0);
        prop_assert_eq!(u128::from(q.reduce_wide(wide)), wide % v);
        prop_assert_eq!(i128::from(q.reduce_signed(signed)), i128::from(signed).rem_euclid(v as i128));
        prop_assert_eq!(q.reduce_signed(q.centred(a)), a);
    }

    #[test]
    fn constant_factors_accept_any_52_bit_operand(q in moduli(), a in 0u64..1 << 52, w: u64) {
        let expected = u128::from(a) * u128::from(w) % u128::from(q.value());
        prop_assert_eq!(u128::from(q.mul_factor(a, q.factor(w))), expected);
    }
}

#[test]
fn extreme_residues() {
    for q in PRIMES.map(|q| Modulus::new(q).expect("valid")) {
        let top = q.value() - 1;
        assert_eq!(q.mul(top, top), 1);
        assert_eq!(q.mul_factor((1 << 52) - 1, q.factor(top)), q.neg(q.reduce((1 << 52) - 1)));
        assert_eq!(q.reduce_wide(u128::MAX), (u128::MAX % u128::from(q.value())) as u64);
        assert_eq!(q.neg(0), 0);
    }
}

#[test]
fn inverses_multiply_to_one() {
    for q in PRIMES.map(|q| Modulus::new(q).expect("valid")) {
        for a in [1, 2, q.value() - 1] {
            assert_eq!(q.mul(a, q.inv(a)), 1);
        }
    }
}

#[test]
fn unusable_moduli_are_named() {
    for bad in [0, 1, 2, 4, 1 << 50, (1 << 50) + 1] {
        assert_eq!(Modulus::new(bad), Err(ModulusError::OutOfRange(bad)));
    }
}
