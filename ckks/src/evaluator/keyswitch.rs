//! Hybrid key switching (Han and Ki, eprint 2019/688; centred digits; see `bconv`).
//!
//! A polynomial `c` of `l` limbs is cut in digits of `alpha` limbs. Each digit is raised to all `l + alpha` limbs of
//! `QP` (ModUp), the inner product with the key is taken there, and the result is divided by `P` (ModDown, rounded to
//! nearest). The automorphism of a rotation permutes the NTT values of the raised digits while the inner product reads
//! them, so that several rotations share one decomposition (hoisting, eprint 2018/244 §5). All loops run limb by limb,
//! limbs in parallel: the raised digits of one limb never leave the cache.

use std::ops::Range;

use rayon::prelude::*;
use smallvec::SmallVec;

use super::mod_down::{Divisor, mod_down};
use super::scratch::with_scratch;
use crate::arith::Modulus;
use crate::context::Context;
use crate::error::Error;
use crate::kernels::KeyTerm;
use crate::keys::SwitchingKey;
use crate::ring::automorphism::Automorphism;
use crate::ring::bconv::BaseConverter;
use crate::ring::poly::{Coeff, Ntt, RnsPoly};
use crate::units::{GaloisElement, Level};

#[cfg(test)]
mod tests;

/// Coefficients per job where a loop runs over coefficients of all limbs.
const CHUNK: usize = 4096;

/// Most limbs per job of a base conversion: its inputs are read once for all of them.
pub(super) const GROUP: usize = 4;

/// Limbs per job: fewer than [`GROUP`] if threads would otherwise go without work.
pub(super) fn group_size(limbs: usize) -> usize {
    (limbs / (2 * rayon::current_num_threads())).clamp(1, GROUP)
}

/// A polynomial modulo `QP` in two blocks, so that dividing by `P` leaves the `Q` block in place.
#[derive(Clone)]
pub(crate) struct QpPoly {
    pub(crate) q: RnsPoly<Ntt>,
    pub(crate) p: RnsPoly<Ntt>,
}

impl QpPoly {
    pub(crate) fn zero(ctx: &Context, q_limbs: usize) -> Self {
        let n = ctx.n();
        Self { q: RnsPoly::zero(n, q_limbs, 0), p: RnsPoly::zero(n, 0, ctx.p_moduli().len()) }
    }

    /// Unspecified content, for callers that write every limb.
    fn unspecified(ctx: &Context, q_limbs: usize) -> Self {
        let n = ctx.n();
        Self { q: RnsPoly::unspecified(n, q_limbs, 0), p: RnsPoly::unspecified(n, 0, ctx.p_moduli().len()) }
    }

    /// Q limbs, then P limbs.
    pub(crate) fn limbs_mut(&mut self) -> impl Iterator<Item = &mut [u64]> {
        self.q.limbs_mut().chain(self.p.limbs_mut())
    }

    /// Limb `m`, counting Q limbs first.
    pub(crate) fn limb(&self, m: usize) -> &[u64] {
        match m.checked_sub(self.q.q_limbs()) {
            None => self.q.limb(m),
            Some(k) => self.p.limb(k),
        }
    }
}

/// The two parts of a ciphertext modulo `QP`.
#[derive(Clone)]
pub(crate) struct QpPair {
    pub(crate) c0: QpPoly,
    pub(crate) c1: QpPoly,
}

impl QpPair {
    pub(crate) fn zero(ctx: &Context, q_limbs: usize) -> Self {
        Self { c0: QpPoly::zero(ctx, q_limbs), c1: QpPoly::zero(ctx, q_limbs) }
    }

    fn unspecified(ctx: &Context, q_limbs: usize) -> Self {
        Self { c0: QpPoly::unspecified(ctx, q_limbs), c1: QpPoly::unspecified(ctx, q_limbs) }
    }

    /// Both parts divided, rounded to nearest.
    pub(crate) fn divided(self, ctx: &Context, divisor: Divisor) -> (RnsPoly<Ntt>, RnsPoly<Ntt>) {
        both(mod_down(ctx, vec![self.c0, self.c1], divisor, |_, _, _| ()))
    }

    /// Limbs of both parts side by side, with their index.
    pub(crate) fn limb_pairs(&mut self) -> Vec<(usize, [&mut [u64]; 2])> {
        let pairs = self.c0.limbs_mut().zip(self.c1.limbs_mut());
        pairs.map(|(a, b)| [a, b]).enumerate().collect()
    }
}

/// The modulus of limb `m` of a polynomial modulo `QP` with `q_limbs` limbs modulo Q primes.
pub(crate) fn modulus(ctx: &Context, q_limbs: usize, m: usize) -> &Modulus {
    ctx.table(q_limbs, m).modulus()
}

/// Limb vectors `y_i` of a base conversion and, last, the quotients.
pub(super) type Views<'a> = SmallVec<[&'a [u64]; 16]>;

/// A polynomial cut in digits, each ready for conversion to any prime.
struct Decomposed<'a> {
    ctx: &'a Context,
    source: &'a RnsPoly<Ntt>,
    ranges: Vec<Range<usize>>,
    scaled: RnsPoly<Coeff>,
    /// One limb a digit.
    quotients: RnsPoly<Coeff>,
}

impl<'a> Decomposed<'a> {
    fn new(ctx: &'a Context, source: &'a RnsPoly<Ntt>) -> Self {
        ctx.count(ctx.shape(source.q_limbs()).raise());
        let (n, converters) = (ctx.n(), ctx.converters());
        let ranges: Vec<_> = converters.digit_ranges(source.q_limbs()).collect();
        let mut scaled: RnsPoly<Coeff> = RnsPoly::unspecified(n, source.q_limbs(), 0);
        scaled.par_limbs_mut().enumerate().for_each(|(i, limb)| {
            limb.copy_from_slice(source.limb(i));
            let range = &ranges[i / converters.alpha()];
            ctx.q_tables()[i].inverse_times(limb, converters.digit(range).scale_over_n(i - range.start));
        });
        let mut quotients: RnsPoly<Coeff> = RnsPoly::unspecified(n, ranges.len(), 0);
        for (j, range) in ranges.iter().enumerate() {
            let limbs: Views<'_> = range.clone().map(|i| scaled.limb(i)).collect();
            fill_quotients(ctx, converters.digit(range), &limbs, quotients.limb_mut(j));
        }
        Self { ctx, source, ranges, scaled, quotients }
    }

    fn digits(&self) -> usize {
        self.ranges.len()
    }

    /// Raises every digit to a group of limbs: digit `j` modulo the prime of limb `group[g]` goes, in the NTT domain,
    /// to `buffers[g * digits + j]`, or stays as it is in the source if the digit has this limb.
    fn raise(&self, group: &[usize], buffers: &mut [&mut [u64]]) {
        let (ctx, q_limbs, digits) = (self.ctx, self.source.q_limbs(), self.digits());
        let target = |m: usize| if m < q_limbs { m } else { m - q_limbs + ctx.q_moduli().len() };
        for (j, range) in self.ranges.iter().enumerate() {
            let views = views(&self.scaled, range, self.quotients.limb(j));
            let outputs = buffers.iter_mut().skip(j).step_by(digits).zip(group);
            let targets =
                outputs.filter(|(_, m)| !range.contains(m)).map(|(buffer, &m)| (target(m), &mut **buffer));
            ctx.converters().digit(range).convert(ctx.kernels(), &views, targets);
        }
        for (buffers, &m) in buffers.chunks_exact_mut(digits).zip(group) {
            let raised = buffers.iter_mut().zip(&self.ranges).filter(|(_, range)| !range.contains(&m));
            let mut raised: SmallVec<[&mut [u64]; 16]> = raised.map(|(buffer, _)| &mut **buffer).collect();
            ctx.table(q_limbs, m).forward_all(&mut raised);
        }
    }

    /// The digits modulo the prime of limb `m`, some of them raised.
    fn digits_of<'b>(&'b self, m: usize, raised: &[&'b [u64]]) -> SmallVec<[&'b [u64]; 16]> {
        let own = |(range, raised): (&Range<usize>, &&'b [u64])| match range.contains(&m) {
            true => self.source.limb(m),
            false => *raised,
        };
        self.ranges.iter().zip(raised).map(own).collect()
    }
}

fn views<'a>(scaled: &'a RnsPoly<Coeff>, range: &Range<usize>, quotients: &'a [u64]) -> Views<'a> {
    range.clone().map(|i| scaled.limb(i)).chain([quotients]).collect()
}

/// The quotients of a base conversion from the limbs `scaled`, coefficients in parallel.
pub(super) fn fill_quotients(ctx: &Context, converter: &BaseConverter, scaled: &[&[u64]], out: &mut [u64]) {
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        let part = chunk * CHUNK..chunk * CHUNK + out.len();
        let limbs: Views<'_> = scaled.iter().map(|limb| &limb[part.clone()]).collect();
        converter.quotients(ctx.kernels(), &limbs, out);
    });
}

/// `out = sum digit_j * key_j` on limb `m`, digits permuted on the fly.
pub(crate) fn key_product(
    ctx: &Context,
    (q_limbs, m): (usize, usize),
    digits: &[&[u64]],
    key: &SwitchingKey,
    permutation: &Automorphism,
    out: [&mut [u64]; 2],
) {
    let terms: SmallVec<[KeyTerm<'_>; 16]> = digits
        .iter()
        .zip(key.digits())
        .map(|(digit, part)| KeyTerm {
            digit,
            b: key_limb(part.b(), q_limbs, m),
            a: key_limb(part.a(), q_limbs, m),
        })
        .collect();
    ctx.kernels().key_dot(modulus(ctx, q_limbs, m), out, &terms, permutation);
}

/// Limb `m` of a key that may be of a higher level than the `q_limbs` in use.
fn key_limb(key: &RnsPoly<Ntt>, q_limbs: usize, m: usize) -> &[u64] {
    match m.checked_sub(q_limbs) {
        None => key.limb(m),
        Some(k) => key.p_limb(k),
    }
}

/// Whether `key` belongs to this ring and reaches the level of `q_limbs` limbs.
fn check_key(ctx: &Context, op: &'static str, key: &SwitchingKey, q_limbs: usize) -> Result<(), Error> {
    let level = Level(q_limbs.saturating_sub(1) as u32);
    if key.level() < level {
        return Err(Error::LevelOutOfRange { op, level, max: key.level() });
    }
    let shape = |what, found, expected| {
        if found == expected { Ok(()) } else { Err(Error::Shape { op, what, found, expected }) }
    };
    shape("number of key digits", key.digits().len(), ctx.params().digits_at(key.level()))?;
    for poly in key.digits().iter().flat_map(|digit| [digit.b(), digit.a()]) {
        shape("ring degree of the key", poly.n(), ctx.n())?;
        shape("number of Q limbs of the key", poly.q_limbs(), key.level().limbs())?;
        shape("number of P limbs of the key", poly.p_limbs(), ctx.p_moduli().len())?;
    }
    Ok(())
}

/// Whether `key` is the one of `element` and fits, and its permutation.
pub(crate) fn rotation_key(
    ctx: &Context,
    key: &SwitchingKey,
    element: GaloisElement,
    q_limbs: usize,
) -> Result<std::sync::Arc<Automorphism>, Error> {
    if key.element() != Some(element) {
        let level = Level(q_limbs.saturating_sub(1) as u32);
        return Err(Error::MissingKey { element, level, available: None });
    }
    check_key(ctx, "rotate", key, q_limbs)?;
    ctx.automorphism(element)
}

/// Decomposes `source` and calls `visit(m, digits, limbs)` for each limb `m` of `QP` with the raised digits modulo its
/// prime and the two limbs of `target`, limbs in parallel.
pub(crate) fn for_each_raised(
    ctx: &Context,
    source: &RnsPoly<Ntt>,
    target: &mut QpPair,
    visit: impl Fn(usize, &[&[u64]], [&mut [u64]; 2]) + Sync,
) {
    let decomposed = Decomposed::new(ctx, source);
    let digits = decomposed.digits();
    let pairs = target.limb_pairs();
    let group_size = group_size(pairs.len());
    pairs.into_par_iter().chunks(group_size).for_each(|group| {
        with_scratch(ctx.n(), GROUP * digits, |buffers| {
            let members: SmallVec<[usize; GROUP]> = group.iter().map(|(m, _)| *m).collect();
            decomposed.raise(&members, buffers);
            for ((m, limbs), buffers) in group.into_iter().zip(buffers.chunks_exact(digits)) {
                let raised: SmallVec<[&[u64]; 16]> = buffers.iter().map(|buffer| &**buffer).collect();
                visit(m, &decomposed.digits_of(m, &raised), limbs);
            }
        });
    });
}

/// The inner product of the digits of `source` with a key, modulo `QP`.
fn switch_qp(ctx: &Context, source: &RnsPoly<Ntt>, key: &SwitchingKey, permutation: &Automorphism) -> QpPair {
    let q_limbs = source.q_limbs();
    ctx.count(ctx.shape(q_limbs).key_product());
    let mut pair = QpPair::unspecified(ctx, q_limbs);
    for_each_raised(ctx, source, &mut pair, |m, digits, out| {
        key_product(ctx, (q_limbs, m), digits, key, permutation, out);
    });
    pair
}

/// Switches `source`, which multiplies the key's secret `s'`, to the pair that decrypts under `s` to the same product.
///
/// # Errors
/// [`Error::LevelOutOfRange`] if the key is for lower levels only, [`Error::Shape`] if it belongs to another ring.
pub fn switch(
    ctx: &Context,
    source: &RnsPoly<Ntt>,
    key: &SwitchingKey,
) -> Result<(RnsPoly<Ntt>, RnsPoly<Ntt>), Error> {
    check_key(ctx, "key switch", key, source.q_limbs())?;
    let identity = ctx.automorphism(GaloisElement::IDENTITY)?;
    let pair = switch_qp(ctx, source, key, &identity);
    Ok(finish_switch(ctx, pair, |_, _| ()))
}

/// `(added + switched source) / q_top`, rounded to nearest, where the switch's own division by `P` is not rounded before.
///
/// # Errors
/// As [`switch`]. The source has at least two limbs.
pub(super) fn switch_add_rescale(
    ctx: &Context,
    source: &RnsPoly<Ntt>,
    added: [&RnsPoly<Ntt>; 2],
    key: &SwitchingKey,
) -> Result<(RnsPoly<Ntt>, RnsPoly<Ntt>), Error> {
    let q_limbs = source.q_limbs();
    check_key(ctx, "key switch", key, q_limbs)?;
    let identity = ctx.automorphism(GaloisElement::IDENTITY)?;
    ctx.count(ctx.shape(q_limbs).key_product() + ctx.shape(q_limbs).passes(2.0));
    let mut pair = QpPair::unspecified(ctx, q_limbs);
    for_each_raised(ctx, source, &mut pair, |m, digits, [b, a]| {
        key_product(ctx, (q_limbs, m), digits, key, &identity, [&mut *b, &mut *a]);
        if m < q_limbs {
            let (q, p_mod_q) = (&ctx.q_moduli()[m], ctx.converters().p_mod_q(m));
            for (out, added) in [b, a].into_iter().zip(added) {
                ctx.kernels().mul_scalar_add_assign(q, out, added.limb(m), p_mod_q);
            }
        }
    });
    Ok(pair.divided(ctx, Divisor::SpecialAndTop))
}

/// The image of the ciphertext `(c0, c1)` under an automorphism, switched back to `s`.
///
/// # Errors
/// As [`switch`], and [`Error::MissingKey`] if `key` is not the one of `element`.
pub fn rotate(
    ctx: &Context,
    c0: &RnsPoly<Ntt>,
    c1: &RnsPoly<Ntt>,
    element: GaloisElement,
    key: &SwitchingKey,
) -> Result<(RnsPoly<Ntt>, RnsPoly<Ntt>), Error> {
    let permutation = rotation_key(ctx, key, element, c1.q_limbs())?;
    let pair = switch_qp(ctx, c1, key, &permutation);
    Ok(finish_rotation(ctx, pair, c0, &permutation))
}

/// Divides by `P`; `finish(i, limb)` may add to limb `i` of the first part.
fn finish_switch(
    ctx: &Context,
    pair: QpPair,
    finish: impl Fn(usize, &mut [u64]) + Sync,
) -> (RnsPoly<Ntt>, RnsPoly<Ntt>) {
    let first_part = |part, i, limb: &mut [u64]| {
        if part == 0 {
            finish(i, limb);
        }
    };
    both(mod_down(ctx, vec![pair.c0, pair.c1], Divisor::Special, first_part))
}

fn both(parts: Vec<RnsPoly<Ntt>>) -> (RnsPoly<Ntt>, RnsPoly<Ntt>) {
    match <[RnsPoly<Ntt>; 2]>::try_from(parts) {
        Ok([c0, c1]) => (c0, c1),
        Err(_) => unreachable!("two parts in, two parts out"),
    }
}

fn finish_rotation(
    ctx: &Context,
    pair: QpPair,
    c0: &RnsPoly<Ntt>,
    permutation: &Automorphism,
) -> (RnsPoly<Ntt>, RnsPoly<Ntt>) {
    ctx.count(ctx.shape(c0.q_limbs()).passes(1.0));
    finish_switch(ctx, pair, |i, limb| {
        ctx.kernels().permute_add(&ctx.q_moduli()[i], limb, c0.limb(i), permutation);
    })
}

/// A polynomial cut in digits and raised to `QP` once, for many automorphisms.
pub struct Hoisted<'a> {
    ctx: &'a Context,
    source: &'a RnsPoly<Ntt>,
    digits: usize,
    ranges: Vec<Range<usize>>,
    /// Digit `j` modulo the prime of limb `m` at `m * digits + j`; unused where the source has that limb.
    raised: RnsPoly<Ntt>,
}

impl<'a> Hoisted<'a> {
    /// Decomposes `c1`.
    pub fn new(ctx: &'a Context, c1: &'a RnsPoly<Ntt>) -> Self {
        let decomposed = Decomposed::new(ctx, c1);
        let digits = decomposed.digits();
        let limbs = c1.q_limbs() + ctx.p_moduli().len();
        let mut raised: RnsPoly<Ntt> = RnsPoly::unspecified(ctx.n(), limbs * digits, 0);
        let n = ctx.n();
        let size = group_size(limbs);
        raised.words_mut().par_chunks_mut(size * digits * n).enumerate().for_each(|(group, words)| {
            let members: SmallVec<[usize; GROUP]> = (group * size..limbs.min((group + 1) * size)).collect();
            let mut buffers: SmallVec<[&mut [u64]; 32]> = words.chunks_exact_mut(n).collect();
            decomposed.raise(&members, &mut buffers);
        });
        Self { ctx, source: c1, digits, ranges: decomposed.ranges, raised }
    }

    fn digit_limb(&self, m: usize, j: usize) -> &[u64] {
        if self.ranges[j].contains(&m) { self.source.limb(m) } else { self.raised.limb(m * self.digits + j) }
    }

    /// The inner product with a key on limb `m`, modulo `QP`.
    pub(crate) fn product(
        &self,
        m: usize,
        key: &SwitchingKey,
        permutation: &Automorphism,
        out: [&mut [u64]; 2],
    ) {
        let digits: SmallVec<[&[u64]; 16]> = (0..self.digits).map(|j| self.digit_limb(m, j)).collect();
        key_product(self.ctx, (self.source.q_limbs(), m), &digits, key, permutation, out);
    }

    /// The image of `(c0, c1)` under an automorphism, switched back to `s`.
    ///
    /// # Errors
    /// As [`rotate`].
    pub fn rotate(
        &self,
        c0: &RnsPoly<Ntt>,
        element: GaloisElement,
        key: &SwitchingKey,
    ) -> Result<(RnsPoly<Ntt>, RnsPoly<Ntt>), Error> {
        let ctx = self.ctx;
        let permutation = rotation_key(ctx, key, element, self.source.q_limbs())?;
        ctx.count(ctx.shape(self.source.q_limbs()).key_product());
        let mut pair = QpPair::unspecified(ctx, self.source.q_limbs());
        pair.limb_pairs().into_par_iter().for_each(|(m, out)| self.product(m, key, &permutation, out));
        Ok(finish_rotation(ctx, pair, c0, &permutation))
    }
}
