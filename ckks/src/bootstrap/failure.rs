//! The probability that a bootstrap goes wrong.
//!
//! Under a ternary secret of weight `h` each coefficient of `c0 + c1*s` over `q_0` is the sum of `h + 1` independent uniform
//! variables on `[-1/2, 1/2]` (up to signs, which change nothing). EvalMod is right if it is at most `K` in magnitude. The trace
//! to a subring keeps some of the coefficients and drops the others, so that only their number matters there.

/// `log2` of the union bound on the probability that one of `coefficients` sums of `weight + 1` uniform variables exceeds
/// `range` in magnitude; minus infinity if none can. (Bossuat et al., eprint 2022/024, state 2^-138.7 for weight 32, range 16
/// and 2^16 coefficients.)
pub(super) fn failure_log2(weight: u32, range: u32, coefficients: u32) -> f64 {
    let terms = f64::from(weight) + 1.0;
    let excess = terms / 2.0 - f64::from(range);
    if excess <= 0.0 {
        return f64::NEG_INFINITY;
    }
    // The outer corner of the cube is part of a simplex of volume excess^m/m!, and there are two of them.
    let log2_factorial: f64 = (1..=u64::from(weight) + 1).map(|k| (k as f64).log2()).sum();
    terms * excess.log2() - log2_factorial + 1.0 + f64::from(coefficients).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_case() {
        assert!((failure_log2(32, 16, 1 << 16) + 138.7).abs() < 0.1);
        assert_eq!(failure_log2(32, 17, 1 << 16), f64::NEG_INFINITY);
        assert!(failure_log2(32, 15, 1 << 16) > -100.0);
    }

    #[test]
    fn small_weights_by_counting() {
        // Sums of weight + 1 variables on a grid of cell midpoints.
        for (weight, range) in [(1u32, 0u32), (2, 1), (3, 1)] {
            let (cells, m) = (60usize, weight + 1);
            let points = cells.pow(m);
            let sum = |mut index: usize| -> f64 {
                let mut sum = 0.0;
                for _ in 0..m {
                    sum += (index % cells) as f64 / cells as f64 + 0.5 / cells as f64 - 0.5;
                    index /= cells;
                }
                sum
            };
            let outside = (0..points).filter(|&index| sum(index).abs() > f64::from(range)).count();
            let counted = (outside as f64 / points as f64).log2();
            let bound = failure_log2(weight, range, 1);
            assert!(bound > counted - 0.1 && bound < counted + 1.1, "{weight}: {bound} against {counted}");
        }
    }
}
