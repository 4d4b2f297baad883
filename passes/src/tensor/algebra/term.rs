//! The language of the e-graph: convolutions and polynomials by key into side tables.

use std::collections::BTreeSet;
use std::sync::Arc;

use egg::{Analysis, DidMerge, EGraph, Id, Language};
use peregrine_ir::tensor::Conv;
use peregrine_ir::{ConstId, ConstPool, Origin};

use crate::tensor::poly::ChannelPoly;

/// What an e-node computes from its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum TermOp {
    /// A node of the graph, by its value id, that no rule looks into.
    Opaque(u32),
    /// An activation node (by its value id) on an affine map (a polynomial of [`Tables`]) of its operand. The affine map is
    /// free: the polynomial that is fitted to the activation takes it over.
    Activated {
        /// Value id of the activation.
        node: u32,
        /// Key of the affine map.
        affine: u32,
    },
    /// A convolution of [`Tables`].
    Conv(u32),
    /// A polynomial of [`Tables`].
    Poly(u32),
    /// Sum.
    Add,
    /// Product.
    Mul,
}

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Term {
    pub(super) op: TermOp,
    pub(super) args: Vec<Id>,
}

impl Term {
    pub(super) fn new(op: TermOp, args: Vec<Id>) -> Self {
        Self { op, args }
    }
}

impl Language for Term {
    type Discriminant = TermOp;
    fn discriminant(&self) -> TermOp {
        self.op
    }
    fn matches(&self, other: &Self) -> bool {
        self.op == other.op && self.args.len() == other.args.len()
    }
    fn children(&self) -> &[Id] {
        &self.args
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}

/// A convolution of the graph whose input and output channels may be scaled; weights are only multiplied out at the end.
#[derive(Clone, Debug)]
pub(super) struct ConvForm {
    /// Attributes; the ids in it name the weights before scaling and no bias.
    pub(super) geometry: Conv,
    /// Shape of the weights.
    pub(super) shape: Vec<usize>,
    /// Weights before scaling.
    base: Arc<[f64]>,
    input_scale: Option<Vec<f64>>,
    output_scale: Option<Vec<f64>>,
    /// Bias, after scaling.
    pub(super) bias: Vec<f64>,
}

impl PartialEq for ConvForm {
    fn eq(&self, other: &Self) -> bool {
        self.geometry == other.geometry
            && self.input_scale == other.input_scale
            && self.output_scale == other.output_scale
            && self.bias == other.bias
    }
}

impl ConvForm {
    /// A convolution of the graph on `channels` channels.
    pub(super) fn of(conv: &Conv, consts: &ConstPool, channels: usize) -> Self {
        let weights = &consts[conv.weights];
        debug_assert_eq!(weights.shape[1] * conv.groups as usize, channels);
        let bias = conv.bias.map_or_else(|| vec![0.0; weights.shape[0]], |b| consts[b].to_f64());
        Self {
            geometry: Conv { bias: None::<ConstId>, ..conv.clone() },
            shape: weights.shape.clone(),
            base: weights.to_f64().into(),
            input_scale: None,
            output_scale: None,
            bias,
        }
    }

    /// This convolution followed by `affine` (degree 1).
    pub(super) fn followed_by(&self, affine: &ChannelPoly) -> Self {
        let outputs = self.bias.len();
        let (mul, add) = (affine.column(1, outputs), affine.column(0, outputs));
        let bias = (0..outputs).map(|c| self.bias[c] * mul[c] + add[c]).collect();
        let output_scale = Some(scaled(self.output_scale.as_deref(), &mul));
        Self { output_scale, bias, ..self.clone() }
    }

    /// This convolution on `affine(x)` (degree 1), or `None` where padding would be wrong.
    pub(super) fn after(&self, affine: &ChannelPoly) -> Option<Self> {
        if !affine.keeps_zero() && self.geometry.pads != [0; 4] {
            return None;
        }
        let inputs = self.shape[1] * self.geometry.groups as usize;
        let (mul, add) = (affine.column(1, inputs), affine.column(0, inputs));
        let mut bias = self.bias.clone();
        if !affine.keeps_zero() {
            let weights = self.scaled_weights();
            let row = weights.len() / bias.len();
            for (i, w) in weights.iter().enumerate() {
                bias[i / row] += w * add[self.input_channel(i)];
            }
        }
        let input_scale = Some(scaled(self.input_scale.as_deref(), &mul));
        Some(Self { input_scale, bias, ..self.clone() })
    }

    /// Input channel that weight `i` applies to.
    fn input_channel(&self, i: usize) -> usize {
        let taps = self.shape[2] * self.shape[3];
        let output = i / (self.shape[1] * taps);
        output / (self.shape[0] / self.geometry.groups as usize) * self.shape[1] + i / taps % self.shape[1]
    }

    /// The weights, row-major.
    pub(super) fn scaled_weights(&self) -> Vec<f64> {
        let row = self.base.len() / self.bias.len();
        (self.base.iter().enumerate())
            .map(|(i, &w)| {
                let input = self.input_scale.as_ref().map_or(1.0, |s| s[self.input_channel(i)]);
                let output = self.output_scale.as_ref().map_or(1.0, |s| s[i / row]);
                w * input * output
            })
            .collect()
    }

    /// Number of weights.
    pub(super) fn weight_count(&self) -> usize {
        self.base.len()
    }
}

fn scaled(first: Option<&[f64]>, factors: &[f64]) -> Vec<f64> {
    match first {
        Some(first) => first.iter().zip(factors).map(|(a, b)| a * b).collect(),
        None => factors.to_vec(),
    }
}

/// The convolutions and polynomials that e-nodes name, each with the layer it comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    convs: Vec<(ConvForm, Origin)>,
    polys: Vec<(ChannelPoly, Origin)>,
    activations: BTreeSet<u32>,
}

impl Tables {
    /// Notes that a node, by its value id, is an activation.
    pub(super) fn activation(&mut self, node: u32) {
        self.activations.insert(node);
    }
    /// Whether a node is an activation.
    pub(super) fn is_activation(&self, node: u32) -> bool {
        self.activations.contains(&node)
    }
    /// Key of a convolution.
    pub(super) fn conv(&mut self, form: ConvForm, origin: &Origin) -> u32 {
        intern(&mut self.convs, form, origin)
    }
    /// Key of a polynomial.
    pub(super) fn poly(&mut self, poly: ChannelPoly, origin: &Origin) -> u32 {
        intern(&mut self.polys, poly, origin)
    }
    /// A convolution and its layer.
    pub(super) fn conv_at(&self, key: u32) -> (&ConvForm, &Origin) {
        let (form, origin) = &self.convs[key as usize];
        (form, origin)
    }
    /// A polynomial and its layer.
    pub(super) fn poly_at(&self, key: u32) -> (&ChannelPoly, &Origin) {
        let (poly, origin) = &self.polys[key as usize];
        (poly, origin)
    }
}

fn intern<T: PartialEq>(table: &mut Vec<(T, Origin)>, value: T, origin: &Origin) -> u32 {
    let at = table.iter().position(|(v, _)| *v == value).unwrap_or_else(|| {
        table.push((value, origin.clone()));
        table.len() - 1
    });
    u32::try_from(at).expect("the node limit bounds the tables")
}

impl Analysis<Term> for Tables {
    type Data = ();
    fn make(_: &mut EGraph<Term, Self>, _: &Term, _: Id) {}
    fn merge(&mut self, (): &mut (), (): ()) -> DidMerge {
        DidMerge(false, false)
    }
}
