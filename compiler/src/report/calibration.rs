//! How far calibration inputs leave the ranges that activations are trusted on.

use std::collections::BTreeMap;

use peregrine_ir::ValueId;
use peregrine_ir::client::RangeRecord;
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use peregrine_passes::PassError;
use peregrine_passes::tensor::interp::{Batch, channels_of, run_with};

use super::model::OutsideReport;

/// Values outside the ranges of each layer when the polynomial model runs the calibration inputs.
///
/// # Errors
/// When the model cannot be run.
pub(super) fn outside(
    graph: &TensorGraph,
    ranges: &[RangeRecord],
    batch: &Batch,
) -> Result<BTreeMap<String, OutsideReport>, PassError> {
    let operands = operands(graph, ranges);
    let mut found = BTreeMap::new();
    run_with(graph, batch, &mut |value, data| {
        for record in operands.get(&value).into_iter().flatten() {
            let (_, map) = channels_of(&graph.nodes[value].ty.shape);
            found.insert(record.layer.clone(), of_values(record, data, map));
        }
    })?;
    Ok(found)
}

/// Records by the value that their activation reads.
fn operands<'r>(graph: &TensorGraph, ranges: &'r [RangeRecord]) -> BTreeMap<ValueId, Vec<&'r RangeRecord>> {
    let mut operands: BTreeMap<ValueId, Vec<&RangeRecord>> = BTreeMap::new();
    for node in graph.nodes.values().filter(|n| matches!(n.op, TensorOp::Poly { .. })) {
        let record = ranges.iter().find(|r| r.layer == node.origin.as_str());
        if let (Some(record), Some(&operand)) = (record, node.args.first()) {
            operands.entry(operand).or_default().push(record);
        }
    }
    operands
}

/// Values of one layer, image after image, channels outermost, `map` values a channel.
fn of_values(record: &RangeRecord, values: &[f32], map: usize) -> OutsideReport {
    let channels = record.low.len().min(record.high.len()).max(1);
    let mut report = OutsideReport { total: values.len() as u64, ..OutsideReport::default() };
    for (i, plane) in values.chunks(map.max(1)).enumerate() {
        let c = i % channels;
        let (Some(&low), Some(&high)) = (record.low.get(c), record.high.get(c)) else { continue };
        let half = (f64::from(high - low) / 2.0).max(f64::MIN_POSITIVE);
        for &value in plane {
            let beyond = f64::from(low - value).max(f64::from(value - high));
            if beyond > 0.0 || value.is_nan() {
                report.outside += 1;
                let distance = if beyond.is_finite() { beyond / half } else { f64::INFINITY };
                report.worst = report.worst.max(distance);
            }
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_judged_by_their_channel() {
        let record = RangeRecord { layer: "relu".to_owned(), low: vec![-1.0, 0.0], high: vec![1.0, 4.0] };
        // Two images of two channels of two values.
        let report = of_values(&record, &[1.0, -1.0, 0.0, 4.0, 1.5, 0.0, -1.0, 5.0], 2);
        assert_eq!((report.outside, report.total, report.worst), (3, 8, 0.5));
        assert_eq!(of_values(&record, &[f32::NAN], 1).worst, f64::INFINITY);
    }
}
