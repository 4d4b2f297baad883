//! Measures this machine: the kernels as they run inside operations, and whole operations by level and digits.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::cost::{Ending, Machine, Measured, Shape, Work};
use crate::encoder::{Complex, Encoder};
use crate::encrypt::encrypt_secret;
use crate::error::Error;
use crate::evaluator::Evaluator;
use crate::evaluator::keyswitch::Hoisted;
use crate::evaluator::linear::{
    DiagonalId, DiagonalSource, GiantStep, LinearPlan, Stage, Term, apply_rescaled,
};
use crate::kernels::{KeyTerm, PlainTerm};
use crate::keys::{EvalKeys, KeyGenerator, SecretKey};
use crate::params::{ParamsLiteral, PrimeSpec};
use crate::plaintext::{Form, IntPlaintext};
use crate::ring::poly::{Ntt, RnsPoly};
use crate::units::{GaloisElement, Level, Rotation, Scale, Slots};

/// Rings that are measured: `log2 N`, primes of Q, special primes. Three digits at the top, two and one below.
const RINGS: [(u32, usize, usize); 2] = [(15, 12, 4), (16, 24, 8)];

/// Baby steps of the measured transforms, and giant steps.
const STEPS: u32 = 4;

/// Repetitions of a measurement, of which the median counts.
const RUNS: usize = 7;

/// Median seconds of `work`, after one run for warming up.
fn median(mut work: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    work()?;
    let mut seconds = [0.0; RUNS];
    for seconds in &mut seconds {
        let start = Instant::now();
        work()?;
        *seconds = start.elapsed().as_secs_f64();
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[RUNS / 2])
}

/// One ring with keys and a ciphertext at its top level.
struct Bench {
    ctx: Context,
    evaluator: Evaluator,
    secret: SecretKey,
    keys: EvalKeys,
    plan: LinearPlan,
    top: Level,
}

/// All diagonals are the same one; the transform does not know.
struct OneDiagonal(Arc<IntPlaintext>);

impl DiagonalSource for OneDiagonal {
    fn diagonal(&self, _: DiagonalId) -> Result<Arc<IntPlaintext>, Error> {
        Ok(Arc::clone(&self.0))
    }
}

impl Bench {
    fn new((log_n, q, p): (u32, usize, usize)) -> Result<Bench, Error> {
        let bits = |count| vec![PrimeSpec::Bits(if log_n == 16 { 50 } else { 49 }); count];
        let params = ParamsLiteral { log_n, q: bits(q), p: bits(p) }.check()?;
        let ctx = Context::new(&params)?;
        let generator = KeyGenerator::new(&ctx);
        let (secret, top) = (generator.secret(), params.max_level());
        let plan = transform(params.max_slots());
        let wanted: Vec<_> = plan.galois_elements(ctx.n()).into_iter().map(|g| (g, top)).collect();
        let mut keys: EvalKeys = generator.galois_set(&secret, &wanted)?.into_iter().collect();
        keys.insert(generator.relin(&secret, top)?);
        Ok(Bench { evaluator: Evaluator::new(&ctx), ctx, secret, keys, plan, top })
    }

    fn plaintext(&self, period: Slots) -> Result<IntPlaintext, Error> {
        let values: Vec<f64> = (0..period.get()).map(|i| f64::from(i % 97) / 97.0).collect();
        Encoder::new(&self.ctx).encode(&values, period, &Scale::pow2(22))
    }

    fn ciphertext(&self, level: Level) -> Result<Ciphertext, Error> {
        let plaintext = self.plaintext(self.ctx.params().max_slots())?;
        encrypt_secret(&self.ctx, &self.secret, &plaintext, level)?.expand(&self.ctx)
    }

    /// A transform of `STEPS^2` diagonals of a period, with its rescale.
    fn transform(&self, ct: &Ciphertext, source: &OneDiagonal) -> Result<(), Error> {
        apply_rescaled(&self.evaluator, &[ct], &self.plan, source, &self.keys).map(|cts| drop(black_box(cts)))
    }

    fn operations(&self, level: Level) -> Result<Vec<(&'static str, Work, f64)>, Error> {
        let (ev, keys, shape) = (&self.evaluator, &self.keys, Shape::new(self.ctx.params(), level));
        let max = self.ctx.params().max_slots();
        let (ct, one) = (self.ciphertext(level)?, Rotation::new(1, max));
        let element = GaloisElement::from_rotation(one, self.ctx.n());
        let key = keys.galois(element, level)?;
        let hoisted = Hoisted::new(&self.ctx, ct.c1());
        let full = OneDiagonal(Arc::new(self.plaintext(max)?));
        let small = OneDiagonal(Arc::new(self.plaintext(Slots::new(max.get() / 32)?)?));
        let linear =
            |period: Slots| shape.linear(&self.plan.work(|_| (period, Form::Real)), Ending::ModDownRescale);
        let expanded = shape.expansion(max.get()) + shape.passes(2.0);
        Ok(vec![
            (
                "rotation",
                shape.rotation(),
                median(|| ev.rotate(&ct, one, keys).map(|ct| drop(black_box(ct))))?,
            ),
            (
                "hoisted rotation",
                shape.hoisted_rotation(),
                median(|| hoisted.rotate(ct.c0(), element, key).map(|pair| drop(black_box(pair))))?,
            ),
            (
                "product, relinearised and rescaled",
                shape.multiplication(Ending::ModDownRescale),
                median(|| ev.mul_relin_rescale(&ct, &ct, keys).map(|ct| drop(black_box(ct))))?,
            ),
            ("rescale", shape.rescale(), median(|| ev.rescale(&ct).map(|ct| drop(black_box(ct))))?),
            (
                "plaintext product",
                expanded,
                median(|| ev.mul_plain(&ct, &full.0).map(|ct| drop(black_box(ct))))?,
            ),
            ("transform, full period", linear(full.0.period()), median(|| self.transform(&ct, &full))?),
            ("transform, period 1/32", linear(small.0.period()), median(|| self.transform(&ct, &small))?),
        ])
    }
}

/// `STEPS` baby steps and `STEPS` giant steps.
fn transform(max: Slots) -> LinearPlan {
    let turn = |steps: u32| Rotation::new(i64::from(steps), max);
    let terms =
        |g: u32| (0..STEPS).map(move |baby| Term { input: 0, baby, diagonal: DiagonalId(g * STEPS + baby) });
    let giant = |g: u32| GiantStep { output: 0, rotation: turn(g * STEPS), terms: terms(g).collect() };
    LinearPlan {
        inputs: 1,
        outputs: 1,
        babies: vec![(0..STEPS).map(turn).collect()],
        stages: vec![Stage { giants: (0..STEPS).map(giant).collect(), ..Stage::default() }],
        ..LinearPlan::default()
    }
}

/// Seconds per unit of each kernel.
struct Kernels {
    butterfly: f64,
    conversion: f64,
    key_word: f64,
    plain_product: f64,
    word: f64,
    encoding: f64,
}

impl Kernels {
    fn write_to(&self, machine: &mut Machine) {
        let Kernels { butterfly, conversion, key_word, plain_product, word, encoding } = *self;
        (machine.butterfly, machine.conversion, machine.key_word) = (butterfly, conversion, key_word);
        (machine.plain_product, machine.word, machine.encoding) = (plain_product, word, encoding);
    }
}

/// The limbs of a ciphertext to measure kernels on, so that tables, keys and limbs come from where they come from in operations.
struct Limbs<'a> {
    bench: &'a Bench,
    ctx: &'a Context,
    thread: usize,
    parts: [RnsPoly<Ntt>; 3],
    out: [Vec<u64>; 2],
}

impl Kernels {
    /// On all threads at once, as they run in operations: memory and the last cache are shared.
    fn measure(bench: &Bench) -> Result<Kernels, Error> {
        let all = rayon::broadcast(|thread| Kernels::on_one_thread(bench, thread.index()));
        let all = all.into_iter().collect::<Result<Vec<Kernels>, Error>>()?;
        let mean = |rate: fn(&Kernels) -> f64| all.iter().map(rate).sum::<f64>() / all.len() as f64;
        Ok(Kernels {
            butterfly: mean(|k| k.butterfly),
            conversion: mean(|k| k.conversion),
            key_word: mean(|k| k.key_word),
            plain_product: mean(|k| k.plain_product),
            word: mean(|k| k.word),
            encoding: mean(|k| k.encoding),
        })
    }

    fn on_one_thread(bench: &Bench, thread: usize) -> Result<Kernels, Error> {
        let (ctx, ct) = (&bench.ctx, bench.ciphertext(bench.top)?);
        let parts = [ct.c0().clone(), ct.c1().clone(), ct.c0().clone()];
        let mut limbs = Limbs { bench, ctx, thread, parts, out: [vec![0; ctx.n()], vec![0; ctx.n()]] };
        Ok(Kernels {
            butterfly: limbs.butterfly()?,
            conversion: limbs.conversion()?,
            key_word: limbs.key_word()?,
            plain_product: limbs.plain_product()?,
            word: limbs.word()?,
            encoding: encoding(ctx)?,
        })
    }
}

impl Limbs<'_> {
    fn words(&self) -> f64 {
        (self.ctx.n() * self.ctx.q_moduli().len()) as f64
    }

    /// As in key switches: most transforms come in threes, every fourth is an inverse.
    fn butterfly(&mut self) -> Result<f64, Error> {
        let [x, y, z] = &mut self.parts;
        let seconds = median(|| {
            for (i, table) in self.ctx.q_tables().iter().enumerate() {
                table.forward_all(&mut [x.limb_mut(i), y.limb_mut(i), z.limb_mut(i)]);
                table.inverse(x.limb_mut(i));
            }
            Ok(())
        })?;
        let transforms = 4.0 * self.ctx.q_moduli().len() as f64;
        Ok(seconds / Work::transforms(self.ctx.n(), transforms).butterflies)
    }

    /// From the first digit to all other primes, a few targets at a time.
    fn conversion(&mut self) -> Result<f64, Error> {
        let (limbs, alpha) = (self.ctx.q_moduli().len(), self.ctx.p_moduli().len());
        let converter = self.ctx.converters().digit(&(0..alpha));
        let [x, y, _] = &mut self.parts;
        let seconds = median(|| {
            let inputs: Vec<&[u64]> = (0..=alpha).map(|i| x.limb(i)).collect();
            let mut outputs: Vec<(usize, &mut [u64])> = (alpha..limbs).zip(y.limbs_mut()).collect();
            for group in outputs.chunks_mut(4) {
                let targets = group.iter_mut().map(|(target, out)| (*target, &mut **out));
                converter.convert(self.ctx.kernels(), &inputs, targets);
            }
            Ok(())
        })?;
        Ok(seconds / Work::conversion(self.ctx.n(), alpha, limbs - alpha).conversions)
    }

    /// With keys that are larger than the caches, another one on each thread.
    fn key_word(&mut self) -> Result<f64, Error> {
        let (ctx, [x, ..]) = (self.ctx, &self.parts);
        let turn = Rotation::new(1 + self.thread as i64 % (i64::from(STEPS) - 1), ctx.params().max_slots());
        let element = GaloisElement::from_rotation(turn, ctx.n());
        let permutation = ctx.automorphism(element)?;
        let key = self.bench.keys.galois(element, self.bench.top)?;
        let [b, a] = &mut self.out;
        let seconds = median(|| {
            for (i, q) in ctx.q_moduli().iter().enumerate() {
                let digits = key.digits().iter();
                let terms: Vec<KeyTerm<'_>> = digits
                    .map(|part| KeyTerm { digit: x.limb(i), b: part.b().limb(i), a: part.a().limb(i) })
                    .collect();
                ctx.kernels().key_dot(q, [b, a], &terms, &permutation);
            }
            Ok(())
        })?;
        Ok(seconds / (2.0 * key.digits().len() as f64 * self.words()))
    }

    /// With operands and weights that come from outside the second-level cache.
    fn plain_product(&mut self) -> Result<f64, Error> {
        let (ctx, [x, y, z]) = (self.ctx, &self.parts);
        let limbs = ctx.q_moduli().len();
        let [b, a] = &mut self.out;
        let seconds = median(|| {
            for (i, q) in ctx.q_moduli().iter().enumerate() {
                let at = |k: usize| (i + k) % limbs;
                let term =
                    |k: usize| PlainTerm { x0: x.limb(at(k)), x1: y.limb(at(k)), weights: z.limb(at(k)) };
                let terms: Vec<PlainTerm<'_>> = (0..STEPS as usize).map(term).collect();
                ctx.kernels().plain_dot_add(q, [b, a], &terms);
            }
            Ok(())
        })?;
        Ok(seconds / (2.0 * f64::from(STEPS) * self.words()))
    }

    fn word(&mut self) -> Result<f64, Error> {
        let inverses = self.ctx.converters().inverse_p();
        let [x, y, _] = &mut self.parts;
        let seconds = median(|| {
            for ((i, q), &inverse) in self.ctx.q_moduli().iter().enumerate().zip(inverses) {
                self.ctx.kernels().sub_mul_scalar_assign(q, y.limb_mut(i), x.limb(i), inverse);
            }
            Ok(())
        })?;
        Ok(seconds / self.words())
    }
}

/// Placing the weights of a diagonal takes about as long as this share of encoding it.
const PLACING: f64 = 0.4;

/// Of vectors as long as the ring allows.
fn encoding(ctx: &Context) -> Result<f64, Error> {
    let (encoder, slots) = (Encoder::new(ctx), ctx.params().max_slots());
    let pair = |i: u32| Complex { re: f64::from(i % 89) / 89.0, im: f64::from(i % 97) / 97.0 };
    let values: Vec<Complex> = (0..slots.get()).map(pair).collect();
    let encode =
        || encoder.encode_complex(&values, slots, &Scale::pow2(22)).map(|made| drop(black_box(made)));
    Ok((1.0 + PLACING) * median(encode)? / Work::encoding(slots.get()).encoded)
}

/// The processor's name, where the system tells.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Geometric mean.
fn mean(ratios: impl Iterator<Item = f64>) -> f64 {
    let logs: Vec<f64> = ratios.map(f64::ln).collect();
    (logs.iter().sum::<f64>() / logs.len() as f64).exp()
}

/// Measures kernels and whole operations on all threads of the current pool. `tell` hears what is being measured. Takes
/// about a minute and 2 GiB of memory; anything else that runs meanwhile falsifies the figures.
///
/// # Errors
/// None is expected: the rings that are measured are valid.
pub fn calibrate(tell: &(dyn Fn(&str) + Sync)) -> Result<Machine, Error> {
    let threads = rayon::current_num_threads();
    let mut machine = Machine { name: processor(), threads, parallel: threads as f64, ..Machine::default() };
    let mut measured: Vec<(Measured, Work)> = Vec::new();
    for (log_n, q, special) in RINGS {
        tell(&format!("keys of N = 2^{log_n}"));
        let bench = Bench::new((log_n, q, special))?;
        for limbs in [q, 2 * q / 3, q / 3] {
            tell(&format!("N = 2^{log_n}, {limbs} limbs"));
            let operations = bench.operations(Level(limbs as u32 - 1))?;
            measured.extend(operations.into_iter().map(|(operation, work, seconds)| {
                let operation = operation.to_owned();
                (Measured { operation, log_n, limbs, special, seconds, predicted: 0.0 }, work)
            }));
        }
        // The figures of the last, largest ring stay.
        tell("kernels");
        Kernels::measure(&bench)?.write_to(&mut machine);
        machine.kernels = bench.ctx.kernels().name().to_owned();
    }
    let share = |(m, work): &(Measured, Work)| machine.kernel_seconds(work) / (m.seconds * threads as f64);
    machine.efficiency = mean(measured.iter().map(share));
    let predicted = |work: &Work| machine.seconds(work) / machine.parallel;
    let operations = measured.iter().map(|(m, work)| Measured { predicted: predicted(work), ..m.clone() });
    machine.operations = operations.collect();
    Ok(machine)
}
