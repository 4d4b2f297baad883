//! Type rules and the tensor verifier: each rule holds once and is broken once.

use super::*;
use crate::axis::{AxisMap, Separable};
use crate::consts::{ConstId, ConstTensor};
use crate::graph::{OutputPort, ValueId};
use crate::samples::tensor;
use crate::verify::{AnyStage, Counted, Entity, Problem, Site};

fn c(id: u32) -> ConstId {
    ConstId(id)
}

/// c0: weights 4x2x3x3, c1: `[4]`, c2: `[1]`, c3: `[5, 4]`, c4: `[4, 3]`, c5: weights 4x2x5x1
fn consts() -> ConstPool {
    let shapes: [&[usize]; 6] = [&[4, 2, 3, 3], &[4], &[1], &[5, 4], &[4, 3], &[4, 2, 5, 1]];
    shapes.map(|s| ConstTensor::f32(s, vec![0.5; s.iter().product()])).into_iter().collect()
}

fn infer_one(op: &TensorOp, shape: &[usize]) -> Result<Vec<usize>, TypeError> {
    infer(op, &[&TensorTy { shape: shape.to_vec() }], &consts()).map(|ty| ty.shape)
}

fn conv() -> Conv {
    Conv { weights: c(0), bias: Some(c(1)), stride: [2, 1], pads: [1, 2, 0, 1], dilation: [1, 2], groups: 2 }
}

fn pool() -> Pool {
    Pool { kind: PoolKind::Max, kernel: [3, 2], stride: [2, 2], pads: [1, 0, 1, 1] }
}

#[test]
fn convolutions() {
    let shape = [1, 4, 7, 9];
    // Rows: (7 + 1 + 0 - 3) / 2 + 1, columns: (9 + 2 + 1 - 5) / 1 + 1.
    assert_eq!(infer_one(&TensorOp::Conv(conv()), &shape), Ok(vec![1, 4, 3, 8]));
    let tall = Conv { weights: c(5), pads: [0; 4], stride: [1, 1], dilation: [1, 1], ..conv() };
    assert_eq!(infer_one(&TensorOp::Conv(tall), &shape), Ok(vec![1, 4, 3, 9]));
    let refuse = |conv: Conv, shape: &[usize]| infer_one(&TensorOp::Conv(conv), shape).unwrap_err();
    assert!(matches!(refuse(conv(), &[1, 4]), TypeError::Rank { .. }));
    assert!(matches!(refuse(conv(), &[2, 4, 7, 9]), TypeError::Shape(_)));
    assert!(matches!(refuse(conv(), &[1, 4, 0, 9]), TypeError::Shape(_)));
    assert!(matches!(refuse(Conv { stride: [0, 1], ..conv() }, &shape), TypeError::Zero { .. }));
    assert!(matches!(refuse(Conv { dilation: [1, 0], ..conv() }, &shape), TypeError::Zero { .. }));
    assert!(matches!(refuse(Conv { groups: 0, ..conv() }, &shape), TypeError::Zero { .. }));
    assert!(matches!(refuse(Conv { groups: 3, ..conv() }, &shape), TypeError::Groups { .. }));
    assert!(matches!(refuse(Conv { groups: 4, ..conv() }, &shape), TypeError::ConstShape { .. }));
    assert!(matches!(refuse(Conv { weights: c(1), ..conv() }, &shape), TypeError::ConstShape { .. }));
    assert!(matches!(refuse(Conv { bias: Some(c(2)), ..conv() }, &shape), TypeError::ConstShape { .. }));
    assert_eq!(refuse(Conv { weights: c(9), ..conv() }, &shape), TypeError::UnknownConst(c(9)));
    assert!(matches!(refuse(Conv { dilation: [9, 9], ..conv() }, &shape), TypeError::Window { .. }));
    assert!(matches!(refuse(Conv { dilation: [u32::MAX; 2], ..conv() }, &shape), TypeError::Window { .. }));
    assert!(matches!(refuse(Conv { pads: [u32::MAX; 4], ..conv() }, &shape), TypeError::Shape(_)));
}

#[test]
fn pools_pads_and_reshapes() {
    let shape = [1, 4, 7, 9];
    assert_eq!(infer_one(&TensorOp::Pool(pool()), &shape), Ok(vec![1, 4, 4, 5]));
    assert_eq!(infer_one(&TensorOp::GlobalAveragePool, &shape), Ok(vec![1, 4, 1, 1]));
    assert_eq!(infer_one(&TensorOp::Pad { pads: [1, 2, 3, 4] }, &shape), Ok(vec![1, 4, 11, 15]));
    assert_eq!(infer_one(&TensorOp::Reshape { shape: vec![1, 252] }, &shape), Ok(vec![1, 252]));
    let refuse = |pool: Pool| infer_one(&TensorOp::Pool(pool), &shape).unwrap_err();
    assert!(matches!(refuse(Pool { kernel: [0, 1], ..pool() }), TypeError::Zero { .. }));
    assert!(matches!(refuse(Pool { stride: [1, 0], ..pool() }), TypeError::Zero { .. }));
    assert_eq!(refuse(Pool { pads: [0, 2, 0, 0], ..pool() }), TypeError::PoolPad { pad: 2, kernel: 2 });
    assert!(matches!(refuse(Pool { kernel: [99, 2], ..pool() }), TypeError::Window { .. }));
    let reshape = |shape: Vec<usize>| infer_one(&TensorOp::Reshape { shape }, &[1, 4, 7, 9]).unwrap_err();
    assert!(matches!(reshape(vec![1, 251]), TypeError::Reshape { .. }));
    assert!(matches!(reshape(vec![252, 1]), TypeError::Shape(_)));
    assert!(matches!(reshape(vec![1, usize::MAX, 2]), TypeError::Shape(_)));
}

#[test]
fn separable_maps() {
    let window = |input, output, start| AxisMap::window(input, output, start, 1).unwrap();
    let map = |c, h, w| TensorOp::Separable(Separable { maps: [c, h, w] });
    let crop = map(window(4, 6, -1), window(7, 5, 2), window(9, 9, 0));
    assert_eq!(infer_one(&crop, &[1, 4, 7, 9]), Ok(vec![1, 6, 5, 9]));
    let features = map(window(4, 2, 0), window(1, 1, 0), window(1, 1, 0));
    assert_eq!(infer_one(&features, &[1, 4]), Ok(vec![1, 2]));
    assert_eq!(infer_one(&features, &[1, 4, 1, 1]), Ok(vec![1, 2, 1, 1]));
    let refused = |op: &TensorOp, shape: &[usize]| {
        assert!(matches!(infer_one(op, shape), Err(TypeError::Separable { .. })), "{shape:?}");
    };
    refused(&crop, &[1, 4, 9, 7]);
    refused(&crop, &[1, 252]);
    refused(&map(window(4, 2, 0), window(1, 1, 0), window(1, 2, 0)), &[1, 4]);
}

#[test]
fn channels_and_features() {
    let dense = TensorOp::FullyConnected { weights: c(3), bias: None };
    assert_eq!(infer_one(&dense, &[1, 4]), Ok(vec![1, 5]));
    assert!(matches!(infer_one(&dense, &[1, 5]), Err(TypeError::ConstShape { .. })));
    assert!(matches!(infer_one(&dense, &[1, 4, 1, 1]), Err(TypeError::Rank { .. })));
    let biased = TensorOp::FullyConnected { weights: c(3), bias: Some(c(1)) };
    assert!(matches!(infer_one(&biased, &[1, 4]), Err(TypeError::ConstShape { .. })));
    let affine = |mul, add| TensorOp::ChannelAffine { mul: c(mul), add: c(add) };
    assert_eq!(infer_one(&affine(1, 1), &[1, 4, 2, 3]), Ok(vec![1, 4, 2, 3]));
    assert!(infer_one(&affine(2, 1), &[1, 4]).is_err() && infer_one(&affine(1, 2), &[1, 4]).is_err());
    let poly = |id| TensorOp::Poly { coefficients: c(id) };
    assert_eq!(infer_one(&poly(4), &[1, 4]), Ok(vec![1, 4]));
    assert!(infer_one(&poly(4), &[1, 3]).is_err() && infer_one(&poly(1), &[1, 4]).is_err());
}

#[test]
fn activations() {
    let infer = |activation, shape: &[usize]| infer_one(&TensorOp::Activation(activation), shape);
    assert_eq!(infer(Activation::Relu, &[1, 4]), Ok(vec![1, 4]));
    assert!(infer(Activation::PRelu { slope: c(1) }, &[1, 4, 2, 2]).is_ok());
    assert!(infer(Activation::PRelu { slope: c(2) }, &[1, 4, 2, 2]).is_ok());
    assert!(infer(Activation::PRelu { slope: c(1) }, &[1, 3, 2, 2]).is_err());
    let crossed = Activation::Clip { low: 1.0, high: 0.0 };
    assert_eq!(infer(crossed, &[1, 4]), Err(TypeError::Activation { op: "clip" }));
    for alpha in [f32::NAN, f32::INFINITY] {
        assert!(infer(Activation::LeakyRelu { alpha }, &[1, 4]).is_err());
        assert!(infer(Activation::HardSigmoid { alpha: 1.0, beta: alpha }, &[1, 4]).is_err());
    }
}

#[test]
fn operands_agree() {
    let (a, b) = (TensorTy::map(2, 3, 4), TensorTy::map(2, 4, 3));
    for op in [TensorOp::Add, TensorOp::Sub, TensorOp::Mul] {
        assert_eq!(infer(&op, &[&a, &a], &consts()), Ok(a.clone()));
        assert!(matches!(infer(&op, &[&a, &b], &consts()), Err(TypeError::Operands { .. })));
        assert!(matches!(infer(&op, &[&a], &consts()), Err(TypeError::Arity { expected: 2, found: 1, .. })));
    }
    assert_eq!(infer(&TensorOp::Input { name: "x".into() }, &[], &consts()), Err(TypeError::Input));
    assert_eq!(a.to_string(), "1x2x3x4");
}

/// The problems of the sample graph after a change.
fn problems(change: impl FnOnce(&mut TensorGraph)) -> Vec<(Site, Problem)> {
    let mut graph = tensor();
    change(&mut graph);
    let errors = verify(&graph).unwrap_err();
    errors.errors.into_iter().map(|e| (e.site, e.problem)).collect()
}

#[test]
fn the_sample_is_valid() {
    verify(&tensor()).unwrap();
}

#[test]
fn rule_1_structure() {
    let found = problems(|g| g.nodes[ValueId(2)].args[0] = ValueId(3));
    assert_eq!(found[0].1, Problem::NotDefinedBefore(ValueId(3)));
    assert!(matches!(&found[0].0, Site::Node { value: ValueId(2), .. }));
    let found = problems(|g| g.nodes[ValueId(2)].args[0] = ValueId(99));
    assert_eq!(found[0].1, Problem::Unknown(Entity::Value(ValueId(99))));
    assert_eq!(problems(|g| g.outputs.clear())[0].1, Problem::None(Counted::Outputs));
    let port = |name: &str, value| OutputPort { name: name.into(), value: ValueId(value) };
    let found = problems(|g| g.outputs.push(port("logits", 0)));
    assert_eq!(found[0].1, Problem::DuplicateName("logits".into()));
    let found = problems(|g| g.outputs.push(port("other", 77)));
    assert_eq!(found[0].1, Problem::Unknown(Entity::Value(ValueId(77))));
    let found = problems(|g| {
        let input = g.nodes[ValueId(0)].clone();
        g.nodes.push(input);
    });
    assert_eq!(found[0].1, Problem::DuplicateName("image".into()));
}

#[test]
fn rule_2_constants() {
    let found = problems(|g| g.tables.consts[c(1)].shape = vec![2, 3]);
    assert!(matches!(found[0].1, Problem::ConstLength { expected: 6, found: 4, .. }));
    let found = problems(|g| g.tables.consts[c(1)] = ConstTensor::f32([4], [0.0, 1.0, f32::NAN, 0.0]));
    assert_eq!(found, [(Site::Entry(Entity::Const(c(1))), Problem::NotFinite { index: 2 })]);
}

#[test]
fn rule_3_types() {
    let found = problems(|g| g.nodes[ValueId(14)].ty = TensorTy::map(4, 1, 2));
    let mismatch = |p: &Problem| matches!(p, Problem::TypeMismatch { .. });
    assert!(mismatch(&found[0].1), "{found:?}");
    let found = problems(|g| g.nodes[ValueId(0)].ty = TensorTy::map(0, 8, 8));
    assert!(matches!(found[0].1, Problem::Type(TypeError::Shape(_))));
    let found = problems(|g| g.nodes[ValueId(16)].args.clear());
    assert!(matches!(found[0].1, Problem::Type(TypeError::Arity { .. })));
}

#[test]
fn rule_4_stages() {
    let refused = |stage| -> Vec<&'static str> {
        let found = problems(|g| g.tables.stage = stage);
        let op = |(_, problem): (Site, Problem)| match problem {
            Problem::StageForbids { op, stage: AnyStage::Tensor(found) } if found == stage => op,
            other => panic!("{other}"),
        };
        found.into_iter().map(op).collect()
    };
    assert_eq!(refused(Stage::Canonical), ["pad", "channel_affine", "sub"]);
    let activations = ["relu", "leaky_relu", "prelu", "clip", "hard_sigmoid"];
    let mut polynomial = vec!["pad", "channel_affine"];
    polynomial.extend(activations);
    polynomial.extend(["sub", "mul", "pool"]);
    assert_eq!(refused(Stage::Polynomial), polynomial);
    let found = problems(|g| {
        g.tables.stage = Stage::Canonical;
        g.nodes[ValueId(15)].op = TensorOp::Reshape { shape: vec![1, 2, 2] };
    });
    assert!(found.iter().any(|(_, p)| matches!(p, Problem::StageForbids { op: "reshape", .. })));
}
