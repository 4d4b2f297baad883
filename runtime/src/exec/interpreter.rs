//! The CKKS interpreter: instruction after instruction on ciphertext registers.

use std::time::Instant;

use peregrine_ckks::bootstrap::BootstrapKeys;
use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::cost::Ending;
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::evaluator::{Evaluator, linear};
use peregrine_ir::EntityId;
use peregrine_ir::program::{Inst, Program, Refresh, RefreshId, Reg};

use super::Foreseen;
use super::checkpoint::{Control, Saving, State};
use super::constants::Constants;
use super::governor::{Governor, Held};
use super::key_store::KeyStore;
use super::memory::Demand;
use super::profile::{InstKind, Profile};
use super::refresh::Refreshers;
use super::schedule::{Schedule, layer_name, place};
use crate::error::{At, RuntimeError};
use crate::progress::{At as ProgressAt, Phase, Progress};

/// What an instruction runs with.
pub(super) struct Machine<'a> {
    pub program: &'a Program,
    pub schedule: &'a Schedule,
    pub constants: &'a Constants,
    pub evaluator: &'a Evaluator,
    pub encoder: &'a Encoder,
    pub keys: KeyStore<'a>,
    pub refreshers: &'a Refreshers,
    pub inputs: &'a [Vec<Ciphertext>],
    pub state: State,
    /// See [`rescaled_at_once`](peregrine_ir::program::rescaled_at_once).
    pub rescaled_only: Vec<bool>,
    /// One for each instruction.
    pub foreseen: &'a [Foreseen],
    pub governor: Governor,
    pub control: Control<'a>,
}

/// Result of a run: the ciphertexts of each output, and where the time went.
pub struct Execution {
    /// Per output, per ciphertext of its layout.
    pub outputs: Vec<Vec<Ciphertext>>,
    /// Time by kind of instruction and by layer.
    pub profile: Profile,
}

impl Machine<'_> {
    /// Runs the whole program.
    pub fn run(mut self, progress: &dyn Progress) -> Result<Execution, RuntimeError> {
        let (program, foreseen) = (self.program, self.foreseen);
        let work = |foreseen: &[Foreseen]| foreseen.iter().map(|f| f.cost).sum::<u64>();
        let mut profile = Profile::new(&program.layers);
        let before = self.evaluator.context().work();
        progress.begin(Phase::Program, work(foreseen));
        progress.advance(work(&foreseen[..self.state.next]));
        let mut saved = Instant::now();
        for (index, inst) in program.insts.iter().enumerate().skip(self.state.next) {
            self.state.next = index;
            if self.control.interrupted() {
                progress.end();
                let save = self.control.save;
                save.map_or(Ok(()), |save| self.save(save))?;
                return Err(RuntimeError::Interrupted { saved: save.map(|save| save.path.clone()) });
            }
            if let Some(save) = self.control.due(saved) {
                self.save(save)?;
                saved = Instant::now();
            }
            let level = self.schedule.operand_level(inst);
            let (layer, of) = (layer_name(program, index), program.insts.len());
            progress.at(ProgressAt::Instruction { index, of, layer, level });
            let start = Instant::now();
            self.keys.prepare(index)?;
            let room = self.admit(index, &foreseen[index].demand).inspect_err(|_| progress.end())?;
            self.step(index, inst, room)?;
            let layer = program.inst_layers.get(index).map_or(usize::MAX, |&layer| layer as usize);
            profile.record(InstKind::of(inst), layer, start.elapsed());
            progress.advance(foreseen[index].cost);
        }
        progress.end();
        profile.work = self.evaluator.context().work() - before;
        Ok(Execution { outputs: self.take_outputs()?, profile })
    }

    /// Room for the portions of an instruction; without enough of it the run is saved and stops.
    fn admit(&mut self, index: usize, demand: &Demand) -> Result<u64, RuntimeError> {
        let mut held = Held { constants: self.constants, keys: &mut self.keys };
        let shortage = match self.governor.admit((index, demand), &mut held) {
            Ok(room) => return Ok(room),
            Err(shortage) => shortage,
        };
        let save = self.control.save;
        save.map_or(Ok(()), |save| self.save(save))?;
        let (place, saved) = (place(self.program, index), save.map(|save| save.path.clone()));
        Err(RuntimeError::Exhausted { place, shortage, saved })
    }

    fn save(&self, save: &Saving) -> Result<(), RuntimeError> {
        let saved = self.state.save(self.evaluator.context(), &save.path, &save.id);
        saved.map_err(|source| RuntimeError::Checkpoint { path: save.path.clone(), source })
    }

    fn take_outputs(self) -> Result<Vec<Vec<Ciphertext>>, RuntimeError> {
        let names = self.program.outputs.iter().map(|o| o.name.clone());
        let complete = self.state.outputs.into_iter().zip(names).map(|(ciphers, name)| {
            let complete: Option<Vec<Ciphertext>> = ciphers.into_iter().collect();
            complete.ok_or(RuntimeError::Program {
                place: name,
                what: "the program never gives it out whole".to_owned(),
            })
        });
        complete.collect()
    }

    fn step(&mut self, index: usize, inst: &Inst, room: u64) -> Result<(), RuntimeError> {
        let at = || place(self.program, index);
        let (ev, keys) = (self.evaluator, self.keys.keys());
        let (dst, value) = match inst {
            Inst::Input { dst, input, cipher } => (*dst, self.input(index, *input, *cipher)?.clone()),
            Inst::Linear { dsts, args, .. } => return self.linear(index, dsts, args, room),
            Inst::AddVector { dst, src, .. } => {
                let vector = self.vector(index)?;
                (*dst, ev.add_plain(self.read(index, *src)?, &vector).at(at)?)
            }
            Inst::MulVector { dst, src, .. } => {
                let vector = self.vector(index)?;
                (*dst, ev.mul_plain(self.read(index, *src)?, &vector).at(at)?)
            }
            Inst::Add { dst, a, b } => (*dst, ev.add(self.read(index, *a)?, self.read(index, *b)?).at(at)?),
            Inst::Sub { dst, a, b } => (*dst, ev.sub(self.read(index, *a)?, self.read(index, *b)?).at(at)?),
            Inst::Mul { dst, a, b } => {
                let (a, b) = (self.read(index, *a)?, self.read(index, *b)?);
                let product = match self.rescaled_only[dst.index()] {
                    true => ev.mul_relin_rescale(a, b, keys),
                    false => ev.mul_relin(a, b, keys),
                };
                (*dst, product.at(at)?)
            }
            Inst::Square { dst, src } => {
                let src = self.read(index, *src)?;
                let square = match self.rescaled_only[dst.index()] {
                    true => ev.square_relin_rescale(src, keys),
                    false => ev.square_relin(src, keys),
                };
                (*dst, square.at(at)?)
            }
            Inst::Rescale { dst, src } if self.rescaled_only[src.index()] => {
                let done = self.state.registers[src.index()].take();
                (*dst, done.ok_or_else(|| self.broken(index, &format!("register {src} holds nothing")))?)
            }
            Inst::Rescale { dst, src } => (*dst, ev.rescale(self.read(index, *src)?).at(at)?),
            Inst::ModDrop { dst, src, to } => (*dst, ev.drop_to(self.read(index, *src)?, *to).at(at)?),
            Inst::Rotate { dst, src, rotation } => {
                (*dst, ev.rotate(self.read(index, *src)?, *rotation, keys).at(at)?)
            }
            Inst::Conjugate { dst, src } => (*dst, ev.conjugate(self.read(index, *src)?, keys).at(at)?),
            Inst::Bootstrap { dst, src, refresh } => {
                let (recipe, keys) = self.recipe(index, *refresh)?;
                (*dst, self.refreshers.single(recipe, ev, self.read(index, *src)?, keys).at(at)?)
            }
            Inst::BootstrapPair { dsts, srcs, refresh } => {
                let (recipe, keys) = self.recipe(index, *refresh)?;
                let [x, y] = [self.read(index, srcs[0])?, self.read(index, srcs[1])?];
                let refreshed = self.refreshers.pair(recipe, ev, [x, y], keys).at(at)?;
                for (dst, value) in dsts.iter().zip(refreshed) {
                    self.state.registers[dst.index()] = Some(value);
                }
                return Ok(());
            }
            Inst::Output { output, cipher, src } => return self.output(index, *output, *cipher, *src),
            Inst::Free { reg } => {
                self.state.registers[reg.index()] = None;
                return Ok(());
            }
        };
        self.state.registers[dst.index()] = Some(value);
        Ok(())
    }

    fn linear(&mut self, index: usize, dsts: &[Reg], args: &[Reg], room: u64) -> Result<(), RuntimeError> {
        let constants = self.constants;
        let site = constants.linear(self.program, index)?;
        let operands = args.iter().map(|&reg| self.read(index, reg)).collect::<Result<Vec<_>, _>>()?;
        let diagonals = site.source(self.encoder);
        let ending = match dsts.iter().all(|dst| self.rescaled_only[dst.index()]) {
            true => Ending::ModDownRescale,
            false => Ending::ModDown,
        };
        let (plan, keys) = (site.linear_plan(), self.keys.keys());
        let results =
            linear::apply_in_room(self.evaluator, &operands, plan, &diagonals, keys, (ending, room))
                .at(|| place(self.program, index))?;
        if results.len() != dsts.len() {
            return Err(self.broken(index, "the linear call has another number of results than its plan"));
        }
        for (dst, result) in dsts.iter().zip(results) {
            self.state.registers[dst.index()] = Some(result);
        }
        Ok(())
    }

    /// The recipe of a refresh, and the keys for it.
    fn recipe(
        &self,
        index: usize,
        id: RefreshId,
    ) -> Result<((RefreshId, &Refresh), &BootstrapKeys), RuntimeError> {
        let missing = || self.broken(index, "there is no such refresh");
        let recipe = self.program.refreshes.get(id).ok_or_else(missing)?;
        Ok(((id, recipe), self.keys.bootstrapping().ok_or(RuntimeError::EphemeralKeys)?))
    }

    fn vector(
        &self,
        index: usize,
    ) -> Result<std::sync::Arc<peregrine_ckks::plaintext::IntPlaintext>, RuntimeError> {
        let site =
            self.constants.vector(index).ok_or_else(|| self.broken(index, "its vector is not prepared"))?;
        site.plaintext(self.encoder).at(|| place(self.program, index))
    }

    fn input(&self, index: usize, input: u32, cipher: u32) -> Result<&Ciphertext, RuntimeError> {
        let found = self.inputs.get(input as usize).and_then(|ciphers| ciphers.get(cipher as usize));
        found.ok_or_else(|| self.broken(index, "there is no such input ciphertext"))
    }

    fn output(&mut self, index: usize, output: u32, cipher: u32, src: Reg) -> Result<(), RuntimeError> {
        let value = self.read(index, src)?.clone();
        let slot =
            self.state.outputs.get_mut(output as usize).and_then(|ciphers| ciphers.get_mut(cipher as usize));
        match slot {
            Some(slot) => *slot = Some(value),
            None => return Err(self.broken(index, "there is no such output ciphertext")),
        }
        Ok(())
    }

    fn read(&self, index: usize, reg: Reg) -> Result<&Ciphertext, RuntimeError> {
        let value = self.state.registers.get(reg.index()).and_then(Option::as_ref);
        value.ok_or_else(|| self.broken(index, &format!("register {reg} is read but holds nothing")))
    }

    fn broken(&self, index: usize, what: &str) -> RuntimeError {
        RuntimeError::Program { place: place(self.program, index), what: what.to_owned() }
    }
}
