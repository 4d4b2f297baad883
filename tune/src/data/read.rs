//! Reading the sources of training data.

use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, IxDyn, OwnedRepr};
use ndarray_npy::{NpzReader, ReadNpyExt};

use super::{DataError, Dataset, Encoded, Pixels};

/// Endings of picture files.
const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];
/// Rows and columns of a CIFAR picture.
const CIFAR_SIDE: usize = 32;
/// Bytes of a CIFAR picture.
const CIFAR_BYTES: usize = 3 * CIFAR_SIDE * CIFAR_SIDE;
/// Largest file inside an archive.
const MAX_ENTRY: u64 = 1 << 30;

pub(super) fn read(path: &Path, pixels: Option<Pixels>, len: usize) -> Result<Dataset, DataError> {
    if path.is_dir() {
        return folder(path, pixels);
    }
    match ending(path).as_str() {
        "tar" => archive(path, pixels),
        "npz" => npz(path, pixels, len),
        "npy" => npy(path, pixels, len),
        "bin" => cifar(path, &[path.to_owned()], pixels),
        _ => Err(DataError::Array {
            path: path.to_owned(),
            why: "a folder, a .tar, .npz, .npy or CIFAR .bin file is expected".into(),
        }),
    }
}

fn ending(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

fn is_picture(path: &Path) -> bool {
    PICTURES.contains(&ending(path).as_str())
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> DataError + '_ {
    |source| DataError::Read { path: path.to_owned(), source }
}

fn bytes(path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(unreadable(path))
}

/// Files of a folder, sorted.
fn entries(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = fs::read_dir(path).map_err(unreadable(path))?;
    let mut paths = read.map(|e| Ok(e?.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable(path))?;
    paths.sort();
    Ok(paths)
}

fn folder(path: &Path, pixels: Option<Pixels>) -> Result<Dataset, DataError> {
    let all = entries(path)?;
    let is_cifar = |p: &PathBuf| {
        let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.starts_with("data_batch") || name == "train.bin"
    };
    let batches: Vec<PathBuf> =
        all.iter().filter(|p| p.is_file() && ending(p) == "bin" && is_cifar(p)).cloned().collect();
    if !batches.is_empty() {
        return cifar(path, &batches, pixels);
    }
    let mut files = Vec::new();
    for entry in &all {
        if entry.is_dir() {
            let class = entry.file_name().map(|n| n.to_string_lossy().into_owned());
            for file in entries(entry)?.into_iter().filter(|f| is_picture(f)) {
                files.push((Encoded { bytes: bytes(&file)?, name: file }, class.clone()));
            }
        } else if is_picture(entry) {
            files.push((Encoded { bytes: bytes(entry)?, name: entry.clone() }, None));
        }
    }
    Dataset::of_encoded(path, files, pixels)
}

/// A tar archive; a picture's class is the folder it is in.
fn archive(path: &Path, pixels: Option<Pixels>) -> Result<Dataset, DataError> {
    let file = File::open(path).map_err(unreadable(path))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut files = Vec::new();
    for entry in archive.entries().map_err(unreadable(path))? {
        let mut entry = entry.map_err(unreadable(path))?;
        let name = entry.path().map_err(unreadable(path))?.into_owned();
        if !entry.header().entry_type().is_file() || !is_picture(&name) {
            continue;
        }
        if entry.size() > MAX_ENTRY {
            let why = format!("it has {} bytes", entry.size());
            return Err(DataError::Picture { path: path.join(name), why });
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(unreadable(path))?;
        let class = name.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
        files.push((Encoded { name: path.join(name), bytes }, class));
    }
    files.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    Dataset::of_encoded(path, files, pixels)
}

fn cifar(path: &Path, files: &[PathBuf], pixels: Option<Pixels>) -> Result<Dataset, DataError> {
    let expected = Pixels { channels: 3, height: CIFAR_SIDE, width: CIFAR_SIDE };
    if pixels != Some(expected) {
        return Err(DataError::Array {
            path: path.to_owned(),
            why: format!("it holds pictures of 3x32x32, the model's input is {pixels:?}"),
        });
    }
    let (mut data, mut labels) = (Vec::new(), Vec::new());
    for file in files {
        let bytes = bytes(file)?;
        let header = [1, 2].into_iter().find(|h| bytes.len().is_multiple_of(CIFAR_BYTES + h));
        let Some(header) = header.filter(|_| !bytes.is_empty()) else {
            return Err(DataError::Cifar { path: file.clone(), bytes: bytes.len() });
        };
        for record in bytes.chunks_exact(CIFAR_BYTES + header) {
            labels.push(usize::from(record[header - 1]));
            data.extend(channels_last(&record[header..], expected));
        }
    }
    Ok(Dataset::of_pixels(expected, data, Some(labels)))
}

/// A picture of planes as one of pixels.
fn channels_last(planes: &[u8], pixels: Pixels) -> impl Iterator<Item = u8> + '_ {
    let map = pixels.height * pixels.width;
    (0..pixels.len()).map(move |i| planes[i % pixels.channels * map + i / pixels.channels])
}

fn npz(path: &Path, pixels: Option<Pixels>, len: usize) -> Result<Dataset, DataError> {
    let bad = |why: String| DataError::Array { path: path.to_owned(), why };
    let bytes = bytes(path)?;
    let mut archive = NpzReader::new(Cursor::new(&bytes)).map_err(|e| bad(e.to_string()))?;
    let names = archive.names().map_err(|e| bad(e.to_string()))?;
    let find = |wanted: &str| names.iter().find(|n| n.trim_end_matches(".npy") == wanted);
    let images = find("images").ok_or_else(|| bad(format!("it has no array \"images\", only {names:?}")))?;
    let mut data = match archive.by_name::<OwnedRepr<u8>, IxDyn>(images) {
        Ok(bytes) => of_bytes(path, bytes, pixels)?,
        Err(_) => match archive.by_name::<OwnedRepr<f32>, IxDyn>(images) {
            Ok(floats) => of_floats(path, floats, len)?,
            Err(e) => return Err(bad(format!("array \"images\" is neither uint8 nor float32: {e}"))),
        },
    };
    let Some(labels) = find("labels") else { return Ok(data) };
    let numbers: Vec<i64> = match archive.by_name::<OwnedRepr<i64>, IxDyn>(labels) {
        Ok(labels) => labels.iter().copied().collect(),
        Err(_) => match archive.by_name::<OwnedRepr<i32>, IxDyn>(labels) {
            Ok(labels) => labels.iter().map(|&l| i64::from(l)).collect(),
            Err(_) => {
                let labels = archive.by_name::<OwnedRepr<u8>, IxDyn>(labels);
                let labels = labels.map_err(|e| bad(format!("array \"labels\" holds no integers: {e}")))?;
                labels.iter().map(|&l| i64::from(l)).collect()
            }
        },
    };
    let labels = numbers.iter().map(|&l| usize::try_from(l)).collect::<Result<Vec<_>, _>>();
    let labels = labels.map_err(|_| bad("a label is negative".into()))?;
    if labels.len() != data.count {
        return Err(bad(format!("{} labels for {} images", labels.len(), data.count)));
    }
    data.labels = Some(labels);
    Ok(data)
}

fn npy(path: &Path, pixels: Option<Pixels>, len: usize) -> Result<Dataset, DataError> {
    let bytes = bytes(path)?;
    if let Ok(array) = ArrayD::<u8>::read_npy(Cursor::new(&bytes)) {
        return of_bytes(path, array, pixels);
    }
    match ArrayD::<f32>::read_npy(Cursor::new(&bytes)) {
        Ok(array) => of_floats(path, array, len),
        Err(e) => Err(DataError::Array { path: path.to_owned(), why: e.to_string() }),
    }
}

fn of_bytes(path: &Path, array: ArrayD<u8>, pixels: Option<Pixels>) -> Result<Dataset, DataError> {
    let Some(pixels) = pixels else { return Err(DataError::NoPictures { path: path.to_owned() }) };
    let fits = match *array.shape() {
        [_, c, h, w] => [c, h, w] == [pixels.channels, pixels.height, pixels.width],
        [_, h, w] => pixels.channels == 1 && [h, w] == [pixels.height, pixels.width],
        _ => false,
    };
    if !fits {
        let (c, h, w) = (pixels.channels, pixels.height, pixels.width);
        return Err(DataError::Array {
            path: path.to_owned(),
            why: format!("its pixels have shape {:?}, [N, {c}, {h}, {w}] is needed", array.shape()),
        });
    }
    let planes: Vec<u8> = array.iter().copied().collect();
    let data = planes.chunks_exact(pixels.len()).flat_map(|p| channels_last(p, pixels)).collect();
    Ok(Dataset::of_pixels(pixels, data, None))
}

fn of_floats(path: &Path, array: ArrayD<f32>, len: usize) -> Result<Dataset, DataError> {
    let bad = |why: String| DataError::Array { path: path.to_owned(), why };
    let of_one: usize = array.shape().iter().skip(1).product();
    if of_one != len {
        return Err(bad(format!("its inputs have shape {:?}, the model's has {len} numbers", array.shape())));
    }
    let data: Vec<f32> = array.iter().copied().collect();
    match data.iter().all(|x| x.is_finite()) {
        true => Ok(Dataset::of_inputs(len, data, None)),
        false => Err(bad("it holds a number that is not finite".into())),
    }
}

/// Labels from a text file.
pub(super) fn labels(path: &Path, count: usize) -> Result<Vec<usize>, DataError> {
    let bad = |why: String| DataError::Labels { path: path.to_owned(), why };
    let text = String::from_utf8(bytes(path)?).map_err(|_| bad("no UTF-8 text".into()))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let labels = lines
        .map(|line| line.parse().map_err(|_| bad(format!("{line:?} is no class number"))))
        .collect::<Result<Vec<usize>, _>>()?;
    match labels.len() == count {
        true => Ok(labels),
        false => Err(bad(format!("{} labels for {count} pictures", labels.len()))),
    }
}
