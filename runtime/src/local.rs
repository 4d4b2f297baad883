//! Client and server in one process: what `peregrine-run model.fhe` does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use peregrine_ckks::cost::Machine;
use peregrine_data::DataError;
use peregrine_data::picture;
use peregrine_ir::program::Noise;

use crate::bytes::{ByteSize, peak_memory};
use crate::clear::{self, ClearRun};
use crate::client::decode::{DecodeSpec, Detection};
use crate::client::{
    ClearSide, ClientError, NamedTensor, Prepared, Preprocessing, TensorPort, detections, draw, read_labels,
};
use crate::error::RuntimeError;
use crate::exec::{Metering, Profile, key_bytes};
use crate::interface::Port;
use crate::loader::Loaded;
use crate::progress::Progress;
use crate::report::{
    DetectionReport, EfficiencyReport, ParameterReport, ProfileDetail, ProfileReport, RunReport, Seconds,
    TensorReport, error_bits, output_errors, top_classes,
};
use crate::session::{CheckpointOptions, Planned, SessionOptions};

/// Outputs that agree with the clear run on fewer bits than this are worth a warning.
const SUSPICIOUS_BITS: f64 = 5.0;

/// What runs the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Encrypted.
    #[default]
    Ckks,
    /// On numbers in the clear.
    Clear,
    /// In the clear, with a model of the scheme's noise.
    Noisy {
        /// Seed of the noise.
        seed: u64,
    },
}

impl Backend {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ckks => "ckks",
            Self::Clear => "clear",
            Self::Noisy { .. } => "noisy",
        }
    }
}

/// Choices of a local run.
#[derive(Clone, Debug, Default)]
pub struct LocalOptions {
    /// Picture or array; else the artefact's sample, else a test pattern.
    pub input: Option<PathBuf>,
    /// What runs the program.
    pub backend: Backend,
    /// Class names; else those in the artefact.
    pub labels: Option<PathBuf>,
    /// Overrides of the model's image preprocessing.
    pub preprocessing: Preprocessing,
    /// Memory that the run may take; else what is available.
    pub memory: Option<ByteSize>,
    /// How it is known what memory is in use.
    pub metering: Metering,
    /// Threads; else one per core.
    pub threads: Option<usize>,
    /// How much of the profile is reported.
    pub detail: ProfileDetail,
    /// Folder for keys that do not fit in memory.
    pub scratch_dir: Option<PathBuf>,
    /// The client's secret key: read from this file, or made and kept there.
    pub client_key: Option<PathBuf>,
    /// Where the run is saved and continued from; needs `client_key`.
    pub checkpoint: Option<CheckpointOptions>,
    /// Set when the run shall stop.
    pub interrupt: Option<Arc<AtomicBool>>,
    /// For detectors: how outputs become boxes.
    pub detector: Option<DecodeSpec>,
    /// For detectors: the picture with its boxes is written here, as PNG.
    pub draw: Option<PathBuf>,
    /// Speeds that the run is measured by.
    pub machine: Machine,
}

/// Loads an artefact and runs it: keys, encryption, program, decryption, and the same in the clear for comparison.
///
/// # Errors
/// Everything that [`RuntimeError`] names.
pub fn run_local(
    model: &Path,
    options: &LocalOptions,
    progress: &dyn Progress,
) -> Result<RunReport, RuntimeError> {
    in_pool(options.threads, || {
        let start = Instant::now();
        let loaded = Loaded::open(model)?;
        run_loaded(&loaded, options, progress, start)
    })
}

/// As [`run_local`], for an artefact that is loaded already; `start` is when loading began.
///
/// # Errors
/// Everything that [`RuntimeError`] names but loading.
pub fn run_loaded(
    loaded: &Loaded,
    options: &LocalOptions,
    progress: &dyn Progress,
    start: Instant,
) -> Result<RunReport, RuntimeError> {
    let labels = match &options.labels {
        Some(path) => read_labels(path)?,
        None => loaded.client.labels.clone(),
    };
    let clear_side = clear_side(loaded, &options.preprocessing)?;
    check_pictures(&clear_side, options)?;
    let engine = match options.backend {
        Backend::Ckks => Engine::Encrypted(Box::new(Planned::new(loaded, options.session())?)),
        Backend::Clear => Engine::Clear,
        Backend::Noisy { seed } => Engine::Noisy { seed },
    };
    let mut seconds = Seconds { load: start.elapsed().as_secs_f64(), ..Seconds::default() };
    let clock = Instant::now();
    let prepared = clear_side.prepare(options.input.as_deref())?;
    seconds.encrypt = clock.elapsed().as_secs_f64();

    let clock = Instant::now();
    let exact = clear_run(loaded, Noise::None, &prepared)?;
    seconds.online = clock.elapsed().as_secs_f64();
    let (decrypted, profile) = engine.run(loaded, &prepared, &exact, progress, &mut seconds)?;
    let clock = Instant::now();
    let outputs = clear_side.finish(&decrypted)?;
    seconds.decrypt += clock.elapsed().as_secs_f64();
    let clear = clear_side.finish(&exact.outputs)?;
    let detected = detect(&clear_side, &prepared, [&outputs, &clear], options, &labels)?;

    let bits = error_bits(&decrypted, &exact.outputs);
    Ok(RunReport {
        model: loaded.program.name.clone(),
        input: prepared.source.to_string(),
        top: if detected.is_some() { Vec::new() } else { top_classes(&outputs, &decrypted, &labels) },
        clear_top: if detected.is_some() { Vec::new() } else { top_classes(&clear, &exact.outputs, &labels) },
        detections: detected.map(|[found, clear]| DetectionReport::new(&found, &clear, &labels)),
        outputs: outputs.iter().map(TensorReport::from).collect(),
        clear: clear.iter().map(TensorReport::from).collect(),
        error_bits: bits,
        output_errors: output_errors(&decrypted, &exact.outputs),
        seconds,
        peak_bytes: peak_memory().map(|size| size.0),
        backend: options.backend.name(),
        parameters: parameters(loaded),
        warnings: warnings(&prepared, &exact, bits),
        profile: profile.map(|profile| profile_report(&profile, options, loaded.interface.params.n())),
    })
}

fn profile_report(profile: &Profile, options: &LocalOptions, n: usize) -> ProfileReport {
    let mut report = ProfileReport::new(profile, options.detail);
    if options.detail == ProfileDetail::OpsAndLayers {
        let threads = rayon::current_num_threads();
        report.efficiency = Some(EfficiencyReport::new(profile, &options.machine, n, threads));
    }
    report
}

/// Refuses, before anything is made, what only works on pictures.
fn check_pictures(clear_side: &ClearSide, options: &LocalOptions) -> Result<(), ClientError> {
    if options.detector.is_some() && clear_side.picture_size().is_none() {
        return Err(ClientError::NoPicture { flag: "decoder" });
    }
    let picture = options.input.as_ref().filter(|p| p.extension().is_none_or(|e| e != "npy"));
    match (&options.draw, picture) {
        (Some(_), None) => Err(ClientError::NoPicture { flag: "draw" }),
        (_, _) => Ok(()),
    }
}

/// The boxes of both answers, the first drawn on the picture where that is asked for.
fn detect(
    clear_side: &ClearSide,
    prepared: &Prepared,
    answers: [&[NamedTensor]; 2],
    options: &LocalOptions,
    labels: &[String],
) -> Result<Option<[Vec<Detection>; 2]>, ClientError> {
    let Some(spec) = &options.detector else { return Ok(None) };
    let boxes =
        |outputs: &[NamedTensor]| detections(spec, outputs, clear_side.picture_size(), prepared.placement);
    let found = [boxes(answers[0])?, boxes(answers[1])?];
    if let (Some(to), Some(from)) = (&options.draw, &options.input) {
        let bytes = std::fs::read(from).map_err(|source| DataError::Read { path: from.clone(), source })?;
        let picture = picture::decode(from, &bytes)?.to_rgb8();
        draw::save(to, &draw::draw(&picture, &found[0], |d| draw::caption(d, labels)))?;
    }
    Ok(Some(found))
}

fn parameters(loaded: &Loaded) -> ParameterReport {
    let (params, manifest) = (&loaded.interface.params, &loaded.interface.manifest);
    let keys = manifest.galois.len() + manifest.relin.iter().len();
    ParameterReport::new(params, keys, key_bytes(manifest, params).0, loaded.program.insts.len())
}

/// What makes the outputs, ready to run.
enum Engine {
    Encrypted(Box<Planned>),
    Clear,
    Noisy { seed: u64 },
}

impl Engine {
    /// The program's outputs. `exact` is the run in the clear, whose time is in `seconds.online` until another run's
    /// replaces it.
    fn run(
        self,
        loaded: &Loaded,
        prepared: &Prepared,
        exact: &ClearRun,
        progress: &dyn Progress,
        seconds: &mut Seconds,
    ) -> Result<(Vec<NamedTensor>, Option<Profile>), RuntimeError> {
        match self {
            Self::Encrypted(planned) => {
                let session = planned.open(loaded, progress, seconds)?;
                seconds.online = 0.0;
                let (outputs, profile) = session.run(&prepared.tensors, progress, seconds)?;
                Ok((outputs, Some(profile)))
            }
            Self::Clear => Ok((exact.outputs.clone(), None)),
            Self::Noisy { seed } => {
                let clock = Instant::now();
                let noisy = clear_run(loaded, Noise::Model { seed }, prepared)?;
                seconds.online = clock.elapsed().as_secs_f64();
                Ok((noisy.outputs, None))
            }
        }
    }
}

/// Head, tail and preprocessing of an artefact.
pub(crate) fn clear_side(loaded: &Loaded, flags: &Preprocessing) -> Result<ClearSide, RuntimeError> {
    let ports =
        |ports: &[Port]| -> Vec<TensorPort> { ports.iter().map(|port| port.tensor.clone()).collect() };
    let (inputs, outputs) = (ports(&loaded.interface.inputs), ports(&loaded.interface.outputs));
    Ok(ClearSide::new(&loaded.client, inputs, &outputs, flags)?)
}

fn clear_run(loaded: &Loaded, noise: Noise, prepared: &Prepared) -> Result<ClearRun, RuntimeError> {
    clear::run(&loaded.program, &loaded.interface, noise, &prepared.tensors, &loaded.client.ranges)
}

impl LocalOptions {
    /// What the encrypted run is asked for.
    fn session(&self) -> SessionOptions {
        SessionOptions {
            memory: self.memory,
            metering: self.metering,
            scratch_dir: self.scratch_dir.clone(),
            client_key: self.client_key.clone(),
            checkpoint: self.checkpoint.clone(),
            interrupt: self.interrupt.clone(),
        }
    }
}

fn warnings(prepared: &Prepared, exact: &ClearRun, bits: f64) -> Vec<String> {
    let mut warnings = prepared.notes.clone();
    warnings.extend(exact.violations.iter().map(ToString::to_string));
    warnings.extend(exact.overflows.iter().map(ToString::to_string));
    if exact.outputs.iter().flat_map(|output| &output.data).any(|x| !x.is_finite()) {
        let overflow = "the model overflows on this input, in the clear too: there is no answer";
        warnings.push(overflow.to_owned());
    } else if bits < SUSPICIOUS_BITS {
        warnings.push(format!(
            "the outputs are far from what the same program gives in the clear: only {bits:.1} bits of their range agree; do not trust the answer"
        ));
    }
    warnings
}

/// Runs `work` on a pool of `threads` threads, or on the global one.
pub(crate) fn in_pool<T: Send>(
    threads: Option<usize>,
    work: impl FnOnce() -> Result<T, RuntimeError> + Send,
) -> Result<T, RuntimeError> {
    let Some(threads) = threads else { return work() };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    match pool {
        Ok(pool) => pool.install(work),
        Err(error) => Err(RuntimeError::Threads { threads, reason: error.to_string() }),
    }
}
