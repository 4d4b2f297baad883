//! Parameters: a public literal that is checked into an immutable value.

pub mod primes;
pub mod security;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::ring::poly::polynomial_bytes;
use crate::units::{Level, Slots};

/// Smallest supported `log2(N)`.
pub const MIN_LOG_N: u32 = 12;
/// Largest supported `log2(N)`.
pub const MAX_LOG_N: u32 = 17;
/// Smallest `log2(N)` of insecure test parameters.
pub const MIN_INSECURE_LOG_N: u32 = 4;
/// Most primes in either chain.
pub const MAX_PRIMES: usize = 128;

/// How one prime of a chain is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrimeSpec {
    /// The nearest unused NTT prime to `2^bits`, found by a deterministic search.
    Bits(u32),
    /// This prime.
    Exact(u64),
}

/// Unchecked parameters: ring degree and the two prime chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamsLiteral {
    /// `log2(N)`, 12 to 17.
    pub log_n: u32,
    /// The ciphertext chain `q_0..`; level `l` uses `q_0..=q_l`.
    pub q: Vec<PrimeSpec>,
    /// The special primes of hybrid key switching; their number is the number of limbs per digit.
    pub p: Vec<PrimeSpec>,
}

/// Which chain a prime belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chain {
    /// The ciphertext chain.
    Q,
    /// The special primes.
    P,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Chain::Q => "q",
            Chain::P => "p",
        })
    }
}

/// Why a parameter literal was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParamsError {
    /// The ring degree is not supported.
    #[error("ring degree 2^{log_n} is not supported; use 2^{MIN_LOG_N} to 2^{MAX_LOG_N}")]
    Degree {
        /// The rejected logarithm.
        log_n: u32,
    },
    /// A chain is empty or too long.
    #[error("chain {chain} has {count} primes; it needs 1 to {MAX_PRIMES}")]
    ChainLength {
        /// The chain.
        chain: Chain,
        /// Its length.
        count: usize,
    },
    /// No such prime exists.
    #[error("{chain}{index}: no unused prime of about {bits} bits below 2^50 is 1 modulo 2^{}; choose another size", log_n + 1)]
    NoPrime {
        /// The chain.
        chain: Chain,
        /// Position in the chain.
        index: usize,
        /// The requested size.
        bits: u32,
        /// `log2(N)`.
        log_n: u32,
    },
    /// The modulus is at or above 2^50.
    #[error("{chain}{index}: modulus {value} is not below 2^50")]
    TooLarge {
        /// The chain.
        chain: Chain,
        /// Position in the chain.
        index: usize,
        /// The modulus.
        value: u64,
    },
    /// The modulus is composite.
    #[error("{chain}{index}: modulus {value} is not prime")]
    NotPrime {
        /// The chain.
        chain: Chain,
        /// Position in the chain.
        index: usize,
        /// The modulus.
        value: u64,
    },
    /// The modulus has no NTT for this degree.
    #[error("{chain}{index}: prime {value} is not 1 modulo 2^{}, so that it has no negacyclic NTT of this degree", log_n + 1)]
    NotNttFriendly {
        /// The chain.
        chain: Chain,
        /// Position in the chain.
        index: usize,
        /// The modulus.
        value: u64,
        /// `log2(N)`.
        log_n: u32,
    },
    /// A prime occurs twice.
    #[error("{chain}{index}: prime {value} occurs twice")]
    Duplicate {
        /// The chain of the second occurrence.
        chain: Chain,
        /// Its position.
        index: usize,
        /// The prime.
        value: u64,
    },
    /// `log2(QP)` exceeds the 128-bit bound for the sparse ephemeral secret of bootstrapping.
    #[error(
        "log2(QP) = {log_qp:.1} exceeds {max:.0}, the bound for 128-bit security of an ephemeral secret of weight {} at N = 2^{log_n}; use fewer or smaller primes for the encapsulation",
        security::EPHEMERAL_WEIGHT
    )]
    InsecureEphemeral {
        /// `log2(N)`.
        log_n: u32,
        /// The modulus size.
        log_qp: f64,
        /// The bound.
        max: f64,
    },
    /// `log2(QP)` exceeds the 128-bit bound.
    #[error(
        "log2(QP) = {log_qp:.1} exceeds {max:.0}, the bound for 128-bit security at N = 2^{log_n} (eprint 2024/463 with slack); use a larger ring or fewer primes"
    )]
    Insecure {
        /// `log2(N)`.
        log_n: u32,
        /// The modulus size.
        log_qp: f64,
        /// The bound.
        max: f64,
    },
}

/// Whether the security table was enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Bits128,
    NoneForTests,
}

#[derive(Debug, PartialEq)]
struct Inner {
    log_n: u32,
    q: Vec<u64>,
    p: Vec<u64>,
    log_q: f64,
    log_qp: f64,
    security: Security,
    fingerprint: [u8; 32],
}

/// Checked, immutable parameters; cheap to clone.
///
/// ```
/// use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
/// let literal = ParamsLiteral { log_n: 14, q: vec![PrimeSpec::Bits(50); 5], p: vec![PrimeSpec::Bits(50); 2] };
/// let params = literal.check()?;
/// assert_eq!(params.max_level().0, 4);
/// assert!(params.is_secure() && params.log_qp() < 351.0);
/// # Ok::<(), peregrine_ckks::params::ParamsError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Params(Arc<Inner>);

impl PartialEq for Params {
    fn eq(&self, other: &Params) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.fingerprint == other.0.fingerprint
    }
}

impl Eq for Params {}

impl ParamsLiteral {
    /// Checks the literal, including 128-bit security for a uniform ternary secret.
    ///
    /// # Errors
    /// [`ParamsError`] names the first prime or bound that fails.
    pub fn check(self) -> Result<Params, ParamsError> {
        if !(MIN_LOG_N..=MAX_LOG_N).contains(&self.log_n) {
            return Err(ParamsError::Degree { log_n: self.log_n });
        }
        let log_n = self.log_n;
        let params = self.resolve(Security::Bits128)?;
        let max = security::max_log_qp(log_n).ok_or(ParamsError::Degree { log_n })?;
        if params.log_qp() > max {
            return Err(ParamsError::Insecure { log_n, log_qp: params.log_qp(), max });
        }
        Ok(params)
    }

    /// Checks the literal for the sparse ephemeral secret of bootstrapping, under which the bound is much lower
    /// ([`security::max_ephemeral_log_qp`]).
    ///
    /// # Errors
    /// [`ParamsError`] names the first prime or bound that fails.
    pub(crate) fn check_ephemeral(self) -> Result<Params, ParamsError> {
        let log_n = self.log_n;
        let params = self.check()?;
        let max = security::max_ephemeral_log_qp(log_n).ok_or(ParamsError::Degree { log_n })?;
        let log_qp = params.log_qp();
        if log_qp > max { Err(ParamsError::InsecureEphemeral { log_n, log_qp, max }) } else { Ok(params) }
    }

    /// Like [`check`](Self::check), but without any security: also smaller rings and larger moduli. For tests.
    ///
    /// # Errors
    /// [`ParamsError`] names the first prime that fails.
    pub fn check_insecure_for_tests(self) -> Result<Params, ParamsError> {
        if !(MIN_INSECURE_LOG_N..=MAX_LOG_N).contains(&self.log_n) {
            return Err(ParamsError::Degree { log_n: self.log_n });
        }
        self.resolve(Security::NoneForTests)
    }

    /// The same with every prime explicit, whatever its security.
    ///
    /// # Errors
    /// [`ParamsError`] names the first prime that fails.
    pub fn resolved_primes(self) -> Result<ParamsLiteral, ParamsError> {
        Ok(self.check_insecure_for_tests()?.to_literal())
    }

    fn resolve(self, security: Security) -> Result<Params, ParamsError> {
        for (chain, specs) in [(Chain::Q, &self.q), (Chain::P, &self.p)] {
            if specs.is_empty() || specs.len() > MAX_PRIMES {
                return Err(ParamsError::ChainLength { chain, count: specs.len() });
            }
        }
        let specs = || {
            let q = self.q.iter().enumerate().map(|(index, &spec)| (Chain::Q, index, spec));
            q.chain(self.p.iter().enumerate().map(|(index, &spec)| (Chain::P, index, spec)))
        };
        let mut taken = Vec::new();
        for (chain, index, spec) in specs() {
            if let PrimeSpec::Exact(value) = spec {
                check_exact(chain, index, value, self.log_n, &taken)?;
                taken.push(value);
            }
        }
        let mut primes = Vec::new();
        for (chain, index, spec) in specs() {
            let log_n = self.log_n;
            primes.push(match spec {
                PrimeSpec::Exact(value) => value,
                PrimeSpec::Bits(bits) => {
                    let found = primes::nearest_prime(bits, log_n, &taken);
                    let prime = found.ok_or(ParamsError::NoPrime { chain, index, bits, log_n })?;
                    taken.push(prime);
                    prime
                }
            });
        }
        let p = primes.split_off(self.q.len());
        Ok(Params::from_primes(self.log_n, primes, p, security))
    }
}

fn check_exact(chain: Chain, index: usize, value: u64, log_n: u32, taken: &[u64]) -> Result<(), ParamsError> {
    if value >= primes::MODULUS_LIMIT {
        return Err(ParamsError::TooLarge { chain, index, value });
    }
    if !primes::is_prime(value) {
        return Err(ParamsError::NotPrime { chain, index, value });
    }
    if value % (2u64 << log_n) != 1 {
        return Err(ParamsError::NotNttFriendly { chain, index, value, log_n });
    }
    if taken.contains(&value) {
        return Err(ParamsError::Duplicate { chain, index, value });
    }
    Ok(())
}

impl Params {
    fn from_primes(log_n: u32, q: Vec<u64>, p: Vec<u64>, security: Security) -> Params {
        let log2_sum = |primes: &[u64]| primes.iter().map(|&prime| (prime as f64).log2()).sum::<f64>();
        let (log_q, log_p) = (log2_sum(&q), log2_sum(&p));
        let mut hasher = blake3::Hasher::new_derive_key("peregrine ckks parameters v1");
        for word in [u64::from(log_n), q.len() as u64, p.len() as u64].iter().chain(&q).chain(&p) {
            hasher.update(&word.to_le_bytes());
        }
        let fingerprint = *hasher.finalize().as_bytes();
        Params(Arc::new(Inner { log_n, q, p, log_q, log_qp: log_q + log_p, security, fingerprint }))
    }

    /// `log2` of the ring degree.
    pub fn log_n(&self) -> u32 {
        self.0.log_n
    }

    /// The ring degree `N`.
    pub fn n(&self) -> usize {
        1 << self.0.log_n
    }

    /// Number of real slots, `N/2`.
    pub fn max_slots(&self) -> Slots {
        Slots::new(1 << (self.0.log_n - 1)).expect("a power of two by construction")
    }

    /// The highest level: one less than the number of Q primes.
    pub fn max_level(&self) -> Level {
        Level(self.0.q.len() as u32 - 1)
    }

    /// The ciphertext primes `q_0..`.
    pub fn q(&self) -> &[u64] {
        &self.0.q
    }

    /// The special primes.
    pub fn p(&self) -> &[u64] {
        &self.0.p
    }

    /// Limbs per key-switching digit: the number of special primes.
    pub fn alpha(&self) -> usize {
        self.0.p.len()
    }

    /// Number of key-switching digits at a level: `ceil((level + 1) / alpha)`.
    pub fn digits_at(&self, level: Level) -> usize {
        level.limbs().div_ceil(self.alpha())
    }

    /// `log2(Q)`.
    pub fn log_q(&self) -> f64 {
        self.0.log_q
    }

    /// `log2(QP)`.
    pub fn log_qp(&self) -> f64 {
        self.0.log_qp
    }

    /// `log2(q_0 * .. * q_level)`; the whole chain for levels above it.
    pub fn log_q_at(&self, level: Level) -> f64 {
        self.0.q.iter().take(level.limbs()).map(|&q| (q as f64).log2()).sum()
    }

    /// Whether the 128-bit security table was enforced.
    pub fn is_secure(&self) -> bool {
        self.0.security == Security::Bits128
    }

    /// BLAKE3 hash of degree and primes; every serialised object carries it.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.0.fingerprint
    }

    /// Bytes in memory of one expanded switching key at a level (of the top level for levels above it).
    pub fn key_bytes(&self, level: Level) -> u64 {
        let level = level.min(self.max_level());
        let poly = polynomial_bytes(self.n() * (level.limbs() + self.alpha()));
        2 * self.digits_at(level) as u64 * poly
    }

    /// Payload bytes of one seeded switching key at a level: about half of [`key_bytes`](Self::key_bytes).
    pub fn seeded_key_bytes(&self, level: Level) -> u64 {
        let level = level.min(self.max_level());
        (self.digits_at(level) * (level.limbs() + self.alpha()) * self.n() * size_of::<u64>()) as u64
    }

    /// Bytes in memory of one ciphertext at a level (of the top level for levels above it).
    pub fn ciphertext_bytes(&self, level: Level) -> u64 {
        2 * polynomial_bytes(level.min(self.max_level()).limbs() * self.n())
    }

    /// The literal with every prime explicit; checking it gives equal parameters.
    pub fn to_literal(&self) -> ParamsLiteral {
        let exact = |primes: &[u64]| primes.iter().map(|&prime| PrimeSpec::Exact(prime)).collect();
        ParamsLiteral { log_n: self.0.log_n, q: exact(&self.0.q), p: exact(&self.0.p) }
    }
}
