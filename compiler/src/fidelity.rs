//! The imported model against the original: before activations are replaced, the graph that the passes work on must compute what
//! tract computes from the ONNX file, head and tail included. A difference is a bug of the import or of a tensor pass.

use peregrine_ir::client::ClientTensor;
use peregrine_ir::tensor::TensorGraph;
use peregrine_passes::PassError;
use peregrine_passes::tensor::interp::{Batch, run};
use thiserror::Error;

use crate::onnx::Imported;
use crate::oracle::{OracleError, Tract};

/// Largest difference accepted, relative to the range of an output: what `f32` arithmetic in another order explains.
pub const TOLERANCE: f64 = 1e-3;

/// Why the comparison fails.
#[derive(Debug, Error)]
pub enum FidelityError {
    /// The original model does not run in tract.
    #[error("the ONNX model cannot be run for comparison: {0}")]
    Original(OracleError),
    /// The client's tail does not run.
    #[error("the end of the model that runs on the client cannot be run: {0}")]
    Tail(OracleError),
    /// The imported graph does not run.
    #[error(transparent)]
    Graph(#[from] PassError),
    /// The results differ.
    #[error(
        "compiler bug: on the check input the imported model's output `{output}` differs from the ONNX model's by {difference:.2e} of \
         its range (at most {TOLERANCE:.0e} is rounding); nothing was written. Please report it with the model"
    )]
    Differs {
        /// ONNX output name.
        output: String,
        /// Largest difference relative to the output's range.
        difference: f64,
    },
}

/// Compares on one input: `raw` is the model's input, `encrypted` the same after the client's head.
///
/// # Errors
/// [`FidelityError::Differs`] past [`TOLERANCE`]; outputs that are not finite in the original are not compared.
pub fn check(
    imported: &Imported,
    canonical: &TensorGraph,
    raw: &ClientTensor,
    encrypted: &ClientTensor,
) -> Result<(), FidelityError> {
    let original = Tract::load(&imported.model).map_err(FidelityError::Original)?;
    let expected = original.run(raw).map_err(FidelityError::Original)?;
    let found = with_tail(imported, server_outputs(canonical, encrypted)?)?;
    for (name, expected) in original.outputs().zip(&expected) {
        let found = found.iter().find(|(n, _)| n == name).map_or(&[][..], |(_, tensor)| &tensor.data);
        let difference = difference(&expected.data, found);
        if difference > TOLERANCE {
            return Err(FidelityError::Differs { output: name.to_owned(), difference });
        }
    }
    Ok(())
}

type Named = Vec<(String, ClientTensor)>;

fn server_outputs(canonical: &TensorGraph, encrypted: &ClientTensor) -> Result<Named, FidelityError> {
    let batch = Batch::new(encrypted.shape.get(1..).unwrap_or_default(), encrypted.data.clone())?;
    let outputs = run(canonical, &batch)?;
    let named = canonical.outputs.iter().zip(outputs).map(|(port, data)| {
        (port.name.clone(), ClientTensor { shape: canonical.nodes[port.value].ty.shape.clone(), data })
    });
    Ok(named.collect())
}

fn with_tail(imported: &Imported, mut outputs: Named) -> Result<Named, FidelityError> {
    let Some(tail) = &imported.tail else { return Ok(outputs) };
    let tail = Tract::load(tail).map_err(FidelityError::Tail)?;
    let take = |name: &str| outputs.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor.clone());
    let inputs: Vec<ClientTensor> = tail.inputs().filter_map(|(name, _)| take(name)).collect();
    let results = tail.run_many(&inputs).map_err(FidelityError::Tail)?;
    outputs.extend(tail.outputs().map(str::to_owned).zip(results));
    Ok(outputs)
}

/// Largest difference relative to the range of `expected`; infinite when the sizes differ.
fn difference(expected: &[f32], found: &[f32]) -> f64 {
    if expected.len() != found.len() {
        return f64::INFINITY;
    }
    if expected.iter().any(|v| !v.is_finite()) {
        return 0.0;
    }
    let largest = expected.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs()));
    let worst = expected.iter().zip(found).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, f64::max);
    let nan = found.iter().any(|v| v.is_nan());
    if nan { f64::INFINITY } else { worst / largest.max(f64::MIN_POSITIVE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::import;
    use peregrine_ir::ConstTensor;
    use peregrine_ir::tensor::TensorOp;

    fn square_fashion() -> (Imported, ClientTensor) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/models/square_fashion.onnx");
        let imported = import(&std::fs::read(path).expect("the fixture")).expect("imports");
        let data = (0..784).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
        (imported, ClientTensor { shape: vec![1, 1, 28, 28], data })
    }

    #[test]
    fn a_faithful_import_passes() {
        let (imported, input) = square_fashion();
        check(&imported, &imported.graph, &input, &input).expect("equal");
    }

    #[test]
    fn a_wrong_weight_is_found() {
        let (imported, input) = square_fashion();
        let mut broken = imported.graph.clone();
        let conv = broken.nodes.values().find_map(|n| match &n.op {
            TensorOp::Conv(conv) => Some(conv.weights),
            _ => None,
        });
        let id = conv.expect("a convolution");
        let mut weights = broken.tables.consts[id].to_f32();
        weights[3] += 0.5;
        broken.tables.consts[id] = ConstTensor::f32(broken.tables.consts[id].shape.clone(), weights);
        let error = check(&imported, &broken, &input, &input).expect_err("differs");
        assert!(matches!(error, FidelityError::Differs { .. }), "{error}");
    }

    #[test]
    fn results_that_are_not_numbers_or_of_another_size_differ() {
        assert_eq!(difference(&[1.0, 2.0], &[1.0]), f64::INFINITY);
        assert_eq!(difference(&[1.0, 2.0], &[1.0, f32::NAN]), f64::INFINITY);
        assert_eq!(difference(&[1.0, f32::INFINITY], &[1.0, 0.0]), 0.0);
        assert!((difference(&[0.0, 4.0], &[1.0, 4.0]) - 0.25).abs() < 1e-12);
    }
}
