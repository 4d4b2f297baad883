//! Element-wise operators of two operands: two encrypted tensors, or one and a constant.

use peregrine_ir::ValueId;
use peregrine_ir::tensor::TensorOp;

use super::affine::{Operand, affine, channels, with_constant};
use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};
use crate::onnx::view::View;

/// Operands of a binary operator.
enum Operands {
    /// Both encrypted.
    Both(Pair),
    /// Encrypted first, one value per channel second.
    ConstantRight(Operand, Vec<f64>),
    ConstantLeft(Vec<f64>, Operand),
}

/// Two tensors of one shape whose elements correspond.
struct Pair {
    left: ValueId,
    right: ValueId,
    /// How the elements of the result are moved.
    like: Operand,
}

fn operands(t: &mut Translator, node: NodeView<'_>) -> Result<Operands, Refusal> {
    match (t.value(node, 0)?.clone(), t.value(node, 1)?.clone()) {
        (Value::Data(_) | Value::View(_), Value::Data(_) | Value::View(_)) => {
            pair(t, node).map(Operands::Both)
        }
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

/// Both operands, the smaller one repeated to the shape of the larger. Where one of them is a permutation of a tensor
/// (channels last, say), the other is brought to the order of that tensor.
fn pair(t: &mut Translator, node: NodeView<'_>) -> Result<Pair, Refusal> {
    let shapes = [t.data_shape(node, 0)?, t.data_shape(node, 1)?];
    let shape = common_shape(&shapes[0], &shapes[1])?;
    let mut anchors = [None, None];
    for (i, anchor) in anchors.iter_mut().enumerate() {
        if shapes[i] == shape {
            *anchor = Operand::in_place(t, node, i)?;
        }
    }
    if let [Some(a), Some(b)] = &anchors
        && a.moves_like(b)
        && t.shape(a.x) == t.shape(b.x)
    {
        return Ok(Pair { left: a.x, right: b.x, like: a.clone() });
    }
    let order = match &anchors {
        [Some(_), Some(b)] if b.is_moved() => 1,
        [Some(_), _] => 0,
        [None, Some(_)] => 1,
        [None, None] => return settled(t, node, &shape),
    };
    let Some(like) = anchors[order].take() else { return settled(t, node, &shape) };
    let other = 1 - order;
    let view = repeated(t, node, other, &shape)?;
    let view = like.in_its_order(t, &view);
    let moved = t.settle(node.name(), &view)?;
    let (left, right) = if order == 0 { (like.x, moved) } else { (moved, like.x) };
    Ok(Pair { left, right, like })
}

fn settled(t: &mut Translator, node: NodeView<'_>, shape: &[usize]) -> Result<Pair, Refusal> {
    let (left, right) = (tensor(t, node, 0, shape)?, tensor(t, node, 1, shape)?);
    Ok(Pair { left, right, like: Operand::still(left) })
}

/// Operand `i` as a tensor of `shape`: one that is read as it is settles once for all that read it, so that a square is one.
fn tensor(t: &mut Translator, node: NodeView<'_>, i: usize, shape: &[usize]) -> Result<ValueId, Refusal> {
    if t.data_shape(node, i)? == shape {
        return t.data(node, i);
    }
    let view = repeated(t, node, i, shape)?;
    t.settle(node.name(), &view)
}

fn repeated(t: &Translator, node: NodeView<'_>, i: usize, shape: &[usize]) -> Result<View, Refusal> {
    let view = t.view(node, i)?;
    let from = view.shape.clone();
    super::select::expanded(view, shape)?.ok_or_else(|| no_common_shape(&from, shape))
}

/// The shape that two tensors broadcast to.
fn common_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Refusal> {
    let rank = a.len().max(b.len());
    let extent = |s: &[usize], axis: usize| (axis + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    let join = |axis: usize| match (extent(a, axis), extent(b, axis)) {
        (x, y) if x == y || y == 1 => Some(x),
        (1, y) => Some(y),
        _ => None,
    };
    (0..rank).map(join).collect::<Option<_>>().ok_or_else(|| no_common_shape(a, b))
}

fn no_common_shape(a: &[usize], b: &[usize]) -> Refusal {
    let (a, b) = (shape_text(Some(a)), shape_text(Some(b)));
    Refusal::new(
        format!("its operands {a} and {b} have no common shape"),
        "give an input whose sides the strides divide (--input-shape), or export the model again",
    )
}

fn joined(t: &mut Translator, node: NodeView<'_>, op: TensorOp, pair: &Pair) -> Result<Value, Refusal> {
    let y = t.emit(node, op, &[pair.left, pair.right])?;
    pair.like.result(t, y)
}

/// Add.
pub(super) fn add(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(pair) => joined(t, node, TensorOp::Add, &pair),
        Operands::ConstantRight(x, c) | Operands::ConstantLeft(c, x) => {
            affine(t, node, &x, vec![1.0; c.len()], c)
        }
    }
}

/// Sub.
pub(super) fn sub(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(pair) => joined(t, node, TensorOp::Sub, &pair),
        Operands::ConstantRight(x, c) => {
            affine(t, node, &x, vec![1.0; c.len()], c.into_iter().map(|v| -v).collect())
        }
        Operands::ConstantLeft(c, x) => affine(t, node, &x, vec![-1.0; c.len()], c),
    }
}

/// Mul.
pub(super) fn mul(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    match operands(t, node)? {
        Operands::Both(pair) => joined(t, node, TensorOp::Mul, &pair),
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
