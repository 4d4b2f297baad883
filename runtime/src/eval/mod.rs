//! Accuracy of a model on a labelled set: an ONNX file in the clear, or an artefact on any backend; alone or against the
//! model that it was made from.

mod average_precision;
mod log;
mod report;
mod subject;
mod tally;
#[cfg(test)]
mod tests;

pub use average_precision::{ScoredPicture, average_precision, mean_average_precision};
pub use report::{
    AccuracyReport, AgreementReport, BitsReport, ClassReport, DetectionScore, EvalReport, LayerReport,
    RangesReport, RefreshReport, ScoreReport, text,
};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use peregrine_data::set::{Content, InputFormat, Sample, Set, Truth, read_classes};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bytes::ByteSize;
use crate::client::decode::{DecodeSpec, Detection, PixelBox};
use crate::client::{ClientError, GUESSED, NamedTensor, Preprocessing, detections, draw, read_labels};
use crate::error::RuntimeError;
use crate::local::{Backend, in_pool};
use crate::progress::{At, Phase, Progress};
use crate::ranges::RangeViolation;
use crate::report::SAME_OBJECT;
use log::{Head, Log, digest};
use subject::Subject;
use tally::Tally;

/// Choices of an evaluation.
#[derive(Clone, Debug, Default)]
pub struct EvalOptions {
    /// The set; see [`peregrine_data::set`].
    pub data: PathBuf,
    /// Classes of the samples, where the set has none of its own; see [`read_classes`].
    pub truth: Option<PathBuf>,
    /// Class names; else those in the model.
    pub labels: Option<PathBuf>,
    /// What runs an artefact; ONNX files are run in the clear.
    pub backend: Backend,
    /// Samples, spread over the set; all when `None`.
    pub limit: Option<usize>,
    /// ONNX model whose answers are compared with.
    pub against: Option<PathBuf>,
    /// Overrides of the model's image preprocessing.
    pub preprocessing: Preprocessing,
    /// For detectors: how outputs become boxes.
    pub detector: Option<DecodeSpec>,
    /// For detectors: folder that pictures with their boxes are written to.
    pub draw: Option<Drawings>,
    /// Memory that an encrypted run may take; else what is available.
    pub memory: Option<ByteSize>,
    /// Threads; else one per core.
    pub threads: Option<usize>,
    /// Outcomes of samples are kept in this file; those that it has are not run again.
    pub log: Option<PathBuf>,
    /// Set when the evaluation shall stop; what was done until then is reported.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// Where pictures with boxes go, and which boxes are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawings {
    /// The folder; it is made.
    pub folder: PathBuf,
    /// Least score of a box.
    pub score: f64,
}

/// What one sample gave.
struct Outcome {
    truth: Truth,
    found: Verdict,
    original: Option<Verdict>,
    finite: bool,
    violations: Vec<RangeViolation>,
    overflow: Option<f64>,
    error_bits: Option<f64>,
}

/// When a sample was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// In an evaluation that was stopped; the log had its outcome.
    Earlier,
    /// In this one.
    Now,
}

/// What a model says about a sample.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Verdict {
    /// Classes from the best down, at most five; none when an output is not finite.
    Classes(Vec<usize>),
    /// Boxes in pixels of the picture, and its size.
    Boxes(Vec<Detection>, [f64; 2]),
}

/// Evaluates a `.onnx` or `.fhe` model.
///
/// # Errors
/// Everything that [`RuntimeError`] names; the first sample that cannot be read ends the evaluation.
pub fn evaluate(
    model: &Path,
    options: &EvalOptions,
    progress: &dyn Progress,
) -> Result<EvalReport, RuntimeError> {
    in_pool(options.threads, || Evaluation::new(model, options, progress)?.run(progress))
}

/// Models and samples, ready to be compared.
struct Evaluation<'o> {
    options: &'o EvalOptions,
    subject: Subject,
    original: Option<Subject>,
    set: Set,
    labels: Vec<String>,
    warnings: Vec<String>,
    log: Option<Log>,
}

impl<'o> Evaluation<'o> {
    fn new(model: &Path, options: &'o EvalOptions, progress: &dyn Progress) -> Result<Self, RuntimeError> {
        let subject = Subject::plan(model, options)?;
        let labels = match &options.labels {
            Some(path) => read_labels(path)?,
            None => subject.labels().to_vec(),
        };
        let mut set = Set::open(&options.data, subject.side().image()).map_err(ClientError::from)?;
        set.adopt_names(&labels);
        if let Some(path) = &options.truth {
            let classes = read_classes(path, &set, &labels).map_err(ClientError::from)?;
            set.set_classes(&classes).map_err(ClientError::from)?;
        }
        if let Some(limit) = options.limit {
            set.limit(limit);
        }
        check_truth(&set, options)?;
        let original = options.against.as_deref().map(|path| subject.original(path, options)).transpose()?;
        if let Some(Drawings { folder, .. }) = &options.draw {
            let refuse = |source: std::io::Error| ClientError::Draw {
                path: folder.clone(),
                reason: source.to_string(),
            };
            std::fs::create_dir_all(folder).map_err(refuse)?;
        }
        let guess = subject.side().image().is_some() && subject.side().guesses_normalisation();
        let warnings = guess.then(|| GUESSED.to_owned()).into_iter().collect();
        let labels = if labels.is_empty() { set.classes.clone() } else { labels };
        let head = || -> Result<Head, RuntimeError> {
            Ok(Head {
                model: digest(model)?,
                data: set.path.display().to_string(),
                backend: subject.backend().to_owned(),
                against: options.against.as_deref().map(digest).transpose()?,
            })
        };
        let log = options.log.as_deref().map(|path| Log::open(path, &head()?)).transpose()?;
        let subject = subject.open(progress)?;
        Ok(Self { options, subject, original, set, labels, warnings, log })
    }

    fn run(self, progress: &dyn Progress) -> Result<EvalReport, RuntimeError> {
        let clock = Instant::now();
        progress.begin(Phase::Samples, self.set.samples.len() as u64);
        let one = |(index, sample): (usize, &Sample)| self.unless_stopped(sample, index as u64, progress);
        let samples = &self.set.samples;
        let outcomes: Vec<Option<(Outcome, Run)>> = if self.subject.is_parallel_inside() {
            samples.iter().enumerate().map(one).collect::<Result<_, _>>()?
        } else {
            samples.par_iter().enumerate().map(one).collect::<Result<_, _>>()?
        };
        progress.end();
        let mut tally = Tally::new(&self.labels);
        let done = outcomes.iter().flatten();
        done.clone().for_each(|(outcome, _)| tally.add(outcome));
        Ok(EvalReport {
            model: self.subject.name().to_owned(),
            data: self.set.path.display().to_string(),
            backend: self.subject.backend(),
            samples: done.clone().count(),
            of: samples.len(),
            known: done.filter(|(_, run)| *run == Run::Earlier).count(),
            score: tally.score(),
            agreement: self.options.against.as_deref().map(|path| tally.agreement(path)),
            not_finite: tally.not_finite(),
            ranges: self.subject.has_ranges().then(|| tally.ranges()),
            refreshes: self.subject.bootstraps().then(|| tally.refreshes()),
            error_bits: tally.bits(),
            seconds: clock.elapsed().as_secs_f64(),
            warnings: self.warnings,
        })
    }

    /// The outcome of a sample, which an earlier run may have left; nothing once the evaluation is stopped.
    fn unless_stopped(
        &self,
        sample: &Sample,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<Option<(Outcome, Run)>, RuntimeError> {
        if let Some(outcome) = self.log.as_ref().and_then(|log| log.known(&sample.name)) {
            progress.advance(1);
            return Ok(Some((Outcome { truth: sample.truth.clone(), ..outcome }, Run::Earlier)));
        }
        if self.options.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Ok(None);
        }
        match self.outcome(sample, seed) {
            Ok(outcome) => {
                if let Some(log) = &self.log {
                    log.add(&sample.name, &outcome)?;
                }
                progress.at(At::Sample { name: &sample.name, bits: outcome.error_bits });
                progress.advance(1);
                Ok(Some((outcome, Run::Now)))
            }
            Err(RuntimeError::Interrupted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn outcome(&self, sample: &Sample, seed: u64) -> Result<Outcome, RuntimeError> {
        let side = self.subject.side();
        let format = InputFormat {
            shape: side.input_shape(),
            image: side.image(),
            resize: self.options.preprocessing.resize,
        };
        let input = sample.input(format).map_err(ClientError::from)?;
        let answer = self.subject.answer(&sample.name, &input.data, seed)?;
        let verdict = |outputs: &[NamedTensor], program: &[NamedTensor]| match &self.options.detector {
            None => Ok(Verdict::Classes(best_classes(outputs, program))),
            Some(spec) => {
                let found = detections(spec, outputs, side.picture_size(), input.placement)?;
                let size = input.placement.map_or([1.0; 2], |p| p.size.map(f64::from));
                Ok::<_, ClientError>(Verdict::Boxes(found, size))
            }
        };
        let found = verdict(&answer.outputs, &answer.program)?;
        if let (Some(drawings), Verdict::Boxes(boxes, _)) = (&self.options.draw, &found) {
            self.draw(sample, boxes, drawings)?;
        }
        let original = match &self.original {
            None => None,
            Some(original) => {
                let input = match original.differs_in_preprocessing(&self.subject) {
                    false => input.data.clone(),
                    true => original.input(sample, self.options.preprocessing.resize)?,
                };
                let answer = original.answer(&sample.name, &input, seed)?;
                Some(verdict(&answer.outputs, &answer.program)?)
            }
        };
        Ok(Outcome {
            truth: sample.truth.clone(),
            found,
            original,
            finite: answer.outputs.iter().flat_map(|o| &o.data).all(|x| x.is_finite()),
            violations: answer.violations,
            overflow: answer.overflow,
            error_bits: answer.error_bits,
        })
    }
}

impl Evaluation<'_> {
    /// Writes a sample's picture with its boxes; samples that are no pictures are left out.
    fn draw(&self, sample: &Sample, boxes: &[Detection], drawings: &Drawings) -> Result<(), ClientError> {
        let Content::Picture(picture) = sample.read()? else { return Ok(()) };
        let shown: Vec<Detection> = boxes.iter().filter(|b| b.score >= drawings.score).copied().collect();
        let drawn = draw::draw(&picture.to_rgb8(), &shown, |d| draw::caption(d, &self.labels));
        let stem = Path::new(&sample.name).file_stem().unwrap_or_default();
        draw::save(&drawings.folder.join(stem).with_extension("png"), &drawn)
    }
}

/// Refuses sets that say nothing about what is asked, before models are run.
fn check_truth(set: &Set, options: &EvalOptions) -> Result<(), RuntimeError> {
    let refuse = |reason: &str| {
        let error = peregrine_data::DataError::Set { path: set.path.clone(), reason: reason.to_owned() };
        Err(ClientError::from(error).into())
    };
    match &options.detector {
        Some(_) if !set.has_boxes() && options.against.is_none() => {
            refuse("no picture has boxes; put YOLO .txt files beside the pictures, or compare with --against")
        }
        None if set.has_boxes() => {
            refuse("its pictures have boxes; say how outputs become boxes with --decoder")
        }
        None if !set.has_classes() && options.against.is_none() => {
            refuse("not every sample has a class; give --truth FILE, or compare with --against")
        }
        Some(_) | None => Ok(()),
    }
}

/// The five best classes by the first vector among the outputs, else by an output that is one class number.
fn best_classes(outputs: &[NamedTensor], program: &[NamedTensor]) -> Vec<usize> {
    const BEST: usize = 5;
    let Some(vector) = outputs.iter().chain(program).find(|tensor| tensor.is_vector()) else {
        let number = outputs.iter().find(|tensor| tensor.data.len() == 1).map(|tensor| tensor.data[0]);
        return number.filter(|x| *x >= 0.0 && x.fract() == 0.0).map(|x| x as usize).into_iter().collect();
    };
    if vector.data.iter().any(|x| !x.is_finite()) {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..vector.data.len()).collect();
    order.sort_by(|&a, &b| vector.data[b].total_cmp(&vector.data[a]).then(a.cmp(&b)));
    order.truncate(BEST);
    order
}

/// Boxes of the truth, in pixels of a picture of `size`.
fn truth_boxes(truth: &Truth, size: [f64; 2]) -> Vec<Detection> {
    let Truth::Boxes(boxes) = truth else { return Vec::new() };
    let on_picture = |corners: [f64; 4]| [0, 1, 2, 3].map(|i: usize| corners[i] * size[i % 2]);
    let detection =
        |class: usize, corners: [f64; 4]| Detection { class, score: 1.0, at: PixelBox(on_picture(corners)) };
    boxes.iter().map(|b| detection(b.class, b.corners)).collect()
}

/// Share of boxes that two sets have in common: twice the matched ones over all.
fn common_boxes(a: &[Detection], b: &[Detection]) -> (usize, usize) {
    (2 * crate::client::decode::matches(a, b, SAME_OBJECT).len(), a.len() + b.len())
}
