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

/// Runs a program in the clear and compares the values that enter activations with the calibrated ranges.
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
    let packed: Vec<Vec<Vec<f64>>> =
        interface.inputs.iter().zip(inputs).map(|(port, tensor)| port.pack(&tensor.data)).collect();
    let mut check = RangeCheck::new(program, ranges);
    let mut overflows = Vec::new();
    let machine = ClearMachine::at(program, interface.params.clone(), noise)?;
    let slots = machine.watch(&packed, &mut |seen| match seen {
        Seen::Probe(probed) => check.observe(probed.probe, &probed.values),
        Seen::Refresh(refreshed) => overflows.extend(RefreshOverflow::of(&refreshed)),
    })?;
    let outputs = interface.outputs.iter().zip(&slots).map(|(port, slots)| port.unpack(slots)).collect();
    Ok(ClearRun { outputs, violations: check.into_violations(), overflows })
}
