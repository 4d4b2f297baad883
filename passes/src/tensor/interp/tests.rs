use peregrine_ir::tensor::{Conv, Pool, TensorTy};
use peregrine_ir::{ConstTensor, Origin};
use proptest::prelude::*;

use super::*;
use crate::tensor::testing::{Net, numbers};

#[derive(Clone, Debug)]
struct Case {
    channels: usize,
    groups: usize,
    outputs: usize,
    map: [usize; 2],
    kernel: [usize; 2],
    stride: [u32; 2],
    pads: [u32; 4],
    dilation: [u32; 2],
}

fn cases() -> impl Strategy<Value = Case> {
    let window = (1usize..4, 1usize..4, 1u32..4, 1u32..4, 1u32..3, 1u32..3);
    let sizes = (1usize..4, 1usize..3, 1usize..3, 1usize..9, 1usize..9, prop::array::uniform4(0u32..4));
    (sizes, window)
        .prop_map(|((c, groups, o, h, w, pads), (kh, kw, sh, sw, dh, dw))| Case {
            channels: c * groups,
            groups,
            outputs: o * groups,
            map: [h, w],
            kernel: [kh, kw],
            stride: [sh, sw],
            pads,
            dilation: [dh, dw],
        })
        .prop_filter("the window fits", |c| {
            (0..2).all(|a| {
                conv_extent(c.map[a], c.pads[a], c.pads[a + 2], c.kernel[a], c.stride[a], c.dilation[a])
                    .is_some()
            })
        })
}

/// The definition of convolution, term by term.
fn reference(case: &Case, weights: &[f32], bias: &[f32], x: &[f32], output: &[usize]) -> Vec<f64> {
    let at = |c: usize, y: i64, x_: i64| {
        let inside = (0..case.map[0] as i64).contains(&y) && (0..case.map[1] as i64).contains(&x_);
        if inside { f64::from(x[(c * case.map[0] + y as usize) * case.map[1] + x_ as usize]) } else { 0.0 }
    };
    let per_group = case.channels / case.groups;
    let mut out = Vec::new();
    for o in 0..output[1] {
        let group = o / (case.outputs / case.groups);
        for y in 0..output[2] {
            for x_ in 0..output[3] {
                let mut sum = f64::from(bias[o]);
                for i in 0..per_group {
                    for ky in 0..case.kernel[0] {
                        for kx in 0..case.kernel[1] {
                            let w =
                                weights[((o * per_group + i) * case.kernel[0] + ky) * case.kernel[1] + kx];
                            let row = y as i64 * i64::from(case.stride[0])
                                + ky as i64 * i64::from(case.dilation[0]);
                            let col = x_ as i64 * i64::from(case.stride[1])
                                + kx as i64 * i64::from(case.dilation[1]);
                            sum += f64::from(w)
                                * at(
                                    group * per_group + i,
                                    row - i64::from(case.pads[0]),
                                    col - i64::from(case.pads[1]),
                                );
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn convolution_is_its_definition(case in cases()) {
        let mut net = Net::new(&[case.channels, case.map[0], case.map[1]]);
        let per_group = case.channels / case.groups;
        let weights = net.weights(&[case.outputs, per_group, case.kernel[0], case.kernel[1]]);
        let bias = net.weights(&[case.outputs]);
        let groups = case.groups as u32;
        let conv = Conv { weights, bias: Some(bias), stride: case.stride, pads: case.pads, dilation: case.dilation, groups };
        let y = net.add(TensorOp::Conv(conv), &[net.input]);
        let graph = net.output(y);
        let images = 2;
        let len = case.channels * case.map[0] * case.map[1];
        let data = numbers(images * len, 7);
        let batch = Batch::new(&[case.channels, case.map[0], case.map[1]], data.clone()).unwrap();
        let out = run(&graph, &batch).unwrap().remove(0);
        let consts = &graph.tables.consts;
        let (w, b) = (consts[weights].to_f32(), consts[bias].to_f32());
        let expected: Vec<f64> =
            data.chunks(len).flat_map(|x| reference(&case, &w, &b, x, &graph.nodes[y].ty.shape)).collect();
        prop_assert_eq!(out.len(), expected.len());
        for (got, want) in out.iter().zip(&expected) {
            prop_assert!((f64::from(*got) - want).abs() < 1e-5, "{} instead of {}", got, want);
        }
    }
}

fn apply(image: &[usize], data: &[f32], op: impl FnOnce(&mut Net) -> TensorOp) -> Vec<f32> {
    let mut net = Net::new(image);
    let op = op(&mut net);
    let y = net.add(op, &[net.input]);
    run(&net.output(y), &Batch::new(image, data.to_vec()).unwrap()).unwrap().remove(0)
}

#[test]
fn pools_count_padding_as_their_kind_says() {
    let pool = |kind| {
        apply(&[1, 2, 2], &[1.0, 2.0, 3.0, 6.0], |_| {
            TensorOp::Pool(Pool { kind, kernel: [2, 2], stride: [2, 2], pads: [1, 0, 0, 0] })
        })
    };
    assert_eq!(pool(PoolKind::AverageExcludePad), [1.5]);
    assert_eq!(pool(PoolKind::AverageIncludePad), [0.75]);
    assert_eq!(pool(PoolKind::Max), [2.0]);
    assert_eq!(apply(&[1, 2, 2], &[1.0, 2.0, 3.0, 6.0], |_| TensorOp::GlobalAveragePool), [3.0]);
}

#[test]
fn polynomials_pads_and_fully_connected_layers() {
    let poly = apply(&[2, 1, 2], &[1.0, 2.0, -1.0, 3.0], |net| TensorOp::Poly {
        coefficients: net
            .graph
            .tables
            .consts
            .push(ConstTensor::f64(vec![2, 3], vec![1.0, 0.0, 2.0, 0.0, 1.0, -1.0])),
    });
    assert_eq!(poly, [3.0, 9.0, -2.0, -6.0]);
    let pad = apply(&[1, 1, 2], &[1.0, 2.0], |_| TensorOp::Pad { pads: [0, 1, 1, 0] });
    assert_eq!(pad, [0.0, 1.0, 2.0, 0.0, 0.0, 0.0]);
    let fc = apply(&[2], &[1.0, 2.0, 3.0, 4.0], |net| TensorOp::FullyConnected {
        weights: net.graph.tables.consts.push(ConstTensor::f32(vec![1, 2], vec![10.0, 1.0])),
        bias: Some(net.graph.tables.consts.push(ConstTensor::f32(vec![1], vec![0.5]))),
    });
    assert_eq!(fc, [12.5, 34.5]);
}

#[test]
fn wrong_batches_are_refused_by_name() {
    assert!(matches!(Batch::new(&[3, 4, 4], vec![0.0; 47]), Err(PassError::BatchSize { count: 0, .. })));
    assert!(matches!(Batch::new(&[3, 4, 4], vec![0.0; 50]), Err(PassError::BatchSize { count: 1, .. })));
    assert!(matches!(Batch::new(&[3, 0, 4], vec![]), Err(PassError::BatchSize { .. })));
    let mut net = Net::new(&[3, 4, 4]);
    let y = net.relu(net.input);
    let mut graph = net.output(y);
    let small = Batch::new(&[3, 2, 4], vec![0.0; 24]).unwrap();
    let error = run(&graph, &small).unwrap_err().to_string();
    assert!(error.contains("`x`") && error.contains("[3, 4, 4]") && error.contains("[3, 2, 4]"), "{error}");
    let second = TensorOp::Input { name: "z".to_owned() };
    graph.add(second, [], TensorTy { shape: vec![1, 2] }, Origin::new("z"));
    assert!(matches!(run(&graph, &small), Err(PassError::Inputs { found: 2 })));
}
