//! Times of the primitives at N = 2^14, 2^15 and 2^16: `cargo bench -p peregrine-ckks [-- FILTER]`.
//!
//! One thread unless `RAYON_NUM_THREADS` says otherwise. The parameters are the largest secure ones of each degree
//! with 50-bit primes and three digits. At the end, without a filter: the rotation target and what double hoisting
//! saves.
#![allow(clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use peregrine_ckks::ciphertext::Ciphertext;
use peregrine_ckks::context::Context;
use peregrine_ckks::encoder::Encoder;
use peregrine_ckks::encrypt::encrypt_secret;
use peregrine_ckks::error::Error;
use peregrine_ckks::evaluator::Evaluator;
use peregrine_ckks::evaluator::keyswitch;
use peregrine_ckks::evaluator::linear::{
    DiagonalId, DiagonalSource, GiantStep, LinearPlan, Stage, Term, apply,
};
use peregrine_ckks::keys::{EvalKeys, KeyGenerator};
use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
use peregrine_ckks::plaintext::IntPlaintext;
use peregrine_ckks::units::{GaloisElement, Level, Rotation, Scale, Slots};

/// Target of a rotation at N = 2^16, 24 limbs, 3 digits on one core.
const ROTATION_TARGET: Duration = Duration::from_millis(60);

/// `(log2 N, Q limbs, P limbs)`.
const SETS: [(u32, usize, usize); 3] = [(14, 6, 2), (15, 12, 4), (16, 24, 8)];

struct Setting {
    ctx: Context,
    evaluator: Evaluator,
    generator: KeyGenerator,
    secret: peregrine_ckks::keys::SecretKey,
    keys: EvalKeys,
    level: Level,
    slots: Slots,
}

impl Setting {
    fn new((log_n, q_limbs, p_limbs): (u32, usize, usize)) -> Result<Self, Error> {
        let bits = |count| vec![PrimeSpec::Bits(if log_n == 16 { 50 } else { 49 }); count];
        let params = ParamsLiteral { log_n, q: bits(q_limbs), p: bits(p_limbs) }.check()?;
        let ctx = Context::new(&params)?;
        let generator = KeyGenerator::new(&ctx);
        let secret = generator.secret();
        let (level, slots) = (params.max_level(), params.max_slots());
        let one = GaloisElement::from_rotation(Rotation::new(1, slots), ctx.n());
        let keys = [generator.relin(&secret, level)?, generator.galois(&secret, one, level)?];
        let keys = keys.into_iter().collect();
        Ok(Self { evaluator: Evaluator::new(&ctx), ctx, generator, secret, keys, level, slots })
    }

    fn plaintext(&self, bits: i32) -> Result<IntPlaintext, Error> {
        let values: Vec<f64> = (0..self.slots.get()).map(|i| f64::from(i % 97) / 97.0).collect();
        Encoder::new(&self.ctx).encode(&values, self.slots, &Scale::pow2(bits))
    }

    fn ciphertext(&self, level: Level) -> Result<Ciphertext, Error> {
        encrypt_secret(&self.ctx, &self.secret, &self.plaintext(40)?, level)?.expand(&self.ctx)
    }
}

fn primitives(criterion: &mut Criterion, setting: &Setting) -> Result<(), Error> {
    let Setting { ctx, evaluator, keys, level, slots, .. } = setting;
    let ct = setting.ciphertext(*level)?;
    let plaintext = setting.plaintext(22)?;
    let one = Rotation::new(1, *slots);
    let name = format!("N=2^{}, {} limbs + {}", ctx.params().log_n(), level.limbs(), ctx.params().alpha());
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    let mut limb = ct.c0().limb(0).to_vec();
    group.bench_function("NTT forward, one limb", |b| {
        b.iter(|| ctx.q_tables()[0].forward(black_box(&mut limb)))
    });
    group.bench_function("NTT inverse, one limb", |b| {
        b.iter(|| ctx.q_tables()[0].inverse(black_box(&mut limb)));
    });
    let relin = keys.relin(*level)?;
    group.bench_function("key switch", |b| b.iter(|| keyswitch::switch(ctx, ct.c1(), relin)));
    group.bench_function("rotation", |b| b.iter(|| evaluator.rotate(&ct, one, keys)));
    group.bench_function("rotation, hoisted", |b| {
        let hoisted = keyswitch::Hoisted::new(ctx, ct.c1());
        let element = GaloisElement::from_rotation(one, ctx.n());
        let Ok(key) = keys.galois(element, *level) else { return };
        b.iter(|| hoisted.rotate(ct.c0(), element, key));
    });
    group.bench_function("multiplication and relinearisation", |b| {
        b.iter(|| evaluator.mul_relin(&ct, &ct, keys))
    });
    group.bench_function("rescale", |b| b.iter(|| evaluator.rescale(&ct)));
    group.bench_function("plaintext product", |b| b.iter(|| evaluator.mul_plain(&ct, &plaintext)));
    group.finish();
    Ok(())
}

struct OneDiagonal(Arc<IntPlaintext>);

impl DiagonalSource for OneDiagonal {
    fn diagonal(&self, _: DiagonalId) -> Result<Arc<IntPlaintext>, Error> {
        Ok(Arc::clone(&self.0))
    }
}

/// Time of one operation: on the clock, and of the processor if there is one thread and the system tells.
#[derive(Clone, Copy)]
struct Cost {
    elapsed: Duration,
    processor: Option<Duration>,
}

impl Cost {
    /// The processor's time if known: it does not depend on what else the machine does.
    fn best(self) -> Duration {
        self.processor.unwrap_or(self.elapsed)
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.processor {
            Some(processor) => write!(f, "{processor:.1?} of processor time ({:.1?} elapsed)", self.elapsed),
            None => write!(f, "{:.1?} elapsed", self.elapsed),
        }
    }
}

/// Time this thread has run, in steps of a scheduler tick. It is the only one that works if the pool has one thread.
fn processor_time() -> Option<Duration> {
    if rayon::current_num_threads() > 1 {
        return None;
    }
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    statistics.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// The mean of ten runs after one for warming up.
fn cost<T>(mut work: impl FnMut() -> Result<T, Error>) -> Result<Cost, Error> {
    const RUNS: u32 = 10;
    black_box(work()?);
    let (processor, start) = (processor_time(), Instant::now());
    for _ in 0..RUNS {
        black_box(work()?);
    }
    let elapsed = start.elapsed() / RUNS;
    let processor = processor.zip(processor_time()).map(|(from, to)| (to - from) / RUNS);
    Ok(Cost { elapsed, processor })
}

/// 8 babies x 4 giants at 14 limbs, and the same with one rotation and one plaintext product per diagonal step.
fn double_hoisting(setting: &mut Setting) -> Result<(), Error> {
    let (babies, giants, level) = (8, 4, Level(13));
    let terms = |giant: u32| {
        (0..babies).map(move |baby| Term { input: 0, baby, diagonal: DiagonalId(giant * babies + baby) })
    };
    let turn = |steps: u32| Rotation::new(i64::from(steps), setting.slots);
    let giant = |g: u32| GiantStep { output: 0, rotation: turn(g * babies), terms: terms(g).collect() };
    let plan = LinearPlan {
        inputs: 1,
        outputs: 1,
        babies: vec![(0..babies).map(turn).collect()],
        stages: vec![Stage { giants: (0..giants).map(giant).collect(), ..Stage::default() }],
        ..LinearPlan::default()
    };
    let wanted: Vec<_> = plan.galois_elements(setting.ctx.n()).into_iter().map(|g| (g, level)).collect();
    let keys: EvalKeys = setting.generator.galois_set(&setting.secret, &wanted)?.into_iter().collect();
    let ct = setting.ciphertext(level)?;
    let evaluator = &setting.evaluator;
    let rotation = cost(|| evaluator.rotate(&ct, turn(1), &keys))?.best();
    for log_period in [setting.slots.log2(), setting.slots.log2() - 5] {
        let period = Slots::new(1 << log_period)?;
        let values = vec![0.5; period.get() as usize];
        let diagonal = Encoder::new(&setting.ctx).encode(&values, period, &Scale::pow2(22))?;
        let product = cost(|| evaluator.mul_plain(&ct, &diagonal))?.best();
        let source = OneDiagonal(Arc::new(diagonal));
        let transform = cost(|| apply(evaluator, &[&ct], &plan, &source, &keys))?;
        let counts = plan.counts();
        let single = rotation * counts.rotations() as u32 + product * counts.products as u32;
        println!(
            "linear transform, 14 limbs, {} rotations, {} diagonals of period 2^{log_period}: {transform}; as single \
             operations {single:.1?} (rotation {rotation:.1?}, product {product:.1?}), ratio {:.2}",
            counts.rotations(),
            counts.products,
            transform.best().as_secs_f64() / single.as_secs_f64(),
        );
    }
    Ok(())
}

fn rotation_target(setting: &Setting) -> Result<(), Error> {
    let ct = setting.ciphertext(setting.level)?;
    let one = Rotation::new(1, setting.slots);
    let time = cost(|| setting.evaluator.rotate(&ct, one, &setting.keys))?;
    let verdict = if time.best() <= ROTATION_TARGET { "fits" } else { "MISSES" };
    println!(
        "rotation at N=2^16, 24 limbs, 3 digits, {} thread(s), {}: {time}, {verdict} the <= {ROTATION_TARGET:?} \
         rotation target",
        rayon::current_num_threads(),
        setting.ctx.kernels().name(),
    );
    Ok(())
}

fn main() -> Result<(), Error> {
    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else {
        return run();
    };
    pool.install(run)
}

fn run() -> Result<(), Error> {
    let filtered = std::env::args().skip(1).any(|argument| !argument.starts_with('-'));
    for set in SETS {
        let mut setting = Setting::new(set)?;
        let mut criterion = Criterion::default().configure_from_args();
        primitives(&mut criterion, &setting)?;
        if set.0 == 16 && !filtered {
            rotation_target(&setting)?;
            double_hoisting(&mut setting)?;
        }
    }
    Ok(())
}
