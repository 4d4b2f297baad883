//! parse(print(x)) = x, on the samples and on arbitrary values; and what does not read.

use peregrine_ckks::bootstrap::{Arcsine, BootstrapSpec, EvalModSpec, PrimeRun};
use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
use peregrine_ckks::units::{GaloisElement, Level, Rotation, Scale, Slots};
use proptest::prelude::*;

use super::*;
use crate::axis::{AxisEntry, AxisMap, Separable};
use crate::consts::{ConstId, ConstPool, ConstTensor};
use crate::fhe::{CipherTy, FheGraph, FheOp, FheTables, MonicPoly, PackedTy, Stage as FheStage};
use crate::graph::{Origin, OutputPort, ValueId};
use crate::layout::{Blocks, Chw, Digit, Layout, Place};
use crate::linear::{BsgsSplit, ConvGeometry, Imaginary, LayoutId, LinearMap, LinearMapId, Sharing};
use crate::program::{
    CallId, CallTerm, Inst, KeyManifest, LinearCall, Probe, Program, ProgramInput, ProgramOutput, Refresh,
    RefreshId, Reg, VectorId, VectorRecipe, verify, verify_at,
};
use crate::refresh::RefreshForm;
use crate::samples;
use crate::tensor::{Activation, Conv, Pool, PoolKind, Stage, TensorGraph, TensorOp, TensorTables, TensorTy};

#[test]
fn samples_round_trip() {
    let tensor = samples::tensor();
    let text = print_tensor(&tensor);
    assert_eq!(parse_tensor(&text, &tensor.tables.consts).unwrap(), tensor, "{text}");
    let fhe = samples::fhe();
    let text = print_fhe(&fhe);
    assert_eq!(parse_fhe(&text, &fhe.tables.consts).unwrap(), fhe, "{text}");
    let program = samples::program();
    let text = print_program(&program);
    assert_eq!(parse_program(&text, &program.consts).unwrap(), program, "{text}");
}

#[test]
fn the_forms_are_canonical() {
    insta::assert_snapshot!("tensor", print_tensor(&samples::tensor()));
    insta::assert_snapshot!("fhe", print_fhe(&samples::fhe()));
    insta::assert_snapshot!("program", print_program(&samples::program()));
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9_.-]{1,8}", "\\PC{0,6}", any::<String>().prop_map(|s| s.chars().take(6).collect())]
}

fn id(limit: u32) -> impl Strategy<Value = u32> {
    0..limit
}

fn pool() -> impl Strategy<Value = ConstPool> {
    let constant = prop_oneof![
        prop::collection::vec(any::<f32>().prop_filter("NaN", |x| !x.is_nan()), 0..4)
            .prop_map(|d| ConstTensor::f32([d.len(), 1], d)),
        prop::collection::vec(any::<f64>().prop_filter("NaN", |x| !x.is_nan()), 1..4)
            .prop_map(|d| ConstTensor::f64([d.len()], d)),
        Just(ConstTensor::f64([], [1.5])),
    ];
    prop::collection::vec(constant, 0..4).prop_map(|v| v.into_iter().collect())
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..1000, 0..5)
}

fn pads() -> impl Strategy<Value = [u32; 4]> {
    [0u32..9, 0u32..9, 0u32..9, 0u32..9]
}

fn pair() -> impl Strategy<Value = [u32; 2]> {
    [0u32..99, 0u32..99]
}

fn float() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("NaN", |x| !x.is_nan())
}

fn const_id() -> impl Strategy<Value = ConstId> {
    id(9).prop_map(ConstId)
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::Relu),
        float().prop_map(|alpha| Activation::LeakyRelu { alpha }),
        const_id().prop_map(|slope| Activation::PRelu { slope }),
        (float(), float()).prop_map(|(low, high)| Activation::Clip { low, high }),
        Just(Activation::Sigmoid),
        Just(Activation::Silu),
        (float(), float()).prop_map(|(alpha, beta)| Activation::HardSigmoid { alpha, beta }),
        Just(Activation::HardSwish),
        Just(Activation::Gelu),
        Just(Activation::GeluTanh),
        Just(Activation::Softplus),
        Just(Activation::Mish),
        Just(Activation::Elu { alpha: 0.5 }),
        Just(Activation::Tanh),
    ]
}

fn axis_map() -> impl Strategy<Value = AxisMap> {
    (1u32..9, 1u32..9).prop_flat_map(|(input, output)| {
        let entry = (0..output, 0..input, -2i8..3).prop_map(|(output, input, f)| AxisEntry {
            output,
            input,
            factor: f32::from(f) / 3.0,
        });
        prop_oneof![
            Just(AxisMap::identity(input)),
            prop::collection::vec(entry, 0..20)
                .prop_map(move |entries| AxisMap::from_entries(input, output, &entries).unwrap()),
        ]
    })
}

fn separable() -> impl Strategy<Value = Separable> {
    [axis_map(), axis_map(), axis_map()].prop_map(|maps| Separable { maps })
}

fn tensor_op() -> impl Strategy<Value = TensorOp> {
    let conv = (const_id(), prop::option::of(const_id()), pair(), pads(), pair(), id(9)).prop_map(
        |(weights, bias, stride, pads, dilation, groups)| {
            TensorOp::Conv(Conv { weights, bias, stride, pads, dilation, groups })
        },
    );
    let kind = prop_oneof![
        Just(PoolKind::Max),
        Just(PoolKind::AverageExcludePad),
        Just(PoolKind::AverageIncludePad)
    ];
    let pool = (kind, pair(), pair(), pads())
        .prop_map(|(kind, kernel, stride, pads)| TensorOp::Pool(Pool { kind, kernel, stride, pads }));
    prop_oneof![
        name().prop_map(|name| TensorOp::Input { name }),
        conv,
        (const_id(), prop::option::of(const_id()))
            .prop_map(|(weights, bias)| TensorOp::FullyConnected { weights, bias }),
        (const_id(), const_id()).prop_map(|(mul, add)| TensorOp::ChannelAffine { mul, add }),
        activation().prop_map(TensorOp::Activation),
        const_id().prop_map(|coefficients| TensorOp::Poly { coefficients }),
        Just(TensorOp::Add),
        Just(TensorOp::Sub),
        Just(TensorOp::Mul),
        pool,
        Just(TensorOp::GlobalAveragePool),
        pads().prop_map(|pads| TensorOp::Pad { pads }),
        shape().prop_map(|shape| TensorOp::Reshape { shape }),
        separable().prop_map(TensorOp::Separable),
    ]
}

fn outputs() -> impl Strategy<Value = Vec<OutputPort>> {
    let port = (name(), id(9)).prop_map(|(name, value)| OutputPort { name, value: ValueId(value) });
    prop::collection::vec(port, 0..3)
}

fn args() -> impl Strategy<Value = Vec<ValueId>> {
    prop::collection::vec(id(9).prop_map(ValueId), 0..4)
}

fn tensor_graph() -> impl Strategy<Value = TensorGraph> {
    let stage = prop_oneof![Just(Stage::Imported), Just(Stage::Canonical), Just(Stage::Polynomial)];
    let node = (tensor_op(), args(), shape(), name());
    (name(), pool(), stage, prop::collection::vec(node, 0..8), outputs()).prop_map(
        |(name, consts, stage, nodes, outputs)| {
            let mut graph = TensorGraph::new(name, TensorTables { consts, stage });
            for (op, args, shape, origin) in nodes {
                graph.add(op, args, TensorTy { shape }, Origin::new(&origin));
            }
            graph.outputs = outputs;
            graph
        },
    )
}

fn scale() -> impl Strategy<Value = Scale> {
    (-300i32..300, prop::collection::btree_map(0u32..40, 1i32..4, 0..4), any::<bool>()).prop_map(
        |(two, primes, up)| {
            primes.into_iter().fold(Scale::pow2(two), |scale, (index, power)| {
                let prime = Scale::prime(index);
                (0..power).fold(scale, |s, _| if up { s.mul(&prime) } else { s.div(&prime) })
            })
        },
    )
}

fn layout() -> impl Strategy<Value = Layout> {
    let digit = (0u32..99, 0u8..3, 0u32..9999).prop_map(|(radix, kind, stride)| {
        let place = match kind {
            0 => Place::Slot(stride),
            1 => Place::Cipher(stride),
            _ => Place::Block(stride),
        };
        Digit { radix, place }
    });
    let digits = move || prop::collection::vec(digit.clone(), 0..3);
    (([0u32..99, 0u32..99, 0u32..99]), [digits(), digits(), digits()], 0u32..17, 0u32..99).prop_map(
        |([c, h, w], digits, log, ciphertexts)| {
            let period = Slots::new(1 << log).unwrap();
            let blocks = Blocks { slots: 1 + log * 100, per_cipher: 1 + ciphertexts % 3 };
            Layout { shape: Chw { c, h, w }, digits, period, ciphertexts, blocks }
        },
    )
}

fn map() -> impl Strategy<Value = LinearMap> {
    let around = || prop::option::of(separable().prop_map(std::sync::Arc::new));
    ((id(9), id(9), const_id()), pair(), pair(), pair(), pair(), id(9), (around(), around())).prop_map(
        |((input, output, weights), kernel, stride, pad, dilation, groups, (before, after))| {
            let geometry = ConvGeometry { kernel, stride, pad, dilation, groups };
            let (input, output) = (LayoutId(input), LayoutId(output));
            LinearMap { input, output, geometry, weights, before, after }
        },
    )
}

fn fhe_node() -> impl Strategy<Value = (FheOp, Vec<ValueId>)> {
    let terms = prop::collection::vec((id(9).prop_map(LinearMapId), id(9).prop_map(ValueId)), 1..4);
    let unary = |op: FheOp| args().prop_map(move |args| (op.clone(), args));
    prop_oneof![
        (name(), args()).prop_map(|(name, args)| (FheOp::Input { name }, args)),
        (terms, prop::option::of(const_id())).prop_map(|(terms, bias)| {
            let (maps, args) = terms.into_iter().unzip();
            (FheOp::Linear { maps, bias }, args)
        }),
        (id(9), const_id(), args())
            .prop_map(|(degree, lower, args)| (FheOp::Poly(MonicPoly { degree, lower }), args)),
        unary(FheOp::Add),
        unary(FheOp::Drop { to: Level(3) }),
        unary(FheOp::Bootstrap(RefreshForm { range_bits: 3, lift_bits: Some(17) })),
        unary(FheOp::Bootstrap(RefreshForm { range_bits: 0, lift_bits: None })),
    ]
}

/// An arbitrary, mostly senseless bootstrapping specification of N = 2^13.
fn bootstrap() -> impl Strategy<Value = BootstrapSpec> {
    let run = || (0usize..200, 0u32..70).prop_map(|(count, bits)| PrimeRun { count, bits });
    let arcsine = prop_oneof![Just(1u32), Just(3), Just(5), Just(7)];
    let eval_mod = (0u32..70, 0u32..40, any::<u8>(), 0u32..9, arcsine).prop_map(
        |(prime_bits, boost_bits, degree, double_angles, arcsine)| EvalModSpec {
            prime_bits,
            boost_bits,
            degree: u32::from(degree),
            double_angles,
            arcsine: Arcsine::of_degree(arcsine).unwrap(),
        },
    );
    (0u32..70, run(), prop::collection::vec(0u32..70, 0..4), eval_mod, run(), run(), 0usize..4, 0u32..70)
        .prop_map(
            |(
                base_bits,
                slots_to_coeffs,
                usable,
                eval_mod,
                coeffs_to_slots,
                special,
                ephemeral_special,
                ratio_bits,
            )| {
                BootstrapSpec {
                    log_n: 13,
                    base_bits,
                    slots_to_coeffs,
                    usable,
                    eval_mod,
                    coeffs_to_slots,
                    special,
                    ephemeral_special,
                    ratio_bits,
                }
            },
        )
}

fn refresh() -> impl Strategy<Value = Refresh> {
    (0u32..17, scale(), any::<u8>(), prop::option::of(any::<u32>())).prop_map(
        |(log, scale, range, lift_bits)| {
            let form = RefreshForm { range_bits: u32::from(range), lift_bits };
            Refresh { slots: Slots::new(1 << log).unwrap(), scale, form }
        },
    )
}

fn fhe_graph() -> impl Strategy<Value = FheGraph> {
    let cipher = (id(40), scale()).prop_map(|(level, scale)| CipherTy { level: Level(level), scale });
    let reach = any::<f64>().prop_filter("NaN", |x| !x.is_nan());
    let ty = (id(9).prop_map(LayoutId), const_id(), reach, prop::option::of(cipher))
        .prop_map(|(layout, unit, reach, cipher)| PackedTy { layout, unit, reach, cipher });
    let nodes = prop::collection::vec((fhe_node(), ty, name()), 0..6);
    let tables = (
        pool(),
        prop::collection::vec(layout(), 0..3),
        prop::collection::vec(map(), 0..3),
        any::<u32>(),
        prop::collection::vec(0u32..60, 0..4),
        any::<bool>(),
        prop::option::of(bootstrap()),
    );
    (name(), tables, nodes, outputs()).prop_map(
        |(name, (consts, layouts, maps, slots, chain_bits, leveled, bootstrap), nodes, outputs)| {
            let stage = if leveled { FheStage::Leveled } else { FheStage::Packed };
            let (layouts, maps) = (layouts.into_iter().collect(), maps.into_iter().collect());
            let mut graph =
                FheGraph::new(name, FheTables { consts, layouts, maps, slots, chain_bits, bootstrap, stage });
            for ((op, args), ty, origin) in nodes {
                graph.add(op, args, ty, Origin::new(&origin));
            }
            graph.outputs = outputs;
            graph
        },
    )
}

/// An arbitrary, mostly invalid instruction.
pub(crate) fn inst() -> impl Strategy<Value = Inst> {
    let reg = || any::<u32>().prop_map(Reg);
    let regs = || prop::collection::vec(any::<u32>().prop_map(Reg), 1..4);
    let vector = || id(9).prop_map(VectorId);
    let rotation = id(4096).prop_map(|r| Rotation::new(i64::from(r), Slots::new(4096).unwrap()));
    let level = || id(40).prop_map(Level);
    prop_oneof![
        (reg(), id(9), id(9)).prop_map(|(dst, input, cipher)| Inst::Input { dst, input, cipher }),
        (regs(), id(9).prop_map(CallId), regs(), scale())
            .prop_map(|(dsts, call, args, scale)| Inst::Linear { dsts, call, args, scale }),
        (reg(), reg(), vector()).prop_map(|(dst, src, vector)| Inst::AddVector { dst, src, vector }),
        (reg(), reg(), vector(), scale()).prop_map(|(dst, src, vector, scale)| Inst::MulVector {
            dst,
            src,
            vector,
            scale
        }),
        (reg(), reg(), reg()).prop_map(|(dst, a, b)| Inst::Add { dst, a, b }),
        (reg(), reg(), reg()).prop_map(|(dst, a, b)| Inst::Sub { dst, a, b }),
        (reg(), reg(), reg()).prop_map(|(dst, a, b)| Inst::Mul { dst, a, b }),
        (reg(), reg()).prop_map(|(dst, src)| Inst::Square { dst, src }),
        (reg(), reg()).prop_map(|(dst, src)| Inst::Rescale { dst, src }),
        (reg(), reg()).prop_map(|(dst, src)| Inst::Conjugate { dst, src }),
        (reg(), reg(), level()).prop_map(|(dst, src, to)| Inst::ModDrop { dst, src, to }),
        (reg(), reg(), id(9).prop_map(RefreshId)).prop_map(|(dst, src, refresh)| Inst::Bootstrap {
            dst,
            src,
            refresh
        }),
        ([reg(), reg()], [reg(), reg()], id(9).prop_map(RefreshId))
            .prop_map(|(dsts, srcs, refresh)| Inst::BootstrapPair { dsts, srcs, refresh }),
        (reg(), reg(), rotation).prop_map(|(dst, src, rotation)| Inst::Rotate { dst, src, rotation }),
        (id(9), id(9), reg()).prop_map(|(output, cipher, src)| Inst::Output { output, cipher, src }),
        reg().prop_map(|reg| Inst::Free { reg }),
    ]
}

fn ports() -> impl Strategy<Value = (Vec<ProgramInput>, Vec<ProgramOutput>)> {
    let port = || (name(), id(9).prop_map(LayoutId), id(40).prop_map(Level), scale(), const_id());
    let input = port().prop_map(|(name, layout, level, scale, unit)| ProgramInput {
        name,
        layout,
        level,
        scale,
        unit,
    });
    let output = (port(), shape()).prop_map(|((name, layout, level, scale, unit), shape)| ProgramOutput {
        name,
        shape,
        layout,
        level,
        scale,
        unit,
    });
    (prop::collection::vec(input, 0..3), prop::collection::vec(output, 0..3))
}

fn manifest() -> impl Strategy<Value = KeyManifest> {
    let key =
        (0u32..4096, id(40)).prop_map(|(g, level)| (GaloisElement::new(2 * g + 1).unwrap(), Level(level)));
    (prop::option::of(id(40).prop_map(Level)), prop::collection::vec(key, 0..5))
        .prop_map(|(relin, galois)| KeyManifest { relin, galois: galois.into_iter().collect() })
}

fn calls() -> impl Strategy<Value = Vec<LinearCall>> {
    let term = (id(9), id(9)).prop_map(|(map, operand)| CallTerm { map: LinearMapId(map), operand });
    let rotations = || {
        let run = (-5000i32..5000, 0i32..5).prop_map(|(first, more)| first..=first + more);
        prop::collection::vec(run, 0..4).prop_map(|runs| runs.into_iter().flatten().collect::<Vec<_>>())
    };
    let split = (rotations(), rotations(), rotations()).prop_map(|(turns, babies, giants)| BsgsSplit {
        turns,
        babies,
        giants,
    });
    let imaginary = prop_oneof![
        Just(Imaginary::Nothing),
        Just(Imaginary::Next),
        (-5000i32..5000).prop_map(Imaginary::Rotated),
    ];
    let sharing = (imaginary, prop::collection::vec(-5000i32..5000, 0..3))
        .prop_map(|(imaginary, shifts)| Sharing { imaginary, shifts });
    let shared = prop::collection::vec(sharing, 0..3);
    let call = (prop::collection::vec(term, 1..4), split, shared)
        .prop_map(|(terms, split, shared)| LinearCall { terms, split, shared });
    prop::collection::vec(call, 0..3)
}

fn probe() -> impl Strategy<Value = Probe> {
    let regs = prop::collection::vec(any::<u32>().prop_map(Reg), 1..4);
    (name(), id(99), regs, id(9).prop_map(LayoutId), const_id())
        .prop_map(|(layer, after, regs, layout, unit)| Probe { layer, after, regs, layout, unit })
}

/// An arbitrary, mostly invalid program of N = 2^13 whose parts are well-formed.
pub(crate) fn any_program() -> impl Strategy<Value = Program> {
    let prime = prop_oneof![id(60).prop_map(PrimeSpec::Bits), any::<u64>().prop_map(PrimeSpec::Exact)];
    let primes = move || prop::collection::vec(prime.clone(), 0..3);
    let vector = (const_id(), id(9), id(9)).prop_map(|(values, layout, cipher)| VectorRecipe {
        values,
        layout: LayoutId(layout),
        cipher,
    });
    let head = (name(), primes(), primes(), pool());
    let tables = (
        prop::collection::vec(layout(), 0..3),
        prop::collection::vec(map(), 0..3),
        calls(),
        prop::collection::vec(vector, 0..3),
        (prop::option::of(bootstrap()), prop::collection::vec(refresh(), 0..3)),
    );
    let insts = prop::collection::vec((inst(), any::<u32>()), 0..12);
    let rest = (
        ports(),
        insts,
        prop::collection::vec(name(), 0..3),
        prop::collection::vec(probe(), 0..3),
        manifest(),
    );
    (head, tables, rest).prop_map(
        |(
            (name, q, p, consts),
            (layouts, maps, calls, vectors, (bootstrap, refreshes)),
            (ports, insts, layers, probes, manifest),
        )| {
            let (inputs, outputs) = ports;
            let (insts, inst_layers) = insts.into_iter().unzip();
            Program {
                name,
                params: ParamsLiteral { log_n: 13, q, p },
                bootstrap,
                refreshes: refreshes.into_iter().collect(),
                consts,
                layouts: layouts.into_iter().collect(),
                maps: maps.into_iter().collect(),
                calls: calls.into_iter().collect(),
                vectors: vectors.into_iter().collect(),
                inputs,
                outputs,
                insts,
                layers,
                inst_layers,
                probes,
                manifest,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tensor_graphs_round_trip(graph in tensor_graph()) {
        let text = print_tensor(&graph);
        prop_assert_eq!(parse_tensor(&text, &graph.tables.consts), Ok(graph), "{}", text);
    }

    #[test]
    fn fhe_graphs_round_trip(graph in fhe_graph()) {
        let text = print_fhe(&graph);
        prop_assert_eq!(parse_fhe(&text, &graph.tables.consts), Ok(graph), "{}", text);
    }

    #[test]
    fn programs_round_trip(program in any_program()) {
        let text = print_program(&program);
        prop_assert_eq!(parse_program(&text, &program.consts), Ok(program), "{}", text);
    }

    /// A verifier judges anything without panicking.
    #[test]
    fn verifiers_do_not_panic(graph in fhe_graph(), tensor in tensor_graph(), program in any_program()) {
        let _ = crate::fhe::verify(&graph);
        let _ = crate::tensor::verify(&tensor);
        let _ = verify_at(&program, &samples::params());
    }

    /// A damaged text is refused or reads as something else; it never panics.
    #[test]
    fn damaged_texts_do_not_panic(at in 0usize..4000, with in "\\PC{0,3}", length in 0usize..3) {
        let program = samples::program();
        let mut text: Vec<char> = print_program(&program).chars().collect();
        let at = at % text.len();
        let end = (at + length).min(text.len());
        text.splice(at..end, with.chars());
        let text: String = text.into_iter().collect();
        let _ = parse_program(&text, &program.consts);
    }

    /// Single changes to a valid program never make the verifier panic.
    #[test]
    fn mutated_programs_do_not_panic(at in 0usize..10, inst in inst(), layout in layout(), map in map(), which in 0u32..4) {
        let mut program = samples::program();
        match which {
            0 => program.insts[at] = inst,
            1 => program.layouts[LayoutId(at as u32 % 3)] = layout,
            2 => program.maps[LinearMapId(at as u32 % 2)] = map,
            _ => drop(program.insts.remove(at)),
        }
        let _ = verify(&program);
    }
}

fn refused(text: &str) -> TextError {
    parse_program(text, &samples::program().consts).unwrap_err()
}

#[test]
fn errors_name_line_and_expectation() {
    let text = print_program(&samples::program());
    let expectation = |error: TextError| match error.problem {
        TextProblem::Expected { expected, .. } => (error.line, expected),
        other => panic!("{other}"),
    };
    assert_eq!(refused("").problem, TextProblem::Empty);
    assert_eq!(expectation(refused("fhe @x")), (1, Expected::Literal("program")));
    let line = |prefix: &str| text.lines().position(|l| l.trim_start().starts_with(prefix)).unwrap() + 1;
    let swapped = text.replace("l1 = layout", "l2 = layout");
    assert_eq!(expectation(refused(&swapped)), (line("l1"), Expected::NextId("l")));
    let unknown = text.replace("rescale", "rescales");
    assert_eq!(expectation(refused(&unknown)), (line("r2"), Expected::Operation));
    let trailing = text.replace("free r0 @0", "free r0 @0 x");
    assert_eq!(expectation(refused(&trailing)), (line("free r0"), Expected::End));
    for (good, bad) in [
        ("babies=0..3", "babies=0..99999999999"),
        ("babies=0..3", "babies=0..9999999"),
        ("babies=0..3", "babies=3..0"),
        ("turns=-", "turns="),
    ] {
        let text = text.replacen(good, bad, 1);
        assert_eq!(expectation(refused(&text)), (line("k0"), Expected::Integer), "{bad}");
    }
    let odd = text.replace("period=16", "period=17");
    assert_eq!(expectation(refused(&odd)), (line("l0"), Expected::PowerOfTwo));
    let scale = text.replace("scale=2^30*q2", "scale=2^30*p2");
    assert_eq!(expectation(refused(&scale)), (line("r1"), Expected::Scale));
    assert_eq!(
        refused(&unknown).to_string(),
        format!("line {}: expected an operation at `rescales r1 @0`", line("r2"))
    );
}

#[test]
fn constants_are_checked_against_the_side_table() {
    let program = samples::program();
    let text = print_program(&program);
    let mut other = program.consts.clone();
    other[ConstId(2)] = ConstTensor::f64([1], [2.5]);
    let error = parse_program(&text, &other).unwrap_err();
    assert!(matches!(error.problem, TextProblem::ConstDiffers { constant: ConstId(2), .. }), "{error}");
    let error = parse_program(&text, &ConstPool::new()).unwrap_err();
    assert_eq!(error.problem, TextProblem::UnknownConst(ConstId(0)));
}
