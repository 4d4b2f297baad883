//! ONNX front end: from a file's bytes to a tensor graph and the client's parts, and back to ONNX.

mod curve;
mod cut;
mod error;
mod export;
mod external;
mod fold;
mod handover;
pub(crate) mod load;
mod max_pools;
mod movement;
mod node;
mod ops;
mod pending;
mod poly_act;
mod recognise;
mod sequences;
mod settle;
mod split;
mod tensor;
#[cfg(test)]
mod tests;
mod translate;
mod view;
mod widen;

use std::collections::BTreeMap;
use std::path::PathBuf;

use peregrine_ir::OutputPort;
use peregrine_ir::client::{ImageSpec, RangeRecord};
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use tract_onnx::pb::StringStringEntryProto;

pub use cut::Cut;
pub use error::{ImportError, Refusal, UnsupportedNode, UnsupportedNodes};
pub use export::{ExportError, export, export_tuned};
pub use load::{MAX_OPSET, MIN_OPSET, ModelInput};
pub use max_pools::MaxPools;
pub use peregrine_data::onnx::{CHANNELS, ImageOverrides, LABELS, MEAN, Precedence, STD, parse_labels};
pub use poly_act::{POLY_ACT_DOMAIN, TUNED_DEGREE, TUNED_ORIGINAL, TUNED_RANGES, ranges_text};
pub use split::ClientSplit;

use crate::oracle::encode;
use load::{LoadOptions, Loaded};
use recognise::Plan;
use translate::{Finished, Translator, Value};

/// How a model is imported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// Shape of the input, where the file leaves it open or fixes another one.
    pub input_shape: Option<Vec<usize>>,
    /// What the client takes over.
    pub split: ClientSplit,
    /// Image normalisation that replaces the model's metadata.
    pub image: ImageOverrides,
    /// What happens to max pools.
    pub max_pools: MaxPools,
    /// The model's folder, where external weights lie.
    pub folder: Option<PathBuf>,
}

/// An imported model: the part that is encrypted and the parts that run on the client.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The encrypted part.
    pub graph: TensorGraph,
    /// The model's input (before the head).
    pub input: ModelInput,
    /// Names of the model's outputs (after the tail).
    pub outputs: Vec<String>,
    /// ONNX model run before encryption.
    pub head: Option<Vec<u8>>,
    /// ONNX model run after decryption.
    pub tail: Option<Vec<u8>>,
    /// Image preprocessing, when the input is an image.
    pub image: Option<ImageSpec>,
    /// Class names.
    pub labels: Vec<String>,
    /// Ranges that a tuned model carries for its activations and outputs; empty for others.
    pub ranges: Vec<RangeRecord>,
    /// The whole model with batch 1 and fixed shapes, which tract runs as it is.
    pub model: Vec<u8>,
    /// Names of the max pools that average pools replace in `model`.
    pub averaged: Vec<String>,
    /// The end of the model that was cut off because the client cannot run it.
    pub cut: Option<Cut>,
    /// Metadata properties of the file.
    pub(crate) metadata: Vec<StringStringEntryProto>,
}

/// Imports a model with the default options.
///
/// # Errors
/// [`ImportError`]; nodes that cannot be compiled are reported all at once.
pub fn import(bytes: &[u8]) -> Result<Imported, ImportError> {
    import_with(bytes, &ImportOptions::default())
}

/// Imports a model.
///
/// # Errors
/// [`ImportError`]; nodes that cannot be compiled are reported all at once.
pub fn import_with(bytes: &[u8], options: &ImportOptions) -> Result<Imported, ImportError> {
    let how = LoadOptions {
        input_shape: options.input_shape.as_deref(),
        folder: options.folder.as_deref(),
        max_pools: options.max_pools,
    };
    let mut model = load::load(bytes, how)?;
    let mut made = None;
    if let Some((shorter, cut)) = cut::inputs_as_outputs(&model) {
        (model, made) = (shorter, Some(cut));
    }
    if model.inputs.len() > 1
        && let Some((shorter, cut)) = cut::other_inputs(&model)
    {
        (model, made) = (shorter, Some(cut));
    }
    let (split, error) = match part_of(&model, options) {
        Ok(imported) => return Ok(Imported { cut: made, ..imported }),
        Err(Failed { split: Some(split), error }) => (*split, error),
        Err(Failed { split: None, error }) => return Err(error),
    };
    // The client cannot run the tail as it is: try again with less of it.
    let ImportError::ClientModel { part: "tail", why } = &error else { return Err(error) };
    let tail = split.tail();
    let shorter = [cut::unknown_operators(&model, &tail, why), cut::whole_tail(&model, &tail, why)];
    for (shorter, cut) in shorter.into_iter().flatten() {
        if let Ok(imported) = part_of(&shorter, options) {
            return Ok(Imported { cut: Some(cut), ..imported });
        }
    }
    Err(error)
}

/// Why a model is not imported, and how it was split.
struct Failed {
    split: Option<Box<split::Split>>,
    error: ImportError,
}

impl From<ImportError> for Failed {
    fn from(error: ImportError) -> Self {
        Self { split: None, error }
    }
}

fn part_of(model: &Loaded, options: &ImportOptions) -> Result<Imported, Failed> {
    let [input] = model.inputs.as_slice() else {
        let names = model.inputs.iter().map(|i| i.name.clone()).collect();
        return Err(ImportError::Inputs { names }.into());
    };
    let mut split = split::split(model, &input.name, input.shape.len(), options.split);
    let head = split::head_model(model, &split, input)?;
    if head.is_none() && !input.is_float() {
        let found = input.kind.as_str_name().to_owned();
        return Err(ImportError::InputType { value: input.name.clone(), found }.into());
    }
    let encrypted_shape = head.as_ref().map_or(&input.shape, |head| &head.shape);
    let shapes = BTreeMap::from([(input.name.clone(), input.shape.clone())]);
    let mut translator = Translator::new(model, shapes);
    translator.input(&split.encrypted, encrypted_shape);
    translator.run(&model.graph().node, model.opset, &Plan::new(model, &split));
    let Finished { mut graph, values, handovers } = translator.finish(&split.ports, options.split)?;
    let activated = |o: &OutputPort| {
        matches!(graph.nodes[o.value].op, TensorOp::Activation(_) | TensorOp::Poly { .. } | TensorOp::Mul)
    };
    let idle = !split.computes(&model.graph().node) || graph.outputs.iter().any(activated);
    if !split.needs_server() && idle {
        return Err(ImportError::nothing_to_compute(model.graph()).into());
    }
    if !handovers.is_empty() {
        split.name_apart(&mut graph);
    }
    let shape_of = |name: &str| match values.get(name) {
        Some(Value::Data(id)) => Some(graph.nodes[*id].ty.shape.clone()),
        _ => None,
    };
    let tail = match split::tail_model(model, &split, &values, &handovers, shape_of) {
        Ok(tail) => tail,
        Err(error) => return Err(Failed { split: Some(Box::new(split)), error }),
    };
    Ok(Imported {
        image: peregrine_data::onnx::image_spec(&model.proto, &input.shape, &options.image)
            .map_err(ImportError::from)?,
        labels: peregrine_data::onnx::labels(&model.proto).map_err(ImportError::from)?,
        ranges: poly_act::ranges(&model.proto)?,
        outputs: model.graph().output.iter().map(|o| o.name.clone()).collect(),
        input: input.clone(),
        head: head.map(|head| head.bytes),
        tail,
        model: encode(&model.proto),
        averaged: model.averaged.clone(),
        cut: None,
        metadata: model.proto.metadata_props.clone(),
        graph,
    })
}
