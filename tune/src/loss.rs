//! Losses on a batch: each gives the mean over the batch and the gradient by the network's value.

use crate::tensor::{Pool, Tensor};

/// A loss and its gradient.
#[derive(Debug)]
pub struct Loss {
    /// Mean over the batch.
    pub value: f64,
    /// Gradient by the value it was computed from.
    pub grad: Tensor,
}

/// Softmax of a row, in place.
fn softmax(row: &mut [f64]) {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

/// Index of the largest number; the first of equals.
pub fn largest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// How many rows have their largest number at the label.
pub fn hits(logits: &Tensor, labels: &[usize]) -> usize {
    let rows = logits.data.chunks_exact(logits.shape.image());
    rows.zip(labels).filter(|(row, label)| largest(row) == **label).count()
}

/// Cross-entropy of the softmax with labels.
pub fn cross_entropy(logits: &Tensor, labels: &[usize], pool: &mut Pool) -> Loss {
    let mut grad = pool.take(logits.shape);
    let (classes, count) = (logits.shape.image(), labels.len() as f64);
    let mut value = 0.0;
    let rows = logits.data.chunks_exact(classes).zip(grad.data.chunks_exact_mut(classes));
    for ((x, grad), &label) in rows.zip(labels) {
        let mut p: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        softmax(&mut p);
        value -= p[label].max(f64::MIN_POSITIVE).ln() / count;
        for (i, (g, p)) in grad.iter_mut().zip(&p).enumerate() {
            *g = ((p - f64::from(u8::from(i == label))) / count) as f32;
        }
        if x.iter().any(|x| !x.is_finite()) {
            value = f64::NAN;
        }
    }
    Loss { value, grad }
}

/// Divergence of the softmax from the teacher's at a temperature, times the temperature's square.
pub fn distillation(logits: &Tensor, teacher: &Tensor, temperature: f64, pool: &mut Pool) -> Loss {
    let mut grad = pool.take(logits.shape);
    let (classes, count) = (logits.shape.image(), logits.shape.n as f64);
    let soft = |row: &[f32]| {
        let mut p: Vec<f64> = row.iter().map(|x| f64::from(*x) / temperature).collect();
        softmax(&mut p);
        p
    };
    let mut value = 0.0;
    let rows = logits.data.chunks_exact(classes).zip(teacher.data.chunks_exact(classes));
    for ((x, t), grad) in rows.zip(grad.data.chunks_exact_mut(classes)) {
        let (p, q) = (soft(x), soft(t));
        let floor = f64::MIN_POSITIVE;
        let divergence: f64 = q.iter().zip(&p).map(|(q, p)| q * (q.max(floor) / p.max(floor)).ln()).sum();
        value += divergence * temperature * temperature / count;
        for ((g, p), q) in grad.iter_mut().zip(&p).zip(&q) {
            *g = ((p - q) * temperature / count) as f32;
        }
    }
    Loss { value, grad }
}

/// Mean squared difference from the teacher, relative to the teacher's mean square, times `weight`.
pub fn features(value: &Tensor, teacher: &Tensor, weight: f64, pool: &mut Pool) -> Loss {
    let power: f64 = teacher.data.iter().map(|t| f64::from(*t).powi(2)).sum::<f64>().max(1e-12);
    let mut grad = pool.take(value.shape);
    let factor = (2.0 * weight / power) as f32;
    let mut sum = 0.0;
    for ((g, x), t) in grad.data.iter_mut().zip(&value.data).zip(&teacher.data) {
        let d = x - t;
        sum += f64::from(d) * f64::from(d);
        *g = factor * d;
    }
    Loss { value: weight * sum / power, grad }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Shape;

    fn rows(data: &[f32]) -> Tensor {
        Tensor { shape: Shape { n: 2, h: 1, w: 1, c: data.len() / 2 }, data: data.to_vec() }
    }

    /// The gradient against differences, number by number.
    fn check(loss: impl Fn(&Tensor) -> Loss, at: &Tensor) {
        let grad = loss(at).grad;
        for i in 0..at.data.len() {
            let moved = |step: f32| {
                let mut x = at.clone();
                x.data[i] += step;
                loss(&x).value
            };
            let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((numeric - f64::from(grad.data[i])).abs() < 1e-4, "{i}: {numeric} {}", grad.data[i]);
        }
    }

    #[test]
    fn gradients_are_those_of_the_values() {
        let (x, t) = (rows(&[0.3, -1.0, 2.0, 0.1, 0.2, -0.4]), rows(&[1.0, 0.0, -2.0, 0.5, 0.5, 0.1]));
        check(|x| cross_entropy(x, &[2, 0], &mut Pool::default()), &x);
        check(|x| distillation(x, &t, 3.0, &mut Pool::default()), &x);
        check(|x| features(x, &t, 0.7, &mut Pool::default()), &x);
    }

    #[test]
    fn losses_vanish_at_the_teacher() {
        let t = rows(&[1.0, 0.0, -2.0, 0.5, 0.5, 0.1]);
        assert!(distillation(&t, &t, 2.0, &mut Pool::default()).value.abs() < 1e-12);
        assert!(features(&t, &t, 1.0, &mut Pool::default()).value.abs() < 1e-12);
    }

    #[test]
    fn cross_entropy_by_hand_and_hits() {
        let x = rows(&[0.0, 0.0, 1.0, 0.0]);
        let loss = cross_entropy(&x, &[1, 0], &mut Pool::default());
        let expected = (2f64.ln() + (1.0 + (-1f64).exp()).ln()) / 2.0;
        assert!((loss.value - expected).abs() < 1e-9);
        assert_eq!(hits(&x, &[0, 1]), 1);
        let broken = cross_entropy(&rows(&[f32::NAN, 0.0, 1.0, 0.0]), &[1, 0], &mut Pool::default());
        assert!(!broken.value.is_finite());
    }
}
