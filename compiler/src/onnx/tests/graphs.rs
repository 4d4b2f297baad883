//! Whole graphs of known shapes (`fixtures/scripts/build_graphs.py`): import, head and tail against tract, on the model
//! whose max pools are averages.

use std::path::Path;

use peregrine_ir::client::ClientTensor;
use peregrine_ir::program::{ClearMachine, Noise, pack_input, unpack_output};
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use peregrine_passes::Verification;
use peregrine_passes::fhe::assign::LayoutSearch;
use peregrine_passes::fhe::pack::pack;
use peregrine_passes::pipeline::{self, Calibration};
use peregrine_passes::tensor::{self, interp, ranges};

use super::support::sample;
use crate::onnx::{ImportOptions, Imported, MaxPools, import_with};
use crate::oracle::Tract;

fn read(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models/graphs");
    std::fs::read(folder.join(format!("{name}.onnx"))).expect("the fixture")
}

fn imported(name: &str) -> Imported {
    let options = ImportOptions { max_pools: MaxPools::Average, ..ImportOptions::default() };
    match import_with(&read(name), &options) {
        Ok(imported) => imported,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Outputs of the canonical graph and the tail, and tract's of the whole model.
fn outputs(imported: &Imported) -> [Vec<ClientTensor>; 2] {
    let input = sample(&imported.input.shape, 3);
    let expected = Tract::load(&imported.model).unwrap().run(&input).unwrap();
    let encrypted = match &imported.head {
        Some(head) => Tract::load(head).unwrap().run(&input).unwrap().remove(0),
        None => input,
    };
    let mut graph = imported.graph.clone();
    let mut manager = peregrine_passes::PassManager::new(Verification::EachPass);
    tensor::canonical(&mut graph, &mut manager).unwrap();
    let batch = interp::Batch::new(&encrypted.shape[1..], encrypted.data).unwrap();
    let server: Vec<ClientTensor> = (graph.outputs.iter())
        .zip(interp::run(&graph, &batch).unwrap())
        .map(|(port, data)| ClientTensor { shape: graph.nodes[port.value].ty.shape.clone(), data })
        .collect();
    let found = match &imported.tail {
        Some(tail) => Tract::load(tail).unwrap().run_many(&server).unwrap(),
        None => server,
    };
    [found, expected]
}

/// Elements that leave the server.
fn encrypted_outputs(imported: &Imported) -> usize {
    imported.graph.outputs.iter().map(|o| imported.graph.nodes[o.value].ty.len()).sum()
}

fn check(name: &str) -> Imported {
    let imported = imported(name);
    let [found, expected] = outputs(&imported);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.shape, expected.shape, "{name}");
        let range = expected.data.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let worst = found.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-4 * range, "{name}: {worst} of {range}");
    }
    imported
}

/// Elements of the raw heads of a detector of 64x64 pixels at strides 8, 16 and 32.
fn raw_heads(channels: usize) -> usize {
    channels * (64 + 16 + 4)
}

#[test]
fn yolo_v5_is_cut_at_its_last_convolutions() {
    let imported = check("yolov5_tiny");
    assert_eq!((imported.graph.outputs.len(), encrypted_outputs(&imported)), (3, raw_heads(21)));
    let focus = check("yolov5_focus_poly2");
    assert_eq!(encrypted_outputs(&focus), raw_heads(21));
    assert!(focus.head.is_some(), "the client takes the pixels apart");
}

#[test]
fn yolo_v8_leaves_the_box_expectation_to_the_client() {
    let imported = check("yolov8_tiny_poly2");
    assert_eq!((imported.graph.outputs.len(), encrypted_outputs(&imported)), (6, raw_heads(4 * 2 + 3)));
}

#[test]
fn yolo_x_sigmoids_and_exponentials_run_on_the_client() {
    let imported = check("yolox_tiny_poly2");
    assert_eq!((imported.graph.outputs.len(), encrypted_outputs(&imported)), (9, raw_heads(7)));
}

#[test]
fn yolo_v3_gives_raw_heads() {
    let imported = check("yolov3_tiny_poly4");
    assert_eq!(imported.graph.outputs.len(), 2);
    assert!(imported.tail.is_none());
}

#[test]
fn yolo_v2_pads_at_one_side() {
    check("yolov2_tiny");
}

#[test]
fn non_maximum_suppression_runs_on_the_client() {
    let imported = check("nms_tiny_poly2");
    assert_eq!(imported.outputs.len(), 3);
    assert_eq!(imported.graph.outputs.len(), 2);
}

#[test]
fn segmentation() {
    check("unet_tiny_poly2");
    let imported = check("segmenter_tiny_poly2");
    assert!(encrypted_outputs(&imported) <= 3 * 16 * 16 / 4, "the last upsampling runs on the client");
}

#[test]
fn classifiers() {
    for name in
        ["option_a_tiny_poly2", "efficientnet_tiny", "tf_nhwc_tiny_poly2", "activations_tiny", "polyact_tiny"]
    {
        check(name);
    }
}

#[test]
fn shuffled_channels() {
    check("shuffle_tiny_poly2");
}

#[test]
fn cascades() {
    let imported = check("mtcnn_pnet");
    assert_eq!(imported.outputs.len(), 2);
}

#[test]
fn max_pools_are_averaged_only_when_asked() {
    let options = ImportOptions::default();
    let kept = import_with(&read("mtcnn_pnet"), &options).unwrap();
    assert!(kept.averaged.is_empty());
    assert!(kept.graph.nodes.values().any(|n| matches!(&n.op, TensorOp::Pool(_))));
    let mut graph = kept.graph;
    let mut manager = peregrine_passes::PassManager::new(Verification::EachPass);
    let refused = tensor::canonical(&mut graph, &mut manager)
        .and_then(|()| tensor::polynomial(&mut graph, None, &mut manager));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("MaxPool_") && refused.contains("--maxpool avg"), "{refused}");
    assert_eq!(imported("mtcnn_pnet").averaged.len(), 1);
}

/// A model with an input, as tensors before encryption.
struct Subject {
    imported: Imported,
    batch: interp::Batch,
    expected: Vec<ClientTensor>,
}

impl Subject {
    fn of(name: &str) -> Self {
        let imported = imported(name);
        let input = sample(&imported.input.shape, 5);
        let expected = Tract::load(&imported.model).unwrap().run(&input).unwrap();
        let encrypted = match &imported.head {
            Some(head) => Tract::load(head).unwrap().run(&input).unwrap().remove(0),
            None => input,
        };
        let batch = interp::Batch::new(&encrypted.shape[1..], encrypted.data).unwrap();
        Self { imported, batch, expected }
    }

    fn numbers(&self) -> Vec<f64> {
        self.batch.data().iter().map(|&v| f64::from(v)).collect()
    }

    /// The server's outputs, through the tail, are tract's.
    fn assert_outputs(&self, name: &str, graph: &TensorGraph, outputs: Vec<Vec<f64>>) {
        let shape = |port: &peregrine_ir::OutputPort| graph.nodes[port.value].ty.shape.clone();
        let server: Vec<ClientTensor> = (graph.outputs.iter().zip(outputs))
            .map(|(port, data)| ClientTensor {
                shape: shape(port),
                data: data.into_iter().map(|v| v as f32).collect(),
            })
            .collect();
        let found = match &self.imported.tail {
            Some(tail) => Tract::load(tail).unwrap().run_many(&server).unwrap(),
            None => server,
        };
        for (found, expected) in found.iter().zip(&self.expected) {
            let range = expected.data.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let worst = found.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-4 * range, "{name}: {worst} of {range}");
        }
    }
}

/// Compiles to a program, runs it on slots in the clear without noise, and compares with tract.
fn check_program(name: &str) {
    let subject = Subject::of(name);
    let options = pipeline::Options::default();
    let graph = subject.imported.graph.clone();
    let compiled = pipeline::compile(graph, Calibration::StandIn(&subject.batch), &options, &mut |_, _| {});
    let compiled = compiled.unwrap_or_else(|error| panic!("{name}: {error}"));
    let machine = ClearMachine::new(&compiled.program, Noise::None).unwrap();
    let input = pack_input(&compiled.program, 0, &subject.numbers()).unwrap();
    let slots = machine.run(&[input], &mut |_| {}).unwrap();
    let outputs = slots.iter().enumerate();
    let outputs = outputs.map(|(i, slots)| unpack_output(&compiled.program, i, slots).unwrap()).collect();
    subject.assert_outputs(name, &compiled.polynomial, outputs);
}

/// Packs, runs the packed graph on slots in the clear, and compares with tract.
fn check_packed(name: &str) {
    let subject = Subject::of(name);
    let mut graph = subject.imported.graph.clone();
    let mut manager = peregrine_passes::PassManager::new(Verification::EachPass);
    tensor::canonical(&mut graph, &mut manager).unwrap();
    tensor::polynomial(&mut graph, Some(&subject.batch), &mut manager).unwrap();
    let ranges = ranges::measure(&graph, &subject.batch).unwrap();
    let packed = pack(&graph, &ranges, 1 << 14, &LayoutSearch::Greedy).unwrap().graph;
    let outputs = peregrine_ir::fhe::run_clear(&packed, &[subject.numbers()]).unwrap();
    subject.assert_outputs(name, &graph, outputs);
}

#[test]
fn programs_of_shallow_graphs_give_what_tract_gives() {
    for name in [
        "polyact_tiny",
        "tf_nhwc_tiny_poly2",
        "nms_tiny_poly2",
        "segmenter_tiny_poly2",
        "option_a_tiny_poly2",
        "unet_tiny_poly2",
    ] {
        check_program(name);
    }
}

#[test]
fn packed_graphs_of_any_depth_give_what_tract_gives() {
    for name in [
        "gated_tiny_poly2",
        "shuffle_tiny_poly2",
        "yolov3_tiny_poly2",
        "yolov3_tiny_poly4",
        "yolov5_focus_poly2",
        "yolov8_tiny_poly2",
        "yolox_tiny_poly2",
    ] {
        check_packed(name);
    }
}

#[test]
fn gates_are_imported_as_products() {
    let imported = check("gated_tiny_poly2");
    let products = imported.graph.nodes.values().filter(|n| matches!(n.op, TensorOp::Mul));
    assert!(products.filter(|n| n.args[0] != n.args[1]).count() >= 2);
}
