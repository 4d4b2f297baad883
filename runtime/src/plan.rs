//! What a run of an artefact takes: memory, keys, and what travels between client and server. Nothing is made.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::bytes::ByteSize;
use crate::error::RuntimeError;
use crate::exec::{Server, key_bytes};
use crate::interface::Port;
use crate::loader::Loaded;
use crate::report::ParameterReport;

/// What a run takes. Serialises to the object that `peregrine-run plan --json` prints; sizes are bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunPlan {
    /// Model name.
    pub model: String,
    /// Encryption parameters, keys, instructions.
    pub parameters: ParameterReport,
    /// Layers of the program.
    pub layers: usize,
    /// Evaluation keys in memory.
    pub key_bytes: u64,
    /// Live ciphertexts and scratch space at their largest sum.
    pub working_bytes: u64,
    /// Weights, tables of the ring, and the process itself.
    pub fixed_bytes: u64,
    /// All constants in compact form; those that do not fit are expanded on demand.
    pub constant_bytes: u64,
    /// Least memory that the run works with: linear calls in the smallest portions, which takes longer.
    pub least_bytes: u64,
    /// Memory for usual portions, with constants expanded on demand.
    pub usual_bytes: u64,
    /// The same when keys are in a scratch folder.
    pub least_scratch_bytes: u64,
    /// Memory with which every constant stays encoded.
    pub full_bytes: u64,
    /// Ciphertexts that the client sends and gets back.
    pub transfers: Vec<Transfer>,
}

/// An encrypted input or output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transfer {
    /// ONNX name.
    pub name: String,
    /// Which way it goes.
    pub direction: Direction,
    /// Shape.
    pub shape: Vec<usize>,
    /// Ciphertexts.
    pub ciphertexts: u32,
    /// Their level.
    pub level: u32,
    /// Bytes on the wire. Fresh ciphertexts are half random: a seed stands for that half.
    pub bytes: u64,
}

/// Way of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the client to the server.
    Upload,
    /// Back.
    Download,
}

impl RunPlan {
    /// Plans a run of a `.fhe` file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn of(model: &Path) -> Result<Self, RuntimeError> {
        let loaded = Loaded::open(model)?;
        let server = Server::new(&loaded)?;
        let (memory, interface) = (server.memory(), &loaded.interface);
        let keys = interface.manifest.galois.len() + interface.manifest.relin.iter().len();
        let sent = interface.inputs.iter().map(|port| Transfer::of(port, Direction::Upload, &loaded));
        let back = interface.outputs.iter().map(|port| Transfer::of(port, Direction::Download, &loaded));
        Ok(Self {
            model: loaded.program.name.clone(),
            parameters: ParameterReport::new(
                &interface.params,
                keys,
                key_bytes(&interface.manifest, &interface.params).0,
                loaded.program.insts.len(),
            ),
            layers: loaded.program.layers.len(),
            key_bytes: memory.keys.0,
            working_bytes: memory.working.0,
            fixed_bytes: memory.fixed.0,
            constant_bytes: memory.constants.0,
            least_bytes: memory.least().0,
            usual_bytes: memory.usual().0,
            least_scratch_bytes: memory.least_with_scratch().0,
            full_bytes: memory.full().0,
            transfers: sent.chain(back).collect(),
        })
    }
}

impl Transfer {
    fn of(port: &Port, direction: Direction, loaded: &Loaded) -> Self {
        let whole = u64::from(port.layout.ciphertexts) * loaded.interface.params.ciphertext_bytes(port.level);
        Self {
            name: port.tensor.name.clone(),
            direction,
            shape: port.tensor.shape.clone(),
            ciphertexts: port.layout.ciphertexts,
            level: port.level.0,
            bytes: match direction {
                Direction::Upload => whole / 2,
                Direction::Download => whole,
            },
        }
    }
}

/// The plan as text.
pub fn text(plan: &RunPlan) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, plan);
    out
}

fn write_text(out: &mut String, plan: &RunPlan) -> std::fmt::Result {
    let p = &plan.parameters;
    writeln!(out, "{}: {} layers, {} instructions", plan.model, plan.layers, p.instructions)?;
    writeln!(
        out,
        "parameters N = {}, log Q = {:.0}, log QP = {:.0} ({}+{} primes), {}-bit security",
        p.n, p.log_q, p.log_qp, p.limbs, p.special_limbs, p.security_bits
    )?;
    writeln!(out, "keys       {} of {}", p.keys, ByteSize(p.key_bytes))?;
    writeln!(
        out,
        "memory     {} at least ({} with keys in a scratch folder), {} to be fast, {} with every constant encoded",
        ByteSize(plan.least_bytes),
        ByteSize(plan.least_scratch_bytes),
        ByteSize(plan.usual_bytes),
        ByteSize(plan.full_bytes)
    )?;
    writeln!(
        out,
        "           keys {}, ciphertexts and scratch {}, weights and tables {}, constants {}",
        ByteSize(plan.key_bytes),
        ByteSize(plan.working_bytes),
        ByteSize(plan.fixed_bytes),
        ByteSize(plan.constant_bytes)
    )?;
    for transfer in &plan.transfers {
        let way = match transfer.direction {
            Direction::Upload => "sent",
            Direction::Download => "back",
        };
        writeln!(
            out,
            "{way:<10} `{}` {:?}: {} ciphertext(s) at level {}, {}",
            transfer.name,
            transfer.shape,
            transfer.ciphertexts,
            transfer.level,
            ByteSize(transfer.bytes)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{artefact, client};

    #[test]
    fn a_plan_adds_up_and_names_what_travels() {
        let directory = tempfile::tempdir().expect("a directory");
        let plan = RunPlan::of(&artefact(directory.path(), &client())).expect("it is planned");
        assert_eq!(plan.usual_bytes, plan.key_bytes + plan.working_bytes + plan.fixed_bytes);
        assert_eq!(plan.full_bytes, plan.usual_bytes + plan.constant_bytes);
        assert!(plan.least_bytes <= plan.usual_bytes && plan.least_scratch_bytes < plan.least_bytes);
        let ways: Vec<_> = plan.transfers.iter().map(|t| (t.name.as_str(), t.direction, t.level)).collect();
        assert_eq!(ways, [("x", Direction::Upload, 2), ("y", Direction::Download, 0)]);
        // Three limbs of 2^13 words, two polynomials of which one is a seed; one limb back.
        assert_eq!(plan.transfers[0].bytes, 3 * 8192 * 8);
        assert_eq!(plan.transfers[1].bytes, 2 * 8192 * 8);
        let text = text(&plan);
        for part in
            ["tiny: 3 layers", "N = 8192", "at least", "sent       `x` [1, 1, 8, 8]", "back       `y`"]
        {
            assert!(text.contains(part), "`{part}` in:\n{text}");
        }
    }
}
