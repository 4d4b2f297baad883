//! Parameters of bootstrapping: the order of the primes, the presets, the checks.

use std::collections::BTreeMap;

use super::dft;
use super::failure::failure_log2;
use crate::error::Error;
use crate::evaluator::linear::LinearPlan;
use crate::evaluator::polynomial::Ladder;
use crate::params::{MAX_LOG_N, MAX_PRIMES, MIN_INSECURE_LOG_N, Params, ParamsLiteral, PrimeSpec, security};
use crate::units::{GaloisElement, Level, Rotation, Scale, Slots};

/// Bound of `|x/q_0|` for which EvalMod is right, for an ephemeral secret of weight 32 (Bossuat et al., eprint 2022/024).
pub const RANGE: u32 = 16;

/// A run of neighbouring primes of about the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrimeRun {
    /// How many.
    pub count: usize,
    /// Size of each in bits, at most 50.
    pub bits: u32,
}

impl PrimeRun {
    /// `count` primes of `bits` bits.
    pub const fn new(count: usize, bits: u32) -> PrimeRun {
        PrimeRun { count, bits }
    }

    fn specs(self) -> impl Iterator<Item = PrimeSpec> {
        std::iter::repeat_n(PrimeSpec::Bits(self.bits), self.count)
    }
}

/// Terms of the arcsine series that EvalMod applies to the sine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Arcsine {
    /// None: the message is the sine. For message ratios of 2^10 and more.
    #[default]
    None,
    /// `s + s^3/6`, two levels.
    Degree3,
    /// Degree 5, three levels.
    Degree5,
    /// Degree 7, three levels.
    Degree7,
}

impl Arcsine {
    /// The degree of the polynomial; 1 without one.
    pub const fn degree(self) -> u32 {
        match self {
            Arcsine::None => 1,
            Arcsine::Degree3 => 3,
            Arcsine::Degree5 => 5,
            Arcsine::Degree7 => 7,
        }
    }

    /// The refinement of a degree.
    pub const fn of_degree(degree: u32) -> Option<Arcsine> {
        match degree {
            1 => Some(Arcsine::None),
            3 => Some(Arcsine::Degree3),
            5 => Some(Arcsine::Degree5),
            7 => Some(Arcsine::Degree7),
            _ => None,
        }
    }

    /// Levels it takes.
    pub const fn depth(self) -> u32 {
        match self {
            Arcsine::None => 0,
            Arcsine::Degree3 => 2,
            Arcsine::Degree5 | Arcsine::Degree7 => 3,
        }
    }
}

/// How the modular reduction is approximated: a Chebyshev polynomial of a cosine of a fraction of the angle, then double
/// angles, then perhaps an arcsine (Han and Ki, eprint 2019/688; Bossuat et al., eprint 2020/1203 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EvalModSpec {
    /// Size of its primes, at most 50 bits: one a level, except as `boost_bits` says.
    pub prime_bits: u32,
    /// Extra bits of scale for the square of the angle, even, whose rescale's error the steps after it amplify most. Its depth
    /// then takes two primes of `prime_bits/2 + boost_bits` bits.
    pub boost_bits: u32,
    /// Degree of the cosine's Chebyshev polynomial.
    pub degree: u32,
    /// Number of double angles.
    pub double_angles: u32,
    /// Refinement of the sine.
    pub arcsine: Arcsine,
}

impl EvalModSpec {
    /// Levels of the Chebyshev polynomial: `ceil(log2(degree + 1))`.
    pub const fn cosine_depth(&self) -> u32 {
        u32::BITS - self.degree.leading_zeros()
    }

    /// Multiplicative depth in all.
    pub const fn depth(&self) -> u32 {
        self.cosine_depth() + self.double_angles + self.arcsine.depth()
    }

    /// Levels in all: one each depth, and one more with a boost.
    pub const fn levels(&self) -> u32 {
        self.depth() + (self.boost_bits > 0) as u32
    }

    /// Its primes, the lowest first.
    fn runs(&self) -> [PrimeRun; 3] {
        let plain = PrimeRun::new(self.depth() as usize - 2, self.prime_bits);
        let second = match self.boost_bits {
            0 => PrimeRun::new(1, self.prime_bits),
            boost => PrimeRun::new(2, self.prime_bits / 2 + boost),
        };
        [plain, second, PrimeRun::new(1, self.prime_bits)]
    }

    /// The scale of the angle at the start.
    pub(super) fn input_scale(&self) -> Scale {
        Scale::pow2((self.prime_bits + self.boost_bits / 2) as i32)
    }

    /// The scale after EvalMod that starts at the level `start`.
    fn output_scale(&self, start: Level) -> Scale {
        let working = Scale::pow2(self.prime_bits as i32);
        if self.arcsine != Arcsine::None {
            return working;
        }
        let first = self.ladder(start).level(self.cosine_depth());
        let doubled = |scale: Scale, angle: u32| scale.square().div(&Scale::prime(first.0 - angle));
        (0..self.double_angles).fold(working, doubled)
    }

    /// The levels of the cosine's depths.
    pub(super) fn ladder(&self, start: Level) -> Ladder {
        let boosted = |depth: u32| u32::from(depth >= 2 && self.boost_bits > 0);
        Ladder::new((0..=self.cosine_depth()).map(|depth| Level(start.0 - depth - boosted(depth))).collect())
    }
}

/// Unchecked parameters of a ring with bootstrapping. The chain is, from the lowest prime:
/// base, SlotsToCoeffs, usable levels, EvalMod, CoeffsToSlots.
///
/// ```
/// use peregrine_ckks::bootstrap::BootstrapSpec;
/// let params = BootstrapSpec::n16().check()?;
/// assert!(params.usable_bits() >= 499.9 && params.main().log_qp() <= 1700.0);
/// assert!(params.failure_log2(params.main().max_slots()) < -100.0);
/// # Ok::<(), peregrine_ckks::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BootstrapSpec {
    /// `log2(N)`.
    pub log_n: u32,
    /// Size of `q_0`, the modulus that is raised.
    pub base_bits: u32,
    /// One prime for each factor of SlotsToCoeffs.
    pub slots_to_coeffs: PrimeRun,
    /// Sizes in bits, the lowest first, of the primes left for computation between two bootstraps.
    pub usable: Vec<u32>,
    /// The modular reduction.
    pub eval_mod: EvalModSpec,
    /// One prime for each factor of CoeffsToSlots.
    pub coeffs_to_slots: PrimeRun,
    /// The special primes of key switching.
    pub special: PrimeRun,
    /// How many of the special primes serve the switch to the ephemeral secret.
    pub ephemeral_special: usize,
    /// `log2` of the message ratio `q_0/scale` at level 0: slots of magnitude 1 leave this many bits to the modulus. The sine
    /// without arcsine errs by `(2*pi/2^ratio_bits)^2/6`, noise grows with the ratio.
    pub ratio_bits: u32,
}

impl BootstrapSpec {
    /// N = 2^16: ten levels of 50 bits after bootstrapping.
    pub fn n16() -> BootstrapSpec {
        BootstrapSpec {
            log_n: 16,
            base_bits: 50,
            slots_to_coeffs: PrimeRun::new(3, 30),
            usable: vec![50; 10],
            eval_mod: EvalModSpec {
                prime_bits: 50,
                boost_bits: 4,
                degree: 31,
                double_angles: 3,
                arcsine: Arcsine::None,
            },
            coeffs_to_slots: PrimeRun::new(4, 48),
            special: PrimeRun::new(9, 50),
            ephemeral_special: 2,
            ratio_bits: 11,
        }
    }

    /// N = 2^15: two levels after bootstrapping.
    pub fn n15() -> BootstrapSpec {
        BootstrapSpec {
            log_n: 15,
            base_bits: 50,
            slots_to_coeffs: PrimeRun::new(2, 30),
            usable: vec![46; 2],
            eval_mod: EvalModSpec {
                prime_bits: 50,
                boost_bits: 0,
                degree: 31,
                double_angles: 3,
                arcsine: Arcsine::None,
            },
            coeffs_to_slots: PrimeRun::new(3, 44),
            special: PrimeRun::new(1, 50),
            ephemeral_special: 1,
            ratio_bits: 11,
        }
    }

    /// Checks the parameters, 128-bit security of both secrets included.
    ///
    /// # Errors
    /// [`Error::Params`] and [`Error::Bootstrap`] name what is wrong.
    pub fn check(self) -> Result<BootstrapParams, Error> {
        self.validate()?;
        let main = self.literal().check()?;
        let ephemeral = self.ephemeral_literal(&main).check_ephemeral()?;
        Ok(BootstrapParams { spec: self, main, ephemeral })
    }

    /// Checks that `main`, which a file states prime by prime, is the ring of this specification. The ephemeral secret has to be
    /// as secure as `main` is.
    ///
    /// # Errors
    /// [`Error::ForeignParameters`] for other primes, and as [`check`](Self::check).
    pub fn check_for(self, main: &Params) -> Result<BootstrapParams, Error> {
        self.validate()?;
        if self.usable.len() > MAX_PRIMES || self.literal().resolved_primes()? != main.to_literal() {
            return Err(Error::ForeignParameters { op: "bootstrapping", what: "the chain of primes" });
        }
        let literal = self.ephemeral_literal(main);
        let ephemeral =
            if main.is_secure() { literal.check_ephemeral()? } else { literal.check_insecure_for_tests()? };
        Ok(BootstrapParams { spec: self, main: main.clone(), ephemeral })
    }

    /// Like [`check`](Self::check), but without any security. For tests.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_insecure_for_tests(self) -> Result<BootstrapParams, Error> {
        self.validate()?;
        let main = self.literal().check_insecure_for_tests()?;
        let ephemeral = self.ephemeral_literal(&main).check_insecure_for_tests()?;
        Ok(BootstrapParams { spec: self, main, ephemeral })
    }

    fn validate(&self) -> Result<(), Error> {
        let (s2c, c2s) = (self.slots_to_coeffs.count, self.coeffs_to_slots.count);
        if !(MIN_INSECURE_LOG_N..=MAX_LOG_N).contains(&self.log_n) || self.special.count > MAX_PRIMES {
            return Err(Error::Bootstrap {
                expected: "a ring degree and a number of special primes in range",
            });
        }
        let stages = self.log_n as usize - 1;
        let facts = [
            (s2c >= 1 && c2s >= 1, "each DFT needs at least one factor"),
            (s2c <= stages && c2s <= stages, "a DFT has at most log2(N/2) factors"),
            (!self.usable.is_empty(), "there must be a usable level"),
            ((3..=255).contains(&self.eval_mod.degree), "the degree of the cosine is 3 to 255"),
            (self.eval_mod.double_angles <= 6, "there are at most 6 double angles"),
            (self.eval_mod.prime_bits <= 50, "the primes of EvalMod have at most 50 bits"),
            (
                self.eval_mod.boost_bits.is_multiple_of(2) && self.eval_mod.boost_bits <= 24,
                "the boost is even and at most 24 bits",
            ),
            (
                (1..=self.special.count).contains(&self.ephemeral_special),
                "the ephemeral secret needs one special prime or more, all of them at most",
            ),
            (
                (2..self.base_bits).contains(&self.ratio_bits),
                "the message ratio is between 4 and the base prime",
            ),
            (
                1 << self.log_n > security::EPHEMERAL_WEIGHT,
                "the ring is larger than the weight of the secret",
            ),
        ];
        match facts.into_iter().find(|(holds, _)| !holds) {
            Some((_, expected)) => Err(Error::Bootstrap { expected }),
            None => Ok(()),
        }
    }

    /// Sizes of the groups of butterfly stages of SlotsToCoeffs.
    pub(super) fn down_groups(&self, slots: Slots) -> Vec<u32> {
        stage_groups(slots.log2(), self.slots_to_coeffs.count)
    }

    /// The same for CoeffsToSlots.
    pub(super) fn up_groups(&self, slots: Slots) -> Vec<u32> {
        stage_groups(slots.log2(), self.coeffs_to_slots.count).into_iter().rev().collect()
    }

    /// The main ring: primes by their sizes.
    pub fn literal(&self) -> ParamsLiteral {
        let low = [PrimeRun::new(1, self.base_bits), self.slots_to_coeffs];
        let usable = self.usable.iter().map(|&bits| PrimeSpec::Bits(bits));
        let high = self.eval_mod.runs().into_iter().chain([self.coeffs_to_slots]);
        let q = low.into_iter().flat_map(PrimeRun::specs).chain(usable).chain(high.flat_map(PrimeRun::specs));
        ParamsLiteral { log_n: self.log_n, q: q.collect(), p: self.special.specs().collect() }
    }

    /// The level at which bootstrapping starts; higher ciphertexts are dropped to it.
    pub fn input_level(&self) -> Level {
        Level(self.slots_to_coeffs.count as u32)
    }

    /// The level of the result.
    pub fn output_level(&self) -> Level {
        Level(self.input_level().0 + self.usable.len() as u32)
    }

    /// The level at which EvalMod starts.
    pub fn eval_mod_level(&self) -> Level {
        Level(self.output_level().0 + self.eval_mod.levels())
    }

    /// The scale of messages of magnitude 1 at level 0, `q_0/2^ratio_bits`.
    pub fn base_scale(&self) -> Scale {
        Scale::prime(0).mul(&Scale::pow2(-(self.ratio_bits as i32)))
    }

    /// The exact scale of the result: that of EvalMod's result over the message ratio.
    pub fn output_scale(&self) -> Scale {
        let mod_scale = self.eval_mod.output_scale(self.eval_mod_level());
        mod_scale.mul(&Scale::pow2(-(self.ratio_bits as i32)))
    }

    fn ephemeral_literal(&self, main: &Params) -> ParamsLiteral {
        let p = main.p().iter().take(self.ephemeral_special).map(|&prime| PrimeSpec::Exact(prime)).collect();
        ParamsLiteral { log_n: self.log_n, q: vec![PrimeSpec::Exact(main.q()[0])], p }
    }
}

/// Checked parameters of a ring with bootstrapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapParams {
    spec: BootstrapSpec,
    main: Params,
    ephemeral: Params,
}

impl BootstrapParams {
    /// What was checked.
    pub fn spec(&self) -> &BootstrapSpec {
        &self.spec
    }

    /// The ring of the ciphertexts.
    pub fn main(&self) -> &Params {
        &self.main
    }

    /// `q_0` and the special primes under which the main secret is encrypted with the ephemeral one.
    pub fn ephemeral(&self) -> &Params {
        &self.ephemeral
    }

    /// The level at which bootstrapping starts; higher ciphertexts are dropped to it.
    pub fn input_level(&self) -> Level {
        self.spec.input_level()
    }

    /// The level of the result.
    pub fn output_level(&self) -> Level {
        self.spec.output_level()
    }

    /// The level at which EvalMod starts; the relinearisation key has to reach it.
    pub fn eval_mod_level(&self) -> Level {
        self.spec.eval_mod_level()
    }

    /// Modulus between [`input_level`](Self::input_level) and [`output_level`](Self::output_level), in bits: what a computation
    /// can use up before the next bootstrap.
    pub fn usable_bits(&self) -> f64 {
        self.main.log_q_at(self.output_level()) - self.main.log_q_at(self.input_level())
    }

    /// `log2` of a bound on the probability that a bootstrap of ciphertexts with this many slots goes wrong because a
    /// coefficient exceeds `RANGE * q_0`.
    pub fn failure_log2(&self, slots: Slots) -> f64 {
        failure_log2(security::EPHEMERAL_WEIGHT, RANGE, 2 * slots.get())
    }

    /// The linear transforms of a bootstrap of `slots` slots with the levels they run at, SlotsToCoeffs first.
    ///
    /// # Errors
    /// [`Error::TooManySlots`].
    pub fn transforms(&self, slots: Slots) -> Result<Vec<(LinearPlan, Level)>, Error> {
        let (op, max) = ("bootstrapping", self.main.max_slots());
        if slots > max || slots.get() < 2 {
            return Err(Error::TooManySlots { op, slots, max });
        }
        let descending = |plans: Vec<LinearPlan>, top: Level| {
            plans.into_iter().enumerate().map(move |(i, plan)| (plan, Level(top.0 - i as u32)))
        };
        let down = dft::slots_to_coeffs_plans(slots, &self.spec.down_groups(slots), max);
        let up = dft::coeffs_to_slots_plans(slots, &self.spec.up_groups(slots), max);
        let (low, high) = (self.input_level(), self.main.max_level());
        Ok(descending(down, low).chain(descending(up, high)).collect())
    }

    /// The automorphisms that bootstraps of `slots` slots need keys for, each with the highest level it is used at.
    ///
    /// # Errors
    /// [`Error::TooManySlots`].
    pub fn galois_elements(&self, slots: Slots) -> Result<Vec<(GaloisElement, Level)>, Error> {
        let (n, top) = (self.main.n(), self.main.max_level());
        let transforms = self.transforms(slots)?;
        let unscaled = Level(top.0 + 1 - self.spec.up_groups(slots).len() as u32);
        let trace = self.trace_rotations(slots).map(|r| (GaloisElement::from_rotation(r, n), top));
        let planned = transforms
            .iter()
            .flat_map(|(plan, level)| plan.galois_elements(n).into_iter().map(move |e| (e, *level)));
        let mut highest = BTreeMap::new();
        for (element, level) in planned.chain(trace).chain([(GaloisElement::conjugation(n), unscaled)]) {
            let entry = highest.entry(element).or_insert(level);
            *entry = level.max(*entry);
        }
        Ok(highest.into_iter().collect())
    }

    /// The rotations whose sums project on the subring of the slots.
    pub(super) fn trace_rotations(&self, slots: Slots) -> impl Iterator<Item = Rotation> + use<> {
        let max = self.main.max_slots();
        let doublings = max.log2() - slots.log2();
        (0..doublings).map(move |k| Rotation::new(i64::from(slots.get()) << k, max))
    }
}

/// Sizes of the groups of butterfly stages for a number of factors, in order of growing stride. The groups of large stride,
/// whose diagonals wrap around, take the remainder.
fn stage_groups(stages: u32, factors: usize) -> Vec<u32> {
    let (size, rest) = (stages as usize / factors, stages as usize % factors);
    (0..factors).map(|i| (size + usize::from(i >= factors - rest)) as u32).filter(|&size| size > 0).collect()
}
