//! Bad input: one clear error each.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto;

use super::support::{Model, float, int, ints};
use crate::onnx::load::value_info;
use crate::onnx::{ImageOverrides, ImportError, ImportOptions, import, import_with};

fn relu() -> Model {
    Model::new(13, &[1, 2, 3, 3]).node("Neg", &["x"], "y", vec![])
}

fn error(bytes: &[u8]) -> ImportError {
    import(bytes).expect_err("the import must fail")
}

#[test]
fn broken_files() {
    assert!(matches!(error(b"not an onnx file at all"), ImportError::Decode { .. } | ImportError::NoGraph));
    assert!(matches!(error(&[]), ImportError::NoGraph));
    let bytes = Model::new(13, &[1, 2, 3, 3])
        .weights("w", &[2, 2, 3, 3])
        .node("Conv", &["x", "w"], "y", vec![])
        .bytes();
    for cut in 1..bytes.len() {
        assert!(import(&bytes[..cut]).is_err(), "a file cut at byte {cut} was accepted");
    }
    let truncated = error(&bytes[..bytes.len() - 3]).to_string();
    assert!(truncated.contains("truncated"), "{truncated}");
}

#[test]
fn operator_sets() {
    for opset in [6, 24] {
        let bytes = Model::new(opset, &[1, 2, 3, 3]).node("Neg", &["x"], "y", vec![]).bytes();
        assert_eq!(error(&bytes), ImportError::Opset { found: opset, min: 7, max: 23 });
    }
    for opset in 7..=23 {
        let bytes = Model::new(opset, &[1, 2, 3, 3]).node("Neg", &["x"], "y", vec![]).bytes();
        assert!(import(&bytes).is_ok());
    }
}

#[test]
fn every_unsupported_node_is_reported() {
    let model = Model::new(13, &[1, 8, 6, 6])
        .weights("w", &[8, 8, 3, 3])
        .node("Sign", &["x"], "first", vec![])
        .node("Conv", &["first", "w"], "c", vec![])
        .node("Softmax", &["c"], "second", vec![])
        .node("InstanceNormalization", &["second", "w", "w"], "third", vec![])
        .node("Conv", &["third", "w"], "y", vec![ints("pads", &[1, 1, 1, 1])]);
    let nodes = model.refused();
    let names: Vec<(&str, &str)> = nodes.iter().map(|n| (n.node.as_str(), n.op.as_str())).collect();
    assert_eq!(names, [("first", "Sign"), ("second", "Softmax"), ("third", "InstanceNormalization")]);
    assert_eq!(nodes[0].shapes[0].as_deref(), Some(&[1, 8, 6, 6][..]));
    let text = error(&model.bytes()).to_string();
    assert!(text.contains("3 ONNX nodes") && text.contains("BatchNormalization"), "{text}");
}

#[test]
fn max_pools_are_reported_with_the_others() {
    let kernel = || vec![ints("kernel_shape", &[2, 2])];
    let model = Model::new(13, &[1, 2, 8, 8]).node("MaxPool", &["x"], "p", kernel());
    let alone = model.node("GlobalAveragePool", &["p"], "y", vec![]);
    assert!(import(&alone.bytes()).is_ok());
    let both = Model::new(13, &[1, 2, 8, 8])
        .node("Sign", &["x"], "e", vec![])
        .node("MaxPool", &["e"], "p", kernel())
        .node("GlobalAveragePool", &["p"], "y", vec![]);
    let ops: Vec<String> = both.refused().into_iter().map(|n| n.op).collect();
    assert_eq!(ops, ["Sign", "MaxPool"]);
}

#[test]
fn unknown_domains() {
    let mut model = relu();
    model.graph.node[0].domain = "com.example".into();
    assert_eq!(model.refused()[0].op, "com.example.Neg");
}

#[test]
fn normalisations_are_refused_by_name() {
    let norm = Model::new(13, &[1, 4, 6, 6])
        .floats("two", &[], &[2.0])
        .floats("e", &[], &[1e-5])
        .weights("w", &[4, 4, 1, 1])
        .node("Conv", &["x", "w"], "c", vec![])
        .node("ReduceMean", &["c"], "m", vec![ints("axes", &[1])])
        .node("Sub", &["c", "m"], "d", vec![])
        .node("Pow", &["d", "two"], "q", vec![])
        .node("ReduceMean", &["q"], "v", vec![ints("axes", &[1])])
        .node("Add", &["v", "e"], "a", vec![])
        .node("Sqrt", &["a"], "s", vec![])
        .node("Div", &["d", "s"], "n", vec![])
        .node("Conv", &["n", "w"], "y", vec![]);
    let nodes = norm.refused();
    assert_eq!(nodes.len(), 1);
    assert!(nodes[0].refusal.why.contains("layer normalisation"), "{}", nodes[0]);
    assert!(nodes[0].refusal.fix.contains("BatchNormalization"), "{}", nodes[0]);
    let root = Model::new(13, &[1, 4, 6, 6]).node("Sqrt", &["x"], "y", vec![]).refused();
    assert!(!root[0].refusal.why.contains("layer normalisation"), "{}", root[0]);
}

#[test]
fn weights_that_are_no_numbers() {
    for bad in [f32::NAN, f32::INFINITY] {
        let conv = Model::new(13, &[1, 2, 4, 4]).floats("w", &[1, 2, 1, 1], &[1.0, bad]);
        let reason = first_reason(conv.node("Conv", &["x", "w"], "y", vec![]));
        assert!(reason.contains("weights hold"), "{reason}");
        let add = Model::new(13, &[1, 2, 4, 4]).floats("c", &[], &[bad]);
        let reason = first_reason(add.node("Add", &["x", "c"], "y", vec![]));
        assert!(reason.contains("weights hold"), "{reason}");
    }
}

#[test]
fn inputs_that_nothing_reads_are_forgotten() {
    let mut model = relu();
    model.graph.input.insert(0, value_info("unread", DataType::Int64, Some(&[7, 2])));
    let imported = import(&model.bytes()).unwrap();
    assert_eq!(imported.input.name, "x");
}

#[test]
fn nodes_of_one_name() {
    let mut model = relu()
        .node("Relu", &["y"], "z", vec![])
        .node("BatchNormalization", &["z", "s", "s", "s", "v"], "u", vec![])
        .weights("s", &[2])
        .floats("v", &[2], &[1.0; 2])
        .outputs(&["u"]);
    model.graph.node[0].name = "same/2".into();
    model.graph.node[1].name = "same".into();
    model.graph.node[2].name = "same".into();
    let imported = model_named(&model);
    assert_eq!(imported, ["same/2", "same", "same/3"]);
}

fn model_named(model: &Model) -> Vec<String> {
    let imported = import(&model.bytes()).unwrap();
    assert!(crate::oracle::Tract::load(&imported.model).is_ok());
    let proto: tract_onnx::pb::ModelProto = prost::Message::decode(imported.model.as_slice()).unwrap();
    proto.graph.unwrap().node.into_iter().map(|n| n.name).collect()
}

fn first_reason(model: Model) -> String {
    model.refused()[0].refusal.why.clone()
}

#[test]
fn reasons() {
    let image = || Model::new(13, &[1, 2, 4, 4]);
    let reason = first_reason(image().weights("c", &[1, 2, 4, 4]).node("Mul", &["x", "c"], "y", vec![]));
    assert!(reason.contains("varies within"), "{reason}");
    let narrow = image().ints("s", &[0]).ints("e", &[3]).ints("d", &[3]).node("Relu", &["x"], "r", vec![]);
    let narrow = narrow.node("Slice", &["r", "s", "e", "d"], "n", vec![]);
    let narrow = narrow.node("Mul", &["r", "n"], "m", vec![]).node("GlobalAveragePool", &["m"], "y", vec![]);
    let narrow = first_reason(narrow);
    assert!(narrow.contains("no common shape"), "{narrow}");
    assert!(first_reason(image().node("Div", &["x", "x"], "y", vec![])).contains("divides by an encrypted"));
    let half = image().floats("e", &[], &[0.5]).node("Pow", &["x", "e"], "y", vec![]);
    assert!(first_reason(half).contains("exponent"));
    let moved = Model::new(13, &[1, 2, 16, 16]).node("Relu", &["x"], "r", vec![]).node(
        "Transpose",
        &["r"],
        "t",
        vec![ints("perm", &[0, 1, 3, 2])],
    );
    let moved = first_reason(moved.node("GlobalAveragePool", &["t"], "y", vec![]));
    assert!(moved.contains("needs 256 maps"), "{moved}");
    let wrap = vec![ints("pads", &[0, 0, 1, 1, 0, 0, 1, 1]), super::support::text("mode", "wrap")];
    assert!(first_reason(Model::new(10, &[1, 2, 4, 4]).node("Pad", &["x"], "y", wrap)).contains("wrap"));
    let filled = image().ints("p", &[0, 0, 1, 1, 0, 0, 1, 1]).floats("v", &[], &[0.5]);
    let filled =
        filled.node("Pad", &["x", "p", "v"], "t", vec![]).node("GlobalAveragePool", &["t"], "y", vec![]);
    assert!(first_reason(filled).contains("vary within the channels"));
    let uneven = image().node("GlobalAveragePool", &["x"], "g", vec![]);
    let uneven = uneven.node("Concat", &["x", "g"], "c", vec![int("axis", 1)]).node(
        "GlobalAveragePool",
        &["c"],
        "y",
        vec![],
    );
    assert!(first_reason(uneven).contains("other sizes"));
    let wide = image().weights("w", &[2, 3, 3, 3]).node("Conv", &["x", "w"], "y", vec![]);
    assert!(first_reason(wide).contains("weights"));
    let huge = image().weights("w", &[2, 2, 7, 7]).node("Conv", &["x", "w"], "y", vec![]);
    assert!(first_reason(huge).contains("does not fit"));
    let kind = image().node("Cast", &["x"], "y", vec![int("to", 7)]);
    assert!(first_reason(kind).contains("INT64"));
    let typed = image().node("LeakyRelu", &["x"], "y", vec![int("alpha", 3)]);
    assert!(first_reason(typed).contains("alpha"));
    let dilated = vec![ints("kernel_shape", &[2, 2]), ints("dilations", &[2, 2])];
    assert!(
        first_reason(Model::new(19, &[1, 2, 4, 4]).node("MaxPool", &["x"], "y", dilated)).contains("dilated")
    );
    let training = image().weights("p", &[2]).floats("v", &[2], &[1.0, 1.0]);
    let attributes = vec![int("training_mode", 1), float("epsilon", 1e-5)];
    assert!(
        first_reason(training.node("BatchNormalization", &["x", "p", "p", "p", "v"], "y", attributes))
            .contains("training")
    );
}

#[test]
fn inputs() {
    let mut two = relu().node("Add", &["y", "z"], "s", vec![]);
    two.graph.input.push(value_info("z", DataType::Float, Some(&[1, 2, 3, 3])));
    assert!(matches!(error(&two.bytes()), ImportError::Inputs { names } if names == ["x", "z"]));
    let integer = relu().input(value_info("x", DataType::Int64, Some(&[1, 2, 3, 3])));
    assert!(matches!(error(&integer.bytes()), ImportError::InputType { value, .. } if value == "x"));
    let batch = relu().input(value_info("x", DataType::Float, Some(&[8, 2, 3, 3])));
    assert!(matches!(error(&batch.bytes()), ImportError::Batch { batch: 8, .. }));
}

#[test]
fn dynamic_sizes_can_be_given() {
    let mut model = relu();
    if let Some(type_proto::Value::TensorType(t)) =
        model.graph.input[0].r#type.as_mut().and_then(|t| t.value.as_mut())
    {
        let value = Some(dimension::Value::DimParam("height".into()));
        t.shape.as_mut().unwrap().dim[2] = Dimension { value, ..Dimension::default() };
    }
    let error = error(&model.bytes());
    assert!(matches!(&error, ImportError::DynamicShape { dimension: 2, .. }));
    assert!(error.to_string().contains("--input-shape"), "{error}");
    let given = |shape: &[usize]| {
        import_with(
            &model.bytes(),
            &ImportOptions { input_shape: Some(shape.to_vec()), ..ImportOptions::default() },
        )
    };
    assert_eq!(given(&[1, 2, 5, 3]).unwrap().input.shape, [1, 2, 5, 3]);
    assert_eq!(given(&[1, 4, 5, 3]).unwrap().input.shape, [1, 4, 5, 3]);
    assert!(matches!(given(&[1, 0, 5, 3]), Err(ImportError::InputShape { .. })));
    assert!(matches!(given(&[1, 2, 5]), Err(ImportError::InputShape { .. })));
}

#[test]
fn graphs_that_contradict_themselves() {
    let undefined = Model::new(13, &[1, 2, 3, 3]).node("Add", &["x", "nowhere"], "y", vec![]);
    assert!(
        matches!(error(&undefined.bytes()), ImportError::UndefinedValue { value, .. } if value == "nowhere")
    );
    let missing = relu().outputs(&["other"]);
    assert!(matches!(error(&missing.bytes()), ImportError::UndefinedValue { value, .. } if value == "other"));
    let constant = relu().weights("w", &[2]).outputs(&["w"]);
    assert_eq!(error(&constant.bytes()), ImportError::ConstantOutput { output: "w".into() });
    let external = tract_onnx::pb::TensorProto {
        name: "e".into(),
        dims: vec![1],
        data_type: 1,
        data_location: Some(1),
        ..Default::default()
    };
    assert_eq!(error(&relu().tensor(external).bytes()), ImportError::ExternalData { tensor: "e".into() });
}

#[test]
fn metadata() {
    let image = |overrides: ImageOverrides| {
        import_with(&relu_rgb().bytes(), &ImportOptions { image: overrides, ..ImportOptions::default() })
            .map(|i| i.image.unwrap())
    };
    let spec =
        image(ImageOverrides { mean: Some(vec![0.1, 0.2, 0.3]), std: Some(vec![0.5]), ..Default::default() })
            .unwrap();
    assert_eq!((spec.mean, spec.std), (vec![0.1, 0.2, 0.3], vec![0.5; 3]));
    assert!(matches!(
        image(ImageOverrides { mean: Some(vec![0.1, 0.2]), ..Default::default() }),
        Err(ImportError::Metadata(_))
    ));
    assert!(matches!(
        image(ImageOverrides { std: Some(vec![0.0]), ..Default::default() }),
        Err(ImportError::Metadata(_))
    ));
    for (key, value) in [
        ("peregrine.input.mean", "a,b"),
        ("peregrine.input.channels", "gray"),
        ("peregrine.input.channels", "cmyk"),
        ("peregrine.labels", "[1, 2"),
    ] {
        let mut proto = relu_rgb().proto();
        proto
            .metadata_props
            .push(tract_onnx::pb::StringStringEntryProto { key: key.into(), value: value.into() });
        let bytes = prost::Message::encode_to_vec(&proto);
        assert!(matches!(error(&bytes), ImportError::Metadata(e) if e.key == key));
    }
}

fn relu_rgb() -> Model {
    Model::new(13, &[1, 3, 4, 4]).node("Neg", &["x"], "y", vec![])
}
