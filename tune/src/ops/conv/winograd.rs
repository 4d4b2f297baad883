//! Convolutions of 3x3 without stride by Winograd's F(2x2, 3x3) (Lavin and Gray, arXiv:1509.09308): 16 products where the
//! definition has 36.
//!
//! A tile is 2x2 results. With the 4x4 operands `d` under it and the kernel `g`, results are `A^T [(G g G^T) * (B^T d B)] A`, so
//! that each of the 16 places is a product of matrices (tiles, operand channels) and (operand channels, result channels).
//! The gradient by the operand is such a convolution with the kernel turned by half a turn; that by the kernel is
//! `G^T [(A dy A^T) * (B^T d B)] G`, summed over the tiles.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::geometry::{Border, Geometry};
use super::kernel::{Gather, Packed, Run, Scatter};
use super::{accumulate, pad};
use crate::tensor::Tensor;

/// Places of a transformed tile.
const PLACES: usize = 16;
/// With fewer channels the transforms cost more than they save.
const LEAST_CHANNELS: usize = 32;
/// Least rows and columns, so that vectors of tiles are full.
const LEAST_EXTENT: usize = 6;
/// Numbers of a place's block of transformed tiles.
const BLOCK: usize = 1024;
/// Most partial weight gradients.
const PARTIALS: usize = 8;

/// Whether this convolution is done here.
pub(super) fn applies(g: &Geometry) -> bool {
    let least = g.output().into_iter().chain(g.input).min();
    (g.kernel, g.stride, g.dilation, g.groups) == ([3, 3], [1, 1], [1, 1], 1)
        && g.c_in.min(g.c_out) >= LEAST_CHANNELS
        && least >= Some(LEAST_EXTENT)
        && g.pads.iter().all(|p| *p <= 2)
}

/// The tiles of a result, and the padded image under them.
struct Tiles {
    /// Rows and columns of the result.
    output: [usize; 2],
    columns: usize,
    count: usize,
    /// Tiles of a block.
    block: usize,
}

impl Tiles {
    fn new(output: [usize; 2], channels: usize) -> Self {
        let [rows, columns] = output.map(|e| e.div_ceil(2));
        Self { output, columns, count: rows * columns, block: (BLOCK / channels).max(8) }
    }

    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.count).step_by(self.block).map(|start| start..(start + self.block).min(self.count))
    }

    /// First row and column of a tile's results.
    fn corner(&self, tile: usize) -> [usize; 2] {
        [tile / self.columns * 2, tile % self.columns * 2]
    }

    /// A border that reaches under the last, incomplete tiles too.
    fn cover(&self, border: Border) -> Border {
        let [rows, columns] = self.output;
        Border { bottom: border.bottom + rows % 2, right: border.right + columns % 2, ..border }
    }

    /// Offsets of a block's tiles in rows of `channels` numbers.
    fn offsets(&self, channels: usize) -> Vec<usize> {
        (0..self.block).map(|i| i * channels).collect()
    }
}

/// Which way the kernel lies.
#[derive(Clone, Copy)]
enum Turn {
    /// As given: from operand channels to result channels.
    None,
    /// By half a turn, from result channels to operand channels.
    Half,
}

/// `y = w * x + bias`.
pub(super) fn forward(g: &Geometry, x: &Tensor, weights: &[f32], bias: Option<&[f32]>, y: &mut Tensor) {
    convolve(x, g.border(), &filters(g, weights, Turn::None), bias, y);
}

/// `dx` of the gradient `dy`.
pub(super) fn input_grad(g: &Geometry, dy: &Tensor, weights: &[f32], dx: &mut Tensor) {
    convolve(dy, g.gradient_border(), &filters(g, weights, Turn::Half), None, dx);
}

/// `G g G^T` place by place, packed.
fn filters(g: &Geometry, weights: &[f32], turn: Turn) -> Vec<Packed> {
    let size = g.c_in * g.c_out;
    let tap = |i: usize| match turn {
        Turn::None => &weights[i * size..][..size],
        Turn::Half => &weights[(8 - i) * size..][..size],
    };
    let place = |p: usize| {
        let (rows, columns) = (KERNEL[p / 4], KERNEL[p % 4]);
        let mut sum = vec![0.0f32; size];
        for i in 0..9 {
            let factor = rows[i / 3] * columns[i % 3];
            if factor != 0.0 {
                sum.iter_mut().zip(tap(i)).for_each(|(s, w)| *s += factor * w);
            }
        }
        match turn {
            Turn::None => Packed::new(g.c_in, g.c_out, 1, |k| &sum[k * g.c_out..]),
            Turn::Half => Packed::new(g.c_out, g.c_in, g.c_out, |k| &sum[k..]),
        }
    };
    (0..PLACES).into_par_iter().map(place).collect()
}

/// The matrix G.
const KERNEL: [[f32; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    padded: Vec<f32>,
    padded_gradient: Vec<f32>,
    operands: Vec<f32>,
    results: Vec<f32>,
}

fn convolve(x: &Tensor, border: Border, filters: &[Packed], bias: Option<&[f32]>, y: &mut Tensor) {
    let (from, to) = (x.shape, y.shape);
    let tiles = Tiles::new([to.h, to.w], from.c.max(to.c));
    let border = tiles.cover(border);
    let width = border.left + from.w + border.right;
    let (bases, places, runs) =
        (tiles.offsets(from.c), tiles.offsets(to.c), [Run { offset: 0, len: from.c }]);
    let bias = &bias.map_or_else(|| vec![0.0; to.c], <[f32]>::to_vec);
    y.images_mut().zip(x.images()).for_each_init(Scratch::default, |scratch, (out, x)| {
        let x = pad(x, [from.h, from.w, from.c], border, &mut scratch.padded);
        scratch.operands.resize(PLACES * tiles.block * from.c, 0.0);
        scratch.results.resize(PLACES * tiles.block * to.c, 0.0);
        for range in tiles.blocks() {
            let (count, tiles) = (range.len(), &tiles);
            let (bases, places) = (&bases[..count], &places[..count]);
            let (channels, to_tiles) = (from.c, &mut scratch.operands);
            Arch::new().dispatch(Spread { x, width, channels, tiles, range: range.clone(), out: to_tiles });
            let x = scratch.operands.chunks_exact(tiles.block * from.c);
            let results = scratch.results.chunks_exact_mut(tiles.block * to.c);
            for ((x, weights), out) in x.zip(filters).zip(results) {
                Arch::new().dispatch(Gather { x, bases, runs: &runs, weights, bias: None, places, out });
            }
            Arch::new().dispatch(Collect { results: &scratch.results, bias, tiles, range, out });
        }
    });
}

/// Adds the gradient by the weights.
pub(super) fn weight_grad(g: &Geometry, x: &Tensor, dy: &Tensor, grad: &mut [f32]) {
    let (ci, co) = (g.c_in, g.c_out);
    let tiles = Tiles::new(g.output(), ci.max(co));
    let border = tiles.cover(g.border());
    let width = border.left + x.shape.w + border.right;
    let odd = tiles.cover(Border::default());
    let (bases, runs) = (tiles.offsets(ci), [Run { offset: 0, len: ci }]);
    let images = x.shape.n.div_ceil(PARTIALS);
    let (sx, sy) = (x.shape.image(), dy.shape.image());
    let pieces = x.data.par_chunks(images * sx).zip(dy.data.par_chunks(images * sy));
    let mut sums = vec![0.0; PLACES * ci * co];
    accumulate(pieces, &mut sums, |(x, dy), sums| {
        let mut scratch = Scratch::default();
        scratch.operands.resize(PLACES * tiles.block * ci, 0.0);
        scratch.results.resize(PLACES * tiles.block * co, 0.0);
        for (x, dy) in x.chunks(sx).zip(dy.chunks(sy)) {
            let x = pad(x, [g.input[0], g.input[1], ci], border, &mut scratch.padded);
            let [h, w] = tiles.output;
            let dy = pad(dy, [h, w, co], odd, &mut scratch.padded_gradient);
            for range in tiles.blocks() {
                let (count, tiles, range) = (range.len(), &tiles, range.clone());
                let out = &mut scratch.operands;
                Arch::new().dispatch(Spread { x, width, channels: ci, tiles, range: range.clone(), out });
                let out = &mut scratch.results;
                Arch::new().dispatch(SpreadGradient { dy, channels: co, tiles, range, out });
                let operands = scratch.operands.chunks_exact(tiles.block * ci);
                let results = scratch.results.chunks_exact(tiles.block * co);
                for ((x, dy), grad) in operands.zip(results).zip(sums.chunks_exact_mut(ci * co)) {
                    let (bases, dy, step) = (&bases[..count], &dy[..count * co], co);
                    let (runs, skip, columns) = (&runs, 0, co);
                    Arch::new().dispatch(Scatter { x, bases, runs, dy, step, skip, columns, grad });
                }
            }
        }
    });
    // G^T sums G
    let taps: Vec<(usize, &mut [f32])> = grad.chunks_exact_mut(ci * co).enumerate().collect();
    taps.into_par_iter().for_each(|(tap, grad)| {
        for (p, sums) in sums.chunks_exact(ci * co).enumerate() {
            let factor = KERNEL[p / 4][tap / 3] * KERNEL[p % 4][tap % 3];
            if factor != 0.0 {
                grad.iter_mut().zip(sums).for_each(|(g, s)| *g += factor * s);
            }
        }
    });
}

/// A vector at the start of `x`; all of it when `WHOLE`, else `width` numbers of it.
#[inline(always)]
fn get<S: Simd, const WHOLE: bool>(simd: S, x: &[f32], width: usize) -> S::f32s {
    if WHOLE { S::as_simd_f32s(&x[..S::F32_LANES]).0[0] } else { simd.partial_load_f32s(&x[..width]) }
}

/// The reverse of [`get`].
#[inline(always)]
fn put<S: Simd, const WHOLE: bool>(simd: S, out: &mut [f32], width: usize, value: S::f32s) {
    if WHOLE {
        S::as_mut_simd_f32s(&mut out[..S::F32_LANES]).0[0] = value;
    } else {
        simd.partial_store_f32s(&mut out[..width], value);
    }
}

/// `B^T d B` of the operands `d` of each tile; place after place, tile after tile.
struct Spread<'a> {
    x: &'a [f32],
    /// Columns of the padded image.
    width: usize,
    channels: usize,
    tiles: &'a Tiles,
    range: Range<usize>,
    out: &'a mut [f32],
}

impl WithSimd for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for i in 0..self.range.len() {
            let mut c = 0;
            while c + S::F32_LANES <= self.channels {
                self.tile::<S, true>(simd, i, c);
                c += S::F32_LANES;
            }
            if c < self.channels {
                self.tile::<S, false>(simd, i, c);
            }
        }
    }
}

impl Spread<'_> {
    #[inline(always)]
    fn tile<S: Simd, const WHOLE: bool>(&mut self, simd: S, i: usize, c: usize) {
        let channels = self.channels;
        let left = channels - c;
        let [y, x] = self.tiles.corner(self.range.start + i);
        let mut t = [[simd.splat_f32s(0.0); 4]; 4];
        for (row, t) in t.iter_mut().enumerate() {
            let from = &self.x[((y + row) * self.width + x) * channels + c..][..3 * channels + left];
            *t = operand(
                simd,
                [
                    get::<S, WHOLE>(simd, from, left),
                    get::<S, WHOLE>(simd, &from[channels..], left),
                    get::<S, WHOLE>(simd, &from[2 * channels..], left),
                    get::<S, WHOLE>(simd, &from[3 * channels..], left),
                ],
            );
        }
        let place = self.tiles.block * channels;
        let out = &mut self.out[i * channels + c..];
        for column in 0..4 {
            let v = operand(simd, [t[0][column], t[1][column], t[2][column], t[3][column]]);
            put::<S, WHOLE>(simd, &mut out[column * place..], left, v[0]);
            put::<S, WHOLE>(simd, &mut out[(4 + column) * place..], left, v[1]);
            put::<S, WHOLE>(simd, &mut out[(8 + column) * place..], left, v[2]);
            put::<S, WHOLE>(simd, &mut out[(12 + column) * place..], left, v[3]);
        }
    }
}

/// `B^T d`
#[inline(always)]
fn operand<S: Simd>(simd: S, d: [S::f32s; 4]) -> [S::f32s; 4] {
    [
        simd.sub_f32s(d[0], d[2]),
        simd.add_f32s(d[1], d[2]),
        simd.sub_f32s(d[2], d[1]),
        simd.sub_f32s(d[1], d[3]),
    ]
}

/// `A^T m A + bias` of the products `m` of each tile, into the image.
struct Collect<'a> {
    results: &'a [f32],
    bias: &'a [f32],
    tiles: &'a Tiles,
    range: Range<usize>,
    out: &'a mut [f32],
}

impl WithSimd for Collect<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for i in 0..self.range.len() {
            let mut c = 0;
            while c + S::F32_LANES <= self.bias.len() {
                self.tile::<S, true>(simd, i, c);
                c += S::F32_LANES;
            }
            if c < self.bias.len() {
                self.tile::<S, false>(simd, i, c);
            }
        }
    }
}

impl Collect<'_> {
    #[inline(always)]
    fn tile<S: Simd, const WHOLE: bool>(&mut self, simd: S, i: usize, c: usize) {
        let channels = self.bias.len();
        let (left, place) = (channels - c, self.tiles.block * channels);
        let from = &self.results[i * channels + c..];
        let mut t = [[simd.splat_f32s(0.0); 2]; 4];
        for row in 0..4 {
            let m = &from[4 * row * place..][..3 * place + left];
            t[row] = result(
                simd,
                [
                    get::<S, WHOLE>(simd, m, left),
                    get::<S, WHOLE>(simd, &m[place..], left),
                    get::<S, WHOLE>(simd, &m[2 * place..], left),
                    get::<S, WHOLE>(simd, &m[3 * place..], left),
                ],
            );
        }
        let bias = get::<S, WHOLE>(simd, &self.bias[c..], left);
        let first = result(simd, [t[0][0], t[1][0], t[2][0], t[3][0]]);
        let second = result(simd, [t[0][1], t[1][1], t[2][1], t[3][1]]);
        let ([rows, columns], [y, x]) = (self.tiles.output, self.tiles.corner(self.range.start + i));
        let at = (y * columns + x) * channels + c;
        let (down, right) = (columns * channels, channels);
        put::<S, WHOLE>(simd, &mut self.out[at..], left, simd.add_f32s(first[0], bias));
        if x + 1 < columns {
            put::<S, WHOLE>(simd, &mut self.out[at + right..], left, simd.add_f32s(second[0], bias));
        }
        if y + 1 < rows {
            put::<S, WHOLE>(simd, &mut self.out[at + down..], left, simd.add_f32s(first[1], bias));
            if x + 1 < columns {
                put::<S, WHOLE>(
                    simd,
                    &mut self.out[at + down + right..],
                    left,
                    simd.add_f32s(second[1], bias),
                );
            }
        }
    }
}

/// `A^T m`
#[inline(always)]
fn result<S: Simd>(simd: S, m: [S::f32s; 4]) -> [S::f32s; 2] {
    let (sum, difference) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    [simd.add_f32s(m[0], sum), simd.sub_f32s(difference, m[3])]
}

/// `A dy A^T` of the gradient `dy` of each tile's results; place after place, tile after tile.
struct SpreadGradient<'a> {
    /// Rows and columns rounded up to whole tiles.
    dy: &'a [f32],
    channels: usize,
    tiles: &'a Tiles,
    range: Range<usize>,
    out: &'a mut [f32],
}

impl WithSimd for SpreadGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for i in 0..self.range.len() {
            let mut c = 0;
            while c + S::F32_LANES <= self.channels {
                self.tile::<S, true>(simd, i, c);
                c += S::F32_LANES;
            }
            if c < self.channels {
                self.tile::<S, false>(simd, i, c);
            }
        }
    }
}

impl SpreadGradient<'_> {
    #[inline(always)]
    fn tile<S: Simd, const WHOLE: bool>(&mut self, simd: S, i: usize, c: usize) {
        let (channels, left) = (self.channels, self.channels - c);
        let [y, x] = self.tiles.corner(self.range.start + i);
        let width = 2 * self.tiles.columns;
        let upper = &self.dy[(y * width + x) * channels + c..][..channels + left];
        let lower = &self.dy[((y + 1) * width + x) * channels + c..][..channels + left];
        let at = [
            [get::<S, WHOLE>(simd, upper, left), get::<S, WHOLE>(simd, lower, left)],
            [
                get::<S, WHOLE>(simd, &upper[channels..], left),
                get::<S, WHOLE>(simd, &lower[channels..], left),
            ],
        ];
        let (first, second) = (gradient(simd, at[0]), gradient(simd, at[1]));
        let place = self.tiles.block * channels;
        let out = &mut self.out[i * channels + c..];
        for row in 0..4 {
            let v = gradient(simd, [first[row], second[row]]);
            put::<S, WHOLE>(simd, &mut out[4 * row * place..], left, v[0]);
            put::<S, WHOLE>(simd, &mut out[(4 * row + 1) * place..], left, v[1]);
            put::<S, WHOLE>(simd, &mut out[(4 * row + 2) * place..], left, v[2]);
            put::<S, WHOLE>(simd, &mut out[(4 * row + 3) * place..], left, v[3]);
        }
    }
}

/// `A d`
#[inline(always)]
fn gradient<S: Simd>(simd: S, d: [S::f32s; 2]) -> [S::f32s; 4] {
    [d[0], simd.add_f32s(d[0], d[1]), simd.sub_f32s(d[0], d[1]), simd.neg_f32s(d[1])]
}
