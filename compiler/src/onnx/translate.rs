//! Translation of the encrypted part of an ONNX graph, node by node, into a tensor graph.
//!
//! Values that do not depend on the input are folded on the way. A node that cannot be translated is recorded and its
//! outputs become unusable; translation goes on, so that all such nodes are reported at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use peregrine_ir::tensor::{Activation, Stage, TensorGraph, TensorOp, TensorTables, TensorTy, infer};
use peregrine_ir::{ConstId, ConstPool, ConstTensor, Origin, OutputPort, ValueId};
use tract_onnx::pb::NodeProto;

use super::error::{ImportError, Refusal, UnsupportedNode, UnsupportedNodes, shape_text};
use super::fold::evaluate;
use super::handover::{Handover, Leaving};
use super::load::Loaded;
use super::node::NodeView;
use super::ops;
use super::recognise::Plan;
use super::split::{ClientSplit, as_map, is_flat, map_name};
use super::tensor::Constant;
use super::view::{MAX_VIEW, View};

/// Largest magnitude of a weight.
const LARGEST_WEIGHT: f64 = (1u64 << 60) as f64;

/// What a name of the ONNX graph stands for.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Known now.
    Constant(Constant),
    /// Encrypted.
    Data(ValueId),
    /// Elements of encrypted tensors and constants, moved.
    View(Arc<View>),
    /// Result of a node that could not be translated.
    Unusable,
}

/// The encrypted part of a model.
pub(crate) struct Finished {
    pub(crate) graph: TensorGraph,
    pub(crate) values: BTreeMap<String, Value>,
    /// Outputs that the client moves together.
    pub(crate) handovers: Vec<Handover>,
}

/// The graph under construction.
pub(crate) struct Translator {
    /// Nodes so far.
    pub(crate) graph: TensorGraph,
    values: BTreeMap<String, Value>,
    /// What values were before a layer had them as tensors.
    settled_views: BTreeMap<String, Arc<View>>,
    shapes: BTreeMap<String, Vec<usize>>,
    /// Names that some node or output of the model uses.
    used: BTreeSet<String>,
    /// Means, and means plus a number: the root of such a value normalises.
    variances: BTreeSet<String>,
    problems: Vec<UnsupportedNode>,
    /// Nodes that translate, but that a later pass refuses: reported along with others only.
    doubtful: Vec<UnsupportedNode>,
}

impl Translator {
    /// Starts from the model's constants and the shapes of the client's values that nodes may ask for.
    pub(crate) fn new(model: &Loaded, shapes: BTreeMap<String, Vec<usize>>) -> Self {
        let graph = model.graph();
        let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Imported };
        let values = model.constants.iter().map(|(k, c)| (k.clone(), Value::Constant(c.clone()))).collect();
        let used = graph
            .node
            .iter()
            .flat_map(|n| n.input.iter())
            .chain(graph.output.iter().map(|o| &o.name))
            .filter(|n| !n.is_empty());
        let used = used.cloned().collect();
        Self {
            graph: TensorGraph::new(graph.name.clone(), tables),
            values,
            settled_views: BTreeMap::new(),
            shapes,
            used,
            variances: variances(&graph.node),
            problems: Vec::new(),
            doubtful: Vec::new(),
        }
    }

    /// Adds the encrypted input, which is a map; the model sees it in its own shape.
    pub(crate) fn input(&mut self, name: &str, shape: &[usize]) {
        let (flat, origin) = (is_flat(shape), Origin::new(name));
        let op = TensorOp::Input { name: if flat { map_name(name) } else { name.to_owned() } };
        let mut id = self.graph.add(op, [], TensorTy { shape: as_map(shape) }, origin.clone());
        if flat {
            let (op, ty) = (TensorOp::Reshape { shape: shape.to_vec() }, TensorTy { shape: shape.to_vec() });
            id = self.graph.add(op, [id], ty, origin);
        }
        self.values.insert(name.to_owned(), Value::Data(id));
    }

    /// Translates the nodes of the plan and folds the constant ones.
    pub(crate) fn run(&mut self, nodes: &[NodeProto], opset: i64, plan: &Plan) {
        for (index, proto) in nodes.iter().enumerate().filter(|(index, _)| plan.needs(*index)) {
            let node = NodeView { proto, opset };
            let recognised = plan.activation(index);
            if recognised.is_none() && self.refers_to_client(node) {
                continue;
            }
            let results = match recognised {
                Some((operand, _)) if matches!(self.values.get(operand), Some(Value::Unusable)) => {
                    Ok(vec![Value::Unusable; node.proto.output.len()])
                }
                Some((operand, found)) => ops::recognised(self, node, operand, found).map(|v| vec![v]),
                None => self.node(node),
            };
            match results {
                Ok(results) => self.bind(node, results),
                Err(refusal) => self.refuse(node, refusal),
            }
        }
    }

    /// Whether an input is a value of the client: the node (a Shape, say) then belongs to the client too.
    fn refers_to_client(&self, node: NodeView<'_>) -> bool {
        let asks_shape = node.proto.op_type == "Shape" || node.proto.op_type == "Size";
        let known = |name: &&String| {
            self.values.contains_key(*name) || (asks_shape && self.shapes.contains_key(*name))
        };
        !node.proto.input.iter().filter(|n| !n.is_empty()).all(|n| known(&n))
    }

    fn bind(&mut self, node: NodeView<'_>, results: Vec<Value>) {
        for (name, value) in node.proto.output.iter().zip(results) {
            self.values.insert(name.clone(), value);
        }
    }

    fn refuse(&mut self, node: NodeView<'_>, refusal: Refusal) {
        self.problems.push(self.unsupported(node, refusal));
        self.bind(node, vec![Value::Unusable; node.proto.output.len()]);
    }

    fn unsupported(&self, node: NodeView<'_>, refusal: Refusal) -> UnsupportedNode {
        let op = match node.proto.domain.as_str() {
            "" | "ai.onnx" => node.proto.op_type.clone(),
            domain => format!("{domain}.{}", node.proto.op_type),
        };
        let shapes = node.proto.input.iter().map(|n| self.shape_of(n)).collect();
        UnsupportedNode { node: node.name().to_owned(), op, shapes, refusal }
    }

    fn node(&mut self, node: NodeView<'_>) -> Result<Vec<Value>, Refusal> {
        if !matches!(node.proto.domain.as_str(), "" | "ai.onnx") {
            return Err(Refusal::new(
                "operators of this domain are not known",
                "export with the standard ONNX operators only",
            ));
        }
        if let Some(shape) = self.shape_query(node)? {
            return Ok(vec![shape]);
        }
        let inputs: Vec<Option<Value>> = (0..node.proto.input.len())
            .map(|i| node.input(i).and_then(|n| self.values.get(n)).cloned())
            .collect();
        if inputs.iter().flatten().all(|v| matches!(v, Value::Constant(_))) {
            let constants: Vec<Option<&Constant>> = inputs
                .iter()
                .map(|v| match v {
                    Some(Value::Constant(c)) => Some(c),
                    _ => None,
                })
                .collect();
            return Ok(evaluate(node, &constants)?.into_iter().map(Value::Constant).collect());
        }
        if node.proto.op_type == "Split" && inputs.iter().flatten().all(|v| !matches!(v, Value::Unusable)) {
            return self.parts(node);
        }
        if node.proto.op_type == "MaxPool" {
            let doubtful = self.unsupported(node, ops::max_pool());
            self.doubtful.push(doubtful);
        }
        let translate = ops::translator(&node.proto.op_type).ok_or_else(|| self.unknown(node))?;
        if inputs.iter().flatten().any(|v| matches!(v, Value::Unusable)) {
            return Ok(vec![Value::Unusable; node.proto.output.len()]);
        }
        if let Some(extra) = node.proto.output.iter().skip(1).find(|o| self.used.contains(*o)) {
            return Err(Refusal::new(
                format!("its output {extra:?} is not supported"),
                "export the model for inference",
            ));
        }
        Ok(vec![translate(self, node)?])
    }

    /// The refusal of an operator without a translator.
    fn unknown(&self, node: NodeView<'_>) -> Refusal {
        match node.input(0).is_some_and(|name| self.variances.contains(name)) && node.proto.op_type == "Sqrt"
        {
            true => ops::written_norm(),
            false => ops::unknown(&node.proto.op_type),
        }
    }

    /// The parts of a Split.
    fn parts(&mut self, node: NodeView<'_>) -> Result<Vec<Value>, Refusal> {
        ops::split(self, node)
    }

    /// Value of a Shape or Size node; that of a node that cannot be compiled is not known.
    fn shape_query(&self, node: NodeView<'_>) -> Result<Option<Value>, Refusal> {
        let op = node.proto.op_type.as_str();
        if op != "Shape" && op != "Size" {
            return Ok(None);
        }
        let Some(shape) = node.input(0).and_then(|n| self.shape_of(n)) else {
            let unusable = matches!(node.input(0).and_then(|n| self.values.get(n)), Some(Value::Unusable));
            return Ok(unusable.then_some(Value::Unusable));
        };
        if op == "Size" {
            let size = shape.iter().product::<usize>() as i64;
            return Ok(Some(Value::Constant(Constant::ints(vec![], &[size]))));
        }
        let rank = shape.len() as i64;
        let clamp = |i: i64| (if i < 0 { i + rank } else { i }).clamp(0, rank) as usize;
        let (start, end) = (clamp(node.int_or("start", 0)?), clamp(node.int_or("end", rank)?));
        let part: Vec<i64> = shape.iter().take(end).skip(start).map(|&d| d as i64).collect();
        Ok(Some(Value::Constant(Constant::ints(vec![part.len()], &part))))
    }

    fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        match self.values.get(name) {
            Some(Value::Constant(c)) => Some(c.shape().to_vec()),
            Some(Value::Data(id)) => Some(self.shape(*id).to_vec()),
            Some(Value::View(view)) => Some(view.shape.clone()),
            Some(Value::Unusable) => None,
            None => self.shapes.get(name).cloned(),
        }
    }

    /// The finished graph with `outputs` (ONNX name, port name).
    pub(crate) fn finish(
        mut self,
        outputs: &[(String, String)],
        choice: ClientSplit,
    ) -> Result<Finished, ImportError> {
        let mut handovers = Vec::new();
        for (value, port) in outputs {
            let leaving = match (choice, self.movement(value)) {
                (ClientSplit::HeadAndTail, Some(view)) => self.leaving(value, &view),
                _ => self.settled(value).map(Leaving::Moved),
            };
            match leaving {
                Some(Leaving::Handed(handover)) => handovers.push(handover),
                Some(Leaving::Moved(id)) => {
                    self.values.insert(value.clone(), Value::Data(id));
                    self.graph.outputs.push(OutputPort { name: port.clone(), value: id });
                }
                None if matches!(self.values.get(value), Some(Value::View(_) | Value::Unusable)) => {}
                None => return Err(ImportError::ConstantOutput { output: value.clone() }),
            }
        }
        if !self.problems.is_empty() {
            self.problems.append(&mut self.doubtful);
            return Err(ImportError::Unsupported(UnsupportedNodes(self.problems)));
        }
        Ok(Finished { graph: self.graph, values: self.values, handovers })
    }

    /// The movement that a value is, also where a layer has it as a tensor.
    fn movement(&self, name: &str) -> Option<Arc<View>> {
        match self.values.get(name) {
            Some(Value::View(view)) => Some(view.clone()),
            Some(Value::Data(_)) => self.settled_views.get(name).cloned(),
            _ => None,
        }
    }

    /// The tensor of an output; a movement that has no form is a problem.
    fn settled(&mut self, name: &str) -> Option<ValueId> {
        match self.values.get(name).cloned() {
            Some(Value::Data(id)) => Some(id),
            Some(Value::View(view)) => match self.settle(name, &view) {
                Ok(id) => {
                    self.values.insert(name.to_owned(), Value::Data(id));
                    Some(id)
                }
                Err(refusal) => {
                    let shapes = vec![Some(view.shape.clone())];
                    let node = name.to_owned();
                    self.problems.push(UnsupportedNode { node, op: "output".into(), shapes, refusal });
                    None
                }
            },
            Some(Value::Constant(_) | Value::Unusable) | None => None,
        }
    }

    /// Shape of an encrypted value.
    pub(crate) fn shape(&self, id: ValueId) -> &[usize] {
        &self.graph.nodes[id].ty.shape
    }

    /// Gives a name to a value.
    pub(crate) fn define(&mut self, name: String, value: Value) {
        self.values.insert(name, value);
    }

    /// What input `i` stands for.
    pub(crate) fn value(&self, node: NodeView<'_>, i: usize) -> Result<&Value, Refusal> {
        let missing = || Refusal::new(format!("input {i} is missing"), "export the model again");
        node.input(i).and_then(|name| self.values.get(name)).ok_or_else(missing)
    }

    /// Input `i`, which must be encrypted, as a tensor of the graph.
    pub(crate) fn data(&mut self, node: NodeView<'_>, i: usize) -> Result<ValueId, Refusal> {
        match self.value(node, i)?.clone() {
            Value::Data(id) => Ok(id),
            Value::View(view) => {
                let id = self.settle(node.name(), &view)?;
                if let Some(name) = node.input(i) {
                    self.values.insert(name.to_owned(), Value::Data(id));
                    self.settled_views.insert(name.to_owned(), view);
                }
                Ok(id)
            }
            Value::Constant(_) | Value::Unusable => Err(Refusal::new(
                format!("input {i} is a constant"),
                "swap the operands or fold the constant",
            )),
        }
    }

    /// Shape of input `i`, which must be encrypted.
    pub(crate) fn data_shape(&self, node: NodeView<'_>, i: usize) -> Result<Vec<usize>, Refusal> {
        match self.value(node, i)? {
            Value::Data(id) => Ok(self.shape(*id).to_vec()),
            Value::View(view) => Ok(view.shape.clone()),
            Value::Constant(_) | Value::Unusable => Err(Refusal::new(
                format!("input {i} is a constant"),
                "swap the operands or fold the constant",
            )),
        }
    }

    /// Input `i`, encrypted or constant, to be moved.
    pub(crate) fn view(&self, node: NodeView<'_>, i: usize) -> Result<View, Refusal> {
        let value = self.value(node, i)?;
        let shape = node.input(i).and_then(|name| self.shape_of(name)).unwrap_or_default();
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d).filter(|&n| n <= MAX_VIEW));
        if elements.is_none() {
            return Err(Refusal::new(
                format!("it moves {}, more than {MAX_VIEW} elements", shape_text(Some(&shape))),
                "use a smaller input",
            ));
        }
        Ok(match value {
            Value::Data(id) => View::of(*id, &shape),
            Value::View(view) => (**view).clone(),
            Value::Constant(c) => View::constant(&shape, c.to_f32()),
            Value::Unusable => return Err(Refusal::new("its input cannot be compiled", "see above")),
        })
    }

    /// The value of a view: a tensor where nothing moves.
    pub(crate) fn moved(&self, view: View) -> Result<Value, Refusal> {
        if let ([part], None) = (view.parts.as_slice(), &view.constants) {
            let base = self.shape(part.base);
            if view.shape == base && part.is_identity(view.len()) {
                return Ok(Value::Data(part.base));
            }
        }
        Ok(Value::View(Arc::new(view)))
    }

    /// Input `i`, which must be a constant.
    pub(crate) fn constant(&self, node: NodeView<'_>, i: usize) -> Result<Constant, Refusal> {
        match self.value(node, i)? {
            Value::Constant(c) => Ok(c.clone()),
            _ => Err(Refusal::new(
                format!("input {i} is computed from the encrypted input, a constant is needed"),
                "make it a constant of the model",
            )),
        }
    }

    /// Input `i`, a constant, if it is given.
    pub(crate) fn optional(&self, node: NodeView<'_>, i: usize) -> Result<Option<Constant>, Refusal> {
        node.input(i).map(|_| self.constant(node, i)).transpose()
    }

    /// Adds a constant of floats.
    pub(crate) fn floats(&mut self, shape: &[usize], data: Vec<f32>) -> ConstId {
        self.graph.tables.consts.push(ConstTensor::f32(shape, data))
    }

    /// Adds a constant of doubles.
    pub(crate) fn doubles(&mut self, shape: &[usize], data: Vec<f64>) -> ConstId {
        self.graph.tables.consts.push(ConstTensor::f64(shape, data))
    }

    /// Appends an operation; its type is inferred.
    pub(crate) fn emit(
        &mut self,
        node: NodeView<'_>,
        op: TensorOp,
        args: &[ValueId],
    ) -> Result<ValueId, Refusal> {
        self.emit_as(node.name(), op, args)
    }

    /// Appends an operation of the layer `name`.
    pub(crate) fn emit_as(&mut self, name: &str, op: TensorOp, args: &[ValueId]) -> Result<ValueId, Refusal> {
        self.finite(&op)?;
        let types: Vec<&TensorTy> = args.iter().map(|&a| &self.graph.nodes[a].ty).collect();
        let ty = infer(&op, &types, &self.graph.tables.consts).map_err(|e| {
            Refusal::new(e.to_string(), "check the model with onnx.checker and export it again")
        })?;
        Ok(self.graph.add(op, args.iter().copied(), ty, Origin::new(name)))
    }

    /// Refuses weights that are no numbers, or none that a network works with.
    fn finite(&self, op: &TensorOp) -> Result<(), Refusal> {
        let constants = match op {
            TensorOp::Conv(conv) => vec![Some(conv.weights), conv.bias],
            TensorOp::FullyConnected { weights, bias } => vec![Some(*weights), *bias],
            TensorOp::ChannelAffine { mul, add } => vec![Some(*mul), Some(*add)],
            TensorOp::Activation(Activation::PRelu { slope }) => vec![Some(*slope)],
            _ => Vec::new(),
        };
        let bad = |id: ConstId| {
            let constant = self.graph.tables.consts.get(id)?;
            (0..constant.len()).map(|i| constant.at(i)).find(|v| v.is_nan() || v.abs() > LARGEST_WEIGHT)
        };
        match constants.into_iter().flatten().find_map(bad) {
            None => Ok(()),
            Some(value) => Err(Refusal::new(
                format!("its weights hold {value:e}"),
                "train the model to weights of sensible size (a diverged run, a damaged file?), or export it again",
            )),
        }
    }

    /// Appends an operation and gives its result as a value.
    pub(crate) fn emit_value(
        &mut self,
        node: NodeView<'_>,
        op: TensorOp,
        args: &[ValueId],
    ) -> Result<Value, Refusal> {
        Ok(Value::Data(self.emit(node, op, args)?))
    }
}

/// Names of means, and of means with something added.
fn variances(nodes: &[NodeProto]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for node in nodes {
        let is_mean = match node.op_type.as_str() {
            "ReduceMean" | "GlobalAveragePool" => true,
            "Add" => node.input.iter().any(|input| found.contains(input)),
            _ => false,
        };
        if is_mean {
            found.extend(node.output.iter().cloned());
        }
    }
    found
}
