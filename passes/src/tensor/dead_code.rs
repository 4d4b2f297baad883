//! Pass `dead-code`: removes nodes that no output needs and constants that no node names; equal constants become one.
//!
//! Precondition: none. Postcondition: every node but the inputs reaches an output; every constant is used, none twice.

use peregrine_ir::tensor::{Activation, Conv, Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{ConstId, ConstPool, EntityId};

use super::rewrite::Rewrite;
use crate::error::PassError;
use crate::pass::{Changed, Pass};

/// The pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeadCode;

impl Pass<Tensor> for DeadCode {
    fn name(&self) -> &'static str {
        "dead-code"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        let before = (graph.nodes.len(), graph.tables.consts.len());
        prune(graph);
        Ok(Changed::when(before != (graph.nodes.len(), graph.tables.consts.len())))
    }
}

/// Removes unused nodes and constants, and shares equal constants.
pub(crate) fn prune(graph: &mut TensorGraph) {
    let mut live = vec![false; graph.nodes.len()];
    for output in &graph.outputs {
        live[output.value.index()] = true;
    }
    for (id, node) in graph.nodes.iter().rev() {
        live[id.index()] |= matches!(node.op, TensorOp::Input { .. });
        if live[id.index()] {
            node.args.iter().for_each(|a| live[a.index()] = true);
        }
    }
    let mut rewrite = Rewrite::of(graph);
    for (id, node) in graph.nodes.iter().filter(|(id, _)| live[id.index()]) {
        rewrite.copy(id, node);
    }
    let mut pruned = rewrite.finish(graph);
    let old = std::mem::replace(&mut pruned.tables.consts, ConstPool::new());
    let mut renamed: Vec<Option<ConstId>> = vec![None; old.len()];
    for node in pruned.nodes.values_mut() {
        for id in constants_of(&mut node.op) {
            let new = match renamed[id.index()] {
                Some(new) => new,
                None => pruned.tables.consts.intern(old[*id].clone()),
            };
            renamed[id.index()] = Some(new);
            *id = new;
        }
    }
    *graph = pruned;
}

/// The constants that an operation names.
pub(crate) fn constants_of(op: &mut TensorOp) -> Vec<&mut ConstId> {
    match op {
        TensorOp::Conv(Conv { weights, bias, .. }) | TensorOp::FullyConnected { weights, bias } => {
            std::iter::once(weights).chain(bias.as_mut()).collect()
        }
        TensorOp::ChannelAffine { mul, add } => vec![mul, add],
        TensorOp::Activation(Activation::PRelu { slope }) => vec![slope],
        TensorOp::Poly { coefficients } => vec![coefficients],
        TensorOp::Input { .. }
        | TensorOp::Activation(
            Activation::Relu
            | Activation::LeakyRelu { .. }
            | Activation::Clip { .. }
            | Activation::Sigmoid
            | Activation::Silu
            | Activation::HardSigmoid { .. }
            | Activation::HardSwish
            | Activation::Gelu
            | Activation::GeluTanh
            | Activation::Softplus
            | Activation::Mish
            | Activation::Elu { .. }
            | Activation::Tanh,
        )
        | TensorOp::Add
        | TensorOp::Sub
        | TensorOp::Mul
        | TensorOp::Pool(_)
        | TensorOp::GlobalAveragePool
        | TensorOp::Pad { .. }
        | TensorOp::Reshape { .. }
        | TensorOp::Separable(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::{Net, assert_same_outputs};

    #[test]
    fn unused_nodes_and_constants_go_and_equal_ones_are_shared() {
        let mut net = Net::new(&[2, 4, 4]);
        let x = net.input;
        let kept = net.affine(x, &[2.0, 3.0], &[2.0, 3.0]);
        let _unused = net.relu(x);
        let mut graph = net.output(kept);
        let before = graph.clone();
        assert_eq!(DeadCode.run(&mut graph).unwrap(), Changed::Yes);
        assert_eq!((graph.nodes.len(), graph.tables.consts.len()), (2, 1));
        assert_same_outputs(&before, &graph);
        assert_eq!(DeadCode.run(&mut graph).unwrap(), Changed::No);
    }
}
