//! Arithmetic modulo one word-sized prime.

mod modulus;
#[cfg(test)]
mod tests;

pub use modulus::{MAX_MODULUS_BITS, Modulus, ModulusError, ShoupFactor};
