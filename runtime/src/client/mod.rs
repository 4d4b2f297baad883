//! The client's side: the only place that holds a secret key, and the work in the clear before encryption and after
//! decryption.

mod clear_side;
pub mod decode;
mod detections;
pub mod draw;
mod error;
mod image;
mod key_file;
mod onnx;
mod onnx_file;
mod tensor;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use onnx::testing as onnx_testing;

pub use clear_side::{ClearSide, GUESSED, InputSource, Prepared, read_labels};
pub use detections::detections;
pub use error::{ClientError, Part};
pub use image::Preprocessing;
pub use key_file::ClientKey;
pub use onnx_file::OnnxFile;
pub use tensor::{NamedTensor, TensorPort, shape_text};

use std::sync::Arc;

use peregrine_ckks::bootstrap::BootstrapKeys;
use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::encrypt::{self, SeededCiphertext};
use peregrine_ckks::keys::{EvalKeys, KeyGenerator, SecretKey, SwitchingKey};
use peregrine_ckks::units::{GaloisElement, Level};
use rayon::prelude::*;

use crate::error::{At, RuntimeError};
use crate::exec::ServerKeys;
use crate::interface::{Interface, Port};
use crate::progress::{Phase, Progress};

/// A client of a program: makes keys, encrypts inputs, decrypts outputs. Its secret key is wiped when it is dropped and
/// never leaves it.
pub struct Client {
    interface: Arc<Interface>,
    context: Context,
    encoder: Encoder,
    secret: SecretKey,
}

impl Client {
    /// A client with a fresh secret key.
    pub fn new(interface: Arc<Interface>, context: &Context) -> Self {
        let secret = KeyGenerator::new(context).secret();
        Self { interface, context: context.clone(), encoder: Encoder::new(context), secret }
    }

    /// A client with a key of its own.
    pub fn with_key(interface: Arc<Interface>, context: &Context, key: ClientKey) -> Self {
        Self { interface, context: context.clone(), encoder: Encoder::new(context), secret: key.secret }
    }

    /// Makes the relinearisation and automorphism keys of the program's manifest, a few at a time, and gives them to `sink`.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`] when a key of the manifest cannot be made for these parameters, and what `sink` answers.
    pub fn make_keys(
        &self,
        progress: &dyn Progress,
        sink: &mut dyn FnMut(SwitchingKey) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let manifest = &self.interface.manifest;
        let generator = KeyGenerator::new(&self.context);
        let galois = manifest.galois.iter().map(|(&element, &level)| (Some(element), level));
        let wanted: Vec<_> = manifest.relin.iter().map(|&level| (None, level)).chain(galois).collect();
        progress.begin(Phase::Keys, wanted.len() as u64);
        let make = |&(element, level): &(Option<GaloisElement>, Level)| {
            let key = match element {
                None => generator.relin(&self.secret, level),
                Some(element) => generator.galois(&self.secret, element, level),
            };
            progress.advance(1);
            key.at(|| match element {
                None => "making the relinearisation key".to_owned(),
                Some(element) => format!("making the key for the automorphism {element}"),
            })
        };
        for some in wanted.chunks(rayon::current_num_threads().max(1)) {
            let keys: Vec<SwitchingKey> = some.par_iter().map(make).collect::<Result<_, _>>()?;
            keys.into_iter().try_for_each(&mut *sink)?;
        }
        progress.end();
        Ok(())
    }

    /// The evaluation keys of the program's manifest, each up to its level, and for a program that bootstraps those of an ephemeral
    /// secret, which is forgotten. They are public: the server gets them.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`] when a key of the manifest cannot be made for these parameters.
    pub fn evaluation_keys(&self, progress: &dyn Progress) -> Result<ServerKeys, RuntimeError> {
        self.evaluation_keys_while(progress, &|| Ok(()))
    }

    /// [`Self::evaluation_keys`], given up as soon as `go_on` fails.
    ///
    /// # Errors
    /// Those, and what `go_on` answers.
    pub fn evaluation_keys_while(
        &self,
        progress: &dyn Progress,
        go_on: &dyn Fn() -> Result<(), RuntimeError>,
    ) -> Result<ServerKeys, RuntimeError> {
        let mut keys = EvalKeys::new();
        self.make_keys(progress, &mut |key| {
            keys.insert(key);
            go_on()
        })?;
        self.server_keys(keys)
    }

    /// What the server gets besides relinearisation and automorphism keys: for a program that bootstraps, keys of an ephemeral
    /// secret, which is forgotten.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`] when they cannot be made for these parameters.
    pub fn server_keys(&self, evaluation: EvalKeys) -> Result<ServerKeys, RuntimeError> {
        let Some(params) = &self.interface.bootstrap else { return Ok(ServerKeys::Evaluation(evaluation)) };
        let generator = KeyGenerator::new(&self.context);
        let keys = BootstrapKeys::with_evaluation(&generator, &self.secret, params, evaluation);
        Ok(ServerKeys::Bootstrapping(keys.at(|| "making the keys of the ephemeral secret".to_owned())?))
    }

    /// Encrypts one tensor per program input, at the input's level and scale, with the secret key; the uniform halves are
    /// seeds.
    ///
    /// # Errors
    /// [`ClientError::Count`] and [`ClientError::Shape`] when the tensors do not fit, [`RuntimeError::Ckks`] when a value
    /// is too large for its scale.
    pub fn encrypt(&self, tensors: &[NamedTensor]) -> Result<Vec<Vec<SeededCiphertext>>, RuntimeError> {
        let ports = &self.interface.inputs;
        if tensors.len() != ports.len() {
            let (program, found) = (ports.len(), tensors.len());
            return Err(ClientError::Count { part: Part::Head, program, found }.into());
        }
        ports.iter().zip(tensors).map(|(port, tensor)| self.encrypt_input(port, tensor)).collect()
    }

    fn encrypt_input(
        &self,
        port: &Port,
        tensor: &NamedTensor,
    ) -> Result<Vec<SeededCiphertext>, RuntimeError> {
        if tensor.data.len() != port.layout.shape.len() {
            let shape = ClientError::Shape {
                what: format!("`{}`", tensor.name),
                found: shape_text(&tensor.shape),
                input: port.tensor.name.clone(),
                expected: shape_text(&port.tensor.shape),
            };
            return Err(shape.into());
        }
        let packed = port.pack(&tensor.data);
        let encrypted = packed.iter().map(|slots| {
            let plaintext = self.encoder.encode(slots, port.layout.period, &port.scale)?;
            encrypt::encrypt_secret(&self.context, &self.secret, &plaintext, port.level)
        });
        encrypted.collect::<Result<_, _>>().at(|| format!("encrypting input `{}`", port.tensor.name))
    }

    /// Decrypts the ciphertexts of each output, in original units.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`] when a ciphertext is not one of these parameters, [`RuntimeError::Program`] when some are
    /// missing.
    pub fn decrypt(&self, outputs: &[Vec<Ciphertext>]) -> Result<Vec<NamedTensor>, RuntimeError> {
        let ports = &self.interface.outputs;
        let ciphers = |i: usize| outputs.get(i).map_or(&[][..], Vec::as_slice);
        ports.iter().enumerate().map(|(i, port)| self.decrypt_output(port, ciphers(i))).collect()
    }

    fn decrypt_output(&self, port: &Port, ciphers: &[Ciphertext]) -> Result<NamedTensor, RuntimeError> {
        if ciphers.len() != port.layout.ciphertexts as usize {
            let what = format!("{} ciphertexts of {} came back", ciphers.len(), port.layout.ciphertexts);
            return Err(RuntimeError::Program { place: port.tensor.name.clone(), what });
        }
        let slots = ciphers.iter().map(|ciphertext| {
            let message = encrypt::decrypt(&self.context, &self.secret, ciphertext)?;
            self.encoder.decode(&message, ciphertext.scale(), port.layout.period)
        });
        let slots = slots
            .collect::<Result<Vec<_>, _>>()
            .at(|| format!("decrypting output `{}`", port.tensor.name))?;
        Ok(port.unpack(&slots))
    }
}
