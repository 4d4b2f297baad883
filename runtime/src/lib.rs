//! Runs compiled programs: loader, interpreters, client side, and the `peregrine-run` binary.
//!
//! | who | holds | module |
//! |---|---|---|
//! | server | the program, its weights, evaluation keys | [`exec`]: [`Server`] |
//! | client | secret key, input and answer | [`client`]: [`Client`], [`client::ClearSide`] |
//! | both | parameters, inputs, outputs, key manifest | [`interface`] |
//!
//! Code of the server cannot name a secret key: only [`client`] does. [`local`] plays both sides in one process.
#![forbid(unsafe_code)]

#[cfg(test)]
mod bootstrap_tests;
pub mod bytes;
pub mod clear;
pub mod client;
pub mod error;
pub mod eval;
pub mod exec;
pub mod interface;
pub mod loader;
pub mod local;
pub mod output;
pub mod plan;
pub mod progress;
pub mod ranges;
pub mod report;
pub mod session;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use error::RuntimeError;
pub use exec::Server;
pub use interface::Interface;
pub use loader::Loaded;
pub use local::{Backend, LocalOptions, run_local};
pub use report::RunReport;
