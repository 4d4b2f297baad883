//! The server's side: a program, its constants, and the interpreter that runs it on ciphertexts.
//!
//! Nothing here can name a secret key: the evaluator takes evaluation keys only.

mod constants;
mod interpreter;
mod keys;
mod memory;
mod profile;
mod refresh;
mod schedule;

pub use interpreter::Execution;
pub use keys::ServerKeys;
pub use memory::{MemoryBudget, MemoryEstimate, key_bytes};
pub use profile::{InstKind, Profile, Spent};

use std::sync::{Arc, OnceLock};

use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::evaluator::Evaluator;
use peregrine_ir::program::{Inst, Program};

use crate::bytes::ByteSize;
use crate::error::RuntimeError;
use crate::interface::{Interface, Port};
use crate::loader::Loaded;
use crate::progress::Progress;
use constants::Constants;
use interpreter::{Machine, rescaled_only};
use refresh::Refreshers;
use schedule::Schedule;

/// A program ready to be run on ciphertexts.
pub struct Server {
    program: Arc<Program>,
    interface: Arc<Interface>,
    schedule: Schedule,
    constants: Constants,
    estimate: MemoryEstimate,
    costs: Vec<u64>,
    refreshers: OnceLock<Refreshers>,
}

impl Server {
    /// Plans the program: types of registers, rotations of linear calls, memory. Encodes nothing yet.
    ///
    /// # Errors
    /// [`RuntimeError::Program`] when the program is inconsistent (never for a verified one).
    pub fn new(loaded: &Loaded) -> Result<Self, RuntimeError> {
        let (program, params) = (loaded.program.clone(), &loaded.interface.params);
        let schedule = Schedule::of(&program)?;
        let constants = Constants::plan(&program, &schedule, params)?;
        let estimate = MemoryEstimate::of(&program, &schedule, &constants, params);
        let costs = costs(&program, &schedule, &constants);
        Ok(Self {
            program,
            interface: loaded.interface.clone(),
            schedule,
            constants,
            estimate,
            costs,
            refreshers: OnceLock::new(),
        })
    }

    /// Memory that a run takes.
    pub fn memory(&self) -> &MemoryEstimate {
        &self.estimate
    }

    /// Encodes constants as far as `budget` reaches (see [`MemoryEstimate::cache_budget`]); the others are expanded when
    /// the program comes to them.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`] when a constant does not fit its scale.
    pub fn encode_constants(
        &self,
        context: &Context,
        budget: ByteSize,
        progress: &dyn Progress,
    ) -> Result<(), RuntimeError> {
        self.refreshers(context)?;
        self.constants.encode(&self.program, context, budget, progress)
    }

    /// The bootstrapping tables, made at first use.
    fn refreshers(&self, context: &Context) -> Result<&Refreshers, RuntimeError> {
        if let Some(refreshers) = self.refreshers.get() {
            return Ok(refreshers);
        }
        let made = Refreshers::new(&self.program, &self.interface, context)?;
        Ok(self.refreshers.get_or_init(|| made))
    }

    /// Runs the program on the ciphertexts of each input.
    ///
    /// # Errors
    /// When keys or inputs do not fit the program, or an operation fails.
    pub fn run(
        &self,
        context: &Context,
        inputs: &[Vec<Ciphertext>],
        keys: &ServerKeys,
        progress: &dyn Progress,
    ) -> Result<Execution, RuntimeError> {
        self.check_keys(keys)?;
        self.check_inputs(inputs)?;
        let outputs = &self.interface.outputs;
        let machine = Machine {
            program: &self.program,
            schedule: &self.schedule,
            constants: &self.constants,
            evaluator: &Evaluator::new(context),
            encoder: &Encoder::new(context),
            keys,
            refreshers: self.refreshers(context)?,
            inputs,
            registers: vec![None; self.schedule.registers()],
            rescaled_only: rescaled_only(&self.program, self.schedule.registers()),
            outputs: outputs.iter().map(|port| vec![None; port.layout.ciphertexts as usize]).collect(),
        };
        machine.run(&self.costs, progress)
    }

    /// Checks that a key set holds every key of the manifest, up to its level.
    ///
    /// # Errors
    /// [`RuntimeError::KeySet`] names the first key that is missing.
    pub fn check_keys(&self, keys: &ServerKeys) -> Result<(), RuntimeError> {
        let manifest = &self.interface.manifest;
        if self.interface.bootstrap.is_some() && keys.bootstrapping().is_none() {
            return Err(RuntimeError::EphemeralKeys);
        }
        let keys = keys.evaluation();
        let refuse = |source| RuntimeError::KeySet { missing: source };
        if let Some(level) = manifest.relin {
            keys.relin(level).map_err(refuse)?;
        }
        for (&element, &level) in &manifest.galois {
            keys.galois(element, level).map_err(refuse)?;
        }
        Ok(())
    }

    fn check_inputs(&self, inputs: &[Vec<Ciphertext>]) -> Result<(), RuntimeError> {
        let ports = &self.interface.inputs;
        for (i, port) in ports.iter().enumerate() {
            check_input(port, inputs.get(i).map_or(&[], Vec::as_slice))?;
        }
        Ok(())
    }
}

fn check_input(port: &Port, ciphers: &[Ciphertext]) -> Result<(), RuntimeError> {
    let input = || port.tensor.name.clone();
    let expected = port.layout.ciphertexts as usize;
    if ciphers.len() != expected {
        return Err(RuntimeError::InputCiphertexts { input: input(), expected, found: ciphers.len() });
    }
    for (cipher, ciphertext) in ciphers.iter().enumerate() {
        if ciphertext.level() != port.level || *ciphertext.scale() != port.scale {
            return Err(RuntimeError::InputCiphertext {
                input: input(),
                cipher,
                found: format!("at level {} and scale {}", ciphertext.level(), ciphertext.scale()),
                expected: format!("level {} and scale {}", port.level, port.scale),
            });
        }
    }
    Ok(())
}

/// Units of work of each instruction for the progress bar: about the limbs that it transforms.
fn costs(program: &Program, schedule: &Schedule, constants: &Constants) -> Vec<u64> {
    const KEY_SWITCH: u64 = 30;
    let cost = |(index, inst): (usize, &Inst)| {
        let level =
            inst.reads().first().and_then(|&reg| schedule.get(reg)).map_or(0, |ty| u64::from(ty.level.0));
        let steps = match inst {
            Inst::Linear { .. } => constants.linear(index).map_or(0, |site| {
                let plan = site.linear_plan();
                let babies: usize = plan.babies.iter().map(Vec::len).sum();
                let giants = plan.stages.iter().flat_map(|stage| &stage.giants);
                giants.map(|g| KEY_SWITCH + g.terms.len() as u64).sum::<u64>()
                    + KEY_SWITCH / 2 * babies as u64
            }),
            Inst::Mul { .. } | Inst::Square { .. } | Inst::Rotate { .. } | Inst::Conjugate { .. } => {
                KEY_SWITCH
            }
            // About a hundred key switches near the top of the chain, while the operand is at its bottom.
            Inst::Bootstrap { .. } => 300 * KEY_SWITCH,
            Inst::BootstrapPair { .. } => 450 * KEY_SWITCH,
            _ => 1,
        };
        steps * (level + 1)
    };
    program.insts.iter().enumerate().map(cost).collect()
}
