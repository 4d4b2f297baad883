//! The command line of `peregrine-tune`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use peregrine_compiler::driver::writable;
use peregrine_compiler::onnx::{ImageOverrides, Precedence};

use crate::data::augment::Augment;
use crate::data::{Dataset, Labels};
use crate::net::{Coefficients, DegreePlan, LevelBudget, Net, Polynomials, Ranges, ReplaceError, Statistics};
use crate::ops::poly_act::BOUND;
use crate::penalty::RangePenalty;
use crate::sgd::Sgd;
use crate::tensor::{Pool, Tensor};
use crate::train::{
    Blending, Checkpoint, Distillation, Evaluation, Inputs, Objective, Options, Record, Teacher, TrainError,
    Trainer, Watch, hold_out, page,
};
use crate::tuned::{Model, TuneError};

/// Batches on which statistics of batch norms are measured, and polynomials fitted.
const NORM_BATCHES: usize = 20;

/// Fine-tunes a trained ONNX model: every activation becomes a low-degree polynomial, in one run.
#[derive(Parser, Debug)]
#[command(
    name = "peregrine-tune",
    version,
    after_help = "Exit codes: 0 done, 1 wrong input or flags or diverged, 2 trained and written, but some test image breaks the model or leaves its ranges by more than half."
)]
pub struct Args {
    /// ONNX model
    model: PathBuf,
    /// Training data: folder or .tar of pictures (in class folders), .npz, .npy, .csv, CIFAR .bin or folder of these
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Test data in the same forms (default: every twentieth training sample is kept for it)
    #[arg(long, value_name = "PATH")]
    test: Option<PathBuf>,
    /// Where labels come from: from-data (class folders, arrays, records), none, or a file with a class, or a picture's name
    /// and its class, a line
    #[arg(long, value_name = "from-data|none|FILE", default_value = "from-data")]
    labels: String,
    /// Tuned model to write (default: MODEL.poly.onnx)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Degree of the polynomials: 2, 4 or 8, or one for each activation, comma-separated
    #[arg(long, value_name = "D[,D…]", value_delimiter = ',', default_value = "4")]
    degree: Vec<usize>,
    /// Most levels that the polynomials of a path take together (degree 2 takes 1, 4 takes 2, 8 takes 3): every activation gets
    /// degree 2, and those that gain most a higher one, up to --degree
    #[arg(long, value_name = "N", conflicts_with = "keep_activations")]
    levels: Option<u32>,
    /// Passes over the data
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// End within this time, as in 90s, 15m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    time_budget: Option<Duration>,
    /// Images of a step
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Largest learning rate; it falls to zero along a cosine
    #[arg(long, default_value_t = 0.02, value_parser = positive)]
    lr: f64,
    /// Weight decay
    #[arg(long, default_value_t = 1e-4)]
    weight_decay: f32,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    clip: f64,
    /// Largest norm of a layer's gradient, as a part of its weights' norm (default: none)
    #[arg(long, value_name = "P", value_parser = positive)]
    layer_clip: Option<f64>,
    /// Learn from the original model's outputs too (without labels: only from them)
    #[arg(long)]
    distil: bool,
    /// Learn from this ONNX model instead of the original (implies --distil), for example the original fine-tuned with
    /// --keep-activations
    #[arg(long, value_name = "ONNX")]
    teacher: Option<PathBuf>,
    /// Temperature of distillation
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    temperature: f64,
    /// Weight of the features at residual joins in distillation, and at activations in blending
    #[arg(long, default_value_t = 1.0)]
    features: f64,
    /// What becomes of the polynomials' coefficients
    #[arg(long, value_enum, default_value_t = Trained::Fixed)]
    coefficients: Trained,
    /// What polynomials are, and what their operands are normalised by
    #[arg(long, value_enum, default_value_t = Form::Fitted)]
    polynomials: Form,
    /// Deviations of a normal distribution that a channel's range is taken for, with --polynomials polyact-rn (default: 3): more bends the
    /// polynomial more, and makes it grow faster outside of the range
    #[arg(long, value_name = "B", value_parser = positive)]
    bound: Option<f64>,
    /// Weight of the range penalty
    #[arg(long, value_name = "W", default_value_t = 30.0, value_parser = not_negative)]
    range_penalty: f64,
    /// Part of a range at which the range penalty starts
    #[arg(long, value_name = "P", default_value_t = 0.7, value_parser = positive)]
    range_start: f64,
    /// Part of an epoch's images that are drawn from those whose operands left their ranges most
    #[arg(long, value_name = "P", default_value_t = 0.125, value_parser = share)]
    hard: f64,
    /// Part of the run in which activations hand on the original's values in part, ever less: for deep networks, whose
    /// errors build up from layer to layer at first (experimental)
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = share)]
    blend: f64,
    /// Keep the activations, for comparison with a model fine-tuned alike; written only with --output
    #[arg(long)]
    keep_activations: bool,
    /// What batch norms normalise by in training
    #[arg(long, value_enum, default_value_t = Norms::Batch)]
    norms: Norms,
    /// Random changes of training pictures
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Change::Flip, Change::Crop])]
    augment: Vec<Change>,
    /// Seed; equal seeds give equal models on one machine
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads (default: all cores)
    #[arg(long)]
    threads: Option<usize>,
    /// Images of each class to train on (without labels: in all)
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Checkpoint, written after every epoch
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Continue from the checkpoint, if it is there
    #[arg(long, requires = "checkpoint")]
    resume: bool,
    /// Log: .csv or .json
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Report with plots
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Mean subtracted from pixels after division by 255: one number, or one a channel
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    mean: Option<Vec<f32>>,
    /// Standard deviation that pixels are divided by after the mean: one number, or one a channel
    #[arg(long, value_delimiter = ',')]
    std: Option<Vec<f32>>,
}

/// What polynomials are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Least squares on what the original activations meet on training images, whose largest are the ranges
    Fitted,
    /// PolyAct-RN: the Hermite expansion, on operands normalised by the largest of the batch
    PolyactRn,
}

/// What is trained of the polynomials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Trained {
    /// They stay those of the expansion
    Fixed,
    /// Each channel's are trained
    Learned,
}

/// Statistics of batch norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Norms {
    /// Those of each batch
    Batch,
    /// Those measured on the training data before training: for batches that are too small to have any
    Fixed,
}

/// A random change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Change {
    /// Mirror half of the pictures
    Flip,
    /// Shift by up to an eighth of the width
    Crop,
    /// Cut out at least 60 % of the area and enlarge it
    Zoom,
    /// Change contrast by up to 30 %, brightness by up to 15 % of the scale
    Tone,
    /// Nothing
    None,
}

fn number(text: &str, what: &str, fits: impl Fn(f64) -> bool) -> Result<f64, String> {
    let value = text.parse().ok().filter(|x: &f64| x.is_finite() && fits(*x));
    value.ok_or_else(|| format!("{what} is expected"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, "a number above 0", |x| x > 0.0)
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "a number of at least 0", |x| x >= 0.0)
}

fn share(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "a time like 90s, 15m or 2h is expected".to_owned();
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())
}

impl Args {
    fn image(&self, precedence: Precedence) -> ImageOverrides {
        ImageOverrides { mean: self.mean.clone(), std: self.std.clone(), precedence }
    }

    fn objective(&self, train: &Dataset) -> Objective {
        let how = Distillation { temperature: self.temperature, features: self.features };
        match (train.labels(), self.distil || self.teacher.is_some()) {
            (Some(_), false) => Objective::Labels,
            (Some(_), true) => Objective::Both(how),
            (None, _) => Objective::Distil(how),
        }
    }

    fn options(&self, width: usize, train: &Dataset) -> Options {
        let has = |change: Change| self.augment.contains(&change);
        let (weight, blend) = (self.range_penalty, self.blend);
        Options {
            epochs: self.epochs,
            time_budget: self.time_budget,
            batch: usize::from(self.batch),
            rate: self.lr,
            sgd: Sgd {
                momentum: 0.9,
                decay: self.weight_decay,
                clip: self.clip,
                layer_clip: self.layer_clip.unwrap_or(f64::INFINITY),
            },
            objective: self.objective(train),
            penalty: (weight > 0.0).then_some(RangePenalty { weight, start: self.range_start as f32 }),
            hard: self.hard,
            ranges: match self.polynomials {
                Form::Fitted => Ranges::Straightened,
                Form::PolyactRn => Ranges::Batch,
            },
            blend: (blend > 0.0).then_some(Blending { part: blend, features: self.features }),
            augment: Augment {
                flip: has(Change::Flip),
                crop: if has(Change::Crop) { width / 8 } else { 0 },
                zoom: if has(Change::Zoom) { 0.6 } else { 1.0 },
                tone: if has(Change::Tone) { 0.3 } else { 0.0 },
            },
            norms: match self.norms {
                Norms::Batch => Statistics::Batch,
                Norms::Fixed => Statistics::Running,
            },
            seed: self.seed,
            log_every: (self.epochs * train.len() / usize::from(self.batch) / 100).clamp(1, 20),
            checkpoint: self.checkpoint.clone(),
        }
    }

    /// Where the model goes; one that keeps its activations is written only when asked for.
    fn tuned(&self) -> Option<PathBuf> {
        let default = (!self.keep_activations).then(|| self.model.with_extension("poly.onnx"));
        self.output.clone().or(default)
    }

    /// Files that will be written: asked for before a long run that is for them.
    fn written(&self) -> Vec<PathBuf> {
        let others = [&self.log, &self.html, &self.checkpoint].into_iter().flatten().cloned();
        self.tuned().into_iter().chain(others).collect()
    }

    /// Degrees as asked for, those within a budget of levels by what activations of `original` meet on `batches`.
    fn degrees(&self, original: &Net, batches: &[Tensor], pool: &mut Pool) -> Result<DegreePlan, TuneError> {
        match (self.degree.as_slice(), self.levels) {
            (&[degree], None) => Ok(DegreePlan::Uniform(degree)),
            (degrees, None) => Ok(DegreePlan::ByLayer(degrees.to_vec())),
            (&[degree], Some(levels)) => {
                let budget = LevelBudget { levels, degree };
                let degrees = original.clone().degrees_within(budget, batches.to_vec(), pool);
                let degrees = degrees.map_err(TrainError::from)?;
                say(&format!("degrees within {levels} levels: {degrees:?}"));
                Ok(DegreePlan::ByLayer(degrees))
            }
            (_, Some(_)) => Err(TrainError::from(ReplaceError::ListAndLevels).into()),
        }
    }

    fn polynomials(&self, degrees: DegreePlan) -> Polynomials {
        let coefficients = match self.coefficients {
            Trained::Fixed => Coefficients::Fixed,
            Trained::Learned => Coefficients::Learned,
        };
        Polynomials { degrees, coefficients, bound: self.bound.unwrap_or(BOUND) }
    }
}

/// A message for people.
fn say(message: &str) {
    // A closed standard error must not change the outcome.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Tunes as asked. The exit code tells a sound model from one that breaks.
///
/// # Errors
/// [`TuneError`].
pub fn run(args: &Args) -> Result<ExitCode, TuneError> {
    if let Some(threads) = args.threads {
        // Fails only when a pool exists already, which is then used.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    if args.bound.is_some() && args.polynomials == Form::Fitted {
        say("warning: --bound changes nothing without --polynomials polyact-rn");
    }
    args.written().iter().try_for_each(|path| writable(path))?;
    let model = Model::read(&args.model, args.image(Precedence::User), None)?;
    let (train, test) = data(args, &model)?;
    let train_inputs = Inputs { data: &train, preprocessing: &model.preprocessing };
    let test_inputs = Inputs { data: &test, preprocessing: &model.preprocessing };
    let mut net = model.net.clone();
    let (mut pool, size) = (Pool::default(), usize::from(args.batch));
    net.calibrate_norms(train_inputs.spread(size, NORM_BATCHES), &mut pool)?;
    if !args.keep_activations {
        let batches: Vec<Tensor> = train_inputs.spread(size, NORM_BATCHES).collect::<Result<_, _>>()?;
        let degrees = args.degrees(&model.net, &batches, &mut pool)?;
        let replaced = net.replace_activations(&args.polynomials(degrees)).map_err(TrainError::from)?;
        say(&format!(
            "{} activations become polynomials, {} max pools average pools; {} training and {} test images",
            replaced.activations.len(),
            replaced.pools,
            train.len(),
            test.len()
        ));
        if args.polynomials == Form::Fitted {
            net.fit_activations(&mut model.net.clone(), batches, &mut pool);
        }
    }
    let width = model.preprocessing.pixels().map_or(0, |p| p.width);
    let options = args.options(width, &train);
    if let Some(blend) = options.blend {
        let percent = 100.0 * blend.part;
        say(&format!(
            "activations hand on the original's values in part for the first {percent:.0} % of the run"
        ));
    }
    // A teacher may have been trained on pictures normalised in another way.
    let teacher = args.teacher.as_ref().map(|path| Model::read(path, args.image(Precedence::Model), None));
    let teacher = teacher.transpose()?;
    let teacher = teacher.as_ref().map(|t| Teacher { net: t.net.clone(), preprocessing: &t.preprocessing });
    let mut trainer = Trainer::new(net, model.net.clone(), teacher, train_inputs, test_inputs, options)?;
    if let Some(path) = args.checkpoint.as_ref().filter(|path| args.resume && path.exists()) {
        trainer.resume(Checkpoint::read(path)?)?;
        say(&format!("continuing after epoch {}", trainer.progress.epoch));
    }
    let mut bar = Bar::new();
    let result = trainer.run(&mut bar);
    bar.bar.finish_and_clear();
    logs(args, &trainer, result.as_ref().ok())?;
    let result = result?;
    finish(args, &model, &mut trainer, &result)
}

/// Training and test data.
fn data(args: &Args, model: &Model) -> Result<(Dataset, Dataset), TuneError> {
    let labels = match args.labels.as_str() {
        "from-data" | "from-folders" => Labels::FromData,
        "none" => Labels::None,
        file => Labels::File(PathBuf::from(file)),
    };
    let (format, names) = (model.preprocessing.format(), &model.imported.labels);
    let mut train = Dataset::load(&args.data, format, names, &labels).map_err(TrainError::from)?;
    if let Some(limit) = args.limit {
        train.limit(limit);
    }
    let test = match &args.test {
        Some(path) => Dataset::load(path, format, names, &Labels::FromData).map_err(TrainError::from)?,
        None => hold_out(&mut train),
    };
    Ok((train, test))
}

fn finish(
    args: &Args,
    model: &Model,
    trainer: &mut Trainer<'_>,
    result: &Evaluation,
) -> Result<ExitCode, TuneError> {
    say(&format!("after {:.0} s: {result}", trainer.seconds()));
    let Some(path) = args.tuned() else { return Ok(ExitCode::SUCCESS) };
    let outputs = trainer.output_ranges()?;
    model.write(&trainer.net, &outputs, &path)?;
    say(&format!("wrote {}", path.display()));
    if result.is_sound() {
        return Ok(ExitCode::SUCCESS);
    }
    say(
        "warning: some test images break the model or leave its ranges by more than half; train longer, with --range-penalty, or with a higher --degree",
    );
    Ok(ExitCode::from(2))
}

fn logs(args: &Args, trainer: &Trainer<'_>, result: Option<&Evaluation>) -> Result<(), TuneError> {
    let write = |path: &Path, text: String| peregrine_compiler::driver::write_file(path, text.as_bytes());
    if let Some(path) = &args.log {
        let json = path.extension().is_some_and(|e| e == "json");
        write(path, if json { trainer.log.json() } else { trainer.log.csv() })?;
    }
    if let Some(path) = &args.html {
        let last = trainer.log.epochs.last().map(|(_, _, e)| e.clone()).unwrap_or_default();
        write(path, page(&trainer.net.name, &trainer.log, result.unwrap_or(&last)))?;
    }
    Ok(())
}

/// Progress on standard error.
struct Bar {
    bar: ProgressBar,
    /// The original's part of what activations handed on in the last step.
    blend: f64,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} eta {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, blend: 0.0 }
    }
}

impl Watch for Bar {
    fn step(&mut self, record: &Record, steps: usize) {
        self.bar.set_length(steps as u64);
        self.bar.set_position(record.step as u64);
        let accuracy = record.accuracy.map_or(String::new(), |a| format!(" accuracy {:.1} %", 100.0 * a));
        self.blend = record.blend;
        let blend = if self.blend > 0.0 { format!(" blend {:.2}", self.blend) } else { String::new() };
        self.bar.set_message(format!("loss {:.4}{accuracy}{blend}", record.loss));
    }

    fn epoch(&mut self, epoch: usize, evaluation: &Evaluation) {
        let blend = match self.blend > 0.0 {
            true => format!(" (trained with {:.0} % of the original's values)", 100.0 * self.blend),
            false => String::new(),
        };
        self.bar.suspend(|| say(&format!("epoch {epoch}{blend}: {evaluation}")));
    }
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |x: f64| format!("{:.2} %", 100.0 * x);
        if let (Some(accuracy), Some(original)) = (self.accuracy, self.original) {
            write!(f, "accuracy {} (original {}), ", percent(accuracy), percent(original))?;
        }
        if let Some(agreement) = self.agreement {
            write!(f, "same class {}, ", percent(agreement))?;
        }
        write!(f, "output error {:.4}", self.difference.sqrt())?;
        if !self.overshoot.layers.is_empty() {
            let o = &self.overshoot;
            let [q99, q999] = [0.99, 0.999].map(|q| o.quantile(q));
            let worst = o.worst();
            write!(
                f,
                "; reach 99 % {q99:.2}, 99.9 % {q999:.2}, worst {worst:.2} of the ranges; {} broken",
                self.broken
            )?;
        }
        write!(f, " on {} images", self.images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_cannot_be_written_are_refused_before_anything_is_read() {
        for flag in ["--output", "--log", "--html", "--checkpoint"] {
            let place = "no such folder/x.csv";
            let line = ["peregrine-tune", "no-model.onnx", "--data", "d", "--keep-activations", flag, place];
            let error = run(&Args::try_parse_from(line).unwrap()).unwrap_err();
            assert!(error.to_string().contains(place), "{flag}: {error}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let parse = |flag: &str, value: &str| {
            Args::try_parse_from(["peregrine-tune", "m.onnx", "--data", "d", &format!("{flag}={value}")])
        };
        for (flag, good, bad) in [
            ("--lr", "0.1", ["0", "nan"]),
            ("--clip", "2", ["-1", "inf"]),
            ("--layer-clip", "0.1", ["0", "nan"]),
            ("--blend", "0.5", ["1.1", "-1"]),
            ("--temperature", "1", ["0", "x"]),
            ("--range-penalty", "0", ["-0.1", "nan"]),
            ("--range-start", "0.5", ["0", "nan"]),
            ("--hard", "1", ["1.5", "-0.5"]),
        ] {
            assert!(parse(flag, good).is_ok(), "{flag} {good}");
            for value in bad {
                let text = parse(flag, value).unwrap_err().to_string();
                assert!(text.contains(flag) && text.contains("is expected"), "{text}");
            }
        }
    }
}
