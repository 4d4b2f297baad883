//! Normal form of per-channel polynomials: leading coefficient 1, operand and result in about unit range.
//!
//! p(x) = sum a_k x^k of degree d. With x = u t and p(x) = v Y, Y = t^d + sum lower_k t^k holds for v = a_d u^d and
//! lower_k = a_k u^k / v. |v| is set to the range of the result (and to |a_0| at least, so that constants stay below one), so u = (|v| / |a_d|)^(1/d): u goes into the map that makes x,
//! v (with the sign of a_d) into the maps that use Y. No plaintext product is left for the leading coefficient.

use peregrine_ir::ConstTensor;

/// A leading coefficient smaller than this share of the result's range, at the edge of the operand's range, is raised to it:
/// t keeps at least LEADING_FLOOR^(1/d) of unit range. What is added is a multiple of the Chebyshev polynomial T_d over the operand's
/// range, so that the model changes by at most this share of the result's range over 2^(d-1).
pub const LEADING_FLOOR: f64 = 1.0 / 4096.0;

/// One activation in monic form.
#[derive(Clone, Debug, PartialEq)]
pub struct Monic {
    /// Degree.
    pub degree: u32,
    /// u per channel: operand = u t.
    pub operand_unit: Vec<f64>,
    /// v per channel: result = v Y; may be negative.
    pub result_unit: Vec<f64>,
    /// `[C, degree]` lower coefficients.
    pub lower: Vec<f64>,
}

/// Brings coefficients `[C or 1, n]` over `channels` channels to monic form. `operand_range`, `result_range`: largest absolute
/// value per channel; zero counts as one. `None` if the polynomial has degree below 2 in all channels.
pub fn monic(
    coefficients: &ConstTensor,
    channels: usize,
    operand_range: &[f64],
    result_range: &[f64],
) -> Option<Monic> {
    let columns = *coefficients.shape.last()?;
    let rows = coefficients.len() / columns.max(1);
    let row = |c: usize| if rows == 1 { 0 } else { c };
    let a = |c: usize, k: usize| coefficients.at(row(c) * columns + k);
    let degree = (2..columns).rev().find(|&k| (0..rows).any(|c| coefficients.at(c * columns + k) != 0.0))?;
    let mut out = Monic {
        degree: degree as u32,
        operand_unit: Vec::with_capacity(channels),
        result_unit: Vec::with_capacity(channels),
        lower: Vec::with_capacity(channels * degree),
    };
    let chebyshev = monic_chebyshev(degree);
    for c in 0..channels {
        let (rx, ry) = (positive(operand_range[c]), positive(result_range[c].max(a(c, 0).abs())));
        let floor = LEADING_FLOOR * ry / rx.powi(degree as i32);
        let raw = a(c, degree);
        let leading = if raw.abs() >= floor { raw } else { floor.copysign(raw) };
        let u = (ry / leading.abs()).powf(1.0 / degree as f64);
        let v = ry.copysign(leading);
        out.operand_unit.push(u);
        out.result_unit.push(v);
        let raised = leading - raw;
        out.lower.extend((0..degree).map(|k| {
            let own = a(c, k) + raised * chebyshev[k] * rx.powi((degree - k) as i32);
            own * u.powi(k as i32) / v
        }));
    }
    Some(out)
}

/// Coefficients of `T_d / 2^(d-1)` below the leading one: the polynomial `x^d + ...` that is smallest on [-1, 1].
fn monic_chebyshev(degree: usize) -> Vec<f64> {
    let (mut before, mut last) = (vec![1.0], vec![0.0, 1.0]);
    for _ in 1..degree {
        let mut next: Vec<f64> = std::iter::once(0.0).chain(last.iter().map(|t| 2.0 * t)).collect();
        next.iter_mut().zip(&before).for_each(|(t, b)| *t -= b);
        before = std::mem::replace(&mut last, next);
    }
    let leading = last.pop().unwrap_or(1.0);
    last.into_iter().map(|t| t / leading).collect()
}

/// A range to divide by: zero, tiny and non-finite ranges count as one.
pub fn positive(range: f64) -> f64 {
    if range.is_finite() && range > 1e-12 { range } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monic_form_equals_the_polynomial() {
        let coefficients =
            ConstTensor::f64(vec![2, 5], vec![0.1, 0.5, 0.3, -0.05, -0.02, 0.2, 1.0, -0.4, 0.0, 0.7]);
        let m = monic(&coefficients, 2, &[3.0, 2.0], &[4.0, 9.0]).unwrap();
        for c in 0..2 {
            for x in [-1.5, 0.0, 0.7, 2.0] {
                let expected: f64 = (0..5).map(|k| coefficients.at(c * 5 + k) * f64::powi(x, k as i32)).sum();
                let t = x / m.operand_unit[c];
                let lower: f64 = (0..4).map(|k| m.lower[c * 4 + k] * t.powi(k as i32)).sum();
                assert!((m.result_unit[c] * (t.powi(4) + lower) - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_vanishing_leading_coefficient_is_raised_to_the_floor() {
        let coefficients = ConstTensor::f64(vec![2, 3], vec![0.0, 1.0, 0.5, 0.0, 1.0, 0.0]);
        let m = monic(&coefficients, 2, &[1.0, 2.0], &[1.0, 2.0]).unwrap();
        assert_eq!(m.degree, 2);
        let t = 1.0 / m.operand_unit[1];
        let y = m.result_unit[1] * (t * t + m.lower[3] * t + m.lower[2]);
        assert!((y - 1.0).abs() <= 2.0 * LEADING_FLOOR, "{y}");
    }

    #[test]
    fn a_raised_coefficient_changes_little_over_the_range() {
        for degree in [2, 3, 4, 8] {
            let mut row = vec![0.1, 1.0];
            row.resize(degree + 1, 0.0);
            // One channel has the degree, the other does not.
            let other = [&row[..degree], &[0.5]].concat();
            let coefficients = ConstTensor::f64(vec![2, degree + 1], [other, row].concat());
            let range = 1.5;
            let m = monic(&coefficients, 2, &[range; 2], &[1.6; 2]).unwrap();
            let bound = 1.6 * LEADING_FLOOR / 2f64.powi(degree as i32 - 1);
            for i in 0..=100 {
                let x = range * (f64::from(i) / 50.0 - 1.0);
                let t = x / m.operand_unit[1];
                let lower: f64 = (0..degree).map(|k| m.lower[degree + k] * t.powi(k as i32)).sum();
                let y = m.result_unit[1] * (t.powi(degree as i32) + lower);
                assert!((y - 0.1 - x).abs() <= bound * (1.0 + 1e-9), "degree {degree} at {x}: {y}");
            }
        }
    }

    #[test]
    fn linear_polynomials_have_no_monic_form() {
        let coefficients = ConstTensor::f64(vec![1, 3], vec![0.0, 1.0, 0.0]);
        assert!(monic(&coefficients, 1, &[1.0], &[1.0]).is_none());
    }
}
