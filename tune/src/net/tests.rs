//! Whole networks: import, export, gradients, replacing, statistics.

use peregrine_ir::tensor as ir;
use peregrine_ir::tensor::{Stage, TensorGraph, TensorOp, TensorTables, TensorTy, infer};
use peregrine_ir::{ConstId, ConstPool, ConstTensor, Origin, OutputPort, ValueId};
use peregrine_passes::tensor::interp::{Batch, run};

use super::*;
use crate::net::forward::Keep;
use crate::penalty::RangePenalty;
use crate::tensor::Pool;

/// A tensor graph under construction, with random weights.
pub(crate) struct Model {
    graph: TensorGraph,
    rng: fastrand::Rng,
}

impl Model {
    pub(crate) fn new(shape: &[usize]) -> (Self, ValueId) {
        let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Imported };
        let mut graph = TensorGraph::new("model", tables);
        let ty = TensorTy { shape: [&[1], shape].concat() };
        let x = graph.add(TensorOp::Input { name: "x".into() }, [], ty, Origin::new("x"));
        (Self { graph, rng: fastrand::Rng::with_seed(3) }, x)
    }

    fn constant(&mut self, shape: &[usize], scale: f32, offset: f32) -> ConstId {
        let len = shape.iter().product();
        let data: Vec<f32> = (0..len).map(|_| (self.rng.f32() * 2.0 - 1.0) * scale + offset).collect();
        self.graph.tables.consts.push(ConstTensor::f32(shape, data))
    }

    fn add(&mut self, name: &str, op: TensorOp, args: &[ValueId]) -> ValueId {
        let types: Vec<&TensorTy> = args.iter().map(|a| &self.graph.nodes[*a].ty).collect();
        let ty = infer(&op, &types, &self.graph.tables.consts).expect("the test's shapes fit");
        self.graph.add(op, args.iter().copied(), ty, Origin::new(name))
    }

    pub(crate) fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        c_out: usize,
        kernel: usize,
        groups: usize,
    ) -> ValueId {
        let c_in = self.graph.nodes[x].ty.shape[1];
        let weights = self.constant(&[c_out, c_in / groups, kernel, kernel], 0.4, 0.0);
        let bias = Some(self.constant(&[c_out], 0.2, 0.0));
        let pads = [kernel as u32 / 2; 4];
        let (stride, dilation) = ([1, 1], [1, 1]);
        let conv = ir::Conv { weights, bias, stride, pads, dilation, groups: groups as u32 };
        self.add(name, TensorOp::Conv(conv), &[x])
    }

    fn affine(&mut self, name: &str, x: ValueId) -> ValueId {
        let c = self.graph.nodes[x].ty.shape[1];
        let (mul, add) = (self.constant(&[c], 0.3, 0.9), self.constant(&[c], 0.3, 0.0));
        self.add(name, TensorOp::ChannelAffine { mul, add }, &[x])
    }

    pub(crate) fn activation(&mut self, name: &str, f: Activation, x: ValueId) -> ValueId {
        self.add(name, TensorOp::Activation(f), &[x])
    }

    pub(crate) fn flatten(&mut self, x: ValueId) -> ValueId {
        let len = self.graph.nodes[x].ty.shape.iter().product();
        self.add("flatten", TensorOp::Reshape { shape: vec![1, len] }, &[x])
    }

    pub(crate) fn dense(&mut self, x: ValueId, out: usize) -> ValueId {
        let c = self.graph.nodes[x].ty.shape[1];
        let (weights, bias) = (self.constant(&[out, c], 0.4, 0.0), Some(self.constant(&[out], 0.2, 0.0)));
        self.add("dense", TensorOp::FullyConnected { weights, bias }, &[x])
    }

    pub(crate) fn finish(mut self, value: ValueId) -> TensorGraph {
        self.graph.outputs.push(OutputPort { name: "y".into(), value });
        self.graph
    }
}

/// A residual network with a bit of everything.
fn zoo() -> TensorGraph {
    let (mut m, x) = Model::new(&[3, 8, 6]);
    let x = m.conv("stem", x, 8, 3, 1);
    let x = m.affine("norm", x);
    let trunk = m.activation("act1", Activation::Silu, x);
    let x = m.conv("depthwise", trunk, 8, 3, 8);
    let x = m.affine("norm2", x);
    let x = m.activation("act2", Activation::LeakyRelu { alpha: 0.1 }, x);
    let x = m.conv("grouped", x, 8, 1, 2);
    let x = m.add("join", TensorOp::Add, &[x, trunk]);
    let x = m.activation("act3", Activation::Gelu, x);
    let pool = ir::Pool { kind: ir::PoolKind::Max, kernel: [2, 2], stride: [2, 2], pads: [0; 4] };
    let x = m.add("pool", TensorOp::Pool(pool), &[x]);
    let gate = m.activation("gate", Activation::Sigmoid, x);
    let x = m.add("gated", TensorOp::Mul, &[x, gate]);
    let x = m.flatten(x);
    let y = m.dense(x, 5);
    m.finish(y)
}

/// Images as the interpreter takes them, and the same as NHWC.
fn images(net: &Net, count: usize) -> (Vec<f32>, Tensor) {
    let shape = Shape { n: count, ..net.input_shape() };
    let mut rng = fastrand::Rng::with_seed(9);
    let nchw: Vec<f32> = (0..shape.len()).map(|_| rng.f32() * 2.0 - 1.0).collect();
    let map = shape.h * shape.w;
    let at = |i: usize| {
        let (image, rest) = (i / shape.image(), i % shape.image());
        nchw[image * shape.image() + rest % shape.c * map + rest / shape.c]
    };
    let data = (0..shape.len()).map(at).collect();
    (nchw, Tensor { shape, data })
}

fn interpret(graph: &TensorGraph, net: &Net, count: usize) -> Vec<f32> {
    let s = net.input_shape();
    let batch = Batch::new(&[s.c, s.h, s.w], images(net, count).0).unwrap();
    run(graph, &batch).unwrap().remove(0)
}

fn evaluate(net: &mut Net, count: usize) -> Vec<f32> {
    let input = images(net, count).1;
    let tape = net.forward(input, Mode::EVALUATE, Keep::Only(&[]), &mut Pool::default());
    tape.value(net.outputs[0].1).data.clone()
}

fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < tolerance, "{worst}: {a:?} {b:?}");
}

#[test]
fn an_imported_network_has_the_function_of_the_graph() {
    let graph = zoo();
    let mut net = Net::from_graph(&graph).unwrap();
    close(&evaluate(&mut net, 3), &interpret(&graph, &net, 3), 1e-4);
}

#[test]
fn measuring_statistics_changes_no_function() {
    let graph = zoo();
    let mut net = Net::from_graph(&graph).unwrap();
    let before = evaluate(&mut net, 3);
    let batches = std::iter::repeat_n(images(&net, 5).1, 2).map(Ok::<_, ()>);
    net.calibrate_norms(batches, &mut Pool::default()).unwrap();
    close(&evaluate(&mut net, 3), &before, 1e-4);
    let norms = net.nodes.iter().filter_map(|n| match &n.op {
        Op::BatchNorm { running, .. } => Some(running),
        _ => None,
    });
    // Two batch norms of the file, one put back after the grouped convolution; all have statistics now.
    let norms: Vec<_> = norms.collect();
    assert_eq!(norms.len(), 3);
    assert!(norms.iter().all(|r| r.mean.iter().any(|m| *m != 0.0)));
}

#[test]
fn an_exported_network_has_the_function_of_the_network() {
    let mut net = Net::from_graph(&zoo()).unwrap();
    let batches = std::iter::once(Ok::<_, ()>(images(&net, 5).1));
    net.calibrate_norms(batches, &mut Pool::default()).unwrap();
    net.replace_activations(&Polynomials::fixed(4)).unwrap();
    // A step of training moves ranges and statistics.
    let input = images(&net, 4).1;
    net.forward(input, Mode::TRAIN, Keep::All, &mut Pool::default());
    let graph = net.to_graph("x").unwrap();
    close(&interpret(&graph, &net, 3), &evaluate(&mut net, 3), 1e-4);
    let left = graph.nodes.values().filter(|n| matches!(n.op, TensorOp::Activation(_)));
    assert_eq!(left.count(), 0);
    let affine = graph.nodes.values().filter(|n| matches!(n.op, TensorOp::ChannelAffine { .. }));
    assert_eq!(affine.count(), 0, "batch norms fold into convolutions");
}

#[test]
fn replacing_reports_what_it_cannot_do() {
    let mut net = Net::from_graph(&zoo()).unwrap();
    let by_layer = |d: Vec<usize>| Polynomials { degrees: DegreePlan::ByLayer(d), ..Polynomials::fixed(2) };
    let count = net.replace_activations(&by_layer(vec![2, 4]));
    assert!(matches!(count, Err(ReplaceError::Count { given: 2, layers: 4, .. })), "{count:?}");
    let degree = net.replace_activations(&Polynomials::fixed(3));
    assert_eq!(degree, Err(ReplaceError::Degree { degree: 3 }));
    let plan = by_layer(vec![2, 4, 8, 2]);
    let replaced = net.replace_activations(&plan).unwrap();
    assert_eq!((replaced.activations.len(), replaced.pools), (4, 1));
    let again = net.replace_activations(&plan);
    assert_eq!(again, Err(ReplaceError::NoActivation));
}

/// The gradient of all parameters along a random direction against the difference of the loss.
fn check_gradients(net: &Net, mode: Mode, penalty: Option<RangePenalty>) {
    check_blended_gradients(net, mode, penalty, &|| None);
}

fn check_blended_gradients(
    net: &Net,
    mode: Mode,
    penalty: Option<RangePenalty>,
    blend: &dyn Fn() -> Option<Blend>,
) {
    let (_, input) = images(net, 4);
    let output = net.outputs[0].1;
    let mut rng = fastrand::Rng::with_seed(4);
    let shape = Shape { n: 4, ..net.nodes[output].shape };
    let dy = Tensor { shape, data: (0..shape.len()).map(|_| rng.f32() - 0.5).collect() };
    let loss = |net: &Net| {
        let mut net = net.clone();
        let (mut blend, pool) = (blend(), &mut Pool::default());
        let tape = net.forward_blended(input.clone(), mode, Keep::All, blend.as_mut(), pool);
        net.clear_grads();
        let seeds = vec![(output, dy.clone())];
        let costs = net.backward(&tape, seeds, penalty.as_ref(), blend.as_ref(), pool);
        let y = tape.value(output);
        let value: f64 = y.data.iter().zip(&dy.data).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let local = blend.as_ref().map_or(0.0, Blend::loss);
        (value + local + costs.iter().sum::<f64>(), net)
    };
    let grads = loss(net).1;
    for (i, param) in net.params.iter().enumerate().filter(|(_, p)| p.role != Role::Frozen) {
        let direction: Vec<f32> = param.value.iter().map(|_| rng.f32() - 0.5).collect();
        let moved = |step: f32| {
            let mut net = net.clone();
            net.params[i].value.iter_mut().zip(&direction).for_each(|(v, d)| *v += step * d);
            loss(&net).0
        };
        // Small, since maxima and corners jump.
        let step = 5e-4;
        let numeric = (moved(step) - moved(-step)) / f64::from(2.0 * step);
        let exact: f64 =
            grads.params[i].grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        let tolerance = 3e-2 * (0.3 + exact.abs());
        assert!((numeric - exact).abs() < tolerance, "{}: {numeric} {exact}", param.name);
    }
}

#[test]
fn gradients_of_a_network_with_its_own_activations() {
    let mut net = Net::from_graph(&zoo()).unwrap();
    let batches = std::iter::once(Ok::<_, ()>(images(&net, 5).1));
    net.calibrate_norms(batches, &mut Pool::default()).unwrap();
    check_gradients(&net, Mode::TRAIN, None);
    check_gradients(&net, Mode::EVALUATE, None);
}

#[test]
fn gradients_of_a_network_of_polynomials() {
    let mut net = Net::from_graph(&zoo()).unwrap();
    let batches = std::iter::once(Ok::<_, ()>(images(&net, 5).1));
    net.calibrate_norms(batches, &mut Pool::default()).unwrap();
    let learned = Polynomials { coefficients: Coefficients::Learned, ..Polynomials::fixed(4) };
    net.replace_activations(&learned).unwrap();
    check_gradients(&net, Mode::TRAIN, None);
    let input = images(&net, 4).1;
    net.forward(input, Mode::TRAIN, Keep::All, &mut Pool::default());
    // Fixed ranges: the penalty's threshold does not move with the parameters.
    check_gradients(&net, Mode::EVALUATE, Some(RangePenalty { weight: 0.3, start: 0.5 }));
}

/// The original, a network of polynomials made of it, and the original's values for some images to blend with.
fn blending() -> (Net, Net, Vec<(NodeId, Tensor)>) {
    let mut original = Net::from_graph(&zoo()).unwrap();
    let batches = std::iter::once(Ok::<_, ()>(images(&original, 5).1));
    original.calibrate_norms(batches, &mut Pool::default()).unwrap();
    let mut net = original.clone();
    net.replace_activations(&Polynomials::fixed(4)).unwrap();
    let (_, input) = images(&original, 4);
    net.forward(input.clone(), Mode::TRAIN, Keep::All, &mut Pool::default());
    let tape = original.forward(input, Mode::EVALUATE, Keep::All, &mut Pool::default());
    let values: Vec<_> = original.replaceable().into_iter().map(|id| (id, tape.value(id).clone())).collect();
    assert_eq!(values.len(), 5, "four activations and a max pool");
    (original, net, values)
}

#[test]
fn gradients_of_a_blended_network() {
    let (_, net, values) = blending();
    for share in [0.0, 0.4, 1.0] {
        let blend = || {
            let weighted = values.iter().map(|(id, t)| (*id, 0.2 + 0.1 * *id as f64, t.clone()));
            Some(Blend::new(share, weighted.collect()))
        };
        check_blended_gradients(&net, Mode::TRAIN, None, &blend);
        let penalty = RangePenalty { weight: 0.3, start: 0.5 };
        check_blended_gradients(&net, Mode::EVALUATE, Some(penalty), &blend);
    }
}

#[test]
fn a_blended_network_is_the_original_at_one_end_and_itself_at_the_other() {
    let (original, net, values) = blending();
    let run = |share: f32| {
        let weighted = values.iter().map(|(id, t)| (*id, 1.0, t.clone())).collect();
        let (mut blend, mut net) = (Blend::new(share, weighted), net.clone());
        // The statistics moved with the polynomials' batch.
        for (own, theirs) in net.nodes.iter_mut().zip(&original.nodes) {
            if let (Op::BatchNorm { running, .. }, Op::BatchNorm { running: theirs, .. }) =
                (&mut own.op, &theirs.op)
            {
                *running = theirs.clone();
            }
        }
        let (_, input) = images(&net, 4);
        let alone = evaluate(&mut net.clone(), 4);
        let pool = &mut Pool::default();
        let tape = net.forward_blended(input, Mode::EVALUATE, Keep::Only(&[]), Some(&mut blend), pool);
        (tape.value(net.outputs[0].1).data.clone(), alone, blend.loss())
    };
    let (all, alone, local) = run(1.0);
    close(&all, &evaluate(&mut original.clone(), 4), 1e-5);
    assert!(local > 1e-3, "own values still differ: {local}");
    let (none, _, _) = run(0.0);
    assert_eq!(none, alone);
}

/// What running statistics were does not matter any more.
#[test]
fn running_statistics_can_start_again() {
    let (_, net, _) = blending();
    let batches: Vec<Tensor> = (3..6).map(|count| images(&net, count).1).collect();
    let after = |moved: f32| {
        let mut net = net.clone();
        for node in &mut net.nodes {
            if let Op::BatchNorm { running, .. } = &mut node.op {
                running.mean.iter_mut().for_each(|m| *m += moved);
            }
        }
        for (seen, batch) in batches.iter().enumerate() {
            net.follow_statistics(seen);
            net.forward(batch.clone(), Mode::TRAIN, Keep::Only(&[]), &mut Pool::default());
        }
        let means = net.nodes.iter().filter_map(|n| match &n.op {
            Op::BatchNorm { running, .. } => Some(running.mean.clone()),
            _ => None,
        });
        (means.collect::<Vec<_>>(), net)
    };
    let ((means, mut net), (others, _)) = (after(0.0), after(9.0));
    means.iter().zip(&others).for_each(|(a, b)| close(a, b, 1e-5));
    net.follow_statistics(1000);
    let slow = |n: &Node| !matches!(&n.op, Op::BatchNorm { running, .. } if running.momentum != 0.1);
    assert!(net.nodes.iter().all(slow));
}

/// Least squares on what activations meet come closer to them than expansions for the whole range do, and know the ranges.
#[test]
fn fitted_polynomials_follow_the_activations() {
    let mut original = Net::from_graph(&zoo()).unwrap();
    let (_, input) = images(&original, 16);
    let batches = std::iter::once(Ok::<_, ()>(input.clone()));
    original.calibrate_norms(batches, &mut Pool::default()).unwrap();
    // Before the max pool, which is replaced too.
    let last = original.nodes.iter().position(|n| n.name == "act3").unwrap();
    let output = |net: &mut Net| {
        let tape = net.forward(input.clone(), Mode::EVALUATE, Keep::All, &mut Pool::default());
        tape.value(last).data.clone()
    };
    let wanted = output(&mut original);
    let error = |net: &mut Net| -> f32 {
        output(net).iter().zip(&wanted).map(|(y, w)| (y - w).powi(2)).sum::<f32>().sqrt()
    };
    let mut fitted = original.clone();
    fitted.replace_activations(&Polynomials::fixed(4)).unwrap();
    let mut expanded = fitted.clone();
    expanded.forward(input.clone(), Mode::TRAIN, Keep::All, &mut Pool::default());
    fitted.fit_activations(&mut original.clone(), vec![input.clone()], &mut Pool::default());
    let errors = [error(&mut fitted), error(&mut expanded)];
    assert!(errors[0] < 0.5 * errors[1], "{errors:?}");
    let operands = original.forward(input.clone(), Mode::EVALUATE, Keep::All, &mut Pool::default());
    for (id, act) in fitted.poly_acts() {
        let peaks = poly_act::peaks(operands.value(fitted.nodes[id].args[0]));
        let widest = peaks.iter().map(|p| p.max).fold(0.0, f32::max);
        assert_eq!(act.max, peaks.iter().map(|p| p.max.max(0.1 * widest)).collect::<Vec<_>>());
    }
}

#[test]
fn selections_are_not_trained() {
    let (mut m, x) = Model::new(&[2, 4, 4]);
    let weights =
        m.graph.tables.consts.push(ConstTensor::f32([3, 2, 1, 1], vec![0.0, 1.0, 0.0, 0.0, 1.0, 0.0]));
    let (stride, dilation) = ([1, 1], [1, 1]);
    let conv = ir::Conv { weights, bias: None, stride, pads: [0; 4], dilation, groups: 1 };
    let x = m.add("concat", TensorOp::Conv(conv), &[x]);
    let x = m.activation("act", Activation::Relu, x);
    let net = Net::from_graph(&m.finish(x)).unwrap();
    assert!(net.params.iter().all(|p| p.role == Role::Frozen), "{:?}", net.params);
    assert!(!net.nodes.iter().any(|n| matches!(n.op, Op::BatchNorm { .. })));
}

/// Higher degrees go where they gain most, as long as the longest path has the levels.
#[test]
fn degrees_fit_a_budget_of_levels() {
    let mut net = Net::from_graph(&zoo()).unwrap();
    let (_, input) = images(&net, 16);
    let batches = std::iter::once(Ok::<_, ()>(input.clone()));
    net.calibrate_norms(batches, &mut Pool::default()).unwrap();
    let shape = net.clone();
    let is_activation = |id: &NodeId| matches!(shape.nodes[*id].op, Op::Activation(_));
    let acts: Vec<NodeId> = (0..shape.nodes.len()).filter(is_activation).collect();
    let mut degrees = |levels, degree| {
        net.degrees_within(LevelBudget { levels, degree }, vec![input.clone()], &mut Pool::default())
    };
    let refused = degrees(0, 8).unwrap_err();
    let ReplaceError::Levels { least, budget: 0 } = refused else { panic!("{refused}") };
    assert!(degrees(least - 1, 8).is_err() && least > 1);
    for degree in [2, 4, 8] {
        assert_eq!(degrees(3 * least, degree).unwrap(), vec![degree; acts.len()]);
    }
    let mut raised = 0;
    for levels in least..3 * least {
        let chosen = degrees(levels, 8).unwrap();
        assert!(longest(&shape, &acts, &chosen) <= levels, "{chosen:?} for {levels} levels");
        raised += usize::from(chosen.iter().any(|&d| d > 2));
    }
    assert!(raised as u32 >= 2 * least - 1, "{raised}");
    assert_eq!(degrees(9, 6), Err(ReplaceError::Degree { degree: 6 }));
}

/// Levels of the longest path, by walking all of them.
fn longest(net: &Net, acts: &[NodeId], degrees: &[usize]) -> u32 {
    fn below(net: &Net, id: NodeId, own: &dyn Fn(NodeId) -> u32) -> u32 {
        own(id) + net.nodes[id].args.iter().map(|&a| below(net, a, own)).max().unwrap_or(0)
    }
    let own = |id: NodeId| acts.iter().position(|&a| a == id).map_or(0, |i| degrees[i].ilog2());
    net.outputs.iter().map(|(_, id)| below(net, *id, &own)).max().unwrap_or(0)
}
