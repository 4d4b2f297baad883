//! Each rule of the fhe verifier is broken once.

use peregrine_ckks::bootstrap::{BootstrapSpec, PrimeRun};
use peregrine_ckks::units::{Level, Scale};

use super::*;
use crate::consts::ConstTensor;
use crate::graph::{OutputPort, ValueId};
use crate::refresh::RefreshForm;
use crate::samples::{fhe, slots};
use crate::verify::{Counted, Entity, Problem, Site};

/// The only problem of the sample graph after a change.
fn broken(change: impl FnOnce(&mut FheGraph)) -> (Site, Problem) {
    let mut graph = fhe();
    change(&mut graph);
    let mut errors = verify(&graph).unwrap_err();
    assert_eq!(errors.errors.len(), 1, "{errors}");
    let error = errors.errors.remove(0);
    (error.site, error.problem)
}

/// The only problem, which is at node `value`.
fn at(value: u32, change: impl FnOnce(&mut FheGraph)) -> Problem {
    let (site, problem) = broken(change);
    assert!(matches!(site, Site::Node { value: found, .. } if found == ValueId(value)), "{site}: {problem}");
    problem
}

fn packed() -> FheGraph {
    let mut graph = fhe();
    graph.tables.stage = Stage::Packed;
    graph.tables.chain_bits.clear();
    graph.nodes.values_mut().for_each(|node| node.ty.cipher = None);
    graph
}

fn cipher(graph: &mut FheGraph, value: u32) -> &mut CipherTy {
    graph.nodes[ValueId(value)].ty.cipher.as_mut().unwrap()
}

#[test]
fn samples_of_both_stages_are_valid() {
    verify(&fhe()).unwrap();
    verify(&packed()).unwrap();
}

#[test]
fn rule_1_structure() {
    assert_eq!(at(1, |g| g.nodes[ValueId(1)].args[0] = ValueId(1)), Problem::NotDefinedBefore(ValueId(1)));
    assert_eq!(
        at(1, |g| g.nodes[ValueId(1)].args[0] = ValueId(9)),
        Problem::Unknown(Entity::Value(ValueId(9)))
    );
    let (site, problem) = broken(|g| g.outputs[0].value = ValueId(9));
    assert_eq!(
        (site, problem),
        (Site::Entry(Entity::Output(0)), Problem::Unknown(Entity::Value(ValueId(9))))
    );
    assert_eq!(broken(|g| g.outputs.clear()).1, Problem::None(Counted::Outputs));
    let double = OutputPort { name: "y".into(), value: ValueId(0) };
    assert_eq!(broken(|g| g.outputs.push(double)).1, Problem::DuplicateName("y".into()));
    let again = at(6, |g| {
        let node = g.nodes[ValueId(0)].clone();
        g.nodes.push(node);
    });
    assert_eq!(again, Problem::DuplicateName("x".into()));
}

#[test]
fn rules_2_and_3_tables() {
    let (_, problem) = broken(|g| g.tables.consts[ConstId(6)].shape = vec![2, 3]);
    assert!(matches!(problem, Problem::ConstLength { .. }));
    let (_, problem) = broken(|g| g.tables.consts[ConstId(3)] = ConstTensor::f64([2], [f64::INFINITY, 1.0]));
    assert_eq!(problem, Problem::NotFinite { index: 0 });
    for slots in [0, 4, 1000, 1 << 17] {
        assert_eq!(broken(|g| g.tables.slots = slots).1, Problem::Slots(slots));
    }
    let (site, problem) = broken(|g| g.tables.layouts[LayoutId(1)].period = slots(8192));
    assert_eq!(site, Site::Entry(Entity::Layout(LayoutId(1))));
    assert_eq!(problem, Problem::Period { period: 8192, slots: 4096 });
    let (_, problem) = broken(|g| g.tables.layouts[LayoutId(1)].period = slots(16));
    assert!(matches!(problem, Problem::Layout(_)));
    let (_, problem) = broken(|g| g.tables.maps[LinearMapId(0)].geometry.dilation = [0, 1]);
    assert!(matches!(problem, Problem::Map(_)));
    let (_, problem) = broken(|g| g.tables.maps[LinearMapId(0)].weights = ConstId(1));
    assert!(matches!(problem, Problem::ConstShape { .. }));
    assert_eq!(broken(|g| g.tables.chain_bits.clear()).1, Problem::None(Counted::Primes));
}

#[test]
fn rule_4_operands_and_layouts() {
    let count = |expected, found| Problem::Count { what: Counted::Operands, expected, found };
    assert_eq!(at(3, |g| g.nodes[ValueId(3)].args.truncate(1)), count(2, 1));
    assert_eq!(at(1, |g| g.nodes[ValueId(1)].args.push(ValueId(0))), count(1, 2));
    assert_eq!(at(0, |g| g.nodes[ValueId(0)].op = FheOp::Drop { to: Level(0) }), count(1, 0));
    let empty = FheOp::Linear { maps: vec![], bias: None };
    assert_eq!(at(1, |g| g.nodes[ValueId(1)].op = empty), Problem::None(Counted::Terms));
    let unknown = FheOp::Linear { maps: vec![LinearMapId(7)], bias: None };
    let problem = at(1, |g| g.nodes[ValueId(1)].op = unknown);
    assert_eq!(problem, Problem::Unknown(Entity::Map(LinearMapId(7))));
    let wrong = FheOp::Linear { maps: vec![LinearMapId(1)], bias: None };
    let problem = at(1, |g| g.nodes[ValueId(1)].op = wrong);
    let (expected, found) = (LayoutId(1), LayoutId(0));
    assert_eq!(problem, Problem::LayoutMismatch { what: Entity::Value(ValueId(0)), expected, found });
    let problem = at(4, |g| {
        let op = FheOp::Linear { maps: vec![LinearMapId(0)], bias: None };
        g.nodes[ValueId(4)].op = op;
        g.nodes[ValueId(4)].args[0] = ValueId(0);
    });
    let (expected, found) = (LayoutId(2), LayoutId(1));
    assert_eq!(problem, Problem::LayoutMismatch { what: Entity::Map(LinearMapId(0)), expected, found });
    let problem = at(3, |g| g.nodes[ValueId(3)].args[1] = ValueId(0));
    assert!(matches!(problem, Problem::LayoutMismatch { .. }));
    let problem = at(5, |g| g.nodes[ValueId(5)].ty.layout = LayoutId(8));
    assert_eq!(problem, Problem::Unknown(Entity::Layout(LayoutId(8))));
}

#[test]
fn rule_5_constants_per_channel() {
    let (_, problem) = broken(|g| g.tables.consts[ConstId(4)] = ConstTensor::f64([3], [1.0, 0.0, 1.0]));
    assert_eq!(problem, Problem::Unit { constant: ConstId(4), channel: 1, value: 0.0 });
    let problem = at(0, |g| g.nodes[ValueId(0)].ty.unit = ConstId(3));
    assert!(matches!(problem, Problem::ConstShape { constant: ConstId(3), .. }));
    for reach in [0.0, -1.0, f64::INFINITY] {
        assert_eq!(at(1, |g| g.nodes[ValueId(1)].ty.reach = reach), Problem::Reach(reach));
    }
    let problem = at(5, |g| g.nodes[ValueId(5)].ty.unit = ConstId(5));
    let (expected, found) = (ConstId(5), ConstId(3));
    assert_eq!(problem, Problem::UnitMismatch { what: Entity::Value(ValueId(1)), expected, found });
    let bias = FheOp::Linear { maps: vec![LinearMapId(0)], bias: Some(ConstId(4)) };
    assert!(matches!(at(1, |g| g.nodes[ValueId(1)].op = bias), Problem::ConstShape { .. }));
    for degree in [0, 1, 9] {
        let poly = FheOp::Poly(MonicPoly { degree, lower: ConstId(6) });
        assert_eq!(at(2, |g| g.nodes[ValueId(2)].op = poly), Problem::Degree(degree));
    }
    let poly = FheOp::Poly(MonicPoly { degree: 3, lower: ConstId(6) });
    let problem = at(2, |g| g.nodes[ValueId(2)].op = poly);
    assert!(matches!(problem, Problem::ConstShape { expected, .. } if expected == [2, 3]));
}

#[test]
fn rule_6_levels_and_scales_are_there_and_in_range() {
    // The result's own message, and those of its users.
    let mut graph = fhe();
    graph.nodes[ValueId(4)].ty.cipher = None;
    let errors = verify(&graph).unwrap_err();
    assert_eq!(errors.errors[0].problem, Problem::CipherTy { stage: Stage::Leveled, present: false });
    let mut graph = packed();
    let ty = Some(CipherTy { level: Level(0), scale: Scale::pow2(30) });
    graph.nodes[ValueId(0)].ty.cipher = ty;
    let errors = verify(&graph).unwrap_err();
    assert_eq!(errors.errors[0].problem, Problem::CipherTy { stage: Stage::Packed, present: true });
    let problem = at(4, |g| cipher(g, 4).level = Level(3));
    assert_eq!(problem, Problem::LevelTooHigh { level: Level(3), max: Level(2) });
    for scale in [Scale::pow2(9), Scale::pow2(50)] {
        assert!(matches!(at(4, |g| cipher(g, 4).scale = scale), Problem::ScaleRange { .. }));
    }
    for scale in [Scale::prime(3), Scale::pow2(5000)] {
        assert!(matches!(at(4, |g| cipher(g, 4).scale = scale), Problem::MalformedScale(_)));
    }
}

#[test]
fn rule_7_leveled_operations_keep_exact_books() {
    let level = |expected, found| Problem::LevelMismatch { expected: Level(expected), found: Level(found) };
    let below = |g: &mut FheGraph| {
        let bits = &mut g.tables.chain_bits;
        bits[0] = 70;
        cipher(g, 3).level = Level(0);
        cipher(g, 2).level = Level(0);
        cipher(g, 1).level = Level(0);
    };
    let mut graph = fhe();
    below(&mut graph);
    let problems: Vec<Problem> = verify(&graph).unwrap_err().errors.into_iter().map(|e| e.problem).collect();
    // Two rescales would take weights at 2^70.
    assert!(matches!(problems[0], Problem::ScaleRange { low, .. } if low < 2.0), "{problems:?}");
    assert_eq!(problems[1..], [Problem::OutOfLevels { needed: 1, left: 0 }]);
    cipher(&mut graph, 0).scale = Scale::pow2(45);
    let problems: Vec<Problem> = verify(&graph).unwrap_err().errors.into_iter().map(|e| e.problem).collect();
    assert_eq!(problems, [Problem::OutOfLevels { needed: 1, left: 0 }], "two rescales");
    assert_eq!(at(4, |g| cipher(g, 4).level = Level(1)), level(0, 1));
    // Weights at scale 2^-1, and at 2^64.
    for (arg, result) in [(66, 30), (15, 44)] {
        let mut graph = fhe();
        graph.tables.chain_bits[0] = 60;
        graph.nodes[ValueId(4)].args[0] = ValueId(6);
        let mut input = graph.nodes[ValueId(3)].clone();
        input.op = FheOp::Input { name: "z".into() };
        input.args.clear();
        graph.nodes.push(input);
        let mut fc = graph.nodes[ValueId(4)].clone();
        graph.nodes[ValueId(4)].args[0] = ValueId(3);
        fc.args[0] = ValueId(6);
        graph.nodes.push(fc);
        cipher(&mut graph, 6).scale = Scale::pow2(arg);
        cipher(&mut graph, 7).scale = Scale::pow2(result);
        let errors = verify(&graph).unwrap_err();
        assert_eq!(errors.errors.len(), 1, "{errors}");
        assert!(matches!(errors.errors[0].problem, Problem::ScaleRange { .. }), "{errors}");
    }
    let mismatch = |expected: i32, found: i32| Problem::ScaleMismatch {
        expected: Box::new(Scale::pow2(expected)),
        found: Box::new(Scale::pow2(found)),
    };
    assert_eq!(at(5, |g| cipher(g, 5).scale = Scale::pow2(31)), mismatch(30, 31));
    assert_eq!(at(5, |g| cipher(g, 5).level = Level(1)), level(0, 1));
    let raised = at(5, |g| {
        g.nodes[ValueId(5)].op = FheOp::Drop { to: Level(2) };
        cipher(g, 5).level = Level(2);
    });
    assert_eq!(raised, Problem::LevelTooHigh { level: Level(2), max: Level(1) });
    assert_eq!(at(3, |g| g.nodes[ValueId(3)].args[1] = ValueId(1)), mismatch(60, 30));
    let mut graph = fhe();
    cipher(&mut graph, 2).scale = Scale::pow2(59);
    let errors = verify(&graph).unwrap_err();
    assert_eq!(errors.errors[0].problem, mismatch(60, 59));
}

#[test]
fn rule_7_polynomials_consume_levels_by_degree() {
    let quartic = |g: &mut FheGraph| {
        let lower = g.tables.consts.push(ConstTensor::f64([2, 4], [0.0; 8]));
        g.nodes[ValueId(2)].op = FheOp::Poly(MonicPoly { degree: 4, lower });
        // v3 and v4 stay valid without v2.
        g.nodes[ValueId(3)].op = FheOp::Add;
        g.nodes[ValueId(3)].args = [ValueId(2), ValueId(2)].into_iter().collect();
        g.nodes[ValueId(4)] = g.nodes[ValueId(5)].clone();
        g.nodes[ValueId(4)].args[0] = ValueId(1);
        let exact =
            CipherTy { level: Level(0), scale: Scale::pow2(120).div(&Scale::prime(1)).div(&Scale::prime(1)) };
        g.nodes[ValueId(2)].ty.cipher = Some(exact.clone());
        g.nodes[ValueId(3)].ty.cipher = Some(exact);
        g.tables.chain_bits[0] = 60;
    };
    let mut graph = fhe();
    quartic(&mut graph);
    verify(&graph).unwrap();
    cipher(&mut graph, 3).scale = Scale::pow2(50);
    cipher(&mut graph, 2).scale = Scale::pow2(50);
    let errors = verify(&graph).unwrap_err();
    assert!(matches!(errors.errors[0].problem, Problem::ScaleMismatch { .. }), "{errors}");
}

#[test]
fn rule_8_bootstraps_are_those_of_the_specification() {
    let form = RefreshForm { range_bits: 1, lift_bits: Some(14) };
    let spec = BootstrapSpec { usable: vec![30, 25], ..BootstrapSpec::n15() };
    let (level, scale) = form.result(&spec).unwrap();
    assert_eq!((level, scale.to_string().as_str()), (Level(3), "2^402*q4^-1*q5^-1*q6^-2*q7^-4"));
    let bootstrap = |g: &mut FheGraph| {
        g.tables.chain_bits = vec![50, 30, 30, 30, 25, 50, 50, 50, 50, 50, 50, 50, 50];
        let operand = cipher(g, 3).clone();
        let mut input = g.nodes[ValueId(3)].clone();
        input.op = FheOp::Input { name: "z".into() };
        input.args.clear();
        input.ty.cipher = Some(CipherTy { level: spec.input_level(), scale: operand.scale });
        g.nodes[ValueId(3)] = input;
        g.nodes[ValueId(4)].args[0] = ValueId(3);
        g.nodes[ValueId(4)].ty.cipher = Some(CipherTy { level: Level(1), scale: Scale::pow2(35) });
        g.nodes[ValueId(5)].args[0] = ValueId(3);
        g.nodes[ValueId(5)].op = FheOp::Bootstrap(form);
        g.nodes[ValueId(5)].ty.cipher = Some(CipherTy { level, scale: scale.clone() });
        g.tables.bootstrap = Some(spec.clone());
    };
    let at = |change: &dyn Fn(&mut FheGraph)| {
        let mut graph = fhe();
        bootstrap(&mut graph);
        change(&mut graph);
        verify(&graph).map_err(|mut errors| errors.errors.pop().unwrap().problem)
    };
    assert_eq!(at(&|_| ()), Ok(()));
    assert_eq!(at(&|g| g.tables.bootstrap = None), Err(Problem::NoBootstrap));
    let wrong = at(&|g| cipher(g, 5).level = Level(4));
    assert_eq!(wrong, Err(Problem::LevelMismatch { expected: level, found: Level(4) }));
    assert!(matches!(at(&|g| cipher(g, 5).scale = Scale::pow2(30)), Err(Problem::ScaleMismatch { .. })));
    let wide = RefreshForm { range_bits: 17, lift_bits: None };
    assert_eq!(at(&|g| g.nodes[ValueId(5)].op = FheOp::Bootstrap(wide)), Err(Problem::RefreshForm(wide)));
    let high = at(&|g| {
        g.tables.bootstrap = g
            .tables
            .bootstrap
            .take()
            .map(|spec| BootstrapSpec { slots_to_coeffs: PrimeRun::new(1, 30), ..spec });
    });
    assert_eq!(high, Err(Problem::LevelMismatch { expected: Level(1), found: Level(2) }));
}
