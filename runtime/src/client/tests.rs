//! Head and tail models, guessed image specifications, and the flags of normalisation.

use peregrine_ir::client::{ClientPart, ClientTensor};

use super::clear_side::ClearSide;
use super::onnx::testing::{unary_model, upsample_model};
use super::tensor::TensorPort;
use super::{ClientError, NamedTensor, Preprocessing};

fn port(name: &str, shape: &[usize]) -> TensorPort {
    TensorPort { name: name.to_owned(), shape: shape.to_vec() }
}

fn part(shape: &[usize]) -> ClientPart {
    ClientPart { input_name: "image".to_owned(), input_shape: shape.to_vec(), ..ClientPart::default() }
}

fn side(part: &ClientPart, flags: &Preprocessing) -> Result<ClearSide, ClientError> {
    ClearSide::new(part, vec![port("x", &[1, 3, 4, 4])], &[port("logits", &[1, 3])], flags)
}

#[test]
fn the_tail_makes_the_models_outputs() {
    let tail = unary_model("Softmax", ("logits", &[1, 3]), "probabilities");
    let side = side(&ClientPart { tail: Some(tail), ..part(&[1, 3, 4, 4]) }, &Preprocessing::default())
        .expect("it loads");
    let logits = NamedTensor { name: "logits".to_owned(), shape: vec![1, 3], data: vec![1.0, 2.0, 3.0] };
    let outputs = side.finish(&[logits]).expect("it runs");
    assert_eq!((outputs[0].name.as_str(), outputs[0].shape.as_slice()), ("probabilities", &[1, 3][..]));
    assert!((outputs[0].data.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    assert!(outputs[0].data.is_sorted());
}

#[test]
fn the_head_makes_the_programs_inputs() {
    let head = unary_model("Neg", ("image", &[1, 3, 4, 4]), "x");
    let side = side(&ClientPart { head: Some(head), ..part(&[1, 3, 4, 4]) }, &Preprocessing::default())
        .expect("it loads");
    let prepared = side.prepare(None).expect("the test pattern");
    assert_eq!(prepared.tensors.len(), 1);
    assert_eq!(prepared.tensors[0].name, "x");
    assert!(prepared.tensors[0].data.iter().all(|&x| (-1.0..=0.0).contains(&x)), "pixels / 255, negated");
}

#[test]
fn damaged_models_are_refused() {
    let mut tail = unary_model("Softmax", ("logits", &[1, 3]), "probabilities");
    tail.truncate(tail.len() / 2);
    let refused = side(&ClientPart { tail: Some(tail), ..part(&[1, 3, 4, 4]) }, &Preprocessing::default());
    assert!(matches!(refused.err(), Some(ClientError::Onnx { action: "loaded", .. })));
}

#[test]
fn models_that_stop_tract_are_refused() {
    // An output that no node computes makes tract panic.
    let mut tail = unary_model("Softmax", ("logits", &[1, 3]), "probabilities");
    let name = b"probabilities";
    let at = tail.windows(name.len()).rposition(|w| w == name).expect("the output");
    tail[at] = b'q';
    let refused = side(&ClientPart { tail: Some(tail), ..part(&[1, 3, 4, 4]) }, &Preprocessing::default());
    assert!(matches!(refused.err(), Some(ClientError::Onnx { action: "loaded", .. })));
}

#[test]
fn upsample_of_operator_set_9_runs() {
    let tail = upsample_model(("map", [1, 1, 1, 2]), "large");
    let client = ClientPart { tail: Some(tail), ..part(&[1, 3, 4, 4]) };
    let outputs = [port("map", &[1, 1, 1, 2])];
    let side = ClearSide::new(&client, vec![port("x", &[1, 3, 4, 4])], &outputs, &Preprocessing::default())
        .expect("it loads");
    let map = NamedTensor { name: "map".to_owned(), shape: vec![1, 1, 1, 2], data: vec![3.0, 5.0] };
    let large = side.finish(&[map]).expect("it runs").swap_remove(0);
    assert_eq!((large.shape, large.data), (vec![1, 1, 2, 4], vec![3.0, 3.0, 5.0, 5.0, 3.0, 3.0, 5.0, 5.0]));
}

#[test]
fn inputs_that_do_not_fit_the_program_are_refused() {
    let side = side(&part(&[1, 3, 4, 5]), &Preprocessing::default()).expect("it loads");
    let error = side.prepare(None).expect_err("20 columns are not 16").to_string();
    assert!(error.contains("1x3x4x5") && error.contains("1x3x4x4"), "{error}");
}

#[test]
fn hostile_input_sizes_are_refused() {
    for shape in [&[1, 3, 0, 4][..], &[1, 1 << 20, 1 << 20], &[usize::MAX, 2]] {
        let refused = side(&part(shape), &Preprocessing::default()).err();
        assert!(matches!(refused, Some(ClientError::InputSize { .. })), "{shape:?}");
    }
    let sample = ClientTensor { shape: vec![1, 3, 4, 4], data: vec![0.0; 47] };
    let refused =
        side(&ClientPart { sample: Some(sample), ..part(&[1, 3, 4, 4]) }, &Preprocessing::default());
    assert!(matches!(refused.err(), Some(ClientError::Shape { .. })));
}

#[test]
fn normalisation_flags_are_checked() {
    let flags = |mean: &[f32], std: &[f32]| Preprocessing {
        mean: Some(mean.to_vec()),
        std: Some(std.to_vec()),
        ..Preprocessing::default()
    };
    let part = part(&[1, 3, 4, 4]);
    assert!(side(&part, &flags(&[0.5], &[0.5, 0.4, 0.3])).is_ok());
    let count = side(&part, &flags(&[0.5, 0.5], &[1.0])).err().expect("two means").to_string();
    assert!(count.contains("--mean has 2 values") && count.contains("3 channels"), "{count}");
    let zero = side(&part, &flags(&[0.5], &[0.0])).err().expect("zero deviation").to_string();
    assert!(zero.contains("--std holds 0") && zero.contains("positive"), "{zero}");
}

#[test]
fn pictures_need_an_image_model() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("p.png");
    image::RgbImage::new(4, 4).save(&path).expect("saved");
    let vector = side(&part(&[1, 48]), &Preprocessing::default()).expect("it loads");
    let error = vector.prepare(Some(&path)).expect_err("no picture").to_string();
    assert!(error.contains("is a picture") && error.contains("`image` of shape 1x48"), "{error}");
    let guessed = side(&part(&[1, 3, 4, 4]), &Preprocessing::default()).expect("it loads");
    let notes = guessed.prepare(Some(&path)).expect("a picture").notes;
    assert!(notes.iter().any(|note| note.contains("--mean and --std")), "{notes:?}");
}
