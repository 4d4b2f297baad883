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
    match elements(node, inputs)? {
        Some(count) if count.is_nan() || count > MAX_ELEMENTS as f64 => Err(Refusal::new(
            format!("it makes a constant of more than {MAX_ELEMENTS} elements"),
            "export the model again",
        )),
        _ => Ok(()),
    }
}

/// Elements of the result of a node that can give more than it reads.
fn elements(node: NodeView<'_>, inputs: &[Option<&Constant>]) -> Result<Option<f64>, Refusal> {
    let numbers = |i: usize| inputs.get(i).copied().flatten().map(Constant::to_f64).unwrap_or_default();
    let shape = inputs.first().copied().flatten().map(|c| c.shape().to_vec()).unwrap_or_default();
    let data: f64 = shape.iter().map(|&d| d as f64).product();
    let product = |numbers: &[f64]| numbers.iter().map(|n| n.abs().max(1.0)).product::<f64>();
    let count = match node.proto.op_type.as_str() {
        "ConstantOfShape" => product(&numbers(0)),
        "Expand" => {
            let asked = numbers(1);
            let rank = asked.len().max(shape.len());
            let extent = |axis: usize| {
                let from_end = |len: usize| (axis + len).checked_sub(rank);
                let own = from_end(shape.len()).map_or(1.0, |i| shape[i] as f64);
                from_end(asked.len()).map_or(1.0, |i| asked[i].abs()).max(own)
            };
            (0..rank).map(extent).product()
        }
        "Tile" => data * product(&numbers(1)),
        "Pad" => {
            let stated = node.ints("pads")?.map(|pads| pads.iter().map(|&p| p as f64).collect());
            let pads: Vec<f64> = stated.unwrap_or_else(|| numbers(1));
            let all: f64 = pads.iter().map(|p| p.abs()).sum();
            let extent = |(axis, &d): (usize, &usize)| match pads.len() == 2 * shape.len() {
                true => d as f64 + pads[axis].abs() + pads[axis + shape.len()].abs(),
                false => d as f64 + all,
            };
            shape.iter().enumerate().map(extent).product()
        }
        "Upsample" => data * product(&numbers(1)),
        "Resize" if node.opset < 11 => data * product(&numbers(1)),
        "Resize" => (data * product(&numbers(2))).max(product(&numbers(3))),
        "OneHot" => data * product(&numbers(1)),
        "Range" => match [numbers(0), numbers(1), numbers(2)].map(|n| n.first().copied().unwrap_or(f64::NAN))
        {
            [start, limit, step] => (limit - start) / step,
        },
        _ => return Ok(None),
    };
    Ok(Some(count))
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
