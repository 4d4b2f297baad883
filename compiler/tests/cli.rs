//! `peregrinec` from the outside: what it writes, what it refuses, and with which exit code.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ndarray_npy::{NpzWriter, WriteNpyExt};
use peregrine_compiler::oracle::Tract;
use peregrine_ir::client::ClientTensor;
use peregrine_ir::container;
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::{Tensor, Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto,
};

/// A folder with models, removed at the end of a test.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_peregrinec"))
            .args(args)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// Runs, asserts the exit code and gives what was said.
    fn expect(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?} said: {said}");
        said
    }

    fn printed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn info(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| Dimension { value: Some(dimension::Value::DimValue(d)), ..Dimension::default() };
    let shape = (!shape.is_empty()).then(|| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let value = Some(Value::TensorType(Tensor { elem_type: 1, shape }));
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

fn weights(name: &str, dims: &[i64], scale: f32) -> TensorProto {
    let count = dims.iter().product::<i64>();
    let float_data = (0..count).map(|i| scale * (i as f32 * 1.7 + dims.len() as f32).sin()).collect();
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: 1, float_data, ..TensorProto::default() }
}

fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
    let input = input.iter().map(|&i| i.into()).collect();
    NodeProto {
        op_type: op.into(),
        input,
        output: vec![output.into()],
        name: format!("node_{output}"),
        ..NodeProto::default()
    }
}

fn padded(mut node: NodeProto) -> NodeProto {
    let pads = AttributeProto {
        name: "pads".into(),
        r#type: AttributeType::Ints as i32,
        ints: vec![1; 4],
        ..AttributeProto::default()
    };
    node.attribute.push(pads);
    node
}

fn model(nodes: Vec<NodeProto>, output: &str, initializer: Vec<TensorProto>) -> Vec<u8> {
    let graph = GraphProto {
        name: "little".into(),
        node: nodes,
        initializer,
        input: vec![info("x", &[1, 1, 8, 8])],
        output: vec![info(output, &[])],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
}

/// Convolution, non-linearity, fully connected layer, softmax.
fn classifier(activation: &str) -> Vec<u8> {
    let act = match activation {
        "Square" => node("Mul", &["c", "c"], "a"),
        op => node(op, &["c"], "a"),
    };
    let nodes = vec![
        padded(node("Conv", &["x", "w"], "c")),
        act,
        node("Flatten", &["a"], "f"),
        node("Gemm", &["f", "g"], "l"),
        node("Softmax", &["l"], "y"),
    ];
    model(nodes, "y", vec![weights("w", &[2, 1, 3, 3], 0.5), weights("g", &[128, 3], 0.2)])
}

fn calibration(side: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut npz = NpzWriter::new(Cursor::new(&mut bytes));
    let value = |(n, _, y, x): (usize, usize, usize, usize)| {
        ((n * 37 + y * 11 + x * 5 + n * y * x) as f32 * 0.61).sin()
    };
    npz.add_array("images", &ndarray::Array4::<f32>::from_shape_fn((24, 1, side, side), value)).unwrap();
    npz.finish().unwrap();
    bytes
}

fn is_empty(folder: &Path, name: &str) -> bool {
    !folder.join(name).exists()
}

#[test]
fn a_polynomial_model_becomes_an_artefact() {
    let bench = Bench::new();
    bench.file("m.onnx", &classifier("Square"));
    let said = bench.expect(0, &["m.onnx", "--report"]);
    for part in
        ["log QP", "security", "evaluation keys", "memory", "time", "within the tolerance", "wrote m.fhe"]
    {
        assert!(said.contains(part), "the report says nothing of {part}: {said}");
    }
    let artefact = container::read(&bench.path("m.fhe")).unwrap();
    assert!(artefact.client.tail.is_some());
    assert_eq!((artefact.client.input_name.as_str(), artefact.client.sample), ("x", None));
    assert_eq!(artefact.program.outputs[0].name, "l");
}

#[test]
fn activations_are_fitted_and_ranges_travel() {
    let bench = Bench::new();
    bench.file("m.onnx", &classifier("Relu"));
    bench.file("c.npz", &calibration(8));
    let mut npy = Vec::new();
    ndarray::Array4::<f32>::from_elem((1, 1, 8, 8), 0.25).write_npy(&mut npy).unwrap();
    bench.file("s.npy", &npy);
    bench.file("l.txt", b"cat\ndog\nbird\n");
    let args = [
        "m.onnx",
        "-o",
        "out.fhe",
        "--calibrate",
        "c.npz",
        "--degree",
        "2",
        "--sample",
        "s.npy",
        "--labels",
        "l.txt",
    ];
    bench.expect(0, &args);
    let client = container::read(&bench.path("out.fhe")).unwrap().client;
    assert_eq!(client.labels, ["cat", "dog", "bird"]);
    assert_eq!(client.sample.unwrap().data, [0.25; 64]);
    assert_eq!(
        (client.ranges.len(), client.ranges[0].layer.as_str(), client.ranges[0].low.len()),
        (1, "node_a", 2)
    );
}

/// Two fully connected layers on 16 features.
fn perceptron() -> Vec<u8> {
    let nodes = vec![
        node("MatMul", &["x", "w"], "m"),
        node("Add", &["m", "b"], "c"),
        node("Relu", &["c"], "a"),
        node("Gemm", &["a", "g"], "y"),
    ];
    let initializer =
        vec![weights("w", &[16, 24], 0.3), weights("b", &[24], 0.1), weights("g", &[24, 3], 0.2)];
    let mut proto = ModelProto::decode(model(nodes, "y", initializer).as_slice()).unwrap();
    proto.graph.as_mut().unwrap().input = vec![info("x", &[1, 16])];
    proto.encode_to_vec()
}

#[test]
fn features_are_checked_on_the_first_calibration_input() {
    let bench = Bench::new();
    bench.file("m.onnx", &perceptron());
    let mut bytes = Vec::new();
    let mut npz = NpzWriter::new(Cursor::new(&mut bytes));
    // A thousandth of what the stand-in for missing samples reaches.
    let value = |(n, i): (usize, usize)| 1e-3 * ((n * 37 + i * 11 + n * i) as f32 * 0.61).sin();
    npz.add_array("images", &ndarray::Array2::<f32>::from_shape_fn((24, 16), value)).unwrap();
    npz.finish().unwrap();
    bench.file("c.npz", &bytes);
    let said = bench.expect(0, &["m.onnx", "--calibrate", "c.npz", "--degree", "4"]);
    assert!(!said.contains("outside the calibrated range"), "{said}");
    let client = container::read(&bench.path("m.fhe")).unwrap().client;
    assert_eq!((client.input_shape, client.head.is_some()), (vec![1, 16], true));
}

#[test]
fn inputs_outside_the_calibrated_ranges_are_reported() {
    let bench = Bench::new();
    bench.file("m.onnx", &classifier("Relu"));
    bench.file("c.npz", &calibration(8));
    let said = |value: f32| {
        let mut npy = Vec::new();
        ndarray::Array4::<f32>::from_elem((1, 1, 8, 8), value).write_npy(&mut npy).unwrap();
        bench.file("s.npy", &npy);
        let args = ["m.onnx", "--calibrate", "c.npz", "--degree", "2", "--sample", "s.npy"];
        String::from_utf8(bench.run(&args).stderr).unwrap()
    };
    assert!(!said(0.25).contains("outside the calibrated range"));
    let overshoot = said(4.0);
    assert!(
        overshoot.contains("node_a") && overshoot.contains("outside the calibrated range"),
        "{overshoot}"
    );
}

#[test]
fn each_level_can_be_emitted_and_dumped() {
    let bench = Bench::new();
    bench.file("m.onnx", &classifier("Square"));
    assert!(bench.printed(&["m.onnx", "--emit", "tensor"]).starts_with("tensor @little stage=polynomial"));
    assert!(bench.printed(&["m.onnx", "--emit", "fhe"]).starts_with("fhe @little stage=leveled"));
    assert!(bench.printed(&["m.onnx", "--emit", "program"]).starts_with("program @little"));
    let dumped = bench.printed(&["m.onnx", "--emit", "tensor", "-o", "t.txt", "--dump-ir", "after:algebra"]);
    assert!(dumped.starts_with("// after algebra\ntensor @little"));
    let said = bench.expect(1, &["m.onnx", "--emit", "tensor", "--dump-ir", "after:nothing"]);
    assert!(said.contains("nothing") && said.contains("algebra"), "{said}");
}

#[test]
fn the_emitted_onnx_is_the_model() {
    let bench = Bench::new();
    let bytes = classifier("Square");
    bench.file("m.onnx", &bytes);
    bench.expect(0, &["m.onnx", "--emit", "onnx", "-o", "p.onnx"]);
    let input = ClientTensor { shape: vec![1, 1, 8, 8], data: (0..64).map(|i| (i as f32).cos()).collect() };
    let run = |bytes: &[u8]| Tract::load(bytes).unwrap().run(&input).unwrap().remove(0).data;
    let (found, expected) = (run(&fs::read(bench.path("p.onnx")).unwrap()), run(&bytes));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
}

#[test]
fn the_gate_refuses_and_keeps_what_was_there() {
    let bench = Bench::new();
    bench.file("m.onnx", &classifier("Square"));
    bench.file("m.fhe", b"older");
    let said = bench.expect(2, &["m.onnx", "--tolerance", "1e-12"]);
    assert!(said.contains("--no-verify") && said.contains("ABOVE"), "{said}");
    assert_eq!(fs::read(bench.path("m.fhe")).unwrap(), b"older");
    bench.expect(0, &["m.onnx", "--no-verify"]);
    assert!(container::read(&bench.path("m.fhe")).is_ok());
}

#[test]
fn wrong_input_is_the_users_fault() {
    let bench = Bench::new();
    let bytes = classifier("Relu");
    bench.file("m.onnx", &bytes);
    bench.file("cut.onnx", &bytes[..bytes.len() / 2]);
    bench.file("softsign.onnx", &classifier("Softsign"));
    bench.file("c4.npz", &calibration(4));
    bench.file("c8.npz", &calibration(8));
    bench.file("s.png", b"no picture");
    let cases: [(&[&str], &str); 10] = [
        (&["none.onnx"], "none.onnx"),
        (&["cut.onnx"], "cut.onnx"),
        (&["softsign.onnx"], "Softsign \"node_a\""),
        (&["m.onnx"], "--calibrate"),
        (&["m.onnx", "--calibrate", "c4.npz"], "[1, 1, 8, 8]"),
        (&["m.onnx", "--calibrate", "c4.npz"], "c4.npz: #0"),
        (&["m.onnx", "--calibrate", "c8.npz", "--sample", "s.png"], "s.png"),
        (&["m.onnx", "--calibrate", "c8.npz", "--degree", "9"], "9"),
        (&["m.onnx", "--tolerance", "0"], "tolerance"),
        (&["m.onnx", "--std", "0"], "positive"),
    ];
    for (args, part) in cases {
        let said = bench.expect(1, args);
        assert!(said.contains(part), "{args:?} does not name {part}: {said}");
    }
    assert!(is_empty(bench.folder.path(), "m.fhe") && is_empty(bench.folder.path(), "cut.fhe"));
}

#[test]
fn places_that_cannot_be_written_are_refused_before_the_work() {
    let bench = Bench::new();
    bench.file("m.onnx", &classifier("Square"));
    fs::create_dir(bench.path("taken")).unwrap();
    fs::create_dir(bench.path("taken.html")).unwrap();
    let cases = [
        ("-o", "nowhere/m.fhe", "nowhere/m.fhe"),
        ("-o", "taken", "no regular file"),
        ("--report", "nowhere/r.html", "nowhere/r.html"),
        ("--report", "taken.html", "no regular file"),
    ];
    for (flag, place, why) in cases {
        let said = bench.expect(1, &["m.onnx", flag, place]);
        assert!(said.contains("cannot write") && said.contains(why) && !said.contains("log QP"), "{said}");
    }
    assert!(bench.path("taken").is_dir() && is_empty(bench.folder.path(), "m.fhe"));
}

#[test]
fn a_model_too_deep_is_a_limit() {
    let bench = Bench::new();
    let mut nodes = Vec::new();
    let mut value = "x".to_owned();
    for i in 0..90 {
        let (c, s) = (format!("c{i}"), format!("s{i}"));
        nodes.push(padded(node("Conv", &[&value, "w"], &c)));
        nodes.push(node("Mul", &[&c, &c], &s));
        value = s;
    }
    let unit = TensorProto {
        name: "w".into(),
        dims: vec![1, 1, 1, 1],
        data_type: 1,
        float_data: vec![1.0],
        ..TensorProto::default()
    };
    nodes.push(node("Conv", &[&value, "w"], "y"));
    bench.file("deep.onnx", &model(nodes, "y", vec![unit]));
    let mut npy = Vec::new();
    ndarray::Array4::<f32>::ones((1, 1, 8, 8)).write_npy(&mut npy).unwrap();
    bench.file("s.npy", &npy);
    let said = bench.expect(2, &["deep.onnx", "--sample", "s.npy"]);
    assert!(said.contains("levels"), "{said}");
    bench.expect(0, &["deep.onnx", "--sample", "s.npy", "--emit", "onnx", "-o", "p.onnx"]);
}

#[test]
fn reports_are_pages_and_json() {
    let bench = Bench::new();
    bench.file("m.onnx", &classifier("Square"));
    let said = bench.expect(0, &["m.onnx", "--report", "r.html"]);
    assert!(said.contains("wrote r.html") && said.contains("wrote m.fhe"), "{said}");
    let page = fs::read_to_string(bench.path("r.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for part in ["little", "within the tolerance", "node_c", "Precision", "Keys"] {
        assert!(page.contains(part), "{part} is missing");
    }
    let report: serde_json::Value =
        serde_json::from_str(&bench.printed(&["m.onnx", "--report", "json"])).unwrap();
    for part in
        ["model", "parameters", "totals", "values", "layers", "activations", "check", "keys", "passes"]
    {
        assert!(!report[part].is_null(), "{part} is missing");
    }
    let sum =
        |of: &str| report["layers"].as_array().unwrap().iter().map(|l| l[of].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("rotations"), report["totals"]["rotations"].as_u64().unwrap());
    assert_eq!(sum("products"), report["totals"]["products"].as_u64().unwrap());
    assert_eq!(report["keys"].as_array().unwrap().len() as u64, report["totals"]["keys"].as_u64().unwrap());
    assert!(report["check"]["passes"].as_bool().unwrap());
    assert!(report["layers"].as_array().unwrap().iter().any(|l| l["error"]["bits"].is_f64()));
    bench.expect(0, &["m.onnx", "--no-verify", "--report", "r.json"]);
    let unchecked: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("r.json")).unwrap()).unwrap();
    assert!(unchecked["check"].is_null());
    let refused = bench.expect(1, &["--report", "m.onnx"]);
    assert!(refused.contains("FILE.html"), "{refused}");
    bench.expect(1, &["m.onnx", "--report", "nowhere/r.html"]);
}
