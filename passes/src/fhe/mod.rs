//! Passes from a polynomial tensor graph to a program: packing, levels and scales, parameters, emission.
//!
//! | file | from | to |
//! |---|---|---|
//! | [`pack`], [`views`], `wide`, `parts`, `refusals` | tensor graph + ranges | fhe graph, stage packed |
//! | [`layouts`], [`assign`], `eliminate` | values to be packed | a layout for each (generalized interleaved packing) |
//! | [`level`] | fhe graph packed | fhe graph leveled, bits of the prime chain |
//! | [`place`] | fhe graph packed | fhe graph leveled with refreshes, on a chain for bootstrapping |
//! | [`params`] | prime chain | the smallest secure ring that fits |
//! | `poly_eval`, [`emit`] | fhe graph leveled + parameters | program |
//! | [`schedule`] | program | instructions in an order that keeps few ciphertexts alive |
//! | [`calls`], [`share`], [`split`], [`candidates`], [`plan_keys`], [`key_front`] | program | joins and splits of its linear calls, all at once |
//! | [`cost`], [`refresh_cost`] | program | predicted seconds and bytes |
//! | [`budget`] | fhe graph leveled + moments of the data | predicted errors |

pub mod assign;
pub mod budget;
pub mod calls;
pub mod candidates;
mod compact;
pub mod cost;
mod eliminate;
pub mod emit;
pub mod error;
mod key_descent;
pub mod key_front;
pub mod layouts;
pub mod level;
pub mod monic;
pub mod pack;
pub mod params;
mod parts;
pub mod place;
pub mod plan_keys;
mod poly_eval;
pub mod refresh_cost;
mod refusals;
pub mod schedule;
pub mod share;
pub mod split;
pub mod views;
mod wide;

#[cfg(test)]
mod tests;

use peregrine_ir::marks;

pub use error::LowerError;
