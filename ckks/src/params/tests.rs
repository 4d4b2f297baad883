use super::*;

fn literal(log_n: u32, q: usize, p: usize) -> ParamsLiteral {
    ParamsLiteral { log_n, q: vec![PrimeSpec::Bits(50); q], p: vec![PrimeSpec::Bits(50); p] }
}

#[test]
fn the_largest_secure_chains_pass_and_one_prime_more_fails() {
    for (log_n, primes) in [(12, 2), (13, 4), (14, 8), (15, 16), (16, 34), (17, 68)] {
        let params = literal(log_n, primes - 1, 1).check().unwrap();
        assert!(params.is_secure());
        let error = literal(log_n, primes, 1).check().unwrap_err();
        let ParamsError::Insecure { log_qp, max, .. } = error else { panic!("{error}") };
        assert!(log_qp > max);
        assert!(!literal(log_n, primes, 1).check_insecure_for_tests().unwrap().is_secure());
    }
}

#[test]
fn degrees_outside_the_table_are_refused() {
    assert_eq!(literal(11, 1, 1).check(), Err(ParamsError::Degree { log_n: 11 }));
    assert_eq!(literal(18, 1, 1).check(), Err(ParamsError::Degree { log_n: 18 }));
    assert!(literal(11, 1, 1).check_insecure_for_tests().is_ok());
    assert_eq!(literal(3, 1, 1).check_insecure_for_tests(), Err(ParamsError::Degree { log_n: 3 }));
    assert_eq!(literal(40, 1, 1).check_insecure_for_tests(), Err(ParamsError::Degree { log_n: 40 }));
}

#[test]
fn chains_must_have_primes() {
    let error = literal(14, 0, 1).check().unwrap_err();
    assert_eq!(error, ParamsError::ChainLength { chain: Chain::Q, count: 0 });
    let error = literal(14, 1, 0).check().unwrap_err();
    assert_eq!(error, ParamsError::ChainLength { chain: Chain::P, count: 0 });
    assert!(matches!(literal(17, 129, 1).check(), Err(ParamsError::ChainLength { count: 129, .. })));
}

#[test]
fn explicit_primes_are_checked() {
    let good = literal(12, 2, 1).check_insecure_for_tests().unwrap();
    let with = |value| {
        let mut bad = good.to_literal();
        bad.q[1] = PrimeSpec::Exact(value);
        bad.check_insecure_for_tests()
    };
    let (chain, index, log_n) = (Chain::Q, 1, 12);
    let large = (1 << 50) + 1;
    assert_eq!(with(large), Err(ParamsError::TooLarge { chain, index, value: large }));
    let composite = (1 << 13) * 7 * 9 + 1;
    assert!(!primes::is_prime(composite));
    assert_eq!(with(composite), Err(ParamsError::NotPrime { chain, index, value: composite }));
    let unfriendly = 1_000_000_007;
    assert_eq!(with(unfriendly), Err(ParamsError::NotNttFriendly { chain, index, value: unfriendly, log_n }));
    let twice = good.q()[0];
    assert_eq!(with(twice), Err(ParamsError::Duplicate { chain, index, value: twice }));
    assert!(matches!(with(0), Err(ParamsError::NotPrime { .. })));
}

#[test]
fn impossible_sizes_are_named() {
    for bits in [0, 5, 51, 64, 200] {
        let mut bad = literal(14, 2, 1);
        bad.p[0] = PrimeSpec::Bits(bits);
        let found = bad.check_insecure_for_tests();
        assert_eq!(found, Err(ParamsError::NoPrime { chain: Chain::P, index: 0, bits, log_n: 14 }));
    }
}

#[test]
fn search_avoids_primes_given_explicitly_later() {
    let first = literal(13, 1, 1).check_insecure_for_tests().unwrap();
    let mut mixed = literal(13, 2, 1);
    mixed.p[0] = PrimeSpec::Exact(first.q()[0]);
    let params = mixed.check_insecure_for_tests().unwrap();
    assert!(!params.q().contains(&first.q()[0]));
}

#[test]
fn derived_sizes_and_fingerprint() {
    let params = literal(16, 24, 8).check().unwrap();
    assert_eq!(params.digits_at(params.max_level()), 3);
    assert_eq!(params.digits_at(Level(8)), 2);
    // A unit of the arena more for each polynomial.
    assert_eq!(params.key_bytes(Level(23)), 2 * 3 * (32 * 65_536 * 8 + (16 << 10)));
    assert_eq!(params.ciphertext_bytes(Level(0)), 2 * (65_536 * 8 + (16 << 10)));
    assert_eq!(params.max_slots().get(), 32_768);
    assert!((params.log_qp() - 1600.0).abs() < 0.1);
    let again = params.to_literal().check().unwrap();
    assert_eq!(again, params);
    assert_ne!(literal(16, 23, 8).check().unwrap().fingerprint(), params.fingerprint());
}
