//! Operations that switch keys: relinearisation, rotation, conjugation.

use super::Evaluator;
use super::keyswitch::{self, Hoisted};
use crate::ciphertext::{Ciphertext, Product};
use crate::error::Error;
use crate::keys::EvalKeys;
use crate::units::{GaloisElement, Rotation};

impl Evaluator {
    /// Brings a product back to two parts by switching its third from `s^2` to `s`.
    ///
    /// # Errors
    /// [`Error::MissingRelinKey`], [`Error::Shape`].
    pub fn relinearize(&self, product: &Product, keys: &EvalKeys) -> Result<Ciphertext, Error> {
        self.check_product("relinearize", product)?;
        let key = keys.relin(product.level)?;
        let (mut c0, mut c1) = keyswitch::switch(&self.ctx, &product.d2, key)?;
        self.ctx.add_assign(&mut c0, &product.d0);
        self.ctx.add_assign(&mut c1, &product.d1);
        Ok(Ciphertext { c0, c1, level: product.level, scale: product.scale.clone() })
    }

    /// Product and relinearisation.
    ///
    /// # Errors
    /// Those of [`mul`](Self::mul) and [`relinearize`](Self::relinearize).
    pub fn mul_relin(&self, a: &Ciphertext, b: &Ciphertext, keys: &EvalKeys) -> Result<Ciphertext, Error> {
        self.relinearize(&self.mul(a, b)?, keys)
    }

    /// Square and relinearisation.
    ///
    /// # Errors
    /// Those of [`square`](Self::square) and [`relinearize`](Self::relinearize).
    pub fn square_relin(&self, a: &Ciphertext, keys: &EvalKeys) -> Result<Ciphertext, Error> {
        self.relinearize(&self.square(a)?, keys)
    }

    /// Relinearisation and rescale with one rounding, faster than one after the other.
    ///
    /// # Errors
    /// [`Error::NoLevelLeft`] at level 0, [`Error::MissingRelinKey`], [`Error::Shape`].
    pub fn relinearize_rescale(&self, product: &Product, keys: &EvalKeys) -> Result<Ciphertext, Error> {
        let op = "relinearize_rescale";
        self.check_product(op, product)?;
        let (level, scale) = Evaluator::rescaled(op, product.level, &product.scale)?;
        let key = keys.relin(product.level)?;
        let added = [&product.d0, &product.d1];
        let (c0, c1) = keyswitch::switch_add_rescale(&self.ctx, &product.d2, added, key)?;
        Ok(Ciphertext { c0, c1, level, scale })
    }

    /// Product, relinearisation and rescale; see [`relinearize_rescale`](Self::relinearize_rescale).
    ///
    /// # Errors
    /// Those of [`mul`](Self::mul) and [`relinearize_rescale`](Self::relinearize_rescale).
    pub fn mul_relin_rescale(
        &self,
        a: &Ciphertext,
        b: &Ciphertext,
        keys: &EvalKeys,
    ) -> Result<Ciphertext, Error> {
        self.relinearize_rescale(&self.mul(a, b)?, keys)
    }

    /// Square, relinearisation and rescale; see [`relinearize_rescale`](Self::relinearize_rescale).
    ///
    /// # Errors
    /// Those of [`square`](Self::square) and [`relinearize_rescale`](Self::relinearize_rescale).
    pub fn square_relin_rescale(&self, a: &Ciphertext, keys: &EvalKeys) -> Result<Ciphertext, Error> {
        self.relinearize_rescale(&self.square(a)?, keys)
    }

    /// Rotates the slots left: `rotate(x, r)[i] = x[i + r]`.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::Shape`].
    pub fn rotate(&self, ct: &Ciphertext, rotation: Rotation, keys: &EvalKeys) -> Result<Ciphertext, Error> {
        self.apply_automorphism("rotate", ct, self.element(rotation), keys)
    }

    /// Conjugates every slot.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::Shape`].
    pub fn conjugate(&self, ct: &Ciphertext, keys: &EvalKeys) -> Result<Ciphertext, Error> {
        self.apply_automorphism("conjugate", ct, GaloisElement::conjugation(self.ctx.n()), keys)
    }

    /// Several rotations of one ciphertext, which is decomposed only once (hoisting).
    ///
    /// # Errors
    /// [`Error::MissingKey`] before any work if a key is missing, [`Error::Shape`].
    pub fn rotate_hoisted(
        &self,
        ct: &Ciphertext,
        rotations: &[Rotation],
        keys: &EvalKeys,
    ) -> Result<Vec<Ciphertext>, Error> {
        self.check("rotate_hoisted", ct)?;
        let elements: Vec<GaloisElement> = rotations.iter().map(|&rotation| self.element(rotation)).collect();
        let switched = || elements.iter().filter(|&&element| element != GaloisElement::IDENTITY);
        switched().try_for_each(|&element| keys.galois(element, ct.level).map(drop))?;
        if switched().next().is_none() {
            return Ok(vec![ct.clone(); rotations.len()]);
        }
        let hoisted = Hoisted::new(&self.ctx, &ct.c1);
        let rotate = |&element: &GaloisElement| {
            if element == GaloisElement::IDENTITY {
                return Ok(ct.clone());
            }
            let (c0, c1) = hoisted.rotate(&ct.c0, element, keys.galois(element, ct.level)?)?;
            Ok(Ciphertext { c0, c1, level: ct.level, scale: ct.scale.clone() })
        };
        elements.iter().map(rotate).collect()
    }

    /// The automorphism of a rotation in this ring.
    fn element(&self, rotation: Rotation) -> GaloisElement {
        GaloisElement::from_rotation(rotation, self.ctx.n())
    }

    fn apply_automorphism(
        &self,
        op: &'static str,
        ct: &Ciphertext,
        element: GaloisElement,
        keys: &EvalKeys,
    ) -> Result<Ciphertext, Error> {
        self.check(op, ct)?;
        if element == GaloisElement::IDENTITY {
            return Ok(ct.clone());
        }
        let key = keys.galois(element, ct.level)?;
        let (c0, c1) = keyswitch::rotate(&self.ctx, &ct.c0, &ct.c1, element, key)?;
        Ok(Ciphertext { c0, c1, level: ct.level, scale: ct.scale.clone() })
    }
}
