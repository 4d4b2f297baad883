//! The two products that every direction of a convolution is made of, on NHWC images.
//!
//! A result pixel has a base offset into a padded image, and its operands are runs of consecutive numbers (the columns and
//! channels of one kernel row) at fixed offsets from the base. Registers hold a tile of pixels times up to two vectors of
//! channels; operands are broadcast from memory.

use pulp::{Simd, WithSimd};

/// Consecutive numbers of the operand, `offset` from a pixel's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// Where each result pixel finds its operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) bases: Vec<usize>,
    pub(super) runs: Vec<Run>,
}

impl Plan {
    /// Numbers that each pixel reads.
    pub(super) fn depth(&self) -> usize {
        self.runs.iter().map(|r| r.len).sum()
    }
}

/// Columns of a full block of weights.
const BLOCK: usize = 32;

/// Columns of the block that starts at column `start`: padded to whole vectors.
fn block_width(columns: usize, start: usize) -> usize {
    match columns - start {
        0..=16 => 16,
        _ => BLOCK,
    }
}

/// Weights `[depth, columns]`, block of columns after block of columns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Packed {
    depth: usize,
    columns: usize,
    data: Vec<f32>,
}

impl Packed {
    /// From rows of weights: `row(k)` gives row `k`, element `c` of which is at `c * step`.
    pub(super) fn new<'w>(
        depth: usize,
        columns: usize,
        step: usize,
        row: impl Fn(usize) -> &'w [f32],
    ) -> Self {
        let mut data = Vec::with_capacity(depth * columns.next_multiple_of(BLOCK));
        let mut start = 0;
        while start < columns {
            let width = block_width(columns, start);
            let real = width.min(columns - start);
            for k in 0..depth {
                let row = row(k);
                data.extend((start..start + real).map(|c| row[c * step]));
                data.extend(std::iter::repeat_n(0.0, width - real));
            }
            start += width;
        }
        Self { depth, columns, data }
    }
}

/// `out[place + column] = bias[column] + sum_k x[base + k] w[k, column]` for each pixel, `k` through the runs.
pub(super) struct Gather<'a> {
    pub(super) x: &'a [f32],
    pub(super) bases: &'a [usize],
    pub(super) runs: &'a [Run],
    pub(super) weights: &'a Packed,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) places: &'a [usize],
    pub(super) out: &'a mut [f32],
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let weights = self.weights;
        let (mut start, mut at) = (0, 0);
        while start < weights.columns {
            let width = block_width(weights.columns, start);
            let w = &weights.data[at..at + width * weights.depth];
            match (S::F32_LANES, width) {
                (16, 16) => self.block::<S, 8, 1>(simd, w, start),
                (16, _) => self.block::<S, 8, 2>(simd, w, start),
                (8, 16) => self.block::<S, 4, 2>(simd, w, start),
                (8, _) => self.block::<S, 2, 4>(simd, w, start),
                (4, 16) => self.block::<S, 4, 4>(simd, w, start),
                (4, _) => self.block::<S, 2, 8>(simd, w, start),
                _ => self.scalar(w, width, start),
            }
            start += width;
            at += w.len();
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    fn block<S: Simd, const P: usize, const V: usize>(&mut self, simd: S, w: &[f32], start: usize) {
        let (pixels, columns) = (self.bases.len(), self.weights.columns);
        let width = (columns - start).min(V * S::F32_LANES);
        let w = S::as_simd_f32s(w).0.as_chunks::<V>().0;
        let mut initial = [simd.splat_f32s(0.0); V];
        if let Some(bias) = self.bias {
            for (chunk, a) in bias[start..start + width].chunks(S::F32_LANES).zip(&mut initial) {
                *a = simd.partial_load_f32s(chunk);
            }
        }
        let mut first = 0;
        while first < pixels {
            let bases: [usize; P] = std::array::from_fn(|p| self.bases[(first + p).min(pixels - 1)]);
            let acc = tile::<S, P, V>(simd, self.x, &bases, self.runs, w, initial);
            for (vectors, place) in acc.iter().zip(&self.places[first..]) {
                let row = &mut self.out[place + start..][..width];
                for (chunk, v) in row.chunks_mut(S::F32_LANES).zip(vectors) {
                    simd.partial_store_f32s(chunk, *v);
                }
            }
            first += P;
        }
    }

    /// For machines without vectors.
    #[inline(always)]
    fn scalar(&mut self, w: &[f32], width: usize, start: usize) {
        let real = width.min(self.weights.columns - start);
        for (base, place) in self.bases.iter().zip(self.places) {
            let mut acc = [0.0f32; BLOCK];
            if let Some(bias) = self.bias {
                acc[..real].copy_from_slice(&bias[start..start + real]);
            }
            let mut rows = w.chunks_exact(width);
            for run in self.runs {
                for (x, row) in self.x[base + run.offset..][..run.len].iter().zip(&mut rows) {
                    acc.iter_mut().zip(row).for_each(|(a, w)| *a += x * w);
                }
            }
            self.out[place + start..][..real].copy_from_slice(&acc[..real]);
        }
    }
}

/// Numbers of a run between two checks of bounds.
const UNROLL: usize = 4;

#[inline(always)]
fn tile<S: Simd, const P: usize, const V: usize>(
    simd: S,
    x: &[f32],
    bases: &[usize; P],
    runs: &[Run],
    mut w: &[[S::f32s; V]],
    initial: [S::f32s; V],
) -> [[S::f32s; V]; P] {
    let mut acc = [initial; P];
    for run in runs {
        let rows: [&[f32]; P] = std::array::from_fn(|p| &x[bases[p] + run.offset..][..run.len]);
        let (now, rest) = w.split_at(run.len);
        w = rest;
        let (chunks, tail) = now.as_chunks::<UNROLL>();
        for (j, chunk) in chunks.iter().enumerate() {
            let xs: [&[f32; UNROLL]; P] =
                std::array::from_fn(|p| rows[p][j * UNROLL..].first_chunk().expect("inside the run"));
            for k in 0..UNROLL {
                add_products(simd, std::array::from_fn(|p| xs[p][k]), &chunk[k], &mut acc);
            }
        }
        for (k, wk) in tail.iter().enumerate() {
            let k = chunks.len() * UNROLL + k;
            add_products(simd, std::array::from_fn(|p| rows[p][k]), wk, &mut acc);
        }
    }
    detached(simd, &acc)
}

/// `acc[p] += x[p] w`
#[inline(always)]
fn add_products<S: Simd, const P: usize, const V: usize>(
    simd: S,
    x: [f32; P],
    w: &[S::f32s; V],
    acc: &mut [[S::f32s; V]; P],
) {
    for p in 0..P {
        let b = simd.splat_f32s(x[p]);
        for v in 0..V {
            acc[p][v] = simd.mul_add_f32s(b, w[v], acc[p][v]);
        }
    }
}

/// A copy that may be indexed by variables: the accumulators themselves then stay in registers.
#[inline(always)]
fn detached<S: Simd, const P: usize, const V: usize>(simd: S, acc: &[[S::f32s; V]; P]) -> [[S::f32s; V]; P] {
    let mut copy = [[simd.splat_f32s(0.0); V]; P];
    for p in 0..P {
        for v in 0..V {
            copy[p][v] = acc[p][v];
        }
    }
    copy
}

/// `grad[k, column] += sum over pixels of x[base + k] dy[pixel, column]`, `k` through the runs.
pub(super) struct Scatter<'a> {
    pub(super) x: &'a [f32],
    pub(super) bases: &'a [usize],
    pub(super) runs: &'a [Run],
    /// Rows of `step` numbers, one per pixel; columns start at `skip`.
    pub(super) dy: &'a [f32],
    pub(super) step: usize,
    pub(super) skip: usize,
    pub(super) columns: usize,
    pub(super) grad: &'a mut [f32],
}

impl WithSimd for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut start = 0;
        while start < self.columns {
            if self.columns - start > S::F32_LANES {
                match S::F32_LANES >= 16 {
                    true => self.block::<S, 8, 2>(simd, start),
                    false => self.block::<S, 4, 2>(simd, start),
                }
                start += 2 * S::F32_LANES;
            } else {
                match S::F32_LANES >= 16 {
                    true => self.block::<S, 16, 1>(simd, start),
                    false => self.block::<S, 8, 1>(simd, start),
                }
                start += S::F32_LANES;
            }
        }
    }
}

impl Scatter<'_> {
    #[inline(always)]
    fn block<S: Simd, const I: usize, const V: usize>(&mut self, simd: S, start: usize) {
        let mut k = 0;
        for run in self.runs {
            let mut j = 0;
            while j < run.len {
                let at = run.offset + j;
                j += match run.len - j {
                    left if left >= I => self.rows::<S, I, V>(simd, start, at, k + j),
                    left if left >= 4 => self.rows::<S, 4, V>(simd, start, at, k + j),
                    _ => self.rows::<S, 1, V>(simd, start, at, k + j),
                };
            }
            k += run.len;
        }
    }

    /// `I` rows of the gradient; returns `I`.
    #[inline(always)]
    fn rows<S: Simd, const I: usize, const V: usize>(
        &mut self,
        simd: S,
        start: usize,
        at: usize,
        k: usize,
    ) -> usize {
        let width = (self.columns - start).min(V * S::F32_LANES);
        let acc = match width == V * S::F32_LANES {
            true => self.sums::<S, I, V>(simd, at, |dy| {
                S::as_simd_f32s(&dy[start..start + V * S::F32_LANES]).0.try_into().expect("whole vectors")
            }),
            false => self.sums::<S, I, V>(simd, at, |dy| {
                let mut chunks = dy[start..start + width].chunks(S::F32_LANES);
                std::array::from_fn(|_| simd.partial_load_f32s(chunks.next().unwrap_or_default()))
            }),
        };
        for (i, vectors) in acc.iter().enumerate() {
            let row = &mut self.grad[(k + i) * self.columns + start..][..width];
            for (chunk, v) in row.chunks_mut(S::F32_LANES).zip(vectors) {
                let sum = simd.add_f32s(simd.partial_load_f32s(chunk), *v);
                simd.partial_store_f32s(chunk, sum);
            }
        }
        I
    }

    #[inline(always)]
    fn sums<S: Simd, const I: usize, const V: usize>(
        &self,
        simd: S,
        at: usize,
        load: impl Fn(&[f32]) -> [S::f32s; V],
    ) -> [[S::f32s; V]; I] {
        let mut acc = [[simd.splat_f32s(0.0); V]; I];
        for (dy, base) in self.dy.chunks_exact(self.step).zip(self.bases) {
            let x: &[f32; I] = self.x[base + at..].first_chunk().expect("the run is inside the image");
            let d = load(&dy[self.skip..][..self.columns]);
            add_products(simd, *x, &d, &mut acc);
        }
        detached(simd, &acc)
    }
}
