//! Outcomes of samples on disk as they are made, so that an evaluation that was stopped continues where it was.
//!
//! A file of JSON lines: what is evaluated, then one line for each sample. A last line that was cut off is dropped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Outcome, Verdict};
use crate::error::RuntimeError;
use crate::ranges::RangeViolation;

/// What is evaluated; outcomes of something else are not mixed in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    /// BLAKE3 of the model, hexadecimal.
    pub(super) model: String,
    /// The set.
    pub(super) data: String,
    /// What runs the model.
    pub(super) backend: String,
    /// BLAKE3 of the model that is compared with.
    pub(super) against: Option<String>,
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    sample: String,
    found: Verdict,
    original: Option<Verdict>,
    finite: bool,
    violations: Vec<RangeViolation>,
    overflow: Option<f64>,
    error_bits: Option<f64>,
}

/// The file, with what earlier runs left in it.
pub(super) struct Log {
    path: PathBuf,
    file: Mutex<File>,
    known: HashMap<String, Line>,
}

impl Log {
    /// Opens or makes the file.
    pub(super) fn open(path: &Path, head: &Head) -> Result<Self, RuntimeError> {
        let refuse = |reason: String| RuntimeError::EvalLog { path: path.to_owned(), reason };
        let io = |error: std::io::Error| refuse(error.to_string());
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines = text[..whole].lines();
        let mut known = HashMap::new();
        match lines.next() {
            None if !text.is_empty() => return Err(refuse("it is no log of an evaluation".to_owned())),
            None => {}
            Some(first) => {
                let found: Head = serde_json::from_str(first)
                    .map_err(|_| refuse("it is no log of an evaluation".to_owned()))?;
                if found != *head {
                    return Err(refuse(
                        "it is of another model, set or backend; give another file to start anew".to_owned(),
                    ));
                }
            }
        }
        for (number, line) in lines.enumerate() {
            let line: Line = serde_json::from_str(line)
                .map_err(|error| refuse(format!("line {}: {error}", number + 2)))?;
            known.insert(line.sample.clone(), line);
        }
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(io)?;
        let log = Self { path: path.to_owned(), file: Mutex::new(file), known };
        if whole == 0 {
            log.write(head)?;
        }
        Ok(log)
    }

    /// The outcome of a sample that an earlier run finished, without its truth.
    pub(super) fn known(&self, sample: &str) -> Option<Outcome> {
        let line = self.known.get(sample)?;
        Some(Outcome {
            truth: peregrine_data::set::Truth::None,
            found: line.found.clone(),
            original: line.original.clone(),
            finite: line.finite,
            violations: line.violations.clone(),
            overflow: line.overflow,
            error_bits: line.error_bits,
        })
    }

    /// Appends the outcome of a sample.
    pub(super) fn add(&self, sample: &str, outcome: &Outcome) -> Result<(), RuntimeError> {
        // JSON has no infinity and no NaN.
        let number = |x: f64| if x.is_nan() { f64::MIN } else { x.clamp(f64::MIN, f64::MAX) };
        let mut violations = outcome.violations.clone();
        violations.iter_mut().for_each(|violation| violation.overshoot = number(violation.overshoot));
        self.write(&Line {
            sample: sample.to_owned(),
            found: outcome.found.clone(),
            original: outcome.original.clone(),
            finite: outcome.finite,
            violations,
            overflow: outcome.overflow.map(number),
            error_bits: outcome.error_bits.map(number),
        })
    }

    fn write(&self, line: &impl Serialize) -> Result<(), RuntimeError> {
        let refuse = |reason: String| RuntimeError::EvalLog { path: self.path.clone(), reason };
        let text = serde_json::to_string(line).map_err(|error| refuse(error.to_string()))? + "\n";
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes()).map_err(|error| refuse(error.to_string()))
    }
}

/// BLAKE3 of a file, hexadecimal.
pub(super) fn digest(path: &Path) -> Result<String, RuntimeError> {
    let refuse =
        |error: std::io::Error| RuntimeError::EvalLog { path: path.to_owned(), reason: error.to_string() };
    let bytes = std::fs::read(path).map_err(refuse)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}
