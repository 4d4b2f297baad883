//! What client and server have to agree on: parameters, inputs, outputs and the key manifest of a program. No weights.

use std::sync::Arc;

use peregrine_ckks::bootstrap::BootstrapParams;
use peregrine_ckks::params::Params;
use peregrine_ckks::units::{Level, Scale};
use peregrine_ir::layout::Layout;
use peregrine_ir::program::{KeyManifest, Program, ProgramInput, ProgramOutput};

use crate::client::{NamedTensor, TensorPort};
use crate::error::{At, RuntimeError};

/// An encrypted input or output.
#[derive(Clone, Debug)]
pub struct Port {
    /// ONNX name and shape.
    pub tensor: TensorPort,
    /// Where the elements live.
    pub layout: Layout,
    /// Level of the ciphertexts.
    pub level: Level,
    /// Their scale.
    pub scale: Scale,
    /// Per-channel unit: element = unit * slot.
    pub unit: Vec<f64>,
}

/// The encrypted inputs and outputs of a program, its parameters and the keys that it needs.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Encryption parameters.
    pub params: Params,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Keys.
    pub manifest: KeyManifest,
    /// The ring's bootstrapping, if the program uses it.
    pub bootstrap: Option<BootstrapParams>,
}

impl Interface {
    /// The interface of a verified program.
    ///
    /// # Errors
    /// [`RuntimeError::Program`] when a table entry is missing or a unit does not fit its layout.
    pub fn of(program: &Program, params: &Params) -> Result<Arc<Self>, RuntimeError> {
        let inputs = program.inputs.iter().map(|input| Port::of_input(program, input));
        let outputs = program.outputs.iter().map(|output| Port::of_output(program, output));
        let bootstrap = program.bootstrap.clone().map(|spec| spec.check_for(params)).transpose();
        Ok(Arc::new(Self {
            params: params.clone(),
            bootstrap: bootstrap.at(|| "checking the bootstrapping parameters".to_owned())?,
            inputs: inputs.collect::<Result<_, _>>()?,
            outputs: outputs.collect::<Result<_, _>>()?,
            manifest: program.manifest.clone(),
        }))
    }
}

impl Port {
    fn of_input(program: &Program, input: &ProgramInput) -> Result<Self, RuntimeError> {
        let layout = table(program.layouts.get(input.layout), "layout", &input.name)?.clone();
        let unit = table(program.consts.get(input.unit), "unit", &input.name)?.to_f64();
        let shape = vec![1, layout.shape.c as usize, layout.shape.h as usize, layout.shape.w as usize];
        let tensor = TensorPort { name: input.name.clone(), shape };
        Self { tensor, layout, level: input.level, scale: input.scale.clone(), unit }.checked()
    }

    fn of_output(program: &Program, output: &ProgramOutput) -> Result<Self, RuntimeError> {
        let layout = table(program.layouts.get(output.layout), "layout", &output.name)?.clone();
        let unit = table(program.consts.get(output.unit), "unit", &output.name)?.to_f64();
        let tensor = TensorPort { name: output.name.clone(), shape: output.shape.clone() };
        Self { tensor, layout, level: output.level, scale: output.scale.clone(), unit }.checked()
    }

    fn checked(self) -> Result<Self, RuntimeError> {
        let refuse = |what: String| Err(RuntimeError::Program { place: self.tensor.name.clone(), what });
        let elements = self.layout.shape.len();
        if self.unit.len() != 1 && self.unit.len() != self.layout.shape.c as usize {
            return refuse(format!(
                "its unit has {} entries for {} channels",
                self.unit.len(),
                self.layout.shape.c
            ));
        }
        if let Some(bad) = self.unit.iter().find(|u| !u.is_finite() || **u == 0.0) {
            return refuse(format!("its unit holds {bad}"));
        }
        if self.tensor.shape.iter().product::<usize>() != elements {
            return refuse(format!(
                "its shape {:?} is not that of its layout {}",
                self.tensor.shape, self.layout.shape
            ));
        }
        Ok(self)
    }

    /// Unit of element `index` of the row-major tensor.
    fn unit_of(&self, index: usize) -> f64 {
        let map = self.layout.shape.h as usize * self.layout.shape.w as usize;
        if self.unit.len() == 1 { self.unit[0] } else { self.unit[index / map] }
    }

    /// Slot vectors (one per ciphertext, `period` slots) that hold `tensor / unit`; the caller provides as many numbers
    /// as the layout has elements.
    pub fn pack(&self, tensor: &[f64]) -> Vec<Vec<f64>> {
        let scaled: Vec<f64> = tensor.iter().enumerate().map(|(i, x)| x / self.unit_of(i)).collect();
        self.layout.pack(&scaled)
    }

    /// The tensor that slot vectors (one per ciphertext, at least `period` slots) hold, in original units.
    pub fn unpack(&self, slots: &[Vec<f64>]) -> NamedTensor {
        let packed = self.layout.unpack(slots);
        let data = packed.iter().enumerate().map(|(i, x)| x * self.unit_of(i)).collect();
        NamedTensor { name: self.tensor.name.clone(), shape: self.tensor.shape.clone(), data }
    }
}

fn table<'a, T>(entry: Option<&'a T>, what: &str, name: &str) -> Result<&'a T, RuntimeError> {
    entry.ok_or_else(|| RuntimeError::Program {
        place: name.to_owned(),
        what: format!("its {what} is not in the program"),
    })
}
