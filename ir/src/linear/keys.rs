//! Which diagonals a linear map has, without what is on them: what costs are counted on.
//!
//! Of every axis only distinct sums are kept, and keys are numbers that are sorted: many times as fast as [`Diagonals`], which
//! remembers the elements of each.

use std::collections::BTreeMap;

use super::diagonals::{Diagonals, whole};
use super::pairs::{Pair, axis_pairs};
use super::{DiagonalKey, ResolvedMap};
use crate::layout::{Axis, Contribution, Layout, Position};

/// Bits of a ciphertext index in a packed key.
const CIPHER_BITS: u32 = 20;
/// Bits of a rotation in a packed key.
const ROTATION_BITS: u32 = 24;
/// Products of fewer slots than this are sorted instead of marked.
const FEW: usize = 1 << 12;

/// The keys of [`Diagonals::of`], ascending; `None` if more than `most` combinations of channels, rows and columns lead to them.
pub fn diagonal_keys(map: ResolvedMap<'_>, most: u64) -> Option<Vec<DiagonalKey>> {
    let ciphertexts = map.input.ciphertexts.max(map.output.ciphertexts);
    let modulus = map.input.period.get().min(map.output.period.get());
    if ciphertexts >> CIPHER_BITS > 0 || modulus >> ROTATION_BITS > 0 {
        let all = Diagonals::of(map);
        return (all.len() as u64 <= most).then(|| all.keys().collect());
    }
    let channels = Channels::of(map);
    let mut offsets: BTreeMap<[u32; 2], Vec<Offset>> = BTreeMap::new();
    let (mut found, mut total) = (Vec::new(), 0u64);
    for (start, sums) in spatial(map, modulus, most)? {
        let of_start = offsets.entry(start).or_insert_with(|| channels.offsets(start));
        total = total.saturating_add(sums.len() as u64 * of_start.len() as u64);
        if total > most {
            return None;
        }
        for sum in &sums {
            found.extend(of_start.iter().map(|channel| channel.plus(*sum).packed(modulus)));
        }
    }
    found.sort_unstable();
    found.dedup();
    Some(found.into_iter().map(unpacked).collect())
}

/// A difference of slots between two ciphertexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Offset {
    output: u32,
    input: u32,
    slots: i64,
}

impl Offset {
    fn plus(self, other: Self) -> Self {
        Self {
            output: self.output + other.output,
            input: self.input + other.input,
            slots: self.slots + other.slots,
        }
    }

    /// A number in the order of the keys.
    fn packed(self, modulus: u32) -> u64 {
        let ciphers = u64::from(self.output) << CIPHER_BITS | u64::from(self.input);
        ciphers << ROTATION_BITS | self.slots.rem_euclid(i64::from(modulus)) as u64
    }
}

fn unpacked(key: u64) -> DiagonalKey {
    let bits = |shift: u32, count: u32| (key >> shift & ((1 << count) - 1)) as u32;
    DiagonalKey {
        cipher_out: bits(CIPHER_BITS + ROTATION_BITS, CIPHER_BITS),
        cipher_in: bits(ROTATION_BITS, CIPHER_BITS),
        rotation: bits(0, ROTATION_BITS),
    }
}

/// Start of blocks and the distinct offsets that rows and columns lead to from there.
type Spatial = BTreeMap<[u32; 2], Vec<Offset>>;

fn spatial(map: ResolvedMap<'_>, modulus: u32, most: u64) -> Option<Spatial> {
    let [rows, columns] = [Axis::Y, Axis::X].map(|axis| ends(map, axis));
    if rows.len() as u64 * columns.len() as u64 > most {
        return None;
    }
    let mut sums = Spatial::new();
    for row in &rows {
        for column in &columns {
            let (output, input) = (row.0 + column.0, row.1 + column.1);
            let start =
                [output.block % map.output.blocks.per_cipher, input.block % map.input.blocks.per_cipher];
            let slots = (row.2 + column.2).rem_euclid(i64::from(modulus));
            let (output, input) = (whole(map.output, output), whole(map.input, input));
            sums.entry(start).or_default().push(Offset { output, input, slots });
        }
    }
    for offsets in sums.values_mut() {
        offsets.sort_unstable();
        offsets.dedup();
    }
    Some(sums)
}

/// The distinct (output, input, difference of slots) of one axis.
fn ends(map: ResolvedMap<'_>, axis: Axis) -> Vec<(Contribution, Contribution, i64)> {
    let (ins, outs) = (map.input.contributions(axis), map.output.contributions(axis));
    let end = |pair: Pair| {
        let (input, output) = (ins[pair.input as usize], outs[pair.out as usize]);
        let without = |c: Contribution| Contribution { slot: 0, ..c };
        (without(output), without(input), i64::from(input.slot) - i64::from(output.slot))
    };
    let mut ends: Vec<_> = axis_pairs(&map, axis).into_iter().map(end).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// Channels of the result and of the operand, and which of them meet.
struct Channels<'a> {
    map: ResolvedMap<'a>,
    outs: Vec<Contribution>,
    ins: Vec<Contribution>,
    /// `None` if all meet all.
    pairs: Option<Vec<Pair>>,
}

impl<'a> Channels<'a> {
    fn of(map: ResolvedMap<'a>) -> Self {
        let plain = |map: Option<&crate::axis::Separable>| map.is_none_or(|map| map.maps[0].is_identity());
        let all = map.geometry.groups <= 1 && plain(map.before) && plain(map.after);
        Self {
            map,
            outs: map.output.contributions(Axis::C),
            ins: map.input.contributions(Axis::C),
            pairs: (!all).then(|| axis_pairs(&map, Axis::C)),
        }
    }

    /// The distinct offsets of channels from a start of blocks, ascending.
    fn offsets(&self, start: [u32; 2]) -> Vec<Offset> {
        let placed = |layout: &Layout, own: &[Contribution], block: u32| -> Vec<Position> {
            own.iter().map(|own| layout.place(Contribution { block: own.block + block, ..*own })).collect()
        };
        let outs = placed(self.map.output, &self.outs, start[0]);
        let ins = placed(self.map.input, &self.ins, start[1]);
        let offset = |output: Position, input: Position| Offset {
            output: output.cipher,
            input: input.cipher,
            slots: i64::from(input.slot) - i64::from(output.slot),
        };
        let Some(pairs) = &self.pairs else { return product(&outs, &ins) };
        let mut offsets: Vec<Offset> =
            pairs.iter().map(|pair| offset(outs[pair.out as usize], ins[pair.input as usize])).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }
}

/// The distinct offsets between all of `outs` and all of `ins`, ascending.
fn product(outs: &[Position], ins: &[Position]) -> Vec<Offset> {
    let by_cipher = |positions: &[Position]| {
        let mut slots: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        positions.iter().for_each(|at| slots.entry(at.cipher).or_default().push(at.slot));
        slots
    };
    let (outs, ins) = (by_cipher(outs), by_cipher(ins));
    let mut offsets = Vec::new();
    for (&output, of_output) in &outs {
        for (&input, of_input) in &ins {
            let differences = differences(of_output, of_input);
            offsets.extend(differences.into_iter().map(|slots| Offset { output, input, slots }));
        }
    }
    offsets
}

/// The distinct `input - output`, ascending.
fn differences(outputs: &[u32], inputs: &[u32]) -> Vec<i64> {
    let largest = outputs.iter().copied().max().unwrap_or(0);
    // Shifted so that none is negative.
    let shifted =
        || outputs.iter().flat_map(|&output| inputs.iter().map(move |&input| input + largest - output));
    let mut found: Vec<i64> = Vec::new();
    if outputs.len() * inputs.len() < FEW {
        found.extend(shifted().map(|shifted| i64::from(shifted) - i64::from(largest)));
        found.sort_unstable();
        found.dedup();
        return found;
    }
    let most = largest + inputs.iter().copied().max().unwrap_or(0);
    let mut marks = vec![0u64; most as usize / 64 + 1];
    shifted().for_each(|shifted| marks[shifted as usize / 64] |= 1 << (shifted % 64));
    for (word, mut bits) in (0i64..).zip(marks) {
        while bits != 0 {
            found.push(64 * word + i64::from(bits.trailing_zeros()) - i64::from(largest));
            bits &= bits - 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn few_and_many_differences_are_all_found(
            outputs in prop::collection::vec(0u32..5000, 1..120),
            inputs in prop::collection::vec(0u32..3000, 1..120),
        ) {
            let all = |output: u32| inputs.iter().map(move |&input| i64::from(input) - i64::from(output));
            let expected: BTreeSet<i64> = outputs.iter().flat_map(|&output| all(output)).collect();
            prop_assert_eq!(differences(&outputs, &inputs), expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn keys_keep_their_order_as_numbers() {
        let offset = |output, input, slots| Offset { output, input, slots };
        let keys =
            [offset(0, 0, 7), offset(0, 1, -1), offset(1, 0, 0), offset(1, 3, 5), offset(900_000, 0, 1)];
        let packed = keys.map(|key| key.packed(16));
        assert!(packed.is_sorted());
        let last = DiagonalKey { cipher_out: 900_000, cipher_in: 0, rotation: 1 };
        assert_eq!((unpacked(packed[1]).rotation, unpacked(packed[4])), (15, last));
    }
}
