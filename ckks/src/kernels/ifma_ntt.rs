//! The negacyclic transform on AVX-512 IFMA, in two passes over memory.
//!
//! A limb of `n = rows * 256` words is a matrix. The first pass does the upper `log2 rows` layers of butterflies on eight
//! columns at a time, which fit the first-level cache; the second does the last eight layers row by row. Within a pass, up
//! to four layers (radix 16) are done in registers between a load and a store. Values stay below `4q < 2^52` until the end.
//!
//! The tables of a prime are larger than a limb, so the second pass takes several limbs of one prime side by side and reads
//! its twiddles once for all of them.

use std::arch::x86_64::*;

use super::ifma::{load, splat, store};
use crate::arith::{Modulus, ShoupFactor};
use crate::ring::automorphism::LINE;

type Vector = __m512i;
type Line = [u64; LINE];

/// Words of a row.
const ROW: usize = 256;
/// Lines of a row.
const ROW_LINES: usize = ROW / LINE;
/// Widest step between a load and a store.
const RADIX: usize = 16;
/// Lines of a table for eight groups of sixteen words: fifteen factors and their quotients.
const FINE: usize = 2 * (RADIX - 1);
/// The smallest transform: two rows and the butterflies between them.
pub(super) const SMALLEST: usize = 2 * ROW;
/// The largest: the columns take two steps.
pub(super) const LARGEST: usize = RADIX * RADIX * ROW;

/// Twiddles of one direction, by node of the binary tree of butterflies: node `2^l + i` is block `i` of layer `l`.
#[derive(Debug)]
struct Twiddles {
    /// Of all layers but the last four.
    coarse: Box<[ShoupFactor]>,
    /// Of the last four layers: for each eight neighbouring blocks of sixteen words, [`FINE`] lines of eight.
    fine: Box<[Line]>,
}

impl Twiddles {
    /// From the factor of each node.
    fn new(n: usize, factor: impl Fn(usize) -> ShoupFactor) -> Self {
        let groups = n / RADIX;
        let coarse = (0..groups).map(&factor).collect();
        let line = |index: usize| -> Line {
            let (first, rest) = (index / FINE * LINE, index % FINE);
            let node = rest / 2 + 1;
            std::array::from_fn(|lane| {
                let factor = factor(descendant(groups + first + lane, node));
                if rest % 2 == 0 { factor.value } else { factor.quotient }
            })
        };
        Self { coarse, fine: (0..groups / LINE * FINE).map(line).collect() }
    }
}

/// The node that is at `place` in the subtree of `root`, where the root is at place 1.
#[inline]
fn descendant(root: usize, place: usize) -> usize {
    ((root - 1) << place.ilog2()) + place
}

/// Tables for one prime and one size.
#[derive(Debug)]
pub(crate) struct IfmaNtt {
    modulus: Modulus,
    n: usize,
    forward: Twiddles,
    inverse: Twiddles,
}

/// A modulus in registers.
#[derive(Clone, Copy)]
struct Ring {
    q: Vector,
    two_q: Vector,
    /// `2^52 - q`, to subtract multiples of `q` by adding modulo 2^52.
    negative: Vector,
    mask: Vector,
    zero: Vector,
}

#[derive(Clone, Copy)]
struct Factor {
    value: Vector,
    quotient: Vector,
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn splat(factor: ShoupFactor) -> Self {
        Self { value: splat(factor.value), quotient: splat(factor.quotient) }
    }
}

impl Ring {
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn new(q: &Modulus) -> Self {
        Self {
            q: splat(q.value()),
            two_q: splat(2 * q.value()),
            negative: splat((1 << 52) - q.value()),
            mask: splat((1 << 52) - 1),
            zero: _mm512_setzero_si512(),
        }
    }

    /// `x * w` in `[0, 2q)` for `x < 2^52`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn mul(self, x: Vector, w: Factor) -> Vector {
        let quotient = _mm512_madd52hi_epu64(self.zero, x, w.quotient);
        let low = _mm512_madd52lo_epu64(self.zero, x, w.value);
        _mm512_and_si512(_mm512_madd52lo_epu64(low, quotient, self.negative), self.mask)
    }

    /// `[0, 4q) -> [0, 2q)`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn halve(self, x: Vector) -> Vector {
        _mm512_min_epu64(x, _mm512_sub_epi64(x, self.two_q))
    }

    /// `[0, 2q) -> [0, q)`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn once(self, x: Vector) -> Vector {
        _mm512_min_epu64(x, _mm512_sub_epi64(x, self.q))
    }

    /// `(x + w*y, x - w*y)`, all below `4q`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn forward(self, x: Vector, y: Vector, w: Factor) -> (Vector, Vector) {
        let (x, y) = (self.halve(x), self.mul(y, w));
        (_mm512_add_epi64(x, y), _mm512_sub_epi64(_mm512_add_epi64(x, self.two_q), y))
    }

    /// `(x + y, (x - y)*w)`, all below `2q`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn inverse(self, x: Vector, y: Vector, w: Factor) -> (Vector, Vector) {
        let difference = _mm512_sub_epi64(_mm512_add_epi64(x, self.two_q), y);
        (self.halve(_mm512_add_epi64(x, y)), self.mul(difference, w))
    }

    /// The last butterfly of the inverse: `((x + y)*u, (x - y)*w)`, canonical.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn inverse_last(self, x: Vector, y: Vector, [u, w]: [Factor; 2]) -> (Vector, Vector) {
        let difference = _mm512_sub_epi64(_mm512_add_epi64(x, self.two_q), y);
        (self.once(self.mul(_mm512_add_epi64(x, y), u)), self.once(self.mul(difference, w)))
    }
}

/// One butterfly on registers `$i` and `$j` of `$x`.
macro_rules! butterflies {
    ($ring:ident.$kind:ident, $x:ident, $factor:expr, $($i:literal $j:literal),+) => {{
        let factor = $factor;
        $( ($x[$i], $x[$j]) = $ring.$kind($x[$i], $x[$j], factor); )+
    }};
}

/// The layers of distance 8, 4, 2 or 1 within sixteen registers; `$w` gives the factor at a place of the tree of this radix.
macro_rules! layer {
    (8, $ring:ident.$kind:ident, $x:ident, $w:ident) => {
        butterflies!($ring.$kind, $x, $w(1), 0 8, 1 9, 2 10, 3 11, 4 12, 5 13, 6 14, 7 15)
    };
    (4 of 16, $ring:ident.$kind:ident, $x:ident, $w:ident) => {{
        butterflies!($ring.$kind, $x, $w(2), 0 4, 1 5, 2 6, 3 7);
        butterflies!($ring.$kind, $x, $w(3), 8 12, 9 13, 10 14, 11 15);
    }};
    (2 of 16, $ring:ident.$kind:ident, $x:ident, $w:ident) => {{
        butterflies!($ring.$kind, $x, $w(4), 0 2, 1 3);
        butterflies!($ring.$kind, $x, $w(5), 4 6, 5 7);
        butterflies!($ring.$kind, $x, $w(6), 8 10, 9 11);
        butterflies!($ring.$kind, $x, $w(7), 12 14, 13 15);
    }};
    (1 of 16, $ring:ident.$kind:ident, $x:ident, $w:ident) => {{
        butterflies!($ring.$kind, $x, $w(8), 0 1);
        butterflies!($ring.$kind, $x, $w(9), 2 3);
        butterflies!($ring.$kind, $x, $w(10), 4 5);
        butterflies!($ring.$kind, $x, $w(11), 6 7);
        butterflies!($ring.$kind, $x, $w(12), 8 9);
        butterflies!($ring.$kind, $x, $w(13), 10 11);
        butterflies!($ring.$kind, $x, $w(14), 12 13);
        butterflies!($ring.$kind, $x, $w(15), 14 15);
    }};
    (4 of 8, $ring:ident.$kind:ident, $x:ident, $w:ident) => {
        butterflies!($ring.$kind, $x, $w(1), 0 4, 1 5, 2 6, 3 7)
    };
    (2 of 8, $ring:ident.$kind:ident, $x:ident, $w:ident) => {{
        butterflies!($ring.$kind, $x, $w(2), 0 2, 1 3);
        butterflies!($ring.$kind, $x, $w(3), 4 6, 5 7);
    }};
    (1 of 8, $ring:ident.$kind:ident, $x:ident, $w:ident) => {{
        butterflies!($ring.$kind, $x, $w(4), 0 1);
        butterflies!($ring.$kind, $x, $w(5), 2 3);
        butterflies!($ring.$kind, $x, $w(6), 4 5);
        butterflies!($ring.$kind, $x, $w(7), 6 7);
    }};
    (2 of 4, $ring:ident.$kind:ident, $x:ident, $w:ident) => {
        butterflies!($ring.$kind, $x, $w(1), 0 2, 1 3)
    };
    (1 of 4, $ring:ident.$kind:ident, $x:ident, $w:ident) => {{
        butterflies!($ring.$kind, $x, $w(2), 0 1);
        butterflies!($ring.$kind, $x, $w(3), 2 3);
    }};
    (1 of 2, $ring:ident.$kind:ident, $x:ident, $w:ident) => {
        butterflies!($ring.$kind, $x, $w(1), 0 1)
    };
}

/// All layers of a step of radix `K`; registers past `K` are not used.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn forward_step<const K: usize>(ring: Ring, x: &mut [Vector; RADIX], w: impl Fn(usize) -> Factor) {
    match K {
        16 => {
            layer!(8, ring.forward, x, w);
            layer!(4 of 16, ring.forward, x, w);
            layer!(2 of 16, ring.forward, x, w);
            layer!(1 of 16, ring.forward, x, w);
        }
        8 => {
            layer!(4 of 8, ring.forward, x, w);
            layer!(2 of 8, ring.forward, x, w);
            layer!(1 of 8, ring.forward, x, w);
        }
        4 => {
            layer!(2 of 4, ring.forward, x, w);
            layer!(1 of 4, ring.forward, x, w);
        }
        _ => layer!(1 of 2, ring.forward, x, w),
    }
}

/// The layers of a step of radix `K` in opposite order, without the first node's, which a caller may want to scale.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn inverse_lower<const K: usize>(ring: Ring, x: &mut [Vector; RADIX], w: impl Fn(usize) -> Factor) {
    match K {
        16 => {
            layer!(1 of 16, ring.inverse, x, w);
            layer!(2 of 16, ring.inverse, x, w);
            layer!(4 of 16, ring.inverse, x, w);
        }
        8 => {
            layer!(1 of 8, ring.inverse, x, w);
            layer!(2 of 8, ring.inverse, x, w);
        }
        4 => layer!(1 of 4, ring.inverse, x, w),
        _ => (),
    }
}

/// The first node of a step of radix `K`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn inverse_root<const K: usize>(ring: Ring, x: &mut [Vector; RADIX], factor: Factor) {
    let w = |_: usize| factor;
    match K {
        16 => layer!(8, ring.inverse, x, w),
        8 => layer!(4 of 8, ring.inverse, x, w),
        4 => layer!(2 of 4, ring.inverse, x, w),
        _ => layer!(1 of 2, ring.inverse, x, w),
    }
}

/// The first node of the whole transform: the end of the inverse.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn inverse_end<const K: usize>(ring: Ring, x: &mut [Vector; RADIX], factors: [Factor; 2]) {
    let w = |_: usize| factors;
    match K {
        16 => layer!(8, ring.inverse_last, x, w),
        8 => layer!(4 of 8, ring.inverse_last, x, w),
        4 => layer!(2 of 4, ring.inverse_last, x, w),
        _ => layer!(1 of 2, ring.inverse_last, x, w),
    }
}

/// Sixteen lines, two for each of eight groups of sixteen words, to sixteen vectors of one word of each group.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn words_of_groups(x: [Vector; RADIX]) -> [Vector; RADIX] {
    let low = transposed([x[0], x[2], x[4], x[6], x[8], x[10], x[12], x[14]]);
    let high = transposed([x[1], x[3], x[5], x[7], x[9], x[11], x[13], x[15]]);
    let [a, b, c, d, e, f, g, h] = low;
    let [i, j, k, l, m, n, o, p] = high;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// The inverse of [`words_of_groups`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn groups_of_words(x: [Vector; RADIX]) -> [Vector; RADIX] {
    let [a, b, c, d, e, f, g, h] = transposed([x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]]);
    let [i, j, k, l, m, n, o, p] = transposed([x[8], x[9], x[10], x[11], x[12], x[13], x[14], x[15]]);
    [a, i, b, j, c, k, d, l, e, m, f, n, g, o, h, p]
}

/// The transpose of an 8 x 8 matrix.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn transposed(x: [Vector; 8]) -> [Vector; 8] {
    let [a, b, c, d, e, f, g, h] = x;
    let (ab0, ab1) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let (cd0, cd1) = (_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
    let (ef0, ef1) = (_mm512_unpacklo_epi64(e, f), _mm512_unpackhi_epi64(e, f));
    let (gh0, gh1) = (_mm512_unpacklo_epi64(g, h), _mm512_unpackhi_epi64(g, h));
    // Quarters of a line: rows 0..4 and 4..8 of columns 0, 2, 4, 6 (even) and 1, 3, 5, 7 (odd).
    let even = quarters([ab0, cd0, ef0, gh0]);
    let odd = quarters([ab1, cd1, ef1, gh1]);
    [even[0], odd[0], even[1], odd[1], even[2], odd[2], even[3], odd[3]]
}

/// The transpose of a 4 x 4 matrix of quarter lines.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn quarters([a, b, c, d]: [Vector; 4]) -> [Vector; 4] {
    let (ab_low, ab_high) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
    let (cd_low, cd_high) = (_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high),
    ]
}

/// The factors of a subtree.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn coarse(table: &[ShoupFactor], root: usize) -> impl Fn(usize) -> Factor {
    move |place| Factor::splat(table[descendant(root, place)])
}

/// The factors of eight subtrees of the last four layers.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn fine(table: &[Line; FINE]) -> impl Fn(usize) -> Factor {
    move |place| Factor { value: load(&table[2 * place - 2]), quotient: load(&table[2 * place - 1]) }
}

impl IfmaNtt {
    /// Tables for the root `psi` of order `2n`, for `SMALLEST <= n <= LARGEST`, a power of two.
    pub(super) fn new(n: usize, modulus: Modulus, psi: u64) -> Self {
        let bits = n.trailing_zeros();
        let powers = |root: u64| -> Vec<u64> {
            std::iter::successors(Some(1), |&power| Some(modulus.mul(power, root))).take(n).collect()
        };
        let table = |powers: Vec<u64>| {
            let exponent = |node: usize| (node as u64).reverse_bits() >> (64 - bits);
            Twiddles::new(n, |node| modulus.factor(powers[exponent(node) as usize]))
        };
        let (forward, inverse) = (table(powers(psi)), table(powers(modulus.inv(psi))));
        Self { modulus, n, forward, inverse }
    }

    /// Words of a limb.
    pub(super) fn size(&self) -> usize {
        self.n
    }

    /// Forward transforms of several limbs, in place.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn forward(&self, limbs: &mut [&mut [u64]]) {
        let rows = self.n / ROW;
        for limb in limbs.iter_mut() {
            self.forward_columns(limb.as_chunks_mut().0);
        }
        for row in 0..rows {
            for limb in limbs.iter_mut() {
                let limb: &mut [Line] = limb.as_chunks_mut().0;
                self.forward_row(row, &mut limb[row * ROW_LINES..(row + 1) * ROW_LINES]);
            }
        }
    }

    /// Inverse transform in place, times a factor that includes `1/n`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn inverse(&self, limb: &mut [u64], factor: ShoupFactor) {
        let limb: &mut [Line] = limb.as_chunks_mut().0;
        for (row, lines) in limb.chunks_exact_mut(ROW_LINES).enumerate() {
            self.inverse_row(row, lines);
        }
        self.inverse_columns(limb, factor);
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn forward_columns(&self, limb: &mut [Line]) {
        match self.n / ROW {
            2 => self.forward_column_steps::<2, 1>(limb),
            4 => self.forward_column_steps::<4, 1>(limb),
            8 => self.forward_column_steps::<8, 1>(limb),
            16 => self.forward_column_steps::<16, 1>(limb),
            32 => self.forward_column_steps::<16, 2>(limb),
            64 => self.forward_column_steps::<16, 4>(limb),
            128 => self.forward_column_steps::<16, 8>(limb),
            _ => self.forward_column_steps::<16, 16>(limb),
        }
    }

    /// Columns of `A * B` rows in a step of radix `A` and one of radix `B`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn forward_column_steps<const A: usize, const B: usize>(&self, limb: &mut [Line]) {
        let (ring, table) = (Ring::new(&self.modulus), &self.forward.coarse[..]);
        let mut column = [[0; LINE]; RADIX * RADIX];
        for place in 0..ROW_LINES {
            for row in 0..B {
                let mut x = [ring.zero; RADIX];
                for k in 0..A {
                    x[k] = load(&limb[(row + k * B) * ROW_LINES + place]);
                }
                forward_step::<A>(ring, &mut x, coarse(table, 1));
                for k in 0..A {
                    store(&mut column[row + k * B], x[k]);
                }
            }
            for block in 0..A {
                let mut x = [ring.zero; RADIX];
                for k in 0..B {
                    x[k] = load(&column[block * B + k]);
                }
                if B > 1 {
                    forward_step::<B>(ring, &mut x, coarse(table, A + block));
                }
                for k in 0..B {
                    store(&mut limb[(block * B + k) * ROW_LINES + place], x[k]);
                }
            }
        }
    }

    /// The last eight layers on one row.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn forward_row(&self, row: usize, lines: &mut [Line]) {
        let ring = Ring::new(&self.modulus);
        let Ok(lines) = <&mut [Line; ROW_LINES]>::try_from(lines) else { return };
        for half in 0..2 {
            let mut x = [ring.zero; RADIX];
            for k in 0..RADIX {
                x[k] = load(&lines[2 * k + half]);
            }
            forward_step::<RADIX>(ring, &mut x, coarse(&self.forward.coarse, self.n / ROW + row));
            for k in 0..RADIX {
                store(&mut lines[2 * k + half], x[k]);
            }
        }
        for half in 0..2 {
            let lines = &mut lines[RADIX * half..RADIX * (half + 1)];
            let mut x = [ring.zero; RADIX];
            for k in 0..RADIX {
                x[k] = load(&lines[k]);
            }
            x = words_of_groups(x);
            forward_step::<RADIX>(ring, &mut x, fine(self.forward.of_half(row, half)));
            for k in 0..RADIX {
                x[k] = ring.once(ring.halve(x[k]));
            }
            x = groups_of_words(x);
            for k in 0..RADIX {
                store(&mut lines[k], x[k]);
            }
        }
    }

    /// The first eight layers of the inverse on one row.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn inverse_row(&self, row: usize, lines: &mut [Line]) {
        let ring = Ring::new(&self.modulus);
        let Ok(lines) = <&mut [Line; ROW_LINES]>::try_from(lines) else { return };
        for half in 0..2 {
            let lines = &mut lines[RADIX * half..RADIX * (half + 1)];
            let mut x = [ring.zero; RADIX];
            for k in 0..RADIX {
                x[k] = load(&lines[k]);
            }
            x = words_of_groups(x);
            let w = fine(self.inverse.of_half(row, half));
            inverse_lower::<RADIX>(ring, &mut x, &w);
            inverse_root::<RADIX>(ring, &mut x, w(1));
            x = groups_of_words(x);
            for k in 0..RADIX {
                store(&mut lines[k], x[k]);
            }
        }
        for half in 0..2 {
            let mut x = [ring.zero; RADIX];
            for k in 0..RADIX {
                x[k] = load(&lines[2 * k + half]);
            }
            let w = coarse(&self.inverse.coarse, self.n / ROW + row);
            inverse_lower::<RADIX>(ring, &mut x, &w);
            inverse_root::<RADIX>(ring, &mut x, w(1));
            for k in 0..RADIX {
                store(&mut lines[2 * k + half], x[k]);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn inverse_columns(&self, limb: &mut [Line], factor: ShoupFactor) {
        match self.n / ROW {
            2 => self.inverse_column_steps::<2, 1>(limb, factor),
            4 => self.inverse_column_steps::<4, 1>(limb, factor),
            8 => self.inverse_column_steps::<8, 1>(limb, factor),
            16 => self.inverse_column_steps::<16, 1>(limb, factor),
            32 => self.inverse_column_steps::<16, 2>(limb, factor),
            64 => self.inverse_column_steps::<16, 4>(limb, factor),
            128 => self.inverse_column_steps::<16, 8>(limb, factor),
            _ => self.inverse_column_steps::<16, 16>(limb, factor),
        }
    }

    /// Columns of `A * B` rows in a step of radix `B` and one of radix `A`, which ends the transform.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn inverse_column_steps<const A: usize, const B: usize>(&self, limb: &mut [Line], factor: ShoupFactor) {
        let (ring, table) = (Ring::new(&self.modulus), &self.inverse.coarse[..]);
        let last = self.modulus.factor(self.modulus.mul(table[1].value, factor.value));
        let last = [Factor::splat(factor), Factor::splat(last)];
        let mut column = [[0; LINE]; RADIX * RADIX];
        for place in 0..ROW_LINES {
            for block in 0..A {
                let mut x = [ring.zero; RADIX];
                for k in 0..B {
                    x[k] = load(&limb[(block * B + k) * ROW_LINES + place]);
                }
                if B > 1 {
                    let w = coarse(table, A + block);
                    inverse_lower::<B>(ring, &mut x, &w);
                    inverse_root::<B>(ring, &mut x, w(1));
                }
                for k in 0..B {
                    store(&mut column[block * B + k], x[k]);
                }
            }
            for row in 0..B {
                let mut x = [ring.zero; RADIX];
                for k in 0..A {
                    x[k] = load(&column[row + k * B]);
                }
                inverse_lower::<A>(ring, &mut x, coarse(table, 1));
                inverse_end::<A>(ring, &mut x, last);
                for k in 0..A {
                    store(&mut limb[(row + k * B) * ROW_LINES + place], x[k]);
                }
            }
        }
    }
}

impl Twiddles {
    /// The factors of the eight groups in one half of a row.
    #[inline]
    fn of_half(&self, row: usize, half: usize) -> &[Line; FINE] {
        let (tables, _) = self.fine.as_chunks::<FINE>();
        &tables[2 * row + half]
    }
}
