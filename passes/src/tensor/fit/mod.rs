//! Pass `fit-activations`: calibrated activations become per-channel polynomials, without training.
//!
//! Precondition: stage canonical, calibration images. Postcondition: no Activation; linear layers may have new weights.
//!
//! The original network and the one under construction run side by side on the calibration images, node by node. Where an
//! activation is reached:
//! 1. ([`Reconstruction::Ridge`]) the convolution that feeds it is refitted so that the new network's pre-activations are
//!    again those of the original (module `refit`): one ridge regression per layer takes back much of the earlier layers' error;
//! 2. each channel's polynomial is fitted by least squares to the *original* network's activations at this place, on the
//!    new network's pre-activations, weighted by how often they occur; a small uniform weight over the range with a margin
//!    keeps the polynomial tame where few samples lie (module `channel`);
//! 3. the polynomial replaces the activation.
//!
//! The last linear layer before an output is refitted to the original output.

mod channel;
mod refit;
mod solve;

use std::collections::BTreeMap;

use peregrine_ir::tensor::{Activation, Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{ConstTensor, EntityId, ValueId};
use rayon::prelude::*;

use self::channel::{ChannelFit, ChannelSamples};
use self::refit::Refit;
use super::interp::{self, Batch, Executor, activation, channels_of};
use super::ranges::ChannelRange;
use crate::error::{DEGREES, PassError};
use crate::pass::{Changed, Pass};

/// How linear layers follow the polynomials before them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reconstruction {
    /// Weights stay as trained.
    Off,
    /// Ridge regression towards the trained weights; the penalty is `strength` times the mean power of the layer's inputs.
    Ridge {
        /// Relative penalty.
        strength: f64,
    },
}

/// Options of the fit. The default constants were tuned on CIFAR-10 ResNets with calibration images from elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct FitOptions {
    /// Degree of every activation, 2..=8.
    pub degree: u32,
    /// Degrees of single activations, by ONNX node name.
    pub layers: BTreeMap<String, u32>,
    /// Calibrated ranges are widened about their middle by this factor.
    pub margin: f64,
    /// Weight of the uniform distribution over the widened range, relative to the observed one.
    pub uniform_weight: f64,
    /// Ridge of the polynomial fit, relative to the mean diagonal of its normal matrix.
    pub ridge: f64,
    /// Least leading coefficient (on inputs scaled to [-1, 1]) relative to the largest value of the polynomial: polynomials
    /// are made monic later, which divides by it.
    pub leading_floor: f64,
    /// Refit of linear layers.
    pub reconstruction: Reconstruction,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            degree: 4,
            layers: BTreeMap::new(),
            margin: 1.15,
            uniform_weight: 2e-4,
            ridge: 1e-6,
            leading_floor: 1.0 / 16.0,
            reconstruction: Reconstruction::Ridge { strength: 0.01 },
        }
    }
}

impl FitOptions {
    /// The constants tuned for one degree: the higher the degree, the faster a polynomial grows outside its range, so the
    /// wider the margin and the heavier the uniform weight.
    pub fn of_degree(degree: u32) -> Self {
        let (margin, uniform_weight) = match degree {
            0..=5 => (1.15, 2e-4),
            6 => (1.25, 1e-3),
            _ => (1.4, 5e-3),
        };
        Self { degree, margin, uniform_weight, ..Self::default() }
    }
}

/// A polynomial (coefficients of powers, constant first) in place of `target` for operands distributed like `x`, which has to
/// hold on [-reach, reach]: what the pass fits to one channel, without a network around it.
pub fn polynomial_for(x: &[f32], target: &dyn Fn(f64) -> f64, reach: f64, options: &FitOptions) -> Vec<f64> {
    let y: Vec<f32> = x.iter().map(|&x| target(f64::from(x)) as f32).collect();
    let samples = ChannelSamples { x, y: &y, channel: 0, channels: 1, map: x.len() };
    channel::fit(&samples, target, [-reach, reach], reach, options.degree as usize, options).coefficients
}

/// How one activation was fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerFit {
    /// ONNX node name of the activation.
    pub layer: String,
    /// Degree.
    pub degree: u32,
    /// Smallest and largest pre-activation seen, per channel.
    pub seen: ChannelRange,
    /// The range with its margin, per channel: outside it the polynomial is not trustworthy.
    pub allowed: ChannelRange,
    /// Root mean square of (polynomial - original activation), relative to that of the original activation.
    pub rms_error: f64,
    /// Channels whose leading coefficient was raised to the floor.
    pub floored: usize,
    /// Layer whose weights were refitted before this activation.
    pub refitted: Option<String>,
}

/// How the activations of a model were fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct FitReport {
    /// One entry per activation, in order.
    pub layers: Vec<LayerFit>,
    /// Share of calibration images on which the largest number of the first output is at the same place.
    pub agreement: f64,
    /// Root mean square of the change of the first output, relative to that of the original.
    pub output_error: f64,
}

/// The pass.
#[derive(Clone, Debug)]
pub struct FitActivations<'a> {
    calibration: Option<&'a Batch>,
    options: FitOptions,
    report: Option<FitReport>,
}

impl<'a> FitActivations<'a> {
    /// A pass that fits on `calibration`.
    pub fn new(calibration: Option<&'a Batch>, options: FitOptions) -> Self {
        Self { calibration, options, report: None }
    }
    /// What was fitted; `None` before the run and when there was no activation.
    pub fn report(&self) -> Option<&FitReport> {
        self.report.as_ref()
    }
}

impl Pass<Tensor> for FitActivations<'_> {
    fn name(&self) -> &'static str {
        "fit-activations"
    }
    fn requires(&self) -> Stage {
        Stage::Canonical
    }
    fn establishes(&self) -> Stage {
        Stage::Canonical
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        let layers = activations(graph);
        let Some(first) = layers.first() else { return Ok(Changed::No) };
        let calibration = self
            .calibration
            .ok_or_else(|| PassError::MissingCalibration { layers: layers.len(), first: first.clone() })?;
        self.report = Some(fit_activations(graph, calibration, &self.options)?);
        Ok(Changed::Yes)
    }
}

/// ONNX names of the activations that are no polynomials, in order.
pub fn activations(graph: &TensorGraph) -> Vec<String> {
    graph
        .nodes
        .values()
        .filter(|n| matches!(n.op, TensorOp::Activation(_)))
        .map(|n| n.origin.as_str().to_owned())
        .collect()
}

/// Replaces every activation by a polynomial fitted on `calibration`.
///
/// # Errors
/// A degree out of range or for an unknown layer, a batch that does not fit, a value that is not finite (by layer).
pub fn fit_activations(
    graph: &mut TensorGraph,
    calibration: &Batch,
    options: &FitOptions,
) -> Result<FitReport, PassError> {
    check_degrees(graph, options)?;
    let original = graph.clone();
    let mut fitter = Fitter::new(graph, &original, calibration, options)?;
    for id in original.nodes.ids() {
        fitter.node(id)?;
    }
    let layers = fitter.layers;
    let (agreement, output_error) = compare(&original, graph, calibration)?;
    Ok(FitReport { layers, agreement, output_error })
}

fn check_degrees(graph: &TensorGraph, options: &FitOptions) -> Result<(), PassError> {
    let known = activations(graph);
    if let Some(layer) = options.layers.keys().find(|layer| !known.contains(layer)) {
        return Err(PassError::UnknownLayer { layer: layer.clone(), known: known.join(", ") });
    }
    let all =
        std::iter::once(("*", options.degree)).chain(options.layers.iter().map(|(l, &d)| (l.as_str(), d)));
    for (layer, degree) in all {
        if !(DEGREES.0..=DEGREES.1).contains(&degree) {
            return Err(PassError::Degree { layer: layer.to_owned(), degree });
        }
    }
    Ok(())
}

/// The two networks, run side by side.
struct Fitter<'a> {
    new: &'a mut TensorGraph,
    old: &'a TensorGraph,
    new_run: Executor<'a>,
    old_run: Executor<'a>,
    options: &'a FitOptions,
    /// Refits by the value whose target they aim at.
    refits: BTreeMap<ValueId, Refit>,
    layers: Vec<LayerFit>,
}

impl<'a> Fitter<'a> {
    fn new(
        new: &'a mut TensorGraph,
        old: &'a TensorGraph,
        batch: &'a Batch,
        options: &'a FitOptions,
    ) -> Result<Self, PassError> {
        let (mut new_run, mut old_run) = (Executor::new(new, batch)?, Executor::new(old, batch)?);
        // Values of the new network that differ from the original's, because they follow a polynomial.
        let mut differs = vec![false; old.nodes.len()];
        for (id, node) in old.nodes.iter() {
            differs[id.index()] =
                matches!(node.op, TensorOp::Activation(_)) || node.args.iter().any(|a| differs[a.index()]);
        }
        let refits = match options.reconstruction {
            Reconstruction::Off => BTreeMap::new(),
            Reconstruction::Ridge { strength } => refit::plan(old, &old.users(), &differs, strength),
        };
        for (&target, refit) in &refits {
            new_run.retain(refit.input);
            new_run.retain(target);
            old_run.retain(target);
        }
        Ok(Self { new, old, new_run, old_run, options, refits, layers: Vec::new() })
    }

    fn node(&mut self, id: ValueId) -> Result<(), PassError> {
        self.old_run.step(self.old, id);
        if let TensorOp::Activation(op) = &self.old.nodes[id].op {
            self.activation(id, &op.clone())?;
        }
        self.new_run.step(self.new, id);
        if let Some(refit) = self.refits.get(&id).cloned() {
            self.refit(id, &refit);
        }
        if self.new_run.value(id).iter().any(|x| !x.is_finite()) {
            return Err(PassError::NotFinite { layer: self.old.nodes[id].origin.as_str().to_owned() });
        }
        self.new_run.release_operands(self.new, id);
        self.old_run.release_operands(self.old, id);
        Ok(())
    }

    /// Refits a convolution now that the value it ends in is known in both networks, and corrects that value.
    fn refit(&mut self, target: ValueId, refit: &Refit) {
        let before = refit.output(self.new, self.new_run.value(refit.input));
        let wanted: Vec<f32> = (self.old_run.value(target).par_iter())
            .zip(self.new_run.value(target))
            .zip(&before)
            .map(|((wanted, now), own)| wanted - (now - own))
            .collect();
        refit.solve(self.new, self.new_run.value(refit.input), &wanted);
        let after = refit.output(self.new, self.new_run.value(refit.input));
        let corrected: Vec<f32> = (self.new_run.value(target).iter().zip(&before).zip(&after))
            .map(|((now, before), after)| now - before + after)
            .collect();
        self.new_run.replace(target, corrected);
        self.new_run.release(refit.input);
        self.new_run.release(target);
        self.old_run.release(target);
    }

    fn activation(&mut self, id: ValueId, op: &Activation) -> Result<(), PassError> {
        let node = &self.old.nodes[id];
        let layer = node.origin.as_str().to_owned();
        let degree = self.options.layers.get(&layer).copied().unwrap_or(self.options.degree);
        let input = node.args[0];
        let (x, y) = (self.new_run.value(input), self.old_run.value(id));
        let seen = ChannelRange::of(&node.ty.shape, x);
        let fits = fit_channels(self.old, op, &node.ty.shape, (x, y), &seen, degree, self.options);
        let rows: Vec<f64> = fits.iter().flat_map(|f| f.coefficients.iter().copied()).collect();
        if rows.iter().any(|a| !a.is_finite()) {
            return Err(PassError::NotFinite { layer });
        }
        let shape = vec![fits.len(), degree as usize + 1];
        let coefficients = self.new.tables.consts.push(ConstTensor::f64(shape, rows));
        self.new.nodes[id].op = TensorOp::Poly { coefficients };
        let (error, power) = fits.iter().fold((0.0, 0.0), |(e, p), f| (e + f.error, p + f.power));
        let refitted = self.refits.get(&input).map(|r| self.old.nodes[r.conv].origin.as_str().to_owned());
        self.layers.push(LayerFit {
            layer,
            degree,
            allowed: ChannelRange {
                low: fits.iter().map(|f| f.allowed[0] as f32).collect(),
                high: fits.iter().map(|f| f.allowed[1] as f32).collect(),
            },
            seen,
            rms_error: relative(error, power),
            floored: fits.iter().filter(|f| f.floored).count(),
            refitted,
        });
        Ok(())
    }
}

fn fit_channels(
    graph: &TensorGraph,
    op: &Activation,
    shape: &[usize],
    (x, y): (&[f32], &[f32]),
    seen: &ChannelRange,
    degree: u32,
    options: &FitOptions,
) -> Vec<ChannelFit> {
    let (channels, map) = channels_of(shape);
    let function = activation(op, &graph.tables.consts);
    let widest = seen.max_abs().into_iter().fold(0.0, f64::max);
    (0..channels)
        .into_par_iter()
        .map(|c| {
            let samples = ChannelSamples { x, y, channel: c, channels, map };
            let range = [f64::from(seen.low[c]), f64::from(seen.high[c])];
            channel::fit(&samples, &|x| function(c, x), range, widest, degree as usize, options)
        })
        .collect()
}

/// Agreement of the largest numbers and relative error of the first output.
fn compare(old: &TensorGraph, new: &TensorGraph, batch: &Batch) -> Result<(f64, f64), PassError> {
    let (a, b) = (interp::run(old, batch)?, interp::run(new, batch)?);
    let (Some(a), Some(b)) = (a.first(), b.first()) else { return Ok((1.0, 0.0)) };
    let largest =
        |v: &[f32]| v.iter().enumerate().fold(0, |best, (i, x)| if *x > v[best] { i } else { best });
    let width = (a.len() / batch.count()).max(1);
    let same = a.chunks(width).zip(b.chunks(width)).filter(|(a, b)| largest(a) == largest(b)).count();
    let sum =
        |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| f(f64::from(a), f64::from(b))).sum();
    let error = relative(sum(&|a, b| (a - b) * (a - b)), sum(&|a, _| a * a));
    Ok((same as f64 / batch.count() as f64, error))
}

fn relative(error: f64, power: f64) -> f64 {
    if power > 0.0 { (error / power).sqrt() } else { error.sqrt() }
}

#[cfg(test)]
mod tests;
