//! Element-wise operators of two operands: two encrypted tensors, or one and a constant.

use peregrine_ir::ValueId;
use peregrine_ir::tensor::TensorOp;

use super::affine::{Operand, affine, channels, with_constant};
use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};

/// Operands of a binary operator.
enum Operands {
    Both(Operand, ValueId),
    /// Encrypted first, one value per channel second.
    ConstantRight(Operand, Vec<f64>),
    ConstantLeft(Vec<f64>, Operand),
}

fn operands(t: &mut Translator, node: NodeView<'_>) -> Result<Operands, Refusal> {
    match (t.value(node, 0)?.clone(), t.value(node, 1)?.clone()) {
        (Value::Data(_) | Value::View(_), Value::Data(_) | Value::View(_)) => both(t, node, 0, 1),
        (Value::Data(_) | Value::View(_), Value::Constant(c)) => {
            let (x, values) = with_constant(t, node, 0, &c)?;
            Ok(Operands::ConstantRight(x, values))
        }
        (Value::Constant(c), Value::Data(_) | Value::View(_)) => {
            let (x, values) = with_constant(t, node, 1, &c)?;
            Ok(Operands::ConstantLeft(values, x))
        }
        _ => Err(Refusal::new("it has no encrypted operand", "fold it")),
    }
}

fn both(t: &mut Translator, node: NodeView<'_>, i: usize, j: usize) -> Result<Operands, Refusal> {
    let (left, right) = (t.data_shape(node, i)?, t.data_shape(node, j)?);
    if left != right {
        let (left, right) = (shape_text(Some(&left)), shape_text(Some(&right)));
        return Err(Refusal::new(
            format!("it broadcasts encrypted {left} with {right}"),
            "only tensors of one shape can be combined under encryption: remove the layer (squeeze-and-excitation, say)",
        ));
    }
    let (a, b) = (Operand::read(t, node, i)?, Operand::read(t, node, j)?);
    if a.moves_like(&b) && t.shape(a.x) == t.shape(b.x) {
        return Ok(Operands::Both(a, b.x));
    }
    let (a, b) = (t.data(node, i)?, t.data(node, j)?);
    Ok(Operands::Both(Operand::still(a), b))
}

fn joined(
    t: &mut Translator,
    node: NodeView<'_>,
    op: TensorOp,
    a: &Operand,
    b: ValueId,
) -> Result<Value, Refusal> {
    let y = t.emit(node, op, &[a.x, b])?;
    a.result(t, y)
}

/// Add.
pub(super) fn add(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(a, b) => joined(t, node, TensorOp::Add, &a, b),
        Operands::ConstantRight(x, c) | Operands::ConstantLeft(c, x) => {
            affine(t, node, &x, vec![1.0; c.len()], c)
        }
    }
}

/// Sub.
pub(super) fn sub(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(a, b) => joined(t, node, TensorOp::Sub, &a, b),
        Operands::ConstantRight(x, c) => {
            affine(t, node, &x, vec![1.0; c.len()], c.into_iter().map(|v| -v).collect())
        }
        Operands::ConstantLeft(c, x) => affine(t, node, &x, vec![-1.0; c.len()], c),
    }
}

/// Mul.
pub(super) fn mul(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(a, b) => joined(t, node, TensorOp::Mul, &a, b),
        Operands::ConstantRight(x, c) | Operands::ConstantLeft(c, x) => {
            let zero = vec![0.0; c.len()];
            affine(t, node, &x, c, zero)
        }
    }
}

/// Div by a constant.
pub(super) fn div(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::ConstantRight(x, c) if c.iter().all(|&v| v != 0.0) => {
            let zero = vec![0.0; c.len()];
            affine(t, node, &x, c.into_iter().map(|v| 1.0 / v).collect(), zero)
        }
        Operands::ConstantRight(..) => Err(Refusal::new("it divides by zero", "export the model again")),
        _ => Err(Refusal::new(
            "it divides by an encrypted value",
            "replace it by a product with a polynomial and fine-tune",
        )),
    }
}

/// Sum of any number of operands.
pub(super) fn sum(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    total(t, node).map(|(x, _)| Value::Data(x))
}

/// Mean of any number of operands.
pub(super) fn mean(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let (x, count) = total(t, node)?;
    let channels = channels(t.shape(x))?;
    affine(t, node, &Operand::still(x), vec![1.0 / count as f64; channels], vec![0.0; channels])
}

fn total(t: &mut Translator, node: NodeView<'_>) -> Result<(ValueId, usize), Refusal> {
    let mut total: Option<ValueId> = None;
    let count = node.proto.input.len();
    for i in 0..count {
        let term = t.data(node, i)?;
        total = Some(match total {
            None => term,
            Some(so_far) if t.shape(so_far) == t.shape(term) => {
                t.emit(node, TensorOp::Add, &[so_far, term])?
            }
            Some(_) => {
                return Err(Refusal::new("it broadcasts encrypted operands", "use tensors of one shape"));
            }
        });
    }
    let total = total.ok_or_else(|| Refusal::new("it has no operand", "export the model again"))?;
    Ok((total, count))
}
