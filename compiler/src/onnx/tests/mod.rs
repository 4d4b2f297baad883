//! Import and export against tract, and every refusal.

mod ends;
mod families;
mod graphs;
mod idioms;
mod movements;
mod refusals;
mod splits;
mod support;
