//! What a baby-step giant-step split of a linear call costs: counted on the call's diagonals, and its rotations.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::evaluator::linear::Close;
use peregrine_ckks::units::Rotation;
use peregrine_ir::fhe::{Fhe, FheGraph};
use peregrine_ir::layout::{self, Layout};
use peregrine_ir::linear::{
    BsgsSplit, DiagonalKey, Imaginary, LayoutId, LinearMap, LinearMapId, Parts, ResolvedMap, Sharing,
    SplitTable, diagonal_keys, distinct_share, shared_keys,
};
use peregrine_ir::program::CallTerm;
use peregrine_ir::{GaloisElement, Node, PrimaryMap, Slots};

use super::calls::terms;
use super::cost::LinearCounts;
use super::marks::Marks;

/// Looks up the maps and layouts of the terms of a call.
pub fn resolve<'a>(
    terms: &[CallTerm],
    maps: &'a PrimaryMap<LinearMapId, LinearMap>,
    layouts: &'a PrimaryMap<LayoutId, Layout>,
) -> Vec<(ResolvedMap<'a>, u32)> {
    terms.iter().map(|term| (maps[term.map].resolve(layouts), term.operand)).collect()
}

/// The terms of a linear operation of an fhe graph; those that are the same value are one operand.
pub fn terms_of<'a>(graph: &'a FheGraph, node: &Node<Fhe>) -> Vec<(ResolvedMap<'a>, u32)> {
    resolve(&terms(node).unwrap_or_default(), &graph.tables.maps, &graph.tables.layouts)
}

/// The diagonals of one term of a call, without their weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermShape {
    /// Period that the term is computed at.
    pub stage: u32,
    /// Rotations are known modulo this.
    pub modulus: u32,
    /// The distinct rotations, ascending.
    pub rotations: Vec<u32>,
    products: u64,
    /// Those with plaintexts that differ.
    diagonals: u64,
    period: u32,
}

/// Ciphertexts that meet the same rotations of the same terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Alike {
    count: u64,
    rotations: Vec<Place>,
}

/// A rotation of a call: the term, and its place among the rotations of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    term: u32,
    rotation: u32,
}

/// What the rotations of a call depend on. Calls of one shape have the same splits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallShape {
    /// The terms.
    pub terms: Vec<TermShape>,
    /// Ciphertexts of the operands by the rotations that they are read at.
    reads: Vec<Alike>,
    /// Ciphertexts of the result, once for each period that terms are computed at, by the rotations that add to them.
    writes: Vec<Alike>,
    /// Pairs of a ciphertext of an operand and one of the result that have a product.
    pairs: u64,
    /// Rotations that fold the result.
    folds: Vec<u32>,
    /// Rotations of operands to be joined.
    joins: Vec<i32>,
    /// Whether the result is a real part, which takes a conjugation.
    close: Close,
    /// Ciphertexts of all operands.
    pub inputs: u32,
    /// Ciphertexts of the result.
    pub outputs: u32,
    /// Slot strides of the layouts' digits, ascending.
    pub strides: Vec<u32>,
    slots: Slots,
}

/// The diagonals of a map, ascending.
pub fn all_keys(map: ResolvedMap<'_>) -> Vec<DiagonalKey> {
    diagonal_keys(map, u64::MAX).unwrap_or_default()
}

/// What a split costs, and the rotations that need keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitCost {
    /// Operations.
    pub counts: LinearCounts,
    /// Rotations, without 0.
    pub rotations: BTreeSet<Rotation>,
    /// Whether the result is conjugated.
    close: Close,
}

impl SplitCost {
    /// The automorphisms that need a key in a ring of degree `n`.
    pub fn elements(&self, n: usize) -> impl Iterator<Item = GaloisElement> {
        let conjugation = match self.close {
            Close::Sum => None,
            Close::AddConjugate => Some(GaloisElement::conjugation(n)),
        };
        self.rotations.iter().map(move |&r| GaloisElement::from_rotation(r, n)).chain(conjugation)
    }
}

/// A product of a term: one diagonal, or what several became.
#[derive(Clone, Copy, Debug)]
struct Product {
    cipher_in: u32,
    cipher_out: u32,
    rotation: u32,
}

/// The products of a term and the period that they are computed at.
struct Worked {
    products: Vec<Product>,
    period: u32,
}

impl Worked {
    fn alone(map: ResolvedMap<'_>, keys: &[DiagonalKey]) -> Self {
        let product = |key: &DiagonalKey| Product {
            cipher_in: key.cipher_in,
            cipher_out: key.cipher_out,
            rotation: key.rotation,
        };
        let period = map.input.period.get().max(map.output.period.get());
        Self { products: keys.iter().map(product).collect(), period }
    }

    fn shared(map: ResolvedMap<'_>, keys: &[DiagonalKey], sharing: &Sharing) -> Self {
        let modulus = map.input.period.get().min(map.output.period.get());
        let Self { products, period } = Self::alone(map, &shared_keys(keys, modulus, sharing));
        Self { products, period: period * sharing.copies() }
    }
}

impl CallShape {
    /// The shape of a sum of maps.
    pub fn of(terms: &[(ResolvedMap<'_>, u32)], slots: Slots) -> Self {
        let keys: Vec<Vec<DiagonalKey>> = terms.iter().map(|(map, _)| all_keys(*map)).collect();
        Self::joined(terms, &keys, &[], slots)
    }

    /// The shape of a sum of maps with these diagonals (ascending), whose operands are joined.
    pub fn joined(
        terms: &[(ResolvedMap<'_>, u32)],
        keys: &[Vec<DiagonalKey>],
        sharings: &[Sharing],
        slots: Slots,
    ) -> Self {
        let of = |((map, operand), keys): (&(ResolvedMap<'_>, u32), &Vec<DiagonalKey>)| match sharings
            .get(*operand as usize)
            .filter(|sharing| !sharing.is_none())
        {
            Some(sharing) => Worked::shared(*map, keys, sharing),
            None => Worked::alone(*map, keys),
        };
        Self::of_products(terms, terms.iter().zip(keys).map(of).collect(), sharings, slots)
    }

    fn of_products(
        terms: &[(ResolvedMap<'_>, u32)],
        worked: Vec<Worked>,
        sharings: &[Sharing],
        slots: Slots,
    ) -> Self {
        let operands: BTreeMap<u32, u32> = terms.iter().map(|(map, o)| (*o, map.input.ciphertexts)).collect();
        let first = |operand: u32| -> u32 { operands.range(..operand).map(|(_, count)| count).sum() };
        let widest = worked.iter().map(|work| work.period).max().unwrap_or(0);
        let (mut shapes, mut reads, mut writes) =
            (Vec::with_capacity(terms.len()), Gathered::new(), Gathered::new());
        let inputs: u32 = operands.values().sum();
        let outputs = terms.first().map_or(0, |(map, _)| map.output.ciphertexts);
        let mut pairs = Marks::below((inputs * outputs) as usize);
        for (term, ((map, operand), work)) in (0u32..).zip(terms.iter().zip(worked)) {
            let (modulus, first) = (map.input.period.min(map.output.period).get(), first(*operand));
            let (stage, products) = (work.period, work.products);
            let mut used = Marks::below(modulus as usize);
            products.iter().for_each(|product| used.insert(product.rotation as usize));
            let rotations: Vec<u32> = used.iter().map(|rotation| rotation as u32).collect();
            let mut places = vec![0; modulus as usize];
            (0u32..).zip(&rotations).for_each(|(place, &rotation)| places[rotation as usize] = place);
            let mut places = Places { term, of_rotation: &places, seen: Marks::below(rotations.len()) };
            places.gather(&products, 0, &mut reads, |product| first + product.cipher_in);
            places.gather(&products, stage, &mut writes, |product| product.cipher_out);
            let pair = |product: &Product| (first + product.cipher_in) * outputs + product.cipher_out;
            products.iter().for_each(|product| pairs.insert(pair(product) as usize));
            let products = products.len() as u64;
            let diagonals = (products as f64 * distinct_share(*map)).ceil() as u64;
            shapes.push(TermShape { stage, modulus, rotations, products, diagonals, period: stage });
        }
        let period = terms.first().map_or(1, |(map, _)| map.output.period.get());
        let folds = std::iter::successors(Some(period), |r| r.checked_mul(2)).take_while(|&r| r < widest);
        let complex = operands.keys().any(|&o| sharings.get(o as usize).is_some_and(Sharing::is_complex));
        Self {
            terms: shapes,
            reads: alike(reads),
            writes: alike(writes),
            pairs: pairs.iter().count() as u64,
            folds: folds.collect(),
            joins: joins(&operands, sharings),
            close: if complex { Close::AddConjugate } else { Close::Sum },
            inputs,
            outputs,
            strides: strides(terms),
            slots,
        }
    }

    /// Plaintext products.
    pub fn products(&self) -> u64 {
        self.terms.iter().map(|term| term.products).sum()
    }

    fn rotation(&self, at: Place) -> u32 {
        self.terms[at.term as usize].rotations[at.rotation as usize]
    }

    /// Counts that do not depend on the split.
    fn fixed_counts(&self) -> LinearCounts {
        let outputs = u64::from(self.outputs);
        let mut counts = LinearCounts { outputs, pairs: self.pairs, ..LinearCounts::default() };
        let closing = match self.close {
            Close::Sum => 0,
            Close::AddConjugate => 1,
        };
        counts.folds = (self.folds.len() as u64 + closing) * outputs;
        counts.turns = self.joins.len() as u64;
        // Complex diagonals have two coefficients for each slot.
        let stored = match self.close {
            Close::Sum => 1,
            Close::AddConjugate => 2,
        };
        for term in &self.terms {
            counts.products += term.products;
            counts.diagonals += term.diagonals;
            counts.encoded_slots += term.diagonals * u64::from(term.period);
            counts.product_words += stored * term.diagonals * u64::from(term.period);
        }
        counts
    }

    /// What the split of every term by `modulus` costs, babies below it and its multiples as giants: as [`Self::cost`] of
    /// [`BsgsSplit::by_modulus`], counted without tables. Also the number of rotations that need keys.
    pub fn modulus_cost(&self, modulus: u32) -> (LinearCounts, usize) {
        let mut counts = self.fixed_counts();
        let mut babies = Marks::below(modulus as usize);
        let mut all = babies.clone();
        for read in &self.reads {
            babies.clear();
            read.rotations.iter().for_each(|&at| babies.insert((self.rotation(at) % modulus) as usize));
            let hoisted = babies.iter().filter(|&baby| baby > 0).count() as u64;
            counts.babies += read.count * hoisted;
            counts.inputs += read.count * u64::from(hoisted > 0);
            all.extend(&babies);
        }
        let mut furthest = 0;
        for write in &self.writes {
            let giants = || write.rotations.iter().map(|&at| self.rotation(at) / modulus);
            let last = giants().max().unwrap_or(0);
            counts.giants += write.count * u64::from(last);
            counts.sums += write.count * (u64::from(last) + u64::from(giants().any(|giant| giant == 0)));
            furthest = furthest.max(last);
        }
        let step = (furthest > 0).then_some(modulus);
        let slots = self.slots.get();
        let joins = self.joins.iter().map(|&shift| i64::from(shift).rem_euclid(i64::from(slots)) as u32);
        let rotations = all.iter().map(|baby| baby as u32).chain(step).chain(self.folds.iter().copied());
        let rotations = distinct(rotations.chain(joins).map(|r| r % slots));
        (counts, rotations.iter().filter(|&&rotation| rotation > 0).count())
    }

    /// Counts what `split` costs.
    pub fn cost(&self, split: &BsgsSplit) -> SplitCost {
        let mut counts = self.fixed_counts();
        let tables: Vec<(u32, SplitTable)> = distinct(self.terms.iter().map(|term| term.modulus))
            .into_iter()
            .map(|modulus| (modulus, split.table(modulus)))
            .collect();
        let of_term = |term: &TermShape| -> Vec<Parts> {
            let table = tables.iter().find(|(modulus, _)| *modulus == term.modulus);
            table.map_or_else(Vec::new, |(_, table)| term.rotations.iter().map(|&r| table.parts(r)).collect())
        };
        let parts: Vec<Vec<Parts>> = self.terms.iter().map(of_term).collect();
        let part = |at: &Place| parts[at.term as usize][at.rotation as usize];
        let mut rotations: BTreeSet<Rotation> = BTreeSet::new();
        let rotation = |r: i64| Rotation::new(r, self.slots);
        for read in &self.reads {
            let babies = read.rotations.iter().map(part).map(|part| (part.turn, rotation(part.baby.into())));
            let babies = distinct(babies);
            for of_turn in babies.chunk_by(|a, b| a.0 == b.0) {
                let hoisted = of_turn.iter().filter(|(_, baby)| !baby.is_zero()).count() as u64;
                counts.turns += read.count * u64::from(of_turn[0].0 != 0);
                counts.babies += read.count * hoisted;
                counts.inputs += read.count * u64::from(hoisted > 0);
                rotations.insert(rotation(of_turn[0].0.into()));
            }
            rotations.extend(babies.iter().map(|(_, baby)| *baby));
        }
        for write in &self.writes {
            let chain = split.chain(distinct(write.rotations.iter().map(|at| part(at).giant)));
            counts.sums += write.count * chain.len() as u64;
            for step in chain.iter().map(|&(_, step)| rotation(step)).filter(|step| !step.is_zero()) {
                counts.giants += write.count;
                rotations.insert(step);
            }
        }
        rotations.extend(self.joins.iter().map(|&shift| rotation(shift.into())));
        rotations.extend(self.folds.iter().map(|&r| rotation(r.into())));
        rotations.remove(&Rotation::ZERO);
        SplitCost { counts, rotations, close: self.close }
    }
}

/// Slot strides of the layouts' digits, ascending.
fn strides(terms: &[(ResolvedMap<'_>, u32)]) -> Vec<u32> {
    let digits = terms.iter().flat_map(|(map, _)| [map.input, map.output]).flat_map(|l| &l.digits);
    let strides = digits.flatten().filter(|d| d.radix > 1).filter_map(|d| match d.place {
        layout::Place::Slot(stride) => Some(stride),
        layout::Place::Cipher(_) | layout::Place::Block(_) => None,
    });
    distinct(strides)
}

/// The rotations that join the ciphertexts of operands.
fn joins(operands: &BTreeMap<u32, u32>, sharings: &[Sharing]) -> Vec<i32> {
    let mut joins = Vec::new();
    for (&operand, &ciphertexts) in operands {
        let Some(sharing) = sharings.get(operand as usize) else { continue };
        let own = match sharing.imaginary {
            Imaginary::Nothing | Imaginary::Next => None,
            Imaginary::Rotated(shift) => Some(shift),
        };
        for _ in (0..ciphertexts).step_by(sharing.ciphers() as usize) {
            joins.extend(own.iter().chain(&sharing.shifts).copied().filter(|&shift| shift != 0));
        }
    }
    joins
}

/// The rotations of ciphertexts, each by the period that it is computed at and its index: ascending, each once.
type Gathered = BTreeMap<(u32, u32), Vec<Place>>;

/// The places of a term's rotations.
struct Places<'a> {
    term: u32,
    of_rotation: &'a [u32],
    seen: Marks,
}

impl Places<'_> {
    /// Adds the places of the products to those of their ciphertexts, which are of earlier terms.
    fn gather(
        &mut self,
        products: &[Product],
        stage: u32,
        gathered: &mut Gathered,
        ciphertext: impl Fn(&Product) -> u32,
    ) {
        let mut order: Vec<(u32, u32)> = products
            .iter()
            .map(|product| (ciphertext(product), self.of_rotation[product.rotation as usize]))
            .collect();
        // Products of a ciphertext are next to each other, or few runs of them are.
        order.sort_by_key(|(cipher, _)| *cipher);
        for of_ciphertext in order.chunk_by(|a, b| a.0 == b.0) {
            self.seen.clear();
            of_ciphertext.iter().for_each(|(_, place)| self.seen.insert(*place as usize));
            let places =
                self.seen.iter().map(|rotation| Place { term: self.term, rotation: rotation as u32 });
            gathered.entry((stage, of_ciphertext[0].0)).or_default().extend(places);
        }
    }
}

/// Ciphertexts gathered by their rotations.
fn alike(gathered: Gathered) -> Vec<Alike> {
    let mut found: BTreeMap<Vec<Place>, u64> = BTreeMap::new();
    for places in gathered.into_values() {
        *found.entry(places).or_default() += 1;
    }
    found.into_iter().map(|(rotations, count)| Alike { count, rotations }).collect()
}

fn distinct<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items
}

#[cfg(test)]
mod tests {
    use peregrine_ir::layout::Chw;
    use peregrine_ir::linear::ConvGeometry;

    use super::*;
    use crate::fhe::layouts::{Grid, Spread};

    #[test]
    fn splits_by_a_modulus_are_counted_as_any_others() {
        let spread = |c, side, gap| Spread { shape: Chw { c, h: side, w: side }, gap: [gap, gap] };
        let nets = [[spread(3, 32, 1), spread(16, 16, 2)], [spread(24, 12, 4), spread(8, 48, 1)]];
        let geometry =
            ConvGeometry { kernel: [3, 3], stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
        let mut compared = 0;
        for net in nets {
            let grid = Grid::new(&net, 1 << 12);
            for family in grid.families() {
                let [input, output] = net.map(|spread| grid.layout(spread, family).expect("of the grid"));
                let map = ResolvedMap::convolution(&input, &output, geometry);
                let shape = CallShape::of(&[(map, 0)], Slots::new(1 << 12).expect("a power of two"));
                let reach = shape.terms[0].modulus;
                for modulus in (0..=reach.ilog2()).map(|log| 1 << log) {
                    let SplitCost { counts, rotations, .. } =
                        shape.cost(&BsgsSplit::by_modulus(modulus, reach));
                    assert_eq!(shape.modulus_cost(modulus), (counts, rotations.len()), "{family} {modulus}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 50, "{compared}");
    }
}
