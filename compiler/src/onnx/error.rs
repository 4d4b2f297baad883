//! What can be wrong with an ONNX file, and what to do about it.

use std::fmt;

use peregrine_data::onnx::MetadataError;
use thiserror::Error;
use tract_onnx::pb::GraphProto;

/// Why a node cannot be translated, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub why: String,
    /// What the user can do.
    pub fix: String,
}

impl Refusal {
    /// A refusal with a reason and a way out.
    pub fn new(why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { why: why.into(), fix: fix.into() }
    }
}

/// One ONNX node that cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// Node name, or its first output when it has none.
    pub node: String,
    /// Operator, with its domain when it is not ONNX's own.
    pub op: String,
    /// Shapes of the inputs, where known.
    pub shapes: Vec<Option<Vec<usize>>>,
    /// Reason and way out.
    pub refusal: Refusal,
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.op, self.node)?;
        if self.shapes.iter().any(Option::is_some) {
            let shapes: Vec<String> = self.shapes.iter().map(|s| shape_text(s.as_deref())).collect();
            write!(f, " on {}", shapes.join(", "))?;
        }
        write!(f, ": {}; {}", self.refusal.why, self.refusal.fix)
    }
}

/// `[1,3,32,32]`, or `?` when unknown.
pub(crate) fn shape_text(shape: Option<&[usize]>) -> String {
    match shape {
        None => "?".to_owned(),
        Some(shape) => format!("[{}]", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",")),
    }
}

/// All the nodes of a model that cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNodes(pub Vec<UnsupportedNode>);

impl fmt::Display for UnsupportedNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} ONNX node{} cannot be compiled:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|node| write!(f, "\n  {node}"))
    }
}

/// Why an ONNX file is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImportError {
    /// The bytes are no ONNX file, or only part of one.
    #[error(
        "not a readable ONNX file ({why}); it may be truncated or of another format: export or download it again"
    )]
    Decode {
        /// What the protobuf decoder says.
        why: String,
    },
    /// The file is larger than protobuf allows.
    #[error("the ONNX file has {bytes} bytes, more than the {limit} that one protobuf message may have")]
    TooLarge {
        /// Size.
        bytes: usize,
        /// Limit.
        limit: usize,
    },
    /// There is no graph.
    #[error("the ONNX file holds no graph to compile; export the model again")]
    NoGraph,
    /// The operator set is outside what is understood.
    #[error("ONNX operator set {found} is not supported: export the model with an opset from {min} to {max}")]
    Opset {
        /// Version in the file.
        found: i64,
        /// Oldest supported.
        min: i64,
        /// Newest supported.
        max: i64,
    },
    /// Weights live in another file.
    #[error(
        "tensor {tensor:?} keeps its data in an external file: save the model with its data inside \
         (onnx.save_model(model, path, save_as_external_data=False))"
    )]
    ExternalData {
        /// Name of the tensor.
        tensor: String,
    },
    /// A file of external weights cannot be read.
    #[error(
        "tensor {tensor:?} keeps its data in the file {file:?} beside the model, which cannot be read: {why}"
    )]
    ExternalFile {
        /// Name of the tensor.
        tensor: String,
        /// The file as the model names it.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A tensor contradicts itself.
    #[error("tensor {tensor:?} is malformed: {why}; export the model again")]
    BadTensor {
        /// Name of the tensor.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// A node uses a value that nothing before it defines.
    #[error(
        "node {node:?} uses {value:?}, which no input, initialiser or earlier node defines; export the model again"
    )]
    UndefinedValue {
        /// Node, or `graph output`.
        node: String,
        /// Name of the value.
        value: String,
    },
    /// The model does not have exactly one input.
    #[error("the model has {} inputs ({}); one image tensor is supported: fix the others to constants and export again", names.len(), names.join(", "))]
    Inputs {
        /// Names of the inputs that are no initialisers.
        names: Vec<String>,
    },
    /// A dimension other than the batch is not fixed.
    #[error(
        "input {input:?} has shape {shape}, whose dimension {dimension} is not fixed: give it with \
         --input-shape (for example --input-shape 1x3x224x224) or export with a fixed size"
    )]
    DynamicShape {
        /// Name of the input.
        input: String,
        /// Shape as in the file.
        shape: String,
        /// Index of the dimension.
        dimension: usize,
    },
    /// The batch is fixed to more than one image.
    #[error(
        "input {input:?} has a fixed batch of {batch}: give its shape with --input-shape (1x3x224x224, for example), or export with \
         batch 1 or a dynamic batch"
    )]
    Batch {
        /// Name of the input.
        input: String,
        /// Batch in the file.
        batch: i64,
    },
    /// `--input-shape` contradicts the file.
    #[error(
        "input {input:?} has shape {found} in the model, --input-shape gives {given}: give as many dimensions, none of them 0"
    )]
    InputShape {
        /// Name of the input.
        input: String,
        /// Shape in the file.
        found: String,
        /// Shape asked for.
        given: String,
    },
    /// The input's element type cannot be encrypted and no leading Cast makes it a float.
    #[error(
        "value {value:?}, the first that would be encrypted, has element type {found}; cast it to float first in the model"
    )]
    InputType {
        /// Name of the value.
        value: String,
        /// Element type.
        found: String,
    },
    /// An output does not depend on the input.
    #[error("output {output:?} does not depend on the input: nothing to compute under encryption")]
    ConstantOutput {
        /// Name of the output.
        output: String,
    },
    /// No node computes anything.
    #[error(
        "output {output:?} is the input itself, moved or under an activation: no layer is computed under encryption; export the network \
         with its layers"
    )]
    NothingToCompute {
        /// Name of the first output.
        output: String,
    },
    /// Nodes that cannot be translated, all of them.
    #[error("{0}")]
    Unsupported(UnsupportedNodes),
    /// A metadata property or flag cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// tract, which runs the client's head and tail, cannot run them.
    #[error("the part of the model that runs on the client ({part}) cannot be run: {why}")]
    ClientModel {
        /// `head` or `tail`.
        part: &'static str,
        /// tract's message.
        why: String,
    },
}

impl ImportError {
    /// The refusal of a graph whose outputs are its input.
    pub(crate) fn nothing_to_compute(graph: &GraphProto) -> Self {
        let output = graph.output.first().map_or_else(String::new, |output| output.name.clone());
        Self::NothingToCompute { output }
    }
}
