//! Ranges of every value of a graph on a batch: units of the packed values and the calibrated ranges of the artefact.

use peregrine_ir::tensor::TensorGraph;
use peregrine_ir::{EntityId, ValueId};

use super::interp::{self, Batch, channels_of};
use crate::error::PassError;

/// Smallest and largest number seen in each channel of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelRange {
    /// Smallest, per channel.
    pub low: Vec<f32>,
    /// Largest, per channel.
    pub high: Vec<f32>,
}

impl ChannelRange {
    /// Ranges of a value of this shape (batch 1) from its numbers, image after image.
    pub fn of(shape: &[usize], data: &[f32]) -> Self {
        let (channels, map) = channels_of(shape);
        let mut range = Self { low: vec![f32::INFINITY; channels], high: vec![f32::NEG_INFINITY; channels] };
        for (i, numbers) in data.chunks(map.max(1)).enumerate() {
            let c = i % channels;
            for &x in numbers {
                range.low[c] = range.low[c].min(x);
                range.high[c] = range.high[c].max(x);
            }
        }
        range
    }
    /// Largest absolute value, per channel.
    pub fn max_abs(&self) -> Vec<f64> {
        self.low.iter().zip(&self.high).map(|(l, h)| f64::from(l.abs().max(h.abs()))).collect()
    }
}

/// Largest absolute value of every channel (axis 1) of every value on `batch`.
///
/// # Errors
/// The batch does not fit the graph's input, or a value is not finite (named by its layer).
pub fn measure(graph: &TensorGraph, batch: &Batch) -> Result<Vec<Vec<f64>>, PassError> {
    Ok(measure_ranges(graph, batch)?.iter().map(ChannelRange::max_abs).collect())
}

/// Smallest and largest number of every channel of every value on `batch`.
///
/// # Errors
/// Those of [`measure`].
pub fn measure_ranges(graph: &TensorGraph, batch: &Batch) -> Result<Vec<ChannelRange>, PassError> {
    let mut ranges = Vec::with_capacity(graph.nodes.len());
    let mut broken: Option<ValueId> = None;
    interp::run_with(graph, batch, &mut |id, data| {
        if broken.is_none() && data.iter().any(|x| !x.is_finite()) {
            broken = Some(id);
        }
        debug_assert_eq!(id.index(), ranges.len());
        ranges.push(ChannelRange::of(&graph.nodes[id].ty.shape, data));
    })?;
    match broken {
        Some(id) => Err(PassError::NotFinite { layer: graph.nodes[id].origin.as_str().to_owned() }),
        None => Ok(ranges),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::Net;

    #[test]
    fn every_value_and_channel_is_measured() {
        let mut net = Net::new(&[2, 1, 2]);
        let y = net.affine(net.input, &[2.0, -1.0], &[0.0, 1.0]);
        let graph = net.output(y);
        let batch = Batch::new(&[2, 1, 2], vec![1.0, -3.0, 0.5, 0.0, 2.0, 0.0, 0.0, -4.0]).unwrap();
        assert_eq!(measure(&graph, &batch).unwrap(), [vec![3.0, 4.0], vec![6.0, 5.0]]);
        let ranges = measure_ranges(&graph, &batch).unwrap();
        assert_eq!((ranges[1].low.clone(), ranges[1].high.clone()), (vec![-6.0, 0.5], vec![4.0, 5.0]));
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
