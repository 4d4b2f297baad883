//! What an ONNX file says about itself, below the meaning of its operators: names, model-local functions, metadata. For
//! everything that reads ONNX: the compiler, the runtime's evaluation, training.

mod framework;
mod inline;
mod meta;

use tract_onnx::pb::NodeProto;

pub use framework::{framework, guarded};
pub use inline::{FunctionsError, inline_functions};
pub use meta::{
    CHANNELS, ImageOverrides, LABELS, MEAN, MetadataError, Precedence, STD, image_spec, labels, parse_labels,
};

/// Name of a node in messages: its own, else that of its first output, else its operator.
pub fn display_name(node: &NodeProto) -> &str {
    [Some(&node.name), node.output.first(), Some(&node.op_type)]
        .into_iter()
        .flatten()
        .find(|s| !s.is_empty())
        .map_or("?", |s| s)
}
