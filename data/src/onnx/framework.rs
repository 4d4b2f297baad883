//! tract's ONNX operators as all that run models use them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::prelude::{TractError, TractResult};
use tract_onnx::tract_hir::infer::InferenceOp;

/// What tract answers; that it panics on some models is an error of the model like others.
///
/// # Errors
/// Those of `run`.
pub fn guarded<T>(run: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(TractError::msg("tract stopped at a bug of its own")))
}

/// tract's ONNX operators, and Upsample and Resize as operator set 9 has them.
pub fn framework() -> Onnx {
    let mut onnx = tract_onnx::onnx();
    if let Some(&resize) = onnx.op_register.0.get("Resize") {
        RESIZE.get_or_init(|| resize);
        onnx.op_register.insert("Upsample", upsample);
    }
    onnx
}

/// tract's reader of Resize.
static RESIZE: OnceLock<Reader> = OnceLock::new();

type Reader = fn(&ParsingContext<'_>, &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Upsample is a Resize of operator set 10 whose coordinates are rounded down.
fn upsample(ctx: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let resize = RESIZE.get().ok_or_else(|| TractError::msg("no Resize"))?;
    let context = ParsingContext { onnx_operator_set_version: 10, ..ctx.clone() };
    let mut node = node.clone();
    node.attribute.push(text("nearest_mode", "floor"));
    node.attribute.push(text("coordinate_transformation_mode", "asymmetric"));
    resize(&context, &node)
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::String as i32,
        s: value.as_bytes().to_vec(),
        ..AttributeProto::default()
    }
}
