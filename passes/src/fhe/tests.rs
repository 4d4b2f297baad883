//! Programs in the clear against the tensor interpreter, over operators, shapes, degrees and rings.

use peregrine_ir::program::{ClearMachine, Inst, Noise, Program, pack_input, unpack_output};
use peregrine_ir::tensor::{Conv, Stage, TensorGraph, TensorOp, TensorTables, infer};
use peregrine_ir::{ConstPool, ConstTensor, Origin, OutputPort, ValueId};

use crate::pipeline::{Calibration, Compiled, Options, PipelineError, compile};
use crate::plan::Plan;
use crate::tensor::interp::{self, Batch};

mod budget;
mod parts;
mod views;

/// A small deterministic generator of numbers in -1..1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32) / 8_388_608.0 - 1.0
    }
    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

struct Net {
    graph: TensorGraph,
    numbers: Numbers,
}

/// Geometry of a test convolution.
#[derive(Clone, Copy)]
struct Geometry {
    kernel: [usize; 2],
    stride: [u32; 2],
    pads: [u32; 4],
    groups: u32,
}

impl Geometry {
    const SAME: Self = Self { kernel: [3, 3], stride: [1, 1], pads: [1, 1, 1, 1], groups: 1 };
    const POINT: Self = Self { kernel: [1, 1], stride: [1, 1], pads: [0; 4], groups: 1 };
    const DOWN: Self = Self { kernel: [3, 3], stride: [2, 2], pads: [0, 0, 1, 1], groups: 1 };
}

impl Net {
    fn new(shape: [usize; 4]) -> (Self, ValueId) {
        let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Imported };
        let mut net = Self { graph: TensorGraph::new("net", tables), numbers: Numbers(7) };
        net.graph.add(
            TensorOp::Input { name: "x".into() },
            [],
            peregrine_ir::tensor::TensorTy { shape: shape.to_vec() },
            Origin::new("x"),
        );
        (net, ValueId(0))
    }

    fn op(&mut self, op: TensorOp, args: &[ValueId]) -> ValueId {
        let types: Vec<_> = args.iter().map(|a| self.graph.nodes[*a].ty.clone()).collect();
        let types: Vec<_> = types.iter().collect();
        let ty = infer(&op, &types, &self.graph.tables.consts).expect("test graphs type");
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add(op, args.iter().copied(), ty, Origin::new(&name))
    }

    fn conv(&mut self, x: ValueId, channels: usize, g: Geometry) -> ValueId {
        let per_group = self.graph.nodes[x].ty.shape[1] / g.groups as usize;
        let shape = vec![channels, per_group, g.kernel[0], g.kernel[1]];
        let fan_in = (per_group * g.kernel[0] * g.kernel[1]) as f32;
        let data: Vec<f32> =
            self.numbers.take(shape.iter().product()).iter().map(|w| w * (3.0 / fan_in).sqrt()).collect();
        let weights = self.graph.tables.consts.push(ConstTensor::f32(shape, data));
        let bias = self.numbers.take(channels);
        let bias = Some(self.graph.tables.consts.push(ConstTensor::f32(vec![channels], bias)));
        let conv = Conv { weights, bias, stride: g.stride, pads: g.pads, dilation: [1, 1], groups: g.groups };
        self.op(TensorOp::Conv(conv), &[x])
    }

    fn poly(&mut self, x: ValueId, degree: usize) -> ValueId {
        self.poly_of(x, degree, 1.0)
    }

    /// A polynomial whose coefficients shrink by a factor with each power.
    fn poly_of(&mut self, x: ValueId, degree: usize, shrink: f64) -> ValueId {
        let channels = self.graph.nodes[x].ty.shape[1];
        let numbers = self.numbers.take(channels * (degree + 1));
        let power = |i: usize| (i % (degree + 1)) as i32;
        let coefficient = |(i, &c): (usize, &f32)| f64::from(c) * 0.5 * shrink.powi(power(i));
        let data: Vec<f64> = numbers.iter().enumerate().map(coefficient).collect();
        let coefficients = self.graph.tables.consts.push(ConstTensor::f64(vec![channels, degree + 1], data));
        self.op(TensorOp::Poly { coefficients }, &[x])
    }

    fn compile(self, output: ValueId) -> (Compiled, Batch) {
        self.compile_with(output, &Options::default())
    }

    fn compile_with(self, output: ValueId, options: &Options) -> (Compiled, Batch) {
        self.try_compile(output, options).expect("compiles")
    }

    fn try_compile(mut self, output: ValueId, options: &Options) -> Result<(Compiled, Batch), PipelineError> {
        self.graph.outputs.push(OutputPort { name: "y".into(), value: output });
        let shape = self.graph.nodes[ValueId(0)].ty.shape.clone();
        let len: usize = shape.iter().product();
        let batch = Batch::new(&shape[1..], self.numbers.take(4 * len)).expect("batch");
        let compiled = compile(self.graph, Calibration::StandIn(&batch), options, &mut |_, _| {})?;
        Ok((compiled, batch))
    }
}

/// Largest difference between the program in the clear and the tensor interpreter, relative to the largest output.
fn error(compiled: &Compiled, batch: &Batch, noise: Noise) -> f64 {
    let len: usize = batch.image_shape().iter().product();
    let image = Batch::new(&batch.image_shape()[1..], batch.data()[..len].to_vec()).expect("one image");
    let expected = interp::run(&compiled.polynomial, &image).expect("interpreter")[0].clone();
    let got = run_program(&compiled.program, &image, noise);
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    assert_eq!(got.len(), expected.len());
    got.iter().zip(&expected).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max) / largest
}

fn run_program(program: &Program, image: &Batch, noise: Noise) -> Vec<f64> {
    let machine = ClearMachine::new(program, noise).expect("machine");
    let tensor: Vec<f64> = image.data().iter().map(|&v| f64::from(v)).collect();
    let input = pack_input(program, 0, &tensor).expect("input");
    let outputs = machine.run(&[input], &mut |_| {}).expect("run");
    unpack_output(program, 0, &outputs[0]).expect("output")
}

fn assert_exact(compiled: &Compiled, batch: &Batch) {
    let error = error(compiled, batch, Noise::None);
    assert!(error < 1e-4, "error {error} in the clear");
    let len: usize = batch.image_shape().iter().product();
    let image = Batch::new(&batch.image_shape()[1..], batch.data()[..len].to_vec()).expect("one image");
    let program = run_program(&compiled.program, &image, Noise::None);
    let tensor: Vec<f64> = image.data().iter().map(|&v| f64::from(v)).collect();
    let packed = peregrine_ir::fhe::run_clear(&compiled.fhe, &[tensor]).expect("one input");
    let largest = program.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (a, b) in program.iter().zip(&packed[0]) {
        assert!((a - b).abs() <= 1e-7 * largest, "{b} in the packed graph, {a} in the program");
    }
}

#[test]
fn a_gate_multiplies_a_map() {
    let (mut net, x) = Net::new([1, 3, 8, 8]);
    let c = net.conv(x, 8, Geometry::SAME);
    let map = net.poly(c, 2);
    let pooled = net.op(TensorOp::GlobalAveragePool, &[map]);
    let few = net.conv(pooled, 4, Geometry::POINT);
    let few = net.poly(few, 2);
    let many = net.conv(few, 8, Geometry::POINT);
    let gate = net.poly(many, 2);
    let everywhere = peregrine_ir::AxisMap::collect(1, 8, (0..8).map(|i| (i, 0, 1.0))).expect("small");
    let maps = [peregrine_ir::AxisMap::identity(8), everywhere.clone(), everywhere];
    let spread = net.op(TensorOp::Separable(peregrine_ir::Separable { maps }), &[gate]);
    let product = net.op(TensorOp::Mul, &[map, spread]);
    let y = net.conv(product, 4, Geometry::DOWN);
    let (compiled, batch) = net.compile(y);
    assert!(!compiled.polynomial.nodes.values().any(|n| matches!(n.op, TensorOp::Mul)));
    assert_exact(&compiled, &batch);
}

#[test]
fn every_degree_evaluates_exactly() {
    for degree in 2..=8 {
        let (mut net, x) = Net::new([1, 2, 6, 6]);
        let c = net.conv(x, 4, Geometry::SAME);
        let p = net.poly(c, degree);
        let y = net.conv(p, 3, Geometry { kernel: [6, 6], stride: [1, 1], pads: [0; 4], groups: 1 });
        let (compiled, batch) = net.compile(y);
        assert_exact(&compiled, &batch);
    }
}

#[test]
fn polynomials_in_a_row_and_of_the_input() {
    let (mut net, x) = Net::new([1, 2, 6, 6]);
    let p = net.poly(x, 2);
    let c = net.conv(p, 4, Geometry::SAME);
    let p = net.poly(c, 8);
    let p = net.poly(p, 3);
    let y = net.conv(p, 3, Geometry::SAME);
    let (compiled, batch) = net.compile(y);
    assert_exact(&compiled, &batch);
}

#[test]
fn strided_grouped_and_depthwise_convolutions_on_odd_extents() {
    let depthwise = Geometry { groups: 6, ..Geometry::SAME };
    let grouped = Geometry { groups: 3, ..Geometry::DOWN };
    let (mut net, x) = Net::new([1, 3, 11, 14]);
    let c = net.conv(x, 6, Geometry { kernel: [3, 5], stride: [1, 2], pads: [1, 2, 0, 1], groups: 1 });
    let c = net.poly(c, 2);
    let c = net.conv(c, 6, depthwise);
    let c = net.poly(c, 2);
    let c = net.conv(c, 9, grouped);
    let c = net.poly(c, 2);
    let y = net.conv(c, 5, Geometry::POINT);
    let (compiled, batch) = net.compile(y);
    assert_exact(&compiled, &batch);
}

#[test]
fn residual_blocks_with_and_without_projection() {
    let (mut net, x) = Net::new([1, 3, 8, 8]);
    let c = net.conv(x, 4, Geometry::SAME);
    let skip = net.poly(c, 2);
    let a = net.conv(skip, 4, Geometry::SAME);
    let a = net.poly(a, 4);
    let a = net.conv(a, 4, Geometry::SAME);
    let join = net.op(TensorOp::Add, &[a, skip]);
    let skip = net.poly(join, 2);
    let a = net.conv(skip, 8, Geometry::DOWN);
    let a = net.poly(a, 2);
    let a = net.conv(a, 8, Geometry::SAME);
    let b = net.conv(skip, 8, Geometry { kernel: [1, 1], stride: [2, 2], pads: [0; 4], groups: 1 });
    let join = net.op(TensorOp::Add, &[a, b]);
    let y = net.poly(join, 3);
    let y = net.op(TensorOp::GlobalAveragePool, &[y]);
    let (compiled, batch) = net.compile(y);
    assert_exact(&compiled, &batch);
    let adds = compiled.fhe.nodes.values().filter(|n| matches!(n.op, peregrine_ir::fhe::FheOp::Add)).count();
    assert_eq!(adds, 0, "every residual add is a term of a linear map");
}

#[test]
fn a_tensor_of_several_ciphertexts() {
    let (mut net, x) = Net::new([1, 3, 64, 64]);
    let c = net.conv(x, 6, Geometry::DOWN);
    let c = net.poly(c, 2);
    let y = net.conv(c, 2, Geometry::DOWN);
    let (compiled, batch) = net.compile(y);
    let layouts = compiled.program.layouts.values().map(|l| l.ciphertexts).max();
    assert!(layouts > Some(1), "{layouts:?}");
    assert_exact(&compiled, &batch);
}

#[test]
fn a_map_larger_than_a_ciphertext_is_interleaved() {
    let (mut net, x) = Net::new([1, 1, 160, 128]);
    let c = net.conv(x, 2, Geometry::DOWN);
    let c = net.poly(c, 2);
    let y = net.conv(c, 1, Geometry::SAME);
    let (compiled, batch) = net.compile(y);
    assert!(compiled.program.inputs.len() == 1 && compiled.params.max_slots().get() < 160 * 128);
    assert_exact(&compiled, &batch);
}

#[test]
fn the_noise_model_keeps_a_small_net_within_its_bits() {
    let (mut net, x) = Net::new([1, 2, 8, 8]);
    let c = net.conv(x, 4, Geometry::SAME);
    let p = net.poly(c, 4);
    let c = net.conv(p, 4, Geometry::SAME);
    let p = net.poly(c, 2);
    let y = net.conv(p, 3, Geometry { kernel: [8, 8], stride: [1, 1], pads: [0; 4], groups: 1 });
    let (compiled, batch) = net.compile(y);
    let noisy = error(&compiled, &batch, Noise::Model { seed: 3 });
    assert!(noisy > 0.0 && noisy < 2f64.powi(-8), "{noisy}");
}

#[test]
fn a_square_costs_one_prime_and_degree_eight_two_more() {
    let levels = |degree: usize| {
        let (mut net, x) = Net::new([1, 1, 4, 4]);
        let c = net.conv(x, 2, Geometry::SAME);
        let p = net.poly(c, degree);
        let y = net.conv(p, 2, Geometry::SAME);
        net.compile(y).0.fhe.tables.chain_bits.len() - 1
    };
    assert_eq!([2, 3, 4, 5, 8].map(levels), [2, 3, 3, 4, 4]);
}

#[test]
fn relinearisations_are_as_few_as_the_degree_allows() {
    let products = |degree: usize| {
        let (mut net, x) = Net::new([1, 1, 4, 4]);
        let c = net.conv(x, 2, Geometry::SAME);
        let p = net.poly(c, degree);
        let y = net.conv(p, 2, Geometry::SAME);
        let compiled = net.compile(y).0;
        compiled.program.insts.iter().filter(|i| matches!(i, Inst::Mul { .. } | Inst::Square { .. })).count()
    };
    assert_eq!([2, 3, 4, 8].map(products), [1, 2, 2, 5]);
}

#[test]
fn a_grid_beyond_the_limit_is_refused() {
    let (mut net, x) = Net::new([1, 1, 40_000, 1]);
    let y = net.conv(x, 1, Geometry { kernel: [1, 1], stride: [1, 10_000], pads: [0; 4], groups: 1 });
    net.graph.outputs.push(OutputPort { name: "y".into(), value: y });
    let error = crate::fhe::layouts::spreads(&net.graph).err();
    assert!(matches!(error, Some(crate::fhe::LowerError::Unsupported { .. })), "{error:?}");
}

/// So many convolutions and polynomials, with a residual block here and there.
fn deep(blocks: usize, degree: usize) -> (Net, ValueId) {
    let (mut net, mut x) = Net::new([1, 2, 4, 4]);
    for block in 0..blocks {
        let mut branch = net.conv(x, 2, Geometry::SAME);
        if block % 3 == 1 {
            branch = net.op(TensorOp::Add, &[branch, x]);
        }
        // Flat enough that no value runs away.
        let row = [0.1, 0.4, 0.05, 0.0, 0.002][..=degree].repeat(2);
        let coefficients = net.graph.tables.consts.push(ConstTensor::f64(vec![2, degree + 1], row));
        x = net.op(TensorOp::Poly { coefficients }, &[branch]);
    }
    let y = net.conv(x, 2, Geometry::POINT);
    (net, y)
}

#[test]
fn a_model_too_deep_for_any_ring_bootstraps() {
    for (blocks, degree) in [(75, 2), (30, 4)] {
        let (net, y) = deep(blocks, degree);
        let (compiled, batch) = net.compile(y);
        let bootstraps =
            compiled.program.insts.iter().filter(|inst| matches!(inst, Inst::Bootstrap { .. })).count();
        assert!(bootstraps >= 2 && compiled.program.bootstrap.is_some(), "{bootstraps}");
        assert_eq!(compiled.prediction.bootstraps, bootstraps as u64);
        assert_exact(&compiled, &batch);
        let noisy = error(&compiled, &batch, Noise::Model { seed: 5 });
        assert!(noisy < 2f64.powi(-6), "error {noisy} with noise at degree {degree}");
    }
}

#[test]
fn too_deep_a_model_is_refused_with_numbers() {
    let (mut net, y) = deep(80, 2);
    net.graph.outputs.push(OutputPort { name: "y".into(), value: y });
    let batch = Batch::new(&[2, 4, 4], vec![0.5; 32]).expect("batch");
    let options = Options { plan: Plan::Leveled, ..Options::default() };
    let error = compile(net.graph, Calibration::StandIn(&batch), &options, &mut |_, _| {}).err();
    assert!(matches!(error, Some(PipelineError::Lower(crate::fhe::LowerError::TooDeep { .. }))), "{error:?}");
}

#[test]
fn a_limit_of_key_bytes_is_kept_or_refused() {
    let net = || {
        let (mut net, x) = Net::new([1, 4, 16, 16]);
        let a = net.conv(x, 8, Geometry::SAME);
        let a = net.poly(a, 2);
        let b = net.conv(a, 8, Geometry::DOWN);
        let b = net.poly(b, 2);
        let y = net.conv(b, 4, Geometry::SAME);
        net.graph.outputs.push(OutputPort { name: "y".into(), value: y });
        net
    };
    let within = |keys_memory: Option<u64>| {
        let mut net = net();
        let batch = Batch::new(&[4, 16, 16], net.numbers.take(4 * 4 * 16 * 16)).expect("batch");
        let options = Options { keys_memory, plan: Plan::Leveled, ..Options::default() };
        let compiled = compile(net.graph, Calibration::StandIn(&batch), &options, &mut |_, _| {});
        compiled.map(|compiled| (compiled, batch))
    };
    let (free, batch) = within(None).expect("compiles");
    assert_exact(&free, &batch);
    let front = &free.key_front;
    assert!(front.len() > 1, "{front:?}");
    let ordered = front.windows(2).all(|w| w[0].key_bytes < w[1].key_bytes && w[0].seconds > w[1].seconds);
    assert!(ordered, "{front:?}");
    for point in front {
        let (compiled, batch) = within(Some(point.key_bytes)).expect("compiles");
        assert_eq!(compiled.prediction.key_bytes, point.key_bytes);
        assert!((compiled.prediction.seconds / point.seconds - 1.0).abs() < 0.05, "{point:?}");
        assert_exact(&compiled, &batch);
    }
    let error = within(Some(front[0].key_bytes - 1)).err();
    let needed = match error {
        Some(PipelineError::Lower(crate::fhe::LowerError::KeysMemory { needed, .. })) => needed,
        other => panic!("{other:?}"),
    };
    assert_eq!(needed, front[0].key_bytes);
}
