//! What the client does in the clear: input file to program inputs, decrypted outputs to the model's answer.

use std::fmt;
use std::path::{Path, PathBuf};

use peregrine_data::DataError;
use peregrine_data::array::{self, Array, Numbers};
use peregrine_data::picture::{self, Placement, Resize};
use peregrine_ir::client::{ClientPart, ImageSpec};

use super::error::{ClientError, Part};
use super::image::{self, Preprocessing};
use super::onnx::ClientModel;
use super::tensor::{NamedTensor, TensorPort, same_but_batch, shape_text};

/// Largest input file that is read.
const MAX_INPUT_BYTES: u64 = 1 << 30;
/// Most numbers of a model input.
const MAX_INPUT_ELEMENTS: usize = 1 << 28;

/// Note about a guessed normalisation.
pub const GUESSED: &str =
    "the model does not say how pixels are normalised: pixel / 255 it is; set --mean and --std";

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
    /// Where the picture lies in the model's input, when it came from one.
    pub placement: Option<Placement>,
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
    resize: Resize,
    guessed_normalisation: bool,
}

/// A model input from a file.
struct Read {
    data: Vec<f64>,
    placement: Option<Placement>,
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
        flags: &Preprocessing,
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
        let resize = flags.resize;
        Ok(Self { part: part.clone(), image, head, tail, inputs, resize, guessed_normalisation })
    }

    /// Makes the program's inputs from a file, else from the artefact's sample, else from the test pattern.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, or does not fit the model.
    pub fn prepare(&self, file: Option<&Path>) -> Result<Prepared, ClientError> {
        let mut notes = Vec::new();
        let plain = |data: Vec<f64>| Read { data, placement: None };
        let (source, read) = match (file, &self.part.sample) {
            (Some(path), _) => (InputSource::File(path.to_owned()), self.read_file(path, &mut notes)?),
            (None, Some(sample)) => {
                self.check_shape("the artefact's sample", &sample.shape)?;
                (InputSource::Sample, plain(sample.data.iter().map(|&x| f64::from(x)).collect()))
            }
            (None, None) => (InputSource::TestPattern, plain(self.test_pattern())),
        };
        let tensors = self.program_inputs(&source.to_string(), read.data)?;
        Ok(Prepared { source, tensors, placement: read.placement, notes })
    }

    /// Program inputs from a model input, `what` in messages.
    ///
    /// # Errors
    /// When a number is not finite or the head fails.
    pub fn program_inputs(&self, what: &str, model_input: Vec<f64>) -> Result<Vec<NamedTensor>, ClientError> {
        check_finite(what, &model_input)?;
        self.through_head(model_input)
    }

    /// How pictures become the model's input; `None` when its input is no picture.
    pub fn image(&self) -> Option<&ImageSpec> {
        self.image.as_ref()
    }

    /// Shape of the model's input.
    pub fn input_shape(&self) -> &[usize] {
        &self.part.input_shape
    }

    /// Whether the normalisation of pixels is a guess: neither the model nor a flag says it.
    pub fn guesses_normalisation(&self) -> bool {
        self.guessed_normalisation && self.part.head.is_none()
    }

    /// Columns and rows of the model's input, when it is a picture.
    pub fn picture_size(&self) -> Option<[u32; 2]> {
        self.image.as_ref().map(|spec| [spec.width, spec.height])
    }

    fn test_pattern(&self) -> Vec<f64> {
        match &self.image {
            Some(spec) => wide(&picture::normalise(&picture::test_pattern(spec), spec)),
            None => {
                (0..self.part.input_shape.iter().product()).map(|i: usize| (i as f64 * 0.37).sin()).collect()
            }
        }
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

    fn read_file(&self, path: &Path, notes: &mut Vec<String>) -> Result<Read, ClientError> {
        let bytes = read_limited(path)?;
        if bytes.starts_with(b"\x93NUMPY") {
            let data = self.read_array(path, array::parse(path, &bytes)?, notes)?;
            return Ok(Read { data, placement: None });
        }
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
            let reason = "it does not start as an .npy file does".to_owned();
            return Err(DataError::Array { path: path.to_owned(), reason }.into());
        }
        let Some(spec) = &self.image else {
            return Err(ClientError::NotAnImageModel {
                path: path.to_owned(),
                input: self.part.input_name.clone(),
                shape: shape_text(&self.part.input_shape),
            });
        };
        let fitted = picture::fit(&picture::decode(path, &bytes)?, spec, self.resize);
        let [width, height] = fitted.placement.size;
        if [width, height] != [spec.width, spec.height] {
            let [x, y] = fitted.placement.scale;
            let how = if (x / y - 1.0).abs() > 0.02 { "resized, and stretched," } else { "resized" };
            let (to_width, to_height) = (spec.width, spec.height);
            notes.push(format!(
                "{}: {how} from {width}x{height} to {to_width}x{to_height} pixels",
                path.display()
            ));
        }
        self.note_guess(notes);
        let data = wide(&picture::normalise(&fitted.planes, spec));
        Ok(Read { data, placement: Some(fitted.placement) })
    }

    fn read_array(
        &self,
        path: &Path,
        array: Array,
        notes: &mut Vec<String>,
    ) -> Result<Vec<f64>, ClientError> {
        self.check_shape(&path.display().to_string(), &array.shape)?;
        let refuse = |reason: String| Err(DataError::Array { path: path.to_owned(), reason }.into());
        match (array.numbers, &self.image) {
            (Numbers::Values(values), _) => Ok(values),
            (Numbers::Pixels(pixels), Some(spec)) => {
                self.note_guess(notes);
                Ok(wide(&picture::normalise(&picture::planes_of_tensor(&pixels, spec), spec)))
            }
            (Numbers::Pixels(_), None) => refuse(format!(
                "it holds bytes, and the model's input `{}` is no picture; save float32 model inputs",
                self.part.input_name
            )),
            (Numbers::Integers(_), _) => {
                refuse("it holds integers; save uint8 pixels or float32 model inputs".to_owned())
            }
        }
    }

    fn note_guess(&self, notes: &mut Vec<String>) {
        if self.guesses_normalisation() {
            notes.push(GUESSED.to_owned());
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

    fn through_head(&self, model_input: Vec<f64>) -> Result<Vec<NamedTensor>, ClientError> {
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

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

fn check_finite(what: &str, values: &[f64]) -> Result<(), ClientError> {
    match values.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(ClientError::NotFinite { what: what.to_owned(), value: values[index], index }),
        None => Ok(()),
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, ClientError> {
    let refuse =
        |source: std::io::Error| ClientError::Data(DataError::Read { path: path.to_owned(), source });
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
/// [`ClientError::Data`] and [`ClientError::NoLabels`].
pub fn read_labels(path: &Path) -> Result<Vec<String>, ClientError> {
    let refuse = |source| ClientError::Data(DataError::Read { path: path.to_owned(), source });
    let text = std::fs::read_to_string(path).map_err(refuse)?;
    let labels: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    if labels.is_empty() { Err(ClientError::NoLabels { path: path.to_owned() }) } else { Ok(labels) }
}
