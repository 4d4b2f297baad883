//! How much memory a run takes, before anything is made.

use std::fmt;

use peregrine_ckks::evaluator::linear::{Batching, LinearPlan};
use peregrine_ckks::params::Params;
use peregrine_ckks::ring::poly::polynomial_bytes;
use peregrine_ckks::units::{Level, Slots};
use peregrine_ir::program::{Inst, KeyManifest, Program};
use peregrine_ir::{BootstrapSpec, EntityId};

use super::constants::Constants;
use super::key_store::KeyUses;
use super::schedule::Schedule;
use crate::bytes::{ByteSize, available_memory};
use crate::error::{BudgetOrigin, RuntimeError};

/// Memory of the process besides what is counted: code, thread stacks.
const PROCESS: u64 = 28 << 20;
/// One part in this many of ciphertexts and intermediate values lies idle between others in use.
const GAPS: u64 = 8;

/// What a run needs memory for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Evaluation keys.
    pub keys: ByteSize,
    /// Those of the instruction that needs most: what memory must hold when the others are in a scratch folder.
    pub largest_keys: ByteSize,
    /// All plaintext constants in compact form; those that do not fit are expanded on demand.
    pub constants: ByteSize,
    /// Live ciphertexts, intermediate values of the instruction that runs, and the constants expanded for it, at their
    /// largest sum.
    pub working: ByteSize,
    /// Live ciphertexts and intermediate values alone.
    pub polynomials: ByteSize,
    /// Weights, tables of the ring, plans, and the process itself.
    pub fixed: ByteSize,
}

impl MemoryEstimate {
    /// Estimates a run on parameters, program and planned constants.
    pub fn of(
        program: &Program,
        schedule: &Schedule,
        constants: &Constants,
        uses: &KeyUses,
        params: &Params,
    ) -> Self {
        let keys = all_key_bytes(program, params);
        let working = |expanded| ByteSize(working_bytes(program, schedule, (constants, expanded), params));
        let (working, polynomials) = (working(Expanded::Counted), working(Expanded::Apart));
        let slack = polynomials.0 / GAPS;
        Self {
            keys,
            largest_keys: uses.largest(),
            constants: constants.bytes(),
            working,
            polynomials,
            fixed: ByteSize(fixed_bytes(program, params) + slack),
        }
    }

    /// Least memory that the run works with: constants expanded on demand.
    pub fn least(&self) -> ByteSize {
        ByteSize(self.keys.0 + self.working.0 + self.fixed.0)
    }

    /// Memory with which every constant stays encoded.
    pub fn full(&self) -> ByteSize {
        ByteSize(self.least().0 + self.constants.0)
    }

    /// Least memory that the run works with when keys are in a scratch folder.
    pub fn least_with_scratch(&self) -> ByteSize {
        ByteSize(self.largest_keys.0 + self.working.0 + self.fixed.0)
    }

    /// Where keys and constants go within `budget`, or the refusal.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] when even the least does not fit.
    pub fn plan(&self, budget: MemoryBudget, scratch: Scratch) -> Result<MemoryPlan, RuntimeError> {
        let Some((size, origin)) = budget.0 else {
            let resident = ByteSize(u64::MAX);
            return Ok(MemoryPlan { keys: KeyPlace::Memory, constants: self.constants, resident });
        };
        if let Some(left) = size.0.checked_sub(self.least().0) {
            let resident = ByteSize(size.0 - self.fixed.0 - left.min(self.constants.0));
            return Ok(MemoryPlan { keys: KeyPlace::Memory, constants: ByteSize(left), resident });
        }
        if scratch == Scratch::Given && size >= self.least_with_scratch() {
            let left = ByteSize(size.0 - self.working.0 - self.fixed.0);
            let (keys, resident) = (KeyPlace::Scratch { memory: left }, ByteSize(size.0 - self.fixed.0));
            return Ok(MemoryPlan { keys, constants: ByteSize(0), resident });
        }
        let mib = |size: ByteSize| size.0.div_ceil(1 << 20);
        let (all, least) = (mib(self.least()), mib(self.least_with_scratch()));
        let advice = if size >= self.least_with_scratch() {
            format!(
                "--scratch-dir DIR, with room for {} of keys, or --memory {all}MiB",
                ByteSize(self.keys.0 / 2)
            )
        } else if least < all {
            format!("--memory {all}MiB, or --memory {least}MiB with --scratch-dir DIR,")
        } else {
            format!("--memory {all}MiB")
        };
        let needed = if scratch == Scratch::Given { self.least_with_scratch() } else { self.least() };
        Err(RuntimeError::Memory { needed, budget: size, origin, estimate: Box::new(*self), advice })
    }
}

/// Whether keys may go to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scratch {
    /// A scratch folder is given.
    Given,
    /// There is none.
    None,
}

/// Where the keys of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// All in memory.
    Memory,
    /// In a scratch folder, and as many as this in memory.
    Scratch {
        /// Memory for keys.
        memory: ByteSize,
    },
}

/// How a run keeps within its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Keys.
    pub keys: KeyPlace,
    /// Memory for encoded constants; the others are expanded on demand.
    pub constants: ByteSize,
    /// Keys, ciphertexts and intermediate values together; what is idle goes back to the system beyond that.
    pub resident: ByteSize,
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} for keys, {} for ciphertexts and their scratch space, {} for weights and tables, and up to {} more to keep constants encoded",
            self.keys, self.working, self.fixed, self.constants
        )
    }
}

/// Memory that a run may take; without a number there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBudget(Option<(ByteSize, BudgetOrigin)>);

impl MemoryBudget {
    /// The flag's value, else what the system reports as available, else no limit.
    pub fn new(flag: Option<ByteSize>) -> Self {
        let given = flag.map(|size| (size, BudgetOrigin::Flag));
        Self(given.or_else(|| available_memory().map(|size| (size, BudgetOrigin::Available))))
    }
}

/// Size of all evaluation keys of a program.
pub(super) fn all_key_bytes(program: &Program, params: &Params) -> ByteSize {
    let levels = program.manifest.relin.iter().chain(program.manifest.galois.values());
    let manifest: u64 = levels.map(|&level| resident_key_bytes(level, params)).sum();
    ByteSize(manifest + ephemeral_key_bytes(program, params))
}

/// Memory of a polynomial of so many limbs.
fn polynomial(limbs: usize, params: &Params) -> u64 {
    polynomial_bytes(params.n() * limbs)
}

/// Memory of one expanded switching key.
pub(super) fn resident_key_bytes(level: Level, params: &Params) -> u64 {
    2 * params.digits_at(level) as u64 * polynomial(level.limbs() + params.alpha(), params)
}

/// Size of the evaluation keys of a manifest.
pub fn key_bytes(manifest: &KeyManifest, params: &Params) -> ByteSize {
    let levels = manifest.relin.iter().chain(manifest.galois.values());
    ByteSize(levels.map(|&level| params.key_bytes(level)).sum())
}

/// Whether the constants that an instruction expands count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expanded {
    Counted,
    Apart,
}

fn working_bytes(
    program: &Program,
    schedule: &Schedule,
    constants: (&Constants, Expanded),
    params: &Params,
) -> u64 {
    let cipher = |level: Level| 2 * polynomial(level.limbs(), params);
    let sizes: Vec<u64> = (0..schedule.registers())
        .map(|reg| schedule.get(EntityId::new(reg)).map_or(0, |ty| cipher(ty.level)))
        .collect();
    // The caller's inputs and the outputs given out stay for the whole run.
    let mut live: u64 = program
        .inputs
        .iter()
        .map(|input| u64::from(program.layouts[input.layout].ciphertexts) * cipher(input.level))
        .sum();
    let mut peak = live;
    for (index, inst) in program.insts.iter().enumerate() {
        live += inst.writes().iter().map(|reg| sizes[reg.index()]).sum::<u64>();
        let scratch = scratch_bytes(schedule, constants, params, index, inst);
        peak = peak.max(live + scratch);
        if let Inst::Free { reg } = inst {
            live = live.saturating_sub(sizes[reg.index()]);
        }
        if let Inst::Output { src, .. } = inst {
            live += sizes[src.index()];
        }
    }
    peak
}

fn scratch_bytes(
    schedule: &Schedule,
    (constants, expanded): (&Constants, Expanded),
    params: &Params,
    index: usize,
    inst: &Inst,
) -> u64 {
    let Some(level) = inst.reads().first().and_then(|&reg| schedule.get(reg)).map(|ty| ty.level) else {
        return 0;
    };
    match inst {
        Inst::Linear { .. } => constants.linear(index).map_or(0, |site| {
            let batching = Batching::of(site.linear_plan(), params, level);
            let scratch = linear_scratch(site.linear_plan(), &batching, level, params);
            match expanded {
                Expanded::Counted => scratch + batching.diagonal_bytes().min(site.bytes()),
                Expanded::Apart => scratch,
            }
        }),
        Inst::Mul { .. } | Inst::Square { .. } | Inst::Rotate { .. } | Inst::Conjugate { .. } => {
            // Decomposed digits over Q and P, and the accumulated key product.
            (params.digits_at(level) as u64 + 3) * extended_poly(level, params)
        }
        Inst::AddVector { .. } | Inst::MulVector { .. } | Inst::Rescale { .. } => {
            2 * extended_poly(level, params)
        }
        Inst::Bootstrap { .. } => REFRESH_POLYNOMIALS * extended_poly(params.max_level(), params),
        Inst::BootstrapPair { .. } => (REFRESH_POLYNOMIALS + 4) * extended_poly(params.max_level(), params),
        _ => 0,
    }
}

/// Polynomials over the whole chain that a refresh holds at once: the powers of EvalMod, or the digits, rotations and sums of a
/// transform.
const REFRESH_POLYNOMIALS: u64 = 28;

/// The two keys of the ephemeral secret: one over the whole chain, a small one.
pub(super) fn ephemeral_key_bytes(program: &Program, params: &Params) -> u64 {
    let small = |spec: &BootstrapSpec| 16 * params.n() as u64 * (1 + spec.ephemeral_special as u64);
    program.bootstrap.as_ref().map_or(0, |spec| resident_key_bytes(params.max_level(), params) + small(spec))
}

/// Diagonals of the transforms of every refresh: two coefficients of 8 bytes a slot.
fn diagonal_bytes(program: &Program, params: &Params) -> u64 {
    let Some(spec) = program.bootstrap.clone().and_then(|spec| spec.check_for(params).ok()) else { return 0 };
    let of = |slots: Slots| {
        let plans = spec.transforms(slots).unwrap_or_default();
        let diagonals: usize = plans.iter().map(|(plan, _)| plan.counts().products).sum();
        16 * u64::from(slots.get()) * diagonals as u64
    };
    program.refreshes.values().map(|refresh| of(refresh.slots)).sum()
}

/// Size of one polynomial over the limbs of `level` and the special primes.
fn extended_poly(level: Level, params: &Params) -> u64 {
    polynomial(level.limbs(), params) + polynomial(params.alpha(), params)
}

/// Scratch space of a double-hoisted linear transform: turned inputs, a portion of the transform, two polynomials over Q and P per
/// output, and the digits of what is being rotated.
fn linear_scratch(plan: &LinearPlan, batching: &Batching, level: Level, params: &Params) -> u64 {
    let extended = extended_poly(level, params);
    let digits = params.digits_at(level) as u64;
    let made = 2 * (plan.joined.len() + plan.turned.len()) as u64 * extended;
    made + batching.bytes() + (2 * u64::from(plan.outputs) + digits + 4) * extended
}

fn fixed_bytes(program: &Program, params: &Params) -> u64 {
    let weights: u64 = program.consts.values().map(|c| 8 * c.len() as u64).sum();
    // Roots and their Shoup companions, forward and inverse, for every prime.
    let primes = (params.q().len() + params.p().len()) as u64;
    let tables = primes * 8 * params.n() as u64 * 4;
    weights + tables + diagonal_bytes(program, params) + PROCESS
}
