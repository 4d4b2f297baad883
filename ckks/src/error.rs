//! The one error type of homomorphic operations.

use crate::params::ParamsError;
use crate::units::{GaloisElement, Level, Scale, Slots, UnitError};
use crate::wire::WireError;

/// Why an operation was refused. Every variant names the operation or the object and both conflicting values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The parameter literal is invalid or insecure.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// A unit is out of its domain.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A serialised object is malformed or belongs elsewhere.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// No NTT exists for the prime, or the transform library refuses it.
    #[error("no NTT of size {n} for modulus {modulus}; it must be a prime below 2^50 that is 1 modulo {}", 2 * n)]
    Ntt {
        /// The modulus.
        modulus: u64,
        /// The ring degree.
        n: usize,
    },
    /// Two operands are at different levels.
    #[error("{op}: operands are at levels {left} and {right}; drop the higher one first")]
    LevelMismatch {
        /// The operation.
        op: &'static str,
        /// Level of the first operand.
        left: Level,
        /// Level of the second operand.
        right: Level,
    },
    /// Two operands have different exact scales.
    #[error("{op}: operands have scales {left} and {right}; additions need equal exact scales")]
    ScaleMismatch {
        /// The operation.
        op: &'static str,
        /// Scale of the first operand.
        left: Box<Scale>,
        /// Scale of the second operand.
        right: Box<Scale>,
    },
    /// A level is not in the chain, or above what the operand has.
    #[error("{op}: level {level} is not available, the highest possible here is {max}")]
    LevelOutOfRange {
        /// The operation.
        op: &'static str,
        /// The requested level.
        level: Level,
        /// The highest possible level.
        max: Level,
    },
    /// There is no limb left to divide by.
    #[error(
        "{op}: the ciphertext is at level {level} and has no limb to spend; the program needs more levels"
    )]
    NoLevelLeft {
        /// The operation.
        op: &'static str,
        /// The level of the operand.
        level: Level,
    },
    /// More slots than the ring has.
    #[error("{op}: {slots} slots do not fit the {max} slots of the ring")]
    TooManySlots {
        /// The operation.
        op: &'static str,
        /// The requested number.
        slots: Slots,
        /// What the ring has.
        max: Slots,
    },
    /// The number of values is not the number of slots.
    #[error("{op}: {values} values for {slots} slots; pad or cut the vector")]
    SlotCount {
        /// The operation.
        op: &'static str,
        /// Values given.
        values: usize,
        /// Slots expected.
        slots: Slots,
    },
    /// A value is not finite.
    #[error("{op}: value {value} at slot {slot} is not finite")]
    NotFinite {
        /// The operation.
        op: &'static str,
        /// The slot.
        slot: usize,
        /// The value.
        value: f64,
    },
    /// A scaled value does not fit the integers of a plaintext.
    #[error(
        "{op}: a coefficient of about 2^{log2:.1} exceeds the limit of 2^{limit} bits; lower the scale 2^{scale_log2:.1}"
    )]
    CoefficientTooLarge {
        /// The operation.
        op: &'static str,
        /// Base-two logarithm of the coefficient.
        log2: f64,
        /// The limit in bits.
        limit: u32,
        /// Base-two logarithm of the scale.
        scale_log2: f64,
    },
    /// A scale refers to primes outside the chain, or is no number.
    #[error("{op}: scale {scale} does not belong to these parameters (the chain has {primes} primes)")]
    ForeignScale {
        /// The operation.
        op: &'static str,
        /// The scale.
        scale: Box<Scale>,
        /// Length of the Q chain.
        primes: usize,
    },
    /// A polynomial or key has the wrong ring degree or the wrong number of limbs.
    #[error("{op}: {what} has {found} where these parameters and this level need {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What is counted.
        what: &'static str,
        /// The value found.
        found: usize,
        /// The value needed.
        expected: usize,
    },
    /// No key for an automorphism at a sufficient level.
    #[error("no switching key for the automorphism {element} at level {level}{}; generate it at that level or higher",
        available.map_or(String::new(), |a| format!(" (there is one for levels up to {a})")))]
    MissingKey {
        /// The automorphism.
        element: GaloisElement,
        /// The level at which it is needed.
        level: Level,
        /// The highest level of the key that exists, if any.
        available: Option<Level>,
    },
    /// No relinearisation key at a sufficient level.
    #[error("no relinearisation key at level {level}{}; generate it at that level or higher",
        available.map_or(String::new(), |a| format!(" (there is one for levels up to {a})")))]
    MissingRelinKey {
        /// The level at which it is needed.
        level: Level,
        /// The highest level of the key that exists, if any.
        available: Option<Level>,
    },
    /// An automorphism exponent is no unit modulo `2N`.
    #[error("{op}: {element} is no automorphism of the ring of degree {n}; exponents are odd and below {}", 2 * n)]
    ForeignGaloisElement {
        /// The operation.
        op: &'static str,
        /// The exponent.
        element: GaloisElement,
        /// The ring degree.
        n: usize,
    },
    /// An object was made for other parameters.
    #[error("{op}: {what} was made for other parameters")]
    ForeignParameters {
        /// The operation.
        op: &'static str,
        /// The object.
        what: &'static str,
    },
    /// A linear plan is inconsistent.
    #[error(transparent)]
    Plan(#[from] crate::evaluator::linear::PlanError),
    /// A polynomial that cannot be evaluated.
    #[error(
        "a polynomial of degree {degree} cannot be evaluated: degrees are 1 to {max}, leading zeros not counted"
    )]
    Polynomial {
        /// Its degree.
        degree: usize,
        /// The highest that is accepted.
        max: usize,
    },
    /// Bootstrapping parameters that make no sense.
    #[error("bootstrapping parameters: {expected}")]
    Bootstrap {
        /// What they need.
        expected: &'static str,
    },
    /// An object could not be supplied by its owner (for instance a diagonal that failed to expand).
    #[error("{what}: {source}")]
    Source {
        /// What was asked for.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
