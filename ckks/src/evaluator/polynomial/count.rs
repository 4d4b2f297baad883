//! The work of an evaluation, counted without doing it: the recursion of [`evaluate`](super::evaluate) on degrees.

use std::collections::BTreeSet;

use super::PolynomialBasis;
use super::evaluate::{LEAF, Ladder, depth_of};
use crate::cost::{Ending, Shape, Work};
use crate::params::Params;
use crate::units::Level;

/// Counts as it goes which powers there are.
pub(crate) struct Count<'a> {
    params: &'a Params,
    ladder: &'a Ladder,
    basis: PolynomialBasis,
    powers: BTreeSet<usize>,
}

impl<'a> Count<'a> {
    /// The work of a polynomial of scalar coefficients, none of them zero.
    pub(crate) fn polynomial(
        params: &'a Params,
        ladder: &'a Ladder,
        basis: PolynomialBasis,
        degree: usize,
    ) -> Work {
        let mut count = Self { params, ladder, basis, powers: BTreeSet::from([1]) };
        count.evaluate(degree + 1, depth_of(degree + 1))
    }

    fn shape(&self, depth: u32) -> Shape {
        Shape::new(self.params, self.ladder.level(depth))
    }

    fn evaluate(&mut self, mut len: usize, depth: u32) -> Work {
        let before = depth - 1;
        let (mut work, mut products, mut terms) = (Work::default(), 0, 0);
        while len > LEAF || len > 1 && depth_of(len - 1) > before {
            let split = 1 << (len - 1).ilog2();
            work += self.power(split);
            if len - split == 1 {
                terms += 1;
            } else {
                work += self.evaluate(len - split, before) + self.shape(before).passes(3.0);
                if products > 0 {
                    work += self.shape(before).passes(3.0);
                }
                products += 1;
            }
            len = split;
        }
        for k in 1..len {
            work += self.power(k);
        }
        terms += len - 1;
        let limbs = self.ladder.level(before).limbs();
        work += Work { conversions: (2 * self.params.n() * limbs * terms) as f64, ..Work::default() };
        work + if products > 0 { self.lower_product(depth) } else { self.lower(before, depth) }
    }

    /// Relinearisation and rescale from the depth before.
    fn lower_product(&self, depth: u32) -> Work {
        let level = self.ladder.level(depth - 1);
        let below = Level(level.0.saturating_sub(1));
        let merged = Shape::new(self.params, level).relinearisation(Ending::ModDownRescale);
        merged + self.rescales(below, self.ladder.level(depth))
    }

    fn lower(&self, from: u32, to: u32) -> Work {
        self.rescales(self.ladder.level(from), self.ladder.level(to))
    }

    fn rescales(&self, from: Level, to: Level) -> Work {
        let step = |level| Shape::new(self.params, Level(level)).rescale();
        (to.0 + 1..=from.0).map(step).fold(Work::default(), |sum, work| sum + work)
    }

    fn power(&mut self, k: usize) -> Work {
        if !self.powers.insert(k) {
            return Work::default();
        }
        let high = k.next_power_of_two() / 2;
        let low = k - high;
        let mut work = self.power(high) + self.power(low);
        let depth = depth_of(k);
        work += self.shape(depth - 1).passes(3.0) + self.lower_product(depth);
        if self.basis == PolynomialBasis::Chebyshev {
            work += self.shape(depth - 1).passes(3.0);
            if high != low {
                work += self.power(high - low) + self.shape(depth - 1).passes(4.0);
            }
        }
        work
    }
}
