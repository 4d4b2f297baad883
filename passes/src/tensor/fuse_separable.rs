//! Pass `fuse-separable`: separable maps end in their neighbours; each that goes saves a level.
//!
//! Precondition: none. Postcondition: the graph computes the same; no separable map on a separable map where the product has at
//! most [`GROWTH`] times the entries of both; no ungrouped convolution on a sum whose terms choose channels. Rules:
//!
//! | from | to |
//! |---|---|
//! | `S(T(x))` | `(S T)(x)` |
//! | `conv(S x)` | `conv'(S' x)`: the map of channels goes into the weights, rows and columns stay |
//! | `conv(S x + T y)` | `conv'(S' x) + conv''(T' y)`: a concatenation before a convolution costs nothing |
//! | `S(conv(x))` | `conv'(x)` where S maps channels only and nothing else reads the convolution |
//!
//! Example: `conv(concat(up(x), y))` is `up(x)` into one convolution plus `y` into another.

use peregrine_ir::tensor::{Conv, Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{AxisMap, ConstTensor, EntityId, Node, Separable, ValueId};

use super::rewrite::{Rewrite, f32_const, rewrite_nodes};
use crate::error::PassError;
use crate::pass::{Changed, Pass};

/// A product of two maps may have this many times their entries.
pub const GROWTH: usize = 4;

/// The pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseSeparable;

impl Pass<Tensor> for FuseSeparable {
    fn name(&self) -> &'static str {
        "fuse-separable"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        let composed = rewrite_nodes(graph, composed)?;
        let old = graph.clone();
        let users = old.users();
        let context = Context { old: &old, users: &users };
        let fused = rewrite_nodes(graph, |rewrite, node| match &node.op {
            TensorOp::Conv(conv) => context.absorbed(rewrite, node, conv),
            TensorOp::Separable(map) => context.followed(rewrite, node, map),
            _ => Ok(None),
        })?;
        Ok(Changed::when(composed == Changed::Yes || fused == Changed::Yes))
    }
}

/// `S(T(x))` as one map.
fn composed(rewrite: &mut Rewrite, node: &Node<Tensor>) -> Result<Option<ValueId>, PassError> {
    let TensorOp::Separable(outer) = &node.op else { return Ok(None) };
    let inner = &rewrite.out.nodes[rewrite.value(node.args[0])];
    if outer.is_identity() {
        return Ok(Some(rewrite.value(node.args[0])));
    }
    let TensorOp::Separable(first) = &inner.op else { return Ok(None) };
    let Ok(both) = outer.after(first) else { return Ok(None) };
    let entries = |map: &Separable| map.maps.iter().map(AxisMap::len).sum::<usize>();
    if entries(&both) > GROWTH * (entries(outer) + entries(first)) {
        return Ok(None);
    }
    let x = inner.args[0];
    if both.is_identity() {
        return Ok(Some(x));
    }
    rewrite.push(TensorOp::Separable(both), &[x], &node.origin).map(Some)
}

struct Context<'a> {
    old: &'a TensorGraph,
    users: &'a [Vec<ValueId>],
}

/// A term of a sum: a value, and the map it goes through.
struct Term {
    value: ValueId,
    map: Option<Separable>,
}

impl Context<'_> {
    /// A convolution takes over the channel maps of its operand's terms.
    fn absorbed(
        &self,
        rewrite: &mut Rewrite,
        node: &Node<Tensor>,
        conv: &Conv,
    ) -> Result<Option<ValueId>, PassError> {
        if conv.groups != 1 {
            return Ok(None);
        }
        let mut terms = Vec::new();
        self.terms(rewrite, node.args[0], &mut terms);
        if !pays(&terms) {
            return Ok(None);
        }
        let mut total: Option<ValueId> = None;
        let mut bias = conv.bias;
        for Term { value, map } in terms {
            let weights = rewrite.out.tables.consts[conv.weights].clone();
            let (x, weights) = match map {
                None => (value, weights),
                Some(Separable { maps: [c, rows, columns] }) => {
                    let weights = with_inputs(&weights, &c);
                    let rest = Separable { maps: [AxisMap::identity(c.input()), rows, columns] };
                    let x = match rest.is_identity() {
                        true => value,
                        false => shared(rewrite, rest, value, node)?,
                    };
                    (x, weights)
                }
            };
            let weights = rewrite.constant(weights);
            let part = Conv { weights, bias: bias.take(), ..conv.clone() };
            let part = rewrite.push(TensorOp::Conv(part), &[x], &node.origin)?;
            total = Some(match total {
                None => part,
                Some(so_far) => rewrite.push(TensorOp::Add, &[so_far, part], &node.origin)?,
            });
        }
        Ok(total)
    }

    /// The terms of a sum that ungrouped convolutions alone read.
    fn terms(&self, rewrite: &Rewrite, old: ValueId, out: &mut Vec<Term>) {
        let node = &self.old.nodes[old];
        let fusible = |user: &ValueId| match &self.old.nodes[*user].op {
            TensorOp::Conv(conv) => conv.groups == 1,
            TensorOp::Add => true,
            _ => false,
        };
        let inner = self.users[old.index()].iter().all(fusible) && !self.old.is_output(old);
        match &node.op {
            TensorOp::Add if inner => node.args.iter().for_each(|&arg| self.terms(rewrite, arg, out)),
            TensorOp::Separable(map) => {
                out.push(Term { value: rewrite.value(node.args[0]), map: Some(map.clone()) });
            }
            _ => out.push(Term { value: rewrite.value(old), map: None }),
        }
    }

    /// A map of channels goes into the convolution before it.
    fn followed(
        &self,
        rewrite: &mut Rewrite,
        node: &Node<Tensor>,
        map: &Separable,
    ) -> Result<Option<ValueId>, PassError> {
        let [channels, rows, columns] = &map.maps;
        let old = node.args[0];
        let alone = self.users[old.index()].len() == 1 && !self.old.is_output(old);
        if !alone || !rows.is_identity() || !columns.is_identity() {
            return Ok(None);
        }
        let first = rewrite.out.nodes[rewrite.value(old)].clone();
        let TensorOp::Conv(conv) = &first.op else { return Ok(None) };
        if conv.groups != 1 {
            return Ok(None);
        }
        let weights = with_outputs(&rewrite.out.tables.consts[conv.weights], channels);
        let bias = conv.bias.map(|b| with_outputs(&rewrite.out.tables.consts[b], channels));
        let weights = rewrite.constant(weights);
        let bias = bias.map(|b| rewrite.constant(b));
        let op = TensorOp::Conv(Conv { weights, bias, ..conv.clone() });
        rewrite.push(op, &first.args, &node.origin).map(Some)
    }
}

/// Whether a convolution per term is no more work: every term chooses channels of another value, and one needs no map any more.
fn pays(terms: &[Term]) -> bool {
    let chooses = |t: &Term| t.map.as_ref().is_some_and(|m| !m.maps[0].is_identity());
    let in_place =
        |t: &Term| t.map.as_ref().is_none_or(|m| m.maps[1].is_identity() && m.maps[2].is_identity());
    let distinct: std::collections::BTreeSet<ValueId> = terms.iter().map(|t| t.value).collect();
    terms.iter().all(chooses) && distinct.len() == terms.len() && terms.iter().any(in_place)
}

/// The map of a value, once for all that read it.
fn shared(
    rewrite: &mut Rewrite,
    map: Separable,
    value: ValueId,
    node: &Node<Tensor>,
) -> Result<ValueId, PassError> {
    let op = TensorOp::Separable(map);
    let same = |(_, n): &(ValueId, &Node<Tensor>)| n.args[..] == [value] && n.op == op;
    let known = rewrite.out.nodes.iter().find(same).map(|(id, _)| id);
    match known {
        Some(id) => Ok(id),
        None => rewrite.push(op, &[value], &node.origin),
    }
}

/// Weights `[o, i, kh, kw]` on the channels before the map.
fn with_inputs(weights: &ConstTensor, map: &AxisMap) -> ConstTensor {
    let [outputs, inputs, kh, kw] = <[usize; 4]>::try_from(&weights.shape[..]).expect("convolution weights");
    let (taps, from) = (kh * kw, map.input() as usize);
    let mut data = vec![0.0; outputs * from * taps];
    for entry in map.entries() {
        for o in 0..outputs {
            for tap in 0..taps {
                data[(o * from + entry.input as usize) * taps + tap] +=
                    f64::from(entry.factor) * weights.at((o * inputs + entry.output as usize) * taps + tap);
            }
        }
    }
    f32_const(&[outputs, from, kh, kw], &data)
}

/// Rows of a table after the map.
fn with_outputs(table: &ConstTensor, map: &AxisMap) -> ConstTensor {
    let row = table.len() / table.shape[0];
    let mut data = vec![0.0; map.output() as usize * row];
    for entry in map.entries() {
        for i in 0..row {
            data[entry.output as usize * row + i] +=
                f64::from(entry.factor) * table.at(entry.input as usize * row + i);
        }
    }
    let shape: Vec<usize> =
        std::iter::once(map.output() as usize).chain(table.shape[1..].iter().copied()).collect();
    f32_const(&shape, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::{Net, assert_same_outputs, op_names};

    fn fuse(graph: TensorGraph) -> TensorGraph {
        let mut out = graph.clone();
        FuseSeparable.run(&mut out).unwrap();
        assert_same_outputs(&graph, &out);
        out
    }

    fn map(net: &mut Net, x: ValueId, maps: [AxisMap; 3]) -> ValueId {
        net.add(TensorOp::Separable(Separable { maps }), &[x])
    }

    fn spread(input: u32, output: u32, start: i64) -> AxisMap {
        AxisMap::spread(input, output, start, 1).unwrap()
    }

    #[test]
    fn a_concatenation_of_an_upsampled_map_goes_into_the_convolution() {
        let mut net = Net::new(&[3, 2, 2]);
        let repeat = AxisMap::gather(2, &[0, 0, 1, 1]).unwrap();
        let up = map(&mut net, ValueId(0), [AxisMap::identity(3), repeat.clone(), repeat]);
        let other = net.relu(up);
        let same = || AxisMap::identity(4);
        let a = map(&mut net, up, [spread(3, 6, 0), same(), same()]);
        let b = map(&mut net, other, [spread(3, 6, 3), same(), same()]);
        let joined = net.add(TensorOp::Add, &[a, b]);
        let c = net.conv(joined, 4, 3, 1, [1; 4], 1);
        let d = net.conv(joined, 2, 3, 2, [1; 4], 1);
        let d = net.conv(d, 4, 1, 1, [1, 1, 1, 1], 1);
        let d = net.add(TensorOp::Add, &[c, d]);
        let out = fuse(net.output(d));
        let separables = op_names(&out).iter().filter(|n| **n == "separable map").count();
        assert_eq!(separables, 1, "{:?}", op_names(&out));
    }

    #[test]
    fn maps_in_a_row_become_one_and_nothing_when_they_undo_each_other() {
        let mut net = Net::new(&[2, 6, 6]);
        let id = AxisMap::identity;
        let down = map(&mut net, ValueId(0), [id(2), AxisMap::window(6, 3, 0, 2).unwrap(), id(6)]);
        let up = map(&mut net, down, [id(2), AxisMap::spread(3, 6, 0, 2).unwrap(), id(6)]);
        assert_eq!(op_names(&fuse(net.output(up))), ["input", "separable map"]);
        let mut net = Net::new(&[2, 2, 2]);
        let flip = || AxisMap::window(2, 2, 1, -1).unwrap();
        let a = map(&mut net, ValueId(0), [flip(), id(2), id(2)]);
        let b = map(&mut net, a, [flip(), id(2), id(2)]);
        let c = net.relu(b);
        assert_eq!(op_names(&fuse(net.output(c))), ["input", "activation"]);
    }

    #[test]
    fn a_shuffle_goes_into_the_convolution_before_it() {
        let mut net = Net::new(&[2, 3, 3]);
        let a = net.conv(net.input, 4, 3, 1, [1; 4], 1);
        let order = AxisMap::gather(4, &[0, 2, 1, 3]).unwrap();
        let b = map(&mut net, a, [order, AxisMap::identity(3), AxisMap::identity(3)]);
        assert_eq!(op_names(&fuse(net.output(b))), ["input", "convolution"]);
    }

    #[test]
    fn a_sum_that_others_read_stays() {
        let mut net = Net::new(&[2, 3, 3]);
        let id = || AxisMap::identity(3);
        let a = map(&mut net, ValueId(0), [spread(2, 4, 0), id(), id()]);
        let b = map(&mut net, ValueId(0), [spread(2, 4, 2), id(), id()]);
        let sum = net.add(TensorOp::Add, &[a, b]);
        let c = net.conv(sum, 4, 1, 1, [0; 4], 1);
        let d = net.relu(sum);
        let e = net.add(TensorOp::Add, &[c, d]);
        assert_eq!(op_names(&fuse(net.output(e))).len(), 7);
    }
}
