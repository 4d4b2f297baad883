//! Pass `normalise`: pads, average pools, flattening, fully connected layers, differences and left-over affine maps become
//! convolutions.
//!
//! Precondition: none (folding before it gives fewer nodes). Postcondition: no Pad, GlobalAveragePool, FullyConnected,
//! Sub or ChannelAffine but those that `check-canonical` reports; every value but an input is `[1, C, H, W]`; Reshape only
//! gives an output its ONNX shape. Example: `fully_connected(reshape(x: [1, 2, 3, 3]))` becomes a convolution with weights
//! `[out, 2, 3, 3]` and one output position: a row-major flatten is the order of the weights.
//!
//! A Pad moves into the convolution or average pool after it; elsewhere it is a 1x1 identity convolution with padding.
//! A pool that leaves padding out of its mean becomes a convolution only if every window holds the same number of pixels. The
//! mean of a large map is a separable map.

use peregrine_ir::tensor::{Activation, Conv, Pool, PoolKind, Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{AxisMap, AxisRun, ConstId, ConstTensor, EntityId, Node, Separable, ValueId};

use super::dead_code::prune;
use super::interp::{is_average, pool_counts};
use super::rewrite::{Rewrite, channel_conv, f32_const};
use crate::error::PassError;
use crate::pass::{Changed, Pass};

/// A global average pool of at most this many pixels is a convolution, which fuses with the fully connected layer after it.
const LARGEST_WHOLE_MAP_KERNEL: usize = 64;

/// The pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Normalise;

impl Pass<Tensor> for Normalise {
    fn name(&self) -> &'static str {
        "normalise"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        let mut walk = Walk { graph, rewrite: Rewrite::of(graph), pads: vec![[0; 4]; graph.nodes.len()] };
        for (id, node) in graph.nodes.iter() {
            let value = walk.visit(id, node)?;
            walk.rewrite.set(id, value);
        }
        for output in &graph.outputs {
            walk.restore_output(output.value)?;
        }
        let mut next = walk.rewrite.finish(graph);
        prune(&mut next);
        let changed = Changed::when(next != *graph);
        *graph = next;
        Ok(changed)
    }
}

struct Walk<'g> {
    graph: &'g TensorGraph,
    rewrite: Rewrite,
    /// Zero padding that the new value of an old one still lacks.
    pads: Vec<[u32; 4]>,
}

impl Walk<'_> {
    fn visit(&mut self, id: ValueId, node: &Node<Tensor>) -> Result<ValueId, PassError> {
        match &node.op {
            TensorOp::Pad { pads } if self.is_map(node.args[0]) => {
                self.pads[id.index()] = add_pads(self.pads[node.args[0].index()], *pads);
                Ok(self.rewrite.value(node.args[0]))
            }
            TensorOp::Conv(conv) if self.is_map(node.args[0]) => {
                let pads = add_pads(conv.pads, self.pads[node.args[0].index()]);
                let input = self.rewrite.value(node.args[0]);
                self.rewrite.push(TensorOp::Conv(Conv { pads, ..conv.clone() }), &[input], &node.origin)
            }
            TensorOp::Pool(pool) if self.is_map(node.args[0]) && is_average(pool.kind) => {
                self.pool(node, pool)
            }
            TensorOp::GlobalAveragePool if self.is_map(node.args[0]) => {
                let input = self.padded(node.args[0])?;
                let shape = self.shape(input);
                if shape[2] * shape[3] > LARGEST_WHOLE_MAP_KERNEL {
                    let map = mean_of_map(&shape);
                    return self.rewrite.push(TensorOp::Separable(map), &[input], &node.origin);
                }
                let kernel = [shape[2] as u32, shape[3] as u32];
                let pool = Pool { kind: PoolKind::AverageIncludePad, kernel, stride: [1, 1], pads: [0; 4] };
                self.average(node, input, &pool, 1.0 / (shape[2] * shape[3]) as f64)
            }
            TensorOp::FullyConnected { weights, bias } => self.fully_connected(node, *weights, *bias),
            TensorOp::Reshape { .. } => self.padded(node.args[0]),
            TensorOp::ChannelAffine { mul, add } => self.affine(node, *mul, *add),
            TensorOp::Sub => self.difference(node),
            _ => self.generic(node),
        }
    }

    fn shape(&self, value: ValueId) -> Vec<usize> {
        self.rewrite.out.nodes[value].ty.shape.clone()
    }

    /// Whether an old value is a map whose new value differs by pending padding only.
    fn is_map(&self, old: ValueId) -> bool {
        let pads = self.pads[old.index()].map(|p| p as usize);
        let new = self.shape(self.rewrite.value(old));
        match (self.graph.nodes[old].ty.shape.as_slice(), new.as_slice()) {
            (&[1, c, h, w], &[1, nc, nh, nw]) => {
                c == nc && h == nh + pads[0] + pads[2] && w == nw + pads[1] + pads[3]
            }
            _ => false,
        }
    }

    /// The new value of an old one, with its padding.
    fn padded(&mut self, old: ValueId) -> Result<ValueId, PassError> {
        let value = self.rewrite.value(old);
        let pads = std::mem::take(&mut self.pads[old.index()]);
        if pads == [0; 4] {
            return Ok(value);
        }
        let channels = self.shape(value)[1];
        let conv = channel_conv(&mut self.rewrite.out, &vec![1.0; channels], &vec![0.0; channels]);
        let origin = &self.graph.nodes[old].origin;
        let value = self.rewrite.push(TensorOp::Conv(Conv { pads, ..conv }), &[value], origin)?;
        self.rewrite.set(old, value);
        Ok(value)
    }

    fn pool(&mut self, node: &Node<Tensor>, pool: &Pool) -> Result<ValueId, PassError> {
        let old = node.args[0];
        let pending = self.pads[old.index()];
        let kernel = f64::from(pool.kernel[0]) * f64::from(pool.kernel[1]);
        if pool.kind == PoolKind::AverageIncludePad || pool.pads == [0; 4] {
            let pads = add_pads(pool.pads, pending);
            let input = self.rewrite.value(old);
            return self.average(node, input, &Pool { pads, ..pool.clone() }, 1.0 / kernel);
        }
        let counts = pool_counts(pool, &self.graph.nodes[old].ty.shape, &node.ty.shape);
        match counts {
            Some(pixels) => {
                let input = self.padded(old)?;
                self.average(node, input, pool, 1.0 / pixels as f64)
            }
            None => self.generic(node),
        }
    }

    fn average(
        &mut self,
        node: &Node<Tensor>,
        input: ValueId,
        pool: &Pool,
        weight: f64,
    ) -> Result<ValueId, PassError> {
        let channels = self.shape(input)[1];
        let kernel = pool.kernel.map(|k| k as usize);
        let weights = vec![weight; channels * kernel[0] * kernel[1]];
        let weights = self.rewrite.constant(f32_const(&[channels, 1, kernel[0], kernel[1]], &weights));
        let groups = channels as u32;
        let conv =
            Conv { weights, bias: None, stride: pool.stride, pads: pool.pads, dilation: [1, 1], groups };
        self.rewrite.push(TensorOp::Conv(conv), &[input], &node.origin)
    }

    fn fully_connected(
        &mut self,
        node: &Node<Tensor>,
        weights: ConstId,
        bias: Option<ConstId>,
    ) -> Result<ValueId, PassError> {
        let input = self.padded(node.args[0])?;
        let shape = self.shape(input);
        let [1, c, h, w] = shape[..] else { return self.generic(node) };
        let table = self.graph.tables.consts[weights].clone();
        let weights =
            self.rewrite.constant(ConstTensor { shape: vec![table.shape[0], c, h, w], data: table.data });
        let conv = Conv { weights, bias, stride: [1, 1], pads: [0; 4], dilation: [1, 1], groups: 1 };
        self.rewrite.push(TensorOp::Conv(conv), &[input], &node.origin)
    }

    fn affine(&mut self, node: &Node<Tensor>, mul: ConstId, add: ConstId) -> Result<ValueId, PassError> {
        let input = self.padded(node.args[0])?;
        let consts = &self.graph.tables.consts;
        let shape = self.shape(input);
        let (Some(mul), Some(add)) =
            (per_map(&consts[mul].to_f64(), &shape), per_map(&consts[add].to_f64(), &shape))
        else {
            return self.generic(node);
        };
        let conv = channel_conv(&mut self.rewrite.out, &mul, &add);
        self.rewrite.push(TensorOp::Conv(conv), &[input], &node.origin)
    }

    fn difference(&mut self, node: &Node<Tensor>) -> Result<ValueId, PassError> {
        let (left, right) = (self.padded(node.args[0])?, self.padded(node.args[1])?);
        let shape = self.shape(right);
        if self.shape(left) != shape || shape.len() != 4 {
            return self.generic(node);
        }
        let conv = channel_conv(&mut self.rewrite.out, &vec![-1.0; shape[1]], &vec![0.0; shape[1]]);
        let negated = self.rewrite.push(TensorOp::Conv(conv), &[right], &node.origin)?;
        self.rewrite.push(TensorOp::Add, &[left, negated], &node.origin)
    }

    /// Any other node: on the new values if they mean the same to it, else on values of the old shape.
    fn generic(&mut self, node: &Node<Tensor>) -> Result<ValueId, PassError> {
        if matches!(node.op, TensorOp::Input { .. }) {
            return Ok(self.rewrite.out.add(node.op.clone(), [], node.ty.clone(), node.origin.clone()));
        }
        let mut args = Vec::with_capacity(node.args.len());
        for &arg in &node.args {
            args.push(self.padded(arg)?);
        }
        let first = self.shape(args[0]);
        let same_shapes = args.iter().all(|&a| self.shape(a) == first);
        let old_channels = self.graph.nodes[node.args[0]].ty.shape.get(1).copied();
        let same_channels = first.get(1).copied() == old_channels;
        let constants = constant_rows(&node.op, self.graph);
        let fits = match &node.op {
            TensorOp::Add | TensorOp::Sub | TensorOp::Mul => same_shapes,
            TensorOp::Activation(_) | TensorOp::Poly { .. } => same_channels || constants <= 1,
            TensorOp::Separable(map) => first[1..] == map.input().map(|extent| extent as usize),
            _ => false,
        };
        if !fits {
            for (new, &old) in args.iter_mut().zip(&node.args) {
                *new = self.with_old_shape(*new, old)?;
            }
        }
        self.rewrite.push(node.op.clone(), &args, &node.origin)
    }

    /// `new` reshaped to the shape of `old`, where it differs.
    fn with_old_shape(&mut self, new: ValueId, old: ValueId) -> Result<ValueId, PassError> {
        let shape = self.graph.nodes[old].ty.shape.clone();
        if self.shape(new) == shape {
            return Ok(new);
        }
        let origin = self.graph.nodes[old].origin.clone();
        self.rewrite.push(TensorOp::Reshape { shape }, &[new], &origin)
    }

    fn restore_output(&mut self, old: ValueId) -> Result<(), PassError> {
        let value = self.padded(old)?;
        let value = self.with_old_shape(value, old)?;
        self.rewrite.set(old, value);
        Ok(())
    }
}

fn add_pads(a: [u32; 4], b: [u32; 4]) -> [u32; 4] {
    std::array::from_fn(|i| a[i] + b[i])
}

/// Mean over rows and columns.
fn mean_of_map(shape: &[usize]) -> Separable {
    let mean = |extent: usize| {
        let factor = 1.0 / extent as f32;
        let run =
            AxisRun { output: 0, output_step: 0, input: 0, input_step: 1, count: extent as u32, factor };
        AxisMap::from_runs(extent as u32, 1, &[run]).expect("extents of a typed map are within the limits")
    };
    Separable { maps: [AxisMap::identity(shape[1] as u32), mean(shape[2]), mean(shape[3])] }
}

/// Per-feature numbers of a flattened map as per-channel numbers, if they are constant on each channel.
fn per_map(values: &[f64], shape: &[usize]) -> Option<Vec<f64>> {
    let &[1, channels, h, w] = shape else { return None };
    if values.len() == channels {
        return Some(values.to_vec());
    }
    if values.len() != channels * h * w {
        return None;
    }
    values.chunks(h * w).map(|map| map.iter().all(|v| *v == map[0]).then_some(map[0])).collect()
}

/// Rows of the per-channel constants of an element-wise operation; 0 without any.
fn constant_rows(op: &TensorOp, graph: &TensorGraph) -> usize {
    match op {
        TensorOp::Poly { coefficients: id } | TensorOp::Activation(Activation::PRelu { slope: id }) => {
            graph.tables.consts[*id].shape[0]
        }
        _ => 0,
    }
}

#[cfg(test)]
#[path = "normalise_tests.rs"]
mod tests;
