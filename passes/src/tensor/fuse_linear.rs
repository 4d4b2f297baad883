//! Pass `fuse-linear`: two convolutions in a row become one where that is exact and cheap; each saves a level.
//!
//! Precondition: none. Postcondition: no pair of convolutions, the first used by the second alone, that satisfies all of:
//! the second has no padding (else zeros would stand for what the first gives outside its map); the fused weights number at
//! most [`GROWTH`] times those of the pair or at most [`ALWAYS`].
//!
//! The fused kernel of kernels k1, k2 with strides s1, s2 and dilations d1, d2 has extent (k1-1) d1 + (k2-1) d2 s1 + 1 and
//! stride s1 s2. Example: a global average pool and the fully connected layer after it are one whole-map convolution.
//!
//! An average pool before a convolution with a kernel becomes a separable map instead, which packing makes the first part of the same
//! linear map: the diagonals are those of the fused kernel, the weights stay as many as they were.

use peregrine_ir::tensor::{Conv, Stage, Tensor, TensorGraph, TensorOp};
use peregrine_ir::{AxisMap, ConstTensor, EntityId, Node, Separable, ValueId};

use super::rewrite::{Rewrite, f32_const, rewrite_nodes};
use crate::error::PassError;
use crate::pass::{Changed, Pass};

/// A fused kernel may have this many times the weights of the pair: about what one level costs in a deep network.
pub const GROWTH: usize = 2;
/// A fused kernel of at most this many weights always pays: the classifier of a CIFAR-sized network, and depthwise and pointwise
/// convolutions without an activation between, whose levels are refreshes.
pub const ALWAYS: usize = 1 << 19;

/// The pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseLinear;

impl Pass<Tensor> for FuseLinear {
    fn name(&self) -> &'static str {
        "fuse-linear"
    }
    fn requires(&self) -> Stage {
        Stage::Imported
    }
    fn establishes(&self) -> Stage {
        Stage::Imported
    }
    fn run(&mut self, graph: &mut TensorGraph) -> Result<Changed, PassError> {
        let users = graph.users();
        let old = graph.clone();
        rewrite_nodes(graph, |rewrite, node| fused(&old, &users, rewrite, node))
    }
}

fn fused(
    graph: &TensorGraph,
    users: &[Vec<ValueId>],
    rewrite: &mut Rewrite,
    node: &Node<Tensor>,
) -> Result<Option<ValueId>, PassError> {
    let TensorOp::Conv(second) = &node.op else { return Ok(None) };
    let old = node.args[0];
    let first_node = rewrite.out.nodes[rewrite.value(old)].clone();
    let TensorOp::Conv(first) = &first_node.op else { return Ok(None) };
    if users[old.index()].len() != 1 || graph.is_output(old) || second.pads != [0; 4] {
        return Ok(None);
    }
    let consts = &rewrite.out.tables.consts;
    let (w1, w2) = (&consts[first.weights], &consts[second.weights]);
    let pair = Pair { first, second, w1, w2, channels: rewrite.out.nodes[first_node.args[0]].ty.shape[1] };
    let (size, apart): (usize, usize) = (pair.shape().iter().product(), w1.len() + w2.len());
    if size > ALWAYS.max(GROWTH * apart) {
        return Ok(None);
    }
    let read = &rewrite.out.nodes[first_node.args[0]].ty.shape;
    if let Some(pool) = pair.pool(read, &first_node.ty.shape) {
        let (operands, origin) = (first_node.args.clone(), first_node.origin.clone());
        let pooled = rewrite.push(TensorOp::Separable(pool), &operands, &origin)?;
        return rewrite.push(node.op.clone(), &[pooled], &node.origin).map(Some);
    }
    let weights = pair.weights();
    let b1 = first.bias.map(|b| consts[b].to_f64());
    let b2 = second.bias.map(|b| consts[b].to_f64());
    let bias = (b1.is_some() || b2.is_some()).then(|| pair.bias(b1, b2));
    let weights = f32_const(&pair.shape(), &weights);
    let (stride, groups) =
        (std::array::from_fn(|i| first.stride[i] * second.stride[i]), pair.groups() as u32);
    let pads = first.pads;
    let weights = rewrite.constant(weights);
    let bias = bias.map(|b| rewrite.constant(f32_const(&[b.len()], &b)));
    let conv = Conv { weights, bias, stride, pads, dilation: [1, 1], groups };
    let value = rewrite.push(TensorOp::Conv(conv), &first_node.args, &node.origin)?;
    // The floor in the output extent of a strided first convolution may drop rows that the pair reads as well.
    Ok((rewrite.out.nodes[value].ty == node.ty).then_some(value))
}

/// Two convolutions in a row.
struct Pair<'a> {
    first: &'a Conv,
    second: &'a Conv,
    w1: &'a ConstTensor,
    w2: &'a ConstTensor,
    channels: usize,
}

impl Pair<'_> {
    /// The pair stays depthwise if both are; any other grouping becomes dense.
    fn groups(&self) -> usize {
        let depthwise = |conv: &Conv, w: &ConstTensor| w.shape[1] == 1 && conv.groups as usize == w.shape[0];
        if depthwise(self.first, self.w1) && depthwise(self.second, self.w2) { self.channels } else { 1 }
    }
    fn extent(&self, axis: usize) -> usize {
        let reach = |conv: &Conv, w: &ConstTensor| (w.shape[2 + axis] - 1) * conv.dilation[axis] as usize;
        reach(self.first, self.w1) + reach(self.second, self.w2) * self.first.stride[axis] as usize + 1
    }
    fn shape(&self) -> [usize; 4] {
        [self.w2.shape[0], self.channels / self.groups(), self.extent(0), self.extent(1)]
    }
    /// The first as a separable map, if it averages and the second has a kernel that would grow by it.
    fn pool(&self, read: &[usize], written: &[usize]) -> Option<Separable> {
        let (conv, weights) = (self.first, self.w1);
        let [channels, 1, ..] = weights.shape[..] else { return None };
        let factor = weights.at(0);
        let averages = channels == self.channels
            && conv.groups as usize == channels
            && conv.bias.is_none()
            && (0..weights.len()).all(|i| weights.at(i) == factor);
        if !averages || self.w2.shape[2] * self.w2.shape[3] == 1 {
            return None;
        }
        let rows = weights.shape[2] as f64;
        let axis = |a: usize, factor: f64| {
            let [input, output] = [read, written].map(|shape| u32::try_from(shape[2 + a]));
            let taps = weights.shape[2 + a] as i64;
            let [stride, dilation, pad] = [conv.stride[a], conv.dilation[a], conv.pads[a]].map(i64::from);
            let window = move |out: i64| (0..taps).map(move |tap| out * stride + tap * dilation - pad);
            let windows = (0..written[2 + a] as i64)
                .flat_map(|out| window(out).map(move |input| (out, input, factor as f32)));
            AxisMap::collect(input.ok()?, output.ok()?, windows).ok()
        };
        let channels = AxisMap::identity(u32::try_from(channels).ok()?);
        Some(Separable { maps: [channels, axis(0, 1.0 / rows)?, axis(1, factor * rows)?] })
    }
    /// Middle channels that output channel `o` of the second reads, with their index in its weights.
    fn middles(&self, o: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let per_group = self.w2.shape[1];
        let group = o / (self.w2.shape[0] / self.second.groups as usize);
        (0..per_group).map(move |i| (group * per_group + i, i))
    }
    fn weights(&self) -> Vec<f64> {
        let shape = self.shape();
        let mut fused = vec![0.0; shape.iter().product()];
        let taps2 = self.w2.shape[2] * self.w2.shape[3];
        for o in 0..shape[0] {
            for (middle, i) in self.middles(o) {
                for tap in 0..taps2 {
                    let factor = self.w2.at((o * self.w2.shape[1] + i) * taps2 + tap);
                    let place = [tap / self.w2.shape[3], tap % self.w2.shape[3]];
                    self.add_first(&mut fused, o, middle, place, factor);
                }
            }
        }
        fused
    }
    /// Adds the kernel of middle channel `middle`, shifted by the second's tap at `place`, to output channel `o`.
    fn add_first(&self, fused: &mut [f64], o: usize, middle: usize, place: [usize; 2], factor: f64) {
        let [_, in_per_group, rows, columns] = self.shape();
        let [_, own, kh, kw] = self.w1.shape[..] else { return };
        let group = middle / (self.w1.shape[0] / self.first.groups as usize);
        let shift: [usize; 2] = std::array::from_fn(|a| {
            place[a] * self.second.dilation[a] as usize * self.first.stride[a] as usize
        });
        for i in 0..own {
            let channel = if in_per_group == self.channels { group * own + i } else { 0 };
            for tap in 0..kh * kw {
                let y = shift[0] + tap / kw * self.first.dilation[0] as usize;
                let x = shift[1] + tap % kw * self.first.dilation[1] as usize;
                fused[((o * in_per_group + channel) * rows + y) * columns + x] +=
                    factor * self.w1.at((middle * own + i) * kh * kw + tap);
            }
        }
    }
    fn bias(&self, b1: Option<Vec<f64>>, b2: Option<Vec<f64>>) -> Vec<f64> {
        let taps = self.w2.shape[2] * self.w2.shape[3];
        (0..self.w2.shape[0])
            .map(|o| {
                let carried: f64 = b1.as_ref().map_or(0.0, |b1| {
                    self.middles(o)
                        .map(|(middle, i)| {
                            let at = (o * self.w2.shape[1] + i) * taps;
                            b1[middle] * (0..taps).map(|t| self.w2.at(at + t)).sum::<f64>()
                        })
                        .sum()
                });
                carried + b2.as_ref().map_or(0.0, |b| b[o])
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::normalise::Normalise;
    use crate::tensor::testing::{Net, assert_same_outputs, op_names};
    use peregrine_ir::tensor::PoolKind;

    fn fuse(graph: TensorGraph) -> TensorGraph {
        let mut out = graph.clone();
        Normalise.run(&mut out).unwrap();
        FuseLinear.run(&mut out).unwrap();
        assert_same_outputs(&graph, &out);
        out
    }

    #[test]
    fn global_pool_and_classifier_are_one_whole_map_convolution() {
        let mut net = Net::new(&[3, 4, 4]);
        let a = net.relu(net.input);
        let b = net.add(TensorOp::GlobalAveragePool, &[a]);
        let c = net.reshape(b, &[1, 3]);
        let d = net.fully_connected(c, 5);
        let out = fuse(net.output(d));
        assert_eq!(op_names(&out), ["input", "activation", "convolution", "reshape"]);
    }

    #[test]
    fn strides_dilations_groups_and_pads_compose() {
        let mut net = Net::new(&[4, 9, 9]);
        let a = net.conv(net.input, 6, 3, 2, [1, 0, 1, 2], 2);
        let b = net.conv(a, 4, 2, 1, [0; 4], 2);
        let c = net.pool(b, PoolKind::AverageIncludePad, 2, 2, [0; 4]);
        let out = fuse(net.output(c));
        assert_eq!(op_names(&out), ["input", "convolution"]);
    }

    #[test]
    fn depthwise_pairs_stay_depthwise() {
        let mut net = Net::new(&[4, 8, 8]);
        let a = net.conv(net.input, 4, 3, 1, [1, 1, 1, 1], 4);
        let b = net.pool(a, PoolKind::AverageExcludePad, 2, 2, [0; 4]);
        let out = fuse(net.output(b));
        let TensorOp::Conv(conv) = &out.nodes[ValueId(1)].op else { panic!() };
        assert_eq!((conv.groups, out.tables.consts[conv.weights].shape.clone()), (4, vec![4, 1, 4, 4]));
    }

    #[test]
    fn an_average_pool_before_a_kernel_leaves_its_weights_as_they_are() {
        for (kernel, stride, pads) in [(2, 2, [0; 4]), (3, 2, [1, 1, 0, 1])] {
            let mut net = Net::new(&[2, 9, 10]);
            let a = net.relu(net.input);
            let b = net.pool(a, PoolKind::AverageIncludePad, kernel, stride, pads);
            let c = net.conv(b, 3, 3, 1, [0; 4], 1);
            let out = fuse(net.output(c));
            assert_eq!(op_names(&out), ["input", "activation", "separable map", "convolution"]);
            let TensorOp::Conv(conv) = &out.nodes[ValueId(3)].op else { panic!() };
            assert_eq!(out.tables.consts[conv.weights].shape, [3, 2, 3, 3]);
        }
    }

    #[test]
    fn padding_of_the_second_and_other_users_forbid_it() {
        let mut net = Net::new(&[2, 6, 6]);
        let a = net.conv(net.input, 2, 3, 1, [1; 4], 1);
        let b = net.conv(a, 2, 3, 1, [1; 4], 1);
        let c = net.conv(a, 2, 1, 1, [0; 4], 1);
        let d = net.add(TensorOp::Add, &[b, c]);
        assert_eq!(op_names(&fuse(net.output(d))).len(), 5);
    }
}
