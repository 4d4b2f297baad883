//! What exporters write in several ways is brought to one: numbers of 16 and 64 bits become 32-bit floats, the scales of an
//! Upsample are an input, bounds of a NonMaxSuppression have one axis, a CastLike is a Cast.

use std::collections::BTreeSet;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

use super::error::ImportError;
use super::tensor::Constant;

/// Brings a graph to the one form.
pub(crate) fn widen(graph: &mut GraphProto) -> Result<(), ImportError> {
    graph.initializer.iter_mut().try_for_each(widen_tensor)?;
    for attribute in graph.node.iter_mut().flat_map(|n| n.attribute.iter_mut()) {
        attribute.t.iter_mut().try_for_each(widen_tensor)?;
    }
    graph.node.iter_mut().filter(|n| n.op_type == "Cast").for_each(widen_cast);
    let whole = |t: &TensorProto| t.data_type != DataType::Float as i32;
    let whole: BTreeSet<String> =
        graph.initializer.iter().filter(|t| whole(t)).map(|t| t.name.clone()).collect();
    graph.node.iter_mut().filter(|n| n.op_type == "CastLike").for_each(|node| cast_to_float(node, &whole));
    graph.input.iter_mut().chain(&mut graph.output).for_each(widen_type);
    let mut added = Vec::new();
    for node in &mut graph.node {
        match node.op_type.as_str() {
            "Upsample" => added.extend(scales_as_input(node)),
            "NonMaxSuppression" => added.extend(bounds_with_axis(node, &graph.initializer)),
            _ => {}
        }
    }
    graph.initializer.extend(added);
    Ok(())
}

fn is_other_float(kind: i32) -> bool {
    [DataType::Double, DataType::Float16, DataType::Bfloat16].iter().any(|&k| k as i32 == kind)
}

fn widen_tensor(tensor: &mut TensorProto) -> Result<(), ImportError> {
    if is_other_float(tensor.data_type) {
        let name = tensor.name.clone();
        let constant = Constant::new(std::mem::take(tensor))?;
        *tensor = Constant::floats(constant.shape().to_vec(), &constant.to_f32()).initializer(&name);
    }
    Ok(())
}

fn widen_cast(node: &mut NodeProto) {
    for to in node.attribute.iter_mut().filter(|a| a.name == "to") {
        if i32::try_from(to.i).is_ok_and(is_other_float) {
            to.i = DataType::Float as i64;
        }
    }
}

/// A CastLike a float, as values of a network are.
fn cast_to_float(node: &mut NodeProto, whole: &BTreeSet<String>) {
    if node.input.get(1).is_none_or(|like| whole.contains(like)) {
        return;
    }
    node.op_type = "Cast".to_owned();
    node.input.truncate(1);
    node.attribute.push(AttributeProto {
        name: "to".to_owned(),
        r#type: AttributeType::Int as i32,
        i: DataType::Float as i64,
        ..AttributeProto::default()
    });
}

fn widen_type(info: &mut ValueInfoProto) {
    let value = info.r#type.as_mut().and_then(|t| t.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = value
        && is_other_float(tensor.elem_type)
    {
        tensor.elem_type = DataType::Float as i32;
    }
}

/// Operator sets before 9 have the scales of an Upsample as an attribute.
fn scales_as_input(node: &mut NodeProto) -> Option<TensorProto> {
    let at = node.attribute.iter().position(|a| a.name == "scales")?;
    let AttributeProto { floats, .. } = node.attribute.remove(at);
    let name = format!("{}/scales", node.output.first()?);
    node.input.truncate(1);
    node.input.push(name.clone());
    Some(Constant::floats(vec![floats.len()], &floats).initializer(&name))
}

/// Limits and thresholds that are scalars, as vectors of one number.
fn bounds_with_axis(node: &mut NodeProto, constants: &[TensorProto]) -> Vec<TensorProto> {
    let mut added: Vec<TensorProto> = Vec::new();
    for input in node.input.iter_mut().skip(2) {
        let Some(scalar) = constants.iter().find(|t| t.name == *input && t.dims.is_empty()) else { continue };
        let name = format!("{}/{}", node.output.first().map_or("", String::as_str), scalar.name);
        *input = name.clone();
        if added.iter().all(|t| t.name != name) {
            added.push(TensorProto { name, dims: vec![1], ..scalar.clone() });
        }
    }
    added
}
