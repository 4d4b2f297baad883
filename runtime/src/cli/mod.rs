//! Commands of `peregrine-run`: flags and where their results are printed. What they do is in the library.
//!
//! The main job, `peregrine-run model.fhe`, has no name; every other job is a subcommand in a file of its own here, with a
//! variant of [`Command`].

mod calibrate;
mod eval;
mod pictures;
mod plan;
mod run;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use peregrine_runtime::local::Backend;
use peregrine_runtime::progress::{Bar, Progress, Silent};
use signal_hook::consts::SIGINT;

/// Runs a compiled model on an encrypted input: makes keys, encrypts, runs, decrypts, and prints the answer beside the one
/// that the same program gives in the clear.
///
/// All of it happens in this process, so it is for trying a model, not for serving one.
#[derive(Debug, Parser)]
#[command(
    name = "peregrine-run",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "A model whose file is named like a command is run as ./NAME."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Flags,
}

/// Exit code of a run that was stopped with Ctrl-C: what shells use.
pub const STOPPED: u8 = 130;

/// Everything but the main job.
#[derive(Debug, Subcommand)]
enum Command {
    /// Measures accuracy on a labelled set: of an artefact on any backend, or of an ONNX file.
    Eval(Box<eval::Flags>),
    /// Says what a run takes (memory, keys, transfers) and makes nothing.
    Plan(plan::Flags),
    /// Measures this machine and writes the figures for peregrinec --machine: a minute or two, 2 GiB, nothing else running.
    Calibrate(calibrate::Flags),
}

impl Cli {
    /// Does what the flags ask for.
    ///
    /// # Errors
    /// Everything that can be wrong with files, flags and the run.
    pub fn execute(&self) -> anyhow::Result<()> {
        match &self.command {
            Some(Command::Eval(flags)) => eval::execute(flags),
            Some(Command::Plan(flags)) => plan::execute(flags),
            Some(Command::Calibrate(flags)) => calibrate::execute(flags),
            None => run::execute(&self.run),
        }
    }
}

/// What runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendFlag {
    /// Encrypted, with CKKS.
    Ckks,
    /// The same program on numbers in the clear.
    Clear,
    /// In the clear, with a model of the scheme's noise.
    Noisy,
}

impl BackendFlag {
    /// The backend; `seed` is that of the noisy one.
    fn backend(self, seed: u64) -> Backend {
        match self {
            Self::Ckks => Backend::Ckks,
            Self::Clear => Backend::Clear,
            Self::Noisy => Backend::Noisy { seed },
        }
    }
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl Format {
    fn of_flag(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// A progress bar where somebody looks at it.
    fn progress(self) -> Box<dyn Progress> {
        match self {
            Self::Text if std::io::stderr().is_terminal() => Box::new(Bar::new()),
            Self::Text | Self::Json => Box::new(Silent),
        }
    }
}

/// A flag that the first Ctrl-C sets; the second ends the process at once.
fn stop_on_ctrl_c() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, STOPPED.into(), flag.clone())?;
    signal_hook::flag::register(SIGINT, flag.clone())?;
    Ok(flag)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use peregrine_data::picture::Resize;
    use peregrine_runtime::bytes::ByteSize;

    use super::*;

    fn run_flags(arguments: &[&str]) -> run::Flags {
        let cli = Cli::parse_from([&["peregrine-run"], arguments].concat());
        assert!(cli.command.is_none());
        cli.run
    }

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_main_job_needs_no_name() {
        let flags =
            ["m.fhe", "--backend", "noisy", "--seed", "7", "--memory", "8GiB", "--mean", "-0.5,0.25,1"];
        let options = run_flags(&flags).options().expect("options");
        assert_eq!(options.backend, Backend::Noisy { seed: 7 });
        assert_eq!(options.memory, Some(ByteSize(8 << 30)));
        assert_eq!(options.preprocessing.mean, Some(vec![-0.5, 0.25, 1.0]));
    }

    #[test]
    fn detectors_are_letterboxed_unless_told_otherwise() {
        let options =
            |flags: &[&str]| run_flags(&[&["m.fhe", "--decoder", "yolov3"], flags].concat()).options();
        let plain = options(&["--anchors", "1,2,3,4", "--score", "0.5"]).expect("options");
        let detector = plain.detector.expect("a detector");
        assert_eq!((plain.preprocessing.resize, detector.thresholds.score), (Resize::Letterbox, 0.5));
        assert!(detector.anchors.is_some());
        let stretched = options(&["--resize", "stretch"]).expect("options");
        assert_eq!(stretched.preprocessing.resize, Resize::Stretch);
        assert_eq!(run_flags(&["m.fhe"]).options().expect("options").preprocessing.resize, Resize::Stretch);
        assert!(options(&["--anchors", "1,2,3"]).is_err());
        assert!(Cli::try_parse_from(["peregrine-run", "m.fhe", "--draw", "o.png"]).is_err());
        assert!(
            Cli::try_parse_from(["peregrine-run", "m.fhe", "--decoder", "yolov3", "--iou", "2"]).is_err()
        );
    }

    #[test]
    fn a_model_named_like_a_command_is_reached_by_its_path() {
        assert_eq!(run_flags(&["./plan"]).options().expect("options").backend, Backend::Ckks);
        let cli = Cli::parse_from(["peregrine-run", "plan", "m.fhe"]);
        assert!(matches!(cli.command, Some(Command::Plan(_))));
    }

    #[test]
    fn flags_of_the_main_job_do_not_mix_with_commands() {
        assert!(Cli::try_parse_from(["peregrine-run", "--json", "plan", "m.fhe"]).is_err());
        assert!(Cli::try_parse_from(["peregrine-run"]).is_err(), "a model or a command is needed");
    }
}
