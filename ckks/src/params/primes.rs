//! Primality and the deterministic search for NTT-friendly primes.

/// Exclusive upper bound of every modulus: the IFMA kernels and `tfhe-ntt` are exact below `2^50`.
pub const MODULUS_LIMIT: u64 = 1 << 50;

fn mul_mod(a: u64, b: u64, modulus: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) % u128::from(modulus)) as u64
}

fn pow_mod(mut base: u64, mut exponent: u64, modulus: u64) -> u64 {
    let mut result = 1 % modulus;
    base %= modulus;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = mul_mod(result, base, modulus);
        }
        base = mul_mod(base, base, modulus);
        exponent >>= 1;
    }
    result
}

/// Whether `value` is prime: Miller-Rabin with the first twelve primes as bases, which is exact for every
/// 64-bit integer (Sorenson and Webster, *Strong pseudoprimes to twelve prime bases*, 2015).
pub fn is_prime(value: u64) -> bool {
    const BASES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    if value < 2 {
        return false;
    }
    if let Some(&divisor) = BASES.iter().find(|&&base| value.is_multiple_of(base)) {
        return value == divisor;
    }
    let shift = (value - 1).trailing_zeros();
    let odd = (value - 1) >> shift;
    BASES.iter().all(|&base| {
        let mut power = pow_mod(base, odd, value);
        if power == 1 || power == value - 1 {
            return true;
        }
        (1..shift).any(|_| {
            power = mul_mod(power, power, value);
            power == value - 1
        })
    })
}

/// The prime nearest to `2^bits` that is 1 modulo `2N`, below [`MODULUS_LIMIT`] and not in `taken`; of two at the
/// same distance the larger. `None` if there is none between `2^(bits-1)` and `3 * 2^(bits-1)`.
pub fn nearest_prime(bits: u32, log_n: u32, taken: &[u64]) -> Option<u64> {
    if bits > MODULUS_LIMIT.ilog2() || bits <= log_n {
        return None;
    }
    let (centre, step) = (1u64 << bits, 1u64 << (log_n + 1));
    let (low, high) = (centre / 2, (centre * 2).min(MODULUS_LIMIT));
    let fits = |candidate: u64| {
        candidate > low && candidate < high && !taken.contains(&candidate) && is_prime(candidate)
    };
    (0..=centre / (2 * step)).find_map(|k| {
        // 2^bits is 0 modulo 2N, so that the candidates are 2^bits + 1 +- 2Nk.
        let above = centre + k * step + 1;
        let below = (centre + 1).saturating_sub((k + 1) * step);
        [above, below].into_iter().find(|&candidate| fits(candidate))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn miller_rabin_agrees_with_trial_division() {
        let slow = |v: u64| v >= 2 && (2..).take_while(|d| d * d <= v).all(|d| !v.is_multiple_of(d));
        assert!((0..20_000).all(|v| is_prime(v) == slow(v)));
    }

    #[test]
    fn strong_pseudoprimes_are_composite() {
        // Pseudoprimes to many small bases; the last is the least one to the first nine.
        for composite in
            [2047, 3_215_031_751, 3_474_749_660_383, 341_550_071_728_321, 3_825_123_056_546_413_051]
        {
            assert!(!is_prime(composite), "{composite}");
        }
        assert!(is_prime((1 << 61) - 1));
    }

    #[test]
    fn search_is_near_distinct_and_congruent() {
        for (bits, log_n) in [(50, 16), (50, 12), (49, 17), (40, 15), (28, 13)] {
            let mut taken = Vec::new();
            for _ in 0..20 {
                let prime = nearest_prime(bits, log_n, &taken).unwrap();
                assert!(is_prime(prime) && prime < MODULUS_LIMIT && prime % (2 << log_n) == 1);
                assert!(((prime as f64).log2() - f64::from(bits)).abs() < 0.2);
                assert!(!taken.contains(&prime));
                taken.push(prime);
            }
        }
        assert_eq!(nearest_prime(12, 12, &[]), None);
    }
}
