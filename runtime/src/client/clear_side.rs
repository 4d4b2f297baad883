//! What the client does in the clear: input file to program inputs, decrypted outputs to the model's answer.

use std::fmt;
use std::path::{Path, PathBuf};

use peregrine_ir::client::{ClientPart, ImageOrder, ImageSpec};

use super::error::{ClientError, Part};
use super::image::{self, Normalisation};
use super::npy::{self, ArrayData};
use super::onnx::ClientModel;
use super::synthetic::test_pattern;
use super::tensor::{NamedTensor, TensorPort, same_but_batch, shape_text};

/// Largest input file that is read.
const MAX_INPUT_BYTES: u64 = 1 << 30;
/// Most numbers of a model input.
const MAX_INPUT_ELEMENTS: usize = 1 << 28;

/// Where the input of a run comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSource {
    /// A picture or array file.
    File(PathBuf),
    /// The sample in the artefact.
    Sample,
    /// The built-in test pattern.
    TestPattern,
}

impl fmt::Display for InputSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Sample => f.write_str("the sample in the artefact"),
            Self::TestPattern => f.write_str("a synthetic test pattern"),
        }
    }
}

/// Inputs of the program, ready to encrypt.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Where they come from.
    pub source: InputSource,
    /// One tensor per program input.
    pub tensors: Vec<NamedTensor>,
    /// What the user should know about how they were made.
    pub notes: Vec<String>,
}

/// The client's part of an artefact, ready to run.
pub struct ClearSide {
    part: ClientPart,
    image: Option<ImageSpec>,
    head: Option<ClientModel>,
    tail: Option<ClientModel>,
    inputs: Vec<TensorPort>,
    guessed_normalisation: bool,
}

impl ClearSide {
    /// Loads head and tail. `inputs` and `outputs` are the program's.
    ///
    /// # Errors
    /// When flags, image specification, head or tail do not fit the program.
    pub fn new(
        part: &ClientPart,
        inputs: Vec<TensorPort>,
        outputs: &[TensorPort],
        flags: &Normalisation,
    ) -> Result<Self, ClientError> {
        check_size(part)?;
        let image = image::image_spec(part, flags)?;
        if let Some(spec) = &image {
            image::check_spec(spec, part)?;
        }
        let model_input = TensorPort { name: part.input_name.clone(), shape: part.input_shape.clone() };
        let head =
            part.head.as_ref().map(|onnx| ClientModel::load(Part::Head, onnx, &[model_input])).transpose()?;
        let tail = part.tail.as_ref().map(|onnx| ClientModel::load(Part::Tail, onnx, outputs)).transpose()?;
        let guessed_normalisation = part.image.is_none() && (flags.mean.is_none() || flags.std.is_none());
        Ok(Self { part: part.clone(), image, head, tail, inputs, guessed_normalisation })
    }

    /// Makes the program's inputs from a file, else from the artefact's sample, else from the test pattern.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, or does not fit the model.
    pub fn prepare(&self, file: Option<&Path>) -> Result<Prepared, ClientError> {
        let mut notes = Vec::new();
        let (source, model_input) = match (file, &self.part.sample) {
            (Some(path), _) => (InputSource::File(path.to_owned()), self.read_file(path, &mut notes)?),
            (None, Some(sample)) => {
                self.check_shape("the artefact's sample", &sample.shape)?;
                (InputSource::Sample, sample.data.iter().map(|&x| f64::from(x)).collect())
            }
            (None, None) => (InputSource::TestPattern, test_pattern(&self.part, self.image.as_ref())),
        };
        check_finite(&source.to_string(), &model_input)?;
        let tensors = self.program_inputs(model_input)?;
        Ok(Prepared { source, tensors, notes })
    }

    /// The model's outputs from the program's: the tail if there is one, else the same.
    ///
    /// # Errors
    /// [`ClientError::Onnx`] when the tail fails.
    pub fn finish(&self, outputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, ClientError> {
        match &self.tail {
            Some(tail) => tail.run(outputs),
            None => Ok(outputs.to_vec()),
        }
    }

    /// Whether a tail changes the program's outputs.
    pub fn has_tail(&self) -> bool {
        self.tail.is_some()
    }

    fn read_file(&self, path: &Path, notes: &mut Vec<String>) -> Result<Vec<f64>, ClientError> {
        let bytes = read_limited(path)?;
        if bytes.starts_with(b"\x93NUMPY") {
            return self.read_array(path, &bytes, notes);
        }
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
            let reason = "it does not start as an .npy file does".to_owned();
            return Err(ClientError::Array { path: path.to_owned(), reason });
        }
        let Some(spec) = &self.image else {
            return Err(ClientError::NotAnImageModel {
                path: path.to_owned(),
                input: self.part.input_name.clone(),
                shape: shape_text(&self.part.input_shape),
            });
        };
        let picture = image::read_picture(path, &bytes, spec)?;
        if let Some((height, width)) = picture.resized_from {
            let (to_height, to_width) = (spec.height, spec.width);
            let stretched =
                u64::from(height) * u64::from(to_width) != u64::from(width) * u64::from(to_height);
            let how = if stretched { "resized, and stretched," } else { "resized" };
            notes.push(format!(
                "{}: {how} from {width}x{height} to {to_width}x{to_height} pixels",
                path.display()
            ));
        }
        self.note_guess(notes);
        let planes: Vec<f32> = picture.planes.iter().map(|&p| f32::from(p)).collect();
        Ok(image::normalise(&planes, spec))
    }

    fn read_array(
        &self,
        path: &Path,
        bytes: &[u8],
        notes: &mut Vec<String>,
    ) -> Result<Vec<f64>, ClientError> {
        let array = npy::parse(path, bytes)?;
        self.check_shape(&path.display().to_string(), &array.shape)?;
        let pixels = match array.data {
            ArrayData::Values(values) => return Ok(values),
            ArrayData::Pixels(pixels) => pixels,
        };
        let Some(spec) = &self.image else {
            let reason = format!(
                "it holds bytes, and the model's input `{}` is no picture; save float32 model inputs",
                self.part.input_name
            );
            return Err(ClientError::Array { path: path.to_owned(), reason });
        };
        self.note_guess(notes);
        Ok(image::normalise(&planes_of(&pixels, spec), spec))
    }

    fn note_guess(&self, notes: &mut Vec<String>) {
        if self.guessed_normalisation && self.part.head.is_none() {
            notes.push(
                "the model does not say how pixels are normalised: pixel / 255 it is; set --mean and --std"
                    .to_owned(),
            );
        }
    }

    fn check_shape(&self, what: &str, shape: &[usize]) -> Result<(), ClientError> {
        if same_but_batch(shape, &self.part.input_shape) {
            return Ok(());
        }
        Err(ClientError::Shape {
            what: what.to_owned(),
            found: shape_text(shape),
            input: self.part.input_name.clone(),
            expected: shape_text(&self.part.input_shape),
        })
    }

    fn program_inputs(&self, model_input: Vec<f64>) -> Result<Vec<NamedTensor>, ClientError> {
        let (name, shape) = (self.part.input_name.clone(), self.part.input_shape.clone());
        let input = NamedTensor { name, shape, data: model_input };
        let tensors = match &self.head {
            Some(head) => head.run(&[input])?,
            None => vec![input],
        };
        if tensors.len() != self.inputs.len() {
            return Err(ClientError::Count {
                part: Part::Head,
                program: self.inputs.len(),
                found: tensors.len(),
            });
        }
        let by_name: Option<Vec<&NamedTensor>> =
            self.inputs.iter().map(|port| tensors.iter().find(|t| t.name == port.name)).collect();
        let ordered = by_name.unwrap_or_else(|| tensors.iter().collect());
        for (tensor, port) in ordered.iter().zip(&self.inputs) {
            if tensor.data.len() != port.shape.iter().product::<usize>() {
                return Err(ClientError::Shape {
                    what: format!("`{}`, which the client encrypts,", tensor.name),
                    found: shape_text(&tensor.shape),
                    input: port.name.clone(),
                    expected: shape_text(&port.shape),
                });
            }
            check_finite(&format!("`{}`", tensor.name), &tensor.data)?;
        }
        Ok(ordered.into_iter().cloned().collect())
    }
}

/// The input's size, which a hostile artefact chooses, must be reasonable, and the sample must have it.
fn check_size(part: &ClientPart) -> Result<(), ClientError> {
    let elements = part.input_shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    let input = || part.input_name.clone();
    let Some(elements) = elements.filter(|&count| (1..=MAX_INPUT_ELEMENTS).contains(&count)) else {
        return Err(ClientError::InputSize { input: input(), shape: shape_text(&part.input_shape) });
    };
    match &part.sample {
        Some(sample) if sample.data.len() != elements => Err(ClientError::Shape {
            what: format!("the artefact's sample, with {} numbers,", sample.data.len()),
            found: shape_text(&sample.shape),
            input: input(),
            expected: shape_text(&part.input_shape),
        }),
        _ => Ok(()),
    }
}

/// Pixel planes of an array in the model's axis order.
fn planes_of(pixels: &[u8], spec: &ImageSpec) -> Vec<f32> {
    let channels = image::channels(spec.format);
    let map = spec.height as usize * spec.width as usize;
    match spec.order {
        ImageOrder::Nchw => pixels.iter().map(|&p| f32::from(p)).collect(),
        ImageOrder::Nhwc => {
            let at = |c: usize, i: usize| f32::from(pixels[i * channels + c]);
            (0..channels).flat_map(|c| (0..map).map(move |i| (c, i))).map(|(c, i)| at(c, i)).collect()
        }
    }
}

fn check_finite(what: &str, values: &[f64]) -> Result<(), ClientError> {
    match values.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(ClientError::NotFinite { what: what.to_owned(), value: values[index], index }),
        None => Ok(()),
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, ClientError> {
    let refuse = |source: std::io::Error| ClientError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(refuse)?.len();
    if length > MAX_INPUT_BYTES {
        return Err(refuse(std::io::Error::other(format!(
            "{length} bytes; at most {MAX_INPUT_BYTES} are read"
        ))));
    }
    std::fs::read(path).map_err(refuse)
}

/// Class names from a text file, one a line; blank lines at the end do not count.
///
/// # Errors
/// [`ClientError::Read`] and [`ClientError::NoLabels`].
pub fn read_labels(path: &Path) -> Result<Vec<String>, ClientError> {
    let refuse = |source| ClientError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(refuse)?;
    let labels: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    if labels.is_empty() { Err(ClientError::NoLabels { path: path.to_owned() }) } else { Ok(labels) }
}
