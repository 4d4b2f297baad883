//! Which diagonals of a map hold the same numbers.
//!
//! Where low digits of row and column pick the ciphertext, a layer does the same to many ciphertexts: the diagonals between
//! one pair of ciphertexts are those between another, but for what meets the border of the map. They are told by the pairs of
//! coordinates that they are made of, before they have any numbers, so that they are encoded, kept and transformed once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::diagonals::{Diagonals, Entry, Group, Member, whole};
use super::pairs::axis_pairs;
use super::{DiagonalKey, ResolvedMap};
use crate::layout::{Axis, Contribution, Layout, Place};

/// Groups of the axes, those with the same entries under one number.
pub(super) struct Contents {
    /// By start of blocks.
    channels: Vec<Vec<u32>>,
    maps: [Vec<u32>; 2],
}

/// What a diagonal holds: the numbers of its members' groups, ascending. Equal ones of one map hold the same weights in the same slots.
pub(super) type Content = Vec<[u32; 3]>;

impl Contents {
    pub(super) fn of(diagonals: &Diagonals) -> Self {
        let mut known: HashMap<Vec<(u32, u32, u32)>, u32> = HashMap::new();
        let mut number = |group: &Group| {
            let entry = |entry: &Entry| (entry.slot, entry.tap, entry.factor.to_bits());
            let mut entries: Vec<_> = group.entries.iter().map(entry).collect();
            entries.sort_unstable();
            let next = known.len() as u32;
            *known.entry(entries).or_insert(next)
        };
        let mut numbers = |groups: &Vec<Group>| groups.iter().map(&mut number).collect();
        let channels = diagonals.channels.iter().map(&mut numbers).collect();
        Self { channels, maps: [numbers(&diagonals.maps[0]), numbers(&diagonals.maps[1])] }
    }

    /// What the diagonal `key` holds; nothing if there is none.
    pub(super) fn content(&self, diagonals: &Diagonals, key: DiagonalKey) -> Content {
        let numbers = |Member { start, groups: [c, y, x] }: &Member| {
            [
                self.channels[*start as usize][*c as usize],
                self.maps[0][*y as usize],
                self.maps[1][*x as usize],
            ]
        };
        let mut content: Content = diagonals.members_of(key).iter().map(numbers).collect();
        content.sort_unstable();
        content
    }
}

/// About which share of the diagonals of a map is left if those that hold the same numbers are counted once, found from its rows and
/// columns alone: channels of different ciphertexts have different weights.
pub fn distinct_share(map: ResolvedMap<'_>) -> f64 {
    if !apart(map.input) && !apart(map.output) {
        return 1.0;
    }
    let [rows, columns] = [Axis::Y, Axis::X].map(|axis| spatial_ends(map, axis));
    let modulus = i64::from(map.input.period.get().min(map.output.period.get()));
    let mut contents: BTreeMap<([u32; 2], [u32; 2], i64), u64> = BTreeMap::new();
    for (row, of_row) in &rows {
        for (column, of_column) in &columns {
            let (output, input) = (row.0 + column.0, row.1 + column.1);
            let start =
                [output.block % map.output.blocks.per_cipher, input.block % map.input.blocks.per_cipher];
            let ciphers = [whole(map.output, output), whole(map.input, input)];
            let content =
                contents.entry((start, ciphers, (row.2 + column.2).rem_euclid(modulus))).or_default();
            *content = content.wrapping_add(hashed(&(of_row, of_column)));
        }
    }
    let distinct: BTreeSet<_> =
        contents.iter().map(|((start, _, slots), content)| (start, slots, content)).collect();
    distinct.len() as f64 / contents.len().max(1) as f64
}

/// Whether rows or columns pick the ciphertext.
fn apart(layout: &Layout) -> bool {
    let [_, rows, columns] = &layout.digits;
    rows.iter().chain(columns).any(|digit| digit.radix > 1 && !matches!(digit.place, Place::Slot(_)))
}

/// Ends and differences of slots on an axis, and what the pairs with them hold.
fn spatial_ends(map: ResolvedMap<'_>, axis: Axis) -> Vec<((Contribution, Contribution, i64), u64)> {
    let (ins, outs) = (map.input.contributions(axis), map.output.contributions(axis));
    let at_output = map.input.period <= map.output.period;
    let mut ends: BTreeMap<(Contribution, Contribution, i64), u64> = BTreeMap::new();
    for pair in axis_pairs(&map, axis) {
        let (input, output) = (ins[pair.input as usize], outs[pair.out as usize]);
        let without = |c: Contribution| Contribution { slot: 0, ..c };
        let slot = if at_output { output.slot } else { input.slot };
        let end = (without(output), without(input), i64::from(input.slot) - i64::from(output.slot));
        let content = ends.entry(end).or_default();
        *content = content.wrapping_add(hashed(&(slot, pair.tap, pair.factor.to_bits())));
    }
    ends.into_iter().collect()
}

fn hashed(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use peregrine_ckks::units::Slots;

    use super::super::{BsgsSplit, ConvGeometry, plan_call};
    use super::*;
    use crate::layout::{Chw, Digit};

    /// Channels of 16x16 pixels whose row and column parities pick the ciphertext.
    fn parities(channels: u32) -> Layout {
        let digit = |radix, place| Digit { radix, place };
        let spatial = |low, stride| vec![digit(2, Place::Cipher(low)), digit(8, Place::Slot(stride))];
        Layout {
            shape: Chw { c: channels, h: 16, w: 16 },
            digits: [vec![digit(channels, Place::Slot(64))], spatial(2, 8), spatial(1, 1)],
            period: Slots::new(64 * channels).unwrap(),
            ciphertexts: 4,
            blocks: Default::default(),
        }
    }

    fn geometry(side: u32) -> ConvGeometry {
        let pad = (side - 1) / 2;
        ConvGeometry { kernel: [side; 2], stride: [1; 2], pad: [pad; 2], dilation: [1; 2], groups: 1 }
    }

    #[test]
    fn ciphertexts_of_one_parity_share_their_diagonals() {
        let (input, output) = (parities(8), parities(4));
        for (side, products, distinct) in [(1, 4 * 4, 4), (3, 4 * 4 * 9, 4 * 25), (5, 4 * 4 * 25, 4 * 49)] {
            let map = ResolvedMap::convolution(&input, &output, geometry(side));
            let split = BsgsSplit::by_modulus(64, 1 << 10);
            let call = plan_call(&[(map, 0)], &split, Slots::new(1 << 10).unwrap());
            // 8 channels fold onto 4: four offsets. Taps that cross the border of a ciphertext differ in what they leave out.
            assert_eq!((call.plan.counts().products, call.diagonals.len()), (products, distinct), "{side}");
            let share = call.diagonals.len() as f64 / products as f64;
            assert!((distinct_share(map) - share).abs() < 1e-9, "{side}");
        }
    }

    #[test]
    fn diagonals_that_hold_the_same_are_one_for_every_weight() {
        let (input, output) = (parities(8), parities(4));
        let map = ResolvedMap::convolution(&input, &output, geometry(3));
        let diagonals = Diagonals::of(map);
        let contents = Contents::of(&diagonals);
        let weights: Vec<f32> = (0..4 * 8 * 9).map(|i| (i * i % 101) as f32).collect();
        let mut known: BTreeMap<Content, Vec<f64>> = BTreeMap::new();
        for key in diagonals.keys() {
            let slots = diagonals.expand(key, &weights, 0).unwrap();
            // Where weights are placed by the operand, they come after the rotation.
            let at = (0..slots.len())
                .map(|slot| slots[(slot + slots.len() - key.rotation as usize) % slots.len()]);
            let placed: Vec<f64> = at.collect();
            let first = known.entry(contents.content(&diagonals, key)).or_insert_with(|| placed.clone());
            assert_eq!(*first, placed, "{key:?}");
        }
        assert!(known.len() < diagonals.len());
        let mut numbers: Vec<&Vec<f64>> = known.values().collect();
        numbers.sort_by(|a, b| a.partial_cmp(b).unwrap());
        numbers.dedup();
        assert_eq!(numbers.len(), known.len(), "different contents hold different numbers");
    }
}
