//! The homomorphic DFT as a product of sparse matrices (Cheon, Han, Hhan, eprint 2018/1073; Bossuat et al., eprint 2020/1203 §4).
//!
//! On `p` slots the special FFT is bit reversal followed by butterfly stages of half length `h = 1, 2, .., p/2`. Without the
//! reversal the stages alone bring slots to (bit-reversed) coefficients, and their inverses in opposite order bring them back,
//! so that the reversal is never computed. Neighbouring stages are merged into groups; a group of `k` stages is a matrix with
//! at most `2^(k+1) - 1` diagonals at multiples of its smallest `h`.

use std::collections::{BTreeMap, BTreeSet};

use crate::encoder::{Complex, SpecialFft};
use crate::evaluator::linear::{DiagonalId, GiantStep, LinearPlan, Stage, Term};
use crate::units::{Rotation, Slots};

#[cfg(test)]
mod tests;

/// A matrix on vectors of `p` slots: `(M z)[i] = sum_r diagonal_r[i] * z[i + r]`, indices modulo `p`.
type Diagonals = BTreeMap<usize, Vec<Complex>>;

/// One factor of a DFT.
#[derive(Debug, Clone)]
pub(super) struct Factor {
    /// Baby steps and giant steps.
    pub(super) plan: LinearPlan,
    /// One vector for each `DiagonalId` of the plan.
    pub(super) diagonals: Vec<Vec<Complex>>,
}

/// A group of stages: the smallest half length, and how many.
#[derive(Clone, Copy)]
struct Group {
    unit: usize,
    stages: u32,
}

/// Factors of the map from slots to bit-reversed coefficients, in order of application. `groups` are the numbers of stages;
/// `max` are the slots of the ring, modulo which rotations are taken.
pub(super) fn slots_to_coeffs(slots: Slots, groups: &[u32], max: Slots) -> Vec<Factor> {
    let fft = SpecialFft::new(slots.get() as usize);
    let mut unit = 1;
    let build = |&stages: &u32| {
        let halves = (0..stages).map(|s| unit << s);
        let matrix = halves
            .fold(identity(slots), |matrix, half| compose(&stage(&fft, half, Butterfly::forward), &matrix));
        let group = Group { unit, stages };
        unit <<= stages;
        factor(&matrix, group, slots, max)
    };
    groups.iter().map(build).collect()
}

/// Factors of the inverse map times `constant`, in order of application.
pub(super) fn coeffs_to_slots(slots: Slots, groups: &[u32], max: Slots, constant: f64) -> Vec<Factor> {
    let fft = SpecialFft::new(slots.get() as usize);
    let share = (constant / f64::from(slots.get())).powf(1.0 / groups.len() as f64);
    let mut end = slots.get() as usize;
    let build = |&stages: &u32| {
        let halves = (1..=stages).map(|s| end >> s);
        let mut matrix = halves
            .fold(identity(slots), |matrix, half| compose(&stage(&fft, half, Butterfly::inverse), &matrix));
        matrix.values_mut().flatten().for_each(|entry| *entry = entry.scale(share));
        end >>= stages;
        factor(&matrix, Group { unit: end, stages }, slots, max)
    };
    groups.iter().map(build).collect()
}

fn identity(slots: Slots) -> Diagonals {
    BTreeMap::from([(0, vec![Complex::ONE; slots.get() as usize])])
}

/// A butterfly on a pair of slots: `low' = low + high_to_low * high`, `high' = low_to_high * low + high_to_high * high`.
struct Butterfly {
    high_to_low: Complex,
    low_to_high: Complex,
    high_to_high: Complex,
}

impl Butterfly {
    fn forward(twiddle: Complex) -> Self {
        Self { high_to_low: twiddle, low_to_high: Complex::ONE, high_to_high: twiddle.scale(-1.0) }
    }

    /// The inverse of [`forward`](Self::forward), times two.
    fn inverse(twiddle: Complex) -> Self {
        let back = twiddle.conj();
        Self { high_to_low: Complex::ONE, low_to_high: back, high_to_high: back.scale(-1.0) }
    }
}

/// The stage of half length `half` in diagonals.
fn stage(fft: &SpecialFft, half: usize, butterfly: impl Fn(Complex) -> Butterfly) -> Diagonals {
    let p = fft.size();
    let mut matrix = Diagonals::new();
    let mut add = |rotation: usize, i: usize, entry: Complex| {
        let diagonal = matrix.entry(rotation).or_insert_with(|| vec![Complex::default(); p]);
        diagonal[i] = diagonal[i].add(entry);
    };
    for (k, &twiddle) in fft.stage(half).iter().enumerate() {
        let Butterfly { high_to_low, low_to_high, high_to_high } = butterfly(twiddle);
        for low in (k..p).step_by(2 * half) {
            let high = low + half;
            add(0, low, Complex::ONE);
            add(half, low, high_to_low);
            add(p - half, high, low_to_high);
            add(0, high, high_to_high);
        }
    }
    matrix
}

/// The product `left * right`: `right` is applied first.
fn compose(left: &Diagonals, right: &Diagonals) -> Diagonals {
    let mut product = Diagonals::new();
    for (r, left) in left {
        for (s, right) in right {
            let p = left.len();
            let sum = product.entry((r + s) % p).or_insert_with(|| vec![Complex::default(); p]);
            for (i, (sum, entry)) in sum.iter_mut().zip(left).enumerate() {
                *sum = sum.add(entry.mul(right[(i + r) % p]));
            }
        }
    }
    product
}

/// Plans of the factors of [`slots_to_coeffs`], without their diagonals.
pub(super) fn slots_to_coeffs_plans(slots: Slots, groups: &[u32], max: Slots) -> Vec<LinearPlan> {
    let mut unit = 1;
    let build = |&stages: &u32| {
        let group = Group { unit, stages };
        unit <<= stages;
        split(&group.places(slots), group, slots, max).0
    };
    groups.iter().map(build).collect()
}

/// Plans of the factors of [`coeffs_to_slots`], without their diagonals.
pub(super) fn coeffs_to_slots_plans(slots: Slots, groups: &[u32], max: Slots) -> Vec<LinearPlan> {
    let mut end = slots.get() as usize;
    let build = |&stages: &u32| {
        end >>= stages;
        let group = Group { unit: end, stages };
        split(&group.places(slots), group, slots, max).0
    };
    groups.iter().map(build).collect()
}

impl Group {
    /// The diagonals of the group's matrix: sums of 0 or plus or minus the half length of each stage.
    fn places(self, slots: Slots) -> Vec<usize> {
        let p = slots.get() as usize;
        let stage = |places: BTreeSet<usize>, s: u32| {
            let half = self.unit << s;
            places.iter().flat_map(|&place| [place, (place + half) % p, (place + p - half) % p]).collect()
        };
        (0..self.stages).fold(BTreeSet::from([0]), stage).into_iter().collect()
    }
}

/// A matrix as baby steps and giant steps with its diagonals.
fn factor(matrix: &Diagonals, group: Group, slots: Slots, max: Slots) -> Factor {
    let p = slots.get() as usize;
    let places: Vec<usize> = matrix.keys().copied().collect();
    let (plan, turns) = split(&places, group, slots, max);
    let turned =
        |(diagonal, turn): (&Vec<Complex>, usize)| (0..p).map(|i| diagonal[(i + p - turn) % p]).collect();
    Factor { plan, diagonals: matrix.values().zip(turns).map(turned).collect() }
}

/// Splits the diagonals of a group, in ascending order, in baby steps and giant steps; gives the rotation of each diagonal's giant
/// step too. With `2^m` places for diagonals there are `2^ceil(m/2)` babies.
fn split(places: &[usize], group: Group, slots: Slots, max: Slots) -> (LinearPlan, Vec<usize>) {
    let Group { unit, stages } = group;
    let p = slots.get() as usize;
    let wraps = unit << stages == p;
    // Places of diagonals start at 0, or at -2^stages for a group whose diagonals do not wrap around.
    let (places_log2, start) = if wraps { (stages, 0) } else { (stages + 1, unit << stages) };
    let babies = 1usize << places_log2.div_ceil(2);
    let rotation = |steps: usize| Rotation::new((steps % p) as i64, max);
    let mut turns = Vec::with_capacity(places.len());
    let mut giants: BTreeMap<usize, GiantStep> = BTreeMap::new();
    for &place in places {
        let shifted = (place + start) % p / unit;
        let (giant, baby) = (shifted / babies, shifted % babies);
        let turn = (giant * babies * unit + p - start) % p;
        let diagonal = DiagonalId(turns.len() as u32);
        turns.push(turn);
        let step = giants.entry(giant);
        let step =
            step.or_insert_with(|| GiantStep { output: 0, rotation: rotation(turn), terms: Vec::new() });
        step.terms.push(Term { input: 0, baby: baby as u32, diagonal });
    }
    let stage = Stage { giants: giants.into_values().collect(), ..Stage::default() };
    let table = vec![(0..babies).map(|baby| rotation(baby * unit)).collect()];
    (LinearPlan { inputs: 1, outputs: 1, babies: table, stages: vec![stage], ..LinearPlan::default() }, turns)
}
