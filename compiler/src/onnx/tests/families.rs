//! Each operator family: import, interpret, export, compare with tract.

use peregrine_ir::tensor::{Activation, TensorOp};

use super::support::{Model, float, int, ints, text};

fn conv(input: &[usize], weights: &[usize], attributes: Vec<tract_onnx::pb::AttributeProto>) {
    let bias = &weights[..1];
    Model::new(13, input)
        .weights("w", weights)
        .weights("b", bias)
        .node("Conv", &["x", "w", "b"], "y", attributes)
        .check();
}

#[test]
fn convolutions() {
    conv(&[1, 3, 8, 8], &[4, 3, 3, 3], vec![ints("pads", &[1, 1, 1, 1])]);
    conv(&[1, 3, 8, 7], &[4, 3, 3, 2], vec![ints("pads", &[0, 0, 1, 1]), ints("strides", &[2, 2])]);
    conv(&[1, 4, 9, 9], &[6, 2, 3, 3], vec![int("group", 2), ints("dilations", &[2, 1])]);
    conv(&[1, 4, 8, 8], &[4, 1, 3, 3], vec![int("group", 4), ints("pads", &[1, 1, 1, 1])]);
    for mode in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
        conv(&[1, 2, 8, 7], &[3, 2, 3, 3], vec![text("auto_pad", mode), ints("strides", &[2, 2])]);
        conv(&[1, 2, 8, 7], &[3, 2, 2, 2], vec![text("auto_pad", mode)]);
    }
}

#[test]
fn fully_connected() {
    let row = [1, 6];
    let gemm = |c: &[usize], attributes| {
        Model::new(13, &row)
            .weights("w", &[6, 4])
            .weights("c", c)
            .node("Gemm", &["x", "w", "c"], "y", attributes)
            .check();
    };
    gemm(&[4], vec![float("alpha", 0.5), float("beta", 2.0)]);
    gemm(&[1, 4], vec![]);
    gemm(&[1], vec![]);
    let transposed = Model::new(11, &row).weights("w", &[4, 6]);
    transposed.node("Gemm", &["x", "w"], "y", vec![int("transB", 1)]).check();
    Model::new(13, &row).weights("w", &[6, 4]).node("MatMul", &["x", "w"], "y", vec![]).check();
    let residual = Model::new(13, &row).weights("w", &[6, 6]);
    residual.node("Gemm", &["x", "w", "x"], "y", vec![]).check();
}

#[test]
fn batch_norm() {
    let names = ["g", "b", "m"];
    for shape in [&[1, 3, 4, 5][..], &[1, 3]] {
        let model = names.iter().fold(Model::new(9, shape), |m, n| m.weights(n, &[3]));
        let model = model.floats("v", &[3], &[0.5, 1.5, 0.25]);
        model
            .node("BatchNormalization", &["x", "g", "b", "m", "v"], "y", vec![float("epsilon", 1e-3)])
            .check();
    }
}

#[test]
fn activations() {
    let shape = [1, 3, 4, 4];
    let one = |opset, op: &str, attributes: Vec<_>| {
        Model::new(opset, &shape).node(op, &["x"], "y", attributes).check()
    };
    one(9, "Relu", vec![]);
    one(13, "LeakyRelu", vec![float("alpha", 0.1)]);
    one(13, "Sigmoid", vec![]);
    one(13, "Tanh", vec![]);
    one(13, "HardSigmoid", vec![float("alpha", 0.3), float("beta", 0.4)]);
    one(14, "HardSwish", vec![]);
    one(9, "Clip", vec![float("min", -0.5), float("max", 0.75)]);
    let bounds = Model::new(13, &shape).floats("lo", &[], &[0.0]).floats("hi", &[], &[1.0]);
    bounds.node("Clip", &["x", "lo", "hi"], "y", vec![]).check();
    let relu =
        Model::new(13, &shape).floats("lo", &[], &[0.0]).node("Clip", &["x", "lo"], "y", vec![]).check();
    assert!(relu.graph.nodes.values().any(|n| n.op == TensorOp::Activation(Activation::Relu)));
    Model::new(13, &shape).weights("s", &[3, 1, 1]).node("PRelu", &["x", "s"], "y", vec![]).check();
    Model::new(13, &shape).floats("z", &[], &[0.0]).node("Max", &["x", "z"], "y", vec![]).check();
    Model::new(13, &shape).floats("six", &[1], &[1.0]).node("Min", &["six", "x"], "y", vec![]).check();
}

#[test]
fn gates_become_activations() {
    let shape = [1, 3, 4, 4];
    let silu = Model::new(13, &shape)
        .node("Sigmoid", &["x"], "s", vec![])
        .node("Mul", &["s", "x"], "y", vec![])
        .check();
    assert!(silu.graph.nodes.values().any(|n| n.op == TensorOp::Activation(Activation::Silu)));
    let gate = vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
    let swish = Model::new(13, &shape)
        .node("HardSigmoid", &["x"], "s", gate)
        .node("Mul", &["x", "s"], "y", vec![])
        .check();
    assert!(swish.graph.nodes.values().any(|n| n.op == TensorOp::Activation(Activation::HardSwish)));
}

#[test]
fn element_wise_with_constants() {
    let image = [1, 3, 4, 5];
    for op in ["Add", "Sub", "Mul", "Div"] {
        for constant in [&[][..], &[1], &[3, 1, 1], &[1, 3, 1, 1]] {
            let model = || Model::new(13, &image).weights("c", constant);
            model().node(op, &["x", "c"], "y", vec![]).check();
            if op != "Div" {
                model().node(op, &["c", "x"], "y", vec![]).check();
            }
        }
        Model::new(13, &[1, 6]).weights("c", &[6]).node(op, &["x", "c"], "y", vec![]).check();
    }
    Model::new(13, &image).node("Neg", &["x"], "y", vec![]).check();
    Model::new(13, &image)
        .floats("c", &[1, 3, 4, 5], &[0.5; 60])
        .node("Add", &["x", "c"], "y", vec![])
        .check();
}

#[test]
fn element_wise_of_tensors() {
    let model = || {
        Model::new(13, &[1, 3, 4, 5]).floats("c", &[3, 1, 1], &[0.5, -1.0, 2.0]).node(
            "Mul",
            &["x", "c"],
            "t",
            vec![],
        )
    };
    for op in ["Add", "Sub", "Mul"] {
        model().node(op, &["t", "x"], "y", vec![]).check();
    }
    model().node("Sum", &["t", "x", "x"], "y", vec![]).check();
    model()
        .node("Mul", &["x", "x"], "s", vec![])
        .node("Mul", &["s", "c"], "a", vec![])
        .node("Add", &["a", "t"], "y", vec![])
        .check();
    for exponent in [2.0, 3.0, 1.0] {
        model().floats("e", &[], &[exponent]).node("Pow", &["t", "e"], "y", vec![]).check();
    }
}

#[test]
fn pools() {
    let pool = |op: &str, kernel: &[i64], mut attributes: Vec<_>| {
        attributes.push(ints("kernel_shape", kernel));
        Model::new(13, &[1, 2, 7, 8]).node(op, &["x"], "y", attributes).check();
    };
    pool("AveragePool", &[2, 2], vec![ints("strides", &[2, 2])]);
    pool("AveragePool", &[3, 3], vec![ints("pads", &[1, 1, 1, 1]), ints("strides", &[2, 2])]);
    pool("AveragePool", &[3, 3], vec![ints("pads", &[0, 1, 1, 1]), int("count_include_pad", 1)]);
    pool("MaxPool", &[3, 2], vec![ints("pads", &[1, 0, 1, 0]), ints("strides", &[2, 2])]);
    pool("AveragePool", &[3, 3], vec![text("auto_pad", "SAME_UPPER"), ints("strides", &[2, 2])]);
    Model::new(13, &[1, 2, 7, 8]).node("GlobalAveragePool", &["x"], "y", vec![]).check();
    let mean = |keep| vec![ints("axes", &[-1, 2]), int("keepdims", keep)];
    Model::new(13, &[1, 2, 7, 8]).node("ReduceMean", &["x"], "y", mean(1)).check();
    Model::new(11, &[1, 2, 7, 8]).node("ReduceMean", &["x"], "y", mean(0)).check();
    let input = Model::new(18, &[1, 2, 7, 8]).ints("axes", &[2, 3]);
    input.node("ReduceMean", &["x", "axes"], "y", vec![int("keepdims", 0)]).check();
}

#[test]
fn ceil_mode_extends_the_padding() {
    // torch.nn.AvgPool2d(2, 2, ceil_mode=True) of a 3x3 ramp, count_include_pad=False.
    let attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2]), int("ceil_mode", 1)];
    let bytes = Model::new(13, &[1, 1, 3, 3]).node("AveragePool", &["x"], "y", attributes).bytes();
    let imported = crate::onnx::import(&bytes).unwrap();
    let ramp =
        peregrine_passes::tensor::interp::Batch::new(&[1, 3, 3], (0..9).map(|i| i as f32).collect()).unwrap();
    let out = peregrine_passes::tensor::interp::run(&imported.graph, &ramp).unwrap();
    assert_eq!(out[0], [2.0, 3.5, 6.5, 8.0]);
}

#[test]
fn pads_slices_and_concatenations() {
    let image = [1, 3, 5, 6];
    Model::new(9, &image).node("Pad", &["x"], "y", vec![ints("pads", &[0, 0, 1, 2, 0, 0, 3, 0])]).check();
    Model::new(13, &image).ints("p", &[0, 0, 1, 2, 0, 0, 3, 0]).node("Pad", &["x", "p"], "y", vec![]).check();
    Model::new(13, &image).ints("p", &[0, 1, 0, 0, 0, 2, 0, 1]).node("Pad", &["x", "p"], "y", vec![]).check();
    let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
        let model = Model::new(13, &image).ints("s", starts).ints("e", ends).ints("a", axes).ints("t", steps);
        model.node("Slice", &["x", "s", "e", "a", "t"], "y", vec![]).check();
    };
    slice(&[0, 0], &[i64::MAX, i64::MAX], &[2, 3], &[2, 2]);
    slice(&[1, 2], &[4, -1], &[2, 3], &[1, 1]);
    slice(&[1], &[6], &[3], &[3]);
    slice(&[1], &[3], &[1], &[1]);
    slice(&[0], &[3], &[1], &[2]);
    let parts = Model::new(13, &image).floats("c", &[1, 2, 5, 6], &[0.0; 60]);
    parts
        .node("Neg", &["x"], "n", vec![])
        .node("Concat", &["x", "c", "n"], "y", vec![int("axis", 1)])
        .check();
}

#[test]
fn reshapes() {
    let image = [1, 3, 1, 4];
    Model::new(13, &image).node("Flatten", &["x"], "y", vec![]).check();
    Model::new(13, &image).ints("s", &[0, -1]).node("Reshape", &["x", "s"], "y", vec![]).check();
    Model::new(13, &[1, 12]).ints("s", &[-1, 3, 2, 2]).node("Reshape", &["x", "s"], "y", vec![]).check();
    Model::new(11, &image).node("Squeeze", &["x"], "y", vec![ints("axes", &[2])]).check();
    Model::new(13, &image).ints("a", &[-2]).node("Squeeze", &["x", "a"], "y", vec![]).check();
    Model::new(11, &[1, 3]).node("Unsqueeze", &["x"], "y", vec![ints("axes", &[2, 3])]).check();
    Model::new(13, &[1, 3]).ints("a", &[2, -1]).node("Unsqueeze", &["x", "a"], "y", vec![]).check();
    Model::new(13, &image).node("Transpose", &["x"], "y", vec![ints("perm", &[0, 2, 1, 3])]).check();
    Model::new(13, &image)
        .node("Identity", &["x"], "i", vec![])
        .node("Dropout", &["i"], "d", vec![])
        .node("Neg", &["d"], "y", vec![])
        .check();
    Model::new(13, &image)
        .node("Cast", &["x"], "c", vec![int("to", 1)])
        .node("Neg", &["c"], "y", vec![])
        .check();
}

#[test]
fn shape_arithmetic_folds() {
    // What torch exports for x.view(x.size(0), -1).
    let model = Model::new(13, &[1, 3, 2, 2])
        .ints("zero", &[0])
        .ints("minus", &[-1])
        .node("Shape", &["x"], "shape", vec![])
        .node("Gather", &["shape", "zero"], "batch", vec![int("axis", 0)])
        .node("Concat", &["batch", "minus"], "target", vec![int("axis", 0)])
        .node("Reshape", &["x", "target"], "y", vec![]);
    model.check();
}

#[test]
fn halves_and_doubles_are_weights() {
    use tract_onnx::pb::TensorProto;
    let half =
        |v: f32| (((v.abs().log2().floor() as i32 + 15) as u16) << 10) | if v < 0.0 { 0x8000 } else { 0 };
    let raw_data = [0.5, -2.0, 1.0].iter().flat_map(|&v| half(v).to_le_bytes()).collect();
    let halves = TensorProto {
        name: "h".into(),
        dims: vec![3, 1, 1],
        data_type: 10,
        raw_data,
        ..TensorProto::default()
    };
    let model = Model::new(13, &[1, 3, 2, 2]).tensor(halves).node("Cast", &["h"], "c", vec![int("to", 1)]);
    model.node("Mul", &["x", "c"], "y", vec![]).check();
}

#[test]
fn one_spatial_dimension() {
    let signal = || Model::new(13, &[1, 3, 24]);
    for attributes in [
        vec![ints("pads", &[2, 1]), ints("strides", &[2])],
        vec![ints("kernel_shape", &[5]), ints("dilations", &[3])],
        vec![text("auto_pad", "SAME_UPPER"), ints("strides", &[3])],
    ] {
        signal()
            .weights("w", &[4, 3, 5])
            .weights("b", &[4])
            .node("Conv", &["x", "w", "b"], "c", attributes)
            .node("Relu", &["c"], "y", vec![])
            .check();
    }
    let windows = vec![ints("kernel_shape", &[3]), ints("strides", &[2]), ints("pads", &[1, 0])];
    let names = ["g", "b", "m"];
    let net = names.iter().fold(signal().weights("w", &[4, 3, 3]), |m, n| m.weights(n, &[4]));
    net.floats("v", &[4], &[0.5, 1.5, 0.25, 1.0])
        .node("Conv", &["x", "w"], "c", vec![])
        .node("BatchNormalization", &["c", "g", "b", "m", "v"], "n", vec![])
        .node("AveragePool", &["n"], "a", windows)
        .node("GlobalAveragePool", &["a"], "p", vec![])
        .node("Flatten", &["p"], "f", vec![])
        .weights("d", &[4, 2])
        .node("Gemm", &["f", "d"], "y", vec![])
        .check();
    signal()
        .weights("w", &[3, 2, 4])
        .node("ConvTranspose", &["x", "w"], "y", vec![ints("strides", &[2]), ints("pads", &[1, 1])])
        .check();
    let grouped = vec![int("group", 3), ints("pads", &[1, 1])];
    signal().weights("w", &[6, 1, 3]).node("Conv", &["x", "w"], "y", grouped).check();
}

#[test]
fn causal_convolutions() {
    let last =
        |m: Model, from: &str, to: &str, end: &str| m.node("Slice", &[from, "zero", end, "axis"], to, vec![]);
    let model = Model::new(13, &[1, 4, 80])
        .ints("zero", &[0])
        .ints("axis", &[2])
        .ints("e1", &[-2])
        .ints("e2", &[-4])
        .weights("w", &[70, 4, 3])
        .weights("v", &[70, 70, 3])
        .weights("r", &[70, 4, 1])
        .weights("f", &[70, 3])
        .node("Conv", &["x", "w"], "a", vec![ints("pads", &[2, 2])]);
    let model = last(model, "a", "b", "e1").node("Relu", &["b"], "c", vec![]).node(
        "Conv",
        &["c", "v"],
        "d",
        vec![ints("pads", &[4, 4]), ints("dilations", &[2])],
    );
    last(model, "d", "e", "e2")
        .node("Conv", &["x", "r"], "g", vec![])
        .node("Add", &["e", "g"], "h", vec![])
        .node("Relu", &["h"], "i", vec![])
        .node("ReduceMean", &["i"], "j", vec![ints("axes", &[2]), int("keepdims", 0)])
        .node("Gemm", &["j", "f"], "y", vec![])
        .check();
}

#[test]
fn convolutions_along_channels() {
    // More channels than a movement has blocks: the line must not become rows.
    let gate = Model::new(13, &[1, 80, 3, 4])
        .ints("last", &[-1])
        .weights("w", &[1, 1, 5])
        .node("GlobalAveragePool", &["x"], "p", vec![])
        .node("Squeeze", &["p", "last"], "s", vec![])
        .node("Transpose", &["s"], "t", vec![ints("perm", &[0, 2, 1])])
        .node("Conv", &["t", "w"], "c", vec![ints("pads", &[2, 2])])
        .node("Transpose", &["c"], "u", vec![ints("perm", &[0, 2, 1])])
        .node("Unsqueeze", &["u", "last"], "z", vec![])
        .node("Sigmoid", &["z"], "g", vec![])
        .node("Mul", &["x", "g"], "y", vec![]);
    gate.check();
    Model::new(13, &[1, 24])
        .ints("s", &[1, 2, 12])
        .weights("w", &[4, 1, 3])
        .weights("b", &[4])
        .node("Reshape", &["x", "s"], "r", vec![])
        .node(
            "Conv",
            &["r", "w", "b"],
            "y",
            vec![int("group", 2), ints("strides", &[2]), ints("pads", &[1, 0])],
        )
        .check();
}
