//! The cost model: counted operations times measured kernel times, and bytes.

use std::collections::BTreeMap;

use peregrine_ckks::cost::{Ending, LinearWork, Shape as Operands, Work};
use peregrine_ckks::evaluator::linear::{ALIKE, Outline};
use peregrine_ckks::params::Params;
use peregrine_ckks::plaintext::Form;
use peregrine_ir::program::{Inst, Program, Reg, rescaled_at_once};
use peregrine_ir::{EntityId, Level};

use super::LowerError;
use super::calls::Calls;
use super::emit::level_after;
use super::refresh_cost::{Together, bootstrap_seconds, diagonal_bytes, ephemeral_key_bytes};

/// Speeds of the machine that programs are compiled for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine(pub peregrine_ckks::cost::Machine);

impl std::ops::Deref for Machine {
    type Target = peregrine_ckks::cost::Machine;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// What a linear call does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinearCounts {
    /// Ciphertexts decomposed, turned ones included.
    pub inputs: u64,
    /// Ciphertexts made.
    pub outputs: u64,
    /// Ciphertexts rotated as a whole.
    pub turns: u64,
    /// Hoisted rotations.
    pub babies: u64,
    /// Sums that are made, rotated or not.
    pub sums: u64,
    /// Rotations of accumulators.
    pub giants: u64,
    /// Plain rotations after the sum.
    pub folds: u64,
    /// Plaintext products.
    pub products: u64,
    /// Plaintexts that differ.
    pub diagonals: u64,
    /// Coefficients of the plaintexts: as many as slots of the period for a real one, twice as many for a complex one.
    pub product_words: u64,
    /// Slots of the vectors that the plaintexts encode.
    pub encoded_slots: u64,
    /// Pairs of a ciphertext that is read and one that is made with a product between them.
    pub pairs: u64,
}

impl LinearCounts {
    /// What decides in what portions the call works.
    fn outline(&self, threads: usize) -> Outline {
        Outline {
            operands: (self.inputs + self.turns) as f64,
            decomposed: self.inputs as f64,
            babies: self.babies as f64,
            giants: self.sums as f64,
            diagonals: self.diagonals as f64,
            outputs: self.outputs as f64,
            pairs: self.pairs as f64,
            threads: threads as f64,
        }
    }

    /// Encoding its plaintexts.
    fn encoding(&self) -> Work {
        let mean = self.encoded_slots.checked_div(self.diagonals).unwrap_or(1).max(1);
        Work::encoding(mean as u32) * self.diagonals as f64
    }

    /// Plaintexts that are transformed: once for a few products.
    fn transformed(&self) -> f64 {
        (self.diagonals as f64).max(self.products as f64 / ALIKE as f64)
    }
}

impl Machine {
    /// Seconds of a key switch of one polynomial, without hoisting.
    pub fn key_switch_seconds(&self, params: &Params, level: Level) -> f64 {
        self.seconds(&Operands::new(params, level).rotation())
    }

    /// Seconds of rescaling one ciphertext on one core.
    pub fn rescale_seconds(&self, params: &Params, level: Level) -> f64 {
        self.seconds(&Operands::new(params, level).rescale())
    }

    /// Seconds of a double-hoisted linear call on one core, with or without the rescale of its results.
    pub fn linear_seconds(&self, counts: &LinearCounts, params: &Params, level: Level) -> f64 {
        let operands = Operands::new(params, level);
        // Operands are decomposed and rotated anew for each portion of the giant steps.
        let portions = counts.outline(self.threads).foresee(params, level);
        let mut work = LinearWork {
            inputs: counts.inputs as f64 * portions.decomposed,
            turns: counts.turns as f64,
            decompositions: counts.inputs as f64 * portions.decomposed,
            babies: counts.babies as f64 * portions.rotated,
            giants: (counts.giants + counts.folds) as f64,
            outputs: counts.outputs as f64,
            products: counts.products as f64,
            ..LinearWork::default()
        };
        let mean = counts.product_words.checked_div(counts.diagonals).unwrap_or(1).max(1);
        work.add_diagonals((mean as u32, Form::Real), counts.transformed());
        self.seconds(&operands.linear(&work, Ending::ModDown))
    }
}

/// Predicted cost of a program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    /// Seconds online, all cores.
    pub seconds: f64,
    /// Seconds per layer, all cores, in order of the program's layers.
    pub layer_seconds: Vec<f64>,
    /// Switching keys expanded, bytes.
    pub key_bytes: u64,
    /// Number of switching keys.
    pub keys: u64,
    /// Plaintexts as compact integers, bytes.
    pub constant_bytes: u64,
    /// Seconds more, all cores, where memory does not hold the plaintexts of linear calls and each is encoded when it is used.
    pub encoding_seconds: f64,
    /// Largest sum of live ciphertexts, bytes.
    pub ciphertext_bytes: u64,
    /// Scratch of the widest linear call, bytes.
    pub scratch_bytes: u64,
    /// The same with the plaintexts of a portion, bytes.
    pub encoding_scratch_bytes: u64,
    /// Weights, tables of the ring, the process itself, and what keys waste of their last pages, bytes.
    pub fixed_bytes: u64,
    /// Rotations (babies, giants and folds).
    pub rotations: u64,
    /// Plaintext products of linear calls.
    pub products: u64,
    /// Ciphertext products.
    pub multiplications: u64,
    /// Bootstraps.
    pub bootstraps: u64,
}

impl Prediction {
    /// Peak memory: keys, constants, ciphertexts, scratch and what is always there.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_with(self.scratch_bytes) + self.constant_bytes
    }

    /// The same where the plaintexts of linear calls are encoded when they are used.
    pub fn peak_bytes_encoding(&self) -> u64 {
        self.peak_with(self.encoding_scratch_bytes.max(self.scratch_bytes))
    }

    fn peak_with(&self, scratch: u64) -> u64 {
        let working = self.ciphertext_bytes + scratch;
        self.fixed_bytes + self.key_bytes + working + working / GAPS
    }
}

/// Predicted seconds, on all cores, of everything but linear calls.
pub fn seconds_besides_calls(program: &Program, params: &Params, machine: &Machine) -> f64 {
    let pricing = Pricing::new(program, params, machine);
    let mut live: BTreeMap<Reg, Level> = BTreeMap::new();
    let mut seconds = 0.0;
    for inst in &program.insts {
        seconds += pricing.besides_calls(inst, &live, &mut Prediction::default());
        track(program, inst, &mut live);
    }
    seconds / machine.parallel
}

/// Predicts time and memory of a program.
///
/// # Errors
/// A bug: a call that `calls` does not know.
pub fn predict(
    program: &Program,
    params: &Params,
    machine: &Machine,
    calls: &Calls,
) -> Result<Prediction, LowerError> {
    let mut out = Prediction { layer_seconds: vec![0.0; program.layers.len()], ..Prediction::default() };
    let keys = program.manifest.galois.values().chain(program.manifest.relin.iter());
    for level in keys {
        out.keys += 1;
        out.key_bytes += params.key_bytes(*level);
    }
    out.fixed_bytes += fixed_bytes(program, params);
    bootstrap_bytes(program, params, &mut out);
    let pricing = Pricing::new(program, params, machine);
    let mut live: BTreeMap<Reg, Level> = BTreeMap::new();
    let merged = rescaled_at_once(&program.insts);
    for (i, inst) in program.insts.iter().enumerate() {
        out.bootstraps += u64::from(matches!(inst, Inst::Bootstrap { .. } | Inst::BootstrapPair { .. }));
        let seconds = match inst {
            Inst::Rescale { src, .. } if merged[src.index()] => 0.0,
            Inst::Linear { call, .. } => {
                let call = &program.calls[*call];
                let counts = calls.shape(call)?.cost(&call.split).counts;
                pricing.call(&counts, level_read(inst, &live), &mut out) / machine.parallel
            }
            _ => pricing.besides_calls(inst, &live, &mut out) / machine.parallel,
        };
        out.seconds += seconds;
        out.layer_seconds[program.inst_layers[i] as usize] += seconds;
        track(program, inst, &mut live);
        let bytes: u64 = live.values().map(|l| params.ciphertext_bytes(*l)).sum();
        out.ciphertext_bytes = out.ciphertext_bytes.max(bytes);
    }
    Ok(out)
}

/// Level of the first register that an instruction reads.
fn level_read(inst: &Inst, live: &BTreeMap<Reg, Level>) -> Level {
    inst.reads().first().and_then(|r| live.get(r)).copied().unwrap_or(Level(0))
}

/// Prices of the instructions of a program.
struct Pricing<'a> {
    params: &'a Params,
    machine: &'a Machine,
    /// Seconds of each refresh, alone and as a pair.
    refreshes: Vec<[f64; 2]>,
}

impl<'a> Pricing<'a> {
    fn new(program: &Program, params: &'a Params, machine: &'a Machine) -> Self {
        let checked = program.bootstrap.clone().and_then(|spec| spec.check_for(params).ok());
        let of = |slots| {
            let seconds = |together| checked.as_ref().map(|c| bootstrap_seconds(machine, c, slots, together));
            [Together::Single, Together::Pair].map(|together| seconds(together).unwrap_or_default())
        };
        let refreshes = program.refreshes.values().map(|refresh| of(refresh.slots)).collect();
        Self { params, machine, refreshes }
    }

    fn call(&self, counts: &LinearCounts, level: Level, out: &mut Prediction) -> f64 {
        out.rotations += counts.turns + counts.babies + counts.giants + counts.folds;
        out.products += counts.products;
        out.constant_bytes += 4 * counts.product_words;
        out.encoding_seconds += self.machine.seconds(&counts.encoding()) / self.machine.parallel;
        let portions = counts.outline(self.machine.threads).foresee(self.params, level);
        let extended = (8 * self.params.n() * (level.limbs() + self.params.alpha())) as u64;
        let polynomials = 2 * (counts.turns + counts.outputs) + self.params.digits_at(level) as u64 + 4;
        let scratch = portions.bytes as u64 + polynomials * extended;
        out.scratch_bytes = out.scratch_bytes.max(scratch);
        out.encoding_scratch_bytes = out.encoding_scratch_bytes.max(scratch + portions.diagonals as u64);
        self.machine.linear_seconds(counts, self.params, level)
    }

    fn besides_calls(&self, inst: &Inst, live: &BTreeMap<Reg, Level>, out: &mut Prediction) -> f64 {
        let Self { params, machine, .. } = self;
        let level = level_read(inst, live);
        let operands = Operands::new(params, level);
        match inst {
            Inst::Mul { .. } | Inst::Square { .. } => {
                out.multiplications += 1;
                machine.seconds(&operands.multiplication(Ending::ModDown))
            }
            Inst::Rotate { .. } | Inst::Conjugate { .. } => {
                out.rotations += 1;
                machine.key_switch_seconds(params, level)
            }
            Inst::Rescale { .. } => machine.rescale_seconds(params, level),
            Inst::AddVector { .. } | Inst::MulVector { .. } => {
                machine.seconds(&(operands.expansion(params.max_slots().get()) + operands.passes(2.0)))
            }
            Inst::Add { .. } | Inst::Sub { .. } => machine.seconds(&operands.passes(2.0)),
            Inst::Linear { .. }
            | Inst::Input { .. }
            | Inst::ModDrop { .. }
            | Inst::Output { .. }
            | Inst::Free { .. } => 0.0,
            Inst::Bootstrap { refresh, .. } => self.refreshes[refresh.index()][0],
            Inst::BootstrapPair { refresh, .. } => self.refreshes[refresh.index()][1],
        }
    }
}

/// Keys and tables of bootstrapping besides those of the manifest.
fn bootstrap_bytes(program: &Program, params: &Params, out: &mut Prediction) {
    let Some(checked) = program.bootstrap.clone().and_then(|spec| spec.check_for(params).ok()) else {
        return;
    };
    out.keys += 2;
    out.key_bytes += ephemeral_key_bytes(&checked);
    out.constant_bytes += program.refreshes.values().map(|r| diagonal_bytes(&checked, r.slots)).sum::<u64>();
    let extended = (8 * params.n() * (params.q().len() + params.p().len())) as u64;
    out.scratch_bytes = out.scratch_bytes.max(32 * extended);
}

/// Memory of the process besides what is counted.
const PROCESS_BYTES: u64 = 28 << 20;
/// One part in this many of ciphertexts and intermediate values lies idle between others in use.
const GAPS: u64 = 8;

fn fixed_bytes(program: &Program, params: &Params) -> u64 {
    let weights: u64 = program.consts.values().map(|constant| 8 * constant.len() as u64).sum();
    let primes = (params.q().len() + params.p().len()) as u64;
    weights + primes * 32 * params.n() as u64 + PROCESS_BYTES
}

fn track(program: &Program, inst: &Inst, live: &mut BTreeMap<Reg, Level>) {
    let level = level_after(program, inst, live);
    for reg in inst.writes() {
        live.insert(*reg, level);
    }
    if let Inst::Free { reg } = inst {
        live.remove(reg);
    }
}
