//! Homomorphic operations. An [`Evaluator`] holds tables only: no type reachable from it names a secret key.

mod arith;
pub mod keyswitch;
pub mod linear;
mod mod_down;
pub mod polynomial;
mod product;
mod rescale;
mod rotate;
mod scratch;
#[cfg(test)]
mod tests;

use crate::ciphertext::{Ciphertext, Product};
use crate::context::Context;
use crate::error::Error;
use crate::units::{Level, Scale};

/// The server's side of CKKS: computes on ciphertexts with evaluation keys.
#[derive(Debug, Clone)]
pub struct Evaluator {
    ctx: Context,
}

impl Evaluator {
    /// An evaluator over the tables of a context.
    pub fn new(ctx: &Context) -> Evaluator {
        Evaluator { ctx: ctx.clone() }
    }

    /// The tables.
    pub fn context(&self) -> &Context {
        &self.ctx
    }

    /// Whether a ciphertext has the ring degree and limbs of its level.
    pub(crate) fn check(&self, op: &'static str, ct: &Ciphertext) -> Result<(), Error> {
        self.ctx.check_poly(op, &ct.c0, ct.level)?;
        self.ctx.check_poly(op, &ct.c1, ct.level)
    }

    pub(crate) fn check_product(&self, op: &'static str, product: &Product) -> Result<(), Error> {
        [&product.d0, &product.d1, &product.d2]
            .into_iter()
            .try_for_each(|part| self.ctx.check_poly(op, part, product.level))
    }

    pub(crate) fn check_levels(op: &'static str, left: Level, right: Level) -> Result<(), Error> {
        if left == right { Ok(()) } else { Err(Error::LevelMismatch { op, left, right }) }
    }

    pub(crate) fn check_scales(op: &'static str, left: &Scale, right: &Scale) -> Result<(), Error> {
        if left == right {
            return Ok(());
        }
        Err(Error::ScaleMismatch { op, left: Box::new(left.clone()), right: Box::new(right.clone()) })
    }
}
