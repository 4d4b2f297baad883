//! Times the primitives of key switching, a double-hoisted transform of 64 diagonals, and the transform of a 3x3 convolution
//! of 16 channels, at 128-bit security.
//!
//! `cargo run --release -p peregrine-ckks --example primitives -- [--log-n 16] [--limbs 24] [--special 8] [--threads T] [--runs R]
//! [--json] [--machine machine.json]`

#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::cost::{Machine, Work};
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::encrypt::encrypt_secret;
use peregrine_ckks::error::Error;
use peregrine_ckks::evaluator::Evaluator;
use peregrine_ckks::evaluator::keyswitch::Hoisted;
use peregrine_ckks::evaluator::linear::{
    DiagonalId, DiagonalSource, GiantStep, LinearPlan, Stage, Term, apply_rescaled,
};
use peregrine_ckks::kernels::Kernels;
use peregrine_ckks::keys::{EvalKeys, KeyGenerator};
use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
use peregrine_ckks::plaintext::IntPlaintext;
use peregrine_ckks::units::{GaloisElement, Rotation, Scale, Slots};

type Failure = Box<dyn std::error::Error>;

/// Baby steps of the transform, and giant steps.
const STEPS: u32 = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Text,
    Json,
}

struct Options {
    log_n: u32,
    limbs: usize,
    special: usize,
    threads: usize,
    runs: usize,
    output: Output,
    machine: Machine,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        log_n: 16,
        limbs: 24,
        special: 8,
        threads: 1,
        runs: 15,
        output: Output::Text,
        machine: Machine::default(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--log-n" => options.log_n = value()?.parse()?,
            "--limbs" => options.limbs = value()?.parse()?,
            "--special" => options.special = value()?.parse()?,
            "--threads" => options.threads = value()?.parse()?,
            "--runs" => options.runs = value()?.parse::<usize>()?.max(1),
            "--machine" => {
                options.machine = serde_json::from_str(&std::fs::read_to_string(value()?)?)?;
                options.machine.check()?;
            }
            "--json" => options.output = Output::Json,
            other => {
                return Err(format!("unknown option {other}; see the first lines of this example").into());
            }
        }
    }
    Ok(options)
}

struct Timing {
    name: &'static str,
    seconds: f64,
    /// Counted work of one run.
    work: Work,
}

/// Median seconds of `work`, after one run for warming up.
fn median<T>(
    ctx: &Context,
    runs: usize,
    name: &'static str,
    mut run: impl FnMut() -> Result<T, Error>,
) -> Result<Timing, Error> {
    let before = ctx.work();
    black_box(run()?);
    let work = ctx.work() - before;
    let mut seconds = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        black_box(run()?);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Timing { name, seconds: seconds[runs / 2], work })
}

/// All diagonals are the same one; the transform does not know.
struct OneDiagonal(Arc<IntPlaintext>);

impl DiagonalSource for OneDiagonal {
    fn diagonal(&self, _: DiagonalId) -> Result<Arc<IntPlaintext>, Error> {
        Ok(Arc::clone(&self.0))
    }
}

/// All sums of a baby and a giant step, one diagonal each.
fn transform(babies: Vec<Rotation>, giants: Vec<Rotation>) -> LinearPlan {
    let terms = |g: u32| {
        let count = babies.len() as u32;
        (0..count).map(move |baby| Term { input: 0, baby, diagonal: DiagonalId(g * count + baby) }).collect()
    };
    let giants = (0..).zip(giants).map(|(g, rotation)| GiantStep { output: 0, rotation, terms: terms(g) });
    let stage = Stage { giants: giants.collect(), ..Stage::default() };
    LinearPlan { inputs: 1, outputs: 1, babies: vec![babies], stages: vec![stage], ..LinearPlan::default() }
}

fn measure(options: &Options) -> Result<Vec<Timing>, Failure> {
    let bits = |count| vec![PrimeSpec::Bits(50); count];
    let literal = ParamsLiteral { log_n: options.log_n, q: bits(options.limbs), p: bits(options.special) };
    let params = literal.check()?;
    let ctx = Context::new(&params)?;
    let (ev, generator) = (Evaluator::new(&ctx), KeyGenerator::new(&ctx));
    let secret = generator.secret();
    let (level, slots) = (params.max_level(), params.max_slots());
    let turn = |steps: u32| Rotation::new(i64::from(steps), slots);
    let plan = transform((0..STEPS).map(turn).collect(), (0..STEPS).map(|g| turn(g * STEPS)).collect());
    // A 3x3 convolution from 16 to 16 channels of 32x32 pixels, the contents twice in the slots: nine taps are baby steps,
    // eight channel offsets giant steps.
    let taps = [0, 1, 2, 32, 33, 34, 64, 65, 66].map(turn);
    let convolution = transform(taps.to_vec(), (0..8).map(|channel| turn(channel * 1024)).collect());
    let period = Slots::new(slots.get() / 2)?;
    let elements: BTreeSet<_> =
        [&plan, &convolution].iter().flat_map(|plan| plan.galois_elements(ctx.n())).collect();
    let wanted: Vec<_> = elements.into_iter().map(|element| (element, level)).collect();
    let mut keys: EvalKeys = generator.galois_set(&secret, &wanted)?.into_iter().collect();
    keys.insert(generator.relin(&secret, level)?);

    let encoder = Encoder::new(&ctx);
    let values: Vec<f64> = (0..slots.get()).map(|i| f64::from(i % 97) / 97.0).collect();
    let message = encoder.encode(&values, slots, &Scale::pow2(40))?;
    let ct: Ciphertext = encrypt_secret(&ctx, &secret, &message, level)?.expand(&ctx)?;
    let source = OneDiagonal(Arc::new(encoder.encode(&values, slots, &Scale::pow2(40))?));
    let weights =
        OneDiagonal(Arc::new(encoder.encode(&values[..period.get() as usize], period, &Scale::pow2(20))?));
    let hoisted = Hoisted::new(&ctx, ct.c1());
    let element = GaloisElement::from_rotation(turn(1), ctx.n());
    let key = keys.galois(element, level)?;
    let runs = options.runs;
    let mut limbs: Vec<Vec<u64>> = (0..options.limbs).map(|i| ct.c0().limb(i).to_vec()).collect();
    let library = Context::with_kernels(&params, Kernels::scalar())?;
    let mut transform = |ctx: &Context, back: bool| {
        for (limb, table) in limbs.iter_mut().zip(ctx.q_tables()) {
            if back { table.inverse(limb) } else { table.forward(limb) }
        }
        Ok(())
    };
    Ok(vec![
        median(&ctx, runs, "ntt_of_all_limbs", || transform(&ctx, false))?,
        median(&ctx, runs, "inverse_ntt_of_all_limbs", || transform(&ctx, true))?,
        median(&ctx, runs, "library_ntt_of_all_limbs", || transform(&library, false))?,
        median(&ctx, runs, "library_inverse_ntt_of_all_limbs", || transform(&library, true))?,
        median(&ctx, runs, "rotation", || ev.rotate(&ct, turn(1), &keys))?,
        median(&ctx, runs, "hoisted_rotation", || hoisted.rotate(ct.c0(), element, key))?,
        median(&ctx, runs, "mul_relin", || ev.mul_relin(&ct, &ct, &keys))?,
        median(&ctx, runs, "mul_relin_rescale", || ev.mul_relin_rescale(&ct, &ct, &keys))?,
        median(&ctx, runs, "rescale", || ev.rescale(&ct))?,
        median(&ctx, runs.min(5), "transform_64", || apply_rescaled(&ev, &[&ct], &plan, &source, &keys))?,
        median(&ctx, runs.min(5), "convolution_3x3", || {
            apply_rescaled(&ev, &[&ct], &convolution, &weights, &keys)
        })?,
    ])
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    let timings = measure(&options)?;
    if options.output == Output::Json {
        let fields: Vec<String> =
            timings.iter().map(|t| format!(r#""{}_seconds": {:.6}"#, t.name, t.seconds)).collect();
        println!(r#"{{"threads": {}, {}}}"#, rayon::current_num_threads(), fields.join(", "));
        return Ok(());
    }
    let Options { log_n, limbs, special, .. } = options;
    println!("N = 2^{log_n}, {limbs} + {special} limbs, {} thread(s)", rayon::current_num_threads());
    timings.iter().for_each(|t| println!("{:<34} {:>9.2} ms", t.name, 1e3 * t.seconds));
    let named = |name: &str| timings.iter().find(|t| t.name == name);
    if let (Some(rotation), Some(transform)) = (named("rotation"), named("transform_64")) {
        let ratio = f64::from(STEPS * STEPS) * rotation.seconds / transform.seconds;
        println!("64 rotations take {ratio:.2} times as long as the transform of 64 diagonals");
    }
    for t in timings.iter().filter(|t| t.work != Work::default()) {
        let line =
            options.machine.efficiency_line(&t.work, 1 << log_n, t.seconds, rayon::current_num_threads());
        println!("{}: {line}", t.name);
    }
    Ok(())
}
