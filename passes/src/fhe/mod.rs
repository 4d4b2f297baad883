//! Passes from a polynomial tensor graph to a program: packing, levels and scales, parameters, emission.
//!
//! | file | from | to |
//! |---|---|---|
//! | [`layouts`] | tensor graph | a layout per value (generalized interleaved packing) |
//! | [`pack`] | tensor graph + ranges | fhe graph, stage packed |
//! | [`level`] | fhe graph packed | fhe graph leveled, bits of the prime chain |
//! | [`place`] | fhe graph packed | fhe graph leveled with refreshes, on a chain for bootstrapping |
//! | [`params`] | prime chain | the smallest secure ring that fits |
//! | `poly_eval`, [`emit`] | fhe graph leveled + parameters | program |
//! | [`schedule`] | program | instructions in an order that keeps few ciphertexts alive |
//! | [`split`], [`candidates`], [`plan_keys`], [`key_front`] | program | splits of its linear calls, all at once |
//! | [`cost`], [`refresh_cost`] | program | predicted seconds and bytes |

pub mod candidates;
pub mod cost;
pub mod emit;
pub mod error;
pub mod key_front;
pub mod layouts;
pub mod level;
pub mod monic;
pub mod pack;
pub mod params;
pub mod place;
pub mod plan_keys;
mod poly_eval;
pub mod refresh_cost;
pub mod schedule;
pub mod split;

#[cfg(test)]
mod tests;

pub use error::LowerError;
