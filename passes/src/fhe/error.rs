//! Errors of the fhe passes.

use thiserror::Error;

/// Why a polynomial tensor graph does not become a program.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum LowerError {
    /// No choice of splits and special primes has so few keys.
    #[error(
        "the switching keys need at least {} MiB, and --keys-memory allows {} MiB; allow that much, or use fewer levels",
        needed.div_ceil(1 << 20), allowed >> 20
    )]
    KeysMemory {
        /// Least bytes of keys found.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// An operation this version cannot pack.
    #[error("{layer}: {what}; {way_out}")]
    Unsupported {
        /// ONNX node name.
        layer: String,
        /// What is not supported.
        what: String,
        /// What to do instead.
        way_out: String,
    },
    /// No secure ring is large enough.
    #[error(
        "the model needs {needed_bits} bits of modulus ({levels} levels) and the largest secure ring, N = 2^{log_n}, has {available_bits:.0}; \
         use a lower activation degree or a shallower model"
    )]
    TooDeep {
        /// log2 Q that the plan needs.
        needed_bits: u32,
        /// Levels.
        levels: u32,
        /// Largest ring tried.
        log_n: u32,
        /// Largest secure log2 QP there.
        available_bits: f64,
    },
    /// No chain for bootstrapping holds what must run between two refreshes.
    #[error(
        "no ring up to N = 2^{log_n} that bootstraps has enough levels between two refreshes for this model; use a lower activation degree"
    )]
    NoPlacement {
        /// Largest ring tried.
        log_n: u32,
    },
    /// A way to pay for the depth that is left aside.
    #[error("about {seconds:.0} s, not planned further")]
    Slower {
        /// Seconds of its layouts' operations.
        seconds: f64,
    },
    /// The graph breaks a promise that an earlier pass made: a bug of the compiler.
    #[error("compiler bug: {0}")]
    Bug(String),
}

impl LowerError {
    /// An internal error, told apart from what a user can mend.
    pub fn bug(what: impl Into<String>) -> Self {
        Self::Bug(what.into())
    }
}
