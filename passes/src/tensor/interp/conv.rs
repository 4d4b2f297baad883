//! Convolution, fully connected layers, pooling and padding of a batch.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use peregrine_ir::tensor::{Conv, Pool, PoolKind};
use peregrine_ir::{ConstPool, ConstTensor};
use rayon::prelude::*;

/// Output extent of a sliding window, or `None` when the window does not fit.
pub fn conv_extent(
    input: usize,
    before: u32,
    after: u32,
    kernel: usize,
    stride: u32,
    dilation: u32,
) -> Option<usize> {
    let span = (kernel.max(1) - 1) * dilation as usize + 1;
    let padded = input + before as usize + after as usize;
    (padded >= span && stride > 0).then(|| (padded - span) / stride as usize + 1)
}

/// Which input position each kernel tap reads at each output position, for one map of rows and columns.
#[derive(Clone, Copy, Debug)]
pub struct PatchGrid {
    /// Input rows and columns.
    pub input: [usize; 2],
    /// Output rows and columns.
    pub output: [usize; 2],
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
    /// Strides.
    pub stride: [usize; 2],
    /// Dilations.
    pub dilation: [usize; 2],
    /// Padding before the first row and column.
    pub pad: [usize; 2],
}

impl PatchGrid {
    /// The grid of a convolution between two `[1, C, H, W]` shapes.
    pub fn of(op: &Conv, kernel: [usize; 2], input: &[usize], output: &[usize]) -> Self {
        Self {
            input: [input[2], input[3]],
            output: [output[2], output[3]],
            kernel,
            stride: op.stride.map(|s| s as usize),
            dilation: op.dilation.map(|d| d as usize),
            pad: [op.pads[0] as usize, op.pads[1] as usize],
        }
    }
    /// Input coordinate that tap `tap` reads at output coordinate `out` on `axis` (0 rows, 1 columns); `None` in the padding.
    pub fn source(&self, axis: usize, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride[axis] + tap * self.dilation[axis])
            .checked_sub(self.pad[axis])
            .filter(|&at| at < self.input[axis])
    }
    /// Whether patches are the input itself.
    fn is_identity(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pad == [0, 0] && self.input == self.output
    }
    /// Writes the patches of `maps` (channel after channel) as a matrix `[channels * taps, output positions]`.
    pub fn patches(&self, maps: &[f32], out: &mut Vec<f32>) {
        out.clear();
        for map in maps.chunks(self.input[0] * self.input[1]) {
            for ky in 0..self.kernel[0] {
                for kx in 0..self.kernel[1] {
                    for y in 0..self.output[0] {
                        match self.source(0, y, ky) {
                            Some(row) => {
                                self.patch_row(&map[row * self.input[1]..][..self.input[1]], kx, out)
                            }
                            None => out.resize(out.len() + self.output[1], 0.0),
                        }
                    }
                }
            }
        }
    }
    fn patch_row(&self, row: &[f32], kx: usize, out: &mut Vec<f32>) {
        let (offset, pad, width) = (kx * self.dilation[1], self.pad[1], self.output[1]);
        if self.stride[1] == 1 {
            let zeros = pad.saturating_sub(offset).min(width);
            let from = (offset + zeros).saturating_sub(pad).min(row.len());
            let copied = (row.len() - from).min(width - zeros);
            out.resize(out.len() + zeros, 0.0);
            out.extend_from_slice(&row[from..from + copied]);
            out.resize(out.len() + width - zeros - copied, 0.0);
        } else {
            out.extend((0..width).map(|x| self.source(1, x, kx).map_or(0.0, |at| row[at])));
        }
    }
}

/// Convolution of a batch.
pub(crate) fn convolve(
    op: &Conv,
    consts: &ConstPool,
    x: &[f32],
    input: &[usize],
    output: &[usize],
    images: usize,
) -> Vec<f32> {
    let weights = &consts[op.weights];
    let grid = PatchGrid::of(op, [weights.shape[2], weights.shape[3]], input, output);
    let table = weights.to_f32();
    let bias = op.bias.map_or_else(|| vec![0.0; output[1]], |b| consts[b].to_f32());
    let (in_map, out_map) = (grid.input[0] * grid.input[1], grid.output[0] * grid.output[1]);
    let groups = op.groups.max(1) as usize;
    let (group_in, group_out) = (input[1] / groups, output[1] / groups);
    let depth = group_in * grid.kernel[0] * grid.kernel[1];
    let mut out = vec![0.0; images * output[1] * out_map];
    let per_image = (output[1] * out_map, input[1] * in_map);
    out.par_chunks_mut(per_image.0).zip(x.par_chunks(per_image.1)).for_each_init(
        Vec::new,
        |patches, (out, x)| {
            for g in 0..groups {
                let maps = &x[g * group_in * in_map..][..group_in * in_map];
                let out = &mut out[g * group_out * out_map..][..group_out * out_map];
                for (c, map) in out.chunks_mut(out_map).enumerate() {
                    map.fill(bias[g * group_out + c]);
                }
                let kernels = &table[g * group_out * depth..][..group_out * depth];
                if group_in == 1 && group_out == 1 {
                    convolve_map(&grid, kernels, maps, out);
                    continue;
                }
                let columns = if grid.is_identity() {
                    maps
                } else {
                    grid.patches(maps, patches);
                    patches.as_slice()
                };
                multiply_into(kernels, columns, [group_out, depth, out_map], out);
            }
        },
    );
    out
}

/// Adds one channel's convolution to `out`.
fn convolve_map(grid: &PatchGrid, kernel: &[f32], map: &[f32], out: &mut [f32]) {
    for (tap, &weight) in kernel.iter().enumerate() {
        let (ky, kx) = (tap / grid.kernel[1], tap % grid.kernel[1]);
        for (y, out) in out.chunks_mut(grid.output[1]).enumerate() {
            let Some(row) = grid.source(0, y, ky) else { continue };
            let row = &map[row * grid.input[1]..][..grid.input[1]];
            for (x, out) in out.iter_mut().enumerate() {
                if let Some(at) = grid.source(1, x, kx) {
                    *out += weight * row[at];
                }
            }
        }
    }
}

/// `c += a b` for row-major `a` `[m, k]`, `b` `[k, n]`, `c` `[m, n]`.
fn multiply_into(a: &[f32], b: &[f32], [m, k, n]: [usize; 3], c: &mut [f32]) {
    let views = (
        ArrayView2::from_shape((m, k), a),
        ArrayView2::from_shape((k, n), b),
        ArrayViewMut2::from_shape((m, n), c),
    );
    let (Ok(a), Ok(b), Ok(mut c)) = views else {
        unreachable!("slices are cut to the extents of the matrices")
    };
    general_mat_mul(1.0, &a, &b, 1.0, &mut c);
}

/// Fully connected layer of a batch; weights `[out, in]`.
pub(super) fn fully_connected(
    weights: &ConstTensor,
    bias: Option<&ConstTensor>,
    x: &[f32],
    images: usize,
) -> Vec<f32> {
    let (outputs, inputs) = (weights.shape[0], weights.shape[1]);
    let table = weights.to_f32();
    let mut transposed = vec![0.0; table.len()];
    for (o, row) in table.chunks(inputs).enumerate() {
        row.iter().enumerate().for_each(|(i, &w)| transposed[i * outputs + o] = w);
    }
    let bias = bias.map_or_else(|| vec![0.0; outputs], ConstTensor::to_f32);
    let mut out = bias.repeat(images);
    multiply_into(x, &transposed, [images, inputs, outputs], &mut out);
    out
}

/// Pooling of a batch.
pub(super) fn pool(op: &Pool, x: &[f32], input: &[usize], output: &[usize]) -> Vec<f32> {
    let grid = pool_grid(op, input, output);
    let (in_map, out_map) = (grid.input[0] * grid.input[1], grid.output[0] * grid.output[1]);
    let maps = x.len() / in_map;
    let mut out = vec![0.0; maps * out_map];
    out.par_chunks_mut(out_map).zip(x.par_chunks(in_map)).for_each(|(out, map)| {
        for (i, out) in out.iter_mut().enumerate() {
            *out = pool_window(op, &grid, map, [i / grid.output[1], i % grid.output[1]]);
        }
    });
    out
}

/// Pixels inside the input that every window of a pool holds, if all hold the same number.
pub(crate) fn pool_counts(op: &Pool, input: &[usize], output: &[usize]) -> Option<usize> {
    let grid = pool_grid(op, input, output);
    let inside = |axis: usize| {
        let count =
            |out: usize| (0..grid.kernel[axis]).filter(|&tap| grid.source(axis, out, tap).is_some()).count();
        let first = count(0);
        (1..grid.output[axis]).all(|out| count(out) == first).then_some(first)
    };
    Some(inside(0)? * inside(1)?).filter(|&pixels| pixels > 0)
}

/// The windows of a pool.
fn pool_grid(op: &Pool, input: &[usize], output: &[usize]) -> PatchGrid {
    PatchGrid {
        input: [input[2], input[3]],
        output: [output[2], output[3]],
        kernel: op.kernel.map(|k| k as usize),
        stride: op.stride.map(|s| s as usize),
        dilation: [1, 1],
        pad: [op.pads[0] as usize, op.pads[1] as usize],
    }
}

fn pool_window(op: &Pool, grid: &PatchGrid, map: &[f32], [y, x]: [usize; 2]) -> f32 {
    let (mut sum, mut largest, mut inside) = (0.0f64, f32::NEG_INFINITY, 0usize);
    for row in (0..grid.kernel[0]).filter_map(|ky| grid.source(0, y, ky)) {
        for column in (0..grid.kernel[1]).filter_map(|kx| grid.source(1, x, kx)) {
            let value = map[row * grid.input[1] + column];
            sum += f64::from(value);
            largest = largest.max(value);
            inside += 1;
        }
    }
    match op.kind {
        PoolKind::Max => largest,
        PoolKind::AverageExcludePad => (sum / inside.max(1) as f64) as f32,
        PoolKind::AverageIncludePad => (sum / (grid.kernel[0] * grid.kernel[1]) as f64) as f32,
    }
}

/// Zero padding of a batch.
pub(super) fn pad(pads: [u32; 4], x: &[f32], input: &[usize], output: &[usize]) -> Vec<f32> {
    let (in_map, out_map) = (input[2] * input[3], output[2] * output[3]);
    let (top, left) = (pads[0] as usize, pads[1] as usize);
    let mut out = vec![0.0; x.len() / in_map * out_map];
    for (out, map) in out.chunks_mut(out_map).zip(x.chunks(in_map)) {
        for (y, row) in map.chunks(input[3]).enumerate() {
            out[(y + top) * output[3] + left..][..input[3]].copy_from_slice(row);
        }
    }
    out
}
