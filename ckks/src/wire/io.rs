//! Framing: header, hashed payload, checksum.

use std::io::{ErrorKind, Read, Write};

use zeroize::Zeroize;

use super::{HEADER_BYTES, Kind, MAGIC, VERSION, WireError};
use crate::context::Context;
use crate::ring::poly::{Basis, Ntt, RnsPoly};
use crate::units::Level;

/// Words converted at a time.
const BUFFER_WORDS: usize = 4096;

/// A payload being written.
pub struct Output<'a> {
    writer: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl<'a> Output<'a> {
    pub(super) fn open(
        ctx: &Context,
        writer: &'a mut dyn Write,
        kind: Kind,
        payload: u64,
    ) -> Result<Output<'a>, WireError> {
        let mut output = Output { writer, hasher: blake3::Hasher::new() };
        output.bytes(&MAGIC)?;
        output.bytes(&[kind as u8])?;
        output.bytes(&VERSION.to_le_bytes())?;
        output.bytes(&ctx.params().fingerprint())?;
        output.bytes(&payload.to_le_bytes())?;
        Ok(output)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.hasher.update(bytes);
        Ok(self.writer.write_all(bytes)?)
    }

    pub(super) fn u32(&mut self, value: u32) -> Result<(), WireError> {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn poly(&mut self, poly: &RnsPoly<Ntt>) -> Result<(), WireError> {
        let mut buffer = Vec::with_capacity(BUFFER_WORDS * size_of::<u64>());
        for words in poly.words().chunks(BUFFER_WORDS) {
            buffer.clear();
            words.iter().for_each(|word| buffer.extend_from_slice(&word.to_le_bytes()));
            self.bytes(&buffer)?;
        }
        Ok(())
    }

    pub(super) fn close(self) -> Result<(), WireError> {
        Ok(self.writer.write_all(self.hasher.finalize().as_bytes())?)
    }
}

/// A payload being read: every byte is counted against the claimed length and hashed.
pub struct Input<'a> {
    reader: &'a mut dyn Read,
    hasher: blake3::Hasher,
    read: u64,
    left: u64,
}

impl<'a> Input<'a> {
    pub(super) fn open(
        ctx: &Context,
        reader: &'a mut dyn Read,
        expected: Kind,
        max: u64,
    ) -> Result<Input<'a>, WireError> {
        let mut input = Input { reader, hasher: blake3::Hasher::new(), read: 0, left: HEADER_BYTES };
        let magic = input.array()?;
        if magic != MAGIC {
            return Err(WireError::Magic { found: magic });
        }
        let kind = Kind::from_byte(input.array::<1>()?[0])?;
        let version = u16::from_le_bytes(input.array()?);
        if version != VERSION {
            return Err(WireError::Version { kind, found: version });
        }
        if kind != expected {
            return Err(WireError::WrongKind { expected, found: kind });
        }
        let fingerprint: [u8; 32] = input.array()?;
        if fingerprint != ctx.params().fingerprint() {
            let ours = ctx.params().fingerprint();
            return Err(WireError::WrongParameters { kind, found: hex(&fingerprint), expected: hex(&ours) });
        }
        let claimed = u64::from_le_bytes(input.array()?);
        if claimed > max {
            return Err(WireError::TooLong { kind, claimed, max });
        }
        input.left = claimed;
        Ok(input)
    }

    /// Fills `bytes` from the payload.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<(), WireError> {
        let needed = bytes.len() as u64;
        self.expect(needed)?;
        self.read_exact(bytes)?;
        self.hasher.update(bytes);
        self.left -= needed;
        Ok(())
    }

    /// Whether the payload has `needed` more bytes.
    fn expect(&self, needed: u64) -> Result<(), WireError> {
        if needed <= self.left {
            return Ok(());
        }
        Err(WireError::Truncated { available: self.read, needed })
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), WireError> {
        let needed = bytes.len() as u64;
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => WireError::Truncated { available: self.read, needed },
            _ => WireError::Io(error),
        })?;
        self.read += needed;
        Ok(())
    }

    pub(super) fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], WireError> {
        let mut bytes = [0; LEN];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn level(&mut self, ctx: &Context) -> Result<Level, WireError> {
        let (level, max) = (Level(self.u32()?), ctx.params().max_level());
        if level > max { Err(WireError::Level { level, max }) } else { Ok(level) }
    }

    /// A polynomial over `basis`, whose size the parameters fix: nothing in the data decides what is allocated.
    pub(super) fn poly(
        &mut self,
        ctx: &Context,
        what: &'static str,
        basis: Basis,
    ) -> Result<RnsPoly<Ntt>, WireError> {
        let limbs = match basis {
            Basis::Q(level) => level.limbs(),
            Basis::Qp(level) => level.limbs() + ctx.params().alpha(),
        };
        self.expect((limbs * ctx.n() * size_of::<u64>()) as u64)?;
        let mut poly: RnsPoly<Ntt> = ctx.zero(basis);
        let q_limbs = poly.q_limbs();
        let mut buffer = vec![0; BUFFER_WORDS.min(ctx.n()) * size_of::<u64>()];
        for (limb, words) in poly.limbs_mut().enumerate() {
            let modulus = ctx.table(q_limbs, limb).modulus().value();
            for (chunk, words) in words.chunks_mut(BUFFER_WORDS).enumerate() {
                let bytes = &mut buffer[..size_of_val(words)];
                self.fill(bytes)?;
                for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(size_of::<u64>())) {
                    *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
                }
                if let Some(offset) = words.iter().position(|&word| word >= modulus) {
                    let (index, value) = (chunk * BUFFER_WORDS + offset, words[offset]);
                    return Err(WireError::Residue { what, limb, index, value, modulus });
                }
            }
        }
        buffer.zeroize();
        Ok(poly)
    }

    pub(super) fn close(mut self, kind: Kind) -> Result<(), WireError> {
        if self.left > 0 {
            return Err(WireError::Trailing { kind, bytes: self.left });
        }
        let mut checksum = [0; blake3::OUT_LEN];
        self.read_exact(&mut checksum)?;
        if self.hasher.finalize() == checksum { Ok(()) } else { Err(WireError::Checksum { kind }) }
    }
}

/// The first bytes of a fingerprint, for messages.
fn hex(fingerprint: &[u8; 32]) -> String {
    fingerprint[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}
