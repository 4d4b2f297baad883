//! Results of layers that nothing but the beginning of the tail reads: their sum is not made yet, so what follows folds into it.
//! Anything else that the tail does to a value would cost the server a level, and costs the client nothing.

use std::collections::BTreeMap;

use tract_onnx::pb::NodeProto;

use super::split::{Facts, inputs, outputs};

/// A pending result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Its channels are the axis so many places before the last one.
    Channels(usize),
    /// Its channels are not known from the graph alone.
    Somewhere,
    /// Its axes are joined: nothing more folds into it.
    Joined,
}

/// The pending results of a graph.
pub(crate) struct Made<'a>(BTreeMap<&'a str, Pending>);

impl<'a> Made<'a> {
    /// Results of layers.
    pub(crate) fn by_layers(facts: &Facts<'a>) -> Self {
        let layers = facts.graph.node.iter().filter(|node| facts.is_layer(node));
        let mut made = Self(BTreeMap::new());
        for node in layers {
            let rank = node.input.get(1).and_then(|w| facts.constants.get(w)).map(|w| w.shape().len());
            let result = match (node.op_type.as_str(), rank) {
                ("Conv" | "ConvTranspose", Some(rank @ 2..)) => Pending::Channels(rank - 2),
                ("Gemm" | "MatMul", _) => Pending::Channels(0),
                _ => Pending::Somewhere,
            };
            made.insert(node, result);
        }
        made
    }

    /// Adds what a node gives.
    pub(crate) fn insert(&mut self, node: &'a NodeProto, result: Pending) {
        self.0.extend(outputs(node).map(|output| (output, result)));
    }

    /// What a node gives if it folds into the layer before it, or drops elements of its result.
    pub(crate) fn stays(&self, facts: &Facts<'a>, node: &'a NodeProto) -> Option<Pending> {
        let alone = |i: &&str| facts.readers(i).len() == 1 && !facts.is_output(i);
        let operand = facts.data_inputs(node).filter(alone).find_map(|i| self.0.get(i).copied())?;
        if operand == Pending::Joined {
            return None;
        }
        let one_operand = facts.data_inputs(node).count() == 1;
        let numerator = node.input.first().is_some_and(|i| !facts.is_constant_value(i));
        let per_channel = || {
            let mut constants = inputs(node).filter_map(|i| facts.constants.get(i));
            constants.all(|c| runs_over_channels(c.shape(), operand))
        };
        match node.op_type.as_str() {
            "Identity" | "Dropout" | "Neg" => Some(operand),
            "Flatten" | "Squeeze" => Some(Pending::Joined),
            "Mul" if one_operand && per_channel() => Some(operand),
            "Div" if one_operand && numerator && per_channel() => Some(operand),
            "Add" | "Sub" | "Sum" if per_channel() => Some(operand),
            "Slice" => Some(operand),
            "Gather" if node.input.get(1).is_some_and(|i| facts.is_constant_value(i)) => {
                Some(Pending::Joined)
            }
            _ => None,
        }
    }
}

/// Whether a constant has one value per channel, or one.
fn runs_over_channels(shape: &[usize], operand: Pending) -> bool {
    let place = match operand {
        Pending::Channels(place) => Some(place),
        Pending::Somewhere | Pending::Joined => None,
    };
    shape.iter().rev().enumerate().all(|(i, &extent)| extent == 1 || Some(i) == place)
}
