use super::*;
use crate::tensor::testing::{Net, assert_same_outputs, op_names};

fn simplified(graph: TensorGraph) -> TensorGraph {
    let mut out = graph.clone();
    Algebra::default().run(&mut out).unwrap();
    assert_same_outputs(&graph, &out);
    let mut again = graph.clone();
    Algebra::default().run(&mut again).unwrap();
    assert_eq!(out, again, "the pass is deterministic");
    out
}

/// `c0 + 0.5 x + c2 x^2 [+ c4 x^4]` as PyTorch exports it: plain Mul and Add with constants per channel.
fn plain_polynomial(net: &mut Net, x: ValueId, with_fourth: bool) -> ValueId {
    let channels = net.graph.nodes[x].ty.shape[1];
    let ones = vec![1.0; channels];
    let zeros = vec![0.0; channels];
    let numbers: Vec<f32> = (0..channels).map(|c| 0.1 + 0.05 * c as f32).collect();
    let square = net.add(TensorOp::Mul, &[x, x]);
    let half = net.affine(x, &vec![0.5; channels], &zeros);
    let shifted = net.affine(half, &ones, &numbers);
    let scaled = net.affine(square, &numbers, &zeros);
    let sum = net.add(TensorOp::Add, &[shifted, scaled]);
    if !with_fourth {
        return sum;
    }
    let fourth = net.add(TensorOp::Mul, &[square, square]);
    let scaled = net.affine(fourth, &numbers, &zeros);
    net.add(TensorOp::Add, &[sum, scaled])
}

#[test]
fn plain_products_and_sums_become_one_polynomial() {
    for (with_fourth, degree) in [(false, 2), (true, 4)] {
        let mut net = Net::new(&[3, 4, 4]);
        let a = net.conv(net.input, 3, 3, 1, [1; 4], 1);
        let b = plain_polynomial(&mut net, a, with_fourth);
        let c = net.conv(b, 3, 3, 1, [1; 4], 1);
        let out = simplified(net.output(c));
        assert_eq!(op_names(&out), ["input", "convolution", "polynomial", "convolution"]);
        let TensorOp::Poly { coefficients } = out.nodes[ValueId(2)].op else { panic!() };
        assert_eq!(out.tables.consts[coefficients].shape, [3, degree + 1]);
    }
}

#[test]
fn nested_horner_form_and_differences_merge() {
    let mut net = Net::new(&[2, 3, 3]);
    let x = net.input;
    let a = net.affine(x, &[0.3, -0.2], &[0.5, 0.5]);
    let b = net.add(TensorOp::Mul, &[a, x]);
    let c = net.add(TensorOp::Sub, &[b, x]);
    let out = simplified(net.output(c));
    assert_eq!(op_names(&out), ["input", "polynomial"]);
}

#[test]
fn residual_network_keeps_sharing() {
    let mut net = Net::new(&[4, 4, 4]);
    let mut x = net.conv(net.input, 4, 3, 1, [1; 4], 1);
    for _ in 0..8 {
        let p = plain_polynomial(&mut net, x, false);
        let q = net.conv(p, 4, 3, 1, [1; 4], 1);
        x = net.add(TensorOp::Add, &[q, p]);
    }
    let out = simplified(net.output(x));
    let names = op_names(&out);
    let count = |name| names.iter().filter(|n| **n == name).count();
    assert_eq!((count("polynomial"), count("convolution"), count("sum")), (8, 9, 8));
    assert_eq!(names.len(), 26);
}

#[test]
fn a_batch_norm_of_a_polynomial_that_others_read_is_no_second_polynomial() {
    let mut net = Net::new(&[3, 4, 4]);
    let mut x = net.conv(net.input, 3, 3, 1, [1; 4], 1);
    for _ in 0..3 {
        let p = plain_polynomial(&mut net, x, false);
        let q = net.conv(p, 3, 3, 1, [1; 4], 1);
        let skip = net.batch_norm(p);
        x = net.add(TensorOp::Add, &[q, skip]);
    }
    let names = op_names(&simplified(net.output(x)));
    let count = |name| names.iter().filter(|n| **n == name).count();
    assert_eq!((count("polynomial"), count("per-channel affine map"), count("sum")), (3, 3, 3), "{names:?}");
}

#[test]
fn batch_norm_after_a_residual_sum_ends_in_its_summands() {
    let mut net = Net::new(&[3, 4, 4]);
    let a = net.poly(net.input, 3, 2);
    let b = net.conv(a, 3, 3, 1, [1; 4], 1);
    let c = net.poly(b, 1, 3);
    let d = net.conv(c, 3, 3, 1, [1; 4], 1);
    let e = net.poly(d, 3, 2);
    let f = net.add(TensorOp::Add, &[b, e]);
    let g = net.batch_norm(f);
    let h = net.conv(g, 2, 3, 1, [1; 4], 1);
    let out = simplified(net.output(h));
    assert!(!op_names(&out).contains(&"per-channel affine map"), "{:?}", op_names(&out));
}

#[test]
fn affine_maps_end_in_polynomials_and_unpadded_convolutions() {
    let mut net = Net::new(&[4, 5, 5]);
    let a = net.batch_norm(net.input);
    let b = net.poly(a, 4, 3);
    let c = net.batch_norm(b);
    let d = net.batch_norm(c);
    let e = net.conv(d, 4, 2, 1, [0; 4], 2);
    let f = net.batch_norm(e);
    let out = simplified(net.output(f));
    assert_eq!(op_names(&out), ["input", "polynomial", "convolution"]);
}

#[test]
fn a_product_of_different_values_stays() {
    let mut net = Net::new(&[2, 3, 3]);
    let a = net.conv(net.input, 2, 1, 1, [0; 4], 1);
    let b = net.add(TensorOp::Mul, &[a, net.input]);
    assert_eq!(op_names(&simplified(net.output(b))), ["input", "convolution", "product"]);
}

#[test]
fn degrees_above_eight_stay_apart() {
    let mut net = Net::new(&[2, 2, 2]);
    let a = net.poly(net.input, 2, 4);
    let b = net.poly(a, 2, 3);
    assert_eq!(op_names(&simplified(net.output(b))), ["input", "polynomial", "polynomial"]);
}

#[test]
fn a_lone_square_is_a_polynomial() {
    let mut net = Net::new(&[2, 3, 3]);
    let a = net.conv(net.input, 2, 1, 1, [0; 4], 1);
    let b = net.add(TensorOp::Mul, &[a, a]);
    assert_eq!(op_names(&simplified(net.output(b))), ["input", "convolution", "polynomial"]);
}

#[test]
fn at_a_limit_the_graph_is_still_the_same_function() {
    let mut net = Net::new(&[3, 4, 4]);
    let mut x = net.conv(net.input, 3, 3, 1, [1; 4], 1);
    for _ in 0..4 {
        let p = plain_polynomial(&mut net, x, true);
        x = net.batch_norm(p);
    }
    let graph = net.output(x);
    for iterations in 0..3 {
        let mut out = graph.clone();
        Algebra { iterations, ..Algebra::default() }.run(&mut out).unwrap();
        assert_same_outputs(&graph, &out);
    }
}

#[test]
fn sums_of_one_value_and_subtracted_affine_maps_stay_exact() {
    let mut net = Net::new(&[2, 4, 4]);
    let a = net.batch_norm(net.input);
    let b = net.conv(a, 2, 3, 1, [1; 4], 2);
    let c = net.add(TensorOp::Add, &[b, b]);
    let d = net.batch_norm(c);
    let e = net.add(TensorOp::Sub, &[d, a]);
    let f = net.relu(e);
    let g = net.add(TensorOp::Sub, &[f, d]);
    simplified(net.output(g));
}

#[test]
fn an_affine_map_before_an_activation_waits_for_its_polynomial() {
    let mut net = Net::new(&[3, 4, 4]);
    let a = net.poly(net.input, 3, 2);
    let b = net.conv(a, 3, 3, 1, [1; 4], 1);
    let c = net.add(TensorOp::Add, &[a, b]);
    let d = net.batch_norm(c);
    let e = net.relu(d);
    let out = simplified(net.output(e));
    let names = ["input", "polynomial", "convolution", "sum", "per-channel affine map", "activation"];
    assert_eq!(op_names(&out), names);
}
