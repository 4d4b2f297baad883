//! Fully connected layers: Gemm and MatMul with a constant.

use peregrine_ir::tensor::{Conv, TensorOp};
use peregrine_ir::{AxisMap, Separable, ValueId};

use super::{axis_refusal, image_shape};
use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::tensor::Constant;
use crate::onnx::translate::{Translator, Value};
use crate::onnx::view::{NOWHERE, Part, View, elements};

/// Gemm `alpha A' B' + beta C` with encrypted A and constant B.
pub(super) fn gemm(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if node.int_or("transA", 0)? != 0 {
        return Err(Refusal::new("transA transposes the encrypted operand", "export without transA"));
    }
    let alpha = node.float("alpha")?.unwrap_or(1.0);
    let beta = node.float("beta")?.unwrap_or(1.0);
    let b = t.constant(node, 1)?;
    let &[rows, columns] = b.shape() else {
        return Err(Refusal::new("its weights are no matrix", "export the model again"));
    };
    let transposed = node.int_or("transB", 0)? != 0;
    let (inner, out) = if transposed { (columns, rows) } else { (rows, columns) };
    let mut weights = if transposed { b.to_f32() } else { transpose(&b.to_f32(), rows, columns) };
    weights.iter_mut().for_each(|w| *w *= alpha);
    let matrix = Matrix { weights, out, inner };
    match node.input(2).map(|_| t.value(node, 2)).transpose()?.cloned() {
        None => matrix.on_rows(t, node, None),
        Some(Value::Constant(c)) => {
            let bias = bias(&c, out, beta)?;
            matrix.on_rows(t, node, Some(bias))
        }
        Some(Value::Data(_) | Value::View(_)) if beta == 1.0 && t.data_shape(node, 2)? == [1, out] => {
            let product = matrix.apply(t, node, None)?;
            let addend = t.data(node, 2)?;
            t.emit_value(node, TensorOp::Add, &[product, addend])
        }
        Some(_) => Err(Refusal::new("its addend is encrypted and scaled or broadcast", "use MatMul and Add")),
    }
}

/// MatMul of an encrypted row, or of a map with channels last, with a constant matrix.
pub(super) fn matmul(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let encrypted = |v: &Value| matches!(v, Value::Data(_) | Value::View(_));
    if encrypted(t.value(node, 0)?) && encrypted(t.value(node, 1)?) {
        return Err(Refusal::new(
            "both operands are encrypted",
            "attention-like products are not supported: remove the layer",
        ));
    }
    if !encrypted(t.value(node, 0)?) {
        return from_left(t, node);
    }
    let shape = t.data_shape(node, 0)?;
    let b = t.constant(node, 1)?;
    let &[rows, columns] = b.shape() else {
        return Err(Refusal::new("its constant is no matrix", "flatten to [1, F] before it"));
    };
    let matrix = Matrix { weights: transpose(&b.to_f32(), rows, columns), out: columns, inner: rows };
    if let [1, _] = shape[..] {
        return Ok(Value::Data(matrix.apply(t, node, None)?));
    }
    if let Value::Data(x) = *t.value(node, 0)?
        && shape.len() == 4
    {
        check_inner(shape[3], rows)?;
        return along(t, node, x, 2, &matrix);
    }
    matrix.per_pixel(t, node, &shape, None)
}

/// A constant matrix times a map: it mixes rows; times channels over pixels in one axis: a 1x1 convolution.
fn from_left(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let a = t.constant(node, 0)?;
    let &[out, inner] = a.shape() else {
        return Err(Refusal::new("its constant is no matrix", "swap the operands"));
    };
    let shape = t.data_shape(node, 1)?;
    let matrix = Matrix { weights: a.to_f32(), out, inner };
    match shape[..] {
        [1, _, rows, _] => {
            check_inner(rows, inner)?;
            let x = t.data(node, 1)?;
            along(t, node, x, 1, &matrix)
        }
        [1, channels, pixels] => {
            check_inner(channels, inner)?;
            let last = t.view(node, 1)?.permuted(&[0, 2, 1]);
            let product = matrix.per_pixel_of(t, node, &last, &[1, pixels, channels], None)?;
            t.moved(product.permuted(&[0, 2, 1]))
        }
        _ => Err(Refusal::new("its encrypted operand is neither a map nor a row", "swap the operands")),
    }
}

/// The matrix along one of channels, rows and columns of a map.
fn along(
    t: &mut Translator,
    node: NodeView<'_>,
    x: ValueId,
    axis: usize,
    matrix: &Matrix,
) -> Result<Value, Refusal> {
    let extents = image_shape(t.shape(x))?;
    let mut maps = extents.map(|extent| AxisMap::identity(extent as u32));
    let place = |i: usize| (i / matrix.inner) as i64;
    let entries = matrix.weights.iter().enumerate().map(|(i, &w)| (place(i), (i % matrix.inner) as i64, w));
    maps[axis] = AxisMap::collect(matrix.inner as u32, matrix.out as u32, entries).map_err(axis_refusal)?;
    t.emit_value(node, TensorOp::Separable(Separable { maps }), &[x])
}

/// Weights `[out, inner]`.
struct Matrix {
    weights: Vec<f32>,
    out: usize,
    inner: usize,
}

impl Matrix {
    /// The product with input 0, one row or several.
    fn on_rows(
        &self,
        t: &mut Translator,
        node: NodeView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Value, Refusal> {
        let shape = t.data_shape(node, 0)?;
        match shape[..] {
            [rows, _] if rows > 1 => self.per_pixel(t, node, &shape, bias),
            _ => Ok(Value::Data(self.apply(t, node, bias)?)),
        }
    }

    /// The product with input 0, a row. What moves its elements moves into the weights.
    fn apply(
        &self,
        t: &mut Translator,
        node: NodeView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<ValueId, Refusal> {
        let view = t.view(node, 0)?;
        let [1, features] = view.shape[..] else { return Err(one_row()) };
        check_inner(features, self.inner)?;
        let mut bias = bias.unwrap_or_else(|| vec![0.0; self.out]);
        if let Some(constants) = &view.constants {
            for (row, bias) in self.weights.chunks(self.inner).zip(&mut bias) {
                *bias += row.iter().zip(constants.iter()).map(|(w, c)| w * c).sum::<f32>();
            }
        }
        let mut bias = bias.iter().any(|&b| b != 0.0).then(|| t.floats(&[self.out], bias));
        let mut total: Option<ValueId> = None;
        for part in &view.parts {
            let width = elements(t.shape(part.base));
            let weights = self.moved(part, width);
            let weights = t.floats(&[self.out, width], weights);
            let mut x = part.base;
            if t.shape(x) != [1, width] {
                x = t.emit(node, TensorOp::Reshape { shape: vec![1, width] }, &[x])?;
            }
            let term = t.emit(node, TensorOp::FullyConnected { weights, bias: bias.take() }, &[x])?;
            total = Some(match total {
                None => term,
                Some(so_far) => t.emit(node, TensorOp::Add, &[so_far, term])?,
            });
        }
        total.ok_or_else(|| {
            Refusal::new("its operand does not depend on the input", "fold it into a constant")
        })
    }

    /// The weights on the elements of a tensor, in its own order.
    fn moved(&self, part: &Part, width: usize) -> Vec<f32> {
        if part.is_identity(width) {
            return self.weights.clone();
        }
        let mut moved = vec![0.0; self.out * width];
        for (row, moved) in self.weights.chunks(self.inner).zip(moved.chunks_mut(width)) {
            for (&w, &at) in row.iter().zip(part.table.iter()).filter(|(_, at)| **at != NOWHERE) {
                moved[at as usize] += w;
            }
        }
        moved
    }

    /// The product along the last axis of a tensor of more than one row: a 1x1 convolution.
    fn per_pixel(
        &self,
        t: &mut Translator,
        node: NodeView<'_>,
        shape: &[usize],
        bias: Option<Vec<f32>>,
    ) -> Result<Value, Refusal> {
        let view = t.view(node, 0)?;
        let product = self.per_pixel_of(t, node, &view, shape, bias)?;
        t.moved(product)
    }

    fn per_pixel_of(
        &self,
        t: &mut Translator,
        node: NodeView<'_>,
        view: &View,
        shape: &[usize],
        bias: Option<Vec<f32>>,
    ) -> Result<View, Refusal> {
        let Some((&inner, lines)) = shape.split_last() else { return Err(one_row()) };
        check_inner(inner, self.inner)?;
        let pixels = elements(lines);
        let map = view.parts.iter().map(|p| t.shape(p.base).to_vec()).find_map(|base| match base[..] {
            [1, _, h, w] if h * w == pixels => Some([h, w]),
            _ => None,
        });
        let [h, w] = map.unwrap_or([pixels, 1]);
        let first: Vec<usize> = std::iter::once(lines.len()).chain(0..lines.len()).collect();
        let map = view.permuted(&first).reshaped(vec![1, inner, h, w]);
        let x = t.settle(node.name(), &map)?;
        let weights = t.floats(&[self.out, inner, 1, 1], self.weights.clone());
        let bias = bias.map(|bias| t.floats(&[self.out], bias));
        let conv = Conv { weights, bias, stride: [1, 1], pads: [0; 4], dilation: [1, 1], groups: 1 };
        let y = t.emit(node, TensorOp::Conv(conv), &[x])?;
        let unfolded = [&[self.out], lines].concat();
        let last: Vec<usize> = (1..=lines.len()).chain([0]).collect();
        Ok(View::of(y, &[1, self.out, h, w]).reshaped(unfolded).permuted(&last))
    }
}

fn one_row() -> Refusal {
    Refusal::new("its encrypted operand is not of shape [1, F]", "put Flatten before it")
}

fn check_inner(features: usize, inner: usize) -> Result<(), Refusal> {
    match features == inner {
        true => Ok(()),
        false => Err(Refusal::new(
            format!("its weights expect {inner} features, its input has {features}"),
            "check that the input size is the one the model was trained for",
        )),
    }
}

fn bias(c: &Constant, out: usize, beta: f32) -> Result<Vec<f32>, Refusal> {
    let mut values = c.to_f32();
    if values.len() == 1 {
        values = vec![values[0]; out];
    }
    if values.len() != out || !matches!(c.shape(), [] | [_] | [1, _]) {
        return Err(Refusal::new(
            format!("its bias has shape {:?}, not [{out}]", c.shape()),
            "export the model again",
        ));
    }
    values.iter_mut().for_each(|v| *v *= beta);
    Ok(values)
}

fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| data[r * columns + c])).collect()
}
