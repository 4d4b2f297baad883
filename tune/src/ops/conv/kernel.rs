//! The two products that every direction of a convolution is made of, on NHWC images.
//!
//! A result pixel has a base offset into a padded image, and its operands are runs of consecutive numbers (the columns and
//! channels of one kernel row) at fixed offsets from the base. Registers hold a tile of pixels times up to two vectors of
//! channels; operands are broadcast from memory.

#![expect(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "iterators and copies over accumulators keep them out of registers: four times as slow"
)]

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
            initial = load(simd, &bias[start..start + width]);
        }
        let mut first = 0;
        while first < pixels {
            let mut bases = [self.bases[pixels - 1]; P];
            let count = P.min(pixels - first);
            bases[..count].copy_from_slice(&self.bases[first..first + count]);
            let acc = tile::<S, P, V>(simd, self.x, &bases, self.runs, w, initial);
            let places = &self.places[first..first + count];
            for p in 0..P {
                if p < places.len() {
                    store(simd, &mut self.out[places[p] + start..][..width], &acc[p]);
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

/// Up to `V` vectors from a row; what the row does not have is zero.
#[inline(always)]
pub(super) fn load<S: Simd, const V: usize>(simd: S, row: &[f32]) -> [S::f32s; V] {
    let (full, tail) = S::as_simd_f32s(row);
    let mut vectors = [simd.splat_f32s(0.0); V];
    for v in 0..V {
        if v < full.len() {
            vectors[v] = full[v];
        } else if v == full.len() && !tail.is_empty() {
            vectors[v] = simd.partial_load_f32s(tail);
        }
    }
    vectors
}

/// As much of the vectors as the row takes.
#[inline(always)]
pub(super) fn store<S: Simd, const V: usize>(simd: S, row: &mut [f32], vectors: &[S::f32s; V]) {
    let (full, tail) = S::as_mut_simd_f32s(row);
    for v in 0..V {
        if v < full.len() {
            full[v] = vectors[v];
        } else if v == full.len() && !tail.is_empty() {
            simd.partial_store_f32s(tail, vectors[v]);
        }
    }
}

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
        let mut rows = [x; P];
        for p in 0..P {
            rows[p] = &x[bases[p] + run.offset..][..run.len];
        }
        let (now, rest) = w.split_at(run.len);
        w = rest;
        for k in 0..run.len {
            let wk = now[k];
            for p in 0..P {
                let b = simd.splat_f32s(rows[p][k]);
                for v in 0..V {
                    acc[p][v] = simd.mul_add_f32s(b, wk[v], acc[p][v]);
                }
            }
        }
    }
    detached(simd, &acc)
}

/// A copy that may be indexed by variables: the accumulators themselves then stay in registers.
#[inline(always)]
pub(super) fn detached<S: Simd, const P: usize, const V: usize>(
    simd: S,
    acc: &[[S::f32s; V]; P],
) -> [[S::f32s; V]; P] {
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
        let acc = if width == V * S::F32_LANES {
            self.sums::<S, I, V, true>(simd, at, start, width)
        } else {
            self.sums::<S, I, V, false>(simd, at, start, width)
        };
        for i in 0..I {
            let row = &mut self.grad[(k + i) * self.columns + start..][..width];
            let mut sum: [S::f32s; V] = load(simd, row);
            for v in 0..V {
                sum[v] = simd.add_f32s(sum[v], acc[i][v]);
            }
            store(simd, row, &sum);
        }
        I
    }

    /// Sums for `I` numbers of the operand and `width` columns; `WHOLE` when these are `V` whole vectors.
    #[inline(always)]
    fn sums<S: Simd, const I: usize, const V: usize, const WHOLE: bool>(
        &self,
        simd: S,
        at: usize,
        start: usize,
        width: usize,
    ) -> [[S::f32s; V]; I] {
        let mut acc = [[simd.splat_f32s(0.0); V]; I];
        let pixels = self.dy.len() / self.step;
        let from = self.skip + start;
        for (pixel, base) in self.bases[..pixels].iter().enumerate() {
            let x = &self.x[base + at..][..I];
            let row = &self.dy[pixel * self.step + from..];
            let mut d = [simd.splat_f32s(0.0); V];
            if WHOLE {
                let full = S::as_simd_f32s(&row[..V * S::F32_LANES]).0;
                for v in 0..V {
                    d[v] = full[v];
                }
            } else {
                d = load(simd, &row[..width]);
            }
            for i in 0..I {
                let b = simd.splat_f32s(x[i]);
                for v in 0..V {
                    acc[i][v] = simd.mul_add_f32s(b, d[v], acc[i][v]);
                }
            }
        }
        detached(simd, &acc)
    }
}
