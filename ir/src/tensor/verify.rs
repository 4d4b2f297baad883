//! Verifier of the tensor level.
//!
//! Rules:
//! 1. every operand is defined before its use, every result exists, names of inputs and of results are unique, there is a
//!    result;
//! 2. constants hold as many numbers as their shapes say, all finite;
//! 3. each stated type is the one that [`infer`](super::infer) gives; an input has batch 1 and no zero extent;
//! 4. the stage admits the operation. From [`Stage::Canonical`]: inputs, convolutions, fully connected layers, pools,
//!    activations, polynomials, additions, separable maps and flattening reshapes (`[1, F]` or `[1, F, 1, 1]`). From
//!    [`Stage::Polynomial`]: neither activations nor maximum pools.

use super::infer::check_shape;
use super::{PoolKind, Stage, TensorGraph, TensorOp, TensorTy, TypeError, infer};
use crate::verify::{
    AnyStage, Collector, IrLevel, Problem, Site, VerifyErrors, check_consts, check_structure,
};

/// Checks every rule of the level.
///
/// # Errors
/// [`VerifyErrors`] lists every broken rule with its place.
pub fn verify(graph: &TensorGraph) -> Result<(), VerifyErrors> {
    let mut out = Collector::new(IrLevel::Tensor);
    check_structure(graph, input_name, &mut out);
    check_consts(&graph.tables.consts, &mut out);
    let structured = out.is_clean();
    for (id, node) in graph.nodes.iter() {
        let site = || Site::Node { value: id, origin: node.origin.clone() };
        if !admits(graph.tables.stage, &node.op) {
            let stage = AnyStage::Tensor(graph.tables.stage);
            out.report(site(), Problem::StageForbids { op: node.op.mnemonic(), stage });
        }
        if !structured {
            continue;
        }
        let args: Vec<&TensorTy> = node.args.iter().map(|&arg| &graph.nodes[arg].ty).collect();
        match infer(&node.op, &args, &graph.tables.consts) {
            Ok(inferred) if inferred == node.ty => {}
            Ok(inferred) => {
                out.report(site(), Problem::TypeMismatch { stated: node.ty.clone(), inferred });
            }
            Err(TypeError::Input) => {
                if let Err(error) = check_shape(&node.ty) {
                    out.report(site(), error.into());
                }
            }
            Err(error) => out.report(site(), error.into()),
        }
    }
    out.finish()
}

fn input_name(op: &TensorOp) -> Option<&str> {
    match op {
        TensorOp::Input { name } => Some(name),
        _ => None,
    }
}

fn admits(stage: Stage, op: &TensorOp) -> bool {
    match op {
        TensorOp::Input { .. }
        | TensorOp::Conv(_)
        | TensorOp::FullyConnected { .. }
        | TensorOp::Poly { .. }
        | TensorOp::Add
        | TensorOp::GlobalAveragePool
        | TensorOp::Separable(_) => true,
        TensorOp::Activation(_) | TensorOp::Mul => stage < Stage::Polynomial,
        TensorOp::Pool(pool) => match pool.kind {
            PoolKind::AverageExcludePad | PoolKind::AverageIncludePad => true,
            PoolKind::Max => stage < Stage::Polynomial,
        },
        TensorOp::Reshape { shape } => stage < Stage::Canonical || matches!(shape[..], [1, _] | [1, _, 1, 1]),
        TensorOp::ChannelAffine { .. } | TensorOp::Sub | TensorOp::Pad { .. } => stage < Stage::Canonical,
    }
}
