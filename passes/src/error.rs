//! Why a pass gives up.

use std::error::Error;
use std::fmt;

use peregrine_ir::tensor::{Stage, TypeError};
use thiserror::Error;

/// One node that the encrypted program cannot express, with the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// ONNX node name.
    pub layer: String,
    /// What the node does.
    pub what: String,
    /// What the user can do.
    pub remedy: &'static str,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}; {}", self.layer, self.what, self.remedy)
    }
}

/// Why a pass gives up. Every variant names the layer or the pass, and what helps.
#[derive(Debug, Error)]
pub enum PassError {
    /// Nodes that have no encrypted form; all of them at once.
    #[error("{} node(s) cannot be computed on encrypted data:{}", .0.len(), listed(.0))]
    Unsupported(Vec<Unsupported>),
    /// A pass was given a graph of the wrong stage.
    #[error(
        "pass {pass} needs a graph of stage {needs}, this one is {found}; run the passes in pipeline order"
    )]
    Stage {
        /// The pass.
        pass: &'static str,
        /// What it asks for.
        needs: String,
        /// What it was given.
        found: String,
    },
    /// A pass built a node that does not type.
    #[error("node of layer `{layer}` does not type: {source}")]
    Type {
        /// ONNX node name.
        layer: String,
        /// What is wrong.
        source: TypeError,
    },
    /// A graph broke an invariant after a pass: a defect of the compiler.
    #[error("the graph is invalid after pass {pass} (a defect of the compiler, please report it): {source}")]
    Invalid {
        /// The pass.
        pass: &'static str,
        /// What is wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Activations have to be fitted and there is nothing to fit them on.
    #[error(
        "{layers} activation(s), the first one `{first}`, need calibration images to be fitted to polynomials; \
         give some with --calibrate FILE.npz or --calibrate DIR"
    )]
    MissingCalibration {
        /// Number of activations.
        layers: usize,
        /// ONNX name of the first.
        first: String,
    },
    /// A polynomial degree out of range was asked for.
    #[error("degree {degree} for layer `{layer}`: polynomial activations have degree {} to {}", DEGREES.0, DEGREES.1)]
    Degree {
        /// ONNX node name, or `*` for the default.
        layer: String,
        /// The degree.
        degree: u32,
    },
    /// A degree was given for a layer that has no activation to fit.
    #[error(
        "a degree is given for layer `{layer}`, which is no activation of the model; the activations are: {known}"
    )]
    UnknownLayer {
        /// The name given.
        layer: String,
        /// Names of the activations.
        known: String,
    },
    /// A batch does not fit the graph's input.
    #[error("a batch of {found:?} values per image, the model's input `{input}` takes {expected:?}")]
    BatchShape {
        /// Name of the input.
        input: String,
        /// Shape that the model takes.
        expected: Vec<usize>,
        /// Shape given.
        found: Vec<usize>,
    },
    /// A recorded range with another number of channels than its layer.
    #[error(
        "the recorded range of layer {layer:?} has {found} channel(s), the layer {expected}: the file's metadata is not of this model; tune it again, or give --calibrate"
    )]
    Records {
        /// Layer or output.
        layer: String,
        /// Channels of the layer.
        expected: usize,
        /// Channels recorded.
        found: usize,
    },
    /// A batch without images, or whose data does not match its shape.
    #[error("a batch of {count} image(s) of shape {shape:?} cannot hold {numbers} numbers")]
    BatchSize {
        /// Images claimed.
        count: usize,
        /// Shape of one.
        shape: Vec<usize>,
        /// Numbers given.
        numbers: usize,
    },
    /// The graph does not have exactly one input.
    #[error(
        "the model has {found} encrypted inputs; exactly one is supported, compute the others in the client's head"
    )]
    Inputs {
        /// Number of inputs.
        found: usize,
    },
    /// A value on the way is not a finite number.
    #[error(
        "layer `{layer}` gives a value that is not finite on the calibration images; lower the degree, or calibrate on \
         images like those that the model was trained on"
    )]
    NotFinite {
        /// ONNX node name.
        layer: String,
    },
}

/// Smallest and largest degree of a polynomial activation.
pub const DEGREES: (u32, u32) = (2, 8);

fn listed(nodes: &[Unsupported]) -> String {
    nodes.iter().map(|node| format!("\n  {node}")).collect()
}

/// The name of a tensor stage, as in dumps.
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Imported => "imported",
        Stage::Canonical => "canonical",
        Stage::Polynomial => "polynomial",
    }
}
