//! All activations at once become polynomial ones, and max pools average pools.

use peregrine_ir::tensor::Activation;
use thiserror::Error;

use super::{Net, NodeId, Op, PolyAct, Role};
use crate::ops::activation::hermite;
use crate::ops::poly_act::BOUND;
use crate::ops::pool::Kind;

/// Degrees that can be asked for.
pub const DEGREES: [usize; 3] = [2, 4, 8];

/// Degree of each activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DegreePlan {
    /// The same for all.
    Uniform(usize),
    /// One each, in the order of the network.
    ByLayer(Vec<usize>),
}

/// Whether the polynomials' coefficients are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coefficients {
    /// They stay those of the expansion.
    Fixed,
    /// Each channel's are trained.
    Learned,
}

/// The polynomials that activations become.
#[derive(Clone, Debug, PartialEq)]
pub struct Polynomials {
    /// Their degrees.
    pub degrees: DegreePlan,
    /// Whether they are trained.
    pub coefficients: Coefficients,
    /// Deviations of a standard normal variable that a channel's range is taken for: the expansion is that of the activation on
    /// such operands. A wider one bends the polynomial more where most operands are, and grows faster outside of the range.
    pub bound: f64,
}

impl Polynomials {
    /// Expansions of one degree, not trained.
    pub fn fixed(degree: usize) -> Self {
        Self { degrees: DegreePlan::Uniform(degree), coefficients: Coefficients::Fixed, bound: BOUND }
    }
}

/// What was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Polynomial activations.
    pub activations: Vec<NodeId>,
    /// Average pools that were max pools.
    pub pools: usize,
}

/// Why activations are not replaced.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplaceError {
    /// Nothing to do.
    #[error("the model has no activation to replace: it is polynomial already")]
    NoActivation,
    /// A degree that is not supported.
    #[error("degree {degree} is not supported: choose 2, 4 or 8")]
    Degree {
        /// Asked for.
        degree: usize,
    },
    /// Fewer levels than degree 2 takes.
    #[error("polynomials of degree 2 take {least} levels on the longest path: --levels {budget} is too few")]
    Levels {
        /// Asked for.
        budget: u32,
        /// Needed.
        least: u32,
    },
    /// A list of degrees and a budget.
    #[error("--levels chooses the degrees: give it one --degree, the largest allowed")]
    ListAndLevels,
    /// The list of degrees has another length.
    #[error("{given} degrees were given for {layers} activations: {names}")]
    Count {
        /// Degrees given.
        given: usize,
        /// Activations.
        layers: usize,
        /// Their names.
        names: String,
    },
}

impl Net {
    /// Replaces every activation and max pool.
    ///
    /// # Errors
    /// When there is nothing to replace or the plan does not fit.
    pub fn replace_activations(&mut self, polynomials: &Polynomials) -> Result<Replaced, ReplaceError> {
        let found: Vec<NodeId> =
            (0..self.nodes.len()).filter(|&id| matches!(self.nodes[id].op, Op::Activation(_))).collect();
        let degrees = match &polynomials.degrees {
            DegreePlan::Uniform(degree) => vec![*degree; found.len()],
            DegreePlan::ByLayer(degrees) => degrees.clone(),
        };
        if found.is_empty() {
            return Err(ReplaceError::NoActivation);
        }
        if let Some(&degree) = degrees.iter().find(|d| !DEGREES.contains(d)) {
            return Err(ReplaceError::Degree { degree });
        }
        if degrees.len() != found.len() {
            let names: Vec<&str> = found.iter().map(|&id| self.nodes[id].name.as_str()).collect();
            let (given, layers) = (degrees.len(), found.len());
            return Err(ReplaceError::Count { given, layers, names: names.join(", ") });
        }
        for (&id, degree) in found.iter().zip(degrees) {
            let powers = self.expansion(id, degree, polynomials.bound).repeat(self.nodes[id].shape.c);
            let role = match polynomials.coefficients {
                Coefficients::Fixed => Role::Frozen,
                Coefficients::Learned => Role::Offset,
            };
            // Two nodes of one name would share a parameter name otherwise.
            let name = format!("{}/polynomial#{id}", self.nodes[id].name);
            let powers = self.param(name, powers, role);
            let max = vec![1.0; self.nodes[id].shape.c];
            self.nodes[id].op = Op::PolyAct(PolyAct { powers, degree, max, started: false, reach: None });
        }
        let mut pools = 0;
        for node in &mut self.nodes {
            if let Op::Pool(window) = &mut node.op
                && window.kind == Kind::Max
            {
                window.kind = Kind::AverageInside;
                pools += 1;
            }
        }
        Ok(Replaced { activations: found, pools })
    }

    /// Expansion of an activation; ReLU6 and its like count as ReLU, a PRelu has its mean slope.
    fn expansion(&self, id: NodeId, degree: usize, bound: f64) -> Vec<f32> {
        let Op::Activation(function) = &self.nodes[id].op else { return Vec::new() };
        let slopes = function.slopes().map_or(&[][..], |&p| self.numbers(p));
        let function = match *function {
            Activation::Clip { low: 0.0, .. } => Activation::Relu,
            other => other,
        };
        let slope = slopes.iter().map(|s| f64::from(*s)).sum::<f64>() / slopes.len().max(1) as f64;
        // With s P(x / s), operands of a range of `bound` instead of BOUND: s shrinks by their ratio.
        let ratio = bound / BOUND;
        let powers = hermite(|x| function.value(x, slope), degree).into_iter().enumerate();
        powers.map(|(k, c)| (c * ratio.powi(k as i32 - 1)) as f32).collect()
    }
}
