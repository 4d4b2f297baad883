//! One graph container for the tensor and the fhe level: single-output nodes in topological order.

use std::fmt::Debug;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::entity::{EntityId, PrimaryMap};

crate::entity_id!(
    /// Names a node and the one value it defines; prints as `v0`.
    ValueId, "v"
);

/// Where a node comes from: the ONNX node's name, kept through every pass for messages and reports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(Arc<str>);

impl Origin {
    /// An origin of this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a level of the IR puts into the graph container.
pub trait Dialect: Clone + Debug + PartialEq {
    /// The closed set of operations.
    type Op: Clone + Debug + PartialEq;
    /// The type of a value.
    type Ty: Clone + Debug + PartialEq;
    /// Tables that ops refer to by id (constants, layouts, linear maps), and the stage.
    type Tables: Clone + Debug + PartialEq;
}

/// One operation and the value it defines.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<D: Dialect> {
    /// The operation with its attributes.
    pub op: D::Op,
    /// Operands, all defined earlier.
    pub args: SmallVec<[ValueId; 2]>,
    /// Type of the value.
    pub ty: D::Ty,
    /// ONNX origin.
    pub origin: Origin,
}

/// A named result of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputPort {
    /// ONNX output name.
    pub name: String,
    /// The value given out.
    pub value: ValueId,
}

/// A graph: nodes in definition order (each operand is defined before its use).
#[derive(Clone, Debug, PartialEq)]
pub struct Graph<D: Dialect> {
    /// Model name.
    pub name: String,
    /// Nodes; definition order is a topological order.
    pub nodes: PrimaryMap<ValueId, Node<D>>,
    /// Results.
    pub outputs: Vec<OutputPort>,
    /// Tables of the level.
    pub tables: D::Tables,
}

impl<D: Dialect> Graph<D> {
    /// An empty graph.
    pub fn new(name: impl Into<String>, tables: D::Tables) -> Self {
        Self { name: name.into(), nodes: PrimaryMap::new(), outputs: Vec::new(), tables }
    }
    /// Appends a node.
    pub fn add(
        &mut self,
        op: D::Op,
        args: impl IntoIterator<Item = ValueId>,
        ty: D::Ty,
        origin: Origin,
    ) -> ValueId {
        self.nodes.push(Node { op, args: args.into_iter().collect(), ty, origin })
    }
    /// For every value the nodes that use it, in order (a node that uses it twice is listed twice).
    pub fn users(&self) -> Vec<Vec<ValueId>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.nodes.iter() {
            for arg in &node.args {
                users[arg.index()].push(id);
            }
        }
        users
    }
    /// Whether `value` is a result of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.iter().any(|o| o.value == value)
    }
}
