//! From a program to the schema's messages.

use super::decode::DecodeError;
use super::{constants, proto};
use crate::axis::{AxisMap, AxisRun, Separable};
use crate::entity::EntityId;
use crate::layout::{Axis, Digit, Layout, Place};
use crate::linear::{BsgsSplit, Imaginary, LinearMap, Sharing};
use crate::program::{
    Inst, KeyManifest, LinearCall, Probe, Program, ProgramInput, ProgramOutput, Refresh, Reg,
};
use crate::{BootstrapSpec, PrimeRun, PrimeSpec, Scale};

/// The program section, and the constants section.
///
/// # Errors
/// [`DecodeError::InexactPrime`] if a prime is given by its size: a file states primes exactly.
pub(super) fn program(program: &Program) -> Result<(proto::Program, Vec<u8>), DecodeError> {
    let exact = |spec: &PrimeSpec| match spec {
        PrimeSpec::Exact(prime) => Ok(*prime),
        PrimeSpec::Bits(_) => Err(DecodeError::InexactPrime),
    };
    let params = proto::Params {
        log_n: program.params.log_n,
        q: program.params.q.iter().map(exact).collect::<Result<_, _>>()?,
        p: program.params.p.iter().map(exact).collect::<Result<_, _>>()?,
    };
    let vectors = program.vectors.values().map(|v| proto::Vector {
        values: id(v.values),
        layout: id(v.layout),
        cipher: v.cipher,
    });
    let (consts, data) = constants::encode(&program.consts);
    let message = proto::Program {
        name: program.name.clone(),
        params: Some(params),
        consts,
        layouts: program.layouts.values().map(layout).collect(),
        maps: program.maps.values().map(map).collect(),
        calls: program.calls.values().map(call).collect(),
        vectors: vectors.collect(),
        inputs: program.inputs.iter().map(input).collect(),
        outputs: program.outputs.iter().map(output).collect(),
        insts: program.insts.iter().map(inst).collect(),
        layers: program.layers.clone(),
        inst_layers: program.inst_layers.clone(),
        probes: program.probes.iter().map(probe).collect(),
        manifest: Some(manifest(&program.manifest)),
        bootstrap: program.bootstrap.as_ref().map(bootstrap),
        refreshes: program.refreshes.values().map(refresh).collect(),
    };
    Ok((message, data))
}

fn bootstrap(spec: &BootstrapSpec) -> proto::Bootstrap {
    // Counts of a valid specification are below the limit of primes.
    let run = |run: PrimeRun| Some(proto::PrimeRun { count: run.count as u32, bits: run.bits });
    proto::Bootstrap {
        base_bits: spec.base_bits,
        slots_to_coeffs: run(spec.slots_to_coeffs),
        usable: spec.usable.clone(),
        mod_bits: spec.eval_mod.prime_bits,
        boost_bits: spec.eval_mod.boost_bits,
        degree: spec.eval_mod.degree,
        double_angles: spec.eval_mod.double_angles,
        arcsine_degree: spec.eval_mod.arcsine.degree(),
        coeffs_to_slots: run(spec.coeffs_to_slots),
        special: run(spec.special),
        ephemeral_special: spec.ephemeral_special as u32,
        ratio_bits: spec.ratio_bits,
    }
}

fn refresh(refresh: &Refresh) -> proto::Refresh {
    proto::Refresh {
        slots: refresh.slots.get(),
        scale: scale(&refresh.scale),
        range_bits: refresh.form.range_bits,
        lift_bits: refresh.form.lift_bits,
    }
}

fn id(entity: impl EntityId) -> u32 {
    entity.index() as u32
}

fn extents(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|&extent| extent as u64).collect()
}

fn scale(scale: &Scale) -> Option<proto::Scale> {
    let primes =
        scale.prime_exponents().iter().map(|&(index, exponent)| proto::PrimePower { index, exponent });
    Some(proto::Scale { two: scale.exponent_of_two(), primes: primes.collect() })
}

fn layout(layout: &Layout) -> proto::Layout {
    let digits = |axis| layout.axis_digits(axis).iter().map(digit).collect();
    proto::Layout {
        channels: layout.shape.c,
        rows: layout.shape.h,
        columns: layout.shape.w,
        c: digits(Axis::C),
        y: digits(Axis::Y),
        x: digits(Axis::X),
        period: layout.period.get(),
        ciphertexts: layout.ciphertexts,
        block_slots: layout.blocks.slots,
        blocks_per_cipher: layout.blocks.per_cipher,
    }
}

fn digit(digit: &Digit) -> proto::Digit {
    let place = match digit.place {
        Place::Slot(stride) => proto::digit::Place::SlotStride(stride),
        Place::Cipher(stride) => proto::digit::Place::CipherStride(stride),
        Place::Block(stride) => proto::digit::Place::BlockStride(stride),
    };
    proto::Digit { radix: digit.radix, place: Some(place) }
}

fn separable(map: &Separable) -> proto::Separable {
    let [c, y, x] = &map.maps;
    proto::Separable { c: Some(axis_map(c)), y: Some(axis_map(y)), x: Some(axis_map(x)) }
}

fn axis_map(map: &AxisMap) -> proto::AxisMap {
    let run = |run: &AxisRun| proto::AxisRun {
        output: run.output,
        output_step: run.output_step,
        input: run.input,
        input_step: run.input_step,
        count: run.count,
        factor: run.factor,
    };
    proto::AxisMap { input: map.input(), output: map.output(), runs: map.runs().iter().map(run).collect() }
}

fn map(map: &LinearMap) -> proto::LinearMap {
    let g = map.geometry;
    proto::LinearMap {
        input: id(map.input),
        output: id(map.output),
        weights: id(map.weights),
        kernel: g.kernel.to_vec(),
        stride: g.stride.to_vec(),
        pad: g.pad.to_vec(),
        dilation: g.dilation.to_vec(),
        groups: g.groups,
        before: map.before.as_deref().map(separable),
        after: map.after.as_deref().map(separable),
    }
}

fn call(call: &LinearCall) -> proto::LinearCall {
    let terms = call.terms.iter().map(|t| proto::CallTerm { map: id(t.map), operand: t.operand });
    let BsgsSplit { turns, babies, giants } = call.split.clone();
    let shared = call.shared.iter().map(sharing).collect();
    proto::LinearCall { terms: terms.collect(), turns, babies, giants, shared }
}

fn sharing(sharing: &Sharing) -> proto::Sharing {
    let (imaginary, rotation) = match sharing.imaginary {
        Imaginary::Nothing => (proto::Imaginary::Nothing, 0),
        Imaginary::Next => (proto::Imaginary::Next, 0),
        Imaginary::Rotated(rotation) => (proto::Imaginary::Rotated, rotation),
    };
    proto::Sharing { imaginary: imaginary.into(), rotation, shifts: sharing.shifts.clone() }
}

fn input(input: &ProgramInput) -> proto::Port {
    proto::Port {
        name: input.name.clone(),
        shape: Vec::new(),
        layout: id(input.layout),
        level: input.level.0,
        scale: scale(&input.scale),
        unit: id(input.unit),
    }
}

fn output(output: &ProgramOutput) -> proto::Port {
    proto::Port {
        name: output.name.clone(),
        shape: extents(&output.shape),
        layout: id(output.layout),
        level: output.level.0,
        scale: scale(&output.scale),
        unit: id(output.unit),
    }
}

fn probe(probe: &Probe) -> proto::Probe {
    proto::Probe {
        layer: probe.layer.clone(),
        after: probe.after,
        regs: regs(&probe.regs),
        layout: id(probe.layout),
        unit: id(probe.unit),
    }
}

fn regs(regs: &[Reg]) -> Vec<u32> {
    regs.iter().map(|reg| reg.0).collect()
}

fn manifest(manifest: &KeyManifest) -> proto::Manifest {
    let galois = manifest.galois.iter();
    proto::Manifest {
        relin: manifest.relin.map(|level| level.0),
        galois: galois.map(|(e, level)| proto::GaloisKey { element: e.get(), level: level.0 }).collect(),
    }
}

fn inst(inst: &Inst) -> proto::Inst {
    use proto::inst::{self as p, Op};
    let binary = |dst: &Reg, a: &Reg, b: &Reg| p::Binary { dst: dst.0, a: a.0, b: b.0 };
    let unary = |dst: &Reg, src: &Reg| p::Unary { dst: dst.0, src: src.0 };
    let op = match inst {
        Inst::Input { dst, input, cipher } => {
            Op::Input(p::Input { dst: dst.0, input: *input, cipher: *cipher })
        }
        Inst::Linear { dsts, call, args, scale: s } => {
            Op::Linear(p::Linear { dsts: regs(dsts), call: call.0, args: regs(args), scale: scale(s) })
        }
        Inst::AddVector { dst, src, vector } => {
            Op::AddVector(p::AddVector { dst: dst.0, src: src.0, vector: vector.0 })
        }
        Inst::MulVector { dst, src, vector, scale: s } => {
            Op::MulVector(p::MulVector { dst: dst.0, src: src.0, vector: vector.0, scale: scale(s) })
        }
        Inst::Add { dst, a, b } => Op::Add(binary(dst, a, b)),
        Inst::Sub { dst, a, b } => Op::Sub(binary(dst, a, b)),
        Inst::Mul { dst, a, b } => Op::Mul(binary(dst, a, b)),
        Inst::Square { dst, src } => Op::Square(unary(dst, src)),
        Inst::Rescale { dst, src } => Op::Rescale(unary(dst, src)),
        Inst::Conjugate { dst, src } => Op::Conjugate(unary(dst, src)),
        Inst::ModDrop { dst, src, to } => Op::ModDrop(p::ToLevel { dst: dst.0, src: src.0, level: to.0 }),
        Inst::Bootstrap { dst, src, refresh } => {
            Op::Bootstrap(p::Bootstrap { dsts: vec![dst.0], srcs: vec![src.0], refresh: refresh.0 })
        }
        Inst::BootstrapPair { dsts, srcs, refresh } => {
            Op::Bootstrap(p::Bootstrap { dsts: regs(dsts), srcs: regs(srcs), refresh: refresh.0 })
        }
        Inst::Rotate { dst, src, rotation } => {
            Op::Rotate(p::Rotate { dst: dst.0, src: src.0, steps: rotation.get() })
        }
        Inst::Output { output, cipher, src } => {
            Op::Output(p::Output { output: *output, cipher: *cipher, src: src.0 })
        }
        Inst::Free { reg } => Op::Free(reg.0),
    };
    proto::Inst { op: Some(op) }
}
