//! From the schema's messages to a program. Only what the types need is checked here; the rest is the verifier's.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use thiserror::Error;

use super::{constants, proto};
use crate::axis::{AxisError, AxisMap, AxisRun, Separable};
use crate::consts::ConstId;
use crate::layout::{Blocks, Chw, Digit, Layout, Place};
use crate::linear::{BsgsSplit, ConvGeometry, Imaginary, LayoutId, LinearMap, LinearMapId, Sharing};
use crate::program::{
    CallId, CallTerm, Inst, KeyManifest, LinearCall, Probe, Program, ProgramInput, ProgramOutput, Refresh,
    RefreshId, Reg, VectorId, VectorRecipe,
};
use crate::{
    Arcsine, BootstrapSpec, EvalModSpec, GaloisElement, Level, ParamsLiteral, PrimeRun, PrimeSpec,
    RefreshForm, Rotation, Scale, Slots,
};

/// Most axes of a shape.
const MAX_AXES: usize = 8;
/// Largest size of an exponent of a scale: beyond it lies no modulus of any parameters.
const MAX_EXPONENT: i32 = 1 << 16;

/// Why a section does not decode.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum DecodeError {
    /// Not the schema's protobuf.
    #[error("not valid protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A part that must be there is not, or an enumeration has an unknown value.
    #[error(
        "{part} {index} lacks its {field} or has an unknown one; a newer compiler may have written the file"
    )]
    Missing {
        /// The part.
        part: &'static str,
        /// Its index.
        index: usize,
        /// What is missing.
        field: &'static str,
    },
    /// A number that its type does not admit.
    #[error("{part} {index} has {field} {value}, which is out of range")]
    Range {
        /// The part.
        part: &'static str,
        /// Its index.
        index: usize,
        /// The number.
        field: &'static str,
        /// Value.
        value: u64,
    },
    /// Data of another length than the shapes say.
    #[error("{part} takes {expected} bytes, the file has {found}")]
    Length {
        /// What.
        part: &'static str,
        /// Asked for.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// A map of one coordinate that is no valid one.
    #[error("linear map {index}: {source}")]
    Axis {
        /// Number of the linear map.
        index: usize,
        /// What is wrong.
        source: AxisError,
    },
    /// A Galois element that occurs twice, or not in ascending order.
    #[error("Galois key {0} is out of order or occurs twice")]
    KeyOrder(u32),
    /// A program to be written gives a prime by its size.
    #[error("a prime of the parameters is given by size: a file states its primes exactly")]
    InexactPrime,
}

/// An element of a list, for messages.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub part: &'static str,
    pub index: usize,
}

impl At {
    pub fn missing(self, field: &'static str) -> DecodeError {
        DecodeError::Missing { part: self.part, index: self.index, field }
    }

    pub fn range(self, field: &'static str, value: u64) -> DecodeError {
        DecodeError::Range { part: self.part, index: self.index, field, value }
    }
}

fn each<T, U, C: FromIterator<U>>(
    part: &'static str,
    items: impl IntoIterator<Item = T>,
    decode: impl Fn(At, T) -> Result<U, DecodeError>,
) -> Result<C, DecodeError> {
    items.into_iter().enumerate().map(|(index, item)| decode(At { part, index }, item)).collect()
}

/// Decodes the program section with the data of the constants section.
pub(super) fn program(bytes: &[u8], data: &[u8]) -> Result<Program, DecodeError> {
    let program = proto::Program::decode(bytes)?;
    let params =
        program.params.ok_or(DecodeError::Missing { part: "program", index: 0, field: "parameters" })?;
    let exact = |primes: Vec<u64>| primes.into_iter().map(PrimeSpec::Exact).collect();
    let log_n = params.log_n;
    let params = ParamsLiteral { log_n, q: exact(params.q), p: exact(params.p) };
    let slots = 1u64.checked_shl(params.log_n.saturating_sub(1)).and_then(|slots| u32::try_from(slots).ok());
    let slots = slots.and_then(|slots| Slots::new(slots).ok());
    check_separable_entries(&program.maps)?;
    Ok(Program {
        name: program.name,
        params,
        consts: constants::decode(program.consts, data)?,
        layouts: each("layout", program.layouts, layout)?,
        maps: each("linear map", program.maps, map)?,
        calls: each("linear call", program.calls, call)?,
        vectors: each("plaintext vector", program.vectors, |_, v| {
            Ok(VectorRecipe { values: ConstId(v.values), layout: LayoutId(v.layout), cipher: v.cipher })
        })?,
        inputs: each("input", program.inputs, input)?,
        outputs: each("output", program.outputs, output)?,
        insts: each("instruction", program.insts, |at, i| inst(at, i, slots))?,
        layers: program.layers,
        inst_layers: program.inst_layers,
        probes: each("probe", program.probes, |_, p| Ok(probe(p)))?,
        manifest: manifest(program.manifest.unwrap_or_default())?,
        bootstrap: program.bootstrap.map(|spec| bootstrap(spec, log_n)).transpose()?,
        refreshes: each("refresh", program.refreshes, refresh)?,
    })
}

fn bootstrap(spec: proto::Bootstrap, log_n: u32) -> Result<BootstrapSpec, DecodeError> {
    let at = At { part: "bootstrapping specification", index: 0 };
    let run = |run: Option<proto::PrimeRun>, field| {
        let run = run.ok_or_else(|| at.missing(field))?;
        Ok::<_, DecodeError>(PrimeRun::new(run.count as usize, run.bits))
    };
    let arcsine = Arcsine::of_degree(spec.arcsine_degree);
    Ok(BootstrapSpec {
        log_n,
        base_bits: spec.base_bits,
        slots_to_coeffs: run(spec.slots_to_coeffs, "SlotsToCoeffs primes")?,
        usable: spec.usable,
        eval_mod: EvalModSpec {
            prime_bits: spec.mod_bits,
            boost_bits: spec.boost_bits,
            degree: spec.degree,
            double_angles: spec.double_angles,
            arcsine: arcsine.ok_or_else(|| at.range("arcsine degree", u64::from(spec.arcsine_degree)))?,
        },
        coeffs_to_slots: run(spec.coeffs_to_slots, "CoeffsToSlots primes")?,
        special: run(spec.special, "special primes")?,
        ephemeral_special: spec.ephemeral_special as usize,
        ratio_bits: spec.ratio_bits,
    })
}

fn refresh(at: At, refresh: proto::Refresh) -> Result<Refresh, DecodeError> {
    Ok(Refresh {
        slots: Slots::new(refresh.slots).map_err(|_| at.range("slots", u64::from(refresh.slots)))?,
        scale: scale(at, refresh.scale)?,
        form: RefreshForm { range_bits: refresh.range_bits, lift_bits: refresh.lift_bits },
    })
}

/// A shape whose product, times `width`, fits memory addresses.
pub(super) fn shape(
    extents: &[u64],
    at: &'static str,
    index: usize,
) -> Result<(Vec<usize>, u64), DecodeError> {
    let at = At { part: at, index };
    if extents.len() > MAX_AXES {
        return Err(at.range("axes", extents.len() as u64));
    }
    let product = extents.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent));
    let elements = product.filter(|&n| n < 1 << 40).ok_or_else(|| at.range("extents", u64::MAX))?;
    let extent = |&extent: &u64| usize::try_from(extent).map_err(|_| at.range("extent", extent));
    Ok((extents.iter().map(extent).collect::<Result<_, _>>()?, elements))
}

/// A scale; the canonical form is enforced, so that equal scales have one encoding.
fn scale(at: At, scale: Option<proto::Scale>) -> Result<Scale, DecodeError> {
    let scale = scale.ok_or_else(|| at.missing("scale"))?;
    let bounded = |exponent: i32| (-MAX_EXPONENT..=MAX_EXPONENT).contains(&exponent);
    if !bounded(scale.two) {
        return Err(at.range("exponent of two", u64::from(scale.two.unsigned_abs())));
    }
    let mut text = format!("2^{}", scale.two);
    let mut last = None;
    for power in scale.primes {
        if !bounded(power.exponent) || power.exponent == 0 || last.is_some_and(|last| last >= power.index) {
            return Err(at.range("exponent of a prime", u64::from(power.index)));
        }
        last = Some(power.index);
        text.push_str(&format!("*q{}^{}", power.index, power.exponent));
    }
    text.parse().map_err(|_| at.missing("scale"))
}

fn layout(at: At, layout: proto::Layout) -> Result<Layout, DecodeError> {
    let digits = |digits: Vec<proto::Digit>| -> Result<Vec<Digit>, DecodeError> {
        let digit = |digit: proto::Digit| {
            let place = match digit.place.ok_or_else(|| at.missing("digit place"))? {
                proto::digit::Place::SlotStride(stride) => Place::Slot(stride),
                proto::digit::Place::CipherStride(stride) => Place::Cipher(stride),
                proto::digit::Place::BlockStride(stride) => Place::Block(stride),
            };
            Ok(Digit { radix: digit.radix, place })
        };
        digits.into_iter().map(digit).collect()
    };
    Ok(Layout {
        shape: Chw { c: layout.channels, h: layout.rows, w: layout.columns },
        digits: [digits(layout.c)?, digits(layout.y)?, digits(layout.x)?],
        period: Slots::new(layout.period).map_err(|_| at.range("period", u64::from(layout.period)))?,
        ciphertexts: layout.ciphertexts,
        blocks: Blocks { slots: layout.block_slots, per_cipher: layout.blocks_per_cipher },
    })
}

/// Most entries of all separable maps of a file: what they unfold to, not what they are stored as.
const MAX_SEPARABLE_ENTRIES: u64 = 1 << 22;

fn check_separable_entries(maps: &[proto::LinearMap]) -> Result<(), DecodeError> {
    let around = maps.iter().flat_map(|map| map.before.iter().chain(&map.after));
    let axes = around.flat_map(|map| [&map.c, &map.y, &map.x]).flatten();
    let total: u64 = axes.flat_map(|axis| &axis.runs).map(|run| u64::from(run.count)).sum();
    if total <= MAX_SEPARABLE_ENTRIES {
        return Ok(());
    }
    Err(At { part: "linear map", index: 0 }.range("entries of all separable maps", total))
}

fn separable(at: At, map: proto::Separable) -> Result<Arc<Separable>, DecodeError> {
    let axis = |map: Option<proto::AxisMap>| {
        let map = map.ok_or_else(|| at.missing("axis map"))?;
        let run = |run: &proto::AxisRun| AxisRun {
            output: run.output,
            output_step: run.output_step,
            input: run.input,
            input_step: run.input_step,
            count: run.count,
            factor: run.factor,
        };
        let runs: Vec<AxisRun> = map.runs.iter().map(run).collect();
        AxisMap::from_runs(map.input, map.output, &runs)
            .map_err(|source| DecodeError::Axis { index: at.index, source })
    };
    Ok(Arc::new(Separable { maps: [axis(map.c)?, axis(map.y)?, axis(map.x)?] }))
}

fn map(at: At, map: proto::LinearMap) -> Result<LinearMap, DecodeError> {
    let pair = |field, values: &[u32]| <[u32; 2]>::try_from(values).map_err(|_| at.missing(field));
    let geometry = ConvGeometry {
        kernel: pair("kernel", &map.kernel)?,
        stride: pair("stride", &map.stride)?,
        pad: pair("padding", &map.pad)?,
        dilation: pair("dilation", &map.dilation)?,
        groups: map.groups,
    };
    let (input, output) = (LayoutId(map.input), LayoutId(map.output));
    let [before, after] =
        [map.before, map.after].map(|around| around.map(|map| separable(at, map)).transpose());
    Ok(LinearMap { input, output, geometry, weights: ConstId(map.weights), before: before?, after: after? })
}

fn call(at: At, call: proto::LinearCall) -> Result<LinearCall, DecodeError> {
    let term = |t: proto::CallTerm| CallTerm { map: LinearMapId(t.map), operand: t.operand };
    let split = BsgsSplit { turns: call.turns, babies: call.babies, giants: call.giants };
    let shared = call.shared.into_iter().map(|s| sharing(at, s)).collect::<Result<_, _>>()?;
    Ok(LinearCall { terms: call.terms.into_iter().map(term).collect(), split, shared })
}

fn sharing(at: At, sharing: proto::Sharing) -> Result<Sharing, DecodeError> {
    let imaginary = match sharing.imaginary() {
        proto::Imaginary::Unspecified => return Err(at.missing("imaginary part")),
        proto::Imaginary::Nothing => Imaginary::Nothing,
        proto::Imaginary::Next => Imaginary::Next,
        proto::Imaginary::Rotated => Imaginary::Rotated(sharing.rotation),
    };
    Ok(Sharing { imaginary, shifts: sharing.shifts })
}

fn input(at: At, port: proto::Port) -> Result<ProgramInput, DecodeError> {
    Ok(ProgramInput {
        name: port.name,
        layout: LayoutId(port.layout),
        level: Level(port.level),
        scale: scale(at, port.scale)?,
        unit: ConstId(port.unit),
    })
}

fn output(at: At, port: proto::Port) -> Result<ProgramOutput, DecodeError> {
    Ok(ProgramOutput {
        name: port.name,
        shape: shape(&port.shape, at.part, at.index)?.0,
        layout: LayoutId(port.layout),
        level: Level(port.level),
        scale: scale(at, port.scale)?,
        unit: ConstId(port.unit),
    })
}

fn regs(regs: Vec<u32>) -> Vec<Reg> {
    regs.into_iter().map(Reg).collect()
}

fn probe(probe: proto::Probe) -> Probe {
    Probe {
        layer: probe.layer,
        after: probe.after,
        regs: regs(probe.regs),
        layout: LayoutId(probe.layout),
        unit: ConstId(probe.unit),
    }
}

fn manifest(manifest: proto::Manifest) -> Result<KeyManifest, DecodeError> {
    let mut galois = BTreeMap::new();
    for key in manifest.galois {
        let element = GaloisElement::new(key.element).map_err(|_| DecodeError::KeyOrder(key.element))?;
        if galois.last_key_value().is_some_and(|(&last, _)| last >= element) {
            return Err(DecodeError::KeyOrder(key.element));
        }
        galois.insert(element, Level(key.level));
    }
    Ok(KeyManifest { relin: manifest.relin.map(Level), galois })
}

fn inst(at: At, inst: proto::Inst, slots: Option<Slots>) -> Result<Inst, DecodeError> {
    use proto::inst::Op;
    let op = inst.op.ok_or_else(|| at.missing("operation"))?;
    Ok(match op {
        Op::Input(i) => Inst::Input { dst: Reg(i.dst), input: i.input, cipher: i.cipher },
        Op::Linear(i) => {
            let scale = scale(at, i.scale)?;
            Inst::Linear { dsts: regs(i.dsts), call: CallId(i.call), args: regs(i.args), scale }
        }
        Op::AddVector(i) => Inst::AddVector { dst: Reg(i.dst), src: Reg(i.src), vector: VectorId(i.vector) },
        Op::MulVector(i) => {
            let scale = scale(at, i.scale)?;
            Inst::MulVector { dst: Reg(i.dst), src: Reg(i.src), vector: VectorId(i.vector), scale }
        }
        Op::Add(i) => Inst::Add { dst: Reg(i.dst), a: Reg(i.a), b: Reg(i.b) },
        Op::Sub(i) => Inst::Sub { dst: Reg(i.dst), a: Reg(i.a), b: Reg(i.b) },
        Op::Mul(i) => Inst::Mul { dst: Reg(i.dst), a: Reg(i.a), b: Reg(i.b) },
        Op::Square(i) => Inst::Square { dst: Reg(i.dst), src: Reg(i.src) },
        Op::Rescale(i) => Inst::Rescale { dst: Reg(i.dst), src: Reg(i.src) },
        Op::Conjugate(i) => Inst::Conjugate { dst: Reg(i.dst), src: Reg(i.src) },
        Op::ModDrop(i) => Inst::ModDrop { dst: Reg(i.dst), src: Reg(i.src), to: Level(i.level) },
        Op::Bootstrap(i) => match (&i.dsts[..], &i.srcs[..]) {
            (&[dst], &[src]) => {
                Inst::Bootstrap { dst: Reg(dst), src: Reg(src), refresh: RefreshId(i.refresh) }
            }
            (&[a, b], &[x, y]) => Inst::BootstrapPair {
                dsts: [Reg(a), Reg(b)],
                srcs: [Reg(x), Reg(y)],
                refresh: RefreshId(i.refresh),
            },
            _ => return Err(at.range("number of refreshed registers", i.srcs.len() as u64)),
        },
        Op::Rotate(i) => {
            let slots = slots.filter(|slots| i.steps < slots.get());
            let slots = slots.ok_or_else(|| at.range("rotation", u64::from(i.steps)))?;
            Inst::Rotate {
                dst: Reg(i.dst),
                src: Reg(i.src),
                rotation: Rotation::new(i64::from(i.steps), slots),
            }
        }
        Op::Output(i) => Inst::Output { output: i.output, cipher: i.cipher, src: Reg(i.src) },
        Op::Free(reg) => Inst::Free { reg: Reg(reg) },
    })
}
