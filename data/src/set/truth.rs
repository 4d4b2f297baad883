//! Classes of samples from a file of their own.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Set, read};
use crate::array::{self, Numbers};
use crate::error::DataError;

/// Classes of the samples of `set`, in order: an `.npy` of integers, or a text with one line a sample (`CLASS`), or with
/// `NAME CLASS` where the name is that of the sample's file. Classes are numbers or, where `names` are known, names.
///
/// # Errors
/// [`DataError`] when the file cannot be read or a sample has no class in it.
pub fn read_classes(path: &Path, set: &Set, names: &[String]) -> Result<Vec<usize>, DataError> {
    let refuse = |reason: String| DataError::Set { path: path.to_owned(), reason };
    let bytes = read(path)?;
    if bytes.starts_with(b"\x93NUMPY") {
        return integers(array::parse(path, &bytes)?.numbers).map_err(refuse);
    }
    let text = String::from_utf8(bytes).map_err(|_| refuse("it is neither text nor .npy".to_owned()))?;
    let class = |word: &str| {
        let known = word.parse().ok().or_else(|| names.iter().position(|name| name == word));
        known.ok_or_else(|| refuse(format!("`{word}` is neither a number nor a class name")))
    };
    let lines: Vec<Vec<&str>> =
        text.lines().map(|l| l.split_whitespace().collect()).filter(|l: &Vec<&str>| !l.is_empty()).collect();
    if lines.iter().all(|line| line.len() == 1) {
        return lines.iter().map(|line| class(line[0])).collect();
    }
    let mut by_name = BTreeMap::new();
    for line in &lines {
        let [name, word] = line.as_slice() else {
            return Err(refuse(format!(
                "`{}`: CLASS, or NAME CLASS, is expected on every line",
                line.join(" ")
            )));
        };
        by_name.insert(*name, class(word)?);
    }
    let of_sample = |name: &str| {
        let file = Path::new(name).file_name().and_then(|f| f.to_str()).unwrap_or(name);
        let found = by_name.get(name).or_else(|| by_name.get(file)).copied();
        found.ok_or_else(|| refuse(format!("it has no class for `{name}`")))
    };
    set.samples.iter().map(|sample| of_sample(&sample.name)).collect()
}

/// Class numbers of an array.
pub(super) fn integers(numbers: Numbers) -> Result<Vec<usize>, String> {
    let class = |v: i64| usize::try_from(v).map_err(|_| format!("{v} is no class"));
    match numbers {
        Numbers::Pixels(bytes) => Ok(bytes.into_iter().map(usize::from).collect()),
        Numbers::Integers(values) => values.into_iter().map(class).collect(),
        Numbers::Values(_) => Err("classes are integers, it holds floats".to_owned()),
    }
}
