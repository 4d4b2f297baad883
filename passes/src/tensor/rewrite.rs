//! Building a new graph from an old one, node by node, with inferred types.

use peregrine_ir::tensor::{Conv, Tensor, TensorGraph, TensorOp, infer};
use peregrine_ir::{ConstId, ConstTensor, EntityId, Graph, Node, Origin, OutputPort, ValueId};

use super::dead_code::prune;
use crate::error::PassError;
use crate::pass::Changed;

/// A graph under construction, with the new value of each old one.
pub(crate) struct Rewrite {
    pub(crate) out: TensorGraph,
    map: Vec<Option<ValueId>>,
}

impl Rewrite {
    /// Starts from an empty copy of `graph` that keeps its constants.
    pub(crate) fn of(graph: &TensorGraph) -> Self {
        Self { out: Graph::new(graph.name.clone(), graph.tables.clone()), map: vec![None; graph.nodes.len()] }
    }
    /// The new value of an old one that has been visited.
    pub(crate) fn value(&self, old: ValueId) -> ValueId {
        self.map[old.index()].expect("operands are defined before their use")
    }
    /// Records the new value of an old one.
    pub(crate) fn set(&mut self, old: ValueId, new: ValueId) {
        self.map[old.index()] = Some(new);
    }
    /// Appends a node on new values, with its inferred type.
    pub(crate) fn push(
        &mut self,
        op: TensorOp,
        args: &[ValueId],
        origin: &Origin,
    ) -> Result<ValueId, PassError> {
        append(&mut self.out, op, args, origin)
    }
    /// Appends an old node unchanged.
    pub(crate) fn copy(&mut self, id: ValueId, node: &Node<Tensor>) -> ValueId {
        let args: Vec<ValueId> = node.args.iter().map(|&a| self.value(a)).collect();
        let new = self.out.add(node.op.clone(), args, node.ty.clone(), node.origin.clone());
        self.set(id, new);
        new
    }
    /// Adds a constant.
    pub(crate) fn constant(&mut self, tensor: ConstTensor) -> ConstId {
        self.out.tables.consts.push(tensor)
    }
    /// The finished graph, with the outputs of `old`.
    pub(crate) fn finish(mut self, old: &TensorGraph) -> TensorGraph {
        self.out.outputs = old
            .outputs
            .iter()
            .map(|o| OutputPort { name: o.name.clone(), value: self.value(o.value) })
            .collect();
        self.out
    }
}

/// Rebuilds `graph` node by node: `replace` gives the new value of a node, or `None` to copy it. Unused nodes go.
pub(crate) fn rewrite_nodes(
    graph: &mut TensorGraph,
    mut replace: impl FnMut(&mut Rewrite, &Node<Tensor>) -> Result<Option<ValueId>, PassError>,
) -> Result<Changed, PassError> {
    let mut rewrite = Rewrite::of(graph);
    for (id, node) in graph.nodes.iter() {
        match replace(&mut rewrite, node)? {
            Some(value) => rewrite.set(id, value),
            None => {
                rewrite.copy(id, node);
            }
        }
    }
    let mut next = rewrite.finish(graph);
    prune(&mut next);
    let changed = Changed::when(next != *graph);
    *graph = next;
    Ok(changed)
}

/// Appends a node with its inferred type.
pub(crate) fn append(
    graph: &mut TensorGraph,
    op: TensorOp,
    args: &[ValueId],
    origin: &Origin,
) -> Result<ValueId, PassError> {
    let types: Vec<_> = args.iter().map(|&a| &graph.nodes[a].ty).collect();
    let ty = match &op {
        TensorOp::Input { .. } => unreachable!("inputs are copied, never made"),
        _ => infer(&op, &types, &graph.tables.consts)
            .map_err(|source| PassError::Type { layer: origin.as_str().to_owned(), source })?,
    };
    Ok(graph.add(op, args.iter().copied(), ty, origin.clone()))
}

/// A constant of `f32` from computed numbers.
pub(crate) fn f32_const(shape: &[usize], data: &[f64]) -> ConstTensor {
    ConstTensor::f32(shape.to_vec(), data.iter().map(|&x| x as f32).collect::<Vec<_>>())
}

/// A 1x1 convolution `y[c] = mul[c] x[c] + add[c]` with one group per channel.
pub(crate) fn channel_conv(graph: &mut TensorGraph, mul: &[f64], add: &[f64]) -> Conv {
    let weights = graph.tables.consts.push(f32_const(&[mul.len(), 1, 1, 1], mul));
    let bias = add.iter().any(|&a| a != 0.0).then(|| graph.tables.consts.push(f32_const(&[add.len()], add)));
    Conv { weights, bias, stride: [1, 1], pads: [0; 4], dilation: [1, 1], groups: mul.len() as u32 }
}
