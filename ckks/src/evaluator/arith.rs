//! Additions and products.

use rayon::prelude::*;

use super::Evaluator;
use super::scratch::with_scratch;
use crate::arith::Modulus;
use crate::ciphertext::{Ciphertext, Product};
use crate::cost::Work;
use crate::encoder::{expand, scale_value, word_shift};
use crate::error::Error;
use crate::plaintext::IntPlaintext;
use crate::ring::poly::{Basis, Ntt, RnsPoly};
use crate::units::Scale;

/// An integer `mantissa * 2^shift`, to multiply or add to every slot.
#[derive(Clone, Copy)]
pub(super) struct WideInteger {
    mantissa: i64,
    shift: u32,
}

impl WideInteger {
    /// The integer nearest to `value * scale`.
    pub(super) fn nearest(
        ev: &Evaluator,
        op: &'static str,
        value: f64,
        scale: &Scale,
    ) -> Result<WideInteger, Error> {
        if !value.is_finite() {
            return Err(Error::NotFinite { op, slot: 0, value });
        }
        let scaled = value * scale_value(&ev.ctx, op, scale)?;
        let shift = word_shift(op, scaled.abs(), scale.log2(ev.ctx.params()))?;
        let mantissa = (scaled * 2f64.powi(-(shift as i32))).round_ties_even() as i64;
        Ok(WideInteger { mantissa, shift })
    }

    pub(super) fn residue(self, modulus: &Modulus) -> u64 {
        modulus.mul(modulus.reduce_signed(self.mantissa), modulus.pow(2, u64::from(self.shift)))
    }
}

impl Evaluator {
    fn check_addends(&self, op: &'static str, a: &Ciphertext, b: &Ciphertext) -> Result<(), Error> {
        self.check(op, a)?;
        self.check(op, b)?;
        Evaluator::check_levels(op, a.level, b.level)?;
        Evaluator::check_scales(op, &a.scale, &b.scale)
    }

    /// The sum. Levels and exact scales must agree.
    ///
    /// # Errors
    /// [`Error::LevelMismatch`], [`Error::ScaleMismatch`], [`Error::Shape`].
    pub fn add(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext, Error> {
        let mut sum = a.clone();
        self.add_assign(&mut sum, b)?;
        Ok(sum)
    }

    /// `a += b`. Levels and exact scales must agree.
    ///
    /// # Errors
    /// As [`add`](Self::add); then `a` is unchanged.
    pub fn add_assign(&self, a: &mut Ciphertext, b: &Ciphertext) -> Result<(), Error> {
        self.check_addends("add", a, b)?;
        self.ctx.add_assign(&mut a.c0, &b.c0);
        self.ctx.add_assign(&mut a.c1, &b.c1);
        Ok(())
    }

    /// The difference. Levels and exact scales must agree.
    ///
    /// # Errors
    /// [`Error::LevelMismatch`], [`Error::ScaleMismatch`], [`Error::Shape`].
    pub fn sub(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext, Error> {
        self.check_addends("sub", a, b)?;
        let mut difference = a.clone();
        self.ctx.sub_assign(&mut difference.c0, &b.c0);
        self.ctx.sub_assign(&mut difference.c1, &b.c1);
        Ok(difference)
    }

    /// The negative.
    ///
    /// # Errors
    /// [`Error::Shape`] for a foreign ciphertext.
    pub fn negate(&self, a: &Ciphertext) -> Result<Ciphertext, Error> {
        self.check("negate", a)?;
        let mut negative = a.clone();
        self.ctx.neg_assign(&mut negative.c0);
        self.ctx.neg_assign(&mut negative.c1);
        Ok(negative)
    }

    /// Adds a plaintext of the same exact scale.
    ///
    /// # Errors
    /// [`Error::ScaleMismatch`], [`Error::TooManySlots`], [`Error::Shape`].
    pub fn add_plain(&self, a: &Ciphertext, plaintext: &IntPlaintext) -> Result<Ciphertext, Error> {
        let message = self.addend("add_plain", a, plaintext)?;
        let mut sum = a.clone();
        self.ctx.add_assign(&mut sum.c0, &message);
        Ok(sum)
    }

    /// Subtracts a plaintext of the same exact scale.
    ///
    /// # Errors
    /// [`Error::ScaleMismatch`], [`Error::TooManySlots`], [`Error::Shape`].
    pub fn sub_plain(&self, a: &Ciphertext, plaintext: &IntPlaintext) -> Result<Ciphertext, Error> {
        let message = self.addend("sub_plain", a, plaintext)?;
        let mut difference = a.clone();
        self.ctx.sub_assign(&mut difference.c0, &message);
        Ok(difference)
    }

    fn addend(&self, op: &'static str, a: &Ciphertext, p: &IntPlaintext) -> Result<RnsPoly<Ntt>, Error> {
        self.check(op, a)?;
        Evaluator::check_scales(op, &a.scale, p.scale())?;
        expand(&self.ctx, p, Basis::Q(a.level))
    }

    /// Multiplies slot by slot with a plaintext; the scales multiply.
    ///
    /// # Errors
    /// [`Error::TooManySlots`], [`Error::Shape`].
    pub fn mul_plain(&self, a: &Ciphertext, plaintext: &IntPlaintext) -> Result<Ciphertext, Error> {
        self.check("mul_plain", a)?;
        let factor = expand(&self.ctx, plaintext, Basis::Q(a.level))?;
        let mut product = a.clone();
        self.ctx.mul_assign(&mut product.c0, &factor);
        self.ctx.mul_assign(&mut product.c1, &factor);
        product.scale = a.scale.mul(plaintext.scale());
        Ok(product)
    }

    /// Adds one value to every slot.
    ///
    /// # Errors
    /// [`Error::NotFinite`], [`Error::CoefficientTooLarge`], [`Error::Shape`].
    pub fn add_scalar(&self, a: &Ciphertext, value: f64) -> Result<Ciphertext, Error> {
        let op = "add_scalar";
        self.check(op, a)?;
        let constant = WideInteger::nearest(self, op, value, &a.scale)?;
        let mut sum = a.clone();
        self.add_constant(&mut sum.c0, constant);
        Ok(sum)
    }

    /// Adds the constant polynomial of an integer, whose slots are all equal.
    pub(super) fn add_constant(&self, part: &mut RnsPoly<Ntt>, constant: WideInteger) {
        part.par_limbs_mut().zip(self.ctx.q_moduli()).for_each(|(limb, modulus)| {
            let residue = constant.residue(modulus);
            limb.iter_mut().for_each(|word| *word = modulus.add(*word, residue));
        });
    }

    /// Multiplies every slot by an integer; the scale stays.
    ///
    /// # Errors
    /// [`Error::Shape`] for a foreign ciphertext.
    pub fn mul_scalar_int(&self, a: &Ciphertext, factor: i64) -> Result<Ciphertext, Error> {
        self.check("mul_scalar_int", a)?;
        Ok(self.scaled(a, WideInteger { mantissa: factor, shift: 0 }, a.scale.clone()))
    }

    /// Multiplies every slot by `value`, encoded at `scale`; the scales multiply.
    ///
    /// # Errors
    /// [`Error::NotFinite`], [`Error::CoefficientTooLarge`], [`Error::ForeignScale`], [`Error::Shape`].
    pub fn mul_scalar(&self, a: &Ciphertext, value: f64, scale: &Scale) -> Result<Ciphertext, Error> {
        let op = "mul_scalar";
        self.check(op, a)?;
        let factor = WideInteger::nearest(self, op, value, scale)?;
        Ok(self.scaled(a, factor, a.scale.mul(scale)))
    }

    fn scaled(&self, a: &Ciphertext, factor: WideInteger, scale: Scale) -> Ciphertext {
        let mut product = Ciphertext { scale, ..a.clone() };
        self.ctx.count(self.ctx.shape(a.level.limbs()).passes(2.0));
        for part in [&mut product.c0, &mut product.c1] {
            part.par_limbs_mut().enumerate().for_each(|(i, limb)| {
                let modulus = &self.ctx.q_moduli()[i];
                let residue = modulus.factor(factor.residue(modulus));
                self.ctx.kernels().mul_scalar_assign(modulus, limb, residue);
            });
        }
        product
    }

    /// Multiplies every slot by the imaginary unit, without a level or a change of scale: the product with `X^(N/2)`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a foreign ciphertext.
    pub fn mul_i(&self, a: &Ciphertext) -> Result<Ciphertext, Error> {
        self.check("mul_i", a)?;
        let mut product = a.clone();
        let half = self.ctx.n() / 2;
        for part in [&mut product.c0, &mut product.c1] {
            part.par_limbs_mut().enumerate().for_each(|(i, limb)| {
                let table = &self.ctx.q_tables()[i];
                let modulus = table.modulus();
                // Position j holds the value at psi^(2*brv(j)+1), and brv(j) is odd in the upper half: there
                // X^(N/2) is the cube, the negative, of what it is in the lower half.
                let unit = modulus.pow(table.psi(), half as u64);
                let (low, high) = limb.split_at_mut(half);
                self.ctx.kernels().mul_scalar_assign(modulus, low, modulus.factor(unit));
                self.ctx.kernels().mul_scalar_assign(modulus, high, modulus.factor(modulus.neg(unit)));
            });
        }
        Ok(product)
    }

    /// Multiplies by `X^power`, without a level or a change of scale: by a number of magnitude 1 in every slot, `zeta^(5^j power)`
    /// in slot j, `zeta = exp(i pi / N)`. Powers are modulo `2N`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a foreign ciphertext.
    pub fn mul_monomial(&self, a: &Ciphertext, power: u32) -> Result<Ciphertext, Error> {
        self.check("mul_monomial", a)?;
        let n = self.ctx.n();
        let power = power as usize % (2 * n);
        if power == n / 2 {
            return self.mul_i(a);
        }
        let mut product = a.clone();
        if power == 0 {
            return Ok(product);
        }
        let limbs = a.level.limbs();
        self.ctx.count(self.ctx.shape(limbs).passes(2.0) + Work::transforms(n, limbs as f64));
        let Ciphertext { c0, c1, .. } = &mut product;
        c0.par_limbs_mut().zip(c1.par_limbs_mut()).enumerate().for_each(|(i, (c0, c1))| {
            let table = &self.ctx.q_tables()[i];
            let modulus = table.modulus();
            with_scratch(n, 1, |buffers| {
                let [monomial] = &mut buffers[..] else { unreachable!("one limb") };
                monomial.fill(0);
                monomial[power % n] = if power < n { 1 } else { modulus.neg(1) };
                table.forward(monomial);
                for part in [c0, c1] {
                    self.ctx.kernels().mul_assign(modulus, part, monomial);
                }
            });
        });
        Ok(product)
    }

    /// The product of two ciphertexts, not yet relinearised; the scales multiply.
    ///
    /// # Errors
    /// [`Error::LevelMismatch`], [`Error::Shape`].
    pub fn mul(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Product, Error> {
        let op = "mul";
        self.check(op, a)?;
        self.check(op, b)?;
        Evaluator::check_levels(op, a.level, b.level)?;
        let d0 = self.sum_of_products(&[(&a.c0, &b.c0)]);
        let d1 = self.sum_of_products(&[(&a.c0, &b.c1), (&a.c1, &b.c0)]);
        let d2 = self.sum_of_products(&[(&a.c1, &b.c1)]);
        Ok(Product { d0, d1, d2, level: a.level, scale: a.scale.mul(&b.scale) })
    }

    /// The square, not yet relinearised: two thirds of the work of [`mul`](Self::mul).
    ///
    /// # Errors
    /// [`Error::Shape`] for a foreign ciphertext.
    pub fn square(&self, a: &Ciphertext) -> Result<Product, Error> {
        self.check("square", a)?;
        let d0 = self.sum_of_products(&[(&a.c0, &a.c0)]);
        let mut d1 = self.sum_of_products(&[(&a.c0, &a.c1)]);
        let copy = d1.clone();
        self.ctx.add_assign(&mut d1, &copy);
        let d2 = self.sum_of_products(&[(&a.c1, &a.c1)]);
        Ok(Product { d0, d1, d2, level: a.level, scale: a.scale.square() })
    }

    fn sum_of_products(&self, terms: &[(&RnsPoly<Ntt>, &RnsPoly<Ntt>)]) -> RnsPoly<Ntt> {
        let (n, limbs) = (self.ctx.n(), terms[0].0.q_limbs());
        self.ctx.count(self.ctx.shape(limbs).passes(1.0));
        let mut sum = RnsPoly::zero(n, limbs, 0);
        let kernels = self.ctx.kernels();
        sum.par_limbs_mut().enumerate().for_each(|(i, limb)| {
            let modulus = &self.ctx.q_moduli()[i];
            match terms {
                [(x, y)] => kernels.mul(modulus, limb, x.limb(i), y.limb(i)),
                _ => {
                    let terms: Vec<_> = terms.iter().map(|(x, y)| (x.limb(i), y.limb(i))).collect();
                    kernels.dot_add(modulus, limb, &terms);
                }
            }
        });
        sum
    }

    /// The sum of two products, to be relinearised once.
    ///
    /// # Errors
    /// [`Error::LevelMismatch`], [`Error::ScaleMismatch`], [`Error::Shape`].
    pub fn add_products(&self, a: &Product, b: &Product) -> Result<Product, Error> {
        let op = "add_products";
        self.check_product(op, a)?;
        self.check_product(op, b)?;
        Evaluator::check_levels(op, a.level, b.level)?;
        Evaluator::check_scales(op, &a.scale, &b.scale)?;
        let mut sum = a.clone();
        for (left, right) in [(&mut sum.d0, &b.d0), (&mut sum.d1, &b.d1), (&mut sum.d2, &b.d2)] {
            self.ctx.add_assign(left, right);
        }
        Ok(sum)
    }
}
