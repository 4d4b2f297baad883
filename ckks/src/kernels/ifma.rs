//! AVX-512 kernels on the 52-bit multiply-add instructions (IFMA).
//!
//! A product of residues is its low and its high 52 bits; up to [`BATCH`] products are summed in each half before one
//! reduction. Safe code throughout but for the unaligned loads and stores.
#![allow(
    clippy::needless_range_loop,
    reason = "indices name lines, targets and parts across several register arrays"
)]

use super::{CombineTarget, KeyTerm, PlainTerm, scalar};
use crate::arith::{Modulus, ShoupFactor};
use crate::ring::automorphism::{Automorphism, LINE};
use smallvec::SmallVec;
use std::arch::x86_64::*;

pub(super) use super::ifma_products::sub_mirrored_times;

/// Products per lazy sum: 15 high halves below 2^48 and the carries of 16 low halves stay below 2^52.
pub(super) const BATCH: usize = 15;
/// Lines per step of the multi-stream kernels: 4 lines x 4 sums fill half the register file.
pub(super) const STEP: usize = 4;
/// Targets of a base conversion per pass over the inputs.
const GROUP: usize = 4;
/// Words by which keys are fetched ahead: the processor follows fewer streams by itself than a key has digits.
const AHEAD: usize = 16 * LINE;
const WORD52: i64 = (1 << 52) - 1;

/// A modulus in registers.
#[derive(Clone, Copy)]
pub(super) struct Prime {
    q: __m512i,
    two_q: __m512i,
    word_quotient: __m512i,
    radix: __m512i,
    radix_quotient: __m512i,
    mask: __m512i,
    zero: __m512i,
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn splat(x: u64) -> __m512i {
    _mm512_set1_epi64(x as i64)
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn load(x: &[u64; LINE]) -> __m512i {
    // SAFETY: the reference covers 64 readable bytes and the load has no alignment demand.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn load_i64(x: &[i64; LINE]) -> __m512i {
    // SAFETY: the reference covers 64 readable bytes and the load has no alignment demand.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn load_i32(x: &[i32; LINE]) -> __m512i {
    // SAFETY: the reference covers 32 readable bytes and the load has no alignment demand.
    _mm512_cvtepi32_epi64(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn store(x: &mut [u64; LINE], value: __m512i) {
    // SAFETY: the reference covers 64 writable bytes and the store has no alignment demand.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), value) }
}

/// Asks for a step of lines of `x` from position `k` on, to the second-level cache.
#[inline]
pub(super) fn prefetch(x: &[u64], k: usize) {
    if let Some(lines) = x.get(k..k + STEP * LINE) {
        for line in lines.as_chunks::<LINE>().0 {
            // SAFETY: a prefetch reads nothing that the program sees, and the address is that of a reference.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }
}

/// `LINES` lines of `x` from position `k` on.
#[inline]
pub(super) fn lines<const LINES: usize>(x: &[u64], k: usize) -> &[[u64; LINE]; LINES] {
    x[k..k + LINE * LINES].as_chunks().0.try_into().expect("the slice holds this many lines")
}

#[inline]
pub(super) fn lines_mut<const LINES: usize>(x: &mut [u64], k: usize) -> &mut [[u64; LINE]; LINES] {
    x[k..k + LINE * LINES].as_chunks_mut().0.try_into().expect("the slice holds this many lines")
}

impl Prime {
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn new(q: &Modulus) -> Self {
        Self {
            q: splat(q.value()),
            two_q: splat(2 * q.value()),
            word_quotient: splat(q.word_quotient()),
            radix: splat(q.radix().value),
            radix_quotient: splat(q.radix().quotient),
            mask: _mm512_set1_epi64(WORD52),
            zero: _mm512_setzero_si512(),
        }
    }

    /// `[0, 2q) -> [0, q)`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn once(self, x: __m512i) -> __m512i {
        _mm512_min_epu64(x, _mm512_sub_epi64(x, self.q))
    }

    /// `[0, 4q) -> [0, q)`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn twice(self, x: __m512i) -> __m512i {
        self.once(_mm512_min_epu64(x, _mm512_sub_epi64(x, self.two_q)))
    }

    /// `(low - quotient * q) mod 2^52`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn rest(self, low: __m512i, quotient: __m512i) -> __m512i {
        let multiple = _mm512_madd52lo_epu64(self.zero, quotient, self.q);
        _mm512_and_si512(_mm512_sub_epi64(low, multiple), self.mask)
    }

    /// `high * 2^52 + low mod q` for `high + (low >> 52) < 2^52`: constant multiplication of the high word by
    /// `2^52 mod q` and Barrett reduction of the low word share one quotient.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn fold(self, low: __m512i, high: __m512i) -> __m512i {
        let high = _mm512_add_epi64(high, _mm512_srli_epi64::<52>(low));
        let quotient = _mm512_madd52hi_epu64(self.zero, high, self.radix_quotient);
        let quotient = _mm512_madd52hi_epu64(quotient, low, self.word_quotient);
        let low = _mm512_madd52lo_epu64(low, high, self.radix);
        self.twice(self.rest(low, quotient))
    }

    /// `x mod q` for `x < 2^52`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn reduce(self, x: __m512i) -> __m512i {
        self.once(self.rest(x, _mm512_madd52hi_epu64(self.zero, x, self.word_quotient)))
    }

    /// `x * w mod q` for `x < 2^52`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn mul_factor(self, x: __m512i, value: __m512i, quotient: __m512i) -> __m512i {
        let quotient = _mm512_madd52hi_epu64(self.zero, x, quotient);
        self.once(self.rest(_mm512_madd52lo_epu64(self.zero, x, value), quotient))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        let difference = _mm512_sub_epi64(a, b);
        _mm512_min_epu64(difference, _mm512_add_epi64(difference, self.q))
    }

    /// `-x` where `negative`, for `x < q`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn negate_where(self, negative: __mmask8, x: __m512i) -> __m512i {
        let nonzero = _mm512_test_epi64_mask(x, x);
        _mm512_mask_sub_epi64(x, negative & nonzero, self.q, x)
    }
}

/// Barrett multiplication of two variable residues.
#[derive(Clone, Copy)]
struct Product {
    prime: Prime,
    shift: __m512i,
    quotient: __m512i,
}

impl Product {
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn new(q: &Modulus) -> Self {
        let shift = splat(u64::from(52 - q.bits()));
        Self { prime: Prime::new(q), shift, quotient: splat(q.product_quotient()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn of(self, a: __m512i, b: __m512i) -> __m512i {
        let Prime { zero, .. } = self.prime;
        // floor(a*b / 2^bits), then an estimate at most 3 below floor(a*b / q).
        let head = _mm512_madd52hi_epu64(zero, a, _mm512_sllv_epi64(b, self.shift));
        let quotient = _mm512_madd52hi_epu64(zero, _mm512_slli_epi64::<1>(head), self.quotient);
        self.prime.twice(self.prime.rest(_mm512_madd52lo_epu64(zero, a, b), quotient))
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn add_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    let prime = Prime::new(q);
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks_mut(), b.as_chunks());
    for (a, b) in a.iter_mut().zip(b) {
        store(a, prime.once(_mm512_add_epi64(load(a), load(b))));
    }
    scalar::add_assign(q, a_tail, b_tail);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn sub_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    let prime = Prime::new(q);
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks_mut(), b.as_chunks());
    for (a, b) in a.iter_mut().zip(b) {
        store(a, prime.sub(load(a), load(b)));
    }
    scalar::sub_assign(q, a_tail, b_tail);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn neg_assign(q: &Modulus, a: &mut [u64]) {
    let prime = Prime::new(q);
    let (a, tail) = a.as_chunks_mut();
    for a in a {
        store(a, prime.negate_where(0xff, load(a)));
    }
    scalar::neg_assign(q, tail);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn mul(q: &Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
    let product = Product::new(q);
    let (out, out_tail) = out.as_chunks_mut();
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks(), b.as_chunks());
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        store(out, product.of(load(a), load(b)));
    }
    scalar::mul(q, out_tail, a_tail, b_tail);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn mul_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    let product = Product::new(q);
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks_mut(), b.as_chunks());
    for (a, b) in a.iter_mut().zip(b) {
        store(a, product.of(load(a), load(b)));
    }
    scalar::mul_assign(q, a_tail, b_tail);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn mul_scalar_assign(q: &Modulus, a: &mut [u64], w: ShoupFactor) {
    let prime = Prime::new(q);
    let (value, quotient) = (splat(w.value), splat(w.quotient));
    let (a, tail) = a.as_chunks_mut();
    for a in a {
        store(a, prime.mul_factor(load(a), value, quotient));
    }
    scalar::mul_scalar_assign(q, tail, w);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn sub_mul_scalar_assign(q: &Modulus, a: &mut [u64], b: &[u64], w: ShoupFactor) {
    let prime = Prime::new(q);
    let (value, quotient) = (splat(w.value), splat(w.quotient));
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks_mut(), b.as_chunks());
    for (a, b) in a.iter_mut().zip(b) {
        store(a, prime.mul_factor(prime.sub(load(a), load(b)), value, quotient));
    }
    scalar::sub_mul_scalar_assign(q, a_tail, b_tail, w);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn mul_scalar_add_assign(q: &Modulus, out: &mut [u64], a: &[u64], w: ShoupFactor) {
    let prime = Prime::new(q);
    let (value, quotient) = (splat(w.value), splat(w.quotient));
    let ((out, out_tail), (a, a_tail)) = (out.as_chunks_mut(), a.as_chunks());
    for (out, a) in out.iter_mut().zip(a) {
        store(out, prime.once(_mm512_add_epi64(load(out), prime.mul_factor(load(a), value, quotient))));
    }
    scalar::mul_scalar_add_assign(q, out_tail, a_tail, w);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn dot_add(q: &Modulus, out: &mut [u64], terms: &[(&[u64], &[u64])]) {
    let prime = Prime::new(q);
    let whole = out.len() / LINE * LINE;
    for k in (0..whole).step_by(LINE) {
        let [line] = lines_mut(out, k);
        let mut sum = load(line);
        for batch in terms.chunks(BATCH) {
            let (mut low, mut high) = (sum, prime.zero);
            for (x, y) in batch {
                let ([x], [y]) = (lines(x, k), lines(y, k));
                let (x, y) = (load(x), load(y));
                low = _mm512_madd52lo_epu64(low, x, y);
                high = _mm512_madd52hi_epu64(high, x, y);
            }
            sum = prime.fold(low, high);
        }
        store(line, sum);
    }
    if whole < out.len() {
        let tails: Vec<_> = terms.iter().map(|(x, y)| (&x[whole..], &y[whole..])).collect();
        scalar::dot_add(q, &mut out[whole..], &tails);
    }
}

/// Lazy sums of two products with one common factor on `STEP` lines.
#[derive(Clone, Copy)]
pub(super) struct PairSums {
    low: [[__m512i; STEP]; 2],
    high: [[__m512i; STEP]; 2],
}

impl PairSums {
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn starting_at(low: [[__m512i; STEP]; 2]) -> Self {
        Self { low, high: [[_mm512_setzero_si512(); STEP]; 2] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn add(&mut self, line: usize, common: __m512i, first: __m512i, second: __m512i) {
        self.low[0][line] = _mm512_madd52lo_epu64(self.low[0][line], common, first);
        self.high[0][line] = _mm512_madd52hi_epu64(self.high[0][line], common, first);
        self.low[1][line] = _mm512_madd52lo_epu64(self.low[1][line], common, second);
        self.high[1][line] = _mm512_madd52hi_epu64(self.high[1][line], common, second);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn fold(self, prime: Prime) -> [[__m512i; STEP]; 2] {
        let mut reduced = self.low;
        for part in 0..2 {
            for line in 0..STEP {
                reduced[part][line] = prime.fold(self.low[part][line], self.high[part][line]);
            }
        }
        reduced
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn load_pair(x: &[&mut [u64]; 2], k: usize) -> [[__m512i; STEP]; 2] {
    let mut loaded = [[_mm512_setzero_si512(); STEP]; 2];
    for part in 0..2 {
        let x = lines::<STEP>(x[part], k);
        for line in 0..STEP {
            loaded[part][line] = load(&x[line]);
        }
    }
    loaded
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn store_pair(x: &mut [&mut [u64]; 2], k: usize, values: [[__m512i; STEP]; 2]) {
    for part in 0..2 {
        let x = lines_mut::<STEP>(x[part], k);
        for line in 0..STEP {
            store(&mut x[line], values[part][line]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn key_dot(
    q: &Modulus,
    mut out: [&mut [u64]; 2],
    terms: &[KeyTerm<'_>],
    permutation: &Automorphism,
    range: std::ops::Range<usize>,
) {
    let prime = Prime::new(q);
    let (sources, _) = permutation.lines().as_chunks::<STEP>();
    let shuffles = permutation.shuffles();
    let whole = sources.len() * STEP * LINE;
    for (step, sources) in sources.iter().enumerate() {
        let k = step * STEP * LINE;
        let mut sums = [[prime.zero; STEP]; 2];
        for batch in terms.chunks(BATCH) {
            let mut lazy = PairSums::starting_at(sums);
            for term in batch {
                let (b, a) = (lines::<STEP>(term.b, k), lines::<STEP>(term.a, k));
                prefetch(term.b, k + AHEAD);
                prefetch(term.a, k + AHEAD);
                let digit = term.digit.as_chunks::<LINE>().0;
                for line in 0..STEP {
                    let source = sources[line];
                    let shuffle = load(&shuffles[(source & 7) as usize]);
                    let x = _mm512_permutexvar_epi64(shuffle, load(&digit[(source >> 3) as usize]));
                    lazy.add(line, x, load(&b[line]), load(&a[line]));
                }
            }
            sums = lazy.fold(prime);
        }
        store_pair(&mut out, k, sums);
    }
    scalar::key_dot(q, out, terms, permutation, whole..range.end);
}

/// A line of runs of `2^log_run > 1` equal weights, from the weight of its first word on.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn spread(weights: &[u64], log_run: u32) -> __m512i {
    match log_run {
        1 => {
            let [a, b, c, d] = std::array::from_fn(|i| weights[i] as i64);
            _mm512_set_epi64(d, d, c, c, b, b, a, a)
        }
        2 => {
            let [a, b] = std::array::from_fn(|i| weights[i] as i64);
            _mm512_set_epi64(b, b, b, b, a, a, a, a)
        }
        _ => splat(weights[0]),
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn plain_dot_add(
    q: &Modulus,
    mut out: [&mut [u64]; 2],
    terms: &[PlainTerm<'_>],
    range: std::ops::Range<usize>,
) {
    let prime = Prime::new(q);
    let n = range.end;
    let whole = n / (STEP * LINE) * (STEP * LINE);
    let log_runs: SmallVec<[u32; 64]> =
        terms.iter().map(|t| (n / t.weights.len()).trailing_zeros()).collect();
    for k in (0..whole).step_by(STEP * LINE) {
        let mut sums = load_pair(&out, k);
        for (batch, log_runs) in terms.chunks(BATCH).zip(log_runs.chunks(BATCH)) {
            let mut lazy = PairSums::starting_at(sums);
            for (term, &log_run) in batch.iter().zip(log_runs) {
                let (x0, x1) = (lines::<STEP>(term.x0, k), lines::<STEP>(term.x1, k));
                if log_run == 0 {
                    let weights = lines::<STEP>(term.weights, k);
                    for line in 0..STEP {
                        lazy.add(line, load(&weights[line]), load(&x0[line]), load(&x1[line]));
                    }
                } else {
                    for line in 0..STEP {
                        let weight = spread(&term.weights[(k + line * LINE) >> log_run..], log_run);
                        lazy.add(line, weight, load(&x0[line]), load(&x1[line]));
                    }
                }
            }
            sums = lazy.fold(prime);
        }
        store_pair(&mut out, k, sums);
    }
    scalar::plain_dot_add(q, out, terms, whole..n);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn combine(targets: &mut [CombineTarget<'_>], inputs: &[&[u64]]) {
    let (groups, rest) = targets.as_chunks_mut::<GROUP>();
    for group in groups {
        combine_group::<GROUP, 2>(group, inputs);
    }
    for target in rest.as_chunks_mut::<1>().0 {
        combine_group::<1, STEP>(target, inputs);
    }
}

/// `T` targets on `L` lines at a time: each input is loaded once for all of them.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn combine_group<const T: usize, const L: usize>(targets: &mut [CombineTarget<'_>; T], inputs: &[&[u64]]) {
    let mut primes = [Prime::new(targets[0].q); T];
    for t in 1..T {
        primes[t] = Prime::new(targets[t].q);
    }
    let constants: SmallVec<[[u64; T]; 32]> =
        (0..inputs.len()).map(|i| std::array::from_fn(|t| targets[t].constants[i])).collect();
    let zero = _mm512_setzero_si512();
    let whole = targets[0].out.len() / (L * LINE) * (L * LINE);
    for k in (0..whole).step_by(L * LINE) {
        let mut sums = [[zero; L]; T];
        for start in (0..inputs.len()).step_by(BATCH) {
            let (mut low, mut high) = (sums, [[zero; L]; T]);
            for i in start..inputs.len().min(start + BATCH) {
                let x = lines::<L>(inputs[i], k);
                let factors = &constants[i];
                for line in 0..L {
                    let x = load(&x[line]);
                    for t in 0..T {
                        let factor = splat(factors[t]);
                        low[t][line] = _mm512_madd52lo_epu64(low[t][line], x, factor);
                        high[t][line] = _mm512_madd52hi_epu64(high[t][line], x, factor);
                    }
                }
            }
            for t in 0..T {
                for line in 0..L {
                    sums[t][line] = primes[t].fold(low[t][line], high[t][line]);
                }
            }
        }
        for t in 0..T {
            let out = lines_mut::<L>(targets[t].out, k);
            for line in 0..L {
                store(&mut out[line], sums[t][line]);
            }
        }
    }
    for target in targets {
        scalar::combine_one(target, inputs, whole);
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn quotients(out: &mut [u64], inputs: &[&[u64]], reciprocals: &[f64]) {
    let whole = out.len() / LINE * LINE;
    for k in (0..whole).step_by(LINE) {
        let mut sum = _mm512_set1_pd(0.5);
        for (x, &reciprocal) in inputs.iter().zip(reciprocals) {
            let [x] = lines(x, k);
            let fraction = _mm512_mul_pd(_mm512_cvtepu64_pd(load(x)), _mm512_set1_pd(reciprocal));
            sum = _mm512_add_pd(sum, fraction);
        }
        let [line] = lines_mut(out, k);
        store(line, _mm512_cvttpd_epu64(sum));
    }
    if whole < out.len() {
        let tails: Vec<_> = inputs.iter().map(|x| &x[whole..]).collect();
        scalar::quotients(&mut out[whole..], &tails, reciprocals);
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn recenter(q: &Modulus, out: &mut [u64], x: &[u64], from: &Modulus) {
    let prime = Prime::new(q);
    let (modulus, half) = (splat(from.value()), splat(from.value() / 2));
    let ((out, out_tail), (x, x_tail)) = (out.as_chunks_mut(), x.as_chunks());
    for (out, x) in out.iter_mut().zip(x) {
        let x = load(x);
        let negative = _mm512_cmpgt_epu64_mask(x, half);
        let magnitude = _mm512_mask_sub_epi64(x, negative, modulus, x);
        store(out, prime.negate_where(negative, prime.reduce(magnitude)));
    }
    scalar::recenter(q, out_tail, x_tail, from);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn from_i64(q: &Modulus, out: &mut [u64], x: &[i64]) {
    let prime = Prime::new(q);
    let ((out, out_tail), (x, x_tail)) = (out.as_chunks_mut(), x.as_chunks());
    for (out, x) in out.iter_mut().zip(x) {
        let x = load_i64(x);
        let residue = prime.fold(_mm512_abs_epi64(x), prime.zero);
        store(out, prime.negate_where(_mm512_movepi64_mask(x), residue));
    }
    scalar::from_i64(q, out_tail, x_tail);
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn from_i32(q: &Modulus, out: &mut [u64], x: &[i32]) {
    let prime = Prime::new(q);
    let ((out, out_tail), (x, x_tail)) = (out.as_chunks_mut(), x.as_chunks());
    for (out, x) in out.iter_mut().zip(x) {
        let x = load_i32(x);
        let residue = prime.reduce(_mm512_abs_epi64(x));
        store(out, prime.negate_where(_mm512_movepi64_mask(x), residue));
    }
    scalar::from_i32(q, out_tail, x_tail);
}

/// One line of the permuted limb.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn permuted(x: &[[u64; LINE]], permutation: &Automorphism, source: u32) -> __m512i {
    let shuffle = load(&permutation.shuffles()[(source & 7) as usize]);
    _mm512_permutexvar_epi64(shuffle, load(&x[(source >> 3) as usize]))
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn permute(out: &mut [u64], x: &[u64], permutation: &Automorphism) {
    let ((out, _), (x, _)) = (out.as_chunks_mut(), x.as_chunks());
    for (out, &source) in out.iter_mut().zip(permutation.lines()) {
        store(out, permuted(x, permutation, source));
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn permute_add(q: &Modulus, out: &mut [u64], x: &[u64], permutation: &Automorphism) {
    let prime = Prime::new(q);
    let ((out, _), (x, _)) = (out.as_chunks_mut(), x.as_chunks());
    for (out, &source) in out.iter_mut().zip(permutation.lines()) {
        store(out, prime.once(_mm512_add_epi64(load(out), permuted(x, permutation, source))));
    }
}
