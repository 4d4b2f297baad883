//! Workspace tests: whole models end to end, snapshots of every IR level, and the tidy rules. See `tests/tests/`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// Root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate is in the workspace").to_owned()
}

/// A file under `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    workspace().join("fixtures").join(path)
}

use std::fs;

use peregrine_ckks::context::Context;
use peregrine_ckks::encrypt::SeededCiphertext;
use peregrine_compiler::driver::{self, Lowered, Prepared};
use peregrine_compiler::gate::Tolerance;
use peregrine_compiler::onnx::ImportOptions;
use peregrine_compiler::options::{Activations, CompileOptions, Layouts, Plan, Products, Verify};
use peregrine_ir::program::Noise;
use peregrine_runtime::client::{ClearSide, NamedTensor, Preprocessing};
use peregrine_runtime::exec::{MemoryBudget, Scratch, ServerKeys};
use peregrine_runtime::progress::Silent;
use peregrine_runtime::{Client, Loaded, Server, clear};

/// Options that compile `model` (under `fixtures/models`) with the calibration images of the fixtures.
pub fn compile_options(model: &str) -> CompileOptions {
    CompileOptions {
        model: fixture("models").join(model),
        import: ImportOptions::default(),
        calibrate: None,
        activations: Activations::Fit,
        degree: None,
        plan: Plan::default(),
        layout: Layouts::Search,
        products: Products::Deep,
        precision: None,
        sample: None,
        labels: None,
        machine: None,
        keys_memory: None,
        verify: Verify::Gate(Tolerance::default()),
        dump: Vec::new(),
        progress: Default::default(),
    }
}

/// A fixture compiled up to the program, and the files it came from.
pub fn compiled(options: &CompileOptions) -> (Prepared, Lowered) {
    let prepared = driver::prepare(options).expect("the fixture is read");
    let lowered = driver::lower(&prepared, options, &mut |_, _| {}).expect("the fixture compiles");
    (prepared, lowered)
}

/// The labelled pictures of a folder of `fixtures/images`, in order of their names; the label is the number after the last `_`.
pub fn pictures(folder: &str) -> Vec<(PathBuf, usize)> {
    let entries = fs::read_dir(fixture("images").join(folder)).expect("the folder of pictures");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a picture").path()).collect();
    paths.sort();
    let label = |path: &Path| {
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("a name");
        stem.rsplit('_').next().and_then(|n| n.parse().ok()).expect("a label")
    };
    paths.into_iter().map(|path| (path.clone(), label(&path))).collect()
}

/// Client and server of one compiled model, with keys made and constants encoded.
pub struct Deployment {
    loaded: Loaded,
    context: Context,
    client: Client,
    keys: ServerKeys,
    server: Server,
    side: ClearSide,
}

/// The outputs of one encrypted run and of the same program in the clear, before the client's tail.
pub struct Answer {
    /// Decrypted.
    pub encrypted: Vec<f64>,
    /// In the clear.
    pub clear: Vec<f64>,
}

impl Deployment {
    /// Makes keys and encodes constants for an artefact.
    pub fn open(artefact: &Path) -> Self {
        let loaded = Loaded::open(artefact).expect("the artefact loads");
        let context = Context::new(&loaded.interface.params).expect("the ring");
        let client = Client::new(loaded.interface.clone(), &context);
        let keys = client.evaluation_keys(&Silent).expect("keys");
        let server = Server::new(&loaded).expect("the program is planned");
        let plan = server.memory().plan(MemoryBudget::new(None), Scratch::None).expect("enough memory");
        let budget = plan.constants;
        server.encode_constants(&context, budget, &Silent).expect("constants");
        let tensors = |ports: &[peregrine_runtime::interface::Port]| {
            ports.iter().map(|port| port.tensor.clone()).collect::<Vec<_>>()
        };
        let (inputs, outputs) = (tensors(&loaded.interface.inputs), tensors(&loaded.interface.outputs));
        let side =
            ClearSide::new(&loaded.client, inputs, &outputs, &Preprocessing::default()).expect("client part");
        Self { loaded, context, client, keys, server, side }
    }

    /// Runs one picture.
    pub fn answer(&self, picture: &Path) -> Answer {
        let prepared = self.side.prepare(Some(picture)).expect("the picture");
        let uploads = self.client.encrypt(&prepared.tensors).expect("encrypts");
        let expand = |c: &SeededCiphertext| c.expand(&self.context).expect("a ciphertext of this ring");
        let inputs: Vec<Vec<_>> =
            uploads.iter().map(|ciphers| ciphers.iter().map(expand).collect()).collect();
        let execution = self.server.run(&self.context, &inputs, &self.keys, &Silent).expect("runs");
        let encrypted = self.client.decrypt(&execution.outputs).expect("decrypts");
        let (program, interface) = (&self.loaded.program, &self.loaded.interface);
        let clear =
            clear::run(program, interface, Noise::None, &prepared.tensors, &[]).expect("runs in the clear");
        let numbers = |tensors: &[NamedTensor]| tensors[0].data.clone();
        Answer { encrypted: numbers(&encrypted), clear: numbers(&clear.outputs) }
    }
}

impl Answer {
    /// Largest error relative to the range of the clear outputs, in bits.
    pub fn error_bits(&self) -> f64 {
        let worst = self.encrypted.iter().zip(&self.clear).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let (low, high) = self.clear.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        -(worst / (high - low)).log2()
    }
}

/// Index of the largest number.
pub fn argmax(numbers: &[f64]) -> usize {
    let best = numbers.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map(|(i, _)| i).expect("at least one number")
}
