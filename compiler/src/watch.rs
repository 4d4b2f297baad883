//! Progress on standard error: a log, or on a terminal one line that is always the last.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use peregrine_compiler::options::Progress;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// A line for each step, with the seconds since the start.
    Log,
    /// The step under way, if standard error is a terminal.
    Line,
}

/// Progress on standard error.
pub fn progress(watch: Watch) -> Progress {
    let started = Instant::now();
    let put = move |text: &str| {
        // A closed standard error must not change the outcome.
        let _ = io::stderr().write_all(text.as_bytes());
    };
    match watch {
        Watch::Log => Progress::new(move |step| {
            put(&format!("{:8.1} s  {step}\n", started.elapsed().as_secs_f64()));
        }),
        Watch::Line if io::stderr().is_terminal() => {
            Progress::new(move |step| put(&format!("\r\x1b[K{step} …")))
        }
        Watch::Line => Progress::default(),
    }
}

/// Makes room for other output where the line of a step may be.
pub fn clear() {
    if io::stderr().is_terminal() {
        let _ = io::stderr().write_all(b"\r\x1b[K");
    }
}
