//! Convolutions with one kernel per channel: vectors run over the channels. Weights are `[channel, ky, kx]` like those of
//! any grouped convolution, and are brought to `[ky, kx, channel]` first.

#![expect(clippy::needless_range_loop, reason = "iterators over accumulators keep them out of registers")]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::geometry::Tap;
use super::kernel::{detached, load, store};
use super::{Convolution, pad};
use crate::tensor::Tensor;

/// Weights with the channels last; `taps` picks and orders the kernel positions.
fn channels_last(conv: &Convolution, weights: &[f32], taps: &[Tap]) -> Vec<f32> {
    let (channels, all) = (conv.geometry.c_in, conv.taps.len());
    let position = |t: &Tap| t.ky * conv.geometry.kernel[1] + t.kx;
    taps.iter().flat_map(|t| (0..channels).map(move |c| weights[c * all + position(t)])).collect()
}

fn offsets(taps: &[Tap]) -> Vec<usize> {
    taps.iter().map(|t| t.offset).collect()
}

pub(super) fn forward(conv: &Convolution, x: &Tensor, weights: &[f32], bias: Option<&[f32]>, y: &mut Tensor) {
    let g = &conv.geometry;
    let zeros = vec![0.0; g.c_in];
    let (weights, taps, bias) =
        (channels_last(conv, weights, &conv.taps), offsets(&conv.taps), bias.unwrap_or(&zeros));
    let (border, input) = (g.border(), [g.input[0], g.input[1], g.c_in]);
    y.images_mut().zip(x.images()).for_each_init(Vec::new, |scratch, (out, x)| {
        let (x, bases, places) = (pad(x, input, border, scratch), &conv.bases, &conv.places);
        let (taps, weights) = (&taps, &weights);
        Arch::new().dispatch(Window { x, bases, taps, weights, bias, places, out });
    });
}

pub(super) fn input_grad(conv: &Convolution, dy: &Tensor, weights: &[f32], dx: &mut Tensor) {
    let g = &conv.geometry;
    let bias = &vec![0.0; g.c_in];
    let phases: Vec<(Vec<f32>, Vec<usize>)> =
        conv.phases.iter().map(|p| (channels_last(conv, weights, &p.taps), offsets(&p.taps))).collect();
    let [rows, columns] = g.output();
    let (border, output) = (g.gradient_border(), [rows, columns, g.c_out]);
    dx.images_mut().zip(dy.images()).for_each_init(Vec::new, |scratch, (out, dy)| {
        let x = pad(dy, output, border, scratch);
        for (phase, (weights, taps)) in conv.phases.iter().zip(&phases) {
            let (bases, places) = (&phase.bases, &phase.places);
            Arch::new().dispatch(Window { x, bases, taps, weights, bias, places, out });
        }
    });
}

/// Adds the gradient of one image to `grad`.
pub(super) fn weight_grad(conv: &Convolution, x: &[f32], dy: &[f32], grad: &mut [f32]) {
    let (bases, taps) = (&conv.bases, &offsets(&conv.taps));
    Arch::new().dispatch(Correlate { x, dy, bases, taps, channels: conv.geometry.c_in, grad });
}

/// `out[place + c] = bias[c] + sum over the taps of x[base + tap + c] w[tap, c]` for each pixel.
struct Window<'a> {
    x: &'a [f32],
    bases: &'a [usize],
    taps: &'a [usize],
    weights: &'a [f32],
    bias: &'a [f32],
    places: &'a [usize],
    out: &'a mut [f32],
}

impl WithSimd for Window<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (mut c, channels) = (0, self.bias.len());
        while c < channels {
            let left = channels - c;
            c += if left >= 2 * S::F32_LANES {
                self.block::<S, 4, 2>(simd, c, 2 * S::F32_LANES)
            } else if left >= S::F32_LANES {
                self.block::<S, 4, 1>(simd, c, S::F32_LANES)
            } else {
                self.block::<S, 4, 1>(simd, c, left)
            };
        }
    }
}

impl Window<'_> {
    /// `width` channels from `c` on; returns `width`.
    #[inline(always)]
    fn block<S: Simd, const P: usize, const V: usize>(&mut self, simd: S, c: usize, width: usize) -> usize {
        let (pixels, channels) = (self.bases.len(), self.bias.len());
        let bias = load::<S, V>(simd, &self.bias[c..][..width]);
        let mut first = 0;
        while first < pixels {
            let count = P.min(pixels - first);
            let mut bases = [self.bases[pixels - 1]; P];
            bases[..count].copy_from_slice(&self.bases[first..first + count]);
            let mut acc = [bias; P];
            for (t, tap) in self.taps.iter().enumerate() {
                let w = load::<S, V>(simd, &self.weights[t * channels + c..][..width]);
                for p in 0..P {
                    let x = load::<S, V>(simd, &self.x[bases[p] + tap + c..][..width]);
                    for v in 0..V {
                        acc[p][v] = simd.mul_add_f32s(x[v], w[v], acc[p][v]);
                    }
                }
            }
            let acc = detached(simd, &acc);
            let places = &self.places[first..first + count];
            for p in 0..P {
                if p < places.len() {
                    store(simd, &mut self.out[places[p] + c..][..width], &acc[p]);
                }
            }
            first += P;
        }
        width
    }
}

/// `grad[c, tap] += sum over pixels of x[base + tap + c] dy[pixel, c]`.
struct Correlate<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    bases: &'a [usize],
    taps: &'a [usize],
    channels: usize,
    grad: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut t = 0;
        while t < self.taps.len() {
            t += match self.taps.len() - t {
                0..3 => self.channels::<S, 1>(simd, t),
                3..5 => self.channels::<S, 3>(simd, t),
                _ => self.channels::<S, 5>(simd, t),
            };
        }
    }
}

impl Correlate<'_> {
    /// `T` taps from `t` on; returns `T`.
    #[inline(always)]
    fn channels<S: Simd, const T: usize>(&mut self, simd: S, t: usize) -> usize {
        let mut c = 0;
        while c < self.channels {
            let left = self.channels - c;
            c += if left >= 2 * S::F32_LANES {
                self.block::<S, T, 2>(simd, t, c, 2 * S::F32_LANES)
            } else if left >= S::F32_LANES {
                self.block::<S, T, 1>(simd, t, c, S::F32_LANES)
            } else {
                self.block::<S, T, 1>(simd, t, c, left)
            };
        }
        T
    }

    #[inline(always)]
    fn block<S: Simd, const T: usize, const V: usize>(
        &mut self,
        simd: S,
        t: usize,
        c: usize,
        width: usize,
    ) -> usize {
        let taps = &self.taps[t..t + T];
        let mut acc = [[simd.splat_f32s(0.0); V]; T];
        for (pixel, base) in self.bases.iter().enumerate() {
            let d = load::<S, V>(simd, &self.dy[pixel * self.channels + c..][..width]);
            for k in 0..T {
                let x = load::<S, V>(simd, &self.x[base + taps[k] + c..][..width]);
                for v in 0..V {
                    acc[k][v] = simd.mul_add_f32s(x[v], d[v], acc[k][v]);
                }
            }
        }
        let acc = detached(simd, &acc);
        for k in 0..T {
            self.add(simd, &acc[k], t + k, c, width);
        }
        width
    }

    /// Adds vectors to the gradients of tap `t`, `width` channels from `c` on.
    #[inline(always)]
    fn add<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        vectors: &[S::f32s; V],
        t: usize,
        c: usize,
        width: usize,
    ) {
        let mut sums = [0.0f32; 2 * 16];
        store(simd, &mut sums[..width], vectors);
        for (i, sum) in sums[..width].iter().enumerate() {
            self.grad[(c + i) * self.taps.len() + t] += sum;
        }
    }
}
