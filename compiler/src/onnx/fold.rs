//! Evaluation of nodes whose inputs are all constant, by tract.

use peregrine_data::onnx::{framework, guarded};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use tract_onnx::prelude::{Framework, IntoRunnable, tvec};
use tract_onnx::tract_hir::infer::InferenceModelExt;

use super::error::Refusal;
use super::load::value_info;
use super::node::NodeView;
use super::tensor::{Constant, MAX_ELEMENTS};

/// Results of `node` on constant inputs, one per output (a node's missing optional inputs are `None`).
pub(crate) fn evaluate(node: NodeView<'_>, inputs: &[Option<&Constant>]) -> Result<Vec<Constant>, Refusal> {
    match node.proto.op_type.as_str() {
        "Constant" => return constant(node).map(|c| vec![c]),
        "Identity" => return Ok(inputs.iter().flatten().map(|&c| c.clone()).collect()),
        _ => {}
    }
    check_size(node, inputs)?;
    let fail = |why: String| {
        Refusal::new(
            format!("its inputs are constant but it cannot be evaluated ({why})"),
            "replace it by its value (onnx-simplifier does)",
        )
    };
    let model = single_node_model(node, inputs);
    let run = || -> Result<Vec<_>, tract_onnx::prelude::TractError> {
        let typed = framework().model_for_proto_model(&model)?.into_typed()?;
        Ok(typed.into_runnable()?.run(tvec!())?.into_iter().collect())
    };
    let results = guarded(run).map_err(|e| fail(e.root_cause().to_string()))?;
    let results: Option<Vec<Constant>> = results.iter().map(|v| Constant::from_tract(v)).collect();
    results.ok_or_else(|| fail("unexpected element type".to_owned()))
}

/// The tensor of a Constant node.
fn constant(node: NodeView<'_>) -> Result<Constant, Refusal> {
    if let Some(tensor) = node.tensor("value")? {
        let again = |e: super::error::ImportError| Refusal::new(e.to_string(), "export the model again");
        return Constant::new(tensor.clone()).map_err(again);
    }
    if let Some(x) = node.float("value_float")? {
        return Ok(Constant::floats(vec![], &[x]));
    }
    if let Some(x) = node.floats("value_floats")? {
        return Ok(Constant::floats(vec![x.len()], x));
    }
    if let Some(x) = node.int("value_int")? {
        return Ok(Constant::ints(vec![], &[x]));
    }
    if let Some(x) = node.ints("value_ints")? {
        return Ok(Constant::ints(vec![x.len()], x));
    }
    Err(Refusal::new("the constant is no tensor, number or list of numbers", "replace it by an initialiser"))
}

/// Refuses nodes that ask for more elements than a constant may have.
fn check_size(node: NodeView<'_>, inputs: &[Option<&Constant>]) -> Result<(), Refusal> {
    let asked: Vec<i64> = match node.proto.op_type.as_str() {
        "ConstantOfShape" => inputs.first().copied().flatten().map(Constant::to_i64).unwrap_or_default(),
        "Expand" | "Tile" | "Pad" | "Resize" | "Upsample" | "OneHot" | "Range" => {
            let largest = inputs.iter().flatten().map(|c| c.len() as i64).max().unwrap_or(1);
            let numbers = inputs.iter().flatten().filter(|c| c.len() <= 16).flat_map(|c| c.to_i64());
            std::iter::once(largest).chain(numbers.map(|n| n.saturating_abs().max(1))).collect()
        }
        _ => return Ok(()),
    };
    let product = asked
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?).filter(|&n| n <= MAX_ELEMENTS));
    match product {
        Some(_) => Ok(()),
        None => Err(Refusal::new(
            format!("it makes a constant of more than {MAX_ELEMENTS} elements"),
            "export the model again",
        )),
    }
}

fn single_node_model(node: NodeView<'_>, inputs: &[Option<&Constant>]) -> ModelProto {
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("in{i}")).collect();
    let initializer =
        inputs.iter().zip(&names).filter_map(|(c, name)| c.map(|c| c.initializer(name))).collect();
    let input =
        inputs.iter().zip(names).map(|(c, name)| if c.is_some() { name } else { String::new() }).collect();
    let output: Vec<String> = (0..node.proto.output.len()).map(|i| format!("out{i}")).collect();
    let graph = GraphProto {
        name: "constant".to_owned(),
        output: output.iter().map(|name| value_info(name, DataType::Float, None)).collect(),
        node: vec![NodeProto { input, output, name: "node".to_owned(), ..node.proto.clone() }],
        initializer,
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: String::new(), version: node.opset };
    ModelProto { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }
}
