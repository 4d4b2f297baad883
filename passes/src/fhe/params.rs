//! Parameter selection: the smallest secure ring that holds a prime chain.

use peregrine_ckks::params::{Params, ParamsError, ParamsLiteral, PrimeSpec, security};

use super::LowerError;

/// Smallest and largest ring.
pub const LOG_N: std::ops::RangeInclusive<u32> = 12..=17;
/// Bits of the special primes: the largest primes there are, so that a digit of as many limbs is never larger.
const SPECIAL_BITS: u32 = 50;
/// More limbs per digit than this make no key switch faster.
const MAX_ALPHA: u32 = 10;

/// Literals of ring 2^`log_n` for the chain `q_bits` (q_0 first) that pass the security table and find their primes, with 1, 2, ...
/// special primes. Large rings run out of small primes: only every 2N-th number can be one.
pub fn candidates(q_bits: &[u32], log_n: u32) -> Vec<ParamsLiteral> {
    let Some(limit) = security::max_log_qp(log_n) else { return Vec::new() };
    let log_q: u32 = q_bits.iter().sum();
    let largest = (q_bits.len() as u32).min(MAX_ALPHA);
    (1..=largest)
        .take_while(|alpha| f64::from(log_q + alpha * SPECIAL_BITS) <= limit)
        .map(|alpha| ParamsLiteral {
            log_n,
            q: q_bits.iter().map(|&b| PrimeSpec::Bits(b)).collect(),
            p: vec![PrimeSpec::Bits(SPECIAL_BITS); alpha as usize],
        })
        .filter(|literal| {
            // Primes may lie a little above their power of two.
            let refused = literal.clone().check();
            !matches!(refused, Err(ParamsError::NoPrime { .. } | ParamsError::Insecure { .. }))
        })
        .collect()
}

/// Checks a literal.
///
/// # Errors
/// A bug: the candidates pass the table by construction.
pub fn check(literal: ParamsLiteral) -> Result<Params, LowerError> {
    literal.check().map_err(|e| LowerError::bug(format!("parameters: {e}")))
}

/// The error for a chain that no ring holds.
pub fn too_deep(q_bits: &[u32]) -> LowerError {
    let log_n = *LOG_N.end();
    LowerError::TooDeep {
        needed_bits: q_bits.iter().sum::<u32>() + SPECIAL_BITS,
        levels: q_bits.len() as u32 - 1,
        log_n,
        available_bits: security::max_log_qp(log_n).unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_finds_no_primes_is_no_candidate() {
        assert!(!candidates(&[50; 30], 17).is_empty());
        assert!(candidates(&[25; 60], 17).is_empty(), "about fourteen primes of 25 bits are 1 modulo 2^18");
    }

    #[test]
    fn every_candidate_is_secure_up_to_the_last_bit_of_the_bound() {
        let limit = security::max_log_qp(16).unwrap() as u32;
        for (small, count) in [(28, 25), (29, 50), (30, 10), (35, 20), (40, 5)] {
            let large = (limit - SPECIAL_BITS - small * count) / 50;
            let chain = [vec![50; large as usize], vec![small; count as usize]].concat();
            assert_eq!(chain.iter().sum::<u32>() + SPECIAL_BITS, limit);
            candidates(&chain, 16).into_iter().for_each(|literal| drop(check(literal).unwrap()));
        }
    }
}
