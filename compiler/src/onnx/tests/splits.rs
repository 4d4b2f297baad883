//! Client head and tail.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto;

use super::support::{Model, float, int, ints};
use crate::onnx::load::value_info;
use crate::onnx::{ClientSplit, export, import};
use crate::oracle::Tract;

fn classifier(opset: i64) -> Model {
    Model::new(opset, &[1, 3, 4, 4])
        .weights("w", &[2, 3, 3, 3])
        .weights("f", &[8, 5])
        .weights("b", &[5])
        .node("Conv", &["x", "w"], "c", vec![])
        .node("Relu", &["c"], "r", vec![])
        .node("Flatten", &["r"], "l", vec![])
        .node("MatMul", &["l", "f"], "m", vec![])
        .node("Add", &["m", "b"], "a", vec![])
}

#[test]
fn softmax_and_argmax_run_on_the_client() {
    let model = classifier(13).node("Softmax", &["a"], "y", vec![int("axis", 1)]);
    let imported = model.check_with(ClientSplit::HeadAndTail);
    assert!(imported.tail.is_some() && imported.head.is_none());
    assert_eq!(imported.graph.outputs[0].name, "a");
    assert_eq!(imported.outputs, ["y"]);
    let model = classifier(13).node("ArgMax", &["a"], "y", vec![int("axis", 1), int("keepdims", 0)]);
    model.check_with(ClientSplit::HeadAndTail);
}

#[test]
fn without_tail_the_bias_stays_on_the_server() {
    let imported = classifier(13).outputs(&["a"]).check_with(ClientSplit::HeadAndTail);
    assert!(imported.tail.is_none());
    assert_eq!(imported.graph.outputs[0].name, "a");
}

#[test]
fn a_value_can_be_output_and_feed_the_tail() {
    let model = classifier(13).node("Softmax", &["a"], "y", vec![int("axis", 1)]).outputs(&["y", "a", "r"]);
    let imported = model.check_with(ClientSplit::HeadAndTail);
    assert_eq!(imported.outputs, ["y", "a", "r"]);
    assert_eq!(imported.graph.outputs.len(), 2);
}

#[test]
fn the_last_relu_runs_on_the_client() {
    let model = classifier(13).node("Relu", &["a"], "y", vec![]);
    assert!(model.check_with(ClientSplit::HeadAndTail).tail.is_some());
}

#[test]
fn normalisation_and_transpose_run_on_the_client() {
    let model = Model::new(13, &[1, 4, 5, 3])
        .floats("mean", &[3], &[0.4, 0.5, 0.6])
        .floats("std", &[3], &[0.2, 0.25, 0.3])
        .weights("w", &[2, 3, 3, 3])
        .node("Sub", &["x", "mean"], "s", vec![])
        .node("Div", &["s", "std"], "d", vec![])
        .node("Transpose", &["d"], "t", vec![ints("perm", &[0, 3, 1, 2])])
        .node("Conv", &["t", "w"], "y", vec![ints("pads", &[1, 1, 1, 1])]);
    let imported = model.check_with(ClientSplit::HeadAndTail);
    assert!(imported.head.is_some() && imported.tail.is_none());
    assert_eq!(imported.image.unwrap().order, peregrine_ir::client::ImageOrder::Nhwc);
}

#[test]
fn bytes_are_cast_on_the_client() {
    let model = Model::new(13, &[1])
        .input(value_info("x", DataType::Uint8, Some(&[1, 1, 4, 4])))
        .weights("w", &[2, 1, 3, 3])
        .node("Cast", &["x"], "f", vec![int("to", 1)])
        .node("Conv", &["f", "w"], "y", vec![]);
    let imported = import(&model.bytes()).unwrap();
    assert_eq!(imported.graph.nodes.len(), 2);
    assert!(imported.head.is_some());
}

#[test]
fn an_input_that_feeds_two_branches_has_no_head() {
    let model = Model::new(13, &[1, 2, 4, 4])
        .weights("w", &[2, 2, 1, 1])
        .floats("h", &[], &[0.5])
        .node("Mul", &["x", "h"], "s", vec![])
        .node("Conv", &["s", "w"], "c", vec![])
        .node("Add", &["c", "x"], "y", vec![]);
    assert!(model.check_with(ClientSplit::HeadAndTail).head.is_none());
}

#[test]
fn a_dynamic_batch_becomes_one() {
    for value in [
        Some(dimension::Value::DimParam("N".into())),
        Some(dimension::Value::DimValue(0)),
        Some(dimension::Value::DimValue(-1)),
        None,
    ] {
        let mut model = classifier(13);
        if let Some(type_proto::Value::TensorType(t)) =
            model.graph.input[0].r#type.as_mut().and_then(|t| t.value.as_mut())
        {
            t.shape.as_mut().unwrap().dim[0] = Dimension { value, ..Dimension::default() };
        }
        let imported = model.outputs(&["a"]).check_with(ClientSplit::HeadAndTail);
        assert_eq!(imported.input.shape, [1, 3, 4, 4]);
    }
}

#[test]
fn export_keeps_head_tail_and_metadata() {
    let mut model = Model::new(11, &[1, 3, 4, 4])
        .floats("mean", &[3, 1, 1], &[0.4, 0.5, 0.6])
        .node("Sub", &["x", "mean"], "s", vec![])
        .weights("w", &[2, 3, 3, 3])
        .node("Conv", &["s", "w"], "c", vec![])
        .node("Softmax", &["c"], "y", vec![int("axis", 1)])
        .proto();
    model.metadata_props.push(tract_onnx::pb::StringStringEntryProto {
        key: "peregrine.labels".into(),
        value: "a, b".into(),
    });
    let bytes = prost::Message::encode_to_vec(&model);
    let imported = import(&bytes).unwrap();
    assert_eq!(imported.labels, ["a", "b"]);
    let exported = export(&imported.graph, Some(&imported)).unwrap();
    let again = import(&exported).unwrap();
    assert_eq!(again.labels, ["a", "b"]);
    assert_eq!((again.head.is_some(), again.tail.is_some()), (true, true));
    let input = super::support::sample(&[1, 3, 4, 4], 1);
    let run = |bytes: &[u8]| Tract::load(bytes).unwrap().run(&input).unwrap();
    super::support::close(&run(&exported), &run(&bytes));
}

#[test]
fn separable_maps_are_exported_as_gathers_and_products() {
    use peregrine_ir::tensor::{Stage, TensorGraph, TensorOp, TensorTables, TensorTy};
    use peregrine_ir::{AxisMap, ConstPool, Origin, OutputPort, Separable};
    let window = |input, output, start, step| AxisMap::window(input, output, start, step).unwrap();
    let mean = AxisMap::collect(4, 2, (0..4).map(|i| (i / 2, i, 0.5))).unwrap();
    let repeat = AxisMap::gather(3, &[0, 0, 1, 1, 2, 2]).unwrap();
    for maps in [
        [window(2, 3, -1, 1), repeat, mean.clone()],
        [window(2, 2, 1, -1), mean, AxisMap::identity(4)],
        [AxisMap::identity(2), AxisMap::identity(3), window(4, 5, -2, 1)],
    ] {
        let map = Separable { maps };
        let (input, output) = (map.input().map(|e| e as usize), map.output().map(|e| e as usize));
        let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Imported };
        let mut graph = TensorGraph::new("net", tables);
        let ty = |[c, h, w]: [usize; 3]| TensorTy::map(c, h, w);
        let x = graph.add(TensorOp::Input { name: "x".into() }, [], ty(input), Origin::new("x"));
        let value = graph.add(TensorOp::Separable(map), [x], ty(output), Origin::new("map"));
        graph.outputs.push(OutputPort { name: "y".into(), value });
        let image = super::support::sample(&graph.nodes[x].ty.shape, 5);
        let batch = peregrine_passes::tensor::interp::Batch::new(&image.shape[1..], image.data.clone());
        let expected = peregrine_passes::tensor::interp::run(&graph, &batch.unwrap()).unwrap().remove(0);
        let found = Tract::load(&export(&graph, None).unwrap()).unwrap().run(&image).unwrap();
        let expected =
            peregrine_ir::client::ClientTensor { shape: graph.nodes[value].ty.shape.clone(), data: expected };
        super::support::close(&found, &[expected]);
    }
}

#[test]
fn model_local_functions_are_inlined() {
    use tract_onnx::pb::{AttributeProto, FunctionProto, NodeProto, attribute_proto::AttributeType};
    let mut model = Model::new(13, &[1, 2, 3, 3])
        .floats("a", &[2, 1, 1], &[0.5, -1.0])
        .node("PolyAct", &["x", "a"], "p", vec![float("slope", 0.25)])
        .node("PolyAct", &["p", "a"], "y", vec![float("slope", 2.0)])
        .proto();
    for node in &mut model.graph.as_mut().unwrap().node {
        node.domain = "ai.peregrine".into();
    }
    let node = |op: &str, input: &[&str], output: &str| NodeProto {
        op_type: op.into(),
        input: input.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    };
    let reference = AttributeProto {
        name: "value_float".into(),
        r#type: AttributeType::Float as i32,
        ref_attr_name: "slope".into(),
        ..AttributeProto::default()
    };
    let constant = NodeProto { attribute: vec![reference], ..node("Constant", &[], "s") };
    model.functions = vec![FunctionProto {
        name: Some("PolyAct".into()),
        domain: Some("ai.peregrine".into()),
        input: vec!["t".into(), "c".into()],
        output: vec!["r".into()],
        attribute: vec!["slope".into()],
        node: vec![
            constant,
            node("Mul", &["t", "t"], "q"),
            node("Mul", &["c", "q"], "cq"),
            node("Mul", &["t", "s"], "l"),
            node("Add", &["cq", "l"], "r"),
        ],
        ..FunctionProto::default()
    }];
    let imported = import(&prost::Message::encode_to_vec(&model)).unwrap();
    let x = peregrine_passes::tensor::interp::Batch::new(&[2, 3, 3], vec![2.0; 18]).unwrap();
    let y = peregrine_passes::tensor::interp::run(&imported.graph, &x).unwrap();
    let act = |a: f32, s: f32, x: f32| a * x * x + s * x;
    assert_eq!(y[0][0], act(0.5, 2.0, act(0.5, 0.25, 2.0)));
    assert_eq!(y[0][17], act(-1.0, 2.0, act(-1.0, 0.25, 2.0)));
}

#[test]
fn features_become_a_map_on_the_client() {
    let model = Model::new(13, &[1, 6])
        .weights("f", &[6, 5])
        .weights("b", &[5])
        .weights("g", &[5, 3])
        .node("MatMul", &["x", "f"], "m", vec![])
        .node("Add", &["m", "b"], "a", vec![])
        .node("Relu", &["a"], "r", vec![])
        .node("MatMul", &["r", "g"], "y", vec![]);
    for split in [ClientSplit::HeadAndTail, ClientSplit::Off] {
        let imported = model.check_with(split);
        assert!(imported.head.is_some());
        let mut graph = imported.graph;
        let mut manager = peregrine_passes::PassManager::new(peregrine_passes::Verification::EachPass);
        peregrine_passes::tensor::canonical(&mut graph, &mut manager).unwrap();
    }
    // Normalised first: what the head gives is reshaped.
    let model = Model::new(13, &[1, 6])
        .weights("mean", &[6])
        .weights("f", &[6, 5])
        .node("Sub", &["x", "mean"], "s", vec![])
        .node("MatMul", &["s", "f"], "y", vec![]);
    assert_eq!(model.check_with(ClientSplit::HeadAndTail).graph.nodes.len(), 3);
}
