//! The main job: one input through one model.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use peregrine_runtime::bytes::ByteSize;
use peregrine_runtime::client::decode::Thresholds;
use peregrine_runtime::exec::Metering;
use peregrine_runtime::local::{LocalOptions, run_local};
use peregrine_runtime::output;
use peregrine_runtime::report::ProfileDetail;
use peregrine_runtime::session::{CheckpointOptions, Start};

use super::pictures::{DetectorFlags, PictureFlags};
use super::{BackendFlag, Format, calibrate, print, stop_on_ctrl_c};

/// Flags of the main job.
#[derive(Debug, Args)]
pub struct Flags {
    /// The compiled model (.fhe), as written by peregrinec.
    #[arg(required = true)]
    model: Option<PathBuf>,
    /// Input: a picture (PNG, JPEG, BMP) or an .npy array (float32/float64: the model's input; uint8: pixels). Without it
    /// the sample in the artefact, else a synthetic test pattern.
    #[arg(long, value_name = "IMAGE|NPY")]
    input: Option<PathBuf>,
    /// What runs the program.
    #[arg(long, value_enum, default_value_t = BackendFlag::Ckks)]
    backend: BackendFlag,
    /// Class names, one a line; overrides the names in the artefact.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// Time by layer besides time by operation.
    #[arg(long)]
    profile: bool,
    /// Memory that keys, constants and ciphertexts may take, as 8GiB; default: what is available.
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Folder for a temporary folder of keys, when they do not fit in memory.
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// The client's secret key: read from this file, or made and kept there, for its owner's eyes only.
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Save the run here from time to time, and when it is stopped with Ctrl-C; removed when the run is complete. Holds ciphertexts,
    /// no secret.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    checkpoint: Option<PathBuf>,
    /// Minutes between two checkpoints.
    #[arg(long, value_name = "MINUTES", default_value_t = 10.0, value_parser = minutes, requires = "checkpoint")]
    checkpoint_every: f64,
    /// Continue where the checkpoint is, on the same input.
    #[arg(long, requires = "checkpoint")]
    resume: bool,
    /// Threads; default: one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    #[command(flatten)]
    pictures: PictureFlags,
    #[command(flatten)]
    detector: DetectorFlags,
    /// Write the picture with the boxes found (see --decoder) as PNG.
    #[arg(long, value_name = "PNG", requires = "decoder")]
    draw: Option<PathBuf>,
    /// Figures of this machine, as peregrine-run calibrate writes them, that --profile compares the run with.
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
    /// Seed of the noisy backend.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Flags {
    /// The run that the flags ask for.
    pub(super) fn options(&self) -> anyhow::Result<LocalOptions> {
        let detector = self.detector.spec(Thresholds::default())?;
        Ok(LocalOptions {
            input: self.input.clone(),
            backend: self.backend.backend(self.seed),
            labels: self.labels.clone(),
            preprocessing: self.pictures.preprocessing(detector.as_ref()),
            memory: self.memory,
            metering: Metering::Process,
            threads: self.threads.map(usize::from),
            scratch_dir: self.scratch_dir.clone(),
            client_key: self.client_key.clone(),
            checkpoint: self.checkpoint.clone().map(|path| CheckpointOptions {
                path,
                every: Duration::from_secs_f64(60.0 * self.checkpoint_every),
                start: if self.resume { Start::Resume } else { Start::Fresh },
            }),
            interrupt: None,
            detail: if self.profile { ProfileDetail::OpsAndLayers } else { ProfileDetail::Ops },
            detector,
            draw: self.draw.clone(),
            machine: self.machine.as_deref().map(calibrate::read).transpose()?.unwrap_or_default(),
        })
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    let within = value.filter(|minutes| (0.0..=1e6).contains(minutes));
    within.ok_or_else(|| "a number of minutes is expected".to_owned())
}

/// Runs and prints.
pub(super) fn execute(flags: &Flags) -> anyhow::Result<()> {
    let format = Format::of_flag(flags.json);
    let model = flags.model.as_deref().context("no model was given; peregrine-run --help tells more")?;
    let interrupt = stop_on_ctrl_c().context("cannot watch for Ctrl-C")?;
    let options = LocalOptions { interrupt: Some(interrupt), ..flags.options()? };
    let report = run_local(model, &options, &*format.progress())?;
    for warning in &report.warnings {
        // A closed standard error must not change the outcome.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    print(&match format {
        Format::Json => output::json(&report).context("cannot write the report as JSON")? + "\n",
        Format::Text => output::text(&report),
    })
}
