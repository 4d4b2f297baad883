use super::*;
use crate::ciphertext::Ciphertext;
use crate::encrypt::{SeededCiphertext, encrypt_secret};
use crate::keys::{EvalKeys, KeyGenerator, PublicKey, SecretKey, SwitchingKey};
use crate::params::PrimeSpec;
use crate::test_support::{Fixture, literal, random_slots};
use crate::units::{GaloisElement, Scale, Slots};

/// A ring so small that every byte of every object can be damaged in turn.
fn tiny() -> &'static Fixture {
    static TINY: std::sync::OnceLock<Fixture> = std::sync::OnceLock::new();
    TINY.get_or_init(|| {
        let params = literal(9, &[45, 30, 31], &[40, 41]).check_insecure_for_tests().unwrap();
        Fixture::new(&params, 30)
    })
}

fn seeded(f: &Fixture) -> SeededCiphertext {
    let scale = Scale::pow2(60).div(&Scale::prime(2));
    let plaintext = f.encoder.encode(&random_slots(8, 1), Slots::new(8).unwrap(), &scale).unwrap();
    encrypt_secret(&f.ctx, &f.sk, &plaintext, Level(1)).unwrap()
}

fn galois(f: &Fixture) -> SwitchingKey {
    f.generator.galois(&f.sk, GaloisElement::new(5).unwrap(), Level(1)).unwrap()
}

fn key_set(f: &Fixture) -> EvalKeys {
    [f.generator.relin(&f.sk, Level(0)).unwrap(), galois(f)].into_iter().collect()
}

/// Replaces the checksum, so that what lies behind it is reached.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - CHECKSUM_BYTES as usize;
    let checksum = *blake3::hash(&bytes[..end]).as_bytes();
    bytes[end..].copy_from_slice(&checksum);
    bytes
}

fn with_u64(mut bytes: Vec<u8>, at: usize, value: u64) -> Vec<u8> {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    resealed(bytes)
}

fn with_u32(mut bytes: Vec<u8>, at: usize, value: u32) -> Vec<u8> {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    resealed(bytes)
}

const PAYLOAD: usize = HEADER_BYTES as usize;
const LENGTH: usize = PAYLOAD - 8;

/// What every format must refuse, whatever it holds.
fn refuses_damage<T: Wire>(f: &Fixture, bytes: &[u8]) {
    let kind = T::KIND;
    let read = |bytes: &[u8]| T::from_bytes(&f.ctx, bytes).map(drop);
    assert!(read(bytes).is_ok());
    for cut in [0, 1, 4, 20, PAYLOAD - 1, PAYLOAD, PAYLOAD + 5, bytes.len() / 2, bytes.len() - 1] {
        assert!(matches!(read(&bytes[..cut]), Err(WireError::Truncated { .. })), "{kind} cut at {cut}");
    }
    let step = (bytes.len() / 200).max(1);
    for position in (0..bytes.len()).filter(|position| *position < PAYLOAD + 48 || position % step == 0) {
        let mut damaged = bytes.to_vec();
        damaged[position] ^= 0x10;
        assert!(read(&damaged).is_err(), "{kind} flipped at {position}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(matches!(read(&longer), Err(WireError::Trailing { bytes: 1, .. })));
    assert!(matches!(read(&with_u64(bytes.to_vec(), LENGTH, u64::MAX)), Err(WireError::TooLong { .. })));
    let mut version = bytes.to_vec();
    version[5] = 9;
    assert!(matches!(read(&version), Err(WireError::Version { found: 9, .. })));
    let mut magic = bytes.to_vec();
    magic[0] = b'Q';
    assert!(matches!(read(&magic), Err(WireError::Magic { .. })));
    let other = Kind::ALL.into_iter().find(|&other| other != kind).unwrap();
    let mut wrong = bytes.to_vec();
    wrong[4] = other as u8;
    assert!(matches!(read(&wrong), Err(WireError::WrongKind { .. })));
    wrong[4] = 77;
    assert!(matches!(read(&wrong), Err(WireError::UnknownKind { byte: 77 })));
    let foreign = literal(9, &[45, 30], &[40, 41]).check_insecure_for_tests().unwrap();
    let foreign = Context::new(&foreign).unwrap();
    assert!(matches!(T::from_bytes(&foreign, bytes), Err(WireError::WrongParameters { .. })));
}

/// A claimed payload one byte longer than the content.
fn refuses_slack<T: Wire>(f: &Fixture, bytes: &[u8]) {
    let mut slack = bytes.to_vec();
    let end = slack.len() - CHECKSUM_BYTES as usize;
    slack.insert(end, 0);
    let slack = with_u64(slack, LENGTH, (end - PAYLOAD + 1) as u64);
    let found = T::from_bytes(&f.ctx, &slack).map(drop);
    assert!(matches!(found, Err(WireError::Trailing { .. } | WireError::TooLong { .. })), "{found:?}");
}

fn check_all<T: Wire>(f: &Fixture, object: &T) -> T {
    let bytes = object.to_bytes(&f.ctx);
    assert_eq!(bytes.len() as u64, object.wire_bytes());
    refuses_damage::<T>(f, &bytes);
    refuses_slack::<T>(f, &bytes);
    let mut two = [bytes.clone(), bytes.clone()].concat();
    two.extend_from_slice(b"rest");
    let mut reader = &two[..];
    T::read_from(&f.ctx, &mut reader).unwrap();
    T::read_from(&f.ctx, &mut reader).unwrap();
    assert_eq!(reader, b"rest");
    T::from_bytes(&f.ctx, &bytes).unwrap()
}

#[test]
fn ciphertexts_round_trip() {
    let f = tiny();
    let ct = seeded(f);
    assert_eq!(check_all(f, &ct), ct);
    let full = ct.expand(&f.ctx).unwrap();
    assert_eq!(check_all::<Ciphertext>(f, &full), full);
    assert!(ct.to_bytes(&f.ctx).len() < full.to_bytes(&f.ctx).len() * 51 / 100);
    let plain = f.encoder.encode_constant(1.0, &f.scale).unwrap();
    let ct = encrypt_secret(&f.ctx, &f.sk, &plain, Level(2)).unwrap();
    assert_eq!(ct.wire_bytes(), seeded_ciphertext_bytes(f.ctx.params(), Level(2)));
}

#[test]
fn keys_round_trip() {
    let f = tiny();
    let sk = check_all::<SecretKey>(f, &f.sk);
    assert_eq!(sk.coefficients(), f.sk.coefficients());
    let key = galois(f);
    assert_eq!(check_all(f, &key), key);
    let keys = key_set(f);
    assert_eq!(check_all(f, &keys), keys);
    let pk = f.generator.public(&f.sk).unwrap();
    let again = check_all::<PublicKey>(f, &pk);
    assert!(again.a == pk.a && again.b == pk.b);
}

#[test]
fn a_residue_at_its_prime_is_refused() {
    let f = tiny();
    let q = f.ctx.params().q();
    let bytes = seeded(f).to_bytes(&f.ctx);
    let polynomial = bytes.len() - CHECKSUM_BYTES as usize - 2 * 512 * 8;
    let at = |limb: usize, index: usize| polynomial + (limb * 512 + index) * 8;
    for (limb, index) in [(0, 0), (0, 511), (1, 0), (1, 511)] {
        let bad = with_u64(bytes.clone(), at(limb, index), q[limb]);
        let error = SeededCiphertext::from_bytes(&f.ctx, &bad).unwrap_err();
        let expected = (limb, index, q[limb]);
        assert!(
            matches!(error, WireError::Residue { limb, index, value, .. } if (limb, index, value) == expected),
            "{error}"
        );
    }
    let good = with_u64(bytes, at(1, 3), q[1] - 1);
    assert!(SeededCiphertext::from_bytes(&f.ctx, &good).is_ok());
}

#[test]
fn fields_out_of_range_are_refused() {
    let f = tiny();
    let bytes = seeded(f).to_bytes(&f.ctx);
    let read = |bytes: Vec<u8>| SeededCiphertext::from_bytes(&f.ctx, &bytes).map(drop);
    assert!(matches!(
        read(with_u32(bytes.clone(), PAYLOAD, 3)),
        Err(WireError::Level { level: Level(3), .. })
    ));
    assert!(matches!(read(with_u32(bytes.clone(), PAYLOAD, u32::MAX)), Err(WireError::Level { .. })));
    assert!(matches!(read(with_u32(bytes.clone(), PAYLOAD, 2)), Err(WireError::Truncated { .. })));
    assert!(matches!(read(with_u32(bytes.clone(), PAYLOAD + 4, 1 << 30)), Err(WireError::Field { .. })));
    assert!(matches!(read(with_u32(bytes.clone(), PAYLOAD + 8, u32::MAX)), Err(WireError::Field { .. })));
    assert!(matches!(read(with_u32(bytes.clone(), PAYLOAD + 12, 3)), Err(WireError::Field { .. })));
    assert!(matches!(read(with_u32(bytes, PAYLOAD + 16, 0)), Err(WireError::Field { .. })));
    let key = galois(f).to_bytes(&f.ctx);
    for element in [4, 1024 + 1, u32::MAX] {
        let bad = SwitchingKey::from_bytes(&f.ctx, &with_u32(key.clone(), PAYLOAD, element));
        assert!(matches!(bad, Err(WireError::Field { .. })), "{element}");
    }
    let mut secret = f.sk.to_bytes(&f.ctx);
    secret[PAYLOAD] = 3;
    assert!(matches!(SecretKey::from_bytes(&f.ctx, &resealed(secret)), Err(WireError::Field { .. })));
}

#[test]
fn key_sets_must_be_complete_sorted_and_distinct() {
    let f = tiny();
    let keys = key_set(f);
    let bytes = keys.to_bytes(&f.ctx);
    let more = EvalKeys::from_bytes(&f.ctx, &with_u32(bytes.clone(), PAYLOAD, u32::MAX)).map(drop);
    assert!(matches!(more, Err(WireError::Truncated { .. })), "{more:?}");
    let fewer = EvalKeys::from_bytes(&f.ctx, &with_u32(bytes.clone(), PAYLOAD, 1)).map(drop);
    assert!(matches!(fewer, Err(WireError::Trailing { .. })), "{fewer:?}");
    let twice = EvalKeys::from_bytes(&f.ctx, &with_u32(bytes, PAYLOAD + 4, 5)).map(drop);
    assert!(matches!(twice, Err(WireError::Field { .. })), "{twice:?}");
    assert_eq!(check_all(f, &EvalKeys::new()), EvalKeys::new());
}

#[test]
fn writers_that_fail_are_reported() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("disk full"))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let f = tiny();
    let error = seeded(f).write_to(&f.ctx, &mut Full).unwrap_err();
    assert!(error.to_string().contains("disk full"));
}

#[test]
fn the_fingerprint_separates_chains() {
    let f = tiny();
    let mut literal = f.ctx.params().to_literal();
    literal.q.swap(1, 2);
    let swapped = Context::new(&literal.clone().check_insecure_for_tests().unwrap()).unwrap();
    let bytes = f.sk.to_bytes(&f.ctx);
    assert!(matches!(SecretKey::from_bytes(&swapped, &bytes), Err(WireError::WrongParameters { .. })));
    assert!(literal.q.iter().all(|spec| matches!(spec, PrimeSpec::Exact(_))));
}

/// Freezes the formats, the derivation of seeds, the samplers and the order of NTT values (the root that the transform
/// picks) of version 1: if this fails, old keys and ciphertexts cannot be read, and the version must change.
#[test]
fn objects_of_version_1_are_reproducible() {
    let f = tiny();
    let generator = KeyGenerator::insecure_deterministic_for_tests(&f.ctx, [1; 32]);
    let sk = generator.secret();
    let pk = generator.public(&sk).unwrap();
    let key = generator.galois(&sk, GaloisElement::new(5).unwrap(), Level(2)).unwrap();
    let digest = |bytes: Vec<u8>| blake3::hash(&bytes).to_hex()[..16].to_owned();
    let found = [digest(sk.to_bytes(&f.ctx)), digest(pk.to_bytes(&f.ctx)), digest(key.to_bytes(&f.ctx))];
    assert_eq!(found, ["231c2cb242dd2d8c", "b9ebb6f5fc6df907", "e9202c8de202f928"]);
    let uniform: Vec<u8> = key.digits()[1].a().words().iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(digest(uniform), "3ed2ba70fa3aedec");
}
