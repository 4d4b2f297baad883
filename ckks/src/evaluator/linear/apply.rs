//! Execution of a [`LinearPlan`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::batching::{Batching, is_rotated};
use super::plan::{Close, GiantOrder, GiantStep, LinearPlan, PlanError, Stage};
use super::sums::together;
use super::{DiagonalId, DiagonalSource, Term};
use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::cost::{Ending, LinearWork, Work};
use crate::error::Error;
use crate::evaluator::Evaluator;
use crate::evaluator::keyswitch::{Hoisted, QpPair, for_each_raised, key_product, modulus, rotation_key};
use crate::evaluator::mod_down::{Divisor, mod_down};
use crate::evaluator::scratch::with_scratch;
use crate::keys::{EvalKeys, SwitchingKey};
use crate::plaintext::IntPlaintext;
use crate::ring::automorphism::Automorphism;
use crate::ring::poly::{Ntt, RnsPoly};
use crate::units::{GaloisElement, Level, Rotation, Scale};

const OP: &str = "linear transform";

/// Applies `plan`. The inputs are at one level; for every term, input scale times diagonal scale is the same, and is the
/// scale of the results, which are not rescaled. The results are at the level of the inputs.
///
/// # Errors
/// [`Error::Plan`] for a plan that makes no sense or the wrong number of inputs, [`Error::LevelMismatch`],
/// [`Error::ScaleMismatch`], [`Error::MissingKey`], [`Error::TooManySlots`] for a diagonal longer than the ring's
/// slots, and whatever `diagonals` answers.
pub fn apply(
    ev: &Evaluator,
    inputs: &[&Ciphertext],
    plan: &LinearPlan,
    diagonals: &dyn DiagonalSource,
    keys: &EvalKeys,
) -> Result<Vec<Ciphertext>, Error> {
    apply_in_room(ev, inputs, plan, diagonals, keys, (Ending::ModDown, u64::MAX))
}

/// [`apply`], and a rescale with the same rounding, faster than one after the other: results one level lower, their scale
/// divided by the top prime.
///
/// # Errors
/// As [`apply`], and [`Error::NoLevelLeft`] for inputs at level 0.
pub fn apply_rescaled(
    ev: &Evaluator,
    inputs: &[&Ciphertext],
    plan: &LinearPlan,
    diagonals: &dyn DiagonalSource,
    keys: &EvalKeys,
) -> Result<Vec<Ciphertext>, Error> {
    apply_in_room(ev, inputs, plan, diagonals, keys, (Ending::ModDownRescale, u64::MAX))
}

/// [`apply`] or [`apply_rescaled`], in portions that take at most so many bytes as far as there are such portions (see
/// [`Batching::in_room`]). The result does not depend on them.
///
/// # Errors
/// Those of [`apply`] or [`apply_rescaled`].
pub fn apply_in_room(
    ev: &Evaluator,
    inputs: &[&Ciphertext],
    plan: &LinearPlan,
    diagonals: &dyn DiagonalSource,
    keys: &EvalKeys,
    (ending, room): (Ending, u64),
) -> Result<Vec<Ciphertext>, Error> {
    let level = check(ev, inputs, plan)?;
    if ending == Ending::ModDownRescale && level == Level(0) {
        return Err(Error::NoLevelLeft { op: OP, level });
    }
    let batching = Batching::in_room(room, plan, ev.context().params(), level);
    let (sums, scale) = transformed(ev, inputs, (plan, &batching), diagonals, keys)?;
    let (by, kind) = match ending {
        Ending::ModDown => (Divisor::Special, (level, scale)),
        Ending::ModDownRescale => (Divisor::SpecialAndTop, Evaluator::rescaled(OP, level, &scale)?),
    };
    Ok(divide(ev.context(), sums, by, kind))
}

fn divide(ctx: &Context, sums: Vec<QpPair>, by: Divisor, (level, scale): (Level, Scale)) -> Vec<Ciphertext> {
    let output = |sum: QpPair| {
        let (c0, c1) = sum.divided(ctx, by);
        Ciphertext { c0, c1, level, scale: scale.clone() }
    };
    sums.into_iter().map(output).collect()
}

/// The outputs of a checked plan times `P`, modulo `QP`, and their scale.
fn transformed(
    ev: &Evaluator,
    inputs: &[&Ciphertext],
    (plan, batching): (&LinearPlan, &Batching),
    diagonals: &dyn DiagonalSource,
    keys: &EvalKeys,
) -> Result<(Vec<QpPair>, Scale), Error> {
    let mut made: Vec<Ciphertext> = Vec::with_capacity(plan.joined.len() + plan.turned.len());
    let operand = |made: &[Ciphertext], index: u32| -> Ciphertext {
        let index = index as usize;
        inputs.get(index).map_or_else(|| made[index - inputs.len()].clone(), |input| (*input).clone())
    };
    for join in &plan.joined {
        let (first, second) = (operand(&made, join.first), operand(&made, join.second));
        Evaluator::check_scales(OP, &first.scale, &second.scale)?;
        let rotated = if join.rotation.is_zero() { second } else { ev.rotate(&second, join.rotation, keys)? };
        made.push(ev.add(&first, &ev.mul_monomial(&rotated, join.power)?)?);
    }
    for turn in &plan.turned {
        made.push(ev.rotate(&operand(&made, turn.input), turn.rotation, keys)?);
    }
    let inputs: Vec<&Ciphertext> = inputs.iter().copied().chain(&made).collect();
    Transform::new(ev.context(), &inputs, plan, keys, inputs[0].level)?.run(diagonals, batching)
}

fn check(ev: &Evaluator, inputs: &[&Ciphertext], plan: &LinearPlan) -> Result<Level, Error> {
    plan.check()?;
    let Some(first) = inputs.first().filter(|_| inputs.len() == plan.inputs as usize) else {
        return Err(PlanError::InputCount { found: inputs.len(), expected: plan.inputs }.into());
    };
    for input in inputs {
        ev.check(OP, input)?;
        Evaluator::check_levels(OP, first.level, input.level)?;
    }
    Ok(first.level)
}

/// A key switch to a rotated polynomial.
#[derive(Clone)]
struct Step<'a> {
    key: &'a SwitchingKey,
    permutation: Arc<Automorphism>,
}

/// An input, decomposed if it is rotated, and multiplied by `P` modulo the Q primes.
pub(super) struct Operand<'a> {
    pub(super) hoisted: Option<Hoisted<'a>>,
    pub(super) lifted: [RnsPoly<Ntt>; 2],
}

/// Operands by input.
pub(super) type Operands<'a> = BTreeMap<u32, Operand<'a>>;

pub(super) struct Transform<'a> {
    pub(super) ctx: &'a Context,
    pub(super) plan: &'a LinearPlan,
    inputs: Vec<&'a Ciphertext>,
    steps: BTreeMap<Rotation, Step<'a>>,
    conjugation: Option<Step<'a>>,
    pub(super) q_limbs: usize,
}

/// A sum that waits for its rotation; one for each output.
type Running = Vec<Option<(QpPair, Rotation)>>;

/// What some giant steps add up, a batch of inputs at a time.
struct Giants<'a> {
    steps: &'a [GiantStep],
    order: GiantOrder,
    /// For each giant: which pair it adds to, outputs first.
    slots: Vec<usize>,
    /// The sums that wait for a rotation.
    partial: Vec<QpPair>,
}

/// The products of one batch of inputs for some giant steps.
pub(super) struct Pass<'a> {
    /// For each giant that has any: the pair it adds to, and its products.
    pub(super) sums: Vec<(usize, Vec<Product<'a>>)>,
    /// Which of them are made together.
    pub(super) together: Vec<Vec<usize>>,
    /// `(input, baby)` of every rotated input in use, and its place among the buffers.
    pub(super) babies: BTreeMap<(u32, u32), usize>,
    operands: BTreeSet<u32>,
}

/// A term and its diagonal.
pub(super) type Product<'a> = (&'a Term, Arc<IntPlaintext>);

impl<'a> Transform<'a> {
    pub(super) fn new(
        ctx: &'a Context,
        inputs: &[&'a Ciphertext],
        plan: &'a LinearPlan,
        keys: &'a EvalKeys,
        level: Level,
    ) -> Result<Self, Error> {
        let q_limbs = level.limbs();
        let later = plan.stages.iter().flat_map(|s| s.giants.iter().map(|g| &g.rotation).chain(&s.fold));
        let babies = plan.terms().filter_map(|term| plan.baby(term));
        let step = |element: GaloisElement| -> Result<Step<'a>, Error> {
            let key = keys.galois(element, level)?;
            let permutation = rotation_key(ctx, key, element, q_limbs)?;
            Ok(Step { key, permutation })
        };
        let mut steps = BTreeMap::new();
        for rotation in later.copied().chain(babies).filter(|r| !r.is_zero()) {
            steps.insert(rotation, step(GaloisElement::from_rotation(rotation, ctx.n()))?);
        }
        let conjugation = match plan.close {
            Close::Sum => None,
            Close::AddConjugate => Some(step(GaloisElement::conjugation(ctx.n()))?),
        };
        Ok(Self { ctx, plan, inputs: inputs.to_vec(), steps, conjugation, q_limbs })
    }

    /// Decomposes and lifts those of some inputs that terms use.
    fn operands(&self, inputs: impl IntoIterator<Item = u32>) -> Operands<'a> {
        let operand = |input: u32| {
            let ct = self.inputs[input as usize];
            let hoisted = is_rotated(self.plan, input).then(|| Hoisted::new(self.ctx, &ct.c1));
            (input, Operand { hoisted, lifted: [times_p(self.ctx, &ct.c0), times_p(self.ctx, &ct.c1)] })
        };
        let used = inputs.into_iter().filter(|&input| !self.plan.babies[input as usize].is_empty());
        used.map(operand).collect()
    }

    /// The outputs times `P`, modulo `QP`, and their scale.
    pub(super) fn run(
        &self,
        diagonals: &dyn DiagonalSource,
        batching: &Batching,
    ) -> Result<(Vec<QpPair>, Scale), Error> {
        let mut sums: Vec<_> = (0..self.plan.outputs).map(|_| QpPair::zero(self.ctx, self.q_limbs)).collect();
        let mut touched = vec![false; sums.len()];
        let mut scale = None;
        let kept = match &batching.inputs[..] {
            [all] => Some(self.operands(all.clone())),
            _ => None,
        };
        for stage in &self.plan.stages {
            let mut running: Running = sums.iter().map(|_| None).collect();
            for steps in stage.giants.chunks(batching.giants) {
                let mut giants = self.begin(stage, steps);
                for batch in &batching.inputs {
                    let pass = self.prepare(&giants, batch, diagonals, &mut scale)?;
                    self.count(&pass);
                    match &kept {
                        Some(operands) => self.add_products(&pass, operands, &mut sums, &mut giants.partial),
                        None => {
                            let operands = self.operands(pass.operands.iter().copied());
                            self.add_products(&pass, &operands, &mut sums, &mut giants.partial);
                        }
                    }
                }
                steps.iter().for_each(|giant| touched[giant.output as usize] = true);
                self.rotate_giants(giants, &mut sums, &mut running);
            }
            for (sum, running) in sums.iter_mut().zip(running) {
                if let Some((x, rotation)) = running {
                    self.add_switched(sum, x, self.steps.get(&rotation));
                }
            }
            for (sum, _) in sums.iter_mut().zip(&touched).filter(|(_, touched)| **touched) {
                for rotation in &stage.fold {
                    let copy = sum.clone();
                    self.add_switched(sum, copy, self.steps.get(rotation));
                }
            }
        }
        if let Some(conjugation) = &self.conjugation {
            for sum in &mut sums {
                let copy = sum.clone();
                self.add_switched(sum, copy, Some(conjugation));
            }
        }
        match scale {
            Some(scale) => Ok((sums, scale)),
            None => Err(PlanError::UnusedOutput { output: 0 }.into()),
        }
    }

    /// Assigns every giant step the pair that it adds to.
    fn begin(&self, stage: &Stage, steps: &'a [GiantStep]) -> Giants<'a> {
        let mut partial = Vec::new();
        let mut slot = |giant: &GiantStep| match joins_output(stage.order, giant) {
            true => giant.output as usize,
            false => {
                partial.push(QpPair::zero(self.ctx, self.q_limbs));
                self.plan.outputs as usize + partial.len() - 1
            }
        };
        let slots = steps.iter().map(&mut slot).collect();
        Giants { steps, order: stage.order, slots, partial }
    }

    /// Fetches the diagonals that some giant steps have for a batch of inputs, and assigns buffers.
    fn prepare(
        &self,
        giants: &Giants<'a>,
        batch: &Range<u32>,
        source: &dyn DiagonalSource,
        scale: &mut Option<Scale>,
    ) -> Result<Pass<'a>, Error> {
        let terms = |giant: &'a GiantStep| giant.terms.iter().filter(|term| batch.contains(&term.input));
        let used: BTreeSet<DiagonalId> =
            giants.steps.iter().flat_map(terms).map(|term| term.diagonal).collect();
        let fetch = |id: DiagonalId| Ok((id, source.diagonal(id)?));
        let diagonals: BTreeMap<DiagonalId, Arc<IntPlaintext>> =
            used.into_par_iter().map(fetch).collect::<Result<_, Error>>()?;
        let products = |(giant, &slot): (&'a GiantStep, &usize)| -> (usize, Vec<Product<'a>>) {
            (slot, terms(giant).map(|term| (term, diagonals[&term.diagonal].clone())).collect())
        };
        let sums: Vec<_> = giants.steps.iter().zip(&giants.slots).map(products).collect();
        let mut babies = BTreeMap::new();
        let mut operands = BTreeSet::new();
        for (term, diagonal) in sums.iter().flat_map(|(_, products)| products) {
            self.check_diagonal(term, diagonal, scale)?;
            operands.insert(term.input);
            if self.plan.baby(term).is_some_and(|r| !r.is_zero()) {
                let next = babies.len();
                babies.entry((term.input, term.baby)).or_insert(next);
            }
        }
        let sums: Vec<_> = sums.into_iter().filter(|(_, products)| !products.is_empty()).collect();
        let together =
            together(sums.iter().map(|(_, products)| products.iter().map(|(term, _)| term.diagonal)));
        Ok(Pass { sums, together, babies, operands })
    }

    fn check_diagonal(
        &self,
        term: &Term,
        diagonal: &IntPlaintext,
        scale: &mut Option<Scale>,
    ) -> Result<(), Error> {
        let max = self.ctx.params().max_slots();
        if diagonal.period() > max {
            return Err(Error::TooManySlots { op: OP, slots: diagonal.period(), max });
        }
        let product = self.inputs[term.input as usize].scale.mul(diagonal.scale());
        let expected = scale.get_or_insert_with(|| product.clone());
        Evaluator::check_scales(OP, expected, &product)
    }

    fn limbs(&self) -> usize {
        self.q_limbs + self.ctx.p_moduli().len()
    }

    /// Counts the rotations and products of a pass.
    fn count(&self, pass: &Pass<'_>) {
        let shape = self.ctx.shape(self.q_limbs);
        let mut work = LinearWork { babies: pass.babies.len() as f64, ..LinearWork::default() };
        for (term, _) in pass.sums.iter().flat_map(|(_, products)| products) {
            match pass.babies.contains_key(&(term.input, term.baby)) {
                true => work.products += 1.0,
                false => work.plain_products += 1.0,
            }
        }
        for sums in &pass.together {
            let products = sums.iter().flat_map(|&sum| &pass.sums[sum].1);
            let kind = |diagonal: &IntPlaintext| (diagonal.period().get(), diagonal.form());
            let distinct: BTreeMap<DiagonalId, _> =
                products.map(|(term, diagonal)| (term.diagonal, kind(diagonal))).collect();
            distinct.into_values().for_each(|kind| work.add_diagonals(kind, 1.0));
        }
        self.ctx.count(shape.linear(&work, Ending::ModDown));
    }

    /// Adds the products of a pass to the outputs and to the sums that wait.
    fn add_products(
        &self,
        pass: &Pass<'_>,
        operands: &Operands<'_>,
        sums: &mut [QpPair],
        partial: &mut [QpPair],
    ) {
        let mut limbs: Vec<Vec<[&mut [u64]; 2]>> = Vec::new();
        limbs.resize_with(self.limbs(), Vec::new);
        for pair in sums.iter_mut().chain(partial) {
            for (m, pair) in pair.limb_pairs() {
                limbs[m].push(pair);
            }
        }
        let limbs = limbs.into_par_iter().enumerate();
        limbs.for_each(|(m, mut slots)| self.products(pass, operands, m, &mut slots));
    }

    /// Rotates finished giant steps and adds them to the outputs, or to the running sums.
    fn rotate_giants(&self, giants: Giants<'_>, sums: &mut [QpPair], running: &mut Running) {
        let rotated = giants.steps.iter().filter(|giant| !joins_output(giants.order, giant));
        for (giant, mut partial) in rotated.zip(giants.partial) {
            let output = giant.output as usize;
            match giants.order {
                GiantOrder::Separate => {
                    self.add_switched(&mut sums[output], partial, self.steps.get(&giant.rotation));
                }
                GiantOrder::Chained => {
                    if let Some((x, rotation)) = running[output].take() {
                        self.add_switched(&mut partial, x, self.steps.get(&rotation));
                    }
                    running[output] = Some((partial, giant.rotation));
                }
            }
        }
    }

    /// The rotated input modulo `QP`, on limb `m`.
    pub(super) fn baby(&self, operand: &Operand<'_>, rotation: Rotation, m: usize, [b, a]: [&mut [u64]; 2]) {
        let (Some(hoisted), Some(step)) = (&operand.hoisted, self.steps.get(&rotation)) else {
            unreachable!("inputs with a rotation are decomposed and have its key");
        };
        hoisted.product(m, step.key, &step.permutation, [&mut *b, a]);
        if m < self.q_limbs {
            let c0 = operand.lifted[0].limb(m);
            self.ctx.kernels().permute_add(modulus(self.ctx, self.q_limbs, m), b, c0, &step.permutation);
        }
    }

    /// Adds the image of `x` under the automorphism of a step modulo `QP`, `x` itself without one: the second part of `x` is
    /// divided by `P` and switched, the first part stays as it is.
    fn add_switched(&self, sum: &mut QpPair, x: QpPair, step: Option<&Step<'_>>) {
        let (ctx, q_limbs, kernels) = (self.ctx, self.q_limbs, self.ctx.kernels());
        let Some(step) = step else {
            let limbs: Vec<_> = sum.limb_pairs();
            limbs.into_par_iter().for_each(|(m, [c0, c1])| {
                kernels.add_assign(modulus(ctx, q_limbs, m), c0, x.c0.limb(m));
                kernels.add_assign(modulus(ctx, q_limbs, m), c1, x.c1.limb(m));
            });
            return;
        };
        ctx.count(ctx.shape(q_limbs).key_product() + Work::passes(ctx.n(), 3.0 * self.limbs() as f64));
        let QpPair { c0: first, c1: second } = x;
        for second in mod_down(ctx, vec![second], Divisor::Special, |_, _, _| ()) {
            for_each_raised(ctx, &second, sum, |m, digits, [c0, c1]| {
                with_scratch(ctx.n(), 2, |products| {
                    let [b, a] = &mut products[..] else { unreachable!("two limbs") };
                    key_product(ctx, (q_limbs, m), digits, step.key, &step.permutation, [&mut **b, &mut **a]);
                    let q = modulus(ctx, q_limbs, m);
                    kernels.add_assign(q, c0, b);
                    kernels.permute_add(q, c0, first.limb(m), &step.permutation);
                    kernels.add_assign(q, c1, a);
                });
            });
        }
    }
}

/// Whether the products of a giant step go straight to the output.
fn joins_output(order: GiantOrder, giant: &GiantStep) -> bool {
    order == GiantOrder::Separate && giant.rotation.is_zero()
}

/// `P * x` modulo the Q primes.
fn times_p(ctx: &Context, x: &RnsPoly<Ntt>) -> RnsPoly<Ntt> {
    let mut lifted = x.clone();
    ctx.count(ctx.shape(x.q_limbs()).passes(1.0));
    lifted.par_limbs_mut().enumerate().for_each(|(i, limb)| {
        ctx.kernels().mul_scalar_assign(&ctx.q_moduli()[i], limb, ctx.converters().p_mod_q(i));
    });
    lifted
}
