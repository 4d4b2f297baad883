//! The linear operations of a packed graph by shape. Placement, key plans and predictions of all programs made from the graph ask
//! for the same shapes; enumerating them is what costs, so it is done once.

use std::collections::HashMap;

use peregrine_ir::fhe::{Fhe, FheGraph, FheOp};
use peregrine_ir::program::{CallTerm, LinearCall};
use peregrine_ir::{Node, Slots, ValueId};
use rayon::prelude::*;

use super::LowerError;
use super::share::{Variant, variants};
use super::split::{CallShape, resolve};
use crate::pipeline::Products;

/// The distinct shapes of a packed graph's linear operations.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// The ways to join the operands of each shape; the first is the shape itself, without any.
    variants: Vec<Vec<Variant>>,
    /// Shape of the sum of these terms. Programs keep the maps and layouts of their graph, so the terms name it there too.
    known: HashMap<Vec<CallTerm>, usize>,
}

impl Calls {
    /// Enumerates the linear operations of a packed graph.
    pub fn of(graph: &FheGraph, slots: Slots, products: Products) -> Self {
        let mut sums: Vec<Vec<CallTerm>> = graph.nodes.values().filter_map(terms).collect();
        sums.sort_unstable();
        sums.dedup();
        let (maps, layouts) = (&graph.tables.maps, &graph.tables.layouts);
        let same = |a: &[CallTerm], b: &[CallTerm]| {
            let same = |(a, b): (&CallTerm, &CallTerm)| {
                a.operand == b.operand && maps[a.map].is_shaped_as(&maps[b.map])
            };
            a.len() == b.len() && a.iter().zip(b).all(same)
        };
        let mut distinct: Vec<&[CallTerm]> = Vec::new();
        let mut firsts: Vec<usize> = Vec::with_capacity(sums.len());
        for terms in &sums {
            let known = distinct.iter().position(|other| same(other, terms));
            firsts.push(known.unwrap_or(distinct.len()));
            distinct.extend(known.is_none().then_some(&terms[..]));
        }
        let ways = |terms: &&[CallTerm]| {
            let terms = resolve(terms, maps, layouts);
            match products {
                Products::Deep | Products::Shared => variants(&terms, slots, products),
                Products::Plain => vec![Variant { shared: Vec::new(), shape: CallShape::of(&terms, slots) }],
            }
        };
        let enumerated: Vec<Vec<Variant>> = distinct.par_iter().map(ways).collect();
        let (mut places, mut calls) = (HashMap::new(), Self::default());
        let place = |ways: Vec<Variant>| {
            let shapes: Vec<CallShape> = ways.iter().map(|variant| variant.shape.clone()).collect();
            *places.entry(shapes).or_insert_with(|| {
                calls.variants.push(ways);
                calls.variants.len() - 1
            })
        };
        let places: Vec<usize> = enumerated.into_iter().map(place).collect();
        calls.known = firsts.iter().map(|&first| places[first]).zip(sums).map(|(p, s)| (s, p)).collect();
        calls
    }

    /// The ways to join the operands of each distinct shape.
    pub fn variants(&self) -> &[Vec<Variant>] {
        &self.variants
    }

    /// Place of the shape of a sum of terms.
    ///
    /// # Errors
    /// A bug: a sum that the packed graph does not have.
    pub fn place(&self, terms: &[CallTerm]) -> Result<usize, LowerError> {
        let place = self.known.get(terms).copied();
        place.ok_or_else(|| LowerError::bug("a linear call that the packed graph does not have"))
    }

    /// The shape of a call.
    ///
    /// # Errors
    /// Those of [`Self::place`], and a way to join its operands that is none of those considered.
    pub fn shape(&self, call: &LinearCall) -> Result<&CallShape, LowerError> {
        let mut ways = self.variants[self.place(&call.terms)?].iter();
        let way = ways.find(|variant| variant.shared == call.shared).map(|variant| &variant.shape);
        way.ok_or_else(|| LowerError::bug("a linear call whose operands are joined in an unknown way"))
    }
}

/// The operands of an operation, each value once.
pub fn operands(node: &Node<Fhe>) -> Vec<ValueId> {
    let mut operands: Vec<ValueId> = Vec::new();
    for arg in &node.args {
        if !operands.contains(arg) {
            operands.push(*arg);
        }
    }
    operands
}

/// The terms of a linear operation over its [`operands`].
pub fn terms(node: &Node<Fhe>) -> Option<Vec<CallTerm>> {
    let FheOp::Linear { maps, .. } = &node.op else { return None };
    let operands = operands(node);
    let place = |arg| operands.iter().position(|&operand| operand == arg).unwrap_or_default() as u32;
    Some(maps.iter().zip(&node.args).map(|(&map, &arg)| CallTerm { map, operand: place(arg) }).collect())
}
