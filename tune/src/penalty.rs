//! Range penalty: keeps the operands of polynomial activations inside the ranges that they will be normalised by.
//!
//! Per activation `weight` times the mean over channels and images of `max(0, |x| / (start M) - 1)^2` summed over the map, `M`
//! being the channel's largest operand. In training nothing that leaves a range does harm; in inference it grows like the
//! polynomial's highest power.

use rayon::prelude::*;

use crate::tensor::Tensor;

/// The penalty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangePenalty {
    /// Weight against the loss.
    pub weight: f64,
    /// Part of the running maximum at which it starts.
    pub start: f32,
}

impl RangePenalty {
    /// Adds the gradient for operand `x` with ranges `max` to `grad`, and each image's part of the cost to `costs`.
    pub fn add(&self, x: &Tensor, max: &[f32], grad: &mut Tensor, costs: &mut [f64]) {
        let channels = max.len();
        let limits: Vec<f32> = max.iter().map(|m| (m * self.start).max(f32::MIN_POSITIVE)).collect();
        let share = self.weight / (channels * x.shape.n) as f64;
        let of_image = |(grad, x): (&mut [f32], &[f32])| {
            let mut cost = 0.0;
            for (grad, x) in grad.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for ((g, x), limit) in grad.iter_mut().zip(x).zip(&limits) {
                    if x.abs() > *limit {
                        let excess = x.abs() / limit - 1.0;
                        cost += f64::from(excess * excess);
                        *g += (2.0 * share) as f32 * excess / limit * x.signum();
                    }
                }
            }
            cost
        };
        let added: Vec<f64> = grad.images_mut().zip(x.images()).map(of_image).collect();
        costs.iter_mut().zip(added).for_each(|(cost, added)| *cost += share * added);
    }
}
