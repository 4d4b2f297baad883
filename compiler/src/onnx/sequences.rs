//! A tensor that is split into a sequence whose members are read by constant places is a Split: so PyTorch's exporter writes
//! `torch.split` in some versions. Other sequences stay, and are refused by name.

use std::collections::BTreeMap;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

use super::tensor::Constant;

/// Replaces such sequences.
pub(crate) fn unroll(graph: &mut GraphProto, opset: i64) {
    let constants = constants(graph);
    let list = |name: Option<&String>| constants.get(name?).map(Constant::to_i64);
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in graph.node.iter().filter(|n| n.op_type == "SplitToSequence") {
        let (Some(sizes), Some(sequence)) = (list(node.input.get(1)), node.output.first()) else { continue };
        let is_vector = constants.get(&node.input[1]).is_some_and(|c| c.shape().len() == 1);
        let place = |reader: &NodeProto| member(reader, sequence, sizes.len(), &list);
        let mut readers = graph.node.iter().filter(|n| n.input.contains(sequence));
        if is_vector && readers.all(|reader| place(reader).is_some()) && !is_output(graph, sequence) {
            let names = (0..sizes.len()).map(|i| format!("{sequence}/{i}")).collect();
            parts.insert(sequence.clone(), names);
        }
    }
    for node in &mut graph.node {
        if let Some(names) = node.output.first().and_then(|sequence| parts.get(sequence)) {
            let sizes = list(node.input.get(1)).unwrap_or_default();
            *node = split(node, names, sizes, opset);
        } else if let Some(names) = node.input.first().and_then(|sequence| parts.get(sequence))
            && let Some(at) = member(node, &node.input[0], names.len(), &list)
        {
            node.op_type = "Identity".to_owned();
            node.input = vec![names[at].clone()];
        }
    }
}

/// Which member of a sequence of `length` a node reads.
fn member(
    node: &NodeProto,
    sequence: &String,
    length: usize,
    list: &impl Fn(Option<&String>) -> Option<Vec<i64>>,
) -> Option<usize> {
    if node.op_type != "SequenceAt" || node.input.first() != Some(sequence) {
        return None;
    }
    let [at] = list(node.input.get(1))?[..] else { return None };
    let at = if at < 0 { at + length as i64 } else { at };
    usize::try_from(at).ok().filter(|&at| at < length)
}

fn split(node: &NodeProto, names: &[String], sizes: Vec<i64>, opset: i64) -> NodeProto {
    let mut out = NodeProto { op_type: "Split".to_owned(), output: names.to_vec(), ..node.clone() };
    out.attribute.retain(|a| a.name == "axis");
    if opset < 13 {
        out.input.truncate(1);
        out.attribute.push(AttributeProto {
            name: "split".to_owned(),
            r#type: AttributeType::Ints as i32,
            ints: sizes,
            ..AttributeProto::default()
        });
    }
    out
}

fn is_output(graph: &GraphProto, name: &str) -> bool {
    graph.output.iter().any(|o| o.name == name)
}

/// Whole numbers that the graph holds, as initialisers or as Constant nodes.
fn constants(graph: &GraphProto) -> BTreeMap<String, Constant> {
    let given = graph.initializer.iter().map(|t| (t.name.clone(), t));
    let made = graph.node.iter().filter(|n| n.op_type == "Constant").filter_map(|n| {
        let value: &TensorProto = n.attribute.iter().find(|a| a.name == "value")?.t.as_ref()?;
        Some((n.output.first()?.clone(), value))
    });
    let small = |t: &TensorProto| t.dims.iter().product::<i64>() <= MOST_PARTS && t.dims.len() <= 1;
    given
        .chain(made)
        .filter(|(_, t)| small(t))
        .filter_map(|(name, t)| Some((name, Constant::new(t.clone()).ok()?)))
        .collect()
}

/// Most parts of a split.
const MOST_PARTS: i64 = 1 << 10;
