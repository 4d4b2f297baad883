//! Activations written as several nodes, such as `x (1 + erf(x / sqrt 2)) / 2`, are recognised by their values: the nodes that
//! compute a function of one number are evaluated at some points and compared with the activations known by name. Also plans
//! which nodes are translated at all: what only leads into a recognised activation, or nowhere, is not.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ir::tensor::Activation;

use super::curve::{Curve, Samples, bounded};
use super::fold;
use super::load::Loaded;
use super::node::NodeView;
use super::split::Split;
use super::tensor::Constant;

/// Most numbers of a constant that is followed.
const MAX_NUMBERS: usize = 4096;

/// What is translated.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    needed: Vec<bool>,
    activations: BTreeMap<usize, (String, Found)>,
}

/// What several nodes compute together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// An activation known by name.
    Activation(Activation),
    /// `after * activation(before * x)`.
    Scaled { activation: Activation, before: f64, after: f64 },
    /// x where that is positive, else a multiple of it, one factor per channel.
    Slopes(Constant),
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
    pub(crate) fn activation(&self, index: usize) -> Option<(&str, &Found)> {
        self.activations.get(&index).map(|(operand, activation)| (operand.as_str(), activation))
    }
}

fn recognise(model: &Loaded, split: &Split) -> BTreeMap<usize, (String, Found)> {
    let known: Vec<(Activation, Curve)> = known()
        .into_iter()
        .map(|a| {
            let curve = Curve::of(|x| a.value(x, 0.0));
            (a, curve)
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
        // An operator of one operand is an activation as it is, but for the logarithm that ends LogSigmoid.
        if (proto.input.len() > 1 || proto.op_type == "Log")
            && let Some(hit) =
                samples.iter().find_map(|(base, curve)| Some((base.clone(), found_in(curve, &known)?)))
        {
            found.insert(index, hit);
        }
        walk.functions.insert(output.clone(), samples);
    }
    found
}

/// The activation that a curve is.
fn found_in(curve: &Curve, known: &[(Activation, Curve)]) -> Option<Found> {
    let Some(single) = curve.single() else { return curve.slopes().map(Found::Slopes) };
    if let Some((activation, _)) = known.iter().find(|(_, target)| single.is_close_to(target)) {
        return Some(Found::Activation(*activation));
    }
    if let Some(alpha) = single.slope() {
        let leaky = Activation::LeakyRelu { alpha: alpha as f32 };
        return Some(Found::Activation(if alpha == 0.0 { Activation::Relu } else { leaky }));
    }
    if let Some([low, high]) = single.bounds() {
        return Some(Found::Activation(Activation::Clip { low: low as f32, high: high as f32 }));
    }
    let mirrored = Curve::of(|x| -<Activation>::Softplus.value(-x, 0.0));
    if single.is_close_to(&mirrored) {
        return Some(Found::Scaled { activation: Activation::Softplus, before: -1.0, after: -1.0 });
    }
    let silu = |beta: f64| Found::Scaled { activation: Activation::Silu, before: beta, after: 1.0 / beta };
    single.silu_scale().map(silu)
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
    /// Small constants that nodes give.
    numbers: BTreeMap<String, Constant>,
}

impl Walk<'_> {
    /// The value of a node of constants.
    fn constant_node(&self, node: NodeView<'_>) -> Option<Constant> {
        let movement = matches!(
            node.proto.op_type.as_str(),
            "Constant"
                | "Identity"
                | "Reshape"
                | "Unsqueeze"
                | "Squeeze"
                | "Cast"
                | "Neg"
                | "Mul"
                | "Add"
                | "Sub"
        );
        if !movement || node.proto.output.len() != 1 {
            return None;
        }
        let inputs: Option<Vec<Option<&Constant>>> = (0..node.proto.input.len())
            .map(|i| match node.input(i) {
                None => Some(None),
                Some(name) => self.constant(name).filter(|c| c.len() <= MAX_NUMBERS).map(Some),
            })
            .collect();
        fold::evaluate(node, &inputs?).ok()?.into_iter().next().filter(|c| c.len() <= MAX_NUMBERS)
    }

    fn constant(&self, name: &str) -> Option<&Constant> {
        self.numbers.get(name).or_else(|| self.model.constants.get(name))
    }

    /// A number, or one per channel.
    fn number(&self, name: &str) -> Option<Curve> {
        self.constant(name).filter(|c| c.len() <= MAX_NUMBERS).and_then(Curve::constant)
    }

    /// A value as a function of itself and of what it is computed from.
    fn functions(&self, name: &str) -> Samples {
        let mut all = self.functions.get(name).cloned().unwrap_or_default();
        if self.constant(name).is_none() {
            all.insert(name.to_owned(), Curve::of(|x| x));
        }
        all
    }

    fn evaluate(&self, node: NodeView<'_>) -> Samples {
        let unary = |f: &dyn Fn(f64) -> f64| -> Samples {
            let operand = node.input(0).map(|name| self.functions(name)).unwrap_or_default();
            bounded(operand.into_iter().map(|(base, x)| (base, x.map(f))))
        };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let flag = |b: bool| f64::from(u8::from(b));
        match node.proto.op_type.as_str() {
            "Identity" => unary(&|x| x),
            "Cast" if node.int("to") == Ok(Some(1)) => unary(&|x| x),
            "Neg" => unary(&|x| -x),
            "Abs" => unary(&f64::abs),
            "Erf" => unary(&erf),
            "Tanh" => unary(&f64::tanh),
            "Exp" => unary(&f64::exp),
            "Log" => unary(&f64::ln),
            "Sigmoid" => unary(&sigmoid),
            "Softplus" => unary(&|x| <Activation>::Softplus.value(x, 0.0)),
            "Relu" => unary(&|x| x.max(0.0)),
            "HardSigmoid" => {
                let read = |name, default| node.float(name).ok().flatten().map_or(default, f64::from);
                let (alpha, beta) = (read("alpha", 0.2), read("beta", 0.5));
                unary(&|x| (alpha * x + beta).clamp(0.0, 1.0))
            }
            "Clip" => {
                let single =
                    |n: &str| self.number(n).and_then(|c| c.single()).map_or(f64::NAN, |c| c.first());
                let bound = |i: usize, name: &str, none: f64| match node.opset < 11 {
                    true => node.float(name).ok().flatten().map_or(none, f64::from),
                    false => node.input(i).map_or(none, single),
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
            "Greater" => self.binary(node, |a, b| flag(a > b)),
            "GreaterOrEqual" => self.binary(node, |a, b| flag(a >= b)),
            "Less" => self.binary(node, |a, b| flag(a < b)),
            "LessOrEqual" => self.binary(node, |a, b| flag(a <= b)),
            "Where" => self.chosen(node),
            _ => Samples::new(),
        }
    }

    fn binary(&self, node: NodeView<'_>, f: impl Fn(f64, f64) -> f64) -> Samples {
        let (Some(left), Some(right)) = (node.input(0), node.input(1)) else { return Samples::new() };
        match (self.number(left), self.number(right)) {
            (None, None) => {
                let right = self.functions(right);
                let both = self.functions(left).into_iter();
                bounded(both.filter_map(|(base, a)| Some((base.clone(), a.with(right.get(&base)?, &f)?))))
            }
            (None, Some(n)) => {
                let left = self.functions(left).into_iter();
                bounded(left.filter_map(|(base, a)| Some((base, a.with(&n, &f)?))))
            }
            (Some(n), None) => {
                let right = self.functions(right).into_iter();
                bounded(right.filter_map(|(base, b)| Some((base, n.with(&b, &f)?))))
            }
            (Some(_), Some(_)) => Samples::new(),
        }
    }

    /// Where: the second operand where the first is 1, else the third.
    fn chosen(&self, node: NodeView<'_>) -> Samples {
        let [Some(condition), Some(yes), Some(no)] = [0, 1, 2].map(|i| node.input(i)) else {
            return Samples::new();
        };
        let of = |name: &str, base: &str| self.number(name).or_else(|| self.functions(name).remove(base));
        let conditions = self.functions.get(condition).cloned().unwrap_or_default().into_iter();
        bounded(conditions.filter_map(|(base, c)| {
            let yes = c.with(&of(yes, &base)?, &|c, y| if c > 0.5 { y } else { 0.0 })?;
            let no = c.with(&of(no, &base)?, &|c, n| if c > 0.5 { 0.0 } else { n })?;
            Some((base, yes.with(&no, &|a, b| a + b)?))
        }))
    }
}

/// The error function, from `gelu(z) = z (1 + erf(z / sqrt 2)) / 2`.
fn erf(x: f64) -> f64 {
    let z = x * std::f64::consts::SQRT_2;
    if x.abs() < 1e-9 { 0.0 } else { 2.0 * <Activation>::Gelu.value(z, 0.0) / z - 1.0 }
}
