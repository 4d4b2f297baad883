//! Base conversion between residue number systems, exact up to the choice at the very edge of the range.
//!
//! For `x` modulo `F = prod f_i` let `y_i = x * (F/f_i)^-1 mod f_i`. Then `sum y_i/f_i - v` with `v` the nearest
//! integer is the centred `x/F`, so `sum y_i * (F/f_i) - v*F` is the representative of `x` in `[-F/2, F/2]`, which is
//! reduced modulo each target prime with one lazily reduced sum of products. `v` comes from an `f64` sum (Halevi,
//! Polyakov, Shoup, eprint 2018/117, §2.2): with at most 128 inputs it is wrong only if `|x/F|` is within 2^-43 of
//! 1/2, where the result is the other representative, of magnitude below `F * (1/2 + 2^-43)`. Both ModUp and
//! ModDown of hybrid key switching hence see a congruent value of nearest-integer size.

use crate::arith::{Modulus, ShoupFactor};
use crate::kernels::{CombineTarget, Kernels};
use smallvec::SmallVec;

/// Converts from one product of primes to single primes of a fixed list.
#[derive(Debug, Clone)]
pub struct BaseConverter {
    from: Box<[Modulus]>,
    /// `(F/f_i)^-1 mod f_i`.
    scales: Box<[ShoupFactor]>,
    /// The same over `n`: absorbs the factor an unscaled inverse transform leaves.
    scales_over_n: Box<[ShoupFactor]>,
    reciprocals: Box<[f64]>,
    targets: Box<[Target]>,
}

#[derive(Debug, Clone)]
struct Target {
    modulus: Modulus,
    /// `F/f_i mod t` for each input, then `-F mod t` for the quotient.
    constants: Box<[u64]>,
}

impl BaseConverter {
    /// Constants for `from -> to` and ring degree `n`. The primes of `from` are distinct, at most 128.
    pub fn new(from: &[Modulus], to: &[Modulus], n: usize) -> Self {
        let scale = |f: &Modulus, extra: u64| {
            let cofactor = cofactor(from, f.value(), f);
            f.factor(f.inv(f.mul(cofactor, f.reduce(extra))))
        };
        let target = |t: &Modulus| {
            let mut constants: Vec<u64> = from.iter().map(|f| cofactor(from, f.value(), t)).collect();
            constants.push(t.neg(cofactor(from, 0, t)));
            Target { modulus: *t, constants: constants.into() }
        };
        Self {
            from: from.into(),
            scales: from.iter().map(|f| scale(f, 1)).collect(),
            scales_over_n: from.iter().map(|f| scale(f, n as u64)).collect(),
            reciprocals: from.iter().map(Modulus::reciprocal).collect(),
            targets: to.iter().map(target).collect(),
        }
    }

    /// The primes converted from.
    pub fn from(&self) -> &[Modulus] {
        &self.from
    }

    /// Number of target primes.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// First step for input limb `i`, in place: `y_i` from coefficient residues.
    pub fn scale(&self, kernels: Kernels, i: usize, limb: &mut [u64]) {
        kernels.mul_scalar_assign(&self.from[i], limb, self.scales[i]);
    }

    /// The factor of the first step for input limb `i` over `n`, which an inverse transform can apply (see
    /// [`crate::ntt::NttTable::inverse_times`]).
    pub fn scale_over_n(&self, i: usize) -> ShoupFactor {
        self.scales_over_n[i]
    }

    /// Second step: the quotients `v` of all coefficients, from the limbs `y_i`.
    pub fn quotients(&self, kernels: Kernels, scaled: &[&[u64]], out: &mut [u64]) {
        kernels.quotients(out, scaled, &self.reciprocals);
    }

    /// Third step: residues modulo the prime `t` for each `(t, out)`. `scaled` holds the limbs `y_i` and then the
    /// quotients. Several targets at once read them once.
    pub fn convert<'a>(
        &self,
        kernels: Kernels,
        scaled: &[&[u64]],
        targets: impl IntoIterator<Item = (usize, &'a mut [u64])>,
    ) {
        let mut outputs: SmallVec<[CombineTarget<'_>; 8]> = targets
            .into_iter()
            .map(|(t, out)| {
                let Target { modulus, constants } = &self.targets[t];
                CombineTarget { q: modulus, constants, out }
            })
            .collect();
        kernels.combine(&mut outputs, scaled);
    }
}

/// Product of `from` without the prime `except`, modulo `t`.
fn cofactor(from: &[Modulus], except: u64, t: &Modulus) -> u64 {
    let others = from.iter().filter(|f| f.value() != except);
    others.fold(1, |product, f| t.mul(product, t.reduce(f.value())))
}

/// The converters hybrid key switching needs at every level.
#[derive(Debug)]
pub struct ConverterSet {
    alpha: usize,
    /// By index of the digit's top limb: from the limbs `floor(top/alpha)*alpha ..= top` to all of Q then P.
    digits: Box<[BaseConverter]>,
    special: BaseConverter,
    /// `P^-1 mod q_i`.
    inverse_p: Box<[ShoupFactor]>,
    /// `P mod q_i`.
    p_mod_q: Box<[ShoupFactor]>,
    /// By index of the top limb: from `P` and that limb to all below it.
    merged: Box<[BaseConverter]>,
    /// By index of the top limb `l`: `(P q_l)^-1 mod q_i` for `i < l`.
    inverse_merged: Box<[Box<[ShoupFactor]>]>,
}

impl ConverterSet {
    /// All converters for the chain `q`, special primes `p` (`alpha = p.len()` limbs a digit) and ring degree `n`.
    pub fn new(q: &[Modulus], p: &[Modulus], n: usize) -> Self {
        let all: Vec<Modulus> = q.iter().chain(p).copied().collect();
        let alpha = p.len();
        let digit = |top: usize| {
            let start = top - top % alpha.max(1);
            BaseConverter::new(&q[start..=top], &all, n)
        };
        let product = |m: &Modulus| cofactor(p, 0, m);
        let merged = |top: usize| {
            let from: Vec<Modulus> = p.iter().chain([&q[top]]).copied().collect();
            BaseConverter::new(&from, &q[..top], n)
        };
        let inverse_merged = |top: usize| -> Box<[ShoupFactor]> {
            let inverse = |m: &Modulus| m.factor(m.inv(m.mul(product(m), m.reduce(q[top].value()))));
            q[..top].iter().map(inverse).collect()
        };
        Self {
            alpha,
            merged: (0..q.len()).map(merged).collect(),
            inverse_merged: (0..q.len()).map(inverse_merged).collect(),
            digits: (0..q.len()).map(digit).collect(),
            special: BaseConverter::new(p, q, n),
            inverse_p: q.iter().map(|m| m.factor(m.inv(product(m)))).collect(),
            p_mod_q: q.iter().map(|m| m.factor(product(m))).collect(),
        }
    }

    /// Limbs per digit.
    pub fn alpha(&self) -> usize {
        self.alpha
    }

    /// Limb ranges of the digits of a polynomial with `q_limbs` limbs.
    pub fn digit_ranges(&self, q_limbs: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let alpha = self.alpha.max(1);
        (0..q_limbs.div_ceil(alpha)).map(move |j| j * alpha..((j + 1) * alpha).min(q_limbs))
    }

    /// From one digit (a range of [`ConverterSet::digit_ranges`]) to target `i` of Q, or `q.len() + k` for P.
    pub fn digit(&self, range: &std::ops::Range<usize>) -> &BaseConverter {
        &self.digits[range.end - 1]
    }

    /// From P to each prime of Q.
    pub fn special(&self) -> &BaseConverter {
        &self.special
    }

    /// `P^-1 mod q_i` for every `i`.
    pub fn inverse_p(&self) -> &[ShoupFactor] {
        &self.inverse_p
    }

    /// From P and the limb `top`, in this order, to each prime below `top`.
    pub fn merged(&self, top: usize) -> &BaseConverter {
        &self.merged[top]
    }

    /// `(P q_top)^-1 mod q_i` for each `i` below `top`.
    pub fn inverse_merged(&self, top: usize) -> &[ShoupFactor] {
        &self.inverse_merged[top]
    }

    /// `P mod q_i`.
    pub fn p_mod_q(&self, i: usize) -> ShoupFactor {
        self.p_mod_q[i]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::BigInt;
    use proptest::prelude::*;

    const PRIMES: [u64; 6] = [
        1_125_899_902_124_033,
        562_949_950_537_729,
        35_184_365_273_089,
        1_099_510_054_913,
        1_073_479_681,
        1_032_193,
    ];

    fn moduli(primes: &[u64]) -> Vec<Modulus> {
        primes.iter().map(|&q| Modulus::new(q).expect("odd")).collect()
    }

    fn residue(x: &BigInt, q: &Modulus) -> u64 {
        let q = BigInt::from(q.value());
        u64::try_from(((x % &q) + &q) % &q).expect("below q")
    }

    /// Converts the integers `x` from `from` to `to` in three steps.
    fn convert(kernels: Kernels, from: &[Modulus], to: &[Modulus], x: &[BigInt]) -> Vec<Vec<u64>> {
        let n = x.len();
        let converter = BaseConverter::new(from, to, n);
        let mut limbs: Vec<Vec<u64>> =
            from.iter().map(|f| x.iter().map(|x| residue(x, f)).collect()).collect();
        for (i, limb) in limbs.iter_mut().enumerate() {
            converter.scale(kernels, i, limb);
        }
        let mut quotients = vec![0; n];
        let views: Vec<&[u64]> = limbs.iter().map(Vec::as_slice).collect();
        converter.quotients(kernels, &views, &mut quotients);
        let views: Vec<&[u64]> = limbs.iter().chain([&quotients]).map(Vec::as_slice).collect();
        let mut outs = vec![vec![0; n]; to.len()];
        converter.convert(kernels, &views, outs.iter_mut().map(Vec::as_mut_slice).enumerate());
        outs
    }

    proptest! {
        #[test]
        fn converts_the_centred_integer(bytes in proptest::collection::vec(any::<[u8; 32]>(), 16), inputs in 1usize..5) {
            let (from, to) = (moduli(&PRIMES[..inputs]), moduli(&PRIMES[inputs..]));
            let product: BigInt = from.iter().map(|f| BigInt::from(f.value())).product();
            let half = &product / 2;
            let mut x: Vec<BigInt> =
                bytes.iter().map(|b| BigInt::from_bytes_le(num_bigint::Sign::Plus, b) % &product - &half).collect();
            x[..5].clone_from_slice(&[0.into(), 1.into(), (-1).into(), &half - (&product >> 40), (&product >> 40) - &half]);
            for kernels in Kernels::available() {
                for (limb, t) in convert(kernels, &from, &to, &x).iter().zip(&to) {
                    let expected: Vec<u64> = x.iter().map(|x| residue(x, t)).collect();
                    prop_assert_eq!(limb, &expected, "{:?}", kernels);
                }
            }
        }
    }

    #[test]
    fn the_edge_of_the_range_stays_congruent_and_identical_on_every_path() {
        let (from, to) = (moduli(&PRIMES[..3]), moduli(&PRIMES[3..]));
        let product: BigInt = from.iter().map(|f| BigInt::from(f.value())).product();
        let half = &product / 2;
        let x: Vec<BigInt> = (0..16).map(|k| &half - 8 + k).collect();
        let reference = convert(Kernels::scalar(), &from, &to, &x);
        for (limb, t) in reference.iter().zip(&to) {
            for (got, x) in limb.iter().zip(&x) {
                assert!(
                    [residue(x, t), residue(&(x - &product), t), residue(&(x + &product), t)].contains(got)
                );
            }
        }
        for kernels in Kernels::available() {
            assert_eq!(convert(kernels, &from, &to, &x), reference);
        }
    }
}
