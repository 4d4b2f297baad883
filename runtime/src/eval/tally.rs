//! Counts over the samples of an evaluation.

use std::collections::BTreeMap;
use std::path::Path;

use peregrine_data::set::Truth;

use super::report::{
    AccuracyReport, AgreementReport, BitsReport, ClassReport, DetectionScore, LayerReport, RangesReport,
    RefreshReport, ScoreReport,
};
use super::{Outcome, ScoredPicture, Verdict, common_boxes, mean_average_precision, truth_boxes};

/// Everything counted.
pub(super) struct Tally<'l> {
    labels: &'l [String],
    found: Side,
    original: Side,
    /// Answers in common with the original, and compared.
    common: (usize, usize),
    not_finite: usize,
    samples: usize,
    /// Worst overshoot of each sample that left a range.
    overshoots: Vec<f64>,
    /// Excess of each sample that overflowed a refresh.
    overflows: Vec<f64>,
    layers: BTreeMap<String, (usize, f64)>,
    bits: Vec<f64>,
}

/// Counts of one model.
#[derive(Default)]
struct Side {
    /// Samples and right ones by class.
    classes: BTreeMap<usize, (usize, usize)>,
    right_in_five: usize,
    /// Whether any answer ranks more than one class.
    ranks: bool,
    pictures: Vec<ScoredPicture>,
}

impl Side {
    fn add(&mut self, verdict: &Verdict, truth: &Truth) {
        match (verdict, truth) {
            (Verdict::Classes(best), Truth::Class(class)) => {
                let entry = self.classes.entry(*class).or_default();
                entry.0 += 1;
                entry.1 += usize::from(best.first() == Some(class));
                self.right_in_five += usize::from(best.contains(class));
                self.ranks |= best.len() > 1;
            }
            (Verdict::Boxes(found, size), Truth::Boxes(_)) => {
                let truth = truth_boxes(truth, *size);
                self.pictures.push(ScoredPicture { found: found.clone(), truth });
            }
            (Verdict::Classes(_) | Verdict::Boxes(..), _) => {}
        }
    }

    fn score(&self, labels: &[String]) -> Option<ScoreReport> {
        let label = |class: usize| labels.get(class).cloned();
        if !self.pictures.is_empty() {
            let by_class = mean_average_precision(&self.pictures);
            let sum: f64 = by_class.values().map(|(_, ap)| ap).sum();
            let report = |(&class, &(objects, share)): (&usize, &(usize, f64))| ClassReport {
                class,
                label: label(class),
                of: objects,
                share,
            };
            return Some(ScoreReport::Detection(DetectionScore {
                map50: sum / by_class.len().max(1) as f64,
                objects: by_class.values().map(|(objects, _)| objects).sum(),
                boxes: self.pictures.iter().map(|p| p.found.len()).sum(),
                classes: by_class.iter().map(report).collect(),
            }));
        }
        let of: usize = self.classes.values().map(|(of, _)| of).sum();
        let right = self.classes.values().map(|(_, right)| right).sum();
        let report = |(&class, &(of, right)): (&usize, &(usize, usize))| ClassReport {
            class,
            label: label(class),
            of,
            share: right as f64 / of as f64,
        };
        (of > 0).then(|| {
            ScoreReport::Accuracy(AccuracyReport {
                top1: right as f64 / of as f64,
                right,
                of,
                top5: self.ranks.then_some(self.right_in_five as f64 / of as f64),
                classes: self.classes.iter().map(report).collect(),
            })
        })
    }
}

impl<'l> Tally<'l> {
    pub(super) fn new(labels: &'l [String]) -> Self {
        Self {
            labels,
            found: Side::default(),
            original: Side::default(),
            common: (0, 0),
            not_finite: 0,
            samples: 0,
            overshoots: Vec::new(),
            overflows: Vec::new(),
            layers: BTreeMap::new(),
            bits: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.samples += 1;
        self.found.add(&outcome.found, &outcome.truth);
        if let Some(original) = &outcome.original {
            self.original.add(original, &outcome.truth);
            let (same, of) = common(&outcome.found, original);
            self.common = (self.common.0 + same, self.common.1 + of);
        }
        self.not_finite += usize::from(!outcome.finite);
        self.bits.extend(outcome.error_bits);
        self.overflows.extend(outcome.overflow);
        if !outcome.violations.is_empty() {
            let worst = outcome.violations.iter().map(|v| v.overshoot).fold(0.0, f64::max);
            self.overshoots.push(worst);
        }
        for violation in &outcome.violations {
            let entry = self.layers.entry(violation.layer.clone()).or_default();
            *entry = (entry.0 + 1, entry.1.max(violation.overshoot));
        }
    }

    pub(super) fn score(&self) -> Option<ScoreReport> {
        self.found.score(self.labels)
    }

    pub(super) fn agreement(&self, against: &Path) -> AgreementReport {
        let (same, of) = self.common;
        // Two detectors that both find nothing agree.
        let share = if of == 0 { 1.0 } else { same as f64 / of as f64 };
        let score = self.original.score(self.labels);
        AgreementReport { against: against.display().to_string(), share, same, of, score }
    }

    pub(super) fn not_finite(&self) -> usize {
        self.not_finite
    }

    pub(super) fn ranges(&self) -> RangesReport {
        let mut overshoots = self.overshoots.clone();
        overshoots.resize(self.samples, 0.0);
        overshoots.sort_by(f64::total_cmp);
        let layer = |(name, &(samples, worst)): (&String, &(usize, f64))| LayerReport {
            layer: name.clone(),
            samples,
            worst: finite(worst),
        };
        let mut layers: Vec<LayerReport> = self.layers.iter().map(layer).collect();
        layers.sort_by(|a, b| b.samples.cmp(&a.samples).then(a.layer.cmp(&b.layer)));
        RangesReport {
            samples: self.overshoots.len(),
            worst: finite(overshoots.last().copied().unwrap_or(0.0)),
            percentile99: finite(percentile(&overshoots, 0.99)),
            layers,
        }
    }

    pub(super) fn refreshes(&self) -> RefreshReport {
        let worst = self.overflows.iter().copied().fold(0.0, f64::max);
        RefreshReport { samples: self.overflows.len(), worst: finite(worst) }
    }

    pub(super) fn bits(&self) -> Option<BitsReport> {
        let mut bits = self.bits.clone();
        bits.sort_by(f64::total_cmp);
        let least = *bits.first()?;
        Some(BitsReport { least, median: percentile(&bits, 0.5) })
    }
}

/// Answers in common and compared: the class, or boxes.
fn common(found: &Verdict, original: &Verdict) -> (usize, usize) {
    match (found, original) {
        (Verdict::Boxes(a, _), Verdict::Boxes(b, _)) => common_boxes(a, b),
        (Verdict::Classes(a), Verdict::Classes(b)) => {
            (usize::from(!a.is_empty() && a.first() == b.first()), 1)
        }
        (Verdict::Boxes(..), Verdict::Classes(_)) | (Verdict::Classes(_), Verdict::Boxes(..)) => (0, 1),
    }
}

/// JSON has no infinity: an overflow counts as the largest number.
fn finite(overshoot: f64) -> f64 {
    overshoot.min(f64::MAX)
}

/// The value below which this share of sorted values lies.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).ceil() as usize).copied().unwrap_or(0.0)
}
