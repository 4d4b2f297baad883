//! Handing a network over to its polynomials: for the first part of a run what an activation hands on is the original's value
//! in part, `a t + (1 - a) y`.
//!
//! With `a = 1` every layer learns from the operands it was made for, and no error of an earlier polynomial reaches a later
//! one; as `a` falls to 0, errors pass from layer to layer with the factor `1 - a`, and so do gradients. At each such place the
//! distance of the own value from the original's is a loss, relative to the original's variance: without it the layers before
//! the last would learn nothing while `a = 1`.

use super::{Net, NodeId, Op};
use crate::ops::batch_norm;
use crate::ops::pool::Kind;
use crate::tensor::{Pool, Tensor};

/// Values of the original network for one batch, and how far they are handed on.
#[derive(Debug)]
pub struct Blend {
    /// The original's part of what is handed on, from 0 to 1.
    share: f32,
    places: Vec<Place>,
}

/// One place at which values are blended.
#[derive(Debug)]
struct Place {
    id: NodeId,
    /// Weight of the loss.
    weight: f64,
    /// The original's value; after the forward run, how far the own value is from it.
    value: Tensor,
    /// Sum of the original's squared distances from the channels' means, once the place was passed.
    power: Option<f64>,
    /// Sum of the squared distances of the own value.
    distance: f64,
}

impl Blend {
    /// Blends these nodes' values with the original's, given with the weights of their losses, for the same batch, in
    /// ascending order of the nodes.
    pub fn new(share: f32, values: Vec<(NodeId, f64, Tensor)>) -> Self {
        let place = |(id, weight, value)| Place { id, weight, value, power: None, distance: 0.0 };
        Self { share, places: values.into_iter().map(place).collect() }
    }

    fn at(&self, id: NodeId) -> Option<usize> {
        self.places.binary_search_by_key(&id, |p| p.id).ok()
    }

    /// Turns the value of node `id` into the blended one.
    pub(super) fn mix(&mut self, id: NodeId, y: &mut Tensor) {
        let Some(place) = self.at(id) else { return };
        let (own, place) = (1.0 - self.share, &mut self.places[place]);
        let (_, variance) = batch_norm::statistics(&place.value);
        place.power = Some((variance.iter().sum::<f64>() * y.shape.pixels() as f64).max(1e-12));
        place.distance = 0.0;
        for (y, t) in y.data.iter_mut().zip(&mut place.value.data) {
            let d = *y - *t;
            // Exactly the own value when nothing is blended.
            *y = if self.share > 0.0 { *t + own * d } else { *y };
            place.distance += f64::from(d) * f64::from(d);
            *t = d;
        }
    }

    /// Squared distances from the original's values relative to their variance, weighted.
    pub fn loss(&self) -> f64 {
        self.places.iter().filter_map(|p| p.power.map(|power| p.weight * p.distance / power)).sum()
    }

    /// From the gradient by what node `id` hands on to that by its own value.
    pub(super) fn gradient(&self, id: NodeId, grad: Option<Tensor>, pool: &mut Pool) -> Option<Tensor> {
        let Some(place) = self.at(id).map(|i| &self.places[i]) else { return grad };
        let Some(power) = place.power else { return grad };
        let (own, slope) = (1.0 - self.share, (2.0 * place.weight / power) as f32);
        if grad.is_none() && slope == 0.0 {
            return None;
        }
        let mut grad = grad.unwrap_or_else(|| {
            let mut zero = pool.take(place.value.shape);
            zero.data.fill(0.0);
            zero
        });
        grad.data.iter_mut().zip(&place.value.data).for_each(|(g, d)| *g = own * *g + slope * d);
        Some(grad)
    }

    /// Gives all memory back.
    pub fn recycle(self, pool: &mut Pool) {
        self.places.into_iter().for_each(|p| pool.give(p.value));
    }
}

impl Net {
    /// Values that replacing changes: those of activations and max pools, but for results of the network.
    pub fn replaceable(&self) -> Vec<NodeId> {
        let is_output = |id: NodeId| self.outputs.iter().any(|(_, o)| *o == id);
        let changes = |op: &Op| match op {
            Op::Activation(_) => true,
            Op::Pool(window) => window.kind == Kind::Max,
            _ => false,
        };
        (0..self.nodes.len()).filter(|&id| changes(&self.nodes[id].op) && !is_output(id)).collect()
    }
}
