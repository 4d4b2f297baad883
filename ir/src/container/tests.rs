//! Files are read back as written; damaged, foreign and hostile files are refused.

use std::fs;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::client::{ClientTensor, ImageOrder, ImageSpec, PixelFormat, RangeRecord};
use crate::consts::{ConstPool, ConstTensor};
use crate::samples;
use crate::text::tests::any_program;

fn client() -> ClientPart {
    ClientPart {
        image: Some(ImageSpec {
            format: PixelFormat::Rgb,
            order: ImageOrder::Nhwc,
            height: 4,
            width: 5,
            mean: vec![0.5, 0.25, 0.125],
            std: vec![0.1, 0.2, 0.3],
        }),
        input_name: "x".into(),
        input_shape: vec![1, 4, 5, 3],
        head: Some(vec![1, 2, 3]),
        tail: Some(Vec::new()),
        labels: vec!["cat".into(), "dog \u{1F415}".into()],
        sample: Some(ClientTensor { shape: vec![1, 2], data: vec![0.5, -1.0] }),
        ranges: vec![RangeRecord { layer: "conv".into(), low: vec![-1.0, -2.0], high: vec![1.0, 2.0] }],
        model_hash: [7; 32],
        compiler: "0.1.0".into(),
    }
}

fn sample_bytes() -> Vec<u8> {
    to_bytes(&samples::program(), &client()).unwrap()
}

fn in_directory<T>(test: impl FnOnce(&Path) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    test(directory.path())
}

/// What `read` says of these bytes.
fn read_bytes(bytes: &[u8]) -> Result<Artefact, ContainerError> {
    in_directory(|directory| {
        let path = directory.join("model.fhe");
        fs::write(&path, bytes).unwrap();
        read(&path)
    })
}

#[test]
fn files_read_back_as_written() {
    in_directory(|directory| {
        let path = directory.join("model.fhe");
        for client in [client(), ClientPart::default()] {
            write(&path, &samples::program(), &client).unwrap();
            assert_eq!(read(&path).unwrap(), Artefact { program: samples::program(), client });
        }
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1, "no temporary file is left");
    });
}

/// The runs of a file's constants, and the length of its constants section. They are read back bit by bit.
fn folded(constants: Vec<ConstTensor>) -> (Vec<Vec<u64>>, usize) {
    let consts: ConstPool = constants.into_iter().collect();
    let (table, data) = constants::encode(&consts);
    let runs = table.iter().map(|entry| entry.runs.clone()).collect();
    let found = constants::decode(table, &data).unwrap();
    for (found, wrote) in found.values().zip(consts.values()) {
        let bits = |c: &ConstTensor| c.to_f64().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!((&found.shape, bits(found)), (&wrote.shape, bits(wrote)));
    }
    (runs, data.len())
}

#[test]
fn constants_take_four_or_eight_bytes_a_number() {
    let consts = samples::program().consts;
    let numbers: usize = consts.values().map(|c| c.len()).sum();
    let doubles = 1 + 2 + 3 + 2;
    let (table, data) = constants::encode(&consts);
    assert_eq!(data.len(), 4 * (numbers - doubles) + 8 * doubles);
    assert!(table.iter().all(|entry| entry.runs.is_empty()));
}

#[test]
fn equal_numbers_in_a_row_are_stored_once() {
    let f32 = |data: &[f32]| folded(vec![ConstTensor::f32([data.len()], data)]);
    let none = || vec![Vec::new()];
    assert_eq!(f32(&[1.0, 2.0, 2.0, 2.0, 2.0, 3.0]), (vec![vec![2, 3, 1]], 12));
    assert_eq!(f32(&[0.5; 9]), (vec![vec![1, 8]], 4));
    assert_eq!(f32(&[0.0, 0.0, 0.0, 0.0, 7.0, 7.0, 7.0, 7.0]), (vec![vec![1, 3, 1, 3]], 8));
    assert_eq!(f32(&[1.0, 2.0, 2.0, 2.0, 3.0]), (none(), 20), "three are not worth a run");
    assert_eq!(f32(&[0.0, 0.0, -0.0, -0.0]), (none(), 16), "signs of zeros differ");
    assert_eq!(f32(&[f32::NAN; 4]), (vec![vec![1, 3]], 4));
    let pooled: Vec<f32> = samples::numbers(6, 5).into_iter().flat_map(|x| [x; 16]).collect();
    assert_eq!(folded(vec![ConstTensor::f32([2, 3, 4, 4], pooled)]), (vec![[1, 15].repeat(6)], 24));
    let doubles = ConstTensor::f64([2, 4], [[0.1; 4], [-0.1; 4]].concat());
    let empty = ConstTensor::f32([0, 4], []);
    assert_eq!(
        folded(vec![empty, doubles, ConstTensor::f32([], [2.0])]),
        (vec![Vec::new(), vec![1, 3, 1, 3], Vec::new()], 20)
    );
}

#[test]
fn hostile_constants_are_refused_before_they_unfold() {
    let entry = |shape: &[u64], runs: &[u64]| proto::Const {
        element: proto::Element::F32.into(),
        shape: shape.to_vec(),
        runs: runs.to_vec(),
    };
    let refused = |table: &[proto::Const], bytes: usize| {
        constants::decode(table.to_vec(), &vec![0; bytes]).unwrap_err()
    };
    let range_of = |table: &[proto::Const], bytes| match refused(table, bytes) {
        DecodeError::Range { part: "constant", index, field, .. } => (index, field),
        other => panic!("{other:?}"),
    };
    let wrong: [&[u64]; 7] = [&[4], &[3, 3], &[1, 3], &[0, 5], &[5, 0], &[1, 3, 0, 1], &[1, u64::MAX, 5]];
    for runs in wrong {
        assert_eq!(range_of(&[entry(&[5], runs)], 4), (0, "numbers in its runs"), "{runs:?}");
    }
    let most = constants::MAX_UNFOLDED / 4;
    let repeated = |more: u64| entry(&[1 + more], &[1, more]);
    let too_many = "bytes of repetitions, with the constants before,";
    assert_eq!(range_of(&[repeated(most + 1)], 4), (0, too_many));
    assert_eq!(range_of(&[repeated((1 << 39) - 1)], 4), (0, too_many));
    let half = repeated(most / 2);
    assert_eq!(range_of(&[half.clone(), half, repeated(1)], 12), (2, too_many));
    assert!(matches!(
        refused(&[entry(&[12], &[1, 11])], 48),
        DecodeError::Length { expected: 4, found: 48, .. }
    ));
}

#[test]
fn invalid_programs_are_not_written() {
    in_directory(|directory| {
        let path = directory.join("model.fhe");
        let mut program = samples::program();
        program.manifest.relin = None;
        let error = write(&path, &program, &client()).unwrap_err();
        assert!(matches!(error, ContainerError::Invalid { .. }), "{error}");
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
        let nowhere = directory.join("missing").join("model.fhe");
        let error = write(&nowhere, &samples::program(), &client()).unwrap_err();
        assert!(matches!(error, ContainerError::Io { action: "write", .. }));
    });
}

#[test]
fn missing_files_and_directories_are_refused() {
    in_directory(|directory| {
        for path in [directory.join("none.fhe"), directory.to_owned()] {
            let error = read(&path).unwrap_err();
            assert!(matches!(error, ContainerError::Io { action: "read", .. }));
            assert!(error.to_string().starts_with(&path.display().to_string()));
        }
    });
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample_bytes();
    for length in 0..bytes.len() {
        let fault = from_bytes(&bytes[..length]).unwrap_err();
        let Fault::Frame(error) = fault else { panic!("{fault:?} at {length}") };
        if length == 0 {
            assert_eq!(error, FrameError::Magic);
        } else {
            assert!(
                matches!(error, FrameError::Truncated { found, .. } if found == length as u64),
                "{error}"
            );
        }
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(from_bytes(&longer), Err(Fault::Frame(FrameError::Trailing { extra: 1 }))));
}

#[test]
fn every_flipped_byte_is_refused() {
    let mut bytes = sample_bytes();
    for at in 0..bytes.len() {
        for mask in [1, 0x80, 0xff] {
            bytes[at] ^= mask;
            assert!(matches!(from_bytes(&bytes), Err(Fault::Frame(_))), "byte {at}");
            bytes[at] ^= mask;
        }
    }
    assert!(from_bytes(&bytes).is_ok());
}

#[test]
fn foreign_files_and_versions_are_named() {
    let error = read_bytes(b"\x89PNG\r\n\x1a\n and more").unwrap_err();
    assert!(matches!(error, ContainerError::Frame { source: FrameError::Magic, .. }));
    assert!(error.to_string().contains("not a .fhe file"), "{error}");
    for other in [VERSION - 1, VERSION + 1] {
        let mut bytes = sample_bytes();
        bytes[8..12].copy_from_slice(&other.to_le_bytes());
        let error = read_bytes(&bytes).unwrap_err();
        assert!(
            matches!(error, ContainerError::Frame { source: FrameError::Version { found }, .. } if found == other)
        );
        assert!(error.to_string().ends_with("compile the model again"), "{error}");
    }
    let mut bytes = sample_bytes();
    *bytes.last_mut().unwrap() ^= 1;
    let error = read_bytes(&bytes).unwrap_err();
    assert!(error.to_string().contains("damaged client section"), "{error}");
}

/// Rewrites the header's checksum after a change: a hostile file, not a damaged one.
fn forge(bytes: &mut [u8]) {
    let (_, table) = frame::FORGE;
    let hash = *blake3::hash(&bytes[..table]).as_bytes();
    bytes[table..table + 32].copy_from_slice(&hash);
}

#[test]
fn forged_tables_are_refused() {
    let entry = |section: usize| 16 + 48 * section;
    let forged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sample_bytes();
        change(&mut bytes);
        forge(&mut bytes);
        match from_bytes(&bytes) {
            Err(Fault::Frame(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(forged(&|b| b[12] = 4), FrameError::Table);
    assert_eq!(forged(&|b| b[entry(1)] = 1), FrameError::Table);
    assert_eq!(forged(&|b| b[entry(2) + 4] = 1), FrameError::Table);
    for (section, which) in Section::ALL.into_iter().zip(0usize..) {
        let length_at = |length: u64| {
            move |b: &mut Vec<u8>| {
                b[entry(which) + 8..entry(which) + 16].copy_from_slice(&length.to_le_bytes())
            }
        };
        let limit = section.limit();
        for length in [limit + 1, u64::MAX] {
            assert_eq!(forged(&length_at(length)), FrameError::TooLong { section, length, limit });
        }
        assert!(matches!(forged(&length_at(limit)), FrameError::Truncated { .. }));
        assert!(matches!(forged(&length_at(0)), FrameError::Trailing { .. }));
    }
}

/// A file with this program section, constants and client section, checksums right.
fn join_raw(program: &proto::Program, constants: Vec<u8>, client: Vec<u8>) -> Vec<u8> {
    frame::join(&[program.encode_to_vec(), constants, client]).unwrap()
}

/// What decoding says of a changed program section.
fn decoded(change: impl FnOnce(&mut proto::Program)) -> DecodeError {
    let (mut message, constants) = encode::program(&samples::program()).unwrap();
    change(&mut message);
    let bytes = join_raw(&message, constants, client::encode(&client()));
    match from_bytes(&bytes) {
        Err(Fault::Decode(Section::Program, error)) => error,
        other => panic!("{other:?}"),
    }
}

fn missing(part: &'static str, index: usize, field: &'static str) -> DecodeError {
    DecodeError::Missing { part, index, field }
}

#[test]
fn hostile_program_messages_are_refused() {
    assert_eq!(decoded(|p| p.params = None), missing("program", 0, "parameters"));
    assert_eq!(decoded(|p| p.consts[1].element = 9), missing("constant", 1, "element type"));
    assert!(matches!(decoded(|p| p.consts[0].shape = vec![u64::MAX, 2]), DecodeError::Range { .. }));
    assert!(matches!(decoded(|p| p.consts[0].shape = vec![1 << 39]), DecodeError::Length { .. }));
    assert!(matches!(decoded(|p| p.consts[0].shape = vec![1; 9]), DecodeError::Range { field: "axes", .. }));
    assert!(matches!(decoded(|p| drop(p.consts.pop())), DecodeError::Length { .. }));
    assert_eq!(decoded(|p| p.layouts[1].c[0].place = None), missing("layout", 1, "digit place"));
    assert!(matches!(decoded(|p| p.layouts[0].period = 12), DecodeError::Range { field: "period", .. }));
    assert_eq!(decoded(|p| p.maps[0].pad = vec![1; 3]), missing("linear map", 0, "padding"));
    assert_eq!(decoded(|p| p.inputs[0].scale = None), missing("input", 0, "scale"));
    let scale = |two, primes: &[(u32, i32)]| {
        let primes = primes.iter().map(|&(index, exponent)| proto::PrimePower { index, exponent }).collect();
        Some(proto::Scale { two, primes })
    };
    for wrong in [
        scale(i32::MIN, &[]),
        scale(1, &[(0, i32::MAX)]),
        scale(1, &[(0, 0)]),
        scale(1, &[(2, 1), (1, 1)]),
        scale(1, &[(2, 1), (2, 1)]),
    ] {
        assert!(matches!(decoded(|p| p.outputs[0].scale = wrong), DecodeError::Range { .. }));
    }
    assert_eq!(decoded(|p| p.insts[4].op = None), missing("instruction", 4, "operation"));
    let rotate = proto::inst::Op::Rotate(proto::inst::Rotate { dst: 20, src: 0, steps: 4096 });
    assert!(matches!(
        decoded(|p| p.insts[1].op = Some(rotate)),
        DecodeError::Range { field: "rotation", .. }
    ));
    let keys = |elements: &[u32]| -> Vec<proto::GaloisKey> {
        elements.iter().map(|&element| proto::GaloisKey { element, level: 0 }).collect()
    };
    for wrong in [&[4u32][..], &[5, 5], &[25, 5]] {
        let error = decoded(|p| p.manifest.as_mut().unwrap().galois = keys(wrong));
        assert_eq!(error, DecodeError::KeyOrder(*wrong.last().unwrap()));
    }
}

/// A program that decodes but breaks the verifier's rules.
fn invalid(change: impl FnOnce(&mut proto::Program)) -> String {
    let (mut message, constants) = encode::program(&samples::program()).unwrap();
    change(&mut message);
    let bytes = join_raw(&message, constants, client::encode(&client()));
    let error = read_bytes(&bytes).unwrap_err();
    assert!(matches!(error, ContainerError::Invalid { .. }), "{error}");
    error.to_string()
}

#[test]
fn hostile_programs_are_refused_by_the_verifier() {
    let insecure = |p: &mut proto::Program| {
        // The same primes for a ring half as large.
        p.params.as_mut().unwrap().log_n = 12;
    };
    assert!(invalid(insecure).contains("parameters"));
    assert!(invalid(|p| p.params.as_mut().unwrap().log_n = 40).contains("parameters"));
    assert!(invalid(|p| p.params.as_mut().unwrap().log_n = u32::MAX).contains("parameters"));
    assert!(invalid(|p| p.params = Some(proto::Params::default())).contains("parameters"));
    assert!(invalid(|p| p.layouts[0].ciphertexts = u32::MAX).contains("ciphertexts"));
    assert!(invalid(|p| p.layouts[0].channels = u32::MAX).contains("l0"));
    assert!(invalid(|p| p.maps[0].kernel = vec![u32::MAX; 2]).contains("m0"));
    assert!(invalid(|p| p.maps[0].stride = vec![0; 2]).contains("m0"));
    assert!(invalid(|p| p.insts.truncate(3)).contains("instruction"));
    assert!(invalid(|p| p.calls[0].terms[0].operand = u32::MAX).contains("k0"));
    assert!(invalid(|p| p.probes[0].after = u32::MAX).contains("probe 0"));
}

#[test]
fn hostile_client_sections_are_refused() {
    let refuse = |change: &dyn Fn(&mut proto::Client)| {
        let mut message = proto::Client::decode(&client::encode(&client())[..]).unwrap();
        change(&mut message);
        let (program, constants) = encode::program(&samples::program()).unwrap();
        let bytes = join_raw(&program, constants, message.encode_to_vec());
        match from_bytes(&bytes) {
            Err(Fault::Decode(Section::Client, error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refuse(&|c| c.model_hash.clear()), DecodeError::Length { expected: 32, found: 0, .. }));
    assert!(matches!(refuse(&|c| c.image.as_mut().unwrap().format = 7), DecodeError::Missing { .. }));
    assert!(matches!(refuse(&|c| c.image.as_mut().unwrap().order = 0), DecodeError::Missing { .. }));
    assert!(matches!(refuse(&|c| c.image.as_mut().unwrap().std[1] = 0.0), DecodeError::Missing { .. }));
    assert!(matches!(refuse(&|c| c.image.as_mut().unwrap().mean.clear()), DecodeError::Missing { .. }));
    assert!(matches!(refuse(&|c| c.image.as_mut().unwrap().width = 0), DecodeError::Range { .. }));
    assert!(matches!(refuse(&|c| c.sample.as_mut().unwrap().shape = vec![3]), DecodeError::Length { .. }));
    assert!(matches!(refuse(&|c| c.ranges[0].low.clear()), DecodeError::Missing { part: "range", .. }));
    assert!(matches!(refuse(&|c| c.input_shape = vec![u64::MAX]), DecodeError::Range { .. }));
}

#[test]
fn sections_that_are_no_protobuf_are_refused() {
    let bytes = frame::join(&[vec![0xff; 40], Vec::new(), Vec::new()]).unwrap();
    assert!(matches!(from_bytes(&bytes), Err(Fault::Decode(Section::Program, DecodeError::Protobuf(_)))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The schema carries every program whose primes are exact.
    #[test]
    fn programs_survive_the_schema(mut program in any_program()) {
        for spec in program.params.q.iter_mut().chain(&mut program.params.p) {
            if let crate::PrimeSpec::Bits(bits) = *spec {
                *spec = crate::PrimeSpec::Exact(u64::from(bits));
            }
        }
        let (message, constants) = encode::program(&program).unwrap();
        let found = decode::program(&message.encode_to_vec(), &constants);
        prop_assert_eq!(found, Ok(program));
    }

    /// A program section of arbitrary changed bytes, checksums right, is decoded or refused without panic.
    #[test]
    fn forged_program_bytes_do_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (message, constants) = encode::program(&samples::program()).unwrap();
        let mut section = message.encode_to_vec();
        let at = at.index(section.len());
        section[at] = byte;
        let bytes = frame::join(&[section, constants, client::encode(&client())]).unwrap();
        if let Ok(artefact) = from_bytes(&bytes) {
            let _ = crate::program::verify(&artefact.program);
        }
    }
}
