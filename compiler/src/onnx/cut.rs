//! Models whose end the client cannot run, or that have inputs beside the image which only the end reads, are cut before it: the
//! values that would go in become the outputs. Nothing with weights is ever cut off. Outputs that are inputs go, too.

use std::collections::BTreeSet;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};

use super::load::{Loaded, value_info};
use super::split::{inputs, outputs, reads_shape_only};
use crate::oracle::knows;

/// The end that was cut off a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Outputs of the model that are not computed.
    pub lost: Vec<String>,
    /// Values that are given out instead.
    pub given: Vec<String>,
    /// Why.
    pub why: String,
}

/// The model without the operators that tract does not know, if that leaves something.
pub(crate) fn unknown_operators(model: &Loaded, tail: &[usize], why: &str) -> Option<(Loaded, Cut)> {
    let unknown = |i: usize, node: &NodeProto| tail.contains(&i) && !knows(&node.op_type);
    without(model, unknown, why)
}

/// The model without the nodes of `tail`.
pub(crate) fn whole_tail(model: &Loaded, tail: &[usize], why: &str) -> Option<(Loaded, Cut)> {
    without(model, |i, _| tail.contains(&i), why)
}

/// The model without what reads other inputs than the one image.
pub(crate) fn other_inputs(model: &Loaded) -> Option<(Loaded, Cut)> {
    let image = |rank: usize| rank == 4;
    let mut images = model.inputs.iter().filter(|i| image(i.shape.len()));
    let (Some(_), None) = (images.next(), images.next()) else { return None };
    let others: Vec<&str> =
        model.inputs.iter().filter(|i| !image(i.shape.len())).map(|i| i.name.as_str()).collect();
    let why = format!("only one input can be encrypted, and the model's end reads {}", others.join(", "));
    without(model, |_, node| inputs(node).any(|i| others.contains(&i)), &why)
}

/// The model without outputs that are its inputs, if that leaves any.
pub(crate) fn inputs_as_outputs(model: &Loaded) -> Option<(Loaded, Cut)> {
    let is_input = |name: &String| model.inputs.iter().any(|i| i.name == *name);
    let names = model.graph().output.iter().map(|o| o.name.clone());
    let (lost, given): (Vec<String>, Vec<String>) = names.partition(is_input);
    if lost.is_empty() || given.is_empty() {
        return None;
    }
    let mut out = model.clone();
    if let Some(graph) = &mut out.proto.graph {
        graph.output.retain(|o| !is_input(&o.name));
    }
    Some((out, Cut { lost, given, why: "the client has the model's input already".to_owned() }))
}

/// The model without `bad` nodes and what depends on them; `None` when nothing or something with weights would go, or when
/// nothing is left.
fn without(model: &Loaded, bad: impl Fn(usize, &NodeProto) -> bool, why: &str) -> Option<(Loaded, Cut)> {
    let graph = model.graph();
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    let mut computed: BTreeSet<&str> = model.inputs.iter().map(|i| i.name.as_str()).collect();
    let mut read: Vec<&str> = Vec::new();
    for (index, node) in graph.node.iter().enumerate() {
        let follows = inputs(node).any(|i| gone.contains(i));
        if follows || bad(index, node) {
            if has_weights(node) {
                return None;
            }
            gone.extend(outputs(node));
            read.extend(inputs(node));
        } else if !reads_shape_only(node) && inputs(node).any(|i| computed.contains(i)) {
            computed.extend(outputs(node));
        }
    }
    if gone.is_empty() {
        return None;
    }
    let is_input = |name: &str| model.inputs.iter().any(|i| i.name == name);
    let kept = |name: &&str| !gone.contains(*name) && computed.contains(*name) && !is_input(name);
    let stated = graph.output.iter().map(|o| o.name.as_str());
    let mut given: Vec<&str> = Vec::new();
    for value in stated.chain(read.iter().copied()).filter(kept) {
        if !given.contains(&value) {
            given.push(value);
        }
    }
    if given.is_empty() {
        return None;
    }
    let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    let lost: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).filter(|o| gone.contains(o)).collect();
    let cut = Cut { lost: owned(&lost), given: owned(&given), why: why.to_owned() };
    Some((pruned(model, &given), cut))
}

fn has_weights(node: &NodeProto) -> bool {
    matches!(
        node.op_type.as_str(),
        "Conv" | "ConvTranspose" | "Gemm" | "MatMul" | "BatchNormalization" | "LSTM" | "GRU" | "RNN"
    )
}

/// The part of a model that its outputs `given` need.
fn pruned(model: &Loaded, given: &[&str]) -> Loaded {
    let graph = model.graph();
    let mut wanted: BTreeSet<&str> = given.iter().copied().collect();
    let mut nodes: Vec<NodeProto> = Vec::new();
    for node in graph.node.iter().rev() {
        if outputs(node).any(|o| wanted.contains(o)) {
            wanted.extend(inputs(node));
            nodes.push(node.clone());
        }
    }
    nodes.reverse();
    let output = |name: &&str| {
        let stated = graph.output.iter().find(|o| o.name == **name).cloned();
        stated.unwrap_or_else(|| value_info(name, DataType::Float, None))
    };
    let part = GraphProto {
        node: nodes,
        input: graph.input.iter().filter(|i| wanted.contains(i.name.as_str())).cloned().collect(),
        output: given.iter().map(output).collect(),
        initializer: graph.initializer.iter().filter(|t| wanted.contains(t.name.as_str())).cloned().collect(),
        ..graph.clone()
    };
    let mut out = model.clone();
    out.inputs.retain(|i| wanted.contains(i.name.as_str()));
    out.constants.retain(|name, _| part.initializer.iter().any(|t| t.name == *name));
    out.proto.graph = Some(part);
    out
}
