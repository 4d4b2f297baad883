//! Small ONNX models built in memory, and comparison of the import with tract.

use peregrine_ir::client::ClientTensor;
use peregrine_passes::tensor::interp::{self, Batch};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};

use crate::onnx::load::value_info;
use crate::onnx::tensor::Constant;
use crate::onnx::{
    ClientSplit, ImportError, ImportOptions, Imported, UnsupportedNode, export, import, import_with,
};
use crate::oracle::Tract;

/// A model under construction: input `x`, output `y`.
pub(super) struct Model {
    pub(super) graph: GraphProto,
    opset: i64,
}

impl Model {
    pub(super) fn new(opset: i64, input: &[usize]) -> Self {
        let graph = GraphProto {
            name: "test".into(),
            input: vec![value_info("x", DataType::Float, Some(input))],
            output: vec![value_info("y", DataType::Float, None)],
            ..GraphProto::default()
        };
        Self { graph, opset }
    }

    /// Appends a node without name, so that its first output names it.
    pub(super) fn node(
        mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> Self {
        self.graph.node.push(NodeProto {
            op_type: op.into(),
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: vec![output.into()],
            attribute,
            ..NodeProto::default()
        });
        self
    }

    /// Adds an initialiser of reproducible numbers in about (-1, 1).
    pub(super) fn weights(self, name: &str, shape: &[usize]) -> Self {
        let values = numbers(shape.iter().product(), name.len() as u64 + 7 * name.as_bytes()[0] as u64);
        self.floats(name, shape, &values)
    }

    pub(super) fn floats(mut self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.graph.initializer.push(Constant::floats(shape.to_vec(), values).initializer(name));
        self
    }

    pub(super) fn ints(mut self, name: &str, values: &[i64]) -> Self {
        self.graph.initializer.push(Constant::ints(vec![values.len()], values).initializer(name));
        self
    }

    pub(super) fn tensor(mut self, tensor: TensorProto) -> Self {
        self.graph.initializer.push(tensor);
        self
    }

    pub(super) fn outputs(mut self, names: &[&str]) -> Self {
        self.graph.output = names.iter().map(|n| value_info(n, DataType::Float, None)).collect();
        self
    }

    pub(super) fn input(mut self, info: ValueInfoProto) -> Self {
        self.graph.input = vec![info];
        self
    }

    pub(super) fn proto(&self) -> ModelProto {
        let opset = OperatorSetIdProto { domain: String::new(), version: self.opset };
        ModelProto {
            ir_version: 8,
            opset_import: vec![opset],
            graph: Some(self.graph.clone()),
            ..ModelProto::default()
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.proto().encode_to_vec()
    }

    /// Imports everything as encrypted, and asserts that the interpreter and the exported model agree with tract.
    pub(super) fn check(&self) -> Imported {
        self.check_with(ClientSplit::Off)
    }

    pub(super) fn check_with(&self, split: ClientSplit) -> Imported {
        let bytes = self.bytes();
        let imported = match import_with(&bytes, &ImportOptions { split, ..ImportOptions::default() }) {
            Ok(imported) => imported,
            Err(error) => panic!("{error}"),
        };
        let input = sample(&imported.input.shape, 3);
        let expected = Tract::load(&bytes).unwrap().run(&input).unwrap();
        compare(&imported, &input, &expected);
        let exported = export(&imported.graph, Some(&imported)).unwrap();
        let found = Tract::load(&exported).unwrap().run(&input).unwrap();
        close(&found, &expected);
        imported
    }

    /// The nodes that the import refuses.
    pub(super) fn refused(&self) -> Vec<UnsupportedNode> {
        match import(&self.bytes()) {
            Err(ImportError::Unsupported(nodes)) => nodes.0,
            other => panic!("expected unsupported nodes, got {:?}", other.map(|i| i.graph)),
        }
    }
}

/// Runs head, interpreter and tail and compares with the whole model.
fn compare(imported: &Imported, input: &ClientTensor, expected: &[ClientTensor]) {
    let encrypted = match &imported.head {
        Some(head) => Tract::load(head).unwrap().run(input).unwrap().remove(0),
        None => input.clone(),
    };
    let batch = Batch::new(&encrypted.shape[1..], encrypted.data).unwrap();
    let outputs = interp::run(&imported.graph, &batch).unwrap();
    let outputs: Vec<ClientTensor> = imported
        .graph
        .outputs
        .iter()
        .zip(outputs)
        .map(|(port, data)| ClientTensor { shape: imported.graph.nodes[port.value].ty.shape.clone(), data })
        .collect();
    match &imported.tail {
        Some(tail) => close(&Tract::load(tail).unwrap().run_many(&outputs).unwrap(), expected),
        None => close(&outputs, expected),
    }
}

pub(super) fn close(found: &[ClientTensor], expected: &[ClientTensor]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.shape, expected.shape);
        let range = expected.data.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in found.data.iter().zip(&expected.data).enumerate() {
            assert!((a - b).abs() <= 2e-5 * range, "element {i}: {a}, expected {b}");
        }
    }
}

/// Reproducible numbers in (-1, 1).
pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub(super) fn sample(shape: &[usize], seed: u64) -> ClientTensor {
    let data = numbers(shape.iter().product(), seed).into_iter().map(|v| 2.0 * v).collect();
    ClientTensor { shape: shape.to_vec(), data }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: kind as i32, ..AttributeProto::default() }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: value, ..attribute(name, AttributeType::Int) }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: value, ..attribute(name, AttributeType::Float) }
}

pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: value.as_bytes().to_vec(), ..attribute(name, AttributeType::String) }
}
