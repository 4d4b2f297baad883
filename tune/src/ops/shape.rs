//! Operations that only place numbers: padding, flattening, means over whole maps.

use rayon::prelude::*;

use crate::tensor::{Shape, Tensor};

/// Pads rows and columns with zeros: top, left, bottom, right.
pub fn pad(x: &Tensor, pads: [usize; 4], y: &mut Tensor) {
    let (from, to) = (x.shape, y.shape);
    y.images_mut().zip(x.images()).for_each(|(y, x)| {
        y.fill(0.0);
        for (row, x) in x.chunks_exact(from.w * from.c).enumerate() {
            let start = ((row + pads[0]) * to.w + pads[1]) * to.c;
            y[start..][..x.len()].copy_from_slice(x);
        }
    });
}

/// The part of `dy` that was inside the padding.
pub fn pad_backward(dy: &Tensor, pads: [usize; 4], dx: &mut Tensor) {
    let (from, to) = (dx.shape, dy.shape);
    dx.images_mut().zip(dy.images()).for_each(|(dx, dy)| {
        for (row, x) in dx.chunks_exact_mut(from.w * from.c).enumerate() {
            let start = ((row + pads[0]) * to.w + pads[1]) * to.c;
            x.copy_from_slice(&dy[start..][..x.len()]);
        }
    });
}

/// Reshapes in the order of an NCHW tensor, which is that of the model file.
pub fn reshape(x: &Tensor, y: &mut Tensor) {
    let (from, to) = (x.shape, y.shape);
    y.images_mut().zip(x.images()).for_each(|(y, x)| {
        for i in 0..x.len() {
            y[nhwc(to, i)] = x[nhwc(from, i)];
        }
    });
}

/// Place in an NHWC image of number `i` of the NCHW image.
fn nhwc(shape: Shape, i: usize) -> usize {
    let map = shape.h * shape.w;
    (i % map) * shape.c + i / map
}

/// Mean over rows and columns.
pub fn global_mean(x: &Tensor, y: &mut Tensor) {
    let (c, weight) = (x.shape.c, 1.0 / (x.shape.h * x.shape.w) as f32);
    y.images_mut().zip(x.images()).for_each(|(y, x)| {
        y.fill(0.0);
        for row in x.chunks_exact(c) {
            y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y *= weight);
    });
}

/// Spreads `dy` evenly.
pub fn global_mean_backward(dy: &Tensor, dx: &mut Tensor) {
    let (c, weight) = (dx.shape.c, 1.0 / (dx.shape.h * dx.shape.w) as f32);
    dx.images_mut().zip(dy.images()).for_each(|(dx, dy)| {
        for row in dx.chunks_exact_mut(c) {
            row.iter_mut().zip(dy).for_each(|(x, d)| *x = weight * d);
        }
    });
}
