//! Typed access to an ONNX node's attributes.

use peregrine_data::onnx::display_name;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

use super::error::Refusal;

/// A node with the operator set it is written in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeView<'a> {
    /// The node.
    pub(crate) proto: &'a NodeProto,
    /// Operator set of the model.
    pub(crate) opset: i64,
}

impl<'a> NodeView<'a> {
    /// Name for messages: the node's, else its first output's.
    pub(crate) fn name(self) -> &'a str {
        display_name(self.proto)
    }

    /// Name of input `i`, if it is given.
    pub(crate) fn input(self, i: usize) -> Option<&'a str> {
        self.proto.input.get(i).map(String::as_str).filter(|s| !s.is_empty())
    }

    /// Integer attribute.
    pub(crate) fn int(self, name: &str) -> Result<Option<i64>, Refusal> {
        Ok(self.attribute(name, AttributeType::Int)?.map(|a| a.i))
    }

    /// Integer attribute with a default.
    pub(crate) fn int_or(self, name: &str, default: i64) -> Result<i64, Refusal> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// Integer list attribute.
    pub(crate) fn ints(self, name: &str) -> Result<Option<&'a [i64]>, Refusal> {
        Ok(self.attribute(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    /// Float attribute.
    pub(crate) fn float(self, name: &str) -> Result<Option<f32>, Refusal> {
        Ok(self.attribute(name, AttributeType::Float)?.map(|a| a.f))
    }

    /// Float list attribute.
    pub(crate) fn floats(self, name: &str) -> Result<Option<&'a [f32]>, Refusal> {
        Ok(self.attribute(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    /// Tensor attribute.
    pub(crate) fn tensor(self, name: &str) -> Result<Option<&'a TensorProto>, Refusal> {
        Ok(self.attribute(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    /// Text attribute with a default.
    pub(crate) fn text_or(self, name: &str, default: &'a str) -> Result<&'a str, Refusal> {
        match self.attribute(name, AttributeType::String)? {
            None => Ok(default),
            Some(a) => std::str::from_utf8(&a.s).map_err(|_| bad_attribute(name, "UTF-8 text")),
        }
    }

    fn attribute(self, name: &str, kind: AttributeType) -> Result<Option<&'a AttributeProto>, Refusal> {
        let Some(found) = self.proto.attribute.iter().find(|a| a.name == name) else { return Ok(None) };
        if found.r#type == kind as i32 || found.r#type == AttributeType::Undefined as i32 {
            return Ok(Some(found));
        }
        Err(bad_attribute(name, kind.as_str_name()))
    }
}

/// A malformed attribute.
pub(crate) fn bad_attribute(name: &str, expected: &str) -> Refusal {
    Refusal::new(format!("attribute {name:?} is not {expected}"), "export the model again")
}
