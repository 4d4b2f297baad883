//! Where evaluation keys are while a program runs: all in memory, or in a scratch folder with as many in memory as fit.
//!
//! The program is straight-line, so the future is known: a key that must leave is the one whose next use is furthest away,
//! and the keys of the next instruction are read, and their uniform halves expanded, while the current one runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use peregrine_ckks::bootstrap::BootstrapKeys;
use peregrine_ckks::context::Context;
use peregrine_ckks::keys::{EvalKeys, SwitchingKey};
use peregrine_ckks::units::{GaloisElement, Level};
use peregrine_ckks::wire::Wire;
use peregrine_ir::program::{Inst, KeyManifest, Program, Refresh, RefreshId};
use tempfile::TempDir;

use super::constants::{Constants, LinearSite};
use super::keys::ServerKeys;
use super::memory::{ephemeral_key_bytes, resident_key_bytes};
use super::schedule::place;
use crate::bytes::ByteSize;
use crate::error::{At, RuntimeError};
use crate::interface::Interface;

/// Names a key: the relinearisation key, or that of an automorphism.
pub type KeyName = Option<GaloisElement>;

/// Which keys each instruction needs.
#[derive(Clone, Debug, Default)]
pub struct KeyUses {
    by_inst: Vec<Vec<KeyName>>,
    by_key: BTreeMap<KeyName, Vec<usize>>,
    bytes: BTreeMap<KeyName, u64>,
    /// Bytes of the keys of the ephemeral secret, which stay in memory.
    ephemeral: u64,
}

impl KeyUses {
    /// The uses of a verified program with its planned calls.
    ///
    /// # Errors
    /// [`RuntimeError::Program`] when a linear call has no plan or a refresh is not described.
    pub fn of(program: &Program, constants: &Constants, interface: &Interface) -> Result<Self, RuntimeError> {
        let params = &interface.params;
        let bytes: BTreeMap<KeyName, u64> = levels(&program.manifest)
            .map(|(name, level)| (name, resident_key_bytes(level, params)))
            .collect();
        let refreshes = refresh_keys(program, interface)?;
        let ephemeral = ephemeral_key_bytes(program, params);
        let mut uses = Self { bytes, ephemeral, ..Self::default() };
        for (index, inst) in program.insts.iter().enumerate() {
            let names = match inst {
                Inst::Linear { .. } => linear_names(constants.linear(program, index)?, params.n()),
                Inst::Bootstrap { refresh, .. } | Inst::BootstrapPair { refresh, .. } => {
                    let missing = || RuntimeError::Program {
                        place: place(program, index),
                        what: format!("refresh {refresh} is not described"),
                    };
                    refreshes.get(refresh).cloned().ok_or_else(missing)?
                }
                other => names(other, params.n()),
            };
            let known: Vec<KeyName> =
                names.into_iter().filter(|name| uses.bytes.contains_key(name)).collect();
            known.iter().for_each(|name| uses.by_key.entry(*name).or_default().push(index));
            uses.by_inst.push(known);
        }
        Ok(uses)
    }

    /// Bytes of the keys of the most demanding instruction.
    pub fn largest(&self) -> ByteSize {
        let sum = |names: &Vec<KeyName>| names.iter().map(|name| self.bytes[name]).sum::<u64>();
        ByteSize(self.ephemeral + self.by_inst.iter().map(sum).max().unwrap_or(0))
    }

    fn needed(&self, index: usize) -> &[KeyName] {
        self.by_inst.get(index).map_or(&[], Vec::as_slice)
    }

    /// First use of a key at `index` or later.
    fn next_use(&self, name: KeyName, index: usize) -> usize {
        let uses = self.by_key.get(&name).map_or(&[][..], Vec::as_slice);
        uses.get(uses.partition_point(|&at| at < index)).copied().unwrap_or(usize::MAX)
    }
}

/// The keys that a linear call needs.
fn linear_names(site: &LinearSite, n: usize) -> Vec<KeyName> {
    site.linear_plan().galois_elements(n).into_iter().map(Some).collect()
}

/// The keys that an instruction needs; those of linear calls follow from their plans, those of refreshes from the transforms.
fn names(inst: &Inst, n: usize) -> Vec<KeyName> {
    match inst {
        Inst::Mul { .. } | Inst::Square { .. } => vec![None],
        Inst::Rotate { rotation, .. } => vec![Some(GaloisElement::from_rotation(*rotation, n))],
        Inst::Conjugate { .. } => vec![Some(GaloisElement::conjugation(n))],
        Inst::Input { .. }
        | Inst::Linear { .. }
        | Inst::Bootstrap { .. }
        | Inst::BootstrapPair { .. }
        | Inst::AddVector { .. }
        | Inst::MulVector { .. }
        | Inst::Add { .. }
        | Inst::Sub { .. }
        | Inst::Rescale { .. }
        | Inst::ModDrop { .. }
        | Inst::Output { .. }
        | Inst::Free { .. } => Vec::new(),
    }
}

/// The relinearisation and automorphism keys of every refresh.
fn refresh_keys(
    program: &Program,
    interface: &Interface,
) -> Result<BTreeMap<RefreshId, Vec<KeyName>>, RuntimeError> {
    let Some(spec) = &interface.bootstrap else { return Ok(BTreeMap::new()) };
    let of = |(id, refresh): (RefreshId, &Refresh)| {
        let galois = spec.galois_elements(refresh.slots).at(|| format!("planning refresh {id}"))?;
        Ok((id, galois.into_iter().map(|(element, _)| Some(element)).chain([None]).collect()))
    };
    program.refreshes.iter().map(of).collect()
}

fn levels(manifest: &KeyManifest) -> impl Iterator<Item = (KeyName, Level)> {
    let galois = manifest.galois.iter().map(|(&element, &level)| (Some(element), level));
    manifest.relin.iter().map(|&level| (None, level)).chain(galois)
}

/// The evaluation keys of a run.
pub enum KeyStore<'a> {
    /// All in memory.
    Resident(&'a ServerKeys),
    /// In a scratch folder.
    Scratch(&'a mut ScratchKeys),
}

impl KeyStore<'_> {
    /// Makes sure that the keys of instruction `index` are in memory.
    ///
    /// # Errors
    /// [`RuntimeError::Scratch`] when one cannot be read back.
    pub fn prepare(&mut self, index: usize) -> Result<(), RuntimeError> {
        match self {
            Self::Resident(_) => Ok(()),
            Self::Scratch(keys) => keys.prepare(index),
        }
    }

    /// Bytes of the keys in memory.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Resident(keys) => keys.bytes(),
            Self::Scratch(keys) => keys.uses.ephemeral + keys.held(),
        }
    }

    /// Drops keys that are in a folder, too, until `wanted` bytes are free, but none that instruction `now` needs; from then on as many
    /// fewer are in memory at once.
    pub fn shed(&mut self, now: usize, wanted: u64) {
        match self {
            Self::Resident(_) => {}
            Self::Scratch(keys) => keys.shed(now, wanted),
        }
    }

    /// The keys for bootstrapping.
    pub fn bootstrapping(&self) -> Option<&BootstrapKeys> {
        match self {
            Self::Resident(keys) => keys.bootstrapping(),
            Self::Scratch(keys) => keys.resident.bootstrapping(),
        }
    }

    /// The keys in memory.
    pub fn keys(&self) -> &EvalKeys {
        match self {
            Self::Resident(keys) => keys.evaluation(),
            Self::Scratch(keys) => keys.resident.evaluation(),
        }
    }
}

/// Keys that are being read in the background.
struct Pending {
    names: BTreeSet<KeyName>,
    reader: JoinHandle<Result<Vec<SwitchingKey>, RuntimeError>>,
}

/// Seeded keys in a scratch folder that is removed with this value, and the expanded ones that memory holds.
pub struct ScratchKeys {
    folder: TempDir,
    context: Context,
    uses: KeyUses,
    capacity: u64,
    /// Those that memory holds, and always the keys of the ephemeral secret.
    resident: ServerKeys,
    names: BTreeSet<KeyName>,
    pending: Option<Pending>,
}

impl ScratchKeys {
    /// A store in a new folder under `parent`, for at most `capacity` bytes of expanded keys in memory. `resident` holds no
    /// relinearisation and automorphism keys yet.
    ///
    /// # Errors
    /// [`RuntimeError::Scratch`] when no folder can be made there.
    pub fn new(
        parent: &Path,
        context: &Context,
        uses: KeyUses,
        capacity: ByteSize,
        resident: ServerKeys,
    ) -> Result<Self, RuntimeError> {
        let folder = tempfile::Builder::new().prefix("peregrine-keys-").tempdir_in(parent);
        let folder = folder.map_err(|source| scratch(parent, source))?;
        Ok(Self {
            folder,
            context: context.clone(),
            capacity: capacity.0.saturating_sub(uses.ephemeral),
            uses,
            resident,
            names: BTreeSet::new(),
            pending: None,
        })
    }

    /// Writes a key to the folder.
    ///
    /// # Errors
    /// [`RuntimeError::Scratch`].
    pub fn store(&self, key: &SwitchingKey) -> Result<(), RuntimeError> {
        let path = key_path(self.folder.path(), key.element());
        let write = || -> std::io::Result<()> {
            let mut writer = BufWriter::with_capacity(1 << 20, File::create(&path)?);
            key.write_to(&self.context, &mut writer).map_err(std::io::Error::other)?;
            writer.flush()
        };
        write().map_err(|source| scratch(&path, source))
    }

    fn prepare(&mut self, index: usize) -> Result<(), RuntimeError> {
        let needed: BTreeSet<KeyName> = self.uses.needed(index).iter().copied().collect();
        if needed.is_empty() {
            return Ok(());
        }
        self.take_pending()?;
        let missing: Vec<KeyName> = needed.difference(&self.names).copied().collect();
        self.make_room(&missing, index, index);
        let read = read_keys(self.folder.path(), &self.context, &missing)?;
        self.resident.evaluation_mut().extend(read);
        self.names.extend(missing);
        self.prefetch(index);
        Ok(())
    }

    /// Waits for the keys that are being read.
    fn take_pending(&mut self) -> Result<(), RuntimeError> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let read = pending.reader.join().unwrap_or_else(|_| {
            Err(scratch(self.folder.path(), std::io::Error::other("the reading thread failed")))
        })?;
        self.resident.evaluation_mut().extend(read);
        self.names.extend(pending.names);
        Ok(())
    }

    /// Bytes of the keys in memory besides those of the ephemeral secret; those being read included.
    fn held(&self) -> u64 {
        let reading = self.pending.iter().flat_map(|pending| &pending.names);
        self.names.iter().chain(reading).map(|name| self.size(*name)).sum()
    }

    fn size(&self, name: KeyName) -> u64 {
        self.uses.bytes.get(&name).copied().unwrap_or(0)
    }

    fn shed(&mut self, now: usize, wanted: u64) {
        let wanted = match self.pending.take() {
            // What is being read is read again when it is needed, and fails again if it fails.
            Some(pending) => {
                let read: u64 = pending.names.iter().map(|name| self.size(*name)).sum();
                drop(pending.reader.join());
                wanted.saturating_sub(read)
            }
            None => wanted,
        };
        self.capacity = self.capacity.min(self.held().saturating_sub(wanted));
        self.make_room(&[], now, now);
    }

    /// Starts to read what the next instruction that lacks a key lacks, as far as keys needed later make room.
    fn prefetch(&mut self, index: usize) {
        let lacks = |at: &usize| self.uses.needed(*at).iter().any(|name| !self.names.contains(name));
        let Some(next) = (index + 1..self.uses.by_inst.len()).find(lacks) else { return };
        let mut wanted: Vec<KeyName> =
            self.uses.needed(next).iter().filter(|name| !self.names.contains(*name)).copied().collect();
        while !self.make_room(&wanted, index, next) {
            wanted.pop();
        }
        if wanted.is_empty() {
            return;
        }
        let (folder, context) = (self.folder.path().to_owned(), self.context.clone());
        let names = wanted.iter().copied().collect();
        let reader = std::thread::spawn(move || read_keys(&folder, &context, &wanted));
        self.pending = Some(Pending { names, reader });
    }

    /// Drops keys whose next use is furthest away until `wanted` fit; never those used from instruction `now` up to `until`.
    /// Whether they fit.
    fn make_room(&mut self, wanted: &[KeyName], now: usize, until: usize) -> bool {
        let wanted: u64 = wanted.iter().map(|name| self.size(*name)).sum();
        let mut held = self.held();
        while held + wanted > self.capacity {
            let later = self.names.iter().map(|&name| (self.uses.next_use(name, now), name));
            let Some((_, victim)) = later.filter(|(at, _)| *at > until).max() else { return wanted == 0 };
            held -= self.size(victim);
            self.names.remove(&victim);
            drop(self.resident.evaluation_mut().remove(victim));
        }
        true
    }
}

fn read_keys(folder: &Path, context: &Context, names: &[KeyName]) -> Result<Vec<SwitchingKey>, RuntimeError> {
    let read = |name: &KeyName| {
        let path = key_path(folder, *name);
        let file = File::open(&path).map_err(|source| scratch(&path, source))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let key = SwitchingKey::read_from(context, &mut reader);
        let key = key.map_err(|error| scratch(&path, std::io::Error::other(error)))?;
        match key.element() == *name {
            true => Ok(key),
            false => Err(scratch(&path, std::io::Error::other("it holds another key"))),
        }
    };
    names.iter().map(read).collect()
}

fn key_path(folder: &Path, name: KeyName) -> PathBuf {
    match name {
        None => folder.join("relin.key"),
        Some(element) => folder.join(format!("galois-{}.key", element.get())),
    }
}

fn scratch(path: &Path, source: std::io::Error) -> RuntimeError {
    RuntimeError::Scratch { path: path.to_owned(), source }
}
