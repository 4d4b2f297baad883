//! The frame of a container: magic, version, section table, checksums.

use std::fmt;

use thiserror::Error;

/// Version of the format.
pub const VERSION: u32 = 4;
const MAGIC: [u8; 8] = *b"PEREGRN\0";
const ENTRY_BYTES: usize = 4 + 4 + 8 + 32;
const HASH_BYTES: usize = 32;
const TABLE_BYTES: usize = 8 + 4 + 4 + 3 * ENTRY_BYTES;
const HEADER_BYTES: usize = TABLE_BYTES + HASH_BYTES;

/// A section of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The program.
    Program,
    /// Data of the program's constants.
    Constants,
    /// The client part.
    Client,
}

impl Section {
    /// All sections in the order of the file.
    pub const ALL: [Self; 3] = [Self::Program, Self::Constants, Self::Client];

    /// Most bytes that a section of this kind may have. Decoded protobuf takes up to about fifty times its size.
    pub const fn limit(self) -> u64 {
        match self {
            Self::Program => 16 << 20,
            Self::Constants => 4 << 30,
            Self::Client => 256 << 20,
        }
    }

    const fn kind(self) -> u32 {
        self as u32 + 1
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Program => "program",
            Self::Constants => "constants",
            Self::Client => "client",
        })
    }
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// No container at all.
    #[error("not a .fhe file: it does not start with the magic number; compile a model with peregrinec")]
    Magic,
    /// A container of another version.
    #[error("container version {found}, this program reads version {VERSION}; compile the model again")]
    Version {
        /// Version of the file.
        found: u32,
    },
    /// The file ends too early.
    #[error("truncated: {found} bytes, {expected} are needed; copy or compile the file again")]
    Truncated {
        /// Needed.
        expected: u64,
        /// There.
        found: u64,
    },
    /// Bytes after the last section.
    #[error("{extra} bytes after the last section; copy or compile the file again")]
    Trailing {
        /// How many.
        extra: u64,
    },
    /// The header is damaged.
    #[error("damaged header: its checksum does not match; copy or compile the file again")]
    HeaderChecksum,
    /// The section table is not that of this version.
    #[error("the section table is not that of version {VERSION}")]
    Table,
    /// A section is longer than its limit.
    #[error("{section} section of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Section.
        section: Section,
        /// Length stated.
        length: u64,
        /// Limit.
        limit: u64,
    },
    /// A section is damaged.
    #[error("damaged {0} section: its checksum does not match; copy or compile the file again")]
    SectionChecksum(Section),
}

/// Joins the sections, in the order of [`Section::ALL`], into a file.
pub(super) fn join(sections: &[Vec<u8>; 3]) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + sections.iter().map(Vec::len).sum::<usize>());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((sections.len() as u32).to_le_bytes());
    for (section, data) in Section::ALL.into_iter().zip(sections) {
        let length = data.len() as u64;
        check_limit(section, length)?;
        bytes.extend(section.kind().to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(blake3::hash(data).as_bytes());
    }
    let hash = *blake3::hash(&bytes).as_bytes();
    bytes.extend(hash);
    for data in sections {
        bytes.extend(data);
    }
    Ok(bytes)
}

fn check_limit(section: Section, length: u64) -> Result<(), FrameError> {
    let limit = section.limit();
    if length > limit { Err(FrameError::TooLong { section, length, limit }) } else { Ok(()) }
}

/// The checked sections of a file.
pub(super) struct Frame<'a> {
    sections: [&'a [u8]; 3],
}

impl<'a> Frame<'a> {
    /// Checks the frame and the checksums of all sections.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let prefix = &bytes[..bytes.len().min(MAGIC.len())];
        if prefix.is_empty() || !MAGIC.starts_with(prefix) {
            return Err(FrameError::Magic);
        }
        let found = bytes.len() as u64;
        let truncated = |expected: u64| FrameError::Truncated { expected, found };
        let version = read_u32(bytes, 8).ok_or_else(|| truncated(HEADER_BYTES as u64))?;
        if version != VERSION {
            return Err(FrameError::Version { found: version });
        }
        let header = bytes.get(..HEADER_BYTES).ok_or_else(|| truncated(HEADER_BYTES as u64))?;
        let (table, hash) = header.split_at(TABLE_BYTES);
        if blake3::hash(table).as_bytes() != hash {
            return Err(FrameError::HeaderChecksum);
        }
        let entries = parse_table(table)?;
        let end = entries.iter().fold(HEADER_BYTES as u64, |end, (length, _)| end + length);
        if found < end {
            return Err(truncated(end));
        }
        if found > end {
            return Err(FrameError::Trailing { extra: found - end });
        }
        let mut rest = &bytes[HEADER_BYTES..];
        let mut sections = [&[][..]; 3];
        for ((slot, section), (length, hash)) in sections.iter_mut().zip(Section::ALL).zip(entries) {
            (*slot, rest) = rest.split_at(length as usize);
            if *blake3::hash(slot).as_bytes() != hash {
                return Err(FrameError::SectionChecksum(section));
            }
        }
        Ok(Self { sections })
    }

    /// The bytes of a section.
    pub(super) fn section(&self, section: Section) -> &'a [u8] {
        self.sections[section as usize]
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Length and checksum of each section; lengths are within their limits.
fn parse_table(table: &[u8]) -> Result<[(u64, [u8; 32]); 3], FrameError> {
    if read_u32(table, 12) != Some(Section::ALL.len() as u32) {
        return Err(FrameError::Table);
    }
    let mut entries = [(0, [0; 32]); 3];
    for (index, section) in Section::ALL.into_iter().enumerate() {
        let entry = &table[16 + index * ENTRY_BYTES..][..ENTRY_BYTES];
        if read_u32(entry, 0) != Some(section.kind()) || read_u32(entry, 4) != Some(0) {
            return Err(FrameError::Table);
        }
        let length = read_u64(entry, 8).ok_or(FrameError::Table)?;
        check_limit(section, length)?;
        entries[index] = (length, entry[16..].try_into().map_err(|_| FrameError::Table)?);
    }
    Ok(entries)
}

/// The start of the section bytes and the position of the header's checksum, for tests that forge files.
#[cfg(test)]
pub(super) const FORGE: (usize, usize) = (HEADER_BYTES, TABLE_BYTES);
