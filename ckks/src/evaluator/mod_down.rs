//! Division of polynomials modulo `QP`: by `P` (ModDown), or by `P` and the top prime at once.
//!
//! The second is a ModDown and a rescale with one rounding. It saves the rescale's transforms, two for each limb that is
//! left: the top prime is simply one more prime that the base conversion starts from.

use rayon::prelude::*;
use smallvec::SmallVec;

use super::keyswitch::{GROUP, QpPoly, Views, fill_quotients, group_size};
use super::scratch::with_scratch;
use crate::arith::ShoupFactor;
use crate::context::Context;
use crate::cost::Ending;
use crate::ring::bconv::BaseConverter;
use crate::ring::poly::{Coeff, Ntt, RnsPoly};

/// What a polynomial modulo `QP` is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Divisor {
    /// The product `P` of the special primes.
    Special,
    /// `P` and the top prime of a polynomial of at least two limbs.
    SpecialAndTop,
}

impl From<Divisor> for Ending {
    fn from(divisor: Divisor) -> Ending {
        match divisor {
            Divisor::Special => Ending::ModDown,
            Divisor::SpecialAndTop => Ending::ModDownRescale,
        }
    }
}

/// The constants of one division.
struct Division<'a> {
    ctx: &'a Context,
    converter: &'a BaseConverter,
    /// The inverse of the divisor modulo each prime that stays.
    inverses: &'a [ShoupFactor],
    kept: usize,
}

impl<'a> Division<'a> {
    fn new(ctx: &'a Context, divisor: Divisor, q_limbs: usize) -> Self {
        let set = ctx.converters();
        let (converter, inverses, kept) = match divisor {
            Divisor::Special => (set.special(), set.inverse_p(), q_limbs),
            Divisor::SpecialAndTop => (set.merged(q_limbs - 1), set.inverse_merged(q_limbs - 1), q_limbs - 1),
        };
        Self { ctx, converter, inverses, kept }
    }

    /// Brings the limbs that go, those modulo `P` and those above the kept ones, to scaled coefficients in place.
    fn scale_removed(&self, parts: &mut [QpPoly]) {
        let removed = parts.iter_mut().flat_map(|QpPoly { q, p }| {
            let top = q.limbs_mut().zip(self.ctx.q_tables()).skip(self.kept);
            p.limbs_mut().zip(self.ctx.p_tables()).chain(top).enumerate()
        });
        removed.collect::<Vec<_>>().into_par_iter().for_each(|(k, (limb, table))| {
            table.inverse_times(limb, self.converter.scale_over_n(k));
        });
    }

    /// `limb = (limb - remainder) / divisor` for some limbs of all parts: `group` has their indices and their words by part.
    fn divide_group(
        &self,
        group: Vec<(usize, SmallVec<[&mut [u64]; 2]>)>,
        removed: &[Views<'_>],
        finish: &(impl Fn(usize, usize, &mut [u64]) + Sync),
    ) {
        let (ctx, kernels) = (self.ctx, self.ctx.kernels());
        with_scratch(ctx.n(), GROUP * removed.len(), |buffers| {
            for (part, removed) in removed.iter().enumerate() {
                let buffers = buffers[part * GROUP..].iter_mut();
                let targets = group.iter().zip(buffers).map(|((i, _), buffer)| (*i, &mut **buffer));
                self.converter.convert(kernels, removed, targets);
            }
            for (place, (i, limbs)) in group.into_iter().enumerate() {
                let remainders = buffers.iter_mut().skip(place).step_by(GROUP).map(|limb| &mut **limb);
                let mut remainders: SmallVec<[&mut [u64]; 2]> = remainders.collect();
                ctx.q_tables()[i].forward_all(&mut remainders);
                for (part, (limb, remainder)) in limbs.into_iter().zip(remainders).enumerate() {
                    kernels.sub_mul_scalar_assign(&ctx.q_moduli()[i], limb, remainder, self.inverses[i]);
                    finish(part, i, limb);
                }
            }
        });
    }
}

/// Divides each polynomial, rounding to nearest; `finish(part, i, limb)` sees each limb while it is in cache.
pub(crate) fn mod_down(
    ctx: &Context,
    mut parts: Vec<QpPoly>,
    divisor: Divisor,
    finish: impl Fn(usize, usize, &mut [u64]) + Sync,
) -> Vec<RnsPoly<Ntt>> {
    let q_limbs = parts[0].q.q_limbs();
    let division = Division::new(ctx, divisor, q_limbs);
    ctx.count(ctx.shape(q_limbs).lower(divisor.into(), parts.len() as f64));
    division.scale_removed(&mut parts);
    divide_kept(&division, &mut parts, &finish);
    let divided = parts.into_iter().map(|QpPoly { mut q, .. }| {
        q.truncate(division.kept);
        q
    });
    divided.collect()
}

/// The second half, once the limbs that go are scaled coefficients.
fn divide_kept(
    division: &Division<'_>,
    parts: &mut [QpPoly],
    finish: &(impl Fn(usize, usize, &mut [u64]) + Sync),
) {
    let n = division.ctx.n();
    let mut quotients: RnsPoly<Coeff> = RnsPoly::unspecified(n, parts.len(), 0);
    let mut removed: SmallVec<[Views<'_>; 2]> = SmallVec::new();
    let mut kept: Vec<(usize, SmallVec<[&mut [u64]; 2]>)> =
        (0..division.kept).map(|i| (i, SmallVec::new())).collect();
    for QpPoly { q, p } in parts {
        let (low, top) = q.words_mut().split_at_mut(division.kept * n);
        removed.push(p.limbs().chain(top.chunks_exact(n)).collect());
        kept.iter_mut().zip(low.chunks_exact_mut(n)).for_each(|((_, limbs), limb)| limbs.push(limb));
    }
    for (removed, out) in removed.iter().zip(quotients.limbs_mut()) {
        fill_quotients(division.ctx, division.converter, removed, out);
    }
    removed.iter_mut().zip(quotients.limbs()).for_each(|(removed, quotients)| removed.push(quotients));
    let group_size = group_size(kept.len());
    let groups = kept.into_par_iter().chunks(group_size);
    groups.for_each(|group| division.divide_group(group, &removed, finish));
}
