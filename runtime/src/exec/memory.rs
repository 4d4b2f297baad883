//! How much memory a run takes, before anything is made.

use std::fmt;

use peregrine_ckks::evaluator::linear::Batching;
use peregrine_ckks::params::Params;
use peregrine_ckks::ring::poly::polynomial_bytes;
use peregrine_ckks::units::Level;
use peregrine_ir::program::{Inst, KeyManifest, Program, Refresh, RefreshId};
use peregrine_ir::{BootstrapSpec, EntityId};

use super::constants::{Constants, LinearSite};
use super::key_store::KeyUses;
use super::schedule::Schedule;
use crate::bytes::{ByteSize, available_memory, resident_memory};
use crate::error::{At, BudgetOrigin, RuntimeError};
use crate::interface::Interface;

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
    /// The same with linear calls in the smallest portions, which takes longer.
    pub least_working: ByteSize,
    /// Live ciphertexts and intermediate values alone.
    pub polynomials: ByteSize,
    /// Weights, tables of the ring, plans, and the process itself.
    pub fixed: ByteSize,
}

impl MemoryEstimate {
    /// Estimates a run of a program with planned constants whose instructions take `demands`.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`] when a refresh does not fit the ring (never for a verified program).
    pub fn of(
        program: &Program,
        constants: &Constants,
        uses: &KeyUses,
        demands: &[Demand],
        interface: &Interface,
    ) -> Result<Self, RuntimeError> {
        let params = &interface.params;
        let largest = |of: fn(&Demand) -> u64| demands.iter().map(of).max().unwrap_or(0);
        let polynomials = largest(|d| d.live + d.results + d.fixed + d.usual.bytes);
        let least = largest(|d| d.live + d.results + d.fixed + d.least.bytes);
        let fixed = fixed_bytes(program, params) + refresh_bytes(program, interface)?;
        Ok(Self {
            keys: all_key_bytes(program, params),
            largest_keys: uses.largest(),
            constants: constants.bytes(),
            working: ByteSize(largest(|d| d.live + d.usual()) + polynomials / GAPS),
            least_working: ByteSize(largest(|d| d.live + d.least()) + least / GAPS),
            polynomials: ByteSize(polynomials),
            fixed: ByteSize(fixed + constants.table_bytes()),
        })
    }

    /// Memory that the run works with at full speed, with constants expanded on demand.
    pub fn usual(&self) -> ByteSize {
        ByteSize(self.keys.0 + self.working.0 + self.fixed.0)
    }

    /// Least memory that the run works with.
    pub fn least(&self) -> ByteSize {
        ByteSize(self.keys.0 + self.least_working.0 + self.fixed.0)
    }

    /// Memory with which every constant stays encoded.
    pub fn full(&self) -> ByteSize {
        ByteSize(self.usual().0 + self.constants.0)
    }

    /// Least memory that the run works with when keys are in a scratch folder.
    pub fn least_with_scratch(&self) -> ByteSize {
        ByteSize(self.largest_keys.0 + self.least_working.0 + self.fixed.0)
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
        let resident = ByteSize(size.0.saturating_sub(self.fixed.0));
        if size >= self.usual() || (size >= self.least() && scratch == Scratch::None) {
            let constants = ByteSize(size.0.saturating_sub(self.usual().0));
            return Ok(MemoryPlan { keys: KeyPlace::Memory, constants, resident });
        }
        if scratch == Scratch::Given && size >= self.least_with_scratch() {
            let besides = self.working.0 + self.fixed.0;
            let memory = ByteSize(size.0.saturating_sub(besides).max(self.largest_keys.0));
            return Ok(MemoryPlan { keys: KeyPlace::Scratch { memory }, constants: ByteSize(0), resident });
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
    /// Keys, constants, ciphertexts and intermediate values together; what is idle goes back to the system beyond that.
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
    /// The bytes and where they come from, if there is a limit.
    pub(super) fn limit(&self) -> Option<(ByteSize, BudgetOrigin)> {
        self.0
    }

    /// The flag's value, else what the process has and what the system reports as available, else no limit.
    pub fn new(flag: Option<ByteSize>) -> Self {
        let given = flag.map(|size| (size, BudgetOrigin::Flag));
        let own = || resident_memory().map_or(0, |own| own.0);
        let available = || available_memory().map(|more| (ByteSize(more.0 + own()), BudgetOrigin::Available));
        Self(given.or_else(available))
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

/// What linear calls hold for their portions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Portions {
    /// Decomposed inputs, rotations, unfinished sums.
    pub bytes: u64,
    /// Constants expanded for one portion, if none is kept encoded.
    pub diagonals: u64,
}

/// What an instruction takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Ciphertexts that live before it.
    pub live: u64,
    /// Its results.
    pub results: u64,
    /// Intermediate values besides portions.
    pub fixed: u64,
    /// Portions as they are fastest.
    pub usual: Portions,
    /// The smallest portions.
    pub least: Portions,
}

impl Demand {
    /// What it takes besides portions.
    pub fn besides(&self) -> u64 {
        self.results + self.fixed
    }

    /// What it takes at full speed.
    pub fn usual(&self) -> u64 {
        self.besides() + self.usual.bytes + self.usual.diagonals
    }

    /// What it takes at least.
    pub fn least(&self) -> u64 {
        self.besides() + self.least.bytes + self.least.diagonals
    }
}

/// What each instruction takes, in order.
pub(super) fn demands(
    program: &Program,
    schedule: &Schedule,
    constants: &Constants,
    params: &Params,
) -> Result<Vec<Demand>, RuntimeError> {
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
    let mut demand = |(index, inst): (usize, &Inst)| {
        let results = inst.writes().iter().map(|reg| sizes[reg.index()]).sum::<u64>();
        let before = live;
        live += results;
        if let Inst::Free { reg } = inst {
            live = live.saturating_sub(sizes[reg.index()]);
        }
        if let Inst::Output { src, .. } = inst {
            live += sizes[src.index()];
        }
        let own = match (inst, schedule.operand_level(inst)) {
            (_, None) => Demand::default(),
            (Inst::Linear { .. }, Some(level)) => {
                linear_demand(constants.linear(program, index)?, level, params)
            }
            (_, Some(level)) => {
                Demand { fixed: intermediate_bytes(inst, level, params), ..Demand::default() }
            }
        };
        Ok(Demand { live: before, results, ..own })
    };
    program.insts.iter().enumerate().map(&mut demand).collect()
}

/// Intermediate values of an instruction on operands at a level; those of linear calls follow from their plans.
fn intermediate_bytes(inst: &Inst, level: Level, params: &Params) -> u64 {
    match inst {
        Inst::Mul { .. } | Inst::Square { .. } | Inst::Rotate { .. } | Inst::Conjugate { .. } => {
            // Decomposed digits over Q and P, and the accumulated key product.
            (params.digits_at(level) as u64 + 3) * extended_poly(level, params)
        }
        Inst::AddVector { .. } | Inst::MulVector { .. } | Inst::Rescale { .. } => {
            2 * extended_poly(level, params)
        }
        Inst::Bootstrap { .. } => REFRESH_POLYNOMIALS * extended_poly(params.max_level(), params),
        Inst::BootstrapPair { .. } => (REFRESH_POLYNOMIALS + 4) * extended_poly(params.max_level(), params),
        Inst::Input { .. }
        | Inst::Linear { .. }
        | Inst::Add { .. }
        | Inst::Sub { .. }
        | Inst::ModDrop { .. }
        | Inst::Output { .. }
        | Inst::Free { .. } => 0,
    }
}

/// Intermediate values of a double-hoisted linear transform: joined and turned inputs, portions, two polynomials over Q and P per
/// output, and the digits of what is being rotated.
fn linear_demand(site: &LinearSite, level: Level, params: &Params) -> Demand {
    let (plan, extended) = (site.linear_plan(), extended_poly(level, params));
    let made = 2 * (plan.joined.len() + plan.turned.len()) as u64;
    let outputs = 2 * u64::from(plan.outputs) + params.digits_at(level) as u64 + 4;
    let portions = |batching: Batching| Portions {
        bytes: batching.bytes(),
        diagonals: batching.diagonal_bytes().min(site.bytes()),
    };
    Demand {
        fixed: (made + outputs) * extended,
        usual: portions(Batching::of(plan, params, level)),
        least: portions(Batching::least(plan, params, level)),
        ..Demand::default()
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
fn refresh_bytes(program: &Program, interface: &Interface) -> Result<u64, RuntimeError> {
    let Some(spec) = &interface.bootstrap else { return Ok(0) };
    let of = |(id, refresh): (RefreshId, &Refresh)| {
        let plans = spec.transforms(refresh.slots).at(|| format!("planning refresh {id}"))?;
        let diagonals: usize = plans.iter().map(|(plan, _)| plan.counts().products).sum();
        Ok(16 * u64::from(refresh.slots.get()) * diagonals as u64)
    };
    program.refreshes.iter().map(of).sum()
}

/// Size of one polynomial over the limbs of `level` and the special primes.
fn extended_poly(level: Level, params: &Params) -> u64 {
    polynomial(level.limbs(), params) + polynomial(params.alpha(), params)
}

fn fixed_bytes(program: &Program, params: &Params) -> u64 {
    let weights: u64 = program.consts.values().map(|c| 8 * c.len() as u64).sum();
    // Roots and their Shoup companions, forward and inverse, for every prime.
    let primes = (params.q().len() + params.p().len()) as u64;
    let tables = primes * 8 * params.n() as u64 * 4;
    weights + tables + PROCESS
}
