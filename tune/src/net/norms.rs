//! Statistics of batch norms, measured on data.

use super::import::MOMENTUM;
use super::{Keep, Mode, Net, Op};
use crate::ops::batch_norm;
use crate::tensor::{Pool, Tensor};

impl Net {
    /// Measures the statistics of every batch norm on `batches` and changes its factors so that the function in evaluation stays
    /// the same.
    ///
    /// # Errors
    /// Those of the batches.
    pub fn calibrate_norms<E>(
        &mut self,
        batches: impl Iterator<Item = Result<Tensor, E>>,
        pool: &mut Pool,
    ) -> Result<(), E> {
        let norms: Vec<usize> =
            (0..self.nodes.len()).filter(|&id| matches!(self.nodes[id].op, Op::BatchNorm { .. })).collect();
        let operands: Vec<usize> = norms.iter().map(|&id| self.nodes[id].args[0]).collect();
        // Sum of means and of mean squares.
        let mut sums: Vec<[Vec<f64>; 2]> = norms
            .iter()
            .map(|&id| [vec![0.0; self.nodes[id].shape.c], vec![0.0; self.nodes[id].shape.c]])
            .collect();
        let mut count = 0.0;
        for batch in batches {
            let tape = self.forward(batch?, Mode::EVALUATE, Keep::Only(&operands), pool);
            for (&operand, [first, second]) in operands.iter().zip(&mut sums) {
                let (mean, variance) = batch_norm::statistics(tape.value(operand));
                for c in 0..mean.len() {
                    first[c] += mean[c];
                    second[c] += variance[c] + mean[c] * mean[c];
                }
            }
            tape.recycle(pool);
            count += 1.0;
        }
        if count > 0.0 {
            for (&id, [first, second]) in norms.iter().zip(&sums) {
                self.set_statistics(id, first, second, count);
            }
        }
        Ok(())
    }

    /// Sets how fast running statistics follow when the last `seen` batches count, but none before them: they are the mean of
    /// these and the next, until there are enough for a running average.
    pub fn follow_statistics(&mut self, seen: usize) {
        for node in &mut self.nodes {
            if let Op::BatchNorm { running, .. } = &mut node.op {
                running.momentum = MOMENTUM.max(1.0 / (seen + 1) as f32);
            }
        }
    }

    fn set_statistics(&mut self, id: usize, first: &[f64], second: &[f64], count: f64) {
        let Op::BatchNorm { gamma, beta, running } = &mut self.nodes[id].op else { return };
        let (mul, add) = batch_norm::affine(running, &self.params[*gamma].value, &self.params[*beta].value);
        for c in 0..mul.len() {
            let mean = first[c] / count;
            let variance = (second[c] / count - mean * mean).max(0.0);
            running.mean[c] = mean as f32;
            running.variance[c] = variance as f32;
            let deviation = (f64::from(running.variance[c]) + f64::from(running.epsilon)).sqrt();
            self.params[*gamma].value[c] = (mul[c] * deviation) as f32;
            self.params[*beta].value[c] = (add[c] + mul[c] * f64::from(running.mean[c])) as f32;
        }
    }
}
