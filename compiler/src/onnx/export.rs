//! `--emit onnx`: a tensor graph as plain ONNX, with the client's head and tail around it, so that any ONNX runtime can
//! check what the encrypted program computes.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ir::tensor::{Activation, Conv, Pool, PoolKind, TensorGraph, TensorOp};
use peregrine_ir::{AxisMap, ConstId, Separable, ValueId};
use prost::Message;
use thiserror::Error;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, ValueInfoProto,
};

use super::Imported;
use super::load::value_info;
use super::poly_act::{POLY_ACT_DOMAIN, PolyActs};
use super::tensor::Constant;

/// Operator set of an exported model that has no client parts.
const OPSET: i64 = 17;
/// Protobuf version that goes with it.
const IR_VERSION: i64 = 8;

/// Why a graph is not written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExportError {
    /// The graph breaks an invariant: a bug of the compiler.
    #[error("the tensor graph to export is invalid: {0}")]
    Invalid(String),
    /// The head or tail is no ONNX model: a bug of the compiler.
    #[error("the client part to export is unreadable: {0}")]
    Client(String),
}

/// The model that `graph` is, as ONNX; `around` gives the head, the tail, the operator set and the metadata.
///
/// # Errors
/// When the graph is invalid or `around` is unreadable.
pub fn export(graph: &TensorGraph, around: Option<&Imported>) -> Result<Vec<u8>, ExportError> {
    Ok(model(graph, around, None)?.encode_to_vec())
}

/// A tuned model: polynomials are calls of the model-local function `PolyAct`, and `properties` join the metadata of `around`,
/// replacing those of the same key.
///
/// # Errors
/// Those of [`export`].
pub fn export_tuned(
    graph: &TensorGraph,
    around: &Imported,
    properties: &[(&str, String)],
) -> Result<Vec<u8>, ExportError> {
    let degrees = graph.nodes.values().filter_map(|node| match &node.op {
        TensorOp::Poly { coefficients } => graph.tables.consts[*coefficients].shape.last().map(|n| n - 1),
        _ => None,
    });
    let mut model = model(graph, Some(around), Some(PolyActs::new(degrees)))?;
    for (key, value) in properties {
        model.metadata_props.retain(|p| p.key != *key);
        model.metadata_props.push(StringStringEntryProto { key: (*key).to_owned(), value: value.clone() });
    }
    Ok(model.encode_to_vec())
}

/// The model; with `poly_acts` its polynomials are calls of them.
fn model(
    graph: &TensorGraph,
    around: Option<&Imported>,
    poly_acts: Option<PolyActs>,
) -> Result<ModelProto, ExportError> {
    peregrine_ir::tensor::verify(graph).map_err(|e| ExportError::Invalid(e.to_string()))?;
    let decode = |bytes: &Option<Vec<u8>>| -> Result<Option<ModelProto>, ExportError> {
        bytes
            .as_ref()
            .map(|b| ModelProto::decode(b.as_slice()).map_err(|e| ExportError::Client(e.to_string())))
            .transpose()
    };
    let (head, tail) = match around {
        Some(imported) => (decode(&imported.head)?, decode(&imported.tail)?),
        None => (None, None),
    };
    let client = head.as_ref().or(tail.as_ref());
    let opset =
        client.and_then(|m| m.opset_import.iter().find(|o| o.domain.is_empty() || o.domain == "ai.onnx"));
    let mut writer = Writer::new(graph, opset.map_or(OPSET, |o| o.version));
    writer.poly_acts = poly_acts;
    if let Some(head) = head.as_ref().and_then(|h| h.graph.as_ref()) {
        writer.append(head);
        writer.out.input = head.input.clone();
    }
    writer.server();
    match tail.as_ref().and_then(|t| t.graph.as_ref()) {
        Some(tail) => {
            writer.append(tail);
            writer.out.output = tail.output.clone();
        }
        None => {
            writer.out.output = graph.outputs.iter().map(|o| output_info(graph, &o.name, o.value)).collect()
        }
    }
    let mut opset_import = vec![OperatorSetIdProto { domain: String::new(), version: writer.opset }];
    let mut ir_version = client.map_or(IR_VERSION, |m| m.ir_version);
    let mut functions = Vec::new();
    if let Some(poly_acts) = &writer.poly_acts {
        functions = poly_acts.functions(writer.opset);
        opset_import.push(OperatorSetIdProto { domain: POLY_ACT_DOMAIN.to_owned(), version: 1 });
        // Functions came with this version.
        ir_version = ir_version.max(IR_VERSION);
    }
    Ok(ModelProto {
        ir_version,
        opset_import,
        functions,
        producer_name: "peregrine".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        metadata_props: around.map_or_else(Vec::<StringStringEntryProto>::new, |i| i.metadata.clone()),
        graph: Some(writer.out),
        ..ModelProto::default()
    })
}

fn output_info(graph: &TensorGraph, name: &str, value: ValueId) -> ValueInfoProto {
    value_info(name, DataType::Float, Some(&graph.nodes[value].ty.shape))
}

/// The ONNX graph under construction.
struct Writer<'g> {
    graph: &'g TensorGraph,
    opset: i64,
    out: GraphProto,
    /// ONNX name of each value.
    names: BTreeMap<ValueId, String>,
    node_names: BTreeSet<String>,
    initializers: BTreeSet<String>,
    defined: BTreeSet<String>,
    /// Functions that polynomials call; without them they are plain operators.
    poly_acts: Option<PolyActs>,
}

impl<'g> Writer<'g> {
    fn new(graph: &'g TensorGraph, opset: i64) -> Self {
        let out = GraphProto { name: graph.name.clone(), ..GraphProto::default() };
        let (node_names, initializers, defined) = Default::default();
        let mut names = BTreeMap::new();
        for (id, node) in graph.nodes.iter() {
            let port = graph.outputs.iter().find(|o| o.value == id);
            names.insert(
                id,
                match (&node.op, port) {
                    (TensorOp::Input { name }, _) => name.clone(),
                    (_, Some(port)) => port.name.clone(),
                    (_, None) => format!("peregrine/{id}"),
                },
            );
        }
        Self { graph, opset, out, names, node_names, initializers, defined, poly_acts: None }
    }

    /// Appends a client part; what it shares with an earlier one is there already.
    fn append(&mut self, part: &GraphProto) {
        for tensor in &part.initializer {
            if self.initializers.insert(tensor.name.clone()) {
                self.out.initializer.push(tensor.clone());
            }
        }
        for node in &part.node {
            let again = node.output.iter().filter(|o| !o.is_empty()).all(|o| self.defined.contains(o));
            if !again {
                self.push(node.clone());
            }
        }
    }

    /// Adds a node; its name is made unique.
    fn push(&mut self, mut node: NodeProto) {
        let base = node.name.clone();
        let mut count = 0;
        while node.name.is_empty() || !self.node_names.insert(node.name.clone()) {
            count += 1;
            node.name = format!("{base}#{count}");
        }
        self.defined.extend(node.output.iter().cloned());
        self.out.node.push(node);
    }

    fn server(&mut self) {
        let graph = self.graph;
        for (id, node) in graph.nodes.iter() {
            self.node(id, &node.op);
        }
        for port in &graph.outputs {
            let name = self.names[&port.value].clone();
            if name != port.name {
                self.push(NodeProto {
                    name: port.name.clone(),
                    op_type: "Identity".to_owned(),
                    input: vec![name],
                    output: vec![port.name.clone()],
                    ..NodeProto::default()
                });
            }
        }
    }

    fn op(&mut self, id: ValueId, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        self.push(NodeProto {
            name: self.graph.nodes[id].origin.as_str().to_owned(),
            op_type: op.to_owned(),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..NodeProto::default()
        });
    }

    fn initializer(&mut self, name: String, constant: &Constant) -> String {
        if self.initializers.insert(name.clone()) {
            self.out.initializer.push(TensorProto { name: name.clone(), ..constant.initializer(&name) });
        }
        name
    }

    /// A constant of the graph under another shape.
    fn constant(&mut self, id: ConstId, shape: &[usize]) -> String {
        let values = self.graph.tables.consts[id].to_f32();
        let text: Vec<String> = shape.iter().map(usize::to_string).collect();
        self.initializer(
            format!("peregrine/{id}[{}]", text.join(",")),
            &Constant::floats(shape.to_vec(), &values),
        )
    }

    fn numbers(&mut self, name: String, shape: Vec<usize>, values: &[f32]) -> String {
        self.initializer(name, &Constant::floats(shape, values))
    }

    /// Shape in which one value per channel broadcasts over value `id`.
    fn channel_shape(&self, id: ValueId, channels: usize) -> Vec<usize> {
        let rank = self.graph.nodes[id].ty.shape.len();
        (0..rank).map(|axis| if axis == 1 { channels } else { 1 }).collect()
    }

    fn node(&mut self, id: ValueId, op: &TensorOp) {
        let args: Vec<String> = self.graph.nodes[id].args.iter().map(|a| self.names[a].clone()).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = self.names[&id].clone();
        match op {
            TensorOp::Input { name } => {
                if !self.defined.contains(name) {
                    let shape = &self.graph.nodes[id].ty.shape;
                    self.out.input.push(value_info(name, DataType::Float, Some(shape)));
                }
            }
            TensorOp::Conv(conv) => self.conv(id, conv, args[0], &out),
            TensorOp::FullyConnected { weights, bias } => {
                let features = self.graph.tables.consts[*weights].shape.clone();
                let weights = self.constant(*weights, &features);
                let bias = match bias {
                    Some(bias) => self.constant(*bias, &[features[0]]),
                    None => self.numbers(
                        format!("peregrine/{id}/zero"),
                        vec![features[0]],
                        &vec![0.0; features[0]],
                    ),
                };
                self.op(id, "Gemm", &[args[0], &weights, &bias], &out, vec![int("transB", 1)]);
            }
            TensorOp::ChannelAffine { mul, add } => {
                let shape = self.channel_shape(id, self.graph.tables.consts[*mul].len());
                let (mul, add) = (self.constant(*mul, &shape), self.constant(*add, &shape));
                let scaled = format!("{out}/scaled");
                self.op(id, "Mul", &[args[0], &mul], &scaled, vec![]);
                self.op(id, "Add", &[&scaled, &add], &out, vec![]);
            }
            TensorOp::Activation(activation) => self.activation(id, activation, args[0], &out),
            TensorOp::Poly { coefficients } => self.polynomial(id, *coefficients, args[0], &out),
            TensorOp::Add => self.op(id, "Add", &args, &out, vec![]),
            TensorOp::Sub => self.op(id, "Sub", &args, &out, vec![]),
            TensorOp::Mul => self.op(id, "Mul", &args, &out, vec![]),
            TensorOp::Pool(pool) => self.pool(id, pool, args[0], &out),
            TensorOp::GlobalAveragePool => self.op(id, "GlobalAveragePool", &args, &out, vec![]),
            TensorOp::Pad { pads: [top, left, bottom, right] } => {
                let pads = [0, 0, *top, *left, 0, 0, *bottom, *right].map(i64::from);
                if self.opset < 11 {
                    return self.op(id, "Pad", &args, &out, vec![ints("pads", &pads)]);
                }
                let pads = self.initializer(format!("peregrine/{id}/pads"), &Constant::ints(vec![8], &pads));
                self.op(id, "Pad", &[args[0], &pads], &out, vec![]);
            }
            TensorOp::Separable(map) => self.separable(id, map, args[0], &out),
            TensorOp::Reshape { shape } => {
                let target: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
                self.reshape(id, args[0], &out, &target);
            }
        }
    }

    /// A map of each coordinate: a `Gather` where it selects, else a product with a matrix.
    fn separable(&mut self, id: ValueId, map: &Separable, x: &str, out: &str) {
        let axes: Vec<usize> = (0..3).filter(|&axis| !map.maps[axis].is_identity()).collect();
        if axes.is_empty() {
            return self.op(id, "Identity", &[x], out, vec![]);
        }
        let mut current = x.to_owned();
        let mut extents = map.input().map(|e| e as usize);
        for (i, &axis) in axes.iter().enumerate() {
            let last = i + 1 == axes.len();
            let result = if last { out.to_owned() } else { format!("{out}/axis{axis}") };
            let axis_map = &map.maps[axis];
            extents[axis] = axis_map.output() as usize;
            match axis_map.selection() {
                Some(indices) => {
                    let indices: Vec<i64> = indices.into_iter().map(i64::from).collect();
                    let name = format!("peregrine/{id}/indices{axis}");
                    let indices = self.initializer(name, &Constant::ints(vec![indices.len()], &indices));
                    let attributes = vec![int("axis", axis as i64 + 1)];
                    self.op(id, "Gather", &[&current, &indices], &result, attributes);
                }
                None => self.axis_product(id, axis, axis_map, extents, [&current, &result]),
            }
            current = result;
        }
    }

    fn reshape(&mut self, id: ValueId, x: &str, out: &str, shape: &[i64]) {
        let name = format!("peregrine/{id}/shape{}", shape.len());
        let shape = self.initializer(name, &Constant::ints(vec![shape.len()], shape));
        self.op(id, "Reshape", &[x, &shape], out, vec![]);
    }

    /// Multiplies coordinate `axis` by the dense matrix of `map`; `extents` are those of the result.
    fn axis_product(
        &mut self,
        id: ValueId,
        axis: usize,
        map: &AxisMap,
        extents: [usize; 3],
        [x, out]: [&str; 2],
    ) {
        let (rows, columns) = (map.output() as usize, map.input() as usize);
        let by_columns = axis == 2;
        let shape = if by_columns { vec![columns, rows] } else { vec![rows, columns] };
        let mut matrix = vec![0.0; rows * columns];
        for entry in map.entries() {
            let (row, column) = (entry.output as usize, entry.input as usize);
            matrix[if by_columns { column * rows + row } else { row * columns + column }] = entry.factor;
        }
        let matrix = self.numbers(format!("peregrine/{id}/matrix{axis}"), shape, &matrix);
        match axis {
            2 => self.op(id, "MatMul", &[x, &matrix], out, vec![]),
            1 => self.op(id, "MatMul", &[&matrix, x], out, vec![]),
            _ => {
                let (flat, product) = (format!("{out}/flat"), format!("{out}/product"));
                let [c, h, w] = extents.map(|e| e as i64);
                let features = self.graph.nodes[id].ty.shape.len() == 2;
                let shape: &[i64] = if features { &[1, c] } else { &[1, c, h, w] };
                self.reshape(id, x, &flat, &[1, columns as i64, h * w]);
                self.op(id, "MatMul", &[&matrix, &flat], &product, vec![]);
                self.reshape(id, &product, out, shape);
            }
        }
    }

    fn conv(&mut self, id: ValueId, conv: &Conv, x: &str, out: &str) {
        let shape = self.graph.tables.consts[conv.weights].shape.clone();
        let weights = self.constant(conv.weights, &shape);
        let bias = conv.bias.map(|b| self.constant(b, &shape[..1]));
        let mut inputs = vec![x, weights.as_str()];
        inputs.extend(bias.as_deref());
        let attributes = vec![
            ints("kernel_shape", &[shape[2] as i64, shape[3] as i64]),
            ints("strides", &conv.stride.map(i64::from)),
            ints("pads", &conv.pads.map(i64::from)),
            ints("dilations", &conv.dilation.map(i64::from)),
            int("group", i64::from(conv.groups)),
        ];
        self.op(id, "Conv", &inputs, out, attributes);
    }

    fn pool(&mut self, id: ValueId, pool: &Pool, x: &str, out: &str) {
        let mut attributes = vec![
            ints("kernel_shape", &pool.kernel.map(i64::from)),
            ints("strides", &pool.stride.map(i64::from)),
            ints("pads", &pool.pads.map(i64::from)),
        ];
        let op = match pool.kind {
            PoolKind::Max => "MaxPool",
            PoolKind::AverageExcludePad => "AveragePool",
            PoolKind::AverageIncludePad => {
                attributes.push(int("count_include_pad", 1));
                "AveragePool"
            }
        };
        self.op(id, op, &[x], out, attributes);
    }

    fn activation(&mut self, id: ValueId, activation: &Activation, x: &str, out: &str) {
        match activation {
            Activation::Relu => self.op(id, "Relu", &[x], out, vec![]),
            Activation::LeakyRelu { alpha } => {
                self.op(id, "LeakyRelu", &[x], out, vec![float("alpha", *alpha)])
            }
            Activation::PRelu { slope } => {
                let channels = self.graph.tables.consts[*slope].len();
                let shape = self.channel_shape(id, channels);
                let slope = self.constant(*slope, &shape[1..]);
                self.op(id, "PRelu", &[x, &slope], out, vec![]);
            }
            Activation::Clip { low, high } if self.opset < 11 => {
                self.op(id, "Clip", &[x], out, vec![float("min", *low), float("max", *high)]);
            }
            Activation::Clip { low, high } => {
                let low = self.numbers(format!("peregrine/{id}/low"), vec![], &[*low]);
                let high = self.numbers(format!("peregrine/{id}/high"), vec![], &[*high]);
                self.op(id, "Clip", &[x, &low, &high], out, vec![]);
            }
            Activation::Sigmoid => self.op(id, "Sigmoid", &[x], out, vec![]),
            Activation::Tanh => self.op(id, "Tanh", &[x], out, vec![]),
            Activation::HardSigmoid { alpha, beta } => {
                self.op(id, "HardSigmoid", &[x], out, vec![float("alpha", *alpha), float("beta", *beta)]);
            }
            Activation::Silu => {
                let gate = format!("{out}/gate");
                self.op(id, "Sigmoid", &[x], &gate, vec![]);
                self.op(id, "Mul", &[x, &gate], out, vec![]);
            }
            Activation::HardSwish => {
                let gate = format!("{out}/gate");
                self.op(id, "HardSigmoid", &[x], &gate, vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)]);
                self.op(id, "Mul", &[x, &gate], out, vec![]);
            }
            Activation::Gelu => self.gelu(id, x, out),
            Activation::GeluTanh => self.gelu_tanh(id, x, out),
            Activation::Softplus => self.op(id, "Softplus", &[x], out, vec![]),
            Activation::Mish => {
                let (plus, gate) = (format!("{out}/softplus"), format!("{out}/gate"));
                self.op(id, "Softplus", &[x], &plus, vec![]);
                self.op(id, "Tanh", &[&plus], &gate, vec![]);
                self.op(id, "Mul", &[x, &gate], out, vec![]);
            }
            Activation::Elu { alpha } => self.op(id, "Elu", &[x], out, vec![float("alpha", *alpha)]),
        }
    }

    /// x (1 + erf(x / sqrt 2)) / 2, which every operator set has.
    fn gelu(&mut self, id: ValueId, x: &str, out: &str) {
        let constant =
            |w: &mut Self, name: &str, v: f32| w.numbers(format!("peregrine/gelu/{name}"), vec![], &[v]);
        let root = constant(self, "root", std::f32::consts::FRAC_1_SQRT_2);
        let (one, half) = (constant(self, "one", 1.0), constant(self, "half", 0.5));
        let step = |name: &str| format!("{out}/{name}");
        self.op(id, "Mul", &[x, &root], &step("scaled"), vec![]);
        self.op(id, "Erf", &[&step("scaled")], &step("erf"), vec![]);
        self.op(id, "Add", &[&step("erf"), &one], &step("shifted"), vec![]);
        self.op(id, "Mul", &[x, &step("shifted")], &step("doubled"), vec![]);
        self.op(id, "Mul", &[&step("doubled"), &half], out, vec![]);
    }

    /// x (1 + tanh(a x (1 + b x^2))) / 2
    fn gelu_tanh(&mut self, id: ValueId, x: &str, out: &str) {
        let constant =
            |w: &mut Self, name: &str, v: f32| w.numbers(format!("peregrine/gelu/{name}"), vec![], &[v]);
        let (cubic, slope) =
            (constant(self, "cubic", 0.044715), constant(self, "slope", (2.0 / std::f32::consts::PI).sqrt()));
        let (one, half) = (constant(self, "one", 1.0), constant(self, "half", 0.5));
        let step = |name: &str| format!("{out}/{name}");
        self.op(id, "Mul", &[x, x], &step("square"), vec![]);
        self.op(id, "Mul", &[&step("square"), &cubic], &step("scaled"), vec![]);
        self.op(id, "Add", &[&step("scaled"), &one], &step("factor"), vec![]);
        self.op(id, "Mul", &[x, &step("factor")], &step("inner"), vec![]);
        self.op(id, "Mul", &[&step("inner"), &slope], &step("sloped"), vec![]);
        self.op(id, "Tanh", &[&step("sloped")], &step("tanh"), vec![]);
        self.op(id, "Add", &[&step("tanh"), &one], &step("shifted"), vec![]);
        self.op(id, "Mul", &[x, &step("shifted")], &step("doubled"), vec![]);
        self.op(id, "Mul", &[&step("doubled"), &half], out, vec![]);
    }

    /// Horner's scheme with one coefficient per channel; factors of 1 and additions of 0 are left out.
    fn polynomial(&mut self, id: ValueId, coefficients: ConstId, x: &str, out: &str) {
        let tensor = &self.graph.tables.consts[coefficients];
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        let column =
            |k: usize| -> Vec<f32> { (0..rows).map(|r| tensor.at(r * columns + k) as f32).collect() };
        let shape = self.channel_shape(id, rows);
        if let Some(name) = self.poly_acts.as_ref().map(|p| p.name(columns - 1)) {
            return self.call(id, &name, (0..columns).map(column).collect(), &shape, x, out);
        }
        let mut steps: Vec<(&str, Option<Vec<f32>>)> = Vec::new();
        for k in (0..columns).rev() {
            let values = column(k);
            match k + 1 == columns {
                true if k == 0 => steps.extend([("Mul", Some(vec![0.0; rows])), ("Add", Some(values))]),
                true if values.iter().all(|&v| v == 1.0) => {}
                true => steps.push(("Mul", Some(values))),
                false => {
                    if values.iter().any(|&v| v != 0.0) {
                        steps.push(("Add", Some(values)));
                    }
                    if k > 0 {
                        steps.push(("Mul", None));
                    }
                }
            }
        }
        if steps.is_empty() {
            return self.op(id, "Identity", &[x], out, vec![]);
        }
        let mut current = x.to_owned();
        let last = steps.len() - 1;
        for (i, (op, values)) in steps.into_iter().enumerate() {
            let other = values.map_or_else(
                || x.to_owned(),
                |v| self.numbers(format!("peregrine/{id}/coefficient{i}"), shape.clone(), &v),
            );
            let result = if i == last { out.to_owned() } else { format!("{out}/{i}") };
            self.op(id, op, &[&current, &other], &result, vec![]);
            current = result;
        }
    }
}

impl Writer<'_> {
    /// A call of a function of domain `ai.peregrine` with one coefficient tensor per power.
    fn call(
        &mut self,
        id: ValueId,
        function: &str,
        columns: Vec<Vec<f32>>,
        shape: &[usize],
        x: &str,
        out: &str,
    ) {
        let mut input = vec![x.to_owned()];
        for (k, values) in columns.iter().enumerate() {
            input.push(self.numbers(format!("peregrine/{id}/c{k}"), shape.to_vec(), values));
        }
        self.push(NodeProto {
            name: self.graph.nodes[id].origin.as_str().to_owned(),
            op_type: function.to_owned(),
            domain: POLY_ACT_DOMAIN.to_owned(),
            input,
            output: vec![out.to_owned()],
            ..NodeProto::default()
        });
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: kind as i32, ..AttributeProto::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: value, ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: value, ..attribute(name, AttributeType::Float) }
}
