//! Reading a file through a memory map: pages are read once, and only while the sections are checked and decoded.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// A file's bytes.
pub(super) struct Mapped(Option<Mmap>);

impl Mapped {
    /// Maps a regular file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the bytes are only read while this private value lives, which is during one call of `super::read`, and
        // any byte is valid. The file must not change under the map: `super::write` replaces files by renaming and never
        // changes one in place. If another program shortens it meanwhile, the system ends the process with SIGBUS.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(Some(map)))
    }

    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
