//! Products with diagonals, on one limb at a time.
//!
//! Rotated inputs of a limb are larger than the second-level cache, and those of two threads larger than the third. So a few
//! sums are made together, and the products of a few rotated inputs with all their diagonals for these sums are done row by
//! row: each row of an input is read from memory once.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::Term;
use super::apply::{Operand, Operands, Pass, Transform};
use crate::evaluator::keyswitch::modulus;
use crate::evaluator::scratch::{Buffers, with_scratch};
use crate::kernels::{PlainTerm, RealTerm, VectorNtt};
use crate::ntt::NttTable;
use crate::plaintext::{Form, IntPlaintext};

/// Giant steps whose sums are made together.
const SUMS: usize = 4;

/// Diagonals of real slots that are expanded at a time, to half their values.
const HALVES: usize = 32;

/// Other diagonals that are expanded at a time.
const WHOLE: usize = 8;

/// Limbs that expanded diagonals take on each thread.
pub(super) const EXPANDED_LIMBS: u64 = (HALVES / 2) as u64;

/// A rotated input and the diagonal that it is multiplied with.
struct Weighted<'a> {
    /// Which pair of limbs it adds to.
    slot: usize,
    /// The rotated input.
    source: (u32, u32),
    operand: [&'a [u64]; 2],
    diagonal: &'a IntPlaintext,
}

impl Transform<'_> {
    /// All products of a pass on limb `m`.
    pub(super) fn products(
        &self,
        pass: &Pass<'_>,
        operands: &Operands<'_>,
        m: usize,
        slots: &mut [[&mut [u64]; 2]],
    ) {
        with_scratch(self.ctx.n(), 2 * pass.babies.len(), |buffers| {
            let pairs = buffers.chunks_exact_mut(2).map(|pair| match pair {
                [b, a] => [&mut **b, &mut **a],
                _ => unreachable!("chunks of two"),
            });
            let mut pairs: Vec<[&mut [u64]; 2]> = pairs.collect();
            for &(input, baby) in &self.by_key(pass) {
                let [b, a] = &mut pairs[pass.babies[&(input, baby)]];
                self.baby(&operands[&input], self.plan.babies[input as usize][baby as usize], m, [b, a]);
            }
            let rotated: Vec<[&[u64]; 2]> = pairs.iter().map(|[b, a]| [&**b, &**a]).collect();
            self.sums((pass, operands), m, &rotated, slots);
        });
    }

    /// The rotated inputs of a pass, those of one rotation one after the other: its key is then read once.
    fn by_key(&self, pass: &Pass<'_>) -> Vec<(u32, u32)> {
        let mut babies: Vec<(u32, u32)> = pass.babies.keys().copied().collect();
        babies.sort_by_key(|&(input, baby)| self.plan.babies[input as usize][baby as usize]);
        babies
    }

    fn sums(
        &self,
        (pass, operands): (&Pass<'_>, &Operands<'_>),
        m: usize,
        rotated: &[[&[u64]; 2]],
        slots: &mut [[&mut [u64]; 2]],
    ) {
        let table = self.ctx.table(self.q_limbs, m);
        with_scratch(self.ctx.n() / 2, HALVES, |halves| {
            for sums in pass.sums.chunks(SUMS) {
                let mut products: Vec<Weighted<'_>> = Vec::new();
                for &(slot, ref terms) in sums {
                    for (term, diagonal) in terms {
                        let operand = self.operand(pass, &operands[&term.input], term, (m, rotated));
                        let (Some(operand), source) = (operand, (term.input, term.baby)) else { continue };
                        products.push(Weighted { slot, source, operand, diagonal });
                    }
                }
                products.sort_by_key(|product| product.source);
                for products in products.chunks_mut(HALVES) {
                    products.sort_by_key(|product| product.slot);
                    match real_transform(table, products) {
                        Some(transform) => self.multiply_real((table, transform), products, halves, slots),
                        None => {
                            for products in products.chunk_by(|x, y| x.slot == y.slot) {
                                let [c0, c1] = &mut slots[products[0].slot];
                                let few = products.chunks(WHOLE);
                                few.for_each(|products| self.multiply_whole(m, products, [c0, c1]));
                            }
                        }
                    }
                }
            }
        });
    }

    /// Limb `m` of the rotated input of a term, modulo `QP`; none for special primes, modulo which an input that is
    /// not rotated is zero.
    fn operand<'b>(
        &self,
        pass: &Pass<'_>,
        operand: &'b Operand<'_>,
        term: &Term,
        (m, rotated): (usize, &[[&'b [u64]; 2]]),
    ) -> Option<[&'b [u64]; 2]> {
        if let Some(&place) = pass.babies.get(&(term.input, term.baby)) {
            return Some(rotated[place]);
        }
        let [c0, c1] = &operand.lifted;
        (m < self.q_limbs).then(|| [c0.limb(m), c1.limb(m)])
    }

    /// `slots[product.slot] += operand * diagonal` for each product, sorted by slot.
    fn multiply_real(
        &self,
        (table, transform): (&NttTable, &VectorNtt),
        products: &[Weighted<'_>],
        halves: &mut Buffers<'_>,
        slots: &mut [[&mut [u64]; 2]],
    ) {
        let (kernels, unit) = (self.ctx.kernels(), table.imaginary_unit());
        let mut terms: SmallVec<[RealTerm<'_>; HALVES]> = SmallVec::new();
        for (&Weighted { slot, operand: [x0, x1], diagonal, .. }, half) in
            products.iter().zip(halves.iter_mut())
        {
            let weights = &mut half[..values_of(diagonal) / 2];
            diagonal.folded_residues(kernels, table.modulus(), unit, weights);
            terms.push(RealTerm { target: slot, x0, x1, weights });
        }
        transform.real_dot_add(slots, &mut terms);
    }

    /// `out += sum operand * diagonal` on limb `m`.
    fn multiply_whole(&self, m: usize, products: &[Weighted<'_>], out: [&mut [u64]; 2]) {
        with_scratch(self.ctx.n(), products.len(), |buffers| {
            self.expand(m, products, buffers);
            let mut terms: SmallVec<[PlainTerm<'_>; WHOLE]> = SmallVec::new();
            for (&Weighted { operand: [x0, x1], diagonal, .. }, buffer) in products.iter().zip(&*buffers) {
                terms.push(PlainTerm { x0, x1, weights: &buffer[..values_of(diagonal)] });
            }
            self.ctx.kernels().plain_dot_add(modulus(self.ctx, self.q_limbs, m), out, &terms);
        });
    }

    /// NTT values of some diagonals modulo the prime of limb `m`, one per run of equal ones, in the first words of a buffer
    /// each. Those of one size are transformed together.
    fn expand(&self, m: usize, products: &[Weighted<'_>], buffers: &mut [&mut [u64]]) {
        let table = self.ctx.table(self.q_limbs, m);
        let size = |product: &Weighted<'_>| values_of(product.diagonal);
        for (product, buffer) in products.iter().zip(buffers.iter_mut()) {
            let values = &mut buffer[..size(product)];
            product.diagonal.residues(self.ctx.kernels(), table.modulus(), values);
        }
        for values in products.iter().map(size).collect::<BTreeSet<usize>>() {
            let equal = products.iter().zip(buffers.iter_mut()).filter(|(p, _)| size(p) == values);
            let mut equal: SmallVec<[&mut [u64]; WHOLE]> =
                equal.map(|(_, buffer)| &mut buffer[..values]).collect();
            table.forward_subrings(&mut equal);
        }
    }
}

/// The transform that multiplies with all these diagonals from half their values, where there is one.
fn real_transform<'t>(table: &'t NttTable, products: &[Weighted<'_>]) -> Option<&'t VectorNtt> {
    let first = products.first()?.diagonal;
    let alike = |p: &Weighted<'_>| p.diagonal.period() == first.period() && p.diagonal.form() == Form::Real;
    if products.iter().all(alike) { table.real(values_of(first)) } else { None }
}

/// How many values of a diagonal differ: two for each slot of its period.
fn values_of(diagonal: &IntPlaintext) -> usize {
    2 * diagonal.period().get() as usize
}
