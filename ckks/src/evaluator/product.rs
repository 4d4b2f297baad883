//! Sums with products that are not yet relinearised, so that their relinearisation and rescale can be one step.

use rayon::prelude::*;

use super::Evaluator;
use super::arith::WideInteger;
use crate::ciphertext::{Ciphertext, Product};
use crate::error::Error;

impl Evaluator {
    /// Doubles every slot; the scale stays.
    ///
    /// # Errors
    /// [`Error::Shape`] for a foreign product.
    pub fn double_product(&self, product: &mut Product) -> Result<(), Error> {
        self.check_product("double", product)?;
        self.ctx.count(self.ctx.shape(product.level.limbs()).passes(3.0));
        for part in [&mut product.d0, &mut product.d1, &mut product.d2] {
            part.par_limbs_mut().zip(self.ctx.q_moduli()).for_each(|(limb, modulus)| {
                self.ctx.kernels().mul_scalar_assign(modulus, limb, modulus.factor(2));
            });
        }
        Ok(())
    }

    /// `product += ct`. Levels and exact scales must agree.
    ///
    /// # Errors
    /// [`Error::LevelMismatch`], [`Error::ScaleMismatch`], [`Error::Shape`]; then the product is unchanged.
    pub fn add_to_product(&self, product: &mut Product, ct: &Ciphertext) -> Result<(), Error> {
        self.check_with_product("add", product, ct)?;
        self.ctx.add_assign(&mut product.d0, &ct.c0);
        self.ctx.add_assign(&mut product.d1, &ct.c1);
        Ok(())
    }

    /// `product -= ct`. Levels and exact scales must agree.
    ///
    /// # Errors
    /// As [`add_to_product`](Self::add_to_product).
    pub fn sub_from_product(&self, product: &mut Product, ct: &Ciphertext) -> Result<(), Error> {
        self.check_with_product("sub", product, ct)?;
        self.ctx.sub_assign(&mut product.d0, &ct.c0);
        self.ctx.sub_assign(&mut product.d1, &ct.c1);
        Ok(())
    }

    /// Adds one value to every slot.
    ///
    /// # Errors
    /// As [`add_scalar`](Self::add_scalar).
    pub fn add_scalar_to_product(&self, product: &mut Product, value: f64) -> Result<(), Error> {
        let op = "add_scalar";
        self.check_product(op, product)?;
        let constant = WideInteger::nearest(self, op, value, &product.scale)?;
        self.add_constant(&mut product.d0, constant);
        Ok(())
    }

    fn check_with_product(&self, op: &'static str, product: &Product, ct: &Ciphertext) -> Result<(), Error> {
        self.check_product(op, product)?;
        self.check(op, ct)?;
        Evaluator::check_levels(op, product.level, ct.level)?;
        Evaluator::check_scales(op, &product.scale, &ct.scale)
    }
}
