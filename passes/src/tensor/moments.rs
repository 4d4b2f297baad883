//! Moments of every value of a graph on a batch: what the error budget has to know of the data.

use peregrine_ir::EntityId;
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use rayon::prelude::*;

use super::interp::{Batch, channels_of};
use super::ranges::{ChannelRange, look_at_values};
use crate::error::PassError;

/// Moments of one value, by channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Smallest and largest number of each channel.
    pub range: ChannelRange,
    /// Largest absolute value of each channel.
    pub largest: Vec<f64>,
    /// Largest minus smallest number of one image, in the mean over the images; the largest magnitude where there is one number.
    pub spread: f64,
    /// Numbers of a channel of one image.
    pub map: usize,
    /// `[C][k]`: mean of `(x / largest)^k`.
    table: Vec<Vec<f64>>,
}

impl Moments {
    /// Moments up to `order` (at least 2) of a value of this shape (batch 1) from its numbers, image after image.
    pub fn of(shape: &[usize], data: &[f32], order: usize) -> Self {
        let (channels, map) = channels_of(shape);
        let range = ChannelRange::of(shape, data);
        let largest = range.max_abs();
        let table = largest.par_iter().enumerate().map(|(c, &largest)| {
            let unit = if largest > 0.0 { largest } else { 1.0 };
            let maps = data.chunks(map.max(1)).skip(c).step_by(channels.max(1));
            let mut sums = vec![0.0f64; order.max(2) + 1];
            let mut count = 0.0f64;
            for &x in maps.flatten() {
                let x = f64::from(x) / unit;
                let mut power = 1.0;
                for sum in &mut sums {
                    *sum += power;
                    power *= x;
                }
                count += 1.0;
            }
            sums.iter().map(|sum| sum / count.max(1.0)).collect()
        });
        Self { table: table.collect(), spread: spread(data, channels * map), range, largest, map }
    }

    /// Highest moment known.
    pub fn order(&self) -> usize {
        self.table.first().map_or(0, |row| row.len() - 1)
    }

    /// Mean square of channel `c`.
    pub fn mean_square(&self, c: usize) -> f64 {
        self.table[c][2] * self.largest[c] * self.largest[c]
    }

    /// Mean of `(x / unit)^k` of channel `c`, for every k known.
    pub fn in_unit(&self, c: usize, unit: f64) -> Vec<f64> {
        let ratio = self.largest[c] / unit;
        (0i32..).zip(&self.table[c]).map(|(k, moment)| moment * ratio.powi(k)).collect()
    }
}

/// Mean over images of `numbers` numbers of the largest minus the smallest.
fn spread(data: &[f32], numbers: usize) -> f64 {
    let images = data.chunks(numbers.max(1));
    let count = images.len().max(1) as f64;
    let of = |image: &[f32]| {
        let (low, high) = image.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        f64::from(if high > low { high - low } else { high.abs() })
    };
    images.map(of).sum::<f64>() / count
}

/// Moments of every value on `batch`: up to the square, of what a polynomial of degree d reads up to 2 (d - 1).
///
/// # Errors
/// The batch does not fit the graph's input, or a value is not finite (named by its layer).
pub fn measure(graph: &TensorGraph, batch: &Batch) -> Result<Vec<Moments>, PassError> {
    let mut orders = vec![2; graph.nodes.len()];
    for node in graph.nodes.values() {
        if let TensorOp::Poly { coefficients } = node.op {
            let degree = graph.tables.consts[coefficients].shape.last().map_or(1, |columns| columns - 1);
            let order = &mut orders[node.args[0].index()];
            *order = (*order).max(2 * degree.saturating_sub(1));
        }
    }
    let mut moments = Vec::with_capacity(graph.nodes.len());
    look_at_values(graph, batch, &mut |id, data| {
        moments.push(Moments::of(&graph.nodes[id].ty.shape, data, orders[id.index()]));
    })?;
    Ok(moments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::Net;

    #[test]
    fn moments_are_those_of_the_numbers() {
        let data = [1.0, -2.0, 0.5, 0.0, 3.0, 1.0, 0.0, -4.0];
        let moments = Moments::of(&[1, 2, 1, 2], &data, 3);
        assert_eq!((moments.largest.clone(), moments.order(), moments.map), (vec![3.0, 4.0], 3, 2));
        assert_eq!(moments.spread, (3.0 + 7.0) / 2.0);
        assert!((moments.mean_square(0) - 15.0 / 4.0).abs() < 1e-12);
        let of_second = moments.in_unit(1, 0.5);
        let expected = [1.0, -3.5 / 2.0, 16.25, (1.0 - 512.0) / 4.0];
        for (found, expected) in of_second.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9 * expected.abs(), "{found} {expected}");
        }
    }

    #[test]
    fn what_a_polynomial_reads_has_the_moments_of_its_slope() {
        let mut net = Net::new(&[1, 2, 2]);
        let y = net.poly(net.input, 1, 4);
        let graph = net.output(y);
        let batch = Batch::new(&[1, 2, 2], vec![0.1, 0.2, -0.3, 0.4]).unwrap();
        let orders: Vec<usize> = measure(&graph, &batch).unwrap().iter().map(Moments::order).collect();
        assert_eq!(orders, [6, 2]);
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        let mut net = Net::new(&[1, 1, 1]);
        let y = net.poly(net.input, 1, 8);
        let batch = Batch::new(&[1, 1, 1], vec![1e30]).unwrap();
        let error = measure(&net.output(y), &batch).unwrap_err();
        assert!(matches!(&error, PassError::NotFinite { layer } if layer == "layer1"), "{error}");
    }
}
