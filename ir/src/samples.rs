//! Small valid values of each level that the tests start from.

use std::collections::BTreeMap;

use peregrine_ckks::bootstrap::BootstrapSpec;
use peregrine_ckks::params::{Params, ParamsLiteral, PrimeSpec};
use peregrine_ckks::units::{Level, Scale, Slots};

use crate::axis::{AxisMap, Separable};
use crate::consts::{ConstPool, ConstTensor};
use crate::entity::PrimaryMap;
use crate::fhe::{CipherTy, FheGraph, FheOp, FheTables, MonicPoly, PackedTy, Stage};
use crate::graph::{Origin, OutputPort};
use crate::layout::{Blocks, Chw, Digit, Layout, Place};
use crate::linear::{BsgsSplit, ConvGeometry, LayoutId, LinearMap, ResolvedMap, plan_call};
use crate::program::{
    CallTerm, Inst, KeyManifest, LinearCall, Probe, Program, ProgramInput, ProgramOutput, Refresh, Reg,
    VectorRecipe,
};
use crate::refresh::RefreshForm;
use crate::tensor::{
    Activation, Conv, Pool, PoolKind, Stage as TensorStage, TensorGraph, TensorOp, TensorTables, TensorTy,
};

pub(crate) fn slots(count: u32) -> Slots {
    Slots::new(count).unwrap()
}

/// A raster layout in one ciphertext of the least period.
pub(crate) fn raster(c: u32, h: u32, w: u32) -> Layout {
    let digit = |radix, stride| vec![Digit { radix, place: Place::Slot(stride) }];
    let (row, map) = (w.next_power_of_two(), w.next_power_of_two() * h.next_power_of_two());
    Layout {
        shape: Chw { c, h, w },
        digits: [digit(c, map), digit(h, row), digit(w, 1)],
        period: slots(map * c.next_power_of_two()),
        ciphertexts: 1,
        blocks: Blocks::default(),
    }
}

/// Numbers without pattern between -1 and 1.
pub(crate) fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state >> 8) / f64::from(1 << 23) - 1.0) as f32
    };
    (0..count).map(|_| next()).collect()
}

pub(crate) fn params() -> Params {
    let q = [50, 35, 35].map(PrimeSpec::Bits).to_vec();
    ParamsLiteral { log_n: 13, q, p: vec![PrimeSpec::Bits(50)] }.check().unwrap()
}

/// input 1x4x4 -> 3x3 convolution to 2x4x4 -> bias -> square -> fully connected to 3.
pub(crate) fn program() -> Program {
    let consts: ConstPool = [
        ConstTensor::f32([2, 1, 3, 3], numbers(18, 1)),
        ConstTensor::f32([3, 2, 4, 4], numbers(96, 2)),
        ConstTensor::f64([1], [2.0]),
        ConstTensor::f64([2], [0.5, -0.25]),
        ConstTensor::f64([3], [1.0, -1.5, 3.0]),
        ConstTensor::f64([2], [0.125, -0.5]),
    ]
    .into_iter()
    .collect();
    let layouts: PrimaryMap<_, _> = [raster(1, 4, 4), raster(2, 4, 4), raster(3, 1, 1)].into_iter().collect();
    let conv = ConvGeometry { kernel: [3, 3], stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
    let whole = ConvGeometry::whole_map(Chw { c: 2, h: 4, w: 4 });
    let map = |input, output, geometry, weights| {
        LinearMap::new(LayoutId(input), LayoutId(output), geometry, crate::ConstId(weights))
    };
    let call = |m, modulus| LinearCall {
        terms: vec![CallTerm { map: crate::linear::LinearMapId(m), operand: 0 }],
        split: BsgsSplit::by_modulus(modulus, 32),
        shared: Vec::new(),
    };
    let unit = crate::ConstId;
    let mut program = Program {
        name: "sample".into(),
        params: params().to_literal(),
        bootstrap: None,
        consts,
        layouts,
        maps: [map(0, 1, conv, 0), map(1, 2, whole, 1)].into_iter().collect(),
        calls: [call(0, 4), call(1, 2)].into_iter().collect(),
        vectors: [VectorRecipe { values: unit(5), layout: LayoutId(1), cipher: 0 }].into_iter().collect(),
        refreshes: PrimaryMap::new(),
        inputs: vec![ProgramInput {
            name: "x".into(),
            layout: LayoutId(0),
            level: Level(2),
            scale: Scale::pow2(30),
            unit: unit(2),
        }],
        outputs: vec![ProgramOutput {
            name: "y".into(),
            shape: vec![1, 3],
            layout: LayoutId(2),
            level: Level(0),
            scale: Scale::pow2(30),
            unit: unit(4),
        }],
        insts: insts(),
        layers: vec!["conv".into(), "act".into(), "fc".into()],
        inst_layers: vec![0, 0, 0, 0, 0, 1, 1, 2, 2, 2],
        probes: vec![Probe {
            layer: "conv".into(),
            after: 4,
            regs: vec![Reg(3)],
            layout: LayoutId(1),
            unit: unit(3),
        }],
        manifest: KeyManifest::default(),
    };
    program.manifest = manifest(&program, &[Level(2), Level(1)], Some(Level(1)));
    program
}

fn insts() -> Vec<Inst> {
    use crate::program::{CallId, VectorId};
    let wide = |q: u32| Scale::pow2(30).mul(&Scale::prime(q));
    vec![
        Inst::Input { dst: Reg(0), input: 0, cipher: 0 },
        Inst::Linear { dsts: vec![Reg(1)], call: CallId(0), args: vec![Reg(0)], scale: wide(2) },
        Inst::Free { reg: Reg(0) },
        Inst::Rescale { dst: Reg(2), src: Reg(1) },
        Inst::AddVector { dst: Reg(3), src: Reg(2), vector: VectorId(0) },
        Inst::Square { dst: Reg(4), src: Reg(3) },
        Inst::Free { reg: Reg(3) },
        Inst::Linear { dsts: vec![Reg(5)], call: CallId(1), args: vec![Reg(4)], scale: wide(1) },
        Inst::Rescale { dst: Reg(6), src: Reg(5) },
        Inst::Output { output: 0, cipher: 0, src: Reg(6) },
    ]
}

/// The keys of the linear calls, each at the level of its entry of `levels`.
pub(crate) fn manifest(program: &Program, levels: &[Level], relin: Option<Level>) -> KeyManifest {
    let n = 1usize << program.params.log_n;
    let mut galois = BTreeMap::new();
    for (call, &level) in program.calls.values().zip(levels) {
        let terms: Vec<(ResolvedMap<'_>, u32)> = (call.terms.iter())
            .map(|term| (program.maps[term.map].resolve(&program.layouts), term.operand))
            .collect();
        for element in plan_call(&terms, call.recipe(), slots(n as u32 / 2)).plan.galois_elements(n) {
            let highest = galois.entry(element).or_insert(level);
            *highest = level.max(*highest);
        }
    }
    KeyManifest { relin, galois }
}

/// The leveled fhe graph of [`program`], with a second branch that adds and drops.
pub(crate) fn fhe() -> FheGraph {
    let program = program();
    let mut consts = program.consts;
    let lower = consts.push(ConstTensor::f64([2, 2], vec![0.0; 4]));
    let tables = FheTables {
        consts,
        layouts: program.layouts,
        maps: program.maps,
        slots: 4096,
        chain_bits: vec![50, 35, 35],
        bootstrap: None,
        stage: Stage::Leveled,
    };
    let ty = |layout, unit, level, scale| PackedTy {
        layout: LayoutId(layout),
        unit: crate::ConstId(unit),
        reach: 1.0,
        cipher: Some(CipherTy { level: Level(level), scale }),
    };
    let mut graph = FheGraph::new("sample", tables);
    let x = graph.add(FheOp::Input { name: "x".into() }, [], ty(0, 2, 2, Scale::pow2(30)), Origin::new("x"));
    let linear = |map, bias| FheOp::Linear { maps: vec![crate::linear::LinearMapId(map)], bias };
    let bias = Some(crate::ConstId(5));
    let conv = graph.add(linear(0, bias), [x], ty(1, 3, 1, Scale::pow2(30)), Origin::new("conv"));
    let poly = FheOp::Poly(MonicPoly { degree: 2, lower });
    let act = graph.add(poly, [conv], ty(1, 3, 1, Scale::pow2(60)), Origin::new("act"));
    let sum = graph.add(FheOp::Add, [act, act], ty(1, 3, 1, Scale::pow2(60)), Origin::new("sum"));
    let fc = graph.add(linear(1, None), [sum], ty(2, 4, 0, Scale::pow2(30)), Origin::new("fc"));
    let drop = FheOp::Drop { to: Level(0) };
    let dropped = graph.add(drop, [conv], ty(1, 3, 0, Scale::pow2(30)), Origin::new("drop"));
    graph.outputs.push(OutputPort { name: "y".into(), value: fc });
    graph.outputs.push(OutputPort { name: "side".into(), value: dropped });
    graph
}

/// An imported tensor graph with every kind of operation.
pub(crate) fn tensor() -> TensorGraph {
    let consts: ConstPool = [
        ConstTensor::f32([4, 3, 3, 3], numbers(108, 1)),
        ConstTensor::f32([4], numbers(4, 2)),
        ConstTensor::f64([1, 3], [0.0, 0.5, 0.25]),
        ConstTensor::f32([10, 4], numbers(40, 3)),
        ConstTensor::f32([10], numbers(10, 4)),
    ]
    .into_iter()
    .collect();
    let c = crate::ConstId;
    let mut graph = TensorGraph::new("sample", TensorTables { consts, stage: TensorStage::Imported });
    let mut add = |op: TensorOp, args: &[u32], shape: &[usize]| {
        let origin = Origin::new(&format!("/node \"{}\"", op.mnemonic()));
        graph.add(op, args.iter().map(|&v| crate::ValueId(v)), TensorTy { shape: shape.to_vec() }, origin)
    };
    let conv = |groups| Conv {
        weights: c(0),
        bias: Some(c(1)),
        stride: [2, 2],
        pads: [0, 1, 1, 0],
        dilation: [1, 1],
        groups,
    };
    let map = [1, 4, 4, 4];
    add(TensorOp::Input { name: "image".into() }, &[], &[1, 3, 8, 8]);
    add(TensorOp::Pad { pads: [1, 0, 0, 1] }, &[0], &[1, 3, 9, 9]);
    add(TensorOp::Conv(conv(1)), &[0], &map);
    add(TensorOp::ChannelAffine { mul: c(1), add: c(1) }, &[2], &map);
    add(TensorOp::Activation(Activation::Relu), &[3], &map);
    add(TensorOp::Activation(Activation::LeakyRelu { alpha: 0.1 }), &[3], &map);
    add(TensorOp::Activation(Activation::PRelu { slope: c(1) }), &[3], &map);
    add(TensorOp::Activation(Activation::Clip { low: 0.0, high: 6.0 }), &[3], &map);
    add(TensorOp::Activation(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }), &[3], &map);
    add(TensorOp::Poly { coefficients: c(2) }, &[4], &map);
    add(TensorOp::Add, &[5, 6], &map);
    add(TensorOp::Sub, &[10, 7], &map);
    add(TensorOp::Mul, &[11, 8], &map);
    let pool = Pool { kind: PoolKind::Max, kernel: [2, 2], stride: [2, 2], pads: [0; 4] };
    add(TensorOp::Pool(pool), &[12], &[1, 4, 2, 2]);
    add(TensorOp::GlobalAveragePool, &[13], &[1, 4, 1, 1]);
    add(TensorOp::Reshape { shape: vec![1, 4] }, &[14], &[1, 4]);
    let last = add(TensorOp::FullyConnected { weights: c(3), bias: Some(c(4)) }, &[15], &[1, 10]);
    let halves = Separable {
        maps: [AxisMap::gather(4, &[0, 2, 1, 3]), AxisMap::window(4, 2, 0, 2), AxisMap::spread(4, 7, 0, 2)]
            .map(Result::unwrap),
    };
    add(TensorOp::Separable(halves), &[12], &[1, 4, 2, 7]);
    graph.outputs.push(OutputPort { name: "logits".into(), value: last });
    graph
}

/// A program of N = 2^15 at 128 bits that refreshes its input alone and with itself.
pub(crate) fn refreshing() -> Program {
    let spec = BootstrapSpec::n15();
    let checked = spec.clone().check().unwrap();
    let form = RefreshForm { range_bits: 1, lift_bits: None };
    let recipe = Refresh { slots: slots(16), scale: Scale::pow2(40), form };
    let (level, scale) = form.result(&spec).unwrap();
    let mut program = Program::new("refreshing".into(), checked.main().to_literal());
    program.consts = [ConstTensor::f64([1], [2.0])].into_iter().collect();
    program.layouts.push(raster(1, 4, 4));
    let unit = crate::ConstId(0);
    let input = ProgramInput {
        name: "x".into(),
        layout: LayoutId(0),
        level: spec.input_level(),
        scale: recipe.scale.clone(),
        unit,
    };
    program.inputs.push(input);
    let refresh = program.refreshes.push(recipe);
    program.insts = vec![
        Inst::Input { dst: Reg(0), input: 0, cipher: 0 },
        Inst::Bootstrap { dst: Reg(1), src: Reg(0), refresh },
        Inst::BootstrapPair { dsts: [Reg(2), Reg(3)], srcs: [Reg(0), Reg(0)], refresh },
    ];
    for output in 0..3 {
        let (name, scale) = (format!("y{output}"), scale.clone());
        program.outputs.push(ProgramOutput {
            name,
            shape: vec![1, 16],
            layout: LayoutId(0),
            level,
            scale,
            unit,
        });
        program.insts.push(Inst::Output { output, cipher: 0, src: Reg(output + 1) });
    }
    program.layers = vec!["stem".into()];
    program.inst_layers = vec![0; 6];
    program.manifest = KeyManifest {
        relin: Some(checked.eval_mod_level()),
        galois: checked.galois_elements(slots(16)).unwrap().into_iter().collect(),
    };
    program.bootstrap = Some(spec);
    program
}
