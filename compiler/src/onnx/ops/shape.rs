//! Reshapes and transposes: elements move when a layer reads them.

use tract_onnx::pb::tensor_proto::DataType;

use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};
use crate::onnx::view::elements;

/// Axes from 0 to rank - 1, negative ones counted from the end.
pub(super) fn normal_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Refusal> {
    let normal =
        |&a: &i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok().filter(|&a| a < rank);
    axes.iter().map(normal).collect::<Option<_>>().ok_or_else(|| {
        Refusal::new(format!("axes {axes:?} are outside rank {rank}"), "export the model again")
    })
}

/// The elements of input 0 in another shape.
fn to_shape(t: &mut Translator, node: NodeView<'_>, shape: Vec<usize>) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    if elements(&shape) != view.len() {
        let (from, to) = (shape_text(Some(&view.shape)), shape_text(Some(&shape)));
        return Err(Refusal::new(
            format!("it reshapes {from} to {to}"),
            "check that the input size is the one the model was made for (--input-shape)",
        ));
    }
    t.moved(view.reshaped(shape))
}

/// Flatten.
pub(super) fn flatten(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let shape = t.data_shape(node, 0)?;
    let rank = shape.len() as i64;
    let axis = node.int_or("axis", 1)?;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&a| a <= shape.len());
    let axis = axis.ok_or_else(|| Refusal::new("its axis is outside the rank", "use axis 1"))?;
    let (rows, columns): (usize, usize) = (shape[..axis].iter().product(), shape[axis..].iter().product());
    to_shape(t, node, vec![rows, columns])
}

/// Reshape to a constant shape.
pub(super) fn reshape(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let from = &t.data_shape(node, 0)?;
    let target = t.constant(node, 1)?.to_i64();
    let total: usize = from.iter().product();
    let bad = || {
        Refusal::new(
            format!("its shape {target:?} does not fit {}", shape_text(Some(from))),
            "export the model again",
        )
    };
    let keep_zero = node.int_or("allowzero", 0)? != 0;
    let mut shape = Vec::with_capacity(target.len());
    for (i, &d) in target.iter().enumerate() {
        shape.push(match d {
            0 if !keep_zero => Some(*from.get(i).ok_or_else(bad)?),
            -1 => None,
            d => Some(usize::try_from(d).ok().filter(|&d| d > 0).ok_or_else(bad)?),
        });
    }
    let known = shape.iter().flatten().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(bad)?;
    if shape.iter().filter(|d| d.is_none()).count() > 1 || !total.is_multiple_of(known) {
        return Err(bad());
    }
    let shape = shape.into_iter().map(|d| d.unwrap_or(total / known)).collect();
    to_shape(t, node, shape)
}

/// Axes of Squeeze and Unsqueeze: an attribute before opset 13, an input since.
fn axes(t: &Translator, node: NodeView<'_>, rank: usize) -> Result<Option<Vec<usize>>, Refusal> {
    let list = match node.opset < 13 {
        true => node.ints("axes")?.map(<[i64]>::to_vec),
        false => t.optional(node, 1)?.map(|c| c.to_i64()),
    };
    list.map(|list| normal_axes(&list, rank)).transpose()
}

/// Squeeze.
pub(super) fn squeeze(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let from = t.data_shape(node, 0)?;
    let axes = match axes(t, node, from.len())? {
        Some(axes) => axes,
        None => (0..from.len()).filter(|&i| from[i] == 1).collect(),
    };
    if axes.iter().any(|&a| from[a] != 1) {
        return Err(Refusal::new("it removes a dimension that is not 1", "export the model again"));
    }
    let kept = (0..from.len()).filter(|i| !axes.contains(i)).map(|i| from[i]).collect();
    to_shape(t, node, kept)
}

/// Unsqueeze.
pub(super) fn unsqueeze(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let from = t.data_shape(node, 0)?;
    let given = match node.opset < 13 {
        true => node.ints("axes")?.map_or(0, <[i64]>::len),
        false => t.constant(node, 1)?.len(),
    };
    let axes = axes(t, node, from.len() + given)?.unwrap_or_default();
    let mut rest = from.iter().copied();
    let shape = (0..from.len() + given).map(|i| if axes.contains(&i) { Some(1) } else { rest.next() });
    let shape = shape
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Refusal::new("its axes repeat", "export the model again"))?;
    to_shape(t, node, shape)
}

/// Transpose.
pub(super) fn transpose(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let view = t.view(node, 0)?;
    let rank = view.shape.len();
    let reversed: Vec<i64> = (0..rank as i64).rev().collect();
    let order = normal_axes(node.ints("perm")?.unwrap_or(&reversed), rank)?;
    if order.iter().collect::<std::collections::BTreeSet<_>>().len() != rank {
        return Err(Refusal::new(format!("its order {order:?} is no permutation"), "export the model again"));
    }
    t.moved(view.permuted(&order))
}

/// Dropout, which must not be in training mode.
pub(super) fn dropout(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let training = t.optional(node, 2)?.and_then(|c| c.scalar()).is_some_and(|v| v != 0.0);
    match training {
        false => same(t, node),
        true => {
            Err(Refusal::new("it is in training mode", "export the model in evaluation mode (model.eval())"))
        }
    }
}

/// Identity.
pub(super) fn same(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    Ok(t.value(node, 0)?.clone())
}

/// Cast from a float to a float.
pub(super) fn cast(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let to = node.int_or("to", 0)?;
    let to = i32::try_from(to).ok().and_then(|to| DataType::try_from(to).ok());
    match to {
        Some(DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16) => same(t, node),
        other => {
            let name = other.map_or("an unknown type", |k| k.as_str_name());
            Err(Refusal::new(
                format!("it casts encrypted values to {name}"),
                "encrypted values are real numbers: remove the cast",
            ))
        }
    }
}
