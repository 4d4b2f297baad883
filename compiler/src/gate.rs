//! The gate against wrong answers: before a `.fhe` is written, its program runs on the noisy backend and is compared with
//! tract on the ONNX of the polynomial model.
//!
//! The error of an output is its largest deviation divided by the output's range (largest minus smallest value; the
//! largest absolute value when there is one value only). The default tolerance is 2^-7:
//! the noise of a sound plan stays below 2^-8, a wrong diagonal or scale gives errors of the order of 1.

use std::collections::BTreeMap;
use std::fmt;

use peregrine_ir::ValueId;
use peregrine_ir::client::{ClientTensor, RangeRecord};
use peregrine_ir::program::{ClearError, ClearMachine, Noise, Program, pack_input, unpack_output};
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use peregrine_passes::PassError;
use peregrine_passes::fhe::budget::ErrorBudget;
use peregrine_passes::tensor::interp::{self, Batch};
use thiserror::Error;

use crate::onnx::{ExportError, export};
use crate::oracle::{OracleError, Tract};

/// Largest error of an output, relative to its range.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Tolerance(f64);

impl Default for Tolerance {
    /// 2^-7.
    fn default() -> Self {
        Self(1.0 / 128.0)
    }
}

impl Tolerance {
    /// A tolerance greater than 0 and at most 1.
    pub fn new(value: f64) -> Option<Self> {
        (value > 0.0 && value <= 1.0).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2e} (2^{:.1})", self.0, self.0.log2())
    }
}

/// Seed of the noise: compilations are reproducible.
const SEED: u64 = 0x9e7e_671e;

/// Deviation of one layer's values.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerError {
    /// ONNX node name.
    pub layer: String,
    /// Largest absolute deviation.
    pub error: f64,
    /// Largest absolute value.
    pub magnitude: f64,
    /// Largest deviation that the error budget foresees.
    pub predicted: f64,
}

/// Values of one activation outside its calibrated range.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeViolation {
    /// ONNX node name of the activation.
    pub layer: String,
    /// Values outside.
    pub outside: usize,
    /// Values in all.
    pub total: usize,
    /// Largest distance outside, in half widths of its channel's range.
    pub worst: f64,
}

/// Deviation of one output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputError {
    /// ONNX name.
    pub name: String,
    /// Largest absolute deviation from tract.
    pub error: f64,
    /// Range of tract's values.
    pub range: f64,
    /// Whether the largest value is at the same place.
    pub same_top: bool,
}

impl OutputError {
    /// Error relative to the range.
    pub fn relative(&self) -> f64 {
        match self.error == 0.0 {
            true => 0.0,
            false => self.error / self.range,
        }
    }
}

/// What the gate measured on one input.
#[derive(Clone, Debug, PartialEq)]
pub struct GateReport {
    /// Layers in program order.
    pub layers: Vec<LayerError>,
    /// Outputs.
    pub outputs: Vec<OutputError>,
    /// Calibrated ranges that the input leaves.
    pub violations: Vec<RangeViolation>,
    /// The tolerance asked for.
    pub tolerance: Tolerance,
}

impl GateReport {
    /// Largest relative error of an output.
    pub fn worst(&self) -> f64 {
        self.outputs
            .iter()
            .map(OutputError::relative)
            .fold(0.0, |worst, e| if e > worst || e.is_nan() { e } else { worst })
    }

    /// Whether every output is within the tolerance.
    pub fn passes(&self) -> bool {
        self.worst() <= self.tolerance.get()
    }
}

impl fmt::Display for GateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "check on the noisy backend against tract:")?;
        for layer in &self.layers {
            let bits = -(layer.error / layer.magnitude.max(f64::MIN_POSITIVE)).log2();
            writeln!(
                f,
                "  {:<44} error {:.2e} of {:.2e} ({bits:.1} bits), foreseen {:.2e}",
                layer.layer, layer.error, layer.magnitude, layer.predicted
            )?;
        }
        for v in &self.violations {
            let RangeViolation { layer, outside, total, worst } = v;
            writeln!(
                f,
                "  {layer}: {outside} of {total} values outside the calibrated range, the worst by {worst:.2} half widths"
            )?;
        }
        for output in &self.outputs {
            let same = if output.same_top { "same" } else { "DIFFERENT" };
            writeln!(
                f,
                "  output {:?}: error {:.2e} of range {:.2e} ({:.1} bits), {same} largest value",
                output.name,
                output.error,
                output.range,
                -output.relative().log2()
            )?;
        }
        let verdict = if self.passes() { "within" } else { "ABOVE" };
        write!(f, "  largest error {:.2e}, {verdict} the tolerance {}", self.worst(), self.tolerance)
    }
}

/// Why the gate does not open.
#[derive(Debug, Error)]
pub enum GateError {
    /// The error is too large.
    #[error(
        "the program's answer differs from the polynomial model's by {worst:.2e} of its range, more than the tolerance {tolerance}; \
         nothing was written. Give a typical input with --sample, a lower --degree, or accept it with --tolerance or --no-verify"
    )]
    Tolerance {
        /// Largest relative error.
        worst: f64,
        /// The tolerance.
        tolerance: Tolerance,
    },
    /// The polynomial model itself runs away on the input that is checked.
    #[error(
        "the polynomial model's own answer is no usable number: on the input checked its values leave the calibrated ranges, first at `{layer}` \
         (by {worst:.1} half widths), and run away from there; nothing was written. Calibrate on more inputs like it, check another one with \
         --sample, or use a lower --degree"
    )]
    RunsAway {
        /// The first activation that much more than its range enters.
        layer: String,
        /// How far, in half widths of the range.
        worst: f64,
    },
    /// The program does not run in the clear: a bug of the compiler.
    #[error("compiler bug: the program does not run in the clear: {0}")]
    Clear(#[from] ClearError),
    /// The polynomial model does not run in the interpreter.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The polynomial model cannot be written as ONNX: a bug of the compiler.
    #[error("compiler bug: {0}")]
    Export(#[from] ExportError),
    /// tract does not run the polynomial model: a bug of the compiler.
    #[error("compiler bug: the polynomial model does not run in tract: {0}")]
    Oracle(#[from] OracleError),
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The polynomial model.
    pub model: &'a TensorGraph,
    /// Its program.
    pub program: &'a Program,
    /// Calibrated ranges.
    pub ranges: &'a [RangeRecord],
    /// Predicted errors.
    pub budget: &'a ErrorBudget,
}

/// Runs the program on `input` (as it is encrypted) and compares.
///
/// # Errors
/// [`GateError`]; an error past the tolerance is in the report, not an error here.
pub fn check(
    subject: Subject<'_>,
    input: &ClientTensor,
    tolerance: Tolerance,
) -> Result<GateReport, GateError> {
    let batch = Batch::new(input.shape.get(1..).unwrap_or_default(), input.data.clone())?;
    let mut values: BTreeMap<ValueId, Vec<f32>> = BTreeMap::new();
    interp::run_with(subject.model, &batch, &mut |id, data| {
        values.insert(id, data.to_vec());
    })?;
    let machine = ClearMachine::new(subject.program, Noise::Model { seed: SEED })?;
    let numbers: Vec<f64> = input.data.iter().map(|&v| f64::from(v)).collect();
    let mut layers: Vec<LayerError> = Vec::new();
    let outputs = machine.run(&[pack_input(subject.program, 0, &numbers)?], &mut |probed| {
        let index = subject.program.probes.iter().position(|probe| std::ptr::eq(probe, probed.probe));
        let predicted = index.and_then(|index| subject.budget.probe(index)).map_or(f64::NAN, |v| v.largest);
        let layer = compare_layer(subject.model, &values, &probed.probe.layer, &probed.values);
        if let Some(layer) = layer {
            layers.push(LayerError { predicted, ..layer });
        }
    })?;
    let oracle = Tract::load(&export(subject.model, None)?)?.run(input)?;
    let outputs = outputs.iter().enumerate().map(|(i, slots)| {
        let found = unpack_output(subject.program, i, slots)?;
        Ok(compare_output(&subject.program.outputs[i].name, &found, &oracle[i].data))
    });
    let outputs = outputs.collect::<Result<Vec<_>, ClearError>>()?;
    let violations = violations(subject, &values);
    Ok(GateReport { layers, outputs, violations, tolerance })
}

/// Opens the gate or not.
///
/// # Errors
/// [`GateError::Tolerance`], or [`GateError::RunsAway`] where no program could be right.
pub fn verdict(report: &GateReport) -> Result<(), GateError> {
    if report.passes() {
        return Ok(());
    }
    let away = report.violations.iter().find(|violation| violation.worst > FAR_OUTSIDE);
    let runaway = report.violations.iter().any(|violation| violation.worst > HOPELESSLY_OUTSIDE);
    match away.filter(|_| runaway) {
        Some(RangeViolation { layer, worst, .. }) => {
            Err(GateError::RunsAway { layer: layer.clone(), worst: *worst })
        }
        None => Err(GateError::Tolerance { worst: report.worst(), tolerance: report.tolerance }),
    }
}

/// Half widths outside its range from which on an activation's value is named as the start of a runaway.
const FAR_OUTSIDE: f64 = 1.0;
/// Half widths outside its range from which on values mean nothing.
const HOPELESSLY_OUTSIDE: f64 = 1e3;

/// Deviation of a probed value from the model's value of that layer. A layer may name several values (a convolution and
/// what a pass put beside it): the probe is one of them, the one it is closest to.
fn compare_layer(
    model: &TensorGraph,
    values: &BTreeMap<ValueId, Vec<f32>>,
    layer: &str,
    found: &[f64],
) -> Option<LayerError> {
    let candidates =
        model.nodes.iter().filter(|(_, n)| n.origin.as_str() == layer).filter_map(|(id, _)| values.get(&id));
    let errors = candidates.filter(|v| v.len() == found.len()).map(|v| (deviation(found, v), magnitude(v)));
    let (error, magnitude) = errors.min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(LayerError { layer: layer.to_owned(), error, magnitude, predicted: f64::NAN })
}

fn deviation(found: &[f64], expected: &[f32]) -> f64 {
    let differences = found.iter().zip(expected).map(|(a, &b)| (a - f64::from(b)).abs());
    differences.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}

fn magnitude(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |m, v| f64::from(v.abs()).max(m))
}

fn compare_output(name: &str, found: &[f64], expected: &[f32]) -> OutputError {
    let (low, high) = expected
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(f64::from(v)), h.max(f64::from(v))));
    let range = if expected.len() > 1 && high > low { high - low } else { magnitude(expected) };
    let top = |values: &mut dyn Iterator<Item = f64>| {
        values.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    };
    let same_top = top(&mut found.iter().copied()) == top(&mut expected.iter().map(|&v| f64::from(v)));
    let error = if found.len() == expected.len() { deviation(found, expected) } else { f64::NAN };
    OutputError { name: name.to_owned(), error, range, same_top }
}

/// Values that enter polynomials outside the calibrated ranges.
fn violations(subject: Subject<'_>, values: &BTreeMap<ValueId, Vec<f32>>) -> Vec<RangeViolation> {
    let records = subject.ranges.iter().filter_map(|record| {
        let mut nodes = subject.model.nodes.values();
        let node =
            nodes.find(|n| matches!(n.op, TensorOp::Poly { .. }) && n.origin.as_str() == record.layer)?;
        let values = values.get(node.args.first()?)?;
        let map = (values.len() / record.low.len().max(1)).max(1);
        let mut violation =
            RangeViolation { layer: record.layer.clone(), outside: 0, total: values.len(), worst: 0.0 };
        for (i, &v) in values.iter().enumerate() {
            let c = (i / map).min(record.low.len().saturating_sub(1));
            let (low, high) = (f64::from(*record.low.get(c)?), f64::from(*record.high.get(c)?));
            let beyond = (low - f64::from(v)).max(f64::from(v) - high);
            if beyond > 0.0 {
                violation.outside += 1;
                violation.worst = violation.worst.max(beyond / ((high - low) / 2.0).max(f64::MIN_POSITIVE));
            }
        }
        (violation.outside > 0).then_some(violation)
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_runs_away_is_told_from_a_rough_program() {
        let outside =
            |layer: &str, worst| RangeViolation { layer: layer.into(), outside: 1, total: 4, worst };
        let output = |error| OutputError { name: "y".into(), error, range: 1.0, same_top: true };
        let report = |error, violations| GateReport {
            layers: Vec::new(),
            outputs: vec![output(error)],
            violations,
            tolerance: Tolerance::default(),
        };
        let near = || vec![outside("a", 0.3)];
        let far = || vec![outside("a", 0.3), outside("b", 7.0), outside("c", f64::INFINITY)];
        assert!(verdict(&report(1e-3, far())).is_ok());
        assert!(matches!(verdict(&report(0.5, near())), Err(GateError::Tolerance { .. })));
        for error in [0.5, f64::NAN] {
            let refused = verdict(&report(error, far()));
            assert!(matches!(refused, Err(GateError::RunsAway { layer, worst: 7.0 }) if layer == "b"));
        }
    }
}
