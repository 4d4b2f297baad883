//! Small graphs for the tests of the passes, and the comparison of two graphs by running both.

use peregrine_ir::tensor::{
    Activation, Conv, Pool, PoolKind, Stage, TensorGraph, TensorOp, TensorTables, TensorTy,
};
use peregrine_ir::{ConstId, ConstPool, ConstTensor, Graph, Origin, OutputPort, ValueId};

use super::interp::{self, Batch};
use super::rewrite::append;

/// Deterministic numbers in about [-1, 1].
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A graph under construction with one input.
pub(crate) struct Net {
    pub(crate) graph: TensorGraph,
    pub(crate) input: ValueId,
    seed: u64,
}

impl Net {
    pub(crate) fn new(image: &[usize]) -> Self {
        let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Imported };
        let mut graph = Graph::new("net", tables);
        let shape = std::iter::once(1).chain(image.iter().copied()).collect();
        let op = TensorOp::Input { name: "x".to_owned() };
        let input = graph.add(op, [], TensorTy { shape }, Origin::new("x"));
        Self { graph, input, seed: 1 }
    }
    pub(crate) fn add(&mut self, op: TensorOp, args: &[ValueId]) -> ValueId {
        let origin = Origin::new(&format!("layer{}", self.graph.nodes.len()));
        append(&mut self.graph, op, args, &origin).unwrap()
    }
    pub(crate) fn weights(&mut self, shape: &[usize]) -> ConstId {
        self.seed += 1;
        let data = numbers(shape.iter().product(), self.seed);
        self.graph.tables.consts.push(ConstTensor::f32(shape.to_vec(), data))
    }
    /// A convolution with random weights `[out, in / groups, k, k]` and a random bias.
    pub(crate) fn conv(
        &mut self,
        x: ValueId,
        out: usize,
        k: usize,
        stride: u32,
        pads: [u32; 4],
        groups: u32,
    ) -> ValueId {
        let inputs = self.graph.nodes[x].ty.shape[1] / groups as usize;
        let weights = self.weights(&[out, inputs, k, k]);
        let bias = Some(self.weights(&[out]));
        let conv = Conv { weights, bias, stride: [stride; 2], pads, dilation: [1, 1], groups };
        self.add(TensorOp::Conv(conv), &[x])
    }
    pub(crate) fn fully_connected(&mut self, x: ValueId, out: usize) -> ValueId {
        let inputs = self.graph.nodes[x].ty.shape[1];
        let weights = self.weights(&[out, inputs]);
        let bias = Some(self.weights(&[out]));
        self.add(TensorOp::FullyConnected { weights, bias }, &[x])
    }
    pub(crate) fn affine(&mut self, x: ValueId, mul: &[f32], add: &[f32]) -> ValueId {
        let [mul, add] =
            [mul, add].map(|v| self.graph.tables.consts.push(ConstTensor::f32(vec![v.len()], v.to_vec())));
        self.add(TensorOp::ChannelAffine { mul, add }, &[x])
    }
    /// A batch norm with random factors and offsets.
    pub(crate) fn batch_norm(&mut self, x: ValueId) -> ValueId {
        let channels = self.graph.nodes[x].ty.shape[1];
        let (mul, add) = (self.weights(&[channels]), self.weights(&[channels]));
        self.add(TensorOp::ChannelAffine { mul, add }, &[x])
    }
    pub(crate) fn relu(&mut self, x: ValueId) -> ValueId {
        self.add(TensorOp::Activation(Activation::Relu), &[x])
    }
    pub(crate) fn pad(&mut self, x: ValueId, pads: [u32; 4]) -> ValueId {
        self.add(TensorOp::Pad { pads }, &[x])
    }
    pub(crate) fn pool(
        &mut self,
        x: ValueId,
        kind: PoolKind,
        kernel: u32,
        stride: u32,
        pads: [u32; 4],
    ) -> ValueId {
        self.add(TensorOp::Pool(Pool { kind, kernel: [kernel; 2], stride: [stride; 2], pads }), &[x])
    }
    pub(crate) fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        self.add(TensorOp::Reshape { shape: shape.to_vec() }, &[x])
    }
    pub(crate) fn poly(&mut self, x: ValueId, rows: usize, degree: usize) -> ValueId {
        let coefficients = self.weights(&[rows, degree + 1]);
        let data = self.graph.tables.consts[coefficients].to_f64();
        self.graph.tables.consts[coefficients] = ConstTensor::f64(vec![rows, degree + 1], data);
        self.add(TensorOp::Poly { coefficients }, &[x])
    }
    pub(crate) fn output(mut self, value: ValueId) -> TensorGraph {
        self.graph.outputs.push(OutputPort { name: "y".to_owned(), value });
        self.graph
    }
}

/// A batch of three random images for `graph`.
pub(crate) fn batch_for(graph: &TensorGraph) -> Batch {
    let shape =
        graph.nodes.values().find(|n| matches!(n.op, TensorOp::Input { .. })).unwrap().ty.shape.clone();
    Batch::new(&shape[1..], numbers(3 * shape.iter().product::<usize>(), 99)).unwrap()
}

/// Runs both graphs and compares all outputs within 1e-4 of the largest number.
pub(crate) fn assert_same_outputs(a: &TensorGraph, b: &TensorGraph) {
    let batch = batch_for(a);
    let (ya, yb) = (interp::run(a, &batch).unwrap(), interp::run(b, &batch).unwrap());
    assert_eq!(ya.len(), yb.len());
    for ((ya, yb), (pa, pb)) in ya.iter().zip(&yb).zip(a.outputs.iter().zip(&b.outputs)) {
        assert_eq!(a.nodes[pa.value].ty, b.nodes[pb.value].ty, "shape of output {}", pa.name);
        let scale = ya.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        let error = ya.iter().zip(yb).fold(0.0f32, |m, (p, q)| m.max((p - q).abs()));
        assert!(error <= 1e-4 * scale, "error {error} of {scale}");
    }
}

/// Names of the operations in order.
pub(crate) fn op_names(graph: &TensorGraph) -> Vec<&'static str> {
    graph.nodes.values().map(|n| super::check::op_name(&n.op)).collect()
}
