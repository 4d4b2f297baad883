//! Programs on slots in the clear: the reference for every encrypted run, and with [`Noise::Model`] a forecast of its
//! precision.
//!
//! The machine executes the very plan of each linear call, rotation by rotation, on `f64` slots of one period per register.
//! The noise model adds Gaussian noise where CKKS does: fresh encryption, rescaling, the rounding of plaintexts and key
//! switching; its sizes are those of [`peregrine_ckks::noise`].

mod gauss;

use std::borrow::Cow;
use std::collections::BTreeMap;

use peregrine_ckks::noise;
use peregrine_ckks::params::Params;
use peregrine_ckks::units::{Level, Scale};
use thiserror::Error;

use self::gauss::Gauss;
use super::verify::{checked_params, verify_at};
use super::{CallId, Inst, Probe, Program, RefreshId, Reg, VectorId, VerifyErrors};
use crate::consts::{ConstData, ConstId};
use crate::layout::Layout;
use crate::linear::{CallNoise, CallPlan, ResolvedMap, apply_clear, plan_call};

/// Whether a clear run imitates the noise of CKKS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// Exact up to `f64`.
    None,
    /// Gaussian noise as CKKS adds it, determined by the seed.
    Model {
        /// Seed.
        seed: u64,
    },
}

/// A value that was looked at during a run.
#[derive(Clone, Debug)]
pub struct Probed<'a> {
    /// What was looked at.
    pub probe: &'a Probe,
    /// The tensor, row-major CHW, in original units.
    pub values: Vec<f64>,
}

/// The operand of a refresh that was looked at during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Refreshed<'a> {
    /// Layer of the instruction.
    pub layer: &'a str,
    /// Largest magnitude of a slot.
    pub largest: f64,
    /// Largest magnitude that the refresh is made for.
    pub allowed: f64,
}

/// What a run shows to its observer.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    /// A probed value.
    Probe(Probed<'a>),
    /// The operand of a refresh.
    Refresh(Refreshed<'a>),
}

/// Why a program cannot run in the clear.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ClearError {
    /// The program is invalid.
    #[error(transparent)]
    Invalid(#[from] VerifyErrors),
    /// The program has no such input or output.
    #[error("the program has {count} {ports}, there is no number {index}")]
    Port {
        /// `inputs` or `outputs`.
        ports: &'static str,
        /// How many there are.
        count: usize,
        /// Asked for.
        index: usize,
    },
    /// Wrong number of inputs.
    #[error("the program takes {expected} input(s), {found} given")]
    Inputs {
        /// Asked for.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// A tensor of the wrong length.
    #[error("{name:?} holds {expected} numbers, {found} given")]
    Length {
        /// Name of the input or output.
        name: String,
        /// Asked for.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// Slot vectors of the wrong number or length.
    #[error(
        "{name:?} is packed into {ciphertexts} slot vector(s) of {period} slots; pack it by the program's layout"
    )]
    Slots {
        /// Name of the input or output.
        name: String,
        /// Ciphertexts asked for.
        ciphertexts: u32,
        /// Slots asked for.
        period: u32,
    },
}

/// Packs tensor `index` of a program's inputs (row-major CHW, original units): one slot vector per ciphertext.
///
/// # Errors
/// [`ClearError`] if there is no such input or the tensor has the wrong length.
pub fn pack_input(program: &Program, index: usize, tensor: &[f64]) -> Result<Vec<Vec<f64>>, ClearError> {
    let count = program.inputs.len();
    let input = program.inputs.get(index).ok_or(ClearError::Port { ports: "inputs", count, index })?;
    let layout = &program.layouts[input.layout];
    check_length(&input.name, layout.shape.len(), tensor.len())?;
    let units = channel_units(program, layout, input.unit);
    let scaled: Vec<f64> = tensor.iter().zip(units).map(|(x, unit)| x / unit).collect();
    Ok(layout.pack(&scaled))
}

/// Unpacks the slot vectors of output `index` of a program: row-major CHW, original units.
///
/// # Errors
/// [`ClearError`] if there is no such output or the slot vectors do not fit its layout.
pub fn unpack_output(program: &Program, index: usize, slots: &[Vec<f64>]) -> Result<Vec<f64>, ClearError> {
    let count = program.outputs.len();
    let output = program.outputs.get(index).ok_or(ClearError::Port { ports: "outputs", count, index })?;
    let layout = &program.layouts[output.layout];
    let period = layout.period.get();
    if slots.len() != layout.ciphertexts as usize || slots.iter().any(|s| s.len() < period as usize) {
        let ciphertexts = layout.ciphertexts;
        return Err(ClearError::Slots { name: output.name.clone(), ciphertexts, period });
    }
    Ok(unpack(program, layout, output.unit, slots))
}

fn check_length(name: &str, expected: usize, found: usize) -> Result<(), ClearError> {
    if expected == found {
        return Ok(());
    }
    Err(ClearError::Length { name: name.to_owned(), expected, found })
}

/// The unit of each element in row-major order.
fn channel_units<'a>(
    program: &'a Program,
    layout: &Layout,
    unit: ConstId,
) -> impl Iterator<Item = f64> + use<'a> {
    let map = layout.shape.h as usize * layout.shape.w as usize;
    let unit = &program.consts[unit];
    (0..unit.len()).flat_map(move |c| std::iter::repeat_n(unit.at(c), map))
}

fn unpack(program: &Program, layout: &Layout, unit: ConstId, slots: &[Vec<f64>]) -> Vec<f64> {
    layout
        .unpack(slots)
        .into_iter()
        .zip(channel_units(program, layout, unit))
        .map(|(x, unit)| x * unit)
        .collect()
}

/// Runs a valid program on slots in the clear.
pub struct ClearMachine<'a> {
    program: &'a Program,
    params: Params,
    noise: Noise,
}

/// A register: slots of one period, with level and scale for the noise model.
#[derive(Clone)]
struct Value {
    slots: Vec<f64>,
    level: Level,
    scale: Scale,
}

impl<'a> ClearMachine<'a> {
    /// A machine for a program, which is verified first.
    ///
    /// # Errors
    /// [`ClearError::Invalid`] lists what the verifier found.
    pub fn new(program: &'a Program, noise: Noise) -> Result<Self, ClearError> {
        Self::at(program, checked_params(program)?, noise)
    }

    /// Like [`Self::new`] with parameters that the caller has checked: `params` are the program's.
    ///
    /// # Errors
    /// [`ClearError::Invalid`] lists what the verifier found.
    pub fn at(program: &'a Program, params: Params, noise: Noise) -> Result<Self, ClearError> {
        verify_at(program, &params)?;
        Ok(Self { program, params, noise })
    }

    /// Runs the program. `inputs[i][k]` are the slots of ciphertext k of input i ([`pack_input`]): one period of its layout.
    /// Gives the slots of each ciphertext of each output; `on_probe` sees each probed value as it is complete.
    ///
    /// # Errors
    /// [`ClearError`] if the inputs do not fit the program's.
    pub fn run(
        &self,
        inputs: &[Vec<Vec<f64>>],
        on_probe: &mut dyn FnMut(Probed<'_>),
    ) -> Result<Vec<Vec<Vec<f64>>>, ClearError> {
        self.watch(inputs, &mut |seen| match seen {
            Seen::Probe(probed) => on_probe(probed),
            Seen::Refresh(_) => {}
        })
    }

    /// As [`Self::run`]; `on_seen` sees the operands of refreshes too.
    ///
    /// # Errors
    /// [`ClearError`] if the inputs do not fit the program's.
    pub fn watch(
        &self,
        inputs: &[Vec<Vec<f64>>],
        on_seen: &mut dyn FnMut(Seen<'_>),
    ) -> Result<Vec<Vec<Vec<f64>>>, ClearError> {
        self.check_inputs(inputs)?;
        let layouts = &self.program.layouts;
        let outputs = self.program.outputs.iter();
        let mut run = Run {
            machine: self,
            inputs,
            registers: BTreeMap::new(),
            outputs: outputs.map(|o| vec![Vec::new(); layouts[o.layout].ciphertexts as usize]).collect(),
        };
        let mut probes: BTreeMap<u32, Vec<&Probe>> = BTreeMap::new();
        for probe in &self.program.probes {
            probes.entry(probe.after).or_default().push(probe);
        }
        for (index, inst) in (0u32..).zip(&self.program.insts) {
            if let Some(refreshed) = run.refresh_operand(index, inst) {
                on_seen(Seen::Refresh(refreshed));
            }
            run.step(index, inst);
            for probe in probes.get(&index).into_iter().flatten() {
                on_seen(Seen::Probe(Probed { probe, values: run.probe(probe) }));
            }
        }
        Ok(run.outputs)
    }

    fn check_inputs(&self, inputs: &[Vec<Vec<f64>>]) -> Result<(), ClearError> {
        let (expected, found) = (self.program.inputs.len(), inputs.len());
        if expected != found {
            return Err(ClearError::Inputs { expected, found });
        }
        for (input, slots) in self.program.inputs.iter().zip(inputs) {
            let layout = &self.program.layouts[input.layout];
            let (ciphertexts, period) = (layout.ciphertexts, layout.period.get());
            if slots.len() != ciphertexts as usize || slots.iter().any(|s| s.len() != period as usize) {
                return Err(ClearError::Slots { name: input.name.clone(), ciphertexts, period });
            }
        }
        Ok(())
    }

    fn plan(&self, call: CallId) -> CallPlan {
        let call = &self.program.calls[call];
        let terms: Vec<(ResolvedMap<'_>, u32)> = (call.terms.iter())
            .map(|term| (self.program.maps[term.map].resolve(&self.program.layouts), term.operand))
            .collect();
        plan_call(&terms, call.recipe(), self.params.max_slots())
    }

    fn weights(&self, id: ConstId) -> Cow<'a, [f32]> {
        match &self.program.consts[id].data {
            ConstData::F32(data) => Cow::Borrowed(data),
            ConstData::F64(_) => Cow::Owned(self.program.consts[id].to_f32()),
        }
    }
}

/// One run. The program is verified: registers are live when read, indices are in range.
struct Run<'a, 'm> {
    machine: &'m ClearMachine<'a>,
    inputs: &'m [Vec<Vec<f64>>],
    registers: BTreeMap<Reg, Value>,
    outputs: Vec<Vec<Vec<f64>>>,
}

impl Run<'_, '_> {
    fn step(&mut self, index: u32, inst: &Inst) {
        match inst {
            Inst::Input { dst, input, cipher } => self.input(index, *dst, *input, *cipher),
            Inst::Linear { dsts, call, args, scale } => self.linear(index, dsts, *call, args, scale),
            Inst::AddVector { dst, src, vector } => self.add_vector(index, *dst, *src, *vector),
            Inst::MulVector { dst, src, vector, scale } => self.mul_vector(index, *dst, *src, *vector, scale),
            Inst::Add { dst, a, b } => self.combine(*dst, *a, *b, |x, y| x + y),
            Inst::Sub { dst, a, b } => self.combine(*dst, *a, *b, |x, y| x - y),
            Inst::Mul { dst, a, b } => self.mul(index, *dst, *a, *b),
            Inst::Square { dst, src } => self.mul(index, *dst, *src, *src),
            Inst::Rescale { dst, src } => self.rescale(index, *dst, *src),
            Inst::ModDrop { dst, src, to } => {
                let value = self.registers[src].clone();
                self.registers.insert(*dst, Value { level: *to, ..value });
            }
            Inst::Rotate { dst, src, rotation } => {
                let mut value = self.registers[src].clone();
                let period = value.slots.len();
                value.slots.rotate_left(rotation.get() as usize % period);
                self.key_switched(index, &mut value);
                self.registers.insert(*dst, value);
            }
            Inst::Conjugate { dst, src } => {
                let mut value = self.registers[src].clone();
                self.key_switched(index, &mut value);
                self.registers.insert(*dst, value);
            }
            Inst::Bootstrap { dst, src, refresh } => self.refresh(index, &[*dst], &[*src], *refresh),
            Inst::BootstrapPair { dsts, srcs, refresh } => self.refresh(index, dsts, srcs, *refresh),
            Inst::Output { output, cipher, src } => {
                self.outputs[*output as usize][*cipher as usize] = self.registers[src].slots.clone();
            }
            Inst::Free { reg } => {
                self.registers.remove(reg);
            }
        }
    }

    /// Noise of standard deviation `rms`, in units of the integers that are encoded, on a value's slots.
    fn disturb(&self, index: u32, part: u64, value: &mut Value, rms: impl FnOnce() -> f64) {
        if let Noise::Model { seed } = self.machine.noise {
            let rms = rms() / value.scale.value(&self.machine.params);
            Gauss::new(seed, u64::from(index), part).add(&mut value.slots, rms);
        }
    }

    /// The error of one key switch.
    fn key_switched(&self, index: u32, value: &mut Value) {
        let level = value.level;
        self.disturb(index, 1, value, || noise::key_switch_rms(&self.machine.params, level));
    }

    fn input(&mut self, index: u32, dst: Reg, input: u32, cipher: u32) {
        let port = &self.machine.program.inputs[input as usize];
        let slots = self.inputs[input as usize][cipher as usize].clone();
        let n = self.machine.params.n();
        let rounding = noise::plaintext_rounding_rms(2 * slots.len());
        let mut value = Value { slots, level: port.level, scale: port.scale.clone() };
        self.disturb(index, 0, &mut value, || noise::encrypt_secret_rms(n).hypot(rounding));
        self.registers.insert(dst, value);
    }

    fn linear(&mut self, index: u32, dsts: &[Reg], call: CallId, args: &[Reg], scale: &Scale) {
        let machine = self.machine;
        let plan = machine.plan(call);
        let terms = &machine.program.calls[call].terms;
        let weights: Vec<Cow<'_, [f32]>> =
            terms.iter().map(|term| machine.weights(machine.program.maps[term.map].weights)).collect();
        let weights: Vec<&[f32]> = weights.iter().map(AsRef::as_ref).collect();
        let operands: Vec<&Value> = args.iter().map(|arg| &self.registers[arg]).collect();
        let inputs: Vec<&[f64]> = operands.iter().map(|value| &value.slots[..]).collect();
        let level = operands[0].level;
        let results = match machine.noise {
            Noise::None => apply_clear(&plan, &weights, &inputs, None),
            Noise::Model { seed } => {
                let (of_weights, rotated) = call_variances(&machine.params, &plan, &operands, scale);
                let add = |giant: usize, variances: &[f64], sums: &mut [f64]| {
                    let mut gauss = Gauss::new(seed, u64::from(index), 16 + giant as u64);
                    for (sum, variance) in sums.iter_mut().zip(variances) {
                        *sum += variance.sqrt() * gauss.sample();
                    }
                };
                let noise = CallNoise { weights: &of_weights, rotated: &rotated, add: &add };
                apply_clear(&plan, &weights, &inputs, Some(&noise))
            }
        };
        let period = plan.maps[0].period_out() as usize;
        let rms = output_rms(&machine.params, &plan, level);
        for (part, (&dst, mut slots)) in (2u64..).zip(dsts.iter().zip(results)) {
            slots.truncate(period);
            let mut value = Value { slots, level, scale: scale.clone() };
            self.disturb(index, part << 32, &mut value, || rms);
            self.registers.insert(dst, value);
        }
    }

    fn vector(&self, vector: VectorId) -> Vec<f64> {
        let program = self.machine.program;
        let recipe = &program.vectors[vector];
        program.layouts[recipe.layout].spread_channels(&program.consts[recipe.values].to_f64(), recipe.cipher)
    }

    fn add_vector(&mut self, index: u32, dst: Reg, src: Reg, vector: VectorId) {
        let mut value = self.registers[&src].clone();
        let addend = self.vector(vector);
        value.slots.iter_mut().zip(&addend).for_each(|(x, y)| *x += y);
        self.disturb(index, 0, &mut value, || noise::plaintext_rounding_rms(2 * addend.len()));
        self.registers.insert(dst, value);
    }

    fn mul_vector(&mut self, index: u32, dst: Reg, src: Reg, vector: VectorId, scale: &Scale) {
        let mut value = self.registers[&src].clone();
        let mut factor = self.vector(vector);
        if let Noise::Model { seed } = self.machine.noise {
            let rms = noise::plaintext_rounding_rms(2 * factor.len()) / scale.value(&self.machine.params);
            Gauss::new(seed, u64::from(index), 0).add(&mut factor, rms);
        }
        value.slots.iter_mut().zip(&factor).for_each(|(x, y)| *x *= y);
        value.scale = value.scale.mul(scale);
        self.registers.insert(dst, value);
    }

    fn combine(&mut self, dst: Reg, a: Reg, b: Reg, op: impl Fn(f64, f64) -> f64) {
        let (left, right) = (&self.registers[&a], &self.registers[&b]);
        let slots = left.slots.iter().zip(&right.slots).map(|(&x, &y)| op(x, y)).collect();
        let value = Value { slots, level: left.level, scale: left.scale.clone() };
        self.registers.insert(dst, value);
    }

    fn mul(&mut self, index: u32, dst: Reg, a: Reg, b: Reg) {
        let scale = self.registers[&a].scale.mul(&self.registers[&b].scale);
        self.combine(dst, a, b, |x, y| x * y);
        if let Some(mut value) = self.registers.remove(&dst) {
            value.scale = scale;
            self.key_switched(index, &mut value);
            self.registers.insert(dst, value);
        }
    }

    fn rescale(&mut self, index: u32, dst: Reg, src: Reg) {
        let mut value = self.registers[&src].clone();
        value.scale = value.scale.div(&Scale::prime(value.level.0));
        value.level = Level(value.level.0.saturating_sub(1));
        let n = self.machine.params.n();
        self.disturb(index, 0, &mut value, || noise::rescale_rms(n));
        self.registers.insert(dst, value);
    }

    /// What a refresh is about to read.
    fn refresh_operand(&self, index: u32, inst: &Inst) -> Option<Refreshed<'_>> {
        let program = self.machine.program;
        let id = match inst {
            Inst::Bootstrap { refresh, .. } | Inst::BootstrapPair { refresh, .. } => *refresh,
            _ => return None,
        };
        let reads = inst.reads();
        let slots = reads.iter().flat_map(|reg| &self.registers[reg].slots);
        let layer = program.inst_layers[index as usize] as usize;
        Some(Refreshed {
            layer: &program.layers[layer],
            largest: slots.fold(0.0, |m, x| if x.is_nan() { f64::INFINITY } else { x.abs().max(m) }),
            allowed: f64::from(program.refreshes[id].form.range_bits).exp2(),
        })
    }

    /// The identity without noise; with it the sine and the error that bootstrapping was measured to have.
    fn refresh(&mut self, index: u32, dsts: &[Reg], srcs: &[Reg], id: RefreshId) {
        let program = self.machine.program;
        let form = program.refreshes[id].form;
        let Some(spec) = &program.bootstrap else { return };
        let Some((level, scale)) = form.result(spec) else { return };
        for (part, (&dst, src)) in (0u64..).zip(dsts.iter().zip(srcs)) {
            let mut slots = self.registers[src].slots.clone();
            if let Noise::Model { seed } = self.machine.noise {
                let unit = f64::from(form.range_bits).exp2();
                slots.iter_mut().for_each(|x| *x = unit * noise::bootstrap_distortion(*x / unit, spec));
                Gauss::new(seed, u64::from(index), part).add(&mut slots, unit * noise::bootstrap_rms());
            }
            let mut value = Value { slots, level, scale: scale.clone() };
            if form.lift_bits.is_some() {
                let n = self.machine.params.n();
                self.disturb(index, 8 + part, &mut value, || noise::rescale_rms(n));
            }
            self.registers.insert(dst, value);
        }
    }

    fn probe(&self, probe: &Probe) -> Vec<f64> {
        let program = self.machine.program;
        let slots: Vec<Vec<f64>> = probe.regs.iter().map(|reg| self.registers[reg].slots.clone()).collect();
        unpack(program, &program.layouts[probe.layout], probe.unit, &slots)
    }
}

/// Variances of the weights of each term and of what a baby rotation adds to each input.
///
/// The weights of a term are rounded at the result's scale over the operand's; a baby rotation is a key switch at the
/// operand's scale, whose division by P is put off to the end.
fn call_variances(
    params: &Params,
    plan: &CallPlan,
    operands: &[&Value],
    scale: &Scale,
) -> (Vec<f64>, Vec<f64>) {
    let mut of_weights = vec![0.0f64; plan.maps.len()];
    for (term, planned) in plan.plan.terms().map(|term| (term, plan.diagonals[term.diagonal.0 as usize])) {
        let (source, _) = plan.plan.source(term.input);
        let at = scale.div(&operands[source as usize].scale).value(params);
        let rms = noise::plaintext_rounding_rms(2 * plan.period(term.diagonal.0 as usize) as usize) / at;
        of_weights[planned.term as usize] = rms * rms;
    }
    let rotated =
        |value: &&Value| (noise::key_switch_rms(params, value.level) / value.scale.value(params)).powi(2);
    (of_weights, operands.iter().map(rotated).collect())
}

/// Error of one output of a call: the key switches of the giant steps that rotate and of the folds, and the last
/// division by P.
fn output_rms(params: &Params, plan: &CallPlan, level: Level) -> f64 {
    let counts = plan.plan.counts();
    let switches = (counts.giant_rotations + counts.fold_rotations) as f64 / counts.outputs.max(1) as f64;
    noise::rescale_rms(params.n()).hypot(switches.sqrt() * noise::key_switch_rms(params, level))
}
