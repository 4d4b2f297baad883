//! Candidate splits of a linear call: mixed radix with windows that suit the strides of its layouts.
//!
//! A rotation is cut by descending moduli, each into a multiple and a rest around 0: block strides, then some rows, say. The
//! multiples are giants, the rests babies: kernel taps around the centre, signed, so that maps of every size have them in
//! common. Rests may be cut once more, into turns of the operand and babies.

use std::collections::BTreeSet;

use peregrine_ir::linear::BsgsSplit;

use super::marks::Marks;
use super::split::CallShape;

/// Most multiples of a stride in one modulus.
const MOST_MULTIPLES: u32 = 8;
/// A candidate that takes about this many times as long as the fastest is not considered.
const SLOWEST: u64 = 6;
/// Most turned copies of an operand.
const MOST_TURNS: usize = 6;

/// A cut of rotations: `window` multiples of `stride`, about as many below 0 as above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cut {
    modulus: i64,
    low: i64,
}

impl Cut {
    /// A window of `count` multiples of `stride` with half a stride of slack on both sides.
    fn new(stride: u32, count: u32) -> Self {
        let (stride, count) = (i64::from(stride), i64::from(count));
        Self { modulus: stride * count, low: -(stride * ((count - 1) / 2)) - stride / 2 }
    }

    /// The multiple of the modulus that leaves a rest within the window.
    fn multiple(&self, r: i64) -> i64 {
        (r - self.low).div_euclid(self.modulus) * self.modulus
    }
}

/// Turns, babies and giants.
type Lists = [Vec<i32>; 3];

/// Distinct splits worth considering for calls of this shape.
pub fn candidates(shape: &CallShape) -> Vec<BsgsSplit> {
    let largest = shape.terms.iter().map(|term| term.modulus).max().unwrap_or(1);
    let mut rotations: Vec<(u32, u32)> =
        shape.terms.iter().flat_map(|t| t.rotations.iter().map(|&r| (t.modulus, r))).collect();
    rotations.sort_unstable();
    rotations.dedup();
    let mut scratch = Scratch::new(largest);
    let powers = || std::iter::successors(Some(1u32), |s| s.checked_mul(2)).take_while(|&s| s <= largest);
    let strides: Vec<u32> = shape.strides.iter().copied().filter(|&s| s <= largest).collect();
    let fine: BTreeSet<Cut> = strides
        .iter()
        .flat_map(|&s| (1..=MOST_MULTIPLES).map(move |k| (s, k)))
        .filter(|&(s, k)| s.saturating_mul(k) <= largest)
        .chain(powers().map(|s| (s, 1)))
        .map(|(s, k)| Cut::new(s, k))
        .collect();
    let coarse: Vec<Cut> = powers().map(|s| Cut::new(s, 1)).collect();
    let mut found: BTreeSet<Lists> = BTreeSet::new();
    for cut in &fine {
        let blocks = coarse.iter().copied().filter(|block| block.modulus > cut.modulus).map(Some);
        for block in std::iter::once(None).chain(blocks) {
            let cuts: Vec<Cut> = block.into_iter().chain([*cut]).collect();
            let whole = scratch.parts(&rotations, &cuts, None);
            let turned =
                strides.iter().map(|&s| Cut::new(s, 1)).filter(|t| 1 < t.modulus && t.modulus < cut.modulus);
            for turn in turned {
                let split = scratch.parts(&rotations, &cuts, Some(turn));
                let saves = split[0].len() + split[1].len() + 1 < whole[1].len();
                if saves && split[0].len() <= MOST_TURNS {
                    found.insert(split);
                }
            }
            found.insert(whole);
        }
    }
    let weight = |lists: &Lists| weight(lists, shape);
    let least = found.iter().map(weight).min().unwrap_or(0);
    found.retain(|lists| weight(lists) <= SLOWEST * least);
    found.into_iter().map(|[turns, babies, giants]| BsgsSplit { turns, babies, giants }).collect()
}

/// About what a split costs, in baby steps: a giant step is two of them, a turn four.
fn weight([turns, babies, giants]: &Lists, shape: &CallShape) -> u64 {
    let [turns, babies, giants] = [turns, babies, giants].map(|list| list.len() as u64);
    let (inputs, outputs) = (u64::from(shape.inputs), u64::from(shape.outputs));
    inputs * ((turns + 1) * (babies + 1) + 4 * turns) + 2 * outputs * giants
}

/// Sets of parts, reused from cut to cut.
struct Scratch {
    largest: i64,
    turns: Marks,
    babies: Marks,
    giants: Marks,
}

impl Scratch {
    fn new(largest: u32) -> Self {
        // Rests lie within a modulus of 0 on both sides.
        let (one, both) = (Marks::below(largest as usize), Marks::below(4 * largest as usize + 1));
        Self { largest: largest.into(), turns: both.clone(), babies: both, giants: one }
    }

    fn signed(&self, number: i64) -> usize {
        (number + 2 * self.largest) as usize
    }

    /// What the rotations, each with its modulus, fall into.
    fn parts(&mut self, rotations: &[(u32, u32)], cuts: &[Cut], turn: Option<Cut>) -> Lists {
        for marks in [&mut self.turns, &mut self.babies, &mut self.giants] {
            marks.clear();
        }
        for &(modulus, rotation) in rotations {
            let (modulus, r) = (i64::from(modulus), i64::from(rotation));
            let mut rest = if 2 * r > modulus { r - modulus } else { r };
            let mut giant = 0;
            for cut in cuts {
                let multiple = cut.multiple(rest);
                giant += multiple;
                rest -= multiple;
            }
            self.giants.insert(giant.rem_euclid(self.largest) as usize);
            if let Some(cut) = turn {
                let multiple = cut.multiple(rest);
                self.turns.insert(self.signed(multiple));
                rest -= multiple;
            }
            self.babies.insert(self.signed(rest));
        }
        let signed = |marks: &Marks| -> Vec<i32> {
            let numbers = marks.iter().map(|at| (at as i64 - 2 * self.largest) as i32);
            numbers.filter(|&number| number != 0).collect()
        };
        // Residues, descending to 0: the running sum only ever moves one way.
        let mut giants: Vec<i32> = self.giants.iter().map(|giant| giant as i32).collect();
        giants.reverse();
        [signed(&self.turns), signed(&self.babies), giants]
    }
}

#[cfg(test)]
mod tests {
    use peregrine_ir::Slots;
    use peregrine_ir::layout::{Chw, Digit, Layout};
    use peregrine_ir::linear::{ConvGeometry, ResolvedMap};

    use super::*;

    /// 16 channels of 32x32 pixels, a block of 1024 slots each.
    fn blocks() -> Layout {
        let digit = |radix, stride| vec![Digit { radix, place: peregrine_ir::layout::Place::Slot(stride) }];
        let period = Slots::new(1 << 14).unwrap();
        let shape = Chw { c: 16, h: 32, w: 32 };
        Layout {
            shape,
            digits: [digit(16, 1024), digit(32, 32), digit(32, 1)],
            period,
            ciphertexts: 1,
            blocks: Default::default(),
        }
    }

    #[test]
    fn taps_are_babies_and_blocks_one_giant_key() {
        let layout = blocks();
        let geometry =
            ConvGeometry { kernel: [3, 3], stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
        let map = ResolvedMap::convolution(&layout, &layout, geometry);
        let shape = CallShape::of(&[(map, 0)], Slots::new(1 << 15).unwrap());
        let splits = candidates(&shape);
        let taps = vec![-33, -32, -31, -1, 1, 31, 32, 33];
        let giants: Vec<i32> = (0..16).rev().map(|k| 1024 * k).collect();
        let plain = BsgsSplit { turns: vec![], babies: taps, giants: giants.clone() };
        let cost = shape.cost(&plain);
        assert!(splits.contains(&plain));
        assert_eq!((cost.counts.babies, cost.counts.giants, cost.rotations.len()), (8, 15, 9));
        let turned = BsgsSplit { turns: vec![-32, 32], babies: vec![-1, 1], giants };
        let cost = shape.cost(&turned);
        assert!(splits.contains(&turned));
        assert_eq!((cost.counts.turns, cost.counts.babies, cost.rotations.len()), (2, 6, 5));
        // Whatever is chosen reaches every rotation.
        for split in &splits {
            let table = split.table(shape.terms[0].modulus);
            assert!(shape.terms[0].rotations.iter().all(|&r| table.reaches(r)), "{split:?}");
        }
    }
}
