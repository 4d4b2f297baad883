//! What the end of a model costs: movements of outputs and what does not fold into a layer run on the client.

use tract_onnx::pb::TensorProto;

use super::support::{Model, float, int, ints};
use crate::onnx::tensor::Constant;
use crate::onnx::{ClientSplit, ImportError, Imported, import};

fn on_client(model: &Model) -> Imported {
    model.check_with(ClientSplit::HeadAndTail)
}

/// Operations of the encrypted part, without inputs.
fn server(imported: &Imported) -> Vec<&'static str> {
    imported.graph.nodes.values().map(|n| n.op.mnemonic()).filter(|op| *op != "input").collect()
}

fn number(name: &str, value: i64) -> TensorProto {
    TensorProto { dims: vec![], ..Constant::ints(vec![1], &[value]).initializer(name) }
}

fn dense_on_pixels() -> Model {
    Model::new(13, &[1, 3, 4, 5])
        .weights("v", &[3, 3, 1, 1])
        .weights("w", &[3, 7])
        .weights("b", &[7])
        .node("Conv", &["x", "v"], "c", vec![])
        .node("Transpose", &["c"], "t", vec![ints("perm", &[0, 2, 3, 1])])
        .node("MatMul", &["t", "w"], "m", vec![])
}

#[test]
fn outputs_with_channels_last_leave_the_server_as_they_are() {
    let imported = on_client(&dense_on_pixels().node("Add", &["m", "b"], "y", vec![]));
    assert!(!server(&imported).contains(&"separable"), "{:?}", server(&imported));
    assert!(imported.tail.is_some());
    // Beside it an output that is not moved.
    let model = dense_on_pixels()
        .weights("u", &[2, 3, 1, 1])
        .node("Conv", &["x", "u"], "z", vec![])
        .outputs(&["z", "m"]);
    let imported = on_client(&model);
    assert_eq!(imported.outputs, ["z", "m"]);
}

#[test]
fn outputs_of_several_tensors_and_constants_are_put_together_by_the_client() {
    let model = Model::new(13, &[1, 2, 3, 4])
        .weights("v", &[2, 2, 1, 1])
        .weights("w", &[1, 5, 3, 3])
        .weights("k", &[1, 1, 3, 4])
        .ints("order", &[3, 0, 2, 1])
        .node("Conv", &["x", "v"], "a", vec![])
        .node("Concat", &["a", "x", "k"], "c", vec![int("axis", 1)])
        .node("Gather", &["c", "order"], "y", vec![int("axis", 3)])
        .node("Conv", &["c", "w"], "z", vec![ints("pads", &[1, 1, 1, 1])])
        .outputs(&["z", "c", "y"]);
    // The encrypted part has no form for a constant that varies within a map, but the client has.
    let error = import(&model.bytes()).unwrap_err().to_string();
    assert!(error.contains("vary within the channels"), "{error}");
    let model = Model::new(13, &[1, 2, 3, 4])
        .weights("v", &[2, 2, 1, 1])
        .weights("w", &[1, 4, 3, 3])
        .node("Conv", &["x", "v"], "a", vec![])
        .node("Concat", &["a", "x"], "c", vec![int("axis", 1)])
        .node("Conv", &["c", "w"], "z", vec![ints("pads", &[1, 1, 1, 1])])
        .outputs(&["z", "c"]);
    let imported = on_client(&model);
    assert_eq!(imported.graph.outputs.len(), 3);
}

#[test]
fn what_does_not_fold_into_a_layer_runs_on_the_client() {
    let tapped = |op: &str, constant: &[usize]| {
        Model::new(13, &[1, 2, 3, 4])
            .weights("v", &[2, 2, 3, 3])
            .weights("w", &[2, 2, 1, 1])
            .weights("k", constant)
            .node("Conv", &["x", "v"], "a", vec![ints("pads", &[1, 1, 1, 1])])
            .node("Relu", &["a"], "r", vec![])
            .node("Conv", &["r", "w"], "z", vec![])
            .node(op, &["r", "k"], "y", vec![])
            .outputs(&["z", "y"])
    };
    for op in ["Mul", "Add", "Sub"] {
        assert_eq!(server(&on_client(&tapped(op, &[1, 2, 1, 1]))), ["conv", "relu", "conv"]);
    }
    let after_layer = |constant: &[usize]| {
        let model = Model::new(13, &[1, 2, 3, 4]).weights("v", &[2, 2, 3, 3]).weights("k", constant);
        let model = model.node("Conv", &["x", "v"], "a", vec![ints("pads", &[1, 1, 1, 1])]);
        on_client(&model.node("Mul", &["a", "k"], "y", vec![]))
    };
    assert!(after_layer(&[2, 1, 1]).tail.is_none());
    assert!(after_layer(&[]).tail.is_none());
    // One factor per row is none per channel.
    assert_eq!(server(&after_layer(&[1, 1, 3, 1])), ["conv"]);
    let flat = Model::new(13, &[1, 2, 3, 4])
        .weights("v", &[2, 2, 1, 1])
        .weights("k", &[24])
        .ints("from", &[3])
        .ints("to", &[20])
        .node("Conv", &["x", "v"], "a", vec![])
        .node("Flatten", &["a"], "f", vec![])
        .node("Add", &["f", "k"], "p", vec![])
        .ints("axis", &[1])
        .node("Slice", &["p", "from", "to", "axis"], "y", vec![]);
    assert_eq!(server(&on_client(&flat)), ["conv", "reshape"]);
}

#[test]
fn the_input_may_go_around_all_layers() {
    let model = Model::new(13, &[1, 2, 3, 4])
        .weights("v", &[8, 2, 3, 3])
        .floats("up", &[4], &[1.0, 1.0, 2.0, 2.0])
        .node("Conv", &["x", "v"], "a", vec![ints("pads", &[1, 1, 1, 1])])
        .node("DepthToSpace", &["a"], "d", vec![int("blocksize", 2)])
        .node("Resize", &["x", "", "up"], "r", vec![])
        .node("Add", &["d", "r"], "y", vec![]);
    assert_eq!(on_client(&model).graph.outputs.len(), 2);
}

#[test]
fn models_without_layers_are_refused_as_such() {
    let refused = |model: Model| match import(&model.bytes()) {
        Err(error @ ImportError::NothingToCompute { .. }) => error.to_string(),
        other => panic!("{:?}", other.map(|i| i.graph)),
    };
    let image = || Model::new(13, &[1, 2, 3, 4]);
    assert!(refused(image().outputs(&["x"])).contains("output \"x\" is the input itself"));
    refused(image().node("Identity", &["x"], "y", vec![]));
    refused(image().node("Transpose", &["x"], "y", vec![ints("perm", &[0, 2, 3, 1])]));
    refused(image().node("Relu", &["x"], "y", vec![]));
    refused(image().node("Mul", &["x", "x"], "y", vec![]));
    // Beside another output, the input is left out.
    let model =
        image().weights("v", &[2, 2, 1, 1]).node("Conv", &["x", "v"], "y", vec![]).outputs(&["x", "y"]);
    let imported = import(&model.bytes()).unwrap();
    assert_eq!((imported.outputs.len(), imported.cut.unwrap().lost), (1, vec!["x".to_owned()]));
}

#[test]
fn a_square_of_a_concatenation_is_one() {
    let model = Model::new(13, &[1, 2, 3, 4])
        .weights("v", &[2, 2, 1, 1])
        .node("Conv", &["x", "v"], "a", vec![])
        .node("Concat", &["a", "x"], "c", vec![int("axis", 1)])
        .node("Mul", &["c", "c"], "y", vec![]);
    let imported = model.check();
    let product = imported.graph.nodes.values().find(|n| n.op.mnemonic() == "mul").unwrap();
    assert_eq!(product.args[0], product.args[1]);
}

#[test]
fn rows_of_features_go_through_dense_layers() {
    let rows = |op: &str| {
        let model = Model::new(13, &[1, 4, 1, 6]).weights("v", &[4, 4, 1, 1]).weights("w", &[4, 5]);
        let model = model.weights("b", &[5]).ints("rows", &[6, 4]).node("Conv", &["x", "v"], "c", vec![]);
        let model = model.node("Transpose", &["c"], "t", vec![ints("perm", &[3, 0, 2, 1])]);
        let model = model.node("Reshape", &["t", "rows"], "r", vec![]);
        match op {
            "Gemm" => model.node("Gemm", &["r", "w", "b"], "y", vec![float("alpha", 0.5)]),
            _ => model.node("MatMul", &["r", "w"], "y", vec![]),
        }
    };
    for op in ["Gemm", "MatMul"] {
        assert_eq!(server(&on_client(&rows(op))), ["conv", "conv"], "{op}");
    }
    // Time first, as recurrent heads have it.
    let model = Model::new(13, &[1, 4, 1, 6])
        .weights("v", &[4, 4, 1, 1])
        .weights("w", &[4, 5])
        .node("Conv", &["x", "v"], "c", vec![])
        .node("Transpose", &["c"], "t", vec![ints("perm", &[3, 0, 2, 1])])
        .ints("line", &[6, 1, 4])
        .node("Reshape", &["t", "line"], "r", vec![])
        .node("MatMul", &["r", "w"], "m", vec![])
        .node("Softmax", &["m"], "y", vec![int("axis", 2)]);
    assert_eq!(server(&on_client(&model)), ["conv", "conv"]);
}

#[test]
fn sequences_and_likes_of_exporters() {
    let model = |opset: i64| {
        Model::new(opset, &[1, 5, 3, 4])
            .weights("v", &[2, 3, 1, 1])
            .weights("w", &[2, 2, 1, 1])
            .ints("sizes", &[2, 3])
            .tensor(number("zero", 0))
            .tensor(number("last", -1))
            .floats("k", &[], &[0.5])
            .node("SplitToSequence", &["x", "sizes"], "s", vec![int("axis", 1)])
            .node("SequenceAt", &["s", "zero"], "a", vec![])
            .node("SequenceAt", &["s", "last"], "b", vec![])
            .node("Conv", &["b", "v"], "c", vec![])
            .node("Conv", &["a", "w"], "d", vec![])
            .node("Add", &["c", "d"], "e", vec![])
    };
    model(11).node("Mul", &["e", "k"], "y", vec![]).check();
    model(15).node("CastLike", &["k", "e"], "l", vec![]).node("Mul", &["e", "l"], "y", vec![]).check();
    // A member that is not known.
    let open = Model::new(13, &[1, 4, 3, 3]).ints("sizes", &[2, 2]).tensor(number("two", 2));
    let open = open.node("SplitToSequence", &["x", "sizes"], "s", vec![int("axis", 1)]);
    let refused = open.node("SequenceAt", &["s", "two"], "y", vec![]).refused();
    assert_eq!(refused[0].op, "SplitToSequence");
}
