//! Sets in folders and in tar files of folders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use super::boxes::{self, TruthBox};
use super::{Origin, Sample, Set, Source, Truth, read, read_slice};
use crate::error::DataError;
use crate::picture::ENDINGS;

/// Deepest folder looked into, and most files taken.
const MAX_DEPTH: usize = 12;
const MAX_FILES: usize = 10_000_000;

/// A file of the tree, by its path inside it (`/` between folders).
struct Entry {
    name: String,
    source: Source,
}

pub(super) fn of_folder(path: &Path) -> Result<Set, DataError> {
    let mut entries = Vec::new();
    walk(path, "", 0, &mut entries)?;
    assemble(path, entries)
}

fn walk(folder: &Path, prefix: &str, depth: usize, entries: &mut Vec<Entry>) -> Result<(), DataError> {
    let refuse = |source| DataError::Read { path: folder.to_owned(), source };
    if depth > MAX_DEPTH || entries.len() > MAX_FILES {
        let reason = format!("it is deeper than {MAX_DEPTH} folders or holds more than {MAX_FILES} files");
        return Err(DataError::Set { path: folder.to_owned(), reason });
    }
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| !n.starts_with('.')) else {
            continue;
        };
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            walk(&path, &format!("{name}/"), depth + 1, entries)?;
        } else if is_wanted(&name) {
            entries.push(Entry { name, source: Source::File(path) });
        }
    }
    Ok(())
}

pub(super) fn of_tar(path: &Path) -> Result<Set, DataError> {
    let refuse = |source| DataError::Read { path: path.to_owned(), source };
    let mut archive = tar::Archive::new(File::open(path).map_err(refuse)?);
    let file = Arc::new(path.to_owned());
    let mut entries = Vec::new();
    for entry in archive.entries_with_seek().map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let hidden = Path::new(&name).file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
        if !entry.header().entry_type().is_file() || hidden || !is_wanted(&name) {
            continue;
        }
        let (offset, length) = (entry.raw_file_position(), entry.size());
        entries.push(Entry { name, source: Source::Slice { file: file.clone(), offset, length } });
    }
    assemble(path, entries)
}

fn ending(name: &str) -> String {
    Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

fn is_picture(name: &str) -> bool {
    ENDINGS.contains(&ending(name).as_str())
}

fn is_wanted(name: &str) -> bool {
    is_picture(name) || ending(name) == "txt"
}

fn stem(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}

fn parent(name: &str) -> Option<&str> {
    let folders = name.rsplit_once('/')?.0;
    Some(folders.rsplit('/').next().unwrap_or(folders))
}

fn assemble(path: &Path, mut entries: Vec<Entry>) -> Result<Set, DataError> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let (pictures, texts): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| is_picture(&e.name));
    let stems: BTreeMap<&str, ()> = pictures.iter().map(|p| (stem(&p.name), ())).collect();
    let texts: Vec<Entry> = texts.into_iter().filter(|t| stems.contains_key(stem(&t.name))).collect();
    let (truths, classes, origin) = if texts.is_empty() {
        classes(&pictures)
    } else {
        let mut boxes = boxes_by_stem(path, &texts)?;
        let boxes = |p: &Entry| Truth::Boxes(boxes.remove(stem(&p.name)).unwrap_or_default());
        (pictures.iter().map(boxes).collect(), Vec::new(), Origin::Boxes)
    };
    let sample = |(entry, truth): (Entry, Truth)| Sample { name: entry.name, truth, source: entry.source };
    let samples = pictures.into_iter().zip(truths).map(sample).collect();
    Ok(Set { path: path.to_owned(), samples, classes, origin })
}

/// The boxes of each text; a stem must name one text only.
fn boxes_by_stem(path: &Path, texts: &[Entry]) -> Result<BTreeMap<String, Vec<TruthBox>>, DataError> {
    let mut found = BTreeMap::new();
    for text in texts {
        let at = path.join(&text.name);
        let refuse = |reason: String| DataError::Set { path: at.clone(), reason };
        let bytes = match &text.source {
            Source::File(file) => read(file)?,
            Source::Slice { file, offset, length } => read_slice(file, *offset, *length)?,
            Source::Pixels { .. } | Source::Values { .. } => Vec::new(),
        };
        let content = String::from_utf8(bytes).map_err(|_| refuse("it is no text".to_owned()))?;
        let boxes = boxes::parse(&content).map_err(refuse)?;
        if found.insert(stem(&text.name).to_owned(), boxes).is_some() {
            return Err(refuse("two files of this name hold boxes; give one set at a time".to_owned()));
        }
    }
    Ok(found)
}

/// Classes by folder, else by the number that names end in, else none; their names; where they come from.
fn classes(pictures: &[Entry]) -> (Vec<Truth>, Vec<String>, Origin) {
    let folders: Option<Vec<&str>> = pictures.iter().map(|p| parent(&p.name)).collect();
    if let Some(folders) = folders {
        let names = in_order(folders.iter().map(|f| (*f).to_owned()).collect());
        let class = |folder: &&str| names.iter().position(|n| n == folder).map_or(Truth::None, Truth::Class);
        return (folders.iter().map(class).collect(), names, Origin::Folders);
    }
    let number = |p: &Entry| stem(&p.name).rsplit_once('_').and_then(|(_, n)| n.parse().ok());
    let numbers: Option<Vec<usize>> = pictures.iter().map(number).collect();
    match numbers {
        Some(numbers) => (numbers.into_iter().map(Truth::Class).collect(), Vec::new(), Origin::FileNames),
        None => (vec![Truth::None; pictures.len()], Vec::new(), Origin::Nothing),
    }
}

/// Class names once each: by number when all are numbers, else in alphabetical order.
fn in_order(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    if names.iter().all(|n| n.parse::<u32>().is_ok()) {
        names.sort_by_key(|n| n.parse::<u32>().unwrap_or(u32::MAX));
    }
    names
}
