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
//! are triples of groups.

use std::collections::BTreeMap;

use super::{ConvGeometry, ResolvedMap};
use crate::layout::{Axis, Position};

/// One axis' pairs that share an offset and a pair of ciphertext contributions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    offset: i64,
    cipher_in: u32,
    cipher_out: u32,
    pairs: Vec<Pair>,
}

/// A pair of coordinates of one axis; `tap` is the kernel coordinate (0 for channels).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    out: u32,
    input: u32,
    tap: u32,
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
    axes: [Vec<Group>; 3],
    table: BTreeMap<DiagonalKey, Vec<[u32; 3]>>,
    positions_out: [Vec<Position>; 3],
    positions_in: [Vec<Position>; 3],
    geometry: ConvGeometry,
    period_in: u32,
    period_out: u32,
}

impl Diagonals {
    /// Enumerates the diagonals of a map.
    ///
    /// The map is one that [`ConvGeometry::check`] accepts, between layouts that [`Layout::check`](crate::layout::Layout::check) accepts.
    pub fn of(map: ResolvedMap<'_>) -> Self {
        let positions_in = Axis::ALL.map(|a| map.input.contributions(a));
        let positions_out = Axis::ALL.map(|a| map.output.contributions(a));
        let axes = grouped(map, &positions_in, &positions_out);
        let (period_in, period_out) = (map.input.period.get(), map.output.period.get());
        let table = combine(&axes, period_in.min(period_out));
        Self { axes, table, positions_out, positions_in, geometry: map.geometry, period_in, period_out }
    }

    /// Number of groups that the enumeration combines: an upper bound of [`Self::len`], found without combining them.
    pub fn groups(map: ResolvedMap<'_>) -> u64 {
        let positions_in = Axis::ALL.map(|a| map.input.contributions(a));
        let positions_out = Axis::ALL.map(|a| map.output.contributions(a));
        grouped(map, &positions_in, &positions_out)
            .iter()
            .fold(1u64, |product, groups| product.saturating_mul(groups.len() as u64))
    }

    /// Keys in order.
    pub fn keys(&self) -> impl Iterator<Item = DiagonalKey> {
        self.table.keys().copied()
    }

    /// Number of diagonals.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the map is zero.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Period of the diagonals: the larger of the two layouts' periods.
    pub fn period(&self) -> u32 {
        self.period_in.max(self.period_out)
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
        let triples = self.table.get(&key)?;
        let period = self.period();
        let mut slots = vec![0.0f64; period as usize];
        let [kh, kw] = self.geometry.kernel.map(|k| k as usize);
        for triple in triples {
            let [gc, gy, gx] = [0, 1, 2].map(|a| &self.axes[a][triple[a] as usize]);
            for c in &gc.pairs {
                let row = c.tap as usize * kh * kw;
                for y in &gy.pairs {
                    let tap_row = row + y.tap as usize * kw;
                    for x in &gx.pairs {
                        let weight = weights[tap_row + x.tap as usize];
                        let slot = self.slot_of(key.rotation, [c, y, x]);
                        slots[((slot + giant) % period) as usize] += f64::from(weight);
                    }
                }
            }
        }
        Some(slots)
    }

    fn slot_of(&self, rotation: u32, pairs: [&Pair; 3]) -> u32 {
        let sum = |positions: &[Vec<Position>; 3], index: [u32; 3]| -> u32 {
            (0..3).map(|a| positions[a][index[a] as usize].slot).sum()
        };
        if self.period_in <= self.period_out {
            sum(&self.positions_out, pairs.map(|p| p.out))
        } else {
            let slot_in = sum(&self.positions_in, pairs.map(|p| p.input));
            (slot_in + self.period_in - rotation) % self.period_in
        }
    }
}

fn grouped(map: ResolvedMap<'_>, ins: &[Vec<Position>; 3], outs: &[Vec<Position>; 3]) -> [Vec<Group>; 3] {
    [
        group(&channel_pairs(map), &ins[0], &outs[0]),
        group(&spatial_pairs(map, Axis::Y), &ins[1], &outs[1]),
        group(&spatial_pairs(map, Axis::X), &ins[2], &outs[2]),
    ]
}

/// Rotations that sum the copies when a result of period `to` is computed at period `from`; empty if `from <= to`.
pub(super) fn fold_rotations(from: u32, to: u32) -> Vec<u32> {
    std::iter::successors(Some(to), |r| Some(r * 2)).take_while(|&r| r < from).collect()
}

/// Channel pairs; `tap` is the row `co * (c_in/groups) + ci_in_group` of the weight tensor.
fn channel_pairs(map: ResolvedMap<'_>) -> Vec<Pair> {
    let groups = map.geometry.groups.max(1);
    let (in_per, out_per) = (map.input.shape.c / groups, map.output.shape.c / groups);
    let mut pairs = Vec::new();
    for out in 0..map.output.shape.c {
        for k in 0..in_per {
            pairs.push(Pair { out, input: (out / out_per) * in_per + k, tap: out * in_per + k });
        }
    }
    pairs
}

fn spatial_pairs(map: ResolvedMap<'_>, axis: Axis) -> Vec<Pair> {
    let g = map.geometry;
    let at = usize::from(axis == Axis::X);
    let (extent_in, extent_out) = (map.input.extent(axis), map.output.extent(axis));
    let mut pairs = Vec::new();
    for out in 0..extent_out {
        for tap in 0..g.kernel[at] {
            let reach = i64::from(out) * i64::from(g.stride[at]) + i64::from(tap) * i64::from(g.dilation[at]);
            let input = reach - i64::from(g.pad[at]);
            if (0..i64::from(extent_in)).contains(&input) {
                pairs.push(Pair { out, input: input as u32, tap });
            }
        }
    }
    pairs
}

fn group(pairs: &[Pair], ins: &[Position], outs: &[Position]) -> Vec<Group> {
    let mut by_offset: BTreeMap<(u32, u32, i64), Vec<Pair>> = BTreeMap::new();
    for &pair in pairs {
        let (i, o) = (ins[pair.input as usize], outs[pair.out as usize]);
        let offset = i64::from(i.slot) - i64::from(o.slot);
        by_offset.entry((o.cipher, i.cipher, offset)).or_default().push(pair);
    }
    by_offset
        .into_iter()
        .map(|((cipher_out, cipher_in, offset), pairs)| Group { offset, cipher_in, cipher_out, pairs })
        .collect()
}

fn combine(axes: &[Vec<Group>; 3], modulus: u32) -> BTreeMap<DiagonalKey, Vec<[u32; 3]>> {
    let mut table: BTreeMap<DiagonalKey, Vec<[u32; 3]>> = BTreeMap::new();
    for (ic, c) in axes[0].iter().enumerate() {
        for (iy, y) in axes[1].iter().enumerate() {
            for (ix, x) in axes[2].iter().enumerate() {
                let offset = (c.offset + y.offset + x.offset).rem_euclid(i64::from(modulus));
                let key = DiagonalKey {
                    cipher_out: c.cipher_out + y.cipher_out + x.cipher_out,
                    cipher_in: c.cipher_in + y.cipher_in + x.cipher_in,
                    rotation: offset as u32,
                };
                table.entry(key).or_default().push([ic as u32, iy as u32, ix as u32]);
            }
        }
    }
    table
}
