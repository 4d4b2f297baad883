//! Values that are made in two parts by channels.

use std::collections::BTreeSet;

use peregrine_ir::fhe::run_clear;

use super::*;
use crate::fhe::assign::LayoutSearch;
use crate::fhe::cost::Machine;
use crate::fhe::pack::{self, Packed};
use crate::pass::{PassManager, Verification};
use crate::pipeline::Products;
use crate::tensor::{self, ranges};

/// A bottleneck of two blocks, 40 channels at its narrow ends.
fn bottleneck() -> (TensorGraph, Batch) {
    let (mut net, x) = Net::new([1, 3, 6, 5]);
    let wide = net.conv(x, 48, Geometry::SAME);
    let wide = net.poly(wide, 2);
    let first = net.conv(wide, 40, Geometry::POINT);
    let wide = net.conv(first, 48, Geometry::POINT);
    let wide = net.poly(wide, 2);
    let second = net.conv(wide, 40, Geometry::POINT);
    let second = net.op(TensorOp::Add, &[first, second]);
    let wide = net.conv(second, 20, Geometry::SAME);
    let wide = net.poly(wide, 2);
    let y = net.conv(wide, 2, Geometry::POINT);
    net.graph.outputs.push(OutputPort { name: "y".into(), value: y });
    let batch = Batch::new(&[3, 6, 5], net.numbers.take(2 * 90)).expect("batch");
    let mut graph = net.graph;
    let mut manager = PassManager::new(Verification::EachPass);
    tensor::canonical(&mut graph, &mut manager).expect("passes");
    tensor::polynomial(&mut graph, Some(&batch), &mut manager).expect("passes");
    (graph, batch)
}

fn assert_same(packed: &Packed, graph: &TensorGraph, batch: &Batch) {
    let image = Batch::new(&[3, 6, 5], batch.data()[..90].to_vec()).expect("one image");
    let expected = interp::run(graph, &image).expect("interpreter")[0].clone();
    let numbers: Vec<f64> = image.data().iter().map(|&v| f64::from(v)).collect();
    let found = run_clear(&packed.graph, &[numbers]).expect("one input")[0].clone();
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - f64::from(expected)).abs() < 1e-4 * largest, "{found} for {expected}");
    }
}

#[test]
fn narrow_ends_of_bottlenecks_in_parts_compute_the_same() {
    let (graph, batch) = bottleneck();
    let ranges = ranges::measure(&graph, &batch).expect("ranges");
    let searches = [LayoutSearch::Greedy, LayoutSearch::Search(Machine::default(), Products::Deep)];
    for search in searches {
        let whole = pack::pack(&graph, &ranges, 1 << 12, &search).expect("packs");
        let in_parts =
            |kept: &BTreeSet<ValueId>| whole.in_parts(&graph, &ranges, &search, kept).expect("packs");
        let packed = in_parts(&BTreeSet::new()).expect("two ends");
        let parted: Vec<u32> = packed
            .sources
            .iter()
            .filter(|held| held.first_channel > 0)
            .map(|held| held.first_channel)
            .collect();
        assert_eq!(parted, [32, 32]);
        let tensors: BTreeSet<ValueId> = packed.sources.iter().map(|held| held.tensor).collect();
        assert_eq!(tensors.len() + 2, packed.sources.len());
        assert_same(&packed, &graph, &batch);
        assert_same(&whole, &graph, &batch);
        // Values that are kept whole, as those that are refreshed.
        assert!(in_parts(&tensors).is_none());
    }
    // Where a value needs more than a ciphertext nothing is gained.
    let small = pack::pack(&graph, &ranges, 1 << 10, &LayoutSearch::Greedy).expect("packs");
    let parted = small.in_parts(&graph, &ranges, &LayoutSearch::Greedy, &BTreeSet::new()).expect("packs");
    assert!(parted.is_none());
}
