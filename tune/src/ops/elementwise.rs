//! Sums and products of two tensors of one shape.

use super::channels::{Stretch, map};
use crate::tensor::Tensor;

struct Copy;

impl Stretch for Copy {
    #[inline(always)]
    fn run(&self, x: &[f32], y: &mut [f32]) {
        y.copy_from_slice(x);
    }
}

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

/// `y = x`.
pub fn copy(x: &Tensor, y: &mut Tensor) {
    map(x, y, &Copy);
}

/// `y += factor x`.
pub fn accumulate(y: &mut Tensor, x: &Tensor, factor: f32) {
    map(x, y, &AddTimes(factor));
}

/// `y = a + factor b`.
pub fn add(a: &Tensor, b: &Tensor, factor: f32, y: &mut Tensor) {
    copy(a, y);
    accumulate(y, b, factor);
}

/// `y = y * x`.
pub fn multiply(y: &mut Tensor, x: &Tensor) {
    map(x, y, &Multiply);
}
