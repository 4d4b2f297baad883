//! Level 3: straight-line instructions on ciphertext registers, with constants and a key manifest.
//!
//! Linear maps stay macro-instructions, given by recipe (maps, operands, baby-step split), so that hoisting survives;
//! everything else is explicit. Registers are assigned once and freed by [`Inst::Free`] after their last use.
//! A register's contents repeat with a period that divides N/2.

#[cfg(test)]
mod bootstrap_tests;
mod clear;
mod inst;
mod merged;
mod simulate;
#[cfg(test)]
mod tests;
mod verify;

pub use clear::{ClearError, ClearMachine, Noise, Probed, Refreshed, Seen, pack_input, unpack_output};
pub use inst::{CallId, Inst, RefreshId, Reg, VectorId};
pub use merged::rescaled_at_once;
pub use verify::{MAX_CIPHERTEXTS, MAX_DIAGONAL_GROUPS, MAX_ENTRIES, VerifyErrors, verify, verify_at};

use std::collections::BTreeMap;

use peregrine_ckks::bootstrap::BootstrapSpec;
use peregrine_ckks::params::ParamsLiteral;
use peregrine_ckks::units::{GaloisElement, Level, Scale, Slots};

use crate::consts::{ConstId, ConstPool};
use crate::entity::PrimaryMap;
use crate::layout::Layout;
use crate::linear::{BsgsSplit, LayoutId, LinearMap, LinearMapId, Recipe, Sharing};
use crate::refresh::RefreshForm;

/// One term of a linear call: `map(operand)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallTerm {
    /// The map.
    pub map: LinearMapId,
    /// Which operand it applies to.
    pub operand: u32,
}

/// The recipe of a linear macro-instruction. Its argument registers are the ciphertexts of operand 0, then of operand 1, ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearCall {
    /// Terms; all maps share one output layout.
    pub terms: Vec<CallTerm>,
    /// Baby-step giant-step split.
    pub split: BsgsSplit,
    /// How each operand is joined before it meets diagonals; none where the list ends.
    pub shared: Vec<Sharing>,
}

impl LinearCall {
    /// What the call is planned by, besides its maps.
    pub fn recipe(&self) -> Recipe<'_> {
        Recipe { split: &self.split, shared: &self.shared }
    }
}

/// A plaintext vector: `values[c]` (or `values[0]`) at each element of channel c of ciphertext `cipher` of `layout`, 0 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VectorRecipe {
    /// Per-channel values.
    pub values: ConstId,
    /// Layout.
    pub layout: LayoutId,
    /// Ciphertext of the layout.
    pub cipher: u32,
}

/// The recipe of a refresh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refresh {
    /// Period of the operands' slots.
    pub slots: Slots,
    /// Scale of the operands.
    pub scale: Scale,
    /// Range of the operands, scale of the results.
    pub form: RefreshForm,
}

/// An encrypted input of the program: the client packs `tensor / unit`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramInput {
    /// ONNX name.
    pub name: String,
    /// Layout.
    pub layout: LayoutId,
    /// Level of the fresh ciphertexts.
    pub level: Level,
    /// Their scale.
    pub scale: Scale,
    /// Per-channel unit `[C]`.
    pub unit: ConstId,
}

/// An encrypted output of the program: the client unpacks and multiplies by `unit`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramOutput {
    /// ONNX name (of the encrypted value; the client tail may follow).
    pub name: String,
    /// Shape in ONNX, with batch 1.
    pub shape: Vec<usize>,
    /// Layout.
    pub layout: LayoutId,
    /// Level of the ciphertexts.
    pub level: Level,
    /// Their scale.
    pub scale: Scale,
    /// Per-channel unit `[C]`.
    pub unit: ConstId,
}

/// Switching keys that the program needs, each up to the highest level that it is used at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyManifest {
    /// Relinearisation key.
    pub relin: Option<Level>,
    /// Galois keys.
    pub galois: BTreeMap<GaloisElement, Level>,
}

/// A value of the tensor level that can be looked at while the program runs: for per-layer errors and profiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// ONNX node name.
    pub layer: String,
    /// The value is complete after this instruction.
    pub after: u32,
    /// Its registers, one per ciphertext of the layout.
    pub regs: Vec<Reg>,
    /// Layout.
    pub layout: LayoutId,
    /// Per-channel unit `[C]`.
    pub unit: ConstId,
}

/// A program.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Model name.
    pub name: String,
    /// Encryption parameters, with exact primes.
    pub params: ParamsLiteral,
    /// How the chain of primes serves bootstrapping, if the program bootstraps. Then the client also makes keys of an ephemeral
    /// secret.
    pub bootstrap: Option<BootstrapSpec>,
    /// Constants.
    pub consts: ConstPool,
    /// Layouts.
    pub layouts: PrimaryMap<LayoutId, Layout>,
    /// Linear maps.
    pub maps: PrimaryMap<LinearMapId, LinearMap>,
    /// Linear calls.
    pub calls: PrimaryMap<CallId, LinearCall>,
    /// Plaintext vectors.
    pub vectors: PrimaryMap<VectorId, VectorRecipe>,
    /// Refreshes.
    pub refreshes: PrimaryMap<RefreshId, Refresh>,
    /// Inputs.
    pub inputs: Vec<ProgramInput>,
    /// Outputs.
    pub outputs: Vec<ProgramOutput>,
    /// Instructions.
    pub insts: Vec<Inst>,
    /// ONNX node names that instructions come from.
    pub layers: Vec<String>,
    /// For each instruction the index of its layer.
    pub inst_layers: Vec<u32>,
    /// Values that can be looked at.
    pub probes: Vec<Probe>,
    /// Keys.
    pub manifest: KeyManifest,
}

impl Program {
    /// Level and scale of the results of a refresh; `None` if there is no such refresh or the parameters do not admit it.
    pub fn refreshed(&self, id: RefreshId) -> Option<(Level, Scale)> {
        self.refreshes.get(id)?.form.result(self.bootstrap.as_ref()?)
    }

    /// A program without constants, instructions or keys.
    pub fn new(name: String, params: ParamsLiteral) -> Self {
        Self {
            name,
            params,
            bootstrap: None,
            consts: ConstPool::new(),
            layouts: PrimaryMap::new(),
            maps: PrimaryMap::new(),
            calls: PrimaryMap::new(),
            vectors: PrimaryMap::new(),
            refreshes: PrimaryMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            insts: Vec::new(),
            layers: Vec::new(),
            inst_layers: Vec::new(),
            probes: Vec::new(),
            manifest: KeyManifest::default(),
        }
    }
}
