//! Head and tail models of the client, run in the clear by tract. The only module of this crate that sees tract.

use std::io::Cursor;
use std::sync::Arc;

use peregrine_data::onnx::{framework, guarded};
use tract_onnx::prelude::*;

use super::error::{ClientError, Part};
use super::tensor::{NamedTensor, TensorPort};

/// A head or tail model that is ready to run on inputs of fixed shapes.
pub struct ClientModel {
    part: Part,
    inputs: Vec<String>,
    outputs: Vec<String>,
    plan: Arc<TypedRunnableModel>,
}

impl ClientModel {
    /// Loads an ONNX model whose inputs are the given tensors (by name, else in order).
    ///
    /// # Errors
    /// [`ClientError::Onnx`] when the model is damaged or its inputs do not fit, [`ClientError::Count`].
    pub fn load(part: Part, model: &[u8], like: &[TensorPort]) -> Result<Self, ClientError> {
        let refuse = |e: TractError| ClientError::Onnx { part, action: "loaded", reason: format!("{e:#}") };
        let mut model = guarded(|| framework().model_for_read(&mut Cursor::new(model))).map_err(refuse)?;
        let inputs: Vec<String> = node_names(&model, model.input_outlets().map_err(refuse)?);
        if inputs.len() != like.len() {
            return Err(ClientError::Count { part, program: like.len(), found: inputs.len() });
        }
        let order = matching(&inputs, like.iter().map(|port| port.name.as_str()));
        for (i, &tensor) in order.iter().enumerate() {
            let fact = InferenceFact::dt_shape(f32::datum_type(), &like[tensor].shape);
            model.set_input_fact(i, fact).map_err(refuse)?;
        }
        let outputs = output_names(&model).map_err(refuse)?;
        let plan = guarded(|| model.into_optimized()?.into_runnable()).map_err(refuse)?;
        Ok(Self { part, inputs, outputs, plan })
    }

    /// Runs the model; results are named as in ONNX.
    ///
    /// # Errors
    /// [`ClientError::Onnx`], [`ClientError::Count`].
    pub fn run(&self, tensors: &[NamedTensor]) -> Result<Vec<NamedTensor>, ClientError> {
        if tensors.len() != self.inputs.len() {
            return Err(ClientError::Count {
                part: self.part,
                program: tensors.len(),
                found: self.inputs.len(),
            });
        }
        self.evaluate(tensors).map_err(|e| ClientError::Onnx {
            part: self.part,
            action: "run",
            reason: format!("{e:#}"),
        })
    }

    fn evaluate(&self, tensors: &[NamedTensor]) -> TractResult<Vec<NamedTensor>> {
        let mut values = tvec!();
        let order = matching(&self.inputs, tensors.iter().map(|t| t.name.as_str()));
        for tensor in order.into_iter().map(|i| &tensors[i]) {
            let data: Vec<f32> = tensor.data.iter().map(|&x| x as f32).collect();
            values.push(Tensor::from_shape(&tensor.shape, &data)?.into_tvalue());
        }
        let results = guarded(|| self.plan.run(values))?;
        let named = results.iter().zip(&self.outputs).map(|(value, name)| {
            let cast = value.cast_to::<f64>()?;
            let data = cast.to_plain_array_view::<f64>()?.iter().copied().collect();
            Ok(NamedTensor { name: name.clone(), shape: value.shape().to_vec(), data })
        });
        named.collect()
    }
}

fn node_names(model: &InferenceModel, outlets: &[OutletId]) -> Vec<String> {
    outlets.iter().map(|outlet| model.node(outlet.node).name.clone()).collect()
}

fn output_names(model: &InferenceModel) -> TractResult<Vec<String>> {
    let outlets = model.output_outlets()?;
    let name = |outlet: &OutletId| match model.outlet_label(*outlet) {
        Some(label) => label.to_owned(),
        None => model.node(outlet.node).name.clone(),
    };
    Ok(outlets.iter().map(name).collect())
}

/// For each model input the tensor that it takes: by name when all names are found, else in order.
fn matching<'a>(inputs: &[String], names: impl Iterator<Item = &'a str> + Clone) -> Vec<usize> {
    let by_name: Option<Vec<usize>> =
        inputs.iter().map(|input| names.clone().position(|name| name == input)).collect();
    by_name.unwrap_or_else(|| (0..inputs.len()).collect())
}

#[cfg(test)]
pub(crate) mod testing {
    //! ONNX models of one node.

    use prost::Message;
    use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
    use tract_onnx::pb::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
        ValueInfoProto, type_proto,
    };

    fn value(name: &str, shape: &[usize]) -> ValueInfoProto {
        let dim = |&extent: &usize| Dimension {
            value: Some(dimension::Value::DimValue(extent as i64)),
            ..Dimension::default()
        };
        let tensor = type_proto::Tensor {
            elem_type: 1,
            shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
        };
        let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        ValueInfoProto { name: name.to_owned(), r#type: Some(ty), ..ValueInfoProto::default() }
    }

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            name: format!("node {output}"),
            op_type: op.to_owned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    /// A model `output = op(input)`.
    pub fn unary_model(op: &str, (input, shape): (&str, &[usize]), output: &str) -> Vec<u8> {
        model(GraphProto {
            node: vec![node(op, &[input], output)],
            input: vec![value(input, shape)],
            output: vec![value(output, shape)],
            ..GraphProto::default()
        })
    }

    /// A tail that repeats the vector `input` of `length` numbers in each cell of a grid: `[1, length, rows, columns]`.
    pub fn grid_model((input, length): (&str, usize), [rows, columns]: [usize; 2], output: &str) -> Vec<u8> {
        let shape = |name: &str, extents: [usize; 4]| TensorProto {
            name: name.to_owned(),
            dims: vec![4],
            data_type: 7,
            int64_data: extents.iter().map(|&e| e as i64).collect(),
            ..TensorProto::default()
        };
        model(GraphProto {
            node: vec![
                node("Reshape", &[input, "column"], "cell"),
                node("Expand", &["cell", "grid"], output),
            ],
            initializer: vec![shape("column", [1, length, 1, 1]), shape("grid", [1, length, rows, columns])],
            input: vec![value(input, &[1, length])],
            output: vec![value(output, &[1, length, rows, columns])],
            ..GraphProto::default()
        })
    }

    /// A tail of operator set 9 that doubles rows and columns of a map.
    pub fn upsample_model((input, shape): (&str, [usize; 4]), output: &str) -> Vec<u8> {
        let scales = TensorProto {
            name: "scales".to_owned(),
            dims: vec![4],
            data_type: 1,
            float_data: vec![1.0, 1.0, 2.0, 2.0],
            ..TensorProto::default()
        };
        let graph = GraphProto {
            node: vec![node("Upsample", &[input, "scales"], output)],
            initializer: vec![scales],
            input: vec![value(input, &shape)],
            output: vec![value(output, &[1, shape[1], 2 * shape[2], 2 * shape[3]])],
            ..GraphProto::default()
        };
        model_of(graph, 9)
    }

    fn model(graph: GraphProto) -> Vec<u8> {
        model_of(graph, 13)
    }

    fn model_of(graph: GraphProto, version: i64) -> Vec<u8> {
        let graph = GraphProto { name: "test".to_owned(), ..graph };
        let opset = OperatorSetIdProto { domain: String::new(), version };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![opset],
            graph: Some(graph),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }
}
