//! Where bootstraps go in networks of well-known shape: how many, on which chain, and what the rest costs.
//!
//! `cargo run --release -p peregrine-passes --example placement -- [--degree D] [--log-n N]`
//!
//! Weights do not matter for placement: they are constant here, and every value is taken to be in unit range.

#![allow(clippy::print_stdout)]

use peregrine_ir::tensor::{Conv, Stage, TensorGraph, TensorOp, TensorTables, TensorTy, infer};
use peregrine_ir::{ConstPool, ConstTensor, Origin, OutputPort, Slots, ValueId};
use peregrine_passes::fhe::assign::LayoutSearch;
use peregrine_passes::fhe::cost::Machine;
use peregrine_passes::fhe::level::Precision;
use peregrine_passes::fhe::pack::pack;
use peregrine_passes::fhe::place::{self, Workload};
use peregrine_passes::fhe::plan_keys::KeySearch;
use peregrine_passes::fhe::refresh_cost::{Together, bootstrap_seconds};
use peregrine_passes::tensor::interp::channels_of;

type Failure = Box<dyn std::error::Error>;

struct Net {
    graph: TensorGraph,
    degree: usize,
}

impl Net {
    fn new(name: &str, degree: usize, side: usize) -> (Self, ValueId) {
        let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Imported };
        let mut graph = TensorGraph::new(name, tables);
        let ty = TensorTy { shape: vec![1, 3, side, side] };
        let x = graph.add(TensorOp::Input { name: "x".into() }, [], ty, Origin::new("x"));
        (Self { graph, degree }, x)
    }

    fn op(&mut self, op: TensorOp, args: &[ValueId]) -> ValueId {
        let types: Vec<_> = args.iter().map(|a| self.graph.nodes[*a].ty.clone()).collect();
        let types: Vec<_> = types.iter().collect();
        let ty = infer(&op, &types, &self.graph.tables.consts).unwrap_or_else(|e| panic!("{op:?}: {e}"));
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add(op, args.iter().copied(), ty, Origin::new(&name))
    }

    fn conv(&mut self, x: ValueId, channels: usize, kernel: usize, stride: u32, groups: u32) -> ValueId {
        let per_group = self.graph.nodes[x].ty.shape[1] / groups as usize;
        let shape = vec![channels, per_group, kernel, kernel];
        let data = vec![0.01; shape.iter().product()];
        let weights = self.graph.tables.consts.push(ConstTensor::f32(shape, data));
        let pad = (kernel / 2) as u32;
        let conv =
            Conv { weights, bias: None, stride: [stride; 2], pads: [pad; 4], dilation: [1, 1], groups };
        self.op(TensorOp::Conv(conv), &[x])
    }

    fn act(&mut self, x: ValueId) -> ValueId {
        let mut row = vec![0.1, 0.5, 0.2, 0.0, 0.05, 0.0, 0.01, 0.0, 0.01];
        row.truncate(self.degree + 1);
        let coefficients = self.graph.tables.consts.push(ConstTensor::f64(vec![1, row.len()], row));
        self.op(TensorOp::Poly { coefficients }, &[x])
    }

    fn conv_act(&mut self, x: ValueId, channels: usize, kernel: usize, stride: u32, groups: u32) -> ValueId {
        let c = self.conv(x, channels, kernel, stride, groups);
        self.act(c)
    }

    fn channels(&self, x: ValueId) -> usize {
        self.graph.nodes[x].ty.shape[1]
    }

    /// Average over the map and a fully connected layer, as one convolution.
    fn head(mut self, x: ValueId, classes: usize) -> TensorGraph {
        let shape = self.graph.nodes[x].ty.shape.clone();
        let shape = vec![classes, shape[1], shape[2], shape[3]];
        let data = vec![0.01; shape.iter().product()];
        let weights = self.graph.tables.consts.push(ConstTensor::f32(shape, data));
        let conv = Conv { weights, bias: None, stride: [1, 1], pads: [0; 4], dilation: [1, 1], groups: 1 };
        let y = self.op(TensorOp::Conv(conv), &[x]);
        self.graph.outputs.push(OutputPort { name: "y".into(), value: y });
        self.graph
    }
}

/// ResNet-20 for 32 x 32.
fn resnet20(degree: usize) -> TensorGraph {
    let (mut net, x) = Net::new("ResNet-20 32", degree, 32);
    let mut x = net.conv_act(x, 16, 3, 1, 1);
    for (stage, channels) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..3 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let inner = net.conv_act(x, channels, 3, stride, 1);
            let branch = net.conv(inner, channels, 3, 1, 1);
            let skip = if stride == 2 { net.conv(x, channels, 1, 2, 1) } else { x };
            let sum = net.op(TensorOp::Add, &[branch, skip]);
            x = net.act(sum);
        }
    }
    net.head(x, 10)
}

/// ResNet-50 for 224 x 224; the max pool is a stride here.
fn resnet50(degree: usize) -> TensorGraph {
    let (mut net, x) = Net::new("ResNet-50 224", degree, 224);
    let stem = net.conv_act(x, 64, 7, 2, 1);
    let mut x = net.conv(stem, 64, 2, 2, 64);
    for (stage, (width, blocks)) in [(64, 3), (128, 4), (256, 6), (512, 3)].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let reduced = net.conv_act(x, width, 1, 1, 1);
            let inner = net.conv_act(reduced, width, 3, stride, 1);
            let branch = net.conv(inner, 4 * width, 1, 1, 1);
            let skip = if block == 0 { net.conv(x, 4 * width, 1, stride, 1) } else { x };
            let sum = net.op(TensorOp::Add, &[branch, skip]);
            x = net.act(sum);
        }
    }
    net.head(x, 1000)
}

/// MobileNetV2 of width 1.
fn mobilenet_v2(degree: usize, side: usize) -> TensorGraph {
    let (mut net, x) = Net::new(&format!("MobileNetV2 {side}"), degree, side);
    let mut x = net.conv_act(x, 32, 3, 2, 1);
    let settings = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    for (expand, channels, blocks, first_stride) in settings {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            let input = net.channels(x);
            let wide = if expand == 1 { x } else { net.conv_act(x, input * expand, 1, 1, 1) };
            let depthwise = net.conv_act(wide, input * expand, 3, stride, (input * expand) as u32);
            let projected = net.conv(depthwise, channels, 1, 1, 1);
            let residual = stride == 1 && input == channels;
            x = if residual { net.op(TensorOp::Add, &[projected, x]) } else { projected };
        }
    }
    let x = net.conv_act(x, 1280, 1, 1, 1);
    net.head(x, 1000)
}

fn report(graph: &TensorGraph, degree: usize, rings: &[u32]) -> Result<(), Failure> {
    let ranges: Vec<Vec<f64>> = graph.nodes.values().map(|n| vec![1.0; channels_of(&n.ty.shape).0]).collect();
    let machine = Machine::default();
    for &log_n in rings {
        let packed = pack(graph, &ranges, 1 << (log_n - 1), &LayoutSearch::Greedy)?.graph;
        let search = KeySearch::of(
            &packed,
            Slots::new(1 << (log_n - 1))?,
            peregrine_passes::pipeline::Products::Shared,
        );
        let workload = Workload::of(&packed, Precision::of_degree(degree as u32), &search)?;
        let best = workload.best(log_n, &machine, 1).pop();
        let Some((candidate, placement)) = best else {
            println!("{:<18} N = 2^{log_n}: no placement", graph.name);
            continue;
        };
        let values = placement.choices.iter().filter(|choice| choice.refresh.is_some()).count();
        println!(
            "{:<18} N = 2^{log_n}: {:>3} bootstraps of {values} values, {:.1} s predicted, gap {:.1} %, usable {:?}, {} special primes, inputs at level {}",
            graph.name,
            place::bootstraps(&packed, &placement),
            placement.seconds,
            100.0 * placement.gap(),
            candidate.params.spec().usable,
            candidate.params.main().p().len(),
            candidate.inputs_at
        );
    }
    Ok(())
}

/// Predicted seconds of one bootstrap by slots, alone and as a pair, on all cores.
fn table(log_n: u32) -> Result<(), Failure> {
    let spec = match log_n {
        ..=15 => peregrine_ckks::bootstrap::BootstrapSpec::n15(),
        _ => peregrine_ckks::bootstrap::BootstrapSpec::n16(),
    };
    let (params, machine) = (spec.check()?, Machine::default());
    for log in (6..log_n).step_by(3).chain([log_n - 1]) {
        let slots = Slots::new(1 << log)?;
        let [single, pair] = [Together::Single, Together::Pair]
            .map(|together| bootstrap_seconds(&machine, &params, slots, together) / machine.parallel);
        println!("N = 2^{log_n}, {slots:>6} slots: {single:.2} s alone, {pair:.2} s a pair");
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let (mut degree, mut rings) = (4, vec![15, 16]);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or(format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--degree" => degree = value.parse::<usize>()?.clamp(2, 8),
            "--log-n" => rings = vec![value.parse()?],
            other => {
                return Err(format!("unknown option {other}; see the first lines of this example").into());
            }
        }
    }
    rings.iter().try_for_each(|&log_n| table(log_n))?;
    for graph in [resnet20(degree), mobilenet_v2(degree, 256), resnet50(degree)] {
        report(&graph, degree, &rings)?;
    }
    Ok(())
}
