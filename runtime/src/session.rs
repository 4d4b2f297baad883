//! Keys and encoded constants of one program, for as many encrypted runs as wanted; runs that are stopped and continued.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::encrypt::SeededCiphertext;
use peregrine_ckks::keys::EvalKeys;
use peregrine_ckks::ring::arena;

use crate::bytes::ByteSize;
use crate::client::{Client, ClientKey, NamedTensor};
use crate::error::{At, RuntimeError};
use crate::exec::{
    Allowance, CheckpointId, Control, KeyPlace, KeyStore, MemoryBudget, MemoryPlan, Metering, Profile,
    Saving, Scratch, ScratchKeys, Server, ServerKeys, State,
};
use crate::loader::Loaded;
use crate::progress::Progress;
use crate::report::Seconds;

/// Choices of encrypted runs.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Memory that runs may take; else what is available.
    pub memory: Option<ByteSize>,
    /// How it is known what memory is in use.
    pub metering: Metering,
    /// Folder for keys that do not fit in memory.
    pub scratch_dir: Option<PathBuf>,
    /// The client's secret key: read from this file, or made and kept there.
    pub client_key: Option<PathBuf>,
    /// Where a run is saved and continued from; needs `client_key`.
    pub checkpoint: Option<CheckpointOptions>,
    /// Set when a run shall stop.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// Where and when a run is saved.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointOptions {
    /// The file; removed when the run is complete.
    pub path: PathBuf,
    /// Time between two checkpoints.
    pub every: Duration,
    /// Where the run begins.
    pub start: Start,
}

/// Where a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first instruction; a checkpoint that exists is not replaced.
    Fresh,
    /// Where the checkpoint is.
    Resume,
}

/// A server that fits in memory.
pub struct Planned {
    server: Server,
    memory: MemoryPlan,
    allowance: Allowance,
    options: SessionOptions,
}

/// Client and server of a program, ready to run.
pub struct Session {
    context: Context,
    client: Client,
    keys: Keys,
    server: Server,
    allowance: Allowance,
    options: SessionOptions,
    id: CheckpointId,
}

/// Evaluation keys where the plan wants them.
enum Keys {
    Memory(ServerKeys),
    Scratch(Mutex<ScratchKeys>),
}

impl SessionOptions {
    /// Refuses choices that make no sense together.
    fn check(&self) -> Result<(), RuntimeError> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
        if self.client_key.is_none() {
            return Err(RuntimeError::Flags(
                "a checkpoint cannot be continued without its secret key: give --client-key FILE, too",
            ));
        }
        match (checkpoint.start, checkpoint.path.exists()) {
            (Start::Fresh, true) => Err(RuntimeError::Flags(
                "the checkpoint exists already: continue it with --resume, or remove it",
            )),
            (Start::Resume, false) => {
                Err(RuntimeError::Flags("there is no checkpoint to resume; run without --resume"))
            }
            (Start::Fresh, false) | (Start::Resume, true) => Ok(()),
        }
    }

    fn interrupted(&self) -> Result<(), RuntimeError> {
        let stop = self.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed));
        if stop { Err(RuntimeError::Interrupted { saved: None }) } else { Ok(()) }
    }
}

impl Planned {
    /// Plans runs and refuses those that do not fit, before anything large is made.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] when the program does not fit in the memory that is allowed or available,
    /// [`RuntimeError::Flags`] when the options make no sense together.
    pub fn new(loaded: &Loaded, options: SessionOptions) -> Result<Self, RuntimeError> {
        options.check()?;
        let server = Server::new(loaded)?;
        let scratch = if options.scratch_dir.is_some() { Scratch::Given } else { Scratch::None };
        let budget = MemoryBudget::new(options.memory);
        let memory = server.memory().plan(budget, scratch)?;
        let allowance = Allowance { budget, metering: options.metering };
        Ok(Self { server, memory, allowance, options })
    }

    /// Makes keys and encodes constants.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`], [`RuntimeError::Scratch`], [`RuntimeError::Interrupted`], and what is wrong with the key file.
    pub fn open(
        self,
        loaded: &Loaded,
        progress: &dyn Progress,
        seconds: &mut Seconds,
    ) -> Result<Session, RuntimeError> {
        let clock = Instant::now();
        arena::set_ceiling(self.memory.resident.0);
        let context = Context::new(&loaded.interface.params).at(|| "building the ring".to_owned())?;
        seconds.load += clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let key = match &self.options.client_key {
            Some(path) => ClientKey::open_or_create(path, &context)?,
            None => ClientKey::fresh(&context),
        };
        let program = self.options.checkpoint.as_ref().map_or([0; 32], |_| self.server.program_hash());
        let id = CheckpointId { program, keys: key.id };
        let client = Client::with_key(loaded.interface.clone(), &context, key);
        let keys = self.keys(&client, &context, progress)?;
        seconds.keygen += clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        self.server.encode_constants(&context, self.memory.constants, progress)?;
        self.server.warm(&self.memory);
        self.options.interrupted()?;
        seconds.load += clock.elapsed().as_secs_f64();
        let Self { server, allowance, options, .. } = self;
        Ok(Session { context, client, keys, server, allowance, options, id })
    }

    /// Makes the evaluation keys where the plan wants them.
    fn keys(
        &self,
        client: &Client,
        context: &Context,
        progress: &dyn Progress,
    ) -> Result<Keys, RuntimeError> {
        match (self.memory.keys, &self.options.scratch_dir) {
            (KeyPlace::Scratch { memory }, Some(folder)) => {
                let (uses, resident) = (self.server.key_uses().clone(), client.server_keys(EvalKeys::new())?);
                let keys = ScratchKeys::new(folder, context, uses, memory, resident)?;
                client.make_keys(progress, &mut |key| {
                    self.options.interrupted()?;
                    keys.store(&key)
                })?;
                Ok(Keys::Scratch(Mutex::new(keys)))
            }
            (KeyPlace::Memory | KeyPlace::Scratch { .. }, _) => {
                let keys = client.evaluation_keys_while(progress, &|| self.options.interrupted())?;
                self.server.check_keys(&keys)?;
                Ok(Keys::Memory(keys))
            }
        }
    }
}

impl Session {
    /// Encrypts, runs, decrypts.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`], or when the tensors do not fit the program, the run is stopped, or a checkpoint fails.
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
        let checkpoint = self.options.checkpoint.as_ref();
        let saving = checkpoint.map(|c| Saving { path: c.path.clone(), every: c.every, id: self.id });
        let interrupt = self.options.interrupt.as_deref();
        let control = Control { interrupt, save: saving.as_ref(), memory: self.allowance };
        let state = self.start()?;
        let run = |keys| self.server.run_from(&self.context, &inputs, keys, state, control, progress);
        let execution = match &self.keys {
            Keys::Memory(keys) => run(KeyStore::Resident(keys))?,
            Keys::Scratch(keys) => {
                // After a run that panicked the store still knows what it holds.
                let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
                run(KeyStore::Scratch(&mut keys))?
            }
        };
        seconds.online += clock.elapsed().as_secs_f64();

        let clock = Instant::now();
        let outputs = self.client.decrypt(&execution.outputs)?;
        seconds.decrypt += clock.elapsed().as_secs_f64();
        if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.path.exists()) {
            std::fs::remove_file(&checkpoint.path).map_err(|source| RuntimeError::Checkpoint {
                path: checkpoint.path.clone(),
                source: source.into(),
            })?;
        }
        Ok((outputs, execution.profile))
    }

    /// The state that a run begins with.
    fn start(&self) -> Result<State, RuntimeError> {
        match self.options.checkpoint.as_ref().filter(|checkpoint| checkpoint.start == Start::Resume) {
            Some(checkpoint) => self.server.resume(&self.context, &checkpoint.path, &self.id),
            None => Ok(self.server.start()),
        }
    }
}
