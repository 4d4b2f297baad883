//! What packing refuses: the layer, what it is, and the way out.

use peregrine_ir::tensor::{Tensor, TensorOp};
use peregrine_ir::{AxisError, Node};

use super::LowerError;

/// A chain of movements that no separable map holds.
pub(super) fn too_large(node: &Node<Tensor>, error: &AxisError) -> LowerError {
    LowerError::Unsupported {
        layer: node.origin.as_str().to_owned(),
        what: format!("a chain of slices, pads and resizes: {error}"),
        way_out: "shorten the chain or resize by smaller factors".to_owned(),
    }
}

/// An operation that ciphertexts have none for.
pub(super) fn unsupported(node: &Node<Tensor>, op: &TensorOp) -> LowerError {
    let (what, way_out) = match op {
        TensorOp::Activation(kind) => (
            format!("activation {kind:?} is no polynomial"),
            "give --calibrate, so that it can be fitted".to_owned(),
        ),
        TensorOp::Pool(pool) => (
            format!("pooling {:?} with kernel {:?} and padding {:?}", pool.kind, pool.kernel, pool.pads),
            "use average pooling without padding".to_owned(),
        ),
        TensorOp::Mul => {
            ("a product of two encrypted tensors".to_owned(), "only squares x*x are supported".to_owned())
        }
        other => (
            format!("operation {} on encrypted values", op_name(other)),
            "move it to the end of the model (it then runs on the client) or remove it".to_owned(),
        ),
    };
    LowerError::Unsupported { layer: node.origin.as_str().to_owned(), what, way_out }
}

fn op_name(op: &TensorOp) -> &'static str {
    match op {
        TensorOp::Input { .. } => "Input",
        TensorOp::Conv(_) => "Conv",
        TensorOp::FullyConnected { .. } => "FullyConnected",
        TensorOp::ChannelAffine { .. } => "ChannelAffine",
        TensorOp::Activation(_) => "Activation",
        TensorOp::Poly { .. } => "Poly",
        TensorOp::Add => "Add",
        TensorOp::Sub => "Sub",
        TensorOp::Mul => "Mul",
        TensorOp::Pool(_) => "Pool",
        TensorOp::GlobalAveragePool => "GlobalAveragePool",
        TensorOp::Pad { .. } => "Pad",
        TensorOp::Reshape { .. } => "Reshape",
        TensorOp::Separable(_) => "Separable",
    }
}
