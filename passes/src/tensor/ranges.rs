//! Ranges of every value of a graph on a batch: units of the packed values and the calibrated ranges of the artefact.

use peregrine_ir::client::RangeRecord;
use peregrine_ir::tensor::{TensorGraph, TensorOp};
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
    look_at_values(graph, batch, &mut |id, data| {
        debug_assert_eq!(id.index(), ranges.len());
        ranges.push(ChannelRange::of(&graph.nodes[id].ty.shape, data));
    })?;
    Ok(ranges)
}

/// Shows every value on `batch`, in order, image after image.
///
/// # Errors
/// Those of [`measure`].
pub(super) fn look_at_values(
    graph: &TensorGraph,
    batch: &Batch,
    look: &mut dyn FnMut(ValueId, &[f32]),
) -> Result<(), PassError> {
    let mut broken: Option<ValueId> = None;
    interp::run_with(graph, batch, &mut |id, data| {
        if broken.is_none() && data.iter().any(|x| !x.is_finite()) {
            broken = Some(id);
        }
        look(id, data);
    })?;
    match broken {
        Some(id) => Err(PassError::NotFinite { layer: graph.nodes[id].origin.as_str().to_owned() }),
        None => Ok(()),
    }
}

/// The record of a polynomial: that of the layer it is or, when it was a function's call, that it came from.
pub fn record_of<'r>(layer: &str, records: &'r [RangeRecord]) -> Option<&'r RangeRecord> {
    let inside =
        |r: &&RangeRecord| layer.strip_prefix(r.layer.as_str()).is_some_and(|rest| rest.starts_with('/'));
    records.iter().find(|r| r.layer == layer).or_else(|| records.iter().find(inside))
}

/// Points of a recorded range at which a polynomial is evaluated to bound its result.
const POINTS: usize = 65;

/// Replaces measured bounds of polynomials' operands and results, and of outputs, by what `records` say.
///
/// # Errors
/// [`PassError::Records`] when a record has another number of channels than its layer.
pub fn apply_records(
    graph: &TensorGraph,
    records: &[RangeRecord],
    bounds: &mut [Vec<f64>],
) -> Result<(), PassError> {
    let bound = |r: &RangeRecord| -> Vec<f64> {
        r.low.iter().zip(&r.high).map(|(l, h)| f64::from(l.abs().max(h.abs()))).collect()
    };
    for (id, node) in graph.nodes.iter() {
        let TensorOp::Poly { coefficients } = node.op else { continue };
        let Some(record) = record_of(node.origin.as_str(), records) else { continue };
        check_channels(record, bounds[id.index()].len())?;
        bounds[node.args[0].index()] = bound(record);
        let table = &graph.tables.consts[coefficients];
        let columns = table.shape.last().copied().unwrap_or(1);
        let value =
            |row: usize, x: f64| (0..columns).rev().fold(0.0, |sum, k| sum * x + table.at(row * columns + k));
        let largest = |c: usize| {
            let (low, high) = (f64::from(record.low[c]), f64::from(record.high[c]));
            let row = c % table.shape[0];
            let at = |i: usize| low + (high - low) * i as f64 / (POINTS - 1) as f64;
            (0..POINTS).map(|i| value(row, at(i)).abs()).fold(0.0, f64::max)
        };
        bounds[id.index()] = (0..record.low.len()).map(largest).collect();
    }
    for port in &graph.outputs {
        if let Some(record) = records.iter().find(|r| r.layer == port.name) {
            check_channels(record, bounds[port.value.index()].len())?;
            bounds[port.value.index()] = bound(record);
        }
    }
    Ok(())
}

fn check_channels(record: &RangeRecord, channels: usize) -> Result<(), PassError> {
    match record.low.len() == channels && record.high.len() == channels {
        true => Ok(()),
        false => Err(PassError::Records {
            layer: record.layer.clone(),
            expected: channels,
            found: record.low.len(),
        }),
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

    #[test]
    fn records_bound_polynomials_and_outputs() {
        let mut net = Net::new(&[2, 1, 1]);
        let y = net.poly(net.input, 2, 2);
        let mut graph = net.output(y);
        let TensorOp::Poly { coefficients } = graph.nodes[y].op else { panic!("a polynomial") };
        // x^2 and 1 - x^2.
        let rows = vec![0.0, 0.0, 1.0, 1.0, 0.0, -1.0];
        graph.tables.consts[coefficients] = peregrine_ir::ConstTensor::f64(vec![2, 3], rows);
        let batch = Batch::new(&[2, 1, 1], vec![0.1, 0.1]).unwrap();
        let mut bounds = measure(&graph, &batch).unwrap();
        let record =
            |layer: &str| RangeRecord { layer: layer.into(), low: vec![-4.0, -1.0], high: vec![2.0, 3.0] };
        apply_records(&graph, &[record("layer1")], &mut bounds).unwrap();
        assert_eq!(bounds, [vec![4.0, 3.0], vec![16.0, 8.0]]);
        apply_records(&graph, &[record("y")], &mut bounds).unwrap();
        assert_eq!(bounds[1], [4.0, 3.0]);
        let narrow = RangeRecord { low: vec![0.0], high: vec![1.0], ..record("layer1") };
        let error = apply_records(&graph, &[narrow], &mut bounds).unwrap_err();
        assert!(matches!(error, PassError::Records { expected: 2, found: 1, .. }), "{error}");
    }

    #[test]
    fn a_polynomial_inside_a_call_has_the_record_of_the_call() {
        let records = [RangeRecord { layer: "act".into(), low: vec![], high: vec![] }];
        assert!(record_of("act/Y", &records).is_some() && record_of("act", &records).is_some());
        assert!(record_of("activation", &records).is_none());
    }
}
