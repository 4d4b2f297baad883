//! Maxima have no cheap encrypted form. On request every maximum before a layer becomes an average over the same window (each
//! window's mean is over the pixels inside the map), in the model itself, so that every later comparison is with the model that is
//! meant. Maxima after the last layer stay: the client takes them exactly.

use std::collections::BTreeSet;

use peregrine_data::onnx::display_name;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};

/// What happens to max pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxPools {
    /// They stay, and are refused when they have to be encrypted.
    #[default]
    Keep,
    /// They become average pools of the same window.
    Average,
}

/// Replaces the maxima before a layer by averages; the names of those replaced.
pub(crate) fn average(graph: &mut GraphProto) -> Vec<String> {
    let used = |name: &String| graph.node.iter().any(|n| n.input.contains(name));
    let with_indices: Vec<bool> = graph.node.iter().map(|n| n.output.get(1).is_some_and(used)).collect();
    let encrypted = before_layers(graph);
    let mut replaced = Vec::new();
    for (index, node) in graph.node.iter_mut().enumerate().filter(|(index, _)| encrypted[*index]) {
        if with_indices[index] || !matches!(node.domain.as_str(), "" | "ai.onnx") {
            continue;
        }
        let dilated = node.attribute.iter().any(|a| a.name == "dilations" && a.ints.iter().any(|&d| d != 1));
        match node.op_type.as_str() {
            "MaxPool" if !dilated => {
                node.op_type = "AveragePool".into();
                node.attribute.retain(|a| !matches!(a.name.as_str(), "storage_order" | "dilations"));
                node.attribute.push(AttributeProto {
                    name: "count_include_pad".into(),
                    r#type: AttributeType::Int as i32,
                    i: 0,
                    ..AttributeProto::default()
                });
                node.output.truncate(1);
            }
            "GlobalMaxPool" => node.op_type = "GlobalAveragePool".into(),
            "ReduceMax" => node.op_type = "ReduceMean".into(),
            _ => continue,
        }
        replaced.push(display_name(node).to_owned());
    }
    replaced
}

/// Whether a layer of weights or of averages follows each node.
fn before_layers(graph: &GraphProto) -> Vec<bool> {
    let mut read: BTreeSet<&str> = BTreeSet::new();
    let mut before = vec![false; graph.node.len()];
    for (index, node) in graph.node.iter().enumerate().rev() {
        before[index] = node.output.iter().any(|o| read.contains(o.as_str()));
        if before[index] || is_layer(node) {
            read.extend(node.input.iter().map(String::as_str).filter(|i| !i.is_empty()));
        }
    }
    before
}

fn is_layer(node: &NodeProto) -> bool {
    matches!(
        node.op_type.as_str(),
        "Conv"
            | "ConvTranspose"
            | "Gemm"
            | "MatMul"
            | "BatchNormalization"
            | "AveragePool"
            | "GlobalAveragePool"
            | "ReduceMean"
    )
}
