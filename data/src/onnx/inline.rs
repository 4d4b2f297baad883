//! Inlining of model-local functions (such as `PolyAct` of domain `ai.peregrine`, whose body is plain Mul and Add).

use std::collections::BTreeMap;

use thiserror::Error;
use tract_onnx::pb::{AttributeProto, FunctionProto, ModelProto, NodeProto};

use super::display_name;

/// Deepest nesting of function calls.
const MAX_DEPTH: usize = 16;
/// Most nodes a model may have after inlining.
const MAX_NODES: usize = 1 << 20;

/// Why the functions of a model cannot be inlined.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FunctionsError {
    /// The model has functions and no graph.
    #[error("the file holds no graph")]
    NoGraph,
    /// The bodies are too many.
    #[error("functions expand to more than {MAX_NODES} nodes")]
    TooMany,
    /// Functions call one another without an end.
    #[error("functions call one another more than {MAX_DEPTH} deep")]
    TooDeep,
}

/// Replaces every call of a model-local function by its body and removes the functions.
///
/// # Errors
/// [`FunctionsError`].
pub fn inline_functions(model: &mut ModelProto) -> Result<(), FunctionsError> {
    let functions = std::mem::take(&mut model.functions);
    if functions.is_empty() {
        return Ok(());
    }
    let Some(graph) = model.graph.as_mut() else { return Err(FunctionsError::NoGraph) };
    for _ in 0..MAX_DEPTH {
        let mut nodes = Vec::new();
        let mut called = false;
        for (index, node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
            match functions
                .iter()
                .find(|f| f.name.as_deref() == Some(&node.op_type) && domain(f) == node.domain)
            {
                None => nodes.push(node),
                Some(function) => {
                    called = true;
                    nodes.extend(body(function, &node, index));
                }
            }
            if nodes.len() > MAX_NODES {
                return Err(FunctionsError::TooMany);
            }
        }
        graph.node = nodes;
        if !called {
            return Ok(());
        }
    }
    Err(FunctionsError::TooDeep)
}

fn domain(function: &FunctionProto) -> &str {
    function.domain.as_deref().unwrap_or("")
}

/// The body's nodes with the call's values and attributes put in; inner values get the call's name as prefix.
fn body(function: &FunctionProto, call: &NodeProto, index: usize) -> Vec<NodeProto> {
    let prefix = format!("{}#{index}", display_name(call));
    let formal = function.input.iter().chain(&function.output);
    let missing = String::new();
    let actual_in = function.input.iter().enumerate().map(|(i, _)| call.input.get(i).unwrap_or(&missing));
    let actual_out = function.output.iter().enumerate().map(|(i, _)| call.output.get(i).unwrap_or(&missing));
    let names: BTreeMap<&String, &String> = formal.zip(actual_in.chain(actual_out)).collect();
    let rename = |value: &String| match names.get(value) {
        Some(&actual) if !actual.is_empty() || function.input.contains(value) => actual.clone(),
        _ if value.is_empty() => String::new(),
        _ => format!("{prefix}/{value}"),
    };
    let attribute = |a: &AttributeProto| match a.ref_attr_name.is_empty() {
        true => Some(a.clone()),
        false => {
            let given = call.attribute.iter().find(|g| g.name == a.ref_attr_name)?;
            Some(AttributeProto { name: a.name.clone(), ..given.clone() })
        }
    };
    let inline = |node: &NodeProto| NodeProto {
        name: format!("{}/{}", display_name(call), display_name(node)),
        input: node.input.iter().map(rename).collect(),
        output: node.output.iter().map(rename).collect(),
        attribute: node.attribute.iter().filter_map(attribute).collect(),
        ..node.clone()
    };
    function.node.iter().map(inline).collect()
}
