//! Evaluations of the tiny program and of a small ONNX file, and average precision by hand and against a slow oracle.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::{
    EvalOptions, EvalReport, ScoreReport, ScoredPicture, average_precision, evaluate, mean_average_precision,
    text,
};
use crate::client::decode::{DecodeSpec, Decoder, Detection, PixelBox, Thresholds};
use crate::client::onnx_testing::unary_model;
use crate::error::RuntimeError;
use crate::local::Backend;
use crate::progress::{At, Phase, Progress, Silent};
use crate::testing::{artefact, client, f32_bytes, write_npy};
use peregrine_ir::client::{ClientPart, RangeRecord};

/// A folder with a set of eight 8x8 inputs, as numbers.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().expect("a folder") };
        let numbers: Vec<f32> = (0..512).map(|i| (i as f32 * 0.61).sin()).collect();
        write_npy(&bench.path("x.npy"), "<f4", &[8, 1, 8, 8], &f32_bytes(&numbers));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self, backend: Backend) -> EvalOptions {
        EvalOptions { data: self.path("x.npy"), backend, ..EvalOptions::default() }
    }

    /// Labels that are what the program says, the last one excepted.
    fn truth(&self, model: &Path) -> PathBuf {
        let options = self.options(Backend::Clear);
        let mut found = Vec::new();
        // The program's own answers, sample by sample: the class whose label makes the sample right.
        for sample in 0..8 {
            let right = (0..10).find(|class| {
                let path = self.path("probe.txt");
                let lines: String = (0..8)
                    .map(|i| if i == sample { format!("{class}\n") } else { "99\n".to_owned() })
                    .collect();
                std::fs::write(&path, lines).expect("written");
                let report = run(model, &EvalOptions { truth: Some(path), ..options.clone() });
                accuracy(&report).0 == 1
            });
            found.push(right.expect("one of ten classes is the best"));
        }
        found[7] = (found[7] + 1) % 10;
        let path = self.path("truth.txt");
        std::fs::write(&path, found.iter().map(|c| format!("{c}\n")).collect::<String>()).expect("written");
        path
    }
}

fn run(model: &Path, options: &EvalOptions) -> EvalReport {
    evaluate(model, options, &Silent).expect("it is evaluated")
}

fn accuracy(report: &EvalReport) -> (usize, usize) {
    match &report.score {
        Some(ScoreReport::Accuracy(score)) => (score.right, score.of),
        other => panic!("no accuracy: {other:?}"),
    }
}

#[test]
fn accuracy_on_every_backend() {
    let bench = Bench::new();
    let model = artefact(bench.folder.path(), &client());
    let truth = Some(bench.truth(&model));
    let clear = run(&model, &EvalOptions { truth: truth.clone(), ..bench.options(Backend::Clear) });
    assert_eq!((accuracy(&clear), clear.samples, clear.not_finite), ((7, 8), 8, 0));
    assert_eq!(clear.error_bits, None);
    assert_eq!(clear.ranges.as_ref().map(|r| r.samples), Some(0));
    for backend in [Backend::Noisy { seed: 1 }, Backend::Ckks] {
        let report = run(&model, &EvalOptions { truth: truth.clone(), ..bench.options(backend) });
        assert_eq!((accuracy(&report), report.backend), ((7, 8), backend.name()));
        let bits = report.error_bits.expect("these backends lose precision");
        assert!(bits.least >= 14.0 && bits.median >= bits.least, "{bits:?}");
    }
    let limited = EvalOptions { truth: truth.clone(), ..bench.options(Backend::Clear) };
    let refused = evaluate(&model, &EvalOptions { limit: Some(3), truth: None, ..limited.clone() }, &Silent);
    assert!(refused.expect_err("no truth").to_string().contains("--truth"));
    assert_eq!(run(&model, &EvalOptions { limit: Some(3), ..limited }).samples, 3);
    let said = text(&clear);
    for part in ["accuracy   87.50 % (7 of 8)", "finite     every output", "no sample leaves", "class 9 (9)"]
    {
        assert!(said.contains(part), "`{part}` in:\n{said}");
    }
}

#[test]
fn ranges_left_are_counted_by_sample_and_layer() {
    let bench = Bench::new();
    let tight = RangeRecord { layer: "square".to_owned(), low: vec![-0.01; 4], high: vec![0.01; 4] };
    let model = artefact(bench.folder.path(), &ClientPart { ranges: vec![tight], ..client() });
    let truth = bench.path("zeros.txt");
    std::fs::write(&truth, "0\n".repeat(8)).expect("written");
    let report = run(&model, &EvalOptions { truth: Some(truth), ..bench.options(Backend::Clear) });
    let ranges = report.ranges.clone().expect("ranges are known");
    assert_eq!((ranges.samples, ranges.layers[0].layer.as_str(), ranges.layers[0].samples), (8, "square", 8));
    assert!(ranges.worst > 1.0 && ranges.percentile99 <= ranges.worst, "{ranges:?}");
    assert!(text(&report).contains("8 of 8 samples leave a calibrated range"), "{}", text(&report));
    let json = serde_json::to_value(&report).expect("it serialises");
    assert!(json["score"]["accuracy"]["top1"].is_f64() && json["ranges"]["worst"].is_f64());
}

#[test]
fn onnx_files_are_evaluated_and_compared() {
    let bench = Bench::new();
    let numbers: Vec<f32> = [[3.0, 1.0, 2.0], [0.5, 4.0, 1.0]].concat();
    write_npy(&bench.path("v.npy"), "<f4", &[2, 3], &f32_bytes(&numbers));
    std::fs::write(bench.path("t.txt"), "0\n2\n").expect("written");
    let model = |name: &str, op: &str| {
        let path = bench.path(name);
        std::fs::write(&path, unary_model(op, ("x", &[1, 3]), "y")).expect("written");
        path
    };
    let (softmax, negative) = (model("softmax.onnx", "Softmax"), model("neg.onnx", "Neg"));
    let options = EvalOptions {
        data: bench.path("v.npy"),
        truth: Some(bench.path("t.txt")),
        against: Some(negative),
        ..EvalOptions::default()
    };
    let report = run(&softmax, &options);
    assert_eq!((accuracy(&report), report.backend, report.model.as_str()), ((1, 2), "onnx", "softmax"));
    let agreement = report.agreement.clone().expect("a comparison");
    assert_eq!((agreement.same, agreement.of), (0, 2), "the largest and the smallest are different classes");
    assert!(matches!(agreement.score, Some(ScoreReport::Accuracy(ref score)) if score.right == 0));
    let same = run(&softmax, &EvalOptions { against: Some(softmax.clone()), truth: None, ..options });
    assert_eq!(same.agreement.map(|a| a.share), Some(1.0));
    assert_eq!(same.score, None);
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let bench = Bench::new();
    let refused = |name: &str, bytes: &[u8]| {
        let path = bench.path(name);
        std::fs::write(&path, bytes).expect("written");
        evaluate(&path, &bench.options(Backend::Clear), &Silent).expect_err("it is refused").to_string()
    };
    assert!(refused("a.onnx", b"\xff\xff\xff").contains("a.onnx"));
    assert!(refused("b.fhe", b"nothing").contains("b.fhe"));
    let open = unary_model("Neg", ("x", &[1, 0]), "y");
    assert!(refused("c.onnx", &open).contains("leaves axis 1 open"));
    let batch = unary_model("Neg", ("x", &[2, 3]), "y");
    assert!(refused("d.onnx", &batch).contains("batch of 1"));
    let model = bench.path("e.onnx");
    std::fs::write(&model, unary_model("Neg", ("x", &[1, 3]), "y")).expect("written");
    std::fs::write(bench.path("t.txt"), "0\n".repeat(8)).expect("written");
    let options = EvalOptions { truth: Some(bench.path("t.txt")), ..bench.options(Backend::Clear) };
    let shape = evaluate(&model, &options, &Silent).expect_err("8x8 is not 3");
    assert!(matches!(shape, RuntimeError::Client(_)) && shape.to_string().contains("[1, 3]"), "{shape}");
}

#[test]
fn sets_of_boxes_need_a_decoder_that_fits() {
    let bench = Bench::new();
    let folder = bench.path("set");
    std::fs::create_dir(&folder).expect("a folder");
    image::RgbImage::new(64, 64).save(folder.join("a.png")).expect("a picture");
    std::fs::write(folder.join("a.txt"), "1 0.5 0.5 0.25 0.25\n").expect("written");
    let model = bench.path("m.onnx");
    std::fs::write(&model, unary_model("Neg", ("x", &[1, 3, 64, 64]), "y")).expect("written");
    let spec = |decoder| DecodeSpec { decoder, anchors: None, thresholds: Thresholds::default() };
    let options = |detector| EvalOptions { data: folder.clone(), detector, ..EvalOptions::default() };
    let undecoded = evaluate(&model, &options(None), &Silent).expect_err("boxes need a decoder").to_string();
    assert!(undecoded.contains("--decoder"), "{undecoded}");
    let wrong = evaluate(&model, &options(Some(spec(Decoder::YoloV3))), &Silent).expect_err("no head");
    assert!(wrong.to_string().contains("yolov3"), "{wrong}");
}

fn detection(class: usize, score: f64, at: [f64; 4]) -> Detection {
    Detection { class, score, at: PixelBox(at) }
}

#[test]
fn average_precision_by_hand() {
    // Two objects; right, wrong, right: precision 1 up to recall 1/2, then 2/3.
    let scored = vec![(0.9, true), (0.8, false), (0.7, true)];
    let expected = (51.0 + 50.0 * 2.0 / 3.0) / 101.0;
    assert!((average_precision(scored, 2) - expected).abs() < 1e-12);
    assert_eq!(average_precision(vec![], 2), 0.0);
    assert_eq!(average_precision(vec![(0.5, true)], 1), 1.0);
}

#[test]
fn an_object_is_found_once_and_only_by_its_class() {
    let at = [0.0, 0.0, 10.0, 10.0];
    let picture = ScoredPicture {
        found: vec![detection(0, 0.6, at), detection(0, 0.9, at), detection(1, 0.9, at)],
        truth: vec![detection(0, 1.0, at), detection(2, 1.0, at)],
    };
    let by_class = mean_average_precision(&[picture]);
    assert_eq!(by_class.into_iter().collect::<Vec<_>>(), [(0, (1, 1.0)), (2, (1, 0.0))]);
}

proptest! {
    /// By the definition: at each of 101 recalls the best precision of any cut of the ranking that reaches it.
    #[test]
    fn average_precision_agrees_with_its_definition(right in prop::collection::vec(any::<bool>(), 0..40), missed in 0usize..5) {
        let objects = right.iter().filter(|r| **r).count() + missed;
        let scored: Vec<(f64, bool)> = right.iter().enumerate().map(|(i, r)| (1.0 - i as f64 / 50.0, *r)).collect();
        let cut = |n: usize| right[..n].iter().filter(|r| **r).count() as f64;
        let mut sum = 0.0;
        for point in 0..=100 {
            let reaches = |n: &usize| objects > 0 && cut(*n) / objects as f64 >= f64::from(point) / 100.0;
            sum += (1..=right.len()).filter(reaches).map(|n| cut(n) / n as f64).fold(0.0, f64::max);
        }
        prop_assert!((average_precision(scored, objects) - sum / 101.0).abs() < 1e-9);
    }
}

/// Stops the evaluation after this many samples.
struct StopAfter(std::sync::atomic::AtomicUsize, Arc<AtomicBool>);

impl Progress for StopAfter {
    fn begin(&self, _: Phase, _: u64) {}
    fn at(&self, at: At<'_>) {
        if matches!(at, At::Sample { .. }) && self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

#[test]
fn a_stopped_evaluation_reports_what_it_has_and_continues() {
    let bench = Bench::new();
    let model = artefact(bench.folder.path(), &client());
    let truth = Some(bench.truth(&model));
    let (log, flag) = (bench.path("log.jsonl"), Arc::new(AtomicBool::new(false)));
    let options =
        EvalOptions { truth, log: Some(log.clone()), threads: Some(1), ..bench.options(Backend::Ckks) };
    let stopped = EvalOptions { interrupt: Some(flag.clone()), ..options.clone() };
    let report = evaluate(&model, &stopped, &StopAfter(3.into(), flag)).expect("a part is a report too");
    assert_eq!((report.samples, report.of, report.known), (3, 8, 0));
    assert!(text(&report).contains("3 samples of 8, stopped"), "{}", text(&report));
    // A line that was cut off while it was written.
    let mut written = std::fs::read_to_string(&log).expect("the log");
    written.push_str("{\"sample\":");
    std::fs::write(&log, written).expect("written");
    let whole = run(&model, &options);
    assert_eq!((whole.samples, whole.of, whole.known), (8, 8, 3));
    let again = run(&model, &options);
    assert_eq!((again.known, again.score.clone(), again.error_bits), (8, whole.score, whole.error_bits));
    let plain = run(&model, &EvalOptions { log: None, ..options.clone() });
    assert_eq!(accuracy(&again), accuracy(&plain));
    let other = evaluate(&model, &EvalOptions { backend: Backend::Clear, ..options }, &Silent);
    let error = other.expect_err("outcomes of another backend").to_string();
    assert!(error.contains("another model, set or backend"), "{error}");
}

#[test]
fn a_file_that_is_no_log_is_not_overwritten() {
    let bench = Bench::new();
    let model = artefact(bench.folder.path(), &client());
    let truth = Some(bench.truth(&model));
    for content in ["a shopping list\nmilk\n", "no newline"] {
        std::fs::write(bench.path("log"), content).expect("written");
        let options = EvalOptions {
            truth: truth.clone(),
            log: Some(bench.path("log")),
            ..bench.options(Backend::Clear)
        };
        let error = evaluate(&model, &options, &Silent).expect_err("it is no log");
        assert!(matches!(error, RuntimeError::EvalLog { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(bench.path("log")).expect("still there"), content);
    }
}
