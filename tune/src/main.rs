//! `peregrine-tune`: fine-tunes an ONNX model to low-degree polynomial activations.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use peregrine_tune::cli::{Args, run};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
            return error.print().map_or(ExitCode::from(1), |()| code);
        }
    };
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error must not change the outcome.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(1)
        }
    }
}
