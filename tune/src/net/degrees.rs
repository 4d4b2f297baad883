//! Degrees of the polynomials under a budget of levels.
//!
//! A polynomial of degree 2, 4, 8 takes 1, 2, 3 levels (one each for x², x⁴, x⁸; the leading coefficient goes into the layer
//! behind). All activations start at degree 2; then the one whose least-squares error falls most for each level that the
//! longest path grows by is raised, as long as no path takes more levels than the budget.

use peregrine_passes::tensor::fit::{FitOptions, polynomial_for};
use rayon::prelude::*;

use super::fitted::{Channel, Operands};
use super::replace::DEGREES;
use super::{Net, NodeId, Op, ReplaceError};
use crate::tensor::{Pool, Tensor};

/// Operands of a channel that an error is measured on.
const SAMPLES: usize = 1 << 10;

/// Degrees that the polynomials of a network may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelBudget {
    /// Most levels that the polynomials on any path may take together.
    pub levels: u32,
    /// Largest degree.
    pub degree: usize,
}

/// An activation, the degree it has now, and its error with each of [`DEGREES`].
struct Candidate {
    id: NodeId,
    choice: usize,
    errors: Vec<f64>,
}

impl Candidate {
    fn levels(&self) -> u32 {
        DEGREES[self.choice].ilog2()
    }
}

impl Net {
    /// The degree of each activation, in the order of the network, that brings the sum of relative errors down within `budget`.
    ///
    /// # Errors
    /// When degree 2 everywhere takes more levels than the budget, or the largest degree is not 2, 4 or 8.
    pub fn degrees_within(
        &mut self,
        budget: LevelBudget,
        batches: Vec<Tensor>,
        pool: &mut Pool,
    ) -> Result<Vec<usize>, ReplaceError> {
        let LevelBudget { levels, degree } = budget;
        let choices = 1 + DEGREES.iter().position(|&d| d == degree).ok_or(ReplaceError::Degree { degree })?;
        let ids: Vec<NodeId> =
            (0..self.nodes.len()).filter(|&id| matches!(self.nodes[id].op, Op::Activation(_))).collect();
        let all = self.operands_of(&ids, batches, pool);
        let of =
            |o: &Operands| Candidate { id: o.id, choice: 0, errors: self.errors(o, &DEGREES[..choices]) };
        let mut candidates: Vec<Candidate> = all.iter().map(of).collect();
        let least = self.depth(&candidates);
        if least > levels {
            return Err(ReplaceError::Levels { budget: levels, least });
        }
        while let Some(best) = self.best_raise(&mut candidates, levels) {
            candidates[best].choice += 1;
        }
        Ok(candidates.iter().map(|c| DEGREES[c.choice]).collect())
    }

    /// The candidate to raise, if one fits: one that lengthens no path comes before all that do.
    fn best_raise(&self, candidates: &mut [Candidate], levels: u32) -> Option<usize> {
        let now = self.depth(candidates);
        let mut best: Option<(usize, bool, f64)> = None;
        for i in 0..candidates.len() {
            let Some(gain) = gain(&candidates[i]) else { continue };
            candidates[i].choice += 1;
            let depth = self.depth(candidates);
            candidates[i].choice -= 1;
            let free = depth == now;
            let better = best.is_none_or(|(_, was_free, was)| (free, gain) > (was_free, was));
            if depth <= levels && better {
                best = Some((i, free, gain));
            }
        }
        best.map(|(i, ..)| i)
    }

    /// Levels that the polynomials on the longest path take.
    fn depth(&self, candidates: &[Candidate]) -> u32 {
        let mut depths = vec![0; self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            let own = candidates.binary_search_by_key(&id, |c| c.id).map_or(0, |i| candidates[i].levels());
            depths[id] = own + node.args.iter().map(|&a| depths[a]).max().unwrap_or(0);
        }
        self.outputs.iter().map(|(_, id)| depths[*id]).max().unwrap_or(0)
    }

    /// Squared error of an activation's polynomials relative to its variance, per degree.
    fn errors(&self, operands: &Operands, degrees: &[usize]) -> Vec<f64> {
        let Op::Activation(function) = &self.nodes[operands.id].op else { return Vec::new() };
        let slopes = function.slopes().map_or(&[][..], |&p| self.numbers(p));
        let of = |(c, channel): (usize, &Channel)| {
            let slope = f64::from(slopes.get(c).or(slopes.first()).copied().unwrap_or(0.0));
            channel_errors(channel, &|x| function.value(x, slope), degrees)
        };
        let channels: Vec<(f64, Vec<f64>)> = operands.channels.par_iter().enumerate().map(of).collect();
        let variance = channels.iter().map(|(v, _)| v).sum::<f64>().max(f64::MIN_POSITIVE);
        (0..degrees.len()).map(|d| channels.iter().map(|(_, e)| e[d]).sum::<f64>() / variance).collect()
    }
}

/// What the next degree takes off the error.
fn gain(candidate: &Candidate) -> Option<f64> {
    let next = candidate.errors.get(candidate.choice + 1)?;
    Some(candidate.errors[candidate.choice] - next)
}

/// Variance of a channel's activation on its operands, and the mean squared error of its polynomial of each degree.
fn channel_errors(channel: &Channel, target: &dyn Fn(f64) -> f64, degrees: &[usize]) -> (f64, Vec<f64>) {
    let step = channel.sample.len().div_ceil(SAMPLES).max(1);
    let sample: Vec<f32> = channel.sample.iter().copied().step_by(step).collect();
    let pairs: Vec<(f64, f64)> = sample.iter().map(|&x| (f64::from(x), target(f64::from(x)))).collect();
    let count = pairs.len().max(1) as f64;
    let mean = pairs.iter().map(|(_, y)| y).sum::<f64>() / count;
    let variance = pairs.iter().map(|(_, y)| (y - mean).powi(2)).sum::<f64>() / count;
    let error = |&degree: &usize| {
        let options = FitOptions::of_degree(degree as u32);
        let fitted = polynomial_for(&sample, target, f64::from(channel.max), &options);
        let value = |x: f64| fitted.iter().rev().fold(0.0, |sum, c| sum * x + c);
        pairs.iter().map(|(x, y)| (value(*x) - y).powi(2)).sum::<f64>() / count
    };
    (variance, degrees.iter().map(error).collect())
}
