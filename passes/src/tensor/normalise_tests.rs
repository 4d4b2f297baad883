use super::*;
use crate::tensor::check::{CheckCanonical, CheckPolynomial};
use crate::tensor::testing::{Net, assert_same_outputs, op_names};

fn normal(graph: TensorGraph) -> TensorGraph {
    let mut out = graph.clone();
    Normalise.run(&mut out).unwrap();
    assert_same_outputs(&graph, &out);
    let mut again = out.clone();
    assert_eq!(Normalise.run(&mut again).unwrap(), Changed::No, "{:?}", op_names(&again));
    out
}

#[test]
fn pads_move_into_convolutions_and_average_pools() {
    let mut net = Net::new(&[2, 5, 5]);
    let a = net.pad(net.input, [1, 0, 2, 1]);
    let b = net.conv(a, 3, 3, 2, [0, 1, 0, 0], 1);
    let c = net.pad(b, [1, 1, 0, 0]);
    let d = net.pool(c, PoolKind::AverageExcludePad, 2, 1, [0; 4]);
    let out = normal(net.output(d));
    assert_eq!(op_names(&out), ["input", "convolution", "convolution"]);
}

#[test]
fn a_pad_before_anything_else_is_a_convolution() {
    let mut net = Net::new(&[2, 3, 3]);
    let a = net.pad(net.input, [1, 0, 0, 2]);
    let b = net.relu(a);
    let c = net.pad(b, [0, 1, 1, 0]);
    let out = normal(net.output(c));
    assert_eq!(op_names(&out), ["input", "convolution", "activation", "convolution"]);
}

#[test]
fn classifier_head_becomes_convolutions_and_a_last_reshape() {
    let mut net = Net::new(&[3, 4, 6]);
    let a = net.add(TensorOp::GlobalAveragePool, &[net.input]);
    let b = net.reshape(a, &[1, 3]);
    let c = net.fully_connected(b, 7);
    let d = net.relu(c);
    let e = net.fully_connected(d, 2);
    let out = normal(net.output(e));
    assert_eq!(
        op_names(&out),
        ["input", "convolution", "convolution", "activation", "convolution", "reshape"]
    );
    CheckCanonical.run(&mut out.clone()).unwrap();
    assert!(
        matches!(CheckPolynomial.run(&mut out.clone()), Err(PassError::Unsupported(list)) if list.len() == 1)
    );
}

#[test]
fn flatten_of_a_map_gives_a_whole_map_convolution() {
    let mut net = Net::new(&[3, 4, 5]);
    let a = net.reshape(net.input, &[1, 60]);
    let b = net.relu(a);
    let c = net.fully_connected(b, 4);
    let out = normal(net.output(c));
    assert_eq!(op_names(&out), ["input", "activation", "convolution", "reshape"]);
    let TensorOp::Conv(conv) = &out.nodes[ValueId(2)].op else { panic!() };
    assert_eq!(out.tables.consts[conv.weights].shape, [4, 3, 4, 5]);
}

#[test]
fn differences_and_affine_maps_become_sums_and_convolutions() {
    let mut net = Net::new(&[2, 3, 3]);
    let a = net.batch_norm(net.input);
    let b = net.relu(net.input);
    let c = net.add(TensorOp::Sub, &[a, b]);
    let out = normal(net.output(c));
    assert_eq!(op_names(&out), ["input", "convolution", "activation", "convolution", "sum"]);
}

#[test]
fn pools_that_leave_padding_out_are_convolutions_only_with_equal_counts() {
    let mut net = Net::new(&[2, 2, 2]);
    let a = net.pool(net.input, PoolKind::AverageExcludePad, 3, 1, [1, 1, 1, 1]);
    let out = normal(net.output(a));
    assert_eq!(op_names(&out), ["input", "convolution"], "every window holds the whole 2x2 map");

    let mut net = Net::new(&[2, 4, 4]);
    let a = net.pool(net.input, PoolKind::AverageExcludePad, 3, 1, [1, 1, 1, 1]);
    let b = net.pool(a, PoolKind::Max, 2, 2, [0; 4]);
    let c = net.relu(b);
    let d = net.add(TensorOp::Mul, &[b, c]);
    let mut out = normal(net.output(d));
    let Err(PassError::Unsupported(list)) = CheckCanonical.run(&mut out) else { panic!("must be refused") };
    let named: Vec<_> = list.iter().map(|u| u.layer.as_str()).collect();
    assert_eq!(named, ["layer1", "layer2"], "all at once: {list:?}");
}

#[test]
fn reshapes_in_the_middle_are_reported() {
    let mut net = Net::new(&[2, 4, 4]);
    let a = net.reshape(net.input, &[1, 8, 2, 2]);
    let b = net.conv(a, 2, 1, 1, [0; 4], 1);
    let mut out = net.output(b);
    let before = out.clone();
    Normalise.run(&mut out).unwrap();
    assert_same_outputs(&before, &out);
    let error = CheckCanonical.run(&mut out).unwrap_err().to_string();
    assert!(error.contains("layer1") && error.contains("flattening"), "{error}");
}
