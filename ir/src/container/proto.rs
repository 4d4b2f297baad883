//! Types generated from `proto/peregrine.proto`.
#![allow(missing_docs, clippy::all, unused_qualifications)]

include!(concat!(env!("OUT_DIR"), "/peregrine.rs"));
