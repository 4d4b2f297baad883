//! Plaintext constants of a program: plans of linear calls, and integer plaintexts expanded from recipes, kept as far as
//! the memory budget allows and expanded on demand beyond it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use peregrine_ckks::context::Context;
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::error::Error as CkksError;
use peregrine_ckks::evaluator::linear::{DiagonalId, DiagonalSource, LinearPlan};
use peregrine_ckks::params::Params;
use peregrine_ckks::plaintext::IntPlaintext;
use peregrine_ckks::ring::integers::integer_bytes;
use peregrine_ckks::units::{Scale, Slots};
use peregrine_ir::consts::ConstData;
use peregrine_ir::linear::{CallPlan, DiagonalSlots, PlannedDiagonal, ResolvedMap, plan_call};
use peregrine_ir::program::{CallId, Inst, Program, Reg, VectorId};
use rayon::prelude::*;

use super::schedule::{Schedule, place};
use crate::bytes::ByteSize;
use crate::error::{At, RuntimeError};
use crate::progress::{Phase, Progress};

/// A linear instruction with its plan and the numbers that its diagonals are expanded from.
pub struct LinearSite {
    plan: CallPlan,
    weights: Vec<Arc<[f32]>>,
    scales: Vec<Scale>,
    /// Diagonals that are kept, by index; empty where none are.
    cached: RwLock<Vec<Option<Arc<IntPlaintext>>>>,
    bytes: u64,
}

/// An instruction that takes a plaintext vector.
pub struct VectorSite {
    slots: Vec<f64>,
    period: Slots,
    scale: Scale,
    cached: OnceLock<Arc<IntPlaintext>>,
}

/// Instructions that have been run, or those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before the current one.
    Behind,
    /// After it.
    Ahead,
}

/// All constants of a program, by instruction.
pub struct Constants {
    linear: BTreeMap<usize, LinearSite>,
    vectors: BTreeMap<usize, VectorSite>,
}

impl Constants {
    /// Plans every linear call; nothing is encoded yet.
    ///
    /// # Errors
    /// [`RuntimeError::Program`] when a recipe refers to something that is not there.
    pub fn plan(program: &Program, schedule: &Schedule, params: &Params) -> Result<Self, RuntimeError> {
        let sites: Result<Vec<_>, RuntimeError> = program
            .insts
            .par_iter()
            .enumerate()
            .filter_map(|(index, inst)| {
                let Inst::Linear { call, args, scale, .. } = inst else { return None };
                let site = LinearSite::plan(program, schedule, params, *call, args, scale);
                Some(
                    site.map(|s| (index, s))
                        .map_err(|what| RuntimeError::Program { place: place(program, index), what }),
                )
            })
            .collect();
        let mut vectors = BTreeMap::new();
        for (index, inst) in program.insts.iter().enumerate() {
            let (vector, scale) = match inst {
                Inst::AddVector { vector, src, .. } => {
                    (*vector, schedule.get(*src).map(|ty| ty.scale.clone()))
                }
                Inst::MulVector { vector, scale, .. } => (*vector, Some(scale.clone())),
                _ => continue,
            };
            let site = VectorSite::new(program, vector, scale)
                .map_err(|what| RuntimeError::Program { place: place(program, index), what })?;
            vectors.insert(index, site);
        }
        Ok(Self { linear: sites?.into_iter().collect(), vectors })
    }

    /// The linear site of an instruction.
    ///
    /// # Errors
    /// [`RuntimeError::Program`] when it is no linear call of the program that was planned.
    pub fn linear(&self, program: &Program, inst: usize) -> Result<&LinearSite, RuntimeError> {
        let missing = || RuntimeError::Program {
            place: place(program, inst),
            what: "the linear call has no plan".to_owned(),
        };
        self.linear.get(&inst).ok_or_else(missing)
    }

    /// The vector site of an instruction.
    pub fn vector(&self, inst: usize) -> Option<&VectorSite> {
        self.vectors.get(&inst)
    }

    /// Estimated size of all plaintexts.
    pub fn bytes(&self) -> ByteSize {
        ByteSize(
            self.linear.values().map(|s| s.bytes).sum::<u64>()
                + self.vectors.values().map(VectorSite::bytes).sum::<u64>(),
        )
    }

    /// Bytes of the tables that diagonals are made with.
    pub fn table_bytes(&self) -> u64 {
        self.linear.values().map(LinearSite::table_bytes).sum()
    }

    /// Bytes of the constants of linear calls that are kept.
    pub fn held(&self) -> u64 {
        self.linear.values().map(LinearSite::held).sum()
    }

    /// Forgets constants of linear calls until `wanted` bytes are free: of those before instruction `now` from the first on, or of those
    /// after it from the last on. They are expanded on demand from then on. How many bytes came free.
    pub fn release(&self, side: Side, now: usize, wanted: u64) -> u64 {
        let mut sites: Vec<&LinearSite> = match side {
            Side::Behind => self.linear.range(..now).map(|(_, site)| site).collect(),
            Side::Ahead => self.linear.range(now + 1..).map(|(_, site)| site).rev().collect(),
        };
        let mut freed = 0;
        sites.retain(|site| site.held() > 0);
        for site in sites {
            if freed >= wanted {
                break;
            }
            freed += site.release();
        }
        freed
    }

    /// Encodes constants, linear call after linear call, as far as `budget` reaches; the others are expanded on demand.
    ///
    /// # Errors
    /// [`RuntimeError::Ckks`] when a constant cannot be encoded at its scale.
    pub fn encode(
        &self,
        program: &Program,
        context: &Context,
        budget: ByteSize,
        progress: &dyn Progress,
    ) -> Result<(), RuntimeError> {
        let mut left = budget.0.saturating_sub(self.vectors.values().map(VectorSite::bytes).sum());
        let mut jobs: Vec<(usize, Option<usize>)> = self.vectors.keys().map(|&inst| (inst, None)).collect();
        for (&inst, site) in &self.linear {
            if site.bytes <= left {
                left -= site.bytes;
                jobs.extend((0..site.plan.diagonals.len()).map(|diagonal| (inst, Some(diagonal))));
            }
        }
        progress.begin(Phase::Constants, jobs.len() as u64);
        let encoder = Encoder::new(context);
        let result = jobs.par_iter().try_for_each(|&(inst, diagonal)| {
            match diagonal {
                Some(diagonal) => self.linear[&inst].cache(&encoder, diagonal),
                None => self.vectors[&inst].plaintext(&encoder).map(|_| ()),
            }
            .at(|| place(program, inst))?;
            progress.advance(1);
            Ok(())
        });
        progress.end();
        result
    }
}

impl LinearSite {
    fn plan(
        program: &Program,
        schedule: &Schedule,
        params: &Params,
        call: CallId,
        args: &[Reg],
        scale: &Scale,
    ) -> Result<Self, String> {
        let call = program.calls.get(call).ok_or_else(|| format!("there is no call {call}"))?;
        let mut terms = Vec::with_capacity(call.terms.len());
        let mut weights = Vec::with_capacity(call.terms.len());
        for term in &call.terms {
            let map = program.maps.get(term.map).ok_or_else(|| format!("there is no map {}", term.map))?;
            let layout = |id| program.layouts.get(id).ok_or_else(|| format!("there is no layout {id}"));
            terms.push((map.between(layout(map.input)?, layout(map.output)?), term.operand));
            let tensor = program
                .consts
                .get(map.weights)
                .ok_or_else(|| format!("there is no constant {}", map.weights))?;
            weights.push(match &tensor.data {
                ConstData::F32(data) => data.clone(),
                ConstData::F64(_) => tensor.to_f32().into(),
            });
        }
        let plan = plan_call(&terms, call.recipe(), params.max_slots());
        let operand_scales = operand_scales(schedule, &terms, args)?;
        let scales: Vec<Scale> =
            terms.iter().map(|(_, operand)| scale.div(&operand_scales[operand])).collect();
        let mut site = Self { plan, weights, scales, cached: RwLock::default(), bytes: 0 };
        site.bytes = site.estimate_bytes(params);
        Ok(site)
    }

    /// Rotations and products.
    pub fn linear_plan(&self) -> &LinearPlan {
        &self.plan.plan
    }

    /// Estimated size of its plaintexts.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn estimate_bytes(&self, params: &Params) -> u64 {
        let term_bytes: Vec<u64> = (0..self.scales.len())
            .map(|t| {
                let largest = self.weights[t].iter().fold(0f32, |m, w| m.max(w.abs()));
                let largest = self.plan.largest_slot(t, f64::from(largest));
                coefficient_bytes(largest, self.scales[t].log2(params))
            })
            .collect();
        let bytes = |(index, diagonal): (usize, &PlannedDiagonal)| {
            integer_bytes(self.plan.coefficients(index) * term_bytes[diagonal.term as usize])
        };
        self.plan.diagonals.iter().enumerate().map(bytes).sum()
    }

    fn expand(&self, encoder: &Encoder, index: usize) -> Result<IntPlaintext, CkksError> {
        let term = self.plan.diagonals[index].term as usize;
        let period = Slots::new(self.plan.period(index))?;
        match self.plan.expand(index, &self.weights) {
            DiagonalSlots::Real(slots) => encoder.encode(&slots, period, &self.scales[term]),
            DiagonalSlots::Complex(slots) => encoder.encode_complex(&slots, period, &self.scales[term]),
        }
    }

    fn cache(&self, encoder: &Encoder, index: usize) -> Result<(), CkksError> {
        let plaintext = Arc::new(self.expand(encoder, index)?);
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        cached.resize(self.plan.diagonals.len(), None);
        cached[index] = Some(plaintext);
        Ok(())
    }

    fn kept(&self, index: usize) -> Option<Arc<IntPlaintext>> {
        self.cached.read().unwrap_or_else(PoisonError::into_inner).get(index).cloned().flatten()
    }

    /// Bytes of the diagonals that are kept.
    fn held(&self) -> u64 {
        if self.cached.read().unwrap_or_else(PoisonError::into_inner).is_empty() { 0 } else { self.bytes }
    }

    /// Forgets the diagonals that are kept. How many bytes they had.
    fn release(&self) -> u64 {
        let held = self.held();
        self.cached.write().unwrap_or_else(PoisonError::into_inner).clear();
        held
    }

    /// Bytes of the tables that complex diagonals are made with.
    fn table_bytes(&self) -> u64 {
        self.plan.table_bytes()
    }

    /// Diagonals of this site: cached ones, the others expanded when asked for.
    pub fn source<'a>(&'a self, encoder: &'a Encoder) -> SiteDiagonals<'a> {
        SiteDiagonals { site: self, encoder }
    }
}

/// Scale of each operand of a linear call, from its first argument register.
fn operand_scales(
    schedule: &Schedule,
    terms: &[(ResolvedMap<'_>, u32)],
    args: &[Reg],
) -> Result<BTreeMap<u32, Scale>, String> {
    let counts: BTreeMap<u32, u32> =
        terms.iter().map(|(map, operand)| (*operand, map.input.ciphertexts)).collect();
    let mut scales = BTreeMap::new();
    let mut first = 0;
    for (operand, count) in counts {
        let reg = args.get(first).ok_or("fewer arguments than ciphertexts of the operands")?;
        let ty = schedule.get(*reg).ok_or_else(|| format!("register {reg} is read before it is defined"))?;
        scales.insert(operand, ty.scale.clone());
        first += count as usize;
    }
    Ok(scales)
}

/// The diagonals of one linear instruction, for the evaluator.
pub struct SiteDiagonals<'a> {
    site: &'a LinearSite,
    encoder: &'a Encoder,
}

impl DiagonalSource for SiteDiagonals<'_> {
    fn diagonal(&self, id: DiagonalId) -> Result<Arc<IntPlaintext>, CkksError> {
        let index = id.0 as usize;
        match self.site.kept(index) {
            Some(plaintext) => Ok(plaintext),
            None => self.site.expand(self.encoder, index).map(Arc::new),
        }
    }
}

impl VectorSite {
    fn new(program: &Program, vector: VectorId, scale: Option<Scale>) -> Result<Self, String> {
        let recipe = program.vectors.get(vector).ok_or_else(|| format!("there is no vector {vector}"))?;
        let layout = program
            .layouts
            .get(recipe.layout)
            .ok_or_else(|| format!("there is no layout {}", recipe.layout))?;
        let values = program
            .consts
            .get(recipe.values)
            .ok_or_else(|| format!("there is no constant {}", recipe.values))?;
        let scale = scale.ok_or("its operand is read before it is defined")?;
        let slots = layout.spread_channels(&values.to_f64(), recipe.cipher);
        Ok(Self { slots, period: layout.period, scale, cached: OnceLock::new() })
    }

    /// The plaintext.
    ///
    /// # Errors
    /// When it cannot be encoded at its scale.
    pub fn plaintext(&self, encoder: &Encoder) -> Result<Arc<IntPlaintext>, CkksError> {
        if let Some(plaintext) = self.cached.get() {
            return Ok(plaintext.clone());
        }
        let plaintext = Arc::new(encoder.encode(&self.slots, self.period, &self.scale)?);
        Ok(self.cached.get_or_init(|| plaintext).clone())
    }

    fn bytes(&self) -> u64 {
        16 * u64::from(self.period.get())
    }
}

/// Size of a coefficient of an integer plaintext: 4 bytes where all fit, else 8. A real one has one for each slot of its period,
/// a complex one two.
fn coefficient_bytes(largest: f64, log_scale: f64) -> u64 {
    if largest.log2() + log_scale < 30.0 { 4 } else { 8 }
}
