//! Verifier of programs. It re-simulates a program on its own, trusts nothing that the compiler computed, and bounds the
//! work that a hostile program can cause; the runtime runs it on every file it loads.
//!
//! Rules:
//! 1. the parameters are secure and state every prime; tables are within the limits below;
//! 2. constants hold as many numbers as their shapes say, all finite; layouts are valid and fit N/2 slots; maps connect
//!    existing layouts and have weights of the right shape; plaintext vectors have one value, or one per channel or element;
//! 3. a linear call has a term; its operands are numbered 0, 1, ... without gaps, all maps of an operand have one input
//!    layout, all maps one output layout, each ciphertext of which some weight reaches; planning all calls stays within
//!    [`MAX_PROGRAM_PAIRS`] and [`MAX_DIAGONAL_GROUPS`];
//! 4. inputs and outputs have unique names, valid layouts, units, levels and scales; an output's ONNX shape has its layout's
//!    number of elements;
//! 5. a register is assigned once, before it is read, and not read after `free`; `free` frees a live register;
//! 6. levels and scales, exactly: `add`, `sub` take one level and one scale; `mul` one level; a linear call's operands are at
//!    one level, all ciphertexts of an operand at one scale; `rescale` divides by q_level; `moddrop` goes down; every
//!    scale is at least 2 and at least one bit below the modulus of its level, and so is the scale of every plaintext;
//! 7. contents: a register holds a ciphertext of a layout, or slots of a known period; linear calls, plaintext vectors, sums,
//!    products and outputs get what they ask for; a ciphertext of an input is read at most once;
//! 8. every key that an instruction needs is in the manifest, up to its level; the manifest lists nothing else;
//! 9. each ciphertext of each output is given exactly once, at the declared level and scale;
//! 10. each instruction has a layer; a probe's registers are live after its instruction and hold its layout;
//! 11. a program refreshes if and only if its parameters say how: its primes are those of the bootstrapping specification, the
//!     ephemeral secret is as secure as the main one; a refresh takes ciphertexts of its period and scale at the input level, and the
//!     scales that SlotsToCoeffs and the result get are in range.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::bootstrap::BootstrapParams;
use peregrine_ckks::params::{Chain, Params, PrimeSpec};
use peregrine_ckks::units::{GaloisElement, Level, Scale};

use super::simulate::Simulation;
use super::{CallId, LinearCall, Program, Refresh, RefreshId};
use crate::consts::ConstId;
use crate::linear::{Diagonals, LayoutId, MAX_SHIFTS, MAX_SPLIT, ResolvedMap, plan_call};
use crate::verify::{
    Collector, Counted, Entity, IrLevel, Key, Problem, Site, VerifyError, check_consts, check_layout,
    check_map, check_unit,
};

pub use crate::verify::VerifyErrors;

/// Most entries of any table of a program.
pub const MAX_ENTRIES: usize = 1 << 20;
/// Most ciphertexts of a layout.
pub const MAX_CIPHERTEXTS: u32 = 1 << 12;
/// Most groups of diagonals of all linear calls of a program: an upper bound of its diagonals.
pub const MAX_DIAGONAL_GROUPS: u64 = 1 << 25;
/// Most pairs of coordinates of all linear calls of a program.
pub const MAX_PROGRAM_PAIRS: u64 = 1 << 28;
/// Least log2 of a scale.
pub(super) const LEAST_SCALE_BITS: f64 = 1.0;
/// Largest log2 of the scale of a plaintext: encoded coefficients are 64-bit integers.
pub(super) const MOST_PLAIN_BITS: f64 = 62.0;
/// Largest size of an exponent of a scale.
const LARGEST_EXPONENT: u32 = 4096;

/// Checks every rule, the security of the parameters included.
///
/// # Errors
/// [`VerifyErrors`] lists every broken rule with its place.
pub fn verify(program: &Program) -> Result<(), VerifyErrors> {
    verify_at(program, &checked_params(program)?)
}

/// The program's parameters, if they are secure.
pub(super) fn checked_params(program: &Program) -> Result<Params, VerifyErrors> {
    program.params.clone().check().map_err(|error| {
        let error = VerifyError { site: Site::Params, problem: error.into() };
        VerifyErrors { level: IrLevel::Program, errors: vec![error], more: 0 }
    })
}

/// Checks every rule but the security of the parameters, which the caller has checked: `params` are the program's.
///
/// # Errors
/// [`VerifyErrors`] lists every broken rule with its place.
pub fn verify_at(program: &Program, params: &Params) -> Result<(), VerifyErrors> {
    let mut out = Collector::new(IrLevel::Program);
    check_params(program, &mut out);
    check_limits(program, &mut out);
    if !out.is_clean() {
        return out.finish();
    }
    check_consts(&program.consts, &mut out);
    check_tables(program, params, &mut out);
    if !out.is_clean() {
        return out.finish();
    }
    let calls = check_calls(program, params, &mut out);
    let refreshes = check_refreshes(program, params, &mut out);
    check_ports(program, params, &mut out);
    check_manifest(program, params, &mut out);
    if !out.is_clean() {
        return out.finish();
    }
    let used = Simulation::run(program, params, &Facts { calls, refreshes }, &mut out);
    if out.is_clean() {
        check_keys(program, &used, &mut out);
    }
    out.finish()
}

/// Highest level at which each key is used.
#[derive(Default)]
pub(super) struct UsedKeys {
    pub(super) relin: Option<Level>,
    pub(super) galois: BTreeMap<GaloisElement, Level>,
}

/// What the simulation needs to know of the tables.
pub(super) struct Facts {
    pub(super) calls: BTreeMap<CallId, CallFacts>,
    pub(super) refreshes: BTreeMap<RefreshId, RefreshFacts>,
}

/// What the simulation needs to know of a refresh.
pub(super) struct RefreshFacts {
    /// Level of the operands.
    pub(super) input_level: Level,
    /// Level and scale of the results.
    pub(super) result: (Level, Scale),
    /// Level of the relinearisation key.
    pub(super) relin: Level,
    /// Galois keys with their levels.
    pub(super) galois: Vec<(GaloisElement, Level)>,
}

/// What the simulation needs to know of a linear call.
pub(super) struct CallFacts {
    /// Input layout of each operand.
    pub(super) operands: Vec<LayoutId>,
    /// Layout of the result.
    pub(super) output: LayoutId,
    /// Galois elements that it needs.
    pub(super) galois: BTreeSet<GaloisElement>,
}

fn check_params(program: &Program, out: &mut Collector) {
    for (chain, specs) in [(Chain::Q, &program.params.q), (Chain::P, &program.params.p)] {
        for (index, spec) in specs.iter().enumerate() {
            if matches!(spec, PrimeSpec::Bits(_)) {
                out.report(Site::Params, Problem::InexactPrime { chain, index });
            }
        }
    }
}

fn check_limits(program: &Program, out: &mut Collector) {
    let lengths = [
        program.consts.len(),
        program.layouts.len(),
        program.maps.len(),
        program.calls.len(),
        program.vectors.len(),
        program.refreshes.len(),
        program.inputs.len(),
        program.outputs.len(),
        program.insts.len(),
        program.layers.len(),
        program.probes.len(),
        program.manifest.galois.len(),
        program.calls.values().map(|c| c.terms.len()).sum(),
    ];
    for found in lengths.into_iter().filter(|&n| n > MAX_ENTRIES) {
        let (found, limit) = (found as u64, MAX_ENTRIES as u64);
        out.report(Site::Whole, Problem::TooMany { what: Counted::Entries, found, limit });
    }
    let (expected, found) = (program.insts.len(), program.inst_layers.len());
    if expected != found {
        out.report(Site::Whole, Problem::Count { what: Counted::InstLayers, expected, found });
    }
    for (index, &layer) in program.inst_layers.iter().enumerate() {
        if layer as usize >= program.layers.len() {
            out.report(Site::Entry(Entity::Inst(index as u32)), Problem::Unknown(Entity::Layer(layer)));
        }
    }
}

fn check_tables(program: &Program, params: &Params, out: &mut Collector) {
    let slots = params.max_slots().get();
    for (id, layout) in program.layouts.iter() {
        let site = Site::Entry(Entity::Layout(id));
        if layout.ciphertexts > MAX_CIPHERTEXTS {
            let (found, limit) = (u64::from(layout.ciphertexts), u64::from(MAX_CIPHERTEXTS));
            out.report(site, Problem::TooMany { what: Counted::Ciphertexts, found, limit });
        } else if let Err(problem) = check_layout(layout, slots) {
            out.report(site, problem);
        }
    }
    if !out.is_clean() {
        return;
    }
    for (id, map) in program.maps.iter() {
        if let Err(problem) = check_map(map, &program.layouts, &program.consts) {
            out.report(Site::Entry(Entity::Map(id)), problem);
        }
    }
    for (id, vector) in program.vectors.iter() {
        if let Err(problem) = check_placed(program, vector.values, vector.layout, vector.cipher) {
            out.report(Site::Entry(Entity::Vector(id)), problem);
        }
    }
}

fn check_placed(program: &Program, values: ConstId, layout: LayoutId, cipher: u32) -> Result<(), Problem> {
    let layout = program.layouts.get(layout).ok_or(Problem::Unknown(Entity::Layout(layout)))?;
    if cipher >= layout.ciphertexts {
        return Err(Problem::Unknown(Entity::Cipher(cipher)));
    }
    let constant = program.consts.get(values).ok_or(Problem::Unknown(Entity::Const(values)))?;
    let channels = layout.shape.c as usize;
    if constant.shape == [channels] || constant.shape == [1] || constant.shape == [layout.shape.len()] {
        return Ok(());
    }
    Err(Problem::ConstShape { constant: values, expected: vec![channels], found: constant.shape.clone() })
}

fn check_calls(program: &Program, params: &Params, out: &mut Collector) -> BTreeMap<CallId, CallFacts> {
    let mut facts = BTreeMap::new();
    let mut work = Work::default();
    for (id, call) in program.calls.iter() {
        match check_call(program, params, call, &mut work) {
            Ok(call) => drop(facts.insert(id, call)),
            Err(problem) => out.report(Site::Entry(Entity::Call(id)), problem),
        }
    }
    facts
}

/// What planning the calls so far has cost.
#[derive(Default)]
struct Work {
    pairs: u64,
    groups: u64,
    splits: u64,
}

impl Work {
    fn add(&mut self, map: ResolvedMap<'_>) -> Result<(), Problem> {
        // What counting the pairs goes through, before what it finds.
        self.add_pairs(map.convolution_pairs())?;
        self.add_pairs(map.pairs())?;
        self.groups = self.groups.saturating_add(Diagonals::groups(map));
        let (found, limit) = (self.groups, MAX_DIAGONAL_GROUPS);
        if found > limit {
            return Err(Problem::TooMany { what: Counted::Diagonals, found, limit });
        }
        Ok(())
    }

    fn add_pairs(&mut self, pairs: u64) -> Result<(), Problem> {
        self.pairs = self.pairs.saturating_add(pairs);
        let (found, limit) = (self.pairs, MAX_PROGRAM_PAIRS);
        if found > limit { Err(Problem::TooMany { what: Counted::Pairs, found, limit }) } else { Ok(()) }
    }

    fn add_split(&mut self, call: &LinearCall) -> Result<(), Problem> {
        let (what, found) = (Counted::Splits, call.split.size());
        if found > MAX_SPLIT {
            return Err(Problem::TooMany { what, found, limit: MAX_SPLIT });
        }
        self.splits = self.splits.saturating_add(found.saturating_mul(call.terms.len() as u64));
        let (found, limit) = (self.splits, MAX_DIAGONAL_GROUPS);
        if found > limit { Err(Problem::TooMany { what, found, limit }) } else { Ok(()) }
    }
}

fn check_call(
    program: &Program,
    params: &Params,
    call: &LinearCall,
    work: &mut Work,
) -> Result<CallFacts, Problem> {
    let mut operands: BTreeMap<u32, LayoutId> = BTreeMap::new();
    let mut terms: Vec<(ResolvedMap<'_>, u32)> = Vec::new();
    let mut output = None;
    for term in &call.terms {
        let map = program.maps.get(term.map).ok_or(Problem::Unknown(Entity::Map(term.map)))?;
        let input = *operands.entry(term.operand).or_insert(map.input);
        if input != map.input {
            let what = Entity::Operand(term.operand);
            return Err(Problem::LayoutMismatch { what, expected: input, found: map.input });
        }
        let expected = *output.get_or_insert(map.output);
        if expected != map.output {
            return Err(Problem::LayoutMismatch { what: Entity::Map(term.map), expected, found: map.output });
        }
        let resolved = map.resolve(&program.layouts);
        work.add(resolved)?;
        terms.push((resolved, term.operand));
    }
    let output = output.ok_or(Problem::None(Counted::Terms))?;
    let count = operands.len() as u32;
    if let Some(gap) = (0..count).find(|i| !operands.contains_key(i)) {
        return Err(Problem::Unknown(Entity::Operand(gap)));
    }
    work.add_split(call)?;
    check_shared(&terms, call, params)?;
    let plan = plan_call(&terms, call.recipe(), params.max_slots()).plan;
    plan.check()?;
    let galois = plan.galois_elements(params.n());
    Ok(CallFacts { operands: operands.into_values().collect(), output, galois })
}

/// Joined operands have as many copies as take part, and a ring has room for them.
fn check_shared(terms: &[(ResolvedMap<'_>, u32)], call: &LinearCall, params: &Params) -> Result<(), Problem> {
    let operands = terms.iter().map(|term| term.1 + 1).max().unwrap_or(0);
    let (what, found, limit) = (Counted::Operands, call.shared.len() as u64, u64::from(operands));
    if found > limit {
        return Err(Problem::TooMany { what, found, limit });
    }
    for (map, operand) in terms {
        let Some(sharing) = call.shared.get(*operand as usize) else { continue };
        let period = map.input.period.max(map.output.period).get();
        let slots = params.max_slots().get();
        if sharing.shifts.len() > MAX_SHIFTS || u64::from(period) << sharing.shifts.len() > u64::from(slots) {
            let copies = sharing.shifts.len();
            return Err(Problem::Copies { operand: *operand, doublings: copies, period, slots });
        }
    }
    Ok(())
}

fn check_refreshes(
    program: &Program,
    params: &Params,
    out: &mut Collector,
) -> BTreeMap<RefreshId, RefreshFacts> {
    let mut facts = BTreeMap::new();
    let spec = match (&program.bootstrap, program.refreshes.len()) {
        (None, 0) => return facts,
        (Some(_), 0) => {
            out.report(Site::Params, Problem::None(Counted::Refreshes));
            return facts;
        }
        (None, _) => {
            out.report(Site::Params, Problem::NoBootstrap);
            return facts;
        }
        (Some(spec), _) => spec,
    };
    let bootstrap = match spec.clone().check_for(params) {
        Ok(bootstrap) => bootstrap,
        Err(error) => {
            out.report(Site::Params, Problem::Bootstrap(error.to_string()));
            return facts;
        }
    };
    for (id, refresh) in program.refreshes.iter() {
        match check_refresh(params, &bootstrap, refresh) {
            Ok(checked) => drop(facts.insert(id, checked)),
            Err(problem) => out.report(Site::Entry(Entity::Refresh(id)), problem),
        }
    }
    facts
}

fn check_refresh(
    params: &Params,
    bootstrap: &BootstrapParams,
    refresh: &Refresh,
) -> Result<RefreshFacts, Problem> {
    let (spec, form) = (bootstrap.spec(), refresh.form);
    let input_level = spec.input_level();
    if !form.is_bounded() {
        return Err(Problem::RefreshForm(form));
    }
    check_form(params, &refresh.scale)?;
    check_scale(params, input_level, &form.unit_scale(&refresh.scale))?;
    // The diagonals of the first transform bring the operand to the scale of the base.
    let correction = spec.base_scale().div(&form.unit_scale(&refresh.scale));
    check_plain_scale(params, &correction.mul(&Scale::prime(input_level.0)))?;
    let result = form.result(spec).ok_or(Problem::RefreshForm(form))?;
    check_scale(params, result.0, &result.1)?;
    let refused = |error: peregrine_ckks::error::Error| Problem::Bootstrap(error.to_string());
    let galois = bootstrap.galois_elements(refresh.slots).map_err(refused)?;
    Ok(RefreshFacts { input_level, result, relin: bootstrap.eval_mod_level(), galois })
}

fn check_ports(program: &Program, params: &Params, out: &mut Collector) {
    let mut names = BTreeSet::new();
    for (index, input) in program.inputs.iter().enumerate() {
        let port = (input.layout, input.level, &input.scale, input.unit);
        report_port(program, params, Entity::Input(index as u32), port, out);
        if !names.insert(input.name.as_str()) {
            let problem = Problem::DuplicateName(input.name.clone());
            out.report(Site::Entry(Entity::Input(index as u32)), problem);
        }
    }
    names.clear();
    for (index, output) in program.outputs.iter().enumerate() {
        let site = || Site::Entry(Entity::Output(index as u32));
        let port = (output.layout, output.level, &output.scale, output.unit);
        report_port(program, params, Entity::Output(index as u32), port, out);
        if !names.insert(output.name.as_str()) {
            out.report(site(), Problem::DuplicateName(output.name.clone()));
        }
        let elements = program.layouts.get(output.layout).map_or(0, |l| l.shape.len());
        let product = output.shape.iter().fold(1usize, |n, &extent| n.saturating_mul(extent));
        if product != elements {
            out.report(site(), Problem::PortShape { shape: output.shape.clone(), elements });
        }
    }
    if program.outputs.is_empty() {
        out.report(Site::Whole, Problem::None(Counted::Outputs));
    }
}

fn report_port(
    program: &Program,
    params: &Params,
    port: Entity,
    (layout, level, scale, unit): (LayoutId, Level, &Scale, ConstId),
    out: &mut Collector,
) {
    let check = || {
        let table = program.layouts.get(layout).ok_or(Problem::Unknown(Entity::Layout(layout)))?;
        check_unit(&program.consts, unit, table.shape.c)?;
        check_level(params, level)?;
        check_scale(params, level, scale)
    };
    if let Err(problem) = check() {
        out.report(Site::Entry(port), problem);
    }
}

fn check_level(params: &Params, level: Level) -> Result<(), Problem> {
    let max = params.max_level();
    if level > max { Err(Problem::LevelTooHigh { level, max }) } else { Ok(()) }
}

/// A scale's primes exist and its exponents are bounded, so that arithmetic on it stays exact.
fn check_form(params: &Params, scale: &Scale) -> Result<(), Problem> {
    let small = |exponent: i32| exponent.unsigned_abs() <= LARGEST_EXPONENT;
    let primes = scale.prime_exponents().iter().all(|&(_, exponent)| small(exponent));
    let exist = scale.max_prime_index().is_none_or(|index| (index as usize) < params.q().len());
    if primes && exist && small(scale.exponent_of_two()) {
        return Ok(());
    }
    Err(Problem::MalformedScale(Box::new(scale.clone())))
}

fn check_range(params: &Params, scale: &Scale, high: f64) -> Result<(), Problem> {
    check_form(params, scale)?;
    let log2 = scale.log2(params);
    if (LEAST_SCALE_BITS..=high).contains(&log2) {
        return Ok(());
    }
    Err(Problem::ScaleRange { scale: Box::new(scale.clone()), log2, low: LEAST_SCALE_BITS, high })
}

/// A ciphertext's scale leaves a bit of the modulus of its level.
pub(super) fn check_scale(params: &Params, level: Level, scale: &Scale) -> Result<(), Problem> {
    check_range(params, scale, params.log_q_at(level) - 1.0)
}

/// A plaintext's scale keeps something of it and lets its coefficients fit 64 bits.
pub(super) fn check_plain_scale(params: &Params, scale: &Scale) -> Result<(), Problem> {
    check_range(params, scale, MOST_PLAIN_BITS)
}

fn check_manifest(program: &Program, params: &Params, out: &mut Collector) {
    let levels = program.manifest.relin.iter().chain(program.manifest.galois.values());
    for &level in levels {
        if let Err(problem) = check_level(params, level) {
            out.report(Site::Manifest, problem);
        }
    }
    let limit = 2 * params.n() as u64;
    for &element in program.manifest.galois.keys() {
        if u64::from(element.get()) >= limit || element == GaloisElement::IDENTITY {
            out.report(Site::Manifest, Problem::GaloisElement { element, limit });
        }
    }
}

/// Missing keys are reported where they are needed; here, keys that nothing needs.
fn check_keys(program: &Program, used: &UsedKeys, out: &mut Collector) {
    let relin = program.manifest.relin.map(|level| (Key::Relin, level, used.relin));
    let galois = program.manifest.galois.iter();
    let galois =
        galois.map(|(&element, &level)| (Key::Galois(element), level, used.galois.get(&element).copied()));
    for (key, level, highest) in relin.into_iter().chain(galois) {
        if highest.is_none_or(|highest| highest < level) {
            out.report(Site::Manifest, Problem::ExcessKey { key, level, used: highest });
        }
    }
}
