//! Loops over channels: numbers of one image are rows of `c` channels, too short for long vector loops when `c` is small. So
//! parameters per channel are repeated to a pattern of some hundred numbers, and images are walked a pattern at a time.
//!
//! What is done to a stretch of numbers is a trait's method and not a closure: it must be inlined into the function that is
//! compiled for the machine's vectors, which is not promised for closures.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::tensor::Tensor;

/// Least numbers of a pattern.
const PATTERN: usize = 512;

/// Length of the pattern for `c` channels.
pub(super) fn pattern_len(c: usize) -> usize {
    c * PATTERN.div_ceil(c)
}

/// One value per channel, repeated.
pub(super) fn pattern(values: &[f32]) -> Vec<f32> {
    values.iter().copied().cycle().take(pattern_len(values.len())).collect()
}

/// Writes or changes a stretch `y`, given another. Implementations are `#[inline(always)]`.
pub(super) trait Stretch: Sync {
    /// The stretches start at a pattern's start.
    fn run(&self, x: &[f32], y: &mut [f32]);
}

/// Sums `N` functions of two stretches, and may change the second. Implementations are `#[inline(always)]`.
pub(super) trait SumStretch<const N: usize>: Sync {
    /// Adds to sums in the layout of the stretches.
    fn run(&self, x: &[f32], y: &mut [f32], sums: &mut [&mut [f32]; N]);
}

/// Sums `N` functions of two stretches. Implementations are `#[inline(always)]`.
pub(super) trait Reduce<const N: usize>: Sync {
    /// Adds to sums in the layout of the stretches.
    fn run(&self, x: &[f32], y: &[f32], sums: &mut [&mut [f32]; N]);
}

struct Walk<'a, F> {
    f: &'a F,
    len: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<F: Stretch> WithSimd for Walk<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (y, x) in self.y.chunks_mut(self.len).zip(self.x.chunks(self.len)) {
            self.f.run(x, y);
        }
    }
}

/// Runs `f` on every stretch: `y` is written or changed.
pub(super) fn map(x: &Tensor, y: &mut Tensor, f: &impl Stretch) {
    let len = pattern_len(x.shape.c);
    y.images_mut().zip(x.images()).for_each(|(y, x)| Arch::new().dispatch(Walk { f, len, x, y }));
}

struct SumWalk<'a, 's, F, const N: usize> {
    f: &'a F,
    len: usize,
    x: &'a [f32],
    y: &'a mut [f32],
    sums: &'a mut [&'s mut [f32]; N],
}

impl<const N: usize, F: SumStretch<N>> WithSimd for SumWalk<'_, '_, F, N> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (y, x) in self.y.chunks_mut(self.len).zip(self.x.chunks(self.len)) {
            self.f.run(x, y, self.sums);
        }
    }
}

/// Runs `f` on every stretch: `y` is changed, and functions of both are summed.
pub(super) fn update_sums<const N: usize>(
    x: &Tensor,
    y: &mut Tensor,
    f: &impl SumStretch<N>,
) -> [Vec<f64>; N] {
    let (c, len) = (x.shape.c, pattern_len(x.shape.c));
    let images = y
        .images_mut()
        .zip(x.images())
        .map(|(y, x)| of_image(c, |sums| Arch::new().dispatch(SumWalk { f, len, x, y, sums })));
    total(c, &images.collect::<Vec<_>>())
}

struct ReduceWalk<'a, 's, F, const N: usize> {
    f: &'a F,
    len: usize,
    x: &'a [f32],
    y: &'a [f32],
    sums: &'a mut [&'s mut [f32]; N],
}

impl<const N: usize, F: Reduce<N>> WithSimd for ReduceWalk<'_, '_, F, N> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (y, x) in self.y.chunks(self.len).zip(self.x.chunks(self.len)) {
            self.f.run(x, y, self.sums);
        }
    }
}

/// Sums functions of two tensors of one shape over all pixels.
pub(super) fn sums<const N: usize>(x: &Tensor, y: &Tensor, f: &impl Reduce<N>) -> [Vec<f64>; N] {
    let (c, len) = (x.shape.c, pattern_len(x.shape.c));
    let images = x
        .images()
        .zip(y.images())
        .map(|(x, y)| of_image(c, |sums| Arch::new().dispatch(ReduceWalk { f, len, x, y, sums })));
    total(c, &images.collect::<Vec<_>>())
}

/// Sums of one image: in `f32` by place in the pattern, then in `f64` per channel.
fn of_image<const N: usize>(c: usize, run: impl FnOnce(&mut [&mut [f32]; N])) -> [Vec<f64>; N] {
    let mut patterns: [Vec<f32>; N] = std::array::from_fn(|_| vec![0.0; pattern_len(c)]);
    run(&mut patterns.each_mut().map(Vec::as_mut_slice));
    patterns.map(|p| fold(&p, c))
}

/// Sums over images, in order.
fn total<const N: usize>(channels: usize, images: &[[Vec<f64>; N]]) -> [Vec<f64>; N] {
    let mut sums: [Vec<f64>; N] = std::array::from_fn(|_| vec![0.0; channels]);
    for image in images {
        for (sum, part) in sums.iter_mut().zip(image) {
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    }
    sums
}

fn fold(pattern: &[f32], channels: usize) -> Vec<f64> {
    let mut sums = vec![0.0; channels];
    for row in pattern.chunks_exact(channels) {
        sums.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
    }
    sums
}
