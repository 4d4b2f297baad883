//! Per-channel polynomials: the arithmetic behind the algebra pass and the fit.

use std::sync::Arc;

use peregrine_ir::ConstTensor;

/// `y[c] = sum_k a[c][k] x[c]^k`, with one row for all channels or one row each.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelPoly {
    rows: usize,
    width: usize,
    table: Arc<[f64]>,
}

impl ChannelPoly {
    /// A polynomial from rows of equal length (at least one row; rows shorter than two are extended).
    pub fn from_rows(rows: &[Vec<f64>]) -> Self {
        let used =
            rows.iter().map(|r| r.iter().rposition(|&a| a != 0.0).map_or(0, |k| k + 1)).max().unwrap_or(0);
        let width = used.max(2);
        let table = rows.iter().flat_map(|r| (0..width).map(|k| r.get(k).copied().unwrap_or(0.0))).collect();
        Self { rows: rows.len(), width, table }
    }
    /// `mul x + add`; both of one length.
    pub fn affine(mul: &[f64], add: &[f64]) -> Self {
        Self::from_rows(&mul.iter().zip(add).map(|(&m, &a)| vec![a, m]).collect::<Vec<_>>())
    }
    /// `x`.
    pub fn identity() -> Self {
        Self::affine(&[1.0], &[0.0])
    }
    /// A polynomial from its constant `[C or 1, degree + 1]`.
    pub fn from_const(tensor: &ConstTensor) -> Self {
        let width = tensor.shape.get(1).copied().unwrap_or(1).max(1);
        Self::from_rows(&tensor.to_f64().chunks(width).map(<[f64]>::to_vec).collect::<Vec<_>>())
    }
    /// Its constant, `[rows, degree + 1]`, f64.
    pub fn to_const(&self) -> ConstTensor {
        ConstTensor::f64(vec![self.rows, self.width], self.table.clone())
    }
    /// Degree of the table, at least 1; leading coefficients of single channels may be 0.
    pub fn degree(&self) -> usize {
        self.width - 1
    }
    /// Number of rows: 1 or the number of channels.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Coefficients of channel `c`, constant first.
    pub fn row(&self, c: usize) -> &[f64] {
        let row = if self.rows == 1 { 0 } else { c };
        &self.table[row * self.width..][..self.width]
    }
    /// Whether it is `x`.
    pub fn is_identity(&self) -> bool {
        self.width == 2 && self.table.chunks(2).all(|r| r == [0.0, 1.0])
    }
    /// Whether every constant coefficient is 0.
    pub fn keeps_zero(&self) -> bool {
        self.table.chunks(self.width).all(|r| r[0] == 0.0)
    }
    /// Coefficients of `x^k`, for `channels` channels.
    pub fn column(&self, k: usize, channels: usize) -> Vec<f64> {
        (0..channels).map(|c| self.row(c).get(k).copied().unwrap_or(0.0)).collect()
    }
    /// `self + other`.
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, |a, b| {
            (0..a.len().max(b.len()))
                .map(|k| a.get(k).copied().unwrap_or(0.0) + b.get(k).copied().unwrap_or(0.0))
                .collect()
        })
    }
    /// `self * other`.
    pub fn times(&self, other: &Self) -> Self {
        self.zip(other, product)
    }
    /// `self(inner(x))`.
    pub fn of(&self, inner: &Self) -> Self {
        self.zip(inner, |outer, inner| {
            outer.iter().rev().fold(vec![0.0], |acc, &a| {
                let mut next = product(&acc, inner);
                next[0] += a;
                next
            })
        })
    }
    fn zip(&self, other: &Self, f: impl Fn(&[f64], &[f64]) -> Vec<f64>) -> Self {
        let rows: Vec<_> = (0..self.rows.max(other.rows)).map(|c| f(self.row(c), other.row(c))).collect();
        Self::from_rows(&rows)
    }
}

fn product(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; a.len() + b.len() - 1];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            out[i + j] += x * y;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composition_evaluates_inner_first() {
        let outer = ChannelPoly::from_rows(&[vec![1.0, 0.0, 2.0]]);
        let inner = ChannelPoly::affine(&[3.0, 1.0], &[-1.0, 0.5]);
        let both = outer.of(&inner);
        assert_eq!(both.rows(), 2);
        for c in 0..2 {
            for x in [-1.5, 0.0, 2.0] {
                let eval = |p: &ChannelPoly, x: f64| p.row(c).iter().rev().fold(0.0, |s, a| s * x + a);
                assert!((eval(&both, x) - eval(&outer, eval(&inner, x))).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn trailing_zeros_do_not_raise_the_degree() {
        let x = ChannelPoly::identity();
        let square = x.times(&x);
        assert_eq!(square.degree(), 2);
        let gone = square.plus(&ChannelPoly::from_rows(&[vec![0.0, 0.0, -1.0]]));
        assert_eq!(gone.degree(), 1);
        assert!(x.is_identity() && x.keeps_zero() && !gone.is_identity());
    }
}
