//! Error budget: the error of every value in closed form, from scales, levels, weights and the moments of the data.
//!
//! Every operation makes errors of known variance ([`peregrine_ckks::noise`]), independent in every element, and passes on those of its
//! operands: a linear map by the squares of its weights, a polynomial by the mean square of its slope. A convolution leaves errors
//! that neighbours have in common, which later averages do not cancel; so each channel has two numbers, the variance of an element
//! and the spectral density at frequency zero. Errors of different channels count as independent. All of this is carried
//! forwards; backwards goes the share that each operation has in the error of the outputs.
//!
//! Errors also count as independent of the values that they are errors of. Where values have long tails, as cubics of growing sums make
//! them, the elements of the steepest slope are those that carry the largest errors already, and what is foreseen is too good by
//! a bit or more for each polynomial: only variances of elements on the calibration images, in place of those of channels, would tell.
//!
//! | file | what |
//! |---|---|
//! | [`linear`] | sums of linear maps |
//! | [`poly`] | polynomials |

pub mod linear;
pub mod poly;

use peregrine_ckks::noise;
use peregrine_ckks::params::Params;
use peregrine_ir::fhe::{CipherTy, Fhe, FheGraph, FheOp};
use peregrine_ir::program::{LinearCall, Program};
use peregrine_ir::{EntityId, Node, RefreshForm, ValueId};

use self::linear::Maps;
use super::LowerError;
use super::pack::Held;
use crate::tensor::moments::Moments;

/// What makes an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Fresh encryption.
    Encryption,
    /// The rounding of a rescale.
    Rescale,
    /// The rounding of weights, coefficients and biases to integers.
    Rounding,
    /// Key switches of rotations and products.
    KeySwitch,
    /// Bootstrapping.
    Refresh,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 5] =
        [Self::Encryption, Self::Rescale, Self::Rounding, Self::KeySwitch, Self::Refresh];

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::Rescale => "rescales",
            Self::Rounding => "rounded weights",
            Self::KeySwitch => "key switches",
            Self::Refresh => "bootstraps",
        }
    }
}

/// Variances that an operation adds, per source and channel, in units of its packed result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made(Vec<(Source, Vec<f64>)>);

impl Made {
    /// Adds the same variance to all channels.
    fn add(&mut self, source: Source, channels: usize, variance: f64) {
        self.0.push((source, vec![variance; channels]));
    }
}

/// How an operation passes on the errors of an operand.
#[derive(Clone, Debug, PartialEq)]
enum Gain {
    /// As they are.
    Same,
    /// Each channel times a factor of its own for each element: the mean square and the square of the mean of the factors.
    Channels(Vec<[f64; 2]>),
    /// `[result][operand]`, both as in [`Spectrum`].
    Matrix(Vec<f64>),
}

impl Gain {
    fn forwards(&self, operand: &[f64], result: &mut [f64]) {
        match self {
            Self::Same => result.iter_mut().zip(operand).for_each(|(r, o)| *r += o),
            Self::Channels(by) => {
                for (c, [square, mean]) in by.iter().enumerate() {
                    let (white, slow) = (operand[c], operand[c + by.len()]);
                    result[c] += square * white;
                    result[c + by.len()] += mean * slow + (square - mean) * white;
                }
            }
            Self::Matrix(by) => {
                let rows = by.chunks(operand.len());
                let of = |row: &[f64]| row.iter().zip(operand).map(|(g, o)| g * o).sum::<f64>();
                result.iter_mut().zip(rows).for_each(|(r, row)| *r += of(row));
            }
        }
    }

    /// The transpose of [`Self::forwards`].
    fn backwards(&self, result: &[f64], operand: &mut [f64]) {
        match self {
            Self::Same => operand.iter_mut().zip(result).for_each(|(o, r)| *o += r),
            Self::Channels(by) => {
                for (c, [square, mean]) in by.iter().enumerate() {
                    let (white, slow) = (result[c], result[c + by.len()]);
                    operand[c] += square * white + (square - mean) * slow;
                    operand[c + by.len()] += mean * slow;
                }
            }
            Self::Matrix(by) => {
                for (row, r) in by.chunks(operand.len()).zip(result) {
                    operand.iter_mut().zip(row).for_each(|(o, g)| *o += g * r);
                }
            }
        }
    }
}

/// Errors of a value: for each channel the variance of an element, then for each channel the spectral density at frequency zero (the
/// variance of the sum over a map, divided by its elements), which is what averages leave. For independent errors both are equal.
type Spectrum = Vec<f64>;

/// The error of one value of a leveled graph.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueError {
    /// Standard deviation per channel, in the units of the tensor.
    pub deviation: Vec<f64>,
    /// The error that the largest one of a value is expected to have (its median), in the units of the tensor.
    pub largest: f64,
    /// Share that the errors made by this operation have in the variance of the outputs.
    pub share: f64,
}

/// The error of one output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputBudget {
    /// ONNX name.
    pub name: String,
    /// The error that its largest one is expected to have.
    pub largest: f64,
    /// Range of its numbers for one input.
    pub range: f64,
}

impl OutputBudget {
    /// Bits of the range that the error leaves.
    pub fn bits(&self) -> f64 {
        -(self.largest / self.range.max(f64::MIN_POSITIVE)).max(f64::MIN_POSITIVE).log2()
    }
}

/// Predicted errors of a leveled graph.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorBudget {
    /// One for each node of the graph.
    pub values: Vec<ValueError>,
    /// The outputs.
    pub outputs: Vec<OutputBudget>,
    /// Share of each source in the variance of the outputs, by [`Source::ALL`].
    pub sources: [f64; Source::ALL.len()],
    /// The values that a program has probes of, in their order.
    pub probed: Vec<usize>,
}

impl ErrorBudget {
    /// Bits of the output's range that the error leaves, of the worst output.
    pub fn bits(&self) -> f64 {
        self.outputs.iter().map(OutputBudget::bits).fold(f64::INFINITY, f64::min)
    }

    /// The value that probe number `index` of the program shows.
    pub fn probe(&self, index: usize) -> Option<&ValueError> {
        self.values.get(*self.probed.get(index)?)
    }
}

/// What a budget is made of.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The leveled graph.
    pub graph: &'a FheGraph,
    /// The program that was made from it: it says how the operands of linear calls are joined.
    pub program: &'a Program,
    /// Its ring.
    pub params: &'a Params,
    /// What each operation of the packed graph holds: [`Packed::sources`](super::pack::Packed::sources).
    pub sources: &'a [Held],
    /// Moments of the tensor values.
    pub moments: &'a [Moments],
}

/// The error budget of a leveled graph.
///
/// # Errors
/// Only bugs: a graph without levels, or one that was not made from the packed graph of `sources`.
pub fn budget(subject: &Subject<'_>) -> Result<ErrorBudget, LowerError> {
    let graph = subject.graph;
    let tensors = tensors(subject)?;
    let mut forward = Forward { subject, tensors, maps: Maps::default(), calls: 0, steps: Vec::new() };
    for (id, node) in graph.nodes.iter() {
        forward.step(id, node)?;
    }
    let Forward { tensors, steps, .. } = forward;
    let outputs: Vec<OutputBudget> = graph
        .outputs
        .iter()
        .map(|port| {
            let value = &steps[port.value.index()];
            let range = subject.moments[tensors[port.value.index()].tensor.index()].spread;
            OutputBudget { name: port.name.clone(), largest: value.largest(), range }
        })
        .collect();
    let weights = backwards(graph, &steps);
    let mut sources = [0.0; Source::ALL.len()];
    let values = steps
        .into_iter()
        .zip(&weights)
        .map(|(step, weight)| {
            let mut share = 0.0;
            for (source, variances) in &step.made.0 {
                let part: f64 = variances.iter().chain(variances).zip(weight).map(|(v, w)| v * w).sum();
                sources[*source as usize] += part;
                share += part;
            }
            let largest = step.largest();
            ValueError { deviation: step.deviations(), largest, share }
        })
        .collect();
    let is_probed = |node: &Node<Fhe>| matches!(node.op, FheOp::Linear { .. } | FheOp::Poly(_) | FheOp::Add);
    let probed = graph.nodes.iter().filter(|(_, node)| is_probed(node)).map(|(id, _)| id.index()).collect();
    Ok(ErrorBudget { values, outputs, sources, probed })
}

/// The tensor value of each node: leveling adds drops and refreshes, which hold what their operands hold.
fn tensors(subject: &Subject<'_>) -> Result<Vec<Held>, LowerError> {
    let mut packed = subject.sources.iter();
    let mut tensors: Vec<Held> = Vec::with_capacity(subject.graph.nodes.len());
    for node in subject.graph.nodes.values() {
        let tensor = match &node.op {
            FheOp::Drop { .. } | FheOp::Bootstrap(_) => node.args.first().map(|arg| tensors[arg.index()]),
            FheOp::Input { .. } | FheOp::Linear { .. } | FheOp::Poly(_) | FheOp::Add => {
                packed.next().copied()
            }
        };
        let known = tensor.filter(|held| held.tensor.index() < subject.moments.len());
        tensors.push(known.ok_or_else(|| LowerError::bug("an operation that packing did not make"))?);
    }
    Ok(tensors)
}

/// One operation: what it makes and passes on, and the errors of its result.
struct Step {
    made: Made,
    gains: Vec<Gain>,
    spectrum: Spectrum,
    unit: Vec<f64>,
    /// Numbers of a channel.
    map: usize,
}

impl Step {
    /// Of an element, by channel.
    fn variances(&self) -> &[f64] {
        &self.spectrum[..self.unit.len()]
    }

    fn deviations(&self) -> Vec<f64> {
        self.variances().iter().zip(&self.unit).map(|(v, u)| (v.sqrt() * u).abs()).collect()
    }

    fn largest(&self) -> f64 {
        median_of_largest(&self.deviations(), self.map as f64)
    }
}

struct Forward<'s, 'a> {
    subject: &'s Subject<'a>,
    tensors: Vec<Held>,
    maps: Maps,
    /// Linear calls met so far.
    calls: usize,
    steps: Vec<Step>,
}

impl<'a> Forward<'_, 'a> {
    fn step(&mut self, id: ValueId, node: &Node<Fhe>) -> Result<(), LowerError> {
        let graph = self.subject.graph;
        let layout = &graph.tables.layouts[node.ty.layout];
        let (channels, map) = (layout.shape.c as usize, (layout.shape.h * layout.shape.w) as usize);
        let unit = graph.tables.consts[node.ty.unit].to_f64();
        let (made, gains) = match &node.op {
            FheOp::Input { .. } => (self.input(node, channels)?, Vec::new()),
            FheOp::Linear { maps, bias } => linear::step(self, node, maps, *bias)?,
            FheOp::Poly(poly) => poly::step(self, node, *poly)?,
            FheOp::Add => (Made::default(), vec![Gain::Same; node.args.len()]),
            FheOp::Drop { .. } => (Made::default(), vec![Gain::Same]),
            FheOp::Bootstrap(form) => (self.refresh(node, *form, channels)?, vec![Gain::Same]),
        };
        let mut spectrum = vec![0.0; 2 * channels];
        for (_, made) in &made.0 {
            spectrum.iter_mut().zip(made.iter().chain(made)).for_each(|(v, m)| *v += m);
        }
        for (gain, arg) in gains.iter().zip(&node.args) {
            gain.forwards(&self.steps[arg.index()].spectrum, &mut spectrum);
        }
        debug_assert_eq!(self.steps.len(), id.index());
        self.steps.push(Step { made, gains, spectrum, unit, map });
        Ok(())
    }

    /// The call of the next linear operation: the program has them in the order of the graph.
    fn call(&mut self) -> Result<&'a LinearCall, LowerError> {
        let call = self.subject.program.calls.values().nth(self.calls);
        self.calls += 1;
        call.ok_or_else(|| LowerError::bug("a linear operation without a call"))
    }

    fn input(&self, node: &Node<Fhe>, channels: usize) -> Result<Made, LowerError> {
        let scale = cipher(node)?.scale.value(self.subject.params);
        let period = self.subject.graph.tables.layouts[node.ty.layout].period.get() as usize;
        let mut made = Made::default();
        let encryption = noise::encrypt_secret_rms(self.subject.params.n()) / scale;
        made.add(Source::Encryption, channels, encryption.powi(2));
        let rounding = noise::plaintext_rounding_rms(2 * period) / scale;
        made.add(Source::Rounding, channels, rounding.powi(2));
        Ok(made)
    }

    fn refresh(&self, node: &Node<Fhe>, form: RefreshForm, channels: usize) -> Result<Made, LowerError> {
        let params = self.subject.params;
        let mut made = Made::default();
        let refreshed = f64::from(form.range_bits).exp2() * noise::bootstrap_rms();
        made.add(Source::Refresh, channels, refreshed.powi(2));
        if form.lift_bits.is_some() {
            let rescale = noise::rescale_rms(params.n()) / cipher(node)?.scale.value(params);
            made.add(Source::Rescale, channels, rescale.powi(2));
        }
        Ok(made)
    }

    /// Moments of the tensor that a value of the graph holds channels of, and the first of these channels.
    fn moments(&self, value: usize) -> (&Moments, usize) {
        let held = self.tensors[value];
        (&self.subject.moments[held.tensor.index()], held.first_channel as usize)
    }

    fn unit(&self, value: ValueId) -> &[f64] {
        &self.steps[value.index()].unit
    }
}

fn cipher(node: &Node<Fhe>) -> Result<&CipherTy, LowerError> {
    node.ty.cipher.as_ref().ok_or_else(|| LowerError::bug(format!("{}: no level", node.origin.as_str())))
}

/// For each operation what a unit in its result's spectrum adds to the variance of the outputs, as a share of it.
fn backwards(graph: &FheGraph, steps: &[Step]) -> Vec<Vec<f64>> {
    let mut weights: Vec<Vec<f64>> = steps.iter().map(|step| vec![0.0; step.spectrum.len()]).collect();
    for port in &graph.outputs {
        let step = &steps[port.value.index()];
        let total: f64 = step.variances().iter().zip(&step.unit).map(|(v, u)| v * u * u).sum();
        let share = 1.0 / (total.max(f64::MIN_POSITIVE) * graph.outputs.len() as f64);
        weights[port.value.index()].iter_mut().zip(&step.unit).for_each(|(w, u)| *w += u * u * share);
    }
    for (id, node) in graph.nodes.iter().collect::<Vec<_>>().into_iter().rev() {
        let result = std::mem::take(&mut weights[id.index()]);
        for (gain, arg) in steps[id.index()].gains.iter().zip(&node.args) {
            gain.backwards(&result, &mut weights[arg.index()]);
        }
        weights[id.index()] = result;
    }
    weights
}

/// Median of the largest magnitude of `count` Gaussian numbers of each of these deviations.
fn median_of_largest(deviations: &[f64], count: f64) -> f64 {
    let widest = deviations.iter().copied().fold(0.0, f64::max);
    if widest == 0.0 || !widest.is_finite() {
        return widest;
    }
    // The largest is at most e with probability one half where the expected number beyond e is ln 2.
    let beyond = |e: f64| {
        let of = |d: &f64| if *d > 0.0 { count * libm::erfc(e / d / std::f64::consts::SQRT_2) } else { 0.0 };
        deviations.iter().map(of).sum::<f64>()
    };
    let (mut low, mut high) = (0.0, 20.0 * widest);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if beyond(middle) > std::f64::consts::LN_2 { low = middle } else { high = middle }
    }
    high
}
