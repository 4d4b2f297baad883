//! The keys of bootstrapping.

use std::io::{Read, Write};

use super::{BootstrapParams, Bootstrapper};
use crate::context::Context;
use crate::error::Error;
use crate::keys::{EvalKeys, KeyGenerator, SecretKey, SwitchingKey};
use crate::units::Level;
use crate::wire::{Wire, WireError};

/// Rotation, conjugation and relinearisation keys at the levels bootstrapping needs, and the two keys of the ephemeral secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapKeys {
    pub(super) evaluation: EvalKeys,
    /// From the main to the ephemeral secret, modulo `q_0` and the special primes of the ephemeral ring only.
    pub(super) to_ephemeral: SwitchingKey,
    /// From the ephemeral to the main secret, at the top level.
    pub(super) to_main: SwitchingKey,
}

impl BootstrapKeys {
    /// Makes the keys of a bootstrapper. The ephemeral secret is new and forgotten.
    ///
    /// # Errors
    /// [`Error::ForeignParameters`] if the secret key belongs to another ring.
    pub fn generate(
        generator: &KeyGenerator,
        sk: &SecretKey,
        bootstrapper: &Bootstrapper,
    ) -> Result<BootstrapKeys, Error> {
        let params = bootstrapper.params();
        let mut evaluation = EvalKeys::new();
        evaluation.extend(generator.galois_set(sk, &params.galois_elements(bootstrapper.slots())?)?);
        evaluation.insert(generator.relin(sk, params.eval_mod_level())?);
        Self::with_evaluation(generator, sk, params, evaluation)
    }

    /// Adds the keys of an ephemeral secret, which is new and forgotten, to evaluation keys that are there: those that
    /// [`BootstrapParams::galois_elements`] names for each slot count, and relinearisation up to
    /// [`BootstrapParams::eval_mod_level`].
    ///
    /// # Errors
    /// [`Error::ForeignParameters`] if the secret key belongs to another ring.
    pub fn with_evaluation(
        generator: &KeyGenerator,
        sk: &SecretKey,
        params: &BootstrapParams,
        evaluation: EvalKeys,
    ) -> Result<BootstrapKeys, Error> {
        let ephemeral = Context::new(params.ephemeral())?;
        let [to_ephemeral, to_main] = generator.encapsulation(sk, &ephemeral, params.main().max_level())?;
        Ok(BootstrapKeys { evaluation, to_ephemeral, to_main })
    }

    /// The relinearisation and automorphism keys, to which a program's own may be added.
    pub fn evaluation(&self) -> &EvalKeys {
        &self.evaluation
    }

    /// The same, mutable.
    pub fn evaluation_mut(&mut self) -> &mut EvalKeys {
        &mut self.evaluation
    }

    /// Writes the keys, seeded (half their bytes): three objects of [`wire`](crate::wire), each with its header and checksum.
    ///
    /// # Errors
    /// [`WireError::Io`] if the writer fails.
    pub fn write_to(&self, bootstrapper: &Bootstrapper, writer: &mut dyn Write) -> Result<(), WireError> {
        let main = bootstrapper.evaluator.context();
        self.evaluation.write_to(main, writer)?;
        self.to_main.write_to(main, writer)?;
        self.to_ephemeral.write_to(bootstrapper.ephemeral(), writer)
    }

    /// Reads what [`write_to`](Self::write_to) wrote and checks that it is what `bootstrapper` needs.
    ///
    /// # Errors
    /// [`Error::Wire`] for damaged or foreign objects, [`Error::MissingKey`], [`Error::MissingRelinKey`],
    /// [`Error::LevelOutOfRange`] or [`Error::ForeignParameters`] for keys that do not serve.
    pub fn read_from(bootstrapper: &Bootstrapper, reader: &mut dyn Read) -> Result<BootstrapKeys, Error> {
        let main = bootstrapper.evaluator.context();
        let evaluation = EvalKeys::read_from(main, reader)?;
        let to_main = SwitchingKey::read_from(main, reader)?;
        let to_ephemeral = SwitchingKey::read_from(bootstrapper.ephemeral(), reader)?;
        let keys = BootstrapKeys { evaluation, to_ephemeral, to_main };
        keys.check(bootstrapper)?;
        Ok(keys)
    }

    fn check(&self, bootstrapper: &Bootstrapper) -> Result<(), Error> {
        let op = "bootstrapping keys";
        let params = bootstrapper.params();
        for (element, level) in params.galois_elements(bootstrapper.slots())? {
            self.evaluation.galois(element, level)?;
        }
        self.evaluation.relin(params.eval_mod_level())?;
        let top = bootstrapper.params().main().max_level();
        for (key, level) in [(&self.to_main, top), (&self.to_ephemeral, Level(0))] {
            if key.level() < level {
                return Err(Error::LevelOutOfRange { op, level, max: key.level() });
            }
            if key.element().is_some() {
                return Err(Error::ForeignParameters { op, what: "a key of the ephemeral secret" });
            }
        }
        Ok(())
    }

    /// Bytes of residues, expanded.
    pub fn bytes(&self) -> usize {
        self.evaluation.bytes() + self.to_ephemeral.bytes() + self.to_main.bytes()
    }
}
