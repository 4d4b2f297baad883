//! The reference kernels: portable, one coefficient at a time. The vector kernels equal these bit for bit.

use super::{CombineTarget, KeyTerm, PlainTerm};
use crate::arith::{Modulus, ShoupFactor};
use crate::ring::automorphism::Automorphism;

pub(super) fn add_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = q.add(*a, b);
    }
}

pub(super) fn sub_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = q.sub(*a, b);
    }
}

pub(super) fn neg_assign(q: &Modulus, a: &mut [u64]) {
    for a in a {
        *a = q.neg(*a);
    }
}

pub(super) fn mul(q: &Modulus, out: &mut [u64], a: &[u64], b: &[u64]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = q.mul(a, b);
    }
}

pub(super) fn mul_assign(q: &Modulus, a: &mut [u64], b: &[u64]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = q.mul(*a, b);
    }
}

pub(super) fn mul_scalar_assign(q: &Modulus, a: &mut [u64], w: ShoupFactor) {
    for a in a {
        *a = q.mul_factor(*a, w);
    }
}

pub(super) fn sub_mul_scalar_assign(q: &Modulus, a: &mut [u64], b: &[u64], w: ShoupFactor) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = q.mul_factor(q.sub(*a, b), w);
    }
}

pub(super) fn mul_scalar_add_assign(q: &Modulus, out: &mut [u64], a: &[u64], w: ShoupFactor) {
    for (out, &a) in out.iter_mut().zip(a) {
        *out = q.add(*out, q.mul_factor(a, w));
    }
}

pub(super) fn dot_add(q: &Modulus, out: &mut [u64], terms: &[(&[u64], &[u64])]) {
    for (k, out) in out.iter_mut().enumerate() {
        let sum = terms.iter().fold(u128::from(*out), |sum, (x, y)| sum + product(x[k], y[k]));
        *out = q.reduce_wide(sum);
    }
}

pub(super) fn key_dot(
    q: &Modulus,
    out: [&mut [u64]; 2],
    terms: &[KeyTerm<'_>],
    permutation: &Automorphism,
    range: std::ops::Range<usize>,
) {
    let [out_b, out_a] = out;
    for k in range {
        let source = permutation.source(k);
        let (mut sum_b, mut sum_a) = (0u128, 0u128);
        for term in terms {
            sum_b += product(term.digit[source], term.b[k]);
            sum_a += product(term.digit[source], term.a[k]);
        }
        out_b[k] = q.reduce_wide(sum_b);
        out_a[k] = q.reduce_wide(sum_a);
    }
}

pub(super) fn plain_dot_add(
    q: &Modulus,
    out: [&mut [u64]; 2],
    terms: &[PlainTerm<'_>],
    range: std::ops::Range<usize>,
) {
    let [out_0, out_1] = out;
    let n = out_0.len();
    for k in range {
        let (mut sum_0, mut sum_1) = (u128::from(out_0[k]), u128::from(out_1[k]));
        for term in terms {
            let weight = term.weights[k / (n / term.weights.len())];
            sum_0 += product(term.x0[k], weight);
            sum_1 += product(term.x1[k], weight);
        }
        out_0[k] = q.reduce_wide(sum_0);
        out_1[k] = q.reduce_wide(sum_1);
    }
}

pub(super) fn combine(targets: &mut [CombineTarget<'_>], inputs: &[&[u64]]) {
    for target in targets {
        combine_one(target, inputs, 0);
    }
}

/// One target, from position `start` on.
pub(super) fn combine_one(target: &mut CombineTarget<'_>, inputs: &[&[u64]], start: usize) {
    for (k, out) in target.out.iter_mut().enumerate().skip(start) {
        let sum = inputs.iter().zip(target.constants).fold(0, |sum, (x, &c)| sum + product(x[k], c));
        *out = target.q.reduce_wide(sum);
    }
}

pub(super) fn quotients(out: &mut [u64], inputs: &[&[u64]], reciprocals: &[f64]) {
    for (k, out) in out.iter_mut().enumerate() {
        // Same order and same two roundings per term as the vector kernels.
        let sum = inputs.iter().zip(reciprocals).fold(0.5, |sum, (x, &r)| sum + x[k] as f64 * r);
        *out = sum as u64;
    }
}

pub(super) fn recenter(q: &Modulus, out: &mut [u64], x: &[u64], from: &Modulus) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = q.reduce_signed(from.centred(x));
    }
}

pub(super) fn from_i64(q: &Modulus, out: &mut [u64], x: &[i64]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = q.reduce_signed(x);
    }
}

pub(super) fn from_i32(q: &Modulus, out: &mut [u64], x: &[i32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = q.reduce_signed(i64::from(x));
    }
}

pub(super) fn permute(out: &mut [u64], x: &[u64], permutation: &Automorphism) {
    for (k, out) in out.iter_mut().enumerate() {
        *out = x[permutation.source(k)];
    }
}

pub(super) fn permute_add(q: &Modulus, out: &mut [u64], x: &[u64], permutation: &Automorphism) {
    for (k, out) in out.iter_mut().enumerate() {
        *out = q.add(*out, x[permutation.source(k)]);
    }
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

pub(super) fn sub_mirrored_times(q: &Modulus, a: &mut [u64], w: ShoupFactor) {
    sub_mirrored_times_from(q, a, w, 1);
}

/// The same for the words from `first > 0` to their mirror images.
pub(super) fn sub_mirrored_times_from(q: &Modulus, a: &mut [u64], w: ShoupFactor, first: usize) {
    for k in first..=a.len() / 2 {
        let mirror = a.len() - k;
        let (x, y) = (a[k], a[mirror]);
        (a[k], a[mirror]) = (q.sub(x, q.mul_factor(y, w)), q.sub(y, q.mul_factor(x, w)));
    }
}
