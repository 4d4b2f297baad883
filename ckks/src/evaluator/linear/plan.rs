//! What a linear transform consists of.

use std::collections::BTreeSet;

use thiserror::Error;

use super::sums::together;
use crate::cost::LinearWork;
use crate::plaintext::Form;
use crate::units::{GaloisElement, Level, Rotation, Slots};

/// Names a diagonal of a plan to its [`DiagonalSource`](super::DiagonalSource).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiagonalId(pub u32);

/// An operand made of two earlier ones: `first + X^power * rotate(second, rotation)`. Powers of `X` cost no level and no noise;
/// they are of magnitude 1 in every slot, and tell the parts of a sum apart where diagonals are conjugate to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Join {
    /// An input, or a joined operand before this one.
    pub first: u32,
    /// Likewise.
    pub second: u32,
    /// Rotation of the second.
    pub rotation: Rotation,
    /// Exponent of `X`, below twice the ring degree.
    pub power: u32,
}

/// An operand that is rotated as a whole before anything is hoisted, so that baby steps can start from it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Turn {
    /// An input, or a joined operand.
    pub input: u32,
    /// Its rotation.
    pub rotation: Rotation,
}

/// One product: a rotated input times a diagonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Term {
    /// The input ciphertext; from `inputs` of the plan on, the joined operands, then the turned ones.
    pub input: u32,
    /// Index into `babies[input]` of the plan.
    pub baby: u32,
    /// The diagonal.
    pub diagonal: DiagonalId,
}

/// What the rotations of the giant steps of a stage apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GiantOrder {
    /// Each sum is rotated and added to its output: a key for every giant rotation.
    #[default]
    Separate,
    /// The giants of an output form a chain: each sum is added to the running one, which is then rotated. As many rotations,
    /// but a key only for every distinct distance between neighbours (baby-step giant-step by Horner's rule).
    Chained,
}

/// A sum of products that is rotated and added to an output.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GiantStep {
    /// The output ciphertext.
    pub output: u32,
    /// The rotation of the sum, or of the running sum of a chain.
    pub rotation: Rotation,
    /// The products of the sum. A chain may pass through a giant without any, but not start there.
    pub terms: Vec<Term>,
}

/// Giant steps, then folds: after the giants are added, `acc += rotate(acc, r)` for each `r` in turn, on every output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Stage {
    /// The giant steps.
    pub giants: Vec<GiantStep>,
    /// How they are rotated.
    pub order: GiantOrder,
    /// The folds.
    pub fold: Vec<Rotation>,
}

/// How a transform ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Close {
    /// The outputs are the sums.
    #[default]
    Sum,
    /// Each output is the sum plus its conjugate: twice the real part.
    AddConjugate,
}

/// A linear transform from `inputs` to `outputs` ciphertexts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LinearPlan {
    /// Number of input ciphertexts.
    pub inputs: u32,
    /// Number of output ciphertexts.
    pub outputs: u32,
    /// Operands made of inputs; they count as further inputs in `turned`, in `babies` and in terms.
    pub joined: Vec<Join>,
    /// Inputs that are rotated first; they count as further inputs in `babies` and in terms, after the joined ones.
    pub turned: Vec<Turn>,
    /// Baby rotations of each input, then of each joined, then of each turned one.
    pub babies: Vec<Vec<Rotation>>,
    /// The stages, in order, all adding to the same outputs.
    pub stages: Vec<Stage>,
    /// What becomes of the sums.
    pub close: Close,
}

/// Why a plan makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There is nothing to compute.
    #[error("linear plan has {inputs} inputs and {outputs} outputs; it needs at least one of each")]
    Empty {
        /// Number of inputs.
        inputs: u32,
        /// Number of outputs.
        outputs: u32,
    },
    /// The table of baby rotations has the wrong length.
    #[error("linear plan lists baby rotations for {listed} inputs but has {inputs}")]
    BabyTable {
        /// Length of the table.
        listed: usize,
        /// Number of inputs.
        inputs: u32,
    },
    /// A term names an input that is not there.
    #[error("stage {stage}, giant {giant}: input {input} of {inputs} does not exist")]
    NoSuchInput {
        /// Index of the stage.
        stage: usize,
        /// Index of the giant step.
        giant: usize,
        /// The input named.
        input: u32,
        /// Number of inputs.
        inputs: u32,
    },
    /// A turned input names an input that is not there.
    #[error("turned input {turn}: input {input} of {inputs} does not exist")]
    NoSuchTurn {
        /// Index of the turned input.
        turn: usize,
        /// The input named.
        input: u32,
        /// Number of inputs.
        inputs: u32,
    },
    /// A joined operand names one that is not there yet.
    #[error("joined operand {join}: operand {operand} of {operands} does not exist")]
    NoSuchJoin {
        /// Index of the joined operand.
        join: usize,
        /// The operand named.
        operand: u32,
        /// Number of operands before it.
        operands: u32,
    },
    /// A term names a baby rotation that is not there.
    #[error(
        "stage {stage}, giant {giant}: baby rotation {baby} of input {input} does not exist, it has {babies}"
    )]
    NoSuchBaby {
        /// Index of the stage.
        stage: usize,
        /// Index of the giant step.
        giant: usize,
        /// The input named.
        input: u32,
        /// The baby rotation named.
        baby: u32,
        /// How many the input has.
        babies: usize,
    },
    /// A giant step names an output that is not there.
    #[error("stage {stage}, giant {giant}: output {output} of {outputs} does not exist")]
    NoSuchOutput {
        /// Index of the stage.
        stage: usize,
        /// Index of the giant step.
        giant: usize,
        /// The output named.
        output: u32,
        /// Number of outputs.
        outputs: u32,
    },
    /// A giant step has no terms.
    #[error("stage {stage}, giant {giant} has no terms; leave it out")]
    NoTerms {
        /// Index of the stage.
        stage: usize,
        /// Index of the giant step.
        giant: usize,
    },
    /// No giant step adds to an output.
    #[error("no giant step adds to output {output}")]
    UnusedOutput {
        /// The output.
        output: u32,
    },
    /// The transform was given the wrong number of ciphertexts.
    #[error("linear plan takes {expected} ciphertexts, {found} were given")]
    InputCount {
        /// Ciphertexts given.
        found: usize,
        /// Number of inputs.
        expected: u32,
    },
}

/// How much work a plan is, for cost models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinearCounts {
    /// Inputs that are decomposed because they have a baby rotation other than 0 in use.
    pub decompositions: usize,
    /// Operands rotated as a whole, to be joined or turned: one plain rotation each.
    pub turns: usize,
    /// Baby rotations other than 0: one key inner product each.
    pub baby_rotations: usize,
    /// Giant steps with a rotation other than 0: one division by `P` of one part and one key product each.
    pub giant_rotations: usize,
    /// Rotations of folds, and conjugations at the end, counted per output; each costs as much as a giant step.
    pub fold_rotations: usize,
    /// Products with diagonals.
    pub products: usize,
    /// Output ciphertexts: one division by `P` of two parts each.
    pub outputs: usize,
}

impl LinearCounts {
    /// Rotations of any kind.
    pub fn rotations(&self) -> usize {
        self.turns + self.baby_rotations + self.giant_rotations + self.fold_rotations
    }

    /// Transforms of full size, those of diagonals not counted, for `alpha` special primes
    /// (`ckks-notes` §2.1: `(l + alpha)(beta + n2 (1 + beta) + 2)` for one input and output).
    pub fn ntts(&self, level: Level, alpha: usize) -> usize {
        let limbs = level.limbs();
        let beta = limbs.div_ceil(alpha.max(1));
        let later = self.giant_rotations + self.fold_rotations;
        let turns = self.turns * (2 + beta);
        (limbs + alpha) * (beta * self.decompositions + later * (1 + beta) + turns + 2 * self.outputs)
    }

    /// Transforms of diagonals, each of twice its period.
    pub fn diagonal_ntts(&self, level: Level, alpha: usize) -> usize {
        self.products * (level.limbs() + alpha)
    }
}

impl LinearPlan {
    /// Whether every index refers to something and every output gets a value.
    ///
    /// # Errors
    /// The first [`PlanError`] found.
    pub fn check(&self) -> Result<(), PlanError> {
        let Self { inputs, outputs, .. } = *self;
        if inputs == 0 || outputs == 0 {
            return Err(PlanError::Empty { inputs, outputs });
        }
        for (join, made) in self.joined.iter().enumerate() {
            let operands = inputs + join as u32;
            if let Some(operand) = [made.first, made.second].into_iter().find(|&o| o >= operands) {
                return Err(PlanError::NoSuchJoin { join, operand, operands });
            }
        }
        let operands = self.operands();
        let sources = operands as usize + self.turned.len();
        if self.babies.len() != sources {
            return Err(PlanError::BabyTable { listed: self.babies.len(), inputs: sources as u32 });
        }
        if let Some((turn, &Turn { input, .. })) =
            self.turned.iter().enumerate().find(|(_, turn)| turn.input >= operands)
        {
            return Err(PlanError::NoSuchTurn { turn, input, inputs: operands });
        }
        let mut used = BTreeSet::new();
        for (stage, content) in self.stages.iter().enumerate() {
            let mut started = BTreeSet::new();
            for (giant, step) in content.giants.iter().enumerate() {
                self.check_giant(stage, giant, step)?;
                let passed_through = content.order == GiantOrder::Chained && started.contains(&step.output);
                if step.terms.is_empty() && !passed_through {
                    return Err(PlanError::NoTerms { stage, giant });
                }
                started.insert(step.output);
                used.insert(step.output);
            }
        }
        match (0..outputs).find(|output| !used.contains(output)) {
            Some(output) => Err(PlanError::UnusedOutput { output }),
            None => Ok(()),
        }
    }

    fn check_giant(&self, stage: usize, giant: usize, step: &GiantStep) -> Result<(), PlanError> {
        let Self { inputs, outputs, .. } = *self;
        if step.output >= outputs {
            return Err(PlanError::NoSuchOutput { stage, giant, output: step.output, outputs });
        }
        for &Term { input, baby, .. } in &step.terms {
            let Some(babies) = self.babies.get(input as usize).map(Vec::len) else {
                return Err(PlanError::NoSuchInput { stage, giant, input, inputs });
            };
            if baby as usize >= babies {
                return Err(PlanError::NoSuchBaby { stage, giant, input, baby, babies });
            }
        }
        Ok(())
    }

    /// The automorphisms that need a key, for ring degree `n`.
    pub fn galois_elements(&self, n: usize) -> BTreeSet<GaloisElement> {
        let later = self
            .stages
            .iter()
            .flat_map(|s| s.giants.iter().map(|g| g.rotation).chain(s.fold.iter().copied()));
        let babies = self.terms().filter_map(|term| self.baby(term));
        let turns = self.turned.iter().map(|turn| turn.rotation);
        let joins = self.joined.iter().map(|join| join.rotation);
        let rotations = babies.chain(later).chain(turns).chain(joins).filter(|r| !r.is_zero());
        let conjugation = match self.close {
            Close::Sum => None,
            Close::AddConjugate => Some(GaloisElement::conjugation(n)),
        };
        rotations.map(|r| GaloisElement::from_rotation(r, n)).chain(conjugation).collect()
    }

    /// Number of inputs and joined operands: the turned ones follow.
    pub fn operands(&self) -> u32 {
        self.inputs + self.joined.len() as u32
    }

    /// The work of the transform.
    pub fn counts(&self) -> LinearCounts {
        let rotated: BTreeSet<(u32, u32)> = self
            .terms()
            .filter(|term| self.baby(term).is_some_and(|r| !r.is_zero()))
            .map(|term| (term.input, term.baby))
            .collect();
        let giants = self.stages.iter().flat_map(|s| &s.giants);
        let folds: usize = self.stages.iter().flat_map(|s| &s.fold).filter(|r| !r.is_zero()).count();
        let folds = folds + usize::from(self.close == Close::AddConjugate);
        let joins = self.joined.iter().filter(|join| !join.rotation.is_zero()).count();
        LinearCounts {
            decompositions: rotated.iter().map(|(input, _)| input).collect::<BTreeSet<_>>().len(),
            turns: self.turned.iter().filter(|turn| !turn.rotation.is_zero()).count() + joins,
            baby_rotations: rotated.len(),
            giant_rotations: giants.filter(|g| !g.rotation.is_zero()).count(),
            fold_rotations: folds * self.outputs as usize,
            products: self.terms().count(),
            outputs: self.outputs as usize,
        }
    }

    /// The work of the transform with diagonals of the given periods and forms, for [`crate::cost`].
    pub fn work(&self, diagonal: impl Fn(DiagonalId) -> (Slots, Form)) -> LinearWork {
        let counts = self.counts();
        let mut work = LinearWork {
            inputs: f64::from(self.operands()) + self.turned.len() as f64,
            turns: counts.turns as f64,
            decompositions: counts.decompositions as f64,
            babies: counts.baby_rotations as f64,
            giants: (counts.giant_rotations + counts.fold_rotations) as f64,
            outputs: counts.outputs as f64,
            ..LinearWork::default()
        };
        for term in self.terms() {
            match self.baby(term).is_some_and(|rotation| !rotation.is_zero()) {
                true => work.products += 1.0,
                false => work.plain_products += 1.0,
            }
        }
        for id in self.transformed() {
            let (period, form) = diagonal(id);
            work.add_diagonals((period.get(), form), 1.0);
        }
        work
    }

    /// The diagonals that are transformed, once for all sums that are made together, where a stage is done in one portion.
    fn transformed(&self) -> Vec<DiagonalId> {
        let of_giant = |giant: &GiantStep| giant.terms.iter().map(|term| term.diagonal).collect::<Vec<_>>();
        let of_stage = |stage: &Stage| -> Vec<DiagonalId> {
            let sums: Vec<Vec<DiagonalId>> =
                stage.giants.iter().map(of_giant).filter(|diagonals| !diagonals.is_empty()).collect();
            let distinct = |group: Vec<usize>| -> BTreeSet<DiagonalId> {
                group.into_iter().flat_map(|sum| sums[sum].iter().copied()).collect()
            };
            together(sums.iter().map(|sum| sum.iter().copied())).into_iter().flat_map(distinct).collect()
        };
        self.stages.iter().flat_map(of_stage).collect()
    }

    /// All products in order.
    pub fn terms(&self) -> impl Iterator<Item = &Term> {
        self.stages.iter().flat_map(|s| &s.giants).flat_map(|g| &g.terms)
    }

    /// An input that an operand of terms is made of, and the number of key switches whose errors it carries beyond those of
    /// the inputs.
    pub fn source(&self, operand: u32) -> (u32, usize) {
        let turn = operand.checked_sub(self.operands()).and_then(|turn| self.turned.get(turn as usize));
        if let Some(turn) = turn {
            let (input, switches) = self.source(turn.input);
            return (input, switches + usize::from(!turn.rotation.is_zero()));
        }
        let join = operand.checked_sub(self.inputs).and_then(|join| self.joined.get(join as usize));
        let Some(join) = join else { return (operand, 0) };
        let ((input, first), (_, second)) = (self.source(join.first), self.source(join.second));
        (input, first + second + usize::from(!join.rotation.is_zero()))
    }

    /// The baby rotation of a term, if the plan lists it.
    pub fn baby(&self, term: &Term) -> Option<Rotation> {
        self.babies.get(term.input as usize)?.get(term.baby as usize).copied()
    }
}
