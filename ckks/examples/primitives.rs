//! Times the primitives of key switching, and a double-hoisted transform of 64 diagonals, at 128-bit security.
//!
//! `cargo run --release -p peregrine-ckks --example primitives -- [--log-n 16] [--limbs 24] [--special 8] [--threads T] [--runs R]
//! [--json]`

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::encrypt::encrypt_secret;
use peregrine_ckks::error::Error;
use peregrine_ckks::evaluator::Evaluator;
use peregrine_ckks::evaluator::keyswitch::Hoisted;
use peregrine_ckks::evaluator::linear::{
    DiagonalId, DiagonalSource, GiantStep, LinearPlan, Stage, Term, apply,
};
use peregrine_ckks::keys::{EvalKeys, KeyGenerator};
use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
use peregrine_ckks::plaintext::IntPlaintext;
use peregrine_ckks::units::{GaloisElement, Rotation, Scale};

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
}

fn options() -> Result<Options, Failure> {
    let mut options =
        Options { log_n: 16, limbs: 24, special: 8, threads: 1, runs: 15, output: Output::Text };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--log-n" => options.log_n = value()?.parse()?,
            "--limbs" => options.limbs = value()?.parse()?,
            "--special" => options.special = value()?.parse()?,
            "--threads" => options.threads = value()?.parse()?,
            "--runs" => options.runs = value()?.parse::<usize>()?.max(1),
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
}

/// Median seconds of `work`, after one run for warming up.
fn median<T>(
    runs: usize,
    name: &'static str,
    mut work: impl FnMut() -> Result<T, Error>,
) -> Result<Timing, Error> {
    black_box(work()?);
    let mut seconds = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        black_box(work()?);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Timing { name, seconds: seconds[runs / 2] })
}

/// All diagonals are the same one; the transform does not know.
struct OneDiagonal(Arc<IntPlaintext>);

impl DiagonalSource for OneDiagonal {
    fn diagonal(&self, _: DiagonalId) -> Result<Arc<IntPlaintext>, Error> {
        Ok(Arc::clone(&self.0))
    }
}

/// 64 diagonals as 8 baby steps and 8 giant steps.
fn transform(turn: &impl Fn(u32) -> Rotation) -> LinearPlan {
    let terms =
        |giant: u32| (0..STEPS).map(move |baby| Term { input: 0, baby, diagonal: DiagonalId(giant + baby) });
    let giant =
        |g: u32| GiantStep { output: 0, rotation: turn(g * STEPS), terms: terms(g * STEPS).collect() };
    LinearPlan {
        inputs: 1,
        outputs: 1,
        turned: Vec::new(),
        babies: vec![(0..STEPS).map(turn).collect()],
        stages: vec![Stage { giants: (0..STEPS).map(giant).collect(), ..Stage::default() }],
    }
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
    let plan = transform(&turn);
    let wanted: Vec<_> = plan.galois_elements(ctx.n()).into_iter().map(|element| (element, level)).collect();
    let mut keys: EvalKeys = generator.galois_set(&secret, &wanted)?.into_iter().collect();
    keys.insert(generator.relin(&secret, level)?);

    let encoder = Encoder::new(&ctx);
    let values: Vec<f64> = (0..slots.get()).map(|i| f64::from(i % 97) / 97.0).collect();
    let message = encoder.encode(&values, slots, &Scale::pow2(40))?;
    let ct: Ciphertext = encrypt_secret(&ctx, &secret, &message, level)?.expand(&ctx)?;
    let source = OneDiagonal(Arc::new(encoder.encode(&values, slots, &Scale::pow2(40))?));
    let hoisted = Hoisted::new(&ctx, ct.c1());
    let element = GaloisElement::from_rotation(turn(1), ctx.n());
    let key = keys.galois(element, level)?;
    let runs = options.runs;
    Ok(vec![
        median(runs, "rotation", || ev.rotate(&ct, turn(1), &keys))?,
        median(runs, "hoisted_rotation", || hoisted.rotate(ct.c0(), element, key))?,
        median(runs, "mul_relin", || ev.mul_relin(&ct, &ct, &keys))?,
        median(runs, "rescale", || ev.rescale(&ct))?,
        median(runs.min(5), "transform_64", || apply(&ev, &[&ct], &plan, &source, &keys))?,
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
    timings.iter().for_each(|t| println!("{:<18} {:>9.2} ms", t.name, 1e3 * t.seconds));
    let ratio = f64::from(STEPS * STEPS) * timings[0].seconds / timings[timings.len() - 1].seconds;
    println!("64 rotations take {ratio:.2} times as long as the transform of 64 diagonals");
    Ok(())
}
