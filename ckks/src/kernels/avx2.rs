//! AVX2 kernels on `f64` fused multiply-add.
//!
//! A residue below 2^50 is an exact `f64`. For a product `a*b` the pair `h = round(a*b)`, `l = fma(a, b, -h)` is
//! exact, and with `c = floor(h/q)` estimated by the rounded reciprocal, `h - c*q + l` is an exact integer in
//! `(-q, 2q)` (van der Hoeven, Lecerf, Quintin, "Modular SIMD arithmetic in Mathemagix", 2016).

use super::{CombineTarget, KeyTerm, PlainTerm, scalar};
use crate::arith::{Modulus, ShoupFactor};
use crate::ring::automorphism::{Automorphism, LINE};
use std::arch::x86_64::*;

const WIDTH: usize = 4;
/// `2^52` as `f64`: its mantissa holds an integer below 2^52 as is.
const TWO_52: f64 = 4_503_599_627_370_496.0;

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_words(x: &[u64; WIDTH]) -> __m256i {
    // SAFETY: the reference covers 32 readable bytes and the load has no alignment demand.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// Integers below 2^52 as `f64`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(x: &[u64; WIDTH]) -> __m256d {
    let magic = _mm256_set1_pd(TWO_52);
    let bits = _mm256_or_si256(load_words(x), _mm256_castpd_si256(magic));
    _mm256_sub_pd(_mm256_castsi256_pd(bits), magic)
}

/// Integers in `[0, 2^52)` back to words.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn store(x: &mut [u64; WIDTH], value: __m256d) {
    let magic = _mm256_set1_pd(TWO_52);
    let bits = _mm256_castpd_si256(_mm256_add_pd(value, magic));
    let words = _mm256_xor_si256(bits, _mm256_castpd_si256(magic));
    // SAFETY: the reference covers 32 writable bytes and the store has no alignment demand.
    unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), words) }
}

/// The four words of `x` from position `k` on.
#[inline]
fn quad(x: &[u64], k: usize) -> &[u64; WIDTH] {
    x[k..k + WIDTH].try_into().expect("four words")
}

#[inline]
fn quad_mut(x: &mut [u64], k: usize) -> &mut [u64; WIDTH] {
    (&mut x[k..k + WIDTH]).try_into().expect("four words")
}

/// A modulus in registers.
#[derive(Clone, Copy)]
struct Prime {
    q: __m256d,
    reciprocal: __m256d,
}

impl Prime {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn new(q: &Modulus) -> Self {
        Self { q: _mm256_set1_pd(q.value() as f64), reciprocal: _mm256_set1_pd(q.reciprocal()) }
    }

    /// `(-q, 0) -> + q`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn lift(self, x: __m256d) -> __m256d {
        let negative = _mm256_cmp_pd::<_CMP_LT_OQ>(x, _mm256_setzero_pd());
        _mm256_add_pd(x, _mm256_and_pd(negative, self.q))
    }

    /// `[q, 2q) -> - q`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn once(self, x: __m256d) -> __m256d {
        let large = _mm256_cmp_pd::<_CMP_GE_OQ>(x, self.q);
        _mm256_sub_pd(x, _mm256_and_pd(large, self.q))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(self, a: __m256d, b: __m256d) -> __m256d {
        self.once(_mm256_add_pd(a, b))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn sub(self, a: __m256d, b: __m256d) -> __m256d {
        self.lift(_mm256_sub_pd(a, b))
    }

    /// Integers of magnitude below 2^50, either sign.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn reduce(self, x: __m256d) -> __m256d {
        let quotient = _mm256_floor_pd(_mm256_mul_pd(x, self.reciprocal));
        self.once(self.lift(_mm256_fnmadd_pd(quotient, self.q, x)))
    }

    /// `a * b` for `a < 2^50`, `b < q`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn mul(self, a: __m256d, b: __m256d) -> __m256d {
        let high = _mm256_mul_pd(a, b);
        let low = _mm256_fmsub_pd(a, b, high);
        let quotient = _mm256_floor_pd(_mm256_mul_pd(high, self.reciprocal));
        let rest = _mm256_fnmadd_pd(quotient, self.q, high);
        self.once(self.lift(_mm256_add_pd(rest, low)))
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn add_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    let prime = Prime::new(q);
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks_mut(), b.as_chunks());
    for (a, b) in a.iter_mut().zip(b) {
        store(a, prime.add(load(a), load(b)));
    }
    scalar::add_assign(q, a_tail, b_tail);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn sub_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    let prime = Prime::new(q);
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks_mut(), b.as_chunks());
    for (a, b) in a.iter_mut().zip(b) {
        store(a, prime.sub(load(a), load(b)));
    }
    scalar::sub_assign(q, a_tail, b_tail);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn neg_assign(q: &Modulus, a: &mut [u64]) {
    let prime = Prime::new(q);
    let (a, tail) = a.as_chunks_mut();
    for a in a {
        store(a, prime.sub(_mm256_setzero_pd(), load(a)));
    }
    scalar::neg_assign(q, tail);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul(q: &Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
    let prime = Prime::new(q);
    let (out, out_tail) = out.as_chunks_mut();
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks(), b.as_chunks());
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        store(out, prime.mul(load(a), load(b)));
    }
    scalar::mul(q, out_tail, a_tail, b_tail);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    let prime = Prime::new(q);
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks_mut(), b.as_chunks());
    for (a, b) in a.iter_mut().zip(b) {
        store(a, prime.mul(load(a), load(b)));
    }
    scalar::mul_assign(q, a_tail, b_tail);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_scalar_assign(q: &Modulus, a: &mut [u64], w: ShoupFactor) {
    let prime = Prime::new(q);
    let factor = _mm256_set1_pd(w.value as f64);
    let (a, tail) = a.as_chunks_mut();
    for a in a {
        store(a, prime.mul(load(a), factor));
    }
    scalar::mul_scalar_assign(q, tail, w);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn sub_mirrored_times(q: &Modulus, a: &mut [u64], w: ShoupFactor) {
    scalar::sub_mirrored_times(q, a, w);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn sub_mul_scalar_assign(q: &Modulus, a: &mut [u64], b: &[u64], w: ShoupFactor) {
    let prime = Prime::new(q);
    let factor = _mm256_set1_pd(w.value as f64);
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks_mut(), b.as_chunks());
    for (a, b) in a.iter_mut().zip(b) {
        store(a, prime.mul(prime.sub(load(a), load(b)), factor));
    }
    scalar::sub_mul_scalar_assign(q, a_tail, b_tail, w);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn mul_scalar_add_assign(q: &Modulus, out: &mut [u64], a: &[u64], w: ShoupFactor) {
    let prime = Prime::new(q);
    let factor = _mm256_set1_pd(w.value as f64);
    let ((out, out_tail), (a, a_tail)) = (out.as_chunks_mut(), a.as_chunks());
    for (out, a) in out.iter_mut().zip(a) {
        store(out, prime.add(load(out), prime.mul(load(a), factor)));
    }
    scalar::mul_scalar_add_assign(q, out_tail, a_tail, w);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_add(q: &Modulus, out: &mut [u64], terms: &[(&[u64], &[u64])]) {
    let prime = Prime::new(q);
    let whole = out.len() / WIDTH * WIDTH;
    for k in (0..whole).step_by(WIDTH) {
        let mut sum = load(quad(out, k));
        for (x, y) in terms {
            sum = prime.add(sum, prime.mul(load(quad(x, k)), load(quad(y, k))));
        }
        store(quad_mut(out, k), sum);
    }
    if whole < out.len() {
        let tails: Vec<_> = terms.iter().map(|(x, y)| (&x[whole..], &y[whole..])).collect();
        scalar::dot_add(q, &mut out[whole..], &tails);
    }
}

/// Half a line of the permuted limb.
#[inline]
fn permuted(x: &[u64], permutation: &Automorphism, k: usize) -> [u64; WIDTH] {
    let source = permutation.lines()[k / LINE];
    let line = &x[(source >> 3) as usize * LINE..][..LINE];
    let shuffle = &permutation.shuffles()[(source & 7) as usize];
    std::array::from_fn(|i| line[shuffle[k % LINE + i] as usize % LINE])
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn key_dot(
    q: &Modulus,
    out: [&mut [u64]; 2],
    terms: &[KeyTerm<'_>],
    permutation: &Automorphism,
    range: std::ops::Range<usize>,
) {
    let prime = Prime::new(q);
    let [out_b, out_a] = out;
    for k in range.step_by(WIDTH) {
        let (mut sum_b, mut sum_a) = (_mm256_setzero_pd(), _mm256_setzero_pd());
        for term in terms {
            let x = load(&permuted(term.digit, permutation, k));
            sum_b = prime.add(sum_b, prime.mul(x, load(quad(term.b, k))));
            sum_a = prime.add(sum_a, prime.mul(x, load(quad(term.a, k))));
        }
        store(quad_mut(out_b, k), sum_b);
        store(quad_mut(out_a, k), sum_a);
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn plain_dot_add(
    q: &Modulus,
    out: [&mut [u64]; 2],
    terms: &[PlainTerm<'_>],
    range: std::ops::Range<usize>,
) {
    let prime = Prime::new(q);
    let [out_0, out_1] = out;
    let n = range.end;
    for k in (0..n).step_by(WIDTH) {
        let (mut sum_0, mut sum_1) = (load(quad(out_0, k)), load(quad(out_1, k)));
        for term in terms {
            let weight = match n / term.weights.len() {
                1 => load(quad(term.weights, k)),
                2 => {
                    let (low, high) = (term.weights[k / 2] as f64, term.weights[k / 2 + 1] as f64);
                    _mm256_setr_pd(low, low, high, high)
                }
                run => _mm256_set1_pd(term.weights[k / run] as f64),
            };
            sum_0 = prime.add(sum_0, prime.mul(load(quad(term.x0, k)), weight));
            sum_1 = prime.add(sum_1, prime.mul(load(quad(term.x1, k)), weight));
        }
        store(quad_mut(out_0, k), sum_0);
        store(quad_mut(out_1, k), sum_1);
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn combine(targets: &mut [CombineTarget<'_>], inputs: &[&[u64]]) {
    for target in targets {
        let prime = Prime::new(target.q);
        let whole = target.out.len() / WIDTH * WIDTH;
        for k in (0..whole).step_by(WIDTH) {
            let mut sum = _mm256_setzero_pd();
            for (x, &constant) in inputs.iter().zip(target.constants) {
                sum = prime.add(sum, prime.mul(load(quad(x, k)), _mm256_set1_pd(constant as f64)));
            }
            store(quad_mut(target.out, k), sum);
        }
        scalar::combine_one(target, inputs, whole);
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn quotients(out: &mut [u64], inputs: &[&[u64]], reciprocals: &[f64]) {
    let whole = out.len() / WIDTH * WIDTH;
    for k in (0..whole).step_by(WIDTH) {
        let mut sum = _mm256_set1_pd(0.5);
        for (x, &reciprocal) in inputs.iter().zip(reciprocals) {
            // Two roundings, not one fused: as the reference does.
            sum = _mm256_add_pd(sum, _mm256_mul_pd(load(quad(x, k)), _mm256_set1_pd(reciprocal)));
        }
        store(quad_mut(out, k), _mm256_floor_pd(sum));
    }
    if whole < out.len() {
        let tails: Vec<_> = inputs.iter().map(|x| &x[whole..]).collect();
        scalar::quotients(&mut out[whole..], &tails, reciprocals);
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn recenter(q: &Modulus, out: &mut [u64], x: &[u64], from: &Modulus) {
    let prime = Prime::new(q);
    let (modulus, half) = (_mm256_set1_pd(from.value() as f64), _mm256_set1_pd((from.value() / 2) as f64));
    let ((out, out_tail), (x, x_tail)) = (out.as_chunks_mut(), x.as_chunks());
    for (out, x) in out.iter_mut().zip(x) {
        let x = load(x);
        let above = _mm256_cmp_pd::<_CMP_GT_OQ>(x, half);
        store(out, prime.reduce(_mm256_sub_pd(x, _mm256_and_pd(above, modulus))));
    }
    scalar::recenter(q, out_tail, x_tail, from);
}

/// 64-bit integers exceed the exact range of `f64`; the reference is used.
#[target_feature(enable = "avx2,fma")]
pub(super) fn from_i64(q: &Modulus, out: &mut [u64], x: &[i64]) {
    scalar::from_i64(q, out, x);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn from_i32(q: &Modulus, out: &mut [u64], x: &[i32]) {
    let prime = Prime::new(q);
    let ((out, out_tail), (x, x_tail)) = (out.as_chunks_mut::<WIDTH>(), x.as_chunks::<WIDTH>());
    for (out, x) in out.iter_mut().zip(x) {
        let x = _mm256_cvtepi32_pd(_mm_setr_epi32(x[0], x[1], x[2], x[3]));
        store(out, prime.reduce(x));
    }
    scalar::from_i32(q, out_tail, x_tail);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn permute(out: &mut [u64], x: &[u64], permutation: &Automorphism) {
    for k in (0..out.len()).step_by(WIDTH) {
        *quad_mut(out, k) = permuted(x, permutation, k);
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn permute_add(q: &Modulus, out: &mut [u64], x: &[u64], permutation: &Automorphism) {
    let prime = Prime::new(q);
    for k in (0..out.len()).step_by(WIDTH) {
        let sum = prime.add(load(quad(out, k)), load(&permuted(x, permutation, k)));
        store(quad_mut(out, k), sum);
    }
}
