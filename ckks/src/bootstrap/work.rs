//! The work of a bootstrap, counted without doing it.

use super::spec::{Arcsine, BootstrapParams};
use crate::cost::{Ending, Shape, Work};
use crate::error::Error;
use crate::evaluator::polynomial::{Count, Ladder, PolynomialBasis};
use crate::plaintext::Form;
use crate::units::{Level, Slots};

/// How many ciphertexts go through one bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// One real ciphertext.
    Single,
    /// Two, as `x + iy`.
    Pair,
}

impl BootstrapParams {
    /// What one bootstrap of so many slots does, in the units of [`cost`](crate::cost).
    ///
    /// # Errors
    /// [`Error::TooManySlots`].
    pub fn work(&self, slots: Slots, together: Together) -> Result<Work, Error> {
        let shape = |level| Shape::new(self.main(), level);
        let (top, spec) = (self.main().max_level(), self.spec());
        let transforms = self.transforms(slots)?;
        let last = transforms.len().saturating_sub(1);
        let mut work = Work::default();
        for (i, (plan, level)) in transforms.iter().enumerate() {
            // The last rescale comes after the conjugation.
            let ending = if i == last { Ending::ModDown } else { Ending::ModDownRescale };
            work += shape(*level).linear(&plan.work(|_| (slots, Form::Complex)), ending);
        }
        work += self.raise_work();
        let trace = self.trace_rotations(slots).count() as f64;
        work += (shape(top).rotation() + shape(top).passes(2.0)) * trace;
        let unscaled = Level(top.0 + 1 - spec.up_groups(slots).len() as u32);
        let halves = match together {
            Together::Single => 1.0,
            Together::Pair => 2.0,
        };
        work += shape(unscaled).rotation() + shape(unscaled).passes(2.0 * halves);
        Ok(work + (shape(unscaled).rescale() + self.eval_mod_work()?) * halves)
    }

    /// The key switches to the ephemeral secret and back, and the lift between them.
    fn raise_work(&self) -> Work {
        let (n, top) = (self.main().n(), self.main().max_level());
        let limbs = top.limbs() as f64;
        let lift = Work::transforms(n, limbs + 1.0) + Work::passes(n, limbs);
        let switch = |shape: Shape| shape.raise() + shape.key_product() + shape.lower(Ending::ModDown, 2.0);
        switch(Shape::new(self.ephemeral(), Level(0)))
            + lift * 2.0
            + switch(Shape::new(self.main(), top))
            + Work::passes(n, limbs + 1.0)
    }

    fn eval_mod_work(&self) -> Result<Work, Error> {
        let (spec, start) = (&self.spec().eval_mod, self.eval_mod_level());
        let (params, ladder) = (self.main(), spec.ladder(start));
        let mut work = Count::polynomial(params, &ladder, PolynomialBasis::Chebyshev, spec.degree as usize);
        let mut level = ladder.level(spec.cosine_depth());
        for _ in 0..spec.double_angles {
            let shape = Shape::new(params, level);
            work += shape.passes(7.0) + shape.relinearisation(Ending::ModDownRescale);
            level = Level(level.0.saturating_sub(1));
        }
        if spec.arcsine != Arcsine::None {
            let (degree, depth) = (spec.arcsine.degree(), spec.arcsine.depth());
            let ladder = Ladder::by_one(level, depth)?;
            work += Count::polynomial(params, &ladder, PolynomialBasis::Monomial, degree as usize);
        }
        Ok(work)
    }
}
