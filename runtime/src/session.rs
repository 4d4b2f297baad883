//! Keys and encoded constants of one program in memory, for as many encrypted runs as wanted.

use std::time::Instant;

use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::encrypt::SeededCiphertext;

use crate::bytes::ByteSize;
use crate::client::{Client, NamedTensor};
use crate::error::{At, RuntimeError};
use crate::exec::{MemoryBudget, Profile, Server, ServerKeys};
use crate::loader::Loaded;
use crate::progress::Progress;
use crate::report::Seconds;

/// A server that fits in memory.
pub struct Planned {
    server: Server,
    cache: ByteSize,
}

/// Client and server of a program, ready to run.
pub struct Session {
    context: Context,
    client: Client,
    keys: ServerKeys,
    server: Server,
}

impl Planned {
    /// Plans runs and refuses those that do not fit, before anything large is made.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] when the program does not fit in `memory`, or in what is available.
    pub fn new(loaded: &Loaded, memory: Option<ByteSize>) -> Result<Self, RuntimeError> {
        let server = Server::new(loaded)?;
        let cache = server.memory().cache_budget(MemoryBudget::new(memory))?;
        Ok(Self { server, cache })
    }

    /// Makes keys and encodes constants.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`].
    pub fn open(
        self,
        loaded: &Loaded,
        progress: &dyn Progress,
        seconds: &mut Seconds,
    ) -> Result<Session, RuntimeError> {
        let clock = Instant::now();
        let context = Context::new(&loaded.interface.params).at(|| "building the ring".to_owned())?;
        seconds.load += clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let client = Client::new(loaded.interface.clone(), &context);
        let keys = client.evaluation_keys(progress)?;
        seconds.keygen += clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        self.server.encode_constants(&context, self.cache, progress)?;
        seconds.load += clock.elapsed().as_secs_f64();
        Ok(Session { context, client, keys, server: self.server })
    }
}

impl Session {
    /// Encrypts, runs, decrypts.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`], or when the tensors do not fit the program.
    pub fn run(
        &self,
        tensors: &[NamedTensor],
        progress: &dyn Progress,
        seconds: &mut Seconds,
    ) -> Result<(Vec<NamedTensor>, Profile), RuntimeError> {
        let clock = Instant::now();
        let uploads = self.client.encrypt(tensors)?;
        seconds.encrypt += clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let expand =
            |ciphers: &Vec<SeededCiphertext>| ciphers.iter().map(|c| c.expand(&self.context)).collect();
        let inputs: Result<Vec<Vec<Ciphertext>>, _> = uploads.iter().map(expand).collect();
        let inputs = inputs.at(|| "expanding the encrypted input".to_owned())?;
        let execution = self.server.run(&self.context, &inputs, &self.keys, progress)?;
        seconds.online += clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let outputs = self.client.decrypt(&execution.outputs)?;
        seconds.decrypt += clock.elapsed().as_secs_f64();
        Ok((outputs, execution.profile))
    }
}
