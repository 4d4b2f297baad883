//! A set of numbers below a bound, a bit each.

/// The set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Marks(Vec<u64>);

impl Marks {
    /// No number of those below `bound`.
    pub fn below(bound: usize) -> Self {
        Self(vec![0; bound.div_ceil(64)])
    }

    /// Adds a number below the bound.
    pub fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Takes every number out.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Adds the numbers of another set of the same bound.
    pub fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(ours, theirs)| *ours |= theirs);
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let of_word = |(place, &word): (usize, &u64)| {
            let rest = std::iter::successors(Some(word), |bits| Some(bits & (bits - 1)));
            rest.take_while(|&bits| bits != 0).map(move |bits| 64 * place + bits.trailing_zeros() as usize)
        };
        self.0.iter().enumerate().flat_map(of_word)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_are_a_set(a in prop::collection::vec(0usize..300, 0..80), b in prop::collection::vec(0usize..300, 0..80)) {
            let marks = |numbers: &[usize]| {
                let mut marks = Marks::below(300);
                numbers.iter().for_each(|&number| marks.insert(number));
                marks
            };
            let mut both = marks(&a);
            both.extend(&marks(&b));
            let expected: BTreeSet<usize> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(both.iter().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
            both.clear();
            prop_assert_eq!(both.iter().count(), 0);
        }
    }
}
