//! The negacyclic transform on AVX-512 IFMA, in two passes over memory.
//!
//! A limb of `n = rows * 256` words is a matrix. The first pass does the upper `log2 rows` layers of butterflies on eight
//! columns at a time, which fit the first-level cache; the second does the last eight layers row by row. Within a pass, up
//! to four layers (radix 16) are done in registers between a load and a store. Values stay below `4q < 2^52` until the end.
//!
//! The tables of a prime are larger than a limb, so the second pass takes several limbs of one prime side by side and reads
//! its twiddles once for all of them.

#![allow(clippy::needless_range_loop, reason = "indices name registers")]

use std::arch::x86_64::*;

use super::ifma::{load, splat, store};
use crate::arith::{Modulus, ShoupFactor};
use crate::ring::automorphism::LINE;

type Vector = __m512i;
pub(super) type Line = [u64; LINE];

/// Words of a row.
pub(super) const ROW: usize = 256;
/// Lines of a row.
pub(super) const ROW_LINES: usize = ROW / LINE;
/// Widest step between a load and a store.
const RADIX: usize = 16;
/// Lines of a table for eight groups of sixteen words: fifteen factors and their quotients.
const FINE: usize = 2 * (RADIX - 1);
/// Limbs that are transformed side by side: more would leave the second-level cache.
const SIDE_BY_SIDE: usize = 3;
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

/// The node of the tree of butterflies at which a transform starts.
#[derive(Clone, Copy)]
pub(super) struct Root(usize);

impl Root {
    /// All values.
    pub(super) const WHOLE: Root = Root(1);
    /// The first half of the values: those of a polynomial modulo `X^(n/2) - psi^(n/2)`.
    pub(super) const FIRST_HALF: Root = Root(2);
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

    /// Half of the last butterfly of the inverse: `(x + y, x - y)`, all below `4q`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn inverse_last(self, x: Vector, y: Vector, _: Factor) -> (Vector, Vector) {
        (_mm512_add_epi64(x, y), _mm512_sub_epi64(_mm512_add_epi64(x, self.two_q), y))
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

/// All layers of a step of radix `$k`; registers past it are not used. A macro, as are all that work on registers: a call
/// would send sixteen of them through memory.
macro_rules! forward_step {
    ($k:expr, $ring:ident, $x:ident, $w:ident) => {
        match $k {
            16 => {
                layer!(8, $ring.forward, $x, $w);
                layer!(4 of 16, $ring.forward, $x, $w);
                layer!(2 of 16, $ring.forward, $x, $w);
                layer!(1 of 16, $ring.forward, $x, $w);
            }
            8 => {
                layer!(4 of 8, $ring.forward, $x, $w);
                layer!(2 of 8, $ring.forward, $x, $w);
                layer!(1 of 8, $ring.forward, $x, $w);
            }
            4 => {
                layer!(2 of 4, $ring.forward, $x, $w);
                layer!(1 of 4, $ring.forward, $x, $w);
            }
            _ => layer!(1 of 2, $ring.forward, $x, $w),
        }
    };
}

/// The layers of a step of radix `$k` in opposite order; the first node's is `$root`, an inverse butterfly with its factor.
macro_rules! inverse_step {
    ($k:expr, $ring:ident, $x:ident, $w:ident, $root:ident) => {
        match $k {
            16 => {
                layer!(1 of 16, $ring.inverse, $x, $w);
                layer!(2 of 16, $ring.inverse, $x, $w);
                layer!(4 of 16, $ring.inverse, $x, $w);
                layer!(8, $ring.$root, $x, $w);
            }
            8 => {
                layer!(1 of 8, $ring.inverse, $x, $w);
                layer!(2 of 8, $ring.inverse, $x, $w);
                layer!(4 of 8, $ring.$root, $x, $w);
            }
            4 => {
                layer!(1 of 4, $ring.inverse, $x, $w);
                layer!(2 of 4, $ring.$root, $x, $w);
            }
            _ => layer!(1 of 2, $ring.$root, $x, $w),
        }
    };
}

/// The transpose of a 4 x 4 matrix of quarter lines.
macro_rules! quarters {
    ($a:ident, $b:ident, $c:ident, $d:ident) => {{
        let (ab_low, ab_high) = (_mm512_shuffle_i64x2::<0x44>($a, $b), _mm512_shuffle_i64x2::<0xee>($a, $b));
        let (cd_low, cd_high) = (_mm512_shuffle_i64x2::<0x44>($c, $d), _mm512_shuffle_i64x2::<0xee>($c, $d));
        [
            _mm512_shuffle_i64x2::<0x88>(ab_low, cd_low),
            _mm512_shuffle_i64x2::<0xdd>(ab_low, cd_low),
            _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high),
            _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high),
        ]
    }};
}

/// The transpose of an 8 x 8 matrix in registers of `$x`.
macro_rules! transposed {
    ($x:ident, $a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal $h:literal) => {{
        let (ab, cd) = (_mm512_unpacklo_epi64($x[$a], $x[$b]), _mm512_unpacklo_epi64($x[$c], $x[$d]));
        let (ef, gh) = (_mm512_unpacklo_epi64($x[$e], $x[$f]), _mm512_unpacklo_epi64($x[$g], $x[$h]));
        let [x0, x2, x4, x6] = quarters!(ab, cd, ef, gh);
        let (ab, cd) = (_mm512_unpackhi_epi64($x[$a], $x[$b]), _mm512_unpackhi_epi64($x[$c], $x[$d]));
        let (ef, gh) = (_mm512_unpackhi_epi64($x[$e], $x[$f]), _mm512_unpackhi_epi64($x[$g], $x[$h]));
        let [x1, x3, x5, x7] = quarters!(ab, cd, ef, gh);
        [x0, x1, x2, x3, x4, x5, x6, x7]
    }};
}

/// Sixteen lines, two for each of eight groups of sixteen words, to sixteen vectors of one word of each group.
macro_rules! words_of_groups {
    ($x:ident) => {{
        let [a, b, c, d, e, f, g, h] = transposed!($x, 0 2 4 6 8 10 12 14);
        let [i, j, k, l, m, n, o, p] = transposed!($x, 1 3 5 7 9 11 13 15);
        $x = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
    }};
}

/// The inverse of `words_of_groups`.
macro_rules! groups_of_words {
    ($x:ident) => {{
        let [a, b, c, d, e, f, g, h] = transposed!($x, 0 1 2 3 4 5 6 7);
        let [i, j, k, l, m, n, o, p] = transposed!($x, 8 9 10 11 12 13 14 15);
        $x = [a, i, b, j, c, k, d, l, e, m, f, n, g, o, h, p];
    }};
}

/// The factors of a subtree of four layers.
#[derive(Clone, Copy)]
struct Subtree<'a>([&'a [ShoupFactor]; 4]);

impl<'a> Subtree<'a> {
    /// Of `layers` layers under `root`; those below are not read.
    #[inline]
    fn new(table: &'a [ShoupFactor], root: usize, layers: u32) -> Self {
        let layer = |l: u32| if l < layers { &table[root << l..(root + 1) << l] } else { &[] };
        Self([layer(0), layer(1), layer(2), layer(3)])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn factor(self, place: usize) -> Factor {
        let layer = place.ilog2();
        Factor::splat(self.0[layer as usize][place - (1 << layer)])
    }
}

/// The factors of eight subtrees of the last four layers.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
fn fine(table: &[Line; FINE], place: usize) -> Factor {
    Factor { value: load(&table[2 * place - 2]), quotient: load(&table[2 * place - 1]) }
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

    /// The prime.
    pub(super) fn modulus(&self) -> &Modulus {
        &self.modulus
    }

    /// Words of a limb.
    pub(super) fn size(&self) -> usize {
        self.n
    }

    /// Forward transforms of several limbs, in place.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn forward(&self, limbs: &mut [&mut [u64]]) {
        limbs.chunks_mut(SIDE_BY_SIDE).for_each(|limbs| self.forward_few(limbs));
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn forward_few(&self, limbs: &mut [&mut [u64]]) {
        let rows = self.n / ROW;
        for limb in limbs.iter_mut() {
            self.forward_columns(limb.as_chunks_mut().0, Root::WHOLE);
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

    /// The layers above rows of the subtree of a root: `limb` has the words of its blocks.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn forward_columns(&self, limb: &mut [Line], root: Root) {
        match limb.len() / ROW_LINES {
            2 => self.forward_column_steps::<2, 1>(limb, root),
            4 => self.forward_column_steps::<4, 1>(limb, root),
            8 => self.forward_column_steps::<8, 1>(limb, root),
            16 => self.forward_column_steps::<16, 1>(limb, root),
            32 => self.forward_column_steps::<16, 2>(limb, root),
            64 => self.forward_column_steps::<16, 4>(limb, root),
            128 => self.forward_column_steps::<16, 8>(limb, root),
            _ => self.forward_column_steps::<16, 16>(limb, root),
        }
    }

    /// Columns of `A * B` rows in a step of radix `A` and one of radix `B`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn forward_column_steps<const A: usize, const B: usize>(&self, limb: &mut [Line], Root(root): Root) {
        let (ring, table) = (Ring::new(&self.modulus), &self.forward.coarse[..]);
        let upper = Subtree::new(table, root, A.ilog2());
        let mut column = [[0; LINE]; RADIX * RADIX];
        for place in 0..ROW_LINES {
            for row in 0..B {
                let mut x = [ring.zero; RADIX];
                for k in 0..A {
                    x[k] = load(&limb[(row + k * B) * ROW_LINES + place]);
                }
                let w = |place| upper.factor(place);
                forward_step!(A, ring, x, w);
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
                    let lower = Subtree::new(table, root * A + block, B.ilog2());
                    let w = |place| lower.factor(place);
                    forward_step!(B, ring, x, w);
                }
                for k in 0..B {
                    store(&mut limb[(block * B + k) * ROW_LINES + place], x[k]);
                }
            }
        }
    }

    /// The last eight layers on one row.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub(super) fn forward_row(&self, row: usize, lines: &mut [Line]) {
        let ring = Ring::new(&self.modulus);
        let Ok(lines) = <&mut [Line; ROW_LINES]>::try_from(lines) else { unreachable!("rows are whole") };
        let subtree = Subtree::new(&self.forward.coarse, self.n / ROW + row, 4);
        for half in 0..2 {
            let mut x = [ring.zero; RADIX];
            for k in 0..RADIX {
                x[k] = load(&lines[2 * k + half]);
            }
            let w = |place| subtree.factor(place);
            forward_step!(RADIX, ring, x, w);
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
            words_of_groups!(x);
            let table = self.forward.of_half(row, half);
            let w = |place| fine(table, place);
            forward_step!(RADIX, ring, x, w);
            for k in 0..RADIX {
                x[k] = ring.once(ring.halve(x[k]));
            }
            groups_of_words!(x);
            for k in 0..RADIX {
                store(&mut lines[k], x[k]);
            }
        }
    }

    /// The first eight layers of the inverse on one row.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn inverse_row(&self, row: usize, lines: &mut [Line]) {
        let ring = Ring::new(&self.modulus);
        let Ok(lines) = <&mut [Line; ROW_LINES]>::try_from(lines) else { unreachable!("rows are whole") };
        for half in 0..2 {
            let lines = &mut lines[RADIX * half..RADIX * (half + 1)];
            let mut x = [ring.zero; RADIX];
            for k in 0..RADIX {
                x[k] = load(&lines[k]);
            }
            words_of_groups!(x);
            let table = self.inverse.of_half(row, half);
            let w = |place| fine(table, place);
            inverse_step!(RADIX, ring, x, w, inverse);
            groups_of_words!(x);
            for k in 0..RADIX {
                store(&mut lines[k], x[k]);
            }
        }
        let subtree = Subtree::new(&self.inverse.coarse, self.n / ROW + row, 4);
        for half in 0..2 {
            let mut x = [ring.zero; RADIX];
            for k in 0..RADIX {
                x[k] = load(&lines[2 * k + half]);
            }
            let w = |place| subtree.factor(place);
            inverse_step!(RADIX, ring, x, w, inverse);
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
        let (scale, last) = (Factor::splat(factor), Factor::splat(last));
        let upper = Subtree::new(table, 1, A.ilog2());
        let mut column = [[0; LINE]; RADIX * RADIX];
        for place in 0..ROW_LINES {
            for block in 0..A {
                let mut x = [ring.zero; RADIX];
                for k in 0..B {
                    x[k] = load(&limb[(block * B + k) * ROW_LINES + place]);
                }
                if B > 1 {
                    let lower = Subtree::new(table, A + block, B.ilog2());
                    let w = |place| lower.factor(place);
                    inverse_step!(B, ring, x, w, inverse);
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
                let w = |place| upper.factor(place);
                inverse_step!(A, ring, x, w, inverse_last);
                for k in 0..A {
                    x[k] = ring.once(ring.mul(x[k], if k < A / 2 { scale } else { last }));
                }
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
