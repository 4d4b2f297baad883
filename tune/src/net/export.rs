//! A trained network as a tensor graph: running statistics become constants, polynomial activations per-channel
//! polynomials, and batch norms fold into convolutions.

use std::collections::BTreeMap;

use peregrine_ir::tensor as ir;
use peregrine_ir::tensor::{Stage, Tensor, TensorGraph, TensorOp, TensorTables, TensorTy};
use peregrine_ir::{ConstId, ConstPool, ConstTensor, Origin, OutputPort, ValueId};
use peregrine_passes::pass::Verification;
use peregrine_passes::tensor::{fold_batch_norm, fold_constants};
use peregrine_passes::{PassError, PassManager};
use thiserror::Error;

use super::import::to_oihw;
use super::{Net, NodeId, Op};
use crate::ops::pool::{Kind, Window};
use crate::ops::{batch_norm, poly_act};

/// Why a network is not exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// A number that is not finite.
    #[error("layer {layer:?} holds a number that is not finite: train with a smaller learning rate")]
    NotFinite {
        /// Layer.
        layer: String,
    },
    /// A pass found the graph invalid: a bug.
    #[error("bug: the trained graph is refused: {0}")]
    Pass(#[from] PassError),
}

impl Net {
    /// The network as a tensor graph whose input is called `input`.
    ///
    /// # Errors
    /// When a parameter is not finite.
    pub fn to_graph(&self, input: &str) -> Result<TensorGraph, ExportError> {
        let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Imported };
        let graph = TensorGraph::new(self.name.clone(), tables);
        let mut exporter = Exporter { net: self, graph, ids: BTreeMap::new() };
        for id in 0..self.nodes.len() {
            let made = exporter.node(id, input)?;
            exporter.ids.insert(id, made);
        }
        let port = |(name, id): &(String, NodeId)| OutputPort { name: name.clone(), value: exporter.ids[id] };
        exporter.graph.outputs = self.outputs.iter().map(port).collect();
        let mut graph = exporter.graph;
        PassManager::<Tensor>::new(Verification::EachPass).run_all(
            &mut [&mut fold_constants::FoldConstants, &mut fold_batch_norm::FoldBatchNorm],
            &mut graph,
        )?;
        Ok(graph)
    }
}

struct Exporter<'n> {
    net: &'n Net,
    graph: TensorGraph,
    ids: BTreeMap<NodeId, ValueId>,
}

impl Exporter<'_> {
    fn floats(&mut self, id: NodeId, shape: &[usize], data: Vec<f32>) -> Result<ConstId, ExportError> {
        self.check(id, data.iter().all(|x| x.is_finite()))?;
        Ok(self.graph.tables.consts.push(ConstTensor::f32(shape, data)))
    }

    fn doubles(&mut self, id: NodeId, shape: &[usize], data: Vec<f64>) -> Result<ConstId, ExportError> {
        self.check(id, data.iter().all(|x| x.is_finite()))?;
        Ok(self.graph.tables.consts.push(ConstTensor::f64(shape, data)))
    }

    fn check(&self, id: NodeId, finite: bool) -> Result<(), ExportError> {
        match finite {
            true => Ok(()),
            false => Err(ExportError::NotFinite { layer: self.net.nodes[id].name.clone() }),
        }
    }

    fn node(&mut self, id: NodeId, input: &str) -> Result<ValueId, ExportError> {
        let net = self.net;
        let node = &net.nodes[id];
        let channels = node.shape.c;
        let op = match &node.op {
            Op::Input => TensorOp::Input { name: input.to_owned() },
            Op::Conv { conv, weights, bias, dense } => {
                let g = conv.geometry();
                let values = to_oihw(g, net.numbers(*weights));
                let bias = bias.map(|b| self.floats(id, &[g.c_out], net.numbers(b).to_vec())).transpose()?;
                let kernel = [g.c_out, g.c_in / g.groups, g.kernel[0], g.kernel[1]];
                match dense {
                    true => {
                        let weights = self.floats(id, &kernel[..2], values)?;
                        TensorOp::FullyConnected { weights, bias }
                    }
                    false => {
                        let weights = self.floats(id, &kernel, values)?;
                        let pair = |v: [usize; 2]| v.map(|x| x as u32);
                        TensorOp::Conv(ir::Conv {
                            weights,
                            bias,
                            stride: pair(g.stride),
                            pads: g.pads.map(|p| p as u32),
                            dilation: pair(g.dilation),
                            groups: g.groups as u32,
                        })
                    }
                }
            }
            Op::BatchNorm { gamma, beta, running } => {
                let (mul, add) = batch_norm::affine(running, net.numbers(*gamma), net.numbers(*beta));
                let shape = [channels];
                TensorOp::ChannelAffine {
                    mul: self.doubles(id, &shape, mul)?,
                    add: self.doubles(id, &shape, add)?,
                }
            }
            Op::Affine { mul, add } => TensorOp::ChannelAffine {
                mul: self.floats(id, &[channels], net.numbers(*mul).to_vec())?,
                add: self.floats(id, &[channels], net.numbers(*add).to_vec())?,
            },
            Op::Activation(function) => TensorOp::Activation(function.with_slopes(|&p| {
                let slopes = net.numbers(p).to_vec();
                self.floats(id, &[slopes.len()], slopes)
            })?),
            Op::PolyAct(act) => {
                let scales: Vec<f64> = act.max.iter().map(|m| poly_act::scale(*m)).collect();
                self.polynomial(id, &poly_act::fold(net.numbers(act.powers), &scales))?
            }
            Op::Poly { coefficients } => self.polynomial(id, coefficients)?,
            Op::Add => TensorOp::Add,
            Op::Sub => TensorOp::Sub,
            Op::Mul => TensorOp::Mul,
            Op::Pool(window) => TensorOp::Pool(pool(window)),
            Op::GlobalMean => TensorOp::GlobalAveragePool,
            Op::Pad(pads) => TensorOp::Pad { pads: pads.map(|p| p as u32) },
            Op::Reshape { shape } => TensorOp::Reshape { shape: shape.clone() },
            Op::Separable(placement) => TensorOp::Separable(placement.map.clone()),
        };
        Ok(self.add(id, op))
    }

    fn add(&mut self, id: NodeId, op: TensorOp) -> ValueId {
        let node = &self.net.nodes[id];
        let args: Vec<ValueId> = node.args.iter().map(|a| self.ids[a]).collect();
        let types: Vec<&TensorTy> = args.iter().map(|a| &self.graph.nodes[*a].ty).collect();
        let ty = match &op {
            TensorOp::Input { .. } => TensorTy::map(node.shape.c, node.shape.h, node.shape.w),
            op => ir::infer(op, &types, &self.graph.tables.consts)
                .expect("the network has the shapes of the graph it came from"),
        };
        self.graph.add(op, args, ty, Origin::new(&node.name))
    }

    fn polynomial(&mut self, id: NodeId, rows: &[Vec<f64>]) -> Result<TensorOp, ExportError> {
        let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
        let coefficients = self.doubles(id, &shape, rows.concat())?;
        Ok(TensorOp::Poly { coefficients })
    }
}

fn pool(window: &Window) -> ir::Pool {
    let kind = match window.kind {
        Kind::AverageInside => ir::PoolKind::AverageExcludePad,
        Kind::AverageAll => ir::PoolKind::AverageIncludePad,
        Kind::Max => ir::PoolKind::Max,
    };
    ir::Pool {
        kind,
        kernel: window.kernel.map(|k| k as u32),
        stride: window.stride.map(|s| s as u32),
        pads: window.pads.map(|p| p as u32),
    }
}
