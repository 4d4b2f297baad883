//! ONNX files as users have them, run in the clear by tract: the model that an encrypted one is compared with.

use std::path::Path;

use peregrine_data::DataError;
use peregrine_data::onnx::{ImageOverrides, image_spec, inline_functions, labels};
use peregrine_ir::client::ClientPart;
use prost::Message;
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{GraphProto, ModelProto, TypeProto, ValueInfoProto, type_proto};

use super::error::{ClientError, Part};
use super::onnx::ClientModel;
use super::tensor::TensorPort;

/// An ONNX file of one input, ready to run.
pub struct OnnxFile {
    /// Runs it.
    pub model: ClientModel,
    /// What the file says about its input and classes, as an artefact would; no head, no tail.
    pub part: ClientPart,
}

impl OnnxFile {
    /// Opens a file; a batch that it leaves open becomes 1, model-local functions are inlined.
    ///
    /// # Errors
    /// [`ClientError::OnnxFile`] names what is wrong.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let refuse = |reason: String| ClientError::OnnxFile { path: path.to_owned(), reason };
        let bytes =
            std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
        let mut proto =
            ModelProto::decode(bytes.as_slice()).map_err(|e| refuse(format!("it is no ONNX file: {e}")))?;
        inline_functions(&mut proto).map_err(|e| refuse(e.to_string()))?;
        let graph = proto.graph.as_mut().ok_or_else(|| refuse("it holds no graph".to_owned()))?;
        let input = fix_input(graph).map_err(refuse)?;
        let image = image_spec(&proto, &input.shape, &ImageOverrides::default())
            .map_err(|e| refuse(e.to_string()))?;
        let part = ClientPart {
            image: stated(&proto).then_some(image).flatten(),
            input_name: input.name.clone(),
            input_shape: input.shape.clone(),
            labels: labels(&proto).map_err(|e| refuse(e.to_string()))?,
            ..ClientPart::default()
        };
        let model = ClientModel::load(Part::Model, &proto.encode_to_vec(), &[input])?;
        Ok(Self { model, part })
    }
}

/// Whether the file says how pixels are normalised.
fn stated(proto: &ModelProto) -> bool {
    use peregrine_data::onnx::{MEAN, STD};
    proto.metadata_props.iter().any(|p| p.key == MEAN || p.key == STD)
}

/// The one input that is read and is no initialiser, with its shape fixed; annotations of inner values, which tract would believe, go.
fn fix_input(graph: &mut GraphProto) -> Result<TensorPort, String> {
    let constants: Vec<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    let read: Vec<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
    let unread: Vec<bool> = graph.input.iter().map(|input| !read.contains(&&input.name)).collect();
    let mut unread = unread.into_iter();
    graph.input.retain(|input| unread.next() == Some(false) && !constants.contains(&input.name));
    graph.value_info.clear();
    for output in &mut graph.output {
        if let Some(TypeProto { value: Some(type_proto::Value::TensorType(t)), .. }) = &mut output.r#type {
            t.shape = None;
        }
    }
    let count = graph.input.len();
    let [input] = graph.input.as_mut_slice() else {
        return Err(format!("it has {count} inputs; models of one input are run"));
    };
    let shape = fix_shape(input)?;
    Ok(TensorPort { name: input.name.clone(), shape })
}

fn fix_shape(input: &mut ValueInfoProto) -> Result<Vec<usize>, String> {
    let name = input.name.clone();
    let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &mut input.r#type else {
        return Err(format!("its input `{name}` is no tensor"));
    };
    let Some(shape) = &mut tensor.shape else { return Err(format!("its input `{name}` has no shape")) };
    let mut extents = Vec::new();
    for (axis, dimension) in shape.dim.iter_mut().enumerate() {
        let extent = match dimension.value {
            Some(Value::DimValue(extent)) if extent > 0 => extent,
            _ if axis == 0 => 1,
            _ => {
                return Err(format!(
                    "its input `{name}` leaves axis {axis} open; export it with a fixed shape"
                ));
            }
        };
        dimension.value = Some(Value::DimValue(extent));
        extents.push(extent as usize);
    }
    match extents.first() {
        Some(1) => Ok(extents),
        _ => {
            Err(format!("its input `{name}` of shape {extents:?} has no batch of 1; export it with batch 1"))
        }
    }
}
