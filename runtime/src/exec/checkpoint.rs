//! Checkpoints of a run: the registers between two instructions, in a file that replaces the one before it when it is
//! complete. Ciphertexts only: nothing in it is secret, and nothing in it can be read without the client's key.
//!
//! `"PGRNCKP1"`, hash of program and parameters (32), id of the keys (32), next instruction (8), number of registers and of outputs
//! (4 each), then each with its index (4; outputs 8) and the ciphertext in its wire format, BLAKE3 of all that precedes (32);
//! integers little-endian. Loading checks all of it: every residue, level and scale against what the program has there.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::wire::Wire;
use peregrine_ir::EntityId;
use peregrine_ir::program::{Inst, Program, Reg};
use thiserror::Error;

use super::governor::Allowance;
use super::schedule::{Schedule, rescaled};

const MAGIC: [u8; 8] = *b"PGRNCKP1";

/// What a checkpoint belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointId {
    /// Hash of the program and its parameters.
    pub program: [u8; 32],
    /// Public id of the client's keys.
    pub keys: [u8; 32],
}

/// Why a checkpoint is refused.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not a checkpoint, or one of another version.
    #[error("it is no checkpoint of this version")]
    Magic,
    /// Of another program.
    #[error(
        "it was written by a run of another program; compile and run the same model, or start anew without --resume"
    )]
    Program,
    /// Of other keys.
    #[error("it was written under other keys; give --client-key the file that was used then")]
    Keys,
    /// A ciphertext is damaged.
    #[error("{what}: {source}")]
    Ciphertext {
        /// Register or output.
        what: String,
        /// What is wrong.
        source: peregrine_ckks::wire::WireError,
    },
    /// The registers are not those that the program has at that instruction.
    #[error("{0}")]
    State(String),
    /// The checksum does not agree.
    #[error("its checksum does not agree; the file was damaged")]
    Checksum,
}

/// A run between two instructions.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The next instruction.
    pub next: usize,
    /// Registers by index.
    pub registers: Vec<Option<Ciphertext>>,
    /// Ciphertexts of each output given so far.
    pub outputs: Vec<Vec<Option<Ciphertext>>>,
}

/// How a run is watched, stopped and saved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Control<'a> {
    /// Set when the run shall stop before its next instruction.
    pub interrupt: Option<&'a AtomicBool>,
    /// Where and how often it is saved.
    pub save: Option<&'a Saving>,
    /// Memory that it may take.
    pub memory: Allowance,
}

/// Where and how often a run is saved.
#[derive(Clone, Debug)]
pub struct Saving {
    /// The file.
    pub path: PathBuf,
    /// Least time between two checkpoints.
    pub every: Duration,
    /// What it belongs to.
    pub id: CheckpointId,
}

impl Control<'_> {
    /// Whether the run shall stop.
    pub fn interrupted(&self) -> bool {
        self.interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// The checkpoint that is due, if one is.
    pub(super) fn due(&self, last: Instant) -> Option<&Saving> {
        self.save.filter(|save| last.elapsed() >= save.every)
    }
}

impl State {
    /// The state before the first instruction.
    pub fn start(registers: usize, outputs: impl Iterator<Item = usize>) -> Self {
        Self {
            next: 0,
            registers: vec![None; registers],
            outputs: outputs.map(|count| vec![None; count]).collect(),
        }
    }

    /// Writes the state in place of the file at `path`, whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn save(&self, context: &Context, path: &Path, id: &CheckpointId) -> Result<(), CheckpointError> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(".peregrine-").tempfile_in(folder)?;
        let mut out = Hashed {
            inner: BufWriter::with_capacity(1 << 20, file.as_file()),
            hasher: blake3::Hasher::new(),
        };
        self.write(context, &mut out, id)?;
        let checksum = out.hasher.finalize();
        out.inner.write_all(checksum.as_bytes())?;
        out.inner.flush()?;
        drop(out);
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    fn write(
        &self,
        context: &Context,
        out: &mut impl Write,
        id: &CheckpointId,
    ) -> Result<(), CheckpointError> {
        let registers = self.registers.iter().enumerate().filter_map(|(i, c)| Some((i as u64, c.as_ref()?)));
        let outputs = self.outputs.iter().enumerate().flat_map(|(o, ciphers)| {
            let given = ciphers.iter().enumerate();
            given.filter_map(move |(c, cipher)| Some(((o as u64) << 32 | c as u64, cipher.as_ref()?)))
        });
        out.write_all(&MAGIC)?;
        out.write_all(&id.program)?;
        out.write_all(&id.keys)?;
        out.write_all(&(self.next as u64).to_le_bytes())?;
        for list in [registers.collect::<Vec<_>>(), outputs.collect::<Vec<_>>()] {
            out.write_all(&(list.len() as u32).to_le_bytes())?;
            for (index, cipher) in list {
                out.write_all(&index.to_le_bytes())?;
                cipher.write_to(context, out).map_err(std::io::Error::other)?;
            }
        }
        Ok(())
    }

    /// Reads the state of a run of `program`.
    ///
    /// # Errors
    /// [`CheckpointError`] says what is wrong with the file or with what it holds.
    pub(super) fn load(
        context: &Context,
        path: &Path,
        id: &CheckpointId,
        (program, schedule, merged): (&Program, &Schedule, &[bool]),
        empty: State,
    ) -> Result<Self, CheckpointError> {
        let reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut input = Hashed { inner: reader, hasher: blake3::Hasher::new() };
        if input.array::<8>()? != MAGIC {
            return Err(CheckpointError::Magic);
        }
        if input.array::<32>()? != id.program {
            return Err(CheckpointError::Program);
        }
        if input.array::<32>()? != id.keys {
            return Err(CheckpointError::Keys);
        }
        let mut state = empty;
        state.next = usize::try_from(u64::from_le_bytes(input.array()?)).unwrap_or(usize::MAX);
        let expected = Expected::at(program, state.next, merged)?;
        for _ in 0..input.count(expected.registers.len())? {
            let reg = Reg(input.index()? as u32);
            let cipher = input.cipher(context, format!("register {reg}"))?;
            let ty = schedule.get(reg).filter(|_| expected.registers.contains(&reg)).cloned();
            let ty = match ty {
                Some(ty) if merged[reg.index()] => rescaled(&ty).ok(),
                other => other,
            };
            check(&format!("register {reg}"), &cipher, ty.as_ref().map(|ty| (ty.level, &ty.scale)))?;
            state.registers[reg.index()] = Some(cipher);
        }
        for _ in 0..input.count(expected.outputs.len())? {
            let index = input.index()?;
            let (output, place) = ((index >> 32) as u32, index as u32);
            let what = format!("ciphertext {place} of output {output}");
            let cipher = input.cipher(context, what.clone())?;
            let port = expected.outputs.contains(&(output, place)).then(|| &program.outputs[output as usize]);
            check(&what, &cipher, port.map(|port| (port.level, &port.scale)))?;
            state.outputs[output as usize][place as usize] = Some(cipher);
        }
        let checksum = input.hasher.finalize();
        let mut found = [0; 32];
        input.inner.read_exact(&mut found)?;
        if checksum != found || input.inner.read(&mut [0])? != 0 {
            return Err(CheckpointError::Checksum);
        }
        Ok(state)
    }
}

/// What a run holds before an instruction.
struct Expected {
    registers: Vec<Reg>,
    outputs: Vec<(u32, u32)>,
}

impl Expected {
    /// `merged` registers are rescaled when they are made, and moved by their rescale.
    fn at(program: &Program, next: usize, merged: &[bool]) -> Result<Self, CheckpointError> {
        if next > program.insts.len() {
            return Err(CheckpointError::State(format!(
                "it continues at instruction {next}, which does not exist"
            )));
        }
        let mut expected = Self { registers: Vec::new(), outputs: Vec::new() };
        for inst in &program.insts[..next] {
            expected.registers.extend_from_slice(inst.writes());
            match inst {
                Inst::Free { reg } => expected.registers.retain(|r| r != reg),
                Inst::Rescale { src, .. } if merged[src.index()] => expected.registers.retain(|r| r != src),
                Inst::Output { output, cipher, .. } => expected.outputs.push((*output, *cipher)),
                _ => {}
            }
        }
        Ok(expected)
    }
}

fn check(
    what: &str,
    cipher: &Ciphertext,
    expected: Option<(peregrine_ckks::units::Level, &peregrine_ckks::units::Scale)>,
) -> Result<(), CheckpointError> {
    match expected {
        None => Err(CheckpointError::State(format!("{what} holds nothing at that instruction"))),
        Some((level, scale)) if cipher.level() == level && cipher.scale() == scale => Ok(()),
        Some((level, scale)) => Err(CheckpointError::State(format!(
            "{what} is at level {} and scale {}, the program has it at level {level} and scale {scale}",
            cipher.level(),
            cipher.scale()
        ))),
    }
}

/// A reader or writer that hashes what passes through it.
struct Hashed<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
}

impl<T: Read> Hashed<T> {
    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], CheckpointError> {
        let mut bytes = [0; LEN];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn index(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of entries, which must be `expected`.
    fn count(&mut self, expected: usize) -> Result<usize, CheckpointError> {
        let found = u32::from_le_bytes(self.array()?) as usize;
        if found == expected {
            return Ok(found);
        }
        Err(CheckpointError::State(format!("it holds {found} ciphertexts where the program has {expected}")))
    }

    fn cipher(&mut self, context: &Context, what: String) -> Result<Ciphertext, CheckpointError> {
        Ciphertext::read_from(context, self).map_err(|source| CheckpointError::Ciphertext { what, source })
    }
}
