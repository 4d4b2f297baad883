//! Pass `products`: a product of two tensors becomes a difference of two squares,
//! `x y = ((x + r y)^2 - (x - r y)^2) / (4 r)`, which needs nothing but sums and polynomials of degree 2.
//!
//! Precondition: activations are polynomials. Postcondition: no Mul. The factor r is chosen per channel so that `x` and `r y`
//! have one range: then the squares are about as large as the product, and no precision is lost in their difference.
//!
//! Example: the gate of a squeeze-and-excitation block, a map times one number per channel.

use peregrine_ir::tensor::{Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{ConstTensor, Node, Origin, ValueId};

use super::interp::Batch;
use super::ranges;
use super::rewrite::{Rewrite, channel_conv, rewrite_nodes};
use crate::error::PassError;
use crate::pass::{Changed, Pass};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Products<'a> {
    /// Inputs that ranges are measured on; without them operands count as of one range.
    pub batch: Option<&'a Batch>,
}

impl Pass<Tensor> for Products<'_> {
    fn name(&self) -> &'static str {
        "products"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        if !graph.nodes.values().any(|node| matches!(node.op, TensorOp::Mul)) {
            return Ok(Changed::No);
        }
        let ranges = self.batch.map(|batch| ranges::measure(graph, batch)).transpose()?;
        rewrite_nodes(graph, |rewrite, node| match &node.op {
            TensorOp::Mul => {
                let ratio = ratios(node, ranges.as_deref(), rewrite);
                difference_of_squares(rewrite, node, &ratio).map(Some)
            }
            _ => Ok(None),
        })
    }
}

/// Range of the left operand over that of the right, per channel; 1 where one of them is nothing but zeros.
fn ratios(node: &Node<Tensor>, ranges: Option<&[Vec<f64>]>, rewrite: &Rewrite) -> Vec<f64> {
    let [left, right] = [0, 1].map(|i| node.args[i]);
    let Some(ranges) = ranges else {
        let channels = rewrite.out.nodes[rewrite.value(left)].ty.shape[1];
        return vec![1.0; channels];
    };
    let of = |value: ValueId| ranges[peregrine_ir::EntityId::index(value)].iter();
    let ratio = |(l, r): (&f64, &f64)| l / r;
    of(left).zip(of(right)).map(ratio).map(|r| if r.is_normal() { r } else { 1.0 }).collect()
}

fn difference_of_squares(
    rewrite: &mut Rewrite,
    node: &Node<Tensor>,
    ratio: &[f64],
) -> Result<ValueId, PassError> {
    let [left, right] = [0, 1].map(|i| rewrite.value(node.args[i]));
    let part = |rewrite: &mut Rewrite, sign: f64, name: &str| -> Result<ValueId, PassError> {
        let origin = Origin::new(&format!("{}/{name}", node.origin.as_str()));
        let factors: Vec<f64> = ratio.iter().map(|r| sign * r).collect();
        let scale = channel_conv(&mut rewrite.out, &factors, &vec![0.0; factors.len()]);
        let scaled = rewrite.push(TensorOp::Conv(scale), &[right], &origin)?;
        let sum = rewrite.push(TensorOp::Add, &[left, scaled], &origin)?;
        let rows: Vec<f64> = ratio.iter().flat_map(|r| [0.0, 0.0, sign / (4.0 * r)]).collect();
        let coefficients = rewrite.constant(ConstTensor::f64(vec![ratio.len(), 3], rows));
        rewrite.push(TensorOp::Poly { coefficients }, &[sum], &origin)
    };
    let plus = part(rewrite, 1.0, "plus")?;
    let minus = part(rewrite, -1.0, "minus")?;
    rewrite.push(TensorOp::Add, &[plus, minus], &node.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::{Net, assert_same_outputs, batch_for, op_names};

    #[test]
    fn products_are_differences_of_squares() {
        let mut net = Net::new(&[3, 4, 5]);
        let gate = net.affine(net.input, &[0.01, 0.02, -0.03], &[0.02, 0.0, 0.1]);
        let x = net.affine(net.input, &[30.0, 20.0, -1.0], &[1.0, 2.0, 3.0]);
        let y = net.add(TensorOp::Mul, &[x, gate]);
        let graph = net.output(y);
        let batch = batch_for(&graph);
        for batch in [Some(&batch), None] {
            let mut out = graph.clone();
            assert_eq!(Products { batch }.run(&mut out).unwrap(), Changed::Yes);
            assert!(!op_names(&out).contains(&"product"));
            assert_same_outputs(&graph, &out);
        }
    }

    #[test]
    fn squares_are_no_larger_than_four_products() {
        let mut net = Net::new(&[1, 4, 4]);
        let gate = net.affine(net.input, &[1e-3], &[0.0]);
        let x = net.affine(net.input, &[1e3], &[0.0]);
        let y = net.add(TensorOp::Mul, &[x, gate]);
        let graph = net.output(y);
        let batch = batch_for(&graph);
        let mut out = graph.clone();
        Products { batch: Some(&batch) }.run(&mut out).unwrap();
        let product = ranges::measure(&graph, &batch).unwrap()[y.0 as usize][0];
        let ranges = ranges::measure(&out, &batch).unwrap();
        for (id, _) in out.nodes.iter().filter(|(_, n)| matches!(n.op, TensorOp::Poly { .. })) {
            assert!(ranges[id.0 as usize][0] <= 4.0 * product);
        }
    }

    #[test]
    fn a_channel_of_zeros_has_a_product_too() {
        let mut net = Net::new(&[2, 2, 2]);
        let x = net.affine(net.input, &[0.0, 1.0], &[0.0, 0.0]);
        let y = net.add(TensorOp::Mul, &[x, net.input]);
        let graph = net.output(y);
        let batch = batch_for(&graph);
        let mut out = graph.clone();
        Products { batch: Some(&batch) }.run(&mut out).unwrap();
        assert_same_outputs(&graph, &out);
    }
}
