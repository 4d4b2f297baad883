//! A line per ONNX file: is it accepted, and how far are the imported model and the clear program from tract?
//!
//! ```text
//! cargo run --release -p peregrine-compiler --example import_check -- [--program] [--shape 1x3x416x416] FILE.onnx ...
//! ```
//!
//! Max pools are averaged, also in the model that tract runs. With `--program` models whose activations are polynomials are lowered
//! to a program, which the clear machine runs without noise; with `--packed` they are packed only, for the ring of 2^16, and the packed
//! graph is run, whatever its depth. `--leveled` plans no bootstraps.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use peregrine_compiler::inputs::{self, synthetic};
use peregrine_compiler::onnx::{ImportOptions, Imported, MaxPools, import_with};
use peregrine_compiler::oracle::Tract;
use peregrine_ir::client::ClientTensor;
use peregrine_ir::program::{ClearMachine, Noise, pack_input, unpack_output};
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use peregrine_passes::fhe::assign::LayoutSearch;
use peregrine_passes::fhe::cost::Machine;
use peregrine_passes::fhe::pack;
use peregrine_passes::pipeline::{self, Calibration, Products};
use peregrine_passes::plan::Plan;
use peregrine_passes::tensor::{self, interp, ranges};
use peregrine_passes::{PassManager, Verification};

#[derive(Parser)]
struct Args {
    /// ONNX files.
    models: Vec<PathBuf>,
    /// Shape of the input where a model leaves it open.
    #[arg(long, value_delimiter = 'x')]
    shape: Option<Vec<usize>>,
    /// Lower polynomial models and run the clear program.
    #[arg(long)]
    program: bool,
    /// Pack polynomial models and run the packed graph.
    #[arg(long, conflicts_with = "program")]
    packed: bool,
    /// With `--program`: leveled plans only.
    #[arg(long, requires = "program")]
    leveled: bool,
    /// With `--packed`: one pixel grid for all layouts.
    #[arg(long, requires = "packed")]
    greedy: bool,
}

type AnyError = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    let header = "| model | nodes | server in / out elements | head, tail | import s | import error | program |\n|---|---|---|---|---|---|---|";
    let _ = writeln!(out, "{header}");
    for path in &args.models {
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let _ = match row(path, &args) {
            Ok(row) => writeln!(out, "| {name} | {row} |"),
            Err(error) => writeln!(out, "| {name} | refused: {} |", error.to_string().replace('\n', " ")),
        };
    }
    ExitCode::SUCCESS
}

fn row(path: &Path, args: &Args) -> Result<String, AnyError> {
    let bytes = std::fs::read(path)?;
    let options = ImportOptions {
        input_shape: args.shape.clone(),
        max_pools: MaxPools::Average,
        folder: path.parent().map(Path::to_owned),
        ..ImportOptions::default()
    };
    let start = Instant::now();
    let imported = import_with(&bytes, &options)?;
    let mut canonical = imported.graph.clone();
    let mut manager = PassManager::new(Verification::EachPass);
    tensor::canonical(&mut canonical, &mut manager)?;
    let seconds = start.elapsed().as_secs_f64();
    let raw = synthetic(inputs::format(&imported.input.shape, imported.image.as_ref()));
    let expected = Tract::load(&imported.model)?.run(&raw)?;
    let encrypted = match &imported.head {
        Some(head) => Tract::load(head)?.run(&raw)?.swap_remove(0),
        None => raw,
    };
    let batch = interp::Batch::new(&encrypted.shape[1..], encrypted.data.clone())?;
    let error = error(&through_tail(&imported, &canonical, interp::run(&canonical, &batch)?)?, &expected);
    let elements: Vec<usize> = canonical.outputs.iter().map(|o| canonical.nodes[o.value].ty.len()).collect();
    let sides = [("head", &imported.head), ("tail", &imported.tail)];
    let sides: Vec<&str> = sides.iter().filter(|(_, part)| part.is_some()).map(|(name, _)| *name).collect();
    let polynomial = !canonical.nodes.values().any(|n| matches!(n.op, TensorOp::Activation(_)));
    let program = match (args.program || args.packed, polynomial) {
        (false, _) => Ok("-".to_owned()),
        (true, false) => Ok("no polynomial model".to_owned()),
        (true, true) if args.program => program(&imported, &batch, &expected, args),
        (true, true) => packed(&imported, canonical.clone(), &batch, &expected, args),
    };
    let program = program.unwrap_or_else(|e| e.to_string().replace('\n', " "));
    Ok(format!(
        "{} | {} / {} in {} | {} | {seconds:.1} | {error:.1e} | {program}",
        canonical.nodes.len(),
        encrypted.data.len(),
        elements.iter().sum::<usize>(),
        elements.len(),
        sides.join(", "),
    ))
}

/// Compiles, runs the program in the clear and gives its size, time and error.
fn program(
    imported: &Imported,
    batch: &interp::Batch,
    expected: &[ClientTensor],
    args: &Args,
) -> Result<String, AnyError> {
    let start = Instant::now();
    let plan = if args.leveled { Plan::Leveled } else { Plan::Auto };
    let options = pipeline::Options { plan, ..pipeline::Options::default() };
    let compiled =
        pipeline::compile(imported.graph.clone(), Calibration::StandIn(batch), &options, &mut |_, _| {})?;
    let compile = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let numbers: Vec<f64> = batch.data().iter().map(|&v| f64::from(v)).collect();
    let machine = ClearMachine::new(&compiled.program, Noise::None)?;
    let slots = machine.run(&[pack_input(&compiled.program, 0, &numbers)?], &mut |_| {})?;
    let unpack = |(i, slots): (usize, &Vec<Vec<f64>>)| -> Result<Vec<f32>, AnyError> {
        Ok(unpack_output(&compiled.program, i, slots)?.into_iter().map(|v| v as f32).collect())
    };
    let outputs = slots.iter().enumerate().map(unpack).collect::<Result<Vec<_>, _>>()?;
    let error = error(&through_tail(imported, &compiled.polynomial, outputs)?, expected);
    Ok(format!(
        "compiled in {compile:.1} s, ran in {:.1} s, error {error:.1e}",
        start.elapsed().as_secs_f64()
    ))
}

/// Slots of the ring that models are packed for.
const SLOTS: u32 = 1 << 15;

/// Packs, runs the packed graph in the clear and gives its size, time and error.
fn packed(
    imported: &Imported,
    mut graph: TensorGraph,
    batch: &interp::Batch,
    expected: &[ClientTensor],
    args: &Args,
) -> Result<String, AnyError> {
    let start = Instant::now();
    tensor::polynomial(&mut graph, Some(batch), &mut PassManager::new(Verification::EachPass))?;
    let ranges = ranges::measure(&graph, batch)?;
    let search = match args.greedy {
        true => LayoutSearch::Greedy,
        false => LayoutSearch::Search(Machine::default(), Products::Deep),
    };
    let packed = pack::pack(&graph, &ranges, SLOTS, &search)?.graph;
    let compile = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let numbers: Vec<f64> = batch.data().iter().map(|&v| f64::from(v)).collect();
    let outputs = peregrine_ir::fhe::run_clear(&packed, &[numbers]).ok_or("no input")?;
    let outputs = outputs.into_iter().map(|o| o.into_iter().map(|v| v as f32).collect()).collect();
    let error = error(&through_tail(imported, &graph, outputs)?, expected);
    let ciphertexts: u32 =
        packed.nodes.values().map(|n| packed.tables.layouts[n.ty.layout].ciphertexts).sum();
    Ok(format!(
        "{} values in {ciphertexts} ciphertexts, packed in {compile:.1} s, ran in {:.1} s, error {error:.1e}",
        packed.nodes.len(),
        start.elapsed().as_secs_f64()
    ))
}

/// Outputs of the model from those of the server.
fn through_tail(
    imported: &Imported,
    graph: &TensorGraph,
    outputs: Vec<Vec<f32>>,
) -> Result<Vec<ClientTensor>, AnyError> {
    let named: Vec<(String, ClientTensor)> = (graph.outputs.iter().zip(outputs))
        .map(|(port, data)| {
            (port.name.clone(), ClientTensor { shape: graph.nodes[port.value].ty.shape.clone(), data })
        })
        .collect();
    let Some(tail) = &imported.tail else { return Ok(named.into_iter().map(|(_, tensor)| tensor).collect()) };
    let tail = Tract::load(tail)?;
    let find = |name: &str| named.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor.clone());
    let inputs: Vec<ClientTensor> = tail.inputs().filter_map(|(name, _)| find(name)).collect();
    Ok(tail.run_many(&inputs)?)
}

/// Largest difference relative to the range of each output.
fn error(found: &[ClientTensor], expected: &[ClientTensor]) -> f64 {
    let pairs = found.iter().zip(expected);
    pairs.map(|(f, e)| difference(&f.data, &e.data)).fold(0.0, f64::max)
}

fn difference(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let range = expected.iter().fold(f64::MIN_POSITIVE, |m, &v| m.max(f64::from(v).abs()));
    let differences = found.iter().zip(expected).map(|(f, e)| f64::from(f - e).abs() / range);
    differences.fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) })
}
