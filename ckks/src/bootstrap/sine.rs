//! The polynomials of EvalMod.
//!
//! A cosine of a fraction of the angle is approximated only where it is needed, within `2^-ratio` of the integers (the
//! observation of Han and Ki, eprint 2019/688, who interpolate there): weighted least squares in the Chebyshev basis on nodes in
//! every such interval, with a little weight in between, solved by Householder reflections.

use std::f64::consts::{PI, TAU};

/// A polynomial in the Chebyshev basis and how well it does.
#[derive(Debug, Clone)]
pub(super) struct SineFit {
    /// Of `k * cos(2*pi*(range*t - 1/4)/2^r + phase)` in `t` in `[-1, 1]`, `k = (2*pi)^(-1/2^r)`.
    pub(super) coefficients: Vec<f64>,
    /// Largest error of `sin(2*pi*x)/(2*pi)` after the double angles over all intervals.
    pub(super) error: f64,
}

/// Nodes in each interval around an integer.
const NODES: u32 = 5;

/// Weight of a point between the intervals, where nothing but boundedness matters.
const BETWEEN: f64 = 1e-6;

/// Fits degree `degree` for integers up to `range` and `double_angles` doublings.
pub(super) fn fit(degree: u32, range: u32, double_angles: u32, ratio_bits: u32) -> SineFit {
    let fraction = 2f64.powi(double_angles as i32);
    let factor = TAU.powf(-1.0 / fraction);
    let width = 2f64.powi(-(ratio_bits as i32));
    // Any multiple of 2*pi/2^r gives the same result. Doubling an angle magnifies noise most where the cosine is near 1 or -1:
    // a quarter turn keeps the most frequent integer, zero, away from there.
    let phase = if double_angles >= 2 { TAU / 4.0 } else { 0.0 };
    let (reach, limit) = (i64::from(range), f64::from(range));
    let nodes = (0..NODES).map(|k| (PI * (f64::from(k) + 0.5) / f64::from(NODES)).cos() * width);
    let nodes: Vec<f64> = nodes.collect();
    let near = (-reach..=reach).flat_map(|i| nodes.iter().map(move |node| i as f64 + node));
    let near = near.filter(|x| x.abs() <= limit).map(|x| (x, 1.0));
    let between = (-25 * reach..=25 * reach).map(|k| (k as f64 / 25.0, BETWEEN));
    let rows = near.chain(between).map(|(x, weight)| {
        let mut row = chebyshev(x / limit, degree as usize);
        row.push(factor * (TAU * (x - 0.25) / fraction + phase).cos());
        row.iter_mut().for_each(|entry| *entry *= weight);
        row
    });
    let coefficients = least_squares(rows.collect());
    let mut error = 0.0f64;
    for i in -reach..=reach {
        for x in (-8..=8).map(|k| i as f64 + f64::from(k) / 8.0 * width).filter(|x| x.abs() <= limit) {
            let found = double(evaluate(&coefficients, x / limit), factor, double_angles);
            // The sine of x, from the distance to the integer.
            error = error.max((found - (TAU * (x - i as f64)).sin() / TAU).abs());
        }
    }
    SineFit { coefficients, error }
}

/// The double angles in the clear.
fn double(start: f64, factor: f64, double_angles: u32) -> f64 {
    let step = |(y, k): (f64, f64), _| (2.0 * y * y - k * k, k * k);
    (0..double_angles).fold((start, factor), step).0
}

/// `T_0(t), .., T_degree(t)`.
fn chebyshev(t: f64, degree: usize) -> Vec<f64> {
    let mut values = vec![1.0, t];
    for k in 2..=degree {
        values.push(2.0 * t * values[k - 1] - values[k - 2]);
    }
    values.truncate(degree + 1);
    values
}

fn evaluate(coefficients: &[f64], t: f64) -> f64 {
    chebyshev(t, coefficients.len() - 1).iter().zip(coefficients).map(|(basis, c)| basis * c).sum()
}

/// Minimises the norm of `A x - b`; each row holds a row of `A` and then the entry of `b`. Householder QR.
fn least_squares(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let columns = rows[0].len() - 1;
    for k in 0..columns {
        let norm = rows[k..].iter().map(|row| row[k] * row[k]).sum::<f64>().sqrt();
        let alpha = -norm.copysign(rows[k][k]);
        let mut reflector: Vec<f64> = rows[k..].iter().map(|row| row[k]).collect();
        reflector[0] -= alpha;
        let square: f64 = reflector.iter().map(|x| x * x).sum();
        for column in k..=columns {
            let dot: f64 = rows[k..].iter().zip(&reflector).map(|(row, v)| row[column] * v).sum();
            let share = 2.0 * dot / square;
            rows[k..].iter_mut().zip(&reflector).for_each(|(row, v)| row[column] -= share * v);
        }
    }
    let mut solution = vec![0.0; columns];
    for k in (0..columns).rev() {
        let known: f64 = (k + 1..columns).map(|j| rows[k][j] * solution[j]).sum();
        solution[k] = (rows[k][columns] - known) / rows[k][k];
    }
    solution
}

/// Coefficients of `s`, `s^2`, .. in the series of `asin(2*pi*s)/(2*pi)` up to `degree`, the constant first.
pub(super) fn arcsine(degree: u32) -> Vec<f64> {
    let mut coefficients = vec![0.0; degree as usize + 1];
    // asin(z) = sum_k binomial(2k, k)/4^k * z^(2k+1)/(2k+1)
    let mut central = 1.0;
    for k in 0..=(degree as usize - 1) / 2 {
        let power = 2 * k + 1;
        coefficients[power] = central / power as f64 * TAU.powi(power as i32 - 1);
        central *= (2 * k + 1) as f64 / (2 * k + 2) as f64;
    }
    coefficients
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sine_is_right_near_every_integer() {
        for (degree, double_angles, ratio, bits) in
            [(31, 3, 11, 34.0), (31, 3, 10, 32.0), (39, 3, 11, 40.0), (63, 2, 11, 42.0), (63, 3, 6, 38.0)]
        {
            let fit = fit(degree, 16, double_angles, ratio);
            assert_eq!(fit.coefficients.len(), degree as usize + 1);
            let found = -fit.error.log2();
            assert!(found >= bits, "degree {degree}, {double_angles} doublings: {found} bits");
            let sum: f64 = fit.coefficients.iter().map(|c| c.abs()).sum();
            assert!(sum < 4.0, "the coefficients add up to {sum}");
        }
    }

    #[test]
    fn the_fit_beats_interpolation_at_chebyshev_nodes() {
        let (degree, range, doublings) = (31, 16.0, 3);
        let factor = TAU.powf(-1.0 / 8.0);
        let count = f64::from(degree + 1);
        let node = |j: u32| (PI * (f64::from(j) + 0.5) / count).cos();
        let value = |t: f64| factor * (TAU * (range * t - 0.25) / 8.0).cos();
        let coefficient = |k: u32| {
            let basis = |j: u32| (PI * f64::from(k) * (f64::from(j) + 0.5) / count).cos();
            let sum: f64 = (0..=degree).map(|j| value(node(j)) * basis(j)).sum();
            sum * if k == 0 { 1.0 } else { 2.0 } / count
        };
        let plain: Vec<f64> = (0..=degree).map(coefficient).collect();
        let error = |c: &[f64]| {
            (-16..=16)
                .map(|i| double(evaluate(c, f64::from(i) / range), factor, doublings).abs())
                .fold(0.0, f64::max)
        };
        let fitted = fit(degree, 16, doublings, 11).coefficients;
        assert!(error(&fitted) < error(&plain) / 4.0);
    }

    #[test]
    fn the_arcsine_undoes_the_sine() {
        for (degree, ratio, bits) in [(1, 11, 29.0), (3, 8, 33.0), (5, 6, 30.0), (7, 6, 36.0)] {
            let series = arcsine(degree);
            let x = 2f64.powi(-ratio);
            let s = (TAU * x).sin() / TAU;
            let found: f64 = series.iter().rev().fold(0.0, |sum, c| sum * s + c);
            assert!(-(found - x).abs().log2() >= bits, "degree {degree}: {}", (found - x).abs().log2());
        }
    }
}
