//! Which sums of products are made together.
//!
//! Rotated inputs are read for a few sums at a time. Where a transform does the same to several inputs their sums have diagonals
//! in common, which are transformed once for those that are made together.

use std::collections::{BTreeMap, HashMap};

use super::DiagonalId;

/// Sums of different diagonals that are made together.
const DIFFERENT: usize = 4;

/// Sums with diagonals in common that are made together.
pub const ALIKE: usize = 8;

/// The sums that are made together, by the diagonals of each: a few next to each other, and with each of them those that have
/// diagonals in common with it.
pub(super) fn together<I: IntoIterator<Item = DiagonalId>>(
    sums: impl IntoIterator<Item = I>,
) -> Vec<Vec<usize>> {
    let mut owners: HashMap<DiagonalId, usize> = HashMap::new();
    let mut alike: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (sum, diagonals) in sums.into_iter().enumerate() {
        let diagonals: Vec<DiagonalId> = diagonals.into_iter().collect();
        let known = diagonals.iter().filter_map(|id| owners.get(id)).min();
        let owner = known.copied().unwrap_or(sum);
        for id in diagonals {
            owners.entry(id).or_insert(owner);
        }
        alike.entry(owner).or_default().push(sum);
    }
    let alike: Vec<Vec<usize>> = alike.into_values().collect();
    let few = |different: &[Vec<usize>]| -> Vec<Vec<usize>> {
        let longest = different.iter().map(Vec::len).max().unwrap_or(0);
        let portion = |first: usize| {
            let of_one = |sums: &Vec<usize>| sums.iter().skip(first).take(ALIKE).copied().collect::<Vec<_>>();
            different.iter().flat_map(of_one).collect()
        };
        (0..longest).step_by(ALIKE).map(portion).collect()
    };
    alike.chunks(DIFFERENT).flat_map(few).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(sums: &[&[u32]]) -> Vec<Vec<usize>> {
        together(sums.iter().map(|ids| ids.iter().map(|&id| DiagonalId(id))))
    }

    #[test]
    fn neighbours_go_together_and_those_with_diagonals_in_common() {
        // Two outputs of five giant steps each, which share all diagonals but one.
        let steps: [&[u32]; 10] =
            [&[0, 1], &[2, 3], &[4, 5], &[6, 7], &[8, 9], &[0, 1], &[2, 3], &[4, 10], &[6, 7], &[8, 9]];
        assert_eq!(groups(&steps), [vec![0, 5, 1, 6, 2, 7, 3, 8], vec![4, 9]]);
        // Nothing in common.
        let alone: Vec<Vec<u32>> = (0..6).map(|id| vec![id]).collect();
        let alone: Vec<&[u32]> = alone.iter().map(Vec::as_slice).collect();
        assert_eq!(groups(&alone), [vec![0, 1, 2, 3], vec![4, 5]]);
        assert!(groups(&[]).is_empty());
    }

    #[test]
    fn every_sum_is_made_once() {
        let ids = |sum: u32| vec![sum % 3, 3 + sum % 2];
        let sums: Vec<Vec<u32>> = (0..40).map(ids).collect();
        let sums: Vec<&[u32]> = sums.iter().map(Vec::as_slice).collect();
        let groups = groups(&sums);
        assert!(groups.iter().all(|group| group.len() <= DIFFERENT * ALIKE));
        let mut all: Vec<usize> = groups.into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
    }
}
