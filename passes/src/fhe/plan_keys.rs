//! Splits of all linear calls at once: least predicted time plus what the bytes of all switching keys are worth.
//!
//! A key costs the bytes of the highest level it is used at, once, however many calls use it. The search is a descent: first
//! all calls of one shape change their split together, then single calls, until nothing improves. It starts from the
//! splits of least time and from those of a dearer price of keys, and keeps the better end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use peregrine_ckks::params::Params;
use peregrine_ir::fhe::FheGraph;
use peregrine_ir::linear::{BsgsSplit, Sharing};
use peregrine_ir::program::{CallId, LinearCall, Program};
use peregrine_ir::{EntityId, GaloisElement, Level, Slots};
use rayon::prelude::*;

use super::LowerError;
use super::calls::Calls;
use super::candidates::candidates;
use super::cost::{LinearCounts, Machine};
use super::emit::{call_levels, keys_besides_calls};
use super::key_descent::{Site, Subject};
use super::share::Variant;
use super::split::CallShape;
use crate::pipeline::Products;

/// Prices of keys that a plan is made for, in seconds per byte: from keys for free to keys at any price of time.
pub const PRICES: [f64; 8] = [0.02e-9, 0.1e-9, 0.25e-9, 0.6e-9, 1.5e-9, 4e-9, 10e-9, 40e-9];
/// A candidate that takes this many times as long as the fastest is not considered.
const SLOWEST: f64 = 4.0;
/// Candidates kept for each shape.
const KEPT: usize = 400;

/// One way to join and split a shape, with what it costs.
#[derive(Clone, Debug)]
struct Choice {
    shared: Arc<Vec<Sharing>>,
    split: BsgsSplit,
    counts: LinearCounts,
    elements: Vec<GaloisElement>,
}

/// The calls of a packed graph by shape, with the candidates of each: independent of levels and special primes.
#[derive(Clone, Debug, Default)]
pub struct KeySearch {
    calls: Calls,
    candidates: Vec<Candidates>,
    /// All Galois elements of the candidates, ascending.
    elements: Vec<GaloisElement>,
    /// By shape and choice: places of its elements among them.
    places: Vec<Vec<Vec<u32>>>,
}

/// The splits of one shape.
#[derive(Clone, Debug)]
struct Candidates {
    choices: Vec<Choice>,
    /// Counts that may be the fastest at some level.
    fast: Vec<LinearCounts>,
}

/// A plan of the splits of all calls.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPlan {
    /// Joins and splits by call.
    pub recipes: Vec<(Vec<Sharing>, BsgsSplit)>,
    /// Predicted seconds of the linear calls on one core.
    pub seconds: f64,
    /// Bytes of all keys of the manifest, expanded.
    pub key_bytes: u64,
}

impl KeySearch {
    /// Shapes and candidates of the linear operations of a packed graph, for any number of special primes.
    pub fn of(graph: &FheGraph, slots: Slots, products: Products) -> Self {
        let calls = Calls::of(graph, slots, products);
        let n = 2 * slots.get() as usize;
        let candidates: Vec<Candidates> =
            calls.variants().par_iter().map(|variants| considered(variants, n)).collect();
        let all = candidates.iter().flat_map(|candidates| &candidates.choices);
        let distinct: BTreeSet<GaloisElement> = all.flat_map(|c| c.elements.iter().copied()).collect();
        let elements: Vec<GaloisElement> = distinct.into_iter().collect();
        let place = |element: &GaloisElement| elements.binary_search(element).unwrap_or_default() as u32;
        let of_choice = |choice: &Choice| choice.elements.iter().map(place).collect();
        let of_shape = |candidates: &Candidates| candidates.choices.iter().map(of_choice).collect();
        let places = candidates.iter().map(of_shape).collect();
        Self { calls, candidates, elements, places }
    }

    /// The shapes of the calls.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// What the splits of each shape count that may be the fastest at some level.
    pub fn fast(&self) -> impl ExactSizeIterator<Item = &[LinearCounts]> {
        self.candidates.iter().map(|candidates| &candidates.fast[..])
    }

    fn choices(&self, shape: usize) -> &[Choice] {
        &self.candidates[shape].choices
    }

    /// The plan of least time plus `price` times key bytes.
    ///
    /// # Errors
    /// A bug: a program that was not made from the graph.
    pub fn plan(
        &self,
        program: &Program,
        params: &Params,
        machine: &Machine,
        price: f64,
    ) -> Result<KeyPlan, LowerError> {
        let sites = self.sites(program, params, machine)?;
        let manifest = keys_besides_calls(program, params);
        let fixed = manifest.galois;
        let relin = manifest.relin.map_or(0, |level| params.key_bytes(level));
        let starts: Vec<Vec<usize>> =
            [price, 30.0 * price].iter().map(|&p| self.alone(&sites, params, p)).collect();
        let known: Vec<Option<Level>> = self.elements.iter().map(|e| fixed.get(e).copied()).collect();
        let (elements, fixed_levels) = (&self.places[..], &known[..]);
        let subject = Subject { sites: &sites, elements, fixed: fixed_levels, params, price };
        let ends = starts.into_iter().map(|start| subject.descend(start));
        let (_, chosen) = ends.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
        let mut plan = self.finish(program, params, &sites, &fixed, &chosen);
        plan.key_bytes += relin;
        Ok(plan)
    }

    fn sites(&self, program: &Program, params: &Params, machine: &Machine) -> Result<Vec<Site>, LowerError> {
        let levels = call_levels(program);
        let site = |(id, call): (CallId, &LinearCall)| {
            let level = *levels.get(&id)?;
            Some(self.calls.place(&call.terms).map(|shape| {
                let time = |c: &Choice| machine.linear_seconds(&c.counts, params, level);
                let seconds = self.choices(shape).iter().map(time).collect();
                Site { call: id.index(), shape, level, seconds }
            }))
        };
        program.calls.iter().filter_map(site).collect()
    }

    /// The best choice of every site as if it were alone.
    fn alone(&self, sites: &[Site], params: &Params, price: f64) -> Vec<usize> {
        let best = |site: &Site| {
            let bytes = price * params.key_bytes(site.level) as f64;
            let score =
                |c: usize| site.seconds[c] + bytes * self.choices(site.shape)[c].elements.len() as f64;
            (0..site.seconds.len()).min_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap_or(0)
        };
        sites.iter().map(best).collect()
    }

    fn finish(
        &self,
        program: &Program,
        params: &Params,
        sites: &[Site],
        fixed: &BTreeMap<GaloisElement, Level>,
        chosen: &[usize],
    ) -> KeyPlan {
        let own = |call: &LinearCall| (call.shared.clone(), call.split.clone());
        let mut recipes: Vec<(Vec<Sharing>, BsgsSplit)> = program.calls.values().map(own).collect();
        let mut keys = fixed.clone();
        let mut seconds = 0.0;
        for (site, &c) in sites.iter().zip(chosen) {
            let choice = &self.choices(site.shape)[c];
            recipes[site.call] = (choice.shared.to_vec(), choice.split.clone());
            seconds += site.seconds[c];
            raise(&mut keys, &choice.elements, site.level);
        }
        let key_bytes = keys.values().map(|&level| params.key_bytes(level)).sum();
        KeyPlan { recipes, seconds, key_bytes }
    }
}

/// Puts a plan into its program; the manifest is not changed.
pub fn apply(program: &mut Program, plan: &KeyPlan) {
    for (call, (shared, split)) in program.calls.values_mut().zip(&plan.recipes) {
        (call.shared, call.split) = (shared.clone(), split.clone());
    }
}

/// Raises the keys of `elements` to `level`.
fn raise(keys: &mut BTreeMap<GaloisElement, Level>, elements: &[GaloisElement], level: Level) {
    for &element in elements {
        let known = keys.entry(element).or_insert(level);
        *known = level.max(*known);
    }
}

/// The candidates of a shape that may be worth their keys, and those that may be the fastest.
fn considered(variants: &[Variant], n: usize) -> Candidates {
    let mut all: Vec<Choice> = Vec::new();
    for Variant { shared, shape } in variants {
        let shared = Arc::new(shared.clone());
        all.extend(candidates(shape).into_iter().map(|split| {
            let cost = shape.cost(&split);
            let elements = cost.elements(n).collect();
            Choice { shared: shared.clone(), split, counts: cost.counts, elements }
        }));
    }
    let fast = fastest(all.iter().map(|choice| choice.counts).collect());
    let slots = n as f64 / 2.0;
    let least = all.iter().map(|c| rough(&c.counts, slots)).fold(f64::INFINITY, f64::min);
    let mut kept: Vec<Choice> =
        all.into_iter().filter(|c| rough(&c.counts, slots) <= SLOWEST * least).collect();
    let rank = |c: &Choice| rough(&c.counts, slots) * (1 + c.elements.len()) as f64;
    kept.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    kept.truncate(KEPT);
    Candidates { choices: kept, fast }
}

/// A time that suits any level, in baby steps: a giant step is about two of them, a turn four, a product with a diagonal of all
/// slots a fifth.
fn rough(counts: &LinearCounts, slots: f64) -> f64 {
    let products = 0.05 * counts.products as f64 + 0.15 * counts.product_words as f64 / slots;
    let switches = counts.babies as f64 + 2.0 * (counts.giants + counts.folds) as f64;
    switches + 4.0 * counts.turns as f64 + products + 1.0
}

/// What the ways to join and split a linear operation count that may be the fastest at some level.
pub fn fast_counts(variants: &[Variant]) -> Vec<LinearCounts> {
    let of =
        |shape: &CallShape| fastest(candidates(shape).iter().map(|split| shape.cost(split).counts).collect());
    fastest(variants.iter().flat_map(|variant| of(&variant.shape)).collect())
}

/// The counts that no others beat in everything.
fn fastest(mut all: Vec<LinearCounts>) -> Vec<LinearCounts> {
    let key = |c: &LinearCounts| {
        [c.turns, c.inputs, c.babies, c.giants + c.folds, c.sums, c.products, c.product_words]
    };
    all.sort_by_key(key);
    all.dedup_by_key(|counts| key(counts));
    let beaten = |c: &LinearCounts| {
        all.iter().any(|other| {
            let (ours, theirs) = (key(c), key(other));
            theirs != ours && theirs.iter().zip(ours).all(|(their, our)| *their <= our)
        })
    };
    all.iter().filter(|c| !beaten(c)).copied().collect()
}
