//! Randomness: seeds, streams and the distributions of RLWE, on the AES of `tfhe-csprng`.
//!
//! Each stream is AES-256 in counter mode under a key derived by BLAKE3 from a seed, a purpose and indices, so that no
//! two objects or limbs ever share a stream. Secret distributions take time independent of what they sample.

use tfhe_csprng::generators::SoftwareAes256BlockCipher;
use tfhe_csprng::generators::aes_ctr::{AES_CALLS_PER_BATCH, Aes256Key, AesBlockCipher, BYTES_PER_BATCH};
use tfhe_csprng::generators::default::DefaultAes256BlockCipher;
use tfhe_csprng::seeders::{Seeder, UnixSeeder};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::arith::Modulus;

/// Standard deviation of the error distribution, `sqrt(10.5)`.
pub const SIGMA: f64 = 3.240_370_349_203_93;

/// Coin pairs per error sample: a centred binomial of parameter 21 has variance 10.5 (the choice of SEAL).
const BINOMIAL_PAIRS: u32 = 21;

const WORDS_PER_BATCH: usize = BYTES_PER_BATCH / size_of::<u64>();

/// What a stream is for. Part of the derivation, so that equal indices under two purposes never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A new secret seed for one object of a generator.
    Object,
    /// A public seed for the uniform part of one object.
    PublicSeed,
    /// The secret key itself.
    Secret,
    /// The ephemeral secret of a public-key encryption.
    Ephemeral,
    /// An error polynomial.
    Error,
    /// The uniform part of a ciphertext, public key or switching key.
    Uniform,
}

impl Purpose {
    const fn context(self) -> &'static str {
        match self {
            Purpose::Object => "peregrine ckks v1 object seed",
            Purpose::PublicSeed => "peregrine ckks v1 public seed",
            Purpose::Secret => "peregrine ckks v1 secret key",
            Purpose::Ephemeral => "peregrine ckks v1 ephemeral secret",
            Purpose::Error => "peregrine ckks v1 error",
            Purpose::Uniform => "peregrine ckks v1 uniform part",
        }
    }
}

/// A public 32-byte seed from which the uniform part of an object is expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicSeed(pub [u8; 32]);

impl PublicSeed {
    /// The stream of one limb.
    pub(crate) fn stream(&self, indices: &[u64]) -> Stream {
        Stream::new(&derive(&self.0, Purpose::Uniform, indices))
    }
}

/// A 32-byte secret seed, wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct SecretSeed([u8; 32]);

impl SecretSeed {
    /// Fresh entropy of the operating system.
    pub(crate) fn from_os() -> SecretSeed {
        let mut seeder = UnixSeeder::new(0);
        let mut seed = [0; 32];
        for half in seed.chunks_exact_mut(16) {
            half.copy_from_slice(&seeder.seed().0.to_le_bytes());
        }
        SecretSeed(seed)
    }

    /// A chosen seed: for reproducible tests only.
    pub(crate) const fn from_bytes(seed: [u8; 32]) -> SecretSeed {
        SecretSeed(seed)
    }

    pub(crate) fn child(&self, purpose: Purpose, indices: &[u64]) -> SecretSeed {
        SecretSeed(derive(&self.0, purpose, indices))
    }

    pub(crate) fn public_seed(&self, indices: &[u64]) -> PublicSeed {
        PublicSeed(derive(&self.0, Purpose::PublicSeed, indices))
    }

    pub(crate) fn stream(&self, purpose: Purpose, indices: &[u64]) -> Stream {
        let mut key = derive(&self.0, purpose, indices);
        let stream = Stream::new(&key);
        key.zeroize();
        stream
    }
}

fn derive(seed: &[u8; 32], purpose: Purpose, indices: &[u64]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(purpose.context());
    hasher.update(seed);
    for index in indices {
        hasher.update(&index.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

enum Cipher {
    Hardware(Box<DefaultAes256BlockCipher>),
    Software(Box<SoftwareAes256BlockCipher>),
}

impl Cipher {
    fn new(key: [u8; 32]) -> Cipher {
        if hardware_aes() {
            Cipher::Hardware(Box::new(DefaultAes256BlockCipher::new(Aes256Key::new(key))))
        } else {
            Cipher::Software(Box::new(SoftwareAes256BlockCipher::new(Aes256Key::new(key))))
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn hardware_aes() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse2")
}

#[cfg(target_arch = "aarch64")]
fn hardware_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("neon")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn hardware_aes() -> bool {
    false
}

/// AES-256 in counter mode, one batch of blocks at a time.
pub(crate) struct Stream {
    cipher: Cipher,
    counter: u128,
    buffer: [u64; WORDS_PER_BATCH],
    used: usize,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

impl Stream {
    fn new(key: &[u8; 32]) -> Stream {
        Stream { cipher: Cipher::new(*key), counter: 0, buffer: [0; WORDS_PER_BATCH], used: WORDS_PER_BATCH }
    }

    fn refill(&mut self) {
        let counter = self.counter;
        let blocks: [u128; AES_CALLS_PER_BATCH] = std::array::from_fn(|i| (counter + i as u128).to_le());
        self.counter += AES_CALLS_PER_BATCH as u128;
        let bytes = match &mut self.cipher {
            Cipher::Hardware(cipher) => cipher.generate_batch(blocks),
            Cipher::Software(cipher) => cipher.generate_batch(blocks),
        };
        for (word, chunk) in self.buffer.iter_mut().zip(bytes.chunks_exact(size_of::<u64>())) {
            *word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes"));
        }
        self.used = 0;
    }

    #[inline]
    pub(crate) fn next_word(&mut self) -> u64 {
        if self.used == WORDS_PER_BATCH {
            self.refill();
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// Uniform residues, by rejection. For public values: the time depends on what is rejected.
    pub(crate) fn fill_uniform(&mut self, modulus: &Modulus, out: &mut [u64]) {
        let mask = (1u64 << modulus.bits()) - 1;
        let q = modulus.value();
        for word in out {
            *word = loop {
                let candidate = self.next_word() & mask;
                if candidate < q {
                    break candidate;
                }
            };
        }
    }

    /// Exactly `weight` coefficients `+1` or `-1` at uniform positions, the others zero: a partial Fisher-Yates shuffle over a
    /// mask that is read whole for each draw, so that neither time nor memory accesses depend on the positions.
    ///
    /// # Panics
    /// If `weight` exceeds the number of coefficients.
    pub(crate) fn fill_sparse_ternary(&mut self, out: &mut [i64], weight: u32) {
        assert!(weight as usize <= out.len(), "{weight} non-zero coefficients of {}", out.len());
        out.fill(0);
        for drawn in 0..u64::from(weight) {
            let free = out.len() as u64 - drawn;
            // The rank among the zero coefficients, uniform up to a bias below 2^-46.
            let mut rank = ((u128::from(self.next_word()) * u128::from(free)) >> 64) as i64;
            let sign = (self.next_word() & 1) as i64 * 2 - 1;
            for value in &mut *out {
                let zero = i64::from(*value == 0);
                let hit = zero & i64::from(rank == 0);
                *value += hit * sign;
                rank -= zero;
            }
        }
    }

    /// Uniform in `{-1, 0, 1}` up to a bias of 2^-62, in constant time.
    pub(crate) fn fill_ternary(&mut self, out: &mut [i64]) {
        for value in out {
            *value = ((u128::from(self.next_word()) * 3) >> 64) as i64 - 1;
        }
    }

    /// Centred binomial of standard deviation [`SIGMA`], in constant time.
    pub(crate) fn fill_error(&mut self, out: &mut [i64]) {
        let mask = (1u64 << BINOMIAL_PAIRS) - 1;
        for value in out {
            let word = self.next_word();
            let (heads, tails) = (word & mask, (word >> BINOMIAL_PAIRS) & mask);
            *value = i64::from(heads.count_ones()) - i64::from(tails.count_ones());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: usize = 1 << 16;

    fn stream(index: u64) -> Stream {
        SecretSeed::from_bytes([7; 32]).stream(Purpose::Error, &[index])
    }

    #[test]
    fn hardware_and_software_streams_agree() {
        let key = [9; 32];
        let (mut reference, mut fast) = (Stream::new(&key), Stream::new(&key));
        reference.cipher = Cipher::Software(Box::new(SoftwareAes256BlockCipher::new(Aes256Key::new(key))));
        assert!((0..1000).all(|_| reference.next_word() == fast.next_word()));
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_index() {
        let seed = SecretSeed::from_bytes([1; 32]);
        let first = |mut stream: Stream| stream.next_word();
        let words = [
            first(seed.stream(Purpose::Error, &[0])),
            first(seed.stream(Purpose::Error, &[1])),
            first(seed.stream(Purpose::Error, &[0, 0])),
            first(seed.stream(Purpose::Secret, &[0])),
            first(SecretSeed::from_bytes([2; 32]).stream(Purpose::Error, &[0])),
            first(seed.public_seed(&[0]).stream(&[0])),
        ];
        let distinct: std::collections::BTreeSet<u64> = words.into_iter().collect();
        assert_eq!(distinct.len(), words.len());
        assert_ne!(SecretSeed::from_os().0, SecretSeed::from_os().0);
    }

    #[test]
    fn errors_have_the_stated_moments_and_range() {
        let mut samples = vec![0; SAMPLES];
        stream(0).fill_error(&mut samples);
        let mean = samples.iter().sum::<i64>() as f64 / SAMPLES as f64;
        let variance = samples.iter().map(|x| (x * x) as f64).sum::<f64>() / SAMPLES as f64;
        assert!(mean.abs() < 0.08, "mean {mean}");
        assert!((variance - SIGMA * SIGMA).abs() < 0.4, "variance {variance}");
        assert!(samples.iter().all(|x| x.abs() <= i64::from(BINOMIAL_PAIRS)));
    }

    #[test]
    fn ternary_values_are_balanced() {
        let mut samples = vec![0; SAMPLES];
        stream(1).fill_ternary(&mut samples);
        for value in -1..=1 {
            let share = samples.iter().filter(|&&x| x == value).count() as f64 / SAMPLES as f64;
            assert!((share - 1.0 / 3.0).abs() < 0.01, "{value}: {share}");
        }
    }

    #[test]
    fn sparse_secrets_have_their_weight_and_no_preferred_position() {
        let (n, weight, draws) = (64, 8, 4000);
        let mut hits = vec![0u32; n];
        let mut sum = 0;
        for draw in 0..draws {
            let mut samples = vec![5; n];
            stream(draw).fill_sparse_ternary(&mut samples, weight);
            assert!(samples.iter().all(|x| (-1..=1).contains(x)));
            assert_eq!(samples.iter().filter(|&&x| x != 0).count(), weight as usize);
            hits.iter_mut().zip(&samples).for_each(|(hits, x)| *hits += u32::from(*x != 0));
            sum += samples.iter().sum::<i64>();
        }
        // 500 expected each, standard deviation 21; the signs sum to 0 with standard deviation 179.
        assert!(hits.iter().all(|&hits| (400..600).contains(&hits)), "{hits:?}");
        assert!(sum.abs() < 1000, "{sum}");
        let mut full = vec![0; 16];
        stream(1).fill_sparse_ternary(&mut full, 16);
        assert!(full.iter().all(|x| x.abs() == 1));
    }

    #[test]
    fn uniform_residues_fill_the_range() {
        for prime in [257, (1 << 49) + 69, 1_125_899_906_826_241] {
            let modulus = Modulus::new(prime).expect("odd");
            let mut samples = vec![0; SAMPLES];
            stream(prime).fill_uniform(&modulus, &mut samples);
            assert!(samples.iter().all(|&x| x < prime));
            let mean = samples.iter().map(|&x| x as f64).sum::<f64>() / SAMPLES as f64;
            assert!((mean / prime as f64 - 0.5).abs() < 0.01);
        }
    }
}
