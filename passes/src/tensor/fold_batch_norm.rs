//! Pass `fold-batch-norm`: per-channel affine maps go into the linear op before them or, where that is exact, after them.
//!
//! Precondition: none. Postcondition: a ChannelAffine is left only where an operation between it and the nearest linear
//! ops forbids it: a value used elsewhere before it, and after it a non-linearity, a sum, or padding with zeros that an
//! offset would make wrong. On the way to the op after it, an affine map passes average pools (their windows average the
//! offset too), pads (without offset) and reshapes.
//!
//! Example: `fully_connected(reshape(global_average_pool(affine(relu(x)))))` keeps no affine map: it ends in the weights.

use peregrine_ir::tensor::{Conv, Pool, PoolKind, Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{ConstId, ConstTensor, EntityId, Node, Origin, ValueId};

use super::dead_code::prune;
use super::interp::channels_of;
use super::rewrite::{Rewrite, f32_const};
use crate::error::PassError;
use crate::pass::{Changed, Pass};

/// The pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldBatchNorm;

impl Pass<Tensor> for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold-batch-norm"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        let mut folder = Folder {
            graph,
            users: graph.users(),
            rewrite: Rewrite::of(graph),
            pending: vec![None; graph.nodes.len()],
        };
        for (id, node) in graph.nodes.iter() {
            folder.visit(id, node)?;
        }
        let mut next = folder.rewrite.finish(graph);
        prune(&mut next);
        let changed = Changed::when(next != *graph);
        *graph = next;
        Ok(changed)
    }
}

/// `y[c] = mul[c] x[c] + add[c]`.
#[derive(Clone, Debug, PartialEq)]
struct Affine {
    mul: Vec<f64>,
    add: Vec<f64>,
}

impl Affine {
    fn keeps_zero(&self) -> bool {
        self.add.iter().all(|&a| a == 0.0)
    }
    /// The same map after a reshape, if channels only split.
    fn reshaped(&self, from: &[usize], to: &[usize]) -> Option<Self> {
        let (old, new) = (channels_of(from).1.max(1), channels_of(to).1.max(1));
        if !old.is_multiple_of(new) {
            return None;
        }
        let repeat = |v: &[f64]| v.iter().flat_map(|&x| std::iter::repeat_n(x, old / new)).collect();
        Some(Self { mul: repeat(&self.mul), add: repeat(&self.add) })
    }
}

struct Folder<'g> {
    graph: &'g TensorGraph,
    users: Vec<Vec<ValueId>>,
    rewrite: Rewrite,
    /// An affine map that the new value of an old one still lacks; every user can take it over.
    pending: Vec<Option<Affine>>,
}

impl Folder<'_> {
    fn visit(&mut self, id: ValueId, node: &Node<Tensor>) -> Result<(), PassError> {
        if let TensorOp::ChannelAffine { mul, add } = node.op {
            let consts = &self.graph.tables.consts;
            let affine = Affine { mul: consts[mul].to_f64(), add: consts[add].to_f64() };
            return self.visit_affine(id, node, affine);
        }
        let Some(affine) = node.args.first().and_then(|a| self.pending[a.index()].clone()) else {
            self.rewrite.copy(id, node);
            return Ok(());
        };
        let input = self.rewrite.value(node.args[0]);
        let (op, left) = match &node.op {
            TensorOp::Conv(conv) => (TensorOp::Conv(self.conv_after(conv, &affine)), None),
            TensorOp::FullyConnected { weights, bias } => {
                let (weights, bias) = self.weights_after(*weights, *bias, 1, &affine);
                (TensorOp::FullyConnected { weights, bias }, None)
            }
            TensorOp::Reshape { shape } => {
                let from = &self.graph.nodes[node.args[0]].ty.shape;
                (node.op.clone(), affine.reshaped(from, shape))
            }
            _ => (node.op.clone(), Some(affine)),
        };
        let value = self.rewrite.push(op, &[input], &node.origin)?;
        match left {
            None => self.rewrite.set(id, value),
            Some(affine) => self.leave(id, value, affine, &node.origin)?,
        }
        Ok(())
    }

    fn visit_affine(&mut self, id: ValueId, node: &Node<Tensor>, affine: Affine) -> Result<(), PassError> {
        let old = node.args[0];
        let operand = self.rewrite.value(old);
        if let Some(first) = self.pending[old.index()].clone() {
            let mul = affine.mul.iter().zip(&first.mul).map(|(a, b)| a * b).collect();
            let add = (0..affine.add.len()).map(|c| affine.mul[c] * first.add[c] + affine.add[c]).collect();
            return self.leave(id, operand, Affine { mul, add }, &node.origin);
        }
        let sole_user = self.users[old.index()].len() == 1 && !self.graph.is_output(old);
        let producer = self.rewrite.out.nodes[operand].clone();
        let (weights, bias) = match &producer.op {
            TensorOp::Conv(conv) if sole_user => (conv.weights, conv.bias),
            TensorOp::FullyConnected { weights, bias } if sole_user => (*weights, *bias),
            _ => return self.leave(id, operand, affine, &node.origin),
        };
        let (weights, bias) = self.weights_before(weights, bias, &affine);
        let op = match producer.op {
            TensorOp::Conv(conv) => TensorOp::Conv(Conv { weights, bias, ..conv }),
            _ => TensorOp::FullyConnected { weights, bias },
        };
        let value = self.rewrite.push(op, &producer.args, &producer.origin)?;
        self.rewrite.set(id, value);
        Ok(())
    }

    /// Leaves `affine` to the users of old value `id` if all can take it, else makes it a node.
    fn leave(
        &mut self,
        id: ValueId,
        value: ValueId,
        affine: Affine,
        origin: &Origin,
    ) -> Result<(), PassError> {
        let users = &self.users[id.index()];
        let movable = !self.graph.is_output(id) && !users.is_empty();
        if movable && users.iter().all(|&user| self.takes(id, user, &affine)) {
            self.pending[id.index()] = Some(affine);
            self.rewrite.set(id, value);
            return Ok(());
        }
        let [mul, add] =
            [affine.mul, affine.add].map(|v| self.rewrite.constant(ConstTensor::f64(vec![v.len()], v)));
        let value = self.rewrite.push(TensorOp::ChannelAffine { mul, add }, &[value], origin)?;
        self.rewrite.set(id, value);
        Ok(())
    }

    /// Whether `user` can take over an affine map of its operand, or let it pass.
    fn takes(&self, operand: ValueId, user: ValueId, affine: &Affine) -> bool {
        let passes_zero = affine.keeps_zero();
        match &self.graph.nodes[user].op {
            TensorOp::Conv(conv) => passes_zero || conv.pads == [0; 4],
            TensorOp::FullyConnected { .. }
            | TensorOp::GlobalAveragePool
            | TensorOp::ChannelAffine { .. } => true,
            TensorOp::Pool(Pool { kind, pads, .. }) => match kind {
                PoolKind::AverageExcludePad => true,
                PoolKind::AverageIncludePad => passes_zero || *pads == [0; 4],
                PoolKind::Max => affine.mul.iter().all(|&m| m > 0.0),
            },
            TensorOp::Pad { .. } => passes_zero,
            TensorOp::Reshape { shape } => {
                affine.reshaped(&self.graph.nodes[operand].ty.shape, shape).is_some()
            }
            TensorOp::Input { .. }
            | TensorOp::Activation(_)
            | TensorOp::Poly { .. }
            | TensorOp::Add
            | TensorOp::Sub
            | TensorOp::Mul
            | TensorOp::Separable(_) => false,
        }
    }

    /// Weights and bias of a linear op (output channel first) followed by `affine`.
    fn weights_before(
        &mut self,
        weights: ConstId,
        bias: Option<ConstId>,
        affine: &Affine,
    ) -> (ConstId, Option<ConstId>) {
        let consts = &self.rewrite.out.tables.consts;
        let table = &consts[weights];
        let row = table.len() / affine.mul.len();
        let scaled: Vec<f64> = (0..table.len()).map(|i| table.at(i) * affine.mul[i / row]).collect();
        let bias: Vec<f64> = (0..affine.add.len())
            .map(|c| bias.map_or(0.0, |b| consts[b].at(c)) * affine.mul[c] + affine.add[c])
            .collect();
        let weights = f32_const(&table.shape, &scaled);
        (self.rewrite.constant(weights), Some(self.rewrite.constant(f32_const(&[bias.len()], &bias))))
    }

    fn conv_after(&mut self, conv: &Conv, affine: &Affine) -> Conv {
        let (weights, bias) = self.weights_after(conv.weights, conv.bias, conv.groups as usize, affine);
        Conv { weights, bias, ..conv.clone() }
    }

    /// Weights `[out, in / groups, taps..]` and bias of a linear op preceded by `affine`.
    fn weights_after(
        &mut self,
        weights: ConstId,
        bias: Option<ConstId>,
        groups: usize,
        affine: &Affine,
    ) -> (ConstId, Option<ConstId>) {
        let consts = &self.rewrite.out.tables.consts;
        let table = &consts[weights];
        let (outputs, inputs) = (table.shape[0], table.shape[1]);
        let taps = table.len() / (outputs * inputs);
        let mut sums: Vec<f64> = (0..outputs).map(|o| bias.map_or(0.0, |b| consts[b].at(o))).collect();
        let mut scaled = Vec::with_capacity(table.len());
        for i in 0..table.len() {
            let out = i / (inputs * taps);
            let channel = out / (outputs / groups) * inputs + i / taps % inputs;
            sums[out] += table.at(i) * affine.add[channel];
            scaled.push(table.at(i) * affine.mul[channel]);
        }
        let weights = f32_const(&table.shape, &scaled);
        (self.rewrite.constant(weights), Some(self.rewrite.constant(f32_const(&[outputs], &sums))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::{Net, assert_same_outputs, op_names};

    fn fold(graph: TensorGraph) -> TensorGraph {
        let mut folded = graph.clone();
        FoldBatchNorm.run(&mut folded).unwrap();
        assert_same_outputs(&graph, &folded);
        folded
    }

    #[test]
    fn into_the_convolution_before() {
        let mut net = Net::new(&[4, 6, 6]);
        let a = net.conv(net.input, 6, 3, 1, [1, 1, 1, 1], 2);
        let b = net.batch_norm(a);
        let c = net.relu(b);
        assert_eq!(op_names(&fold(net.output(c))), ["input", "convolution", "activation"]);
    }

    #[test]
    fn into_the_convolutions_after_when_unpadded() {
        let mut net = Net::new(&[4, 6, 6]);
        let a = net.relu(net.input);
        let b = net.batch_norm(a);
        let c = net.conv(b, 6, 3, 1, [0; 4], 2);
        let d = net.conv(b, 6, 3, 1, [0; 4], 1);
        let e = net.add(TensorOp::Add, &[c, d]);
        let names = op_names(&fold(net.output(e))).join(" ");
        assert_eq!(names, "input activation convolution convolution sum");
    }

    #[test]
    fn an_offset_stays_before_a_padded_convolution() {
        let mut net = Net::new(&[2, 4, 4]);
        let a = net.relu(net.input);
        let b = net.batch_norm(a);
        let c = net.conv(b, 3, 3, 1, [1, 0, 0, 1], 1);
        assert!(op_names(&fold(net.output(c))).contains(&"per-channel affine map"));
    }

    #[test]
    fn a_factor_alone_passes_pad_and_padded_convolution() {
        let mut net = Net::new(&[2, 4, 4]);
        let a = net.relu(net.input);
        let b = net.affine(a, &[0.5, -2.0], &[0.0, 0.0]);
        let c = net.pad(b, [1, 0, 0, 1]);
        let d = net.conv(c, 3, 3, 1, [1, 0, 0, 1], 1);
        assert!(!op_names(&fold(net.output(d))).contains(&"per-channel affine map"));
    }

    #[test]
    fn through_pool_and_flatten_into_the_fully_connected_layer() {
        let mut net = Net::new(&[3, 6, 6]);
        let a = net.relu(net.input);
        let b = net.batch_norm(a);
        let c = net.pool(b, PoolKind::AverageExcludePad, 3, 2, [1, 1, 1, 1]);
        let d = net.reshape(c, &[1, 27]);
        let e = net.batch_norm(d);
        let f = net.fully_connected(e, 5);
        let g = net.batch_norm(f);
        let names = op_names(&fold(net.output(g))).join(" ");
        assert_eq!(names, "input activation pool reshape fully connected layer");
    }

    #[test]
    fn a_value_used_before_its_batch_norm_keeps_it() {
        let mut net = Net::new(&[2, 4, 4]);
        let a = net.conv(net.input, 2, 1, 1, [0; 4], 1);
        let b = net.batch_norm(a);
        let c = net.relu(b);
        let d = net.add(TensorOp::Add, &[a, c]);
        assert!(op_names(&fold(net.output(d))).contains(&"per-channel affine map"));
    }
}
