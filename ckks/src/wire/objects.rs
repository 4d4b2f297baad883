//! The payloads.

use zeroize::{Zeroize, Zeroizing};

use super::io::{Input, Output};
use super::{Kind, WireError};
use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::encrypt::SeededCiphertext;
use crate::keys::{EvalKeys, PublicKey, SecretKey, SwitchingKey};
use crate::params::Params;
use crate::ring::poly::{Basis, Ntt, RnsPoly};
use crate::ring::sampler::PublicSeed;
use crate::units::{GaloisElement, Level, Scale};

const SEED_BYTES: u64 = 32;
const WORD_BYTES: u64 = size_of::<u64>() as u64;

/// Largest number of prime factors in a scale.
const MAX_SCALE_FACTORS: u32 = crate::params::MAX_PRIMES as u32;

/// Largest exponent in a scale.
const MAX_SCALE_EXPONENT: i32 = 1 << 16;

/// Content of an object, without the frame.
pub trait Payload: Sized {
    /// The kind byte.
    const KIND: Kind;

    /// The largest payload that the parameters allow.
    fn max_payload(params: &Params) -> u64;

    /// The exact length of this payload.
    fn payload_bytes(&self) -> u64;

    /// Writes the payload.
    ///
    /// # Errors
    /// [`WireError::Io`] if the writer fails.
    fn write_payload(&self, output: &mut Output<'_>) -> Result<(), WireError>;

    /// Reads and validates the payload.
    ///
    /// # Errors
    /// [`WireError`] names what is wrong.
    fn read_payload(ctx: &Context, input: &mut Input<'_>) -> Result<Self, WireError>;
}

fn poly_bytes(poly: &RnsPoly<Ntt>) -> u64 {
    size_of_val(poly.words()) as u64
}

fn scale_bytes(factors: u64) -> u64 {
    4 + 4 + 8 * factors
}

fn write_scale(output: &mut Output<'_>, scale: &Scale) -> Result<(), WireError> {
    output.bytes(&scale.exponent_of_two().to_le_bytes())?;
    output.u32(scale.prime_exponents().len() as u32)?;
    for &(index, exponent) in scale.prime_exponents() {
        output.u32(index)?;
        output.bytes(&exponent.to_le_bytes())?;
    }
    Ok(())
}

fn read_exponent(input: &mut Input<'_>) -> Result<i32, WireError> {
    let exponent = i32::from_le_bytes(input.array()?);
    if exponent.unsigned_abs() <= MAX_SCALE_EXPONENT as u32 {
        return Ok(exponent);
    }
    let found = u64::from(exponent.unsigned_abs());
    Err(WireError::Field {
        field: "an exponent of the scale",
        found,
        expected: "its magnitude is at most 65536",
    })
}

fn read_scale(ctx: &Context, input: &mut Input<'_>) -> Result<Scale, WireError> {
    let two = read_exponent(input)?;
    let count = input.u32()?;
    if count > MAX_SCALE_FACTORS {
        let (field, expected) =
            ("the number of primes in the scale", "it is at most the length of the chain");
        return Err(WireError::Field { field, found: u64::from(count), expected });
    }
    let mut factors = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let index = input.u32()?;
        let ascending = factors.last().is_none_or(|&(previous, _)| previous < index);
        if !ascending || index as usize >= ctx.params().q().len() {
            let (field, expected) = ("a prime index of the scale", "indices ascend and belong to the chain");
            return Err(WireError::Field { field, found: u64::from(index), expected });
        }
        factors.push((index, read_exponent(input)?));
    }
    if factors.iter().any(|&(_, exponent)| exponent == 0) {
        let (field, expected) = ("an exponent of the scale", "zero exponents are left out");
        return Err(WireError::Field { field, found: 0, expected });
    }
    Ok(Scale::from_parts(two, &factors))
}

impl Payload for Ciphertext {
    const KIND: Kind = Kind::Ciphertext;

    fn max_payload(params: &Params) -> u64 {
        4 + scale_bytes(u64::from(MAX_SCALE_FACTORS)) + params.ciphertext_bytes(params.max_level())
    }

    fn payload_bytes(&self) -> u64 {
        let factors = self.scale.prime_exponents().len() as u64;
        4 + scale_bytes(factors) + poly_bytes(&self.c0) + poly_bytes(&self.c1)
    }

    fn write_payload(&self, output: &mut Output<'_>) -> Result<(), WireError> {
        output.u32(self.level.0)?;
        write_scale(output, &self.scale)?;
        output.poly(&self.c0)?;
        output.poly(&self.c1)
    }

    fn read_payload(ctx: &Context, input: &mut Input<'_>) -> Result<Ciphertext, WireError> {
        let level = input.level(ctx)?;
        let scale = read_scale(ctx, input)?;
        let c0 = input.poly(ctx, "c0", Basis::Q(level))?;
        let c1 = input.poly(ctx, "c1", Basis::Q(level))?;
        Ok(Ciphertext { c0, c1, level, scale })
    }
}

impl Payload for SeededCiphertext {
    const KIND: Kind = Kind::SeededCiphertext;

    fn max_payload(params: &Params) -> u64 {
        SEED_BYTES + Ciphertext::max_payload(params)
    }

    fn payload_bytes(&self) -> u64 {
        let factors = self.scale.prime_exponents().len() as u64;
        4 + scale_bytes(factors) + SEED_BYTES + poly_bytes(&self.c0)
    }

    fn write_payload(&self, output: &mut Output<'_>) -> Result<(), WireError> {
        output.u32(self.level.0)?;
        write_scale(output, &self.scale)?;
        output.bytes(&self.seed.0)?;
        output.poly(&self.c0)
    }

    fn read_payload(ctx: &Context, input: &mut Input<'_>) -> Result<SeededCiphertext, WireError> {
        let level = input.level(ctx)?;
        let scale = read_scale(ctx, input)?;
        let seed = PublicSeed(input.array()?);
        let c0 = input.poly(ctx, "c0", Basis::Q(level))?;
        Ok(SeededCiphertext { c0, seed, level, scale })
    }
}

impl Payload for PublicKey {
    const KIND: Kind = Kind::PublicKey;

    fn max_payload(params: &Params) -> u64 {
        SEED_BYTES + params.ciphertext_bytes(params.max_level()) / 2
    }

    fn payload_bytes(&self) -> u64 {
        SEED_BYTES + poly_bytes(&self.b)
    }

    fn write_payload(&self, output: &mut Output<'_>) -> Result<(), WireError> {
        output.bytes(&self.seed.0)?;
        output.poly(&self.b)
    }

    fn read_payload(ctx: &Context, input: &mut Input<'_>) -> Result<PublicKey, WireError> {
        let seed = PublicSeed(input.array()?);
        let b = input.poly(ctx, "public key", Basis::Q(ctx.params().max_level()))?;
        Ok(PublicKey::from_seeded(ctx, seed, b))
    }
}

impl Payload for SecretKey {
    const KIND: Kind = Kind::SecretKey;

    fn max_payload(params: &Params) -> u64 {
        params.n() as u64
    }

    fn payload_bytes(&self) -> u64 {
        self.coefficients().len() as u64
    }

    fn write_payload(&self, output: &mut Output<'_>) -> Result<(), WireError> {
        let bytes = Zeroizing::new(self.coefficients().iter().map(|&c| (c + 1) as u8).collect::<Vec<u8>>());
        output.bytes(&bytes)
    }

    fn read_payload(ctx: &Context, input: &mut Input<'_>) -> Result<SecretKey, WireError> {
        let mut bytes = Zeroizing::new(vec![0; ctx.n()]);
        input.fill(&mut bytes)?;
        if let Some(&found) = bytes.iter().find(|&&byte| byte > 2) {
            let (field, expected) =
                ("a coefficient of the secret key", "it is 0, 1 or 2, standing for -1, 0 or 1");
            return Err(WireError::Field { field, found: u64::from(found), expected });
        }
        let coefficients = Zeroizing::new(bytes.iter().map(|&byte| i64::from(byte) - 1).collect());
        bytes.zeroize();
        Ok(SecretKey::from_coefficients(ctx, coefficients))
    }
}

impl Payload for SwitchingKey {
    const KIND: Kind = Kind::SwitchingKey;

    fn max_payload(params: &Params) -> u64 {
        4 + 4 + SEED_BYTES + params.seeded_key_bytes(params.max_level())
    }

    fn payload_bytes(&self) -> u64 {
        4 + 4 + SEED_BYTES + self.digits.iter().map(|digit| poly_bytes(&digit.b)).sum::<u64>()
    }

    fn write_payload(&self, output: &mut Output<'_>) -> Result<(), WireError> {
        output.u32(self.element.map_or(0, GaloisElement::get))?;
        output.u32(self.level.0)?;
        output.bytes(&self.seed.0)?;
        self.digits.iter().try_for_each(|digit| output.poly(&digit.b))
    }

    fn read_payload(ctx: &Context, input: &mut Input<'_>) -> Result<SwitchingKey, WireError> {
        let element = read_element(ctx, input)?;
        let level = input.level(ctx)?;
        let seed = PublicSeed(input.array()?);
        let digits = 0..ctx.params().digits_at(level);
        let b =
            digits.map(|_| input.poly(ctx, "switching key", Basis::Qp(level))).collect::<Result<_, _>>()?;
        Ok(SwitchingKey::from_seeded(ctx, element, level, seed, b))
    }
}

/// 0 stands for relinearisation; everything else must be an automorphism of the ring.
fn read_element(ctx: &Context, input: &mut Input<'_>) -> Result<Option<GaloisElement>, WireError> {
    let found = input.u32()?;
    if found == 0 {
        return Ok(None);
    }
    match GaloisElement::new(found) {
        Ok(element) if u64::from(found) < 2 * ctx.n() as u64 => Ok(Some(element)),
        _ => {
            let (field, expected) = ("a Galois element", "it is odd and below 2N, or 0 for relinearisation");
            Err(WireError::Field { field, found: u64::from(found), expected })
        }
    }
}

impl Payload for EvalKeys {
    const KIND: Kind = Kind::EvalKeys;

    fn max_payload(params: &Params) -> u64 {
        // One relinearisation key and one key for each of the N automorphisms.
        4 + (params.n() as u64 + 1).saturating_mul(SwitchingKey::max_payload(params))
    }

    fn payload_bytes(&self) -> u64 {
        4 + self.iter().map(Payload::payload_bytes).sum::<u64>()
    }

    fn write_payload(&self, output: &mut Output<'_>) -> Result<(), WireError> {
        output.u32(self.len() as u32)?;
        self.iter().try_for_each(|key| key.write_payload(output))
    }

    fn read_payload(ctx: &Context, input: &mut Input<'_>) -> Result<EvalKeys, WireError> {
        let count = input.u32()?;
        let mut keys = EvalKeys::new();
        let mut last: Option<Option<GaloisElement>> = None;
        for _ in 0..count {
            let key = SwitchingKey::read_payload(ctx, input)?;
            // Relinearisation, `None`, sorts first.
            if last.is_some_and(|last| last >= key.element()) {
                let found = u64::from(key.element().map_or(0, GaloisElement::get));
                let (field, expected) =
                    ("a Galois element", "the keys of a set ascend by element, each once");
                return Err(WireError::Field { field, found, expected });
            }
            last = Some(key.element());
            keys.insert(key);
        }
        Ok(keys)
    }
}

/// Bytes of a seeded ciphertext on the wire, to announce upload sizes before anything is encrypted.
pub fn seeded_ciphertext_bytes(params: &Params, level: Level) -> u64 {
    let frame = super::HEADER_BYTES + super::CHECKSUM_BYTES;
    frame + 4 + scale_bytes(0) + SEED_BYTES + level.limbs() as u64 * params.n() as u64 * WORD_BYTES
}
