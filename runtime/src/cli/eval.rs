//! Accuracy on a labelled set.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use peregrine_runtime::bytes::ByteSize;
use peregrine_runtime::client::decode::Thresholds;
use peregrine_runtime::error::RuntimeError;
use peregrine_runtime::eval::{Drawings, EvalOptions, evaluate, text};

use super::pictures::{DetectorFlags, PictureFlags};
use super::{BackendFlag, Format, print, stop_on_ctrl_c};

/// Boxes that average precision is measured on: nearly all of them.
const THRESHOLDS: Thresholds = Thresholds { score: 0.001, iou: 0.45, most: 300 };

/// Flags of `eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
DATA is one of: a folder or .tar of class folders; a folder or .tar of pictures with YOLO .txt boxes (with --decoder); a \
folder of pictures whose names end in _CLASS; .npz with arrays `images` and `labels`; .npy; CIFAR .bin; .csv of \
label,pixels. Folders are classes by the model's class names, or else in alphabetical order.")]
pub struct Flags {
    /// The model: .fhe as written by peregrinec, or .onnx, which is run in the clear.
    model: PathBuf,
    /// The labelled set.
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// What runs a .fhe model.
    #[arg(long, value_enum, default_value_t = BackendFlag::Clear)]
    backend: BackendFlag,
    /// Samples to run, spread over the set; default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Compare answers with those of this ONNX model.
    #[arg(long, value_name = "ONNX")]
    against: Option<PathBuf>,
    /// Class names, one a line; overrides the names in the model.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Classes of the samples: .npy of integers, or text with CLASS or NAME CLASS on each line.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    #[command(flatten)]
    pictures: PictureFlags,
    #[command(flatten)]
    detector: DetectorFlags,
    /// Write the pictures with the boxes found (score 0.25 or --score) into this folder, as PNG.
    #[arg(long, value_name = "DIR", requires = "decoder")]
    draw: Option<PathBuf>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// Memory that keys, constants and ciphertexts may take, as 8GiB; default: what is available.
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Threads; default: one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Keep the outcome of every sample in this file (JSON lines) and do not run again those that it has: a stopped evaluation
    /// continues.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Seed of the noisy backend.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Evaluates and prints.
pub(super) fn execute(flags: &Flags) -> anyhow::Result<()> {
    let format = Format::of_flag(flags.json);
    let detector = flags.detector.spec(THRESHOLDS)?;
    let shown = flags.detector.spec(Thresholds::default())?.map_or(0.0, |spec| spec.thresholds.score);
    let options = EvalOptions {
        draw: flags.draw.clone().map(|folder| Drawings { folder, score: shown }),
        data: flags.data.clone(),
        truth: flags.truth.clone(),
        labels: flags.labels.clone(),
        backend: flags.backend.backend(flags.seed),
        limit: flags.limit.map(|n| n as usize),
        against: flags.against.clone(),
        preprocessing: flags.pictures.preprocessing(detector.as_ref()),
        detector,
        memory: flags.memory,
        threads: flags.threads.map(usize::from),
        log: flags.log.clone(),
        interrupt: Some(stop_on_ctrl_c().context("cannot watch for Ctrl-C")?),
    };
    let report = evaluate(&flags.model, &options, &*format.progress())?;
    for warning in &report.warnings {
        // A closed standard error must not change the outcome.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    print(&match format {
        Format::Json => serde_json::to_string(&report).context("cannot write the report as JSON")? + "\n",
        Format::Text => text(&report),
    })?;
    if report.samples < report.of {
        return Err(RuntimeError::Interrupted { saved: None }.into());
    }
    Ok(())
}
