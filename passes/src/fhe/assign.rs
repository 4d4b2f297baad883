//! Layout assignment: a family for every packed value, by predicted time.
//!
//! The cost is a sum over values (products of polynomials, per ciphertext) and over terms of linear maps (rotations, plaintext
//! products and keys between two layouts), so the best assignment is found by eliminating values one by one, least connected
//! first, each into a table over its neighbours. That is exact dynamic programming on every graph whose tables stay small,
//! the series-parallel ones among them; where a table would grow past the limit a value is fixed to its best uniform family, and
//! the distance to a lower bound is reported.

use std::collections::BTreeSet;

use peregrine_ckks::params::Params;
use peregrine_ir::layout::Layout;
use peregrine_ir::linear::{ResolvedMap, diagonal_keys};
use peregrine_ir::{EntityId, Level, PrimaryMap, ValueId};
use rayon::prelude::*;

use super::LowerError;
use super::cost::Machine;
use super::eliminate::{Factor, Model};
use super::layouts::{Family, Grid, Spread};
use super::pack::{Planned, PlannedOp};
use super::params;
use super::share::{Variant, deepest};
use super::split::CallShape;
use super::views::Term;
use crate::pipeline::Products;

/// Families that every value may take besides a dense one: the best uniform ones.
const FAMILIES_KEPT: usize = 3;
/// A pair of layouts with more combinations of groups than this is not considered.
const MOST_GROUPS: u64 = 1 << 21;
/// A pair of layouts with more diagonals than this is weighed without joining its operand.
const MOST_SHARED: u64 = 1 << 11;
/// Splits that take this many times as long as the fastest are not tried on joined operands.
const SLOWEST_ALONE: f64 = 1.6;
/// Families that take this many times as long as the fastest, all products plain, are not weighed with shared ones.
const SLOWEST_UNIFORM: f64 = 1.5;
/// Seconds of what is never chosen.
const NEVER: f64 = 1e12;
/// Seconds that a byte of switching keys is worth, shared by the layers that use the key.
const SECONDS_PER_KEY_BYTE: f64 = 0.02e-9;
/// Seconds that a byte of an encrypted input is worth: what clients make and send.
const SECONDS_PER_INPUT_BYTE: f64 = 10e-9;

/// How layouts are chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum LayoutSearch {
    /// The least thinned grid with blocks of a power of two, for all values.
    Greedy,
    /// Of least predicted time on this machine, with products shared so far.
    Search(Machine, Products),
}

/// What the search found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayoutReport {
    /// Families in use, but for those of inputs and single pixels alone.
    pub used: Vec<Family>,
    /// Families in use and the values that have them.
    pub families: Vec<(String, usize)>,
    /// Predicted seconds of the uniform assignments, and of the one chosen.
    pub uniform_seconds: Vec<(String, f64)>,
    /// Predicted seconds of the assignment chosen.
    pub seconds: f64,
    /// Largest share of the predicted seconds by which a better assignment of the families considered could be faster; 0 when the
    /// search was exact.
    pub gap: f64,
}

/// Layouts of planned values, in families among `within` if there are any.
///
/// # Errors
/// A map that fits no ciphertext, or a bug.
pub(super) fn assign_layouts(
    plan: &PrimaryMap<ValueId, Planned>,
    slots: u32,
    search: &LayoutSearch,
    within: &[Family],
) -> Result<(Vec<Layout>, LayoutReport), LowerError> {
    let spreads: Vec<Spread> = plan.values().map(|p| p.spread).collect();
    let grid = Grid::new(&spreads, slots);
    let families = grid.families();
    let Some(&first) = families.first() else {
        return Err(LowerError::Unsupported {
            layer: "the model".to_owned(),
            what: "its maps fit no ciphertext".to_owned(),
            way_out: "use a smaller input".to_owned(),
        });
    };
    match search {
        LayoutSearch::Greedy => {
            let pixel = |s: &Spread| s.shape.h == 1 && s.shape.w == 1;
            let chosen: Vec<Family> =
                spreads.iter().map(|s| if pixel(s) { Family::Dense } else { first }).collect();
            let report = LayoutReport { families: tally(&chosen), ..LayoutReport::default() };
            let layouts = spreads.iter().zip(&chosen).map(|(&s, &family)| grid.layout(s, family));
            Ok((layouts.collect::<Result<_, _>>()?, report))
        }
        LayoutSearch::Search(machine, products) => {
            let families = if within.is_empty() { &families[..] } else { within };
            Search::new(plan, grid, (machine, *products))?.run(families)
        }
    }
}

fn tally(chosen: &[Family]) -> Vec<(String, usize)> {
    let distinct: BTreeSet<&Family> = chosen.iter().collect();
    let uses = |family: &Family| chosen.iter().filter(|f| *f == family).count();
    distinct.into_iter().map(|family| (family.to_string(), uses(family))).collect()
}

struct Search<'a> {
    plan: &'a PrimaryMap<ValueId, Planned>,
    grid: Grid,
    machine: &'a Machine,
    products: Products,
    params: Params,
    level: Level,
    /// The variable of each value: polynomials share that of their operand.
    variables: Vec<usize>,
    /// The value that each variable stands for.
    owners: Vec<ValueId>,
}

/// Whether terms are weighed with the products that copies and imaginary parts share, which takes longer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weighing {
    Plain,
    Shared,
}

/// A term between two layouts: what its cost depends on.
struct Pair<'a> {
    term: &'a Term,
    input: &'a Layout,
    output: &'a Layout,
}

impl<'a> Search<'a> {
    fn new(
        plan: &'a PrimaryMap<ValueId, Planned>,
        grid: Grid,
        (machine, products): (&'a Machine, Products),
    ) -> Result<Self, LowerError> {
        let (mut variables, mut owners) = (Vec::with_capacity(plan.len()), Vec::new());
        for (id, planned) in plan.iter() {
            variables.push(match &planned.op {
                PlannedOp::Poly { operand, .. } => variables[operand.index()],
                PlannedOp::Input { .. } | PlannedOp::Linear { .. } => {
                    owners.push(id);
                    owners.len() - 1
                }
            });
        }
        let (params, level) = typical_parameters(grid.slots())?;
        Ok(Self { plan, grid, machine, products, params, level, variables, owners })
    }

    fn run(&self, families: &[Family]) -> Result<(Vec<Layout>, LayoutReport), LowerError> {
        let uniform = self.ranked(families)?;
        let kept: Vec<Family> = uniform.iter().take(FAMILIES_KEPT).map(|u| u.1).collect();
        let domains = self.domains(&kept)?;
        let layouts: Vec<Vec<Layout>> =
            domains.iter().map(|d| d.iter().map(|(_, layout)| layout.clone()).collect()).collect();
        let model = self.model(&layouts, Weighing::Shared);
        let solution = model.solve();
        let chosen: Vec<Family> = domains.iter().zip(&solution.values).map(|(d, &v)| d[v].0).collect();
        let seconds = model.cost(&solution.values);
        let bound = if solution.exact { seconds } else { model.lower_bound() };
        let report = LayoutReport {
            used: kept.into_iter().filter(|family| chosen.contains(family)).collect(),
            families: tally(&chosen),
            uniform_seconds: uniform.iter().map(|(s, family)| (family.to_string(), *s)).collect(),
            seconds,
            gap: ((seconds - bound) / seconds.max(1e-12)).max(0.0),
        };
        let of_value = |&variable: &usize| layouts[variable][solution.values[variable]].clone();
        Ok((self.variables.iter().map(of_value).collect(), report))
    }

    /// Families by the predicted time of all values in one of them, the fastest with shared products first; those that are slow
    /// without are not weighed with them.
    fn ranked(&self, families: &[Family]) -> Result<Vec<(f64, Family)>, LowerError> {
        let mut known: Vec<(Vec<Vec<Layout>>, Family)> = Vec::new();
        for &family in families {
            let domains = self.uniform(family)?;
            // Inputs that may repeat do not tell families apart.
            let same = |(other, _): &(Vec<Vec<Layout>>, Family)| {
                other.iter().zip(&domains).all(|(other, own)| other.first() == own.first())
            };
            if !known.iter().any(same) {
                known.push((domains, family));
            }
        }
        let seconds = |domains: &[Vec<Layout>], weighing| {
            let model = self.model(domains, weighing);
            model.cost(&model.solve().values)
        };
        let plain: Vec<f64> = known.iter().map(|(domains, _)| seconds(domains, Weighing::Plain)).collect();
        let least = plain.iter().copied().fold(NEVER, f64::min);
        let weighed = known.iter().zip(&plain).map(|((domains, family), &plain)| match self.products {
            Products::Deep | Products::Shared if plain <= SLOWEST_UNIFORM * least => {
                (seconds(domains, Weighing::Shared), *family)
            }
            Products::Deep | Products::Shared | Products::Plain => (plain, *family),
        });
        let mut ranked: Vec<(f64, Family)> = weighed.collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(ranked)
    }

    /// Layouts of all variables in one family; values of one pixel are dense, inputs may repeat.
    fn uniform(&self, family: Family) -> Result<Vec<Vec<Layout>>, LowerError> {
        let layouts = |id: &ValueId| {
            let pixel = self.is_pixel(*id) && !family.is_compact();
            let families = std::iter::once(if pixel { Family::Dense } else { family });
            let domain = self.domain(*id, families.chain(self.repeated(*id, &[family])))?;
            Ok(domain.into_iter().map(|(_, layout)| layout).collect())
        };
        self.owners.iter().map(layouts).collect()
    }

    /// What each variable may be.
    fn domains(&self, families: &[Family]) -> Result<Vec<Vec<(Family, Layout)>>, LowerError> {
        let of_variable = |id: &ValueId| {
            let dense = self.is_pixel(*id).then_some(Family::Dense);
            let all = families.iter().copied().chain(dense).chain(self.repeated(*id, families));
            self.domain(*id, all)
        };
        self.owners.iter().map(of_variable).collect()
    }

    /// The distinct layouts of a value in some families.
    fn domain(
        &self,
        id: ValueId,
        families: impl Iterator<Item = Family>,
    ) -> Result<Vec<(Family, Layout)>, LowerError> {
        let mut domain: Vec<(Family, Layout)> = Vec::new();
        for family in families {
            let layout = self.grid.layout(self.plan[id].spread, family)?;
            if domain.iter().all(|(_, known)| *known != layout) {
                domain.push((family, layout));
            }
        }
        Ok(domain)
    }

    fn is_pixel(&self, id: ValueId) -> bool {
        let shape = self.plan[id].spread.shape;
        shape.h == 1 && shape.w == 1
    }

    /// What an input may be besides, where others are in these families.
    fn repeated(&self, id: ValueId, families: &[Family]) -> Vec<Family> {
        match self.plan[id].op {
            PlannedOp::Input { .. } if !self.is_pixel(id) => {
                families.iter().filter_map(|family| family.repeated()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The costs of all choices.
    fn model(&self, domains: &[Vec<Layout>], weighing: Weighing) -> Model {
        let mut factors = Vec::new();
        let mut scopes: Vec<(usize, usize, &Term)> = Vec::new();
        for (id, planned) in self.plan.iter() {
            let variable = self.variables[id.index()];
            match &planned.op {
                PlannedOp::Input { .. } => {
                    let bytes = self.params.ciphertext_bytes(self.level) as f64;
                    let cost =
                        |layout: &Layout| SECONDS_PER_INPUT_BYTE * bytes * f64::from(layout.ciphertexts);
                    factors.push(Factor::unary(variable, domains[variable].iter().map(cost).collect()));
                }
                PlannedOp::Poly { degree, .. } => {
                    let cost = |layout: &Layout| self.polynomial_seconds(*degree, layout);
                    factors.push(Factor::unary(variable, domains[variable].iter().map(cost).collect()));
                }
                PlannedOp::Linear { terms, .. } => {
                    scopes.extend(terms.iter().map(|t| (self.variables[t.source.index()], variable, t)));
                }
            }
        }
        let pairs: Vec<Pair<'_>> = scopes
            .iter()
            .flat_map(|&(from, to, term)| {
                let outputs = &domains[to];
                domains[from]
                    .iter()
                    .flat_map(move |input| outputs.iter().map(move |output| Pair { term, input, output }))
            })
            .collect();
        let mut seconds = self.pair_seconds(&pairs, weighing).into_iter();
        for (from, to, _) in scopes {
            let count = domains[from].len() * domains[to].len();
            factors.push(Factor::pair([from, to], domains[to].len(), seconds.by_ref().take(count).collect()));
        }
        Model { domains: domains.iter().map(Vec::len).collect(), factors }
    }

    /// Seconds of each pair; equal ones are counted once.
    fn pair_seconds(&self, pairs: &[Pair<'_>], weighing: Weighing) -> Vec<f64> {
        let mut distinct: Vec<&Pair<'_>> = Vec::new();
        let index: Vec<usize> = pairs
            .iter()
            .map(|pair| {
                distinct.iter().position(|known| known.same(pair)).unwrap_or_else(|| {
                    distinct.push(pair);
                    distinct.len() - 1
                })
            })
            .collect();
        let seconds: Vec<f64> = distinct.par_iter().map(|pair| self.term_seconds(pair, weighing)).collect();
        index.into_iter().map(|i| seconds[i]).collect()
    }

    fn term_seconds(&self, pair: &Pair<'_>, weighing: Weighing) -> f64 {
        let map = pair.map();
        let slots = self.params.max_slots();
        let Some(keys) = diagonal_keys(map, MOST_GROUPS) else { return NEVER };
        let (terms, keys) = ([(map, 0)], [keys]);
        let plain = CallShape::joined(&terms, &keys, &[], slots);
        let period = map.input.period.get().min(map.output.period.get());
        let of_split = |shape: &CallShape, modulus: u32| {
            let (counts, rotations) = shape.modulus_cost(modulus);
            let keys = rotations as f64 * self.params.key_bytes(self.level) as f64;
            self.machine.linear_seconds(&counts, &self.params, self.level) + SECONDS_PER_KEY_BYTE * keys
        };
        // Every other power of two: a pair is weighed against others, its split is chosen later.
        let moduli = std::iter::successors(Some(1u32), |m| Some(m * 4)).take_while(|&m| m <= period);
        let alone: Vec<(u32, f64)> = moduli.map(|m| (m, of_split(&plain, m))).collect();
        let least = alone.iter().map(|(_, seconds)| *seconds).fold(NEVER, f64::min);
        let alone_only = weighing == Weighing::Plain || self.products == Products::Plain;
        if plain.products() > MOST_SHARED || alone_only {
            return least;
        }
        let good: Vec<u32> = alone.iter().filter(|(_, s)| *s < SLOWEST_ALONE * least).map(|a| a.0).collect();
        let of_variant =
            |variant: &Variant| good.iter().map(|&m| of_split(&variant.shape, m)).fold(NEVER, f64::min);
        deepest(&terms, &keys, slots, self.products).iter().map(of_variant).fold(least, f64::min)
    }

    fn polynomial_seconds(&self, degree: u32, layout: &Layout) -> f64 {
        let products = f64::from(degree).log2().ceil().mul_add(2.0, -1.0);
        let one = self.machine.key_switch_seconds(&self.params, self.level);
        f64::from(layout.ciphertexts) * products * one
    }
}

impl Pair<'_> {
    fn same(&self, other: &Self) -> bool {
        let (a, b) = (self.term, other.term);
        self.input == other.input
            && self.output == other.output
            && a.geometry == b.geometry
            && a.before == b.before
            && a.after == b.after
    }

    fn map(&self) -> ResolvedMap<'_> {
        let Term { before, geometry, after, .. } = self.term;
        let (before, after) =
            ((!before.is_identity()).then_some(before), (!after.is_identity()).then_some(after));
        ResolvedMap { input: self.input, output: self.output, geometry: *geometry, before, after }
    }
}

/// A chain of half the largest modulus of the ring, in the middle of which most operations run.
///
/// # Errors
/// A bug: every ring holds a chain of one prime.
pub fn typical_parameters(slots: u32) -> Result<(Params, Level), LowerError> {
    let log_n = slots.ilog2() + 1;
    let literals = (1..=24).rev().map(|count| params::candidates(&vec![50; count], log_n));
    let literal = literals.filter_map(|c| c.into_iter().take(4).next_back()).next();
    let params = params::check(literal.ok_or_else(|| LowerError::bug("a ring without a prime"))?)?;
    let level = Level(params.max_level().0 / 2);
    Ok((params, level))
}
