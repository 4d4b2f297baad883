//! How the rotations of a linear call split into few, so that layers share switching keys.
//!
//! Every rotation r of a call is a turn, plus a baby step, plus a giant step, modulo the period that r is defined by. Turns rotate
//! the operands as a whole, baby steps are hoisted from there, giant steps rotate sums. The giants are chained (Horner's rule):
//! the running sum moves from each listed giant to the next, so their distances need keys, not they themselves.

use std::collections::BTreeSet;

/// Turns, babies and giants of a linear call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BsgsSplit {
    /// Rotations of whole operands, besides none.
    pub turns: Vec<i32>,
    /// Hoisted rotations of operands and of turned operands.
    pub babies: Vec<i32>,
    /// Rotations of sums, in the order of the chain; none stands for 0 alone. The last one is what remains to be rotated at the end.
    pub giants: Vec<i32>,
}

/// Most (turn, baby, giant) combinations of a split.
pub const MAX_SPLIT: u64 = 1 << 20;

/// What a rotation is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Rotation of the operand.
    pub turn: i32,
    /// Hoisted rotation.
    pub baby: i32,
    /// Index of the giant in [`BsgsSplit::path`].
    pub giant: usize,
}

impl BsgsSplit {
    /// Babies 0..`modulus` and its multiples below `reach` as giants.
    pub fn by_modulus(modulus: u32, reach: u32) -> Self {
        let modulus = modulus.max(1) as i32;
        let count = (reach.div_ceil(modulus as u32) as i32).max(1);
        Self {
            turns: Vec::new(),
            babies: (0..modulus).collect(),
            giants: (0..count).rev().map(|k| k * modulus).collect(),
        }
    }

    /// The giants, at least one.
    pub fn path(&self) -> &[i32] {
        if self.giants.is_empty() { &[0] } else { &self.giants }
    }

    /// Number of combinations.
    pub fn size(&self) -> u64 {
        let factors = [self.turns.len() + 1, self.babies.len() + 1, self.path().len()];
        factors.into_iter().fold(1u64, |product, n| product.saturating_mul(n as u64))
    }

    /// Distances that the running sum is rotated by: between neighbours of the path, and at its end.
    pub fn steps(&self) -> BTreeSet<i64> {
        let path = self.path().iter().map(|&g| i64::from(g));
        let next = path.clone().skip(1).chain([0]);
        path.zip(next).map(|(from, to)| from - to).collect()
    }

    /// The chain through the giants in use, given by ascending index in the path: each giant passed, and the distance to the
    /// next or to the end. It goes along the path, but straight to the next giant in use where that is one of the path's steps.
    pub fn chain(&self, used: impl IntoIterator<Item = usize>) -> Vec<(usize, i64)> {
        let (path, steps) = (self.path(), self.steps());
        let mut used = used.into_iter().peekable();
        let mut chain = Vec::new();
        let mut next = used.next();
        while let Some(at) = next {
            used.next_if_eq(&at);
            let from = i64::from(path[at]);
            let goal = used.peek().copied();
            let distance = from - goal.map_or(0, |goal| i64::from(path[goal]));
            next = if steps.contains(&distance) || at + 1 == path.len() { goal } else { Some(at + 1) };
            chain.push((at, from - next.map_or(0, |next| i64::from(path[next]))));
        }
        chain
    }

    /// The parts of every rotation below `modulus`, a power of two.
    pub fn table(&self, modulus: u32) -> SplitTable {
        let with_zero = |numbers: &[i32]| std::iter::once(0).chain(numbers.iter().copied()).collect();
        let (turns, babies): (Vec<i32>, Vec<i32>) = (with_zero(&self.turns), with_zero(&self.babies));
        let mut codes: Vec<u32> = vec![NOT_REACHED; modulus as usize];
        let mut combinations = 0..;
        for &g in self.path() {
            for turn in &turns {
                for (baby, code) in babies.iter().zip(combinations.by_ref()) {
                    let sum = i64::from(g) + i64::from(*turn) + i64::from(*baby);
                    // The modulus is a power of two.
                    let known = &mut codes[(sum & (i64::from(modulus) - 1)) as usize];
                    *known = (*known).min(code);
                }
            }
        }
        let last = self.path().len() - 1;
        SplitTable { codes, turns, babies, last, end: self.path()[last] }
    }
}

/// Code of a rotation that no combination reaches.
const NOT_REACHED: u32 = u32::MAX;

/// The parts of the rotations below a modulus.
#[derive(Clone, Debug)]
pub struct SplitTable {
    /// For each rotation the first combination of giant, turn and baby that reaches it, in the order of the lists.
    codes: Vec<u32>,
    turns: Vec<i32>,
    babies: Vec<i32>,
    last: usize,
    end: i32,
}

impl SplitTable {
    /// The parts of `rotation`, below the modulus of the table. What the split does not reach becomes a baby step of its own
    /// before the last giant.
    pub fn parts(&self, rotation: u32) -> Parts {
        let code = self.codes[rotation as usize];
        if code == NOT_REACHED {
            let modulus = self.codes.len() as i64;
            let rest = (i64::from(rotation) - i64::from(self.end)).rem_euclid(modulus);
            let centred = if 2 * rest > modulus { rest - modulus } else { rest };
            return Parts { turn: 0, baby: centred as i32, giant: self.last };
        }
        let (turns, babies) = (self.turns.len(), self.babies.len());
        let (rest, baby) = (code as usize / babies, code as usize % babies);
        Parts { turn: self.turns[rest % turns], baby: self.babies[baby], giant: rest / turns }
    }

    /// Whether the split reaches `rotation`.
    pub fn reaches(&self, rotation: u32) -> bool {
        self.codes[rotation as usize] != NOT_REACHED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_leftovers_become_babies() {
        let split = BsgsSplit { turns: vec![-8, 8], babies: vec![-1, 1], giants: vec![32, 16, 0] };
        let table = split.table(64);
        for r in 0..64 {
            let parts = table.parts(r);
            let sum = parts.turn + parts.baby + split.path()[parts.giant];
            assert_eq!(sum.rem_euclid(64) as u32, r);
        }
        assert_eq!(table.parts(25), Parts { turn: -8, baby: 1, giant: 0 });
        assert!(!table.reaches(3));
        assert_eq!(table.parts(61), Parts { turn: 0, baby: -3, giant: 2 });
        assert_eq!(split.steps(), [0, 16].into());
    }

    #[test]
    fn a_modulus_reaches_everything_with_one_step() {
        let split = BsgsSplit::by_modulus(6, 32);
        assert!((0..32).all(|r| split.table(32).reaches(r)));
        assert_eq!(split.steps(), [0, 6].into());
        assert_eq!(BsgsSplit::default().path(), [0]);
    }
}
