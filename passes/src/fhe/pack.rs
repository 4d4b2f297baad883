//! Lowering of a polynomial tensor graph to a packed fhe graph.
//!
//! Precondition: only Input, Conv, Poly, Add, and Reshape before outputs; ranges of all values. Postcondition: stage
//! [`Stage::Packed`]; every residual add has become one more term of a `Linear`, every value is in about unit range per
//! channel (units are folded into the weights that make and use it), every polynomial is monic.
//!
//! Convolutions and adds stay pending sums until something needs the value: a polynomial, an output, another
//! convolution or a second user. So `conv(a) + conv(b)` and `conv(a) + b` cost one level and one rescale.

use std::sync::Arc;

use peregrine_ir::fhe::{FheGraph, FheOp, FheTables, MonicPoly, PackedTy, Stage};
use peregrine_ir::layout::Chw;
use peregrine_ir::linear::{ConvGeometry, LayoutId, LinearMap};
use peregrine_ir::tensor::{Conv, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{
    ConstId, ConstPool, ConstTensor, EntityId, Graph, Node, Origin, OutputPort, PrimaryMap, ValueId,
};

use super::LowerError;
use super::layouts::{LayoutPlan, chw};
use super::monic::{Monic, monic, positive};

/// Largest degree of a polynomial that the fhe level evaluates.
pub const MAX_DEGREE: u32 = 8;

/// Packs `graph` into ciphertexts of `slots` slots. `ranges[v][c]` is the largest absolute value of channel c of value v.
///
/// # Errors
/// Operations that the fhe level has no form for, by ONNX name.
pub fn pack(graph: &TensorGraph, ranges: &[Vec<f64>], slots: u32) -> Result<FheGraph, LowerError> {
    let layouts = LayoutPlan::of(graph, slots)?;
    let mut packer = Packer::new(graph, ranges, layouts, slots)?;
    for (id, node) in graph.nodes.iter() {
        packer.node(id, node)?;
    }
    packer.finish()
}

/// A pending sum of linear terms.
#[derive(Clone, Debug)]
struct Sum {
    terms: Vec<Term>,
    bias: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Term {
    source: ValueId,
    geometry: ConvGeometry,
    kernel: Arc<Vec<f64>>,
}

enum Repr {
    Packed(ValueId),
    Pending(Sum),
}

struct Packer<'a> {
    graph: &'a TensorGraph,
    ranges: &'a [Vec<f64>],
    users: Vec<Vec<ValueId>>,
    layouts: LayoutPlan,
    monics: Vec<Option<Monic>>,
    reprs: Vec<Option<Repr>>,
    out: FheGraph,
}

impl<'a> Packer<'a> {
    fn new(
        graph: &'a TensorGraph,
        ranges: &'a [Vec<f64>],
        layouts: LayoutPlan,
        slots: u32,
    ) -> Result<Self, LowerError> {
        let tables = FheTables {
            consts: ConstPool::new(),
            layouts: PrimaryMap::new(),
            maps: PrimaryMap::new(),
            slots,
            chain_bits: Vec::new(),
            bootstrap: None,
            stage: Stage::Packed,
        };
        let monics = graph
            .nodes
            .iter()
            .map(|(id, node)| monic_of(graph, ranges, id, node))
            .collect::<Result<_, _>>()?;
        let reprs = graph.nodes.ids().map(|_| None).collect();
        let out = Graph::new(graph.name.clone(), tables);
        Ok(Self { graph, ranges, users: graph.users(), layouts, monics, reprs, out })
    }

    fn node(&mut self, id: ValueId, node: &Node<Tensor>) -> Result<(), LowerError> {
        let repr = match &node.op {
            TensorOp::Input { name } => Repr::Packed(self.input(id, name, node)?),
            TensorOp::Conv(conv) => Repr::Pending(self.convolution(conv, node)?),
            TensorOp::Add => Repr::Pending(self.sum_of(node)?),
            TensorOp::Poly { .. } => Repr::Packed(self.polynomial(id, node)?),
            TensorOp::Reshape { .. } if self.users[id.index()].is_empty() => {
                Repr::Packed(self.packed(node.args[0], node.origin.clone())?)
            }
            other => return Err(unsupported(node, other)),
        };
        self.reprs[id.index()] = Some(repr);
        Ok(())
    }

    fn input(&mut self, id: ValueId, name: &str, node: &Node<Tensor>) -> Result<ValueId, LowerError> {
        let unit: Vec<f64> = self.unit_for(id);
        let ty = self.packed_ty(id, node.origin.as_str(), unit)?;
        Ok(self.out.add(FheOp::Input { name: name.to_owned() }, [], ty, node.origin.clone()))
    }

    fn convolution(&mut self, conv: &Conv, node: &Node<Tensor>) -> Result<Sum, LowerError> {
        let source = self.packed(node.args[0], self.graph.nodes[node.args[0]].origin.clone())?;
        let weights = &self.graph.tables.consts[conv.weights];
        let kernel_extents = match *weights.shape.as_slice() {
            [_, _, kh, kw] => [kh as u32, kw as u32],
            _ => {
                return Err(LowerError::bug(format!(
                    "{}: convolution weights {:?}",
                    node.origin.as_str(),
                    weights.shape
                )));
            }
        };
        let geometry = ConvGeometry {
            kernel: kernel_extents,
            stride: conv.stride,
            pad: [conv.pads[0], conv.pads[1]],
            dilation: conv.dilation,
            groups: conv.groups,
        };
        let channels = weights.shape[0];
        let bias = conv.bias.map_or_else(|| vec![0.0; channels], |b| self.graph.tables.consts[b].to_f64());
        Ok(Sum { terms: vec![Term { source, geometry, kernel: Arc::new(weights.to_f64()) }], bias })
    }

    fn sum_of(&mut self, node: &Node<Tensor>) -> Result<Sum, LowerError> {
        let channels = shape_of(node)?.c;
        let mut sum = Sum { terms: Vec::new(), bias: vec![0.0; channels as usize] };
        for &arg in &node.args {
            if self.users[arg.index()].len() == 1
                && !self.graph.is_output(arg)
                && let Some(Repr::Pending(pending)) = &self.reprs[arg.index()]
            {
                sum.terms.extend(pending.terms.iter().cloned());
                sum.bias.iter_mut().zip(&pending.bias).for_each(|(a, b)| *a += b);
                continue;
            }
            let source = self.packed(arg, self.graph.nodes[arg].origin.clone())?;
            let geometry = ConvGeometry::channel_scaling(channels);
            sum.terms.push(Term { source, geometry, kernel: Arc::new(vec![1.0; channels as usize]) });
        }
        Ok(sum)
    }

    fn polynomial(&mut self, id: ValueId, node: &Node<Tensor>) -> Result<ValueId, LowerError> {
        let arg = node.args[0];
        let m = self.monics[id.index()]
            .clone()
            .ok_or_else(|| LowerError::bug("polynomial without monic form"))?;
        let mut operand = self.packed(arg, self.graph.nodes[arg].origin.clone())?;
        let unrescaled = matches!(self.out.nodes[operand].op, FheOp::Poly(_));
        if unrescaled || self.out.tables.consts[self.out.nodes[operand].ty.unit].to_f64() != m.operand_unit {
            operand = self.rescaled_copy(arg, operand, &m.operand_unit, node)?;
        }
        let shape = vec![m.result_unit.len(), m.degree as usize];
        let lower = self.out.tables.consts.intern(ConstTensor::f64(shape, m.lower));
        let ty = self.packed_ty(id, node.origin.as_str(), m.result_unit)?;
        let op = FheOp::Poly(MonicPoly { degree: m.degree, lower });
        Ok(self.out.add(op, [operand], ty, node.origin.clone()))
    }

    /// A copy of a packed value in another unit: one more linear map.
    fn rescaled_copy(
        &mut self,
        value: ValueId,
        source: ValueId,
        unit: &[f64],
        node: &Node<Tensor>,
    ) -> Result<ValueId, LowerError> {
        let geometry = ConvGeometry::channel_scaling(unit.len() as u32);
        let term = Term { source, geometry, kernel: Arc::new(vec![1.0; unit.len()]) };
        let sum = Sum { terms: vec![term], bias: vec![0.0; unit.len()] };
        self.linear(value, &sum, unit.to_vec(), node.origin.clone())
    }

    /// The packed form of a value, made now if it is still pending.
    fn packed(&mut self, value: ValueId, origin: Origin) -> Result<ValueId, LowerError> {
        let sum = match &self.reprs[value.index()] {
            Some(Repr::Packed(id)) => return Ok(*id),
            Some(Repr::Pending(sum)) => sum.clone(),
            None => return Err(LowerError::bug(format!("{value} is used before it is defined"))),
        };
        let unit = self.unit_for(value);
        let id = self.linear(value, &sum, unit, origin)?;
        self.reprs[value.index()] = Some(Repr::Packed(id));
        Ok(id)
    }

    fn linear(
        &mut self,
        value: ValueId,
        sum: &Sum,
        unit: Vec<f64>,
        origin: Origin,
    ) -> Result<ValueId, LowerError> {
        let ty = self.packed_ty(value, origin.as_str(), unit.clone())?;
        let mut maps = Vec::with_capacity(sum.terms.len());
        for term in &sum.terms {
            let (input, source_unit) = {
                let source = &self.out.nodes[term.source].ty;
                (source.layout, self.out.tables.consts[source.unit].to_f64())
            };
            let weights = scaled_weights(term, &source_unit, &unit);
            let weights = self.out.tables.consts.push(weights);
            let map = LinearMap { input, output: ty.layout, geometry: term.geometry, weights };
            maps.push(self.out.tables.maps.push(map));
        }
        let bias = self.bias(&sum.bias, &unit);
        let args: Vec<ValueId> = sum.terms.iter().map(|t| t.source).collect();
        Ok(self.out.add(FheOp::Linear { maps, bias }, args, ty, origin))
    }

    fn bias(&mut self, bias: &[f64], unit: &[f64]) -> Option<ConstId> {
        if bias.iter().all(|&b| b == 0.0) {
            return None;
        }
        let data: Vec<f64> = bias.iter().zip(unit).map(|(b, u)| b / u).collect();
        Some(self.out.tables.consts.push(ConstTensor::f64(vec![data.len()], data)))
    }

    /// The unit of a value: what its first polynomial asks for, else its range.
    fn unit_for(&self, value: ValueId) -> Vec<f64> {
        let by_user = self.users[value.index()].iter().find_map(|u| self.monics[u.index()].as_ref());
        match by_user {
            Some(m) => m.operand_unit.clone(),
            None => self.ranges[value.index()].iter().map(|&r| positive(r)).collect(),
        }
    }

    fn packed_ty(&mut self, value: ValueId, layer: &str, unit: Vec<f64>) -> Result<PackedTy, LowerError> {
        let layout = self.layouts.layout(value, layer)?;
        let layout: LayoutId = self.out.tables.layouts.intern(layout);
        let ranges = self.ranges[value.index()].iter();
        let reach = ranges.zip(&unit).map(|(range, unit)| (range / unit).abs()).fold(0.0, f64::max);
        let unit = self.out.tables.consts.intern(ConstTensor::f64(vec![unit.len()], unit));
        // Rounded up: the figure is a bound, and prints the same on every machine.
        let reach = (8.0 * positive(reach)).ceil() / 8.0;
        Ok(PackedTy { layout, unit, reach, cipher: None })
    }

    fn finish(mut self) -> Result<FheGraph, LowerError> {
        for port in &self.graph.outputs {
            let origin = self.graph.nodes[port.value].origin.clone();
            let value = self.packed(port.value, origin)?;
            self.out.outputs.push(OutputPort { name: port.name.clone(), value });
        }
        Ok(self.out)
    }
}

/// Weights in the units of operand and result: `w[co, ci] * unit_in[ci] / unit_out[co]`.
fn scaled_weights(term: &Term, unit_in: &[f64], unit_out: &[f64]) -> ConstTensor {
    let groups = term.geometry.groups as usize;
    let (c_out, in_per, out_per) = (unit_out.len(), unit_in.len() / groups, unit_out.len() / groups);
    let taps = term.geometry.kernel[0] as usize * term.geometry.kernel[1] as usize;
    let mut data = Vec::with_capacity(term.kernel.len());
    for co in 0..c_out {
        for k in 0..in_per {
            let factor = unit_in[(co / out_per) * in_per + k] / unit_out[co];
            let at = (co * in_per + k) * taps;
            data.extend(term.kernel[at..at + taps].iter().map(|w| (w * factor) as f32));
        }
    }
    let [kh, kw] = term.geometry.kernel.map(|k| k as usize);
    ConstTensor::f32(vec![c_out, in_per, kh, kw], data)
}

fn monic_of(
    graph: &TensorGraph,
    ranges: &[Vec<f64>],
    id: ValueId,
    node: &Node<Tensor>,
) -> Result<Option<Monic>, LowerError> {
    let TensorOp::Poly { coefficients } = node.op else { return Ok(None) };
    let channels = shape_of(node)?.c as usize;
    let table = &graph.tables.consts[coefficients];
    let unsupported = |what: String, way_out: &str| LowerError::Unsupported {
        layer: node.origin.as_str().to_owned(),
        what,
        way_out: way_out.to_owned(),
    };
    let (operand, result) = (&ranges[node.args[0].index()], &ranges[id.index()]);
    let m = monic(table, channels, operand, result).ok_or_else(|| {
        LowerError::bug(format!("{}: a polynomial of degree below 2 was not folded", node.origin.as_str()))
    })?;
    if m.degree > MAX_DEGREE {
        let what = format!("a polynomial activation of degree {}", m.degree);
        return Err(unsupported(what, "use degree 8 at most"));
    }
    Ok(Some(m))
}

fn shape_of(node: &Node<Tensor>) -> Result<Chw, LowerError> {
    chw(&node.ty.shape)
        .ok_or_else(|| LowerError::bug(format!("{}: shape {:?}", node.origin.as_str(), node.ty.shape)))
}

fn unsupported(node: &Node<Tensor>, op: &TensorOp) -> LowerError {
    let (what, way_out) = match op {
        TensorOp::Activation(kind) => (
            format!("activation {kind:?} is no polynomial"),
            "give --calibrate, so that it can be fitted".to_owned(),
        ),
        TensorOp::Pool(pool) => (
            format!("pooling {:?} with kernel {:?} and padding {:?}", pool.kind, pool.kernel, pool.pads),
            "use average pooling without padding".to_owned(),
        ),
        TensorOp::Mul => {
            ("a product of two encrypted tensors".to_owned(), "only squares x*x are supported".to_owned())
        }
        other => (
            format!("operation {} on encrypted values", op_name(other)),
            "move it to the end of the model (it then runs on the client) or remove it".to_owned(),
        ),
    };
    LowerError::Unsupported { layer: node.origin.as_str().to_owned(), what, way_out }
}

fn op_name(op: &TensorOp) -> &'static str {
    match op {
        TensorOp::Input { .. } => "Input",
        TensorOp::Conv(_) => "Conv",
        TensorOp::FullyConnected { .. } => "FullyConnected",
        TensorOp::ChannelAffine { .. } => "ChannelAffine",
        TensorOp::Activation(_) => "Activation",
        TensorOp::Poly { .. } => "Poly",
        TensorOp::Add => "Add",
        TensorOp::Sub => "Sub",
        TensorOp::Mul => "Mul",
        TensorOp::Pool(_) => "Pool",
        TensorOp::GlobalAveragePool => "GlobalAveragePool",
        TensorOp::Pad { .. } => "Pad",
        TensorOp::Reshape { .. } => "Reshape",
        TensorOp::Separable(_) => "Separable",
    }
}
