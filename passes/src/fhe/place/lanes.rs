//! Small numbers side by side in words, compared all at once.

use smallvec::SmallVec;

/// Numbers below 128, eight to a word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lanes(SmallVec<[u64; 2]>);

/// The bit above each number.
const ABOVE: u64 = 0x8080_8080_8080_8080;

impl Lanes {
    /// Zeros.
    pub fn zeros(count: usize) -> Self {
        Self(SmallVec::from_elem(0, count.div_ceil(8)))
    }

    /// The number at a place.
    pub fn get(&self, at: usize) -> u32 {
        (self.0[at / 8] >> (at % 8 * 8) & 0x7f) as u32
    }

    /// Puts a number, below 128, at a place that holds zero.
    pub fn put(&mut self, at: usize, number: u32) {
        self.0[at / 8] |= u64::from(number & 0x7f) << (at % 8 * 8);
    }

    /// Whether every number is at least that of `other`, which has as many.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(ours, theirs)| ((ours | ABOVE) - theirs) & ABOVE == ABOVE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lanes(numbers: &[u32]) -> Lanes {
        let mut lanes = Lanes::zeros(numbers.len());
        numbers.iter().enumerate().for_each(|(at, &number)| lanes.put(at, number));
        lanes
    }

    proptest! {
        #[test]
        fn words_compare_like_numbers(pairs in prop::collection::vec((0u32..128, 0u32..128), 1..20), near in any::<bool>()) {
            let (a, b): (Vec<u32>, Vec<u32>) =
                pairs.into_iter().map(|(a, b)| if near { (a.max(b), a.min(b)) } else { (a, b) }).unzip();
            let (packed, other) = (lanes(&a), lanes(&b));
            prop_assert!((0..a.len()).all(|at| packed.get(at) == a[at]));
            prop_assert_eq!(packed.covers(&other), a.iter().zip(&b).all(|(a, b)| a >= b));
            prop_assert_eq!(packed == other, a == b);
        }
    }
}
