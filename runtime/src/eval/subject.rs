//! Models under evaluation: an ONNX file, or an artefact with what runs it.

use std::path::Path;
use std::sync::Arc;

use peregrine_data::picture::Resize;
use peregrine_data::set::{InputFormat, Sample};
use peregrine_ir::program::Noise;

use super::EvalOptions;
use crate::clear;
use crate::client::{ClearSide, ClientError, NamedTensor, OnnxFile, Preprocessing, TensorPort};
use crate::error::RuntimeError;
use crate::loader::Loaded;
use crate::local::{Backend, clear_side};
use crate::progress::{Progress, Silent};
use crate::ranges::RangeViolation;
use crate::report::{Seconds, error_bits};
use crate::session::{Planned, Session, SessionOptions};

/// A model that can be asked.
pub(super) struct Subject {
    side: ClearSide,
    labels: Vec<String>,
    kind: Kind,
}

enum Kind {
    Onnx { file: Box<OnnxFile>, name: String },
    Artefact { loaded: Arc<Loaded>, engine: Engine },
}

enum Engine {
    Clear,
    Noisy {
        seed: u64,
    },
    /// Fits in memory; keys are made by [`Subject::open`].
    Planned(Box<Planned>),
    Encrypted(Box<Session>),
}

/// A model's answer to one sample.
#[derive(Default)]
pub(super) struct Answer {
    /// The model's outputs.
    pub(super) outputs: Vec<NamedTensor>,
    /// The program's, before the client's tail.
    pub(super) program: Vec<NamedTensor>,
    /// Layers that left their calibrated ranges, in the clear.
    pub(super) violations: Vec<RangeViolation>,
    /// Largest magnitude that reaches a refresh, over the one it is made for, where it is larger.
    pub(super) overflow: Option<f64>,
    /// Precision against the run in the clear, for backends that lose some.
    pub(super) error_bits: Option<f64>,
}

impl Subject {
    /// Loads a model and refuses what cannot run.
    pub(super) fn plan(path: &Path, options: &EvalOptions) -> Result<Self, RuntimeError> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
            return Self::onnx(path, OnnxFile::open(path)?, &options.preprocessing);
        }
        let loaded = Loaded::open(path)?;
        let side = clear_side(&loaded, &options.preprocessing)?;
        let engine = match options.backend {
            Backend::Clear => Engine::Clear,
            Backend::Noisy { seed } => Engine::Noisy { seed },
            Backend::Ckks => Engine::Planned(Box::new(Planned::new(
                &loaded,
                SessionOptions {
                    memory: options.memory,
                    interrupt: options.interrupt.clone(),
                    ..SessionOptions::default()
                },
            )?)),
        };
        let labels = loaded.client.labels.clone();
        Ok(Self { side, labels, kind: Kind::Artefact { loaded: Arc::new(loaded), engine } })
    }

    fn onnx(path: &Path, file: OnnxFile, flags: &Preprocessing) -> Result<Self, RuntimeError> {
        let input = TensorPort { name: file.part.input_name.clone(), shape: file.part.input_shape.clone() };
        let side = ClearSide::new(&file.part, vec![input], &[], flags)?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok(Self { side, labels: file.part.labels.clone(), kind: Kind::Onnx { file: Box::new(file), name } })
    }

    /// The model that this one was made from; where its file does not say how pixels are normalised, it is done as for
    /// this one.
    pub(super) fn original(&self, path: &Path, options: &EvalOptions) -> Result<Self, RuntimeError> {
        let mut file = OnnxFile::open(path)?;
        if file.part.image.is_none() && file.part.input_shape == self.side.input_shape() {
            file.part.image = self.side.image().cloned();
        }
        Self::onnx(path, file, &options.preprocessing)
    }

    /// Makes keys where they are needed.
    pub(super) fn open(self, progress: &dyn Progress) -> Result<Self, RuntimeError> {
        let kind = match self.kind {
            Kind::Artefact { loaded, engine: Engine::Planned(planned) } => {
                let session = planned.open(&loaded, progress, &mut Seconds::default())?;
                Kind::Artefact { loaded, engine: Engine::Encrypted(Box::new(session)) }
            }
            kind @ (Kind::Onnx { .. } | Kind::Artefact { .. }) => kind,
        };
        Ok(Self { kind, ..self })
    }

    pub(super) fn side(&self) -> &ClearSide {
        &self.side
    }

    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    pub(super) fn name(&self) -> &str {
        match &self.kind {
            Kind::Onnx { name, .. } => name,
            Kind::Artefact { loaded, .. } => &loaded.program.name,
        }
    }

    /// Name of what runs it.
    pub(super) fn backend(&self) -> &'static str {
        match &self.kind {
            Kind::Onnx { .. } => "onnx",
            Kind::Artefact { engine: Engine::Clear, .. } => Backend::Clear.name(),
            Kind::Artefact { engine: Engine::Noisy { seed }, .. } => Backend::Noisy { seed: *seed }.name(),
            Kind::Artefact { engine: Engine::Planned(_) | Engine::Encrypted(_), .. } => Backend::Ckks.name(),
        }
    }

    /// Whether one sample keeps all threads busy.
    pub(super) fn is_parallel_inside(&self) -> bool {
        matches!(&self.kind, Kind::Artefact { engine: Engine::Planned(_) | Engine::Encrypted(_), .. })
    }

    /// Whether its program bootstraps.
    pub(super) fn bootstraps(&self) -> bool {
        matches!(&self.kind, Kind::Artefact { loaded, .. } if loaded.program.bootstrap.is_some())
    }

    /// Whether calibrated ranges are known.
    pub(super) fn has_ranges(&self) -> bool {
        matches!(&self.kind, Kind::Artefact { loaded, .. } if !loaded.client.ranges.is_empty())
    }

    /// Whether samples have to be prepared again for this model.
    pub(super) fn differs_in_preprocessing(&self, other: &Self) -> bool {
        self.side.image() != other.side.image() || self.side.input_shape() != other.side.input_shape()
    }

    /// A sample as this model's input.
    pub(super) fn input(&self, sample: &Sample, resize: Resize) -> Result<Vec<f32>, RuntimeError> {
        let format = InputFormat { shape: self.side.input_shape(), image: self.side.image(), resize };
        Ok(sample.input(format).map_err(ClientError::from)?.data)
    }

    /// Asks the model; `what` names the input in errors, `number` seeds the noise.
    pub(super) fn answer(&self, what: &str, input: &[f32], number: u64) -> Result<Answer, RuntimeError> {
        let wide = input.iter().map(|&x| f64::from(x)).collect();
        let tensors = self.side.program_inputs(what, wide)?;
        let (loaded, engine) = match &self.kind {
            Kind::Onnx { file, .. } => {
                let outputs = file.model.run(&tensors)?;
                return Ok(Answer { outputs, ..Answer::default() });
            }
            Kind::Artefact { loaded, engine } => (loaded, engine),
        };
        let run = |noise: Noise| {
            clear::run(&loaded.program, &loaded.interface, noise, &tensors, &loaded.client.ranges)
        };
        let exact = run(Noise::None)?;
        let overflow = exact.overflows.iter().map(|o| o.excess).reduce(f64::max);
        let (program, bits) = match engine {
            Engine::Clear | Engine::Planned(_) => (exact.outputs, None),
            Engine::Noisy { seed } => {
                let noisy = run(Noise::Model { seed: seed.wrapping_add(number) })?.outputs;
                let bits = error_bits(&noisy, &exact.outputs);
                (noisy, Some(bits))
            }
            Engine::Encrypted(session) => {
                let (outputs, _) = session.run(&tensors, &Silent, &mut Seconds::default())?;
                let bits = error_bits(&outputs, &exact.outputs);
                (outputs, Some(bits))
            }
        };
        let outputs = self.side.finish(&program)?;
        Ok(Answer { outputs, program, violations: exact.violations, overflow, error_bits: bits })
    }
}
