//! Stochastic gradient descent with momentum, weight decay and clipping, and the learning rate over a run.
//!
//! Gradients are clipped twice: those of each parameter to a part of the parameter's own norm (adaptive gradient clipping,
//! Brock et al., High-Performance Large-Scale Image Recognition Without Normalization, 2021, section 4.1, by tensor instead of
//! by row), then all together. In a deep network one layer that leaves its ranges has gradients thousands of times those of
//! all others, which would stand still under the norm of all together.

use std::f64::consts::PI;

use crate::net::{Net, Param, Role};

/// Constants of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Momentum.
    pub momentum: f32,
    /// Weight decay, on weights only.
    pub decay: f32,
    /// Largest norm of the gradient; larger ones are scaled down.
    pub clip: f64,
    /// Largest norm of a parameter's gradient, as a part of the parameter's norm; larger ones are scaled down before.
    pub layer_clip: f64,
}

/// Parameters count as at least this large, root mean square, for the clipping of their gradients: weights must not be stuck
/// at zero, and offsets often start there.
fn least(role: Role) -> f64 {
    match role {
        Role::Weight | Role::Frozen => 1e-3,
        Role::Offset => 0.1,
    }
}

fn norm_of(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// A trained parameter, what its gradient is scaled by, and its gradient's norm before.
struct Clipped<'p> {
    param: &'p mut Param,
    scale: f64,
    norm: f64,
}

impl Sgd {
    /// One step. Returns the gradient's norm before clipping; a gradient that is not finite changes nothing.
    pub fn step(&self, net: &mut Net, rate: f32) -> f64 {
        let trained = net.params.iter_mut().filter(|p| p.role != Role::Frozen);
        let all: Vec<Clipped<'_>> = trained.map(|p| self.clipped(p)).collect();
        let norm = all.iter().map(|c| c.norm.powi(2)).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return norm;
        }
        let left = all.iter().map(|c| (c.norm * c.scale).powi(2)).sum::<f64>().sqrt();
        let common = if left > self.clip { self.clip / left } else { 1.0 };
        for Clipped { param, scale, .. } in all {
            let scale = (scale * common) as f32;
            let decay = if param.role == Role::Weight { self.decay } else { 0.0 };
            for ((w, g), v) in param.value.iter_mut().zip(&param.grad).zip(&mut param.velocity) {
                *v = self.momentum * *v + g * scale + decay * *w;
                *w -= rate * *v;
            }
        }
        norm
    }

    fn clipped<'p>(&self, param: &'p mut Param) -> Clipped<'p> {
        let norm = norm_of(&param.grad);
        let least = least(param.role) * (param.value.len() as f64).sqrt();
        let limit = self.layer_clip * norm_of(&param.value).max(least);
        Clipped { param, scale: if norm > limit { limit / norm } else { 1.0 }, norm }
    }
}

/// Learning rate: a short linear start, then a cosine down to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Largest rate.
    pub rate: f64,
    /// Steps of the start.
    pub warmup: usize,
    /// All steps.
    pub steps: usize,
}

impl Schedule {
    /// Rate of step `step`, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.rate * (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        let rest = (self.steps - self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / rest).min(1.0);
        self.rate * 0.5 * (1.0 + (PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(values: Vec<f32>, grad: Vec<f32>, role: Role) -> Net {
        let velocity = vec![0.0; values.len()];
        let param = Param { name: "p".into(), value: values, grad, velocity, role };
        Net { name: "n".into(), nodes: vec![], outputs: vec![], params: vec![param] }
    }

    #[test]
    fn momentum_and_decay() {
        let sgd = Sgd { momentum: 0.5, decay: 0.1, clip: 100.0, layer_clip: f64::INFINITY };
        let mut net = net(vec![2.0], vec![1.0], Role::Weight);
        assert_eq!(sgd.step(&mut net, 0.5), 1.0);
        assert!((net.params[0].value[0] - 1.4).abs() < 1e-6);
        sgd.step(&mut net, 0.5);
        // v = 0.5 * 1.2 + 1 + 0.14
        assert!((net.params[0].value[0] - (1.4 - 0.5 * 1.74)).abs() < 1e-6);
    }

    #[test]
    fn clipping_and_frozen_and_broken_gradients() {
        let sgd = Sgd { momentum: 0.0, decay: 0.1, clip: 1.0, layer_clip: f64::INFINITY };
        let mut clipped = net(vec![0.0, 0.0], vec![3.0, 4.0], Role::Offset);
        assert_eq!(sgd.step(&mut clipped, 1.0), 5.0);
        assert!((clipped.params[0].value[0] + 0.6).abs() < 1e-6);
        let mut frozen = net(vec![1.0], vec![1.0], Role::Frozen);
        sgd.step(&mut frozen, 1.0);
        assert_eq!(frozen.params[0].value, [1.0]);
        let mut broken = net(vec![1.0], vec![f32::NAN], Role::Weight);
        assert!(sgd.step(&mut broken, 1.0).is_nan());
        assert_eq!(broken.params[0].value, [1.0]);
    }

    /// A layer whose gradient is huge moves as far as one whose gradient is just at its limit; then both together are clipped.
    #[test]
    fn layers_are_clipped_by_their_own_norm_first() {
        let sgd = Sgd { momentum: 0.0, decay: 0.0, clip: 100.0, layer_clip: 0.1 };
        let mut wild = net(vec![3.0, 4.0], vec![3e6, 4e6], Role::Weight);
        wild.params.extend(net(vec![3.0, 4.0], vec![0.3, 0.4], Role::Weight).params);
        wild.params.extend(net(vec![0.0], vec![5.0], Role::Offset).params);
        let mut tight = wild.clone();
        let norm = sgd.step(&mut wild, 1.0);
        assert!((norm / 5e6 - 1.0).abs() < 1e-6, "the norm before clipping: {norm}");
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
        assert!(close(&wild.params[0].value, &[2.7, 3.6]), "{:?}", wild.params[0].value);
        assert!(close(&wild.params[1].value, &[2.7, 3.6]), "{:?}", wild.params[1].value);
        assert!(close(&wild.params[2].value, &[-0.01]), "{:?}", wild.params[2].value);
        // Norms of 0.5, 0.5 and 0.01 are left.
        Sgd { clip: 0.5f64.hypot(0.5).hypot(0.01) / 2.0, ..sgd }.step(&mut tight, 1.0);
        assert!(close(&tight.params[0].value, &[2.85, 3.8]), "{:?}", tight.params[0].value);
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let schedule = Schedule { rate: 0.1, warmup: 4, steps: 104 };
        let rates: Vec<f64> = (0..104).map(|s| schedule.at(s)).collect();
        assert!((rates[0] - 0.02).abs() < 1e-12 && (rates[4] - 0.1).abs() < 1e-12);
        assert!((rates[54] - 0.05).abs() < 1e-12 && rates[103] < 1e-4);
        assert!(rates[4..].windows(2).all(|w| w[1] < w[0]));
    }
}
