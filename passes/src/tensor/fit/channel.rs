//! Weighted least squares of one channel's polynomial, in the Chebyshev basis.

use super::FitOptions;
use super::solve::solve_spd;

/// Points of the uniform part of the weight.
const UNIFORM_POINTS: usize = 128;
/// Points on which the largest value of a polynomial is looked up.
const SCAN_POINTS: usize = 401;
/// Rounds of the leading-coefficient floor; the polynomial's largest value changes a little in each.
const FLOOR_ROUNDS: usize = 8;
/// Channels that hardly move are fitted on at least this share of the widest channel's range, and their leading
/// coefficient is judged against this share of their range: dead channels stay well scaled.
const LEAST_SHARE: f64 = 1e-3;

/// Pre-activations `x` and wanted activations `y` of one channel of a batch.
pub(super) struct ChannelSamples<'a> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a [f32],
    pub(super) channel: usize,
    pub(super) channels: usize,
    pub(super) map: usize,
}

impl ChannelSamples<'_> {
    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        let of_channel = |data: &'_ [f32]| {
            let stride = self.channels * self.map;
            (0..data.len() / stride).map(move |image| image * stride + self.channel * self.map)
        };
        of_channel(self.x).flat_map(move |at| {
            let (x, y) = (&self.x[at..at + self.map], &self.y[at..at + self.map]);
            x.iter().zip(y).map(|(&x, &y)| (f64::from(x), f64::from(y)))
        })
    }
}

/// A fitted channel.
pub(super) struct ChannelFit {
    /// Coefficients of powers of the pre-activation, constant first.
    pub(super) coefficients: Vec<f64>,
    /// Range with margin.
    pub(super) allowed: [f64; 2],
    /// Sum of the squared errors on the samples.
    pub(super) error: f64,
    /// Sum of the squared wanted values.
    pub(super) power: f64,
    /// Whether the leading coefficient was raised.
    pub(super) floored: bool,
}

/// Normal equations `gram a = right`.
struct Normal {
    gram: Vec<f64>,
    right: Vec<f64>,
    size: usize,
}

impl Normal {
    fn new(size: usize) -> Self {
        Self { gram: vec![0.0; size * size], right: vec![0.0; size], size }
    }
    fn add(&mut self, basis: &[f64], y: f64, weight: f64) {
        for (i, &b) in basis.iter().enumerate() {
            let row = &mut self.gram[i * self.size..][..self.size];
            row.iter_mut().zip(basis).for_each(|(g, &c)| *g += weight * b * c);
            self.right[i] += weight * b * y;
        }
    }
    fn add_ridge(&mut self, relative: f64) {
        let trace: f64 = (0..self.size).map(|i| self.gram[i * (self.size + 1)]).sum();
        let ridge = relative * trace / self.size as f64;
        (0..self.size).for_each(|i| self.gram[i * (self.size + 1)] += ridge);
    }
    /// The solution with the last unknown fixed, or free.
    fn solve(&self, last: Option<f64>) -> Option<Vec<f64>> {
        let n = if last.is_some() { self.size - 1 } else { self.size };
        let mut gram: Vec<f64> =
            (0..n).flat_map(|i| self.gram[i * self.size..][..n].iter().copied()).collect();
        let moved = last.unwrap_or(0.0);
        let mut a: Vec<f64> =
            (0..n).map(|i| self.right[i] - moved * self.gram[i * self.size + self.size - 1]).collect();
        let solved = solve_spd(&mut gram, &mut a, n);
        a.extend(last);
        (solved && a.iter().all(|x| x.is_finite())).then_some(a)
    }
}

/// Fits the polynomial of a channel whose pre-activations span `range`; `widest` is the largest absolute pre-activation of
/// all channels, `target` the activation itself.
pub(super) fn fit(
    samples: &ChannelSamples<'_>,
    target: &dyn Fn(f64) -> f64,
    range: [f64; 2],
    widest: f64,
    degree: usize,
    options: &FitOptions,
) -> ChannelFit {
    let (middle, half) = (0.5 * (range[0] + range[1]), 0.5 * options.margin * (range[1] - range[0]));
    let allowed = [middle - half, middle + half];
    let least = if widest > 0.0 { LEAST_SHARE * widest } else { 1.0 };
    let radius = allowed[0].abs().max(allowed[1].abs()).max(least);
    let normal = normal_equations(samples, target, allowed, radius, degree, options);
    // The ridge makes the system definite; a straight line stands in for the case that rounding still breaks it.
    let free = normal
        .solve(None)
        .unwrap_or_else(|| (0..=degree).map(|k| if k == 1 { radius } else { 0.0 }).collect());
    let (series, floored) = raise_leading(&normal, free, LEAST_SHARE * radius, options.leading_floor);
    let scaled = chebyshev_to_powers(&series);
    let coefficients: Vec<f64> = scaled.iter().enumerate().map(|(k, a)| a / radius.powi(k as i32)).collect();
    let (error, power) = samples.pairs().fold((0.0, 0.0), |(e, p), (x, y)| {
        let difference = horner(&coefficients, x) - y;
        (e + difference * difference, p + y * y)
    });
    ChannelFit { coefficients, allowed, error, power, floored }
}

fn normal_equations(
    samples: &ChannelSamples<'_>,
    target: &dyn Fn(f64) -> f64,
    allowed: [f64; 2],
    radius: f64,
    degree: usize,
    options: &FitOptions,
) -> Normal {
    let mut normal = Normal::new(degree + 1);
    let mut basis = vec![0.0; degree + 1];
    let count = samples.pairs().count().max(1) as f64;
    for (x, y) in samples.pairs() {
        chebyshev(x / radius, &mut basis);
        normal.add(&basis, y, 1.0 / count);
    }
    let weight = options.uniform_weight / UNIFORM_POINTS as f64;
    for i in 0..UNIFORM_POINTS {
        let x = allowed[0] + (allowed[1] - allowed[0]) * (i as f64 + 0.5) / UNIFORM_POINTS as f64;
        chebyshev(x / radius, &mut basis);
        normal.add(&basis, target(x), weight);
    }
    normal.add_ridge(options.ridge);
    normal
}

/// Fixes the leading coefficient at the floor where it is below, and fits the others anew.
fn raise_leading(normal: &Normal, free: Vec<f64>, least: f64, floor: f64) -> (Vec<f64>, bool) {
    let degree = free.len() - 1;
    let per_power = 2f64.powi(degree as i32 - 1);
    let mut series = free;
    let mut floored = false;
    for _ in 0..FLOOR_ROUNDS {
        let wanted = floor * largest(&series).max(least) / per_power;
        if series[degree].abs() >= wanted * (1.0 - 1e-9) {
            break;
        }
        let sign = if series[degree] < 0.0 { -1.0 } else { 1.0 };
        floored = true;
        match normal.solve(Some(sign * wanted)) {
            Some(solved) => series = solved,
            None => {
                series[degree] = sign * wanted;
                break;
            }
        }
    }
    (series, floored)
}

fn largest(series: &[f64]) -> f64 {
    let powers = chebyshev_to_powers(series);
    (0..SCAN_POINTS)
        .map(|i| horner(&powers, 2.0 * i as f64 / (SCAN_POINTS - 1) as f64 - 1.0).abs())
        .fold(0.0, f64::max)
}

fn horner(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |acc, a| acc * x + a)
}

/// T_0(t), T_1(t), ...
fn chebyshev(t: f64, out: &mut [f64]) {
    out[0] = 1.0;
    out[1] = t;
    for k in 2..out.len() {
        out[k] = 2.0 * t * out[k - 1] - out[k - 2];
    }
}

/// Coefficients of powers of a Chebyshev series.
fn chebyshev_to_powers(series: &[f64]) -> Vec<f64> {
    let n = series.len();
    let (mut before, mut now) = (vec![0.0; n], vec![0.0; n]);
    before[0] = 1.0;
    now[1] = 1.0;
    let mut powers: Vec<f64> = (0..n).map(|k| series[0] * before[k] + series[1] * now[k]).collect();
    for &a in &series[2..] {
        let next: Vec<f64> = (0..n).map(|k| if k > 0 { 2.0 * now[k - 1] } else { 0.0 } - before[k]).collect();
        powers.iter_mut().zip(&next).for_each(|(p, t)| *p += a * t);
        before = std::mem::replace(&mut now, next);
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit_on(x: &[f32], target: &dyn Fn(f64) -> f64, degree: usize) -> ChannelFit {
        let y: Vec<f32> = x.iter().map(|&x| target(f64::from(x)) as f32).collect();
        let samples = ChannelSamples { x, y: &y, channel: 0, channels: 1, map: x.len() };
        let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        fit(&samples, target, [f64::from(low), f64::from(high)], 4.0, degree, &FitOptions::default())
    }

    #[test]
    fn polynomials_are_found_again() {
        let x: Vec<f32> = (0..200).map(|i| i as f32 / 50.0 - 1.5).collect();
        let fitted = fit_on(&x, &|x| 0.5 - x + 0.25 * x * x * x, 3);
        for (got, want) in fitted.coefficients.iter().zip([0.5, -1.0, 0.0, 0.25]) {
            assert!((got - want).abs() < 1e-3, "{:?}", fitted.coefficients);
        }
        assert!(!fitted.floored && fitted.error < 1e-4 * fitted.power);
        assert!(fitted.allowed[0] < -1.5 && fitted.allowed[1] > 2.48);
    }

    #[test]
    fn relu_is_approached_as_the_degree_grows() {
        let x: Vec<f32> = (0..2000).map(|i| ((i * 37) % 2000) as f32 / 500.0 - 2.0).collect();
        let errors: Vec<f64> = [2, 4, 6, 8].map(|d| fit_on(&x, &|x| x.max(0.0), d).error).to_vec();
        assert!(errors.windows(2).all(|e| e[1] < e[0]), "{errors:?}");
        // The Legendre series of |x|/2: 2/3 - (2/4 + 2/5 (5/8)^2 + 2/9 (3/16)^2) is left of its squared norm after degree 4.
        let best = (0.5 * (2.0f64 / 3.0 - 0.5 - 0.15625 - 0.0078125)).sqrt();
        let rms = (errors[1] / 2000.0).sqrt();
        assert!((rms - best).abs() < 0.01 * best, "degree 4 on [-2, 2]: {rms}, best is {best}");
    }

    #[test]
    fn the_leading_coefficient_keeps_its_floor() {
        for target in [&|x: f64| x, &|_: f64| 0.0] as [&dyn Fn(f64) -> f64; 2] {
            let x: Vec<f32> = (0..100).map(|i| i as f32 / 25.0 - 2.0).collect();
            let fitted = fit_on(&x, target, 4);
            assert!(fitted.floored && fitted.coefficients[4].abs() > 1e-6);
        }
        let constant = fit_on(&[0.0; 50], &|x| x.max(0.0), 2);
        assert!(constant.coefficients.iter().all(|a| a.is_finite()) && constant.coefficients[2] > 0.0);
    }
}
