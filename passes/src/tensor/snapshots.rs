//! The printed text of a small network after each pass.

use peregrine_ir::tensor::{PoolKind, TensorGraph, TensorOp};
use peregrine_ir::text::print_tensor;

use super::fit::{FitOptions, fit_activations};
use super::testing::{Net, assert_same_outputs, batch_for};
use super::{canonical, polynomial};
use crate::pass::{PassManager, Verification};

/// One of each: padding, batch norms, a plain-product polynomial, an activation, a residual sum, pool and classifier.
fn network() -> TensorGraph {
    let mut net = Net::new(&[2, 6, 6]);
    let padded = net.pad(net.input, [0, 0, 1, 1]);
    let first = net.conv(padded, 4, 3, 2, [0; 4], 1);
    let normal = net.batch_norm(first);
    let square = net.add(TensorOp::Mul, &[normal, normal]);
    let scaled = net.affine(square, &[0.5, 0.25, 0.125, 1.0], &[0.0; 4]);
    let shifted = net.affine(normal, &[0.5; 4], &[0.1, 0.2, 0.3, 0.4]);
    let poly = net.add(TensorOp::Add, &[shifted, scaled]);
    let second = net.conv(poly, 4, 3, 1, [1; 4], 2);
    let sum = net.add(TensorOp::Add, &[second, poly]);
    let after = net.batch_norm(sum);
    let active = net.relu(after);
    let pooled = net.pool(active, PoolKind::AverageExcludePad, 3, 3, [0; 4]);
    let flat = net.reshape(pooled, &[1, 4]);
    let logits = net.fully_connected(flat, 3);
    net.output(logits)
}

#[test]
fn a_small_network_after_each_pass() {
    let mut dumps = String::new();
    let mut graph = network();
    let mut last = String::new();
    let mut hook = |pass: &'static str, graph: &TensorGraph| {
        let text = print_tensor(graph);
        dumps += &if text == last {
            format!("after {pass}: the same\n\n")
        } else {
            format!("after {pass}\n{text}\n")
        };
        last = text;
    };
    hook("import", &graph);
    let mut manager = PassManager::new(Verification::EachPass).with_dump(&mut hook);
    canonical(&mut graph, &mut manager).unwrap();
    assert_same_outputs(&network(), &graph);
    let batch = batch_for(&graph);
    fit_activations(&mut graph, &batch, &FitOptions::default()).unwrap();
    let fitted = graph.clone();
    polynomial(&mut graph, None, &mut manager).unwrap();
    assert_same_outputs(&fitted, &graph);
    insta::assert_snapshot!(without_hashes(&dumps));
}

/// Hashes of computed constants would tie the snapshot to the last bit of every sum.
fn without_hashes(text: &str) -> String {
    text.lines().map(|line| line.split(" #").next().unwrap_or(line).to_owned() + "\n").collect()
}
