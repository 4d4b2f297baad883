//! Times bootstrapping at 128-bit security and measures its precision.
//!
//! `cargo run --release -p peregrine-ckks --example bootstrap -- [--preset n16|n15] [--threads T] [--runs R] [--slots S] [--single]
//! [--ratio BITS] [--boost BITS] [--degree D] [--angles R] [--json] [--machine machine.json]`

#![allow(clippy::print_stdout)]

use std::time::Instant;

use peregrine_ckks::bootstrap::{BootstrapKeys, BootstrapParams, BootstrapSpec, Bootstrapper};
use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::cost::{Machine, Work};
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::encrypt::{decrypt, encrypt_secret};
use peregrine_ckks::keys::{KeyGenerator, SecretKey};
use peregrine_ckks::units::{Scale, Slots};

type Failure = Box<dyn std::error::Error>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inputs {
    Pair,
    Single,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Text,
    Json,
}

struct Options {
    spec: BootstrapSpec,
    slots: Option<u32>,
    threads: usize,
    runs: usize,
    inputs: Inputs,
    output: Output,
    machine: Machine,
}

/// The figures that `peregrine-run calibrate -o FILE` wrote.
fn machine(path: &str) -> Result<Machine, Failure> {
    let machine: Machine = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    machine.check()?;
    Ok(machine)
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        spec: BootstrapSpec::n16(),
        slots: None,
        threads: 0,
        runs: 3,
        inputs: Inputs::Pair,
        output: Output::Text,
        machine: Machine::default(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--preset" => match value()?.as_str() {
                "n16" => options.spec = BootstrapSpec::n16(),
                "n15" => options.spec = BootstrapSpec::n15(),
                other => return Err(format!("there is no preset {other}; use n16 or n15").into()),
            },
            "--threads" => options.threads = value()?.parse()?,
            "--runs" => options.runs = value()?.parse::<usize>()?.max(1),
            "--slots" => options.slots = Some(value()?.parse()?),
            "--ratio" => options.spec.ratio_bits = value()?.parse()?,
            "--boost" => options.spec.eval_mod.boost_bits = value()?.parse()?,
            "--degree" => options.spec.eval_mod.degree = value()?.parse()?,
            "--angles" => options.spec.eval_mod.double_angles = value()?.parse()?,
            "--machine" => options.machine = machine(&value()?)?,
            "--single" => options.inputs = Inputs::Single,
            "--json" => options.output = Output::Json,
            other => {
                return Err(format!("unknown option {other}; see the first lines of this example").into());
            }
        }
    }
    Ok(options)
}

/// Reproducible values in `[-1, 1]`.
fn values(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Client {
    ctx: Context,
    sk: SecretKey,
    encoder: Encoder,
    slots: Slots,
}

impl Client {
    fn encrypt(
        &self,
        params: &BootstrapParams,
        values: &[f64],
        scale: &Scale,
    ) -> Result<Ciphertext, Failure> {
        let plaintext = self.encoder.encode(values, self.slots, scale)?;
        Ok(encrypt_secret(&self.ctx, &self.sk, &plaintext, params.input_level())?.expand(&self.ctx)?)
    }

    fn errors(&self, ct: &Ciphertext, expected: &[f64]) -> Result<Vec<f64>, Failure> {
        let message = decrypt(&self.ctx, &self.sk, ct)?;
        let found = self.encoder.decode(&message, ct.scale(), self.slots)?;
        Ok(found.iter().zip(expected).map(|(x, y)| (x - y).abs()).collect())
    }
}

/// Peak resident memory of this process in GiB, where the system tells.
fn peak_gib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / (1 << 20) as f64)
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    let params = options.spec.clone().check()?;
    let ctx = Context::new(params.main())?;
    let slots = Slots::new(options.slots.unwrap_or(params.main().max_slots().get()))?;
    let scale = Scale::pow2(40);

    let start = Instant::now();
    let bootstrapper = Bootstrapper::new(&params, &ctx, slots, &scale)?;
    let setup = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let generator = KeyGenerator::new(&ctx);
    let sk = generator.secret();
    let keys = BootstrapKeys::generate(&generator, &sk, &bootstrapper)?;
    let keygen = start.elapsed().as_secs_f64();

    let client = Client { encoder: Encoder::new(&ctx), sk, slots, ctx };
    let (mut seconds, mut errors, mut scale_log2) = (Vec::new(), Vec::new(), 0.0);
    let mut work = Work::default();
    for run in 0..options.runs as u64 {
        let clear: Vec<Vec<f64>> = (0..2).map(|k| values(slots.get() as usize, 1 + 2 * run + k)).collect();
        let inputs =
            clear.iter().map(|x| client.encrypt(&params, x, &scale)).collect::<Result<Vec<_>, _>>()?;
        let before = client.ctx.work();
        let start = Instant::now();
        let refreshed = match options.inputs {
            Inputs::Pair => bootstrapper.refresh_pair(&inputs[0], &inputs[1], &keys)?.to_vec(),
            Inputs::Single => vec![bootstrapper.refresh(&inputs[0], &keys)?],
        };
        seconds.push(start.elapsed().as_secs_f64());
        work = client.ctx.work() - before;
        for (ct, clear) in refreshed.iter().zip(&clear) {
            errors.extend(client.errors(ct, clear)?);
            scale_log2 = ct.scale().log2(params.main());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let worst = errors.iter().fold(0.0f64, |worst, &e| worst.max(e));
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let (least_bits, mean_bits) = (-worst.log2(), -mean.log2());
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    let (key_gib, diagonal_gib) = (gib(keys.bytes()), gib(bootstrapper.bytes()));
    let (main, usable, peak) = (params.main(), params.usable_bits(), peak_gib());
    let (threads, failure) = (rayon::current_num_threads(), params.failure_log2(slots));
    if options.output == Output::Json {
        println!(
            r#"{{"seconds": {median:.3}, "threads": {threads}, "precision_bits_min": {least_bits:.2}, "precision_bits_mean": {mean_bits:.2}, "usable_bits": {usable:.1}, "log_qp": {:.1}, "failure_log2": {failure:.1}, "key_generation_seconds": {keygen:.2}, "key_gib": {key_gib:.2}, "peak_gib": {peak:.2}}}"#,
            main.log_qp()
        );
        return Ok(());
    }
    println!("ring           N = 2^{}, {} slots, log QP {:.1}", main.log_n(), slots, main.log_qp());
    println!(
        "chain          {} + {} primes, output level {}",
        main.q().len(),
        main.p().len(),
        params.output_level()
    );
    println!("usable         {usable:.1} bits, result at scale 2^{scale_log2:.1}");
    println!("failure        2^{failure:.1} per bootstrap");
    println!(
        "setup          {setup:.2} s, keys {keygen:.2} s ({key_gib:.2} GiB, diagonals {diagonal_gib:.2} GiB)"
    );
    println!(
        "bootstrap      {median:.3} s on {threads} threads (least {:.3}, most {:.3})",
        seconds[0],
        seconds[seconds.len() - 1]
    );
    println!("precision      {least_bits:.2} bits in the worst slot, {mean_bits:.2} on average");
    println!("peak memory    {peak:.2} GiB");
    println!("efficiency     {}", options.machine.efficiency_line(&work, main.n(), median, threads));
    Ok(())
}
