//! Clear interpreter of tensor graphs over a batch of images: the oracle of the passes and the engine of calibration.
//!
//! Values are `f32`, row-major, image after image; convolutions are im2col and a matrix product per image and group,
//! images run in parallel. The result does not depend on the number of threads.

mod conv;
mod elementwise;
mod separable;

use peregrine_ir::tensor::{PoolKind, TensorGraph, TensorOp};
use peregrine_ir::{EntityId, ValueId};
use rayon::prelude::*;

use crate::error::PassError;

pub use conv::{PatchGrid, conv_extent};
pub(crate) use conv::{convolve, pool_counts};
pub(crate) use elementwise::activation;

/// Images, all of one shape, as they enter a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    count: usize,
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Batch {
    /// A batch of `data.len() / image` images; `image` is the shape of one, without the batch axis.
    ///
    /// # Errors
    /// [`PassError::BatchSize`] when there is no image, or the numbers are no whole number of images.
    pub fn new(image: &[usize], data: Vec<f32>) -> Result<Self, PassError> {
        let len: usize = image.iter().product();
        let count = data.len().checked_div(len).unwrap_or(0);
        if count == 0 || count * len != data.len() {
            return Err(PassError::BatchSize { count, shape: image.to_vec(), numbers: data.len() });
        }
        let shape = std::iter::once(1).chain(image.iter().copied()).collect();
        Ok(Self { count, shape, data })
    }
    /// Number of images.
    pub fn count(&self) -> usize {
        self.count
    }
    /// Shape of one image with batch 1, as the graph's input has it.
    pub fn image_shape(&self) -> &[usize] {
        &self.shape
    }
    /// All numbers, image after image.
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}

/// Channels of a value (axis 1) and numbers per channel of one image.
pub fn channels_of(shape: &[usize]) -> (usize, usize) {
    (shape.get(1).copied().unwrap_or(1), shape.iter().skip(2).product())
}

/// The one input of a graph, checked against a batch.
pub(crate) fn check_input(graph: &TensorGraph, batch: &Batch) -> Result<(), PassError> {
    let inputs: Vec<_> = graph
        .nodes
        .values()
        .filter_map(|node| match &node.op {
            TensorOp::Input { name } => Some((name, &node.ty.shape)),
            _ => None,
        })
        .collect();
    let [(name, shape)] = inputs.as_slice() else {
        return Err(PassError::Inputs { found: inputs.len() });
    };
    if shape.as_slice() != batch.image_shape() {
        return Err(PassError::BatchShape {
            input: (*name).clone(),
            expected: shape[1..].to_vec(),
            found: batch.image_shape()[1..].to_vec(),
        });
    }
    Ok(())
}

/// Runs the graph; one vector per output, image after image.
///
/// # Errors
/// [`PassError::Inputs`] and [`PassError::BatchShape`] when the batch is not what the graph takes.
pub fn run(graph: &TensorGraph, batch: &Batch) -> Result<Vec<Vec<f32>>, PassError> {
    run_with(graph, batch, &mut |_, _| {})
}

/// Runs the graph and shows every value (image after image) to `observe`, in order.
///
/// # Errors
/// Those of [`run`].
pub fn run_with(
    graph: &TensorGraph,
    batch: &Batch,
    observe: &mut dyn FnMut(ValueId, &[f32]),
) -> Result<Vec<Vec<f32>>, PassError> {
    let mut executor = Executor::new(graph, batch)?;
    for id in graph.nodes.ids() {
        executor.step(graph, id);
        observe(id, executor.value(id));
        executor.release_operands(graph, id);
    }
    Ok(graph.outputs.iter().map(|o| executor.value(o.value).to_vec()).collect())
}

/// Runs a graph node by node, so that a caller may change nodes that have not run yet.
pub(crate) struct Executor<'b> {
    batch: &'b Batch,
    values: Vec<Vec<f32>>,
    uses: Vec<usize>,
}

impl<'b> Executor<'b> {
    pub(crate) fn new(graph: &TensorGraph, batch: &'b Batch) -> Result<Self, PassError> {
        check_input(graph, batch)?;
        let mut uses: Vec<usize> = graph.users().iter().map(Vec::len).collect();
        for output in &graph.outputs {
            uses[output.value.index()] += 1;
        }
        Ok(Self { batch, values: vec![Vec::new(); graph.nodes.len()], uses })
    }
    /// Computes value `id`; its operands have been computed.
    pub(crate) fn step(&mut self, graph: &TensorGraph, id: ValueId) {
        self.values[id.index()] = self.evaluate(graph, id);
    }
    /// A value that was computed and is still needed.
    pub(crate) fn value(&self, id: ValueId) -> &[f32] {
        &self.values[id.index()]
    }
    /// Keeps a value until [`Self::release`].
    pub(crate) fn retain(&mut self, id: ValueId) {
        self.uses[id.index()] += 1;
    }
    /// Ends one use of a value and frees it after the last.
    pub(crate) fn release(&mut self, id: ValueId) {
        self.uses[id.index()] -= 1;
        if self.uses[id.index()] == 0 {
            self.values[id.index()] = Vec::new();
        }
    }
    /// Puts another value in the place of one that was computed.
    pub(crate) fn replace(&mut self, id: ValueId, value: Vec<f32>) {
        self.values[id.index()] = value;
    }
    /// Frees the operands of `id` that nothing else needs.
    pub(crate) fn release_operands(&mut self, graph: &TensorGraph, id: ValueId) {
        for arg in &graph.nodes[id].args {
            self.release(*arg);
        }
    }

    fn evaluate(&self, graph: &TensorGraph, id: ValueId) -> Vec<f32> {
        let node = &graph.nodes[id];
        let consts = &graph.tables.consts;
        let args: Vec<&[f32]> = node.args.iter().map(|&a| self.value(a)).collect();
        let input_shape = node.args.first().map_or(&[][..], |&a| &graph.nodes[a].ty.shape);
        let images = self.batch.count;
        match &node.op {
            TensorOp::Input { .. } => self.batch.data.clone(),
            TensorOp::Conv(op) => convolve(op, consts, args[0], input_shape, &node.ty.shape, images),
            TensorOp::FullyConnected { weights, bias } => {
                conv::fully_connected(&consts[*weights], bias.map(|b| &consts[b]), args[0], images)
            }
            TensorOp::ChannelAffine { mul, add } => {
                let (mul, add) = (consts[*mul].to_f64(), consts[*add].to_f64());
                elementwise::per_channel(args[0], input_shape, |c, x| (mul[c] * f64::from(x) + add[c]) as f32)
            }
            TensorOp::Activation(op) => {
                let function = activation(op, consts);
                elementwise::per_channel(args[0], input_shape, |c, x| function(c, f64::from(x)) as f32)
            }
            TensorOp::Poly { coefficients } => {
                elementwise::polynomial(&consts[*coefficients], args[0], input_shape)
            }
            TensorOp::Add => elementwise::zip(args[0], args[1], |a, b| a + b),
            TensorOp::Sub => elementwise::zip(args[0], args[1], |a, b| a - b),
            TensorOp::Mul => elementwise::zip(args[0], args[1], |a, b| a * b),
            TensorOp::Pool(op) => conv::pool(op, args[0], input_shape, &node.ty.shape),
            TensorOp::GlobalAveragePool => mean_of_maps(args[0], input_shape),
            TensorOp::Pad { pads } => conv::pad(*pads, args[0], input_shape, &node.ty.shape),
            TensorOp::Reshape { .. } => args[0].to_vec(),
            TensorOp::Separable(map) => separable::apply(map, args[0]),
        }
    }
}

fn mean_of_maps(x: &[f32], shape: &[usize]) -> Vec<f32> {
    let (_, map) = channels_of(shape);
    x.par_chunks(map).map(|m| (m.iter().map(|&v| f64::from(v)).sum::<f64>() / map as f64) as f32).collect()
}

/// Whether a pooling function is a mean.
pub(crate) fn is_average(kind: PoolKind) -> bool {
    match kind {
        PoolKind::AverageExcludePad | PoolKind::AverageIncludePad => true,
        PoolKind::Max => false,
    }
}

#[cfg(test)]
mod tests;
