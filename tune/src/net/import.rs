//! From an imported tensor graph to a network that can be trained.
//!
//! * A per-channel affine map is a batch norm that was put in inference mode: after a convolution or before an activation it
//!   becomes one again. Its statistics are measured on the training data ([`Net::calibrate_norms`]), its factors chosen so that
//!   the function stays what it was.
//! * Exporters often fold batch norms into convolutions. Before an activation or a sum a batch norm is then put back, at first
//!   the identity.
//! * A convolution of zeros and ones picks and places channels or pixels (Concat, Slice, Pad of the model file): not trained.

use std::collections::BTreeMap;

use peregrine_ir::tensor as ir;
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use peregrine_ir::{ConstId, EntityId, ValueId};
use thiserror::Error;

use super::{Net, Node, NodeId, Op, Role};
use crate::ops::batch_norm::Running;
use crate::ops::conv::{Convolution, Geometry};
use crate::ops::pool::{Kind, Window};
use crate::ops::separable::Placement;
use crate::tensor::Shape;

/// Momentum of batch norms.
pub(super) const MOMENTUM: f32 = 0.1;
/// What is added to variances.
const EPSILON: f32 = 1e-5;

/// Why a graph cannot be trained.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImportError {
    /// A tensor that is neither an image nor a row of features.
    #[error("layer {layer:?} has a value of shape {shape:?}; only [1, C, H, W] and [1, F] can be trained")]
    Shape {
        /// Layer.
        layer: String,
        /// Shape.
        shape: Vec<usize>,
    },
    /// An operation without a gradient here.
    #[error(
        "layer {layer:?}: {op} cannot be trained yet; replace it in the model, or cut the model before it"
    )]
    Unsupported {
        /// Layer.
        layer: String,
        /// Operation.
        op: &'static str,
    },
}

impl Net {
    /// A network with the function of `graph`.
    ///
    /// # Errors
    /// Names the first layer that cannot be trained.
    pub fn from_graph(graph: &TensorGraph) -> Result<Self, ImportError> {
        let net = Self { name: graph.name.clone(), nodes: vec![], outputs: vec![], params: vec![] };
        let mut importer =
            Importer { graph, users: graph.users(), net, ids: BTreeMap::new(), names: BTreeMap::new() };
        for (id, node) in graph.nodes.iter() {
            let made = importer.node(id, &node.op)?;
            importer.ids.insert(id, made);
        }
        let outputs = graph.outputs.iter().map(|port| (port.name.clone(), importer.ids[&port.value]));
        importer.net.outputs = outputs.collect();
        Ok(importer.net)
    }
}

struct Importer<'g> {
    graph: &'g TensorGraph,
    users: Vec<Vec<ValueId>>,
    net: Net,
    ids: BTreeMap<ValueId, NodeId>,
    /// How often a layer name was used for parameters.
    names: BTreeMap<String, usize>,
}

impl Importer<'_> {
    fn shape(&self, id: ValueId) -> Result<Shape, ImportError> {
        let node = &self.graph.nodes[id];
        match *node.ty.shape.as_slice() {
            [1, c, h, w] => Ok(Shape { n: 1, h, w, c }),
            [1, c] => Ok(Shape { n: 1, h: 1, w: 1, c }),
            _ => {
                let (layer, shape) = (node.origin.as_str().to_owned(), node.ty.shape.clone());
                Err(ImportError::Shape { layer, shape })
            }
        }
    }

    fn numbers(&self, id: ConstId) -> Vec<f32> {
        self.graph.tables.consts[id].to_f32()
    }

    fn push(&mut self, id: ValueId, op: Op, args: Vec<NodeId>) -> Result<NodeId, ImportError> {
        let (shape, name) = (self.shape(id)?, self.graph.nodes[id].origin.as_str().to_owned());
        self.net.nodes.push(Node { op, args, shape, name });
        Ok(self.net.nodes.len() - 1)
    }

    /// A parameter named after its layer, unique.
    fn param(&mut self, id: ValueId, part: &str, value: Vec<f32>, role: Role) -> usize {
        let base = format!("{}/{part}", self.graph.nodes[id].origin.as_str());
        let count = self.names.entry(base.clone()).or_default();
        *count += 1;
        let name = if *count == 1 { base } else { format!("{base}#{count}") };
        self.net.param(name, value, role)
    }

    fn node(&mut self, id: ValueId, op: &TensorOp) -> Result<NodeId, ImportError> {
        let args: Vec<NodeId> = self.graph.nodes[id].args.iter().map(|a| self.ids[a]).collect();
        match op {
            TensorOp::Input { .. } => self.push(id, Op::Input, args),
            TensorOp::Conv(conv) => self.conv(id, conv, args),
            TensorOp::FullyConnected { weights, bias } => self.dense(id, *weights, *bias, args),
            TensorOp::ChannelAffine { mul, add } => self.affine(id, *mul, *add, args),
            TensorOp::Activation(activation) => self.activation(id, activation, args),
            TensorOp::Poly { coefficients } => {
                let rows = self.rows(*coefficients, self.shape(id)?.c);
                self.push(id, Op::Poly { coefficients: rows }, args)
            }
            TensorOp::Add => self.push(id, Op::Add, args),
            TensorOp::Sub => self.push(id, Op::Sub, args),
            TensorOp::Mul => self.push(id, Op::Mul, args),
            TensorOp::Pool(pool) => self.push(id, Op::Pool(window(pool)), args),
            TensorOp::GlobalAveragePool => self.push(id, Op::GlobalMean, args),
            TensorOp::Pad { pads } => self.push(id, Op::Pad(pads.map(|p| p as usize)), args),
            TensorOp::Reshape { shape } => self.push(id, Op::Reshape { shape: shape.clone() }, args),
            TensorOp::Separable(map) => self.push(id, Op::Separable(Placement { map: map.clone() }), args),
        }
    }

    fn rows(&self, coefficients: ConstId, channels: usize) -> Vec<Vec<f64>> {
        let tensor = &self.graph.tables.consts[coefficients];
        let columns = tensor.shape.last().copied().unwrap_or(1);
        let values = tensor.to_f64();
        (0..channels).map(|c| values.chunks(columns).cycle().nth(c).unwrap_or_default().to_vec()).collect()
    }

    fn conv(&mut self, id: ValueId, conv: &ir::Conv, args: Vec<NodeId>) -> Result<NodeId, ImportError> {
        let weights = self.numbers(conv.weights);
        let bias = conv.bias.map(|b| self.numbers(b));
        let [c_out, _, kh, kw] = self.graph.tables.consts[conv.weights].shape[..] else {
            return Err(ImportError::Unsupported {
                layer: self.graph.nodes[id].origin.as_str().to_owned(),
                op: "a convolution without two spatial axes",
            });
        };
        let from = self.shape(self.graph.nodes[id].args[0])?;
        let pair = |v: [u32; 2]| v.map(|x| x as usize);
        let geometry = Geometry {
            input: [from.h, from.w],
            c_in: from.c,
            c_out,
            kernel: [kh, kw],
            stride: pair(conv.stride),
            pads: conv.pads.map(|p| p as usize),
            dilation: pair(conv.dilation),
            groups: conv.groups as usize,
        };
        let picks = picks(&weights, c_out) && bias.iter().flatten().all(|b| *b == 0.0);
        let role = if picks { Role::Frozen } else { Role::Weight };
        let weights = self.param(id, "weights", from_oihw(&geometry, &weights), role);
        let bias = bias.map(|b| {
            let role = if picks { Role::Frozen } else { Role::Offset };
            self.param(id, "bias", b, role)
        });
        let conv = Convolution::new(geometry);
        let made = self.push(id, Op::Conv { conv, weights, bias, dense: false }, args)?;
        let folded = !picks && self.users[id.index()].iter().any(|&u| self.takes_normalised(u));
        match folded && self.users[id.index()].len() == 1 && !self.graph.is_output(id) {
            true => self.norm(id, vec![1.0; c_out], vec![0.0; c_out], made),
            false => Ok(made),
        }
    }

    /// Whether an operation usually follows a batch norm.
    fn takes_normalised(&self, id: ValueId) -> bool {
        matches!(self.graph.nodes[id].op, TensorOp::Activation(_) | TensorOp::Add)
    }

    fn dense(
        &mut self,
        id: ValueId,
        weights: ConstId,
        bias: Option<ConstId>,
        args: Vec<NodeId>,
    ) -> Result<NodeId, ImportError> {
        let shape = &self.graph.tables.consts[weights].shape;
        let geometry = Geometry {
            input: [1, 1],
            c_in: shape[1],
            c_out: shape[0],
            kernel: [1, 1],
            stride: [1, 1],
            pads: [0; 4],
            dilation: [1, 1],
            groups: 1,
        };
        let values = from_oihw(&geometry, &self.numbers(weights));
        let weights = self.param(id, "weights", values, Role::Weight);
        let bias = bias.map(|b| self.numbers(b)).map(|b| self.param(id, "bias", b, Role::Offset));
        let conv = Convolution::new(geometry);
        self.push(id, Op::Conv { conv, weights, bias, dense: true }, args)
    }

    fn affine(
        &mut self,
        id: ValueId,
        mul: ConstId,
        add: ConstId,
        args: Vec<NodeId>,
    ) -> Result<NodeId, ImportError> {
        let (mul, add) = (self.numbers(mul), self.numbers(add));
        let operand = self.graph.nodes[id].args[0];
        let after_conv = matches!(self.graph.nodes[operand].op, TensorOp::Conv(_));
        let before_activation =
            self.users[id.index()].iter().any(|&u| matches!(self.graph.nodes[u].op, TensorOp::Activation(_)));
        if (after_conv || before_activation) && !self.graph.is_output(id) {
            return self.norm(id, mul, add, args[0]);
        }
        let (mul, add) = (self.param(id, "mul", mul, Role::Offset), self.param(id, "add", add, Role::Offset));
        self.push(id, Op::Affine { mul, add }, args)
    }

    /// A batch norm that computes `mul x + add` with its first running statistics.
    fn norm(&mut self, id: ValueId, mul: Vec<f32>, add: Vec<f32>, x: NodeId) -> Result<NodeId, ImportError> {
        let channels = mul.len();
        let running = Running {
            mean: vec![0.0; channels],
            variance: vec![1.0 - EPSILON; channels],
            epsilon: EPSILON,
            momentum: MOMENTUM,
        };
        let (gamma, beta) =
            (self.param(id, "gamma", mul, Role::Offset), self.param(id, "beta", add, Role::Offset));
        self.push(id, Op::BatchNorm { gamma, beta, running }, vec![x])
    }

    fn activation(
        &mut self,
        id: ValueId,
        activation: &ir::Activation,
        args: Vec<NodeId>,
    ) -> Result<NodeId, ImportError> {
        let function = activation.with_slopes(|&slope| {
            let slopes = self.numbers(slope);
            Ok(self.param(id, "slope", slopes, Role::Frozen))
        })?;
        self.push(id, Op::Activation(function), args)
    }
}

/// Whether each result of a convolution is one number of the operand, or none.
fn picks(weights: &[f32], c_out: usize) -> bool {
    weights.chunks(weights.len() / c_out.max(1)).all(|row| {
        row.iter().all(|w| *w == 0.0 || *w == 1.0) && row.iter().filter(|w| **w == 1.0).count() <= 1
    })
}

fn window(pool: &ir::Pool) -> Window {
    let kind = match pool.kind {
        ir::PoolKind::AverageExcludePad => Kind::AverageInside,
        ir::PoolKind::AverageIncludePad => Kind::AverageAll,
        ir::PoolKind::Max => Kind::Max,
    };
    Window {
        kind,
        kernel: pool.kernel.map(|k| k as usize),
        stride: pool.stride.map(|s| s as usize),
        pads: pool.pads.map(|p| p as usize),
    }
}

/// Place of weight `[o, i, ky, kx]` in the order of the kernels, for every weight in ONNX order.
fn places(g: &Geometry) -> impl Iterator<Item = usize> + '_ {
    let (ci, co, taps) = (g.c_in / g.groups, g.c_out / g.groups, g.kernel[0] * g.kernel[1]);
    (0..g.c_out).flat_map(move |o| {
        (0..ci).flat_map(move |i| (0..taps).map(move |t| (((o / co) * taps + t) * ci + i) * co + o % co))
    })
}

/// Weights in the order of the kernels.
pub(super) fn from_oihw(g: &Geometry, weights: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; weights.len()];
    places(g).zip(weights).for_each(|(place, w)| out[place] = *w);
    out
}

/// Weights in the order of ONNX.
pub(super) fn to_oihw(g: &Geometry, weights: &[f32]) -> Vec<f32> {
    places(g).map(|place| weights[place]).collect()
}
