//! The negacyclic number theoretic transform: our own vector code where the machine has it, else `tfhe-ntt`.
//!
//! Values come in bit-reversed order: `forward(f)[i] = f(psi^(2*brv(i)+1))` for the primitive `2n`-th root `psi` the
//! library picked. A polynomial of the subring `Z[X^g]`, `g = n/m`, is transformed at size `m`: its value `a` stands
//! for positions `a*g .. (a+1)*g` of the transform of size `n`.

use crate::arith::{Modulus, ShoupFactor};
use crate::kernels::{Kernels, Values, VectorNtt};
use crate::ring::automorphism::Automorphism;
use std::sync::OnceLock;
use tfhe_ntt::prime64::Plan;
use thiserror::Error;

/// The library's smallest transform.
const MIN_SIZE: usize = 16;

/// Why a transform can't be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NttError {
    /// There is no negacyclic transform of this size modulo this number.
    #[error("no transform of size {n} modulo {modulus}: the size must be a power of two >= 16 and the modulus a prime = 1 mod {}", 2 * .n)]
    Unsupported {
        /// The modulus.
        modulus: u64,
        /// The transform size.
        n: usize,
    },
}

/// Transforms of size `n` modulo one prime `= 1 mod 2n`, and of its subrings.
#[derive(Debug)]
pub struct NttTable {
    modulus: Modulus,
    kernels: Kernels,
    engine: Engine,
    n: usize,
    psi: u64,
    inverse_n: ShoupFactor,
    imaginary_unit: ShoupFactor,
    /// By `log2` of the size; built at first use.
    subrings: Box<[OnceLock<Option<Engine>>]>,
}

/// What computes a transform.
#[derive(Debug)]
enum Engine {
    Vector(VectorNtt),
    Library(Box<Library>),
}

/// The library's transform, and the permutation from its root to ours.
#[derive(Debug)]
struct Library {
    plan: Plan,
    to_our_root: Option<Automorphism>,
}

impl Engine {
    /// The transform of size `n` with the root `psi`; None if the library has none.
    fn new(n: usize, modulus: &Modulus, psi: u64, kernels: Kernels) -> Option<Self> {
        if let Some(vector) = kernels.ntt(n, modulus, psi) {
            return Some(Engine::Vector(vector));
        }
        let plan = Plan::try_new(n, modulus.value())?;
        let library = library_root(&plan);
        let square = modulus.mul(library, library);
        let odd_powers = std::iter::successors(Some(library), |&power| Some(modulus.mul(power, square)));
        let exponent = 2 * odd_powers.take(n).position(|power| power == psi)? as u32 + 1;
        let to_our_root = (exponent != 1).then(|| Automorphism::new(n, exponent));
        Some(Engine::Library(Box::new(Library { plan, to_our_root })))
    }

    fn forward(&self, limbs: &mut [&mut [u64]]) {
        match self {
            Engine::Vector(vector) => vector.forward(limbs),
            Engine::Library(library) => {
                for limb in limbs {
                    library.plan.fwd(limb);
                    if let Some(permutation) = &library.to_our_root {
                        let library_order = limb.to_vec();
                        Kernels::scalar().permute(limb, &library_order, permutation);
                    }
                }
            }
        }
    }
}

impl NttTable {
    /// Precomputes the roots for ring degree `n`. The root is the library's, whatever computes the transform.
    pub fn new(n: usize, modulus: Modulus, kernels: Kernels) -> Result<Self, NttError> {
        let unsupported = || NttError::Unsupported { modulus: modulus.value(), n };
        let psi = library_root(&Plan::try_new(n, modulus.value()).ok_or_else(unsupported)?);
        let engine = Engine::new(n, &modulus, psi, kernels).ok_or_else(unsupported)?;
        let inverse_n = modulus.factor(modulus.inv(n as u64));
        let subrings = (0..n.trailing_zeros()).map(|_| OnceLock::new()).collect();
        let imaginary_unit = modulus.factor(modulus.pow(psi, n as u64 / 2));
        Ok(Self { modulus, kernels, engine, n, psi, inverse_n, imaginary_unit, subrings })
    }

    /// Ring degree.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The prime.
    pub fn modulus(&self) -> &Modulus {
        &self.modulus
    }

    /// The primitive `2n`-th root of unity that orders the values.
    pub fn psi(&self) -> u64 {
        self.psi
    }

    /// Coefficients to values, in place. `limb` holds `n` residues.
    pub fn forward(&self, limb: &mut [u64]) {
        self.engine.forward(&mut [limb]);
    }

    /// [`forward`](Self::forward) for several limbs, which share the reading of the tables.
    pub fn forward_all(&self, limbs: &mut [&mut [u64]]) {
        self.engine.forward(limbs);
    }

    /// Values to coefficients, in place.
    pub fn inverse(&self, limb: &mut [u64]) {
        self.inverse_times(limb, self.inverse_n);
    }

    /// Values to `n * factor` times the coefficients, in place.
    pub fn inverse_times(&self, limb: &mut [u64], factor: ShoupFactor) {
        match &self.engine {
            Engine::Vector(vector) => vector.inverse(limb, factor),
            Engine::Library(library) => {
                library.plan.inv(limb);
                self.kernels.mul_scalar_assign(&self.modulus, limb, factor);
            }
        }
    }

    /// Transforms the subring polynomial with coefficients `limb[k]` at `X^(k*n/m)`, `m = limb.len()`, in place.
    /// Afterwards `limb[a]` is the value at positions `a*n/m .. (a+1)*n/m` of the full transform.
    ///
    /// # Panics
    /// If `m` is not a power of two dividing `n`.
    pub fn forward_subring(&self, limb: &mut [u64]) {
        self.forward_subrings(&mut [limb]);
    }

    /// [`forward_subring`](Self::forward_subring) for several polynomials of one subring, which share the reading of the tables.
    ///
    /// # Panics
    /// As [`forward_subring`](Self::forward_subring), and if their sizes differ.
    pub fn forward_subrings(&self, limbs: &mut [&mut [u64]]) {
        let Some(m) = limbs.first().map(|limb| limb.len()) else { return };
        assert!(m.is_power_of_two() && m <= self.n(), "{m} does not divide the ring degree {}", self.n());
        assert!(limbs.iter().all(|limb| limb.len() == m), "polynomials of different subrings");
        if m >= MIN_SIZE {
            self.subring(m).forward(limbs);
            return;
        }
        for limb in limbs {
            let stride = MIN_SIZE / m;
            let mut spread = [0; MIN_SIZE];
            for (k, &coefficient) in limb.iter().enumerate() {
                spread[k * stride] = coefficient;
            }
            self.subring(MIN_SIZE).forward(&mut [&mut spread]);
            for (a, value) in limb.iter_mut().enumerate() {
                *value = spread[a * stride];
            }
        }
    }

    /// The transform that multiplies with plaintexts of `m` coefficients from those, where there is one.
    pub fn multiplier(&self, values: Values, m: usize) -> Option<&VectorNtt> {
        let engine = (m >= MIN_SIZE && m <= self.n()).then(|| self.subring(m))?;
        match engine {
            Engine::Vector(vector) => vector.takes(values).then_some(vector),
            Engine::Library(_) => None,
        }
    }

    /// The square root of -1 modulo which a transform of any size splits in halves.
    pub fn imaginary_unit(&self) -> ShoupFactor {
        self.imaginary_unit
    }

    /// The transform of a size from `MIN_SIZE` to `n`.
    fn subring(&self, m: usize) -> &Engine {
        if m == self.n() {
            return &self.engine;
        }
        let build = || {
            let psi = self.modulus.pow(self.psi, (self.n() / m) as u64);
            Engine::new(m, &self.modulus, psi, self.kernels)
        };
        match self.subrings[m.trailing_zeros() as usize].get_or_init(build) {
            Some(engine) => engine,
            None => unreachable!("a prime = 1 mod 2n has a transform of every size 16 <= m <= n"),
        }
    }
}

/// The root the library chose: the transform of `X` at position 0.
fn library_root(plan: &Plan) -> u64 {
    let mut x = vec![0; plan.ntt_size()];
    x[1] = 1;
    plan.fwd(&mut x);
    x[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{PlainTerm, WeightedTerm};

    const N: usize = 256;
    const PRIMES: [u64; 3] = [1_125_899_902_124_033, 562_949_950_537_729, 1_073_479_681];

    fn residues(n: usize, q: &Modulus, seed: u64) -> Vec<u64> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                q.reduce(state >> 3)
            })
            .collect()
    }

    fn evaluate(q: &Modulus, coefficients: &[u64], point: u64) -> u64 {
        coefficients.iter().rev().fold(0, |value, &c| q.add(q.mul(value, point), c))
    }

    fn brv(i: usize, n: usize) -> u64 {
        (i as u64).reverse_bits() >> (64 - n.trailing_zeros())
    }

    fn table_of(n: usize, prime: u64, kernels: Kernels) -> NttTable {
        NttTable::new(n, Modulus::new(prime).expect("odd"), kernels).expect("prime = 1 mod 2N")
    }

    fn table(prime: u64) -> NttTable {
        table_of(N, prime, Kernels::detect())
    }

    /// A prime of 50 bits that has transforms of every size tested.
    const LARGE: u64 = 1_125_899_903_827_969;

    #[test]
    fn every_path_and_size_gives_the_bits_of_the_library() {
        for log_n in 4..=16 {
            let n = 1 << log_n;
            let library = table_of(n, LARGE, Kernels::scalar());
            let q = *library.modulus();
            let mut limbs: Vec<Vec<u64>> = (0..3).map(|seed| residues(n, &q, seed)).collect();
            limbs[1].fill(q.value() - 1);
            let mut expected = limbs.clone();
            expected.iter_mut().for_each(|limb| library.forward(limb));
            for kernels in Kernels::available() {
                let table = table_of(n, LARGE, kernels);
                assert_eq!(table.psi(), library.psi());
                let mut values = limbs.clone();
                table.forward_all(&mut values.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
                assert!(values == expected, "{kernels:?}, size {n}");
                let factor = q.factor(q.mul(q.inv(n as u64), 12345));
                for (values, limb) in values.iter_mut().zip(&limbs) {
                    table.inverse_times(values, factor);
                    assert!(
                        values.iter().zip(limb).all(|(&got, &x)| got == q.mul(x, 12345)),
                        "{kernels:?}, size {n}"
                    );
                }
            }
        }
    }

    /// A polynomial that takes one value at a root of unity and at its inverse.
    fn palindromic(m: usize, q: &Modulus, seed: u64) -> Vec<u64> {
        let half = residues(m / 2, q, seed);
        let mirrored = (1..m / 2).map(|k| q.neg(half[m / 2 - k]));
        half.iter().copied().chain([0]).chain(mirrored).collect()
    }

    /// Each plaintext is multiplied with two operands, for two targets.
    #[test]
    fn products_from_coefficients_are_those_of_the_full_transform() {
        let sizes =
            [(1 << 10, 1 << 10, 17), (1 << 12, 1 << 10, 3), (1 << 13, 1 << 12, 1), (1 << 16, 1 << 16, 2)];
        for ((n, m, count), of_values) in
            sizes.into_iter().flat_map(|size| [(size, Values::All), (size, Values::Pairs)])
        {
            let library = table_of(n, LARGE, Kernels::scalar());
            let q = *library.modulus();
            let poly = |seed| match of_values {
                Values::All => residues(m, &q, seed),
                Values::Pairs => palindromic(m, &q, seed),
            };
            let polys: Vec<Vec<u64>> = (0..count).map(poly).collect();
            let operands: Vec<[Vec<u64>; 2]> =
                (0..2 * count).map(|seed| [1, 2].map(|part| residues(n, &q, 10 * seed + part))).collect();
            let start = [residues(n, &q, 91), residues(n, &q, 92)];

            let mut values = polys.clone();
            values.iter_mut().for_each(|values| library.forward_subring(values));
            if of_values == Values::Pairs {
                assert!(values.iter().all(|v| v.iter().eq(v.iter().rev())), "values come in pairs");
            }
            let expected = [0, 1].map(|target| {
                let mut sums = start.clone();
                let [c0, c1] = &mut sums;
                let pairs = values.iter().zip(&operands[target * count as usize..]);
                let terms: Vec<PlainTerm<'_>> =
                    pairs.map(|(weights, [x0, x1])| PlainTerm { x0, x1, weights }).collect();
                Kernels::scalar().plain_dot_add(&q, [c0, c1], &terms);
                sums
            });

            for kernels in Kernels::available() {
                let table = table_of(n, LARGE, kernels);
                let Some(transform) = table.multiplier(of_values, m) else { continue };
                let mut weights = polys.clone();
                if of_values == Values::Pairs {
                    weights.iter_mut().for_each(|poly| poly.truncate(m / 2));
                    let i = table.imaginary_unit();
                    weights.iter_mut().for_each(|half| kernels.sub_mirrored_times(&q, half, i));
                }
                let mut weights: Vec<&mut [u64]> = weights.iter_mut().map(Vec::as_mut_slice).collect();
                let terms: Vec<WeightedTerm<'_>> = operands
                    .iter()
                    .enumerate()
                    .map(|(i, [x0, x1])| WeightedTerm {
                        target: i / count as usize,
                        weights: i % count as usize,
                        x0,
                        x1,
                    })
                    .collect();
                let mut found = [start.clone(), start.clone()];
                let [[a0, a1], [b0, b1]] = &mut found;
                transform.dot_add(of_values, &mut [[a0, a1], [b0, b1]], &mut weights, &terms);
                assert!(found == expected, "{kernels:?}, {of_values:?}, size {m} of {n}");
            }
        }
    }

    #[test]
    fn values_are_evaluations_in_bit_reversed_order() {
        for prime in PRIMES {
            let table = table(prime);
            let q = *table.modulus();
            assert_eq!(q.pow(table.psi(), N as u64), q.value() - 1);
            let f = residues(N, &q, prime);
            let mut values = f.clone();
            table.forward(&mut values);
            for (i, &value) in values.iter().enumerate() {
                assert_eq!(value, evaluate(&q, &f, q.pow(table.psi(), 2 * brv(i, N) + 1)));
            }
            table.inverse(&mut values);
            assert_eq!(values, f);
        }
    }

    #[test]
    fn products_match_big_integer_schoolbook() {
        use num_bigint::BigInt;
        let table = table(PRIMES[0]);
        let q = *table.modulus();
        let (f, g) = (residues(N, &q, 1), residues(N, &q, 2));
        let mut expected = vec![BigInt::from(0); N];
        for i in 0..N {
            for j in 0..N {
                let product = BigInt::from(f[i]) * BigInt::from(g[j]);
                if i + j < N { expected[i + j] += product } else { expected[i + j - N] -= product }
            }
        }
        let (mut a, mut b) = (f, g);
        table.forward(&mut a);
        table.forward(&mut b);
        Kernels::detect().mul_assign(&q, &mut a, &b);
        table.inverse(&mut a);
        for (value, wide) in a.iter().zip(expected) {
            let modulus = BigInt::from(q.value());
            assert_eq!(BigInt::from(*value), ((wide % &modulus) + &modulus) % &modulus);
        }
    }

    #[test]
    fn extreme_residues_survive_the_round_trip() {
        let table = table(PRIMES[0]);
        for fill in [0, 1, table.modulus().value() - 1] {
            let mut limb = vec![fill; N];
            table.forward(&mut limb);
            assert!(limb.iter().all(|&x| x < table.modulus().value()));
            table.inverse(&mut limb);
            assert_eq!(limb, vec![fill; N]);
        }
    }

    #[test]
    fn subrings_of_every_size_agree_with_the_full_transform() {
        for prime in PRIMES {
            let table = table(prime);
            for log_m in 0..=N.trailing_zeros() {
                let m = 1usize << log_m;
                let mut small = residues(m, table.modulus(), u64::from(log_m));
                let mut full = vec![0; N];
                for (k, &c) in small.iter().enumerate() {
                    full[k * (N / m)] = c;
                }
                table.forward(&mut full);
                table.forward_subring(&mut small);
                for (i, &value) in full.iter().enumerate() {
                    assert_eq!(value, small[i / (N / m)], "prime {prime} size {m} position {i}");
                }
            }
        }
    }

    #[test]
    fn a_prime_without_roots_is_refused() {
        let q = Modulus::new(12289).expect("odd");
        assert_eq!(
            NttTable::new(1 << 14, q, Kernels::detect()).err(),
            Some(NttError::Unsupported { modulus: 12289, n: 1 << 14 })
        );
    }
}
