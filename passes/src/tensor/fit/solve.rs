//! Symmetric positive definite systems.

use rayon::prelude::*;

/// Rows that are eliminated together, and those that one task takes: every finished row is read once for all of the latter.
const ROWS: usize = 64;
const ROWS_OF_TASK: usize = 8;

/// Solves `a x = b` in place for several right sides: `a` is `[n, n]` symmetric, row-major, of which the lower triangle is read, `b`
/// `[n, columns]`. Gives `false`, with unspecified contents, when `a` is not positive definite.
pub(super) fn solve_spd(a: &mut [f64], b: &mut [f64], n: usize) -> bool {
    let columns = b.len() / n.max(1);
    if !factor(a, n) {
        return false;
    }
    for i in 0..n {
        let (done, rest) = b.split_at_mut(i * columns);
        let row = &mut rest[..columns];
        for (k, other) in done.chunks(columns).enumerate() {
            subtract(row, other, a[i * n + k]);
        }
        row.iter_mut().for_each(|v| *v /= a[i * n + i]);
    }
    for i in (0..n).rev() {
        let (head, tail) = b.split_at_mut((i + 1) * columns);
        let row = &mut head[i * columns..];
        for (k, other) in tail.chunks(columns).enumerate() {
            subtract(row, other, a[(i + 1 + k) * n + i]);
        }
        row.iter_mut().for_each(|v| *v /= a[i * n + i]);
    }
    true
}

/// The Cholesky factor of `a` in its lower triangle, block of rows after block of rows; `false` when there is none.
fn factor(a: &mut [f64], n: usize) -> bool {
    for start in (0..n).step_by(ROWS) {
        let (done, rest) = a.split_at_mut(start * n);
        let block = &mut rest[..ROWS.min(n - start) * n];
        let done = &*done;
        block.par_chunks_mut(ROWS_OF_TASK * n).for_each(|rows| {
            for (j, row_j) in done.chunks(n).enumerate() {
                rows.chunks_mut(n).for_each(|row| eliminate(row, row_j, j));
            }
        });
        for (i, j) in (start..n).take(ROWS).enumerate() {
            let (done, rest) = block.split_at_mut((i + 1) * n);
            let row_j = &mut done[i * n..];
            let pivot = row_j[j] - dot(&row_j[..j], &row_j[..j]);
            if pivot.is_nan() || pivot <= 0.0 {
                return false;
            }
            row_j[j] = pivot.sqrt();
            rest.chunks_mut(n).for_each(|row| eliminate(row, row_j, j));
        }
    }
    true
}

/// Entry `j` of a row of the factor, from those before it and the finished row `j`.
fn eliminate(row: &mut [f64], row_j: &[f64], j: usize) {
    row[j] = (row[j] - dot(&row[..j], &row_j[..j])) / row_j[j];
}

fn subtract(row: &mut [f64], other: &[f64], factor: f64) {
    row.iter_mut().zip(other).for_each(|(v, o)| *v -= factor * o);
}

/// Dot product over eight lanes, so that it vectorises; the order of additions is fixed.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solution_satisfies_the_system() {
        for n in [1, 13, ROWS, 2 * ROWS + 5] {
            solves(n);
        }
    }

    fn solves(n: usize) {
        let base: Vec<f64> = (0..n * n).map(|i| ((i * i * 7919 + i) % 1009) as f64 / 500.0 - 1.0).collect();
        let a: Vec<f64> = (0..n * n)
            .map(|at| {
                dot(&base[at / n * n..][..n], &base[at % n * n..][..n])
                    + if at / n == at % n { 0.5 } else { 0.0 }
            })
            .collect();
        let b: Vec<f64> = (0..n * 2).map(|i| (i as f64).sin()).collect();
        let mut x = b.clone();
        assert!(solve_spd(&mut a.clone(), &mut x, n));
        for i in 0..n {
            for c in 0..2 {
                let got: f64 = (0..n).map(|k| a[i * n + k] * x[k * 2 + c]).sum();
                assert!((got - b[i * 2 + c]).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn indefinite_systems_are_refused() {
        assert!(!solve_spd(&mut [1.0, 2.0, 2.0, 1.0], &mut [1.0, 1.0], 2));
        assert!(!solve_spd(&mut [f64::NAN], &mut [1.0], 1));
    }
}
