use peregrine_ir::EntityId;
use peregrine_ir::tensor::{Stage, Tensor, TensorGraph, TensorOp};

use super::*;
use crate::tensor::check::CheckPolynomial;
use crate::tensor::dead_code::DeadCode;
use crate::tensor::testing::Net;

/// A pass that breaks the graph.
struct Vandal;

impl Pass<Tensor> for Vandal {
    fn name(&self) -> &'static str {
        "vandal"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        for node in graph.nodes.values_mut() {
            node.ty.shape[1] += 1;
        }
        Ok(Changed::Yes)
    }
}

fn graph() -> TensorGraph {
    let mut net = Net::new(&[2, 3, 3]);
    let y = net.conv(net.input, 2, 1, 1, [0; 4], 1);
    net.output(y)
}

#[test]
fn a_pass_on_too_early_a_stage_is_refused() {
    let error = PassManager::new(Verification::EachPass).run(&mut CheckPolynomial, &mut graph()).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, PassError::Stage { .. })
            && text.contains("check-polynomial")
            && text.contains("imported")
    );
}

#[test]
fn a_broken_graph_names_the_pass_that_broke_it() {
    for verification in [Verification::EachPass, Verification::AtEnd] {
        let mut manager = PassManager::new(verification);
        let error = manager.run_all(&mut [&mut Vandal], &mut graph()).unwrap_err();
        assert!(matches!(error, PassError::Invalid { pass: "vandal", .. }), "{error}");
    }
}

#[test]
fn the_hook_sees_every_graph_and_records_say_what_happened() {
    let mut seen = Vec::new();
    let mut hook = |pass: &'static str, graph: &TensorGraph| seen.push((pass, graph.nodes.len()));
    let mut net = Net::new(&[2, 3, 3]);
    let _unused = net.relu(net.input);
    let mut graph = {
        let y = net.conv(net.input, 2, 1, 1, [0; 4], 1);
        net.output(y)
    };
    let mut manager = PassManager::new(Verification::EachPass).with_dump(&mut hook);
    manager.run_all(&mut [&mut DeadCode, &mut DeadCode], &mut graph).unwrap();
    let changes: Vec<_> = manager.records().iter().map(|r| (r.changed, r.nodes)).collect();
    assert_eq!(changes, [(Changed::Yes, 2), (Changed::No, 2)]);
    assert_eq!(seen, [("dead-code", 2), ("dead-code", 2)]);
    assert!(matches!(graph.nodes[peregrine_ir::ValueId::new(1)].op, TensorOp::Conv(_)));
}
