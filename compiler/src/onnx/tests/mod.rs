//! Import and export against tract, and every refusal.

mod families;
mod refusals;
mod splits;
mod support;
