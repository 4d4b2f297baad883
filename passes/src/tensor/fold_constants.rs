//! Pass `fold-constants`: merges chains of affine, pad and reshape nodes and drops the neutral ones.
//!
//! Precondition: none. Postcondition: no ChannelAffine on a ChannelAffine, no Pad on a Pad, no Reshape on a Reshape; no
//! such node that changes nothing. Example: `affine(affine(x; 2, 1); 3, 0)` becomes `affine(x; 6, 3)`.

use peregrine_ir::tensor::{Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{ConstTensor, Node, ValueId};

use super::poly::ChannelPoly;
use super::rewrite::{Rewrite, rewrite_nodes};
use crate::error::PassError;
use crate::pass::{Changed, Pass};

/// The pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldConstants;

impl Pass<Tensor> for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        rewrite_nodes(graph, folded)
    }
}

/// The value of a node that merges with its operand or does nothing.
fn folded(rewrite: &mut Rewrite, node: &Node<Tensor>) -> Result<Option<ValueId>, PassError> {
    let Some(&old) = node.args.first() else { return Ok(None) };
    let operand = rewrite.value(old);
    let inner = rewrite.out.nodes[operand].clone();
    match (&node.op, &inner.op) {
        (TensorOp::ChannelAffine { .. }, _) => fold_affine(rewrite, node, operand, &inner),
        (TensorOp::Pad { pads }, _) if *pads == [0; 4] => Ok(Some(operand)),
        (TensorOp::Pad { pads }, TensorOp::Pad { pads: first }) => {
            let pads = std::array::from_fn(|i| pads[i] + first[i]);
            rewrite.push(TensorOp::Pad { pads }, &inner.args, &node.origin).map(Some)
        }
        (TensorOp::Reshape { shape }, _) if *shape == inner.ty.shape => Ok(Some(operand)),
        (TensorOp::Reshape { shape }, TensorOp::Reshape { .. }) => {
            let source = inner.args[0];
            if rewrite.out.nodes[source].ty.shape == *shape {
                return Ok(Some(source));
            }
            rewrite.push(TensorOp::Reshape { shape: shape.clone() }, &[source], &node.origin).map(Some)
        }
        _ => Ok(None),
    }
}

fn fold_affine(
    rewrite: &mut Rewrite,
    node: &Node<Tensor>,
    operand: ValueId,
    inner: &Node<Tensor>,
) -> Result<Option<ValueId>, PassError> {
    let Some(outer) = affine_of(rewrite, &node.op) else { return Ok(None) };
    if outer.is_identity() {
        return Ok(Some(operand));
    }
    let Some(first) = affine_of(rewrite, &inner.op) else { return Ok(None) };
    let both = outer.of(&first);
    if both.is_identity() {
        return Ok(Some(inner.args[0]));
    }
    let channels = both.rows();
    let [mul, add] =
        [1, 0].map(|k| rewrite.constant(ConstTensor::f64(vec![channels], both.column(k, channels))));
    rewrite.push(TensorOp::ChannelAffine { mul, add }, &inner.args, &node.origin).map(Some)
}

fn affine_of(rewrite: &Rewrite, op: &TensorOp) -> Option<ChannelPoly> {
    let consts = &rewrite.out.tables.consts;
    match op {
        TensorOp::ChannelAffine { mul, add } => {
            Some(ChannelPoly::affine(&consts[*mul].to_f64(), &consts[*add].to_f64()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::{Net, assert_same_outputs};

    #[test]
    fn chains_merge_and_neutral_nodes_go() {
        let mut net = Net::new(&[2, 3, 3]);
        let x = net.input;
        let a = net.affine(x, &[2.0, 4.0], &[1.0, -1.0]);
        let b = net.affine(a, &[3.0, 0.5], &[0.0, 7.0]);
        let c = net.affine(b, &[1.0, 1.0], &[0.0, 0.0]);
        let d = net.pad(c, [0, 0, 0, 0]);
        let e = net.pad(d, [1, 0, 0, 2]);
        let f = net.pad(e, [0, 1, 0, 0]);
        let g = net.reshape(f, &[1, 48]);
        let h = net.reshape(g, &[1, 2, 4, 6]);
        let mut graph = net.output(h);
        let before = graph.clone();
        FoldConstants.run(&mut graph).unwrap();
        assert_eq!(graph.nodes.len(), 3, "input, one affine, one pad: {graph:?}");
        assert_same_outputs(&before, &graph);
        assert_eq!(FoldConstants.run(&mut graph).unwrap(), Changed::No);
    }
}
