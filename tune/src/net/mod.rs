//! A network to be trained: nodes in topological order, parameters, and what running them keeps.

mod backward;
mod blend;
mod degrees;
mod export;
mod fitted;
mod forward;
mod import;
mod norms;
mod replace;
#[cfg(test)]
pub(crate) mod tests;

use peregrine_ir::tensor::Activation;

use crate::ops::batch_norm::Running;
use crate::ops::conv::Convolution;
use crate::ops::pool::Window;
use crate::ops::separable::Placement;
use crate::ops::{batch_norm, poly_act};
use crate::tensor::{Shape, Tensor};

pub use blend::Blend;
pub use degrees::LevelBudget;
pub use export::ExportError;
pub use forward::Keep;
pub use import::ImportError;
pub use replace::{Coefficients, DegreePlan, Polynomials, ReplaceError, Replaced};

/// Index of a node.
pub type NodeId = usize;
/// Index of a parameter.
pub type ParamId = usize;

/// What a parameter is for the optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained, with weight decay.
    Weight,
    /// Trained, without weight decay: biases, factors of batch norms, coefficients.
    Offset,
    /// Not trained.
    Frozen,
}

/// A parameter with its gradient and momentum.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Unique name.
    pub name: String,
    /// Numbers.
    pub value: Vec<f32>,
    /// Gradient of the loss.
    pub grad: Vec<f32>,
    /// Momentum.
    pub velocity: Vec<f32>,
    /// What it is for the optimiser.
    pub role: Role,
}

/// A polynomial activation.
#[derive(Clone, Debug, PartialEq)]
pub struct PolyAct {
    /// Coefficients of the powers of the normalised operand, a row for each channel.
    pub powers: ParamId,
    /// Degree.
    pub degree: usize,
    /// Largest |x| per channel, a running average or measured before training: what operands are normalised by in inference.
    pub max: Vec<f32>,
    /// Whether a batch has been seen.
    pub started: bool,
    /// Largest |x| to be expected in inference, per channel; before it is measured, the running maxima stand for it.
    pub reach: Option<Vec<f32>>,
}

impl PolyAct {
    /// Largest |x| to be expected, per channel.
    pub fn range(&self) -> &[f32] {
        self.reach.as_deref().unwrap_or(&self.max)
    }
}

/// What a node does. Operands are in the node's `args`.
#[derive(Clone, Debug)]
pub enum Op {
    /// The images.
    Input,
    /// A convolution or, on maps of one pixel, a fully connected layer.
    Conv {
        /// Its plans.
        conv: Convolution,
        /// Weights.
        weights: ParamId,
        /// Bias.
        bias: Option<ParamId>,
        /// Whether the model file has it as a fully connected layer.
        dense: bool,
    },
    /// Batch normalisation.
    BatchNorm {
        /// Factors.
        gamma: ParamId,
        /// Offsets.
        beta: ParamId,
        /// Running statistics.
        running: Running,
    },
    /// `mul x + add` per channel.
    Affine {
        /// Factors.
        mul: ParamId,
        /// Offsets.
        add: ParamId,
    },
    /// An original activation.
    Activation(Activation<ParamId>),
    /// A polynomial activation with range normalisation.
    PolyAct(PolyAct),
    /// A polynomial of the model file, per channel: not trained.
    Poly {
        /// Coefficients per channel and power.
        coefficients: Vec<Vec<f64>>,
    },
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Pooling.
    Pool(Window),
    /// Mean over each map.
    GlobalMean,
    /// Padding with zeros.
    Pad([usize; 4]),
    /// Reshape in NCHW order.
    Reshape {
        /// Shape in the model file.
        shape: Vec<usize>,
    },
    /// A fixed map of each coordinate.
    Separable(Placement),
}

/// A node and the value it defines.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Operands, defined earlier.
    pub args: Vec<NodeId>,
    /// Extents of its value for one image.
    pub shape: Shape,
    /// Name in the model file.
    pub name: String,
}

/// A network.
#[derive(Clone, Debug)]
pub struct Net {
    /// Model name.
    pub name: String,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Named results.
    pub outputs: Vec<(String, NodeId)>,
    /// Parameters.
    pub params: Vec<Param>,
}

/// Where statistics come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The batch; running ones move.
    Batch,
    /// Running ones, which stay.
    Running,
}

/// What polynomial activations normalise their operands by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// The largest |x| of the batch, which the gradient flows through; the running maxima follow as an average.
    Batch,
    /// Constant ranges: the running maxima as they are, or those measured before training.
    Fixed,
    /// Constant ranges, a little outside of which polynomials go on as straight lines.
    Straightened,
}

/// How a network is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Batch norms.
    pub norms: Statistics,
    /// Ranges of polynomial activations.
    pub ranges: Ranges,
}

impl Mode {
    /// Training with the ranges of the batch.
    pub const TRAIN: Self = Self { norms: Statistics::Batch, ranges: Ranges::Batch };
    /// Inference.
    pub const EVALUATE: Self = Self { norms: Statistics::Running, ranges: Ranges::Fixed };
}

/// What a node keeps for its gradient besides its operands.
#[derive(Clone, Debug, Default)]
pub(crate) enum Saved {
    /// Nothing.
    #[default]
    None,
    /// Statistics of a batch norm.
    BatchNorm(batch_norm::Saved),
    /// Factors and offsets of a batch norm with running statistics.
    Affine(Vec<f32>),
    /// Scales of a polynomial activation.
    PolyAct(poly_act::Saved),
}

/// Values of one run.
#[derive(Debug)]
pub struct Tape {
    pub(crate) values: Vec<Option<Tensor>>,
    pub(crate) saved: Vec<Saved>,
}

impl Tape {
    /// Value of a node that was kept.
    pub fn value(&self, id: NodeId) -> &Tensor {
        self.values[id].as_ref().expect("the run kept this value")
    }

    /// Value of a node that was kept, which the tape loses.
    pub(crate) fn take(&mut self, id: NodeId) -> Option<Tensor> {
        self.values[id].take()
    }
}

impl Net {
    /// Adds a parameter.
    pub(crate) fn param(&mut self, name: String, value: Vec<f32>, role: Role) -> ParamId {
        let (grad, velocity) = (vec![0.0; value.len()], vec![0.0; value.len()]);
        self.params.push(Param { name, value, grad, velocity, role });
        self.params.len() - 1
    }

    /// Numbers of a parameter.
    pub(crate) fn numbers(&self, id: ParamId) -> &[f32] {
        &self.params[id].value
    }

    /// Gradients to zero.
    pub fn clear_grads(&mut self) {
        self.params.iter_mut().for_each(|p| p.grad.fill(0.0));
    }

    /// The input's extents for one image.
    pub fn input_shape(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Polynomial activations.
    pub fn poly_acts(&self) -> impl Iterator<Item = (NodeId, &PolyAct)> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| match &node.op {
            Op::PolyAct(act) => Some((id, act)),
            _ => None,
        })
    }

    /// Values at which residual branches join: sums of two tensors.
    pub fn joins(&self) -> Vec<NodeId> {
        (0..self.nodes.len()).filter(|&id| matches!(self.nodes[id].op, Op::Add)).collect()
    }
}
