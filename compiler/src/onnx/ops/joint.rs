//! Element-wise operators of two operands: two encrypted tensors, or one and a constant.

use peregrine_ir::ValueId;
use peregrine_ir::tensor::{Activation, TensorOp};

use super::affine::{affine, per_channel};
use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};

/// Operands of a binary operator.
enum Operands {
    Both(ValueId, ValueId),
    /// Encrypted first, one value per channel second.
    ConstantRight(ValueId, Vec<f64>),
    ConstantLeft(Vec<f64>, ValueId),
}

fn operands(t: &Translator, node: NodeView<'_>) -> Result<Operands, Refusal> {
    match (t.value(node, 0)?, t.value(node, 1)?) {
        (&Value::Data(a), &Value::Data(b)) => {
            let (left, right) = (t.shape(a), t.shape(b));
            if left == right {
                return Ok(Operands::Both(a, b));
            }
            Err(Refusal::new(
                format!(
                    "it broadcasts encrypted {} with {}",
                    shape_text(Some(left)),
                    shape_text(Some(right))
                ),
                "only tensors of one shape can be combined under encryption: remove the layer (squeeze-and-excitation, say)",
            ))
        }
        (&Value::Data(a), Value::Constant(c)) => Ok(Operands::ConstantRight(a, per_channel(c, t.shape(a))?)),
        (Value::Constant(c), &Value::Data(b)) => Ok(Operands::ConstantLeft(per_channel(c, t.shape(b))?, b)),
        _ => Err(Refusal::new("it has no encrypted operand", "fold it")),
    }
}

/// Add.
pub(super) fn add(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(a, b) => t.emit_value(node, TensorOp::Add, &[a, b]),
        Operands::ConstantRight(x, c) | Operands::ConstantLeft(c, x) => {
            affine(t, node, x, vec![1.0; c.len()], c)
        }
    }
}

/// Sub.
pub(super) fn sub(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(a, b) => t.emit_value(node, TensorOp::Sub, &[a, b]),
        Operands::ConstantRight(x, c) => {
            affine(t, node, x, vec![1.0; c.len()], c.into_iter().map(|v| -v).collect())
        }
        Operands::ConstantLeft(c, x) => affine(t, node, x, vec![-1.0; c.len()], c),
    }
}

/// Mul; `x Sigmoid(x)` becomes Silu and `x HardSigmoid(x; 1/6, 1/2)` HardSwish.
pub(super) fn mul(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(a, b) => match gated(t, a, b).or_else(|| gated(t, b, a)) {
            Some((x, activation)) => t.emit_value(node, TensorOp::Activation(activation), &[x]),
            None => t.emit_value(node, TensorOp::Mul, &[a, b]),
        },
        Operands::ConstantRight(x, c) | Operands::ConstantLeft(c, x) => {
            let zero = vec![0.0; c.len()];
            affine(t, node, x, c, zero)
        }
    }
}

/// The activation that `x * gate` is, when gate is a sigmoid of x.
fn gated(t: &Translator, x: ValueId, gate: ValueId) -> Option<(ValueId, Activation)> {
    let gate = &t.graph.nodes[gate];
    if gate.args.as_slice() != [x] {
        return None;
    }
    let close = |a: f32, b: f32| (a - b).abs() < 1e-4;
    match gate.op {
        TensorOp::Activation(Activation::Sigmoid) => Some((x, Activation::Silu)),
        TensorOp::Activation(Activation::HardSigmoid { alpha, beta })
            if close(alpha, 1.0 / 6.0) && close(beta, 0.5) =>
        {
            Some((x, Activation::HardSwish))
        }
        _ => None,
    }
}

/// Div by a constant.
pub(super) fn div(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::ConstantRight(x, c) if c.iter().all(|&v| v != 0.0) => {
            let zero = vec![0.0; c.len()];
            affine(t, node, x, c.into_iter().map(|v| 1.0 / v).collect(), zero)
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
    let mut total: Option<ValueId> = None;
    for i in 0..node.proto.input.len() {
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
    total.map(Value::Data).ok_or_else(|| Refusal::new("it has no operand", "export the model again"))
}
