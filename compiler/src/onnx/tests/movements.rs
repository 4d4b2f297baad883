//! Operators that move elements or map coordinates: import, interpret, export, compare with tract.

use peregrine_ir::tensor::{Activation, TensorOp};
use tract_onnx::pb::AttributeProto;

use super::support::{Model, float, int, ints, numbers, text};
use crate::onnx::{ClientSplit, ImportOptions, Imported, import_with};

const IMAGE: [usize; 4] = [1, 6, 4, 5];

fn count(imported: &Imported, op: &str) -> usize {
    imported.graph.nodes.values().filter(|n| n.op.mnemonic() == op).count()
}

fn image(opset: i64) -> Model {
    Model::new(opset, &IMAGE)
}

#[test]
fn slices_of_any_step() {
    let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
        let model = image(13).ints("s", starts).ints("e", ends).ints("a", axes).ints("t", steps);
        let imported = model.node("Slice", &["x", "s", "e", "a", "t"], "y", vec![]).check();
        assert_eq!(count(&imported, "separable"), 1);
    };
    slice(&[-1, 3], &[i64::MIN, 0], &[3, 2], &[-1, -2]);
    slice(&[5], &[0], &[1], &[-2]);
    slice(&[1, 0, 1], &[6, 3, i64::MAX], &[1, 2, 3], &[2, 2, 3]);
    let old = vec![ints("starts", &[1, -3]), ints("ends", &[1000, 4]), ints("axes", &[1, 3])];
    image(9).node("Slice", &["x"], "y", old).check();
}

#[test]
fn pads_of_every_kind() {
    let pads = [0i64, 1, 2, 1, 0, 2, 1, 3];
    image(13).ints("p", &pads).node("Pad", &["x", "p"], "y", vec![]).check();
    for mode in ["edge", "reflect"] {
        let imported =
            image(13).ints("p", &pads).node("Pad", &["x", "p"], "y", vec![text("mode", mode)]).check();
        assert_eq!(count(&imported, "separable"), 1);
    }
    let channels = image(13).ints("p", &[0, 1, 0, 0, 0, 1, 0, 0]).floats("v", &[], &[0.5]);
    channels.node("Pad", &["x", "p", "v"], "y", vec![]).check();
}

#[test]
fn splits_and_gathers() {
    let split = Model::new(13, &IMAGE).ints("w", &[1, 2, 3]);
    let mut model = split.node("Split", &["x", "w"], "a", vec![int("axis", 1)]).outputs(&["a", "b", "c"]);
    model.graph.node[0].output = vec!["a".into(), "b".into(), "c".into()];
    model.check();
    let mut model = image(11).node("Split", &["x"], "a", vec![int("axis", -2)]).outputs(&["b", "a"]);
    model.graph.node[0].output = vec!["a".into(), "b".into()];
    model.check();
    let gather = |indices: &[i64], axis: i64| {
        image(13).ints("i", indices).node("Gather", &["x", "i"], "y", vec![int("axis", axis)]).check();
    };
    gather(&[5, 0, -2, 0], 1);
    gather(&[1, 1, 3], 2);
}

#[test]
fn concatenations_along_every_axis() {
    for axis in [1, 2, -1] {
        let model = image(13).node("Neg", &["x"], "n", vec![]);
        let imported = model.node("Concat", &["x", "n", "x"], "y", vec![int("axis", axis)]).check();
        assert!(count(&imported, "separable") <= 4);
    }
    let constants = image(13).floats("c", &[1, 2, 4, 5], &[vec![0.5; 20], vec![-1.0; 20]].concat());
    constants.node("Concat", &["c", "x"], "y", vec![int("axis", 1)]).check();
    // A part of a concatenation that is cut out again leaves nothing behind.
    let model =
        image(13).node("Neg", &["x"], "n", vec![]).node("Concat", &["n", "x"], "c", vec![int("axis", 1)]);
    let cut = model.ints("s", &[6]).ints("e", &[12]).ints("a", &[1]).node(
        "Slice",
        &["c", "s", "e", "a"],
        "y",
        vec![],
    );
    let imported = cut.node("Relu", &["y"], "z", vec![]).outputs(&["z"]).check();
    assert_eq!((count(&imported, "separable"), count(&imported, "add")), (0, 0));
}

#[test]
fn channel_shuffles() {
    let shuffled = image(13)
        .ints("five", &[1, 2, 3, 4, 5])
        .ints("four", &[0, -1, 4, 5])
        .node("Reshape", &["x", "five"], "r", vec![])
        .node("Transpose", &["r"], "t", vec![ints("perm", &[0, 2, 1, 3, 4])])
        .node("Reshape", &["t", "four"], "y", vec![]);
    assert_eq!(count(&shuffled.check(), "separable"), 1);
    // ShuffleNet V2 as torch exports it: halves by Gather, the batch axis used for the halves.
    let halves = image(13)
        .ints("three", &[3, 2, 20])
        .ints("five", &[2, -1, 3, 4, 5])
        .floats("k", &[3, 3, 1, 1], &numbers(9, 5))
        .tensor(crate::onnx::tensor::Constant::ints(vec![], &[0]).initializer("zero"))
        .tensor(crate::onnx::tensor::Constant::ints(vec![], &[1]).initializer("one"))
        .node("Reshape", &["x", "three"], "r", vec![])
        .node("Transpose", &["r"], "t", vec![ints("perm", &[1, 0, 2])])
        .node("Reshape", &["t", "five"], "f", vec![])
        .node("Gather", &["f", "zero"], "keep", vec![int("axis", 0)])
        .node("Gather", &["f", "one"], "work", vec![int("axis", 0)])
        .node("Conv", &["work", "k"], "c", vec![])
        .node("Concat", &["keep", "c"], "y", vec![int("axis", 1)]);
    halves.check();
}

#[test]
fn space_to_depth_and_back() {
    let blocks = |op: &str, input: &[usize], mode: Option<&str>| {
        let mode = mode.map(|m| text("mode", m));
        let attributes: Vec<AttributeProto> = std::iter::once(int("blocksize", 2)).chain(mode).collect();
        let imported = Model::new(13, input).node(op, &["x"], "y", attributes).check();
        assert_eq!(count(&imported, "separable"), 4, "{op}");
    };
    blocks("SpaceToDepth", &[1, 3, 4, 6], None);
    blocks("DepthToSpace", &[1, 12, 2, 3], Some("DCR"));
    blocks("DepthToSpace", &[1, 12, 2, 3], Some("CRD"));
    // Focus: four strided crops side by side.
    let mut model =
        Model::new(13, &[1, 3, 4, 6]).ints("e", &[100]).ints("t", &[2]).ints("h", &[2]).ints("w", &[3]);
    for (name, value) in [("0", 0), ("1", 1)] {
        model = model.ints(name, &[value]);
    }
    for (i, (row, column)) in [("0", "0"), ("1", "0"), ("0", "1"), ("1", "1")].into_iter().enumerate() {
        let (rows, part) = (format!("r{i}"), format!("p{i}"));
        model = model.node("Slice", &["x", row, "e", "h", "t"], &rows, vec![]).node(
            "Slice",
            &[&rows, column, "e", "w", "t"],
            &part,
            vec![],
        );
    }
    let imported = model.node("Concat", &["p0", "p1", "p2", "p3"], "y", vec![int("axis", 1)]).check();
    assert_eq!(count(&imported, "separable"), 4);
}

#[test]
fn resizes_in_every_mode() {
    let scales = [1.0, 1.0, 2.5, 0.6];
    for transform in
        ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
    {
        for rounding in ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"] {
            let attributes = vec![
                text("mode", "nearest"),
                text("coordinate_transformation_mode", transform),
                text("nearest_mode", rounding),
            ];
            let sizes = image(13).floats("r", &[0], &[]).floats("s", &[0], &[]).ints("n", &[1, 6, 8, 15]);
            sizes.node("Resize", &["x", "r", "s", "n"], "y", attributes.clone()).check();
            image(13).floats("s", &[4], &scales).node("Resize", &["x", "", "s"], "y", attributes).check();
        }
        for mode in ["linear", "cubic"] {
            let attributes = vec![text("mode", mode), text("coordinate_transformation_mode", transform)];
            image(13).floats("s", &[4], &scales).node("Resize", &["x", "", "s"], "y", attributes).check();
        }
    }
}

#[test]
fn upsampling_of_old_operator_sets() {
    let scales = |opset| image(opset).floats("s", &[4], &[1.0, 1.0, 2.0, 3.0]);
    scales(9).node("Upsample", &["x", "s"], "y", vec![text("mode", "nearest")]).check();
    scales(9).node("Upsample", &["x", "s"], "y", vec![text("mode", "linear")]).check();
    scales(10).node("Resize", &["x", "s"], "y", vec![text("mode", "linear")]).check();
}

#[test]
fn transposed_convolutions() {
    let deconv = |weights: &[usize], attributes: Vec<AttributeProto>, bias: usize| {
        Model::new(13, &[1, 4, 5, 6])
            .weights("w", weights)
            .weights("b", &[bias])
            .node("ConvTranspose", &["x", "w", "b"], "y", attributes)
            .check();
    };
    deconv(&[4, 3, 2, 2], vec![ints("strides", &[2, 2])], 3);
    deconv(
        &[4, 3, 3, 3],
        vec![ints("strides", &[2, 2]), ints("pads", &[1; 4]), ints("output_padding", &[1, 1])],
        3,
    );
    deconv(&[4, 3, 4, 3], vec![ints("strides", &[2, 3]), ints("pads", &[1, 0, 2, 1])], 3);
    deconv(&[4, 2, 3, 3], vec![int("group", 2), ints("strides", &[2, 1]), ints("dilations", &[1, 2])], 4);
    deconv(&[4, 1, 4, 4], vec![int("group", 4), ints("strides", &[2, 2]), ints("pads", &[1; 4])], 4);
    deconv(&[4, 3, 1, 1], vec![ints("strides", &[2, 2]), ints("output_padding", &[1, 1])], 3);
    deconv(&[4, 3, 3, 3], vec![text("auto_pad", "SAME_UPPER"), ints("strides", &[2, 2])], 3);
    // More padding than the kernel reaches crops.
    deconv(&[4, 3, 2, 2], vec![ints("strides", &[3, 3]), ints("pads", &[2, 1, 2, 3])], 3);
}

#[test]
fn pools_that_are_cut_by_the_border() {
    let pool = |opset, input: &[usize], attributes: Vec<AttributeProto>| {
        Model::new(opset, input).node("AveragePool", &["x"], "y", attributes).check()
    };
    let window = |k: i64, s: i64, more: Vec<AttributeProto>| {
        [vec![ints("kernel_shape", &[k, k]), ints("strides", &[s, s])], more].concat()
    };
    let cut = pool(13, &[1, 2, 7, 8], window(3, 2, vec![ints("pads", &[1; 4])]));
    assert_eq!(count(&cut, "separable"), 1);
    assert_eq!(count(&pool(13, &[1, 2, 8, 8], window(2, 2, vec![])), "pool"), 1);
    pool(13, &[1, 2, 7, 9], window(5, 1, vec![ints("pads", &[2; 4])]));
    for include in [0, 1] {
        for (k, s, pads) in [(2, 2, [0; 4]), (3, 2, [0; 4]), (3, 2, [1; 4]), (3, 3, [1, 0, 0, 1])] {
            let more = vec![int("ceil_mode", 1), int("count_include_pad", include), ints("pads", &pads)];
            pool(13, &[1, 2, 7, 8], window(k, s, more));
        }
    }
    let dilated = window(2, 1, vec![ints("dilations", &[2, 3]), ints("pads", &[1; 4])]);
    pool(19, &[1, 2, 7, 8], dilated);
}

#[test]
fn reductions() {
    for (axes, keep) in [(&[2i64][..], 1), (&[3], 1), (&[1], 1), (&[1, 2, 3], 1), (&[2, 3], 0)] {
        let attributes = vec![ints("axes", axes), int("keepdims", keep)];
        image(13).node("ReduceMean", &["x"], "y", attributes.clone()).check();
        image(11).node("ReduceSum", &["x"], "y", attributes).check();
    }
    // Keras: the mean over rows and columns of a map with channels last.
    let last = image(13).node("Transpose", &["x"], "t", vec![ints("perm", &[0, 2, 3, 1])]);
    last.node("ReduceMean", &["t"], "y", vec![ints("axes", &[1, 2]), int("keepdims", 0)]).check();
}

#[test]
fn channels_last() {
    let nhwc = || image(13).node("Transpose", &["x"], "t", vec![ints("perm", &[0, 2, 3, 1])]);
    let back = |m: Model| m.node("Transpose", &["b"], "y", vec![ints("perm", &[0, 3, 1, 2])]);
    let biased =
        nhwc().weights("c", &[6]).node("Add", &["t", "c"], "a", vec![]).node("Relu", &["a"], "b", vec![]);
    assert_eq!(count(&back(biased).check(), "separable"), 0);
    let dense = nhwc().weights("w", &[6, 7]).node("MatMul", &["t", "w"], "b", vec![]);
    assert_eq!(count(&back(dense).check(), "conv"), 1);
    let flat = nhwc().weights("w", &[120, 3]).ints("s", &[1, 120]).node("Reshape", &["t", "s"], "f", vec![]);
    let imported = flat.node("MatMul", &["f", "w"], "y", vec![]).check();
    assert_eq!((count(&imported, "separable"), count(&imported, "fully_connected")), (0, 1));
}

#[test]
fn features_side_by_side_feed_a_layer() {
    let model = image(13)
        .node("Flatten", &["x"], "a", vec![])
        .node("GlobalAveragePool", &["x"], "g", vec![])
        .node("Flatten", &["g"], "b", vec![])
        .node("Concat", &["a", "b"], "c", vec![int("axis", 1)])
        .weights("w", &[126, 4]);
    let imported = model.node("Gemm", &["c", "w"], "y", vec![]).check();
    assert_eq!(count(&imported, "fully_connected"), 2);
}

#[test]
fn repetition() {
    image(13).ints("n", &[1, 1, 2, 3]).node("Tile", &["x", "n"], "y", vec![]).check();
    // Nearest upsampling as torch exports interpolate for old targets.
    let model = image(13)
        .ints("split", &[1, 6, 4, 1, 5, 1])
        .ints("wide", &[1, 6, 4, 2, 5, 2])
        .ints("out", &[1, 6, 8, 10])
        .node("Reshape", &["x", "split"], "a", vec![])
        .node("Expand", &["a", "wide"], "b", vec![])
        .node("Reshape", &["b", "out"], "y", vec![]);
    assert_eq!(count(&model.check(), "separable"), 1);
}

fn only_activation(model: Model) -> Activation {
    let imported = model.check();
    let mut found = imported.graph.nodes.values().filter_map(|n| match &n.op {
        TensorOp::Activation(activation) => Some(*activation),
        _ => None,
    });
    let first = found.next().expect("an activation");
    assert_eq!((found.next(), imported.graph.nodes.len()), (None, 2));
    first
}

#[test]
fn activations_written_as_several_nodes() {
    let number = |m: Model, name: &str, value: f32| m.floats(name, &[], &[value]);
    let gelu = number(number(number(image(13), "r", std::f32::consts::SQRT_2), "one", 1.0), "half", 0.5);
    let gelu = gelu
        .node("Div", &["x", "r"], "d", vec![])
        .node("Erf", &["d"], "e", vec![])
        .node("Add", &["e", "one"], "a", vec![])
        .node("Mul", &["x", "a"], "m", vec![])
        .node("Mul", &["m", "half"], "y", vec![]);
    assert_eq!(only_activation(gelu), Activation::Gelu);
    let mish = image(13).node("Softplus", &["x"], "s", vec![]).node("Tanh", &["s"], "t", vec![]).node(
        "Mul",
        &["x", "t"],
        "y",
        vec![],
    );
    assert_eq!(only_activation(mish), Activation::Mish);
    let swish =
        number(number(number(number(image(13), "three", 3.0), "zero", 0.0), "top", 6.0), "sixth", 1.0 / 6.0);
    let swish = swish
        .node("Add", &["x", "three"], "a", vec![])
        .node("Clip", &["a", "zero", "top"], "c", vec![])
        .node("Mul", &["x", "c"], "m", vec![])
        .node("Mul", &["m", "sixth"], "y", vec![]);
    assert_eq!(only_activation(swish), Activation::HardSwish);
    let tanh = [
        ("cube", 3.0),
        ("b", 0.044_715),
        ("s", (2.0 / std::f32::consts::PI).sqrt()),
        ("one", 1.0),
        ("half", 0.5),
    ];
    let tanh = tanh.into_iter().fold(image(13), |m, (name, value)| number(m, name, value));
    let tanh = tanh
        .node("Pow", &["x", "cube"], "p", vec![])
        .node("Mul", &["p", "b"], "pb", vec![])
        .node("Add", &["x", "pb"], "i", vec![])
        .node("Mul", &["i", "s"], "is", vec![])
        .node("Tanh", &["is"], "t", vec![])
        .node("Add", &["t", "one"], "u", vec![])
        .node("Mul", &["x", "half"], "h", vec![])
        .node("Mul", &["h", "u"], "y", vec![]);
    assert_eq!(only_activation(tanh), Activation::GeluTanh);
    image(13).node("Elu", &["x"], "y", vec![float("alpha", 0.7)]).check();
    image(13).node("Softplus", &["x"], "y", vec![]).check();
}

#[test]
fn means_of_tensors() {
    image(13).node("Neg", &["x"], "n", vec![]).node("Mean", &["x", "n", "x"], "y", vec![]).check();
}

/// A convolution whose weights lie in the file `w.bin`, from byte 4 on.
fn external(location: &str, length: usize) -> Model {
    let mut model =
        Model::new(13, &[1, 2, 4, 4]).weights("w", &[3, 2, 3, 3]).node("Conv", &["x", "w"], "y", vec![]);
    let tensor = &mut model.graph.initializer[0];
    tensor.raw_data.clear();
    tensor.data_location = Some(tract_onnx::pb::tensor_proto::DataLocation::External as i32);
    let entry = |key: &str, value: String| tract_onnx::pb::StringStringEntryProto { key: key.into(), value };
    tensor.external_data = vec![
        entry("location", location.into()),
        entry("offset", "4".into()),
        entry("length", length.to_string()),
    ];
    model
}

#[test]
fn weights_in_files_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let inside =
        Model::new(13, &[1, 2, 4, 4]).weights("w", &[3, 2, 3, 3]).node("Conv", &["x", "w"], "y", vec![]);
    let data = inside.graph.initializer[0].raw_data.clone();
    std::fs::write(folder.path().join("w.bin"), [&[0; 4], data.as_slice()].concat()).unwrap();
    let options = ImportOptions { folder: Some(folder.path().to_owned()), ..ImportOptions::default() };
    let import = |model: Model| import_with(&model.bytes(), &options);
    let found = import(external("w.bin", data.len())).unwrap();
    assert_eq!(found.graph, import(inside).unwrap().graph);
    for (location, length, expected) in [
        ("missing.bin", data.len(), "missing.bin"),
        ("../w.bin", data.len(), "in the model's folder"),
        ("w.bin", data.len() + 1, "are not in the file"),
        ("w.bin", data.len() - 4, "elements"),
    ] {
        let error = import(external(location, length)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn matrices_along_every_axis() {
    let rows = image(13).weights("a", &[3, 4]).node("MatMul", &["a", "x"], "y", vec![]);
    assert_eq!(count(&rows.check(), "separable"), 1);
    let columns = image(13).weights("a", &[5, 2]).node("MatMul", &["x", "a"], "y", vec![]);
    assert_eq!(count(&columns.check(), "separable"), 1);
    let channels = image(13)
        .ints("flat", &[1, 6, 20])
        .ints("map", &[1, 3, 4, 5])
        .weights("a", &[3, 6])
        .node("Reshape", &["x", "flat"], "f", vec![])
        .node("MatMul", &["a", "f"], "m", vec![])
        .node("Reshape", &["m", "map"], "y", vec![]);
    assert_eq!(count(&channels.check(), "conv"), 1);
}

/// The import has an encrypted form, not only a meaning.
fn canonical(imported: &Imported) {
    let mut graph = imported.graph.clone();
    let mut manager = peregrine_passes::PassManager::new(peregrine_passes::Verification::EachPass);
    peregrine_passes::tensor::canonical(&mut graph, &mut manager).unwrap();
}

#[test]
fn features_become_a_map_and_rows_a_line() {
    let decoder = Model::new(13, &[1, 6])
        .weights("w", &[6, 24])
        .weights("v", &[3, 2, 3, 3])
        .ints("map", &[1, 2, 3, 4])
        .node("Gemm", &["x", "w"], "f", vec![])
        .node("Reshape", &["f", "map"], "m", vec![])
        .node("Conv", &["m", "v"], "y", vec![ints("pads", &[1, 1, 1, 1])]);
    canonical(&decoder.check());
    let line = Model::new(13, &[1, 2, 4, 6])
        .weights("w", &[3, 2, 5])
        .ints("line", &[1, 2, 24])
        .node("Reshape", &["x", "line"], "l", vec![])
        .node("Conv", &["l", "w"], "y", vec![ints("pads", &[2, 2])]);
    canonical(&line.check_with(ClientSplit::HeadAndTail));
    line.check();
}
