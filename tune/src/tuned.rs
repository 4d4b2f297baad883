//! From a model file to a tuned one: reading, replacing, and writing with metadata.

use std::path::{Path, PathBuf};

use peregrine_compiler::onnx::{
    self, ClientSplit, ImageOverrides, ImportOptions, Imported, MEAN, STD, TUNED_DEGREE, TUNED_ORIGINAL,
    TUNED_RANGES, export_tuned, import_with, ranges_text,
};
use peregrine_compiler::oracle::Tract;
use peregrine_ir::client::RangeRecord;
use thiserror::Error;

use crate::net::{ExportError, ImportError, Net, Op};
use crate::train::{Preprocessing, TrainError};

/// Why a model is not tuned.
#[derive(Debug, Error)]
pub enum TuneError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// File.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no usable model.
    #[error("cannot use {path}: {source}")]
    Model {
        /// File.
        path: PathBuf,
        /// Why.
        source: onnx::ImportError,
    },
    /// The model cannot be trained.
    #[error("cannot train {path}: {source}")]
    Net {
        /// File.
        path: PathBuf,
        /// Why.
        source: ImportError,
    },
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Writing ONNX.
    #[error(transparent)]
    Onnx(#[from] onnx::ExportError),
    /// Writing the file.
    #[error(transparent)]
    Write(#[from] peregrine_compiler::error::CompileError),
}

/// A model read from a file.
#[derive(Debug)]
pub struct Model {
    /// As imported.
    pub imported: Imported,
    /// As a network with its own activations.
    pub net: Net,
    /// What happens before the network.
    pub preprocessing: Preprocessing,
    hash: [u8; 32],
    image: ImageOverrides,
}

impl Model {
    /// Reads a model.
    ///
    /// # Errors
    /// When it is unreadable or cannot be trained.
    pub fn read(
        path: &Path,
        image: ImageOverrides,
        input_shape: Option<Vec<usize>>,
    ) -> Result<Self, TuneError> {
        let bytes =
            std::fs::read(path).map_err(|source| TuneError::Read { path: path.to_owned(), source })?;
        let options = ImportOptions {
            input_shape,
            split: ClientSplit::HeadAndTail,
            image: image.clone(),
            folder: path.parent().map(Path::to_owned),
            ..ImportOptions::default()
        };
        let imported = import_with(&bytes, &options)
            .map_err(|source| TuneError::Model { path: path.to_owned(), source })?;
        let net = Net::from_graph(&imported.graph)
            .map_err(|source| TuneError::Net { path: path.to_owned(), source })?;
        let head = imported.head.as_deref().map(Tract::load).transpose();
        let head = head.map_err(|e| TrainError::Head(e.to_string()))?;
        let preprocessing = Preprocessing {
            image: imported.image.clone(),
            shape: imported.input.shape.clone(),
            head,
            input: net.input_shape(),
        };
        let hash = *blake3::hash(&bytes).as_bytes();
        Ok(Self { imported, net, preprocessing, hash, image })
    }

    /// Writes the trained network `net` of this model, with what enters its activations and leaves its outputs on typical
    /// data.
    ///
    /// # Errors
    /// When a number is not finite, or the file cannot be written.
    pub fn write(&self, net: &Net, outputs: &[RangeRecord], path: &Path) -> Result<(), TuneError> {
        let input = self.input_name();
        let graph = net.to_graph(input)?;
        let hash: String = self.hash.iter().map(|b| format!("{b:02x}")).collect();
        let mut properties = vec![(TUNED_ORIGINAL, hash)];
        let degrees: Vec<String> = net.poly_acts().map(|(_, act)| act.degree.to_string()).collect();
        // A model that keeps its activations is no polynomial one.
        if !degrees.is_empty() {
            let mut ranges = activation_ranges(net);
            ranges.extend_from_slice(outputs);
            properties.push((TUNED_RANGES, ranges_text(&ranges)));
            properties.push((TUNED_DEGREE, degrees.join(",")));
        }
        let list = |v: &[f32]| v.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        if let Some(mean) = &self.image.mean {
            properties.push((MEAN, list(mean)));
        }
        if let Some(std) = &self.image.std {
            properties.push((STD, list(std)));
        }
        let bytes = export_tuned(&graph, &self.imported, &properties)?;
        Ok(peregrine_compiler::driver::write_file(path, &bytes)?)
    }

    fn input_name(&self) -> &str {
        let nodes = self.imported.graph.nodes.values();
        let mut name = nodes.filter_map(|node| match &node.op {
            peregrine_ir::tensor::TensorOp::Input { name } => Some(name.as_str()),
            _ => None,
        });
        name.next().unwrap_or("input")
    }
}

/// What each polynomial activation is made for, both ways.
fn activation_ranges(net: &Net) -> Vec<RangeRecord> {
    net.poly_acts()
        .filter_map(|(id, _)| match &net.nodes[id].op {
            Op::PolyAct(act) => Some(RangeRecord {
                layer: net.nodes[id].name.clone(),
                low: act.range().iter().map(|m| -m).collect(),
                high: act.range().to_vec(),
            }),
            _ => None,
        })
        .collect()
}
