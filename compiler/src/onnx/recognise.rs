//! Activations written as several nodes, such as `x (1 + erf(x / sqrt 2)) / 2`, are recognised by their values: the nodes that
//! compute a function of one number are evaluated at some points and compared with the activations known by name. Also plans
//! which nodes are translated at all: what only leads into a recognised activation, or nowhere, is not.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ir::tensor::Activation;
use peregrine_passes::tensor::interp::activation_at;

use super::load::Loaded;
use super::node::NodeView;
use super::split::Split;

/// Number of points.
const POINTS: usize = 61;
/// Largest difference from a known activation, relative to its value or 1.
const TOLERANCE: f64 = 1e-4;
/// Values that one value is kept as a function of.
const MAX_BASES: usize = 6;

/// What is translated.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    needed: Vec<bool>,
    activations: BTreeMap<usize, (String, Activation)>,
}

impl Plan {
    /// The plan for the server's part of a model.
    pub(crate) fn new(model: &Loaded, split: &Split) -> Self {
        let nodes = &model.graph().node;
        let activations = recognise(model, split);
        let mut wanted: BTreeSet<&str> = split.ports.iter().map(|(value, _)| value.as_str()).collect();
        // The client's parts take constants that the translation folds.
        for (index, node) in nodes.iter().enumerate() {
            if split.is_client(index) {
                wanted.extend(node.input.iter().map(String::as_str));
            }
        }
        let mut needed = vec![false; nodes.len()];
        for (index, node) in nodes.iter().enumerate().rev() {
            if split.is_client(index) || !node.output.iter().any(|o| wanted.contains(o.as_str())) {
                continue;
            }
            needed[index] = true;
            match activations.get(&index) {
                Some((operand, _)) => {
                    wanted.insert(operand.as_str());
                }
                None => wanted.extend(node.input.iter().map(String::as_str).filter(|i| !i.is_empty())),
            }
        }
        Self { needed, activations }
    }

    /// Whether node `index` is translated.
    pub(crate) fn needs(&self, index: usize) -> bool {
        self.needed[index]
    }

    /// The activation that node `index` completes, with its operand.
    pub(crate) fn activation(&self, index: usize) -> Option<(&str, &Activation)> {
        self.activations.get(&index).map(|(operand, activation)| (operand.as_str(), activation))
    }
}

/// A value as a function of another one, at the points.
type Samples = BTreeMap<String, Vec<f64>>;

fn points() -> Vec<f64> {
    (0..POINTS).map(|i| -6.1 + 12.3 * i as f64 / (POINTS - 1) as f64).collect()
}

fn recognise(model: &Loaded, split: &Split) -> BTreeMap<usize, (String, Activation)> {
    let known: Vec<(Activation, Vec<f64>)> = known()
        .into_iter()
        .map(|a| {
            let values = points().into_iter().map(|x| activation_at(&a, 0.0, x)).collect();
            (a, values)
        })
        .collect();
    let mut walk = Walk { model, functions: BTreeMap::new(), numbers: BTreeMap::new() };
    let mut found = BTreeMap::new();
    for (index, proto) in model.graph().node.iter().enumerate() {
        let (node, Some(output)) = (NodeView { proto, opset: model.opset }, proto.output.first()) else {
            continue;
        };
        if let Some(number) = walk.constant_node(node) {
            walk.numbers.insert(output.clone(), number);
            continue;
        }
        if split.is_client(index) || proto.output.len() != 1 {
            continue;
        }
        let samples = walk.evaluate(node);
        if proto.input.len() > 1 {
            let same = |values: &[f64], target: &[f64]| {
                values.iter().zip(target).all(|(v, t)| (v - t).abs() <= TOLERANCE * t.abs().max(1.0))
            };
            let hit = samples.iter().find_map(|(base, values)| {
                known.iter().find(|(_, target)| same(values, target)).map(|(a, _)| (base.clone(), a.clone()))
            });
            if let Some(hit) = hit {
                found.insert(index, hit);
            }
        }
        walk.functions.insert(output.clone(), samples);
    }
    found
}

/// Activations that exporters write as several nodes.
fn known() -> Vec<Activation> {
    vec![
        Activation::Silu,
        Activation::HardSwish,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Mish,
        Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
        Activation::Softplus,
    ]
}

struct Walk<'a> {
    model: &'a Loaded,
    functions: BTreeMap<String, Samples>,
    /// Single numbers that Constant nodes give.
    numbers: BTreeMap<String, f64>,
}

impl Walk<'_> {
    fn constant_node(&self, node: NodeView<'_>) -> Option<f64> {
        if node.proto.op_type != "Constant" {
            return None;
        }
        if let Ok(Some(value)) = node.float("value_float") {
            return Some(f64::from(value));
        }
        let tensor = node.tensor("value").ok()??;
        super::tensor::Constant::new(tensor.clone()).ok()?.scalar()
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.numbers.get(name).copied().or_else(|| self.model.constants.get(name)?.scalar())
    }

    /// A value as a function of itself and of what it is computed from.
    fn functions(&self, name: &str) -> Samples {
        let mut all = self.functions.get(name).cloned().unwrap_or_default();
        if !self.model.constants.contains_key(name) && !self.numbers.contains_key(name) {
            all.insert(name.to_owned(), points());
        }
        all
    }

    fn evaluate(&self, node: NodeView<'_>) -> Samples {
        let unary = |f: &dyn Fn(f64) -> f64| -> Samples {
            let operand = node.input(0).map(|name| self.functions(name)).unwrap_or_default();
            bounded(operand.into_iter().map(|(base, x)| (base, x.into_iter().map(f).collect())))
        };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match node.proto.op_type.as_str() {
            "Identity" => unary(&|x| x),
            "Neg" => unary(&|x| -x),
            "Erf" => unary(&erf),
            "Tanh" => unary(&f64::tanh),
            "Exp" => unary(&f64::exp),
            "Log" => unary(&f64::ln),
            "Sigmoid" => unary(&sigmoid),
            "Softplus" => unary(&|x| activation_at(&Activation::Softplus, 0.0, x)),
            "Relu" => unary(&|x| x.max(0.0)),
            "HardSigmoid" => {
                let read = |name, default| node.float(name).ok().flatten().map_or(default, f64::from);
                let (alpha, beta) = (read("alpha", 0.2), read("beta", 0.5));
                unary(&|x| (alpha * x + beta).clamp(0.0, 1.0))
            }
            "Clip" => {
                let bound = |i: usize, name: &str, none: f64| match node.opset < 11 {
                    true => node.float(name).ok().flatten().map_or(none, f64::from),
                    false => node.input(i).map_or(none, |n| self.number(n).unwrap_or(f64::NAN)),
                };
                let (low, high) = (bound(1, "min", f64::MIN), bound(2, "max", f64::MAX));
                if low.is_nan() || high.is_nan() { Samples::new() } else { unary(&|x| x.max(low).min(high)) }
            }
            "Add" => self.binary(node, |a, b| a + b),
            "Sub" => self.binary(node, |a, b| a - b),
            "Mul" => self.binary(node, |a, b| a * b),
            "Div" => self.binary(node, |a, b| a / b),
            "Pow" => self.binary(node, f64::powf),
            "Min" if node.proto.input.len() == 2 => self.binary(node, f64::min),
            "Max" if node.proto.input.len() == 2 => self.binary(node, f64::max),
            _ => Samples::new(),
        }
    }

    fn binary(&self, node: NodeView<'_>, f: impl Fn(f64, f64) -> f64) -> Samples {
        let (Some(left), Some(right)) = (node.input(0), node.input(1)) else { return Samples::new() };
        let apply = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect::<Vec<f64>>();
        match (self.number(left), self.number(right)) {
            (None, None) => {
                let right = self.functions(right);
                let both = self.functions(left).into_iter().filter_map(|(base, a)| {
                    let values = apply(&a, right.get(&base)?);
                    Some((base, values))
                });
                bounded(both)
            }
            (None, Some(n)) => {
                bounded(self.functions(left).into_iter().map(|(base, a)| (base, apply(&a, &[n; POINTS]))))
            }
            (Some(n), None) => {
                bounded(self.functions(right).into_iter().map(|(base, b)| (base, apply(&[n; POINTS], &b))))
            }
            (Some(_), Some(_)) => Samples::new(),
        }
    }
}

fn bounded(samples: impl Iterator<Item = (String, Vec<f64>)>) -> Samples {
    samples.filter(|(_, values)| values.iter().all(|v| v.is_finite())).take(MAX_BASES).collect()
}

/// The error function, from `gelu(z) = z (1 + erf(z / sqrt 2)) / 2`.
fn erf(x: f64) -> f64 {
    let z = x * std::f64::consts::SQRT_2;
    if x.abs() < 1e-9 { 0.0 } else { 2.0 * activation_at(&Activation::Gelu, 0.0, z) / z - 1.0 }
}
