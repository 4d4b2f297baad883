//! What an evaluation has to say: the object that `--json` prints, and its text.

use std::fmt::{self, Write};

use serde::Serialize;

/// Classes listed in the text.
const LISTED: usize = 20;
/// Layers listed in the text.
const LAYERS: usize = 5;

/// Result of an evaluation. Serialises to the object that `peregrine-run eval --json` prints; shares are in 0..=1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Model name.
    pub model: String,
    /// The set.
    pub data: String,
    /// `onnx`, `clear`, `noisy` or `ckks`.
    pub backend: &'static str,
    /// Samples run.
    pub samples: usize,
    /// Samples asked for: more than were run when the evaluation was stopped.
    pub of: usize,
    /// Samples whose outcome was in the log of an earlier run.
    pub known: usize,
    /// Accuracy or mean average precision, where the truth is known.
    pub score: Option<ScoreReport>,
    /// Agreement with another model.
    pub agreement: Option<AgreementReport>,
    /// Samples with an output that is not finite.
    pub not_finite: usize,
    /// Calibrated ranges left, for artefacts that know them.
    pub ranges: Option<RangesReport>,
    /// Values too large for bootstrapping, for artefacts that bootstrap.
    pub refreshes: Option<RefreshReport>,
    /// Precision against the same program in the clear, for the noisy and ckks backends.
    pub error_bits: Option<BitsReport>,
    /// Wall-clock seconds of all samples.
    pub seconds: f64,
    /// What may be wrong with how samples were read.
    pub warnings: Vec<String>,
}

/// How good answers are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreReport {
    /// Of a classifier.
    Accuracy(AccuracyReport),
    /// Of a detector.
    Detection(DetectionScore),
}

/// Accuracy of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccuracyReport {
    /// Share of samples whose best class is right.
    pub top1: f64,
    /// As a number.
    pub right: usize,
    /// Samples with a known class.
    pub of: usize,
    /// Share with the right class among the best five, where classes are ranked.
    pub top5: Option<f64>,
    /// By class; the share is that of right answers.
    pub classes: Vec<ClassReport>,
}

/// Mean average precision of a detector.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DetectionScore {
    /// Mean over classes with objects, at an overlap of one half.
    pub map50: f64,
    /// Objects in the truth.
    pub objects: usize,
    /// Boxes found.
    pub boxes: usize,
    /// By class; the share is the average precision.
    pub classes: Vec<ClassReport>,
}

/// One class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    /// Number.
    pub class: usize,
    /// Name, where known.
    pub label: Option<String>,
    /// Samples or objects.
    pub of: usize,
    /// Share.
    pub share: f64,
}

/// Agreement with another model: the same best class, or boxes in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgreementReport {
    /// The other model.
    pub against: String,
    /// Share in common.
    pub share: f64,
    /// Answers in common.
    pub same: usize,
    /// Answers compared.
    pub of: usize,
    /// How good the other model's answers are.
    pub score: Option<ScoreReport>,
}

/// Calibrated ranges left; overshoot is a share of the range's width, at most the largest `f64`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RangesReport {
    /// Samples that leave a range.
    pub samples: usize,
    /// Largest overshoot.
    pub worst: f64,
    /// Overshoot that 99 % of all samples stay within.
    pub percentile99: f64,
    /// Layers, those left most often first.
    pub layers: Vec<LayerReport>,
}

/// Values too large for bootstrapping.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RefreshReport {
    /// Samples that have some.
    pub samples: usize,
    /// Largest magnitude over the one that is allowed; 0 when none is too large.
    pub worst: f64,
}

/// One layer whose range was left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// ONNX node.
    pub layer: String,
    /// Samples.
    pub samples: usize,
    /// Largest overshoot.
    pub worst: f64,
}

/// Precision over the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BitsReport {
    /// Of the worst sample.
    pub least: f64,
    /// Of the middle one.
    pub median: f64,
}

/// The report as text.
pub fn text(report: &EvalReport) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, report);
    out
}

fn write_text(out: &mut String, report: &EvalReport) -> fmt::Result {
    let stopped = match report.samples < report.of {
        true => format!(" of {}, stopped", report.of),
        false => String::new(),
    };
    writeln!(
        out,
        "{} on {} ({} backend, {} samples{stopped})\n",
        report.model, report.data, report.backend, report.samples
    )?;
    if let Some(score) = &report.score {
        writeln!(out, "{:<10} {}", name(score), brief(score))?;
    }
    if let Some(agreement) = &report.agreement {
        let kind = match &report.score {
            Some(ScoreReport::Detection(_)) => "boxes in common",
            Some(ScoreReport::Accuracy(_)) | None => "same answer",
        };
        write!(out, "agreement  {:.2} % {kind} with {}", 100.0 * agreement.share, agreement.against)?;
        match &agreement.score {
            Some(score) => writeln!(out, " ({} {})", name(score), brief(score))?,
            None => writeln!(out)?,
        }
    }
    match report.not_finite {
        0 => writeln!(out, "finite     every output")?,
        n => writeln!(out, "finite     NO: {n} of {} samples overflow", report.samples)?,
    }
    if let Some(ranges) = &report.ranges {
        write_ranges(out, ranges, report.samples)?;
    }
    match &report.refreshes {
        Some(RefreshReport { samples: 0, .. }) => {
            writeln!(out, "refreshes  every value is small enough to bootstrap")?
        }
        Some(RefreshReport { samples, worst }) => writeln!(
            out,
            "refreshes  NO: in {samples} of {} samples values reach up to {worst:.1} times what bootstrapping is made for",
            report.samples
        )?,
        None => {}
    }
    if let Some(bits) = &report.error_bits {
        writeln!(
            out,
            "error      {:.1} bits below the range of the clear outputs at worst, {:.1} in the median",
            bits.least, bits.median
        )?;
    }
    let run = report.samples.saturating_sub(report.known);
    let each = 1e3 * report.seconds / run.max(1) as f64;
    let known = match report.known {
        0 => String::new(),
        known => format!("; {known} samples from the log"),
    };
    writeln!(out, "seconds    {:.1} ({each:.1} ms a sample{known})", report.seconds)?;
    match &report.score {
        Some(ScoreReport::Accuracy(score)) => write_classes(out, &score.classes, "samples", "right"),
        Some(ScoreReport::Detection(score)) => write_classes(out, &score.classes, "objects", "AP50"),
        None => Ok(()),
    }
}

fn name(score: &ScoreReport) -> &'static str {
    match score {
        ScoreReport::Accuracy(_) => "accuracy",
        ScoreReport::Detection(_) => "mAP50",
    }
}

fn brief(score: &ScoreReport) -> String {
    match score {
        ScoreReport::Accuracy(a) => {
            let five = a
                .top5
                .map_or_else(String::new, |share| format!(", among the best five {:.2} %", 100.0 * share));
            format!("{:.2} % ({} of {}){five}", 100.0 * a.top1, a.right, a.of)
        }
        ScoreReport::Detection(d) => {
            format!("{:.4} ({} classes, {} objects, {} boxes)", d.map50, d.classes.len(), d.objects, d.boxes)
        }
    }
}

fn write_ranges(out: &mut String, ranges: &RangesReport, samples: usize) -> fmt::Result {
    if ranges.samples == 0 {
        return writeln!(out, "ranges     no sample leaves a calibrated range");
    }
    writeln!(
        out,
        "ranges     {} of {samples} samples leave a calibrated range, the worst by {}, 99 % of all by at most {}",
        ranges.samples,
        overshoot(ranges.worst),
        overshoot(ranges.percentile99)
    )?;
    for layer in ranges.layers.iter().take(LAYERS) {
        writeln!(
            out,
            "           `{}`: {} samples, the worst by {}",
            layer.layer,
            layer.samples,
            overshoot(layer.worst)
        )?;
    }
    Ok(())
}

fn overshoot(share: f64) -> String {
    if share > 10.0 {
        "more than ten times its width".to_owned()
    } else {
        format!("{:.0} % of its width", 100.0 * share)
    }
}

fn write_classes(out: &mut String, classes: &[ClassReport], of: &str, share: &str) -> fmt::Result {
    let name = |c: &ClassReport| match &c.label {
        Some(label) => format!("{label} ({})", c.class),
        None => c.class.to_string(),
    };
    let width = classes.iter().map(|c| name(c).chars().count()).max().unwrap_or(0).max(10);
    writeln!(out, "\n{:<width$}  {of:>8}  {share:>8}", "class")?;
    for class in classes.iter().take(LISTED) {
        writeln!(out, "{:<width$}  {:>8}  {:>6.2} %", name(class), class.of, 100.0 * class.share)?;
    }
    match classes.len().saturating_sub(LISTED) {
        0 => Ok(()),
        more => writeln!(out, "({more} more classes: see --json)"),
    }
}
