//! Errors of sums of linear maps.
//!
//! The error of element i reaches an output times the weight that joins them. Every diagonal of the map is rounded to integers
//! in all slots, zeros included, so the error of rounding follows from the number of diagonals that an output sums and from the mean
//! square of the slots that they meet.
//!
//! Where an operand is [joined](peregrine_ir::linear::Sharing) from p parts over R copies, a product meets p times that mean square,
//! there are up to p times fewer products, and R times as many slots are summed by folds. Weights of complex diagonals are halved
//! before they are rounded, and what closes the sum doubles the real part: rounding errors are R times those of plain products, or
//! twice that with an imaginary part.

use peregrine_ckks::evaluator::linear::Close;
use peregrine_ckks::noise;
use peregrine_ir::fhe::Fhe;
use peregrine_ir::layout::{Axis, Chw, Layout};
use peregrine_ir::linear::{Diagonals, LinearMap, LinearMapId, ResolvedMap, Sharing, axis_pairs, shared};
use peregrine_ir::{ConstId, EntityId, Node, Scale};

use super::{Forward, Gain, Made, Source, cipher};
use crate::fhe::LowerError;

/// Numbers of products of the maps met so far: layers of one shape share them.
#[derive(Debug, Default)]
pub struct Maps(Vec<(LinearMap, Sharing, usize)>);

impl Maps {
    fn products(&mut self, map: &LinearMap, resolved: ResolvedMap<'_>, sharing: &Sharing) -> usize {
        let known = self.0.iter().find(|(other, joined, _)| joined == sharing && other.is_shaped_as(map));
        if let Some((.., count)) = known {
            return *count;
        }
        let count = shared(&Diagonals::of(resolved), sharing).len();
        self.0.push((map.clone(), sharing.clone(), count));
        count
    }
}

/// What joining an operand does to errors.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Joined {
    /// Mean square of a slot of the joined operand, for one of the operand.
    square: f64,
    /// Copies that are summed in the end.
    copies: f64,
    /// Square of what closes the sum.
    closing: f64,
    /// Key switches whose errors a rotation of the joined operand carries, for one.
    switches: f64,
}

impl Joined {
    /// Of an operand; `close` tells whether any operand of the call leaves its sum to be closed by a conjugation.
    fn of(sharing: &Sharing, close: Close) -> Self {
        let copies = f64::from(sharing.copies());
        let own = if sharing.is_complex() { 2.0 } else { 1.0 };
        let square = own * copies;
        // Every join but that with the next ciphertext rotates, and doubles what it joins.
        let rotated = if sharing.ciphers() > 1 { copies } else { square };
        let closing = match close {
            Close::Sum => 1.0,
            Close::AddConjugate => 4.0,
        };
        Self { square, copies, closing, switches: rotated / copies }
    }
}

/// What a sum of maps makes and passes on.
pub(super) fn step(
    forward: &mut Forward<'_, '_>,
    node: &Node<Fhe>,
    maps: &[LinearMapId],
    bias: Option<ConstId>,
) -> Result<(Made, Vec<Gain>), LowerError> {
    let (graph, params) = (forward.subject.graph, forward.subject.params);
    let layout = &graph.tables.layouts[node.ty.layout];
    let (channels, result) = (layout.shape.c as usize, cipher(node)?);
    let scale = result.scale.value(params);
    let mut made = Made::default();
    made.add(Source::Rescale, channels, (noise::rescale_rms(params.n()) / scale).powi(2));
    if bias.is_some() {
        let rounding = noise::plaintext_rounding_rms(2 * layout.period.get() as usize) / scale;
        made.add(Source::Rounding, channels, rounding.powi(2));
    }
    let mut gains = Vec::with_capacity(maps.len());
    let call = forward.call()?;
    let complex = call.shared.iter().any(Sharing::is_complex);
    let close = if complex { Close::AddConjugate } else { Close::Sum };
    for ((&map, &arg), term) in maps.iter().zip(&node.args).zip(&call.terms) {
        let sharing = call.recipe().sharing(term.operand);
        let joined = Joined::of(&sharing, close);
        let map = &graph.tables.maps[map];
        let operand = cipher(&graph.nodes[arg])?;
        let before = (result.level.0 + 1..=operand.level.0)
            .fold(result.scale.clone(), |scale, prime| scale.mul(&Scale::prime(prime)));
        let weight_scale = before.div(&operand.scale).value(params);
        let resolved = map.resolve(&graph.tables.layouts);
        let weights = graph.tables.consts[map.weights].to_f64();
        let passed = Passed::of(resolved, &weights);
        let products = forward.maps.products(map, resolved, &sharing) as f64 * folded(resolved)
            / f64::from(resolved.output.ciphertexts.max(1));
        let period = resolved.input.period.max(resolved.output.period).get() as f64 * joined.copies;
        let rounding = noise::plaintext_rounding_rms(2 * period as usize) / weight_scale;
        let met = mean_slot_square(forward, arg.index(), resolved.input) * joined.square;
        let rounded = products * joined.copies * met * joined.closing * rounding.powi(2);
        made.add(Source::Rounding, channels, rounded);
        // Nearly every diagonal meets a rotated operand.
        let switched = (noise::key_switch_rms(params, operand.level) / operand.scale.value(params)).powi(2);
        let switched = switched * joined.switches;
        let rows = passed.independent.chunks(resolved.input.shape.c as usize);
        made.0.push((Source::KeySwitch, rows.map(|row| switched * row.iter().sum::<f64>()).collect()));
        let map = f64::from(layout.shape.h) * f64::from(layout.shape.w);
        gains.push(passed.gain(&forward.steps[arg.index()].spectrum, map));
    }
    Ok((made, gains))
}

/// Copies of a result that are summed at the end.
fn folded(map: ResolvedMap<'_>) -> f64 {
    let (input, output) = (map.input.period.get(), map.output.period.get());
    f64::from((input / output.max(1)).max(1))
}

/// Mean square of the slots of a value, empty ones included.
fn mean_slot_square(forward: &Forward<'_, '_>, value: usize, layout: &Layout) -> f64 {
    let (moments, first) = forward.moments(value);
    let unit = &forward.steps[value].unit;
    let squares = unit.iter().enumerate().map(|(c, unit)| moments.mean_square(first + c) / (unit * unit));
    let mean = squares.sum::<f64>() / unit.len().max(1) as f64;
    let places = f64::from(layout.period.get()) * f64::from(layout.ciphertexts);
    mean * layout.shape.len() as f64 / places
}

/// Elements around one that have a convolution's error in common with it.
const NEIGHBOURS: f64 = 9.0;

/// How a map passes on a spectrum, for each pair of channels `[result][operand]`.
struct Passed {
    /// Squares of the weights, summed over what one element reads: for independent errors.
    independent: Vec<f64>,
    /// Square of the sum of the weights that one element reads: for errors that all elements have in common.
    common: Vec<f64>,
    /// Elements that one element reads.
    window: f64,
    /// Elements of the operand for each of the result.
    stride: f64,
}

impl Passed {
    /// Of weights in the mean over the elements of a result's channel. Weights of `before` and `after` that meet in one element count one by one.
    fn of(map: ResolvedMap<'_>, weights: &[f64]) -> Self {
        let [kh, kw] = map.geometry.kernel.map(|k| k as usize);
        let (rows, columns) = (Along::of(&map, Axis::Y, kh), Along::of(&map, Axis::X, kw));
        let (inputs, outputs) = (map.input.shape.c as usize, map.output.shape.c as usize);
        let (mut independent, mut sums) = (vec![0.0; inputs * outputs], vec![0.0; inputs * outputs]);
        for pair in axis_pairs(&map, Axis::C) {
            let kernel = &weights[pair.tap as usize * kh * kw..][..kh * kw];
            let (at, factor) = (pair.out as usize * inputs + pair.input as usize, f64::from(pair.factor));
            for (i, row) in kernel.chunks(kw).enumerate() {
                for (j, w) in row.iter().enumerate() {
                    independent[at] += (factor * w).powi(2) * rows.squares[i] * columns.squares[j];
                    sums[at] += factor * w * rows.sums[i] * columns.sums[j];
                }
            }
        }
        let elements = |shape: Chw| f64::from(shape.h) * f64::from(shape.w);
        let stride = (elements(map.input.shape) / elements(map.output.shape)).max(1.0);
        let common = sums.iter().map(|sum| sum * sum).collect();
        Self { independent, common, window: rows.reads * columns.reads, stride }
    }

    /// The gain on spectra; `operand` tells which channels have errors in common.
    fn gain(&self, operand: &[f64], map: f64) -> Gain {
        let inputs = operand.len() / 2;
        let outputs = self.common.len() / inputs;
        let mut gain = vec![0.0; 4 * self.common.len()];
        for o in 0..outputs {
            for i in 0..inputs {
                let (alone, all) = (self.independent[o * inputs + i], self.common[o * inputs + i]);
                // variance = independent + shared, density = independent + NEIGHBOURS * shared.
                let near =
                    if self.window <= NEIGHBOURS { all } else { alone.max(all * NEIGHBOURS / self.window) };
                let shared =
                    if operand[i + inputs] > operand[i] { (near - alone) / (NEIGHBOURS - 1.0) } else { 0.0 };
                let of_variance = [alone - shared, shared];
                let of_density = match map > 1.0 {
                    // Sampling folds all frequencies to zero.
                    true => [(1.0 - 1.0 / self.stride) * alone, all / self.stride],
                    false => of_variance,
                };
                for (row, [by_variance, by_density]) in [(o, of_variance), (o + outputs, of_density)] {
                    gain[row * 2 * inputs + i] = by_variance;
                    gain[row * 2 * inputs + inputs + i] = by_density;
                }
            }
        }
        Gain::Matrix(gain)
    }
}

/// Factors along one axis for each tap of the kernel, in the mean over the elements of the result.
struct Along {
    squares: Vec<f64>,
    sums: Vec<f64>,
    reads: f64,
}

impl Along {
    fn of(map: &ResolvedMap<'_>, axis: Axis, taps: usize) -> Self {
        let extent = match axis {
            Axis::C => map.output.shape.c,
            Axis::Y => map.output.shape.h,
            Axis::X => map.output.shape.w,
        };
        let share = 1.0 / f64::from(extent.max(1));
        let mut this = Self { squares: vec![0.0; taps], sums: vec![0.0; taps], reads: 0.0 };
        for pair in axis_pairs(map, axis) {
            let factor = f64::from(pair.factor);
            this.squares[pair.tap as usize] += factor * factor * share;
            this.sums[pair.tap as usize] += factor * share;
            this.reads += share;
        }
        this
    }
}
