//! A tiny program, built by hand: convolution, square, fully connected layer on one 8x8 map, at 128-bit security.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
use peregrine_ckks::units::{Level, Scale, Slots};
use peregrine_ir::client::{ClientPart, ClientTensor, ImageOrder, ImageSpec, PixelFormat, RangeRecord};
use peregrine_ir::layout::{Blocks, Chw, Digit, Layout, Place};
use peregrine_ir::linear::{BsgsSplit, ConvGeometry, Imaginary, LayoutId, LinearMap, Sharing, plan_call};
use peregrine_ir::program::{
    CallId, CallTerm, Inst, KeyManifest, LinearCall, Probe, Program, ProgramInput, ProgramOutput, Reg,
    VectorId, VectorRecipe,
};
use peregrine_ir::{ConstId, ConstPool, ConstTensor, PrimaryMap};

use crate::loader::Loaded;

/// Scale of the input and the hidden values.
const DATA_BITS: i32 = 30;
/// Scale of the output: the fully connected weights are then encoded at 2^24, below the scheme's noise.
const OUTPUT_BITS: i32 = 34;

fn slot(radix: u32, stride: u32) -> Vec<Digit> {
    vec![Digit { radix, place: Place::Slot(stride) }]
}

fn layout(c: u32, map: u32, strides: [u32; 3], period: u32) -> Layout {
    let digits = [slot(c, strides[0]), slot(map, strides[1]), slot(map, strides[2])];
    Layout {
        shape: Chw { c, h: map, w: map },
        digits,
        period: Slots::new(period).expect("a power of two"),
        ciphertexts: 1,
        blocks: Blocks::default(),
    }
}

/// Numbers in -size..size without a pattern that matters.
fn numbers(count: usize, size: f32) -> Vec<f32> {
    (0..count).map(|i| size * ((i as f32 * 12.9898).sin() * 43_758.547).fract()).collect()
}

fn instructions() -> Vec<(Inst, u32)> {
    let r = Reg;
    let linear = |dst: u32, src: u32, call: u32, bits: i32, prime: u32| Inst::Linear {
        dsts: vec![r(dst)],
        call: CallId(call),
        args: vec![r(src)],
        scale: Scale::pow2(bits).mul(&Scale::prime(prime)),
    };
    let free = |reg: u32| Inst::Free { reg: r(reg) };
    vec![
        (Inst::Input { dst: r(0), input: 0, cipher: 0 }, 0),
        (linear(1, 0, 0, DATA_BITS, 2), 0),
        (free(0), 0),
        (Inst::Rescale { dst: r(2), src: r(1) }, 0),
        (free(1), 0),
        (Inst::AddVector { dst: r(3), src: r(2), vector: VectorId(0) }, 0),
        (free(2), 0),
        (Inst::Square { dst: r(4), src: r(3) }, 1),
        (free(3), 1),
        (linear(5, 4, 1, OUTPUT_BITS, 1), 2),
        (free(4), 2),
        (Inst::Rescale { dst: r(6), src: r(5) }, 2),
        (free(5), 2),
        (Inst::AddVector { dst: r(7), src: r(6), vector: VectorId(1) }, 2),
        (free(6), 2),
        (Inst::Output { output: 0, cipher: 0, src: r(7) }, 2),
        (free(7), 2),
    ]
}

fn constants() -> ConstPool {
    [
        ConstTensor::f64(vec![1], vec![2.0]),
        ConstTensor::f32(vec![4, 1, 3, 3], numbers(36, 0.6)),
        ConstTensor::f64(vec![4], vec![0.1, -0.2, 0.05, 0.0]),
        ConstTensor::f32(vec![10, 4, 8, 8], numbers(2560, 0.05)),
        ConstTensor::f64(vec![10], (0..10).map(|i| 0.02 * f64::from(i)).collect::<Vec<_>>()),
        ConstTensor::f64(vec![4], vec![1.0; 4]),
        ConstTensor::f64(vec![10], (0..10).map(|i| 3.0 + f64::from(i)).collect::<Vec<_>>()),
    ]
    .into_iter()
    .collect()
}

/// The program: 1x8x8 -> conv 3x3 (4 channels) -> square -> fully connected (10), N = 2^13.
pub fn program() -> Program {
    let (insts, inst_layers) = instructions().into_iter().unzip();
    let conv = ConvGeometry { kernel: [3, 3], stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
    let (input, hidden) = (LayoutId(0), LayoutId(1));
    let whole = ConvGeometry::whole_map(Chw { c: 4, h: 8, w: 8 });
    let call = |map: u32, modulus: u32| LinearCall {
        terms: vec![CallTerm { map: peregrine_ir::linear::LinearMapId(map), operand: 0 }],
        split: BsgsSplit::by_modulus(modulus, 256),
        shared: Vec::new(),
    };
    // Taps one row and one column apart share products.
    let rows_and_columns = Sharing { imaginary: Imaginary::Rotated(8), shifts: vec![1] };
    let ((in_level, in_scale), (out_level, out_scale)) =
        ((Level(2), Scale::pow2(DATA_BITS)), (Level(0), Scale::pow2(OUTPUT_BITS)));
    let mut program = Program {
        name: "tiny".to_owned(),
        params: ParamsLiteral {
            log_n: 13,
            q: [44, 50, 30].map(PrimeSpec::Bits).to_vec(),
            p: vec![PrimeSpec::Bits(50)],
        },
        bootstrap: None,
        refreshes: PrimaryMap::new(),
        consts: constants(),
        layouts: [layout(1, 8, [64, 8, 1], 64), layout(4, 8, [64, 8, 1], 256), layout(10, 1, [1, 1, 1], 16)]
            .into_iter()
            .collect(),
        maps: [
            LinearMap::new(input, hidden, conv, ConstId(1)),
            LinearMap::new(hidden, LayoutId(2), whole, ConstId(3)),
        ]
        .into_iter()
        .collect(),
        calls: [LinearCall { shared: vec![rows_and_columns], ..call(0, 8) }, call(1, 4)]
            .into_iter()
            .collect(),
        vectors: [
            VectorRecipe { values: ConstId(2), layout: hidden, cipher: 0 },
            VectorRecipe { values: ConstId(4), layout: LayoutId(2), cipher: 0 },
        ]
        .into_iter()
        .collect(),
        inputs: vec![ProgramInput {
            name: "x".to_owned(),
            layout: input,
            level: in_level,
            scale: in_scale,
            unit: ConstId(0),
        }],
        outputs: vec![ProgramOutput {
            name: "y".to_owned(),
            shape: vec![1, 10],
            layout: LayoutId(2),
            level: out_level,
            scale: out_scale,
            unit: ConstId(6),
        }],
        insts,
        layers: ["conv", "square", "fc"].map(str::to_owned).to_vec(),
        inst_layers,
        probes: vec![Probe {
            layer: "conv".to_owned(),
            after: 5,
            regs: vec![Reg(3)],
            layout: hidden,
            unit: ConstId(5),
        }],
        manifest: KeyManifest::default(),
    };
    exact_primes(&mut program);
    program.manifest = manifest(&program);
    program
}

/// Artefacts hold exact primes.
fn exact_primes(program: &mut Program) {
    program.params = program.params.clone().check().expect("a secure literal").to_literal();
}

fn manifest(program: &Program) -> KeyManifest {
    let mut galois = BTreeMap::new();
    let params = program.params.clone().check().expect("a secure literal");
    for (call, level) in program.calls.values().zip([Level(2), Level(1)]) {
        let resolved = program.maps[call.terms[0].map].resolve(&program.layouts);
        let terms = [(resolved, 0)];
        let plan = plan_call(&terms, call.recipe(), params.max_slots());
        for element in plan.plan.galois_elements(params.n()) {
            let highest = galois.entry(element).or_insert(level);
            *highest = (*highest).max(level);
        }
    }
    KeyManifest { relin: Some(Level(1)), galois }
}

/// The client part: gray 8x8 pictures, mean and deviation 0.5.
pub fn client() -> ClientPart {
    ClientPart {
        image: Some(ImageSpec {
            format: PixelFormat::Gray,
            order: ImageOrder::Nchw,
            height: 8,
            width: 8,
            mean: vec![0.5],
            std: vec![0.5],
        }),
        input_name: "x".to_owned(),
        input_shape: vec![1, 1, 8, 8],
        labels: (0..10).map(|i| format!("class {i}")).collect(),
        ranges: vec![RangeRecord { layer: "square".to_owned(), low: vec![-9.0; 4], high: vec![9.0; 4] }],
        compiler: "test".to_owned(),
        ..ClientPart::default()
    }
}

/// A sample for [`client`].
pub fn sample() -> ClientTensor {
    ClientTensor { shape: vec![1, 1, 8, 8], data: numbers(64, 1.0) }
}

/// Program and client, checked as the loader does.
pub fn loaded(client: ClientPart) -> Loaded {
    let program = program();
    let params = program.params.clone().check().expect("a secure literal");
    peregrine_ir::program::verify(&program).expect("the program is valid");
    Loaded::checked(program, client, &params).expect("the program is consistent")
}

/// Writes the artefact into a directory.
pub fn artefact(directory: &Path, client: &ClientPart) -> PathBuf {
    let path = directory.join("tiny.fhe");
    peregrine_ir::container::write(&path, &program(), client).expect("the artefact can be written");
    path
}

/// Writes an `.npy` file; `kind` is the element type, `data` its bytes.
pub fn write_npy(path: &Path, kind: &str, shape: &[usize], data: &[u8]) {
    let shape: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).expect("the file can be written");
}

/// Bytes of little-endian floats.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
