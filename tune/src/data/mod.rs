//! Training data: the sets that [`peregrine_data::set`] opens, as bytes of pictures, decoded once when they fit in memory,
//! or as model inputs; labels when there are any.

pub mod augment;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use peregrine_data::DataError;
use peregrine_data::picture;
use peregrine_data::set::{self, Content, InputFormat, Origin, Set, Truth, read_classes};
use peregrine_ir::client::ImageSpec;
use rayon::prelude::*;

/// Most bytes of decoded pictures that are kept.
const MAX_DECODED: usize = 1 << 31;

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
    /// The size of a model's pictures.
    pub fn of(spec: &ImageSpec) -> Self {
        let (height, width) = (spec.height as usize, spec.width as usize);
        Self { channels: picture::channels(spec.format), height, width }
    }

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

/// Where samples are.
enum Store {
    /// Pictures one after the other.
    Decoded { pixels: Pixels, data: Vec<u8> },
    /// In their files: decoded whenever they are needed.
    OnDemand { image: ImageSpec, samples: Vec<set::Sample> },
    /// Model inputs one after the other.
    Inputs { len: usize, data: Vec<f32> },
}

/// Pictures or model inputs, with their labels.
pub struct Dataset {
    store: Store,
    count: usize,
    labels: Option<Vec<usize>>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset({} samples, labelled: {})", self.count, self.labels.is_some())
    }
}

/// Where labels come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// The data, when it has them.
    FromData,
    /// Nowhere: distillation.
    None,
    /// A file: see [`read_classes`].
    File(PathBuf),
}

impl Dataset {
    /// Reads data for a model of this input. Folders that have the `names` of the model's classes are these.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn load(
        path: &Path,
        format: InputFormat<'_>,
        names: &[String],
        labels: &Labels,
    ) -> Result<Self, DataError> {
        let mut set = Set::open(path, format.image)?;
        set.adopt_names(names);
        if let Labels::File(file) = labels {
            let names = if names.is_empty() { set.classes.clone() } else { names.to_vec() };
            set.set_classes(&read_classes(file, &set, &names)?)?;
        }
        let known = if *labels == Labels::None { None } else { known_labels(&set) };
        let count = set.samples.len();
        let store = match set.samples[0].read()? {
            Content::Picture(_) => Store::of_pictures(set, format)?,
            Content::Values { .. } => Store::of_inputs(&set, format)?,
        };
        Ok(Self { store, count, labels: known })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the pictures; `None` for model inputs.
    pub fn pixels(&self) -> Option<Pixels> {
        match &self.store {
            Store::Decoded { pixels, .. } => Some(*pixels),
            Store::OnDemand { image, .. } => Some(Pixels::of(image)),
            Store::Inputs { .. } => None,
        }
    }

    /// Labels.
    pub fn labels(&self) -> Option<&[usize]> {
        self.labels.as_deref()
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
            Store::Decoded { pixels, data } => {
                let size = pixels.len();
                let data = indices.iter().flat_map(|i| &data[i * size..][..size]).copied().collect();
                Store::Decoded { pixels: *pixels, data }
            }
            Store::OnDemand { image, samples } => {
                let samples = indices.iter().map(|&i| samples[i].clone()).collect();
                Store::OnDemand { image: image.clone(), samples }
            }
            Store::Inputs { len, data } => {
                let data = indices.iter().flat_map(|i| &data[i * len..][..*len]).copied().collect();
                Store::Inputs { len: *len, data }
            }
        };
        let labels = self.labels.as_ref().map(|l| indices.iter().map(|&i| l[i]).collect());
        Self { store, count: indices.len(), labels }
    }

    /// Sample `i`.
    ///
    /// # Errors
    /// A picture that is decoded on demand cannot be.
    pub fn sample(&self, i: usize) -> Result<Sample, DataError> {
        match &self.store {
            Store::Decoded { pixels, data } => {
                Ok(Sample::Pixels(data[i * pixels.len()..][..pixels.len()].to_vec()))
            }
            Store::OnDemand { image, samples } => Ok(Sample::Pixels(decode(&samples[i], image)?)),
            Store::Inputs { len, data } => Ok(Sample::Input(data[i * len..][..*len].to_vec())),
        }
    }
}

/// Labels that can be trusted to be such: pictures in one folder are of no class, and numbers at the ends of their names may
/// be running ones.
fn known_labels(set: &Set) -> Option<Vec<usize>> {
    let trusted = match set.origin {
        Origin::Folders => set.classes.len() > 1,
        Origin::Records | Origin::Given => true,
        Origin::Nothing | Origin::FileNames | Origin::Boxes => false,
    };
    let class = |sample: &set::Sample| match sample.truth {
        Truth::Class(class) => Some(class),
        Truth::None | Truth::Boxes(_) => None,
    };
    if trusted { set.samples.iter().map(class).collect() } else { None }
}

impl Store {
    fn of_pictures(set: Set, format: InputFormat<'_>) -> Result<Self, DataError> {
        let Some(image) = format.image else {
            let reason = "it holds pictures, but the model's input is none of one or three channels: give a .npz or .npy of model inputs";
            return Err(DataError::Set { path: set.path, reason: reason.to_owned() });
        };
        let pixels = Pixels::of(image);
        match set.samples.len().checked_mul(pixels.len()) {
            Some(bytes) if bytes <= MAX_DECODED => {
                let mut data = vec![0; bytes];
                let places = data.par_chunks_exact_mut(pixels.len().max(1));
                places.zip(&set.samples).try_for_each(|(place, sample)| {
                    place.copy_from_slice(&decode(sample, image)?);
                    Ok(())
                })?;
                Ok(Self::Decoded { pixels, data })
            }
            Some(_) | None => Ok(Self::OnDemand { image: image.clone(), samples: set.samples }),
        }
    }

    fn of_inputs(set: &Set, format: InputFormat<'_>) -> Result<Self, DataError> {
        let len = format.shape.iter().product();
        let mut data = Vec::with_capacity(set.samples.len() * len);
        for sample in &set.samples {
            let input = sample.input(format).map_err(|error| match error {
                DataError::Input { what, found, expected } => {
                    DataError::Input { what: format!("{}: {what}", set.path.display()), found, expected }
                }
                other => other,
            })?;
            data.extend(input.data);
        }
        Ok(Self::Inputs { len, data })
    }
}

/// Bytes of a picture in the model's size.
fn decode(sample: &set::Sample, image: &ImageSpec) -> Result<Vec<u8>, DataError> {
    match sample.read()? {
        Content::Picture(picture) => Ok(picture::pixels(&picture, image.format, [image.width, image.height])),
        Content::Values { shape, .. } => Err(DataError::Input {
            what: sample.name.clone(),
            found: format!("has shape {shape:?}"),
            expected: "a picture".to_owned(),
        }),
    }
}
