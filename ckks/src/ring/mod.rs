//! Polynomials of `Z[X]/(X^N + 1)` in residue number systems.

pub mod arena;
pub mod automorphism;
pub mod bconv;
pub mod integers;
pub mod poly;
pub mod sampler;
mod words;
