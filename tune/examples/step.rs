//! Time of a training step: `cargo run --release -p peregrine-tune --example step -- fixtures/models/cifar10_resnet20.onnx`.
//!
//! Forward, backward and update of a batch of 128 random pictures: with the model's own activations, then with polynomials.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use peregrine_compiler::onnx::ImageOverrides;
use peregrine_tune::loss::cross_entropy;
use peregrine_tune::net::{Keep, Mode, Net, Polynomials};
use peregrine_tune::sgd::Sgd;
use peregrine_tune::tensor::{Pool, Shape, Tensor};
use peregrine_tune::tuned::Model;

#[derive(Parser)]
struct Args {
    /// Model of one row of class scores.
    model: PathBuf,
    /// Images of a step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Steps timed.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn time(net: &mut Net, args: &Args) -> Vec<[f64; 3]> {
    let shape = Shape { n: args.batch, ..net.input_shape() };
    let mut rng = fastrand::Rng::with_seed(1);
    let input = Tensor { shape, data: (0..shape.len()).map(|_| rng.f32() * 4.0 - 2.0).collect() };
    let output = net.outputs[0].1;
    let labels: Vec<usize> = (0..args.batch).map(|i| i % net.nodes[output].shape.c).collect();
    let sgd = Sgd { momentum: 0.9, decay: 1e-4, clip: 1.0, layer_clip: 0.1 };
    let mut pool = Pool::default();
    let mut times = Vec::new();
    for _ in 0..args.steps + 2 {
        let start = Instant::now();
        let copy = pool.copy(&input);
        let tape = net.forward(copy, Mode::TRAIN, Keep::All, &mut pool);
        let loss = cross_entropy(tape.value(output), &labels, &mut pool);
        let forward = start.elapsed().as_secs_f64();
        net.clear_grads();
        net.backward(&tape, vec![(output, loss.grad)], None, None, &mut pool);
        let backward = start.elapsed().as_secs_f64();
        sgd.step(net, 1e-4);
        tape.recycle(&mut pool);
        times.push([start.elapsed().as_secs_f64(), forward, backward - forward]);
    }
    // Two steps fill the caches and the pool.
    let mut times = times.split_off(2);
    times.sort_by(|a, b| a[0].total_cmp(&b[0]));
    times
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let model = Model::read(&args.model, ImageOverrides::default(), None)?;
    let mut net = model.net.clone();
    let mut out = std::io::stdout();
    let mut report = |name: &str, times: &[[f64; 3]]| {
        let ([least, forward, backward], [median, ..]) = (times[0], times[times.len() / 2]);
        writeln!(
            out,
            "{name}: least {least:.3} s (forward {forward:.3}, backward {backward:.3}), median {median:.3} s"
        )
    };
    report("own activations", &time(&mut net, &args))?;
    for degree in [4, 2] {
        let mut net = model.net.clone();
        net.replace_activations(&Polynomials::fixed(degree))?;
        report(&format!("degree {degree}"), &time(&mut net, &args))?;
    }
    Ok(())
}
