use zeroize::Zeroize;

use super::*;
use crate::encrypt::{decrypt, encrypt_public, encrypt_secret};
use crate::test_support::{Fixture, literal, random_slots};

fn other_context() -> Context {
    Context::new(&literal(11, &[50, 40], &[50, 50]).check_insecure_for_tests().unwrap()).unwrap()
}

#[test]
fn secrets_are_ternary_and_differ() {
    let f = Fixture::small();
    let (a, b) = (f.generator.secret(), f.generator.secret());
    assert!(a.coefficients().iter().all(|c| (-1..=1).contains(c)));
    assert_ne!(a.coefficients(), b.coefficients());
    let seeded = || KeyGenerator::insecure_deterministic_for_tests(&f.ctx, [5; 32]).secret();
    assert_eq!(seeded().coefficients(), seeded().coefficients());
}

#[test]
fn polynomials_are_wiped() {
    let f = Fixture::small();
    let mut values = small_to_ntt(&f.ctx, f.generator.secret().coefficients(), Basis::Q(f.top()));
    assert!(values.words().iter().any(|&word| word != 0));
    values.zeroize();
    assert!(values.words().iter().all(|&word| word == 0));
    fn wiped_on_drop<T: zeroize::ZeroizeOnDrop>() {}
    wiped_on_drop::<SecretKey>();
}

/// `b + a*s - gadget*s'` of each digit has small coefficients on every limb: the definition of a switching key.
#[test]
fn switching_keys_encrypt_the_gadget() {
    let f = Fixture::small();
    let (ctx, alpha) = (&f.ctx, f.ctx.params().alpha());
    let element = GaloisElement::new(25).unwrap();
    let key = f.generator.galois(&f.sk, element, Level(2)).unwrap();
    assert_eq!((key.digits().len(), key.level(), key.element()), (2, Level(2), Some(element)));
    let permutation = ctx.automorphism(element).unwrap();
    for (j, digit) in key.digits().iter().enumerate() {
        let mut errors = Vec::new();
        for i in 0..digit.b.limb_count() {
            let table = ctx.table(3, i);
            let m = table.modulus();
            let s = f.sk.limb(3, i);
            let p = ctx.params().p().iter().fold(1, |product, &p| m.mul(product, m.reduce(p)));
            let in_digit = i < 3 && i / alpha == j;
            let mut phase: Vec<u64> = (0..ctx.n())
                .map(|k| {
                    let message = if in_digit { m.mul(p, s[permutation.source(k)]) } else { 0 };
                    m.sub(m.add(digit.b.limb(i)[k], m.mul(digit.a.limb(i)[k], s[k])), message)
                })
                .collect();
            table.inverse(&mut phase);
            errors.push(phase.iter().map(|&x| m.centred(x)).collect::<Vec<i64>>());
        }
        assert!(errors.iter().all(|limb| limb == &errors[0]), "one error polynomial for all limbs");
        assert!(errors[0].iter().all(|e| e.abs() <= 21) && errors[0].iter().any(|&e| e != 0));
    }
}

#[test]
fn the_uniform_part_of_a_limb_does_not_depend_on_the_level() {
    let f = Fixture::small();
    let seed = PublicSeed([3; 32]);
    let low = expand_uniform(&f.ctx, &seed, &[1], Basis::Qp(Level(1)));
    let high = expand_uniform(&f.ctx, &seed, &[1], Basis::Qp(Level(3)));
    assert_eq!(low.limb(1), high.limb(1));
    assert_eq!(low.p_limb(1), high.p_limb(1));
    assert_ne!(low.limb(0), low.limb(1));
    assert_ne!(expand_uniform(&f.ctx, &seed, &[2], Basis::Q(Level(0))).limb(0), low.limb(0));
}

#[test]
fn no_two_objects_share_randomness() {
    let f = Fixture::small();
    let element = GaloisElement::new(5).unwrap();
    let key = || f.generator.galois(&f.sk, element, Level(0)).unwrap();
    let (a, b) = (key(), key());
    assert_ne!(a.seed, b.seed);
    assert_ne!(a.digits[0].b, b.digits[0].b);
    let plaintext = f.encoder.encode_constant(0.5, &f.scale).unwrap();
    let ct = || encrypt_secret(&f.ctx, &f.sk, &plaintext, Level(0)).unwrap();
    assert_ne!(ct().seed, ct().seed);
}

#[test]
fn keys_of_other_parameters_are_refused() {
    let (f, ctx) = (Fixture::small(), other_context());
    let generator = KeyGenerator::new(&ctx);
    let sk = generator.secret();
    assert!(matches!(f.generator.public(&sk), Err(Error::ForeignParameters { .. })));
    assert!(matches!(f.generator.relin(&sk, Level(0)), Err(Error::ForeignParameters { .. })));
    let plaintext =
        f.encoder.encode(&random_slots(4, 1), crate::units::Slots::new(4).unwrap(), &f.scale).unwrap();
    assert!(matches!(
        encrypt_secret(&f.ctx, &sk, &plaintext, Level(0)),
        Err(Error::ForeignParameters { .. })
    ));
    let pk = generator.public(&sk).unwrap();
    assert!(matches!(
        encrypt_public(&f.ctx, &pk, &plaintext, Level(0)),
        Err(Error::ForeignParameters { .. })
    ));
    let ct = encrypt_secret(&f.ctx, &f.sk, &plaintext, Level(3)).unwrap();
    assert!(matches!(ct.expand(&ctx), Err(Error::LevelOutOfRange { .. })));
    let ct = ct.expand(&f.ctx).unwrap();
    assert!(matches!(decrypt(&f.ctx, &sk, &ct), Err(Error::ForeignParameters { .. })));
    assert!(matches!(decrypt(&ctx, &sk, &ct), Err(Error::LevelOutOfRange { .. })));
}

#[test]
fn levels_and_elements_outside_the_ring_are_refused() {
    let f = Fixture::small();
    let relin = f.generator.relin(&f.sk, Level(4));
    assert!(matches!(relin, Err(Error::LevelOutOfRange { level: Level(4), max: Level(3), .. })));
    let foreign = GaloisElement::new(4097).unwrap();
    assert!(matches!(f.generator.galois(&f.sk, foreign, Level(0)), Err(Error::ForeignGaloisElement { .. })));
}

#[test]
fn the_key_set_finds_by_element_and_level() {
    let f = Fixture::small();
    assert_eq!(f.keys.len(), 6);
    assert!(f.keys.iter().next().unwrap().element().is_none());
    let expected: u64 = 6 * f.ctx.params().key_bytes(f.top());
    assert_eq!(f.keys.bytes() as u64, expected);
    assert!(EvalKeys::new().is_empty());
    assert!(matches!(EvalKeys::new().relin(Level(0)), Err(Error::MissingRelinKey { available: None, .. })));
}
