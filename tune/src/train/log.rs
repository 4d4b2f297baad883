//! The log of a run, as CSV or JSON.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::{Evaluation, Overshoot};

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps done with it.
    pub step: usize,
    /// Epoch, from 0.
    pub epoch: usize,
    /// Seconds since the start.
    pub seconds: f64,
    /// Learning rate.
    pub rate: f64,
    /// Loss without penalty.
    pub loss: f64,
    /// Share of right classes in the batch (of classes as the original's, in distillation).
    pub accuracy: Option<f64>,
    /// Norm of the gradient before clipping.
    pub gradient: f64,
    /// Range penalty.
    pub penalty: f64,
    /// The original's part of what activations handed on.
    #[serde(default)]
    pub blend: f64,
    /// Largest |x| of each polynomial activation's operand relative to its running maximum.
    pub ranges: Vec<f64>,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// Some steps.
    pub records: Vec<Record>,
    /// Steps done, seconds and results after each epoch.
    pub epochs: Vec<(usize, f64, Evaluation)>,
}

impl Log {
    /// As CSV: one line a record, one a finished epoch.
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "kind,step,epoch,seconds,rate,loss,accuracy,gradient,penalty,worst_range,test_accuracy,original_accuracy,agreement,broken,overshoot_99,overshoot_worst,blend\n",
        );
        let share = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.4}"));
        for r in &self.records {
            let worst = r.ranges.iter().copied().fold(0.0, f64::max);
            let (loss, gradient, penalty) = (r.loss, r.gradient, r.penalty);
            let accuracy = share(r.accuracy);
            let head = format!("step,{},{},{:.1},{:.6}", r.step, r.epoch, r.seconds, r.rate);
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "{head},{loss:.5},{accuracy},{gradient:.4},{penalty:.6},{worst:.3},,,,,,,{:.4}",
                r.blend
            );
        }
        for (i, (step, seconds, e)) in self.epochs.iter().enumerate() {
            let shares = [e.accuracy, e.original, e.agreement].map(share).join(",");
            let (q99, worst) = (e.overshoot.quantile(0.99), e.overshoot.worst());
            let head = format!("epoch,{step},{i},{seconds:.1},,,,,,");
            let _ = writeln!(text, "{head},{shares},{},{q99:.3},{worst:.3},", e.broken);
        }
        text
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl Serialize for Evaluation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Plain::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Evaluation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Plain::deserialize(deserializer).map(Self::from)
    }
}

/// An evaluation in a log: quantiles in place of one ratio per image; infinities, which JSON does not have, as `null`.
#[derive(Serialize, Deserialize)]
struct Plain {
    images: usize,
    accuracy: Option<f64>,
    original: Option<f64>,
    agreement: Option<f64>,
    difference: f64,
    broken: usize,
    layers: Vec<(String, Option<f64>)>,
    quantiles: Vec<Option<f64>>,
}

/// Quantiles in a log: every percent.
const QUANTILES: usize = 101;

impl From<&Evaluation> for Plain {
    fn from(e: &Evaluation) -> Self {
        let finite = |x: f64| x.is_finite().then_some(x);
        let quantile = |i: usize| finite(e.overshoot.quantile(i as f64 / (QUANTILES - 1) as f64));
        Self {
            images: e.images,
            accuracy: e.accuracy,
            original: e.original,
            agreement: e.agreement,
            difference: e.difference,
            broken: e.broken,
            layers: e.overshoot.layers.iter().map(|(n, r)| (n.clone(), finite(*r))).collect(),
            quantiles: (0..QUANTILES).map(quantile).collect(),
        }
    }
}

impl From<Plain> for Evaluation {
    fn from(p: Plain) -> Self {
        let number = |x: Option<f64>| x.unwrap_or(f64::INFINITY);
        let layers = p.layers.into_iter().map(|(n, r)| (n, number(r))).collect();
        let images = p.quantiles.into_iter().map(number).collect();
        Self {
            images: p.images,
            accuracy: p.accuracy,
            original: p.original,
            agreement: p.agreement,
            difference: p.difference,
            broken: p.broken,
            overshoot: Overshoot { layers, images },
        }
    }
}
