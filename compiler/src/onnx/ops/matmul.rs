//! Fully connected layers: Gemm and MatMul with a constant.

use peregrine_ir::ConstId;
use peregrine_ir::tensor::TensorOp;

use crate::onnx::error::Refusal;
use crate::onnx::node::NodeView;
use crate::onnx::tensor::Constant;
use crate::onnx::translate::{Translator, Value};

/// Gemm `alpha A' B' + beta C` with encrypted A of one row and constant B.
pub(super) fn gemm(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    if node.int_or("transA", 0)? != 0 {
        return Err(Refusal::new("transA transposes the encrypted operand", "export without transA"));
    }
    let &[1, features] = t.shape(x) else { return Err(one_row()) };
    let alpha = node.float("alpha")?.unwrap_or(1.0);
    let beta = node.float("beta")?.unwrap_or(1.0);
    let b = t.constant(node, 1)?;
    let &[rows, columns] = b.shape() else {
        return Err(Refusal::new("its weights are no matrix", "export the model again"));
    };
    let transposed = node.int_or("transB", 0)? != 0;
    let (inner, out) = if transposed { (columns, rows) } else { (rows, columns) };
    check_inner(features, inner)?;
    let mut weights = if transposed { b.to_f32() } else { transpose(&b.to_f32(), rows, columns) };
    weights.iter_mut().for_each(|w| *w *= alpha);
    let weights = t.floats(&[out, inner], weights);
    match node.input(2).map(|_| t.value(node, 2)).transpose()?.cloned() {
        None => t.emit_value(node, TensorOp::FullyConnected { weights, bias: None }, &[x]),
        Some(Value::Constant(c)) => {
            let bias = Some(bias(t, &c, out, beta)?);
            t.emit_value(node, TensorOp::FullyConnected { weights, bias }, &[x])
        }
        Some(Value::Data(c)) if beta == 1.0 && t.shape(c) == [1, out] => {
            let product = t.emit(node, TensorOp::FullyConnected { weights, bias: None }, &[x])?;
            t.emit_value(node, TensorOp::Add, &[product, c])
        }
        Some(_) => Err(Refusal::new("its addend is encrypted and scaled or broadcast", "use MatMul and Add")),
    }
}

/// MatMul of an encrypted row with a constant matrix.
pub(super) fn matmul(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if let (Value::Data(_), Value::Data(_)) = (t.value(node, 0)?, t.value(node, 1)?) {
        return Err(Refusal::new(
            "both operands are encrypted",
            "attention-like products are not supported: remove the layer",
        ));
    }
    let x = t.data(node, 0)?;
    let &[1, features] = t.shape(x) else { return Err(one_row()) };
    let b = t.constant(node, 1)?;
    let &[rows, columns] = b.shape() else {
        return Err(Refusal::new("its constant is no matrix", "flatten to [1, F] before it"));
    };
    check_inner(features, rows)?;
    let weights = t.floats(&[columns, rows], transpose(&b.to_f32(), rows, columns));
    t.emit_value(node, TensorOp::FullyConnected { weights, bias: None }, &[x])
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

fn bias(t: &mut Translator, c: &Constant, out: usize, beta: f32) -> Result<ConstId, Refusal> {
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
    Ok(t.floats(&[out], values))
}

fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| data[r * columns + c])).collect()
}
