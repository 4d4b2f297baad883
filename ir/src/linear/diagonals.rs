//! Structural enumeration of the generalized diagonals of a linear map.
//!
//! Let p_in, p_out be the periods of the two layouts, p = min, P = max. Element pair (out, in) lies on the diagonal of
//! rotation r = (slot_in - slot_out) mod p. If p_in <= p_out the diagonal holds its weight at slot_out: rotating the
//! operand (period p_in) by r brings slot_in there. If p_in > p_out it holds it at (slot_in - r) mod p_in, one of the
//! p_in / p_out copies of slot_out; afterwards the copies are summed by log2(p_in / p_out) rotations (`fold`), which also
//! replicates the result. Either way the number of diagonals is the number of distinct offsets mod p (the hybrid
//! diagonal method of Halevi-Shoup and Gazelle, for both directions).
//!
//! The offset of a pair is the sum of a channel, a row and a column part, so pairs are grouped per axis and diagonals
//! are triples of groups. Where layouts have blocks, the channel part depends on the blocks that row and column start from
//! ([`Blocks`](crate::layout::Blocks)), so channel pairs are grouped once for each such start.

use std::collections::{BTreeMap, HashMap};

use super::ResolvedMap;
use super::pairs::{Pair, axis_pairs};
use crate::layout::{Axis, Contribution, Layout};

/// Pairs of one axis that share an offset and what they add to ciphertext and block indices.
#[derive(Clone, Debug)]
pub(super) struct Group {
    offset: i64,
    output: Contribution,
    input: Contribution,
    pub(super) entries: Vec<Entry>,
}

/// A pair as expansion needs it: where it writes in the diagonal, what it reads of the weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) slot: u32,
    pub(super) tap: u32,
    pub(super) factor: f32,
}

/// Column pairs of one group with the same tap and factor, evenly apart: what expansion writes at once.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    first: Entry,
    step: usize,
    count: usize,
}

/// A combination of groups on one diagonal: start of blocks, groups of channel, row, column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) start: u32,
    pub(super) groups: [u32; 3],
}

/// Names one generalized diagonal of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiagonalKey {
    /// Ciphertext of the result.
    pub cipher_out: u32,
    /// Ciphertext of the operand.
    pub cipher_in: u32,
    /// Rotation in 0..min(period in, period out).
    pub rotation: u32,
}

/// The non-zero generalized diagonals of one linear map.
#[derive(Clone, Debug)]
pub struct Diagonals {
    /// Channel groups for each start of blocks.
    pub(super) channels: Vec<Vec<Group>>,
    /// Row and column groups.
    pub(super) maps: [Vec<Group>; 2],
    /// Column groups as they are written.
    columns: Vec<Vec<Stretch>>,
    keys: Vec<DiagonalKey>,
    /// Members of diagonal i are those from `first[i]` to `first[i + 1]`.
    first: Vec<u32>,
    members: Vec<Member>,
    kernel: [usize; 2],
    period_in: u32,
    period_out: u32,
}

impl Diagonals {
    /// Enumerates the diagonals of a map.
    ///
    /// The map is one that [`ResolvedMap::check`] accepts, between layouts that [`Layout::check`] accepts.
    pub fn of(map: ResolvedMap<'_>) -> Self {
        let (period_in, period_out) = (map.input.period.get(), map.output.period.get());
        let modulus = i64::from(period_in.min(period_out));
        let grouping = Grouping { map, at_output: period_in <= period_out };
        let maps = [Axis::Y, Axis::X].map(|axis| grouping.spatial(axis));
        let mut channels = Channels::new(&grouping);
        let mut table: Vec<(DiagonalKey, Member)> = Vec::new();
        for (iy, y) in (0u32..).zip(&maps[0]) {
            for (ix, x) in (0u32..).zip(&maps[1]) {
                let offset = y.offset + x.offset;
                let (output, input) = (y.output + x.output, y.input + x.input);
                let start = channels.start(output.block, input.block);
                for (ic, c) in (0u32..).zip(&channels.groups[start]) {
                    let key = DiagonalKey {
                        cipher_out: c.output.cipher + whole(map.output, output),
                        cipher_in: c.input.cipher + whole(map.input, input),
                        rotation: (c.offset + offset).rem_euclid(modulus) as u32,
                    };
                    table.push((key, Member { start: start as u32, groups: [ic, iy, ix] }));
                }
            }
        }
        table.sort_unstable();
        let (mut keys, mut first) = (Vec::new(), Vec::new());
        for (i, (key, _)) in (0u32..).zip(&table) {
            if keys.last() != Some(key) {
                keys.push(*key);
                first.push(i);
            }
        }
        first.push(table.len() as u32);
        let members = table.into_iter().map(|(_, member)| member).collect();
        let kernel = map.geometry.kernel.map(|k| k as usize);
        let channels = channels.groups;
        let columns = maps[1].iter().map(|group| stretches(&group.entries)).collect();
        Self { channels, maps, columns, keys, first, members, kernel, period_in, period_out }
    }

    /// Number of groups that the enumeration combines: an upper bound of [`Self::len`], found without combining them.
    pub fn groups(map: ResolvedMap<'_>) -> u64 {
        let grouping = Grouping { map, at_output: true };
        let [y, x] = [Axis::Y, Axis::X].map(|axis| grouping.spatial(axis));
        let starts = |groups: &[Group]| -> u64 {
            let of = |g: &Group| (g.output.block, g.input.block);
            groups.iter().map(of).collect::<std::collections::BTreeSet<_>>().len() as u64
        };
        let mut channels = Channels::new(&grouping);
        let largest = channels.start(0, 0);
        // A start can part the groups of another one in two at each end.
        let parts = if starts(&y) * starts(&x) > 1 { 4 } else { 1 };
        let channels = channels.groups[largest].len() as u64 * parts;
        channels.saturating_mul(y.len() as u64).saturating_mul(x.len() as u64)
    }

    /// Keys in order.
    pub fn keys(&self) -> impl Iterator<Item = DiagonalKey> {
        self.keys.iter().copied()
    }

    /// Number of diagonals.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the map is zero.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Period of the diagonals: the larger of the two layouts' periods.
    pub fn period(&self) -> u32 {
        self.period_in.max(self.period_out)
    }

    /// The smaller of the two layouts' periods: rotations are below it.
    pub fn modulus(&self) -> u32 {
        self.period_in.min(self.period_out)
    }

    /// Period of the result.
    pub fn period_out(&self) -> u32 {
        self.period_out
    }

    /// Rotations that sum (and replicate) the copies of the result when the operand's period is the larger one:
    /// p_out, 2 p_out, ..., p_in / 2. Empty otherwise.
    pub fn fold(&self) -> Vec<u32> {
        fold_rotations(self.period_in, self.period_out)
    }

    /// Slot vector of diagonal `key` with the weights `[c_out, c_in / groups, kh, kw]`, rotated right by `giant`
    /// (for baby-step giant-step: the weight of slot s is stored at slot s + giant).
    ///
    /// Returns `None` when the key is not one of [`Self::keys`].
    pub fn expand(&self, key: DiagonalKey, weights: &[f32], giant: u32) -> Option<Vec<f64>> {
        let mut slots = vec![0.0f64; self.period() as usize];
        self.expand_into(key, weights, giant, &mut slots).then_some(slots)
    }

    /// Adds what [`Self::expand`] gives to `slots`, which has as many entries as the period; whether the key is known.
    pub fn expand_into(&self, key: DiagonalKey, weights: &[f32], giant: u32, slots: &mut [f64]) -> bool {
        // If the operand has the larger period its own slots say where a weight goes, r before them.
        let shift = if self.places_by_output() { giant } else { giant.wrapping_sub(key.rotation) };
        self.expand_shifted(key, weights, (shift, 1.0), slots)
    }

    /// Whether weights are placed by the slots of the result; else by those of the operand.
    pub(super) fn places_by_output(&self) -> bool {
        self.period_in <= self.period_out
    }

    /// Adds `factor` times the weights of a diagonal, each `shift` after the slot of its element of the result, or of the operand if
    /// that has the larger period; whether the key is known.
    pub(super) fn expand_shifted(
        &self,
        key: DiagonalKey,
        weights: &[f32],
        (shift, factor): (u32, f64),
        slots: &mut [f64],
    ) -> bool {
        let [kh, kw] = self.kernel;
        let members = self.members_of(key);
        for Member { start, groups: [c, y, x] } in members {
            let (ys, xs) = (&self.maps[0][*y as usize].entries, &self.columns[*x as usize]);
            for c in &self.channels[*start as usize][*c as usize].entries {
                let base = c.slot.wrapping_add(shift);
                let taps = c.tap as usize * kh * kw;
                for y in ys {
                    let base = base.wrapping_add(y.slot);
                    let taps = &weights[taps + y.tap as usize * kw..][..kw];
                    let factor = factor * (f64::from(c.factor) * f64::from(y.factor));
                    for x in xs {
                        let factor = factor * f64::from(x.first.factor);
                        x.add(f64::from(taps[x.first.tap as usize]) * factor, base, slots);
                    }
                }
            }
        }
        !members.is_empty()
    }

    /// The combinations of groups on a diagonal; none if the map has no such diagonal.
    pub(super) fn members_of(&self, key: DiagonalKey) -> &[Member] {
        match self.keys.binary_search(&key) {
            Ok(index) => &self.members[self.first[index] as usize..self.first[index + 1] as usize],
            Err(_) => &[],
        }
    }
}

impl Stretch {
    /// The slot that would continue it.
    fn next(&self) -> usize {
        self.first.slot as usize + self.count * self.step
    }

    /// Adds `weight` to its slots after `base`, modulo the power of two that there are.
    fn add(&self, weight: f64, base: u32, slots: &mut [f64]) {
        let mask = slots.len() - 1;
        let first = base.wrapping_add(self.first.slot) as usize & mask;
        let end = first + (self.count - 1) * self.step + 1;
        if self.step == 1 && end <= slots.len() {
            slots[first..end].iter_mut().for_each(|slot| *slot += weight);
        } else if end <= slots.len() {
            slots[first..end].iter_mut().step_by(self.step).for_each(|slot| *slot += weight);
        } else {
            (0..self.count).for_each(|i| slots[(first + i * self.step) & mask] += weight);
        }
    }
}

/// The entries in their order, those that can be written at once together.
fn stretches(entries: &[Entry]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for &entry in entries {
        let alike = found.last_mut().filter(|s| (s.first.tap, s.first.factor) == (entry.tap, entry.factor));
        match alike {
            Some(last) if last.count == 1 && entry.slot > last.first.slot => {
                *last = Stretch { step: (entry.slot - last.first.slot) as usize, count: 2, ..*last };
            }
            Some(last) if last.count > 1 && last.next() == entry.slot as usize => last.count += 1,
            _ => found.push(Stretch { first: entry, step: 1, count: 1 }),
        }
    }
    found
}

/// Ciphertexts that contributions of row and column add up to, apart from the blocks that a start keeps.
pub(super) fn whole(layout: &Layout, sum: Contribution) -> u32 {
    sum.cipher + sum.block / layout.blocks.per_cipher
}

/// Rotations that sum the copies when a result of period `to` is computed at period `from`; empty if `from <= to`.
pub fn fold_rotations(from: u32, to: u32) -> Vec<u32> {
    std::iter::successors(Some(to), |r| Some(r * 2)).take_while(|&r| r < from).collect()
}

/// Groups pairs by what they add to a diagonal's key.
#[derive(Clone, Copy)]
struct Grouping<'a> {
    map: ResolvedMap<'a>,
    /// Whether entries keep the slots of the output, or those of the input.
    at_output: bool,
}

impl Grouping<'_> {
    fn spatial(&self, axis: Axis) -> Vec<Group> {
        let (ins, outs) = (self.map.input.contributions(axis), self.map.output.contributions(axis));
        let placed = axis_pairs(&self.map, axis).into_iter().map(|pair| {
            let (input, output) = (ins[pair.input as usize], outs[pair.out as usize]);
            (pair, input, output)
        });
        self.group(placed)
    }

    fn group(&self, placed: impl Iterator<Item = (Pair, Contribution, Contribution)>) -> Vec<Group> {
        let mut index: HashMap<(u64, u64, i64), usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        let ends = |c: Contribution| u64::from(c.cipher) << 32 | u64::from(c.block);
        for (pair, input, output) in placed {
            let offset = i64::from(input.slot) - i64::from(output.slot);
            let at = *index.entry((ends(output), ends(input), offset)).or_insert_with(|| {
                let without = |c: Contribution| Contribution { slot: 0, ..c };
                let (output, input) = (without(output), without(input));
                groups.push(Group { offset, output, input, entries: Vec::new() });
                groups.len() - 1
            });
            let slot = if self.at_output { output.slot } else { input.slot };
            groups[at].entries.push(Entry { slot, tap: pair.tap, factor: pair.factor });
        }
        groups.sort_unstable_by_key(|g| (ends(g.output), ends(g.input), g.offset));
        groups
    }
}

/// Channel groups for each start of blocks that row and column groups ask for.
struct Channels<'a> {
    grouping: Grouping<'a>,
    pairs: Vec<(Pair, Contribution, Contribution)>,
    starts: BTreeMap<(u32, u32), usize>,
    groups: Vec<Vec<Group>>,
}

impl<'a> Channels<'a> {
    fn new(grouping: &Grouping<'a>) -> Self {
        let map = grouping.map;
        let (ins, outs) = (map.input.contributions(Axis::C), map.output.contributions(Axis::C));
        let place = |pair: Pair| (pair, ins[pair.input as usize], outs[pair.out as usize]);
        let pairs = axis_pairs(&map, Axis::C).into_iter().map(place).collect();
        Self { grouping: *grouping, pairs, starts: BTreeMap::new(), groups: Vec::new() }
    }

    /// Index of the groups that row and column blocks `output` and `input` lead to.
    fn start(&mut self, output: u32, input: u32) -> usize {
        let map = self.grouping.map;
        let start = (output % map.output.blocks.per_cipher, input % map.input.blocks.per_cipher);
        if let Some(&known) = self.starts.get(&start) {
            return known;
        }
        let placed = |layout: &Layout, own: Contribution, block: u32| {
            let at = layout.place(Contribution { block: own.block + block, ..own });
            Contribution { cipher: at.cipher, block: 0, slot: at.slot }
        };
        let pairs = self.pairs.iter().map(|&(pair, input, output)| {
            (pair, placed(map.input, input, start.1), placed(map.output, output, start.0))
        });
        self.groups.push(self.grouping.group(pairs));
        self.starts.insert(start, self.groups.len() - 1);
        self.groups.len() - 1
    }
}
