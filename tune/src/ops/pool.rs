//! Pooling over windows and over whole maps.

use rayon::prelude::*;

use crate::tensor::{Shape, Tensor};

/// Function of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mean of the taps inside the image.
    AverageInside,
    /// Mean of all taps, padding counted as zero.
    AverageAll,
    /// Maximum.
    Max,
}

/// A sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Function.
    pub kind: Kind,
    /// Rows and columns.
    pub kernel: [usize; 2],
    /// Strides.
    pub stride: [usize; 2],
    /// Padding: top, left, bottom, right.
    pub pads: [usize; 4],
}

impl Window {
    /// Rows and columns of the result.
    pub fn output(&self, input: [usize; 2]) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let padded = input[axis] + self.pads[axis] + self.pads[axis + 2];
            (padded + self.stride[axis]).saturating_sub(self.kernel[axis]) / self.stride[axis]
        })
    }

    /// Coordinates on an axis of extent `extent` that result `i` covers.
    fn span(&self, axis: usize, i: usize, extent: usize) -> std::ops::Range<usize> {
        let start = i * self.stride[axis];
        let end = (start + self.kernel[axis]).saturating_sub(self.pads[axis]).min(extent);
        start.saturating_sub(self.pads[axis]).min(end)..end
    }

    /// Calls `visit(result pixel, operand pixels, weight)` for each window.
    fn windows(&self, shape: Shape, mut visit: impl FnMut(usize, &[usize], f32)) {
        let [rows, columns] = self.output([shape.h, shape.w]);
        let mut pixels = Vec::new();
        for y in 0..rows {
            for x in 0..columns {
                pixels.clear();
                for row in self.span(0, y, shape.h) {
                    pixels.extend(self.span(1, x, shape.w).map(|column| row * shape.w + column));
                }
                let count = match self.kind {
                    Kind::AverageAll => self.kernel[0] * self.kernel[1],
                    Kind::AverageInside | Kind::Max => pixels.len().max(1),
                };
                visit(y * columns + x, &pixels, 1.0 / count as f32);
            }
        }
    }

    /// Pools.
    pub fn forward(&self, x: &Tensor, y: &mut Tensor) {
        let (shape, c) = (x.shape, x.shape.c);
        y.images_mut().zip(x.images()).for_each(|(y, x)| {
            self.windows(shape, |to, from, weight| {
                let row = &mut y[to * c..][..c];
                row.fill(if self.kind == Kind::Max { f32::NEG_INFINITY } else { 0.0 });
                for pixel in from {
                    let x = &x[pixel * c..][..c];
                    match self.kind {
                        Kind::Max => row.iter_mut().zip(x).for_each(|(y, x)| *y = y.max(*x)),
                        _ => row.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x),
                    }
                }
            });
        });
    }

    /// Writes `dx`. Of equal maxima the first gets the gradient.
    pub fn backward(&self, x: &Tensor, dy: &Tensor, dx: &mut Tensor) {
        let (shape, c) = (x.shape, x.shape.c);
        dx.images_mut().zip(x.images().zip(dy.images())).for_each(|(dx, (x, dy))| {
            dx.fill(0.0);
            self.windows(shape, |to, from, weight| {
                let dy = &dy[to * c..][..c];
                if self.kind != Kind::Max {
                    for pixel in from {
                        dx[pixel * c..][..c].iter_mut().zip(dy).for_each(|(dx, d)| *dx += weight * d);
                    }
                    return;
                }
                for channel in 0..c {
                    let value = |pixel: &usize| x[pixel * c + channel];
                    let largest =
                        from.iter().copied().reduce(|a, b| if value(&b) > value(&a) { b } else { a });
                    if let Some(pixel) = largest {
                        dx[pixel * c + channel] += dy[channel];
                    }
                }
            });
        });
    }
}
