//! The recursion over `p = sum_g q_g * T_g + leaf`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;
use smallvec::SmallVec;

use super::{Coefficient, PolynomialBasis};
use crate::ciphertext::{Ciphertext, Product};
use crate::cost::Work;
use crate::encoder::Encoder;
use crate::error::Error;
use crate::evaluator::Evaluator;
use crate::evaluator::arith::WideInteger;
use crate::kernels::CombineTarget;
use crate::keys::EvalKeys;
use crate::ring::poly::{Ntt, RnsPoly};
use crate::units::{Level, Scale, Slots};

/// Leaves have powers below this. With 4, few powers are computed that are no powers of two.
pub(super) const LEAF: usize = 4;

/// The level at each multiplicative depth, from that of the operand down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ladder(Vec<Level>);

impl Ladder {
    /// `levels` fall strictly.
    pub(crate) fn new(levels: Vec<Level>) -> Ladder {
        debug_assert!(levels.is_sorted_by(|a, b| a > b), "{levels:?} must fall");
        Ladder(levels)
    }

    pub(crate) fn level(&self, depth: u32) -> Level {
        self.0[depth as usize]
    }

    /// What is divided by on the way to `depth` from the depth before it.
    fn divisor(&self, depth: u32) -> Scale {
        let (high, low) = (self.level(depth - 1).0, self.level(depth).0);
        (low + 1..=high).fold(Scale::one(), |product, prime| product.mul(&Scale::prime(prime)))
    }
}

/// Depth of the power `k`.
pub(super) fn depth_of(k: usize) -> u32 {
    k.next_power_of_two().trailing_zeros()
}

/// One evaluation: the operand's powers are made as they are needed.
pub(super) struct Evaluation<'a> {
    ev: &'a Evaluator,
    basis: PolynomialBasis,
    ladder: &'a Ladder,
    keys: &'a EvalKeys,
    powers: BTreeMap<usize, Ciphertext>,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(
        ev: &'a Evaluator,
        basis: PolynomialBasis,
        x: &Ciphertext,
        ladder: &'a Ladder,
        keys: &'a EvalKeys,
    ) -> Self {
        Self { ev, basis, ladder, keys, powers: BTreeMap::from([(1, x.clone())]) }
    }

    /// The polynomial at `depth`, which its degree fits, and at the scale `target`.
    pub(super) fn evaluate(
        &mut self,
        mut rest: Cow<'_, [Coefficient]>,
        depth: u32,
        target: &Scale,
    ) -> Result<Ciphertext, Error> {
        let (before, unscaled) = (depth - 1, target.mul(&self.ladder.divisor(depth)));
        let mut products: Option<Product> = None;
        let mut leaf: Vec<(usize, Coefficient)> = Vec::new();
        while rest.len() > LEAF || rest.len() > 1 && depth_of(rest.len() - 1) > before {
            let split = 1 << (rest.len() - 1).ilog2();
            let (quotient, remainder) = divide(self.basis, &rest, split);
            self.make_power(split)?;
            if quotient[1..].iter().all(Coefficient::is_zero) {
                leaf.extend(quotient.into_iter().take(1).map(|coefficient| (split, coefficient)));
            } else {
                let product = self.product(quotient, split, before, &unscaled)?;
                products = Some(match products {
                    None => product,
                    Some(sum) => self.ev.add_products(&sum, &product)?,
                });
            }
            rest = Cow::Owned(remainder);
        }
        leaf.extend(rest.iter().cloned().enumerate().skip(1));
        leaf.retain(|(_, coefficient)| !coefficient.is_zero());
        let sum = self.leaf(&leaf, before, &unscaled)?;
        let sum = self.add_constant(sum, &rest[0])?;
        match products {
            None => self.lower(sum, depth),
            Some(mut products) => {
                self.ev.add_to_product(&mut products, &sum)?;
                self.lower_product(&products, depth)
            }
        }
    }

    /// `quotient * T_split`, at the depth `before` and the scale `unscaled`.
    fn product(
        &mut self,
        quotient: Vec<Coefficient>,
        split: usize,
        before: u32,
        unscaled: &Scale,
    ) -> Result<Product, Error> {
        let target = unscaled.div(self.powers[&split].scale());
        let quotient = self.evaluate(Cow::Owned(quotient), before, &target)?;
        let power = self.ev.drop_to(&self.powers[&split], quotient.level())?;
        self.ev.mul(&quotient, &power)
    }

    /// Rescales to the level of a depth.
    fn lower(&self, mut ct: Ciphertext, depth: u32) -> Result<Ciphertext, Error> {
        while ct.level() > self.ladder.level(depth) {
            ct = self.ev.rescale(&ct)?;
        }
        Ok(ct)
    }

    /// Relinearises and rescales to the level of a depth, which is lower.
    fn lower_product(&self, product: &Product, depth: u32) -> Result<Ciphertext, Error> {
        self.lower(self.ev.relinearize_rescale(product, self.keys)?, depth)
    }

    /// Makes `T_k` or `x^k`, at its own depth.
    fn make_power(&mut self, k: usize) -> Result<(), Error> {
        if self.powers.contains_key(&k) {
            return Ok(());
        }
        let high = k.next_power_of_two() / 2;
        let low = k - high;
        for part in [high, low] {
            self.make_power(part)?;
        }
        let depth = depth_of(k);
        let level = self.ladder.level(depth - 1);
        let ev = self.ev;
        let [a, b] = [high, low].map(|part| ev.drop_to(&self.powers[&part], level));
        let mut product = match high == low {
            true => ev.square(&a?)?,
            false => ev.mul(&a?, &b?)?,
        };
        if self.basis == PolynomialBasis::Chebyshev {
            // T_(a+b) = 2 T_a T_b - T_|a-b|, doubled before the rescale, whose error then counts once.
            ev.double_product(&mut product)?;
            match high - low {
                0 => ev.add_scalar_to_product(&mut product, -1.0)?,
                difference => {
                    self.make_power(difference)?;
                    let other = ev.drop_to(&self.powers[&difference], level)?;
                    let factor = product.scale().div(other.scale());
                    ev.sub_from_product(&mut product, &ev.mul_scalar(&other, 1.0, &factor)?)?;
                }
            }
        }
        let power = self.lower_product(&product, depth)?;
        self.powers.insert(k, power);
        Ok(())
    }

    /// `sum coefficient * T_k` at the depth `before` and a scale; zero if there are no terms.
    fn leaf(
        &mut self,
        terms: &[(usize, Coefficient)],
        before: u32,
        scale: &Scale,
    ) -> Result<Ciphertext, Error> {
        for (k, _) in terms {
            self.make_power(*k)?;
        }
        let level = self.ladder.level(before);
        let mut scalars: SmallVec<[(&Ciphertext, WideInteger); 8]> = SmallVec::new();
        let mut vectors: SmallVec<[(&Ciphertext, &[f64]); 8]> = SmallVec::new();
        for (k, coefficient) in terms {
            let power = &self.powers[k];
            match coefficient {
                Coefficient::Scalar(value) => {
                    let factor = scale.div(power.scale());
                    let integer = WideInteger::nearest(self.ev, "polynomial coefficient", *value, &factor)?;
                    scalars.push((power, integer));
                }
                Coefficient::Slots(values) => vectors.push((power, values)),
            }
        }
        let part = |select: fn(&Ciphertext) -> &RnsPoly<Ntt>| self.scalar_dot(&scalars, level, select);
        let mut sum =
            Ciphertext { c0: part(|ct| &ct.c0), c1: part(|ct| &ct.c1), level, scale: scale.clone() };
        for (power, values) in vectors {
            let plaintext = self.encode(values, &scale.div(power.scale()))?;
            let term = self.ev.mul_plain(&self.ev.drop_to(power, level)?, &plaintext)?;
            self.ev.add_assign(&mut sum, &term)?;
        }
        Ok(sum)
    }

    /// One part of `sum integer * ciphertext`, in one pass over the limbs.
    fn scalar_dot(
        &self,
        terms: &[(&Ciphertext, WideInteger)],
        level: Level,
        select: fn(&Ciphertext) -> &RnsPoly<Ntt>,
    ) -> RnsPoly<Ntt> {
        let ctx = self.ev.context();
        let mut sum: RnsPoly<Ntt> = RnsPoly::zero(ctx.n(), level.limbs(), 0);
        if terms.is_empty() {
            return sum;
        }
        ctx.count(Work { conversions: (ctx.n() * level.limbs() * terms.len()) as f64, ..Work::default() });
        sum.par_limbs_mut().enumerate().for_each(|(i, out)| {
            let q = &ctx.q_moduli()[i];
            let constants: SmallVec<[u64; 8]> = terms.iter().map(|(_, integer)| integer.residue(q)).collect();
            let inputs: SmallVec<[&[u64]; 8]> = terms.iter().map(|(ct, _)| select(ct).limb(i)).collect();
            ctx.kernels().combine(&mut [CombineTarget { q, constants: &constants, out }], &inputs);
        });
        sum
    }

    fn add_constant(&self, sum: Ciphertext, constant: &Coefficient) -> Result<Ciphertext, Error> {
        match constant {
            Coefficient::Scalar(value) => self.ev.add_scalar(&sum, *value),
            Coefficient::Slots(values) => {
                let plaintext = self.encode(values, sum.scale())?;
                self.ev.add_plain(&sum, &plaintext)
            }
        }
    }

    fn encode(&self, values: &[f64], scale: &Scale) -> Result<crate::plaintext::IntPlaintext, Error> {
        let period = Slots::new(values.len() as u32)?;
        Encoder::new(self.ev.context()).encode(values, period, scale)
    }
}

/// `(q, r)` with `p = q * T_split + r`, where `split` is more than half of the degree of `p` or equal to it.
fn divide(basis: PolynomialBasis, p: &[Coefficient], split: usize) -> (Vec<Coefficient>, Vec<Coefficient>) {
    let mut remainder = p[..split].to_vec();
    let mut quotient = p[split..].to_vec();
    if basis == PolynomialBasis::Chebyshev {
        // T_(split+j) = 2 T_split T_j - T_(split-j)
        for (j, coefficient) in p[split..].iter().enumerate().skip(1) {
            quotient[j] = coefficient.doubled();
            remainder[split - j] = remainder[split - j].minus(coefficient);
        }
    }
    (quotient, remainder)
}
