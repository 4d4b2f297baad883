//! What the diagonals of a shared map hold: the weights of several parts, each times the conjugate of the power of `X` that its part of
//! the joined operand comes with.
//!
//! Powers are taken modulo the period of the diagonals: what is left of them are powers of the imaginary unit, the same in every slot.
//! Parts whose powers agree but for those are one complex weight, and one product with a table.

use std::ops::Range;
use std::sync::OnceLock;

use peregrine_ckks::encoder::Complex;

use super::share::{Part, Sharing};

/// Numbers in slots.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Numbers {
    /// Real parts.
    pub(super) re: Vec<f64>,
    /// Imaginary parts; none where all numbers are real.
    pub(super) im: Vec<f64>,
}

impl Numbers {
    pub(super) fn len(&self) -> usize {
        self.re.len()
    }

    pub(super) fn is_real(&self) -> bool {
        self.im.is_empty()
    }

    /// As many real zeros.
    pub(super) fn clear_real(&mut self, len: usize) {
        self.re.clear();
        self.re.resize(len, 0.0);
        self.im.clear();
    }

    /// As many complex zeros.
    pub(super) fn clear_complex(&mut self, len: usize) {
        self.clear_real(len);
        self.im.resize(len, 0.0);
    }

    pub(super) fn complex(&self) -> Vec<Complex> {
        self.re.iter().zip(&self.im).map(|(&re, &im)| Complex { re, im }).collect()
    }
}

/// What `X^(power N/2W)` is in the slots of a period of `work` = W slots.
pub(super) fn powers_of_x(power: u32, work: u32) -> Numbers {
    // Exponents are modulo 4W, a power of two that divides 2^32.
    let order = 4 * work;
    let exponents = std::iter::successors(Some(1u32), |e| Some(e.wrapping_mul(5) & (order - 1)));
    let angle =
        |e: u32| std::f64::consts::TAU * f64::from(e.wrapping_mul(power) & (order - 1)) / f64::from(order);
    let (im, re) = exponents.take(work as usize).map(|e| angle(e).sin_cos()).unzip();
    Numbers { re, im }
}

/// A power of `X` modulo the period of diagonals, and its values, made when first needed.
#[derive(Clone, Debug)]
struct Residue {
    power: u32,
    phases: OnceLock<Numbers>,
}

/// What the diagonals of a term are spread over copies and parts with.
#[derive(Clone, Debug)]
pub(super) struct Spreading {
    pub(super) parts: Vec<Part>,
    /// Period of the diagonals.
    pub(super) work: u32,
    copies: u32,
    /// The distinct powers of parts.
    residues: Vec<Residue>,
}

impl Spreading {
    pub(super) fn new(sharing: &Sharing, period: u32) -> Self {
        let copies = sharing.copies();
        let work = period.saturating_mul(copies);
        let parts = sharing.parts(work);
        let mut powers: Vec<u32> = parts.iter().map(|part| part.power % work.max(1)).collect();
        powers.sort_unstable();
        powers.dedup();
        let residues = powers.into_iter().map(|power| Residue { power, phases: OnceLock::new() }).collect();
        Self { parts, work, copies, residues }
    }

    /// Whether diagonals are real.
    pub(super) fn is_real(&self) -> bool {
        self.parts.len() == 1
    }

    /// Whether powers are the same in every slot, so that diagonals do not depend on where they are read from.
    pub(super) fn is_even(&self) -> bool {
        self.residues.iter().all(|residue| residue.power == 0)
    }

    /// Bytes of the tables, once they are made.
    pub(super) fn table_bytes(&self) -> u64 {
        let tables = self.residues.iter().filter(|residue| residue.power != 0).count() as u64;
        tables * 2 * size_of::<f64>() as u64 * u64::from(self.work)
    }

    /// Indices of the distinct powers.
    pub(super) fn residues(&self) -> Range<usize> {
        0..self.residues.len()
    }

    /// Where the weights of a part go: the index of its power, whether they are imaginary, and their factor.
    pub(super) fn place(&self, part: u32) -> (usize, bool, f64) {
        let power = self.parts[part as usize].power;
        let (quarters, rest) = (power / self.work, power % self.work);
        // Times the conjugate of i to this power.
        let (imaginary, sign) =
            [(false, 1.0), (true, -1.0), (false, -1.0), (true, 1.0)][quarters as usize % 4];
        let residue = self.residues.iter().position(|residue| residue.power == rest).unwrap_or(0);
        (residue, imaginary, sign / f64::from(self.copies))
    }

    /// Adds the weights of the parts of a power, placed within a period, times the conjugate of that power to every copy. Slot t of the
    /// diagonal meets slot `t + reads` of the joined operand.
    pub(super) fn spread(&self, residue: usize, weights: &Numbers, reads: i64, slots: &mut Numbers) {
        let residue = &self.residues[residue];
        if residue.power == 0 {
            for (slots, weights) in [(&mut slots.re, &weights.re), (&mut slots.im, &weights.im)] {
                for copy in slots.chunks_mut(weights.len()) {
                    copy.iter_mut().zip(weights).for_each(|(slot, weight)| *slot += weight);
                }
            }
            return;
        }
        let phases = residue.phases.get_or_init(|| powers_of_x(residue.power, self.work));
        let reads = reads.rem_euclid(i64::from(self.work)) as usize;
        for Run { at, first, second, len } in runs(slots.len(), weights.len(), (phases.len(), reads)) {
            let weights = weights.re[first..][..len].iter().zip(&weights.im[first..][..len]);
            let phases = phases.re[second..][..len].iter().zip(&phases.im[second..][..len]);
            let slots = slots.re[at..][..len].iter_mut().zip(&mut slots.im[at..][..len]);
            for (((re, im), (w, v)), (c, s)) in slots.zip(weights).zip(phases) {
                *re += w * c + v * s;
                *im += v * c - w * s;
            }
        }
    }
}

/// Consecutive slots, `len` from slot `at` on, and where in two shorter vectors they are.
pub(super) struct Run {
    pub(super) at: usize,
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) len: usize,
}

/// The slots `0..length` in runs without a wrap-around of a vector and of another one that is read `by` slots further; all
/// lengths are powers of two.
pub(super) fn runs(length: usize, first: usize, (second, by): (usize, usize)) -> impl Iterator<Item = Run> {
    let run = move |at: usize| {
        let (a, b) = (at & (first - 1), (at + by) & (second - 1));
        let len = (length - at).min(first - a).min(second - b);
        (at < length).then_some(Run { at, first: a, second: b, len })
    };
    std::iter::successors(run(0), move |last| run(last.at + last.len))
}

#[cfg(test)]
mod tests {
    use super::super::share::Imaginary;
    use super::*;

    /// What the power of a part is in the slots.
    fn phases(spreading: &Spreading, part: u32) -> Vec<Complex> {
        powers_of_x(spreading.parts[part as usize].power, spreading.work).complex()
    }

    fn sharings() -> [Sharing; 4] {
        let of = |imaginary, shifts| Sharing { imaginary, shifts };
        [
            of(Imaginary::Nothing, vec![3, -5, 7]),
            of(Imaginary::Rotated(9), vec![]),
            of(Imaginary::Rotated(-2), vec![1, 16, 5, 8]),
            of(Imaginary::Next, vec![4]),
        ]
    }

    #[test]
    fn copies_and_the_imaginary_part_tell_the_parts_apart() {
        for sharing in sharings() {
            let period = 32;
            let spreading = Spreading::new(&sharing, period);
            let parts = spreading.parts.len() as u32;
            assert_eq!(parts, sharing.copies() * if sharing.is_complex() { 2 } else { 1 });
            assert_eq!(spreading.residues().len() as u32, sharing.copies());
            for (first, second) in (0..parts).flat_map(|a| (0..parts).map(move |b| (a, b))) {
                let (a, b) = (phases(&spreading, first), phases(&spreading, second));
                for slot in 0..period as usize {
                    let mut sum = Complex { re: 0.0, im: 0.0 };
                    for (a, b) in a.iter().zip(&b).skip(slot).step_by(period as usize) {
                        sum.re += a.re * b.re + a.im * b.im;
                        sum.im += a.re * b.im - a.im * b.re;
                    }
                    let expected = if first == second { f64::from(sharing.copies()) } else { 0.0 };
                    assert!((sum.re - expected).abs() < 1e-9, "{sharing:?}: {first} and {second}: {sum:?}");
                    assert!(sharing.is_complex() || sum.im.abs() < 1e-9, "{sharing:?}: {first}, {second}");
                }
            }
        }
    }

    #[test]
    fn weights_are_spread_with_the_conjugate_of_their_part() {
        for sharing in sharings() {
            let (period, reads) = (32usize, -7i64);
            let spreading = Spreading::new(&sharing, period as u32);
            let work = spreading.work as usize;
            for part in 0..spreading.parts.len() as u32 {
                let weights: Vec<f64> = (0..period).map(|t| (t * 7 % 11) as f64 - 3.0).collect();
                let (residue, imaginary, factor) = spreading.place(part);
                let mut placed = Numbers::default();
                placed.clear_complex(period);
                let axis = if imaginary { &mut placed.im } else { &mut placed.re };
                axis.iter_mut().zip(&weights).for_each(|(at, weight)| *at = factor * weight);
                let mut slots = Numbers::default();
                slots.clear_complex(work);
                spreading.spread(residue, &placed, reads, &mut slots);
                let phases = phases(&spreading, part);
                for (t, slot) in slots.complex().into_iter().enumerate() {
                    let phase = phases[(t as i64 + reads).rem_euclid(work as i64) as usize];
                    let weight = weights[t % period] / f64::from(sharing.copies());
                    let apart = (slot.re - weight * phase.re).abs() + (slot.im + weight * phase.im).abs();
                    assert!(apart < 1e-12, "{sharing:?}: part {part}, slot {t}: {slot:?}");
                }
            }
        }
    }
}
