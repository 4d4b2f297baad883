//! Each rule of the program verifier is broken once; the clear machine is compared with direct arithmetic.

use peregrine_ckks::params::{Chain, PrimeSpec};
use peregrine_ckks::units::{GaloisElement, Level, Rotation, Scale};

use super::*;
use crate::consts::ConstTensor;
use crate::linear::{Imaginary, Sharing};
use crate::samples::{numbers, params, program, slots};
use crate::verify::{Contents, Counted, Entity, Key, Liveness, Problem, Site};

/// The only problem of a sample program after a change.
fn broken(change: impl FnOnce(&mut Program)) -> (Site, Problem) {
    let mut program = program();
    change(&mut program);
    let mut errors = verify(&program).unwrap_err();
    assert!(errors.to_string().starts_with("invalid program:\n"), "{errors}");
    assert_eq!(errors.errors.len(), 1, "{errors}");
    let error = errors.errors.remove(0);
    (error.site, error.problem)
}

/// Replaces instruction `index` and gives the problem found there.
fn with_inst(index: usize, inst: Inst) -> Problem {
    let (site, problem) = broken(|p| p.insts[index] = inst);
    assert_eq!(site, Site::Entry(Entity::Inst(index as u32)));
    problem
}

/// Inserts an instruction before `index` and gives the problem found there.
fn insert(index: usize, inst: Inst) -> Problem {
    let (site, problem) = broken(|p| {
        p.insts.insert(index, inst);
        p.inst_layers.insert(index, 0);
        p.probes.clear();
    });
    assert_eq!(site, Site::Entry(Entity::Inst(index as u32)));
    problem
}

fn scale(two: i32) -> Scale {
    Scale::pow2(two)
}

#[test]
fn the_sample_is_valid() {
    verify(&program()).unwrap();
}

#[test]
fn rule_1_parameters_and_limits() {
    let (site, problem) = broken(|p| p.params.p.extend([PrimeSpec::Bits(49); 2]));
    assert_eq!(site, Site::Params);
    assert!(matches!(problem, Problem::Params(_)), "{problem}");
    let (_, problem) = broken(|p| p.params.q[1] = PrimeSpec::Bits(36));
    assert_eq!(problem, Problem::InexactPrime { chain: Chain::Q, index: 1 });
    let (_, problem) = broken(|p| p.layers = vec![String::new(); MAX_ENTRIES + 1]);
    assert!(matches!(problem, Problem::TooMany { what: Counted::Entries, .. }));
}

#[test]
fn rule_2_tables() {
    let (site, problem) = broken(|p| p.consts[ConstId(0)].shape = vec![2, 1, 3, 4]);
    assert_eq!(site, Site::Entry(Entity::Const(ConstId(0))));
    assert!(matches!(problem, Problem::ConstLength { expected: 24, found: 18, .. }));
    let (_, problem) = broken(|p| p.consts[ConstId(3)] = ConstTensor::f64([2], [1.0, f64::NAN]));
    assert_eq!(problem, Problem::NotFinite { index: 1 });
    let (_, problem) = broken(|p| p.consts[ConstId(0)] = ConstTensor::f32([18], numbers(18, 1)));
    assert!(matches!(problem, Problem::ConstShape { constant: ConstId(0), .. }));
    let (_, problem) = broken(|p| p.layouts[LayoutId(0)].period = slots(8192));
    assert_eq!(problem, Problem::Period { period: 8192, slots: 4096 });
    let (_, problem) = broken(|p| p.layouts[LayoutId(0)].period = slots(8));
    assert!(matches!(problem, Problem::Layout(_)));
    let (_, problem) = broken(|p| p.layouts[LayoutId(0)].ciphertexts = MAX_CIPHERTEXTS + 1);
    assert!(matches!(problem, Problem::TooMany { what: Counted::Ciphertexts, .. }));
    let (_, problem) = broken(|p| p.maps[LinearMapId(0)].geometry.groups = 2);
    assert!(matches!(problem, Problem::Map(_)));
    let (_, problem) = broken(|p| p.maps[LinearMapId(0)].input = LayoutId(9));
    assert_eq!(problem, Problem::Unknown(Entity::Layout(LayoutId(9))));
    let (_, problem) = broken(|p| p.maps[LinearMapId(0)].weights = ConstId(77));
    assert_eq!(problem, Problem::Unknown(Entity::Const(ConstId(77))));
    let (site, problem) = broken(|p| p.vectors[VectorId(0)].cipher = 1);
    assert_eq!(site, Site::Entry(Entity::Vector(VectorId(0))));
    assert_eq!(problem, Problem::Unknown(Entity::Cipher(1)));
    let (_, problem) = broken(|p| p.vectors[VectorId(0)].values = ConstId(4));
    assert!(matches!(problem, Problem::ConstShape { .. }));
}

#[test]
fn rule_3_linear_calls() {
    let (site, problem) = broken(|p| p.calls[CallId(1)].terms.clear());
    assert_eq!(site, Site::Entry(Entity::Call(CallId(1))));
    assert_eq!(problem, Problem::None(Counted::Terms));
    let (_, problem) = broken(|p| p.calls[CallId(0)].terms[0].operand = 1);
    assert_eq!(problem, Problem::Unknown(Entity::Operand(0)));
    let (_, problem) = broken(|p| p.calls[CallId(0)].terms[0].map = LinearMapId(5));
    assert_eq!(problem, Problem::Unknown(Entity::Map(LinearMapId(5))));
    let other = |operand| CallTerm { map: LinearMapId(1), operand };
    let (_, problem) = broken(|p| p.calls[CallId(0)].terms.push(other(0)));
    assert!(matches!(problem, Problem::LayoutMismatch { what: Entity::Operand(0), .. }));
    let (_, problem) = broken(|p| p.calls[CallId(0)].terms.push(other(1)));
    assert!(matches!(problem, Problem::LayoutMismatch { what: Entity::Map(_), .. }));
    // A second ciphertext of the result, which no weight reaches: it is zero, but needs a register.
    let (_, problem) = broken(|p| p.layouts[LayoutId(2)].ciphertexts = 2);
    assert_eq!(problem.to_string(), "has 1 registers, not 2");
    // More copies than the ring has room for, and a sharing of no operand.
    let shifts = |count| Sharing { imaginary: Imaginary::Nothing, shifts: vec![1; count] };
    for count in [8, 60] {
        let (site, problem) = broken(|p| p.calls[CallId(1)].shared = vec![shifts(count)]);
        assert_eq!(site, Site::Entry(Entity::Call(CallId(1))));
        let (operand, doublings) = (0, count);
        assert_eq!(problem, Problem::Copies { operand, doublings, period: 32, slots: 4096 });
    }
    let (_, problem) = broken(|p| p.calls[CallId(0)].shared = vec![Sharing::default(); 2]);
    assert_eq!(problem, Problem::TooMany { what: Counted::Operands, found: 2, limit: 1 });
    // A conjugation without its key.
    let (_, problem) = broken(|p| {
        p.calls[CallId(0)].shared = vec![Sharing { imaginary: Imaginary::Rotated(1), shifts: vec![] }];
    });
    assert!(matches!(problem, Problem::MissingKey { .. }), "{problem}");
}

#[test]
fn rule_3_bounds_the_planning_work() {
    let (_, problem) = broken(|p| {
        let term = p.calls[CallId(1)].terms[0];
        p.calls[CallId(1)].terms = vec![term; 1 << 19];
        // 3 x 2 channels, 1 x 4 rows, 1 x 4 columns: 14 pairs and at most 64 groups a term.
    });
    assert!(matches!(problem, Problem::TooMany { what: Counted::Diagonals, .. }), "{problem}");
    let (_, problem) = broken(|p| {
        let (out, taps) = (4096u32, 4095u32);
        p.layouts[LayoutId(2)] = crate::samples::raster(1, out, 1);
        let weights = p.consts.push(ConstTensor::f32([1, 2, taps as usize, 1], vec![0.5; 2 * taps as usize]));
        p.maps[LinearMapId(1)].weights = weights;
        p.maps[LinearMapId(1)].geometry.kernel = [taps, 1];
        let term = p.calls[CallId(1)].terms[0];
        p.calls[CallId(1)].terms = vec![term; 32];
        p.outputs[0].shape = vec![1, out as usize];
        p.outputs[0].unit = p.consts.push(ConstTensor::f64([1], [1.0]));
    });
    assert!(matches!(problem, Problem::TooMany { what: Counted::Pairs, .. }), "{problem}");
}

#[test]
fn rule_4_ports() {
    let copy = |p: &mut Program| {
        let input = p.inputs[0].clone();
        p.inputs.push(input);
    };
    assert_eq!(broken(copy).1, Problem::DuplicateName("x".into()));
    let (site, problem) = broken(|p| {
        let mut output = p.outputs[0].clone();
        output.layout = LayoutId(0);
        p.outputs.push(ProgramOutput { shape: vec![1, 16], unit: ConstId(2), ..output });
    });
    assert_eq!((site, problem), (Site::Entry(Entity::Output(1)), Problem::DuplicateName("y".into())));
    assert_eq!(broken(|p| p.outputs.clear()).1, Problem::None(Counted::Outputs));
    let (_, problem) = broken(|p| p.outputs[0].shape = vec![1, 4]);
    assert_eq!(problem, Problem::PortShape { shape: vec![1, 4], elements: 3 });
    let (_, problem) = broken(|p| p.inputs[0].level = Level(3));
    assert_eq!(problem, Problem::LevelTooHigh { level: Level(3), max: Level(2) });
    let (_, problem) = broken(|p| p.inputs[0].scale = scale(120));
    assert!(matches!(problem, Problem::ScaleRange { .. }));
    let (_, problem) = broken(|p| p.inputs[0].scale = Scale::prime(3));
    assert!(matches!(problem, Problem::MalformedScale(_)));
    let (_, problem) = broken(|p| p.inputs[0].layout = LayoutId(3));
    assert_eq!(problem, Problem::Unknown(Entity::Layout(LayoutId(3))));
    let (_, problem) = broken(|p| p.consts[ConstId(2)] = ConstTensor::f64([1], [0.0]));
    assert!(matches!(problem, Problem::Unit { channel: 0, .. }));
    let (_, problem) = broken(|p| p.inputs[0].unit = ConstId(4));
    assert!(matches!(problem, Problem::ConstShape { .. }));
}

#[test]
fn rule_5_registers() {
    let unassigned = |reg| Problem::NotLive { reg, state: Liveness::Unassigned };
    assert_eq!(with_inst(5, Inst::Square { dst: Reg(4), src: Reg(9) }), unassigned(Reg(9)));
    assert_eq!(insert(3, Inst::Free { reg: Reg(8) }), unassigned(Reg(8)));
    let freed = Problem::NotLive { reg: Reg(0), state: Liveness::Freed };
    assert_eq!(insert(3, Inst::Square { dst: Reg(20), src: Reg(0) }), freed);
    assert_eq!(insert(3, Inst::Free { reg: Reg(0) }), freed);
    let again = |dst| Inst::Rescale { dst, src: Reg(1) };
    assert_eq!(with_inst(3, again(Reg(1))), Problem::Reassigned(Reg(1)));
    assert_eq!(with_inst(3, again(Reg(0))), Problem::Reassigned(Reg(0)));
}

#[test]
fn rule_6_levels_and_scales() {
    let sum = Inst::Add { dst: Reg(20), a: Reg(1), b: Reg(2) };
    assert_eq!(insert(4, sum), Problem::LevelMismatch { expected: Level(2), found: Level(1) });
    let product = Inst::Mul { dst: Reg(20), a: Reg(1), b: Reg(2) };
    assert!(matches!(insert(4, product), Problem::LevelMismatch { .. }));
    let sum = Inst::Sub { dst: Reg(20), a: Reg(3), b: Reg(4) };
    let (_, problem) = broken(|p| {
        p.insts.insert(6, sum);
        p.inst_layers.insert(6, 0);
    });
    let mismatch = Problem::ScaleMismatch { expected: Box::new(scale(30)), found: Box::new(scale(60)) };
    assert_eq!(problem, mismatch);
    let raised = Inst::ModDrop { dst: Reg(20), src: Reg(2), to: Level(2) };
    assert_eq!(insert(4, raised), Problem::LevelTooHigh { level: Level(2), max: Level(1) });
    let below = insert(9, Inst::Rescale { dst: Reg(20), src: Reg(6) });
    assert_eq!(below, Problem::OutOfLevels { needed: 1, left: 0 });
    assert!(matches!(insert(6, Inst::Square { dst: Reg(20), src: Reg(4) }), Problem::ScaleRange { .. }));
    let vanishing = insert(5, Inst::Rescale { dst: Reg(20), src: Reg(3) });
    assert!(matches!(vanishing, Problem::ScaleRange { .. }), "{vanishing}");
    let linear = |scale| Inst::Linear { dsts: vec![Reg(1)], call: CallId(0), args: vec![Reg(0)], scale };
    for wrong in [scale(30), scale(95)] {
        assert!(matches!(with_inst(1, linear(wrong)), Problem::ScaleRange { .. }));
    }
    assert!(matches!(with_inst(1, linear(Scale::prime(7))), Problem::MalformedScale(_)));
    // The right size is not enough: scales are exact.
    let (site, problem) = broken(|p| p.insts[7] = with_scale(&p.insts[7], scale(65)));
    assert_eq!(site, Site::Entry(Entity::Inst(9)));
    assert!(matches!(problem, Problem::ScaleMismatch { .. }), "{problem}");
}

fn with_scale(inst: &Inst, scale: Scale) -> Inst {
    let Inst::Linear { dsts, call, args, .. } = inst.clone() else { unreachable!("a linear call") };
    Inst::Linear { dsts, call, args, scale }
}

#[test]
fn rule_6_plaintext_scales() {
    let vector = |scale| Inst::MulVector { dst: Reg(20), src: Reg(2), vector: VectorId(0), scale };
    assert!(matches!(insert(4, vector(scale(0))), Problem::ScaleRange { .. }));
    assert!(matches!(insert(4, vector(scale(63))), Problem::ScaleRange { .. }));
    let mut huge = Scale::pow2(5000);
    huge = huge.div(&Scale::pow2(4980));
    assert!(matches!(insert(4, vector(huge.mul(&Scale::pow2(4090)))), Problem::MalformedScale(_)));
}

#[test]
fn rule_7_contents() {
    let conv_again =
        Inst::Linear { dsts: vec![Reg(20)], call: CallId(0), args: vec![Reg(2)], scale: scale(60) };
    let expected = Contents::Packed { layout: LayoutId(0), cipher: 0 };
    let found = Contents::Packed { layout: LayoutId(1), cipher: 0 };
    assert_eq!(insert(4, conv_again), Problem::Contents { reg: Reg(2), expected, found });
    let vector = Inst::AddVector { dst: Reg(20), src: Reg(6), vector: VectorId(0) };
    assert!(matches!(insert(9, vector), Problem::Contents { reg: Reg(6), .. }));
    let vector = Inst::AddVector { dst: Reg(20), src: Reg(6), vector: VectorId(4) };
    assert_eq!(insert(9, vector), Problem::Unknown(Entity::Vector(VectorId(4))));
    let output = Inst::Output { output: 0, cipher: 0, src: Reg(5) };
    assert!(matches!(with_inst(9, output), Problem::LevelMismatch { .. }));
    let input = |input, cipher| Inst::Input { dst: Reg(20), input, cipher };
    assert_eq!(insert(1, input(1, 0)), Problem::Unknown(Entity::Input(1)));
    assert_eq!(insert(1, input(0, 1)), Problem::Unknown(Entity::Cipher(1)));
    let repeated = Problem::Repeated { port: Entity::Input(0), cipher: Entity::Cipher(0) };
    assert_eq!(insert(1, input(0, 0)), repeated);
    let rotate = |by| Inst::Rotate { dst: Reg(20), src: Reg(2), rotation: Rotation::new(by, slots(1 << 20)) };
    assert_eq!(insert(4, rotate(4096)), Problem::Rotation { rotation: 4096, slots: 4096 });
    let two =
        Inst::Linear { dsts: vec![Reg(1), Reg(7)], call: CallId(0), args: vec![Reg(0)], scale: scale(65) };
    assert_eq!(with_inst(1, two), Problem::Count { what: Counted::Registers, expected: 1, found: 2 });
    let args = |args| Inst::Linear { dsts: vec![Reg(1)], call: CallId(0), args, scale: scale(65) };
    for wrong in [vec![], vec![Reg(0), Reg(0)]] {
        let found = wrong.len();
        assert_eq!(with_inst(1, args(wrong)), Problem::Count { what: Counted::Operands, expected: 1, found });
    }
}

#[test]
fn rule_7_rotated_slots_have_no_layout() {
    // Period 16 does not agree with period 32, rotated or not.
    let mut program = program();
    let element = GaloisElement::from_rotation(Rotation::new(1, slots(4096)), 8192);
    let level = program.manifest.galois.entry(element).or_insert(Level(2));
    *level = Level(2);
    let rotate = Inst::Rotate { dst: Reg(20), src: Reg(0), rotation: Rotation::new(1, slots(4096)) };
    let extra = [
        rotate,
        Inst::Add { dst: Reg(21), a: Reg(20), b: Reg(0) },
        Inst::Mul { dst: Reg(22), a: Reg(20), b: Reg(1) },
    ];
    for (at, inst) in [(1, &extra[0]), (2, &extra[1]), (4, &extra[2])] {
        program.insts.insert(at, inst.clone());
        program.inst_layers.insert(at, 0);
    }
    program.probes.clear();
    let errors = verify(&program).unwrap_err();
    assert_eq!(errors.errors[0].site, Site::Entry(Entity::Inst(4)), "{errors}");
    assert!(matches!(errors.errors[0].problem, Problem::Contents { found: Contents::Packed { .. }, .. }));
}

#[test]
fn rule_8_keys() {
    let (site, problem) = broken(|p| p.manifest.relin = None);
    assert_eq!(site, Site::Entry(Entity::Inst(5)));
    assert_eq!(problem, Problem::MissingKey { key: Key::Relin, level: Level(1), manifest: None });
    let (_, problem) = broken(|p| p.manifest.relin = Some(Level(0)));
    assert!(matches!(problem, Problem::MissingKey { manifest: Some(Level(0)), .. }));
    let (_, problem) = broken(|p| {
        p.manifest.galois.pop_first();
    });
    assert!(matches!(problem, Problem::MissingKey { key: Key::Galois(_), manifest: None, .. }));
    let (site, problem) = broken(|p| p.manifest.relin = Some(Level(2)));
    let excess = Problem::ExcessKey { key: Key::Relin, level: Level(2), used: Some(Level(1)) };
    assert_eq!((site, problem), (Site::Manifest, excess));
    let unused = GaloisElement::new(16383).unwrap();
    let (_, problem) = broken(|p| {
        p.manifest.galois.insert(unused, Level(0));
    });
    assert_eq!(problem, Problem::ExcessKey { key: Key::Galois(unused), level: Level(0), used: None });
    let outside = GaloisElement::new(16385).unwrap();
    let (_, problem) = broken(|p| {
        p.manifest.galois.insert(outside, Level(0));
    });
    assert_eq!(problem, Problem::GaloisElement { element: outside, limit: 16384 });
    let (_, problem) = broken(|p| p.manifest.relin = Some(Level(3)));
    assert_eq!(problem, Problem::LevelTooHigh { level: Level(3), max: Level(2) });
    let conjugate = Inst::Conjugate { dst: Reg(20), src: Reg(0) };
    let element = GaloisElement::conjugation(8192);
    let missing = Problem::MissingKey { key: Key::Galois(element), level: Level(2), manifest: None };
    assert_eq!(insert(1, conjugate), missing);
}

#[test]
fn rule_9_outputs() {
    let (site, problem) = broken(|p| {
        p.insts.pop();
        p.inst_layers.pop();
    });
    assert_eq!((site, problem), (Site::Entry(Entity::Output(0)), Problem::OutputMissing(Entity::Cipher(0))));
    let again = Inst::Output { output: 0, cipher: 0, src: Reg(6) };
    let repeated = Problem::Repeated { port: Entity::Output(0), cipher: Entity::Cipher(0) };
    assert_eq!(insert(10, again), repeated);
    let unknown = Inst::Output { output: 1, cipher: 0, src: Reg(6) };
    assert_eq!(insert(10, unknown), Problem::Unknown(Entity::Output(1)));
    let (_, problem) = broken(|p| p.outputs[0].scale = scale(31));
    assert!(matches!(problem, Problem::ScaleMismatch { .. }));
    let (_, problem) = broken(|p| p.outputs[0].level = Level(1));
    assert_eq!(problem, Problem::LevelMismatch { expected: Level(1), found: Level(0) });
}

#[test]
fn rule_10_layers_and_probes() {
    let (_, problem) = broken(|p| p.inst_layers.truncate(9));
    assert_eq!(problem, Problem::Count { what: Counted::InstLayers, expected: 10, found: 9 });
    let (_, problem) = broken(|p| p.inst_layers[3] = 9);
    assert_eq!(problem, Problem::Unknown(Entity::Layer(9)));
    let probe = |change: fn(&mut Probe)| {
        let (site, problem) = broken(|p| change(&mut p.probes[0]));
        assert_eq!(site, Site::Entry(Entity::Probe(0)));
        problem
    };
    assert_eq!(probe(|p| p.after = 10), Problem::Unknown(Entity::Inst(10)));
    assert!(matches!(probe(|p| p.after = 3), Problem::NotLive { state: Liveness::Unassigned, .. }));
    assert!(matches!(probe(|p| p.after = 6), Problem::NotLive { state: Liveness::Freed, .. }));
    assert!(matches!(probe(|p| p.layout = LayoutId(0)), Problem::ConstShape { .. }));
    assert!(matches!(probe(|p| p.regs.clear()), Problem::Count { what: Counted::Registers, .. }));
    assert!(matches!(probe(|p| p.unit = ConstId(4)), Problem::ConstShape { .. }));
    assert!(matches!(probe(|p| p.layout = LayoutId(8)), Problem::Unknown(_)));
}

#[test]
fn rule_11_bootstrap() {
    let bootstrap = Inst::Bootstrap { dst: Reg(20), src: Reg(6), refresh: RefreshId(0) };
    assert_eq!(insert(9, bootstrap), Problem::Unknown(Entity::Refresh(RefreshId(0))));
}

/// What the sample program computes, directly.
fn expected(x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let program = program();
    let (conv, fc) = (&program.consts[ConstId(0)], &program.consts[ConstId(1)]);
    let bias = program.consts[ConstId(5)].to_f64();
    let mut hidden = vec![0.0; 32];
    for (i, value) in hidden.iter_mut().enumerate() {
        let (c, y, column) = (i / 16, i as i64 % 16 / 4, i as i64 % 4);
        *value = bias[c];
        for tap in 0..9i64 {
            let (row, column) = (y + tap / 3 - 1, column + tap % 3 - 1);
            if (0..4).contains(&row) && (0..4).contains(&column) {
                *value += conv.at(c * 9 + tap as usize) * x[(row * 4 + column) as usize] / 2.0;
            }
        }
    }
    let unit = program.consts[ConstId(4)].to_f64();
    let output =
        (0..3).map(|o| unit[o] * (0..32).map(|i| fc.at(o * 32 + i) * hidden[i] * hidden[i]).sum::<f64>());
    (hidden.clone(), output.collect())
}

fn run(noise: Noise) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let program = program();
    let x: Vec<f64> = numbers(16, 5).into_iter().map(f64::from).collect();
    let packed = vec![pack_input(&program, 0, &x).unwrap()];
    let mut probed = Vec::new();
    let machine = ClearMachine::new(&program, noise).unwrap();
    let slots = machine.run(&packed, &mut |p| {
        assert_eq!(p.probe.layer, "conv");
        probed = p.values;
    });
    (x, probed, unpack_output(&program, 0, &slots.unwrap()[0]).unwrap())
}

#[test]
fn the_clear_machine_computes_the_network() {
    let (x, probed, output) = run(Noise::None);
    let (hidden, expected) = expected(&x);
    let unit = [0.5, -0.25];
    for (i, value) in probed.iter().enumerate() {
        assert!((value - hidden[i] * unit[i / 16]).abs() < 1e-9);
    }
    assert_eq!(output.len(), 3);
    output.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{a} {b}"));
}

#[test]
fn the_noise_model_disturbs_as_much_as_it_says() {
    let (x, _, first) = run(Noise::Model { seed: 1 });
    let (_, expected) = expected(&x);
    let error = first.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // At scale 2^30 rescales leave about 2^-20; the 5-bit weights of the last layer dominate with about 2^-4.
    assert!(error > 1e-5 && error < 1.0, "{error}");
    assert_eq!(run(Noise::Model { seed: 1 }).2, first);
    assert_ne!(run(Noise::Model { seed: 2 }).2, first);
}

#[test]
fn inputs_of_the_wrong_size_are_refused() {
    let program = program();
    let machine = ClearMachine::at(&program, params(), Noise::None).unwrap();
    let ignore = &mut |_: Probed<'_>| {};
    assert_eq!(machine.run(&[], ignore), Err(ClearError::Inputs { expected: 1, found: 0 }));
    let slots = |count: usize| vec![vec![vec![0.0; count]]];
    assert!(matches!(machine.run(&slots(15), ignore), Err(ClearError::Slots { period: 16, .. })));
    assert!(machine.run(&slots(16), ignore).is_ok());
    let length = ClearError::Length { name: "x".into(), expected: 16, found: 3 };
    assert_eq!(pack_input(&program, 0, &[0.0; 3]), Err(length));
    assert!(matches!(pack_input(&program, 1, &[0.0; 3]), Err(ClearError::Port { .. })));
    assert!(matches!(unpack_output(&program, 1, &[]), Err(ClearError::Port { .. })));
    assert!(matches!(unpack_output(&program, 0, &[]), Err(ClearError::Slots { .. })));
    let mut wrong = program.clone();
    wrong.outputs.clear();
    assert!(matches!(ClearMachine::new(&wrong, Noise::None), Err(ClearError::Invalid(_))));
}

#[test]
fn vectors_rotations_and_sums_run_in_the_clear() {
    let mut program = program();
    let by = Rotation::new(3, slots(4096));
    let scale = Scale::pow2(20);
    let extra = [
        Inst::Rotate { dst: Reg(20), src: Reg(0), rotation: by },
        Inst::Sub { dst: Reg(21), a: Reg(20), b: Reg(0) },
        Inst::Conjugate { dst: Reg(22), src: Reg(21) },
        Inst::MulVector { dst: Reg(23), src: Reg(22), vector: VectorId(1), scale },
        Inst::ModDrop { dst: Reg(24), src: Reg(23), to: Level(1) },
        Inst::Output { output: 1, cipher: 0, src: Reg(24) },
    ];
    program.vectors.push(VectorRecipe { values: ConstId(2), layout: LayoutId(0), cipher: 0 });
    for (at, inst) in extra.into_iter().enumerate() {
        program.insts.insert(1 + at, inst);
        program.inst_layers.insert(1 + at, 0);
    }
    program.probes.clear();
    let output = ProgramOutput {
        name: "z".into(),
        shape: vec![1, 1, 4, 4],
        layout: LayoutId(0),
        level: Level(1),
        scale: Scale::pow2(50),
        unit: ConstId(2),
    };
    program.outputs.push(output);
    for element in [GaloisElement::from_rotation(by, 8192), GaloisElement::conjugation(8192)] {
        program.manifest.galois.insert(element, Level(2));
    }
    let x: Vec<f64> = (0..16).map(f64::from).collect();
    let packed = vec![pack_input(&program, 0, &x).unwrap()];
    let machine = ClearMachine::new(&program, Noise::None).unwrap();
    let slots = machine.run(&packed, &mut |_| {}).unwrap();
    let z = unpack_output(&program, 1, &slots[1]).unwrap();
    // unit 2 out, unit 2 in, vector 2: (rotated - x) / 2 * 2 * 2.
    let rotated = |i: usize| x[(i + 3) % 16];
    assert_eq!(z, (0..16).map(|i| 2.0 * (rotated(i) - x[i])).collect::<Vec<_>>());
}
