//! Outputs of the encrypted part that are movements of tensors: the tensors leave the server as they are and the client moves
//! their elements, which costs no level and is never refused.

use peregrine_ir::tensor::TensorOp;
use peregrine_ir::{EntityId, OutputPort, ValueId};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, NodeProto, TensorProto, ValueInfoProto, attribute_proto::AttributeType,
};

use super::load::value_info;
use super::tensor::Constant;
use super::translate::Translator;
use super::view::{NOWHERE, View, elements};

/// A value that the client moves together.
#[derive(Clone, Debug)]
pub(crate) struct Handover {
    /// Its name in the model.
    value: String,
    view: View,
    /// Port and shape of each part's tensor.
    parts: Vec<(String, Vec<usize>)>,
}

/// How a moved value leaves the server.
pub(crate) enum Leaving {
    /// As a tensor.
    Moved(ValueId),
    /// The client moves it together.
    Handed(Handover),
}

/// What the client's model needs to move a value together.
pub(crate) struct Assembly {
    pub(crate) inputs: Vec<ValueInfoProto>,
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) initializers: Vec<TensorProto>,
}

impl Translator {
    /// How a moved value leaves. The server moves it itself where that costs nothing: features in a row, and what drops elements of
    /// a sum that is still to be made.
    pub(crate) fn leaving(&mut self, value: &str, view: &View) -> Option<Leaving> {
        let kept = match view.parts.as_slice() {
            [part] if view.constants.is_none() => {
                let base = elements(self.shape(part.base));
                let row = part.is_identity(base) && matches!(view.shape[..], [1, _]);
                row || (view.len() < base && self.is_pending(part.base))
            }
            _ => false,
        };
        match kept.then(|| self.settle(value, view)) {
            Some(Ok(id)) => Some(Leaving::Moved(id)),
            _ => self.given(value, view).map(Leaving::Handed),
        }
    }

    fn is_pending(&self, id: ValueId) -> bool {
        let summed = matches!(
            self.graph.nodes[id].op,
            TensorOp::Conv(_)
                | TensorOp::FullyConnected { .. }
                | TensorOp::ChannelAffine { .. }
                | TensorOp::Add
                | TensorOp::Sub
                | TensorOp::Pool(_)
                | TensorOp::GlobalAveragePool
        );
        summed && self.graph.users()[id.index()].is_empty() && !self.graph.is_output(id)
    }

    fn given(&mut self, value: &str, view: &View) -> Option<Handover> {
        let mut parts = Vec::new();
        for (i, part) in view.parts.iter().enumerate() {
            let port = format!("{value}/part{i}");
            self.graph.outputs.push(OutputPort { name: port.clone(), value: part.base });
            parts.push((port, self.shape(part.base).to_vec()));
        }
        (!parts.is_empty()).then(|| Handover { value: value.to_owned(), view: view.clone(), parts })
    }
}

impl Handover {
    /// Whether it is value `name` that is moved.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.value == name
    }

    /// Nodes from the ports to the value.
    pub(crate) fn assembly(&self) -> Assembly {
        let inputs =
            self.parts.iter().map(|(port, shape)| value_info(port, DataType::Float, Some(shape))).collect();
        let mut out = Assembly { inputs, nodes: Vec::new(), initializers: Vec::new() };
        let moved = match self.order() {
            Some(order) => {
                let moved = format!("{}/moved", self.value);
                let perm = ints("perm", order.iter().map(|&axis| axis as i64).collect());
                out.node("Transpose", &[&self.parts[0].0], &moved, vec![perm]);
                moved
            }
            None => self.gathered(&mut out),
        };
        let shape: Vec<i64> = self.view.shape.iter().map(|&d| d as i64).collect();
        let shape = out.ints(format!("{}/shape", self.value), &shape);
        out.node("Reshape", &[&moved, &shape], &self.value, vec![]);
        out
    }

    /// The order of axes of the only part that gives the elements in the order of the view.
    fn order(&self) -> Option<Vec<usize>> {
        let ([part], [(_, shape)], None) =
            (self.view.parts.as_slice(), self.parts.as_slice(), &self.view.constants)
        else {
            return None;
        };
        let whole = View::of(part.base, shape);
        let fits = |order: &Vec<usize>| whole.permuted(order).parts[0].table == part.table;
        if part.table.len() != elements(shape) {
            return None;
        }
        orders(shape.len()).into_iter().find(fits)
    }

    /// All tensors, the constants and a zero in a row, and the elements picked from it.
    fn gathered(&self, out: &mut Assembly) -> String {
        let flat = out.ints(format!("{}/flat", self.value), &[-1]);
        let (mut row, mut starts, mut length) = (Vec::new(), Vec::new(), 0);
        for (port, shape) in &self.parts {
            let name = format!("{port}/row");
            out.node("Reshape", &[port, &flat], &name, vec![]);
            row.push(name);
            starts.push(length);
            length += elements(shape);
        }
        let known: Vec<f32> = self.view.constants.as_ref().map_or_else(|| vec![0.0], |c| c.to_vec());
        let constants = format!("{}/constants", self.value);
        out.initializers.push(Constant::floats(vec![known.len()], &known).initializer(&constants));
        row.push(constants);
        let place = |i: usize| -> i64 {
            let from = self.view.parts.iter().zip(&starts).find(|(part, _)| part.table[i] != NOWHERE);
            let own = if known.len() == 1 { 0 } else { i };
            from.map_or(length + own, |(part, start)| start + part.table[i] as usize) as i64
        };
        let indices: Vec<i64> = (0..self.view.len()).map(place).collect();
        let indices = out.ints(format!("{}/indices", self.value), &indices);
        let (all, moved) = (format!("{}/row", self.value), format!("{}/moved", self.value));
        let row: Vec<&str> = row.iter().map(String::as_str).collect();
        out.node("Concat", &row, &all, vec![int("axis", 0)]);
        out.node("Gather", &[&all, &indices], &moved, vec![int("axis", 0)]);
        moved
    }
}

impl Assembly {
    fn node(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            name: output.to_owned(),
            op_type: op.to_owned(),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..NodeProto::default()
        });
    }

    fn ints(&mut self, name: String, values: &[i64]) -> String {
        self.initializers.push(Constant::ints(vec![values.len()], values).initializer(&name));
        name
    }
}

/// All orders of so many axes.
fn orders(rank: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for _ in 0..rank {
        let longer = |order: &Vec<usize>| {
            let order = order.clone();
            let free: Vec<usize> = (0..rank).filter(|axis| !order.contains(axis)).collect();
            free.into_iter().map(move |axis| [order.as_slice(), &[axis]].concat())
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

fn ints(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values,
        ..AttributeProto::default()
    }
}
