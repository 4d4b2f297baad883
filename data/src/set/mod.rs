//! Labelled sets of samples, in the forms that people keep them in.
//!
//! | form | how it is recognised | truth |
//! |---|---|---|
//! | folder or `.tar` of class folders | pictures in folders | the folder's name |
//! | folder or `.tar` of pictures with boxes | a `.txt` of the same stem beside pictures, or elsewhere in the tree | YOLO boxes |
//! | folder or `.tar` of pictures `..._7.png` | pictures without folders whose names end in a number | that number |
//! | `.npz` | arrays `images` and `labels` | the labels |
//! | `.npy` | one array of samples | none; see [`Set::set_classes`] |
//! | CIFAR binary `.bin` | records of 3073 (CIFAR-10) or 3074 (CIFAR-100) bytes | the last label byte |
//! | folder of CIFAR binaries | `data_batch*.bin` or `train.bin` in it: the training part | the last label byte |
//! | `.csv` | rows of a label and the pixels of a picture, row by row, channels innermost | the label |
//!
//! A set holds where its samples are; pictures are read and decoded one at a time.

mod arrays;
mod boxes;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod truth;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{DynamicImage, GrayImage, RgbImage};
use peregrine_ir::client::ImageSpec;

use crate::error::DataError;
use crate::picture::{self, ENDINGS, Placement, Resize};

pub use boxes::TruthBox;
pub use truth::read_classes;

/// Largest file inside an archive.
const MAX_SLICE: u64 = 1 << 30;

/// What is known about a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Truth {
    /// Nothing.
    #[default]
    None,
    /// Its class.
    Class(usize),
    /// The objects in it.
    Boxes(Vec<TruthBox>),
}

/// Where the truth about a set's samples comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: nothing is known.
    Nothing,
    /// Names of the folders that pictures are in.
    Folders,
    /// Numbers that names of pictures end in, which may as well be running numbers.
    FileNames,
    /// Texts with boxes.
    Boxes,
    /// The array or record beside the pixels.
    Records,
    /// [`Set::set_classes`].
    Given,
}

/// A labelled set.
#[derive(Clone, Debug)]
pub struct Set {
    /// Where it is.
    pub path: PathBuf,
    /// Samples, in order of their names or of the file.
    pub samples: Vec<Sample>,
    /// Names of the classes in order, where folders name them.
    pub classes: Vec<String>,
    /// Where the truth comes from.
    pub origin: Origin,
}

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Path inside the set, or number.
    pub name: String,
    /// What is known about it.
    pub truth: Truth,
    source: Source,
}

/// Where a sample's numbers are.
#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    Slice { file: Arc<PathBuf>, offset: u64, length: u64 },
    Pixels { array: Arc<PixelArray>, index: usize },
    Values { array: Arc<ValueArray>, index: usize },
}

/// Pictures of one size, `[N, H, W, C]`.
#[derive(Debug)]
struct PixelArray {
    height: u32,
    width: u32,
    channels: usize,
    data: Vec<u8>,
}

/// Model inputs of one shape, `[N, ...]`.
#[derive(Debug)]
struct ValueArray {
    shape: Vec<usize>,
    data: Vec<f64>,
}

/// A sample's numbers.
#[derive(Clone, Debug)]
pub enum Content {
    /// A decoded picture.
    Picture(DynamicImage),
    /// Numbers that are a model input already.
    Values {
        /// Shape, without the batch.
        shape: Vec<usize>,
        /// Row-major numbers.
        data: Vec<f64>,
    },
}

/// What samples are turned into.
#[derive(Clone, Copy, Debug)]
pub struct InputFormat<'a> {
    /// Shape of the model's input, batch 1.
    pub shape: &'a [usize],
    /// Preprocessing, when the input is a picture.
    pub image: Option<&'a ImageSpec>,
    /// How pictures of another size are brought to the model's.
    pub resize: Resize,
}

/// A model input.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Numbers in the shape asked for.
    pub data: Vec<f32>,
    /// Where the picture lies in it, when it came from one.
    pub placement: Option<Placement>,
}

impl Set {
    /// Opens a set. `image` is the model's picture input: tables of pixels without extents (`.csv`) take its size.
    ///
    /// # Errors
    /// [`DataError`] names the file and what is wrong with it.
    pub fn open(path: &Path, image: Option<&ImageSpec>) -> Result<Self, DataError> {
        std::fs::metadata(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let set = match ending.as_deref() {
            _ if path.is_dir() => match table::training_files(path)?.as_slice() {
                [] => tree::of_folder(path)?,
                files => table::of_cifar(path, files)?,
            },
            Some("tar") => tree::of_tar(path)?,
            Some("npz") => arrays::of_npz(path)?,
            Some("npy") => arrays::of_npy(path)?,
            Some("bin") => table::of_cifar(path, &[path.to_owned()])?,
            Some("csv") => table::of_csv(path, image)?,
            Some(_) | None => {
                let reason = "a folder, .tar, .npz, .npy, .csv or CIFAR .bin is expected".to_owned();
                return Err(DataError::Set { path: path.to_owned(), reason });
            }
        };
        match set.samples.is_empty() {
            true => {
                let reason =
                    format!("it holds no picture ({}) and no CIFAR training file", ENDINGS.join(", "));
                Err(DataError::Set { path: path.to_owned(), reason })
            }
            false => Ok(set),
        }
    }

    /// Whether samples are known by boxes.
    pub fn has_boxes(&self) -> bool {
        self.samples.iter().any(|sample| matches!(sample.truth, Truth::Boxes(_)))
    }

    /// Whether every sample's class is known.
    pub fn has_classes(&self) -> bool {
        self.samples.iter().all(|sample| matches!(sample.truth, Truth::Class(_)))
    }

    /// Renumbers classes that folders name to the model's: when every folder has one of the `names`, by that name; else
    /// folders in order are classes in order.
    pub fn adopt_names(&mut self, names: &[String]) {
        let at = |class: &String| names.iter().position(|name| name.eq_ignore_ascii_case(class));
        let Some(map) = self.classes.iter().map(at).collect::<Option<Vec<usize>>>() else { return };
        for sample in &mut self.samples {
            if let Truth::Class(class) = &mut sample.truth {
                *class = map.get(*class).copied().unwrap_or(*class);
            }
        }
        if !map.is_empty() {
            self.classes = names.to_vec();
        }
    }

    /// Classes from elsewhere (see [`read_classes`]).
    ///
    /// # Errors
    /// [`DataError::Set`] when there are not as many as samples.
    pub fn set_classes(&mut self, classes: &[usize]) -> Result<(), DataError> {
        if classes.len() != self.samples.len() {
            let reason =
                format!("it holds {} samples, {} labels were given", self.samples.len(), classes.len());
            return Err(DataError::Set { path: self.path.clone(), reason });
        }
        for (sample, &class) in self.samples.iter_mut().zip(classes) {
            sample.truth = Truth::Class(class);
        }
        self.origin = Origin::Given;
        Ok(())
    }

    /// Keeps `count` samples, evenly spread over the set, so that every class keeps its share.
    pub fn limit(&mut self, count: usize) {
        let of = self.samples.len();
        if count < of {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index * count / of > (index - 1) * count / of
            });
        }
    }
}

impl Sample {
    /// Reads and decodes.
    ///
    /// # Errors
    /// When the file cannot be read or is no picture.
    pub fn read(&self) -> Result<Content, DataError> {
        match &self.source {
            Source::File(path) => {
                let bytes = read(path)?;
                picture::decode(path, &bytes).map(Content::Picture)
            }
            Source::Slice { file, offset, length } => {
                let bytes = read_slice(file, *offset, *length)?;
                picture::decode(&file.join(&self.name), &bytes).map(Content::Picture)
            }
            Source::Pixels { array, index } => Ok(Content::Picture(array.picture(*index))),
            Source::Values { array, index } => {
                let length = array.shape.iter().product::<usize>();
                let data = array.data[index * length..(index + 1) * length].to_vec();
                Ok(Content::Values { shape: array.shape.clone(), data })
            }
        }
    }

    /// Reads the sample as model input.
    ///
    /// # Errors
    /// When it cannot be read, or does not fit the model.
    pub fn input(&self, format: InputFormat<'_>) -> Result<Input, DataError> {
        let mismatch = |found: String| DataError::Input {
            what: self.name.clone(),
            found,
            expected: format!("{:?}", format.shape),
        };
        match self.read()? {
            Content::Picture(picture) => {
                let spec = format.image.ok_or_else(|| mismatch("is a picture".to_owned()))?;
                let fitted = picture::fit(&picture, spec, format.resize);
                let data = picture::normalise(&fitted.planes, spec);
                Ok(Input { data, placement: Some(fitted.placement) })
            }
            Content::Values { shape, data } => {
                let fits = shape == format.shape || format.shape.split_first() == Some((&1, &shape));
                if !fits {
                    return Err(mismatch(format!("has shape {shape:?}")));
                }
                if let Some(value) = data.iter().find(|v| !v.is_finite()) {
                    return Err(mismatch(format!("holds {value}")));
                }
                Ok(Input { data: data.iter().map(|&v| v as f32).collect(), placement: None })
            }
        }
    }
}

impl PixelArray {
    fn len(&self) -> usize {
        self.data.len() / self.picture_bytes().max(1)
    }

    fn picture_bytes(&self) -> usize {
        self.height as usize * self.width as usize * self.channels
    }

    fn picture(&self, index: usize) -> DynamicImage {
        let length = self.picture_bytes();
        let pixels = self.data[index * length..(index + 1) * length].to_vec();
        let (w, h) = (self.width, self.height);
        let picture = match self.channels {
            1 => GrayImage::from_raw(w, h, pixels).map(DynamicImage::ImageLuma8),
            _ => RgbImage::from_raw(w, h, pixels).map(DynamicImage::ImageRgb8),
        };
        picture.expect("the slice has as many bytes as the picture")
    }

    /// One sample per picture.
    fn samples(self, truth: impl Fn(usize) -> Truth) -> Vec<Sample> {
        let count = self.len();
        let array = Arc::new(self);
        let sample = |index: usize| Sample {
            name: format!("#{index}"),
            truth: truth(index),
            source: Source::Pixels { array: array.clone(), index },
        };
        (0..count).map(sample).collect()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })
}

fn read_slice(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>, DataError> {
    let refuse = |source| DataError::Read { path: path.to_owned(), source };
    if length > MAX_SLICE {
        return Err(refuse(io::Error::other(format!("a file in it has {length} bytes"))));
    }
    let mut file = File::open(path).map_err(refuse)?;
    file.seek(SeekFrom::Start(offset)).map_err(refuse)?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(refuse)?;
    Ok(bytes)
}
