//! Which nodes run where: the client's head (before encryption), the server, the client's tail (after decryption).
//!
//! * Head: the normalisations, casts, transposes and slices (space-to-depth) that the input goes through first, up to one value.
//! * Tail: what follows the last linear layer of every output (softmax, argmax, box decoding, non-maximum suppression): nodes
//!   without a convolution, matrix product or average pooling behind them. A layer of few weights behind an operator that only
//!   the client can run (the expectation after a softmax in box heads) is no such layer. Additions of constants and the like at
//!   the beginning of the tail stay on the server where they fold into the layer before ([`pending`]), and so does what only drops
//!   elements, so that fewer are encrypted.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ir::tensor::TensorGraph;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

use super::error::ImportError;
use super::handover::{Assembly, Handover};
use super::load::{Loaded, ModelInput, value_info};
use super::pending;
use super::tensor::Constant;
use super::translate::Value;
use crate::oracle::{Tract, encode};

/// Whether the client takes over parts of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientSplit {
    /// Head and tail run on the client.
    #[default]
    HeadAndTail,
    /// Everything is encrypted.
    Off,
}

/// Place of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    Server,
    Tail,
    /// Does not depend on the values of the input.
    Constant,
}

/// The three parts of a graph.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    places: Vec<Place>,
    /// Whether there are layers, or the client takes over nothing.
    needs_server: bool,
    /// Value that is encrypted.
    pub(crate) encrypted: String,
    /// Server values that leave the server, with their port names.
    pub(crate) ports: Vec<(String, String)>,
}

impl Split {
    /// Whether the client runs node `index`.
    pub(crate) fn is_client(&self, index: usize) -> bool {
        matches!(self.places[index], Place::Head | Place::Tail)
    }

    /// Whether the server has anything to do for values that are activations of the input.
    pub(crate) fn needs_server(&self) -> bool {
        self.needs_server
    }

    /// Whether the server does more than hand on what it gets.
    pub(crate) fn computes(&self, nodes: &[NodeProto]) -> bool {
        let hands_on =
            self.has(Place::Server) || self.ports.iter().any(|(value, _)| *value == self.encrypted);
        let mut server = nodes.iter().zip(&self.places).filter(|(_, place)| **place == Place::Server);
        !hands_on || server.any(|(node, _)| !moves_only(node))
    }

    /// Nodes of the tail.
    pub(crate) fn tail(&self) -> Vec<usize> {
        chosen(self, Place::Tail)
    }

    /// A tail of nothing but handovers needs names of its own for the other outputs.
    pub(crate) fn name_apart(&mut self, graph: &mut TensorGraph) {
        for (value, port) in self.ports.iter_mut().filter(|(value, port)| value == port) {
            *port = encrypted_name(value);
            graph.outputs.iter_mut().filter(|o| o.name == *value).for_each(|o| o.name.clone_from(port));
        }
    }

    fn has(&self, place: Place) -> bool {
        self.places.contains(&place)
    }
}

/// Users of values, and which values are constant.
pub(crate) struct Facts<'a> {
    pub(crate) graph: &'a GraphProto,
    pub(crate) constants: &'a BTreeMap<String, Constant>,
    constant: BTreeSet<&'a str>,
    /// Nodes that read a value's numbers (not only its shape).
    readers: BTreeMap<&'a str, Vec<usize>>,
    /// Values behind an operator that only the client can run.
    revealed: BTreeSet<&'a str>,
}

impl<'a> Facts<'a> {
    fn new(model: &'a Loaded) -> Self {
        let graph = model.graph();
        let mut facts = Self {
            graph,
            constants: &model.constants,
            constant: model.constants.keys().map(String::as_str).collect(),
            readers: BTreeMap::new(),
            revealed: BTreeSet::new(),
        };
        for (index, node) in graph.node.iter().enumerate() {
            if reads_shape_only(node) || inputs(node).all(|i| facts.constant.contains(i)) {
                facts.constant.extend(outputs(node));
                continue;
            }
            let reads: Vec<&str> = inputs(node).filter(|i| !facts.constant.contains(i)).collect();
            if client_only(node) || reads.iter().any(|i| facts.revealed.contains(i)) {
                facts.revealed.extend(outputs(node));
            }
            for input in reads {
                facts.readers.entry(input).or_default().push(index);
            }
        }
        facts
    }

    /// Layers that only the server may run: they hold the weights, or shrink what the client would have to download.
    pub(crate) fn is_layer(&self, node: &NodeProto) -> bool {
        let weights = || {
            let held =
                inputs(node).filter_map(|i| self.constants.get(i)).map(Constant::len).max().unwrap_or(0);
            held > FEW_WEIGHTS || !inputs(node).any(|i| self.revealed.contains(i))
        };
        match node.op_type.as_str() {
            "Conv" | "ConvTranspose" | "Gemm" => weights(),
            "MatMul" => inputs(node).any(|i| self.constant.contains(i)) && weights(),
            "AveragePool" | "GlobalAveragePool" | "ReduceMean" | "BatchNormalization" => {
                !inputs(node).any(|i| self.revealed.contains(i))
            }
            "LSTM" | "GRU" | "RNN" => true,
            _ => false,
        }
    }

    /// Whether a value does not depend on the input.
    pub(crate) fn is_constant_value(&self, value: &str) -> bool {
        self.constant.contains(value)
    }

    fn is_constant(&self, node: &NodeProto) -> bool {
        outputs(node).all(|o| self.constant.contains(o))
    }

    pub(crate) fn readers(&self, value: &str) -> &[usize] {
        self.readers.get(value).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn is_output(&self, value: &str) -> bool {
        self.graph.output.iter().any(|o| o.name == value)
    }

    /// Inputs of a node that depend on the model's input.
    pub(crate) fn data_inputs(&self, node: &'a NodeProto) -> impl Iterator<Item = &'a str> {
        inputs(node).filter(|i| !self.constant.contains(i))
    }
}

/// Names of the values that a node reads.
pub(crate) fn inputs(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.input.iter().map(String::as_str).filter(|i| !i.is_empty())
}

/// Names of the values that a node gives.
pub(crate) fn outputs(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.output.iter().map(String::as_str).filter(|o| !o.is_empty())
}

/// Whether a node reads no numbers of its operand.
pub(crate) fn reads_shape_only(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Shape" | "Size")
}

/// A layer of at most this many weights behind an operator that only the client can run runs there too.
const FEW_WEIGHTS: usize = 1 << 8;

/// Operators that have no encrypted form whatever the activations are replaced by.
fn client_only(node: &NodeProto) -> bool {
    matches!(
        node.op_type.as_str(),
        "Softmax"
            | "LogSoftmax"
            | "Hardmax"
            | "ArgMax"
            | "ArgMin"
            | "TopK"
            | "NonMaxSuppression"
            | "NonZero"
            | "Where"
            | "Greater"
            | "GreaterOrEqual"
            | "Less"
            | "LessOrEqual"
            | "Equal"
            | "Not"
            | "And"
            | "Or"
            | "ReduceMax"
            | "ReduceMin"
            | "GatherND"
            | "ScatterND"
            | "GridSample"
            | "RoiAlign"
    )
}

/// Operators that compute nothing: their results hold elements of their operands.
fn moves_only(node: &NodeProto) -> bool {
    matches!(
        node.op_type.as_str(),
        "Identity"
            | "Dropout"
            | "Cast"
            | "Reshape"
            | "Flatten"
            | "Squeeze"
            | "Unsqueeze"
            | "Transpose"
            | "Slice"
            | "Gather"
            | "Split"
            | "Concat"
            | "Expand"
            | "Tile"
            | "Pad"
            | "DepthToSpace"
            | "SpaceToDepth"
    )
}

/// Splits the graph of a model with one input.
pub(crate) fn split(model: &Loaded, input: &str, rank: usize, choice: ClientSplit) -> Split {
    let facts = Facts::new(model);
    let nodes = &facts.graph.node;
    let mut places: Vec<Place> =
        nodes.iter().map(|n| if facts.is_constant(n) { Place::Constant } else { Place::Server }).collect();
    let mut encrypted = input.to_owned();
    let layers = nodes.iter().any(|n| facts.is_layer(n));
    if choice == ClientSplit::HeadAndTail && layers {
        mark_tail(&facts, &mut places);
        encrypted = mark_head(&facts, &mut places, input, rank);
    }
    let ports = ports(&facts, &places, &encrypted);
    Split { places, needs_server: layers || choice == ClientSplit::Off, encrypted, ports }
}

fn mark_tail(facts: &Facts<'_>, places: &mut [Place]) {
    let nodes = &facts.graph.node;
    let mut before_layer = vec![false; nodes.len()];
    for (index, node) in nodes.iter().enumerate().rev() {
        if places[index] == Place::Constant {
            continue;
        }
        let leads = |reader: &usize| before_layer[*reader] || facts.is_layer(&nodes[*reader]);
        before_layer[index] = outputs(node).any(|o| facts.readers(o).iter().any(leads));
        if !before_layer[index] && !facts.is_layer(node) {
            places[index] = Place::Tail;
        }
    }
    let tail: Vec<usize> = chosen_of(places, Place::Tail);
    let mut client: BTreeSet<&str> = BTreeSet::new();
    let mut made = pending::Made::by_layers(facts);
    for index in tail {
        let node = &nodes[index];
        let first = facts.data_inputs(node).all(|i| !client.contains(i));
        match first.then(|| made.stays(facts, node)).flatten() {
            Some(result) => {
                places[index] = Place::Server;
                made.insert(node, result);
            }
            None => client.extend(outputs(node)),
        }
    }
}

/// Marks the head and returns the name of the value that is encrypted: the last one that the client can compute and through
/// which everything else sees the input.
fn mark_head(facts: &Facts<'_>, places: &mut [Place], input: &str, rank: usize) -> String {
    let nodes = &facts.graph.node;
    let mut computable: BTreeSet<&str> = BTreeSet::from([input]);
    let mut makers: Vec<usize> = Vec::new();
    let mut best: Option<(usize, Vec<usize>)> = None;
    for (index, node) in nodes.iter().enumerate() {
        let data: Vec<&str> = facts.data_inputs(node).collect();
        let one_output = outputs(node).count() == 1;
        let here = places[index] == Place::Server && one_output && !data.is_empty();
        if !here || !runs_in_head(node, rank) || !data.iter().all(|i| computable.contains(i)) {
            continue;
        }
        computable.extend(outputs(node));
        makers.push(index);
        if let Some(needed) = separates(facts, &makers, index, input)
            && !unread(facts, node)
        {
            best = Some((index, needed));
        }
    }
    let Some((last, needed)) = best else { return input.to_owned() };
    for index in needed {
        places[index] = Place::Head;
    }
    nodes[last].output[0].clone()
}

/// Whether what a node gives is read at all and is no output of the model.
fn unread(facts: &Facts<'_>, node: &NodeProto) -> bool {
    outputs(node).any(|o| facts.is_output(o) || facts.readers(o).is_empty())
}

/// The nodes that `last` needs, when no other node and no output reads their values or the input.
fn separates(facts: &Facts<'_>, makers: &[usize], last: usize, input: &str) -> Option<Vec<usize>> {
    let nodes = &facts.graph.node;
    let mut wanted: BTreeSet<&str> = facts.data_inputs(&nodes[last]).collect();
    let mut needed = vec![last];
    for &index in makers.iter().rev().filter(|&&i| i != last) {
        if outputs(&nodes[index]).any(|o| wanted.contains(o)) {
            needed.push(index);
            wanted.extend(facts.data_inputs(&nodes[index]));
        }
    }
    let inner = needed.iter().filter(|&&i| i != last).flat_map(|&i| outputs(&nodes[i]));
    let closed = inner.chain([input]).all(|value| {
        !facts.is_output(value) && facts.readers(value).iter().all(|reader| needed.contains(reader))
    });
    needed.sort_unstable();
    closed.then_some(needed)
}

fn runs_in_head(node: &NodeProto, input_rank: usize) -> bool {
    match node.op_type.as_str() {
        "Add" | "Sub" | "Mul" | "Div" | "Cast" | "Transpose" | "Identity" | "BatchNormalization"
        | "Slice" | "Concat" | "Clip" | "Resize" | "SpaceToDepth" => true,
        "Reshape" | "Unsqueeze" | "Squeeze" => input_rank != 4,
        _ => false,
    }
}

/// Name of the port of a value whose own name the client's model needs.
fn encrypted_name(value: &str) -> String {
    format!("{value}/encrypted")
}

/// Server values that the tail or the user reads, in that order of first use by outputs, then nodes.
fn ports(facts: &Facts<'_>, places: &[Place], encrypted: &str) -> Vec<(String, String)> {
    let nodes = &facts.graph.node;
    let mut server: BTreeSet<&str> = BTreeSet::from([encrypted]);
    for (node, _) in nodes.iter().zip(places).filter(|(_, p)| **p == Place::Server) {
        server.extend(outputs(node));
    }
    let has_tail = places.contains(&Place::Tail);
    let in_order =
        nodes.iter().zip(places).filter(|(_, p)| **p == Place::Tail).flat_map(|(n, _)| facts.data_inputs(n));
    let outputs = facts.graph.output.iter().map(|o| o.name.as_str());
    let mut ports: Vec<(String, String)> = Vec::new();
    for value in in_order.chain(outputs) {
        let leaves = server.contains(value) || (facts.constant.contains(value) && facts.is_output(value));
        if leaves && ports.iter().all(|(v, _)| v != value) {
            let shared = (has_tail && facts.is_output(value)) || value == encrypted;
            let port = if shared { encrypted_name(value) } else { value.to_owned() };
            ports.push((value.to_owned(), port));
        }
    }
    ports
}

/// The head as a model of its own.
pub(crate) struct HeadModel {
    /// ONNX; it gives the encrypted value as a map, `[1, C, H, W]`.
    pub(crate) bytes: Vec<u8>,
    /// Shape of the encrypted value in the model.
    pub(crate) shape: Vec<usize>,
}

/// Whether a value is no map, but can be reshaped to one.
pub(crate) fn is_flat(shape: &[usize]) -> bool {
    matches!(shape.len(), 2 | 3)
}

/// Features or rows as a map: `[1, F]` becomes `[1, F, 1, 1]`.
pub(crate) fn as_map(shape: &[usize]) -> Vec<usize> {
    let extents = if is_flat(shape) { 4 } else { shape.len() };
    shape.iter().copied().chain(std::iter::repeat(1)).take(extents).collect()
}

/// Name of a value as a map.
pub(crate) fn map_name(value: &str) -> String {
    format!("{value}/map")
}

/// The head as a model of its own; `None` when the input is encrypted as it is.
pub(crate) fn head_model(
    model: &Loaded,
    split: &Split,
    input: &ModelInput,
) -> Result<Option<HeadModel>, ImportError> {
    if !split.has(Place::Head) && (!is_flat(&input.shape) || !input.is_float()) {
        return Ok(None);
    }
    let graph = model.graph();
    let chosen = chosen(split, Place::Head);
    let given: BTreeSet<&str> = model.inputs.iter().map(|i| i.name.as_str()).collect();
    let wanted = close(graph, &chosen, &given, |_| None);
    let output = value_info(&split.encrypted, DataType::Float, None);
    let mut part = part_model(model, "head", &wanted, graph.input.clone(), vec![output]);
    let mut shape = input.shape.clone();
    if split.has(Place::Head) {
        let fail = |why: String| ImportError::ClientModel { part: "head", why };
        let tract = Tract::of_proto(&part).map_err(|e| fail(e.to_string()))?;
        let (found, kind) = tract.output_fact(0).ok_or_else(|| fail("it has no output".into()))?;
        if !kind.is_float() {
            return Err(ImportError::InputType {
                value: split.encrypted.clone(),
                found: format!("{kind:?}"),
            });
        }
        shape = found.to_vec();
    }
    if let Some(graph) = part.graph.as_mut().filter(|_| is_flat(&shape)) {
        end_with_map(graph, &split.encrypted, &as_map(&shape));
    }
    Ok(Some(HeadModel { bytes: encode(&part), shape }))
}

/// Reshapes the only output of a graph.
fn end_with_map(graph: &mut GraphProto, value: &str, shape: &[usize]) {
    let (constant, map) = (format!("{value}/shape"), map_name(value));
    let extents: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    graph.initializer.push(Constant::ints(vec![extents.len()], &extents).initializer(&constant));
    graph.node.push(NodeProto {
        name: map.clone(),
        op_type: "Reshape".to_owned(),
        input: vec![value.to_owned(), constant],
        output: vec![map.clone()],
        ..NodeProto::default()
    });
    graph.output = vec![value_info(&map, DataType::Float, Some(shape))];
}

/// The tail as a model of its own, from the ports to the model's outputs; `None` when there is no tail.
/// `values` are the translated graph's, `shape_of` gives the shapes of its encrypted ones.
pub(crate) fn tail_model(
    model: &Loaded,
    split: &Split,
    values: &BTreeMap<String, Value>,
    handovers: &[Handover],
    shape_of: impl Fn(&str) -> Option<Vec<usize>>,
) -> Result<Option<Vec<u8>>, ImportError> {
    if !split.has(Place::Tail) && handovers.is_empty() {
        return Ok(None);
    }
    let graph = model.graph();
    let given: BTreeSet<&str> = split.ports.iter().map(|(value, _)| value.as_str()).collect();
    let known = |name: &str| match values.get(name) {
        Some(Value::Constant(c)) => Some(c.clone()),
        _ => None,
    };
    let wanted = close(graph, &chosen(split, Place::Tail), &given, known);
    let mut part = part_model(model, "tail", &wanted, Vec::new(), graph.output.clone());
    if let Some(part) = part.graph.as_mut() {
        part.initializer.extend(wanted.constants.iter().map(|(name, c)| c.initializer(name)));
        let mut first = Vec::new();
        for (value, port) in &split.ports {
            match handovers.iter().find(|h| h.is_of(value)) {
                Some(handover) => {
                    let Assembly { inputs, nodes, initializers } = handover.assembly();
                    part.input.extend(inputs);
                    part.initializer.extend(initializers);
                    first.extend(nodes);
                }
                None => {
                    part.input.push(value_info(port, DataType::Float, shape_of(value).as_deref()));
                    if *value == split.encrypted {
                        // The graph around the parts has an input of this name.
                        read_from_port(&mut part.node, value, port);
                    } else if value != port {
                        first.push(identity(value, port));
                    }
                }
            }
        }
        part.node.splice(0..0, first);
    }
    Tract::of_proto(&part).map_err(|e| ImportError::ClientModel { part: "tail", why: e.to_string() })?;
    Ok(Some(encode(&part)))
}

fn read_from_port(nodes: &mut [NodeProto], value: &str, port: &str) {
    let read = nodes.iter_mut().flat_map(|n| &mut n.input).filter(|input| *input == value);
    read.for_each(|input| port.clone_into(input));
}

/// A port under the name of its value.
fn identity(value: &str, port: &str) -> NodeProto {
    NodeProto {
        name: format!("{value}/decrypted"),
        op_type: "Identity".to_owned(),
        input: vec![port.to_owned()],
        output: vec![value.to_owned()],
        ..NodeProto::default()
    }
}

fn chosen(split: &Split, place: Place) -> Vec<usize> {
    chosen_of(&split.places, place)
}

fn chosen_of(places: &[Place], place: Place) -> Vec<usize> {
    (0..places.len()).filter(|&i| places[i] == place).collect()
}

/// Nodes, initialisers and known constants that a part needs.
struct Closure {
    nodes: BTreeSet<usize>,
    initializers: BTreeSet<String>,
    constants: BTreeMap<String, Constant>,
}

/// What the chosen nodes need beyond `given` values: initialisers, `known` constants, and nodes that compute others.
fn close(
    graph: &GraphProto,
    chosen: &[usize],
    given: &BTreeSet<&str>,
    known: impl Fn(&str) -> Option<Constant>,
) -> Closure {
    let maker: BTreeMap<&str, usize> =
        graph.node.iter().enumerate().flat_map(|(i, n)| outputs(n).map(move |o| (o, i))).collect();
    let mut closure = Closure {
        nodes: chosen.iter().copied().collect(),
        initializers: BTreeSet::new(),
        constants: BTreeMap::new(),
    };
    let mut pending: Vec<&str> = chosen.iter().flat_map(|&i| inputs(&graph.node[i])).collect();
    while let Some(value) = pending.pop() {
        if given.contains(value) || closure.constants.contains_key(value) {
            continue;
        }
        match maker.get(value) {
            None => {
                closure.initializers.insert(value.to_owned());
            }
            Some(&index) => match known(value) {
                Some(constant) => {
                    closure.constants.insert(value.to_owned(), constant);
                }
                None => {
                    if closure.nodes.insert(index) {
                        pending.extend(inputs(&graph.node[index]));
                    }
                }
            },
        }
    }
    closure
}

fn part_model(
    model: &Loaded,
    name: &str,
    wanted: &Closure,
    input: Vec<tract_onnx::pb::ValueInfoProto>,
    output: Vec<tract_onnx::pb::ValueInfoProto>,
) -> ModelProto {
    let graph = model.graph();
    let part = GraphProto {
        name: name.to_owned(),
        node: wanted.nodes.iter().map(|&i| graph.node[i].clone()).collect(),
        initializer: graph
            .initializer
            .iter()
            .filter(|t| wanted.initializers.contains(&t.name))
            .cloned()
            .collect(),
        input,
        output,
        ..GraphProto::default()
    };
    let (ir_version, opset_import) = (model.proto.ir_version, model.proto.opset_import.clone());
    ModelProto { ir_version, opset_import, graph: Some(part), ..ModelProto::default() }
}
