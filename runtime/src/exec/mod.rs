//! The server's side: a program, its constants, and the interpreter that runs it on ciphertexts.
//!
//! Nothing here can name a secret key: the evaluator takes evaluation keys only.

mod checkpoint;
mod constants;
mod governor;
mod interpreter;
mod key_store;
mod keys;
mod memory;
mod profile;
mod refresh;
mod schedule;
#[cfg(test)]
mod tests;

pub use checkpoint::{CheckpointError, CheckpointId, Control, Saving, State};
pub use governor::{Allowance, Metering, Shortage};
pub use interpreter::Execution;
pub use key_store::{KeyName, KeyStore, KeyUses, ScratchKeys};
pub use keys::ServerKeys;
pub use memory::{KeyPlace, MemoryBudget, MemoryEstimate, MemoryPlan, Scratch, key_bytes};
pub use profile::{InstKind, Profile, Spent};

use std::path::Path;
use std::sync::{Arc, OnceLock};

use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::evaluator::Evaluator;
use peregrine_ckks::params::Params;
use peregrine_ckks::ring::arena;
use peregrine_ckks::units::Level;
use peregrine_ir::program::{Inst, Program, rescaled_at_once};

use crate::bytes::ByteSize;
use crate::error::RuntimeError;
use crate::interface::{Interface, Port};
use crate::loader::Loaded;
use crate::progress::Progress;
use constants::Constants;
use governor::Governor;
use interpreter::Machine;
use memory::{Demand, demands};
use refresh::Refreshers;
use schedule::Schedule;

/// What is known of an instruction before anything runs.
struct Foreseen {
    /// Memory that it takes.
    demand: Demand,
    /// Units of work.
    cost: u64,
}

/// A program ready to be run on ciphertexts.
pub struct Server {
    program: Arc<Program>,
    interface: Arc<Interface>,
    schedule: Schedule,
    constants: Constants,
    uses: KeyUses,
    estimate: MemoryEstimate,
    foreseen: Vec<Foreseen>,
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
        let uses = KeyUses::of(&program, &constants, &loaded.interface)?;
        let demands = demands(&program, &schedule, &constants, params)?;
        let estimate = MemoryEstimate::of(&program, &constants, &uses, &demands, &loaded.interface)?;
        let costs = costs(&program, &schedule, &constants, params)?;
        let foreseen =
            demands.into_iter().zip(costs).map(|(demand, cost)| Foreseen { demand, cost }).collect();
        Ok(Self {
            program,
            interface: loaded.interface.clone(),
            schedule,
            constants,
            uses,
            estimate,
            foreseen,
            refreshers: OnceLock::new(),
        })
    }

    /// Memory that a run takes.
    pub fn memory(&self) -> &MemoryEstimate {
        &self.estimate
    }

    /// Which keys each instruction needs.
    pub fn key_uses(&self) -> &KeyUses {
        &self.uses
    }

    /// Hash of the program and its parameters: what a checkpoint belongs to.
    pub fn program_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("peregrine program v1");
        hasher.update(&self.interface.params.fingerprint());
        let text = peregrine_ir::text::print_program(&self.program);
        *hasher.update(text.as_bytes()).finalize().as_bytes()
    }

    /// The state of a run that was saved at `path`.
    ///
    /// # Errors
    /// [`RuntimeError::Checkpoint`] when the file is not a checkpoint of this program and these keys.
    pub fn resume(&self, context: &Context, path: &Path, id: &CheckpointId) -> Result<State, RuntimeError> {
        let merged = rescaled_at_once(&self.program.insts);
        State::load(context, path, id, (&self.program, &self.schedule, &merged), self.start())
            .map_err(|source| RuntimeError::Checkpoint { path: path.to_owned(), source })
    }

    /// The state before the first instruction.
    pub fn start(&self) -> State {
        let outputs = self.interface.outputs.iter().map(|port| port.layout.ciphertexts as usize);
        State::start(self.schedule.registers(), outputs)
    }

    /// Encodes constants as far as `budget` reaches (see [`MemoryEstimate::plan`]); the others are expanded when
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

    /// Makes memory ready for runs: what ciphertexts and intermediate values take is touched and kept, within the plan.
    pub fn warm(&self, plan: &MemoryPlan) {
        let working = self.estimate.polynomials.0;
        arena::set_limits(working.min(plan.resident.0), plan.resident.0);
        arena::warm(working);
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
        self.run_from(context, inputs, KeyStore::Resident(keys), self.start(), Control::default(), progress)
    }

    /// Runs the program from `state` on, with keys wherever they are; `control` may stop and save it.
    ///
    /// # Errors
    /// Those of [`Self::run`], [`RuntimeError::Interrupted`], and when a key or a checkpoint cannot be read or written.
    pub fn run_from(
        &self,
        context: &Context,
        inputs: &[Vec<Ciphertext>],
        keys: KeyStore<'_>,
        state: State,
        control: Control<'_>,
        progress: &dyn Progress,
    ) -> Result<Execution, RuntimeError> {
        self.check_inputs(inputs)?;
        let machine = Machine {
            program: &self.program,
            schedule: &self.schedule,
            constants: &self.constants,
            evaluator: &Evaluator::new(context),
            encoder: &Encoder::new(context),
            keys,
            refreshers: self.refreshers(context)?,
            inputs,
            state,
            rescaled_only: rescaled_at_once(&self.program.insts),
            foreseen: &self.foreseen,
            governor: Governor::new(control.memory, self.estimate.fixed),
            control,
        };
        machine.run(progress)
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

/// Units of work of each instruction, for the progress bar and its estimate of the time left: passes over a limb, where a
/// transform counts as much as a product with a key or a diagonal (which they do on the machine of BENCHMARKS.md).
fn costs(
    program: &Program,
    schedule: &Schedule,
    constants: &Constants,
    params: &Params,
) -> Result<Vec<u64>, RuntimeError> {
    let alpha = params.alpha();
    let cost = |(index, inst): (usize, &Inst)| {
        let level = schedule.operand_level(inst).unwrap_or(Level(0));
        let (digits, limbs) = (params.digits_at(level), level.limbs() + alpha);
        let switch = (3 * digits + 2) * limbs;
        let whole = params.max_level();
        let top = (3 * params.digits_at(whole) + 2) * (whole.limbs() + alpha);
        let passes = match inst {
            Inst::Linear { .. } => {
                let counts = constants.linear(program, index)?.linear_plan().counts();
                counts.ntts(level, alpha) + (2 * digits * counts.rotations() + 2 * counts.products) * limbs
            }
            Inst::Mul { .. } | Inst::Square { .. } | Inst::Rotate { .. } | Inst::Conjugate { .. } => switch,
            Inst::Rescale { .. } => 4 * limbs,
            Inst::AddVector { .. } | Inst::MulVector { .. } | Inst::Add { .. } | Inst::Sub { .. } => {
                2 * limbs
            }
            // About a hundred key switches near the top of the chain, while the operand is at its bottom.
            Inst::Bootstrap { .. } => 100 * top,
            Inst::BootstrapPair { .. } => 150 * top,
            Inst::Input { .. } | Inst::ModDrop { .. } | Inst::Output { .. } | Inst::Free { .. } => 1,
        };
        Ok(passes as u64)
    };
    program.insts.iter().enumerate().map(cost).collect()
}
