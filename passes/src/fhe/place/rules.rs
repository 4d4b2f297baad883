//! What an operation may do on a chain of primes of given sizes: where it runs, how often it rescales, at which scale it ends.
//!
//! Scales are counted in whole bits here; the exact ones follow from them when the graph is rebuilt.

use peregrine_ir::RefreshForm;
use smallvec::SmallVec;

/// Bits of the modulus that a value leaves free above its scale: room beyond unit range and for the sign.
pub const HEADROOM_BITS: u32 = 10;
/// Largest scale of encoded weights: their coefficients are 64-bit integers.
const MOST_WEIGHT_BITS: u32 = 60;
/// Least scale of the plaintext that a polynomial's linear term is multiplied by.
const LEAST_TERM_BITS: u32 = 21;
/// Largest scale at which a map hands its result to a polynomial.
const MOST_OPERAND_BITS: u32 = 46;
/// Scale of the operands of refreshes, high enough that the rescale before it leaves no error that shows.
const REFRESH_BITS: u32 = 40;
/// A refresh is made for values this many bits above those that calibration saw.
pub const MARGIN_BITS: u32 = 1;

/// A value that an operation can read: level and scale in bits. Lower levels are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// Bits of the scale.
    pub scale: u32,
    /// Level.
    pub level: u32,
}

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// A fresh ciphertext at the top of the chain, at this scale.
    Input {
        /// Bits of the scale.
        scale: u32,
    },
    /// A sum of linear maps.
    Linear,
    /// A polynomial that rescales this many powers on the way.
    Poly {
        /// ceil(log2 degree) - 1.
        levels: u32,
    },
}

/// One operation of the graph to be placed.
#[derive(Clone, Debug)]
pub struct Step {
    /// Kind.
    pub kind: StepKind,
    /// Operations that make the operands; earlier ones.
    pub args: SmallVec<[usize; 2]>,
    /// Seconds by the level at which it runs.
    pub seconds: Vec<f64>,
    /// Seconds of refreshing its result, and bits of the range that the refresh must be made for.
    pub refresh: Option<(f64, u32)>,
}

/// How refreshes serve a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshRules {
    /// Level of the operands.
    pub input_level: u32,
    /// Level of the results.
    pub output_level: u32,
    /// Bits of the results' scale for values of magnitude up to 1.
    pub scale_bits: u32,
}

/// A chain and the scales that are asked for.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Bits of the primes, the lowest first.
    pub bits: Vec<u32>,
    /// Least scale of data.
    pub data_bits: u32,
    /// Least scale of weights.
    pub weight_bits: u32,
    /// Refreshes, if there are any.
    pub refresh: Option<RefreshRules>,
    /// Scales at which maps hand results to polynomials of this chain.
    targets: Vec<u32>,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Level at which it runs.
    pub runs_at: u32,
    /// Its result before a refresh.
    pub made: Held,
    /// The refresh of the result.
    pub refresh: Option<RefreshForm>,
    /// The result as later operations find it.
    pub held: Held,
    /// Seconds of the operation and the refresh.
    pub seconds: f64,
}

/// Which operands of a step are given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    All,
    One,
}

impl Rules {
    /// The rules of a chain for a graph whose polynomials rescale `levels` powers.
    pub fn new(
        bits: Vec<u32>,
        (data_bits, weight_bits): (u32, u32),
        refresh: Option<RefreshRules>,
        levels: &[u32],
    ) -> Self {
        let mut rules = Self { bits, data_bits, weight_bits, refresh, targets: vec![data_bits] };
        let tops = 0..rules.bits.len() as u32;
        let wanted = levels.iter().flat_map(|&levels| tops.clone().map(move |at| (levels, at)));
        let targets: Vec<u32> = wanted.filter_map(|(levels, at)| rules.operand_scale(levels, at)).collect();
        rules.targets.extend(targets);
        rules.targets.sort_unstable();
        rules.targets.dedup();
        rules
    }

    fn modulus(&self, level: u32) -> u32 {
        self.bits[..=level as usize].iter().sum()
    }

    fn fits(&self, held: Held) -> bool {
        held.scale + HEADROOM_BITS <= self.modulus(held.level)
    }

    /// Least scale of the operand of a polynomial that runs at a level.
    fn operand_scale(&self, levels: u32, at: u32) -> Option<u32> {
        (self.data_bits..=MOST_OPERAND_BITS).find(|&scale| self.powers(levels, at, scale).is_some())
    }

    /// The scale of a polynomial's highest power, if the operand's suits it.
    fn powers(&self, levels: u32, at: u32, operand: u32) -> Option<u32> {
        let mut scale = operand;
        for i in 0..levels {
            let prime = *self.bits.get(at.checked_sub(i)? as usize)?;
            scale = (2 * scale).checked_sub(prime)?;
            if scale + 1 < self.data_bits {
                return None;
            }
        }
        let term = (2 * scale).checked_sub(operand)?;
        let most = self.data_bits.max(36) + 8;
        (levels == 0 || (LEAST_TERM_BITS..=MOST_WEIGHT_BITS).contains(&term) && scale <= most)
            .then_some(scale)
    }

    /// Everything that a step can do with its operands.
    pub fn choices(&self, step: &Step, operands: &[Held], out: &mut Vec<Choice>) {
        self.enumerate(step, operands, Known::All, out);
    }

    /// What a step might do with one of its operands, whatever the others are: for each choice that it has with all of them one
    /// that takes no longer and ends no lower is among these.
    pub fn relaxed(&self, step: &Step, operand: Held, out: &mut Vec<Choice>) {
        let known = if step.args.iter().all(|arg| *arg == step.args[0]) { Known::All } else { Known::One };
        self.enumerate(step, &[operand], known, out);
    }

    fn enumerate(&self, step: &Step, operands: &[Held], known: Known, out: &mut Vec<Choice>) {
        out.clear();
        let top = operands.iter().map(|held| held.level).min().unwrap_or(self.bits.len() as u32 - 1);
        match step.kind {
            StepKind::Input { scale } => {
                let held = Held { scale, level: top };
                if self.fits(held) {
                    out.push(Choice { runs_at: top, made: held, refresh: None, held, seconds: 0.0 });
                }
            }
            StepKind::Linear => (1..=top).for_each(|at| self.linear(step, operands, known, at, out)),
            StepKind::Poly { levels } => {
                for at in levels..=top {
                    self.polynomial(step, levels, operands, at, out);
                }
            }
        }
    }

    fn linear(&self, step: &Step, operands: &[Held], known: Known, at: u32, out: &mut Vec<Choice>) {
        let (Some(&high), Some(&low)) =
            (operands.iter().map(|h| &h.scale).max(), operands.iter().map(|h| &h.scale).min())
        else {
            return;
        };
        let make = |target: u32, floor: u32| {
            let mut divisor = 0;
            let mut level = at;
            // An operand of a higher scale that is not known would be divided once more.
            let short = |divisor: u32| match known {
                Known::All => target + divisor < high + self.weight_bits,
                Known::One => divisor == 0 || target + divisor < high + self.weight_bits,
            };
            while level > floor && short(divisor) {
                divisor += self.bits[level as usize];
                level -= 1;
            }
            let made = Held { scale: target, level };
            let weights = (target + divisor).checked_sub(high)?;
            let fits = weights >= self.weight_bits && target + divisor - low <= MOST_WEIGHT_BITS;
            (level < at && fits && self.fits(made)).then_some(made)
        };
        let seconds = step.seconds[at as usize];
        let made = self.targets.iter().filter_map(|&target| make(target, 0));
        out.extend(made.map(|made| Choice { runs_at: at, made, refresh: None, held: made, seconds }));
        let (Some(rules), Some((refresh_seconds, range_bits))) = (self.refresh, step.refresh) else { return };
        let best = (self.data_bits..=REFRESH_BITS).rev().find_map(|target| make(target, rules.input_level));
        let Some(made) = best else { return };
        let seconds = seconds + refresh_seconds;
        for (form, held) in self.refreshed(rules, range_bits) {
            out.push(Choice { runs_at: at, made, refresh: Some(form), held, seconds });
        }
    }

    /// The forms of a refresh: as it comes, and lifted to the scale of data.
    fn refreshed(&self, rules: RefreshRules, range_bits: u32) -> impl Iterator<Item = (RefreshForm, Held)> {
        let scale = rules.scale_bits.saturating_sub(range_bits);
        let plain = RefreshForm { range_bits, lift_bits: None };
        let plain = (plain, Held { scale, level: rules.output_level });
        let prime = self.bits[rules.output_level as usize];
        let lift_bits = (self.data_bits + prime).checked_sub(scale);
        let lifted = lift_bits.filter(|&bits| bits <= peregrine_ir::MAX_LIFT_BITS).map(|bits| {
            let form = RefreshForm { range_bits, lift_bits: Some(bits) };
            (form, Held { scale: self.data_bits, level: rules.output_level - 1 })
        });
        std::iter::once(plain).chain(lifted)
    }

    fn polynomial(&self, step: &Step, levels: u32, operands: &[Held], at: u32, out: &mut Vec<Choice>) {
        let Some(operand) = operands.first() else { return };
        let Some(power) = self.powers(levels, at, operand.scale) else { return };
        let made = Held { scale: 2 * power, level: at - levels };
        let product = Held { scale: 2 * operand.scale, level: at };
        if self.fits(made) && self.fits(product) {
            let seconds = step.seconds[at as usize];
            out.push(Choice { runs_at: at, made, refresh: None, held: made, seconds });
        }
    }
}
