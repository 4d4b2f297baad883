//! From bytes to a checked `ModelProto`: one input of fixed shape with batch 1, functions inlined, constants checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use peregrine_data::onnx::{display_name, inline_functions};
use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{GraphProto, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};

use super::error::ImportError;
use super::external::read_external;
use super::max_pools::{self, MaxPools};
use super::sequences::unroll;
use super::tensor::Constant;
use super::widen::widen;

/// Oldest operator set understood.
pub const MIN_OPSET: i64 = 7;
/// Newest operator set understood.
pub const MAX_OPSET: i64 = 23;
/// Largest protobuf message.
const MAX_BYTES: usize = (1 << 31) - 1;

/// The model's one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInput {
    /// ONNX name.
    pub name: String,
    /// Shape, batch 1.
    pub shape: Vec<usize>,
    /// ONNX element type.
    pub(crate) kind: DataType,
}

impl ModelInput {
    /// Whether it holds numbers that can be encrypted as they are.
    pub(crate) fn is_float(&self) -> bool {
        matches!(self.kind, DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16)
    }
}

/// A checked model. Its graph's nodes are in an order where every value is defined before it is used.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The model, functions inlined, input shapes fixed, shape annotations removed.
    pub(crate) proto: ModelProto,
    /// Operator set.
    pub(crate) opset: i64,
    /// Inputs that are no initialisers.
    pub(crate) inputs: Vec<ModelInput>,
    /// Initialisers by name.
    pub(crate) constants: BTreeMap<String, Constant>,
    /// Names of max pools that were replaced by average pools.
    pub(crate) averaged: Vec<String>,
}

impl Loaded {
    /// The graph.
    pub(crate) fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("load checks that there is a graph")
    }
}

/// How a file is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadOptions<'a> {
    /// Shape of the input of as many axes.
    pub(crate) input_shape: Option<&'a [usize]>,
    /// Where external weights lie.
    pub(crate) folder: Option<&'a Path>,
    /// What happens to max pools.
    pub(crate) max_pools: MaxPools,
}

/// Decodes and checks.
pub(crate) fn load(bytes: &[u8], options: LoadOptions<'_>) -> Result<Loaded, ImportError> {
    if bytes.len() > MAX_BYTES {
        return Err(ImportError::TooLarge { bytes: bytes.len(), limit: MAX_BYTES });
    }
    let mut proto = ModelProto::decode(bytes).map_err(|e| ImportError::Decode { why: e.to_string() })?;
    match proto.graph.as_ref().filter(|g| !g.output.is_empty()) {
        None => return Err(ImportError::NoGraph),
        Some(graph) if graph.node.is_empty() => return Err(ImportError::nothing_to_compute(graph)),
        Some(_) => {}
    }
    let opset = proto.opset_import.iter().find(|o| o.domain.is_empty() || o.domain == "ai.onnx");
    let opset = opset.map_or(0, |o| o.version);
    if !(MIN_OPSET..=MAX_OPSET).contains(&opset) {
        return Err(ImportError::Opset { found: opset, min: MIN_OPSET, max: MAX_OPSET });
    }
    inline_functions(&mut proto).map_err(|e| ImportError::Decode { why: e.to_string() })?;
    let graph = proto.graph.as_mut().ok_or(ImportError::NoGraph)?;
    if let Some(folder) = options.folder {
        read_external(graph, folder)?;
    }
    widen(graph)?;
    unroll(graph, opset);
    let averaged = match options.max_pools {
        MaxPools::Keep => Vec::new(),
        MaxPools::Average => max_pools::average(graph),
    };
    let constants = constants(graph)?;
    graph.input.retain(|i| !constants.contains_key(&i.name));
    drop_unread_inputs(graph);
    tell_nodes_apart(graph);
    graph.value_info.clear();
    let several = graph.input.len() > 1;
    let inputs = (graph.input.iter_mut())
        .map(|i| fix_input(i, options.input_shape.filter(|given| !several || rank(i) == Some(given.len()))))
        .collect::<Result<Vec<_>, _>>()?;
    for output in &mut graph.output {
        if let Some(TypeProto { value: Some(type_proto::Value::TensorType(t)), .. }) = &mut output.r#type {
            t.shape = None;
        }
    }
    check_order(graph, &inputs, &constants)?;
    Ok(Loaded { proto, opset, inputs, constants, averaged })
}

/// Forgets inputs that nothing reads, as long as one is left.
fn drop_unread_inputs(graph: &mut GraphProto) {
    let read: BTreeSet<&String> =
        graph.node.iter().flat_map(|n| &n.input).chain(graph.output.iter().map(|o| &o.name)).collect();
    let unread: Vec<bool> = graph.input.iter().map(|i| !read.contains(&i.name)).collect();
    if unread.contains(&false) {
        let mut unread = unread.into_iter();
        graph.input.retain(|_| unread.next() == Some(false));
    }
}

/// Gives nodes that share a name names of their own: tract tells them apart by these.
fn tell_nodes_apart(graph: &mut GraphProto) {
    let mut taken: BTreeSet<String> = graph.node.iter().map(|n| n.name.clone()).collect();
    let mut seen = BTreeSet::new();
    for node in graph.node.iter_mut().filter(|n| !n.name.is_empty()) {
        if !seen.insert(node.name.clone()) {
            let free = (2..).map(|i| format!("{}/{i}", node.name)).find(|name| !taken.contains(name));
            node.name = free.unwrap_or_default();
            taken.insert(node.name.clone());
        }
    }
}

fn constants(graph: &GraphProto) -> Result<BTreeMap<String, Constant>, ImportError> {
    if let Some(sparse) = graph.sparse_initializer.first() {
        let tensor = sparse.values.as_ref().map_or_else(String::new, |v| v.name.clone());
        return Err(ImportError::BadTensor { tensor, why: "sparse initialisers are not supported".into() });
    }
    graph.initializer.iter().map(|t| Ok((t.name.clone(), Constant::new(t.clone())?))).collect()
}

/// Number of dimensions of an input, where the file states it.
fn rank(info: &ValueInfoProto) -> Option<usize> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor.shape.as_ref()?.dim.len()),
    }
}

fn fix_input(info: &mut ValueInfoProto, given: Option<&[usize]>) -> Result<ModelInput, ImportError> {
    let name = info.name.clone();
    let tensor = match &mut info.r#type {
        Some(TypeProto { value: Some(type_proto::Value::TensorType(t)), .. }) => t,
        _ => return Err(ImportError::BadTensor { tensor: name, why: "the input has no tensor type".into() }),
    };
    let kind = DataType::try_from(tensor.elem_type)
        .map_err(|_| ImportError::BadTensor { tensor: name.clone(), why: "unknown element type".into() })?;
    let dims = tensor.shape.as_ref().map(|s| s.dim.as_slice());
    let shape = fix_shape(&name, dims, given)?;
    tensor.shape = Some(shape_proto(&shape));
    Ok(ModelInput { name, shape, kind })
}

/// Extent of a dimension, when the file fixes it.
fn fixed(dim: &Dimension) -> Option<usize> {
    match dim.value {
        Some(dimension::Value::DimValue(v)) if v > 0 => usize::try_from(v).ok(),
        _ => None,
    }
}

fn fix_shape(
    name: &str,
    dims: Option<&[Dimension]>,
    given: Option<&[usize]>,
) -> Result<Vec<usize>, ImportError> {
    if let Some(given) = given {
        // A fixed size may be replaced: whatever depends on it says so later.
        if dims.is_some_and(|dims| dims.len() != given.len()) || given.contains(&0) {
            let (found, given) = (dims_text(dims), format!("{given:?}"));
            return Err(ImportError::InputShape { input: name.to_owned(), found, given });
        }
    }
    let dynamic =
        |dimension| ImportError::DynamicShape { input: name.to_owned(), shape: dims_text(dims), dimension };
    let shape: Vec<usize> = match (dims, given) {
        (_, Some(given)) => given.to_vec(),
        (None, None) => return Err(dynamic(0)),
        (Some(dims), None) => {
            let extent = |(i, d): (usize, &Dimension)| match fixed(d) {
                Some(extent) => Ok(extent),
                None if i == 0 => Ok(1),
                None => Err(dynamic(i)),
            };
            dims.iter().enumerate().map(extent).collect::<Result<_, _>>()?
        }
    };
    match shape.first() {
        Some(1) | None => Ok(shape),
        Some(&batch) => Err(ImportError::Batch { input: name.to_owned(), batch: batch as i64 }),
    }
}

fn dims_text(dims: Option<&[Dimension]>) -> String {
    let Some(dims) = dims else { return "unknown".to_owned() };
    let text = |d: &Dimension| match &d.value {
        Some(dimension::Value::DimValue(v)) => v.to_string(),
        Some(dimension::Value::DimParam(p)) => p.clone(),
        None => "?".to_owned(),
    };
    format!("[{}]", dims.iter().map(text).collect::<Vec<_>>().join(","))
}

/// A fixed shape as protobuf.
pub(crate) fn shape_proto(shape: &[usize]) -> TensorShapeProto {
    let dim =
        |&d: &usize| Dimension { value: Some(dimension::Value::DimValue(d as i64)), ..Dimension::default() };
    TensorShapeProto { dim: shape.iter().map(dim).collect() }
}

/// A value of element type `kind`, with its shape when that is known.
pub(crate) fn value_info(name: &str, kind: DataType, shape: Option<&[usize]>) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: shape.map(shape_proto) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

fn check_order(
    graph: &GraphProto,
    inputs: &[ModelInput],
    constants: &BTreeMap<String, Constant>,
) -> Result<(), ImportError> {
    let mut defined: BTreeSet<&str> =
        inputs.iter().map(|i| i.name.as_str()).chain(constants.keys().map(String::as_str)).collect();
    let check = |defined: &BTreeSet<&str>, node: &str, value: &str| match value.is_empty()
        || defined.contains(value)
    {
        true => Ok(()),
        false => Err(ImportError::UndefinedValue { node: node.to_owned(), value: value.to_owned() }),
    };
    for node in &graph.node {
        node.input.iter().try_for_each(|value| check(&defined, display_name(node), value))?;
        defined.extend(node.output.iter().filter(|o| !o.is_empty()).map(String::as_str));
    }
    graph.output.iter().try_for_each(|output| check(&defined, "graph output", &output.name))
}
