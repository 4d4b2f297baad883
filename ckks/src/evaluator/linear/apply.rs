//! Execution of a [`LinearPlan`].

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use smallvec::SmallVec;

use super::plan::{GiantOrder, GiantStep, LinearPlan, PlanError, Stage, Turn};
use super::{DiagonalSource, Term};
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

/// Memory for the unfinished giant steps of one pass over the limbs; more giants take more passes.
const GIANT_BYTES: usize = 512 << 20;

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
    let level = check(ev, inputs, plan)?;
    let (sums, scale) = transformed(ev, inputs, plan, diagonals, keys)?;
    Ok(divide(ev.context(), sums, Divisor::Special, (level, scale)))
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
    let level = check(ev, inputs, plan)?;
    if level == Level(0) {
        return Err(Error::NoLevelLeft { op: OP, level });
    }
    let (sums, scale) = transformed(ev, inputs, plan, diagonals, keys)?;
    let kind = Evaluator::rescaled(OP, level, &scale)?;
    Ok(divide(ev.context(), sums, Divisor::SpecialAndTop, kind))
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
    plan: &LinearPlan,
    diagonals: &dyn DiagonalSource,
    keys: &EvalKeys,
) -> Result<(Vec<QpPair>, Scale), Error> {
    let turn = |turn: &Turn| ev.rotate(inputs[turn.input as usize], turn.rotation, keys);
    let turned: Vec<Ciphertext> = plan.turned.iter().map(turn).collect::<Result<_, _>>()?;
    let inputs: Vec<&Ciphertext> = inputs.iter().copied().chain(&turned).collect();
    Transform::new(ev.context(), &inputs, plan, keys, inputs[0].level)?.run(diagonals)
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
pub(super) struct Step<'a> {
    pub(super) key: &'a SwitchingKey,
    pub(super) permutation: Arc<Automorphism>,
}

/// An input, decomposed if it is rotated, and multiplied by `P` modulo the Q primes.
pub(super) struct Input<'a> {
    pub(super) hoisted: Option<Hoisted<'a>>,
    pub(super) lifted: [RnsPoly<Ntt>; 2],
}

pub(super) struct Transform<'a> {
    pub(super) ctx: &'a Context,
    pub(super) plan: &'a LinearPlan,
    pub(super) inputs: Vec<Input<'a>>,
    pub(super) scales: Vec<&'a Scale>,
    pub(super) steps: BTreeMap<Rotation, Step<'a>>,
    pub(super) q_limbs: usize,
}

/// A sum that waits for its rotation; one for each output.
type Running = Vec<Option<(QpPair, Rotation)>>;

/// Giant steps computed in one pass over the limbs, with the diagonals of their terms.
pub(super) struct Pass<'a> {
    pub(super) giants: &'a [GiantStep],
    pub(super) order: GiantOrder,
    pub(super) diagonals: Vec<Vec<Arc<IntPlaintext>>>,
    /// For each giant: which pair of limbs it adds to.
    pub(super) slots: Vec<usize>,
    /// `(input, baby)` of every rotated input in use, and its place among the buffers.
    pub(super) babies: BTreeMap<(u32, u32), usize>,
}

impl<'a> Transform<'a> {
    fn new(
        ctx: &'a Context,
        inputs: &[&'a Ciphertext],
        plan: &'a LinearPlan,
        keys: &'a EvalKeys,
        level: Level,
    ) -> Result<Self, Error> {
        let q_limbs = level.limbs();
        let later = plan.stages.iter().flat_map(|s| s.giants.iter().map(|g| &g.rotation).chain(&s.fold));
        let babies = plan.terms().filter_map(|term| plan.baby(term));
        let mut steps = BTreeMap::new();
        for rotation in later.copied().chain(babies).filter(|r| !r.is_zero()) {
            let element = GaloisElement::from_rotation(rotation, ctx.n());
            let key = keys.galois(element, level)?;
            let permutation = rotation_key(ctx, key, element, q_limbs)?;
            steps.insert(rotation, Step { key, permutation });
        }
        let lift = |(index, ct): (usize, &&'a Ciphertext)| {
            let mut terms = plan.terms().filter(|term| term.input as usize == index);
            let rotated = terms.any(|term| plan.baby(term).is_some_and(|r| !r.is_zero()));
            Input {
                hoisted: rotated.then(|| Hoisted::new(ctx, &ct.c1)),
                lifted: [times_p(ctx, &ct.c0), times_p(ctx, &ct.c1)],
            }
        };
        let scales = inputs.iter().map(|ct| &ct.scale).collect();
        let inputs = inputs.iter().enumerate().map(lift).collect();
        Ok(Self { ctx, plan, inputs, scales, steps, q_limbs })
    }

    /// The outputs times `P`, modulo `QP`, and their scale.
    fn run(&self, diagonals: &dyn DiagonalSource) -> Result<(Vec<QpPair>, Scale), Error> {
        let mut sums: Vec<_> = (0..self.plan.outputs).map(|_| QpPair::zero(self.ctx, self.q_limbs)).collect();
        let mut touched = vec![false; sums.len()];
        let mut scale = None;
        let giants_at_once = (GIANT_BYTES / (2 * self.limbs() * self.ctx.n() * size_of::<u64>())).max(1);
        for stage in &self.plan.stages {
            let mut running: Running = sums.iter().map(|_| None).collect();
            for giants in stage.giants.chunks(giants_at_once) {
                let pass = self.prepare(stage, giants, diagonals, &mut scale)?;
                self.count(&pass);
                self.giant_steps(&pass, &mut sums, &mut running);
                giants.iter().for_each(|giant| touched[giant.output as usize] = true);
            }
            for (sum, running) in sums.iter_mut().zip(running) {
                if let Some((x, rotation)) = running {
                    self.add_rotated(sum, x, rotation);
                }
            }
            for (sum, _) in sums.iter_mut().zip(&touched).filter(|(_, touched)| **touched) {
                for rotation in &stage.fold {
                    let copy = sum.clone();
                    self.add_rotated(sum, copy, *rotation);
                }
            }
        }
        match scale {
            Some(scale) => Ok((sums, scale)),
            None => Err(PlanError::UnusedOutput { output: 0 }.into()),
        }
    }

    /// Fetches the diagonals of some giant steps and assigns buffers.
    fn prepare(
        &self,
        stage: &Stage,
        giants: &'a [GiantStep],
        source: &dyn DiagonalSource,
        scale: &mut Option<Scale>,
    ) -> Result<Pass<'a>, Error> {
        let fetch = |giant: &GiantStep| -> Result<Vec<_>, Error> {
            giant.terms.par_iter().map(|term| source.diagonal(term.diagonal)).collect()
        };
        let diagonals: Vec<Vec<Arc<IntPlaintext>>> = giants.iter().map(fetch).collect::<Result<_, _>>()?;
        let mut babies = BTreeMap::new();
        for (term, diagonal) in giants.iter().flat_map(|g| &g.terms).zip(diagonals.iter().flatten()) {
            self.check_diagonal(term, diagonal, scale)?;
            if self.plan.baby(term).is_some_and(|r| !r.is_zero()) {
                let next = babies.len();
                babies.entry((term.input, term.baby)).or_insert(next);
            }
        }
        let mut rotated = 0..;
        let order = stage.order;
        let slot = |giant: &GiantStep| match joins_output(order, giant) {
            true => giant.output as usize,
            false => self.plan.outputs as usize + rotated.next().unwrap_or_default(),
        };
        Ok(Pass { giants, order, diagonals, slots: giants.iter().map(slot).collect(), babies })
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
        let product = self.scales[term.input as usize].mul(diagonal.scale());
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
        for (giant, diagonals) in pass.giants.iter().zip(&pass.diagonals) {
            for (term, diagonal) in giant.terms.iter().zip(diagonals) {
                match pass.babies.contains_key(&(term.input, term.baby)) {
                    true => work.products += 1.0,
                    false => work.plain_products += 1.0,
                }
                work.add_diagonals((diagonal.period().get(), diagonal.form()), 1.0);
            }
        }
        self.ctx.count(shape.linear(&work, Ending::ModDown));
    }

    /// Adds the giant steps of a pass to the outputs.
    fn giant_steps(&self, pass: &Pass<'_>, sums: &mut [QpPair], running: &mut Running) {
        let rotated: Vec<&GiantStep> =
            pass.giants.iter().filter(|giant| !joins_output(pass.order, giant)).collect();
        let mut partial: Vec<_> = rotated.iter().map(|_| QpPair::zero(self.ctx, self.q_limbs)).collect();
        let mut limbs: Vec<Vec<[&mut [u64]; 2]>> = Vec::new();
        limbs.resize_with(self.limbs(), Vec::new);
        for pair in sums.iter_mut().chain(&mut partial) {
            for (m, pair) in pair.limb_pairs() {
                limbs[m].push(pair);
            }
        }
        limbs.into_par_iter().enumerate().for_each(|(m, mut slots)| self.products(pass, m, &mut slots));
        for (giant, mut partial) in rotated.iter().zip(partial) {
            let output = giant.output as usize;
            match pass.order {
                GiantOrder::Separate => self.add_rotated(&mut sums[output], partial, giant.rotation),
                GiantOrder::Chained => {
                    if let Some((x, rotation)) = running[output].take() {
                        self.add_rotated(&mut partial, x, rotation);
                    }
                    running[output] = Some((partial, giant.rotation));
                }
            }
        }
    }

    /// The rotated input modulo `QP`, on limb `m`.
    pub(super) fn baby(&self, input: usize, baby: usize, m: usize, [b, a]: [&mut [u64]; 2]) {
        let (Some(hoisted), Some(step)) =
            (&self.inputs[input].hoisted, self.steps.get(&self.plan.babies[input][baby]))
        else {
            unreachable!("inputs with a rotation are decomposed and have its key");
        };
        hoisted.product(m, step.key, &step.permutation, [&mut *b, a]);
        if m < self.q_limbs {
            let c0 = self.inputs[input].lifted[0].limb(m);
            self.ctx.kernels().permute_add(modulus(self.ctx, self.q_limbs, m), b, c0, &step.permutation);
        }
    }

    /// `sum += rotate(x, rotation)` modulo `QP`: the second part of `x` is divided by `P` and switched, the first part
    /// stays as it is.
    fn add_rotated(&self, sum: &mut QpPair, x: QpPair, rotation: Rotation) {
        let (ctx, q_limbs, kernels) = (self.ctx, self.q_limbs, self.ctx.kernels());
        let Some(step) = self.steps.get(&rotation) else {
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
