//! Whole runs of the tiny program of [`crate::testing`], and everything that must be refused.

use std::path::Path;
use std::time::Instant;

use peregrine_ckks::context::Context;
use peregrine_ckks::keys::EvalKeys;
use peregrine_data::DataError;
use peregrine_data::picture::Resize;
use peregrine_ir::client::{ClientPart, RangeRecord};
use peregrine_ir::program::Noise;
use serde_json::Value;

use crate::bytes::ByteSize;
use crate::clear;
use crate::client::decode::{DecodeSpec, Decoder, Thresholds};
use crate::client::{Client, ClientError, NamedTensor, Preprocessing};
use crate::error::{BudgetOrigin, RuntimeError};
use crate::exec::{Metering, Server, ServerKeys};
use crate::loader::Loaded;
use crate::local::{Backend, LocalOptions, run_loaded, run_local};
use crate::output;
use crate::progress::Silent;
use crate::report::{BoxReport, EXACT_BITS, ProfileDetail, RunReport, error_bits};
use crate::testing::{artefact, client, f32_bytes, loaded, sample, write_npy};

/// Precision that the tiny program keeps on CKKS; 18.0 bits measured.
const MINIMUM_BITS: f64 = 16.0;

fn options(backend: Backend) -> LocalOptions {
    LocalOptions { backend, detail: ProfileDetail::OpsAndLayers, ..LocalOptions::default() }
}

fn run(loaded: &Loaded, options: &LocalOptions) -> Result<RunReport, RuntimeError> {
    run_loaded(loaded, options, &Silent, Instant::now())
}

fn sampled() -> ClientPart {
    ClientPart { sample: Some(sample()), ..client() }
}

fn input() -> Vec<NamedTensor> {
    let sample = sample();
    let data = sample.data.iter().map(|&x| f64::from(x)).collect();
    vec![NamedTensor { name: "x".to_owned(), shape: sample.shape, data }]
}

#[test]
fn encrypted_equals_clear() {
    let report = run(&loaded(sampled()), &options(Backend::Ckks)).expect("the run succeeds");
    assert!(report.error_bits >= MINIMUM_BITS, "{} bits", report.error_bits);
    assert_eq!(report.input, "the sample in the artefact");
    assert_eq!(report.top[0].class, report.clear_top[0].class);
    assert_eq!(report.top[0].label, Some(format!("class {}", report.top[0].class)));
    assert_eq!(report.warnings, Vec::<String>::new());
    let profile = report.profile.expect("ckks runs have a profile");
    let count = |name: &str| profile.by_op.iter().find(|line| line.name == name).map(|line| line.count);
    assert_eq!((count("linear"), count("square"), count("rescale")), (Some(2), Some(1), Some(2)));
    assert_eq!(
        profile.by_layer.iter().map(|line| line.name.as_str()).collect::<Vec<_>>(),
        ["conv", "square", "fc"]
    );
}

#[test]
fn constants_beyond_the_budget_are_expanded_on_demand() {
    let loaded = loaded(client());
    let context = Context::new(&loaded.interface.params).expect("a ring");
    let user = Client::new(loaded.interface.clone(), &context);
    let keys = user.evaluation_keys(&Silent).expect("keys");
    let inputs = encrypted(&user, &context);
    let clear =
        clear::run(&loaded.program, &loaded.interface, Noise::None, &input(), &[]).expect("a clear run");
    for budget in [ByteSize(0), ByteSize(u64::MAX)] {
        let server = Server::new(&loaded).expect("a server");
        server.encode_constants(&context, budget, &Silent).expect("constants");
        let execution = server.run(&context, &inputs, &keys, &Silent).expect("a run");
        let outputs = user.decrypt(&execution.outputs).expect("outputs");
        let bits = error_bits(&outputs, &clear.outputs);
        assert!(bits >= MINIMUM_BITS, "{bits} bits with {budget} for constants");
    }
}

fn encrypted(user: &Client, context: &Context) -> Vec<Vec<peregrine_ckks::ciphertext::Ciphertext>> {
    let uploads = user.encrypt(&input()).expect("ciphertexts");
    let expand = |c: &peregrine_ckks::encrypt::SeededCiphertext| c.expand(context).expect("it expands");
    uploads.iter().map(|ciphers| ciphers.iter().map(expand).collect()).collect()
}

#[test]
fn missing_keys_and_wrong_ciphertexts_are_refused() {
    let loaded = loaded(client());
    let context = Context::new(&loaded.interface.params).expect("a ring");
    let user = Client::new(loaded.interface.clone(), &context);
    let server = Server::new(&loaded).expect("a server");
    let inputs = encrypted(&user, &context);
    let keys = user.evaluation_keys(&Silent).expect("keys");
    let keys_but = |skip: usize| {
        let mut set = EvalKeys::new();
        set.extend(
            keys.evaluation().iter().enumerate().filter(|(i, _)| *i != skip).map(|(_, key)| key.clone()),
        );
        ServerKeys::from(set)
    };
    let refusal = |keys: &ServerKeys, inputs: &[Vec<_>]| {
        server.run(&context, inputs, keys, &Silent).err().expect("it is refused").to_string()
    };
    let no_relin = refusal(&keys_but(0), &inputs);
    assert!(
        no_relin.contains("no relinearisation key at level 1") && no_relin.contains("manifest"),
        "{no_relin}"
    );
    let no_galois = refusal(&keys_but(1), &inputs);
    assert!(no_galois.contains("no switching key for the automorphism"), "{no_galois}");

    assert!(refusal(&keys, &[]).contains("input `x` is 1 ciphertexts, 0 were given"));
    let lower = peregrine_ckks::evaluator::Evaluator::new(&context)
        .drop_to(&inputs[0][0], peregrine_ckks::units::Level(1))
        .expect("a lower level");
    let wrong_level = refusal(&keys, &[vec![lower]]);
    assert!(
        wrong_level.contains("input `x` is at level 1") && wrong_level.contains("takes level 2"),
        "{wrong_level}"
    );
}

#[test]
fn too_little_memory_is_refused_before_keys_are_made() {
    let metering = Metering::Counted;
    let refused = LocalOptions { memory: Some(ByteSize(1 << 20)), metering, ..options(Backend::Ckks) };
    let error = run(&loaded(client()), &refused).expect_err("1 MiB is too little");
    let RuntimeError::Memory { needed, origin, .. } = &error else { panic!("{error}") };
    assert_eq!(*origin, BudgetOrigin::Flag);
    let text = error.to_string();
    for part in ["1.0 MiB", "allowed by --memory", "for keys", "Give --memory"] {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
    let enough = LocalOptions { memory: Some(*needed), ..refused };
    assert!(run(&loaded(client()), &enough).is_ok(), "what the refusal asks for must do");
}

#[test]
fn clear_and_noisy_backends() {
    let loaded = loaded(sampled());
    let clear = run(&loaded, &options(Backend::Clear)).expect("a clear run");
    assert_eq!((clear.error_bits, clear.backend), (EXACT_BITS, "clear"));
    assert_eq!(clear.outputs, clear.clear);
    let noisy = |seed| run(&loaded, &options(Backend::Noisy { seed })).expect("a noisy run");
    let (a, b, c) = (noisy(1), noisy(1), noisy(2));
    assert_eq!(a.outputs, b.outputs);
    assert_ne!(a.outputs, c.outputs);
    let encrypted = run(&loaded, &options(Backend::Ckks)).expect("an encrypted run");
    let apart = (a.error_bits - encrypted.error_bits).abs();
    assert!(apart < 3.0, "the noise model says {} bits, CKKS {}", a.error_bits, encrypted.error_bits);
}

#[test]
fn the_binary_reads_artefacts_and_refuses_damaged_ones() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = artefact(directory.path(), &client());
    let clear = options(Backend::Clear);
    let report = run_local(&path, &clear, &Silent).expect("the artefact runs");
    assert_eq!(report.input, "a synthetic test pattern");

    let bytes = std::fs::read(&path).expect("it is there");
    let refused = |bytes: &[u8]| {
        let damaged = directory.path().join("damaged.fhe");
        std::fs::write(&damaged, bytes).expect("it can be written");
        let error = run_local(&damaged, &clear, &Silent).expect_err("damage is refused");
        assert!(matches!(error, RuntimeError::Load(_)), "{error}");
        assert!(error.to_string().contains("damaged.fhe"), "{error}");
    };
    for length in [0, 7, 40, bytes.len() / 2, bytes.len() - 1] {
        refused(&bytes[..length]);
    }
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        refused(&flipped);
    }
    let missing = run_local(&directory.path().join("none.fhe"), &clear, &Silent).expect_err("no such file");
    assert!(missing.to_string().contains("none.fhe"), "{missing}");
}

#[test]
fn a_pool_of_one_thread_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = artefact(directory.path(), &sampled());
    let single = LocalOptions { threads: Some(1), ..options(Backend::Ckks) };
    let report = run_local(&path, &single, &Silent).expect("it runs");
    assert!(report.error_bits >= MINIMUM_BITS, "{} bits", report.error_bits);
}

fn run_file(name: &str, write: impl FnOnce(&Path)) -> Result<RunReport, RuntimeError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    write(&path);
    run(&loaded(client()), &LocalOptions { input: Some(path), ..options(Backend::Clear) })
}

#[test]
fn arrays_are_inputs() {
    let sample = sample().data;
    let floats =
        run_file("x.npy", |p| write_npy(p, "<f4", &[1, 1, 8, 8], &f32_bytes(&sample))).expect("float32");
    let flat = run_file("x.npy", |p| write_npy(p, "<f4", &[8, 8], &f32_bytes(&sample))).expect("no batch");
    assert_eq!(floats.outputs, flat.outputs);
    assert_eq!(
        floats.outputs,
        run(&loaded(sampled()), &options(Backend::Clear)).expect("the sample").outputs
    );
    let pixels = run_file("x.npy", |p| write_npy(p, "|u1", &[1, 8, 8], &[255; 64])).expect("uint8");
    let ones =
        run_file("x.npy", |p| write_npy(p, "<f4", &[1, 8, 8], &f32_bytes(&[1.0; 64]))).expect("float32");
    assert_eq!(pixels.outputs, ones.outputs);
}

#[test]
fn wrong_arrays_are_refused() {
    let refusal =
        |name: &str, write: &dyn Fn(&Path)| run_file(name, write).expect_err("it is refused").to_string();
    let shape = refusal("x.npy", &|p| write_npy(p, "<f4", &[1, 3, 8, 8], &f32_bytes(&[0.0; 192])));
    assert!(shape.contains("has shape 1x3x8x8") && shape.contains("`x` needs 1x1x8x8"), "{shape}");
    let batch = refusal("x.npy", &|p| write_npy(p, "<f4", &[2, 1, 8, 8], &f32_bytes(&[0.0; 128])));
    assert!(batch.contains("2x1x8x8"), "{batch}");
    let kind = refusal("x.npy", &|p| write_npy(p, "<i4", &[8, 8], &[0; 256]));
    assert!(kind.contains("it holds integers"), "{kind}");
    let complex = refusal("x.npy", &|p| write_npy(p, "<c8", &[8, 4], &[0; 256]));
    assert!(complex.contains("element type `<c8`"), "{complex}");
    let short = refusal("x.npy", &|p| write_npy(p, "<f4", &[1 << 40, 8, 8], &[0; 256]));
    assert!(short.contains("the file holds 256 bytes"), "{short}");
    let nan = refusal("x.npy", &|p| write_npy(p, "<f4", &[8, 8], &f32_bytes(&[f32::NAN; 64])));
    assert!(nan.contains("NaN at element 0"), "{nan}");
    let cut = refusal("x.npy", &|p| std::fs::write(p, b"\x93NUMPY\x01\x00\xff").expect("written"));
    assert!(cut.contains("ends inside its header"), "{cut}");
    let nothing = refusal("x.npy", &|_| ());
    assert!(nothing.contains("cannot read") && nothing.contains("x.npy"), "{nothing}");
}

#[test]
fn pictures_are_resized_and_normalised() {
    let gray = |size: u32| image::GrayImage::from_pixel(size, size, image::Luma([255]));
    let exact = run_file("p.png", |p| gray(8).save(p).expect("saved")).expect("a picture");
    assert_eq!(exact.warnings, Vec::<String>::new());
    let ones =
        run_file("x.npy", |p| write_npy(p, "<f4", &[1, 8, 8], &f32_bytes(&[1.0; 64]))).expect("float32");
    assert_eq!(exact.outputs, ones.outputs);
    let large = run_file("p.png", |p| gray(20).save(p).expect("saved")).expect("a larger picture");
    assert_eq!(large.outputs, ones.outputs);
    assert!(large.warnings[0].contains("resized from 20x20 to 8x8"), "{:?}", large.warnings);
    let broken = run_file("p.png", |p| std::fs::write(p, b"\x89PNG\r\n\x1a\nnothing").expect("saved"));
    assert!(matches!(broken, Err(RuntimeError::Client(ClientError::Data(DataError::Picture { .. })))));
}

#[test]
fn leaving_the_calibrated_range_is_a_warning() {
    let tight = RangeRecord { layer: "square".to_owned(), low: vec![-0.01; 4], high: vec![0.01; 4] };
    let report = run(&loaded(ClientPart { ranges: vec![tight], ..sampled() }), &options(Backend::Clear))
        .expect("a run");
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    assert!(report.warnings[0].contains("`square`: 4 of 4 channels"), "{}", report.warnings[0]);
}

#[test]
fn labels_come_from_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let labels = directory.path().join("labels.txt");
    std::fs::write(&labels, "zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n\n")
        .expect("written");
    let with = |path: &Path| {
        run(&loaded(sampled()), &LocalOptions { labels: Some(path.to_owned()), ..options(Backend::Clear) })
    };
    let top = with(&labels).expect("a run").top;
    let names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    assert!(top.iter().all(|score| score.label.as_deref() == Some(names[score.class])));
    std::fs::write(&labels, "\n").expect("written");
    assert!(matches!(with(&labels), Err(RuntimeError::Client(ClientError::NoLabels { .. }))));
}

#[test]
fn json_is_one_object_with_the_documented_fields() {
    let report = run(&loaded(sampled()), &options(Backend::Ckks)).expect("a run");
    let text = output::json(&report).expect("it serialises");
    assert!(!text.contains('\n'));
    let json: Value = serde_json::from_str(&text).expect("it parses");
    for key in [
        "outputs",
        "top",
        "clear",
        "error_bits",
        "output_errors",
        "seconds",
        "peak_bytes",
        "backend",
        "parameters",
        "warnings",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!(json["outputs"][0]["name"], "y");
    assert_eq!(json["outputs"][0]["shape"], serde_json::json!([1, 10]));
    assert_eq!(json["clear"][0]["shape"], json["outputs"][0]["shape"]);
    assert_eq!(json["outputs"][0]["data"].as_array().map(Vec::len), Some(10));
    assert_eq!(json["top"].as_array().map(Vec::len), Some(5));
    assert!(
        json["top"][0]["class"].is_u64()
            && json["top"][0]["label"].is_string()
            && json["top"][0]["score"].is_f64()
    );
    for key in ["keygen", "load", "encrypt", "online", "decrypt"] {
        assert!(json["seconds"][key].is_f64(), "{key}");
    }
    assert!(json["error_bits"].is_f64());
    assert_eq!(json["backend"], "ckks");
    assert_eq!(json["parameters"]["n"], 8192);
    assert_eq!(json["parameters"]["security_bits"], 128);
    for key in ["log_q", "log_qp", "limbs", "special_limbs"] {
        assert!(json["parameters"][key].is_number(), "{key}");
    }
}

#[test]
fn text_shows_both_answers_and_the_time() {
    let report = run(&loaded(sampled()), &options(Backend::Ckks)).expect("a run");
    let text = output::text(&report);
    for part in [
        "encrypted",
        "in clear",
        "class ",
        "bits below",
        "N = 8192",
        "128-bit security",
        "linear",
        "layer",
        "conv",
    ] {
        assert!(text.contains(part), "`{part}` in:\n{text}");
    }
}

/// The server's code cannot name a secret key.
#[test]
fn server_code_does_not_name_secret_keys() {
    let sources = [
        include_str!("exec/mod.rs"),
        include_str!("exec/constants.rs"),
        include_str!("exec/interpreter.rs"),
        include_str!("exec/memory.rs"),
        include_str!("exec/profile.rs"),
        include_str!("exec/schedule.rs"),
    ];
    for source in sources {
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        assert!(
            code.clone().all(|line| !line.contains("SecretKey") && !line.contains("crate::client")),
            "exec names a secret"
        );
    }
}

/// The tiny program as a detector: its ten outputs are one prediction of five classes, in each of 2x2 cells.
fn detector() -> ClientPart {
    let tail = crate::client::onnx_testing::grid_model(("y", 10), [2, 2], "head");
    ClientPart { tail: Some(tail), ..client() }
}

fn detecting(backend: Backend) -> LocalOptions {
    let anchors = Some("3,4".parse().expect("one anchor"));
    let thresholds = Thresholds { score: 1e-6, iou: 0.9, most: 300 };
    let detector = Some(DecodeSpec { decoder: Decoder::YoloV3, anchors, thresholds });
    let preprocessing = Preprocessing { resize: Resize::Letterbox, ..Preprocessing::default() };
    LocalOptions { detector, preprocessing, ..options(backend) }
}

#[test]
fn a_detector_draws_the_boxes_that_it_finds_encrypted_and_in_the_clear() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in.png"), folder.path().join("out.png"));
    let picture = image::GrayImage::from_fn(80, 40, |x, y| image::Luma([(x * 3 + y) as u8]));
    picture.save(&input).expect("saved");
    let asked = LocalOptions { input: Some(input), draw: Some(output.clone()), ..detecting(Backend::Ckks) };
    let report = run(&loaded(detector()), &asked).expect("a run");
    let found = report.detections.clone().expect("boxes");
    assert!(report.top.is_empty() && !found.boxes.is_empty());
    assert_eq!(found.boxes.len(), found.clear.len());
    assert_eq!(found.matched.len(), found.boxes.len(), "every box has its like in the clear");
    assert!(found.matched.iter().all(|m| m.iou > 0.99), "{:?}", found.matched);
    let inside = |b: &BoxReport| {
        let [left, top, right, bottom] = b.corners;
        0.0 <= left && left <= right && right <= 80.0 && 0.0 <= top && top <= bottom && bottom <= 40.0
    };
    assert!(found.boxes.iter().all(inside), "{:?}", found.boxes);
    let drawn = image::open(&output).expect("a picture").to_rgb8();
    assert_eq!(drawn.dimensions(), (80, 40));
    assert_ne!(drawn, image::DynamicImage::ImageLuma8(picture).to_rgb8());
    let text = output::text(&report);
    assert!(text.contains("encrypted") && text.contains("in clear") && text.contains("class "), "{text}");
    let json: Value = serde_json::from_str(&output::json(&report).expect("JSON")).expect("it parses");
    assert_eq!(json["detections"]["boxes"][0]["corners"].as_array().map(Vec::len), Some(4));
}

#[test]
fn boxes_need_a_head_and_drawings_a_picture() {
    let not_a_head = run(&loaded(client()), &detecting(Backend::Clear)).expect_err("a vector");
    assert!(matches!(not_a_head, RuntimeError::Client(ClientError::Decode(_))), "{not_a_head}");
    let nowhere = LocalOptions { draw: Some("out.png".into()), ..detecting(Backend::Ckks) };
    let error = run(&loaded(detector()), &nowhere).expect_err("a test pattern is no picture");
    assert!(matches!(error, RuntimeError::Client(ClientError::NoPicture { flag: "draw" })), "{error}");
}
