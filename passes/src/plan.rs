//! Leveled or bootstrapped: the fhe graph and the program of least predicted cost.
//!
//! A leveled plan takes the smallest ring that holds the chain which follows from the graph. A bootstrapped plan places the graph
//! on chains whose ends bootstrapping fixes ([`place`]). Where both are possible, predicted seconds and key bytes decide.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use peregrine_ckks::bootstrap::BootstrapParams;
use peregrine_ckks::params::{Params, ParamsLiteral};
use peregrine_ir::fhe::{self, FheGraph};
use peregrine_ir::program::{self, Program};
use peregrine_ir::tensor::TensorGraph;
use peregrine_ir::{Slots, ValueId};

use crate::fhe::assign::LayoutSearch;
use crate::fhe::budget::{self, ErrorBudget};
use crate::fhe::cost::Prediction;
use crate::fhe::key_front::{self, FrontPoint, KeyBudget, Keyed};
use crate::fhe::level::{self, Precision};
use crate::fhe::pack::{self, Packed};
use crate::fhe::place::chains::Candidate;
use crate::fhe::place::search::Placement;
use crate::fhe::place::{self, Workload};
use crate::fhe::plan_keys::KeySearch;
use crate::fhe::{LowerError, emit, params};
use crate::pipeline::{Layouts, Observer, Options, PipelineError, Products, Snapshot, invalid};
use crate::tensor::moments::Moments;

/// How the depth of a model is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    /// As predicted to be cheaper.
    #[default]
    Auto,
    /// With a chain of primes for the whole model.
    Leveled,
    /// With bootstrapping.
    Bootstrapped,
}

/// What became of one way to pay for the depth.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The way.
    pub plan: Plan,
    /// Predicted seconds and key bytes of its best program, or why there is none.
    pub result: Result<Predicted, LowerError>,
}

/// The predicted cost of a plan's best program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predicted {
    /// Seconds online.
    pub seconds: f64,
    /// Bytes of keys.
    pub key_bytes: u64,
    /// Bootstraps.
    pub bootstraps: u64,
    /// How far placement may be from the least time on its chain, as a share of it.
    pub gap: f64,
}

/// A program with what it was emitted from.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The leveled fhe graph.
    pub fhe: FheGraph,
    /// Parameters.
    pub params: Params,
    /// The program.
    pub program: Program,
    /// The packed graph that it was made from.
    pub packed: Arc<Packed>,
    /// Predicted time and memory.
    pub prediction: Prediction,
    /// Predicted errors.
    pub budget: ErrorBudget,
    /// What the keys could have cost: ascending bytes, descending time.
    pub key_front: Vec<FrontPoint>,
    /// Every way that was planned, the chosen one among them.
    pub outcomes: Vec<Outcome>,
}

/// Seconds that a byte of switching keys is worth when the numbers of special primes of one chain are compared: keys are made and
/// held once, but memory is what runs short first.
const SECONDS_PER_KEY_BYTE: f64 = 0.25e-9;
/// The same between rings and chains: there a little time often costs gigabytes.
const SECONDS_PER_KEY_BYTE_OF_PLANS: f64 = 0.5e-9;
/// Placements of least predicted time whose programs are emitted and compared.
const EMITTED: usize = 4;
/// Rings that bootstrap.
const BOOTSTRAPPING_LOG_N: std::ops::RangeInclusive<u32> = 15..=16;
/// A leveled program whose layouts take this many times as long as a bootstrapped program is not planned further.
const HOPELESS: f64 = 2.0;
/// A placement that takes this many times as long as a finished program, keys weighed in, is not emitted: it is as fast as placed
/// within a few percent.
const BEATEN: f64 = 1.1;
/// Bits of the outputs' range that the error of a fine program is foreseen to leave on typical inputs: on a few of a hundred it leaves
/// up to four and a half fewer, and the check allows an error of 2^-7.
const FINE_BITS: f64 = 11.5;
/// A rough program must be this many times as fast as a fine one.
const ROUGH: f64 = 1.3;
/// A leveled program in a ring smaller than this is taken without planning a bootstrapped one.
const SMALL_LOG_N: u32 = 15;

/// A ring for a leveled program.
struct Ring {
    log_n: u32,
    /// Its chain, with each number of special primes that is secure.
    candidates: Vec<ParamsLiteral>,
}

/// A graph packed for a ring, with the splits of its linear operations.
struct Prepared {
    packed: Arc<Packed>,
    search: KeySearch,
}

/// Where a packed graph refreshes, on which chain.
struct Placed {
    prepared: Arc<Prepared>,
    params: BootstrapParams,
    placement: Placement,
}

/// One finished plan.
struct Finished {
    prepared: Arc<Prepared>,
    fhe: FheGraph,
    params: Params,
    program: Program,
    prediction: Prediction,
    key_front: Vec<FrontPoint>,
    gap: f64,
}

impl Finished {
    fn score(&self) -> f64 {
        self.prediction.seconds + SECONDS_PER_KEY_BYTE_OF_PLANS * self.prediction.key_bytes as f64
    }

    fn refreshes(&self) -> bool {
        self.program.bootstrap.is_some()
    }

    fn predicted(&self) -> Predicted {
        let Prediction { seconds, key_bytes, bootstraps, .. } = self.prediction;
        Predicted { seconds, key_bytes, bootstraps, gap: self.gap }
    }
}

impl Lowered {
    /// Verifies every stage and shows it.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`], a bug.
    pub fn show(&self, observe: Observer<'_>) -> Result<(), PipelineError> {
        invalid("fhe graph", "pack", fhe::verify(&self.packed.graph))?;
        observe("pack", Snapshot::Fhe(&self.packed.graph));
        invalid("fhe graph", "assign-levels", fhe::verify(&self.fhe))?;
        observe("assign-levels", Snapshot::Fhe(&self.fhe));
        invalid("program", "emit", program::verify(&self.program))?;
        observe("emit", Snapshot::Program(&self.program));
        Ok(())
    }

    /// The way its depth is paid for.
    pub fn plan(&self) -> Plan {
        if self.program.bootstrap.is_some() { Plan::Bootstrapped } else { Plan::Leveled }
    }
}

/// log2 of a ring's degree, and the values that are kept whole.
type PartedKey = (u32, BTreeSet<ValueId>);

/// Packs, places and emits a polynomial graph, at any scales: what does not depend on these is made once.
pub struct Planner<'a> {
    graph: &'a TensorGraph,
    ranges: &'a [Vec<f64>],
    moments: &'a [Moments],
    options: &'a Options,
    /// By log2 of the ring's degree.
    packed: RefCell<BTreeMap<u32, Arc<Packed>>>,
    /// The same.
    prepared: RefCell<BTreeMap<u32, Arc<Prepared>>>,
    /// Values in parts where that is faster.
    parted: RefCell<BTreeMap<PartedKey, Option<Arc<Prepared>>>>,
}

impl<'a> Planner<'a> {
    /// For a polynomial graph with ranges and moments of all its values.
    pub fn new(
        graph: &'a TensorGraph,
        (ranges, moments): (&'a [Vec<f64>], &'a [Moments]),
        options: &'a Options,
    ) -> Self {
        let (packed, prepared, parted) = Default::default();
        Self { graph, ranges, moments, options, packed, prepared, parted }
    }

    /// The program of least predicted cost at these scales, of the ways of `plan`; one that is foreseen to be rough only if none is fine.
    ///
    /// # Errors
    /// [`LowerError::TooDeep`] if no plan of those asked for fits a ring, and what packing refuses.
    pub fn lower(&self, plan: Plan, precision: Precision) -> Result<Lowered, PipelineError> {
        let plans = Subject { planner: self, precision }.plans(plan)?;
        let outcomes = plans.iter().map(|(plan, result)| {
            let result = result.as_ref().map(Finished::predicted).map_err(Clone::clone);
            Outcome { plan: *plan, result }
        });
        let outcomes: Vec<Outcome> = outcomes.collect();
        let mut refusal = LowerError::bug("no plan was asked for");
        let mut finished: Vec<(Finished, ErrorBudget)> = Vec::new();
        for (_, result) in plans {
            match result {
                Ok(program) => {
                    let budget = self.budget(&program)?;
                    finished.push((program, budget));
                }
                // Too many keys is what the user can mend.
                Err(_) if matches!(refusal, LowerError::KeysMemory { .. }) => {}
                Err(LowerError::Slower { .. }) => {}
                Err(error) => refusal = error,
            }
        }
        let price = |(finished, budget): &(Finished, ErrorBudget)| {
            finished.score() * if budget.bits() < FINE_BITS { ROUGH } else { 1.0 }
        };
        let best = finished.into_iter().min_by(|a, b| price(a).total_cmp(&price(b)));
        let (best, budget) = best.ok_or(refusal)?;
        let Finished { prepared, fhe, params, program, prediction, key_front, .. } = best;
        let packed = prepared.packed.clone();
        Ok(Lowered { fhe, params, program, packed, prediction, budget, key_front, outcomes })
    }

    fn budget(&self, finished: &Finished) -> Result<ErrorBudget, LowerError> {
        let Finished { prepared, fhe, params, program, .. } = finished;
        let sources = &prepared.packed.sources;
        budget::budget(&budget::Subject { graph: fhe, program, params, sources, moments: self.moments })
    }

    fn shapes(&self) -> Vec<Vec<usize>> {
        self.graph.outputs.iter().map(|o| self.graph.nodes[o.value].ty.shape.clone()).collect()
    }

    fn search(&self) -> LayoutSearch {
        match self.options.layout {
            Layouts::Greedy => LayoutSearch::Greedy,
            Layouts::Search => LayoutSearch::Search(self.options.machine.clone(), self.options.products),
        }
    }

    /// Packed as the options say, every value whole, once for each ring.
    fn packed(&self, log_n: u32) -> Result<Arc<Packed>, LowerError> {
        if let Some(known) = self.packed.borrow().get(&log_n) {
            return Ok(known.clone());
        }
        self.options.progress.step(&format!("searching layouts for N = 2^{log_n}"));
        let packed = Arc::new(pack::pack(self.graph, self.ranges, 1 << (log_n - 1), &self.search())?);
        self.packed.borrow_mut().insert(log_n, packed.clone());
        Ok(packed)
    }

    /// The same with the splits of all linear operations.
    fn prepared(&self, log_n: u32) -> Result<Arc<Prepared>, LowerError> {
        if let Some(known) = self.prepared.borrow().get(&log_n) {
            return Ok(known.clone());
        }
        let prepared = Arc::new(self.counted(log_n, self.packed(log_n)?)?);
        self.prepared.borrow_mut().insert(log_n, prepared.clone());
        Ok(prepared)
    }

    fn counted(&self, log_n: u32, packed: Arc<Packed>) -> Result<Prepared, LowerError> {
        self.options.progress.step(&format!("counting the splits of linear maps for N = 2^{log_n}"));
        let search = KeySearch::of(&packed.graph, slots_of(log_n)?, self.options.products);
        Ok(Prepared { packed, search })
    }

    /// Packed with values in two parts, but for those of `kept`, if that is asked for and predicted to be faster, refreshes apart.
    fn parted(&self, log_n: u32, kept: BTreeSet<ValueId>) -> Result<Option<Arc<Prepared>>, LowerError> {
        if (self.options.products, self.options.layout) != (Products::Deep, Layouts::Search) {
            return Ok(None);
        }
        if let Some(known) = self.parted.borrow().get(&(log_n, kept.clone())) {
            return Ok(known.clone());
        }
        let whole = self.packed(log_n)?;
        self.options.progress.step(&format!("searching layouts of values in parts for N = 2^{log_n}"));
        let parted = whole.in_parts(self.graph, self.ranges, &self.search(), &kept)?;
        let faster = parted.filter(|parted| parted.layouts.seconds < whole.layouts.seconds);
        let prepared =
            faster.map(|parted| self.counted(log_n, Arc::new(parted)).map(Arc::new)).transpose()?;
        self.parted.borrow_mut().insert((log_n, kept), prepared.clone());
        Ok(prepared)
    }
}

/// What is lowered, and at which scales.
struct Subject<'p> {
    planner: &'p Planner<'p>,
    precision: Precision,
}

/// A plan to its end, or why there is none.
type Attempt = Result<Finished, LowerError>;

impl Subject<'_> {
    /// The best of each way that is asked for. What surely is slower than a way already planned is not planned to its end.
    fn plans(&self, plan: Plan) -> Result<Vec<(Plan, Attempt)>, PipelineError> {
        let leveled = match plan {
            Plan::Bootstrapped => return Ok(vec![(Plan::Bootstrapped, self.bootstrapped()?)]),
            Plan::Leveled | Plan::Auto => self.ring()?,
        };
        let auto = plan == Plan::Auto;
        match leveled {
            Err(error) if auto => {
                Ok(vec![(Plan::Leveled, Err(error)), (Plan::Bootstrapped, self.bootstrapped()?)])
            }
            Err(error) => Ok(vec![(Plan::Leveled, Err(error))]),
            Ok(ring) if auto && ring.log_n >= SMALL_LOG_N => {
                let bootstrapped = self.bootstrapped()?;
                let score = bootstrapped.as_ref().map_or(f64::INFINITY, Finished::score);
                Ok(vec![(Plan::Leveled, self.leveled(ring, score)?), (Plan::Bootstrapped, bootstrapped)])
            }
            Ok(ring) => Ok(vec![(Plan::Leveled, self.leveled(ring, f64::INFINITY)?)]),
        }
    }

    /// The smallest secure ring that holds the chain of a leveled program.
    fn ring(&self) -> Result<Result<Ring, LowerError>, PipelineError> {
        // Levels do not depend on layouts, so that these are searched for in the ring that holds the chain only.
        self.planner.options.progress.step("assigning levels");
        let slots = 1 << (params::LOG_N.end() - 1);
        let greedy = pack::pack(self.planner.graph, self.planner.ranges, slots, &LayoutSearch::Greedy)?;
        let chain = level::assign(&greedy.graph, self.precision)?.tables.chain_bits;
        for log_n in params::LOG_N {
            let candidates = params::candidates(&chain, log_n);
            if !candidates.is_empty() {
                return Ok(Ok(Ring { log_n, candidates }));
            }
        }
        Ok(Err(params::too_deep(&chain)))
    }

    /// The best leveled program in a ring, unless its layouts alone are many times as slow as a plan of this score.
    fn leveled(&self, ring: Ring, score: f64) -> Result<Attempt, PipelineError> {
        let planner = self.planner;
        let seconds = planner.packed(ring.log_n)?.layouts.seconds / planner.options.machine.parallel;
        if seconds > HOPELESS * score {
            return Ok(Err(LowerError::Slower { seconds }));
        }
        let prepared = match planner.parted(ring.log_n, BTreeSet::new())? {
            Some(parted) => parted,
            None => planner.prepared(ring.log_n)?,
        };
        refusal_apart(self.best_of(prepared, ring.candidates))
    }

    /// Emits the program for every number of special primes and keeps the one of least predicted time and key bytes.
    fn best_of(
        &self,
        prepared: Arc<Prepared>,
        candidates: Vec<ParamsLiteral>,
    ) -> Result<Finished, LowerError> {
        self.planner.options.progress.step("emitting leveled programs");
        let leveled = level::assign(&prepared.packed.graph, self.precision)?;
        let emitted = candidates.into_iter().map(|literal| {
            let params = params::check(literal)?;
            let program = emit::emit(&leveled, &params, &self.planner.shapes())?;
            Ok((params, program))
        });
        let emitted: Vec<(Params, Program)> = emitted.collect::<Result<_, LowerError>>()?;
        let Keyed { params, program, prediction, front } = self.keyed(&prepared.search, emitted)?;
        Ok(Finished { prepared, fhe: leveled, params, program, prediction, key_front: front, gap: 0.0 })
    }

    fn keyed(&self, search: &KeySearch, emitted: Vec<(Params, Program)>) -> Result<Keyed, LowerError> {
        self.planner.options.progress.step("planning keys");
        let price = KeyBudget::Price(SECONDS_PER_KEY_BYTE);
        let budget = self.planner.options.keys_memory.map_or(price, KeyBudget::Bytes);
        key_front::best(search, emitted, &self.planner.options.machine, budget)
    }

    /// The best program over all rings and chains that bootstrap.
    fn bootstrapped(&self) -> Result<Attempt, PipelineError> {
        let mut best: Option<Finished> = None;
        let mut refusal = LowerError::NoPlacement { log_n: *BOOTSTRAPPING_LOG_N.end() };
        for log_n in BOOTSTRAPPING_LOG_N {
            for Placed { prepared, params, placement } in self.placed(log_n)? {
                let beaten = |best: &Finished| {
                    best.refreshes() == placement.refreshes() && placement.seconds > BEATEN * best.score()
                };
                if best.as_ref().is_some_and(beaten) {
                    continue;
                }
                let better = |finished: &Finished, best: &Finished| {
                    (finished.refreshes(), best.score()) > (best.refreshes(), finished.score())
                };
                match refusal_apart(self.finish(&prepared, &params, &placement))? {
                    Ok(finished) if best.as_ref().is_none_or(|best| better(&finished, best)) => {
                        best = Some(finished);
                    }
                    Ok(_) => {}
                    Err(error) => refusal = error,
                }
            }
        }
        Ok(best.ok_or(refusal))
    }

    /// The fastest placements in a ring. Values in two parts are more ciphertexts to refresh: first all are placed whole, then those
    /// that this refreshes stay whole.
    fn placed(&self, log_n: u32) -> Result<Vec<Placed>, LowerError> {
        let mut placed = self.placed_as(log_n, self.planner.prepared(log_n)?)?;
        let Some(first) = placed.first() else { return Ok(placed) };
        let refreshed = first.prepared.packed.refreshed(&first.placement);
        if let Some(parted) = self.planner.parted(log_n, refreshed)? {
            placed.extend(self.placed_as(log_n, parted)?);
            placed.sort_by(|a, b| a.placement.seconds.total_cmp(&b.placement.seconds));
            placed.truncate(EMITTED);
        }
        Ok(placed)
    }

    fn placed_as(&self, log_n: u32, prepared: Arc<Prepared>) -> Result<Vec<Placed>, LowerError> {
        let options = self.planner.options;
        let workload = Workload::of(&prepared.packed.graph, self.precision, &prepared.search)?;
        options.progress.step(&format!("placing bootstraps for N = 2^{log_n}"));
        let placed = workload.best(log_n, &options.machine, EMITTED).into_iter();
        let of =
            |(Candidate { params, .. }, placement)| Placed { prepared: prepared.clone(), params, placement };
        Ok(placed.map(of).collect())
    }

    fn finish(
        &self,
        prepared: &Arc<Prepared>,
        bootstrap: &BootstrapParams,
        placement: &Placement,
    ) -> Result<Finished, LowerError> {
        let seconds = placement.seconds;
        self.planner
            .options
            .progress
            .step(&format!("emitting a program that bootstraps, placed for {seconds:.1} s"));
        let fhe = place::rebuild::rebuild(&prepared.packed.graph, placement, bootstrap.spec())?;
        let params = bootstrap.main().clone();
        let program = emit::emit(&fhe, &params, &self.planner.shapes())?;
        let emitted = vec![(params, program)];
        let Keyed { params, program, prediction, front } = self.keyed(&prepared.search, emitted)?;
        let (prepared, gap) = (prepared.clone(), placement.gap());
        Ok(Finished { prepared, fhe, params, program, prediction, key_front: front, gap })
    }
}

fn slots_of(log_n: u32) -> Result<Slots, LowerError> {
    Slots::new(1 << (log_n - 1)).map_err(|e| LowerError::bug(format!("slots of a ring: {e}")))
}

/// Parts what rules out one way to pay for the depth from what ends the compilation.
fn refusal_apart(finished: Attempt) -> Result<Attempt, PipelineError> {
    match finished {
        Ok(finished) => Ok(Ok(finished)),
        Err(refusal @ LowerError::KeysMemory { .. }) => Ok(Err(refusal)),
        Err(error) => Err(error.into()),
    }
}
