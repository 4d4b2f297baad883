//! Keeps a run within its memory.
//!
//! Before each instruction the governor compares what it takes with what is left. Where that is too little, constants of calls that
//! have been run are forgotten, then keys that wait in the scratch folder anyway; linear calls work in smaller portions; constants of
//! calls to come are forgotten, too. An instruction that even then does not fit is not begun: the run stops, with a checkpoint if
//! one was asked for.

use peregrine_ckks::ring::arena;

use super::constants::{Constants, Side};
use super::key_store::KeyStore;
use super::memory::{Demand, MemoryBudget};
use crate::bytes::{ByteSize, resident_memory};
use crate::error::BudgetOrigin;

/// How it is known what memory is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metering {
    /// What the process has, where the system tells; else as [`Self::Counted`].
    #[default]
    Process,
    /// What the run is known to hold: for several runs in one process.
    Counted,
}

/// Memory that a run may take while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes and where they come from.
    pub budget: MemoryBudget,
    /// How use is known.
    pub metering: Metering,
}

/// Intermediate values leave up to one part in this many idle between them.
const WASTE: u64 = 16;

/// Memory that is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// With which the run can go on.
    pub needed: ByteSize,
    /// What is allowed.
    pub budget: ByteSize,
    /// Where the budget comes from.
    pub origin: BudgetOrigin,
}

/// What a run holds that can be let go.
pub(super) struct Held<'a, 'k> {
    /// Constants.
    pub constants: &'a Constants,
    /// Keys.
    pub keys: &'a mut KeyStore<'k>,
}

/// The governor of a run.
pub(super) struct Governor {
    allowance: Allowance,
    /// Weights, tables, the process.
    fixed: u64,
}

impl Governor {
    pub fn new(allowance: Allowance, fixed: ByteSize) -> Self {
        Self { allowance, fixed: fixed.0 }
    }

    /// Makes room for what instruction `index` takes. How many bytes there are for the portions of a linear call.
    pub fn admit(&self, (index, demand): (usize, &Demand), held: &mut Held<'_, '_>) -> Result<u64, Shortage> {
        let Some((budget, origin)) = self.allowance.budget.limit() else { return Ok(u64::MAX) };
        let with_waste = |bytes: u64| bytes + bytes / WASTE;
        let (usual, least) = (with_waste(demand.usual()), with_waste(demand.least()));
        let left = |held: &Held<'_, '_>| budget.0.saturating_sub(self.in_use(demand, held, budget));
        let mut free = left(held);
        if free < usual {
            let freed = held.constants.release(Side::Behind, index, usual - free);
            if freed < usual - free {
                held.keys.shed(index, usual - free - freed);
            }
            free = left(held);
        }
        if free < least {
            held.constants.release(Side::Ahead, index, least - free);
            free = left(held);
        }
        if free < least {
            let needed = ByteSize(budget.0 - free + least);
            return Err(Shortage { needed, budget, origin });
        }
        Ok((free - free / WASTE).saturating_sub(demand.besides()))
    }

    /// Bytes in use that no polynomial to come can have.
    fn in_use(&self, demand: &Demand, held: &Held<'_, '_>, budget: ByteSize) -> u64 {
        let counted = || self.fixed + held.keys.bytes() + held.constants.held() + demand.live;
        match self.allowance.metering {
            Metering::Counted => counted(),
            Metering::Process => resident_memory().map_or_else(counted, |resident| {
                let usage = arena::usage();
                let besides = resident.0.saturating_sub(usage.resident);
                arena::set_ceiling(budget.0.saturating_sub(besides));
                besides + usage.pinned
            }),
        }
    }
}
