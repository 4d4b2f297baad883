//! Polynomials fitted to what activations meet, before training.
//!
//! A range that is the largest operand of a batch is mostly made by a few images, far outside of where most operands are; an
//! expansion for such a range is nearly a straight line there. Least squares on the operands themselves give the polynomial
//! its bend where it is needed, and hold it to the activation as far as the operands reach.

use peregrine_passes::tensor::fit::{FitOptions, polynomial_for};
use rayon::prelude::*;

use super::{Keep, Mode, Net, NodeId, Op};
use crate::ops::poly_act;
use crate::tensor::{Pool, Tensor};

/// Most operands of a channel that a polynomial is fitted to.
const SAMPLES: usize = 1 << 16;
/// Most operands of all channels of a layer: those of all layers are held at once.
const LAYER_SAMPLES: usize = 1 << 22;

/// Channels that hardly move get at least this share of the widest channel's range: they may wake up in training.
const LEAST_SHARE: f32 = 0.1;

/// Operands of one activation over some batches.
pub(super) struct Operands {
    pub(super) id: NodeId,
    pub(super) channels: Vec<Channel>,
}

/// Operands of one channel: a sample of them, and the largest.
#[derive(Clone, Default)]
pub(super) struct Channel {
    pub(super) sample: Vec<f32>,
    pub(super) max: f32,
}

impl Net {
    /// Fits the polynomial activations to those of `original`, of which this network is a copy with polynomials, and takes the
    /// largest operands as their ranges.
    ///
    /// The operands are those of the original network: what earlier polynomials would hand on has longer tails, which the
    /// polynomials would follow by becoming straight. Training brings this network's operands into these ranges.
    pub fn fit_activations(&mut self, original: &mut Net, batches: Vec<Tensor>, pool: &mut Pool) {
        let ids: Vec<NodeId> = self.poly_acts().map(|(id, _)| id).collect();
        let all = original.operands_of(&ids, batches, pool);
        for operands in all {
            self.fit_activation(original, &operands);
        }
    }

    /// Operands of these activations over the batches, batch norms as in inference.
    pub(super) fn operands_of(
        &mut self,
        ids: &[NodeId],
        batches: Vec<Tensor>,
        pool: &mut Pool,
    ) -> Vec<Operands> {
        let of = |&id: &NodeId| Operands { id, channels: vec![Channel::default(); self.nodes[id].shape.c] };
        let mut all: Vec<Operands> = ids.iter().map(of).collect();
        let values: Vec<NodeId> = ids.iter().map(|&id| self.nodes[id].args[0]).collect();
        let count = batches.len();
        for batch in batches {
            let tape = self.forward(batch, Mode::EVALUATE, Keep::Only(&values), pool);
            for (operands, &value) in all.iter_mut().zip(&values) {
                operands.add(tape.value(value), count);
            }
            tape.recycle(pool);
        }
        all
    }

    fn fit_activation(&mut self, original: &Net, operands: &Operands) {
        let id = operands.id;
        let Op::Activation(function) = &original.nodes[id].op else { return };
        let slopes = function.slopes().map_or(&[][..], |&p| original.numbers(p));
        let Op::PolyAct(act) = &mut self.nodes[id].op else { return };
        let widest = operands.channels.iter().map(|c| c.max).fold(0.0, f32::max);
        act.max = operands.channels.iter().map(|c| c.max.max(LEAST_SHARE * widest)).collect();
        act.started = true;
        let (parameter, degree) = (act.powers, act.degree);
        let ranges = act.max.clone();
        let options = FitOptions::of_degree(degree as u32);
        let row = |(c, channel): (usize, &Channel)| -> Vec<f32> {
            let slope = f64::from(slopes.get(c).or(slopes.first()).copied().unwrap_or(0.0));
            let reach = f64::from(ranges[c]);
            let fitted = polynomial_for(&channel.sample, &|x| function.value(x, slope), reach, &options);
            let scale = poly_act::scale(ranges[c]);
            fitted.iter().enumerate().map(|(k, c)| (c * scale.powi(k as i32 - 1)) as f32).collect()
        };
        let rows: Vec<Vec<f32>> = operands.channels.par_iter().enumerate().map(row).collect();
        self.params[parameter].value = rows.concat();
    }
}

impl Operands {
    /// Takes a share of the batch's numbers, and its largest.
    fn add(&mut self, x: &Tensor, batches: usize) {
        let c = self.channels.len();
        let most = SAMPLES.min(LAYER_SAMPLES / c.max(1)).max(1);
        let step = (x.shape.pixels() * batches).div_ceil(most).max(1);
        for (channel, peak) in self.channels.iter_mut().zip(poly_act::peaks(x)) {
            channel.max = channel.max.max(peak.max);
            channel.sample.push(x.data[peak.at]);
        }
        for row in x.data.chunks_exact(c).step_by(step) {
            self.channels.iter_mut().zip(row).for_each(|(channel, x)| channel.sample.push(*x));
        }
    }
}
