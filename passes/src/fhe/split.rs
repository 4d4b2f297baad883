//! What a baby-step giant-step split of a linear call costs: counted on the call's diagonals, and its rotations.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::units::Rotation;
use peregrine_ir::fhe::{Fhe, FheGraph};
use peregrine_ir::layout::{self, Layout};
use peregrine_ir::linear::{
    BsgsSplit, DiagonalKey, LayoutId, LinearMap, LinearMapId, Parts, ResolvedMap, SplitTable, diagonal_keys,
    fold_rotations,
};
use peregrine_ir::program::CallTerm;
use peregrine_ir::{Node, PrimaryMap, Slots};

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
    /// Rotations that fold the result.
    folds: Vec<u32>,
    /// Ciphertexts of all operands.
    pub inputs: u32,
    /// Ciphertexts of the result.
    pub outputs: u32,
    /// Slot strides of the layouts' digits, ascending.
    pub strides: Vec<u32>,
    slots: Slots,
}

/// What a split costs, and the rotations that need keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitCost {
    /// Operations.
    pub counts: LinearCounts,
    /// Rotations, without 0.
    pub rotations: BTreeSet<Rotation>,
}

impl CallShape {
    /// The shape of a linear operation of an fhe graph.
    pub fn of_node(graph: &FheGraph, node: &Node<Fhe>, slots: Slots) -> Self {
        let terms = terms(node).unwrap_or_default();
        Self::of(&resolve(&terms, &graph.tables.maps, &graph.tables.layouts), slots)
    }

    /// The shape of a sum of maps.
    pub fn of(terms: &[(ResolvedMap<'_>, u32)], slots: Slots) -> Self {
        let keys = |map| diagonal_keys(map, u64::MAX).unwrap_or_default();
        let keys = terms.iter().map(|(map, _)| keys(*map)).collect();
        Self::of_keys(terms, keys, slots)
    }

    /// The shape of one map, if no more than `most` combinations of channels, rows and columns lead to its diagonals.
    pub fn within(map: ResolvedMap<'_>, most: u64, slots: Slots) -> Option<Self> {
        diagonal_keys(map, most).map(|keys| Self::of_keys(&[(map, 0)], vec![keys], slots))
    }

    fn of_keys(terms: &[(ResolvedMap<'_>, u32)], keys: Vec<Vec<DiagonalKey>>, slots: Slots) -> Self {
        let operands: BTreeMap<u32, u32> = terms.iter().map(|(map, o)| (*o, map.input.ciphertexts)).collect();
        let first = |operand: u32| -> u32 { operands.range(..operand).map(|(_, count)| count).sum() };
        let digits = terms.iter().flat_map(|(map, _)| [map.input, map.output]).flat_map(|l| &l.digits);
        let strides = digits.flatten().filter(|d| d.radix > 1).filter_map(|d| match d.place {
            layout::Place::Slot(stride) => Some(stride),
            layout::Place::Cipher(_) | layout::Place::Block(_) => None,
        });
        let folds =
            terms.iter().map(|(map, _)| fold_rotations(map.input.period.get(), map.output.period.get()));
        let (mut shapes, mut reads, mut writes) = (Vec::with_capacity(terms.len()), Vec::new(), Vec::new());
        for (term, ((map, operand), keys)) in (0u32..).zip(terms.iter().zip(keys)) {
            let (input, output) = (map.input.period.get(), map.output.period.get());
            let (stage, modulus, first) = (input.max(output), input.min(output), first(*operand));
            let mut used = Marks::below(modulus as usize);
            keys.iter().for_each(|key| used.insert(key.rotation as usize));
            let rotations: Vec<u32> = used.iter().map(|rotation| rotation as u32).collect();
            let mut places = vec![0; modulus as usize];
            (0u32..).zip(&rotations).for_each(|(place, &rotation)| places[rotation as usize] = place);
            let place = |key: &DiagonalKey| Place { term, rotation: places[key.rotation as usize] };
            reads.extend(keys.iter().map(|key| ((0, first + key.cipher_in), place(key))));
            writes.extend(keys.iter().map(|key| ((stage, key.cipher_out), place(key))));
            shapes.push(TermShape { stage, modulus, rotations, products: keys.len() as u64, period: stage });
        }
        Self {
            terms: shapes,
            reads: alike(reads),
            writes: alike(writes),
            folds: folds.max_by_key(Vec::len).unwrap_or_default(),
            inputs: operands.values().sum(),
            outputs: terms.first().map_or(0, |(map, _)| map.output.ciphertexts),
            strides: distinct(strides),
            slots,
        }
    }

    fn rotation(&self, at: Place) -> u32 {
        self.terms[at.term as usize].rotations[at.rotation as usize]
    }

    /// Counts that do not depend on the split.
    fn fixed_counts(&self) -> LinearCounts {
        let outputs = u64::from(self.outputs);
        let mut counts = LinearCounts { outputs, ..LinearCounts::default() };
        counts.folds = self.folds.len() as u64 * outputs;
        for term in &self.terms {
            counts.products += term.products;
            counts.product_slots += term.products * u64::from(term.period);
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
            let giants = write.rotations.iter().map(|&at| self.rotation(at) / modulus).max().unwrap_or(0);
            counts.giants += write.count * u64::from(giants);
            counts.sums += write.count * (u64::from(giants) + 1);
            furthest = furthest.max(giants);
        }
        let step = (furthest > 0).then_some(modulus);
        let rotations = all.iter().map(|baby| baby as u32).chain(step).chain(self.folds.iter().copied());
        let rotations = distinct(rotations.map(|r| r % self.slots.get()));
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
        rotations.extend(self.folds.iter().map(|&r| rotation(r.into())));
        rotations.remove(&Rotation::ZERO);
        SplitCost { counts, rotations }
    }
}

/// Ciphertexts, each with its rotations, gathered by those: ascending, each rotation once.
fn alike(mut ciphertexts: Vec<((u32, u32), Place)>) -> Vec<Alike> {
    ciphertexts.sort_unstable();
    ciphertexts.dedup();
    let mut found: BTreeMap<Vec<Place>, u64> = BTreeMap::new();
    for of_ciphertext in ciphertexts.chunk_by(|a, b| a.0 == b.0) {
        *found.entry(of_ciphertext.iter().map(|(_, place)| *place).collect()).or_default() += 1;
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
                assert_eq!(CallShape::within(map, u64::MAX, shape.slots), Some(shape.clone()));
                assert_eq!(CallShape::within(map, 8, shape.slots), None);
                let reach = shape.terms[0].modulus;
                for modulus in (0..=reach.ilog2()).map(|log| 1 << log) {
                    let SplitCost { counts, rotations } = shape.cost(&BsgsSplit::by_modulus(modulus, reach));
                    assert_eq!(shape.modulus_cost(modulus), (counts, rotations.len()), "{family} {modulus}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 50, "{compared}");
    }
}
