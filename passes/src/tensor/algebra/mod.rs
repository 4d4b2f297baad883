//! Pass `algebra`: polynomial expressions become one per-channel polynomial, affine maps end in their neighbours (egg).
//!
//! Precondition: none. Postcondition: the graph computes the same; depth (levels) is not larger. Sub is gone. Rules, all
//! directional, on an e-graph of the whole model:
//!
//! | from | to | when |
//! |---|---|---|
//! | p(q(x)) | (p of q)(x) | degree <= 8 |
//! | p(x) + q(x), p(x) q(x) | (p + q)(x), (p q)(x) | degree <= 8 |
//! | affine(conv(x)) | conv'(x) | |
//! | conv(affine(x)) | conv'(x) | no offset, or no padding |
//! | affine(x + y) | affine'(x) + affine''(y) | offset to either side |
//! | activation(affine(x)) | the same at no cost | its polynomial will take the affine map over |
//! | identity(x) | x | |
//!
//! Example: `c0 + 0.5 x + c2 (x x)` in plain Mul and Add is one polynomial of degree 2; a batch norm after a residual sum
//! ends in the convolution and in the polynomial that are summed.
//!
//! Bounded by nodes and iterations, never by a clock; where a limit is hit the graph is still correct, only less merged.
//! Extraction takes the least depth, then the least work, with shared nodes counted once (module `extract`).

mod extract;
mod rules;
mod term;

use std::collections::BTreeMap;
use std::time::Duration;

use egg::{EGraph, Id, Runner, SimpleScheduler};
use peregrine_ir::tensor::{Conv, Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{ConstTensor, EntityId, Node, Origin, ValueId};

use self::term::{ConvForm, Tables, Term, TermOp};
use super::dead_code::prune;
use super::poly::ChannelPoly;
use super::rewrite::{append, channel_conv, f32_const};
use crate::error::PassError;
use crate::pass::{Changed, Pass};

/// What a per-channel affine map that nothing takes over becomes before stage canonical; later it is a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffineForm {
    /// A ChannelAffine node.
    Node,
    /// A 1x1 convolution with one group per channel.
    Convolution,
}

/// The pass, with its limits.
#[derive(Clone, Copy, Debug)]
pub struct Algebra {
    /// What affine maps become.
    pub affine: AffineForm,
    /// Largest number of e-nodes, per node of the graph.
    pub nodes_per_node: usize,
    /// Largest number of rounds of all rules.
    pub iterations: usize,
}

impl Default for Algebra {
    fn default() -> Self {
        Self { affine: AffineForm::Node, nodes_per_node: 40, iterations: 24 }
    }
}

impl Algebra {
    /// The pass for a graph that pass `normalise` has been through.
    pub fn normal() -> Self {
        Self { affine: AffineForm::Convolution, ..Self::default() }
    }
}

impl Pass<Tensor> for Algebra {
    fn name(&self) -> &'static str {
        "algebra"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        let mut import = Import { graph, egraph: EGraph::new(Tables::default()), origins: BTreeMap::new() };
        let classes: Vec<Id> = graph.nodes.iter().fold(Vec::new(), |mut classes, (id, node)| {
            let class = import.node(id, node, &classes);
            classes.push(class);
            classes
        });
        let Import { egraph, origins, .. } = import;
        let runner: Runner<Term, Tables, ()> = Runner::new(Tables::default())
            .with_egraph(egraph)
            .with_node_limit(self.nodes_per_node * graph.nodes.len() + 1000)
            .with_iter_limit(self.iterations)
            .with_time_limit(Duration::MAX)
            .with_scheduler(SimpleScheduler)
            .run(&rules::all());
        let egraph = runner.egraph;
        let roots: Vec<Id> =
            graph.nodes.ids().filter(|&id| is_root(graph, id)).map(|id| classes[id.index()]).collect();
        let affine =
            if graph.tables.stage >= Stage::Canonical { AffineForm::Convolution } else { self.affine };
        let (new, done) = (empty_copy(graph), BTreeMap::new());
        let mut export = Export { old: graph, egraph: &egraph, origins: &origins, affine, new, done };
        for (class, term) in extract::order(&egraph, &roots) {
            let value = export.term(class, &term)?;
            export.done.insert(class, value);
        }
        let Export { mut new, done, .. } = export;
        for (port, old) in new.outputs.iter_mut().zip(&graph.outputs) {
            port.value = done[&egraph.find(classes[old.value.index()])];
        }
        prune(&mut new);
        let changed = Changed::when(new != *graph);
        *graph = new;
        Ok(changed)
    }
}

/// Values that must survive: results, and inputs even if unused.
fn is_root(graph: &TensorGraph, id: ValueId) -> bool {
    graph.is_output(id) || matches!(graph.nodes[id].op, TensorOp::Input { .. })
}

fn empty_copy(graph: &TensorGraph) -> TensorGraph {
    let mut new = TensorGraph::new(graph.name.clone(), graph.tables.clone());
    new.outputs = graph.outputs.clone();
    new
}

struct Import<'g> {
    graph: &'g TensorGraph,
    egraph: EGraph<Term, Tables>,
    /// Origin of the first node that defines a class.
    origins: BTreeMap<Id, Origin>,
}

impl Import<'_> {
    fn node(&mut self, id: ValueId, node: &Node<Tensor>, classes: &[Id]) -> Id {
        let args: Vec<Id> = node.args.iter().map(|a| classes[a.index()]).collect();
        let consts = &self.graph.tables.consts;
        let class = match &node.op {
            TensorOp::Conv(conv) => match self.scaling(conv) {
                Some(poly) => self.poly(poly, args[0], &node.origin),
                None => {
                    let form = ConvForm::of(conv, consts, self.graph.nodes[node.args[0]].ty.shape[1]);
                    let key = self.egraph.analysis.conv(form, &node.origin);
                    self.egraph.add(Term::new(TermOp::Conv(key), args))
                }
            },
            TensorOp::ChannelAffine { mul, add } => {
                let poly = ChannelPoly::affine(&consts[*mul].to_f64(), &consts[*add].to_f64());
                self.poly(poly, args[0], &node.origin)
            }
            TensorOp::Poly { coefficients } => {
                self.poly(ChannelPoly::from_const(&consts[*coefficients]), args[0], &node.origin)
            }
            TensorOp::Add => self.egraph.add(Term::new(TermOp::Add, args)),
            TensorOp::Mul => self.egraph.add(Term::new(TermOp::Mul, args)),
            TensorOp::Sub => {
                let negated = self.poly(ChannelPoly::affine(&[-1.0], &[0.0]), args[1], &node.origin);
                self.egraph.add(Term::new(TermOp::Add, vec![args[0], negated]))
            }
            TensorOp::Activation(_) => {
                self.egraph.analysis.activation(id.0);
                self.egraph.add(Term::new(TermOp::Opaque(id.0), args))
            }
            TensorOp::Input { .. }
            | TensorOp::FullyConnected { .. }
            | TensorOp::Pool(_)
            | TensorOp::GlobalAveragePool
            | TensorOp::Pad { .. }
            | TensorOp::Reshape { .. }
            | TensorOp::Separable(_) => self.egraph.add(Term::new(TermOp::Opaque(id.0), args)),
        };
        self.origins.entry(class).or_insert_with(|| node.origin.clone());
        class
    }

    fn poly(&mut self, poly: ChannelPoly, x: Id, origin: &Origin) -> Id {
        let key = self.egraph.analysis.poly(poly, origin);
        self.egraph.add(Term::new(TermOp::Poly(key), vec![x]))
    }

    /// A convolution that only scales and shifts channels, as an affine map.
    fn scaling(&self, conv: &Conv) -> Option<ChannelPoly> {
        let consts = &self.graph.tables.consts;
        let weights = &consts[conv.weights];
        let plain = weights.shape[1..] == [1, 1, 1] && conv.stride == [1, 1] && conv.pads == [0; 4];
        if !plain || conv.groups as usize != weights.shape[0] {
            return None;
        }
        let add = conv.bias.map_or_else(|| vec![0.0; weights.len()], |b| consts[b].to_f64());
        Some(ChannelPoly::affine(&weights.to_f64(), &add))
    }
}

struct Export<'g> {
    old: &'g TensorGraph,
    egraph: &'g EGraph<Term, Tables>,
    origins: &'g BTreeMap<Id, Origin>,
    affine: AffineForm,
    new: TensorGraph,
    done: BTreeMap<Id, ValueId>,
}

impl Export<'_> {
    fn term(&mut self, class: Id, term: &Term) -> Result<ValueId, PassError> {
        let args: Vec<ValueId> = term.args.iter().map(|&a| self.done[&self.egraph.find(a)]).collect();
        let named = self.origin_of(class);
        let tables = &self.egraph.analysis;
        match term.op {
            TermOp::Opaque(id) => {
                let node = &self.old.nodes[ValueId(id)];
                Ok(self.new.add(node.op.clone(), args, node.ty.clone(), node.origin.clone()))
            }
            TermOp::Activated { node, affine } => {
                let node = &self.old.nodes[ValueId(node)];
                let (poly, origin) = tables.poly_at(affine);
                let op = self.polynomial(poly, args[0]);
                let origin = Some(origin.clone()).filter(|o| !o.as_str().is_empty());
                let shifted = self.append(op, &args, origin)?;
                self.append(node.op.clone(), &[shifted], Some(node.origin.clone()))
            }
            TermOp::Add => self.append(TensorOp::Add, &args, named),
            TermOp::Mul => self.append(TensorOp::Mul, &args, named),
            TermOp::Conv(key) => {
                let (form, origin) = tables.conv_at(key);
                let conv = form.build(&mut self.new.tables.consts);
                self.append(TensorOp::Conv(conv), &args, Some(origin.clone()))
            }
            TermOp::Poly(key) => {
                let (poly, origin) = tables.poly_at(key);
                let op = self.polynomial(poly, args[0]);
                self.append(
                    op,
                    &args,
                    named.or_else(|| Some(origin.clone()).filter(|o| !o.as_str().is_empty())),
                )
            }
        }
    }

    /// A polynomial of degree 1 is an affine map, in the form asked for.
    fn polynomial(&mut self, poly: &ChannelPoly, x: ValueId) -> TensorOp {
        let consts = &mut self.new.tables.consts;
        if poly.degree() > 1 {
            return TensorOp::Poly { coefficients: consts.push(poly.to_const()) };
        }
        let shape = self.new.nodes[x].ty.shape.clone();
        let (mul, add) = (poly.column(1, shape[1]), poly.column(0, shape[1]));
        if self.affine == AffineForm::Convolution && shape.len() == 4 {
            return TensorOp::Conv(channel_conv(&mut self.new, &mul, &add));
        }
        let [mul, add] = [mul, add].map(|v| consts.push(ConstTensor::f64(vec![v.len()], v)));
        TensorOp::ChannelAffine { mul, add }
    }

    fn origin_of(&self, class: Id) -> Option<Origin> {
        self.origins.iter().find(|(id, _)| self.egraph.find(**id) == class).map(|(_, origin)| origin.clone())
    }

    fn append(
        &mut self,
        op: TensorOp,
        args: &[ValueId],
        origin: Option<Origin>,
    ) -> Result<ValueId, PassError> {
        let origin = origin.unwrap_or_else(|| self.new.nodes[args[0]].origin.clone());
        append(&mut self.new, op, args, &origin)
    }
}

impl ConvForm {
    fn build(&self, consts: &mut peregrine_ir::ConstPool) -> Conv {
        let weights = consts.push(f32_const(&self.shape, &self.scaled_weights()));
        let bias = self
            .bias
            .iter()
            .any(|&b| b != 0.0)
            .then(|| consts.push(f32_const(&[self.bias.len()], &self.bias)));
        Conv { weights, bias, ..self.geometry.clone() }
    }
}

#[cfg(test)]
mod tests;
