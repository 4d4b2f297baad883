//! A small detector end to end: its raw head comes back encrypted, its boxes are those of the original in tract.

use std::path::{Path, PathBuf};

use peregrine_compiler::driver;
use peregrine_compiler::options::Plan;
use peregrine_data::picture::Resize;
use peregrine_runtime::client::Preprocessing;
use peregrine_runtime::client::decode::{DecodeSpec, Decoder, Thresholds};
use peregrine_runtime::eval::{EvalOptions, evaluate};
use peregrine_runtime::local::{Backend, LocalOptions, run_local};
use peregrine_runtime::progress::Silent;
use peregrine_runtime::report::BoxReport;
use peregrine_tests::{compile_options, compiled, fixture};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::{Tensor, Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto,
};

/// Scores this close to the threshold may fall on either side of it.
const MARGIN: f64 = 0.02;
const THRESHOLD: f64 = 0.2;

fn value(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| Dimension { value: Some(dimension::Value::DimValue(d)), ..Dimension::default() };
    let shape = (!shape.is_empty()).then(|| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let value = Some(Value::TensorType(Tensor { elem_type: 1, shape }));
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// Weights without a pattern that matters.
fn weights(name: &str, dims: [i64; 4], size: f32) -> TensorProto {
    let count = dims.iter().product::<i64>();
    let number = |i: i64| size * ((i as f32 * 12.9898 + dims[0] as f32).sin() * 43_758.547).fract();
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 1,
        float_data: (0..count).map(number).collect(),
        ..TensorProto::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: ints.to_vec(),
        ..AttributeProto::default()
    }
}

fn node(op: &str, input: [&str; 2], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("node_{output}"),
        input: input.map(str::to_owned).to_vec(),
        output: vec![output.into()],
        attribute,
        ..NodeProto::default()
    }
}

/// 3x32x32 to a head of three anchors and two classes on 8x8 cells, squares between the convolutions.
fn detector() -> Vec<u8> {
    let halving = || vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])];
    let graph = GraphProto {
        name: "detector".into(),
        node: vec![
            node("Conv", ["image", "w1"], "c1", halving()),
            node("Mul", ["c1", "c1"], "a1", vec![]),
            node("Conv", ["a1", "w2"], "c2", halving()),
            node("Mul", ["c2", "c2"], "a2", vec![]),
            node("Conv", ["a2", "w3"], "head", vec![]),
        ],
        initializer: vec![
            weights("w1", [8, 3, 3, 3], 0.3),
            weights("w2", [8, 8, 3, 3], 0.3),
            weights("w3", [21, 8, 1, 1], 0.8),
        ],
        input: vec![value("image", &[1, 3, 32, 32])],
        output: vec![value("head", &[])],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
}

/// ONNX file and artefact.
fn artefact(folder: &Path) -> (PathBuf, PathBuf) {
    let (onnx, fhe) = (folder.join("detector.onnx"), folder.join("detector.fhe"));
    std::fs::write(&onnx, detector()).expect("written");
    let mut options = compile_options("");
    options.model.clone_from(&onnx);
    options.sample = Some(fixture("images/cifar10/cifar10_01_8.png"));
    let (prepared, lowered) = compiled(&options);
    let client = driver::client_part(&prepared, lowered.ranges.clone());
    driver::write_artefact(&fhe, &lowered, &client).expect("the artefact is written");
    (onnx, fhe)
}

/// Every box is kept that reaches the score: suppression would make neighbours depend on one another.
fn spec() -> DecodeSpec {
    DecodeSpec {
        decoder: Decoder::YoloV3,
        anchors: Some("4,6,8,8,16,12".parse().expect("three anchors")),
        thresholds: Thresholds { score: THRESHOLD, iou: 1.0, most: 1000 },
    }
}

#[test]
fn encrypted_boxes_are_those_in_the_clear() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, fhe) = artefact(folder.path());
    let heads = same_boxes(&fhe, spec());
    assert_eq!(heads, [vec![1, 21, 8, 8]], "the raw head comes back too");
}

#[test]
fn encrypted_boxes_of_a_tiny_yolov3_are_those_in_the_clear() {
    let folder = tempfile::tempdir().expect("a folder");
    let fhe = folder.path().join("yolov3.fhe");
    let mut options = compile_options("graphs/yolov3_tiny_poly2.onnx");
    options.plan = Plan::Leveled;
    options.sample = Some(fixture("images/cifar10/cifar10_01_8.png"));
    let (prepared, lowered) = compiled(&options);
    let client = driver::client_part(&prepared, lowered.ranges.clone());
    driver::write_artefact(&fhe, &lowered, &client).expect("the artefact is written");
    let heads = same_boxes(&fhe, DecodeSpec { anchors: None, ..spec() });
    assert_eq!(heads, [vec![1, 21, 2, 2], vec![1, 21, 4, 4]]);
}

/// Runs a picture encrypted and checks that its boxes are those of the clear run; gives the shapes of the raw heads.
fn same_boxes(fhe: &Path, spec: DecodeSpec) -> Vec<Vec<usize>> {
    let options = LocalOptions {
        input: Some(fixture("images/cifar10/cifar10_06_1.png")),
        backend: Backend::Ckks,
        detector: Some(spec),
        preprocessing: Preprocessing { resize: Resize::Letterbox, ..Preprocessing::default() },
        ..LocalOptions::default()
    };
    let report = run_local(fhe, &options, &Silent).expect("it runs");
    let found = report.detections.expect("boxes");
    let sure = |b: &&BoxReport| b.score >= THRESHOLD + MARGIN;
    assert!(found.clear.iter().filter(sure).count() >= 3, "{} boxes", found.clear.len());
    for (i, clear) in found.clear.iter().enumerate().filter(|(_, b)| sure(b)) {
        let twin = found.matched.iter().find(|m| m.clear == i);
        let twin = twin.unwrap_or_else(|| panic!("{clear:?} was not found encrypted"));
        assert!(twin.iou >= 0.95, "overlap {} of {clear:?}", twin.iou);
        assert!((found.boxes[twin.found].score - clear.score).abs() < MARGIN, "{clear:?}");
    }
    report.outputs.into_iter().map(|output| output.shape).collect()
}

#[test]
fn boxes_of_the_program_agree_with_tract_on_the_original() {
    let folder = tempfile::tempdir().expect("a folder");
    let (onnx, fhe) = artefact(folder.path());
    let options = EvalOptions {
        data: fixture("images/cifar10"),
        against: Some(onnx),
        backend: Backend::Clear,
        detector: Some(spec()),
        limit: Some(5),
        ..EvalOptions::default()
    };
    let report = evaluate(&fhe, &options, &Silent).expect("it is evaluated");
    let agreement = report.agreement.expect("a comparison");
    assert!(agreement.of >= 10, "{} boxes in both", agreement.of);
    assert!(agreement.share >= 0.98, "{} of {} boxes in common", agreement.same, agreement.of);
    assert_eq!((report.samples, report.not_finite, report.score), (5, 0, None));
}
