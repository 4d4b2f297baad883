//! Accuracy of a model and of its polynomial form in the clear, on folders of pictures.
//!
//! ```text
//! cargo run --release -p peregrine-compiler --example accuracy -- MODEL.onnx --calibrate FILE.npz --data DIR [--degree D] [--limit N]
//! ```
//!
//! DIR holds one folder per class; folders in alphabetical order are the classes in order. CIFAR-10 in this form is not part
//! of the sources.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use peregrine_compiler::driver;
use peregrine_compiler::inputs::{InputFormat, read_sample};
use peregrine_compiler::onnx::ImportOptions;
use peregrine_compiler::options::{Activations, CompileOptions, Plan, Verify};
use peregrine_ir::tensor::TensorGraph;
use peregrine_passes::tensor::interp::{Batch, run};

#[derive(Parser)]
struct Args {
    /// ONNX file.
    model: PathBuf,
    /// Calibration inputs.
    #[arg(long)]
    calibrate: PathBuf,
    /// Folder of class folders.
    #[arg(long)]
    data: PathBuf,
    /// Degree of fitted activations.
    #[arg(long)]
    degree: Option<u32>,
    /// Pictures per class.
    #[arg(long)]
    limit: Option<usize>,
}

type AnyError = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(text) => {
            // Standard output may be closed early by a pager.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<String, AnyError> {
    let options = CompileOptions {
        model: args.model.clone(),
        import: ImportOptions::default(),
        calibrate: Some(args.calibrate.clone()),
        activations: Activations::Fit,
        degree: args.degree,
        plan: Plan::default(),
        precision: None,
        sample: None,
        labels: None,
        machine: None,
        verify: Verify::Skip,
        dump: Vec::new(),
    };
    let prepared = driver::prepare(&options)?;
    let lowered = driver::lower(&prepared, &options, &mut |_, _| {})?;
    let imported = &prepared.imported;
    if imported.head.is_some() {
        return Err("models with a client head are not supported by this example".into());
    }
    let format = InputFormat { shape: &imported.input.shape, image: imported.image.as_ref() };
    let (mut original, mut polynomial, mut agree, mut finite, mut total) = (0, 0, 0, 0, 0);
    for (label, folder) in sorted(&args.data)?.iter().enumerate() {
        for chunk in
            sorted(folder)?[..].iter().take(args.limit.unwrap_or(usize::MAX)).collect::<Vec<_>>().chunks(100)
        {
            let mut data = Vec::new();
            for picture in chunk {
                data.extend(read_sample(picture, format)?.data);
            }
            let batch = Batch::new(&imported.input.shape[1..], data)?;
            let (a, b) =
                (best(&lowered.compiled.canonical, &batch)?, best(&lowered.compiled.polynomial, &batch)?);
            for (a, b) in a.into_iter().zip(b) {
                total += 1;
                original += usize::from(a == Some(label));
                polynomial += usize::from(b == Some(label));
                agree += usize::from(a == b);
                finite += usize::from(b.is_some());
            }
        }
    }
    let percent = |count: usize| 100.0 * count as f64 / f64::from(total.max(1));
    Ok(format!(
        "{total} pictures: original {:.2} %, polynomial {:.2} %, same class {:.2} %, finite {finite}\n",
        percent(original),
        percent(polynomial),
        percent(agree)
    ))
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>, AnyError> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

/// The best class of each picture of a batch; `None` where an output is not finite.
fn best(graph: &TensorGraph, batch: &Batch) -> Result<Vec<Option<usize>>, AnyError> {
    let outputs = run(graph, batch)?;
    let classes = outputs[0].len() / batch.count();
    let best = |scores: &[f32]| {
        let finite = scores.iter().all(|s| s.is_finite());
        let top = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
        top.filter(|_| finite)
    };
    Ok(outputs[0].chunks(classes).map(best).collect())
}
