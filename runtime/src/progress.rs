//! Progress of the long phases: what the bar on the terminal and other observers see.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use peregrine_ckks::units::Level;

/// A phase that takes long enough to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Making evaluation keys; one unit per key.
    Keys,
    /// Encoding constants; one unit per plaintext.
    Constants,
    /// Running the program; units of estimated work.
    Program,
    /// Running samples of a set; one unit per sample.
    Samples,
}

impl Phase {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Constants => "constants",
            Self::Program => "program",
            Self::Samples => "samples",
        }
    }
}

/// Where a phase is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At<'a> {
    /// Nothing to say but the count.
    Unit,
    /// An instruction of the program is about to run.
    Instruction {
        /// Index of the instruction.
        index: usize,
        /// Number of instructions.
        of: usize,
        /// ONNX node that it comes from.
        layer: &'a str,
        /// Level of its first operand.
        level: Option<Level>,
    },
    /// A sample is done.
    Sample {
        /// Its name.
        name: &'a str,
        /// Precision against the run in the clear, for backends that lose some.
        bits: Option<f64>,
    },
}

/// Told how far a phase is. Called from several threads.
pub trait Progress: Sync {
    /// A phase of `units` units starts.
    fn begin(&self, phase: Phase, units: u64);
    /// Where the phase is now.
    fn at(&self, at: At<'_>);
    /// `units` more units are done.
    fn advance(&self, units: u64);
    /// The phase ended.
    fn end(&self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Phase, _: u64) {}
    fn at(&self, _: At<'_>) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// A progress bar on standard error; invisible where that is no terminal.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar that appears with the first phase.
    pub fn new() -> Self {
        Self(ProgressBar::hidden())
    }
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Bar {
    fn begin(&self, phase: Phase, units: u64) {
        self.0.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        self.0.reset();
        self.0.set_length(units.max(1));
        let style =
            ProgressStyle::with_template("{prefix:>9} [{bar:32}] {percent:>3}% {elapsed} eta {eta} {msg}");
        if let Ok(style) = style {
            self.0.set_style(style.progress_chars("=> "));
        }
        self.0.set_prefix(phase.name());
        self.0.set_message("");
        self.0.enable_steady_tick(Duration::from_millis(200));
    }

    fn at(&self, at: At<'_>) {
        match at {
            At::Unit => {}
            At::Instruction { index, of, layer, level } => {
                let level = level.map(|l| format!(" level {}", l.0)).unwrap_or_default();
                self.0.set_message(format!("{}/{of}{level} {layer}", index + 1));
            }
            At::Sample { name, bits } => {
                let bits = bits.map(|bits| format!(" {bits:.1} bits")).unwrap_or_default();
                self.0.set_message(format!("{name}{bits}"));
            }
        }
    }

    fn advance(&self, units: u64) {
        self.0.inc(units);
    }

    fn end(&self) {
        self.0.disable_steady_tick();
        self.0.finish_and_clear();
    }
}
