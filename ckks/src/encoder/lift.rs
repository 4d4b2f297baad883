//! Exact centred lift of residues to floats.

use rayon::prelude::*;

use crate::arith::{Modulus, ShoupFactor};
use crate::context::Context;
use crate::ring::poly::{Coeff, RnsPoly};

/// Coefficients per parallel task.
const CHUNK: usize = 256;

/// Constants of Garner's algorithm for the first limbs of the Q chain.
struct Garner<'a> {
    moduli: &'a [Modulus],
    /// `inverses[i][j] = q_j^-1 mod q_i` for `j < i`.
    inverses: Vec<Vec<ShoupFactor>>,
}

impl Garner<'_> {
    /// The integer in `(-Q/2, Q/2)` with residue `residue(i)` modulo `q_i`, rounded once per digit from the top.
    ///
    /// Mixed-radix digits are taken centred: `x = d_0 + q_0*(d_1 + q_1*(d_2 + ..))` with `|d_i| < q_i/2` is unique for
    /// odd primes and spans exactly the centred range, so that small values have zero top digits.
    fn lift(&self, residue: impl Fn(usize) -> u64, digits: &mut Vec<i64>) -> f64 {
        digits.clear();
        for (i, modulus) in self.moduli.iter().enumerate() {
            let mut rest = residue(i);
            for (&digit, &inverse) in digits.iter().zip(&self.inverses[i]) {
                rest = modulus.mul_factor(modulus.sub(rest, modulus.reduce_signed(digit)), inverse);
            }
            digits.push(modulus.centred(rest));
        }
        let horner =
            |sum: f64, (digit, modulus): (&i64, &Modulus)| sum * modulus.value() as f64 + *digit as f64;
        digits.iter().zip(self.moduli).rev().fold(0.0, horner)
    }
}

/// Every `stride`-th coefficient of `poly`, which has Q limbs only, as the float nearest to its centred lift.
pub(super) fn lift(ctx: &Context, poly: &RnsPoly<Coeff>, stride: usize) -> Vec<f64> {
    let moduli = &ctx.q_moduli()[..poly.q_limbs()];
    let inverse =
        |modulus: &Modulus, other: &Modulus| modulus.factor(modulus.inv(modulus.reduce(other.value())));
    let row = |i: usize| moduli[..i].iter().map(|other| inverse(&moduli[i], other)).collect();
    let garner = Garner { moduli, inverses: (0..moduli.len()).map(row).collect() };
    let mut lifted = vec![0.0; poly.n() / stride];
    lifted.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let mut digits = Vec::with_capacity(moduli.len());
        for (offset, value) in values.iter_mut().enumerate() {
            let k = (chunk * CHUNK + offset) * stride;
            *value = garner.lift(|i| poly.limb(i)[k], &mut digits);
        }
    });
    lifted
}
