//! The client part of an artefact: what happens before encryption and after decryption, in the clear.

/// How an image's pixels are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// One channel.
    Gray,
    /// Red, green, blue.
    Rgb,
}

/// Order of the axes of the model's image input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageOrder {
    /// `[1, C, H, W]`
    Nchw,
    /// `[1, H, W, C]`
    Nhwc,
}

/// How a picture becomes the model's input: decode, resize to (height, width), divide by 255, subtract `mean`, divide by `std`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSpec {
    /// Pixel format.
    pub format: PixelFormat,
    /// Axis order of the input tensor.
    pub order: ImageOrder,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// Per-channel mean, after division by 255.
    pub mean: Vec<f32>,
    /// Per-channel standard deviation, after division by 255.
    pub std: Vec<f32>,
}

/// Calibrated range of the values that enter one activation.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeRecord {
    /// ONNX node name of the activation.
    pub layer: String,
    /// Smallest value seen, per channel.
    pub low: Vec<f32>,
    /// Largest value seen, per channel.
    pub high: Vec<f32>,
}

/// A tensor of the client side, row-major, ONNX shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientTensor {
    /// Shape.
    pub shape: Vec<usize>,
    /// Numbers.
    pub data: Vec<f32>,
}

/// Everything the client needs besides the program's inputs, outputs and parameters. Holds no server weights.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ClientPart {
    /// Image preprocessing, when the input is an image.
    pub image: Option<ImageSpec>,
    /// ONNX name of the model's input and its shape (batch 1).
    pub input_name: String,
    /// Shape of the model's input.
    pub input_shape: Vec<usize>,
    /// ONNX model run before encryption (input normalisation), from the model's input to the program's input.
    pub head: Option<Vec<u8>>,
    /// ONNX model run after decryption (softmax, argmax, ...), from the program's outputs to the model's outputs.
    pub tail: Option<Vec<u8>>,
    /// Class names.
    pub labels: Vec<String>,
    /// The sample given to the compiler: a model input (before the head).
    pub sample: Option<ClientTensor>,
    /// Calibrated ranges.
    pub ranges: Vec<RangeRecord>,
    /// BLAKE3 of the ONNX file compiled.
    pub model_hash: [u8; 32],
    /// Version of the compiler.
    pub compiler: String,
}
