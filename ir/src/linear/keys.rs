//! Which diagonals a linear map has, without what is on them: what costs are counted on.
//!
//! Of every axis only distinct sums are kept, and rotations are marked rather than sorted: many times as fast as [`Diagonals`],
//! which remembers the elements of each.

use std::collections::BTreeMap;

use super::diagonals::whole;
use super::pairs::{Pair, axis_pairs};
use super::{DiagonalKey, ResolvedMap};
use crate::layout::{Axis, Contribution, Layout, Position};
use crate::marks::Marks;

/// Products of fewer slots than this are sorted instead of marked.
const FEW: usize = 1 << 12;
/// Rotations that are a smaller share of all that could be are sorted instead of marked.
const SPARSE: usize = 256;

/// The keys of [`Diagonals::of`](super::Diagonals::of), ascending; `None` if more than `most` combinations of channels, rows and
/// columns lead to them.
pub fn diagonal_keys(map: ResolvedMap<'_>, most: u64) -> Option<Vec<DiagonalKey>> {
    let modulus = map.input.period.get().min(map.output.period.get());
    let channels = Channels::of(map);
    let spatial = spatial(map, modulus, most)?;
    let mut offsets: BTreeMap<[u32; 2], Vec<Offset>> = BTreeMap::new();
    let mut total = 0u64;
    for (start, sums) in &spatial {
        let of_start = offsets.entry(*start).or_insert_with(|| channels.offsets(*start));
        total = total.saturating_add(sums.len() as u64 * of_start.len() as u64);
        if total > most {
            return None;
        }
    }
    let mut meetings = Vec::new();
    for (start, sums) in &spatial {
        for sums in sums.chunk_by(Offset::same_ends) {
            let of_channels = offsets[start].chunk_by(Offset::same_ends);
            meetings.extend(of_channels.map(|channels| Meeting::of(sums, channels)));
        }
    }
    meetings.sort_by_key(|meeting| meeting.ends);
    let (mut found, mut seen) = (Vec::new(), Rotations::below(modulus));
    for of_ends in meetings.chunk_by(|a, b| a.ends == b.ends) {
        let (cipher_out, cipher_in) = of_ends[0].ends;
        let rotations = seen.of(of_ends);
        found.extend(rotations.iter().map(|&rotation| DiagonalKey { cipher_out, cipher_in, rotation }));
    }
    Some(found)
}

/// A difference of slots between two ciphertexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Offset {
    output: u32,
    input: u32,
    slots: i64,
}

impl Offset {
    fn same_ends(&self, other: &Self) -> bool {
        (self.output, self.input) == (other.output, other.input)
    }
}

/// Offsets of rows and columns that meet offsets of channels: each with each, between the same two ciphertexts.
struct Meeting<'a> {
    ends: (u32, u32),
    sums: &'a [Offset],
    channels: &'a [Offset],
}

impl<'a> Meeting<'a> {
    /// Neither list is empty, nor does it have more than one pair of ciphertexts.
    fn of(sums: &'a [Offset], channels: &'a [Offset]) -> Self {
        let (sum, channel) = (sums[0], channels[0]);
        Self { ends: (sum.output + channel.output, sum.input + channel.input), sums, channels }
    }

    fn len(&self) -> usize {
        self.sums.len() * self.channels.len()
    }

    /// Rotations; `mask` is one less than the power of two that they are modulo.
    fn rotations(&self, mask: u32) -> impl Iterator<Item = u32> {
        let of_sum = move |sum: &'a Offset| {
            self.channels.iter().map(move |channel| (channel.slots + sum.slots) as u32 & mask)
        };
        self.sums.iter().flat_map(of_sum)
    }
}

/// Distinct rotations, in memory that is used again.
struct Rotations {
    modulus: u32,
    marks: Marks,
    found: Vec<u32>,
}

impl Rotations {
    fn below(modulus: u32) -> Self {
        Self { modulus, marks: Marks::below(modulus as usize), found: Vec::new() }
    }

    /// The distinct rotations of meetings, ascending.
    fn of(&mut self, meetings: &[Meeting<'_>]) -> &[u32] {
        let mask = self.modulus - 1;
        self.found.clear();
        let all = meetings.iter().flat_map(|meeting| meeting.rotations(mask));
        if meetings.iter().map(Meeting::len).sum::<usize>() < self.modulus as usize / SPARSE {
            self.found.extend(all);
            self.found.sort_unstable();
            self.found.dedup();
            return &self.found;
        }
        self.marks.clear();
        all.for_each(|rotation| self.marks.insert(rotation as usize));
        self.found.extend(self.marks.iter().map(|rotation| rotation as u32));
        &self.found
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
    let mut marks = Marks::below(most as usize + 1);
    shifted().for_each(|shifted| marks.insert(shifted as usize));
    found.extend(marks.iter().map(|shifted| shifted as i64 - i64::from(largest)));
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
}
