//! Passes `check-canonical` and `check-polynomial`: they change nothing, they report everything left that has no encrypted
//! form, all at once, by ONNX node name and with the way out.
//!
//! Precondition: none. Postcondition of `check-canonical`: only Input, Conv, Activation, Poly, Add, Mul, Separable, and Reshape
//! just before an output. Postcondition of `check-polynomial`: the same without Activation and Mul.

use peregrine_ir::tensor::{PoolKind, Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{EntityId, Node, ValueId};

use crate::error::{PassError, Unsupported};
use crate::pass::{Changed, Pass};

/// The pass that ends the canonical stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckCanonical;

/// The pass that ends the polynomial stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckPolynomial;

impl Pass<Tensor> for CheckCanonical {
    fn name(&self) -> &'static str {
        "check-canonical"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Canonical
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        report(graph, Stage::Canonical)
    }
}

impl Pass<Tensor> for CheckPolynomial {
    fn name(&self) -> &'static str {
        "check-polynomial"
    }
    fn requires(&self) -> Stage {
        Stage::Canonical
    }
    fn establishes(&self) -> Stage {
        Stage::Polynomial
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        report(graph, Stage::Polynomial)
    }
}

fn report(graph: &TensorGraph, stage: Stage) -> Result<Changed, PassError> {
    let users = graph.users();
    let problems: Vec<Unsupported> =
        graph.nodes.iter().filter_map(|(id, node)| problem(graph, node, &users[id.index()], stage)).collect();
    if problems.is_empty() { Ok(Changed::No) } else { Err(PassError::Unsupported(problems)) }
}

fn problem(graph: &TensorGraph, node: &Node<Tensor>, users: &[ValueId], stage: Stage) -> Option<Unsupported> {
    let shapes: Vec<_> = node.args.iter().map(|&a| graph.nodes[a].ty.shape.clone()).collect();
    let (what, remedy) = match &node.op {
        TensorOp::Input { .. } if node.ty.shape.len() == 4 => return None,
        TensorOp::Input { .. } => (
            format!("an encrypted input of shape {:?}", node.ty.shape),
            "give the model an input [1, C, H, W] (a feature vector as [1, F, 1, 1])",
        ),
        TensorOp::Conv(_) | TensorOp::Poly { .. } | TensorOp::Add | TensorOp::Separable(_) => return None,
        TensorOp::Activation(_) if stage < Stage::Polynomial => return None,
        TensorOp::Mul if stage < Stage::Polynomial && node.ty.shape.len() == 4 => return None,
        TensorOp::Activation(op) => (
            format!("the activation {op:?} is no polynomial"),
            "compile with --activations fit and --calibrate",
        ),
        TensorOp::Reshape { .. } if users.is_empty() => return None,
        TensorOp::Reshape { shape } => (
            format!("a reshape from {:?} to {shape:?} in the middle of the model", shapes[0]),
            "only flattening before a fully connected layer can be encrypted; remove the others",
        ),
        TensorOp::Pool(op) if op.kind == PoolKind::Max => (
            "a maximum of encrypted numbers".to_owned(),
            "compile with --maxpool avg, which changes the answers, or give a model tuned with average pools",
        ),
        TensorOp::Pool(op) => (
            format!("an average pool whose windows hold different numbers of pixels (padding {:?})", op.pads),
            "use count_include_pad=1, or no padding",
        ),
        TensorOp::Mul => (
            format!("a product of two encrypted tensors of shapes {shapes:?}"),
            "multiply maps [1, C, H, W] only, or remove the gate",
        ),
        TensorOp::FullyConnected { .. }
        | TensorOp::ChannelAffine { .. }
        | TensorOp::Sub
        | TensorOp::GlobalAveragePool
        | TensorOp::Pad { .. } => (
            format!("{} on operands of shapes {shapes:?}", op_name(&node.op)),
            "per-feature constants after a flatten have no encrypted form; move the layer before the flatten",
        ),
    };
    Some(Unsupported { layer: node.origin.as_str().to_owned(), what, remedy })
}

/// Name of an operation, for messages.
pub(crate) fn op_name(op: &TensorOp) -> &'static str {
    match op {
        TensorOp::Input { .. } => "input",
        TensorOp::Conv(_) => "convolution",
        TensorOp::FullyConnected { .. } => "fully connected layer",
        TensorOp::ChannelAffine { .. } => "per-channel affine map",
        TensorOp::Activation(_) => "activation",
        TensorOp::Poly { .. } => "polynomial",
        TensorOp::Add => "sum",
        TensorOp::Sub => "difference",
        TensorOp::Mul => "product",
        TensorOp::Pool(_) => "pool",
        TensorOp::GlobalAveragePool => "global average pool",
        TensorOp::Pad { .. } => "pad",
        TensorOp::Reshape { .. } => "reshape",
        TensorOp::Separable(_) => "separable map",
    }
}
