//! Running a network.

use super::{Blend, Mode, Net, NodeId, Op, PolyAct, Ranges, Saved, Statistics, Tape};
use crate::ops::{activation, batch_norm, elementwise, poly_act, shape, straight};
use crate::tensor::{Pool, Shape, Tensor};

/// Up to which part of its range a straightened polynomial holds.
const HOLDS: f32 = 1.25;

/// Which values a run keeps.
#[derive(Clone, Copy, Debug)]
pub enum Keep<'a> {
    /// All, for the gradient.
    All,
    /// Results and these.
    Only(&'a [NodeId]),
}

impl Net {
    /// Runs the network on a batch. Running statistics move as `mode` says.
    pub fn forward(&mut self, input: Tensor, mode: Mode, keep: Keep<'_>, pool: &mut Pool) -> Tape {
        self.forward_blended(input, mode, keep, None, pool)
    }

    /// Runs the network on a batch, handing on blended values; the tape has these.
    pub fn forward_blended(
        &mut self,
        input: Tensor,
        mode: Mode,
        keep: Keep<'_>,
        mut blend: Option<&mut Blend>,
        pool: &mut Pool,
    ) -> Tape {
        let count = self.nodes.len();
        let mut tape = Tape { values: vec![None; count], saved: vec![Saved::None; count] };
        let last_use = self.last_uses();
        let batch = input.shape.n;
        tape.values[0] = Some(input);
        for id in 1..count {
            let mut y = pool.take(Shape { n: batch, ..self.nodes[id].shape });
            tape.saved[id] = self.node(id, &tape, mode, &mut y);
            if let Some(blend) = blend.as_deref_mut() {
                blend.mix(id, &mut y);
            }
            tape.values[id] = Some(y);
            let Keep::Only(kept) = keep else { continue };
            for &arg in &self.nodes[id].args {
                let done = last_use[arg] == Some(id) && !kept.contains(&arg);
                if done
                    && !self.outputs.iter().any(|(_, o)| *o == arg)
                    && let Some(value) = tape.values[arg].take()
                {
                    pool.give(value);
                }
            }
        }
        tape
    }

    fn last_uses(&self) -> Vec<Option<NodeId>> {
        let mut last = vec![None; self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            node.args.iter().for_each(|&a| last[a] = Some(id));
        }
        last
    }

    fn node(&mut self, id: NodeId, tape: &Tape, mode: Mode, y: &mut Tensor) -> Saved {
        let (node, params) = (&mut self.nodes[id], &self.params);
        let numbers = |p: usize| params[p].value.as_slice();
        let x = node.args.first().map(|&a| tape.value(a));
        let x = x.expect("every node but the input has an operand");
        match &mut node.op {
            Op::Input => {}
            Op::Conv { conv, weights, bias, .. } => {
                conv.forward(x, numbers(*weights), bias.map(numbers), y);
            }
            Op::BatchNorm { gamma, beta, running } if mode.norms == Statistics::Batch => {
                return Saved::BatchNorm(batch_norm::forward(x, numbers(*gamma), numbers(*beta), running, y));
            }
            Op::BatchNorm { gamma, beta, running } => {
                let (mul, add) = batch_norm::affine(running, numbers(*gamma), numbers(*beta));
                let single = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
                let mul = single(mul);
                batch_norm::apply(x, &mul, &single(add), y);
                return Saved::Affine(mul);
            }
            Op::Affine { mul, add } => batch_norm::apply(x, numbers(*mul), numbers(*add), y),
            Op::Activation(function) => {
                activation::forward(function, x, function.slopes().map_or(&[], |&p| numbers(p)), y);
            }
            Op::PolyAct(act) => {
                return Saved::PolyAct(polynomial(act, x, numbers(act.powers), mode.ranges, y));
            }
            Op::Poly { coefficients } => poly_act::evaluate(x, coefficients, y),
            Op::Add => elementwise::add(x, tape.value(node.args[1]), 1.0, y),
            Op::Sub => elementwise::add(x, tape.value(node.args[1]), -1.0, y),
            Op::Mul => elementwise::product(x, tape.value(node.args[1]), y),
            Op::Pool(window) => window.forward(x, y),
            Op::GlobalMean => shape::global_mean(x, y),
            Op::Pad(pads) => shape::pad(x, *pads, y),
            Op::Reshape { .. } => shape::reshape(x, y),
            Op::Separable(map) => map.forward(x, y),
        }
        Saved::None
    }
}

fn polynomial(
    act: &mut PolyAct,
    x: &Tensor,
    powers: &[f32],
    ranges: Ranges,
    y: &mut Tensor,
) -> poly_act::Saved {
    if ranges == Ranges::Batch {
        let saved = poly_act::forward(x, powers, y);
        act.follow(&saved.peaks);
        return saved;
    }
    let scales: Vec<f64> = act.max.iter().map(|m| poly_act::scale(*m)).collect();
    let coefficients = poly_act::fold(powers, &scales);
    let mut bounds = Vec::new();
    if ranges == Ranges::Straightened {
        bounds = act.max.iter().map(|m| m * HOLDS).collect();
        straight::evaluate(x, &coefficients, &bounds, y);
    } else {
        poly_act::evaluate(x, &coefficients, y);
    }
    poly_act::Saved { peaks: Vec::new(), scales, bounds }
}

impl PolyAct {
    /// Moves the running maxima; the first batch defines them.
    fn follow(&mut self, peaks: &[poly_act::Peak]) {
        match self.started {
            true => poly_act::track(&mut self.max, peaks),
            false => self.max = peaks.iter().map(|p| p.max).collect(),
        }
        self.started = true;
    }
}

impl Tape {
    /// Gives all memory back.
    pub fn recycle(self, pool: &mut Pool) {
        self.values.into_iter().flatten().for_each(|v| pool.give(v));
    }
}
