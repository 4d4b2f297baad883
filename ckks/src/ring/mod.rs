//! Polynomials of `Z[X]/(X^N + 1)` in residue number systems.

pub mod automorphism;
pub mod bconv;
mod block;
pub mod poly;
mod pool;
pub mod sampler;
mod words;
