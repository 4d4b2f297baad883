//! Training data: decoded once when it fits in memory, labels when there are any.
//!
//! | source | labels |
//! |---|---|
//! | folder of pictures | none |
//! | folder of class folders | folder names in alphabetical order |
//! | `.tar` of either | the same |
//! | `.npz`: `images` (uint8 `[N, C, H, W]`, or float32 model inputs), `labels` | the array, if it is there |
//! | `.npy`: the array `images` | none |
//! | CIFAR binary: `.bin` files, or a folder of them | the bytes |

pub mod augment;
mod error;
mod read;
#[cfg(test)]
mod tests;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{ImageReader, Limits};
use rayon::prelude::*;

pub use error::DataError;

/// Most bytes of decoded pictures that are kept.
const MAX_DECODED: usize = 1 << 31;
/// Largest extent of a picture.
const MAX_EXTENT: u32 = 1 << 15;
/// Most memory that one picture's decoder may take.
const MAX_DECODER_BYTES: u64 = 1 << 29;

/// What pictures are brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Channels: 1 or 3.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Pixels {
    /// Bytes of one picture.
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether there is no pixel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// Bytes, row by row, channels last.
    Pixels(Vec<u8>),
    /// A model input as the file has it, in the model's own order.
    Input(Vec<f32>),
}

/// A picture that is decoded on demand.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    name: PathBuf,
    bytes: Vec<u8>,
}

enum Store {
    Decoded(Vec<u8>),
    Encoded(Vec<Encoded>),
    Inputs { len: usize, data: Vec<f32> },
}

/// Pictures with their labels.
pub struct Dataset {
    pixels: Option<Pixels>,
    store: Store,
    count: usize,
    labels: Option<Vec<usize>>,
    classes: Vec<String>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset({} samples, {} classes)", self.count, self.classes.len())
    }
}

/// Where labels come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// The data, when it has them.
    FromData,
    /// Nowhere: distillation.
    None,
    /// A text file, one number a line.
    File(PathBuf),
}

impl Dataset {
    /// Reads data for inputs of `len` numbers; pictures are brought to `pixels`, without which only arrays of inputs fit.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn load(path: &Path, pixels: Option<Pixels>, len: usize, labels: &Labels) -> Result<Self, DataError> {
        let mut data = read::read(path, pixels, len)?;
        match labels {
            Labels::FromData => {}
            Labels::None => data.labels = None,
            Labels::File(file) => data.labels = Some(read::labels(file, data.count)?),
        }
        if data.count == 0 {
            return Err(DataError::Empty { path: path.to_owned() });
        }
        Ok(data)
    }

    pub(crate) fn of_encoded(
        path: &Path,
        files: Vec<(Encoded, Option<String>)>,
        pixels: Option<Pixels>,
    ) -> Result<Self, DataError> {
        let Some(pixels) = pixels else {
            return Err(DataError::NoPictures { path: path.to_owned() });
        };
        let mut classes: Vec<String> = files.iter().filter_map(|(_, c)| c.clone()).collect();
        classes.sort();
        classes.dedup();
        let labelled = files.iter().all(|(_, class)| class.is_some()) && classes.len() > 1;
        let label = |class: &Option<String>| classes.iter().position(|c| Some(c) == class.as_ref());
        let labels = labelled.then(|| files.iter().filter_map(|(_, class)| label(class)).collect());
        let encoded: Vec<Encoded> = files.into_iter().map(|(file, _)| file).collect();
        let count = encoded.len();
        let store = match count * pixels.len() <= MAX_DECODED {
            true => {
                let decoded: Vec<Vec<u8>> =
                    encoded.par_iter().map(|e| decode(e, pixels)).collect::<Result<_, _>>()?;
                Store::Decoded(decoded.concat())
            }
            false => Store::Encoded(encoded),
        };
        let classes = if labelled { classes } else { Vec::new() };
        Ok(Self { pixels: Some(pixels), store, count, labels, classes })
    }

    pub(crate) fn of_pixels(pixels: Pixels, data: Vec<u8>, labels: Option<Vec<usize>>) -> Self {
        let count = data.len() / pixels.len();
        Self { pixels: Some(pixels), store: Store::Decoded(data), count, labels, classes: Vec::new() }
    }

    pub(crate) fn of_inputs(len: usize, data: Vec<f32>, labels: Option<Vec<usize>>) -> Self {
        let count = data.len() / len;
        Self { pixels: None, store: Store::Inputs { len, data }, count, labels, classes: Vec::new() }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the pictures; `None` for arrays of inputs.
    pub fn pixels(&self) -> Option<Pixels> {
        self.pixels
    }

    /// Labels.
    pub fn labels(&self) -> Option<&[usize]> {
        self.labels.as_deref()
    }

    /// Class names, when the data has them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Keeps the first `limit` samples of each class (of all samples without labels).
    pub fn limit(&mut self, limit: usize) {
        let mut seen = std::collections::BTreeMap::<usize, usize>::new();
        let kept: Vec<usize> = (0..self.count)
            .filter(|&i| {
                let n = seen.entry(self.labels.as_ref().map_or(0, |l| l[i])).or_default();
                *n += 1;
                *n <= limit
            })
            .collect();
        *self = self.subset(&kept);
    }

    /// Splits off every `step`-th sample.
    pub fn hold_out(&mut self, step: usize) -> Self {
        let (held, rest): (Vec<usize>, Vec<usize>) = (0..self.count).partition(|i| i % step == step - 1);
        let out = self.subset(&held);
        *self = self.subset(&rest);
        out
    }

    fn subset(&self, indices: &[usize]) -> Self {
        let store = match &self.store {
            Store::Decoded(data) => {
                let size = self.pixels.map_or(1, |p| p.len());
                Store::Decoded(indices.iter().flat_map(|i| &data[i * size..][..size]).copied().collect())
            }
            Store::Encoded(files) => Store::Encoded(indices.iter().map(|&i| files[i].clone()).collect()),
            Store::Inputs { len, data } => {
                let data = indices.iter().flat_map(|i| &data[i * len..][..*len]).copied().collect();
                Store::Inputs { len: *len, data }
            }
        };
        let labels = self.labels.as_ref().map(|l| indices.iter().map(|&i| l[i]).collect());
        Self { pixels: self.pixels, store, count: indices.len(), labels, classes: self.classes.clone() }
    }

    /// Sample `i`.
    ///
    /// # Errors
    /// A picture that is decoded on demand cannot be.
    pub fn sample(&self, i: usize) -> Result<Sample, DataError> {
        match (&self.store, self.pixels) {
            (Store::Decoded(data), Some(pixels)) => {
                Ok(Sample::Pixels(data[i * pixels.len()..][..pixels.len()].to_vec()))
            }
            (Store::Encoded(files), Some(pixels)) => Ok(Sample::Pixels(decode(&files[i], pixels)?)),
            (Store::Inputs { len, data }, _) => Ok(Sample::Input(data[i * len..][..*len].to_vec())),
            (Store::Decoded(_) | Store::Encoded(_), None) => Ok(Sample::Pixels(Vec::new())),
        }
    }
}

fn decode(file: &Encoded, pixels: Pixels) -> Result<Vec<u8>, DataError> {
    let refuse = |why: String| DataError::Picture { path: file.name.clone(), why };
    let mut reader = ImageReader::new(Cursor::new(&file.bytes))
        .with_guessed_format()
        .map_err(|e| refuse(e.to_string()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_EXTENT);
    limits.max_image_height = Some(MAX_EXTENT);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let decoded = reader.decode().map_err(|e| refuse(e.to_string()))?;
    let (h, w) = (pixels.height as u32, pixels.width as u32);
    let sized = match (decoded.height(), decoded.width()) == (h, w) {
        true => decoded,
        false => decoded.resize_exact(w, h, FilterType::Triangle),
    };
    Ok(match pixels.channels {
        1 => sized.to_luma8().into_raw(),
        _ => sized.to_rgb8().into_raw(),
    })
}
