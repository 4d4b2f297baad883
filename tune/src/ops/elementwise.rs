//! Sums and products of two tensors of one shape.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::channels::{Stretch, map};
use crate::tensor::Tensor;

struct AddTimes(f32);

impl Stretch for AddTimes {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += self.0 * x);
    }
}

struct Multiply;

impl Stretch for Multiply {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
    }
}

/// `y += factor x`.
pub fn accumulate(y: &mut Tensor, x: &Tensor, factor: f32) {
    map(x, y, &AddTimes(factor));
}

struct Sum<'a> {
    a: &'a [f32],
    b: &'a [f32],
    factor: f32,
    y: &'a mut [f32],
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (a, b) = (&self.a[..self.y.len()], &self.b[..self.y.len()]);
        for (i, y) in self.y.iter_mut().enumerate() {
            *y = a[i] + self.factor * b[i];
        }
    }
}

/// `y = a + factor b`.
pub fn add(a: &Tensor, b: &Tensor, factor: f32, y: &mut Tensor) {
    let images = y.images_mut().zip(a.images().zip(b.images()));
    images.for_each(|(y, (a, b))| Arch::new().dispatch(Sum { a, b, factor, y }));
}

struct Product<'a> {
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (a, b) = (&self.a[..self.y.len()], &self.b[..self.y.len()]);
        for (i, y) in self.y.iter_mut().enumerate() {
            *y = a[i] * b[i];
        }
    }
}

/// `y = a b`.
pub fn product(a: &Tensor, b: &Tensor, y: &mut Tensor) {
    let images = y.images_mut().zip(a.images().zip(b.images()));
    images.for_each(|(y, (a, b))| Arch::new().dispatch(Product { a, b, y }));
}

/// `y = y * x`.
pub fn multiply(y: &mut Tensor, x: &Tensor) {
    map(x, y, &Multiply);
}
