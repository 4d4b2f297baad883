//! Elementwise kernels over residue limbs: a scalar reference, AVX2 + FMA and AVX-512 IFMA, chosen once at run time.
//!
//! All results are canonical residues and equal bit for bit on every path. Limb lengths are ring degrees: powers of
//! two, at least 16. This module is the only place of the crate with `unsafe` code.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod ifma;
#[cfg(target_arch = "x86_64")]
mod ifma_ntt;
#[cfg(target_arch = "x86_64")]
mod ifma_products;
mod scalar;
#[cfg(test)]
mod tests;

use crate::arith::{Modulus, ShoupFactor};
use crate::ring::automorphism::Automorphism;

/// One digit of a key inner product: `digit` (before the automorphism) times the pair `(b, a)` of the switching key.
#[derive(Debug, Clone, Copy)]
pub struct KeyTerm<'a> {
    /// Limb of the decomposed polynomial, NTT domain, not yet permuted.
    pub digit: &'a [u64],
    /// Limb of the key's `b` part.
    pub b: &'a [u64],
    /// Limb of the key's `a` part.
    pub a: &'a [u64],
}

/// One plaintext product of a linear transform: the pair `(x0, x1)` times `weights`.
#[derive(Debug, Clone, Copy)]
pub struct PlainTerm<'a> {
    /// Limb of the first ciphertext part, NTT domain.
    pub x0: &'a [u64],
    /// Limb of the second ciphertext part, NTT domain.
    pub x1: &'a [u64],
    /// NTT values; either one per position or, for a plaintext of a subring, one per run of
    /// `n / weights.len()` neighbouring positions, a power of two.
    pub weights: &'a [u64],
}

/// Which values of a plaintext differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// All.
    All,
    /// Value `size-1-i` equals value `i`: those of real slots.
    Pairs,
}

/// One product with a plaintext that may have more of them.
#[derive(Debug, Clone, Copy)]
pub struct WeightedTerm<'a> {
    /// Which pair of limbs it adds to.
    pub target: usize,
    /// Which plaintext.
    pub weights: usize,
    /// Limb of the first ciphertext part, NTT domain.
    pub x0: &'a [u64],
    /// Limb of the second ciphertext part, NTT domain.
    pub x1: &'a [u64],
}

impl<'a> WeightedTerm<'a> {
    /// With the values of its plaintext.
    pub fn plain(&self, weights: &'a [u64]) -> PlainTerm<'a> {
        PlainTerm { x0: self.x0, x1: self.x1, weights }
    }
}

/// One target of a base conversion: `out = sum inputs[i] * constants[i] mod q`.
#[derive(Debug)]
pub struct CombineTarget<'a> {
    /// The target prime.
    pub q: &'a Modulus,
    /// One residue per input.
    pub constants: &'a [u64],
    /// The result.
    pub out: &'a mut [u64],
}

/// A transform in vector code; one exists where it is faster than the library's. A value is proof that this machine has the
/// instructions.
#[derive(Debug)]
pub struct VectorNtt {
    #[cfg(target_arch = "x86_64")]
    ifma: Box<ifma_ntt::IfmaNtt>,
}

impl VectorNtt {
    /// Forward transforms of several limbs modulo the same prime, in place: canonical residues in, canonical values out,
    /// bit-reversed.
    pub fn forward(&self, limbs: &mut [&mut [u64]]) {
        assert!(limbs.iter().all(|limb| limb.len() == self.size()));
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels::ntt` builds a value on `Path::Ifma` only, whose features are all that the function enables.
        unsafe {
            self.ifma.forward(limbs);
        }
    }

    /// Whether [`dot_add`](Self::dot_add) takes plaintexts of this size.
    #[cfg(target_arch = "x86_64")]
    pub fn takes(&self, values: Values) -> bool {
        self.size() >= values.smallest()
    }

    /// Never on this architecture.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn takes(&self, _: Values) -> bool {
        false
    }

    /// `out[target] += (x0, x1) * values` for each term, with plaintexts of the ring or subring of this transform, each value of
    /// which stands for a run of neighbouring positions. Terms of one target are neighbours. `weights` are the coefficients; where
    /// values come in pairs, those of the polynomial modulo `X^(size/2) - psi^(size/2)`. Afterwards they are the values.
    pub fn dot_add(
        &self,
        values: Values,
        out: &mut [[&mut [u64]; 2]],
        weights: &mut [&mut [u64]],
        terms: &[WeightedTerm<'_>],
    ) {
        let Some(n) = terms.first().map(|term| term.x0.len()) else { return };
        let words = match values {
            Values::All => self.size(),
            Values::Pairs => self.size() / 2,
        };
        assert!(self.takes(values) && n.is_power_of_two() && n >= self.size());
        assert!(weights.iter().all(|weights| weights.len() == words));
        assert!(terms.iter().all(|t| out[t.target].iter().all(|limb| limb.len() == n)));
        assert!(terms.iter().all(|t| t.x0.len() == n && t.x1.len() == n && t.weights < weights.len()));
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `forward`.
        unsafe {
            self.ifma.dot_add(values, out, weights, terms);
        }
    }

    /// Inverse transform in place, times a factor that includes `1/n`.
    pub fn inverse(&self, limb: &mut [u64], factor: ShoupFactor) {
        assert_eq!(limb.len(), self.size());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `forward`.
        unsafe {
            self.ifma.inverse(limb, factor);
        }
    }

    /// Words of a limb.
    pub fn size(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        return self.ifma.size();
        #[cfg(not(target_arch = "x86_64"))]
        0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Ifma,
}

/// The instruction set in use. A value of this type is proof that this machine has the instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kernels(Path);

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Calls the kernel of the same name on the selected path.
macro_rules! dispatch {
    ($self:ident, $kernel:ident($($argument:expr),*)) => {
        match $self.0 {
            Path::Scalar => scalar::$kernel($($argument),*),
            // SAFETY: `Path::Avx2` is only built by `Kernels::avx2`, which checked the features the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { avx2::$kernel($($argument),*) },
            // SAFETY: `Path::Ifma` is only built by `Kernels::ifma`, which checked the features the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Path::Ifma => unsafe { ifma::$kernel($($argument),*) },
        }
    };
}

impl Kernels {
    /// The fastest path this machine has.
    pub fn detect() -> Self {
        Self::ifma().or_else(Self::avx2).unwrap_or_else(Self::scalar)
    }

    /// Every path this machine has, slowest first.
    pub fn available() -> Vec<Self> {
        [Some(Self::scalar()), Self::avx2(), Self::ifma()].into_iter().flatten().collect()
    }

    /// The portable reference.
    pub fn scalar() -> Self {
        Self(Path::Scalar)
    }

    /// AVX2 with FMA, if the machine has both.
    #[cfg(target_arch = "x86_64")]
    pub fn avx2() -> Option<Self> {
        let present = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        present.then_some(Self(Path::Avx2))
    }

    /// AVX-512 F, DQ and IFMA, if the machine has them all.
    #[cfg(target_arch = "x86_64")]
    pub fn ifma() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512ifma");
        present.then_some(Self(Path::Ifma))
    }

    /// AVX2 with FMA: never on this architecture.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn avx2() -> Option<Self> {
        None
    }

    /// AVX-512 IFMA: never on this architecture.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn ifma() -> Option<Self> {
        None
    }

    /// `scalar`, `avx2` or `avx512ifma`.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Path::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Path::Ifma => "avx512ifma",
        }
    }

    /// The transform of size `n` modulo `q < 2^50` with the primitive `2n`-th root `psi`, where this path has one.
    #[cfg(target_arch = "x86_64")]
    pub fn ntt(self, n: usize, q: &Modulus, psi: u64) -> Option<VectorNtt> {
        let possible =
            n.is_power_of_two() && (ifma_ntt::SMALLEST..=ifma_ntt::LARGEST).contains(&n) && q.bits() <= 50;
        (self.0 == Path::Ifma && possible)
            .then(|| VectorNtt { ifma: Box::new(ifma_ntt::IfmaNtt::new(n, *q, psi)) })
    }

    /// A transform in vector code: none on this architecture.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn ntt(self, _: usize, _: &Modulus, _: u64) -> Option<VectorNtt> {
        None
    }

    /// `a += b`.
    pub fn add_assign(self, q: &Modulus, a: &mut [u64], b: &[u64]) {
        assert_eq!(a.len(), b.len());
        dispatch!(self, add_assign(q, a, b))
    }

    /// `a -= b`.
    pub fn sub_assign(self, q: &Modulus, a: &mut [u64], b: &[u64]) {
        assert_eq!(a.len(), b.len());
        dispatch!(self, sub_assign(q, a, b))
    }

    /// `a = -a`.
    pub fn neg_assign(self, q: &Modulus, a: &mut [u64]) {
        dispatch!(self, neg_assign(q, a))
    }

    /// `out = a * b`.
    pub fn mul(self, q: &Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
        assert!(out.len() == a.len() && a.len() == b.len());
        dispatch!(self, mul(q, out, a, b))
    }

    /// `a *= b`.
    pub fn mul_assign(self, q: &Modulus, a: &mut [u64], b: &[u64]) {
        assert_eq!(a.len(), b.len());
        dispatch!(self, mul_assign(q, a, b))
    }

    /// `a *= w`; `a` may hold any words below 2^50.
    pub fn mul_scalar_assign(self, q: &Modulus, a: &mut [u64], w: ShoupFactor) {
        dispatch!(self, mul_scalar_assign(q, a, w))
    }

    /// `a = (a - b) * w`: the step of an exact division by a prime or by `P`.
    pub fn sub_mul_scalar_assign(self, q: &Modulus, a: &mut [u64], b: &[u64], w: ShoupFactor) {
        assert_eq!(a.len(), b.len());
        dispatch!(self, sub_mul_scalar_assign(q, a, b, w))
    }

    /// `a[k] -= a[n-k] * w` for `0 < k < n`, all at once.
    pub fn sub_mirrored_times(self, q: &Modulus, a: &mut [u64], w: ShoupFactor) {
        dispatch!(self, sub_mirrored_times(q, a, w))
    }

    /// `out += a * w`.
    pub fn mul_scalar_add_assign(self, q: &Modulus, out: &mut [u64], a: &[u64], w: ShoupFactor) {
        assert_eq!(out.len(), a.len());
        dispatch!(self, mul_scalar_add_assign(q, out, a, w))
    }

    /// `out += a * b`.
    pub fn mul_add_assign(self, q: &Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
        self.dot_add(q, out, &[(a, b)]);
    }

    /// `out += sum x * y`, reduced once at the end (lazily, split in 52-bit halves). At most 2^20 terms.
    pub fn dot_add(self, q: &Modulus, out: &mut [u64], terms: &[(&[u64], &[u64])]) {
        assert!(terms.iter().all(|(x, y)| x.len() == out.len() && y.len() == out.len()));
        dispatch!(self, dot_add(q, out, terms))
    }

    /// `out = sum permute(digit) * (b, a)`: the inner product of a key switch, lazily reduced, with the automorphism
    /// applied on the fly.
    pub fn key_dot(
        self,
        q: &Modulus,
        out: [&mut [u64]; 2],
        terms: &[KeyTerm<'_>],
        permutation: &Automorphism,
    ) {
        let n = permutation.n();
        assert!(out.iter().all(|limb| limb.len() == n));
        assert!(terms.iter().all(|t| t.digit.len() == n && t.b.len() == n && t.a.len() == n));
        dispatch!(self, key_dot(q, out, terms, permutation, 0..n))
    }

    /// `out += sum (x0, x1) * weights`, lazily reduced, with runs of equal weights broadcast.
    pub fn plain_dot_add(self, q: &Modulus, out: [&mut [u64]; 2], terms: &[PlainTerm<'_>]) {
        let n = out[0].len();
        assert_eq!(out[1].len(), n);
        for term in terms {
            let run = n / term.weights.len();
            assert!(term.x0.len() == n && term.x1.len() == n && term.weights.len() * run == n);
            assert!(run.is_power_of_two(), "a run of {run} weights");
        }
        dispatch!(self, plain_dot_add(q, out, terms, 0..n))
    }

    /// The inner loop of base conversion: one linear combination of the same inputs per target. Several targets at a
    /// time read the inputs once. Inputs are below 2^50 but may exceed `q`; there are at most 2^20.
    pub fn combine(self, targets: &mut [CombineTarget<'_>], inputs: &[&[u64]]) {
        for CombineTarget { constants, out, .. } in &*targets {
            assert_eq!(inputs.len(), constants.len());
            assert!(inputs.iter().all(|x| x.len() == out.len()));
        }
        dispatch!(self, combine(targets, inputs))
    }

    /// `out = floor(1/2 + sum inputs[i] * reciprocals[i])` in `f64`, in this order, rounding each product and sum.
    pub fn quotients(self, out: &mut [u64], inputs: &[&[u64]], reciprocals: &[f64]) {
        assert_eq!(inputs.len(), reciprocals.len());
        assert!(inputs.iter().all(|x| x.len() == out.len()));
        dispatch!(self, quotients(out, inputs, reciprocals))
    }

    /// `out = ` residue mod `q` of the centred representative of `x mod from`.
    pub fn recenter(self, q: &Modulus, out: &mut [u64], x: &[u64], from: &Modulus) {
        assert_eq!(out.len(), x.len());
        dispatch!(self, recenter(q, out, x, from))
    }

    /// Residues of signed words.
    pub fn from_i64(self, q: &Modulus, out: &mut [u64], x: &[i64]) {
        assert_eq!(out.len(), x.len());
        dispatch!(self, from_i64(q, out, x))
    }

    /// Residues of signed half words.
    pub fn from_i32(self, q: &Modulus, out: &mut [u64], x: &[i32]) {
        assert_eq!(out.len(), x.len());
        dispatch!(self, from_i32(q, out, x))
    }

    /// `out[i] = x[permutation(i)]`.
    pub fn permute(self, out: &mut [u64], x: &[u64], permutation: &Automorphism) {
        assert!(out.len() == x.len() && x.len() == permutation.n());
        dispatch!(self, permute(out, x, permutation))
    }

    /// `out[i] += x[permutation(i)]`.
    pub fn permute_add(self, q: &Modulus, out: &mut [u64], x: &[u64], permutation: &Automorphism) {
        assert!(out.len() == x.len() && x.len() == permutation.n());
        dispatch!(self, permute_add(q, out, x, permutation))
    }
}
