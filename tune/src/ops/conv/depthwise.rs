//! Convolutions with one kernel per channel: vectors run over the channels. Weights are `[channel, ky, kx]` like those of
//! any grouped convolution, and are brought to `[ky, kx, channel]` first.

use pulp::Arch;
use rayon::prelude::*;

use super::geometry::Tap;
use super::{Convolution, pad};
use crate::tensor::Tensor;

/// Weights with the channels last; `taps` picks and orders the kernel positions.
fn channels_last(conv: &Convolution, weights: &[f32], taps: &[Tap]) -> Vec<f32> {
    let (channels, all) = (conv.geometry.c_in, conv.taps.len());
    let position = |t: &Tap| t.ky * conv.geometry.kernel[1] + t.kx;
    taps.iter().flat_map(|t| (0..channels).map(move |c| weights[c * all + position(t)])).collect()
}

pub(super) fn forward(conv: &Convolution, x: &Tensor, weights: &[f32], bias: Option<&[f32]>, y: &mut Tensor) {
    let g = &conv.geometry;
    let weights = channels_last(conv, weights, &conv.taps);
    let (border, input) = (g.border(), [g.input[0], g.input[1], g.c_in]);
    y.images_mut().zip(x.images()).for_each_init(Vec::new, |scratch, (out, x)| {
        let x = pad(x, input, border, scratch);
        window(x, g.c_in, &conv.bases, &conv.taps, &weights, bias, &conv.places, out);
    });
}

pub(super) fn input_grad(conv: &Convolution, dy: &Tensor, weights: &[f32], dx: &mut Tensor) {
    let g = &conv.geometry;
    let phases: Vec<Vec<f32>> = conv.phases.iter().map(|p| channels_last(conv, weights, &p.taps)).collect();
    let [rows, columns] = g.output();
    let (border, output) = (g.gradient_border(), [rows, columns, g.c_out]);
    dx.images_mut().zip(dy.images()).for_each_init(Vec::new, |scratch, (out, dy)| {
        let dy = pad(dy, output, border, scratch);
        for (phase, weights) in conv.phases.iter().zip(&phases) {
            window(dy, g.c_out, &phase.bases, &phase.taps, weights, None, &phase.places, out);
        }
    });
}

/// Adds the gradient of one image to `grad`.
pub(super) fn weight_grad(conv: &Convolution, x: &[f32], dy: &[f32], grad: &mut [f32]) {
    let channels = conv.geometry.c_in;
    for (k, tap) in conv.taps.iter().enumerate() {
        let mut sums = vec![0.0f32; channels];
        Arch::new().dispatch(|| {
            for (dy, base) in dy.chunks_exact(channels).zip(&conv.bases) {
                let x = &x[base + tap.offset..][..channels];
                for ((s, x), d) in sums.iter_mut().zip(x).zip(dy) {
                    *s += x * d;
                }
            }
        });
        for (c, s) in sums.iter().enumerate() {
            grad[c * conv.taps.len() + k] += s;
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one window, used by both directions")]
fn window(
    x: &[f32],
    channels: usize,
    bases: &[usize],
    taps: &[Tap],
    weights: &[f32],
    bias: Option<&[f32]>,
    places: &[usize],
    out: &mut [f32],
) {
    Arch::new().dispatch(|| {
        for (base, place) in bases.iter().zip(places) {
            let row = &mut out[*place..][..channels];
            match bias {
                Some(bias) => row.copy_from_slice(bias),
                None => row.fill(0.0),
            }
            for (tap, w) in taps.iter().zip(weights.chunks_exact(channels)) {
                let x = &x[base + tap.offset..][..channels];
                for ((y, x), w) in row.iter_mut().zip(x).zip(w) {
                    *y += x * w;
                }
            }
        }
    });
}
