//! One compilation, from files to an artefact: import, calibration, pipeline, gate, container.

use std::fs;
use std::path::Path;

use peregrine_ir::client::{ClientPart, ClientTensor, RangeRecord};
use peregrine_ir::container;
use peregrine_ir::tensor::{Stage, TensorGraph, TensorOp};
use peregrine_ir::text::{print_fhe, print_program, print_tensor};
use peregrine_passes::fhe::LowerError;
use peregrine_passes::fhe::budget::Source;
use peregrine_passes::fhe::cost::Machine;
use peregrine_passes::pipeline::{self, Calibration, Compiled, Fit, PipelineError, Snapshot};
use peregrine_passes::tensor::fit::{FitOptions, LayerFit};
use peregrine_passes::tensor::interp::Batch;
use peregrine_passes::tensor::ranges::record_of;

use crate::error::CompileError;
use crate::fidelity;
use crate::gate::{self, GateError, GateReport, Subject, Tolerance};
use crate::inputs::{self, read_calibration, read_sample, synthetic};
use crate::onnx::{Imported, export, import_with, parse_labels};
use crate::options::CompileOptions;
use crate::oracle::Tract;
use crate::precision;

/// Is shown the text of each graph that `--dump-ir` asks for, with the name of the pass that made it.
pub type DumpSink<'s> = &'s mut dyn FnMut(&str, &str);

/// A model read, with its calibration and check inputs.
#[derive(Debug)]
pub struct Prepared {
    /// The imported model.
    pub imported: Imported,
    /// BLAKE3 of the ONNX file.
    pub model_hash: [u8; 32],
    /// Class names.
    pub labels: Vec<String>,
    /// The sample given, as the model's input.
    pub sample: Option<ClientTensor>,
    /// The input that checks run, as the model takes it: the sample, else the first calibration input, else a synthetic one.
    pub raw_input: ClientTensor,
    /// The same as it is encrypted, after the client's head.
    pub check_input: ClientTensor,
    /// Calibration inputs as they are encrypted.
    pub calibration: Option<Batch>,
}

/// Reads the model and every input file.
///
/// # Errors
/// What is wrong with the files.
pub fn prepare(options: &CompileOptions) -> Result<Prepared, CompileError> {
    options.progress.step("reading the model");
    let bytes = read(&options.model)?;
    let import = import_with(&bytes, &options.import);
    let imported = import.map_err(|source| CompileError::Import { path: options.model.clone(), source })?;
    let format = inputs::format(&imported.input.shape, imported.image.as_ref());
    let labels = match &options.labels {
        Some(path) => labels(path)?,
        None => imported.labels.clone(),
    };
    let head = imported.head.as_deref().map(Tract::load).transpose().map_err(CompileError::Head)?;
    let sample = options.sample.as_deref().map(|path| read_sample(path, format)).transpose()?;
    options.progress.step("reading the calibration inputs");
    let typical = options.calibrate.as_deref().map(|path| read_calibration(path, format)).transpose()?;
    let first = || typical.as_ref().and_then(|inputs| inputs.first().cloned());
    let raw_input = sample.clone().or_else(first).unwrap_or_else(|| synthetic(format));
    let check_input = through(head.as_ref(), raw_input.clone())?;
    let calibration = typical.map(|inputs| batch(head.as_ref(), inputs)).transpose()?;
    let model_hash = *blake3::hash(&bytes).as_bytes();
    Ok(Prepared { labels, sample, raw_input, check_input, calibration, model_hash, imported })
}

/// An input as it is encrypted: after the client's head.
fn through(head: Option<&Tract>, input: ClientTensor) -> Result<ClientTensor, CompileError> {
    match head {
        None => Ok(input),
        Some(head) => Ok(head.run(&input).map_err(CompileError::Head)?.swap_remove(0)),
    }
}

fn batch(head: Option<&Tract>, inputs: Vec<ClientTensor>) -> Result<Batch, CompileError> {
    let mut shape = Vec::new();
    let mut data = Vec::new();
    for input in inputs {
        let encrypted = through(head, input)?;
        data.extend_from_slice(&encrypted.data);
        shape = encrypted.shape;
    }
    let batch = Batch::new(shape.get(1..).unwrap_or_default(), data);
    Ok(batch.map_err(PipelineError::Tensor)?)
}

/// The polynomial model, and what was lowered from it.
#[derive(Debug)]
pub struct Lowered {
    /// Everything the pipeline made.
    pub compiled: Compiled,
    /// Calibrated ranges of what enters each activation; empty without calibration data.
    pub ranges: Vec<RangeRecord>,
}

/// Runs the pipeline.
///
/// # Errors
/// What the passes refuse.
pub fn lower(
    prepared: &Prepared,
    options: &CompileOptions,
    dump: DumpSink<'_>,
) -> Result<Lowered, CompileError> {
    let stand_in = stand_in(prepared)?;
    let mut compiled = run_pipeline(prepared, &stand_in, options, dump, &mut |_| {})?;
    if let Some(bits) = options.precision {
        precision::choose(&mut compiled, prepared, &settings(options)?, bits)?;
    }
    let ranges = match &prepared.calibration {
        Some(_) => ranges(&compiled),
        None => recorded_ranges(&compiled.polynomial, &prepared.imported.ranges),
    };
    Ok(Lowered { compiled, ranges })
}

/// Runs the pipeline for its polynomial model only: a model too deep to be encrypted still has one.
///
/// # Errors
/// What the tensor passes refuse.
pub fn polynomial_model(
    prepared: &Prepared,
    options: &CompileOptions,
    dump: DumpSink<'_>,
) -> Result<TensorGraph, CompileError> {
    let stand_in = stand_in(prepared)?;
    let mut last = None;
    let result = run_pipeline(prepared, &stand_in, options, dump, &mut |graph| last = Some(graph.clone()));
    match (result, last) {
        (Ok(compiled), _) => Ok(compiled.polynomial),
        (
            Err(CompileError::Pipeline(PipelineError::Lower(
                LowerError::TooDeep { .. } | LowerError::NoPlacement { .. } | LowerError::Unsupported { .. },
            ))),
            Some(graph),
        ) => Ok(graph),
        (Err(error), _) => Err(error),
    }
}

fn stand_in(prepared: &Prepared) -> Result<Batch, CompileError> {
    batch(None, vec![prepared.check_input.clone()])
}

fn run_pipeline(
    prepared: &Prepared,
    stand_in: &Batch,
    options: &CompileOptions,
    dump: DumpSink<'_>,
    on_polynomial: &mut dyn FnMut(&TensorGraph),
) -> Result<Compiled, CompileError> {
    let mut passes: Vec<&'static str> = Vec::new();
    let mut observe = |pass: &'static str, snapshot: Snapshot<'_>| {
        if !passes.contains(&pass) {
            passes.push(pass);
        }
        if let Snapshot::Tensor(graph) = snapshot
            && graph.tables.stage == Stage::Polynomial
        {
            on_polynomial(graph);
        }
        if options.dump.iter().any(|point| point.matches(pass)) {
            dump(pass, &text(snapshot));
        }
    };
    let settings = settings(options)?;
    let calibration = match &prepared.calibration {
        Some(batch) => Calibration::Data(batch),
        None if prepared.imported.ranges.is_empty() => Calibration::StandIn(stand_in),
        None => Calibration::Recorded { stand_in, ranges: &prepared.imported.ranges },
    };
    let compiled = pipeline::compile(prepared.imported.graph.clone(), calibration, &settings, &mut observe)?;
    let unknown = options.dump.iter().find(|point| !point.is_all() && !passes.contains(&point.pass.as_str()));
    match unknown {
        Some(point) => Err(CompileError::UnknownPass { pass: point.pass.clone(), known: passes.join(", ") }),
        None => Ok(compiled),
    }
}

fn settings(options: &CompileOptions) -> Result<pipeline::Options, CompileError> {
    let CompileOptions { plan, layout, products, ref progress, .. } = *options;
    let keys_memory = options.keys_memory.map(|size| size.0);
    let progress = progress.clone();
    let mut settings =
        pipeline::Options { plan, layout, products, keys_memory, progress, ..pipeline::Options::default() };
    if let Some(path) = &options.machine {
        settings.machine = machine(path)?;
    }
    if let Some(degree) = options.degree {
        settings.fit = Fit::With(FitOptions::of_degree(degree));
    }
    Ok(settings)
}

/// The figures of a machine.
fn machine(path: &Path) -> Result<Machine, CompileError> {
    let bad = |why: String| CompileError::Machine { path: path.to_owned(), why };
    let machine: peregrine_ckks::cost::Machine =
        serde_json::from_slice(&read(path)?).map_err(|error| bad(error.to_string()))?;
    machine.check().map_err(bad)?;
    Ok(Machine(machine))
}

fn text(snapshot: Snapshot<'_>) -> String {
    match snapshot {
        Snapshot::Tensor(graph) => print_tensor(graph),
        Snapshot::Fhe(graph) => print_fhe(graph),
        Snapshot::Program(program) => print_program(program),
    }
}

/// Ranges of what enters each polynomial: those that it was fitted on, else those measured on the calibration data.
fn ranges(compiled: &Compiled) -> Vec<RangeRecord> {
    if let Some(fit) = &compiled.fit {
        let record = |layer: &LayerFit| RangeRecord {
            layer: layer.layer.clone(),
            low: layer.allowed.low.clone(),
            high: layer.allowed.high.clone(),
        };
        return fit.layers.iter().map(record).collect();
    }
    let polynomials = compiled.polynomial.nodes.values().filter(|n| matches!(n.op, TensorOp::Poly { .. }));
    let record = |node: &peregrine_ir::Node<peregrine_ir::tensor::Tensor>| {
        let range = &compiled.moments.get(peregrine_ir::EntityId::index(*node.args.first()?))?.range;
        Some(RangeRecord {
            layer: node.origin.as_str().to_owned(),
            low: range.low.clone(),
            high: range.high.clone(),
        })
    };
    polynomials.filter_map(record).collect()
}

/// Compares the imported model with the original, then runs the gate and opens it or not; the report comes back in
/// either case.
///
/// # Errors
/// When the check itself fails.
pub fn check(
    prepared: &Prepared,
    lowered: &Lowered,
    tolerance: Tolerance,
) -> Result<GateReport, CompileError> {
    let Lowered { compiled, ranges } = lowered;
    fidelity::check(&prepared.imported, &compiled.canonical, &prepared.raw_input, &prepared.check_input)?;
    let subject =
        Subject { model: &compiled.polynomial, program: &compiled.program, ranges, budget: &compiled.budget };
    Ok(gate::check(subject, &prepared.check_input, tolerance)?)
}

/// Whether a program that the gate refuses for its error might pass if its weights were rounded less.
pub fn rounding_decides(lowered: &Lowered, check: &GateReport) -> bool {
    let budget = &lowered.compiled.budget;
    let all: f64 = budget.sources.iter().sum();
    let others = (1.0 - budget.sources[Source::Rounding as usize] / all.max(f64::MIN_POSITIVE)).max(0.0);
    let too_rough = matches!(gate::verdict(check), Err(GateError::Tolerance { .. }));
    // An error that is no number is none of rounded weights.
    too_rough && check.worst() * others.sqrt() <= check.tolerance.get()
}

/// Ranges that the model carries for what enters its polynomials.
fn recorded_ranges(graph: &TensorGraph, records: &[RangeRecord]) -> Vec<RangeRecord> {
    let polynomials = graph.nodes.values().filter(|n| matches!(n.op, TensorOp::Poly { .. }));
    let record = |node: &peregrine_ir::Node<peregrine_ir::tensor::Tensor>| {
        let layer = node.origin.as_str();
        record_of(layer, records).map(|r| RangeRecord { layer: layer.to_owned(), ..r.clone() })
    };
    polynomials.filter_map(record).collect()
}

/// The client part of the artefact.
pub fn client_part(prepared: &Prepared, ranges: Vec<RangeRecord>) -> ClientPart {
    let imported = &prepared.imported;
    ClientPart {
        image: imported.image.clone(),
        input_name: imported.input.name.clone(),
        input_shape: imported.input.shape.clone(),
        head: imported.head.clone(),
        tail: imported.tail.clone(),
        labels: prepared.labels.clone(),
        sample: prepared.sample.clone(),
        ranges,
        model_hash: prepared.model_hash,
        compiler: concat!("peregrinec ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// Writes the artefact; a file of that name is replaced only when the new one is complete.
///
/// # Errors
/// When the file cannot be written.
pub fn write_artefact(path: &Path, lowered: &Lowered, client: &ClientPart) -> Result<(), CompileError> {
    Ok(container::write(path, &lowered.compiled.program, client)?)
}

/// The polynomial model as ONNX, with the client's head and tail.
///
/// # Errors
/// Only bugs.
pub fn polynomial_onnx(prepared: &Prepared, model: &TensorGraph) -> Result<Vec<u8>, CompileError> {
    Ok(export(model, Some(&prepared.imported))?)
}

/// Whether a file can be written there: asked before the work is done that it is for. What is there and is no regular file stays,
/// a device above all.
///
/// # Errors
/// [`CompileError::Write`].
pub fn writable(path: &Path) -> Result<(), CompileError> {
    let fail = |source| CompileError::Write { path: path.to_owned(), source };
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(fail(std::io::Error::other("it exists and is no regular file; name another one")));
    }
    tempfile::tempfile_in(folder_of(path)).map(|_| ()).map_err(fail)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file through a temporary one in the same folder.
///
/// # Errors
/// [`CompileError::Write`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CompileError> {
    let fail = |source| CompileError::Write { path: path.to_owned(), source };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder_of(path)).map_err(fail)?;
    std::io::Write::write_all(&mut file, bytes).map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, CompileError> {
    fs::read(path).map_err(|source| CompileError::Read { path: path.to_owned(), source })
}

fn labels(path: &Path) -> Result<Vec<String>, CompileError> {
    let bad = |why: String| CompileError::Labels { path: path.to_owned(), why };
    let text = String::from_utf8(read(path)?).map_err(|_| bad("no UTF-8 text".to_owned()))?;
    parse_labels(&text).map_err(bad)
}
