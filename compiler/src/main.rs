//! `peregrinec`: from a trained ONNX model to an artefact that answers on encrypted images.
#![forbid(unsafe_code)]

mod watch;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use peregrine_compiler::driver::{self, Lowered, Prepared};
use peregrine_compiler::error::CompileError;
use peregrine_compiler::gate::GateReport;
use peregrine_compiler::gate::{self, Tolerance};
use peregrine_compiler::onnx::{ClientSplit, ImageOverrides, ImportOptions, MaxPools, Precedence};
use peregrine_compiler::options::{
    Activations, CompileOptions, DumpPoint, Emit, LayoutFlag, PlanFlag, ProductsFlag, ReportTo, Verify,
};
use peregrine_compiler::report::{self, Report};
use peregrine_ir::bytes::ByteSize;
use peregrine_ir::text::{print_fhe, print_program, print_tensor};

use crate::watch::Watch;

/// Compiles a trained ONNX model into a program for encrypted images at 128-bit security.
#[derive(Parser, Debug)]
#[command(
    name = "peregrinec",
    version,
    after_help = "Exit codes: 0 done, 1 wrong input or flags, 2 a limit of depth or precision, 101 a compiler bug."
)]
struct Args {
    /// ONNX model, opset 7 to 21
    model: PathBuf,
    /// File to write: the .fhe artefact, or what --emit asks for (default: MODEL.fhe; --emit prints without -o)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Calibration inputs: .npz with an array `images` (uint8 NCHW pixels, or float32 model inputs), or a folder of pictures
    #[arg(long, value_name = "FILE.npz|DIR")]
    calibrate: Option<PathBuf>,
    /// How activations become polynomials
    #[arg(long, value_enum, default_value_t)]
    activations: Activations,
    /// Leveled, bootstrapped, or as predicted to be cheaper
    #[arg(long, value_enum, default_value_t)]
    plan: PlanFlag,
    /// How tensors are laid out in ciphertexts
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    layout: LayoutFlag,
    /// How linear maps are computed
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    products: ProductsFlag,
    /// Bits of the output's range that noise must leave, as the noise model predicts: picks scales of data and weights
    #[arg(long, value_name = "BITS", value_parser = precision)]
    precision: Option<f64>,
    /// Degree of the polynomials, 2 to 8
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(2..=8))]
    degree: Option<u32>,
    /// Write this instead of an artefact
    #[arg(long, value_enum)]
    emit: Option<Emit>,
    /// Print the graph after a pass (after:all: after every pass); may be repeated
    #[arg(long, value_name = "after:PASS")]
    dump_ir: Vec<DumpPoint>,
    /// Full report: printed as text, or as json, or written to FILE.html or FILE.json
    #[arg(long, value_name = "json|FILE.html|FILE.json", num_args = 0..=1, default_missing_value = "text")]
    report: Option<ReportTo>,
    /// Input (picture or .npy) that the check runs and the artefact carries
    #[arg(long, value_name = "FILE")]
    sample: Option<PathBuf>,
    /// Largest error allowed by the check, relative to the output's range (default 2^-7)
    #[arg(long, value_name = "E", value_parser = tolerance)]
    tolerance: Option<Tolerance>,
    /// Write the artefact without the check
    #[arg(long, conflicts_with = "tolerance")]
    no_verify: bool,
    /// Most memory of expanded switching keys, as 4GiB: the fastest program within it (default: time and keys are weighed; --report
    /// prints what there is to choose from)
    #[arg(long, value_name = "SIZE")]
    keys_memory: Option<ByteSize>,
    /// Class names: one a line, comma-separated, or a JSON list
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Figures of the machine that will run the program, as peregrine-run calibrate writes them: times are predicted by them
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
    /// Shape of the input where the model leaves it open, as in 1x3x224x224
    #[arg(long, value_name = "SHAPE", value_parser = shape)]
    input_shape: Option<Shape>,
    /// Max pools, which have no encrypted form: refused, or replaced by average pools (which changes the model's answers)
    #[arg(long, value_enum, default_value_t)]
    maxpool: MaxPool,
    /// Mean subtracted from pixels after division by 255: one number, or one a channel
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    mean: Option<Vec<f32>>,
    /// Standard deviation that pixels are divided by after the mean: one number, or one a channel
    #[arg(long, value_delimiter = ',')]
    std: Option<Vec<f32>>,
    /// Say what is being done, with the time it starts (on a terminal the last step is shown anyway)
    #[arg(short, long)]
    verbose: bool,
}

/// What happens to max pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum MaxPool {
    /// They are refused, unless they run on the client.
    #[default]
    Refuse,
    /// They become average pools of the same window.
    Avg,
}

#[derive(Clone, Debug)]
struct Shape(Vec<usize>);

fn shape(text: &str) -> Result<Shape, String> {
    let extents = text.split(['x', ',']).map(|d| d.trim().parse().ok().filter(|&d: &usize| d > 0));
    extents
        .collect::<Option<Vec<usize>>>()
        .map(Shape)
        .ok_or_else(|| "extents like 1x3x224x224 are expected".to_owned())
}

fn tolerance(text: &str) -> Result<Tolerance, String> {
    let value = text.parse().ok().and_then(Tolerance::new);
    value.ok_or_else(|| "a number above 0 and at most 1 is expected".to_owned())
}

fn precision(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|bits: &f64| (1.0..=30.0).contains(bits));
    value.ok_or_else(|| "a number of bits from 1 to 30 is expected".to_owned())
}

impl Args {
    fn options(&self) -> CompileOptions {
        CompileOptions {
            model: self.model.clone(),
            import: ImportOptions {
                input_shape: self.input_shape.clone().map(|s| s.0),
                split: ClientSplit::HeadAndTail,
                image: ImageOverrides {
                    mean: self.mean.clone(),
                    std: self.std.clone(),
                    precedence: Precedence::User,
                },
                max_pools: match self.maxpool {
                    MaxPool::Refuse => MaxPools::Keep,
                    MaxPool::Avg => MaxPools::Average,
                },
                folder: Some(self.model.parent().map(Path::to_owned).unwrap_or_default()),
            },
            calibrate: self.calibrate.clone(),
            activations: self.activations,
            degree: self.degree,
            plan: self.plan.into(),
            layout: self.layout.into(),
            products: self.products.ways().1,
            precision: self.precision,
            sample: self.sample.clone(),
            labels: self.labels.clone(),
            machine: self.machine.clone(),
            keys_memory: self.keys_memory,
            verify: if self.no_verify {
                Verify::Skip
            } else {
                Verify::Gate(self.tolerance.unwrap_or_default())
            },
            dump: self.dump_ir.clone(),
            progress: watch::progress(if self.verbose { Watch::Log } else { Watch::Line }),
        }
    }
}

impl Args {
    /// Where the artefact goes.
    fn artefact(&self) -> PathBuf {
        self.output.clone().unwrap_or_else(|| self.model.with_extension("fhe"))
    }

    /// Files that will be written.
    fn written(&self) -> Vec<PathBuf> {
        let output = if self.emit.is_none() { Some(self.artefact()) } else { self.output.clone() };
        let report = match &self.report {
            Some(ReportTo::HtmlFile(path) | ReportTo::JsonFile(path)) => Some(path.clone()),
            Some(ReportTo::Text | ReportTo::Json) | None => None,
        };
        output.into_iter().chain(report).collect()
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
            return error.print().map_or(ExitCode::from(1), |()| code);
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(error.blame().exit_code())
        }
    }
}

/// A message for people; standard output is for what was asked to be written there.
fn say(message: &str) {
    watch::clear();
    // A closed standard error must not change the outcome.
    let _ = writeln!(io::stderr(), "{message}");
}

fn run(args: &Args) -> Result<(), CompileError> {
    let mut options = args.options();
    args.written().iter().try_for_each(|path| driver::writable(path))?;
    let prepared = driver::prepare(&options)?;
    if let [first, rest @ ..] = prepared.imported.averaged.as_slice() {
        let count = rest.len() + 1;
        say(&format!(
            "{count} max pool(s) became average pools ({first}{}): fine-tune the model with them for good answers",
            if rest.is_empty() { "" } else { ", …" }
        ));
    }
    if let Some(cut) = &prepared.imported.cut {
        say(&format!(
            "the end of the model is left out ({}); outputs are {} instead of {}: decode them with peregrine-run --decoder or on your own",
            cut.why,
            cut.given.join(", "),
            cut.lost.join(", "),
        ));
    }
    let mut dump = |pass: &str, text: &str| {
        watch::clear();
        let _ = writeln!(io::stdout(), "// after {pass}\n{text}");
    };
    match args.emit {
        Some(emit @ (Emit::Tensor | Emit::Onnx)) => {
            let model = driver::polynomial_model(&prepared, &options, &mut dump)?;
            match emit {
                Emit::Onnx => put(args.output.as_deref(), &driver::polynomial_onnx(&prepared, &model)?),
                _ => put(args.output.as_deref(), print_tensor(&model).as_bytes()),
            }
        }
        emit => {
            let Attempt { lowered, check } = fine_enough(args, &mut options, &prepared, &mut dump)?;
            let text = match emit {
                Some(Emit::Fhe) => print_fhe(&lowered.compiled.fhe),
                Some(Emit::Tensor | Emit::Onnx | Emit::Program) => print_program(&lowered.compiled.program),
                None => return artefact(args, &options, &prepared, Attempt { lowered, check }),
            };
            write_report(args, &prepared, &lowered, None)?;
            put(args.output.as_deref(), text.as_bytes())
        }
    }
}

/// A program, and the check of it if there is one to be.
struct Attempt {
    lowered: Lowered,
    check: Option<GateReport>,
}

/// Lowers and checks; where the error is too large, again with less sharing of products.
fn fine_enough(
    args: &Args,
    options: &mut CompileOptions,
    prepared: &Prepared,
    dump: driver::DumpSink<'_>,
) -> Result<Attempt, CompileError> {
    let (first, last) = args.products.ways();
    for &products in first {
        options.products = products;
        match attempt(args, options, prepared, dump) {
            Ok(Attempt { lowered, check: Some(check) }) if driver::rounding_decides(&lowered, &check) => {}
            Err(CompileError::Precision { .. }) => {}
            done => return done,
        }
        say("too rough with products shared like that: compiling again with less sharing");
    }
    options.products = last;
    attempt(args, options, prepared, dump)
}

fn attempt(
    args: &Args,
    options: &CompileOptions,
    prepared: &Prepared,
    dump: driver::DumpSink<'_>,
) -> Result<Attempt, CompileError> {
    let lowered = driver::lower(prepared, options, dump)?;
    match args.report {
        Some(ReportTo::Text) => say(report::text::text(&Report::of(prepared, &lowered, None)?).trim_end()),
        Some(ReportTo::Json | ReportTo::HtmlFile(_) | ReportTo::JsonFile(_)) | None => {
            say(&report::summary(&lowered.compiled));
        }
    }
    let check = match options.verify {
        Verify::Gate(tolerance) if args.emit.is_none() => {
            options.progress.step("running the program in the clear, with noise, against tract");
            Some(driver::check(prepared, &lowered, tolerance)?)
        }
        Verify::Gate(_) | Verify::Skip => None,
    };
    Ok(Attempt { lowered, check })
}

fn artefact(
    args: &Args,
    options: &CompileOptions,
    prepared: &Prepared,
    Attempt { mut lowered, check }: Attempt,
) -> Result<(), CompileError> {
    if let Some(check) = &check {
        say(&check.to_string());
    }
    // A program that is refused has its report too: it tells why.
    write_report(args, prepared, &lowered, check.as_ref())?;
    if let Some(check) = &check {
        gate::verdict(check)?;
    }
    let path = args.artefact();
    let client = driver::client_part(prepared, std::mem::take(&mut lowered.ranges));
    options.progress.step("writing the artefact");
    driver::write_artefact(&path, &lowered, &client)?;
    say(&format!("wrote {}", path.display()));
    Ok(())
}

/// Writes the report where it was asked for; the text was said before.
fn write_report(
    args: &Args,
    prepared: &Prepared,
    lowered: &Lowered,
    check: Option<&GateReport>,
) -> Result<(), CompileError> {
    let make = || Report::of(prepared, lowered, check);
    let (path, text) = match &args.report {
        None | Some(ReportTo::Text) => return Ok(()),
        Some(ReportTo::Json) => (None, json(&make()?)?),
        Some(ReportTo::JsonFile(path)) => (Some(path.as_path()), json(&make()?)?),
        Some(ReportTo::HtmlFile(path)) => (Some(path.as_path()), report::html::page(&make()?)),
    };
    put(path, text.as_bytes())?;
    if let Some(path) = path {
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn json(report: &Report) -> Result<String, CompileError> {
    let text = serde_json::to_string(report).map_err(|e| CompileError::Report { why: e.to_string() })?;
    Ok(text + "\n")
}

/// Writes to a file, or to standard output without one.
fn put(path: Option<&Path>, bytes: &[u8]) -> Result<(), CompileError> {
    watch::clear();
    match path {
        Some(path) => driver::write_file(path, bytes),
        None => {
            let failed = |source| CompileError::Write { path: PathBuf::from("standard output"), source };
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush()).map_err(failed)
        }
    }
}
