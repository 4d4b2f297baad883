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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{DiagonalSource, GiantStep, LinearPlan, Stage, apply};
    use super::*;
    use crate::ciphertext::Ciphertext;
    use crate::context::Context;
    use crate::encoder::{Complex, Encoder};
    use crate::encrypt::encrypt_secret;
    use crate::error::Error;
    use crate::evaluator::Evaluator;
    use crate::kernels::Kernels;
    use crate::keys::{EvalKeys, KeyGenerator};
    use crate::params::{ParamsLiteral, PrimeSpec};
    use crate::units::{Level, Rotation, Scale, Slots};

    const SLOTS: u32 = 1 << 11;
    /// Results, each of an input of its own that the same is done to.
    const ALIKE: u32 = 10;
    const BABIES: u32 = 3;
    const GIANTS: u32 = 5;

    /// Real and complex diagonals of two periods.
    struct Mixed(Encoder);

    impl DiagonalSource for Mixed {
        fn diagonal(&self, DiagonalId(id): DiagonalId) -> Result<Arc<IntPlaintext>, Error> {
            let period = if id % 3 == 0 { SLOTS / 2 } else { SLOTS };
            let value = |slot: u32, part: u32| f64::from((slot * (id + 3) + 7 * part) % 19) / 19.0;
            let (slots, scale) = (Slots::new(period).expect("a power of two"), Scale::pow2(30));
            let plaintext = if id % 2 == 0 {
                let values: Vec<f64> = (0..period).map(|slot| value(slot, 0)).collect();
                self.0.encode(&values, slots, &scale)
            } else {
                let complex = |slot| Complex { re: value(slot, 0), im: value(slot, 1) };
                self.0.encode_complex(&(0..period).map(complex).collect::<Vec<_>>(), slots, &scale)
            };
            Ok(Arc::new(plaintext.expect("small values")))
        }
    }

    /// The last result has one diagonal that no other has.
    fn plan() -> LinearPlan {
        let turn = |by: u32| Rotation::new(by.into(), Slots::new(SLOTS).expect("a power of two"));
        let giant = |output: u32, g: u32| {
            let id = |baby| if (output, g, baby) == (ALIKE - 1, 0, 1) { 99 } else { g * BABIES + baby };
            let term = |baby| Term { input: output, baby, diagonal: DiagonalId(id(baby)) };
            GiantStep { output, rotation: turn(g * BABIES), terms: (0..BABIES).map(term).collect() }
        };
        let giants = (0..ALIKE).flat_map(|output| (0..GIANTS).map(move |g| giant(output, g))).collect();
        LinearPlan {
            inputs: ALIKE,
            outputs: ALIKE,
            babies: (0..ALIKE).map(|_| (0..BABIES).map(turn).collect()).collect(),
            stages: vec![Stage { giants, ..Stage::default() }],
            ..LinearPlan::default()
        }
    }

    #[test]
    fn diagonals_of_many_sums_give_the_same_bits_on_every_path() {
        let literal = ParamsLiteral {
            log_n: SLOTS.ilog2() + 1,
            q: [50, 40, 40].map(PrimeSpec::Bits).to_vec(),
            p: vec![PrimeSpec::Bits(50); 2],
        };
        let params = literal.check_insecure_for_tests().expect("valid");
        let context = |kernels| Context::with_kernels(&params, kernels).expect("valid");
        let (plan, reference) = (plan(), context(Kernels::scalar()));
        let generator = KeyGenerator::insecure_deterministic_for_tests(&reference, [5; 32]);
        let secret = generator.secret();
        let wanted: Vec<_> = plan.galois_elements(reference.n()).into_iter().map(|g| (g, Level(2))).collect();
        let keys: EvalKeys = generator.galois_set(&secret, &wanted).expect("valid").into_iter().collect();
        let encrypted = |input: u32| -> Ciphertext {
            let values: Vec<f64> =
                (0..SLOTS).map(|slot| f64::from((slot * (input + 2)) % 23) / 23.0).collect();
            let slots = Slots::new(SLOTS).expect("a power of two");
            let plaintext =
                Encoder::new(&reference).encode(&values, slots, &Scale::pow2(40)).expect("small values");
            let seeded = encrypt_secret(&reference, &secret, &plaintext, Level(2)).expect("valid level");
            seeded.expand(&reference).expect("own ciphertext")
        };
        let inputs: Vec<Ciphertext> = (0..ALIKE).map(encrypted).collect();
        let run = |ctx: &Context| {
            let source = Mixed(Encoder::new(ctx));
            let inputs: Vec<&Ciphertext> = inputs.iter().collect();
            apply(&Evaluator::new(ctx), &inputs, &plan, &source, &keys).expect("valid")
        };
        let expected = run(&reference);
        for kernels in Kernels::available() {
            assert!(run(&context(kernels)) == expected, "{kernels:?}");
        }
        let work = plan.work(|DiagonalId(id)| {
            let diagonal = Mixed(Encoder::new(&reference)).diagonal(DiagonalId(id)).expect("small values");
            (diagonal.period(), diagonal.form())
        });
        // Two portions of the results for each group of giant steps, and the one that only the last result has.
        let once = f64::from(GIANTS * BABIES * SLOTS);
        assert!(work.diagonal_words < 2.5 * 2.0 * once && work.diagonal_words > once, "{work:?}");
    }
}
