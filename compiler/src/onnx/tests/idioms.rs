//! What exporters of PyTorch, TensorFlow and Paddle write for the same things, against tract.

use peregrine_ir::tensor::{Activation, TensorOp};
use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, TensorProto};

use super::support::{Model, close, int, ints, numbers, sample};
use crate::onnx::load::value_info;
use crate::onnx::{ClientSplit, ImportError, ImportOptions, Imported, import, import_with};
use crate::oracle::Tract;

fn image(opset: i64) -> Model {
    Model::new(opset, &[1, 4, 6, 5])
}

fn activations(imported: &Imported) -> Vec<Activation> {
    let of = |op: &TensorOp| match op {
        TensorOp::Activation(activation) => Some(*activation),
        _ => None,
    };
    imported.graph.nodes.values().filter_map(|node| of(&node.op)).collect()
}

fn count(imported: &Imported, wanted: fn(&TensorOp) -> bool) -> usize {
    imported.graph.nodes.values().filter(|node| wanted(&node.op)).count()
}

#[test]
fn gates_of_squeeze_and_excitation() {
    let gate =
        |m: Model| m.node("GlobalAveragePool", &["x"], "p", vec![]).node("Sigmoid", &["p"], "g", vec![]);
    for inputs in [["x", "g"], ["g", "x"]] {
        let imported = gate(image(13)).node("Mul", &inputs, "y", vec![]).check();
        assert_eq!(count(&imported, |op| matches!(op, TensorOp::Mul)), 1);
    }
    gate(image(13)).node("Add", &["x", "g"], "y", vec![]).check();
    gate(image(13)).node("Sub", &["g", "x"], "y", vec![]).check();
    let flat = image(11)
        .node("ReduceMean", &["x"], "p", vec![ints("axes", &[2, 3]), int("keepdims", 0)])
        .weights("w", &[4, 4])
        .node("Gemm", &["p", "w"], "f", vec![])
        .node("Sigmoid", &["f"], "s", vec![])
        .ints("shape", &[1, 4, 1, 1])
        .node("Reshape", &["s", "shape"], "g", vec![])
        .node("Mul", &["x", "g"], "y", vec![]);
    flat.check();
}

#[test]
fn gates_with_channels_last() {
    let last = || vec![ints("perm", &[0, 2, 3, 1])];
    for inputs in [["t", "g"], ["g", "t"]] {
        image(13)
            .node("Relu", &["x"], "r", vec![])
            .node("Transpose", &["r"], "t", last())
            .node("GlobalAveragePool", &["r"], "p", vec![])
            .node("Transpose", &["p"], "q", last())
            .node("Sigmoid", &["q"], "g", vec![])
            .node("Mul", &inputs, "m", vec![])
            .node("Transpose", &["m"], "y", vec![ints("perm", &[0, 3, 1, 2])])
            .check();
    }
}

#[test]
fn gates_per_pixel_and_of_everything() {
    image(13)
        .node("ReduceMean", &["x"], "g", vec![ints("axes", &[1])])
        .node("Mul", &["x", "g"], "y", vec![])
        .check();
    image(13)
        .node("ReduceMean", &["x"], "g", vec![int("keepdims", 0)])
        .node("Sub", &["x", "g"], "y", vec![])
        .check();
}

#[test]
fn means_of_other_ranks_and_orders() {
    image(13)
        .node("ReduceMean", &["x"], "a", vec![ints("axes", &[3]), int("keepdims", 0)])
        .node("ReduceMean", &["a"], "y", vec![ints("axes", &[2]), int("keepdims", 0)])
        .check();
    image(13)
        .node("Transpose", &["x"], "t", vec![ints("perm", &[0, 2, 3, 1])])
        .node("ReduceMean", &["t"], "m", vec![ints("axes", &[1])])
        .node("Transpose", &["m"], "y", vec![ints("perm", &[0, 3, 1, 2])])
        .check();
    image(13)
        .ints("s", &[1, 4, 2, 3, 5])
        .node("Reshape", &["x", "s"], "r", vec![])
        .node("ReduceMean", &["r"], "y", vec![ints("axes", &[3]), int("keepdims", 0)])
        .check();
}

#[test]
fn leaky_relu_in_other_words() {
    let leaky = |m: Model| {
        let found = activations(&m.check());
        assert!(
            matches!(found[..], [Activation::LeakyRelu { alpha }] if (alpha - 0.1).abs() < 1e-6),
            "{found:?}"
        );
    };
    let scaled = || image(13).floats("a", &[], &[0.1]).node("Mul", &["a", "x"], "m", vec![]);
    leaky(scaled().node("Max", &["m", "x"], "y", vec![]));
    leaky(scaled().floats("z", &[], &[0.0]).node("Greater", &["x", "z"], "c", vec![]).node(
        "Where",
        &["c", "x", "m"],
        "y",
        vec![],
    ));
}

#[test]
fn slopes_per_channel_in_other_words() {
    let slopes = numbers(4, 9);
    for shape in [&[1, 4, 1, 1][..], &[4, 1, 1]] {
        let keras = image(11)
            .floats("a", shape, &slopes)
            .floats("half", &[], &[0.5])
            .node("Relu", &["x"], "r", vec![])
            .node("Abs", &["x"], "b", vec![])
            .node("Sub", &["x", "b"], "d", vec![])
            .node("Mul", &["a", "d"], "m", vec![])
            .node("Mul", &["m", "half"], "h", vec![])
            .node("Add", &["r", "h"], "y", vec![]);
        assert!(matches!(activations(&keras.check())[..], [Activation::PRelu { .. }]));
    }
    let last = image(11)
        .node("Transpose", &["x"], "t", vec![ints("perm", &[0, 2, 3, 1])])
        .floats("a", &[4], &slopes)
        .node("Relu", &["t"], "r", vec![])
        .node("Neg", &["t"], "n", vec![])
        .node("Relu", &["n"], "s", vec![])
        .node("Mul", &["a", "s"], "m", vec![])
        .node("Sub", &["r", "m"], "u", vec![])
        .node("Transpose", &["u"], "y", vec![ints("perm", &[0, 3, 1, 2])]);
    assert!(matches!(activations(&last.check())[..], [Activation::PRelu { .. }]));
}

#[test]
fn relu6_as_min_of_max() {
    let model = image(9).floats("z", &[], &[0.0]).floats("s", &[], &[1.5]);
    let model = model.node("Max", &["x", "z"], "m", vec![]).node("Min", &["m", "s"], "y", vec![]);
    assert_eq!(activations(&model.check()), [Activation::Clip { low: 0.0, high: 1.5 }]);
}

#[test]
fn scaled_activations() {
    let quick = image(13).floats("b", &[], &[1.702]);
    let quick = quick.node("Mul", &["x", "b"], "s", vec![]).node("Sigmoid", &["s"], "g", vec![]);
    assert_eq!(activations(&quick.node("Mul", &["x", "g"], "y", vec![]).check()), [Activation::Silu]);
    image(13).node("Selu", &["x"], "y", vec![]).check();
}

#[test]
fn only_the_first_cause_is_reported() {
    let model = image(13)
        .node("Sign", &["x"], "a", vec![])
        .node("Sigmoid", &["a"], "s", vec![])
        .node("Mul", &["a", "s"], "b", vec![])
        .node("Shape", &["b"], "h", vec![])
        .node("Reshape", &["b", "h"], "c", vec![])
        .node("GlobalAveragePool", &["c"], "y", vec![]);
    let names: Vec<String> = model.refused().into_iter().map(|n| n.op).collect();
    assert_eq!(names, ["Sign"]);
}

/// A convolution whose weights have this type.
fn typed(kind: DataType, raw: impl Fn(f32) -> Vec<u8>) -> ModelProto {
    let tensor = TensorProto {
        name: "w".into(),
        dims: vec![2, 4, 1, 1],
        data_type: kind as i32,
        raw_data: numbers(8, 4).into_iter().flat_map(raw).collect(),
        ..TensorProto::default()
    };
    let mut proto = image(13).tensor(tensor).node("Conv", &["x", "w"], "y", vec![]).proto();
    if let Some(graph) = proto.graph.as_mut() {
        graph.input = vec![value_info("x", kind, Some(&[1, 4, 6, 5]))];
        graph.output = vec![value_info("y", kind, None)];
    }
    proto
}

#[test]
fn doubles_and_halves_are_computed_as_floats() {
    let floats = typed(DataType::Float, |x| x.to_le_bytes().to_vec());
    let doubles = typed(DataType::Double, |x| f64::from(x).to_le_bytes().to_vec());
    let input = sample(&[1, 4, 6, 5], 2);
    let run = |proto: &ModelProto| {
        let imported = import(&proto.encode_to_vec()).unwrap();
        Tract::load(&imported.model).unwrap().run(&input).unwrap()
    };
    close(&run(&doubles), &run(&floats));
    let ones = |kind| {
        typed(kind, move |_| if kind == DataType::Float16 { vec![0x00, 0x3c] } else { vec![0x80, 0x3f] })
    };
    close(&run(&ones(DataType::Float16)), &run(&ones(DataType::Bfloat16)));
}

#[test]
fn a_bug_of_tract_is_an_error() {
    let model = image(13).ints("p", &[0, 0, -1, 1, 0, 0, -2, -1]).node("Pad", &["x", "p"], "y", vec![]);
    let run = Tract::load(&model.bytes()).and_then(|tract| tract.run(&sample(&[1, 4, 6, 5], 1)));
    assert!(run.is_err());
}

#[test]
fn a_fixed_size_can_be_replaced() {
    let model =
        Model::new(9, &[10, 3, 8, 8]).weights("w", &[2, 3, 3, 3]).node("Conv", &["x", "w"], "y", vec![]);
    let error = import(&model.bytes()).unwrap_err();
    assert!(error.to_string().contains("--input-shape"), "{error}");
    let options = ImportOptions { input_shape: Some(vec![1, 3, 6, 9]), ..ImportOptions::default() };
    assert_eq!(import_with(&model.bytes(), &options).unwrap().input.shape, [1, 3, 6, 9]);
    let deep = ImportOptions { input_shape: Some(vec![1, 4, 6, 9]), ..ImportOptions::default() };
    assert!(matches!(import_with(&model.bytes(), &deep), Err(ImportError::Unsupported(_))));
}

#[test]
fn scales_of_old_upsamples() {
    let scales = tract_onnx::pb::AttributeProto {
        name: "scales".into(),
        r#type: 6,
        floats: vec![1.0, 1.0, 2.0, 2.0],
        ..Default::default()
    };
    let model = image(8).node("Upsample", &["x"], "y", vec![scales]);
    assert_eq!(model.check().graph.nodes.values().last().unwrap().ty.shape, [1, 4, 12, 10]);
}

/// Boxes and scores of a detector.
fn detector() -> Model {
    image(11)
        .weights("w", &[4, 4, 3, 3])
        .weights("v", &[2, 4, 3, 3])
        .node("Conv", &["x", "w"], "b", vec![])
        .node("Conv", &["x", "v"], "c", vec![])
        .ints("flat", &[1, 4, -1])
        .ints("flatter", &[1, 2, -1])
        .node("Reshape", &["b", "flat"], "bt", vec![])
        .node("Transpose", &["bt"], "boxes", vec![ints("perm", &[0, 2, 1])])
        .node("Reshape", &["c", "flatter"], "ct", vec![])
        .node("Sigmoid", &["ct"], "scores", vec![])
}

#[test]
fn bounds_of_suppression_may_be_scalars() {
    let limit = TensorProto {
        name: "limit".into(),
        data_type: DataType::Int64 as i32,
        int64_data: vec![3],
        ..TensorProto::default()
    };
    let inputs = ["boxes", "scores", "limit", "t", "t"];
    let model = detector().tensor(limit).floats("t", &[], &[0.5]);
    let imported = model.node("NonMaxSuppression", &inputs, "y", vec![]).check_with(ClientSplit::HeadAndTail);
    assert!(imported.cut.is_none() && imported.tail.is_some());
}

#[test]
fn an_end_that_cannot_be_run_is_cut_off() {
    let model = detector().node("Loop", &["boxes", "scores"], "y", vec![]);
    let imported = import(&model.bytes()).unwrap();
    let cut = imported.cut.clone().unwrap();
    assert_eq!((cut.lost, cut.given), (vec!["y".into()], vec!["boxes".into(), "scores".into()]));
    let found = Tract::load(&imported.model).unwrap().run(&sample(&[1, 4, 6, 5], 1)).unwrap();
    assert_eq!(found.len(), 2);
    let weighty =
        detector().node("Loop", &["boxes", "scores"], "l", vec![]).node("Conv", &["l", "w"], "y", vec![]);
    assert!(import(&weighty.bytes()).is_err());
}

#[test]
fn inputs_that_only_the_end_reads_are_cut_off() {
    let mut model = detector().node("Mul", &["boxes", "size"], "z", vec![]).outputs(&["z", "scores"]);
    model.graph.input.push(value_info("size", DataType::Float, Some(&[1, 1])));
    let imported = import(&model.bytes()).unwrap();
    assert_eq!(imported.outputs, ["scores", "boxes"]);
    assert!(imported.cut.unwrap().why.contains("size"));
}

#[test]
fn dropout_in_training_is_refused() {
    let flag = |value: u8| TensorProto {
        name: "t".into(),
        data_type: DataType::Bool as i32,
        raw_data: vec![value],
        ..TensorProto::default()
    };
    let model = |value| image(13).tensor(flag(value)).node("Dropout", &["x", "", "t"], "d", vec![]);
    let end = |m: Model| m.node("GlobalAveragePool", &["d"], "y", vec![]);
    assert!(import(&end(model(0)).bytes()).is_ok());
    assert!(end(model(1)).refused()[0].refusal.why.contains("training"));
}

#[test]
fn celu_and_log_sigmoid() {
    let celu = |alpha: f32| image(13).node("Celu", &["x"], "y", vec![super::support::float("alpha", alpha)]);
    assert!(celu(0.5).refused()[0].refusal.why.contains("0.5"));
    let celu = celu(1.0).check();
    assert_eq!(activations(&celu), [Activation::Elu { alpha: 1.0 }]);
    let log = image(13).node("Sigmoid", &["x"], "s", vec![]).node("Log", &["s"], "y", vec![]).check();
    assert_eq!(activations(&log), [Activation::Softplus]);
}

#[test]
fn maxima_become_means_before_layers_only() {
    let options = ImportOptions { max_pools: crate::onnx::MaxPools::Average, ..ImportOptions::default() };
    let model = image(13)
        .weights("w", &[4, 4, 3, 3])
        .weights("v", &[40, 1, 3, 3])
        .node("Conv", &["x", "w"], "c", vec![])
        .node("ReduceMax", &["c"], "m", vec![ints("axes", &[1])])
        .node("Conv", &["m", "v"], "d", vec![])
        .node("MaxPool", &["d"], "y", vec![ints("kernel_shape", &[2, 1])]);
    let imported = import_with(&model.bytes(), &options).unwrap();
    assert_eq!(imported.averaged, ["m"]);
    let tail = ModelProto::decode(imported.tail.unwrap().as_slice()).unwrap();
    assert_eq!(tail.graph.unwrap().node[0].op_type, "MaxPool");
    let kept = import(&model.bytes()).unwrap_err().to_string();
    assert!(kept.contains("ReduceMax") && kept.contains("--maxpool avg"), "{kept}");
}

#[test]
fn grids_of_coordinates_fold() {
    let coordinates: Vec<f32> = (0..16).map(|i| i as f32).collect();
    Model::new(13, &[1, 16, 2, 2])
        .floats("c", &[16, 1], &coordinates)
        .ints("s", &[16, 1])
        .ints("map", &[1, 16, 1, 1])
        .node("Expand", &["c", "s"], "g", vec![])
        .node("Reshape", &["g", "map"], "m", vec![])
        .node("Add", &["x", "m"], "y", vec![])
        .check();
    let huge = |op: &str, shape: &[i64]| {
        let model = Model::new(13, &[1, 16, 2, 2]).floats("c", &[1, 1], &[2.0]).ints("s", shape);
        let model = model.node(op, &["c", "s"], "g", vec![]).node("Add", &["x", "g"], "y", vec![]);
        assert!(model.refused()[0].refusal.why.contains("elements"));
    };
    huge("Expand", &[1 << 20, 1 << 20]);
    huge("Tile", &[1 << 20, 1 << 20]);
    huge("Pad", &[0, 1 << 40, 0, 0]);
}
