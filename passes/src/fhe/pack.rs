//! Lowering of a polynomial tensor graph to a packed fhe graph.
//!
//! Precondition: only Input, Conv, Poly, Add, Separable, and Reshape before outputs; ranges of all values. Postcondition: stage
//! [`Stage::Packed`]; every residual add has become one more term of a `Linear`, every value is in about unit range per
//! channel (units are folded into the weights that make and use it), every polynomial is monic.
//!
//! Convolutions and adds stay pending sums until something needs the value: a polynomial, an output, another
//! convolution or a second user. So `conv(a) + conv(b)` and `conv(a) + b` cost one level and one rescale. Separable maps
//! and sums of them (slices, pads, concatenations, shuffles, resizes) stay views: they become part of every convolution that
//! reads them and cost nothing themselves. What values are made is decided first, their layouts after that.

use std::collections::BTreeSet;
use std::sync::Arc;

use peregrine_ir::fhe::{FheGraph, FheOp, FheTables, MonicPoly, PackedTy, Stage};
use peregrine_ir::layout::Chw;
use peregrine_ir::linear::{ConvGeometry, LinearMap};
use peregrine_ir::tensor::{Conv, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{
    AxisError, ConstId, ConstPool, ConstTensor, EntityId, Graph, Node, Origin, OutputPort, PrimaryMap,
    Separable, ValueId,
};

use super::LowerError;
use super::assign::{LayoutReport, LayoutSearch, assign_layouts};
use super::layouts::{Family, Spread, chw, spreads};
use super::monic::{Monic, monic, positive};
use super::parts;
use super::place::search::Placement;
use super::refusals::{too_large, unsupported};
use super::views::{Bias, Term, View, extents};
use super::wide::{Readers, reads_few, widens};

/// Largest degree of a polynomial that the fhe level evaluates.
pub const MAX_DEGREE: u32 = 8;

/// A convolution of a sum of views reads each of them. Beyond this many channels read per channel of the sum, the sum is made
/// first, which costs a level.
const MOST_READS: f64 = 1.3;

/// Packs `graph` into ciphertexts of `slots` slots. `ranges[v][c]` is the largest absolute value of channel c of value v.
///
/// # Errors
/// Operations that the fhe level has no form for, by ONNX name.
pub fn pack(
    graph: &TensorGraph,
    ranges: &[Vec<f64>],
    slots: u32,
    search: &LayoutSearch,
) -> Result<Packed, LowerError> {
    Packer::of(graph, ranges, Parts::Whole)?.finish(slots, search, &[])
}

/// Whether values may be made in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts<'a> {
    /// None.
    Whole,
    /// Those that take fewer places so, in ciphertexts of so many slots, but for some.
    Fitting { slots: u32, kept: &'a BTreeSet<ValueId> },
}

/// What a packed value holds: channels of a tensor value, all of them or from one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The tensor value.
    pub tensor: ValueId,
    /// The first of its channels.
    pub first_channel: u32,
}

impl Held {
    fn whole(tensor: ValueId) -> Self {
        Self { tensor, first_channel: 0 }
    }
}

/// A packed graph and how its layouts were found.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Stage packed.
    pub graph: FheGraph,
    /// The layouts.
    pub layouts: LayoutReport,
    /// What each node holds.
    pub sources: Vec<Held>,
}

impl Packed {
    /// The same graph packed for the same ring with values in two parts by channels, where that takes fewer places, but for those of
    /// `kept`; `None` if there are none of these. Layouts are of the families that are in use.
    ///
    /// # Errors
    /// Those of [`pack`].
    pub fn in_parts(
        &self,
        graph: &TensorGraph,
        ranges: &[Vec<f64>],
        search: &LayoutSearch,
        kept: &BTreeSet<ValueId>,
    ) -> Result<Option<Self>, LowerError> {
        let slots = self.graph.tables.slots;
        let packer = Packer::of(graph, ranges, Parts::Fitting { slots, kept })?;
        let any = packer.plan.values().any(|planned| planned.source.first_channel > 0);
        any.then(|| packer.finish(slots, search, &self.layouts.used)).transpose()
    }

    /// The tensor values that a placement refreshes.
    pub fn refreshed(&self, placement: &Placement) -> BTreeSet<ValueId> {
        let refreshed =
            self.sources.iter().zip(&placement.choices).filter(|(_, choice)| choice.refresh.is_some());
        refreshed.map(|(held, _)| held.tensor).collect()
    }
}

/// A pending sum of linear terms.
#[derive(Clone, Debug)]
struct Sum {
    terms: Vec<Term>,
    bias: Bias,
}

/// What is known of a tensor value.
#[derive(Clone)]
enum Repr {
    /// A packed value.
    Packed(ValueId),
    /// A sum of views of packed values: costs nothing yet, however often it is used.
    Views(Vec<View>),
    /// A packed value that was made of views so wide that no convolution should read them. Wide views of it are made of those, too,
    /// at the same level.
    Made { packed: ValueId, of: Vec<View> },
    /// A sum that is made when something needs it.
    Sum(Sum),
}

/// A packed value to be: everything but its layout.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) op: PlannedOp,
    pub(super) spread: Spread,
    source: Held,
    unit: Vec<f64>,
    /// Largest magnitude of a packed value that calibration saw.
    reach: f64,
    origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum PlannedOp {
    /// An encrypted input.
    Input {
        /// ONNX name.
        name: String,
    },
    /// A sum of terms in normal form.
    Linear {
        /// The terms.
        terms: Vec<Term>,
        /// What is added.
        bias: Bias,
    },
    /// A monic polynomial.
    Poly {
        /// Operand.
        operand: ValueId,
        /// Degree.
        degree: u32,
        /// `[C, degree]` lower coefficients.
        lower: Vec<f64>,
    },
}

struct Packer<'a> {
    graph: &'a TensorGraph,
    ranges: &'a [Vec<f64>],
    users: Vec<Vec<ValueId>>,
    spreads: Vec<Spread>,
    monics: Vec<Option<Monic>>,
    reprs: Vec<Option<Repr>>,
    plan: PrimaryMap<ValueId, Planned>,
    readers: Readers<'a>,
    parts: Parts<'a>,
}

impl<'a> Packer<'a> {
    fn of(graph: &'a TensorGraph, ranges: &'a [Vec<f64>], parts: Parts<'a>) -> Result<Self, LowerError> {
        let mut packer = Self::new(graph, ranges, parts)?;
        for (id, node) in graph.nodes.iter() {
            packer.node(id, node)?;
        }
        Ok(packer)
    }

    fn new(graph: &'a TensorGraph, ranges: &'a [Vec<f64>], parts: Parts<'a>) -> Result<Self, LowerError> {
        let monics = graph
            .nodes
            .iter()
            .map(|(id, node)| monic_of(graph, ranges, id, node))
            .collect::<Result<_, _>>()?;
        let reprs = graph.nodes.ids().map(|_| None).collect();
        let (users, spreads) = (graph.users(), spreads(graph)?);
        let readers = Readers::of(graph);
        Ok(Self { graph, ranges, users, spreads, monics, reprs, plan: PrimaryMap::new(), readers, parts })
    }

    fn node(&mut self, id: ValueId, node: &Node<Tensor>) -> Result<(), LowerError> {
        let repr = match &node.op {
            TensorOp::Input { name } => {
                let (op, unit) = (PlannedOp::Input { name: name.clone() }, self.unit_for(id));
                Repr::Packed(self.planned(op, Held::whole(id), unit, node.origin.clone()))
            }
            TensorOp::Conv(conv) => Repr::Sum(self.convolution(conv, node)?),
            TensorOp::Add => self.sum_of(id, node)?,
            TensorOp::Separable(map) => self.separable(id, map, node)?,
            TensorOp::Poly { .. } => Repr::Packed(self.polynomial(id, node)?),
            TensorOp::Reshape { .. } if self.keeps_places(id, node.args[0]) => {
                self.repr(node.args[0])?.clone()
            }
            TensorOp::Reshape { .. } if self.users[id.index()].is_empty() => {
                Repr::Packed(self.packed(node.args[0])?)
            }
            other => return Err(unsupported(node, other)),
        };
        self.reprs[id.index()] = Some(repr);
        Ok(())
    }

    /// A value with as many channels as units.
    fn planned(&mut self, op: PlannedOp, source: Held, unit: Vec<f64>, origin: Origin) -> ValueId {
        let mut spread = self.spreads[source.tensor.index()];
        spread.shape.c = unit.len() as u32;
        let ranges = self.ranges[source.tensor.index()].iter().skip(source.first_channel as usize);
        let reach = ranges.zip(&unit).map(|(range, unit)| (range / unit).abs()).fold(0.0, f64::max);
        // Rounded up: the figure is a bound, and prints the same on every machine.
        let reach = (8.0 * positive(reach)).ceil() / 8.0;
        self.plan.push(Planned { op, spread, source, unit, reach, origin })
    }

    /// Whether a reshape changes no extent; a pending sum then has one user only.
    fn keeps_places(&self, id: ValueId, arg: ValueId) -> bool {
        self.spreads[id.index()].shape == self.spreads[arg.index()].shape
            && (self.users[arg.index()].len() == 1 || !matches!(self.reprs[arg.index()], Some(Repr::Sum(_))))
    }

    fn repr(&self, value: ValueId) -> Result<&Repr, LowerError> {
        let repr = self.reprs[value.index()].as_ref();
        repr.ok_or_else(|| LowerError::bug(format!("{value} is used before it is defined")))
    }

    /// A value as views; made first if it is a pending sum.
    fn views(&mut self, value: ValueId) -> Result<Vec<View>, LowerError> {
        if let Repr::Views(views) = self.repr(value)? {
            return Ok(views.clone());
        }
        if let Some(views) = self.made_in_parts(value)? {
            self.reprs[value.index()] = Some(Repr::Views(views.clone()));
            return Ok(views);
        }
        let packed = self.packed(value)?;
        Ok(vec![View::identity(packed, self.spreads[value.index()].shape)])
    }

    /// The parts of a pending sum that is better made in parts, each in its place.
    fn made_in_parts(&mut self, value: ValueId) -> Result<Option<Vec<View>>, LowerError> {
        let Parts::Fitting { slots, kept } = self.parts else { return Ok(None) };
        if kept.contains(&value) {
            return Ok(None);
        }
        let shape = self.spreads[value.index()].shape;
        let (Some(halves), Repr::Sum(sum)) = (parts::halves(shape, slots), self.repr(value)?) else {
            return Ok(None);
        };
        if !sum.terms.iter().any(parts::reaches_all) || !self.is_only_mapped(value) {
            return Ok(None);
        }
        let (sum, unit, node) = (sum.clone(), self.unit_for(value), &self.graph.nodes[value]);
        let large = |error: AxisError| too_large(node, &error);
        let mut views = Vec::new();
        for channels in halves {
            let [select, place] = parts::maps(shape, &channels).map_err(large)?;
            let terms = sum.terms.iter().map(|term| term.followed_by(&select).map_err(large));
            let part = Sum { terms: terms.collect::<Result<_, _>>()?, bias: sum.bias.mapped(&select) };
            let held = Held { tensor: value, first_channel: channels.start };
            let unit = unit[channels.start as usize..channels.end as usize].to_vec();
            let source = self.linear(held, &part, unit, node.origin.clone())?;
            views.push(View { source, map: place });
        }
        Ok(Some(views))
    }

    /// Whether nothing but convolutions of all channels and sums use a value.
    fn is_only_mapped(&self, value: ValueId) -> bool {
        let maps = |user: &ValueId| match &self.graph.nodes[*user].op {
            TensorOp::Conv(conv) => conv.groups == 1,
            TensorOp::Add => true,
            _ => false,
        };
        !self.graph.is_output(value) && self.users[value.index()].iter().all(maps)
    }

    fn convolution(&mut self, conv: &Conv, node: &Node<Tensor>) -> Result<Sum, LowerError> {
        let arg = node.args[0];
        let weights = &self.graph.tables.consts[conv.weights];
        let &[channels, _, kh, kw] = weights.shape.as_slice() else {
            let what = format!("{}: convolution weights {:?}", node.origin.as_str(), weights.shape);
            return Err(LowerError::bug(what));
        };
        let geometry = ConvGeometry {
            kernel: [kh as u32, kw as u32],
            stride: conv.stride,
            pad: [conv.pads[0], conv.pads[1]],
            dilation: conv.dilation,
            groups: conv.groups,
        };
        let (kernel, after) = (Arc::new(weights.to_f64()), Separable::identity(extents(shape_of(node)?)));
        let mut views = self.views(arg)?;
        let read: usize = views.iter().map(View::channels).sum();
        if read as f64 > MOST_READS * f64::from(self.spreads[arg.index()].shape.c) {
            let packed = self.packed(arg)?;
            views = vec![View::identity(packed, self.spreads[arg.index()].shape)];
        }
        let term = |view: View| Term {
            source: view.source,
            before: view.map,
            geometry,
            kernel: kernel.clone(),
            after: after.clone(),
        };
        let bias = conv.bias.map_or_else(|| vec![0.0; channels], |b| self.graph.tables.consts[b].to_f64());
        Ok(Sum { terms: views.into_iter().map(term).collect(), bias: Bias::Channels(bias) })
    }

    /// The pending sum that a value is, if nothing else uses it.
    fn own_sum(&self, value: ValueId) -> Option<Sum> {
        match &self.reprs[value.index()] {
            Some(Repr::Sum(sum)) if self.users[value.index()].len() == 1 && !self.graph.is_output(value) => {
                Some(sum.clone())
            }
            _ => None,
        }
    }

    fn sum_of(&mut self, id: ValueId, node: &Node<Tensor>) -> Result<Repr, LowerError> {
        let shape = self.spreads[id.index()].shape;
        let (mut terms, mut views): (Vec<Term>, Vec<View>) = (Vec::new(), Vec::new());
        let mut bias = Bias::Channels(vec![0.0; shape.c as usize]);
        for &arg in &node.args {
            match self.own_sum(arg) {
                Some(sum) => {
                    terms.extend(sum.terms);
                    bias = bias.plus(&sum.bias, (shape.h * shape.w) as usize);
                }
                None => views.extend(self.views(arg)?),
            }
        }
        if terms.is_empty() && bias.is_zero() {
            return Ok(Repr::Views(views));
        }
        terms.extend(views.iter().map(View::term));
        Ok(Repr::Sum(Sum { terms, bias }))
    }

    fn separable(&mut self, id: ValueId, map: &Separable, node: &Node<Tensor>) -> Result<Repr, LowerError> {
        let arg = node.args[0];
        let large = |error: AxisError| too_large(node, &error);
        if let Some(sum) = self.own_sum(arg).filter(|sum| !widens(map, &sum.terms)) {
            let terms = sum.terms.iter().map(|term| term.followed_by(map).map_err(large));
            let terms = terms.collect::<Result<_, _>>()?;
            return Ok(Repr::Sum(Sum { terms, bias: sum.bias.mapped(map) }));
        }
        let wide = match self.repr(arg)? {
            Repr::Made { of, .. } => self.composed(map, of, node)?,
            _ => Vec::new(),
        };
        let views = self.views(arg)?;
        let views = self.composed(map, &views, node)?;
        if !self.readers.find_wide(id, views.iter().map(|view| &view.map)) {
            return Ok(Repr::Views(views));
        }
        let few = !wide.is_empty() && wide.iter().all(|view| reads_few(&view.map));
        let of = if few { wide } else { views };
        let zero = Bias::Channels(vec![0.0; self.spreads[id.index()].shape.c as usize]);
        let sum = Sum { terms: of.iter().map(View::term).collect(), bias: zero };
        let packed = self.linear(Held::whole(id), &sum, self.unit_for(id), node.origin.clone())?;
        Ok(Repr::Made { packed, of })
    }

    /// Views under a map. Parts that the map leaves out go, but a view of nothing is still a view.
    fn composed(
        &self,
        map: &Separable,
        views: &[View],
        node: &Node<Tensor>,
    ) -> Result<Vec<View>, LowerError> {
        let mut composed = Vec::new();
        for view in views {
            let map = map.after(&view.map).map_err(|error| too_large(node, &error))?;
            if !map.maps.iter().any(peregrine_ir::AxisMap::is_empty) {
                composed.push(View { source: view.source, map });
            }
        }
        Ok(composed)
    }

    fn polynomial(&mut self, id: ValueId, node: &Node<Tensor>) -> Result<ValueId, LowerError> {
        let arg = node.args[0];
        let m = self.monics[id.index()]
            .clone()
            .ok_or_else(|| LowerError::bug("polynomial without monic form"))?;
        let mut operand = self.packed(arg)?;
        let planned = &self.plan[operand];
        if matches!(planned.op, PlannedOp::Poly { .. }) || planned.unit != m.operand_unit {
            // A copy in another unit: one more linear map.
            let term = View::identity(operand, self.spreads[arg.index()].shape).term();
            let bias = Bias::Channels(vec![0.0; m.operand_unit.len()]);
            let sum = Sum { terms: vec![term], bias };
            let origin = self.graph.nodes[arg].origin.clone();
            operand = self.linear(Held::whole(arg), &sum, m.operand_unit.clone(), origin)?;
        }
        let op = PlannedOp::Poly { operand, degree: m.degree, lower: m.lower };
        let planned = self.planned(op, Held::whole(id), m.result_unit, node.origin.clone());
        // A polynomial keeps its operand's layout.
        self.plan[planned].spread = self.plan[operand].spread;
        Ok(planned)
    }

    /// The packed form of a value, made now if it is still pending.
    fn packed(&mut self, value: ValueId) -> Result<ValueId, LowerError> {
        let sum = match self.repr(value)? {
            Repr::Packed(packed) | Repr::Made { packed, .. } => return Ok(*packed),
            Repr::Views(views) => match views.as_slice() {
                [view] if view.map.is_identity() => return Ok(view.source),
                _ => {
                    let bias = Bias::Channels(vec![0.0; self.spreads[value.index()].shape.c as usize]);
                    Sum { terms: views.iter().map(View::term).collect(), bias }
                }
            },
            Repr::Sum(sum) => sum.clone(),
        };
        let unit = self.unit_for(value);
        let origin = self.graph.nodes[value].origin.clone();
        let id = self.linear(Held::whole(value), &sum, unit, origin)?;
        self.reprs[value.index()] = Some(Repr::Packed(id));
        Ok(id)
    }

    fn linear(
        &mut self,
        source: Held,
        sum: &Sum,
        unit: Vec<f64>,
        origin: Origin,
    ) -> Result<ValueId, LowerError> {
        let node = &self.graph.nodes[source.tensor];
        let mut terms = Vec::with_capacity(sum.terms.len());
        for term in &sum.terms {
            terms.extend(term.normal().map_err(|error| too_large(node, &error))?);
        }
        if terms.is_empty() {
            return Err(LowerError::Unsupported {
                layer: node.origin.as_str().to_owned(),
                what: "a value that depends on no input".to_owned(),
                way_out: "remove it from the model".to_owned(),
            });
        }
        Ok(self.planned(PlannedOp::Linear { terms, bias: sum.bias.clone() }, source, unit, origin))
    }

    /// The unit of a value: what its first polynomial asks for, else its range.
    fn unit_for(&self, value: ValueId) -> Vec<f64> {
        let by_user = self.users[value.index()].iter().find_map(|u| self.monics[u.index()].as_ref());
        match by_user {
            Some(m) => m.operand_unit.clone(),
            None => self.ranges[value.index()].iter().map(|&r| positive(r)).collect(),
        }
    }

    fn finish(mut self, slots: u32, search: &LayoutSearch, within: &[Family]) -> Result<Packed, LowerError> {
        let outputs: Vec<OutputPort> = (self.graph.outputs.iter())
            .map(|port| Ok(OutputPort { name: port.name.clone(), value: self.packed(port.value)? }))
            .collect::<Result<_, LowerError>>()?;
        let (layouts, report) = assign_layouts(&self.plan, slots, search, within)?;
        let tables = FheTables {
            consts: ConstPool::new(),
            layouts: PrimaryMap::new(),
            maps: PrimaryMap::new(),
            slots,
            chain_bits: Vec::new(),
            bootstrap: None,
            stage: Stage::Packed,
        };
        let mut out = Graph::new(self.graph.name.clone(), tables);
        for (id, planned) in self.plan.iter() {
            let unit = intern(&mut out, &planned.unit);
            let layout = out.tables.layouts.intern(layouts[id.index()].clone());
            let ty = PackedTy { layout, unit, reach: planned.reach, cipher: None };
            emit(&mut out, planned, &self.plan, ty);
        }
        out.outputs = outputs;
        let sources = self.plan.values().map(|planned| planned.source).collect();
        Ok(Packed { graph: out, layouts: report, sources })
    }
}

fn intern(out: &mut FheGraph, values: &[f64]) -> ConstId {
    out.tables.consts.intern(ConstTensor::f64(vec![values.len()], values.to_vec()))
}

/// Adds a planned value to the graph, weights in the units of operand and result.
fn emit(out: &mut FheGraph, planned: &Planned, plan: &PrimaryMap<ValueId, Planned>, ty: PackedTy) {
    let origin = planned.origin.clone();
    match &planned.op {
        PlannedOp::Input { name } => {
            out.add(FheOp::Input { name: name.clone() }, [], ty, origin);
        }
        PlannedOp::Poly { operand, degree, lower } => {
            let shape = vec![planned.unit.len(), *degree as usize];
            let lower = out.tables.consts.intern(ConstTensor::f64(shape, lower.clone()));
            out.add(FheOp::Poly(MonicPoly { degree: *degree, lower }), [*operand], ty, origin);
        }
        PlannedOp::Linear { terms, bias } => {
            let mut maps = Vec::with_capacity(terms.len());
            for term in terms {
                let (shape, data) = term.scaled_weights(&plan[term.source].unit, &planned.unit);
                let weights = out.tables.consts.push(ConstTensor::f32(shape, data));
                let input = out.nodes[term.source].ty.layout;
                let around = |map: &Separable| (!map.is_identity()).then(|| Arc::new(map.clone()));
                maps.push(out.tables.maps.push(LinearMap {
                    before: around(&term.before),
                    after: around(&term.after),
                    ..LinearMap::new(input, ty.layout, term.geometry, weights)
                }));
            }
            let bias = (!bias.is_zero()).then(|| {
                let (Bias::Channels(values) | Bias::Elements(values)) = bias;
                let map = values.len() / planned.unit.len();
                let data: Vec<f64> =
                    values.iter().enumerate().map(|(i, b)| b / planned.unit[i / map]).collect();
                out.tables.consts.push(ConstTensor::f64(vec![data.len()], data))
            });
            let args: Vec<ValueId> = terms.iter().map(|t| t.source).collect();
            out.add(FheOp::Linear { maps, bias }, args, ty, origin);
        }
    }
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
