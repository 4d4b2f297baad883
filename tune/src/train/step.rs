//! One step: forward, losses, backward, update.

use super::{Distillation, Inputs, Objective, Record, TrainError, Trainer, mix};
use crate::loss::{self, Loss};
use crate::net::{Blend, Keep, Mode, Net, NodeId, Op, Tape};
use crate::ops::poly_act;
use crate::tensor::Tensor;

/// A loss this many times that of the first steps ends the run.
const RUNAWAY: f64 = 20.0;
/// Losses below this never count as running away.
const HARMLESS: f64 = 10.0;
/// The same where values are blended: such losses start near zero, and are those of all activations together.
const HARMLESS_BLENDED: f64 = 100.0;

/// A loss, its gradients, and how many classes were right (or agreed).
struct Objectives {
    value: f64,
    seeds: Vec<(NodeId, Tensor)>,
    hits: Option<usize>,
}

impl Trainer<'_> {
    /// Trains on these samples.
    pub(super) fn step(&mut self, indices: &[usize], rate: f64, share: f64) -> Result<Record, TrainError> {
        let augment = Some((self.options.augment, self.seed()));
        let batch = self.train.batch(indices, augment, &mut self.pool)?;
        let mut taught = self.taught(&batch, indices, share)?;
        let mut blend = taught.as_mut().and_then(|taught| self.blend(taught, share));
        let mode = Mode { norms: self.options.norms, ranges: self.options.ranges };
        let pool = &mut self.pool;
        let tape = self.net.forward_blended(batch, mode, Keep::All, blend.as_mut(), pool);
        let mut objectives = self.objectives(&tape, taught.as_ref(), indices);
        objectives.value += blend.as_ref().map_or(0.0, Blend::loss);
        if let Some(taught) = taught {
            taught.recycle(&mut self.pool);
        }
        let first = self.log.records.first().map_or(objectives.value, |r| r.loss);
        let harmless = if self.options.blend.is_some() { HARMLESS_BLENDED } else { HARMLESS };
        if !objectives.value.is_finite() || objectives.value > harmless.max(RUNAWAY * first) {
            return Err(self.diverged(&tape));
        }
        self.net.clear_grads();
        let penalty = self.options.penalty;
        let penalties =
            self.net.backward(&tape, objectives.seeds, penalty.as_ref(), blend.as_ref(), &mut self.pool);
        if let Some(blend) = blend {
            blend.recycle(&mut self.pool);
        }
        indices.iter().zip(&penalties).for_each(|(&image, p)| self.hardness[image] = *p as f32);
        let norm = self.options.sgd.step(&mut self.net, rate as f32);
        if !norm.is_finite() {
            return Err(self.diverged(&tape));
        }
        let step = self.progress.step + 1;
        let ranges = if self.is_logged(step) { reaches(&self.net, &tape) } else { Vec::new() };
        tape.recycle(&mut self.pool);
        Ok(Record {
            step,
            epoch: self.progress.epoch,
            seconds: self.seconds(),
            rate,
            loss: objectives.value,
            accuracy: objectives.hits.map(|h| h as f64 / indices.len() as f64),
            gradient: norm,
            penalty: penalties.iter().sum(),
            blend: share,
            ranges,
        })
    }

    /// Seed of the augmentation in this step.
    fn seed(&self) -> u64 {
        mix(self.options.seed, u64::MAX - self.progress.step as u64)
    }

    /// What the teacher makes of the batch, when it is needed.
    fn taught(&mut self, batch: &Tensor, indices: &[usize], share: f64) -> Result<Option<Tape>, TrainError> {
        let places = self.blended(share).map_or(&[][..], |places| places.taught.as_slice());
        let kept = [self.joins.taught.as_slice(), places].concat();
        if self.options.objective == Objective::Labels && kept.is_empty() {
            return Ok(None);
        }
        let batch = match self.lessons {
            None => self.pool.copy(batch),
            Some(preprocessing) => {
                let inputs = Inputs { data: self.train.data, preprocessing };
                inputs.batch(indices, Some((self.options.augment, self.seed())), &mut self.pool)?
            }
        };
        Ok(Some(self.teacher.forward(batch, Mode::EVALUATE, Keep::Only(&kept), &mut self.pool)))
    }

    fn objectives(&mut self, tape: &Tape, taught: Option<&Tape>, indices: &[usize]) -> Objectives {
        let mut all = Objectives { value: 0.0, seeds: Vec::new(), hits: None };
        if let Objective::Labels | Objective::Both(_) = self.options.objective
            && let (Some(labels), [(_, id)]) = (self.train.data.labels(), self.net.outputs.as_slice())
        {
            let labels: Vec<usize> = indices.iter().map(|&i| labels[i]).collect();
            all.hits = Some(loss::hits(tape.value(*id), &labels));
            let loss = loss::cross_entropy(tape.value(*id), &labels, &mut self.pool);
            all.add(*id, loss);
        }
        if let (Objective::Distil(how) | Objective::Both(how), Some(taught)) =
            (self.options.objective, taught)
        {
            self.distil(how, tape, taught, &mut all);
        }
        all
    }

    fn distil(&mut self, how: Distillation, tape: &Tape, taught: &Tape, all: &mut Objectives) {
        let classes = self.net.classes();
        let heads = self.net.outputs.len() as f64;
        let outputs = self.net.outputs.iter().zip(&self.teacher.outputs);
        let outputs: Vec<(NodeId, NodeId)> = outputs.map(|((_, own), (_, taught))| (*own, *taught)).collect();
        for (id, theirs) in outputs {
            let (value, target) = (tape.value(id), taught.value(theirs));
            let loss = match classes {
                Some(_) => {
                    let right = super::classes_of(target);
                    all.hits.get_or_insert_with(|| loss::hits(value, &right));
                    loss::distillation(value, target, how.temperature, &mut self.pool)
                }
                None => loss::features(value, target, 1.0 / heads, &mut self.pool),
            };
            all.add(id, loss);
        }
        for (&id, &theirs) in self.joins.own.iter().zip(&self.joins.taught) {
            let weight = how.features / self.joins.own.len() as f64;
            let loss = loss::features(tape.value(id), taught.value(theirs), weight, &mut self.pool);
            all.add(id, loss);
        }
    }

    /// The layer that broke.
    fn diverged(&self, tape: &Tape) -> TrainError {
        let step = self.progress.step + 1;
        let broken = (1..self.net.nodes.len()).find(|&id| tape.value(id).data.iter().any(|x| !x.is_finite()));
        if let Some(id) = broken {
            let layer = self.net.nodes[id].name.clone();
            return TrainError::Diverged { step, layer, what: "gave numbers that are not finite".into() };
        }
        let worst = reaches(&self.net, tape)
            .into_iter()
            .zip(self.net.poly_acts())
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        let (what, layer) = match worst {
            Some((reach, (id, _))) => {
                (format!("reached {reach:.1} times its usual range"), self.net.nodes[id].name.clone())
            }
            None => ("gave a loss that ran away".to_owned(), self.net.name.clone()),
        };
        TrainError::Diverged { step, layer, what }
    }
}

impl Objectives {
    fn add(&mut self, id: NodeId, loss: Loss) {
        self.value += loss.value;
        self.seeds.push((id, loss.grad));
    }
}

/// Largest |x| of each polynomial activation's operand in this batch, relative to the channel's running maximum.
fn reaches(net: &Net, tape: &Tape) -> Vec<f64> {
    let of = |id: NodeId| -> f64 {
        let Op::PolyAct(act) = &net.nodes[id].op else { return 0.0 };
        let ratio = |max: f32, c: usize| f64::from(max / act.max[c].max(f32::MIN_POSITIVE));
        let peaks = poly_act::peaks(tape.value(net.nodes[id].args[0]));
        peaks.iter().enumerate().map(|(c, peak)| ratio(peak.max, c)).fold(0.0, f64::max)
    };
    net.poly_acts().map(|(id, _)| of(id)).collect()
}
