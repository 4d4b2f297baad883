//! The leveled graph of a placement: operands dropped to where operations run, exact scales, refreshes as nodes of their own.

use peregrine_ir::fhe::{CipherTy, FheGraph, FheOp, Stage};
use peregrine_ir::{BootstrapSpec, EntityId, Graph, Level, Scale, ValueId};

use super::chain_bits;
use super::rules::Choice;
use super::search::Placement;
use crate::fhe::LowerError;
use crate::fhe::level::{Leveler, poly_scale};

/// Rebuilds a packed graph as `placement` says.
///
/// # Errors
/// Only bugs: a placement that does not fit the specification.
pub fn rebuild(
    packed: &FheGraph,
    placement: &Placement,
    spec: &BootstrapSpec,
) -> Result<FheGraph, LowerError> {
    let mut tables = packed.tables.clone();
    tables.chain_bits = chain_bits(spec);
    tables.bootstrap = placement.refreshes().then(|| spec.clone());
    tables.stage = Stage::Leveled;
    let mut out = Leveler::new(Graph::new(packed.name.clone(), tables));
    let users = packed.users();
    let mut renamed: Vec<ValueId> = Vec::with_capacity(packed.nodes.len());
    for ((id, node), choice) in packed.nodes.iter().zip(&placement.choices) {
        let runs_at = Level(choice.runs_at);
        let args: Vec<ValueId> =
            node.args.iter().map(|arg| out.dropped(renamed[arg.index()], runs_at)).collect();
        let cipher = match &node.op {
            FheOp::Input { .. } => CipherTy {
                level: input_level(placement, &users[id.index()], choice),
                scale: Scale::pow2(choice.made.scale as i32),
            },
            FheOp::Poly(poly) => CipherTy {
                level: Level(choice.made.level),
                scale: poly_scale(*poly, out.scale(args[0]), runs_at),
            },
            FheOp::Linear { .. } | FheOp::Add | FheOp::Drop { .. } | FheOp::Bootstrap(_) => {
                CipherTy { level: Level(choice.made.level), scale: Scale::pow2(choice.made.scale as i32) }
            }
        };
        let made = out.add(node.op.clone(), args, node.ty.clone(), cipher, node.origin.clone());
        renamed.push(match choice.refresh {
            None => made,
            Some(form) => {
                let operand = out.dropped(made, spec.input_level());
                let (level, scale) =
                    form.result(spec).ok_or_else(|| LowerError::bug("a refresh without a usable level"))?;
                let cipher = CipherTy { level, scale };
                let op = FheOp::Bootstrap(form);
                out.add(op, vec![operand], node.ty.clone(), cipher, node.origin.clone())
            }
        });
    }
    for port in &packed.outputs {
        let mut port = port.clone();
        port.value = renamed[port.value.index()];
        out.graph.outputs.push(port);
    }
    Ok(out.graph)
}

/// Fresh ciphertexts are as high as their highest use.
fn input_level(placement: &Placement, users: &[ValueId], choice: &Choice) -> Level {
    let highest = users.iter().map(|user| placement.choices[user.index()].runs_at).max();
    Level(highest.unwrap_or(choice.held.level))
}
