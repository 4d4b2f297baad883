//! Checkpoints: parameters, momentum, running statistics, progress and log in one safetensors file, replaced at once.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{Log, Progress, TrainError};
use crate::net::{Net, Op};

/// Key of the metadata entry.
const STATE: &str = "peregrine.tune.state";
/// Tensor of the range penalty of each training image.
const HARDNESS: &str = "hardness";

/// The state of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Vec<f32>>,
    /// Where the run stands.
    pub progress: Progress,
    /// Seconds trained.
    pub seconds: f64,
    /// What happened.
    pub log: Log,
}

#[derive(Serialize, Deserialize)]
struct State {
    epoch: usize,
    step: usize,
    seconds: f64,
    log: Log,
}

impl Checkpoint {
    /// The state of a network.
    pub fn of(net: &Net, hardness: &[f32], progress: Progress, seconds: f64, log: &Log) -> Self {
        let mut tensors = BTreeMap::from([(HARDNESS.to_owned(), hardness.to_vec())]);
        for param in &net.params {
            tensors.insert(format!("{}:value", param.name), param.value.clone());
            tensors.insert(format!("{}:velocity", param.name), param.velocity.clone());
        }
        for (id, node) in net.nodes.iter().enumerate() {
            match &node.op {
                Op::BatchNorm { running, .. } => {
                    tensors.insert(format!("{id}:mean"), running.mean.clone());
                    tensors.insert(format!("{id}:variance"), running.variance.clone());
                }
                Op::PolyAct(act) => {
                    tensors.insert(format!("{id}:max"), act.max.clone());
                }
                Op::Input
                | Op::Conv { .. }
                | Op::Affine { .. }
                | Op::Activation { .. }
                | Op::Poly { .. }
                | Op::Add
                | Op::Sub
                | Op::Mul
                | Op::Pool(_)
                | Op::GlobalMean
                | Op::Pad(_)
                | Op::Reshape { .. }
                | Op::Separable(_) => {}
            }
        }
        Self { tensors, progress, seconds, log: log.clone() }
    }

    /// Puts the state into a network, and the penalties of the training images into `hardness`.
    ///
    /// # Errors
    /// A tensor is missing or has another size.
    pub fn restore(&self, net: &mut Net, hardness: &mut Vec<f32>) -> Result<(), TrainError> {
        let expected = Self::of(net, hardness, Progress::default(), 0.0, &Log::default());
        if self.tensors.len() != expected.tensors.len() {
            let why = format!("it has {} tensors instead of {}", self.tensors.len(), expected.tensors.len());
            return Err(TrainError::Mismatch { why });
        }
        for (name, values) in &expected.tensors {
            let found = self.tensors.get(name).map(Vec::len);
            if found != Some(values.len()) {
                let why = format!("tensor {name:?} has {found:?} numbers instead of {}", values.len());
                return Err(TrainError::Mismatch { why });
            }
        }
        let get = |name: String| self.tensors[&name].clone();
        *hardness = get(HARDNESS.to_owned());
        for param in &mut net.params {
            param.value = get(format!("{}:value", param.name));
            param.velocity = get(format!("{}:velocity", param.name));
        }
        for (id, node) in net.nodes.iter_mut().enumerate() {
            if let Op::BatchNorm { running, .. } = &mut node.op {
                running.mean = get(format!("{id}:mean"));
                running.variance = get(format!("{id}:variance"));
            }
            if let Op::PolyAct(act) = &mut node.op {
                act.max = get(format!("{id}:max"));
                act.started = self.progress.step > 0;
            }
        }
        Ok(())
    }

    /// Writes the file, through a temporary one in the same folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let bad = |why: String| TrainError::Checkpoint { path: path.to_owned(), why };
        let state = State {
            epoch: self.progress.epoch,
            step: self.progress.step,
            seconds: self.seconds,
            log: self.log.clone(),
        };
        let state = serde_json::to_string(&state).map_err(|e| bad(e.to_string()))?;
        let bytes: Vec<(&String, usize, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, v)| (name, v.len(), v.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, len, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, vec![*len], bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| bad(e.to_string()))?;
        let metadata = HashMap::from([(STATE.to_owned(), state)]);
        let file = safetensors::serialize(views, Some(metadata)).map_err(|e| bad(e.to_string()))?;
        peregrine_compiler::driver::write_file(path, &file).map_err(|e| bad(e.to_string()))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is no checkpoint.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let bad = |why: String| TrainError::Checkpoint { path: path.to_owned(), why };
        let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
        let state = metadata.metadata().as_ref().and_then(|m| m.get(STATE));
        let state = state.ok_or_else(|| bad("it was not written by peregrine-tune".into()))?;
        let state: State = serde_json::from_str(state).map_err(|e| bad(e.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(bad(format!("tensor {name:?} is no float32")));
            }
            let (words, _) = view.data().as_chunks::<4>();
            tensors.insert(name, words.iter().map(|b| f32::from_le_bytes(*b)).collect());
        }
        let progress = Progress { epoch: state.epoch, step: state.step };
        Ok(Self { tensors, progress, seconds: state.seconds, log: state.log })
    }
}
