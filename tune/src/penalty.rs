//! Range penalty: keeps the operands of polynomial activations inside the ranges that they will be normalised by.
//!
//! Per activation `weight` times the mean over channels and images of `max(0, |x| / (start M) - 1)^2` summed over the map, `M`
//! being the channel's running maximum. In training the largest value of a batch defines its range, so that nothing ever
//! leaves it; in inference the range is fixed, and what exceeds it grows like the polynomial's highest power.

use rayon::prelude::*;

use crate::tensor::Tensor;

/// What keeps operands in their ranges, and the images that leave them from spoiling the training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Restraint {
    /// Range penalty.
    pub penalty: Option<RangePenalty>,
    /// Most of an image's gradient at a polynomial's operand, in medians over the batch: the slopes of polynomials multiply
    /// from layer to layer, and a single image far outside of the ranges would fill the norm that the optimiser clips.
    pub outlier: Option<f64>,
}

/// Scales down the gradients of images whose norm is more than `most` times the median.
pub(crate) fn tame(grad: &mut Tensor, most: f64) {
    let norm = |image: &[f32]| -> f64 {
        let squares = image.chunks(1024).map(|c| f64::from(c.iter().map(|g| g * g).sum::<f32>()));
        squares.sum::<f64>().sqrt()
    };
    let norms: Vec<f64> = grad.images().map(norm).collect();
    let mut sorted = norms.clone();
    sorted.sort_by(f64::total_cmp);
    let limit = most * sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    grad.images_mut().zip(&norms).filter(|(_, norm)| **norm > limit && limit > 0.0).for_each(
        |(image, norm)| {
            let factor = (limit / norm) as f32;
            image.iter_mut().for_each(|g| *g *= factor);
        },
    );
}

/// The penalty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangePenalty {
    /// Weight against the loss.
    pub weight: f64,
    /// Part of the running maximum at which it starts.
    pub start: f32,
}

impl RangePenalty {
    /// Adds the gradient for operand `x` with running maxima `max` to `grad`; returns the cost.
    pub fn add(&self, x: &Tensor, max: &[f32], grad: &mut Tensor) -> f64 {
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
        let costs: Vec<f64> = grad.images_mut().zip(x.images()).map(of_image).collect();
        share * costs.iter().sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Shape;

    #[test]
    fn only_outliers_are_tamed() {
        let data = vec![3.0, 4.0, 0.6, 0.8, 30.0, 40.0, 0.3, 0.4, -1.2, 1.6];
        let mut grad = Tensor { shape: Shape { n: 5, h: 1, w: 1, c: 2 }, data: data.clone() };
        // Norms 5, 1, 50, 0.5, 2: the median is 2.
        tame(&mut grad, 4.0);
        assert_eq!(grad.data[..4], data[..4]);
        assert_eq!(grad.data[6..], data[6..]);
        assert!((grad.data[4] - 4.8).abs() < 1e-5 && (grad.data[5] - 6.4).abs() < 1e-5, "{:?}", grad.data);
    }
}
