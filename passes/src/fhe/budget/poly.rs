//! Errors of polynomials, by the recursion of `poly_eval`.
//!
//! Every rescale of a power or of a partial sum makes an error; what it does to the result is the derivative by that power or sum,
//! a polynomial in the operand, whose mean square follows from the operand's moments.

use peregrine_ckks::noise;
use peregrine_ckks::params::Params;
use peregrine_ir::fhe::{Fhe, MonicPoly};
use peregrine_ir::{EntityId, Level, Node, Scale};

use super::{Forward, Gain, Made, Source, cipher};
use crate::fhe::LowerError;

/// What a polynomial makes and passes on.
pub(super) fn step(
    forward: &mut Forward<'_, '_>,
    node: &Node<Fhe>,
    poly: MonicPoly,
) -> Result<(Made, Vec<Gain>), LowerError> {
    let (graph, params) = (forward.subject.graph, forward.subject.params);
    let layout = &graph.tables.layouts[node.ty.layout];
    let operand = cipher(&graph.nodes[node.args[0]])?;
    let frame = Frame::of(params, operand.level, &operand.scale, poly, layout.period.get() as usize);
    let (degree, channels) = (poly.degree as usize, layout.shape.c as usize);
    let lower = graph.tables.consts[poly.lower].to_f64();
    let used: Vec<bool> = (0..degree).map(|k| lower.chunks(degree).any(|row| row[k] != 0.0)).collect();
    let ((moments, first), unit) = (forward.moments(node.args[0].index()), forward.unit(node.args[0]));
    let sources = [Source::Rescale, Source::Rounding, Source::KeySwitch];
    let mut made = Made(sources.iter().map(|&source| (source, vec![0.0; channels])).collect());
    let mut gain = Vec::with_capacity(channels);
    for c in 0..channels {
        let row = &lower[(c * degree) % lower.len()..][..degree];
        let moments = moments.in_unit(first + c, unit[c]);
        let trace = Trace::of(&frame, row, &used);
        for (source, rms, slope) in &trace.made {
            let variance = rms.powi(2) * mean_square(slope, &moments);
            made.0.iter_mut().filter(|(s, _)| s == source).for_each(|(_, v)| v[c] += variance);
        }
        let slope = &trace.slopes[0];
        gain.push([mean_square(slope, &moments), mean(slope, &moments).powi(2)]);
    }
    Ok((made, vec![Gain::Channels(gain)]))
}

/// Mean of the square of a polynomial over a distribution of these moments. Moments that are not known count as those of a value at
/// the edge of its range.
fn mean_square(polynomial: &[f64], moments: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (i, a) in polynomial.iter().enumerate() {
        for (j, b) in polynomial.iter().enumerate() {
            sum += a * b * moments.get(i + j).copied().unwrap_or(0.0);
        }
    }
    sum.max(0.0)
}

/// Mean of a polynomial.
fn mean(polynomial: &[f64], moments: &[f64]) -> f64 {
    polynomial.iter().zip(moments).map(|(a, moment)| a * moment).sum()
}

/// What all channels of a polynomial share.
struct Frame<'p> {
    params: &'p Params,
    level: Level,
    /// log2 of the scale of x, x^2, x^4, ...
    scales: Vec<f64>,
    period: usize,
}

impl<'p> Frame<'p> {
    fn of(params: &'p Params, level: Level, scale: &Scale, poly: MonicPoly, period: usize) -> Self {
        let mut scales = vec![scale.log2(params)];
        for j in 0..poly.levels() {
            let prime = Scale::prime(level.0.saturating_sub(j)).log2(params);
            scales.push(2.0 * scales[j as usize] - prime);
        }
        Self { params, level, scales, period }
    }

    fn level_of(&self, power: usize) -> Level {
        Level(self.level.0.saturating_sub(power as u32))
    }
}

/// A coefficient as the evaluation sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Coefficient {
    /// Zero in all channels.
    Absent,
    /// The one at the top.
    Leading,
    /// A number.
    Number(f64),
}

impl Coefficient {
    fn number(self) -> f64 {
        match self {
            Self::Absent => 0.0,
            Self::Leading => 1.0,
            Self::Number(x) => x,
        }
    }
}

/// The errors of one channel and the derivatives of the result by each power.
struct Trace<'f, 'p> {
    frame: &'f Frame<'p>,
    made: Vec<(Source, f64, Vec<f64>)>,
    slopes: Vec<Vec<f64>>,
}

impl<'f, 'p> Trace<'f, 'p> {
    fn of(frame: &'f Frame<'p>, lower: &[f64], used: &[bool]) -> Self {
        let powers = frame.scales.len();
        let mut this = Self { frame, made: Vec::new(), slopes: vec![Vec::new(); powers] };
        let coefficients = lower.iter().zip(used).map(|(&a, &used)| match used {
            true => Coefficient::Number(a),
            false => Coefficient::Absent,
        });
        let all: Vec<Coefficient> = coefficients.chain([Coefficient::Leading]).collect();
        let (level, scale) = (frame.level_of(powers - 1), 2.0 * frame.scales[powers - 1]);
        this.sum(&all, level, scale, &[1.0]);
        for j in (1..powers).rev() {
            let slope = this.slopes[j].clone();
            this.rescaled(frame.scales[j], slope.clone());
            let below = times(&slope, &twice(&power(j - 1)));
            add(&mut this.slopes[j - 1], &below);
        }
        let switched = noise::key_switch_rms(frame.params, level) / scale.exp2();
        this.made.push((Source::KeySwitch, switched, vec![1.0]));
        this
    }

    fn rescaled(&mut self, scale: f64, slope: Vec<f64>) {
        self.made.push((Source::Rescale, noise::rescale_rms(self.frame.params.n()) / scale.exp2(), slope));
    }

    fn rounded(&mut self, scale: f64, slope: Vec<f64>) {
        let rms = noise::plaintext_rounding_rms(2 * self.frame.period) / scale.exp2();
        self.made.push((Source::Rounding, rms, slope));
    }

    /// The polynomial `p` at this level and scale, whose result is multiplied by `outer`.
    fn sum(&mut self, p: &[Coefficient], level: Level, scale: f64, outer: &[f64]) {
        let Some(degree) = p.iter().rposition(|c| *c != Coefficient::Absent) else { return };
        if degree <= 1 {
            if let Some(linear) = p.get(1).filter(|c| **c != Coefficient::Absent) {
                add(&mut self.slopes[0], &times(outer, &[linear.number()]));
                self.rounded(scale - self.frame.scales[0], times(outer, &power(0)));
            }
            return;
        }
        let j = (degree.ilog2() as usize).min(self.frame.scales.len() - 1);
        let width = 1 << j;
        let leading = p[degree] == Coefficient::Leading;
        if leading && degree == 2 * width {
            self.product(&p[width..degree], j, level, Factor::Monic, outer);
        } else if leading && degree == width && j > 0 && self.is_product(j, level, scale) {
            let slope = times(outer, &twice(&power(j - 1)));
            add(&mut self.slopes[j - 1], &slope);
        } else {
            let at = scale - self.frame.scales[j];
            self.product(&p[width..=degree], j, level, Factor::At(at), outer);
        }
        self.sum(&p[..width], level, scale, outer);
    }

    fn is_product(&self, j: usize, level: Level, scale: f64) -> bool {
        self.frame.level_of(j - 1) == level && (scale - 2.0 * self.frame.scales[j - 1]).abs() < 1e-9
    }

    /// `X_j (X_j + q)` or `X_j q`.
    fn product(&mut self, q: &[Coefficient], j: usize, level: Level, factor: Factor, outer: &[f64]) {
        let mut other: Vec<f64> = q.iter().map(|c| c.number()).collect();
        let scale = match factor {
            Factor::Monic => {
                add(&mut other, &twice(&power(j)));
                self.frame.scales[j]
            }
            Factor::At(scale) => scale,
        };
        add(&mut self.slopes[j], &times(outer, &other));
        let inner = times(outer, &power(j));
        let only_constant = q[1..].iter().all(|c| *c == Coefficient::Absent);
        match factor {
            Factor::Monic if only_constant => {}
            Factor::At(scale) if only_constant => self.rounded(scale, inner),
            Factor::Monic | Factor::At(_) => self.rescaled_sum(q, level, scale, &inner),
        }
    }

    /// `q` without its constant, one level above, rescaled.
    fn rescaled_sum(&mut self, q: &[Coefficient], level: Level, scale: f64, outer: &[f64]) {
        let mut without = q.to_vec();
        without[0] = Coefficient::Absent;
        let above = Level(level.0 + 1);
        let prime = Scale::prime(above.0).log2(self.frame.params);
        self.sum(&without, above, scale + prime, outer);
        self.rescaled(scale, outer.to_vec());
    }
}

/// The other factor of a product.
#[derive(Clone, Copy, Debug)]
enum Factor {
    /// The power plus a polynomial.
    Monic,
    /// A polynomial at this scale (log2).
    At(f64),
}

/// x^(2^j).
fn power(j: usize) -> Vec<f64> {
    let mut x = vec![0.0; 1 << j];
    x.push(1.0);
    x
}

fn twice(a: &[f64]) -> Vec<f64> {
    a.iter().map(|x| 2.0 * x).collect()
}

fn times(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; (a.len() + b.len()).saturating_sub(1)];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            product[i + j] += x * y;
        }
    }
    product
}

fn add(a: &mut Vec<f64>, b: &[f64]) {
    a.resize(a.len().max(b.len()), 0.0);
    a.iter_mut().zip(b).for_each(|(x, y)| *x += y);
}

#[cfg(test)]
mod tests {
    use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
    use peregrine_ir::ConstId;

    use super::*;

    #[test]
    fn the_derivative_by_the_operand_is_that_of_the_polynomial() {
        let literal = ParamsLiteral {
            log_n: 13,
            q: [38, 40, 28, 28, 28].map(PrimeSpec::Bits).to_vec(),
            p: vec![PrimeSpec::Bits(40)],
        };
        let params = literal.check().unwrap();
        let lower = [0.3, -0.5, 0.25, 0.75, -0.1, 0.6, 0.2, -0.9];
        for degree in 2..=8usize {
            for zero in [None, Some(1), Some(2), Some(degree - 1)] {
                let used: Vec<bool> = (0..degree).map(|k| Some(k) != zero).collect();
                let row: Vec<f64> = (0..degree).map(|k| if used[k] { lower[k] } else { 0.0 }).collect();
                let poly = MonicPoly { degree: degree as u32, lower: ConstId(0) };
                let frame = Frame::of(&params, Level(4), &Scale::pow2(28), poly, 64);
                let trace = Trace::of(&frame, &row, &used);
                let at = |p: &[f64], x: f64| p.iter().rev().fold(0.0, |sum, a| sum * x + a);
                for x in [-1.2, -0.3, 0.0, 0.8] {
                    let expected: f64 =
                        (1..degree).map(|k| k as f64 * row[k] * f64::powi(x, k as i32 - 1)).sum::<f64>()
                            + degree as f64 * x.powi(degree as i32 - 1);
                    let found = at(&trace.slopes[0], x);
                    assert!((found - expected).abs() < 1e-9, "degree {degree} at {x}: {found}, {expected}");
                }
            }
        }
    }

    #[test]
    fn mean_squares_come_from_moments() {
        // x is 1 or -1: (a + b x)^2 is a^2 + b^2 in the mean.
        assert_eq!(mean_square(&[3.0, 2.0], &[1.0, 0.0, 1.0]), 13.0);
    }
}
