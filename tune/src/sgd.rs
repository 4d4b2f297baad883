//! Stochastic gradient descent with momentum, weight decay and clipping, and the learning rate over a run.

use std::f64::consts::PI;

use crate::net::{Net, Role};

/// Constants of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Momentum.
    pub momentum: f32,
    /// Weight decay, on weights only.
    pub decay: f32,
    /// Largest norm of the gradient; larger ones are scaled down.
    pub clip: f64,
}

impl Sgd {
    /// One step. Returns the gradient's norm before clipping; a gradient that is not finite changes nothing.
    pub fn step(&self, net: &mut Net, rate: f32) -> f64 {
        let trained = |role: Role| role != Role::Frozen;
        let squares = net.params.iter().filter(|p| trained(p.role)).flat_map(|p| &p.grad);
        let norm = squares.map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return norm;
        }
        let scale = if norm > self.clip { (self.clip / norm) as f32 } else { 1.0 };
        for param in net.params.iter_mut().filter(|p| trained(p.role)) {
            let decay = if param.role == Role::Weight { self.decay } else { 0.0 };
            for ((w, g), v) in param.value.iter_mut().zip(&param.grad).zip(&mut param.velocity) {
                *v = self.momentum * *v + g * scale + decay * *w;
                *w -= rate * *v;
            }
        }
        norm
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
    use crate::net::Param;

    fn net(values: Vec<f32>, grad: Vec<f32>, role: Role) -> Net {
        let velocity = vec![0.0; values.len()];
        let param = Param { name: "p".into(), value: values, grad, velocity, role };
        Net { name: "n".into(), nodes: vec![], outputs: vec![], params: vec![param] }
    }

    #[test]
    fn momentum_and_decay() {
        let sgd = Sgd { momentum: 0.5, decay: 0.1, clip: 100.0 };
        let mut net = net(vec![2.0], vec![1.0], Role::Weight);
        assert_eq!(sgd.step(&mut net, 0.5), 1.0);
        assert!((net.params[0].value[0] - 1.4).abs() < 1e-6);
        sgd.step(&mut net, 0.5);
        // v = 0.5 * 1.2 + 1 + 0.14
        assert!((net.params[0].value[0] - (1.4 - 0.5 * 1.74)).abs() < 1e-6);
    }

    #[test]
    fn clipping_and_frozen_and_broken_gradients() {
        let sgd = Sgd { momentum: 0.0, decay: 0.1, clip: 1.0 };
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

    #[test]
    fn the_rate_rises_and_falls() {
        let schedule = Schedule { rate: 0.1, warmup: 4, steps: 104 };
        let rates: Vec<f64> = (0..104).map(|s| schedule.at(s)).collect();
        assert!((rates[0] - 0.02).abs() < 1e-12 && (rates[4] - 0.1).abs() < 1e-12);
        assert!((rates[54] - 0.05).abs() < 1e-12 && rates[103] < 1e-4);
        assert!(rates[4..].windows(2).all(|w| w[1] < w[0]));
    }
}
