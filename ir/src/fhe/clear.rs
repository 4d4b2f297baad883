//! Clear interpreter of packed graphs: slot vectors, layouts and diagonals as the program has them, without levels, scales and noise.
//! Needs no parameters, so that graphs too deep for any ring can be run too.

use peregrine_ckks::units::Slots;

use super::{Fhe, FheGraph, FheOp, MonicPoly};
use crate::consts::ConstId;
use crate::graph::Node;
use crate::layout::Layout;
use crate::linear::{BsgsSplit, ResolvedMap, apply_clear, plan_call};

/// Slot vectors of the ciphertexts of a value.
type Packed = Vec<Vec<f64>>;

/// Runs a valid graph on tensors (row-major CHW, original units), one per input in order; gives the outputs likewise. A tensor
/// of another length than its input gives no result.
pub fn run(graph: &FheGraph, inputs: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let slots = Slots::new(graph.tables.slots).ok()?;
    let mut left = vec![0usize; graph.nodes.len()];
    graph.nodes.values().flat_map(|node| node.args.iter()).for_each(|&arg| left[index(arg)] += 1);
    let mut given = inputs.iter();
    let mut values: Vec<Packed> = Vec::with_capacity(graph.nodes.len());
    for (id, node) in graph.nodes.iter() {
        let value = match &node.op {
            FheOp::Input { .. } => pack(graph, node, given.next()?)?,
            FheOp::Linear { bias, .. } => linear(graph, node, *bias, &values, slots),
            FheOp::Poly(poly) => polynomial(graph, node, *poly, &values[index(node.args[0])]),
            FheOp::Add => sum(&values[index(node.args[0])], &values[index(node.args[1])]),
            FheOp::Drop { .. } | FheOp::Bootstrap(_) => values[index(node.args[0])].clone(),
        };
        values.push(value);
        for &arg in &node.args {
            left[index(arg)] -= 1;
            if left[index(arg)] == 0 && !graph.is_output(arg) {
                values[index(arg)] = Packed::new();
            }
        }
        debug_assert_eq!(values.len(), index(id) + 1);
    }
    Some(
        graph
            .outputs
            .iter()
            .map(|port| unpack(graph, &graph.nodes[port.value], &values[index(port.value)]))
            .collect(),
    )
}

fn index(id: crate::graph::ValueId) -> usize {
    crate::entity::EntityId::index(id)
}

fn layout<'a>(graph: &'a FheGraph, node: &Node<Fhe>) -> &'a Layout {
    &graph.tables.layouts[node.ty.layout]
}

/// The unit of each element.
fn units(graph: &FheGraph, node: &Node<Fhe>) -> Vec<f64> {
    let shape = layout(graph, node).shape;
    let map = shape.h as usize * shape.w as usize;
    graph.tables.consts[node.ty.unit].to_f64().into_iter().flat_map(|u| std::iter::repeat_n(u, map)).collect()
}

fn pack(graph: &FheGraph, node: &Node<Fhe>, tensor: &[f64]) -> Option<Packed> {
    let units = units(graph, node);
    let scaled: Vec<f64> = tensor.iter().zip(&units).map(|(x, unit)| x / unit).collect();
    (tensor.len() == units.len()).then(|| layout(graph, node).pack(&scaled))
}

fn unpack(graph: &FheGraph, node: &Node<Fhe>, slots: &Packed) -> Vec<f64> {
    layout(graph, node).unpack(slots).into_iter().zip(units(graph, node)).map(|(x, unit)| x * unit).collect()
}

fn linear(
    graph: &FheGraph,
    node: &Node<Fhe>,
    bias: Option<ConstId>,
    values: &[Packed],
    slots: Slots,
) -> Packed {
    let FheOp::Linear { maps, .. } = &node.op else { return Packed::new() };
    let tables = &graph.tables;
    let mut operands = Vec::new();
    let mut terms: Vec<(ResolvedMap<'_>, u32)> = Vec::with_capacity(maps.len());
    for (&map, &arg) in maps.iter().zip(&node.args) {
        let operand = operands.iter().position(|&o| o == arg).unwrap_or_else(|| {
            operands.push(arg);
            operands.len() - 1
        });
        terms.push((tables.maps[map].resolve(&tables.layouts), operand as u32));
    }
    let weights: Vec<Vec<f32>> = maps
        .iter()
        .map(|&m| tables.consts[tables.maps[m].weights].to_f64().iter().map(|&w| w as f32).collect())
        .collect();
    let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
    let inputs: Vec<&[f64]> =
        operands.iter().flat_map(|&o| values[index(o)].iter().map(Vec::as_slice)).collect();
    let call = plan_call(&terms, &BsgsSplit::default(), slots);
    let mut result = apply_clear(&call, &weights, &inputs, None);
    let layout = layout(graph, node);
    for (cipher, slots) in (0u32..).zip(&mut result) {
        slots.truncate(layout.period.get() as usize);
        if let Some(bias) = bias {
            let offsets = layout.spread_channels(&tables.consts[bias].to_f64(), cipher);
            slots.iter_mut().zip(offsets).for_each(|(x, b)| *x += b);
        }
    }
    result
}

/// `x^degree + sum of lower[k] x^k` in every slot that holds an element; in the others there is padding, which nothing reads.
fn polynomial(graph: &FheGraph, node: &Node<Fhe>, poly: MonicPoly, operand: &Packed) -> Packed {
    let (layout, lower) = (layout(graph, node), &graph.tables.consts[poly.lower]);
    let degree = poly.degree as usize;
    let channels = lower.len() / degree;
    let of_ciphertext = |(cipher, x): (u32, &Vec<f64>)| {
        let mut total = vec![1.0; x.len()];
        for k in (0..degree).rev() {
            let column: Vec<f64> = (0..channels).map(|c| lower.at(c * degree + k)).collect();
            let column = layout.spread_channels(&column, cipher);
            total.iter_mut().zip(x).zip(column).for_each(|((sum, x), a)| *sum = *sum * x + a);
        }
        total
    };
    (0u32..).zip(operand).map(of_ciphertext).collect()
}

fn sum(a: &Packed, b: &Packed) -> Packed {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(x, y)| x + y).collect()).collect()
}
