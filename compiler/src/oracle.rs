//! Runs ONNX models in the clear with tract: the oracle of every check, and the client's head and tail.

use std::sync::Arc;

use peregrine_data::onnx::{framework, guarded};
use peregrine_ir::client::ClientTensor;
use prost::Message;
use thiserror::Error;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    DatumType, Framework, IntoRunnable, IntoTValue, RunnableModel, Tensor, TractError, TypedFact, TypedOp,
    tvec,
};
use tract_onnx::tract_hir::infer::InferenceModelExt;

use crate::onnx::ImportError;
use crate::onnx::load::{LoadOptions, load};

/// Why tract did not run a model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OracleError {
    /// The file is refused before tract sees it.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// tract refuses the model or fails while running it.
    #[error("tract cannot run the model: {0}")]
    Tract(String),
    /// An input does not have the model's shape.
    #[error("input {input:?} of the model has shape {expected:?}, the tensor given has {found:?}")]
    Shape {
        /// Name of the input.
        input: String,
        /// Shape of the model.
        expected: Vec<usize>,
        /// Shape given.
        found: Vec<usize>,
    },
    /// The number of inputs is wrong.
    #[error("the model has {expected} inputs, {found} were given")]
    Inputs {
        /// Inputs of the model.
        expected: usize,
        /// Tensors given.
        found: usize,
    },
}

impl From<TractError> for OracleError {
    fn from(error: TractError) -> Self {
        Self::Tract(format!("{error:#}"))
    }
}

/// An ONNX model ready to run in the clear, batch 1.
#[derive(Clone, Debug)]
pub struct Tract {
    model: Arc<RunnableModel<TypedFact, Box<dyn TypedOp>>>,
    inputs: Vec<(String, Vec<usize>, DatumType)>,
    outputs: Vec<(String, Vec<usize>, DatumType)>,
}

impl Tract {
    /// Loads a model; a dynamic batch becomes 1.
    ///
    /// # Errors
    /// When the file is broken or tract does not support the model.
    pub fn load(bytes: &[u8]) -> Result<Self, OracleError> {
        Self::of_proto(&load(bytes, LoadOptions::default())?.proto)
    }

    /// Loads a model whose dynamic input dimensions are given.
    ///
    /// # Errors
    /// When the file is broken or tract does not support the model.
    pub fn load_with_shape(bytes: &[u8], input_shape: &[usize]) -> Result<Self, OracleError> {
        let options = LoadOptions { input_shape: Some(input_shape), ..LoadOptions::default() };
        Self::of_proto(&load(bytes, options)?.proto)
    }

    /// Prepares a model whose input shapes are fixed.
    pub(crate) fn of_proto(proto: &ModelProto) -> Result<Self, OracleError> {
        let names = |infos: &[tract_onnx::pb::ValueInfoProto]| {
            infos.iter().map(|i| i.name.clone()).collect::<Vec<_>>()
        };
        let graph = proto.graph.as_ref().ok_or(ImportError::NoGraph)?;
        let (input_names, output_names) = (names(&graph.input), names(&graph.output));
        let typed = guarded(|| framework().model_for_proto_model(proto)?.into_optimized())?;
        let inputs = input_names
            .into_iter()
            .enumerate()
            .map(|(i, name)| {
                let fact = typed.input_fact(i)?;
                Ok((name, concrete(fact)?, fact.datum_type))
            })
            .collect::<Result<Vec<_>, TractError>>()?;
        let outputs = output_names
            .into_iter()
            .enumerate()
            .map(|(i, name)| {
                let fact = typed.output_fact(i)?;
                Ok((name, concrete(fact).unwrap_or_default(), fact.datum_type))
            })
            .collect::<Result<Vec<_>, TractError>>()?;
        Ok(Self { model: typed.into_runnable()?, inputs, outputs })
    }

    /// Name and shape of each input.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&str, &[usize])> {
        self.inputs.iter().map(|(name, shape, _)| (name.as_str(), shape.as_slice()))
    }

    /// Names of the outputs.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = &str> {
        self.outputs.iter().map(|(name, ..)| name.as_str())
    }

    /// Shape (empty when not known before a run) and element type of output `i`.
    pub(crate) fn output_fact(&self, i: usize) -> Option<(&[usize], DatumType)> {
        self.outputs.get(i).map(|(_, shape, kind)| (shape.as_slice(), *kind))
    }

    /// Runs a model of one input.
    ///
    /// # Errors
    /// When the shape is wrong or tract fails.
    pub fn run(&self, input: &ClientTensor) -> Result<Vec<ClientTensor>, OracleError> {
        self.run_many(std::slice::from_ref(input))
    }

    /// Runs the model; results as `f32` in the order of [`Self::outputs`].
    ///
    /// # Errors
    /// When the number of inputs or a shape is wrong or tract fails.
    pub fn run_many(&self, inputs: &[ClientTensor]) -> Result<Vec<ClientTensor>, OracleError> {
        if inputs.len() != self.inputs.len() {
            return Err(OracleError::Inputs { expected: self.inputs.len(), found: inputs.len() });
        }
        let mut values = tvec!();
        for (tensor, (name, shape, kind)) in inputs.iter().zip(&self.inputs) {
            if tensor.shape != *shape || tensor.data.len() != shape.iter().product::<usize>() {
                let (expected, found) = (shape.clone(), tensor.shape.clone());
                return Err(OracleError::Shape { input: name.clone(), expected, found });
            }
            let value = Tensor::from_shape(shape, &tensor.data)?;
            values.push(value.cast_to_dt(*kind)?.into_owned().into_tvalue());
        }
        let client = |value: &Tensor| -> Result<ClientTensor, TractError> {
            let floats = value.cast_to::<f32>()?;
            Ok(ClientTensor {
                shape: floats.shape().to_vec(),
                data: floats.to_plain_array_view::<f32>()?.iter().copied().collect(),
            })
        };
        let results = guarded(|| self.model.run(values))?;
        Ok(results.iter().map(|v| client(v)).collect::<Result<_, _>>()?)
    }
}

/// Whether there is an operator of this name.
pub(crate) fn knows(operator: &str) -> bool {
    framework().op_register.0.contains_key(operator)
}

fn concrete(fact: &TypedFact) -> Result<Vec<usize>, TractError> {
    match fact.shape.as_concrete() {
        Some(shape) => Ok(shape.to_vec()),
        None => Err(TractError::msg(format!("a shape is not known: {:?}", fact.shape))),
    }
}

/// Encodes a model.
pub(crate) fn encode(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}
