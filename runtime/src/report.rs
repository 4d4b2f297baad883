//! What a run has to say: the object that `--json` prints, from which the text is made too.

use peregrine_ckks::cost::{Machine, Work};
use peregrine_ckks::params::Params;
use serde::Serialize;

use crate::client::NamedTensor;
use crate::client::decode::{Detection, matches};
use crate::exec::Profile;

/// Classes listed.
const TOP: usize = 5;

/// Result of a local run. Serialises to the object that `peregrine-run --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Model name.
    pub model: String,
    /// Where the input came from.
    pub input: String,
    /// The model's outputs (after the client's tail), from the chosen backend.
    pub outputs: Vec<TensorReport>,
    /// Best classes, when an output is a vector.
    pub top: Vec<ClassScore>,
    /// The model's outputs by the same program run in the clear; same shape as `outputs`.
    pub clear: Vec<TensorReport>,
    /// Best classes of `clear`.
    pub clear_top: Vec<ClassScore>,
    /// Boxes, when a decoder was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detections: Option<DetectionReport>,
    /// `-log2(max |output - clear| / (max clear - min clear))` of the encrypted outputs, before the tail; the worst
    /// output counts; at most [`EXACT_BITS`].
    pub error_bits: f64,
    /// The same for each output of the program.
    pub output_errors: Vec<OutputError>,
    /// Wall-clock seconds.
    pub seconds: Seconds,
    /// Largest resident memory of the process, where the system tells.
    pub peak_bytes: Option<u64>,
    /// `ckks`, `clear` or `noisy`.
    pub backend: &'static str,
    /// Encryption parameters.
    pub parameters: ParameterReport,
    /// What may be wrong with the answer or with how the input was read.
    pub warnings: Vec<String>,
    /// Where the time went, for the ckks backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileReport>,
}

/// `error_bits` of outputs without any error: the precision of `f64`.
pub const EXACT_BITS: f64 = 53.0;

/// A tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorReport {
    /// ONNX name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Numbers, row-major.
    pub data: Vec<f64>,
}

impl From<&NamedTensor> for TensorReport {
    fn from(tensor: &NamedTensor) -> Self {
        Self { name: tensor.name.clone(), shape: tensor.shape.clone(), data: tensor.data.clone() }
    }
}

/// How far an output is from the same program in the clear.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputError {
    /// ONNX name.
    pub name: String,
    /// Bits below the range of the clear output, at most [`EXACT_BITS`].
    pub bits: f64,
    /// Largest difference.
    pub largest: f64,
}

/// A class and its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScore {
    /// Index.
    pub class: usize,
    /// Name, where labels are known.
    pub label: Option<String>,
    /// Value of the output.
    pub score: f64,
}

/// Boxes of the chosen backend and of the same program run in the clear, in pixels of the picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DetectionReport {
    /// From the chosen backend, best first.
    pub boxes: Vec<BoxReport>,
    /// In the clear.
    pub clear: Vec<BoxReport>,
    /// Pairs of boxes of one class that overlap by at least a half, by their places in `boxes` and `clear`.
    pub matched: Vec<MatchReport>,
}

/// A box.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoxReport {
    /// Class.
    pub class: usize,
    /// Its name, where labels are known.
    pub label: Option<String>,
    /// Score in 0..=1.
    pub score: f64,
    /// Left, top, right, bottom.
    pub corners: [f64; 4],
}

/// Two boxes that mean the same object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MatchReport {
    /// Place in `boxes`.
    pub found: usize,
    /// Place in `clear`.
    pub clear: usize,
    /// Intersection over union.
    pub iou: f64,
}

/// Least overlap of two boxes that mean the same object.
pub const SAME_OBJECT: f64 = 0.5;

impl DetectionReport {
    /// The report of two sets of boxes.
    pub fn new(found: &[Detection], clear: &[Detection], labels: &[String]) -> Self {
        let report = |d: &Detection| BoxReport {
            class: d.class,
            label: labels.get(d.class).cloned(),
            score: d.score,
            corners: d.at.0,
        };
        let matched = matches(found, clear, SAME_OBJECT);
        Self {
            boxes: found.iter().map(report).collect(),
            clear: clear.iter().map(report).collect(),
            matched: matched
                .into_iter()
                .map(|(found, clear, iou)| MatchReport { found, clear, iou })
                .collect(),
        }
    }
}

/// Wall-clock seconds of the phases of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Making secret and evaluation keys.
    pub keygen: f64,
    /// Reading and checking the artefact, encoding constants.
    pub load: f64,
    /// Preparing and encrypting the input.
    pub encrypt: f64,
    /// Running the program.
    pub online: f64,
    /// Decrypting, and the client's tail.
    pub decrypt: f64,
}

/// Encryption parameters of the program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterReport {
    /// Ring dimension.
    pub n: usize,
    /// log2 of the ciphertext modulus.
    pub log_q: f64,
    /// log2 of the ciphertext and special modulus: what security depends on.
    pub log_qp: f64,
    /// Primes of the ciphertext modulus.
    pub limbs: usize,
    /// Primes of the special modulus.
    pub special_limbs: usize,
    /// Classical security that the parameters were checked for.
    pub security_bits: u32,
    /// Slots of a ciphertext.
    pub slots: usize,
    /// Evaluation keys, relinearisation included.
    pub keys: usize,
    /// Estimated size of the evaluation keys in memory.
    pub key_bytes: u64,
    /// Instructions of the program.
    pub instructions: usize,
}

/// Seconds by kind of instruction and by layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileReport {
    /// By kind of instruction.
    pub by_op: Vec<SpentReport>,
    /// By layer; empty unless asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_layer: Vec<SpentReport>,
    /// Counted work against the speed of the kernels; only of encrypted runs whose layers are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<EfficiencyReport>,
}

/// Counted work, the time it takes the kernels alone, and the time it took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EfficiencyReport {
    /// What was done.
    pub work: Work,
    /// Core seconds of the kernels alone, by the machine's figures.
    pub kernel_seconds: f64,
    /// Core seconds of the run: wall-clock time times threads.
    pub core_seconds: f64,
    /// One line for people.
    #[serde(skip)]
    pub line: String,
}

impl EfficiencyReport {
    /// Of a profile on some threads, in a ring of degree `n`.
    pub fn new(profile: &Profile, machine: &Machine, n: usize, threads: usize) -> Self {
        let seconds = profile.total().as_secs_f64();
        Self {
            work: profile.work,
            kernel_seconds: machine.kernel_seconds(&profile.work),
            core_seconds: seconds * threads as f64,
            line: machine.efficiency_line(&profile.work, n, seconds, threads),
        }
    }
}

/// One line of a profile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpentReport {
    /// Kind or layer.
    pub name: String,
    /// Instructions.
    pub count: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// How much of a profile is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProfileDetail {
    /// By kind of instruction.
    #[default]
    Ops,
    /// By kind of instruction and by layer.
    OpsAndLayers,
}

impl ProfileReport {
    /// The report of a profile.
    pub fn new(profile: &Profile, detail: ProfileDetail) -> Self {
        let line = |name: String, spent: crate::exec::Spent| SpentReport {
            name,
            count: spent.count,
            seconds: spent.time.as_secs_f64(),
        };
        let by_op = profile.by_kind().map(|(kind, spent)| line(kind.name().to_owned(), spent)).collect();
        let by_layer = match detail {
            ProfileDetail::Ops => Vec::new(),
            ProfileDetail::OpsAndLayers => {
                profile.by_layer().map(|(name, spent)| line(name.to_owned(), spent)).collect()
            }
        };
        Self { by_op, by_layer, efficiency: None }
    }
}

impl ParameterReport {
    /// The report of a parameter set and the size of its program.
    pub fn new(params: &Params, keys: usize, key_bytes: u64, instructions: usize) -> Self {
        Self {
            n: params.n(),
            log_q: params.log_q(),
            log_qp: params.log_qp(),
            limbs: params.q().len(),
            special_limbs: params.p().len(),
            security_bits: if params.is_secure() { 128 } else { 0 },
            slots: params.max_slots().get() as usize,
            keys,
            key_bytes,
            instructions,
        }
    }
}

/// The best classes of the first of `outputs` that is a vector, else of the first of `fallback` that is one.
pub fn top_classes(outputs: &[NamedTensor], fallback: &[NamedTensor], labels: &[String]) -> Vec<ClassScore> {
    let Some(vector) = outputs.iter().chain(fallback).find(|tensor| tensor.is_vector()) else {
        return Vec::new();
    };
    let mut order: Vec<usize> = (0..vector.data.len()).collect();
    order.sort_by(|&a, &b| vector.data[b].total_cmp(&vector.data[a]).then(a.cmp(&b)));
    let score =
        |class: usize| ClassScore { class, label: labels.get(class).cloned(), score: vector.data[class] };
    order.into_iter().take(TOP).map(score).collect()
}

/// Error of `outputs` against `clear` in bits of the range of each clear output; see [`RunReport::error_bits`].
pub fn error_bits(outputs: &[NamedTensor], clear: &[NamedTensor]) -> f64 {
    outputs.iter().zip(clear).map(|(o, c)| tensor_error_bits(&o.data, &c.data)).fold(EXACT_BITS, f64::min)
}

/// Error of each output against the clear one.
pub fn output_errors(outputs: &[NamedTensor], clear: &[NamedTensor]) -> Vec<OutputError> {
    let of = |(found, clear): (&NamedTensor, &NamedTensor)| OutputError {
        name: found.name.clone(),
        bits: tensor_error_bits(&found.data, &clear.data),
        largest: found.data.iter().zip(&clear.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max),
    };
    outputs.iter().zip(clear).map(of).collect()
}

fn tensor_error_bits(found: &[f64], clear: &[f64]) -> f64 {
    if found.iter().chain(clear).any(|x| !x.is_finite()) {
        return -EXACT_BITS;
    }
    let error = found.iter().zip(clear).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let high = clear.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let low = clear.iter().copied().fold(f64::INFINITY, f64::min);
    // An output of one number has no range of its own: its size stands in.
    let range = if high > low { high - low } else { high.abs().max(f64::MIN_POSITIVE) };
    if error == 0.0 { EXACT_BITS } else { (-(error / range).log2()).clamp(-EXACT_BITS, EXACT_BITS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(data: &[f64]) -> NamedTensor {
        NamedTensor { name: "y".to_owned(), shape: vec![1, data.len()], data: data.to_vec() }
    }

    #[test]
    fn error_is_measured_against_the_clear_range() {
        assert_eq!(error_bits(&[vector(&[0.0, 4.0])], &[vector(&[0.0, 4.0])]), EXACT_BITS);
        assert_eq!(error_bits(&[vector(&[0.0, 4.5])], &[vector(&[0.0, 4.0])]), 3.0);
        assert_eq!(error_bits(&[vector(&[f64::NAN, 4.5])], &[vector(&[0.0, 4.0])]), -EXACT_BITS);
    }

    #[test]
    fn every_output_has_an_error_of_its_own() {
        let found =
            output_errors(&[vector(&[0.0, 4.5]), vector(&[1.0])], &[vector(&[0.0, 4.0]), vector(&[1.0])]);
        assert_eq!(
            found.iter().map(|e| (e.bits, e.largest)).collect::<Vec<_>>(),
            [(3.0, 0.5), (EXACT_BITS, 0.0)]
        );
    }

    #[test]
    fn top_classes_of_the_first_vector() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let top = top_classes(&[vector(&[1.0])], &[vector(&[0.5, -1.0, 2.0])], &labels);
        let found: Vec<_> = top.iter().map(|t| (t.class, t.label.as_deref())).collect();
        assert_eq!(found, [(2, Some("c")), (0, Some("a")), (1, Some("b"))]);
        assert_eq!(top_classes(&[vector(&[1.0])], &[], &labels), []);
    }
}
