//! Key switching against big integers: every step recomputed with `num-bigint` on a tiny ring.

use num_bigint::BigInt;

use super::*;
use crate::kernels::Kernels;
use crate::keys::{KeyGenerator, SecretKey};
use crate::params::{ParamsLiteral, PrimeSpec};

const LOG_N: u32 = 5;
/// Mixed prime sizes; `alpha = 2`, so that the last digit of an odd number of limbs is short.
const Q_BITS: [u32; 5] = [50, 40, 45, 30, 49];

struct Source(u64);

impl Source {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ (self.0 >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (self.0 >> 29)
    }

    fn poly(&mut self, ctx: &Context, q_limbs: usize, p_limbs: usize) -> RnsPoly<Ntt> {
        let mut poly = RnsPoly::zero(ctx.n(), q_limbs, p_limbs);
        for (m, limb) in poly.limbs_mut().enumerate() {
            limb.fill_with(|| ctx.table(q_limbs, m).modulus().reduce(self.word()));
        }
        poly
    }
}

fn context(kernels: Kernels) -> Context {
    let literal = ParamsLiteral {
        log_n: LOG_N,
        q: Q_BITS.map(PrimeSpec::Bits).to_vec(),
        p: vec![PrimeSpec::Bits(50), PrimeSpec::Bits(48)],
    };
    let params = literal.check_insecure_for_tests().expect("valid");
    Context::with_kernels(&params, kernels).expect("primes have transforms")
}

fn product(moduli: &[u64]) -> BigInt {
    moduli.iter().map(|&q| BigInt::from(q)).product()
}

/// The representative in `(-m/2, m/2]`.
fn centred(x: &BigInt, m: &BigInt) -> BigInt {
    let x = ((x % m) + m) % m;
    if &x * 2 > *m { x - m } else { x }
}

/// Centred integer coefficients of a polynomial given by its limbs in the NTT domain.
fn lift(tables: &[&crate::ntt::NttTable], limbs: &[&[u64]]) -> Vec<BigInt> {
    let moduli: Vec<u64> = tables.iter().map(|t| t.modulus().value()).collect();
    let total = product(&moduli);
    let mut sum = vec![BigInt::from(0); limbs[0].len()];
    for (table, limb) in tables.iter().zip(limbs) {
        let q = table.modulus();
        let cofactor = &total / q.value();
        let inverse = q.inv(u64::try_from(&cofactor % q.value()).expect("below q"));
        let mut coefficients = limb.to_vec();
        table.inverse(&mut coefficients);
        for (sum, c) in sum.iter_mut().zip(coefficients) {
            *sum += &cofactor * q.mul(c, inverse);
        }
    }
    sum.iter().map(|x| centred(x, &total)).collect()
}

fn lift_qp(ctx: &Context, x: &RnsPoly<Ntt>) -> Vec<BigInt> {
    let tables: Vec<_> = (0..x.limb_count()).map(|m| ctx.table(x.q_limbs(), m)).collect();
    lift(&tables, &x.limbs().collect::<Vec<_>>())
}

fn negacyclic(a: &[BigInt], b: &[BigInt]) -> Vec<BigInt> {
    let n = a.len();
    let mut out = vec![BigInt::from(0); n];
    for i in 0..n {
        for j in 0..n {
            let term = &a[i] * &b[j];
            if i + j < n { out[i + j] += term } else { out[i + j - n] -= term }
        }
    }
    out
}

/// `x -> x(X^element)`.
fn automorphism(x: &[BigInt], element: u64) -> Vec<BigInt> {
    let n = x.len() as u64;
    let mut out = vec![BigInt::from(0); x.len()];
    for (k, c) in x.iter().enumerate() {
        let exponent = k as u64 * element % (2 * n);
        let sign = if exponent < n { 1 } else { -1 };
        out[(exponent % n) as usize] = c * sign;
    }
    out
}

/// `round(x / p)`.
fn divide(x: &BigInt, p: &BigInt) -> BigInt {
    let rest = centred(x, p);
    (x - rest) / p
}

fn split(x: &RnsPoly<Ntt>) -> QpPoly {
    let (n, q_limbs) = (x.n(), x.q_limbs());
    let mut parts = QpPoly { q: RnsPoly::zero(n, q_limbs, 0), p: RnsPoly::zero(n, 0, x.p_limbs()) };
    parts.q.words_mut().copy_from_slice(&x.words()[..n * q_limbs]);
    parts.p.words_mut().copy_from_slice(&x.words()[n * q_limbs..]);
    parts
}

fn generated(ctx: &Context, element: Option<GaloisElement>, level: Level) -> (SecretKey, SwitchingKey) {
    let generator = KeyGenerator::insecure_deterministic_for_tests(ctx, [7; 32]);
    let secret = generator.secret();
    let key = match element {
        Some(element) => generator.galois(&secret, element, level),
        None => generator.relin(&secret, level),
    };
    (secret, key.expect("valid level"))
}

/// Both parts of `sum sigma(digit_j) * key_j / P`, in big integers.
fn reference_switch(
    ctx: &Context,
    source: &RnsPoly<Ntt>,
    key: &SwitchingKey,
    element: u64,
) -> [Vec<BigInt>; 2] {
    let (q_limbs, alpha) = (source.q_limbs(), ctx.p_moduli().len());
    let special = product(ctx.params().p());
    let total = product(&ctx.params().q()[..q_limbs]) * &special;
    let mut sums = [vec![BigInt::from(0); ctx.n()], vec![BigInt::from(0); ctx.n()]];
    for j in 0..q_limbs.div_ceil(alpha) {
        let range = j * alpha..((j + 1) * alpha).min(q_limbs);
        let tables: Vec<_> = range.clone().map(|i| &ctx.q_tables()[i]).collect();
        let limbs: Vec<_> = range.map(|i| source.limb(i)).collect();
        let digit = automorphism(&lift(&tables, &limbs), element);
        for (sum, part) in sums.iter_mut().zip([key.digits()[j].b(), key.digits()[j].a()]) {
            let tables: Vec<_> = (0..q_limbs + alpha).map(|m| ctx.table(q_limbs, m)).collect();
            let limbs: Vec<_> = (0..q_limbs + alpha).map(|m| key_limb(part, q_limbs, m)).collect();
            for (sum, term) in sum.iter_mut().zip(negacyclic(&digit, &lift(&tables, &limbs))) {
                *sum += term;
            }
        }
    }
    sums.map(|sum| sum.iter().map(|x| divide(&centred(x, &total), &special)).collect())
}

fn assert_congruent(ctx: &Context, got: &RnsPoly<Ntt>, expected: &[BigInt]) {
    let modulus = product(&ctx.params().q()[..got.q_limbs()]);
    let expected: Vec<_> = expected.iter().map(|x| centred(x, &modulus)).collect();
    assert_eq!(lift_qp(ctx, got), expected);
}

#[test]
fn digits_are_raised_to_their_centred_integers() {
    for kernels in Kernels::available() {
        let ctx = context(kernels);
        for q_limbs in 1..=5 {
            let source = Source(q_limbs as u64).poly(&ctx, q_limbs, 0);
            let decomposed = Decomposed::new(&ctx, &source);
            for (j, range) in decomposed.ranges.clone().iter().enumerate() {
                let tables: Vec<_> = range.clone().map(|i| &ctx.q_tables()[i]).collect();
                let limbs: Vec<_> = range.clone().map(|i| source.limb(i)).collect();
                let digit = lift(&tables, &limbs);
                for m in 0..q_limbs + 2 {
                    let mut buffers = vec![vec![0; ctx.n()]; decomposed.digits()];
                    decomposed
                        .raise(&[m], &mut buffers.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
                    let raised: Vec<_> = buffers.iter().map(Vec::as_slice).collect();
                    let mut limb = decomposed.digits_of(m, &raised)[j].to_vec();
                    let table = ctx.table(q_limbs, m);
                    table.inverse(&mut limb);
                    let modulus = BigInt::from(table.modulus().value());
                    for (got, x) in limb.iter().zip(&digit) {
                        assert_eq!(BigInt::from(*got), ((x % &modulus) + &modulus) % &modulus);
                    }
                }
            }
        }
    }
}

#[test]
fn division_by_p_and_the_top_prime_rounds_once() {
    for kernels in Kernels::available() {
        let ctx = context(kernels);
        for q_limbs in 2..=5 {
            let divisor = product(ctx.params().p()) * BigInt::from(ctx.params().q()[q_limbs - 1]);
            let mut source = Source(q_limbs as u64);
            let parts = [source.poly(&ctx, q_limbs, 2), source.poly(&ctx, q_limbs, 2)];
            let divided =
                mod_down(&ctx, parts.iter().map(split).collect(), Divisor::SpecialAndTop, |_, _, _| ());
            for (part, result) in parts.iter().zip(&divided) {
                assert_eq!(result.q_limbs(), q_limbs - 1);
                let expected: Vec<_> = lift_qp(&ctx, part).iter().map(|x| divide(x, &divisor)).collect();
                assert_congruent(&ctx, result, &expected);
            }
        }
    }
}

#[test]
fn division_by_p_rounds_to_nearest() {
    for kernels in Kernels::available() {
        let ctx = context(kernels);
        let special = product(ctx.params().p());
        for q_limbs in 1..=5 {
            let mut source = Source(q_limbs as u64);
            let parts = [source.poly(&ctx, q_limbs, 2), source.poly(&ctx, q_limbs, 2)];
            let results = mod_down(&ctx, parts.iter().map(split).collect(), Divisor::Special, |_, _, _| ());
            for (part, result) in parts.iter().zip(&results) {
                let expected: Vec<_> = lift_qp(&ctx, part).iter().map(|x| divide(x, &special)).collect();
                assert_congruent(&ctx, result, &expected);
            }
        }
    }
}

#[test]
fn relinearisation_equals_big_integer_arithmetic_at_every_level() {
    for kernels in Kernels::available() {
        let ctx = context(kernels);
        let (_, key) = generated(&ctx, None, Level(4));
        for q_limbs in 1..=5 {
            let source = Source(q_limbs as u64).poly(&ctx, q_limbs, 0);
            let (b, a) = switch(&ctx, &source, &key).expect("key fits");
            let expected = reference_switch(&ctx, &source, &key, 1);
            assert_congruent(&ctx, &b, &expected[0]);
            assert_congruent(&ctx, &a, &expected[1]);
        }
    }
}

#[test]
fn rotations_equal_big_integer_arithmetic_hoisted_or_not() {
    for kernels in Kernels::available() {
        let ctx = context(kernels);
        for element in [5, 25, 2 * ctx.n() as u32 - 1] {
            let element = GaloisElement::new(element).expect("odd");
            let (_, key) = generated(&ctx, Some(element), Level(4));
            let (c0, c1) = (Source(1).poly(&ctx, 3, 0), Source(2).poly(&ctx, 3, 0));
            let (r0, r1) = rotate(&ctx, &c0, &c1, element, &key).expect("key fits");
            let [mut b, a] = reference_switch(&ctx, &c1, &key, u64::from(element.get()));
            for (b, c) in b.iter_mut().zip(automorphism(&lift_qp(&ctx, &c0), u64::from(element.get()))) {
                *b += c;
            }
            assert_congruent(&ctx, &r0, &b);
            assert_congruent(&ctx, &r1, &a);
            let hoisted = Hoisted::new(&ctx, &c1).rotate(&c0, element, &key).expect("key fits");
            assert!(hoisted == (r0, r1), "hoisting changes nothing");
        }
    }
}

#[test]
fn a_switched_polynomial_decrypts_to_the_product_with_the_old_secret() {
    let ctx = context(Kernels::detect());
    let element = GaloisElement::new(5).expect("odd");
    let (secret, key) = generated(&ctx, Some(element), Level(4));
    let source = Source(9).poly(&ctx, 5, 0);
    let zero = RnsPoly::zero(ctx.n(), 5, 0);
    let (b, a) = rotate(&ctx, &zero, &source, element, &key).expect("key fits");
    let modulus = product(ctx.params().q());
    let s: Vec<BigInt> = {
        let limbs: Vec<_> = (0..5).map(|i| secret.q_limb(i)).collect();
        lift(&ctx.q_tables().iter().collect::<Vec<_>>(), &limbs)
    };
    let expected = automorphism(&negacyclic(&lift_qp(&ctx, &source), &s), 5);
    let got = negacyclic(&lift_qp(&ctx, &a), &s);
    for ((got, b), expected) in got.iter().zip(lift_qp(&ctx, &b)).zip(expected) {
        let error = centred(&(got + b - expected), &modulus);
        // Rounding adds up to (1 + n)/2; the key errors times the digits over P, at most 2^-3 here, about 2^4 more.
        assert!(error.bits() <= 9, "error {error}");
    }
}

#[test]
fn unfit_keys_are_refused() {
    let ctx = context(Kernels::detect());
    let (five, other) = (GaloisElement::new(5).expect("odd"), GaloisElement::new(25).expect("odd"));
    let (_, key) = generated(&ctx, Some(five), Level(1));
    let poly = Source(3).poly(&ctx, 4, 0);
    assert!(matches!(rotate(&ctx, &poly, &poly, five, &key), Err(Error::LevelOutOfRange { .. })));
    assert!(matches!(rotate(&ctx, &poly, &poly, other, &key), Err(Error::MissingKey { .. })));
    assert!(matches!(switch(&ctx, &poly, &key), Err(Error::LevelOutOfRange { .. })));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let ctx = context(Kernels::detect());
    let element = GaloisElement::new(5).expect("odd");
    let (_, key) = generated(&ctx, Some(element), Level(4));
    let (c0, c1) = (Source(4).poly(&ctx, 5, 0), Source(5).poly(&ctx, 5, 0));
    // Limbs per job depend on the number of threads.
    let results = [1, 2, 8].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let hoisted = Hoisted::new(&ctx, &c1).rotate(&c0, element, &key).expect("key fits");
            let direct = rotate(&ctx, &c0, &c1, element, &key).expect("key fits");
            assert!(hoisted == direct, "{threads} threads");
            direct
        })
    });
    assert!(results[0] == results[1] && results[1] == results[2]);
    let expected = reference_switch(&ctx, &c1, &key, 5);
    assert_congruent(&ctx, &results[0].1, &expected[1]);
}
