//! Products with plaintexts, from their coefficients.
//!
//! The transform's last layers are done row by row, and each row is multiplied with all its operands while it is in the
//! first-level cache: weights never go to memory as values. The polynomial of real slots takes one value at a root of unity and
//! at its inverse. In bit-reversed order value `n-1-i` equals value `i`, so that half a transform gives all.

use std::arch::x86_64::*;

use smallvec::SmallVec;

use super::ifma::{BATCH, PairSums, Prime, STEP, lines, load, prefetch, splat, spread, store};
use super::ifma_ntt::{IfmaNtt, ROW, ROW_LINES, Root};
use super::scalar;
use super::{Values, WeightedTerm};
use crate::arith::{Modulus, ShoupFactor};
use crate::ring::automorphism::LINE;

/// Lines of each half per step: with their mirror images they are those of [`PairSums`].
const HALF: usize = STEP / 2;

impl Values {
    /// The smallest transform with rows and columns in what it computes.
    pub(super) const fn smallest(self) -> usize {
        match self {
            Self::All => 2 * ROW,
            Self::Pairs => 4 * ROW,
        }
    }

    fn root(self) -> Root {
        match self {
            Self::All => Root::WHOLE,
            Self::Pairs => Root::FIRST_HALF,
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn mirrored(x: __m512i) -> __m512i {
    _mm512_permutexvar_epi64(_mm512_set_epi64(0, 1, 2, 3, 4, 5, 6, 7), x)
}

#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub(super) fn sub_mirrored_times(q: &Modulus, a: &mut [u64], w: ShoupFactor) {
    let prime = Prime::new(q);
    let (value, quotient) = (splat(w.value), splat(w.quotient));
    let n = a.len();
    // Word `k` goes with word `n - k`: from the second word on, whole lines of each half that do not meet.
    let whole = (n / 2).saturating_sub(LINE) / LINE * LINE;
    for k in (1..=whole).step_by(LINE) {
        let [x] = lines(a, k);
        let [y] = lines(a, n - k - (LINE - 1));
        let (x, y) = (load(x), mirrored(load(y)));
        let low = prime.sub(x, prime.mul_factor(y, value, quotient));
        let high = mirrored(prime.sub(y, prime.mul_factor(x, value, quotient)));
        let [line] = super::ifma::lines_mut(a, k);
        store(line, low);
        let [line] = super::ifma::lines_mut(a, n - k - (LINE - 1));
        store(line, high);
    }
    scalar::sub_mirrored_times_from(q, a, w, whole + 1);
}

impl IfmaNtt {
    /// `out += sum (x0, x1) * weights`: see [`VectorNtt::dot_add`](super::VectorNtt::dot_add).
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn dot_add(
        &self,
        values: Values,
        out: &mut [[&mut [u64]; 2]],
        weights: &mut [&mut [u64]],
        terms: &[WeightedTerm<'_>],
    ) {
        for weights in weights.iter_mut() {
            self.forward_columns(weights.as_chunks_mut().0, values.root());
        }
        let n = terms.first().map_or(0, |term| term.x0.len());
        let log_run = (n / self.size()).trailing_zeros();
        let (operands, count) = (operands(terms), weights.len());
        let words = weights.first().map_or(0, |weights| weights.len());
        for row in 0..words / ROW {
            for (i, weights) in weights.iter_mut().enumerate() {
                // Spread over the transforms of the row, which take as long as the memory does.
                let share = i * operands.len() / count..(i + 1) * operands.len() / count;
                fetch(values, &operands[share], row * ROW, log_run);
                let lines: &mut [[u64; LINE]] = weights.as_chunks_mut().0;
                self.forward_row(row, &mut lines[row * ROW_LINES..(row + 1) * ROW_LINES]);
            }
            for terms in terms.chunk_by(|x, y| x.target == y.target) {
                let [c0, c1] = &mut out[terms[0].target];
                for batch in terms.chunks(BATCH) {
                    let (out, place) = ([&mut **c0, &mut **c1], (row * ROW, log_run));
                    match values {
                        Values::All => multiply_row(self.modulus(), out, weights, batch, place),
                        Values::Pairs => multiply_mirrored_row(self.modulus(), out, weights, batch, place),
                    }
                }
            }
        }
    }
}

/// The limbs of all operands, each once.
fn operands<'a>(terms: &[WeightedTerm<'a>]) -> SmallVec<[&'a [u64]; 32]> {
    let mut limbs: SmallVec<[&[u64]; 32]> = terms.iter().flat_map(|term| [term.x0, term.x1]).collect();
    limbs.sort_by_key(|limb| limb.as_ptr());
    limbs.dedup_by_key(|limb| limb.as_ptr());
    limbs
}

/// Asks for a row of limbs, and for its mirror image where values come in pairs.
#[inline]
fn fetch(values: Values, limbs: &[&[u64]], first: usize, log_run: u32) {
    for limb in limbs {
        for k in (first << log_run..(first + ROW) << log_run).step_by(STEP * LINE) {
            prefetch(limb, k);
            if values == Values::Pairs {
                prefetch(limb, limb.len() - k - STEP * LINE);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn line(x: &[u64], place: usize) -> __m512i {
    let [line] = lines(x, place);
    load(line)
}

/// The weights of the line at a place of the operands.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn weight(weights: &[u64], place: usize, log_run: u32) -> __m512i {
    match log_run {
        0 => line(weights, place),
        _ => spread(&weights[place >> log_run..], log_run),
    }
}

/// `out += sums` at some lines.
macro_rules! accumulated {
    ($prime:ident, $out:ident, $places:ident, $lazy:ident, $products:block) => {{
        let mut sums = [[_mm512_setzero_si512(); STEP]; 2];
        for (sums, out) in sums.iter_mut().zip($out.iter()) {
            for (sum, &place) in sums.iter_mut().zip(&$places) {
                *sum = line(out, place);
            }
        }
        let mut $lazy = PairSums::starting_at(sums);
        $products
        for (sums, out) in $lazy.fold($prime).iter().zip($out.iter_mut()) {
            for (&sum, &place) in sums.iter().zip(&$places) {
                let [line] = super::ifma::lines_mut(out, place);
                store(line, sum);
            }
        }
    }};
}

/// The products with the `ROW` weights from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn multiply_row(
    q: &Modulus,
    mut out: [&mut [u64]; 2],
    weights: &[&mut [u64]],
    terms: &[WeightedTerm<'_>],
    (first, log_run): (usize, u32),
) {
    let prime = Prime::new(q);
    for k in (first << log_run..(first + ROW) << log_run).step_by(STEP * LINE) {
        let places: [usize; STEP] = std::array::from_fn(|line| k + line * LINE);
        accumulated!(prime, out, places, lazy, {
            for term in terms {
                for (i, &place) in places.iter().enumerate() {
                    let weight = weight(weights[term.weights], place, log_run);
                    lazy.add(i, weight, line(term.x0, place), line(term.x1, place));
                }
            }
        });
    }
}

/// The products with the `ROW` weights from `first` on, and those of the mirrored positions.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn multiply_mirrored_row(
    q: &Modulus,
    mut out: [&mut [u64]; 2],
    weights: &[&mut [u64]],
    terms: &[WeightedTerm<'_>],
    (first, log_run): (usize, u32),
) {
    let (prime, n) = (Prime::new(q), out[0].len());
    for k in (first << log_run..(first + ROW) << log_run).step_by(HALF * LINE) {
        let places: [usize; STEP] = [k, k + LINE, n - k - LINE, n - k - 2 * LINE];
        accumulated!(prime, out, places, lazy, {
            for term in terms {
                for half in 0..HALF {
                    let weight = weight(weights[term.weights], k + half * LINE, log_run);
                    let place = places[half];
                    lazy.add(half, weight, line(term.x0, place), line(term.x1, place));
                    let (weight, place) = (mirrored(weight), places[HALF + half]);
                    lazy.add(HALF + half, weight, line(term.x0, place), line(term.x1, place));
                }
            }
        });
    }
}
