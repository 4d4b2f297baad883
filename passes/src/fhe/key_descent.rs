//! The descent of [`plan_keys`](super::plan_keys): one group of calls after the other takes the split that is best with the rest
//! as it is, until nothing improves.

use std::collections::BTreeSet;

use peregrine_ckks::params::Params;
use peregrine_ir::Level;

/// Rounds of the descent, which ends long before.
const ROUNDS: usize = 20;

/// A call to be planned.
pub struct Site {
    /// Index of the call.
    pub call: usize,
    /// Its shape.
    pub shape: usize,
    /// Level that it runs at.
    pub level: Level,
    /// Seconds of each choice of the shape.
    pub seconds: Vec<f64>,
}

/// What a descent is about: sites, and for each shape and choice the keys that it needs.
pub struct Subject<'a> {
    /// The calls.
    pub sites: &'a [Site],
    /// By shape and choice: numbers of Galois elements.
    pub elements: &'a [Vec<Vec<u32>>],
    /// By number of element: the level that its key is needed at anyway.
    pub fixed: &'a [Option<Level>],
    /// The ring.
    pub params: &'a Params,
    /// Seconds that a byte of keys is worth.
    pub price: f64,
}

impl Subject<'_> {
    fn elements(&self, site: usize, choice: usize) -> &[u32] {
        &self.elements[self.sites[site].shape][choice]
    }

    /// The choice of every site where the descent from `start` ends, and the time with the price of the keys.
    pub fn descend(&self, start: Vec<usize>) -> (f64, Vec<usize>) {
        let mut descent = Descent { subject: self, keys: Keys::new(self), chosen: start };
        for site in 0..self.sites.len() {
            descent.hold(site);
        }
        descent.run();
        let all: Vec<usize> = (0..self.sites.len()).collect();
        all.iter().for_each(|&site| descent.let_go(site));
        (descent.held_again(&all), descent.chosen)
    }
}

/// The keys in use. A height is a level plus one, 0 is no key.
struct Keys {
    /// Bytes of a key by height.
    bytes: Vec<u64>,
    /// By element and height: calls that use it.
    uses: Vec<Vec<u32>>,
    /// By element.
    heights: Vec<usize>,
}

impl Keys {
    fn new(subject: &Subject<'_>) -> Self {
        let levels = subject.params.max_level().0 + 1;
        let of_level = (0..levels).map(|level| subject.params.key_bytes(Level(level)));
        let bytes: Vec<u64> = std::iter::once(0).chain(of_level).collect();
        let height = |level: &Option<Level>| level.map_or(0, |level| level.0 as usize + 1);
        let heights: Vec<usize> = subject.fixed.iter().map(height).collect();
        let mut uses = vec![vec![0; bytes.len()]; heights.len()];
        heights.iter().zip(&mut uses).for_each(|(&height, uses)| uses[height] += u32::from(height > 0));
        Self { bytes, uses, heights }
    }

    /// Bytes by which the keys grow.
    fn add(&mut self, elements: &[u32], level: Level) -> u64 {
        let (height, mut grown) = (level.0 as usize + 1, 0);
        for &element in elements {
            let element = element as usize;
            self.uses[element][height] += 1;
            let known = self.heights[element].max(height);
            grown += self.bytes[known] - self.bytes[self.heights[element]];
            self.heights[element] = known;
        }
        grown
    }

    fn remove(&mut self, elements: &[u32], level: Level) {
        for &element in elements {
            let uses = &mut self.uses[element as usize];
            uses[level.0 as usize + 1] -= 1;
            self.heights[element as usize] = uses.iter().rposition(|&count| count > 0).unwrap_or(0);
        }
    }

    /// Bytes by which the keys would grow.
    fn growth(&self, elements: &[u32], level: Level) -> u64 {
        let bytes = self.bytes[level.0 as usize + 1];
        elements.iter().map(|&e| bytes.saturating_sub(self.bytes[self.heights[e as usize]])).sum()
    }
}

struct Descent<'a> {
    subject: &'a Subject<'a>,
    keys: Keys,
    chosen: Vec<usize>,
}

impl Descent<'_> {
    fn run(&mut self) {
        let sites = self.subject.sites;
        let shapes: BTreeSet<usize> = sites.iter().map(|site| site.shape).collect();
        let of_shape = |&shape: &usize| (0..sites.len()).filter(|&i| sites[i].shape == shape).collect();
        let groups: Vec<Vec<usize>> = shapes.iter().map(of_shape).collect();
        let singles: Vec<Vec<usize>> = (0..sites.len()).map(|i| vec![i]).collect();
        for _ in 0..ROUNDS {
            let mut improved = false;
            for group in groups.iter().chain(&singles) {
                improved |= self.improve(group);
            }
            if !improved {
                return;
            }
        }
    }

    fn hold(&mut self, site: usize) -> u64 {
        self.keys.add(self.subject.elements(site, self.chosen[site]), self.subject.sites[site].level)
    }

    fn let_go(&mut self, site: usize) {
        self.keys.remove(self.subject.elements(site, self.chosen[site]), self.subject.sites[site].level);
    }

    /// Gives all sites of a group, which are of one shape, the choice that is best with the others as they are.
    fn improve(&mut self, group: &[usize]) -> bool {
        group.iter().for_each(|&site| self.let_go(site));
        let sites = self.subject.sites;
        let choices = &self.subject.elements[sites[group[0]].shape];
        let top = group.iter().map(|&i| sites[i].level).max().unwrap_or(Level(0));
        let together = |choice: usize| -> f64 {
            let time: f64 = group.iter().map(|&i| sites[i].seconds[choice]).sum();
            time + self.subject.price * self.keys.growth(&choices[choice], top) as f64
        };
        let scores = (0..choices.len()).map(|choice| (choice, together(choice)));
        let best = scores.min_by(|a, b| a.1.total_cmp(&b.1));
        let current = self.held_again(group);
        let Some((best, _)) = best.filter(|(_, score)| *score < current * (1.0 - 1e-9)) else { return false };
        for &site in group {
            self.let_go(site);
            self.chosen[site] = best;
            self.hold(site);
        }
        true
    }

    /// Holds the keys of sites that were let go: their time, and what their keys cost beyond those of the others.
    fn held_again(&mut self, group: &[usize]) -> f64 {
        let (mut time, mut grown) = (0.0, 0);
        for &site in group {
            time += self.subject.sites[site].seconds[self.chosen[site]];
            grown += self.hold(site);
        }
        time + self.subject.price * grown as f64
    }
}
