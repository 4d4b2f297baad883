//! Gradients of a run.

use super::{Blend, Net, NodeId, Op, Role, Saved, Tape};
use crate::ops::{activation, batch_norm, conv, elementwise, poly_act, shape};
use crate::penalty::RangePenalty;
use crate::tensor::{Pool, Tensor};

/// Gradients on their way back, one slot per node.
struct Slots(Vec<Option<Tensor>>);

impl Slots {
    fn add(&mut self, id: NodeId, grad: Tensor, pool: &mut Pool) {
        match &mut self.0[id] {
            Some(sum) => {
                elementwise::accumulate(sum, &grad, 1.0);
                pool.give(grad);
            }
            empty => *empty = Some(grad),
        }
    }
}

impl Net {
    /// Adds the parameters' gradients, given those of some values (results, or values whose features are compared).
    /// The run's `blend`, if it had one, adds its own losses. Returns each image's part of the range penalty.
    pub fn backward(
        &mut self,
        tape: &Tape,
        seeds: Vec<(NodeId, Tensor)>,
        penalty: Option<&RangePenalty>,
        blend: Option<&Blend>,
        pool: &mut Pool,
    ) -> Vec<f64> {
        let wanted = self.wanted();
        let mut slots = Slots(vec![None; self.nodes.len()]);
        for (id, grad) in seeds {
            slots.add(id, grad, pool);
        }
        let mut costs = vec![0.0; tape.value(0).shape.n];
        let mut penalty = penalty.map(|p| (p, costs.as_mut_slice()));
        for id in (1..self.nodes.len()).rev() {
            let mut grad = slots.0[id].take();
            if let Some(blend) = blend {
                grad = blend.gradient(id, grad, pool);
            }
            let Some(grad) = grad else { continue };
            if !wanted[id] {
                pool.give(grad);
                continue;
            }
            let is_wanted = |arg: NodeId| wanted[arg];
            self.node_backward(id, tape, grad, &is_wanted, &mut penalty, &mut slots, pool);
        }
        slots.0.into_iter().flatten().for_each(|g| pool.give(g));
        costs
    }

    /// Whether a value depends on a trained parameter.
    fn wanted(&self) -> Vec<bool> {
        let mut wanted = vec![false; self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            let own = self.params_of(id).iter().any(|&p| self.params[p].role != Role::Frozen);
            wanted[id] = own || node.args.iter().any(|&a| wanted[a]);
        }
        wanted
    }

    fn params_of(&self, id: NodeId) -> Vec<usize> {
        match &self.nodes[id].op {
            Op::Conv { weights, bias, .. } => std::iter::once(*weights).chain(*bias).collect(),
            Op::BatchNorm { gamma, beta, .. } => vec![*gamma, *beta],
            Op::Affine { mul, add } => vec![*mul, *add],
            Op::Activation(function) => function.slopes().copied().into_iter().collect(),
            Op::PolyAct(act) => vec![act.powers],
            Op::Input
            | Op::Poly { .. }
            | Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Pool(_)
            | Op::GlobalMean
            | Op::Pad(_)
            | Op::Reshape { .. }
            | Op::Separable(_) => Vec::new(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one walk, used here only")]
    fn node_backward(
        &mut self,
        id: NodeId,
        tape: &Tape,
        mut grad: Tensor,
        wanted: &dyn Fn(NodeId) -> bool,
        penalty: &mut Option<(&RangePenalty, &mut [f64])>,
        slots: &mut Slots,
        pool: &mut Pool,
    ) {
        let (node, params) = (&self.nodes[id], &mut self.params);
        let args = node.args.clone();
        let x = tape.value(args[0]);
        match &node.op {
            Op::Input => {}
            Op::Conv { conv, weights, bias, .. } => {
                if params[*weights].role != Role::Frozen {
                    conv.weight_grad(x, &grad, &mut params[*weights].grad);
                }
                if let Some(bias) = bias {
                    conv::bias_grad(&grad, &mut params[*bias].grad);
                }
                if wanted(args[0]) {
                    let mut dx = pool.take(x.shape);
                    conv.input_grad(&grad, &params[*weights].value, &mut dx);
                    slots.add(args[0], dx, pool);
                }
                pool.give(grad);
                return;
            }
            Op::BatchNorm { gamma, beta, running } => {
                let factors = params[*gamma].value.clone();
                let mut grads = [vec![0.0; factors.len()], vec![0.0; factors.len()]];
                match &tape.saved[id] {
                    Saved::BatchNorm(saved) => {
                        batch_norm::backward(x, saved, &factors, &mut grad, two(&mut grads));
                    }
                    Saved::Affine(mul) => {
                        batch_norm::apply_backward(x, mul, &mut grad, two(&mut grads));
                        let [dgamma, dbeta] = &mut grads;
                        for c in 0..factors.len() {
                            let inverse = 1.0 / (running.variance[c] + running.epsilon).sqrt();
                            dgamma[c] = (dgamma[c] - running.mean[c] * dbeta[c]) * inverse;
                        }
                    }
                    Saved::None | Saved::PolyAct(_) => {}
                }
                add(&mut params[*gamma].grad, &grads[0]);
                add(&mut params[*beta].grad, &grads[1]);
            }
            Op::Affine { mul, add: offset } => {
                let factors = params[*mul].value.clone();
                let mut grads = [vec![0.0; factors.len()], vec![0.0; factors.len()]];
                batch_norm::apply_backward(x, &factors, &mut grad, two(&mut grads));
                add(&mut params[*mul].grad, &grads[0]);
                add(&mut params[*offset].grad, &grads[1]);
            }
            Op::Activation(function) => {
                let slopes = function.slopes().map_or(&[][..], |&p| &params[p].value);
                activation::backward(function, x, slopes, &mut grad);
            }
            Op::PolyAct(act) => {
                let Saved::PolyAct(saved) = &tape.saved[id] else { return };
                let powers = params[act.powers].value.clone();
                if params[act.powers].role != Role::Frozen {
                    poly_act::powers_grad(x, saved, &grad, &mut params[act.powers].grad);
                }
                poly_act::backward(x, &powers, saved, &mut grad);
                if let Some((penalty, costs)) = penalty {
                    penalty.add(x, &act.max, &mut grad, costs);
                }
            }
            Op::Poly { coefficients } => {
                poly_act::evaluate_backward(x, coefficients, &mut grad);
            }
            Op::Add | Op::Sub => {
                if wanted(args[1]) {
                    let mut other = pool.copy(&grad);
                    if matches!(node.op, Op::Sub) {
                        other.data.iter_mut().for_each(|g| *g = -*g);
                    }
                    slots.add(args[1], other, pool);
                }
            }
            Op::Mul => {
                let mut other = pool.copy(&grad);
                elementwise::multiply(&mut other, x);
                elementwise::multiply(&mut grad, tape.value(args[1]));
                slots.add(args[1], other, pool);
            }
            Op::Pool(_) | Op::GlobalMean | Op::Pad(_) | Op::Reshape { .. } | Op::Separable(_) => {
                let mut dx = pool.take(x.shape);
                place_backward(&node.op, x, &grad, &mut dx);
                pool.give(std::mem::replace(&mut grad, dx));
            }
        }
        match wanted(args[0]) {
            true => slots.add(args[0], grad, pool),
            false => pool.give(grad),
        }
    }
}

/// Gradients of operations without parameters whose operand has another shape.
fn place_backward(op: &Op, x: &Tensor, grad: &Tensor, dx: &mut Tensor) {
    match op {
        Op::Pool(window) => window.backward(x, grad, dx),
        Op::GlobalMean => shape::global_mean_backward(grad, dx),
        Op::Pad(pads) => shape::pad_backward(grad, *pads, dx),
        Op::Reshape { .. } => shape::reshape(grad, dx),
        Op::Separable(map) => map.backward(grad, dx),
        Op::Input
        | Op::Conv { .. }
        | Op::BatchNorm { .. }
        | Op::Affine { .. }
        | Op::Activation(_)
        | Op::PolyAct(_)
        | Op::Poly { .. }
        | Op::Add
        | Op::Sub
        | Op::Mul => {}
    }
}

fn two(grads: &mut [Vec<f32>; 2]) -> [&mut [f32]; 2] {
    grads.each_mut().map(Vec::as_mut_slice)
}

fn add(sum: &mut [f32], part: &[f32]) {
    sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
}
