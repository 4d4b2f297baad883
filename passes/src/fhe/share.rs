//! Ways to share the products of a linear call among the copies and the imaginary part of its operands.
//!
//! How operands are joined decides how many products are left; the split of the rotations and the keys decide with it what a call
//! costs, so that all ways are offered, each with the fewest products its joins allow: first the imaginary part is
//! used, then twice as many copies with each step.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ir::Slots;
use peregrine_ir::layout::Place;
use peregrine_ir::linear::{DiagonalKey, Imaginary, ResolvedMap, Sharing, pairs_count, pairs_of};

use super::split::{CallShape, all_keys};
use crate::pipeline::Products;

/// Operands with fewer diagonals are left as they are.
const FEWEST_DIAGONALS: usize = 6;
/// Nor is a map worth it that nobody would choose.
const MOST_DIAGONALS: usize = 1 << 14;
/// Nor shifts, where two ciphertexts have more rotations than this.
const MOST_ROTATIONS: usize = 1 << 11;
/// Most multiples of a stride that are tried as shifts.
const MOST_MULTIPLES: u32 = 8;
/// Sets of more rotations than this are not searched for shifts between their own members.
const MOST_SEARCHED: usize = 1 << 7;
/// A shift between members of a set, which nothing else may need a key for, is taken if it leaves at most this share of the products.
const OWN_LEFT: f64 = 0.8;
/// A way that leaves more than this share of the products of the one before is not worth its joins.
const MOST_LEFT: f64 = 0.7;

/// One way to join the operands of a call.
#[derive(Clone, Debug)]
pub struct Variant {
    /// By operand.
    pub shared: Vec<Sharing>,
    /// What the call is then.
    pub shape: CallShape,
}

/// An operand that is worth joining.
struct Operand {
    index: u32,
    /// Ciphertexts.
    ciphertexts: u32,
    /// Rotations of the largest group of diagonals between two ciphertexts.
    rotations: Vec<u32>,
    /// Shifts worth trying.
    shifts: BTreeSet<u32>,
    modulus: u32,
    /// Slots of a copy.
    period: u32,
}

/// The ways to join the operands of `sum over terms of map(operand)`, none at all first. Errors of rounded weights double with the
/// imaginary part, and with each doubling of the copies that share a product.
pub fn variants(terms: &[(ResolvedMap<'_>, u32)], slots: Slots, products: Products) -> Vec<Variant> {
    let keys: Vec<Vec<DiagonalKey>> = terms.iter().map(|(map, _)| all_keys(*map)).collect();
    let plain = Variant { shared: Vec::new(), shape: CallShape::joined(terms, &keys, &[], slots) };
    if !(FEWEST_DIAGONALS as u64..=MOST_DIAGONALS as u64).contains(&plain.shape.products()) {
        return vec![plain];
    }
    let joined = ways(terms, &keys, slots, 0..=products.most_doublings());
    std::iter::once(plain).chain(joined).collect()
}

/// Those of [`variants`] with the fewest products, for maps with these diagonals.
pub fn deepest(
    terms: &[(ResolvedMap<'_>, u32)],
    keys: &[Vec<DiagonalKey>],
    slots: Slots,
    products: Products,
) -> Vec<Variant> {
    ways(terms, keys, slots, products.most_doublings()..=products.most_doublings())
}

fn ways(
    terms: &[(ResolvedMap<'_>, u32)],
    keys: &[Vec<DiagonalKey>],
    slots: Slots,
    depths: std::ops::RangeInclusive<usize>,
) -> Vec<Variant> {
    let of = |shared: Vec<Sharing>| Variant { shape: CallShape::joined(terms, keys, &shared, slots), shared };
    let mut found = Vec::new();
    let all = keys.iter().map(|keys| keys.len() as u64).sum();
    let operands = operands(terms, keys);
    let operand_count = terms.iter().map(|term| term.1 + 1).max().unwrap_or(0) as usize;
    let together = |join: &dyn Fn(&Operand) -> Sharing| {
        let mut shared = vec![Sharing::default(); operand_count];
        operands.iter().for_each(|operand| shared[operand.index as usize] = join(operand));
        shared
    };
    let next = |operand: &Operand| match operand.ciphertexts {
        0 | 1 => Sharing::default(),
        _ => Sharing { imaginary: Imaginary::Next, shifts: Vec::new() },
    };
    let mut add = |shared: Vec<Sharing>, least: u64| -> Option<u64> {
        let variant = of(shared);
        let products = variant.shape.products();
        let fewer = (products as f64) <= MOST_LEFT * least as f64;
        if fewer {
            found.push(variant);
        }
        fewer.then_some(products)
    };
    if operands.iter().any(|operand| operand.ciphertexts > 1) {
        add(together(&next), all);
    }
    let mut least = all;
    for doublings in depths {
        match add(together(&|operand| operand.sharing(doublings, slots)), least) {
            Some(products) => least = products,
            None => break,
        }
    }
    found
}

/// The operands whose diagonals are worth it, of `terms` with these diagonals.
fn operands(terms: &[(ResolvedMap<'_>, u32)], keys: &[Vec<DiagonalKey>]) -> Vec<Operand> {
    let mut by_operand: BTreeMap<u32, (Vec<DiagonalKey>, Vec<ResolvedMap<'_>>)> = BTreeMap::new();
    for ((map, operand), keys) in terms.iter().zip(keys) {
        let entry = by_operand.entry(*operand).or_default();
        entry.0.extend(keys);
        entry.1.push(*map);
    }
    let operand = |(index, (mut keys, maps)): (u32, (Vec<DiagonalKey>, Vec<ResolvedMap<'_>>))| {
        if maps.len() > 1 {
            keys.sort_unstable();
            keys.dedup();
        }
        let groups = keys.chunk_by(|a, b| (a.cipher_out, a.cipher_in) == (b.cipher_out, b.cipher_in));
        let largest = groups.max_by_key(|group| group.len()).filter(|group| group.len() <= MOST_ROTATIONS);
        let rotations = largest.unwrap_or_default().iter().map(|key| key.rotation).collect();
        let periods = maps.first().map(|map| [map.input.period.get(), map.output.period.get()]);
        let [modulus, period] = periods.map_or([1; 2], |[a, b]| [a.min(b), a.max(b)]);
        let ciphertexts = maps.first().map_or(0, |map| map.input.ciphertexts);
        let shifts = shifts(&maps, modulus);
        Operand { index, ciphertexts, rotations, shifts, modulus, period }
    };
    let worth = |keys: &[DiagonalKey]| (FEWEST_DIAGONALS..=MOST_DIAGONALS).contains(&keys.len());
    by_operand.into_iter().filter(|(_, (keys, _))| worth(keys)).map(operand).collect()
}

/// Powers of two, and multiples of the strides of the layouts, below a modulus.
fn shifts(maps: &[ResolvedMap<'_>], modulus: u32) -> BTreeSet<u32> {
    let mut shifts: BTreeSet<u32> =
        std::iter::successors(Some(modulus / 2), |s| Some(s / 2)).take_while(|&s| s > 0).collect();
    let layouts = maps.iter().flat_map(|map| [map.input, map.output]);
    for digit in layouts.flat_map(|layout| layout.digits.iter().flatten()).filter(|d| d.radix > 1) {
        match digit.place {
            Place::Slot(stride) => shifts.extend((1..=MOST_MULTIPLES).map(|k| stride.saturating_mul(k))),
            Place::Cipher(_) | Place::Block(_) => {}
        }
    }
    shifts.retain(|&shift| shift < modulus);
    shifts
}

impl Operand {
    /// The imaginary part and `doublings` shifts, each of those that leave the fewest products; fewer where there are no more copies
    /// or nothing is saved.
    fn sharing(&self, doublings: usize, slots: Slots) -> Sharing {
        let mut sharing = Sharing::default();
        let mut rotations = self.rotations.clone();
        for step in 0..=doublings {
            if self.period << step > slots.get() {
                break;
            }
            let Some((shift, left)) = self.best_shift(&rotations) else { break };
            rotations = left;
            match step {
                0 => sharing.imaginary = Imaginary::Rotated(shift),
                _ => sharing.shifts.push(shift),
            }
        }
        sharing
    }

    /// Shifts from some members of a set to the others: one that pairs all of them is among these.
    fn own_shifts(&self, rotations: &[u32]) -> BTreeSet<u32> {
        if rotations.len() > MOST_SEARCHED {
            return BTreeSet::new();
        }
        let ends = [rotations.first(), rotations.get(rotations.len() / 2), rotations.last()];
        let between = |&from: &u32| rotations.iter().map(move |to| (to + self.modulus - from) % self.modulus);
        ends.into_iter().flatten().flat_map(between).filter(|&shift| shift > 0).collect()
    }

    /// The shift that leaves the fewest rotations of a set; of equals the largest power of two, whose key is most likely in use.
    fn best_shift(&self, rotations: &[u32]) -> Option<(i32, Vec<u32>)> {
        let count = |&shift: &u32| pairs_count(rotations, shift, self.modulus);
        let mut shifts: Vec<u32> = self.shifts.iter().copied().collect();
        // The first of equal ones is taken.
        shifts.sort_by_key(|shift| (!shift.is_power_of_two(), u32::MAX - shift));
        let shift = shifts.into_iter().min_by_key(count)?;
        let own = self.own_shifts(rotations).into_iter().min_by_key(count);
        let fewer = |own: &u32| count(own) as f64 <= OWN_LEFT * count(&shift) as f64;
        let shift = own.filter(fewer).unwrap_or(shift);
        let left = pairs_of(rotations, shift, self.modulus);
        (left.len() < rotations.len()).then_some((shift as i32, left))
    }
}

#[cfg(test)]
mod tests {
    use peregrine_ir::layout::{Chw, Digit, Layout};
    use peregrine_ir::linear::ConvGeometry;

    use super::*;

    /// Channel blocks of `side x side` pixels, in ciphertexts of `per_cipher` channels.
    fn blocks(channels: u32, side: u32, per_cipher: u32) -> Layout {
        let digit = |radix, place| Digit { radix, place };
        let (low, high) = (channels.min(per_cipher), channels.div_ceil(per_cipher));
        let channel = vec![digit(low, Place::Slot(side * side)), digit(high, Place::Cipher(1))];
        let [row, column] = [side, 1].map(|stride| vec![digit(side, Place::Slot(stride))]);
        Layout {
            shape: Chw { c: channels, h: side, w: side },
            digits: [channel, row, column],
            period: Slots::new(low * side * side).unwrap(),
            ciphertexts: high,
            blocks: Default::default(),
        }
    }

    fn products(layout: &Layout, groups: u32) -> Vec<u64> {
        let geometry = ConvGeometry { kernel: [3, 3], stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups };
        let terms = [(ResolvedMap::convolution(layout, layout, geometry), 0)];
        let ways = variants(&terms, Slots::new(1 << 15).unwrap(), Products::Deep);
        for Variant { shared, shape } in &ways {
            let split = peregrine_ir::linear::BsgsSplit::by_modulus(64, 1 << 15);
            let plan = peregrine_ir::linear::plan_call(
                &terms,
                peregrine_ir::linear::Recipe { split: &split, shared },
                Slots::new(1 << 15).unwrap(),
            );
            let (planned, counted) = (plan.plan.counts(), shape.cost(&split).counts);
            assert_eq!(planned.products as u64, counted.products, "{shared:?}");
            assert_eq!(planned.turns as u64, counted.turns, "{shared:?}");
            assert_eq!(planned.baby_rotations as u64, counted.babies, "{shared:?}");
            assert_eq!(planned.giant_rotations as u64, counted.giants, "{shared:?}");
            assert_eq!(planned.fold_rotations as u64, counted.folds, "{shared:?}");
            let elements: BTreeSet<_> = shape.cost(&split).elements(1 << 16).collect();
            assert_eq!(plan.plan.galois_elements(1 << 16), elements, "{shared:?}");
        }
        ways.iter().map(|way| way.shape.products()).collect()
    }

    #[test]
    fn each_copy_and_the_imaginary_part_take_a_share() {
        // Half a ciphertext: 16 channels times 9 taps, the imaginary part, two copies.
        assert_eq!(products(&blocks(16, 32, 16), 1), [144, 72, 36]);
        // An eighth of it.
        assert_eq!(products(&blocks(64, 8, 64), 1), [576, 288, 144, 72, 36]);
    }

    #[test]
    fn diagonals_apart_by_what_no_stride_is_pair_up_too() {
        // Two bits of the row move below: of 32x32 pixels every other one, then 16x16 close together.
        let digit = |radix, place| Digit { radix, place };
        let wide = blocks(16, 32, 16);
        let slot = |radix, stride| digit(radix, Place::Slot(stride));
        let narrow = Layout {
            shape: Chw { c: 16, h: 16, w: 16 },
            digits: [vec![slot(16, 1024)], vec![slot(4, 64), slot(2, 1), slot(2, 32)], vec![slot(16, 2)]],
            ..wide.clone()
        };
        let geometry =
            ConvGeometry { kernel: [3, 3], stride: [2, 2], pad: [1, 1], dilation: [1, 1], groups: 16 };
        let terms = [(ResolvedMap::convolution(&wide, &narrow, geometry), 0)];
        let ways = variants(&terms, Slots::new(1 << 15).unwrap(), Products::Shared);
        let products: Vec<u64> = ways.iter().map(|way| way.shape.products()).collect();
        assert_eq!(products[..2], [36, 18]);
    }

    #[test]
    fn ciphertexts_pair_up_where_every_one_is_read_by_every_other() {
        // Two by two, or each with itself a few channels on.
        let dense = products(&blocks(64, 32, 32), 1);
        assert_eq!(dense, [32 * 9 * 4, 32 * 9 * 2, 32 * 9 * 2]);
        // Of nine taps three pairs and three single ones are left.
        assert_eq!(products(&blocks(64, 32, 32), 64), [18, 12]);
    }
}
