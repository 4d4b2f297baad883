//! Fixtures end to end: ONNX in, encrypted answers out, against the polynomial model in the clear and against tract.

use std::path::Path;

use peregrine_compiler::driver;
use peregrine_compiler::options::{CompileOptions, Plan};
use peregrine_compiler::oracle::Tract;
use peregrine_ir::client::ClientTensor;
use peregrine_ir::program::{Inst, Program};
use peregrine_tests::{Deployment, argmax, compile_options, compiled, fixture, pictures};

/// Encrypted outputs must agree with the clear run on this many bits of the output range.
const LEAST_BITS: f64 = 8.0;

fn artefact(model: &str, calibration: Option<&str>) -> (tempfile::TempDir, std::path::PathBuf) {
    let mut options = compile_options(model);
    options.calibrate = calibration.map(|name| fixture("calibration").join(name));
    let (folder, path, _) = artefact_of(&options);
    (folder, path)
}

fn artefact_of(options: &CompileOptions) -> (tempfile::TempDir, std::path::PathBuf, Program) {
    let (prepared, lowered) = compiled(options);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.fhe");
    let client = driver::client_part(&prepared, lowered.ranges.clone());
    driver::write_artefact(&path, &lowered, &client).expect("the artefact is written");
    (folder, path, lowered.compiled.program)
}

#[test]
fn fashion_net_answers_twenty_encrypted_pictures_as_in_the_clear() {
    let (_folder, path) = artefact("square_fashion.onnx", None);
    let deployed = Deployment::open(&path);
    let original = std::fs::read(fixture("models/square_fashion.onnx")).expect("the model");
    let oracle = Tract::load(&original).expect("tract loads it");
    let mut right = 0;
    for (picture, label) in pictures("fashion") {
        let answer = deployed.answer(&picture);
        assert_eq!(argmax(&answer.encrypted), argmax(&answer.clear), "{}", picture.display());
        assert!(answer.error_bits() >= LEAST_BITS, "{}: {:.1} bits", picture.display(), answer.error_bits());
        let expected = oracle_output(&oracle, &picture);
        assert_eq!(argmax(&answer.encrypted), argmax(&expected), "{} against tract", picture.display());
        right += usize::from(argmax(&answer.encrypted) == label);
    }
    assert!(right >= 18, "{right} of 20 pictures are right");
}

fn oracle_output(oracle: &Tract, picture: &Path) -> Vec<f64> {
    let gray = image::open(picture).expect("a picture").to_luma8();
    // fixtures/README.md: pixels / 255, then the mean and standard deviation in the model's metadata.
    let (mean, std) = metadata_normalisation();
    let data: Vec<f32> = gray.pixels().map(|p| (f32::from(p.0[0]) / 255.0 - mean) / std).collect();
    let input = ClientTensor { shape: vec![1, 1, gray.height() as usize, gray.width() as usize], data };
    let output = oracle.run(&input).expect("tract runs");
    output[0].data.iter().map(|&v| f64::from(v)).collect()
}

fn metadata_normalisation() -> (f32, f32) {
    let prepared = driver::prepare(&compile_options("square_fashion.onnx")).expect("the fixture is read");
    let image = prepared.imported.image.expect("the fixture says how pictures are read");
    (image.mean[0], image.std[0])
}

/// Every picture's encrypted answer is the clear one; how many are right.
fn right_answers(path: &Path) -> usize {
    let deployed = Deployment::open(path);
    let mut right = 0;
    for (picture, label) in pictures("cifar10") {
        let answer = deployed.answer(&picture);
        assert_eq!(argmax(&answer.encrypted), argmax(&answer.clear), "{}", picture.display());
        assert!(answer.error_bits() >= LEAST_BITS, "{}: {:.1} bits", picture.display(), answer.error_bits());
        right += usize::from(argmax(&answer.encrypted) == label);
    }
    right
}

#[test]
fn a_tuned_resnet8_answers_twenty_encrypted_pictures_as_in_the_clear() {
    let (_folder, path) = artefact("cifar10_resnet8_poly2.onnx", None);
    let right = right_answers(&path);
    assert!(right >= 16, "{right} of 20 pictures are right");
}

#[test]
#[ignore = "about 6 GiB and five minutes; run with: cargo test --release -p peregrine-tests --test encrypted -- --ignored"]
fn tuned_resnet20s_answer_twenty_encrypted_pictures_as_in_the_clear() {
    for model in ["cifar10_resnet20_poly2.onnx", "cifar10_resnet20_poly4.onnx"] {
        let (_folder, path) = artefact(model, None);
        let right = right_answers(&path);
        assert!(right >= 17, "{model}: {right} of 20 pictures are right");
    }
}

#[test]
#[ignore = "about 8 GiB and three minutes; run with: cargo test --release -p peregrine-tests --test encrypted -- --ignored"]
fn resnet8_answers_twenty_encrypted_pictures_as_in_the_clear() {
    let (_folder, path) = artefact("cifar10_resnet8.onnx", Some("natural32.npz"));
    let right = right_answers(&path);
    assert!(right >= 14, "{right} of 20 pictures are right");
}

#[test]
#[ignore = "about 8 GiB and two minutes; run with: cargo test --release -p peregrine-tests --test encrypted -- --ignored"]
fn a_resnet8_that_bootstraps_answers_encrypted_pictures_as_in_the_clear() {
    let mut options = compile_options("cifar10_resnet8.onnx");
    options.calibrate = Some(fixture("calibration").join("natural32.npz"));
    options.degree = Some(8);
    options.plan = Plan::Bootstrapped;
    let (_folder, path, program) = artefact_of(&options);
    let is_bootstrap = |inst: &&Inst| matches!(inst, Inst::Bootstrap { .. } | Inst::BootstrapPair { .. });
    assert!(program.insts.iter().filter(is_bootstrap).count() >= 1);
    let deployed = Deployment::open(&path);
    for (picture, _) in pictures("cifar10").into_iter().take(3) {
        let answer = deployed.answer(&picture);
        assert_eq!(argmax(&answer.encrypted), argmax(&answer.clear), "{}", picture.display());
        assert!(answer.error_bits() >= LEAST_BITS, "{}: {:.1} bits", picture.display(), answer.error_bits());
    }
}
