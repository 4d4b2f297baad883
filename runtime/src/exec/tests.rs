//! Runs that are stopped, saved and continued, and runs whose keys do not fit in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::keys::EvalKeys;

use crate::bytes::ByteSize;
use crate::client::{Client, ClientKey, NamedTensor};
use crate::error::RuntimeError;
use crate::exec::{
    Allowance, CheckpointId, Control, Execution, KeyPlace, KeyStore, MemoryBudget, Metering, Saving, Scratch,
    ScratchKeys, Server, ServerKeys,
};
use crate::interface::Port;
use crate::loader::Loaded;
use crate::local::{Backend, LocalOptions, run_loaded};
use crate::progress::{At, Phase, Progress, Silent};
use crate::report::RunReport;
use crate::session::{CheckpointOptions, Start};
use crate::testing::{client, loaded};

/// Precision that the tiny program keeps on CKKS; 18.0 bits measured.
const MINIMUM_BITS: f64 = 16.0;

fn run(options: &LocalOptions, progress: &dyn Progress) -> Result<RunReport, RuntimeError> {
    run_loaded(&loaded(client()), options, progress, Instant::now())
}

#[test]
fn keys_that_do_not_fit_are_read_from_the_scratch_folder() {
    let folder = tempfile::tempdir().expect("a directory");
    let server = Server::new(&loaded(client())).expect("a server");
    let (least, all) = (server.memory().least_with_scratch(), server.memory().least());
    assert!(least < all);
    let between = ByteSize((least.0 + all.0) / 2);
    for memory in [least, between] {
        let budget = MemoryBudget::new(Some(memory));
        let plan = server.memory().plan(budget, Scratch::Given).expect("it fits");
        assert!(matches!(plan.keys, KeyPlace::Scratch { .. }));
        let options = LocalOptions {
            backend: Backend::Ckks,
            memory: Some(memory),
            metering: Metering::Counted,
            scratch_dir: Some(folder.path().to_owned()),
            ..LocalOptions::default()
        };
        let report = run(&options, &Silent).expect("it runs");
        assert!(report.error_bits >= MINIMUM_BITS, "{} bits", report.error_bits);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "the keys are removed");
        let refused =
            run(&LocalOptions { scratch_dir: None, ..options.clone() }, &Silent).expect_err("too little");
        assert!(refused.to_string().contains("--scratch-dir DIR"), "{refused}");
        let nowhere = folder.path().join("nowhere");
        let refused =
            run(&LocalOptions { scratch_dir: Some(nowhere), ..options }, &Silent).expect_err("no folder");
        assert!(matches!(refused, RuntimeError::Scratch { .. }), "{refused}");
    }
    let too_little = MemoryBudget::new(Some(ByteSize(least.0 - 1)));
    let refused = server.memory().plan(too_little, Scratch::Given).expect_err("it does not fit");
    assert!(refused.to_string().contains("with --scratch-dir DIR"), "{refused}");
}

/// The tiny program with keys and an encrypted input.
struct World {
    loaded: Loaded,
    context: Context,
    client: Client,
    keys: ServerKeys,
    inputs: Vec<Vec<Ciphertext>>,
}

impl World {
    fn new() -> Self {
        let loaded = loaded(client());
        let context = Context::new(&loaded.interface.params).expect("a ring");
        let client = Client::new(loaded.interface.clone(), &context);
        let keys = client.evaluation_keys(&Silent).expect("keys");
        let numbers = |port: &Port| NamedTensor {
            name: port.tensor.name.clone(),
            shape: port.tensor.shape.clone(),
            data: (0..port.tensor.shape.iter().product()).map(|i: usize| (i as f64 * 0.7).sin()).collect(),
        };
        let tensors: Vec<NamedTensor> = loaded.interface.inputs.iter().map(numbers).collect();
        let uploads = client.encrypt(&tensors).expect("ciphertexts");
        let expand = |c: &peregrine_ckks::encrypt::SeededCiphertext| c.expand(&context).expect("it expands");
        let inputs = uploads.iter().map(|ciphers| ciphers.iter().map(expand).collect()).collect();
        Self { loaded, context, client, keys, inputs }
    }

    fn server(&self) -> Server {
        Server::new(&self.loaded).expect("a server")
    }

    fn run(
        &self,
        server: &Server,
        keys: KeyStore<'_>,
        memory: u64,
        saving: Option<&Saving>,
    ) -> Result<Execution, RuntimeError> {
        let budget = MemoryBudget::new(Some(ByteSize(memory)));
        let memory = Allowance { budget, metering: Metering::Counted };
        let control = Control { interrupt: None, save: saving, memory };
        server.run_from(&self.context, &self.inputs, keys, server.start(), control, &Silent)
    }
}

/// What outgrows its memory in spite of everything stops before that instruction, and goes on where there is more.
#[test]
fn a_run_that_outgrows_its_memory_is_saved_and_continues_with_more() {
    let world = World::new();
    let server = world.server();
    let whole = world.run(&server, KeyStore::Resident(&world.keys), 1 << 40, None).expect("a run").outputs;
    let folder = tempfile::tempdir().expect("a directory");
    let id = CheckpointId { program: server.program_hash(), keys: [7; 32] };
    let saving = Saving { path: folder.path().join("run.ckpt"), every: Duration::MAX, id };
    let (least, step) = (server.memory().least().0, server.memory().least_working.0 / 8);
    let mut places = Vec::new();
    for memory in (0..8).map(|eighths| least - eighths * step) {
        let error = match world.run(&server, KeyStore::Resident(&world.keys), memory, Some(&saving)) {
            Ok(done) => {
                assert_eq!(done.outputs, whole);
                assert!(places.is_empty(), "more memory must do where less does");
                continue;
            }
            Err(error) => error,
        };
        let RuntimeError::Exhausted { place, shortage, saved: Some(path) } = &error else {
            panic!("{error}")
        };
        assert!(shortage.needed.0 > memory && error.to_string().contains("--resume"), "{error}");
        let state = server.resume(&world.context, path, &id).expect("a checkpoint");
        let keys = KeyStore::Resident(&world.keys);
        let rest = server
            .run_from(&world.context, &world.inputs, keys, state, Control::default(), &Silent)
            .expect("it goes on");
        assert_eq!(rest.outputs, whole);
        places.push(place.clone());
    }
    assert!(
        !places.is_empty() && places.len() < 8,
        "the least memory does, an eighth of it does not: {places:?}"
    );
    assert!(places.iter().any(|place| !place.contains("instruction 0")), "{places:?}");
}

#[test]
fn constants_keys_and_portions_give_way_to_what_runs() {
    let world = World::new();
    let server = world.server();
    let whole = world.run(&server, KeyStore::Resident(&world.keys), 1 << 40, None).expect("a run").outputs;
    server.encode_constants(&world.context, ByteSize(u64::MAX), &Silent).expect("constants");
    let all = server.constants.held();
    assert!(all > 0);
    world.run(&server, KeyStore::Resident(&world.keys), 1 << 40, None).expect("a run");
    assert_eq!(server.constants.held(), all, "nothing is forgotten where memory does");
    let least = server.memory().least().0;
    let done = world.run(&server, KeyStore::Resident(&world.keys), least, None).expect("a run");
    assert_eq!(done.outputs, whole);
    assert!(server.constants.held() < all);

    // A store that may hold all keys, but not in this memory.
    let folder = tempfile::tempdir().expect("a folder");
    let uses = server.key_uses().clone();
    let resident = world.client.server_keys(EvalKeys::new()).expect("no keys");
    let mut store =
        ScratchKeys::new(folder.path(), &world.context, uses, ByteSize(u64::MAX), resident).expect("a store");
    world.keys.evaluation().iter().for_each(|key| store.store(key).expect("it is written"));
    let least = server.memory().least_with_scratch().0;
    let done = world.run(&server, KeyStore::Scratch(&mut store), least, None).expect("a run");
    assert_eq!(done.outputs, whole);
}

/// Raises a flag when the program comes to an instruction.
struct StopAt(usize, Arc<AtomicBool>);

impl Progress for StopAt {
    fn begin(&self, _: Phase, _: u64) {}
    fn at(&self, at: At<'_>) {
        if let At::Instruction { index, .. } = at
            && index == self.0
        {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

fn saved_run(folder: &Path, start: Start) -> LocalOptions {
    LocalOptions {
        backend: Backend::Ckks,
        client_key: Some(folder.join("client.key")),
        checkpoint: Some(CheckpointOptions { path: folder.join("run.ckpt"), every: Duration::ZERO, start }),
        interrupt: Some(Arc::new(AtomicBool::new(false))),
        ..LocalOptions::default()
    }
}

fn stopped_at(index: usize, folder: &Path) -> PathBuf {
    let options = saved_run(folder, Start::Fresh);
    let flag = options.interrupt.clone().expect("a flag");
    let error = run(&options, &StopAt(index, flag)).expect_err("it is stopped");
    let RuntimeError::Interrupted { saved: Some(path) } = error else { panic!("{error}") };
    path
}

#[test]
fn a_stopped_run_continues_with_the_same_answer() {
    let instructions = loaded(client()).program.insts.len();
    for index in [0, 2, 5, instructions - 2] {
        let folder = tempfile::tempdir().expect("a directory");
        let path = stopped_at(index, folder.path());
        let again = run(&saved_run(folder.path(), Start::Fresh), &Silent).expect_err("it would be lost");
        assert!(again.to_string().contains("--resume"), "{again}");
        let report = run(&saved_run(folder.path(), Start::Resume), &Silent).expect("it continues");
        assert!(report.error_bits >= MINIMUM_BITS, "{} bits", report.error_bits);
        let done: u64 = report.profile.expect("a profile").by_op.iter().map(|line| line.count).sum();
        assert_eq!(done as usize, instructions - index - 1, "only the rest is run");
        assert!(!path.exists(), "a finished run needs no checkpoint");
        let gone = run(&saved_run(folder.path(), Start::Resume), &Silent).expect_err("nothing to resume");
        assert!(gone.to_string().contains("no checkpoint to resume"), "{gone}");
    }
}

#[test]
fn damaged_and_foreign_checkpoints_are_refused() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = stopped_at(3, folder.path());
    let good = fs::read(&path).expect("a checkpoint");
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("it can be written");
        let error = run(&saved_run(folder.path(), Start::Resume), &Silent).expect_err("it is refused");
        assert!(matches!(error, RuntimeError::Checkpoint { .. }), "{error}");
        assert!(path.exists(), "a refused checkpoint is kept");
        error.to_string()
    };
    for length in [0, 7, 60, good.len() / 2, good.len() - 1] {
        refused(&good[..length]);
    }
    for at in [3, 20, 50, 75, 80, 84, 100, good.len() / 2, good.len() - 5] {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        refused(&flipped);
    }
    refused(&[&good[..], &[0]].concat());
    let mut foreign = good.clone();
    foreign[8] ^= 1;
    assert!(refused(&foreign).contains("another program"));
    fs::rename(folder.path().join("client.key"), folder.path().join("old.key")).expect("it can be renamed");
    assert!(refused(&good).contains("other keys"));
    fs::rename(folder.path().join("old.key"), folder.path().join("client.key")).expect("it can be renamed");
    fs::write(&path, &good).expect("it can be written");
    assert!(run(&saved_run(folder.path(), Start::Resume), &Silent).is_ok());
}

#[test]
fn checkpoints_need_a_client_key() {
    let folder = tempfile::tempdir().expect("a directory");
    let options = LocalOptions { client_key: None, ..saved_run(folder.path(), Start::Fresh) };
    let error = run(&options, &Silent).expect_err("it could never be continued");
    assert!(error.to_string().contains("--client-key"), "{error}");
}

#[test]
fn client_keys_are_private_and_checked() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("client.key");
    let context = Context::new(&loaded(client()).interface.params).expect("a ring");
    let made = ClientKey::open_or_create(&path, &context).expect("a key");
    let read = ClientKey::open_or_create(&path, &context).expect("the same key");
    assert_eq!(made.id, read.id);
    assert_ne!(made.id, ClientKey::fresh(&context).id);
    let good = fs::read(&path).expect("a file");
    for bytes in [&good[..20], &good[..good.len() - 1]] {
        fs::write(&path, bytes).expect("it can be written");
        assert!(ClientKey::open_or_create(&path, &context).is_err(), "damage is refused, not replaced");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("it can be changed");
        let error = ClientKey::open(&path, &context).err().expect("others may read it");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
