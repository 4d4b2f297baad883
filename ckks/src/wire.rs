//! Wire formats of keys and ciphertexts.
//!
//! Every object is `"PGRN"`, kind (1 byte), version (2), parameter fingerprint (32), payload length (8), payload, BLAKE3 of
//! all that precedes (32); integers little-endian. Input is hostile until checked: the header before the payload, the
//! claimed length against what the parameters allow, every residue against its prime, nothing allocated beyond what
//! the parameters imply, and no object returned before its checksum agrees.
//!
//! Polynomials are written as NTT values, seeds instead of uniform parts: a version fixes the order of the values and
//! the derivation of streams, too. The checksum finds damage, not forgery: ciphertexts are malleable by design.

mod io;
mod objects;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{Read, Write};

use crate::context::Context;
use crate::units::Level;
use io::{Input, Output};
pub use objects::seeded_ciphertext_bytes;

const MAGIC: [u8; 4] = *b"PGRN";

/// The version of every format written here.
pub const VERSION: u16 = 1;

/// Bytes before the payload.
pub const HEADER_BYTES: u64 = 4 + 1 + 2 + 32 + 8;

/// Bytes after the payload.
pub const CHECKSUM_BYTES: u64 = 32;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`SecretKey`](crate::keys::SecretKey).
    SecretKey = 1,
    /// [`PublicKey`](crate::keys::PublicKey).
    PublicKey = 2,
    /// [`SwitchingKey`](crate::keys::SwitchingKey).
    SwitchingKey = 3,
    /// [`EvalKeys`](crate::keys::EvalKeys).
    EvalKeys = 4,
    /// [`SeededCiphertext`](crate::encrypt::SeededCiphertext).
    SeededCiphertext = 5,
    /// [`Ciphertext`](crate::ciphertext::Ciphertext).
    Ciphertext = 6,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::SecretKey,
        Kind::PublicKey,
        Kind::SwitchingKey,
        Kind::EvalKeys,
        Kind::SeededCiphertext,
        Kind::Ciphertext,
    ];

    fn from_byte(byte: u8) -> Result<Kind, WireError> {
        let kind = Kind::ALL.into_iter().find(|&kind| kind as u8 == byte);
        kind.ok_or(WireError::UnknownKind { byte })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::SecretKey => "secret key",
            Kind::PublicKey => "public key",
            Kind::SwitchingKey => "switching key",
            Kind::EvalKeys => "evaluation keys",
            Kind::SeededCiphertext => "seeded ciphertext",
            Kind::Ciphertext => "ciphertext",
        })
    }
}

/// Why an object was refused or could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The data end before the object does.
    #[error("the data end after {available} bytes where {needed} more are needed; the object is truncated")]
    Truncated {
        /// Bytes read so far.
        available: u64,
        /// Bytes needed next.
        needed: u64,
    },
    /// The first bytes are no object of this library.
    #[error(
        "the data start with {found:02x?} instead of \"PGRN\"; this is no key or ciphertext of this library"
    )]
    Magic {
        /// The bytes found.
        found: [u8; 4],
    },
    /// The format version is not known.
    #[error("{kind} of format version {found}; this build reads version {VERSION}")]
    Version {
        /// The object.
        kind: Kind,
        /// The version found.
        found: u16,
    },
    /// The kind byte is not known.
    #[error("kind {byte} is unknown")]
    UnknownKind {
        /// The byte.
        byte: u8,
    },
    /// Another kind of object.
    #[error("found a {found} where a {expected} is needed")]
    WrongKind {
        /// The kind asked for.
        expected: Kind,
        /// The kind in the header.
        found: Kind,
    },
    /// Made for other parameters.
    #[error("the {kind} was made for other parameters (fingerprint {found}.., here {expected}..)")]
    WrongParameters {
        /// The object.
        kind: Kind,
        /// Start of the fingerprint in the header.
        found: String,
        /// Start of the fingerprint of the parameters in use.
        expected: String,
    },
    /// The claimed payload is larger than these parameters allow.
    #[error("the {kind} claims {claimed} bytes; with these parameters it has at most {max}")]
    TooLong {
        /// The object.
        kind: Kind,
        /// The claimed length.
        claimed: u64,
        /// The largest possible length.
        max: u64,
    },
    /// The payload is longer than its content.
    #[error("the {kind} has {bytes} bytes more than its content")]
    Trailing {
        /// The object.
        kind: Kind,
        /// Number of bytes too many.
        bytes: u64,
    },
    /// The checksum does not agree.
    #[error("the checksum of the {kind} does not agree; the data were damaged")]
    Checksum {
        /// The object.
        kind: Kind,
    },
    /// A residue is not below its prime.
    #[error("{what}: word {index} of limb {limb} is {value}, not below its prime {modulus}")]
    Residue {
        /// The polynomial.
        what: &'static str,
        /// The limb.
        limb: usize,
        /// Position in the limb.
        index: usize,
        /// The word found.
        value: u64,
        /// The prime.
        modulus: u64,
    },
    /// A level above the chain.
    #[error("level {level} is above the highest level {max} of these parameters")]
    Level {
        /// The level found.
        level: Level,
        /// The highest level.
        max: Level,
    },
    /// A field has a value that it cannot have.
    #[error("{field} is {found}: {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// The value found.
        found: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// Reading or writing failed.
    #[error("input or output failed: {0}")]
    Io(#[from] std::io::Error),
}

/// An object with a wire format.
///
/// ```
/// # use peregrine_ckks::{context::Context, keys::KeyGenerator, params::{ParamsLiteral, PrimeSpec}, wire::Wire, keys::SecretKey};
/// # let literal = ParamsLiteral { log_n: 12, q: vec![PrimeSpec::Bits(40)], p: vec![PrimeSpec::Bits(41)] };
/// let ctx = Context::new(&literal.check()?)?;
/// let bytes = KeyGenerator::new(&ctx).secret().to_bytes(&ctx);
/// assert!(SecretKey::from_bytes(&ctx, &bytes).is_ok());
/// assert!(SecretKey::from_bytes(&ctx, &bytes[1..]).is_err());
/// # Ok::<(), peregrine_ckks::error::Error>(())
/// ```
pub trait Wire: Sized + objects::Payload {
    /// Reads one object and nothing beyond it.
    ///
    /// # Errors
    /// [`WireError`] names what is wrong.
    fn read_from(ctx: &Context, reader: &mut dyn Read) -> Result<Self, WireError> {
        let mut input = Input::open(ctx, reader, Self::KIND, Self::max_payload(ctx.params()))?;
        let object = Self::read_payload(ctx, &mut input)?;
        input.close(Self::KIND)?;
        Ok(object)
    }

    /// Reads one object that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`WireError`] names what is wrong, also bytes left over.
    fn from_bytes(ctx: &Context, mut bytes: &[u8]) -> Result<Self, WireError> {
        let object = Self::read_from(ctx, &mut bytes)?;
        match bytes.len() as u64 {
            0 => Ok(object),
            left => Err(WireError::Trailing { kind: Self::KIND, bytes: left }),
        }
    }

    /// Writes the object.
    ///
    /// # Errors
    /// [`WireError::Io`] if the writer fails.
    fn write_to(&self, ctx: &Context, writer: &mut dyn Write) -> Result<(), WireError> {
        let mut output = Output::open(ctx, writer, Self::KIND, self.payload_bytes())?;
        self.write_payload(&mut output)?;
        output.close()
    }

    /// The object as bytes. Those of a secret key are as secret as the key: wipe them after use.
    fn to_bytes(&self, ctx: &Context) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.wire_bytes() as usize);
        self.write_to(ctx, &mut bytes).expect("writing to memory does not fail");
        bytes
    }

    /// Length of the written object.
    fn wire_bytes(&self) -> u64 {
        HEADER_BYTES + self.payload_bytes() + CHECKSUM_BYTES
    }
}

impl<T: objects::Payload> Wire for T {}
