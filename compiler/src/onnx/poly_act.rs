//! Polynomial activations of tuned models: the model-local ONNX function `PolyAct` of domain `ai.peregrine`, and the
//! metadata that goes with it.
//!
//! `PolyAct(X, C0, …, Cd)` is `C0 + C1 X + … + Cd X^d`, the coefficients broadcasting over X; its body is Horner's scheme in
//! plain Mul and Add, so that any ONNX runtime computes it. A model whose activations have several degrees has one function
//! for each, called `PolyAct2`, `PolyAct4`, ….
//!
//! Metadata: [`TUNED_RANGES`] holds a JSON list of `{"layer", "low", "high"}`, per channel, for what enters each activation
//! (`layer` is its node's name) and for each output (`layer` is the output's name).

use std::collections::BTreeSet;

use peregrine_data::onnx::MetadataError;
use peregrine_ir::client::RangeRecord;
use serde_json::{Value, json};
use tract_onnx::pb::{FunctionProto, ModelProto, NodeProto, OperatorSetIdProto};

use super::error::ImportError;

/// Domain of the function.
pub const POLY_ACT_DOMAIN: &str = "ai.peregrine";
/// Metadata key of the ranges.
pub const TUNED_RANGES: &str = "peregrine.tune.ranges";
/// Metadata key of the degrees, comma-separated.
pub const TUNED_DEGREE: &str = "peregrine.tune.degree";
/// Metadata key of the BLAKE3 hash of the original model, in hexadecimal.
pub const TUNED_ORIGINAL: &str = "peregrine.tune.original";

/// The functions that a model calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct PolyActs {
    degrees: BTreeSet<usize>,
}

impl PolyActs {
    /// Functions of these degrees.
    pub(crate) fn new(degrees: impl IntoIterator<Item = usize>) -> Self {
        Self { degrees: degrees.into_iter().collect() }
    }

    /// Name of the function of a degree.
    pub(crate) fn name(&self, degree: usize) -> String {
        if self.degrees.len() == 1 { "PolyAct".to_owned() } else { format!("PolyAct{degree}") }
    }

    /// All functions, their bodies in operator set `opset`.
    pub(crate) fn functions(&self, opset: i64) -> Vec<FunctionProto> {
        self.degrees.iter().map(|&degree| self.function(degree, opset)).collect()
    }

    fn function(&self, degree: usize, opset: i64) -> FunctionProto {
        let coefficient = |k: usize| format!("C{k}");
        let step = |op: &str, a: String, b: String, out: String| NodeProto {
            op_type: op.to_owned(),
            name: out.clone(),
            input: vec![a, b],
            output: vec![out],
            ..NodeProto::default()
        };
        let mut node = Vec::new();
        let mut current = coefficient(degree);
        for k in (0..degree).rev() {
            node.push(step("Mul", current, "X".to_owned(), format!("P{k}")));
            current = if k == 0 { "Y".to_owned() } else { format!("S{k}") };
            node.push(step("Add", format!("P{k}"), coefficient(k), current.clone()));
        }
        FunctionProto {
            name: Some(self.name(degree)),
            domain: Some(POLY_ACT_DOMAIN.to_owned()),
            input: std::iter::once("X".to_owned()).chain((0..=degree).map(coefficient)).collect(),
            output: vec!["Y".to_owned()],
            node,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
            ..FunctionProto::default()
        }
    }
}

/// Ranges as metadata text.
pub fn ranges_text(ranges: &[RangeRecord]) -> String {
    let record = |r: &RangeRecord| json!({ "layer": r.layer, "low": r.low, "high": r.high });
    Value::Array(ranges.iter().map(record).collect()).to_string()
}

/// Ranges that a tuned model carries; none when it carries none.
pub(crate) fn ranges(model: &ModelProto) -> Result<Vec<RangeRecord>, ImportError> {
    let Some(property) = model.metadata_props.iter().find(|p| p.key == TUNED_RANGES) else {
        return Ok(Vec::new());
    };
    parse_ranges(&property.value).ok_or_else(|| {
        ImportError::Metadata(MetadataError {
            key: TUNED_RANGES.to_owned(),
            value: property.value.chars().take(40).collect(),
            why: "a JSON list of {\"layer\", \"low\", \"high\"} with finite numbers is expected".into(),
        })
    })
}

fn parse_ranges(text: &str) -> Option<Vec<RangeRecord>> {
    let numbers = |value: &Value| -> Option<Vec<f32>> {
        let number = |v: &Value| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
        value.as_array()?.iter().map(number).collect()
    };
    let record = |value: &Value| {
        let layer = value.get("layer")?.as_str()?.to_owned();
        let (low, high) = (numbers(value.get("low")?)?, numbers(value.get("high")?)?);
        let ordered = low.len() == high.len() && low.iter().zip(&high).all(|(l, h)| l <= h);
        ordered.then_some(RangeRecord { layer, low, high })
    };
    serde_json::from_str::<Value>(text).ok()?.as_array()?.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_the_text() {
        let ranges = vec![
            RangeRecord { layer: "a".into(), low: vec![-1.5, 0.0], high: vec![2.0, 0.25] },
            RangeRecord { layer: "b/\"c\"".into(), low: vec![], high: vec![] },
        ];
        assert_eq!(parse_ranges(&ranges_text(&ranges)).unwrap(), ranges);
    }

    #[test]
    fn bad_ranges_are_refused() {
        for text in [
            "",
            "{}",
            "[1]",
            r#"[{"layer":"a","low":[1],"high":[0]}]"#,
            r#"[{"layer":"a","low":[0],"high":[0,1]}]"#,
            r#"[{"layer":"a","low":[0],"high":[1e99]}]"#,
        ] {
            assert!(parse_ranges(text).is_none(), "{text}");
        }
    }
}
