//! Evaluation of monic per-channel polynomials with exact scales, depth-optimal.
//!
//! Powers X_j = x^(2^j) with scales S_j. p is split at the largest power of two w <= degree: p = X_w q + r. The product and r are
//! summed at one scale without rescaling; q is evaluated one level higher and rescaled. A monic p of degree 2w is
//! X_w (X_w + q') + r, a square if q' is constant. Every plaintext is encoded at exactly the scale that makes the terms of a sum
//! equal, so there is no approximate addition.

use peregrine_ir::program::{Inst, Reg};
use peregrine_ir::{ConstTensor, Level, Scale};

use super::LowerError;
use super::emit::Emitter;
use peregrine_ir::linear::LayoutId;

/// A register with its level and scale.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub reg: Reg,
    pub level: Level,
    pub scale: Scale,
}

/// Evaluates polynomials of one ciphertext.
pub(super) struct PolyEval<'e, 'a> {
    emitter: &'e mut Emitter<'a>,
    layout: LayoutId,
    cipher: u32,
    /// X_j after rescale.
    powers: Vec<Operand>,
    /// X_j before rescale (j >= 1), at the level of X_(j-1).
    products: Vec<Operand>,
}

/// Coefficients of a polynomial: `columns[k][c]`; a column that is zero for all channels is `None`.
type Columns = Vec<Option<Vec<f64>>>;

impl<'e, 'a> PolyEval<'e, 'a> {
    /// Prepares the powers x, x^2, x^4, ... that degree `degree` needs.
    pub(super) fn new(
        emitter: &'e mut Emitter<'a>,
        layout: LayoutId,
        cipher: u32,
        x: Operand,
        degree: u32,
    ) -> Result<Self, LowerError> {
        let mut eval = Self { emitter, layout, cipher, powers: vec![x], products: Vec::new() };
        let rescaled = degree.next_power_of_two().ilog2() - 1;
        for j in 0..rescaled as usize {
            let product = eval.square(&eval.powers[j].clone());
            let power = eval.rescale(&product);
            eval.products.push(product);
            eval.powers.push(power);
        }
        Ok(eval)
    }

    /// x^degree + sum lower[c, k] x^k, unrescaled, at the level of the highest power. `lower` is `[C, degree]`.
    pub(super) fn monic(mut self, lower: &ConstTensor, degree: u32) -> Result<Operand, LowerError> {
        let degree = degree as usize;
        let channels = lower.len() / degree;
        let column = |k: usize| (0..channels).map(|c| lower.at(c * degree + k)).collect::<Vec<f64>>();
        let mut columns: Columns =
            (0..degree).map(|k| Some(column(k)).filter(|c| c.iter().any(|&v| v != 0.0))).collect();
        columns.push(Some(vec![1.0]));
        let top = self.powers.last().ok_or_else(|| LowerError::bug("no powers"))?.clone();
        self.sum(&columns, top.level, &top.scale.square())?.ok_or_else(|| LowerError::bug("empty polynomial"))
    }

    /// The polynomial `p` at `level` and exactly `scale`, unrescaled; `None` if it is zero.
    fn sum(
        &mut self,
        p: &[Option<Vec<f64>>],
        level: Level,
        scale: &Scale,
    ) -> Result<Option<Operand>, LowerError> {
        let Some(degree) = p.iter().rposition(Option::is_some) else { return Ok(None) };
        if degree <= 1 {
            return self.affine(p, level, scale);
        }
        let j = (degree.ilog2() as usize).min(self.powers.len() - 1);
        let (width, monic) = (1usize << j, p[degree].as_deref() == Some([1.0].as_slice()));
        let (product, rest_end) = if monic && degree == 2 * width {
            (Some(self.monic_product(&p[width..degree], j, level, scale)?), width)
        } else if monic && degree == width && j > 0 && self.matches_product(j, level, scale) {
            (Some(self.products[j - 1].clone()), width)
        } else {
            (self.split_product(&p[width..=degree], j, level, scale)?, width)
        };
        if let (Some(product), [Some(constant), others @ ..]) = (&product, &p[..rest_end])
            && others.iter().all(Option::is_none)
        {
            return Ok(Some(self.plus(product, constant)));
        }
        let rest = self.sum(&p[..rest_end], level, scale)?;
        Ok(match (product, rest) {
            (Some(a), Some(b)) => Some(self.add(&a, &b)),
            (a, b) => a.or(b),
        })
    }

    /// X_j (X_j + q) with deg q < 2^j: both factors at X_j's scale.
    fn monic_product(
        &mut self,
        q: &[Option<Vec<f64>>],
        j: usize,
        level: Level,
        scale: &Scale,
    ) -> Result<Operand, LowerError> {
        let power = self.at_level(&self.powers[j].clone(), level);
        if power.scale.square() != *scale {
            return Err(LowerError::bug(format!("power scale {} squared is not {scale}", power.scale)));
        }
        if q[1..].iter().all(Option::is_none) {
            return Ok(match &q[0] {
                None => self.square(&power),
                Some(constant) => {
                    let other = self.plus(&power, constant);
                    self.multiply(&power, &other)
                }
            });
        }
        match self.rescaled_sum(q, level, &power.scale.clone())? {
            None => Ok(self.square(&power)),
            Some(q) => {
                let other = self.add(&power, &q);
                Ok(self.multiply(&power, &other))
            }
        }
    }

    /// X_j q: q at the scale that makes the product land on `scale`.
    fn split_product(
        &mut self,
        q: &[Option<Vec<f64>>],
        j: usize,
        level: Level,
        scale: &Scale,
    ) -> Result<Option<Operand>, LowerError> {
        let power = self.at_level(&self.powers[j].clone(), level);
        let q_scale = scale.div(&power.scale);
        if q[1..].iter().all(Option::is_none) {
            return Ok(q[0].as_ref().map(|c| self.times(&power, c, &q_scale)));
        }
        let q = self.rescaled_sum(q, level, &q_scale)?;
        Ok(q.map(|q| self.multiply(&power, &q)))
    }

    /// The polynomial q at `level` and `scale`, rescaled from one level above.
    fn rescaled_sum(
        &mut self,
        q: &[Option<Vec<f64>>],
        level: Level,
        scale: &Scale,
    ) -> Result<Option<Operand>, LowerError> {
        let above = Level(level.0 + 1);
        let constant = q.first().cloned().flatten();
        let mut without = q.to_vec();
        if let Some(first) = without.first_mut() {
            *first = None;
        }
        let Some(sum) = self.sum(&without, above, &scale.mul(&Scale::prime(above.0)))? else {
            return match constant {
                None => Ok(None),
                Some(values) => Ok(Some(self.constant(&values, level, scale))),
            };
        };
        let sum = self.rescale(&sum);
        Ok(Some(match constant {
            Some(values) => self.plus(&sum, &values),
            None => sum,
        }))
    }

    /// c1 x + c0.
    fn affine(
        &mut self,
        p: &[Option<Vec<f64>>],
        level: Level,
        scale: &Scale,
    ) -> Result<Option<Operand>, LowerError> {
        let linear = p.get(1).cloned().flatten();
        let constant = p.first().cloned().flatten();
        let product = linear.map(|c| {
            let x = self.at_level(&self.powers[0].clone(), level);
            let factor = scale.div(&x.scale);
            self.times(&x, &c, &factor)
        });
        Ok(match (product, constant) {
            (Some(a), Some(c)) => Some(self.plus(&a, &c)),
            (None, Some(c)) => Some(self.constant(&c, level, scale)),
            (a, None) => a,
        })
    }

    /// A constant as a ciphertext: x times zero plus the constant.
    fn constant(&mut self, values: &[f64], level: Level, scale: &Scale) -> Operand {
        let x = self.at_level(&self.powers[0].clone(), level);
        let zero = self.times(&x, &[0.0], &scale.div(&x.scale));
        self.plus(&zero, values)
    }

    fn matches_product(&self, j: usize, level: Level, scale: &Scale) -> bool {
        let product = &self.products[j - 1];
        product.level == level && product.scale == *scale
    }

    fn at_level(&mut self, x: &Operand, level: Level) -> Operand {
        if x.level == level {
            return x.clone();
        }
        let dst = self.emitter.fresh();
        self.emitter.push(Inst::ModDrop { dst, src: x.reg, to: level });
        Operand { reg: dst, level, scale: x.scale.clone() }
    }

    fn square(&mut self, x: &Operand) -> Operand {
        let dst = self.emitter.fresh();
        self.emitter.push(Inst::Square { dst, src: x.reg });
        Operand { reg: dst, level: x.level, scale: x.scale.square() }
    }

    fn multiply(&mut self, a: &Operand, b: &Operand) -> Operand {
        let dst = self.emitter.fresh();
        self.emitter.push(Inst::Mul { dst, a: a.reg, b: b.reg });
        Operand { reg: dst, level: a.level, scale: a.scale.mul(&b.scale) }
    }

    fn add(&mut self, a: &Operand, b: &Operand) -> Operand {
        let dst = self.emitter.fresh();
        self.emitter.push(Inst::Add { dst, a: a.reg, b: b.reg });
        Operand { reg: dst, level: a.level, scale: a.scale.clone() }
    }

    fn times(&mut self, x: &Operand, values: &[f64], scale: &Scale) -> Operand {
        let vector = self.emitter.vector(values, self.layout, self.cipher);
        let dst = self.emitter.fresh();
        self.emitter.push(Inst::MulVector { dst, src: x.reg, vector, scale: scale.clone() });
        Operand { reg: dst, level: x.level, scale: x.scale.mul(scale) }
    }

    fn plus(&mut self, x: &Operand, values: &[f64]) -> Operand {
        let vector = self.emitter.vector(values, self.layout, self.cipher);
        let dst = self.emitter.fresh();
        self.emitter.push(Inst::AddVector { dst, src: x.reg, vector });
        Operand { reg: dst, level: x.level, scale: x.scale.clone() }
    }

    fn rescale(&mut self, x: &Operand) -> Operand {
        let dst = self.emitter.fresh();
        self.emitter.push(Inst::Rescale { dst, src: x.reg });
        Operand { reg: dst, level: Level(x.level.0 - 1), scale: x.scale.div(&Scale::prime(x.level.0)) }
    }
}
