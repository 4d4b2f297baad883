//! Pass `fold-polynomials`: expressions in one tensor become one polynomial of it, bottom up.
//!
//! Precondition: none. Postcondition: a value that sums, products, affine maps and polynomials compute from one tensor alone
//! is a Poly (or ChannelAffine) of it, of degree at most 8; an affine map that alone reads a layer stays. Example: `c0 + 0.5 x + c2 (x x)` is one polynomial of degree 2.
//!
//! The pass `algebra` would find the same, and more, but pays for every order in which the parts can be merged.

use peregrine_ir::tensor::{Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{ConstTensor, EntityId, Node, ValueId};

use super::dead_code::prune;
use super::poly::ChannelPoly;
use super::rewrite::Rewrite;
use crate::error::{DEGREES, PassError};
use crate::pass::{Changed, Pass};

/// The pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldPolynomials;

impl Pass<Tensor> for FoldPolynomials {
    fn name(&self) -> &'static str {
        "fold-polynomials"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        let users = graph.users();
        let mut forms: Vec<Form> = Vec::with_capacity(graph.nodes.len());
        let mut rewrite = Rewrite::of(graph);
        for (id, node) in graph.nodes.iter() {
            let form = form(graph, &users, &forms, id, node);
            match &form {
                Some(form) if !is_written_so(graph, form, node) => {
                    let channels = node.ty.shape.get(1).copied().unwrap_or(1);
                    let value = emit(&mut rewrite, form, channels, node)?;
                    rewrite.set(id, value);
                }
                _ => {
                    rewrite.copy(id, node);
                }
            }
            forms.push(form.unwrap_or(Form { base: id, poly: ChannelPoly::identity() }));
        }
        let mut next = rewrite.finish(graph);
        prune(&mut next);
        let changed = Changed::when(next != *graph);
        *graph = next;
        Ok(changed)
    }
}

/// A value as a polynomial of another one.
#[derive(Clone, Debug)]
struct Form {
    base: ValueId,
    poly: ChannelPoly,
}

/// Whether a value is no polynomial of an earlier one.
fn is_base(forms: &[Form], value: ValueId) -> bool {
    forms[value.index()].base == value
}

fn bounded(form: Form) -> Option<Form> {
    (form.poly.degree() <= DEGREES.1 as usize).then_some(form)
}

/// The form of a node that is a polynomial of an earlier value.
fn form(
    graph: &TensorGraph,
    users: &[Vec<ValueId>],
    forms: &[Form],
    id: ValueId,
    node: &Node<Tensor>,
) -> Option<Form> {
    let consts = &graph.tables.consts;
    let of = |outer: ChannelPoly| {
        let operand = &forms[node.args[0].index()];
        let deep = bounded(Form { base: operand.base, poly: outer.of(&operand.poly) });
        Some(deep.unwrap_or(Form { base: node.args[0], poly: outer }))
    };
    let joined = |join: &dyn Fn(&ChannelPoly, &ChannelPoly) -> ChannelPoly| {
        let (a, b) = (&forms[node.args[0].index()], &forms[node.args[1].index()]);
        if a.base == b.base
            && let Some(form) = bounded(Form { base: a.base, poly: join(&a.poly, &b.poly) })
        {
            return Some(form);
        }
        let same = node.args[0] == node.args[1];
        let x = ChannelPoly::identity();
        same.then(|| Form { base: node.args[0], poly: join(&x, &x) })
    };
    debug_assert_eq!(forms.len(), id.index());
    match &node.op {
        // A batch norm, which folds into the layer before.
        TensorOp::ChannelAffine { .. }
            if users[node.args[0].index()].len() == 1 && is_base(forms, node.args[0]) =>
        {
            None
        }
        TensorOp::ChannelAffine { mul, add } => {
            of(ChannelPoly::affine(&consts[*mul].to_f64(), &consts[*add].to_f64()))
        }
        TensorOp::Poly { coefficients } => of(ChannelPoly::from_const(&consts[*coefficients])),
        TensorOp::Add => joined(&ChannelPoly::plus),
        TensorOp::Sub => joined(&|a, b| a.plus(&ChannelPoly::affine(&[-1.0], &[0.0]).of(b))),
        TensorOp::Mul => joined(&ChannelPoly::times),
        TensorOp::Input { .. }
        | TensorOp::Conv(_)
        | TensorOp::FullyConnected { .. }
        | TensorOp::Activation(_)
        | TensorOp::Pool(_)
        | TensorOp::GlobalAveragePool
        | TensorOp::Pad { .. }
        | TensorOp::Reshape { .. }
        | TensorOp::Separable(_) => None,
    }
}

/// Whether the node is that very polynomial of its operand already.
fn is_written_so(graph: &TensorGraph, form: &Form, node: &Node<Tensor>) -> bool {
    let consts = &graph.tables.consts;
    node.args.first() == Some(&form.base)
        && match &node.op {
            TensorOp::ChannelAffine { .. } => true,
            TensorOp::Poly { coefficients } => ChannelPoly::from_const(&consts[*coefficients]) == form.poly,
            _ => false,
        }
}

fn emit(
    rewrite: &mut Rewrite,
    form: &Form,
    channels: usize,
    node: &Node<Tensor>,
) -> Result<ValueId, PassError> {
    let base = rewrite.value(form.base);
    if form.poly.is_identity() {
        return Ok(base);
    }
    let op = match form.poly.degree() {
        1 => {
            let [mul, add] = [1, 0]
                .map(|k| rewrite.constant(ConstTensor::f64(vec![channels], form.poly.column(k, channels))));
            TensorOp::ChannelAffine { mul, add }
        }
        _ => TensorOp::Poly { coefficients: rewrite.constant(form.poly.to_const()) },
    };
    rewrite.push(op, &[base], &node.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::{Net, assert_same_outputs, op_names};

    fn fold(graph: TensorGraph) -> TensorGraph {
        let mut out = graph.clone();
        FoldPolynomials.run(&mut out).unwrap();
        assert_same_outputs(&graph, &out);
        out
    }

    #[test]
    fn an_activation_in_plain_operations_is_one_polynomial() {
        let mut net = Net::new(&[2, 3, 3]);
        let x = net.relu(net.input);
        let square = net.add(TensorOp::Mul, &[x, x]);
        let scaled = net.affine(square, &[0.25, 0.5], &[1.0, -1.0]);
        let half = net.affine(x, &[0.5, 0.5], &[0.0, 0.0]);
        let sum = net.add(TensorOp::Add, &[scaled, half]);
        let fourth = net.add(TensorOp::Mul, &[square, square]);
        let all = net.add(TensorOp::Sub, &[sum, fourth]);
        assert_eq!(op_names(&fold(net.output(all))), ["input", "activation", "polynomial"]);
    }

    #[test]
    fn sums_of_two_tensors_stay() {
        let mut net = Net::new(&[2, 3, 3]);
        let x = net.relu(net.input);
        let y = net.conv(x, 2, 3, 1, [1; 4], 1);
        let sum = net.add(TensorOp::Add, &[x, y]);
        let square = net.add(TensorOp::Mul, &[sum, sum]);
        let names = ["input", "activation", "convolution", "sum", "polynomial"];
        assert_eq!(op_names(&fold(net.output(square))), names);
    }

    #[test]
    fn degrees_past_the_limit_start_anew() {
        let mut net = Net::new(&[1, 2, 2]);
        let mut x = net.input;
        for _ in 0..4 {
            x = net.add(TensorOp::Mul, &[x, x]);
        }
        assert_eq!(op_names(&fold(net.output(x))), ["input", "polynomial", "polynomial"]);
    }
}
