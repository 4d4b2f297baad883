//! One factor of a homomorphic DFT, encoded for its level.

use std::sync::Arc;

use super::dft::Factor;
use crate::ciphertext::Ciphertext;
use crate::encoder::Encoder;
use crate::error::Error;
use crate::evaluator::Evaluator;
use crate::evaluator::linear::{self, DiagonalId, DiagonalSource, LinearPlan};
use crate::keys::EvalKeys;
use crate::plaintext::IntPlaintext;
use crate::units::{Scale, Slots};

/// A plan with its diagonals as compact integer coefficients.
#[derive(Debug)]
pub(super) struct EncodedFactor {
    plan: LinearPlan,
    diagonals: Vec<Arc<IntPlaintext>>,
}

impl DiagonalSource for EncodedFactor {
    fn diagonal(&self, id: DiagonalId) -> Result<Arc<IntPlaintext>, Error> {
        Ok(self.diagonals[id.0 as usize].clone())
    }
}

impl EncodedFactor {
    /// Encodes a factor that multiplies the scale by `scale` before it rescales.
    pub(super) fn new(
        encoder: &Encoder,
        factor: &Factor,
        slots: Slots,
        scale: &Scale,
    ) -> Result<Self, Error> {
        let encode = |diagonal: &Vec<_>| encoder.encode_complex(diagonal, slots, scale).map(Arc::new);
        let diagonals = factor.diagonals.iter().map(encode).collect::<Result<_, _>>()?;
        Ok(Self { plan: factor.plan.clone(), diagonals })
    }

    /// The transform, one level lower.
    pub(super) fn apply(
        &self,
        ev: &Evaluator,
        ct: &Ciphertext,
        keys: &EvalKeys,
    ) -> Result<Ciphertext, Error> {
        only(linear::apply_rescaled(ev, &[ct], &self.plan, self, keys)?)
    }

    /// The transform before its rescale.
    pub(super) fn apply_unscaled(
        &self,
        ev: &Evaluator,
        ct: &Ciphertext,
        keys: &EvalKeys,
    ) -> Result<Ciphertext, Error> {
        only(linear::apply(ev, &[ct], &self.plan, self, keys)?)
    }

    /// Bytes of the diagonals.
    pub(super) fn bytes(&self) -> usize {
        self.diagonals.iter().map(|diagonal| diagonal.bytes()).sum()
    }
}

fn only(mut outputs: Vec<Ciphertext>) -> Result<Ciphertext, Error> {
    match outputs.pop() {
        Some(output) => Ok(output),
        None => unreachable!("a factor has one output"),
    }
}
