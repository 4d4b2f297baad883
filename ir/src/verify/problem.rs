//! Places and broken rules.

use std::fmt;

use peregrine_ckks::evaluator::linear::PlanError;
use peregrine_ckks::params::{Chain, ParamsError};
use peregrine_ckks::units::{GaloisElement, Level, Scale};
use thiserror::Error;

use crate::consts::ConstId;
use crate::fhe::Stage as FheStage;
use crate::graph::{Origin, ValueId};
use crate::layout::LayoutError;
use crate::linear::{LayoutId, LinearMapId, MapError};
use crate::program::{CallId, RefreshId, Reg, VectorId};
use crate::refresh::{MAX_LIFT_BITS, MAX_RANGE_BITS, RefreshForm};
use crate::tensor::{Stage as TensorStage, TensorTy, TypeError};

/// Something that an id or an index names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entity {
    /// A value of a graph.
    Value(ValueId),
    /// A constant.
    Const(ConstId),
    /// A layout.
    Layout(LayoutId),
    /// A linear map.
    Map(LinearMapId),
    /// A linear call.
    Call(CallId),
    /// A plaintext vector.
    Vector(VectorId),
    /// A refresh.
    Refresh(RefreshId),
    /// A program input.
    Input(u32),
    /// A program output.
    Output(u32),
    /// A probe.
    Probe(u32),
    /// An operand of a linear call.
    Operand(u32),
    /// A ciphertext of a layout.
    Cipher(u32),
    /// An instruction.
    Inst(u32),
    /// A layer name.
    Layer(u32),
    /// A prime of the chain.
    Prime(u32),
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(id) => id.fmt(f),
            Self::Const(id) => id.fmt(f),
            Self::Layout(id) => id.fmt(f),
            Self::Map(id) => id.fmt(f),
            Self::Call(id) => id.fmt(f),
            Self::Vector(id) => id.fmt(f),
            Self::Refresh(id) => id.fmt(f),
            Self::Input(i) => write!(f, "input {i}"),
            Self::Output(i) => write!(f, "output {i}"),
            Self::Probe(i) => write!(f, "probe {i}"),
            Self::Operand(i) => write!(f, "operand {i}"),
            Self::Cipher(i) => write!(f, "ciphertext {i}"),
            Self::Inst(i) => write!(f, "instruction {i}"),
            Self::Layer(i) => write!(f, "layer {i}"),
            Self::Prime(i) => write!(f, "prime q{i}"),
        }
    }
}

/// Where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    /// The graph or program as a whole.
    Whole,
    /// A node of a graph.
    Node {
        /// The value it defines.
        value: ValueId,
        /// Its ONNX origin.
        origin: Origin,
    },
    /// An entry of a table, an input, an output, a probe or an instruction.
    Entry(Entity),
    /// The encryption parameters.
    Params,
    /// The key manifest.
    Manifest,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("whole"),
            Self::Node { value, origin } => write!(f, "{value} ({:?})", origin.as_str()),
            Self::Entry(entity) => entity.fmt(f),
            Self::Params => f.write_str("parameters"),
            Self::Manifest => f.write_str("key manifest"),
        }
    }
}

/// A stage that forbids an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyStage {
    /// Of the tensor level.
    Tensor(TensorStage),
    /// Of the fhe level.
    Fhe(FheStage),
}

/// How a register is wrongly used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Read before an instruction assigns it.
    Unassigned,
    /// Read after `free`.
    Freed,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Problem {
    /// An id names nothing.
    #[error("refers to {0}, which does not exist")]
    Unknown(Entity),
    /// An operand is not defined before its use.
    #[error("uses {0} before it is defined")]
    NotDefinedBefore(ValueId),
    /// Wrong number of operands, registers or entries.
    #[error("has {found} {what}, not {expected}")]
    Count {
        /// Of what.
        what: Counted,
        /// Asked for.
        expected: usize,
        /// There.
        found: usize,
    },
    /// A limit is exceeded.
    #[error("has {found} {what}, more than the limit of {limit}")]
    TooMany {
        /// Of what.
        what: Counted,
        /// Found.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A joined operand has more copies than the ring has room for.
    #[error(
        "operand {operand} shares its work among 2^{doublings} copies of {period} slots, the ring has {slots}"
    )]
    Copies {
        /// The operand.
        operand: u32,
        /// log2 of the copies.
        doublings: usize,
        /// Slots of a copy.
        period: u32,
        /// Slots of a ciphertext.
        slots: u32,
    },
    /// No outputs, no operands, ...
    #[error("has no {0}")]
    None(Counted),
    /// Two inputs or two outputs share a name.
    #[error("the name {0:?} occurs twice among the inputs or among the outputs")]
    DuplicateName(String),
    /// A type rule refuses the operation.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// The stated type is not the inferred one.
    #[error("states shape {stated}, but its operation gives {inferred}")]
    TypeMismatch {
        /// Stated.
        stated: TensorTy,
        /// Inferred.
        inferred: TensorTy,
    },
    /// A constant's data are not as long as its shape says.
    #[error("holds {found} numbers, its shape {shape:?} asks for {expected}")]
    ConstLength {
        /// Shape.
        shape: Vec<usize>,
        /// Product of the shape.
        expected: u64,
        /// Numbers there.
        found: usize,
    },
    /// A constant holds NaN or an infinity.
    #[error("element {index} is not finite")]
    NotFinite {
        /// Index of the first such element.
        index: usize,
    },
    /// A constant has another shape than its use asks for.
    #[error("{constant} has shape {found:?}, its use asks for {expected:?}")]
    ConstShape {
        /// The constant.
        constant: ConstId,
        /// Asked for.
        expected: Vec<usize>,
        /// Found.
        found: Vec<usize>,
    },
    /// A unit is zero or so small or large that it is useless.
    #[error(
        "unit of channel {channel} in {constant} is {value}; it must be finite and between 2^-100 and 2^100 in size"
    )]
    Unit {
        /// The constant.
        constant: ConstId,
        /// Channel.
        channel: usize,
        /// The unit.
        value: f64,
    },
    /// The largest magnitude of a value is no positive number.
    #[error("reach {0} is no finite positive number")]
    Reach(f64),
    /// The stage does not admit the operation.
    #[error("{op} is not admitted at stage {stage:?}")]
    StageForbids {
        /// Mnemonic of the operation.
        op: &'static str,
        /// The stage.
        stage: AnyStage,
    },
    /// A layout is wrong in itself.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A layout's period exceeds the slots of a ciphertext.
    #[error("period {period} exceeds the {slots} slots of a ciphertext")]
    Period {
        /// Period.
        period: u32,
        /// N/2.
        slots: u32,
    },
    /// A linear map is wrong in itself.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The plan of a linear call makes no sense, such as an output ciphertext that no weight reaches.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A value has another layout than its use asks for.
    #[error("{what} has layout {found}, {expected} is asked for")]
    LayoutMismatch {
        /// The value.
        what: Entity,
        /// Asked for.
        expected: LayoutId,
        /// Found.
        found: LayoutId,
    },
    /// Two units that must be equal differ.
    #[error("{what} has unit {found}, {expected} is asked for")]
    UnitMismatch {
        /// The value.
        what: Entity,
        /// Asked for.
        expected: ConstId,
        /// Found.
        found: ConstId,
    },
    /// A polynomial degree out of range.
    #[error("degree {0} is not in 2..=8")]
    Degree(u32),
    /// The slot count of a graph is no power of two in range.
    #[error("{0} slots: N/2 must be a power of two from 8 to 65536")]
    Slots(u32),
    /// A value of a leveled graph has no level, or a value of a packed graph has one.
    #[error("{} level and scale at stage {stage:?}", if *.present { "has" } else { "has no" })]
    CipherTy {
        /// Stage.
        stage: FheStage,
        /// Whether it is there.
        present: bool,
    },
    /// A level above the chain.
    #[error("level {level} exceeds the highest level {max}")]
    LevelTooHigh {
        /// The level.
        level: Level,
        /// The highest.
        max: Level,
    },
    /// A value has another level than asked for.
    #[error("is at level {found}, {expected} is asked for")]
    LevelMismatch {
        /// Asked for.
        expected: Level,
        /// Found.
        found: Level,
    },
    /// An operation consumes more levels than are left.
    #[error("needs {needed} levels, {left} are left")]
    OutOfLevels {
        /// Needed.
        needed: u32,
        /// Left.
        left: u32,
    },
    /// A value has another scale than asked for. Scales are exact: "nearly" is a mismatch.
    #[error("has scale {found}, {expected} is asked for")]
    ScaleMismatch {
        /// Asked for.
        expected: Box<Scale>,
        /// Found.
        found: Box<Scale>,
    },
    /// A scale names primes that do not exist or has absurd exponents.
    #[error("scale {0} names a prime that is not in the chain, or has an exponent beyond 4096")]
    MalformedScale(Box<Scale>),
    /// A scale is too small to hold anything or too large for the modulus.
    #[error("scale {scale} is 2^{log2:.1}, outside 2^{low:.1}..2^{high:.1}")]
    ScaleRange {
        /// The scale.
        scale: Box<Scale>,
        /// Its logarithm.
        log2: f64,
        /// Least admitted.
        low: f64,
        /// Largest admitted.
        high: f64,
    },
    /// The program or graph refreshes and its parameters do not say how.
    #[error("refreshes, but the parameters have no bootstrapping specification")]
    NoBootstrap,
    /// The bootstrapping specification is refused.
    #[error("bootstrapping is refused: {0}")]
    Bootstrap(String),
    /// A refresh whose numbers are out of range, or whose chain has no level to rescale to.
    #[error(
        "a refresh of range 2^{} and lift {:?} is out of range: at most 2^{MAX_RANGE_BITS} and {MAX_LIFT_BITS} bits, with a usable level left",
        .0.range_bits, .0.lift_bits
    )]
    RefreshForm(RefreshForm),
    /// The parameters are refused.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// A prime of the parameters is given by its size only.
    #[error("prime {index} of chain {chain} is given by size: a program states its primes exactly")]
    InexactPrime {
        /// `q` or `p`.
        chain: Chain,
        /// Index.
        index: usize,
    },
    /// A register is read before assignment or after `free`.
    #[error("{reg} is read {}", match .state { Liveness::Unassigned => "before it is assigned", Liveness::Freed => "after it was freed" })]
    NotLive {
        /// The register.
        reg: Reg,
        /// How.
        state: Liveness,
    },
    /// A register is assigned twice.
    #[error("{0} is assigned a second time")]
    Reassigned(Reg),
    /// A register's contents are placed otherwise than its use asks for.
    #[error("{reg} holds {found}, {expected} is asked for")]
    Contents {
        /// The register.
        reg: Reg,
        /// Asked for.
        expected: Contents,
        /// Found.
        found: Contents,
    },
    /// An input ciphertext is read twice, or an output ciphertext is given twice.
    #[error("{cipher} of {port} was already read or given")]
    Repeated {
        /// Input or output.
        port: Entity,
        /// The ciphertext.
        cipher: Entity,
    },
    /// A ciphertext of an output is never given.
    #[error("{0} is never given")]
    OutputMissing(Entity),
    /// A rotation that is not below N/2.
    #[error("rotation {rotation} is not below the {slots} slots")]
    Rotation {
        /// Amount.
        rotation: u32,
        /// N/2.
        slots: u32,
    },
    /// A switching key is missing from the manifest or stops below the level it is used at.
    #[error("needs {key} at level {level}, the manifest has {}", match .manifest { Some(l) => format!("it up to level {l}"), None => "no such key".into() })]
    MissingKey {
        /// The key.
        key: Key,
        /// Used at.
        level: Level,
        /// In the manifest.
        manifest: Option<Level>,
    },
    /// The manifest lists a key that nothing uses, or up to a level above every use.
    #[error("lists {key} up to level {level}, the highest use is {}", match .used { Some(l) => format!("level {l}"), None => "nowhere".into() })]
    ExcessKey {
        /// The key.
        key: Key,
        /// In the manifest.
        level: Level,
        /// Highest use.
        used: Option<Level>,
    },
    /// A Galois element outside the ring's group.
    #[error("{element} is no odd exponent below {limit}")]
    GaloisElement {
        /// The element.
        element: GaloisElement,
        /// 2N.
        limit: u64,
    },
    /// An output's ONNX shape does not have its layout's number of elements.
    #[error("has shape {shape:?}, its layout holds {elements} elements")]
    PortShape {
        /// ONNX shape.
        shape: Vec<usize>,
        /// Elements.
        elements: usize,
    },
}

/// What a [`Problem`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Operands of an operation.
    Operands,
    /// Terms of a linear call or maps of a linear operation.
    Terms,
    /// Inputs.
    Inputs,
    /// Outputs.
    Outputs,
    /// Registers that hold a value.
    Registers,
    /// Ciphertexts of a layout.
    Ciphertexts,
    /// Entries of the instruction-to-layer table.
    InstLayers,
    /// Primes of the chain.
    Primes,
    /// Diagonals of a linear call (groups of them, before they are merged).
    Diagonals,
    /// Combinations of turns, babies and giants of the splits of linear calls.
    Splits,
    /// Pairs of coordinates of linear maps.
    Pairs,
    /// Entries of a table.
    Entries,
    /// Refreshes.
    Refreshes,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operands => "operands",
            Self::Terms => "linear terms",
            Self::Inputs => "inputs",
            Self::Outputs => "outputs",
            Self::Registers => "registers",
            Self::Ciphertexts => "ciphertexts",
            Self::InstLayers => "instruction layers",
            Self::Primes => "primes",
            Self::Diagonals => "diagonals",
            Self::Splits => "combinations of turns, babies and giants of linear calls",
            Self::Pairs => "coordinate pairs of linear maps",
            Self::Entries => "entries",
            Self::Refreshes => "refreshes",
        })
    }
}

/// A switching key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Relinearisation.
    Relin,
    /// Galois.
    Galois(GaloisElement),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relin => f.write_str("the relinearisation key"),
            Self::Galois(element) => write!(f, "the Galois key {element}"),
        }
    }
}

/// What the slots of a register hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Ciphertext `cipher` of a tensor in `layout`.
    Packed {
        /// Layout.
        layout: LayoutId,
        /// Ciphertext.
        cipher: u32,
    },
    /// Slots that repeat with this period, of no known layout.
    Raw {
        /// Period.
        period: u32,
    },
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed { layout, cipher } => write!(f, "ciphertext {cipher} of {layout}"),
            Self::Raw { period } => write!(f, "slots of period {period}"),
        }
    }
}
