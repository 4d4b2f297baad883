//! `peregrine-run`: flags and exit codes only; see [`peregrine_runtime::local`] for what it does.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use peregrine_runtime::bytes::ByteSize;
use peregrine_runtime::client::Normalisation;
use peregrine_runtime::local::{Backend, LocalOptions, run_local};
use peregrine_runtime::output;
use peregrine_runtime::progress::{Bar, Progress, Silent};
use peregrine_runtime::report::ProfileDetail;

/// Runs a compiled model on an encrypted input: makes keys, encrypts, runs, decrypts, and prints the answer beside the one
/// that the same program gives in the clear.
///
/// All of it happens in this process, so it is for trying a model, not for serving one.
#[derive(Debug, Parser)]
#[command(name = "peregrine-run", version)]
struct Flags {
    /// The compiled model (.fhe), as written by peregrinec.
    model: PathBuf,
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
    /// Threads; default: one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Per-channel mean subtracted from pixel / 255, as 0.49,0.48,0.45; overrides the model's.
    #[arg(long, value_name = "M,...", value_delimiter = ',', allow_hyphen_values = true)]
    mean: Option<Vec<f32>>,
    /// Per-channel standard deviation that pixel / 255 - mean is divided by; overrides the model's.
    #[arg(long, value_name = "S,...", value_delimiter = ',', allow_hyphen_values = true)]
    std: Option<Vec<f32>>,
    /// Seed of the noisy backend.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendFlag {
    /// Encrypted, with CKKS.
    Ckks,
    /// The same program on numbers in the clear.
    Clear,
    /// In the clear, with a model of the scheme's noise.
    Noisy,
}

impl Flags {
    fn options(&self) -> LocalOptions {
        LocalOptions {
            input: self.input.clone(),
            backend: match self.backend {
                BackendFlag::Ckks => Backend::Ckks,
                BackendFlag::Clear => Backend::Clear,
                BackendFlag::Noisy => Backend::Noisy { seed: self.seed },
            },
            labels: self.labels.clone(),
            normalisation: Normalisation { mean: self.mean.clone(), std: self.std.clone() },
            memory: self.memory,
            threads: self.threads.map(usize::from),
            detail: if self.profile { ProfileDetail::OpsAndLayers } else { ProfileDetail::Ops },
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    let bar: Box<dyn Progress> =
        if flags.json || !std::io::stderr().is_terminal() { Box::new(Silent) } else { Box::new(Bar::new()) };
    let report = run_local(&flags.model, &flags.options(), &*bar)?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    let text = if flags.json {
        output::json(&report).context("cannot write the report as JSON")? + "\n"
    } else {
        output::text(&report)
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// The message and those of its causes that it does not quote already.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn causes_are_said_once() {
        let error =
            anyhow::anyhow!("no such file").context("cannot read x: no such file").context("cannot start");
        assert_eq!(with_causes(&error), "cannot start: cannot read x: no such file");
    }

    #[test]
    fn flags_parse() {
        let flags = Flags::parse_from([
            "peregrine-run",
            "m.fhe",
            "--backend",
            "noisy",
            "--seed",
            "7",
            "--memory",
            "8GiB",
            "--mean",
            "-0.5,0.25,1",
        ]);
        let options = flags.options();
        assert_eq!(options.backend, Backend::Noisy { seed: 7 });
        assert_eq!(options.memory, Some(ByteSize(8 << 30)));
        assert_eq!(options.normalisation.mean, Some(vec![-0.5, 0.25, 1.0]));
    }
}
