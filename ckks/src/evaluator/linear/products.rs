//! Products with diagonals, on one limb at a time.
//!
//! Rotated inputs of a limb are larger than the second-level cache, and those of two threads larger than the third. So a few
//! sums are made together ([`sums`](super::sums)), and the products of a few diagonals with all their inputs for these sums are
//! done row by row: each row of an input is read from memory once, and each diagonal is transformed once.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::apply::{Operand, Operands, Pass, Transform};
use super::{DiagonalId, Term};
use crate::evaluator::keyswitch::modulus;
use crate::evaluator::scratch::with_scratch;
use crate::kernels::{PlainTerm, Values, WeightedTerm};
use crate::plaintext::{Form, IntPlaintext};

/// Limbs that expanded diagonals take on each thread.
pub(super) const EXPANDED_LIMBS: u64 = 16;

/// Diagonals that are expanded at a time.
fn at_once(form: Form) -> usize {
    match form {
        Form::Complex => EXPANDED_LIMBS as usize,
        // Half their values are enough.
        Form::Real => 2 * EXPANDED_LIMBS as usize,
    }
}

/// A rotated input and the diagonal that it is multiplied with.
#[derive(Clone, Copy)]
struct Weighted<'a> {
    /// Which pair of limbs it adds to.
    slot: usize,
    /// The rotated input.
    source: (u32, u32),
    operand: [&'a [u64]; 2],
    id: DiagonalId,
    diagonal: &'a IntPlaintext,
}

impl<'a> Weighted<'a> {
    /// Diagonals of one kind are transformed together: slots of the period, and what they hold.
    fn kind(&self) -> (u32, Form) {
        (self.diagonal.period().get(), self.diagonal.form())
    }

    /// As a term with the weights at a place.
    fn term(&self, weights: usize) -> WeightedTerm<'a> {
        let [x0, x1] = self.operand;
        WeightedTerm { target: self.slot, weights, x0, x1 }
    }
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
            for sums in &pass.together {
                self.multiply(m, self.weighted((pass, operands), sums, (m, &rotated)), slots);
            }
        });
    }

    /// The rotated inputs of a pass, those of one rotation one after the other: its key is then read once.
    fn by_key(&self, pass: &Pass<'_>) -> Vec<(u32, u32)> {
        let mut babies: Vec<(u32, u32)> = pass.babies.keys().copied().collect();
        babies.sort_by_key(|&(input, baby)| self.plan.babies[input as usize][baby as usize]);
        babies
    }

    /// The products of some sums of a pass.
    fn weighted<'b>(
        &self,
        (pass, operands): (&'b Pass<'_>, &'b Operands<'_>),
        sums: &[usize],
        (m, rotated): (usize, &[[&'b [u64]; 2]]),
    ) -> Vec<Weighted<'b>> {
        let mut products: Vec<Weighted<'b>> = Vec::new();
        for &sum in sums {
            let (slot, terms) = &pass.sums[sum];
            for (term, diagonal) in terms {
                let operand = self.operand(pass, &operands[&term.input], term, (m, rotated));
                let (Some(operand), source) = (operand, (term.input, term.baby)) else { continue };
                products.push(Weighted { slot: *slot, source, operand, id: term.diagonal, diagonal });
            }
        }
        products
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

    /// `slots[product.slot] += operand * diagonal` on limb `m` for each product, a few diagonals at a time, those of one input
    /// next to each other.
    fn multiply(&self, m: usize, mut products: Vec<Weighted<'_>>, slots: &mut [[&mut [u64]; 2]]) {
        let mut first: BTreeMap<DiagonalId, (u32, u32)> = BTreeMap::new();
        for product in &products {
            let source = first.entry(product.id).or_insert(product.source);
            *source = product.source.min(*source);
        }
        products.sort_by_key(|product| (product.kind(), first[&product.id], product.id));
        let of_diagonal: Vec<&[Weighted<'_>]> = products.chunk_by(|x, y| x.id == y.id).collect();
        for of_kind in of_diagonal.chunk_by(|x, y| x[0].kind() == y[0].kind()) {
            let (_, form) = of_kind[0][0].kind();
            for few in of_kind.chunks(at_once(form)) {
                self.multiply_few(m, few, slots);
            }
        }
    }

    /// The products of a few diagonals of one kind.
    fn multiply_few(&self, m: usize, of_diagonal: &[&[Weighted<'_>]], slots: &mut [[&mut [u64]; 2]]) {
        let (table, kernels) = (self.ctx.table(self.q_limbs, m), self.ctx.kernels());
        let mut terms: Vec<WeightedTerm<'_>> = Vec::new();
        for (weights, products) in of_diagonal.iter().enumerate() {
            terms.extend(products.iter().map(|product| product.term(weights)));
        }
        terms.sort_by_key(|term| term.target);
        let (period, form) = of_diagonal[0][0].kind();
        let size = 2 * period as usize;
        let pairs = table.multiplier(Values::Pairs, size).filter(|_| form == Form::Real);
        let words = if pairs.is_some() { size / 2 } else { size };
        with_scratch(words, of_diagonal.len(), |weights| {
            for (weights, products) in weights.iter_mut().zip(of_diagonal) {
                let diagonal = products[0].diagonal;
                match pairs {
                    Some(_) => {
                        diagonal.folded_residues(kernels, table.modulus(), table.imaginary_unit(), weights);
                    }
                    None => diagonal.residues(kernels, table.modulus(), weights),
                }
            }
            match (pairs, table.multiplier(Values::All, size)) {
                (Some(transform), _) => transform.dot_add(Values::Pairs, slots, weights, &terms),
                (None, Some(transform)) => transform.dot_add(Values::All, slots, weights, &terms),
                (None, None) => {
                    table.forward_subrings(weights);
                    for terms in terms.chunk_by(|x, y| x.target == y.target) {
                        let [c0, c1] = &mut slots[terms[0].target];
                        let terms: SmallVec<[PlainTerm<'_>; 32]> =
                            terms.iter().map(|term| term.plain(weights[term.weights])).collect();
                        kernels.plain_dot_add(modulus(self.ctx, self.q_limbs, m), [c0, c1], &terms);
                    }
                }
            }
        });
    }
}
