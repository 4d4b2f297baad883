//! What operations cost: counted work, and the speeds of a machine.
//!
//! [`Work`] counts what the kernels do. The [`Context`](crate::context::Context) adds up the work of every operation on
//! ciphertexts as it is done; [`Shape`] says beforehand what an operation will do, with the same formulas. A [`Machine`]
//! turns work into seconds: the time of the kernels alone, and the time that whole operations take.

use std::ops::{Add, AddAssign, Mul, Sub};

use serde::{Deserialize, Serialize};

use crate::params::Params;
use crate::plaintext::Form;
use crate::units::Level;

/// Counted work. Numbers are whole; `f64` holds them exactly and mixes with seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Work {
    /// Butterflies of transforms, `n/2 * log2 n` each.
    pub butterflies: f64,
    /// Products of base conversions: words times inputs times targets.
    pub conversions: f64,
    /// Products with words of switching keys, as many as words of keys are read.
    pub key_words: f64,
    /// Products with plaintext weights.
    pub plain_products: f64,
    /// Words written by all other passes over polynomials.
    pub words: f64,
    /// Bytes of compact plaintexts read.
    pub plain_bytes: f64,
    /// Butterflies of plaintexts that are encoded, `p/2 * log2 p` for `p` slots.
    #[serde(default)]
    pub encoded: f64,
}

impl Work {
    /// Transforms of size `n`.
    pub fn transforms(n: usize, count: f64) -> Work {
        Work { butterflies: count * (n / 2) as f64 * f64::from(n.max(1).ilog2()), ..Work::default() }
    }

    /// Passes over limbs of `n` words.
    pub fn passes(n: usize, limbs: f64) -> Work {
        Work { words: limbs * n as f64, ..Work::default() }
    }

    /// A base conversion of limbs of `n` words; the quotients are one more input.
    pub fn conversion(n: usize, inputs: usize, targets: usize) -> Work {
        Work { conversions: (n * (inputs + 1) * targets) as f64, ..Work::passes(n, 1.0) }
    }

    /// Encoding a vector of so many slots.
    pub fn encoding(slots: u32) -> Work {
        let (slots, log) = (f64::from(slots), f64::from(slots.max(2).ilog2()));
        Work { encoded: slots / 2.0 * log, ..Work::default() }
    }

    /// Bytes of switching keys read.
    pub fn key_bytes(&self) -> f64 {
        self.key_words * size_of::<u64>() as f64
    }

    /// Transforms of size `n` with as many butterflies.
    pub fn transforms_of(&self, n: usize) -> f64 {
        self.butterflies / Work::transforms(n, 1.0).butterflies
    }
}

impl Add for Work {
    type Output = Work;
    fn add(self, other: Work) -> Work {
        self.zip(other, |a, b| a + b)
    }
}

impl Sub for Work {
    type Output = Work;
    fn sub(self, other: Work) -> Work {
        self.zip(other, |a, b| a - b)
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        *self = *self + other;
    }
}

impl Mul<f64> for Work {
    type Output = Work;
    fn mul(self, factor: f64) -> Work {
        self.zip(self, |a, _| factor * a)
    }
}

impl Work {
    fn zip(self, other: Work, op: impl Fn(f64, f64) -> f64) -> Work {
        Work {
            butterflies: op(self.butterflies, other.butterflies),
            conversions: op(self.conversions, other.conversions),
            key_words: op(self.key_words, other.key_words),
            plain_products: op(self.plain_products, other.plain_products),
            words: op(self.words, other.words),
            plain_bytes: op(self.plain_bytes, other.plain_bytes),
            encoded: op(self.encoded, other.encoded),
        }
    }
}

/// Which division ends an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By the special primes.
    ModDown,
    /// By the special primes and the top prime at once.
    ModDownRescale,
}

/// Sizes of an operation: the ring, the limbs of its operands, the special primes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    n: usize,
    q: usize,
    alpha: usize,
}

/// What a linear transform does, counted in its own units.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinearWork {
    /// Input ciphertexts.
    pub inputs: f64,
    /// Inputs that are rotated as a whole first.
    pub turns: f64,
    /// Inputs that are decomposed because they are rotated.
    pub decompositions: f64,
    /// Rotated inputs: one key product each.
    pub babies: f64,
    /// Rotations of sums, folds included.
    pub giants: f64,
    /// Output ciphertexts.
    pub outputs: f64,
    /// Products with diagonals of rotated inputs, modulo `QP`.
    pub products: f64,
    /// Products with diagonals of inputs that are not rotated, modulo `Q`.
    pub plain_products: f64,
    /// Transforms of diagonals: the sum over the products' diagonals of `m/2 * log2 m` for `m` stored coefficients.
    pub diagonal_butterflies: f64,
    /// Stored coefficients of the products' diagonals: one for each slot of the period of a real one, else two.
    pub diagonal_words: f64,
}

impl LinearWork {
    /// Adds the transforms of `count` diagonals: those of real slots take half a transform.
    pub fn add_diagonals(&mut self, (period, form): (u32, Form), count: f64) {
        let size = match form {
            Form::Real => period as usize,
            Form::Complex => 2 * period as usize,
        };
        self.diagonal_butterflies += Work::transforms(size, count).butterflies;
        self.diagonal_words += count * size as f64;
    }
}

impl Shape {
    /// Of an operation at a level.
    pub fn new(params: &Params, level: Level) -> Shape {
        Shape { n: params.n(), q: level.limbs(), alpha: params.alpha() }
    }

    pub(crate) fn of_limbs(params: &Params, q: usize) -> Shape {
        Shape { n: params.n(), q, alpha: params.alpha() }
    }

    /// Limbs modulo `QP`.
    fn limbs(self) -> f64 {
        (self.q + self.alpha) as f64
    }

    fn digits(self) -> impl Iterator<Item = usize> {
        let alpha = self.alpha.max(1);
        (0..self.q.div_ceil(alpha)).map(move |j| alpha.min(self.q - j * alpha))
    }

    /// Cutting a polynomial in digits and raising each to `QP`.
    pub fn raise(self) -> Work {
        let digit = |size: usize| Work::conversion(self.n, size, self.q + self.alpha - size);
        let conversions = self.digits().map(digit).fold(Work::default(), Add::add);
        conversions + Work::transforms(self.n, self.digits().count() as f64 * self.limbs()) + self.passes(1.0)
    }

    /// The inner product with a key.
    pub fn key_product(self) -> Work {
        Work {
            key_words: 2.0 * self.digits().count() as f64 * self.limbs() * self.n as f64,
            ..Work::default()
        }
    }

    /// Divisions of polynomials modulo `QP`.
    pub fn lower(self, ending: Ending, parts: f64) -> Work {
        let (kept, removed) = match ending {
            Ending::ModDown => (self.q, self.alpha),
            Ending::ModDownRescale => (self.q - 1, self.alpha + 1),
        };
        let conversion = Work::conversion(self.n, removed, kept);
        (conversion + Work::transforms(self.n, self.limbs()) + Work::passes(self.n, kept as f64)) * parts
    }

    /// Passes over `Q` limbs.
    pub fn passes(self, parts: f64) -> Work {
        Work::passes(self.n, parts * self.q as f64)
    }

    /// A rotation.
    pub fn rotation(self) -> Work {
        self.raise() + self.hoisted_rotation()
    }

    /// A further rotation of a decomposed ciphertext.
    pub fn hoisted_rotation(self) -> Work {
        self.key_product() + self.lower(Ending::ModDown, 2.0) + self.passes(1.0)
    }

    /// A product of two ciphertexts (or a square: one pass less is not told apart) and its relinearisation.
    pub fn multiplication(self, ending: Ending) -> Work {
        self.passes(3.0) + self.relinearisation(ending)
    }

    /// A relinearisation.
    pub fn relinearisation(self, ending: Ending) -> Work {
        self.raise() + self.key_product() + self.lower(ending, 2.0) + self.passes(2.0)
    }

    /// A rescale by itself.
    pub fn rescale(self) -> Work {
        let kept = (self.q - 1) as f64;
        (Work::transforms(self.n, self.q as f64) + Work::passes(self.n, 1.0 + 3.0 * kept)) * 2.0
    }

    /// A plaintext of `2 * period` coefficients, expanded to `Q` limbs.
    pub fn expansion(self, period: u32) -> Work {
        let size = 2 * period as usize;
        let coefficients = (size * self.q) as f64;
        let bytes = coefficients * size_of::<i64>() as f64;
        Work { words: coefficients, plain_bytes: bytes, ..Work::transforms(size, self.q as f64) }
    }

    /// A linear transform.
    pub fn linear(self, work: &LinearWork, ending: Ending) -> Work {
        let (n, limbs) = (self.n as f64, self.limbs());
        let diagonals = Work {
            butterflies: work.diagonal_butterflies * limbs,
            words: work.diagonal_words * limbs,
            plain_bytes: work.diagonal_words * limbs * size_of::<i32>() as f64,
            plain_products: 2.0 * n * (work.products * limbs + work.plain_products * self.q as f64),
            ..Work::default()
        };
        let giant = self.lower(Ending::ModDown, 1.0)
            + self.raise()
            + self.key_product()
            + Work::passes(self.n, 3.0 * limbs);
        diagonals
            + self.passes(2.0) * work.inputs
            + self.rotation() * work.turns
            + self.raise() * work.decompositions
            + (self.key_product() + self.passes(1.0)) * work.babies
            + giant * work.giants
            + self.lower(ending, 2.0) * work.outputs
    }
}

/// Speeds of the kernels on one core, in seconds, as they are inside operations while all cores are at work: operands come from
/// the caches or from memory as they do there, and both are shared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The processor, for people.
    pub name: String,
    /// The instruction set.
    pub kernels: String,
    /// Threads that were measured with.
    pub threads: usize,
    /// One butterfly.
    pub butterfly: f64,
    /// One product of a base conversion.
    pub conversion: f64,
    /// One product with a word of a switching key that comes from memory.
    pub key_word: f64,
    /// One product with a plaintext weight.
    pub plain_product: f64,
    /// One word of any other pass.
    pub word: f64,
    /// One butterfly of a plaintext that is encoded, with all that encoding takes besides.
    #[serde(default = "default_encoding")]
    pub encoding: f64,
    /// Share of the kernels' speed that whole operations reach: the rest goes to what is not counted, and to threads that wait
    /// for others.
    pub efficiency: f64,
    /// Threads that operations are spread over.
    pub parallel: f64,
    /// Whole operations, for people: what was measured and what the model says.
    #[serde(default)]
    pub operations: Vec<Measured>,
}

/// One operation as it was measured on all threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// What was measured.
    pub operation: String,
    /// `log2` of the ring degree.
    pub log_n: u32,
    /// Limbs of the operands.
    pub limbs: usize,
    /// Special primes.
    pub special: usize,
    /// Median time.
    pub seconds: f64,
    /// What the model predicts.
    pub predicted: f64,
}

/// Processor seconds over counted butterflies while all diagonals of a tuned ResNet-8 and a ResNet-20 were encoded, in memory
/// that had been used before: 2.5 to 2.9 ns with one thread and with two, placing the weights included.
fn default_encoding() -> f64 {
    2.8e-9
}

impl Default for Machine {
    /// Two cores with AVX-512 IFMA: time of each kernel over its counted work, by sampling whole runs (BENCHMARKS.md).
    fn default() -> Machine {
        Machine {
            name: "2-core AVX-512 IFMA machine".to_owned(),
            kernels: "avx512ifma".to_owned(),
            threads: 2,
            butterfly: 0.31e-9,
            conversion: 0.15e-9,
            key_word: 0.60e-9,
            plain_product: 0.65e-9,
            word: 0.65e-9,
            encoding: default_encoding(),
            efficiency: 0.87,
            parallel: 2.0,
            operations: Vec::new(),
        }
    }
}

impl Machine {
    /// Seconds of the kernels alone, on one core.
    pub fn kernel_seconds(&self, work: &Work) -> f64 {
        self.butterfly * work.butterflies
            + self.conversion * work.conversions
            + self.key_word * work.key_words
            + self.plain_product * work.plain_products
            + self.word * work.words
            + self.encoding * work.encoded
    }

    /// Seconds that operations take on one core.
    pub fn seconds(&self, work: &Work) -> f64 {
        self.kernel_seconds(work) / self.efficiency
    }

    /// What is wrong with the figures, if something is.
    pub fn check(&self) -> Result<(), String> {
        let figures = [
            ("butterfly", self.butterfly),
            ("conversion", self.conversion),
            ("key_word", self.key_word),
            ("plain_product", self.plain_product),
            ("word", self.word),
            ("encoding", self.encoding),
            ("efficiency", self.efficiency),
            ("parallel", self.parallel),
        ];
        match figures.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            Some((name, value)) => Err(format!("{name} is {value}, not a positive number")),
            None => Ok(()),
        }
    }

    /// Work and time of a run beside each other, in one line for people.
    pub fn efficiency_line(&self, work: &Work, n: usize, seconds: f64, threads: usize) -> String {
        let kernels = self.kernel_seconds(work);
        let share = 100.0 * kernels / (seconds * threads as f64);
        let gib = f64::from(1 << 30);
        format!(
            "{:.0} transforms of 2^{}, {:.2e} conversion products, {:.2} GiB of keys and {:.2} GiB of plaintexts read: \
             kernels {kernels:.3} s of {:.3} core seconds, {share:.0} %",
            work.transforms_of(n),
            n.ilog2(),
            work.conversions,
            work.key_bytes() / gib,
            work.plain_bytes / gib,
            seconds * threads as f64,
        )
    }
}
