//! A training run: batches, losses, steps, evaluation, checkpoints, logs.

mod batch;
mod blending;
mod checkpoint;
mod error;
mod evaluate;
mod log;
mod page;
mod step;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::data::Dataset;
use crate::data::augment::Augment;
use crate::loss;
use crate::net::{Net, NodeId, Ranges, Statistics};
use crate::penalty::RangePenalty;
use crate::sgd::{Schedule, Sgd};
use crate::tensor::Pool;

pub use batch::{Inputs, Preprocessing};
pub use blending::Blending;
pub use checkpoint::Checkpoint;
pub use error::TrainError;
pub use evaluate::{Evaluation, Overshoot};
pub use log::{Log, Record};
pub use page::page;

/// One of how many images counts as hard.
const HARD_SHARE: usize = 64;

/// What the network learns from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Labels only.
    Labels,
    /// The original network only.
    Distil(Distillation),
    /// Both, added.
    Both(Distillation),
}

/// How the original network teaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// Temperature of the softmax.
    pub temperature: f64,
    /// Weight of the features at residual joins.
    pub features: f64,
}

/// Constants of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Passes over the data.
    pub epochs: usize,
    /// Time after which it ends, the learning rate having gone down by then.
    pub time_budget: Option<Duration>,
    /// Images of a step.
    pub batch: usize,
    /// Largest learning rate.
    pub rate: f64,
    /// Optimiser.
    pub sgd: Sgd,
    /// Loss.
    pub objective: Objective,
    /// What keeps operands in their ranges.
    pub penalty: Option<RangePenalty>,
    /// Part of an epoch's images that are drawn from those with the largest range penalty.
    pub hard: f64,
    /// What polynomials normalise by.
    pub ranges: Ranges,
    /// What batch norms normalise by.
    pub norms: Statistics,
    /// How the network is handed over from the original.
    pub blend: Option<Blending>,
    /// Augmentation.
    pub augment: Augment,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Steps between log records.
    pub log_every: usize,
    /// File of checkpoints, written after every epoch.
    pub checkpoint: Option<PathBuf>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// Steps done in all.
    pub step: usize,
}

/// Is told how the run goes.
pub trait Watch {
    /// After every step.
    fn step(&mut self, record: &Record, steps: usize);
    /// After every epoch.
    fn epoch(&mut self, epoch: usize, evaluation: &Evaluation);
}

/// A network to learn from instead of the original.
#[derive(Clone, Debug)]
pub struct Teacher<'a> {
    /// The network.
    pub net: Net,
    /// What happens to its samples.
    pub preprocessing: &'a Preprocessing,
}

/// A run.
pub struct Trainer<'a> {
    /// The network that is trained.
    pub net: Net,
    original: Net,
    teacher: Net,
    /// What happens to the teacher's samples, if something else than to the network's.
    lessons: Option<&'a Preprocessing>,
    joins: Joins,
    /// Where values are blended.
    places: Joins,
    train: Inputs<'a>,
    test: Inputs<'a>,
    options: Options,
    /// Where it stands.
    pub progress: Progress,
    /// What happened.
    pub log: Log,
    /// Range penalty of each training image when it was last seen.
    hardness: Vec<f32>,
    pool: Pool,
    started: Instant,
    /// Seconds of earlier parts of a resumed run.
    before: f64,
}

impl<'a> Trainer<'a> {
    /// A run that trains `net`, which is made from `original`, with another teacher than that if given.
    ///
    /// # Errors
    /// When labels are needed and missing, or do not fit the outputs, or the teacher does not fit the network.
    pub fn new(
        net: Net,
        original: Net,
        teacher: Option<Teacher<'a>>,
        train: Inputs<'a>,
        test: Inputs<'a>,
        options: Options,
    ) -> Result<Self, TrainError> {
        let needs_labels = matches!(options.objective, Objective::Labels | Objective::Both(_));
        let classes = net.classes();
        if needs_labels {
            let labels = train.data.labels().ok_or(TrainError::NoLabels)?;
            let classes = classes.ok_or(TrainError::NoClasses)?;
            check_labels(labels, classes)?;
        }
        if let (Some(labels), Some(classes)) = (test.data.labels(), classes) {
            check_labels(labels, classes)?;
        }
        if train.data.len() < options.batch.min(2) {
            return Err(TrainError::TooFew { images: train.data.len() });
        }
        let lessons = teacher.as_ref().map(|t| t.preprocessing).filter(|p| !p.is_like(train.preprocessing));
        if lessons.is_some_and(|p| p.pixels() != train.preprocessing.pixels()) {
            return Err(TrainError::Teacher { what: "pictures" });
        }
        let teacher = teacher.map_or_else(|| original.clone(), |t| t.net);
        let joins = Joins::new(&net, &teacher, options.objective)?;
        let places = match options.blend {
            Some(_) => Joins::of_blending(&net, &original, &teacher)?,
            None => Joins::default(),
        };
        Ok(Self {
            joins,
            lessons,
            places,
            net,
            original,
            teacher,
            train,
            test,
            options,
            progress: Progress::default(),
            log: Log::default(),
            hardness: vec![0.0; train.data.len()],
            pool: Pool::default(),
            started: Instant::now(),
            before: 0.0,
        })
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// When it belongs to another network.
    pub fn resume(&mut self, checkpoint: Checkpoint) -> Result<(), TrainError> {
        checkpoint.restore(&mut self.net, &mut self.hardness)?;
        (self.progress, self.before) = (checkpoint.progress, checkpoint.seconds);
        self.log = checkpoint.log;
        Ok(())
    }

    /// Steps of an epoch: the last, smaller batch is left out, unless it is the only one.
    pub fn steps_per_epoch(&self) -> usize {
        (self.train.data.len() / self.options.batch).max(1)
    }

    /// Whether the log keeps the record of this step, counted from 1.
    fn is_logged(&self, step: usize) -> bool {
        let last = self.steps_per_epoch() * self.options.epochs;
        step.is_multiple_of(self.options.log_every) || step == last
    }

    /// Trains to the end of the epochs or of the time.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] with the layer, and what files and pictures do.
    pub fn run(&mut self, watch: &mut dyn Watch) -> Result<Evaluation, TrainError> {
        let per_epoch = self.steps_per_epoch();
        let steps = per_epoch * self.options.epochs;
        let warmup = (per_epoch / 4).clamp(1, 100).min(steps / 4);
        let schedule = Schedule { rate: self.options.rate, warmup, steps };
        let mut last = None;
        while self.progress.epoch < self.options.epochs && !self.out_of_time() {
            let order = self.order(self.progress.epoch);
            while self.progress.step < (self.progress.epoch + 1) * per_epoch && !self.out_of_time() {
                let within = self.progress.step % per_epoch;
                let size = self.options.batch.min(order.len());
                let indices = &order[within * size..][..size];
                // The end of the time budget counts as the end of the steps.
                let done = self.part_done(steps);
                let position = ((done * steps as f64) as usize).min(steps.saturating_sub(1));
                let share = self.hand_over(done, steps);
                let record = self.step(indices, schedule.at(position), share)?;
                self.progress.step += 1;
                watch.step(&record, steps);
                if self.is_logged(self.progress.step) {
                    self.log.records.push(record);
                }
            }
            self.progress.epoch += 1;
            if self.progress.epoch == self.options.epochs || self.out_of_time() {
                self.measure_ranges()?;
            }
            let evaluation = self.evaluate()?;
            self.log.epochs.push((self.progress.step, self.seconds(), evaluation.clone()));
            watch.epoch(self.progress.epoch, &evaluation);
            last = Some(evaluation);
            if let Some(path) = &self.options.checkpoint {
                Checkpoint::of(&self.net, &self.hardness, self.progress, self.seconds(), &self.log)
                    .write(path)?;
            }
        }
        match last {
            Some(evaluation) => Ok(evaluation),
            None => {
                self.measure_ranges()?;
                self.evaluate()
            }
        }
    }

    /// Seconds of training so far.
    pub fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    fn out_of_time(&self) -> bool {
        self.options.time_budget.is_some_and(|budget| self.seconds() >= budget.as_secs_f64())
    }

    fn part_done(&self, steps: usize) -> f64 {
        let by_steps = self.progress.step as f64 / steps.max(1) as f64;
        let by_time = self.options.time_budget.map_or(0.0, |b| self.seconds() / b.as_secs_f64().max(1e-9));
        by_steps.max(by_time)
    }

    /// Order of the samples in an epoch: all of them, but for some in whose place the hardest come again.
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.train.data.len()).collect();
        let mut rng = fastrand::Rng::with_seed(mix(self.options.seed, epoch as u64));
        rng.shuffle(&mut order);
        let hardest = self.hardest();
        if !hardest.is_empty() {
            for place in &mut order {
                if rng.f64() < self.options.hard {
                    *place = hardest[rng.usize(..hardest.len())];
                }
            }
        }
        order
    }

    /// The images that left their ranges most: one of [`HARD_SHARE`], at most.
    fn hardest(&self) -> Vec<usize> {
        let mut images: Vec<usize> = (0..self.hardness.len()).filter(|&i| self.hardness[i] > 0.0).collect();
        images.sort_by(|&a, &b| self.hardness[b].total_cmp(&self.hardness[a]).then(a.cmp(&b)));
        images.truncate(self.hardness.len().div_ceil(HARD_SHARE));
        images
    }
}

/// Where features are compared: values of the network, and of its teacher.
#[derive(Clone, Debug, Default)]
struct Joins {
    own: Vec<NodeId>,
    taught: Vec<NodeId>,
}

impl Joins {
    /// None unless features are compared.
    fn new(net: &Net, teacher: &Net, objective: Objective) -> Result<Self, TrainError> {
        let shapes =
            |net: &Net, ids: &[NodeId]| ids.iter().map(|&id| net.nodes[id].shape).collect::<Vec<_>>();
        let outputs = |net: &Net| net.outputs.iter().map(|(_, id)| *id).collect::<Vec<_>>();
        let same = |own: &[NodeId], taught: &[NodeId]| shapes(net, own) == shapes(teacher, taught);
        if net.input_shape() != teacher.input_shape() || !same(&outputs(net), &outputs(teacher)) {
            return Err(TrainError::Teacher { what: "inputs or outputs" });
        }
        let (own, taught) = match objective {
            Objective::Distil(how) | Objective::Both(how) if how.features > 0.0 => {
                (net.joins(), teacher.joins())
            }
            Objective::Distil(_) | Objective::Both(_) | Objective::Labels => (Vec::new(), Vec::new()),
        };
        match same(&own, &taught) {
            true => Ok(Self { own, taught }),
            false => Err(TrainError::Teacher { what: "residual joins (--features 0 compares outputs only)" }),
        }
    }
}

fn check_labels(labels: &[usize], classes: usize) -> Result<(), TrainError> {
    match labels.iter().find(|l| **l >= classes) {
        Some(&label) => Err(TrainError::Label { label, classes }),
        None => Ok(()),
    }
}

/// A seed from two numbers.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    // The finaliser of SplitMix64.
    let mut z = a ^ b.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Net {
    /// Number of classes, when there is one output of one row.
    pub fn classes(&self) -> Option<usize> {
        match self.outputs.as_slice() {
            [(_, id)] if self.nodes[*id].shape.h * self.nodes[*id].shape.w == 1 => {
                Some(self.nodes[*id].shape.c)
            }
            _ => None,
        }
    }
}

/// Class with the largest output, row by row.
pub(crate) fn classes_of(logits: &crate::tensor::Tensor) -> Vec<usize> {
    logits.data.chunks_exact(logits.shape.image()).map(loss::largest).collect()
}

/// Splits data: every twentieth sample (of very few, every other) is kept for testing when there is no test data.
pub fn hold_out(train: &mut Dataset) -> Dataset {
    let step = (train.len() / 2).clamp(2, 20);
    train.hold_out(step)
}
