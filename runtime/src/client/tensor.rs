//! Named tensors on the client side.

/// Name and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPort {
    /// ONNX name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
}

/// A tensor in the clear, row-major, with its ONNX name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// ONNX name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` numbers.
    pub data: Vec<f64>,
}

impl NamedTensor {
    /// Whether it is one vector of at least two numbers: every other extent is 1.
    pub fn is_vector(&self) -> bool {
        self.data.len() > 1 && self.shape.iter().filter(|&&extent| extent != 1).count() == 1
    }
}

/// A shape as `1x3x32x32`.
pub fn shape_text(shape: &[usize]) -> String {
    match shape {
        [] => "scalar".to_owned(),
        _ => shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x"),
    }
}

/// Whether two shapes differ at most in leading extents of 1 (the batch).
pub fn same_but_batch(a: &[usize], b: &[usize]) -> bool {
    let strip = |shape: &[usize]| -> usize { shape.iter().take_while(|&&extent| extent == 1).count() };
    a[strip(a)..] == b[strip(b)..]
}
