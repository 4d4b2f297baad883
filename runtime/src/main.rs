//! `peregrine-run`: exit codes only; flags are in `cli`, what they do in the library.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

mod cli;

use std::process::ExitCode;

use clap::Parser;
use peregrine_runtime::error::RuntimeError;

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
    match cli::Cli::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if matches!(error.downcast_ref(), Some(RuntimeError::Interrupted { .. })) => {
            eprintln!("{error}");
            ExitCode::from(cli::STOPPED)
        }
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let error =
            anyhow::anyhow!("no such file").context("cannot read x: no such file").context("cannot start");
        assert_eq!(with_causes(&error), "cannot start: cannot read x: no such file");
    }
}
