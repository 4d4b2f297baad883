//! The same program in the clear, on `f64` slots, with or without a model of the scheme's noise.

use peregrine_ir::client::RangeRecord;
use peregrine_ir::program::{ClearMachine, Noise, Program, Seen};

use crate::client::NamedTensor;
use crate::error::RuntimeError;
use crate::interface::Interface;
use crate::ranges::{RangeCheck, RangeViolation, RefreshOverflow};

/// Result of a run in the clear.
#[derive(Clone, Debug)]
pub struct ClearRun {
    /// Program outputs, in original units.
    pub outputs: Vec<NamedTensor>,
    /// Layers that left their calibrated range.
    pub violations: Vec<RangeViolation>,
    /// Refreshes whose operand left the range that they are made for.
    pub overflows: Vec<RefreshOverflow>,
}

/// A program that is verified once and run in the clear on many inputs.
pub struct Runner<'a> {
    program: &'a Program,
    interface: &'a Interface,
    machine: ClearMachine<'a>,
}

impl<'a> Runner<'a> {
    /// A runner of a program.
    ///
    /// # Errors
    /// [`RuntimeError::Clear`] when the program is invalid.
    pub fn new(program: &'a Program, interface: &'a Interface, noise: Noise) -> Result<Self, RuntimeError> {
        let machine = ClearMachine::at(program, interface.params.clone(), noise)?;
        Ok(Self { program, interface, machine })
    }

    /// Runs one input and compares the values that enter activations with the calibrated ranges.
    ///
    /// # Errors
    /// [`RuntimeError::Clear`].
    pub fn run(&self, inputs: &[NamedTensor], ranges: &[RangeRecord]) -> Result<ClearRun, RuntimeError> {
        let ports = &self.interface.inputs;
        let packed: Vec<Vec<Vec<f64>>> =
            ports.iter().zip(inputs).map(|(port, tensor)| port.pack(&tensor.data)).collect();
        let mut check = RangeCheck::new(self.program, ranges);
        let mut overflows = Vec::new();
        let slots = self.machine.watch(&packed, &mut |seen| match seen {
            Seen::Probe(probed) => check.observe(probed.probe, &probed.values),
            Seen::Refresh(refreshed) => overflows.extend(RefreshOverflow::of(&refreshed)),
        })?;
        let outputs =
            self.interface.outputs.iter().zip(&slots).map(|(port, slots)| port.unpack(slots)).collect();
        Ok(ClearRun { outputs, violations: check.into_violations(), overflows })
    }
}

/// Runs a program in the clear once; see [`Runner`].
///
/// # Errors
/// [`RuntimeError::Clear`].
pub fn run(
    program: &Program,
    interface: &Interface,
    noise: Noise,
    inputs: &[NamedTensor],
    ranges: &[RangeRecord],
) -> Result<ClearRun, RuntimeError> {
    Runner::new(program, interface, noise)?.run(inputs, ranges)
}
