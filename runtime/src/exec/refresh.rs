//! Bootstrapping tables of a program, and the refresh of one ciphertext or of two.

use std::collections::BTreeMap;
use std::sync::Arc;

use peregrine_ckks::bootstrap::{BootstrapKeys, Bootstrapper};
use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::error::Error as CkksError;
use peregrine_ckks::evaluator::Evaluator;
use peregrine_ckks::units::{Scale, Slots};
use peregrine_ir::program::{Program, Refresh, RefreshId};

use crate::error::{At, RuntimeError};
use crate::interface::Interface;

/// The bootstrappers of a program's refreshes; refreshes of one slot count and unit scale share theirs.
#[derive(Debug, Default)]
pub struct Refreshers {
    tables: BTreeMap<RefreshId, Arc<Bootstrapper>>,
}

impl Refreshers {
    /// Encodes the transforms of every refresh.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`] when a recipe does not fit the parameters.
    pub fn new(program: &Program, interface: &Interface, context: &Context) -> Result<Self, RuntimeError> {
        let Some(params) = &interface.bootstrap else { return Ok(Self::default()) };
        let mut shared: BTreeMap<(Slots, Scale), Arc<Bootstrapper>> = BTreeMap::new();
        let mut tables = BTreeMap::new();
        for (id, refresh) in program.refreshes.iter() {
            let scale = refresh.form.unit_scale(&refresh.scale);
            let key = (refresh.slots, scale);
            let table = match shared.get(&key) {
                Some(table) => table.clone(),
                None => {
                    let table = Bootstrapper::new(params, context, key.0, &key.1);
                    Arc::new(table.at(|| format!("preparing refresh {id}"))?)
                }
            };
            shared.insert(key, table.clone());
            tables.insert(id, table);
        }
        Ok(Self { tables })
    }

    /// Refreshes one ciphertext.
    ///
    /// # Errors
    /// As [`Bootstrapper::refresh`].
    pub fn single(
        &self,
        (id, recipe): (RefreshId, &Refresh),
        ev: &Evaluator,
        x: &Ciphertext,
        keys: &BootstrapKeys,
    ) -> Result<Ciphertext, CkksError> {
        let table = self.table(id)?;
        let refreshed = table.refresh(&unit(recipe, x), keys)?;
        finish(recipe, ev, refreshed)
    }

    /// Refreshes two ciphertexts in one bootstrap.
    ///
    /// # Errors
    /// As [`Bootstrapper::refresh_pair`].
    pub fn pair(
        &self,
        (id, recipe): (RefreshId, &Refresh),
        ev: &Evaluator,
        [x, y]: [&Ciphertext; 2],
        keys: &BootstrapKeys,
    ) -> Result<[Ciphertext; 2], CkksError> {
        let table = self.table(id)?;
        let [x, y] = table.refresh_pair(&unit(recipe, x), &unit(recipe, y), keys)?;
        Ok([finish(recipe, ev, x)?, finish(recipe, ev, y)?])
    }

    fn table(&self, id: RefreshId) -> Result<&Bootstrapper, CkksError> {
        let expected = "the tables of every refresh of the program";
        self.tables.get(&id).map(AsRef::as_ref).ok_or(CkksError::Bootstrap { expected })
    }
}

/// The operand, read at the scale at which its values are at most 1 in magnitude.
fn unit(recipe: &Refresh, ct: &Ciphertext) -> Ciphertext {
    ct.clone().read_at(recipe.form.unit_scale(ct.scale()))
}

/// The result at its own scale, after the lift if there is one.
fn finish(recipe: &Refresh, ev: &Evaluator, ct: Ciphertext) -> Result<Ciphertext, CkksError> {
    let scale = ct.scale().mul(&Scale::pow2(-(recipe.form.range_bits as i32)));
    let ct = ct.read_at(scale);
    match recipe.form.lift_bits {
        None => Ok(ct),
        Some(bits) => ev.rescale(&ev.mul_scalar(&ct, 1.0, &Scale::pow2(bits as i32))?),
    }
}
