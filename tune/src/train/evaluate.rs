//! How good the network is in inference, and how far it leaves its ranges.

use peregrine_ir::client::RangeRecord;

use super::{TrainError, Trainer, classes_of};
use crate::data::Dataset;
use crate::loss;
use crate::net::{Keep, Mode, Net, NodeId, Op};
use crate::tensor::Tensor;

/// Images of a batch in evaluation.
const BATCH: usize = 200;
/// Overshoot past which a tuned model is refused.
pub const MAX_OVERSHOOT: f64 = 1.5;
/// The final ranges are the largest operands on the training data times this.
const RANGE_MARGIN: f32 = 1.2;
/// They are at most the running maxima times this: a training image that runs away must not define a range.
const MOST_REACH: f32 = 1.5;

/// Results on the test data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Images.
    pub images: usize,
    /// Share of right classes, when there are labels.
    pub accuracy: Option<f64>,
    /// The same for the original network.
    pub original: Option<f64>,
    /// Share of images with the original network's class.
    pub agreement: Option<f64>,
    /// Mean squared difference of the outputs from the original network's, relative to these.
    pub difference: f64,
    /// Images with an output that is not finite.
    pub broken: usize,
    /// Ranges.
    pub overshoot: Overshoot,
}

/// Largest |x| of polynomial activations' operands relative to the range to be expected ([`crate::net::PolyAct::range`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overshoot {
    /// Per activation: name and largest ratio of all images.
    pub layers: Vec<(String, f64)>,
    /// Largest ratio of each image over all activations, ascending.
    pub images: Vec<f64>,
}

impl Overshoot {
    /// The ratio that a share `q` of the images stays below.
    pub fn quantile(&self, q: f64) -> f64 {
        let last = self.images.len().saturating_sub(1);
        self.images.get((q * last as f64).round() as usize).copied().unwrap_or(0.0)
    }

    /// The largest ratio.
    pub fn worst(&self) -> f64 {
        self.quantile(1.0)
    }
}

impl Evaluation {
    /// Whether the model can be trusted: no broken output, and no range left by more than half.
    pub fn is_sound(&self) -> bool {
        self.broken == 0 && self.overshoot.worst() <= MAX_OVERSHOOT
    }
}

impl Trainer<'_> {
    /// Evaluates on the test data.
    ///
    /// # Errors
    /// A picture cannot be decoded.
    pub fn evaluate(&mut self) -> Result<Evaluation, TrainError> {
        let operands: Vec<NodeId> = self.net.poly_acts().map(|(id, _)| self.net.nodes[id].args[0]).collect();
        let outputs: Vec<NodeId> = self.net.outputs.iter().map(|(_, id)| *id).collect();
        let mut tally = Tally::new(&self.net, self.test.data);
        for indices in batches(self.test.data.len()) {
            let batch = self.test.batch(&indices, None, &mut self.pool)?;
            let copy = self.pool.copy(&batch);
            let taught = self.original.forward(copy, Mode::EVALUATE, Keep::Only(&[]), &mut self.pool);
            let tape = self.net.forward(batch, Mode::EVALUATE, Keep::Only(&operands), &mut self.pool);
            let labels: Option<Vec<usize>> =
                self.test.data.labels().map(|labels| indices.iter().map(|&i| labels[i]).collect());
            for &id in &outputs {
                tally.output(tape.value(id), taught.value(id), labels.as_deref());
            }
            tally.images += indices.len();
            tally.broken(outputs.iter().map(|&id| tape.value(id)));
            tally.ranges(&self.net, operands.iter().map(|&id| tape.value(id)));
            taught.recycle(&mut self.pool);
            tape.recycle(&mut self.pool);
        }
        Ok(tally.finish())
    }
}

/// Sums over batches.
struct Tally {
    images: usize,
    /// With labels.
    right: Option<usize>,
    original: Option<usize>,
    /// With classes.
    same: Option<usize>,
    squares: [f64; 2],
    broken: usize,
    layers: Vec<(String, f64)>,
    ratios: Vec<f64>,
}

impl Tally {
    fn new(net: &Net, data: &Dataset) -> Self {
        let same = net.classes().map(|_| 0);
        let right = data.labels().and(same);
        let layers = net.poly_acts().map(|(id, _)| (net.nodes[id].name.clone(), 0.0)).collect();
        let ratios = Vec::new();
        let squares = [0.0; 2];
        Self { images: 0, right, original: right, same, squares, broken: 0, layers, ratios }
    }

    fn output(&mut self, value: &Tensor, taught: &Tensor, labels: Option<&[usize]>) {
        let theirs = classes_of(taught);
        let count = |sum: &mut Option<usize>, value: &Tensor, labels: &[usize]| {
            if let Some(sum) = sum {
                *sum += loss::hits(value, labels);
            }
        };
        count(&mut self.same, value, &theirs);
        if let Some(labels) = labels {
            count(&mut self.right, value, labels);
            count(&mut self.original, taught, labels);
        }
        for (x, t) in value.data.iter().zip(&taught.data) {
            let (x, t) = (f64::from(*x), f64::from(*t));
            if x.is_finite() {
                self.squares[0] += (x - t) * (x - t);
            }
            self.squares[1] += t * t;
        }
    }

    fn broken<'t>(&mut self, outputs: impl Iterator<Item = &'t Tensor>) {
        let outputs: Vec<&Tensor> = outputs.collect();
        let images = outputs.first().map_or(0, |o| o.shape.n);
        let is_broken = |i: usize| {
            outputs.iter().any(|o| {
                let size = o.shape.image();
                o.data[i * size..][..size].iter().any(|x| !x.is_finite())
            })
        };
        self.broken += (0..images).filter(|&i| is_broken(i)).count();
    }

    fn ranges<'t>(&mut self, net: &Net, operands: impl Iterator<Item = &'t Tensor>) {
        let mut worst: Vec<f64> = Vec::new();
        for ((x, (id, _)), layer) in operands.zip(net.poly_acts()).zip(&mut self.layers) {
            let Op::PolyAct(act) = &net.nodes[id].op else { continue };
            let ratios = image_ratios(x, act.range());
            layer.1 = ratios.iter().copied().fold(layer.1, f64::max);
            worst.resize(ratios.len(), 0.0);
            worst.iter_mut().zip(ratios).for_each(|(w, r)| *w = w.max(r));
        }
        self.ratios.extend(worst);
    }

    fn finish(mut self) -> Evaluation {
        self.ratios.sort_by(f64::total_cmp);
        let images = self.images;
        let share = |count: usize| count as f64 / images.max(1) as f64;
        Evaluation {
            images,
            accuracy: self.right.map(share),
            original: self.original.map(share),
            agreement: self.same.map(share),
            difference: self.squares[0] / self.squares[1].max(f64::MIN_POSITIVE),
            broken: self.broken,
            overshoot: Overshoot { layers: self.layers, images: self.ratios },
        }
    }
}

/// Largest |x| / max of each image; infinite for numbers that are not finite.
fn image_ratios(x: &Tensor, max: &[f32]) -> Vec<f64> {
    use rayon::prelude::*;
    let inverse: Vec<f32> = max.iter().map(|m| 1.0 / m.max(f32::MIN_POSITIVE)).collect();
    let of_image = |image: &[f32]| {
        let mut largest = 0.0f32;
        for row in image.chunks_exact(inverse.len()) {
            for (x, r) in row.iter().zip(&inverse) {
                let ratio = x.abs() * r;
                largest = if ratio.is_finite() { largest.max(ratio) } else { f32::INFINITY };
            }
        }
        f64::from(largest)
    };
    x.images().map(of_image).collect()
}

/// Indices of samples, batch by batch.
fn batches(count: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..count).step_by(BATCH).map(move |start| (start..(start + BATCH).min(count)).collect())
}

impl Trainer<'_> {
    /// Measures what enters the polynomial activations in inference on all training data: the ranges to be expected.
    ///
    /// Running maxima are averages over batches, which single images exceed by far.
    ///
    /// # Errors
    /// A picture cannot be decoded.
    pub(super) fn measure_ranges(&mut self) -> Result<(), TrainError> {
        let acts: Vec<NodeId> = self.net.poly_acts().map(|(id, _)| id).collect();
        let operands: Vec<NodeId> = acts.iter().map(|&id| self.net.nodes[id].args[0]).collect();
        let mut reach: Vec<Vec<f32>> = acts.iter().map(|&id| vec![0.0; self.net.nodes[id].shape.c]).collect();
        for indices in batches(if acts.is_empty() { 0 } else { self.train.data.len() }) {
            let batch = self.train.batch(&indices, None, &mut self.pool)?;
            let tape = self.net.forward(batch, Mode::EVALUATE, Keep::Only(&operands), &mut self.pool);
            for (reach, &operand) in reach.iter_mut().zip(&operands) {
                let peaks = crate::ops::poly_act::peaks(tape.value(operand));
                reach.iter_mut().zip(peaks).for_each(|(r, peak)| *r = r.max(peak.max));
            }
            tape.recycle(&mut self.pool);
        }
        for (&id, reach) in acts.iter().zip(reach) {
            if let Op::PolyAct(act) = &mut self.net.nodes[id].op {
                let limited = |(r, max): (f32, &f32)| (r * RANGE_MARGIN).min(max * MOST_REACH);
                let reach: Vec<f32> = reach.into_iter().zip(&act.max).map(limited).collect();
                act.reach = Some(reach);
            }
        }
        Ok(())
    }

    /// Smallest and largest number of each channel of each output on the test data.
    ///
    /// # Errors
    /// A picture cannot be decoded.
    pub fn output_ranges(&mut self) -> Result<Vec<RangeRecord>, TrainError> {
        let mut records: Vec<RangeRecord> = Vec::new();
        for (name, id) in &self.net.outputs {
            let c = self.net.nodes[*id].shape.c;
            let (low, high) = (vec![f32::INFINITY; c], vec![f32::NEG_INFINITY; c]);
            records.push(RangeRecord { layer: name.clone(), low, high });
        }
        for indices in batches(self.test.data.len()) {
            let batch = self.test.batch(&indices, None, &mut self.pool)?;
            let tape = self.net.forward(batch, Mode::EVALUATE, Keep::Only(&[]), &mut self.pool);
            for ((_, id), record) in self.net.outputs.iter().zip(&mut records) {
                let value = tape.value(*id);
                for row in value.data.chunks_exact(value.shape.c) {
                    for ((x, low), high) in row.iter().zip(&mut record.low).zip(&mut record.high) {
                        if x.is_finite() {
                            (*low, *high) = (low.min(*x), high.max(*x));
                        }
                    }
                }
            }
            tape.recycle(&mut self.pool);
        }
        records.retain(|r| r.low.iter().chain(&r.high).all(|x| x.is_finite()));
        Ok(records)
    }
}
