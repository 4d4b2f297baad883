//! The same program in the clear, on `f64` slots, with or without a model of the scheme's noise.

use peregrine_ir::client::RangeRecord;
use peregrine_ir::program::{ClearMachine, Noise, Program};

use crate::client::NamedTensor;
use crate::error::RuntimeError;
use crate::interface::Interface;
use crate::ranges::{RangeCheck, RangeViolation};

/// Result of a run in the clear.
#[derive(Clone, Debug)]
pub struct ClearRun {
    /// Program outputs, in original units.
    pub outputs: Vec<NamedTensor>,
    /// Layers that left their calibrated range.
    pub violations: Vec<RangeViolation>,
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
    let slots = ClearMachine::at(program, interface.params.clone(), noise)?.run(&packed, &mut |probed| {
        check.observe(probed.probe, &probed.values);
    })?;
    let outputs = interface.outputs.iter().zip(&slots).map(|(port, slots)| port.unpack(slots)).collect();
    Ok(ClearRun { outputs, violations: check.into_violations() })
}
