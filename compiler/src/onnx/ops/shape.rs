//! Reshapes, and transposes that move nothing.

use peregrine_ir::ValueId;
use peregrine_ir::tensor::TensorOp;
use tract_onnx::pb::tensor_proto::DataType;

use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::translate::{Translator, Value};

/// Axes from 0 to rank - 1, negative ones counted from the end.
pub(super) fn normal_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Refusal> {
    let normal =
        |&a: &i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok().filter(|&a| a < rank);
    axes.iter().map(normal).collect::<Option<_>>().ok_or_else(|| {
        Refusal::new(format!("axes {axes:?} are outside rank {rank}"), "export the model again")
    })
}

fn to_shape(t: &mut Translator, node: NodeView<'_>, x: ValueId, shape: Vec<usize>) -> Result<Value, Refusal> {
    if t.shape(x) == shape.as_slice() {
        return Ok(Value::Data(x));
    }
    let fits =
        shape.first() == Some(&1) && shape.iter().product::<usize>() == t.shape(x).iter().product::<usize>();
    if !fits {
        let (from, to) = (shape_text(Some(t.shape(x))), shape_text(Some(&shape)));
        return Err(Refusal::new(
            format!("it reshapes {from} to {to}"),
            "keep the batch of 1 as the first dimension",
        ));
    }
    t.emit_value(node, TensorOp::Reshape { shape }, &[x])
}

/// Flatten.
pub(super) fn flatten(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let shape = t.shape(x).to_vec();
    let rank = shape.len() as i64;
    let axis = node.int_or("axis", 1)?;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&a| a <= shape.len());
    let axis = axis.ok_or_else(|| Refusal::new("its axis is outside the rank", "use axis 1"))?;
    let (rows, columns): (usize, usize) = (shape[..axis].iter().product(), shape[axis..].iter().product());
    to_shape(t, node, x, vec![rows, columns])
}

/// Reshape to a constant shape.
pub(super) fn reshape(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let target = t.constant(node, 1)?.to_i64();
    let from = t.shape(x);
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
    to_shape(t, node, x, shape)
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
    let x = t.data(node, 0)?;
    let from = t.shape(x).to_vec();
    let axes = match axes(t, node, from.len())? {
        Some(axes) => axes,
        None => (0..from.len()).filter(|&i| from[i] == 1).collect(),
    };
    if axes.contains(&0) || axes.iter().any(|&a| from[a] != 1) {
        return Err(Refusal::new(
            "it removes the batch dimension or one that is not 1",
            "squeeze spatial axes only",
        ));
    }
    let kept = (0..from.len()).filter(|i| !axes.contains(i)).map(|i| from[i]).collect();
    to_shape(t, node, x, kept)
}

/// Unsqueeze.
pub(super) fn unsqueeze(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let from = t.shape(x).to_vec();
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
    to_shape(t, node, x, shape)
}

/// Transpose, where it moves dimensions of extent 1 only and so is a reshape.
pub(super) fn transpose(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = t.data(node, 0)?;
    let from = t.shape(x).to_vec();
    let reversed: Vec<i64> = (0..from.len() as i64).rev().collect();
    let perm = normal_axes(node.ints("perm")?.unwrap_or(&reversed), from.len())?;
    let moved: Vec<usize> = perm.iter().copied().filter(|&a| from[a] != 1).collect();
    if perm.len() == from.len() && moved.is_sorted() {
        return to_shape(t, node, x, perm.iter().map(|&a| from[a]).collect());
    }
    Err(Refusal::new(
        format!("it permutes the axes of {} by {perm:?}", shape_text(Some(&from))),
        "only a leading NHWC-to-NCHW transpose is supported: export the model in NCHW order",
    ))
}

/// Identity and Dropout (inference).
pub(super) fn same(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    Ok(Value::Data(t.data(node, 0)?))
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
