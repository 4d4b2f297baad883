//! Leveled RNS-CKKS: parameters, keys, evaluator, linear transforms.

pub mod arith;
pub mod ciphertext;
pub mod context;
pub mod encoder;
pub mod encrypt;
pub mod error;
pub mod evaluator;
pub mod kernels;
pub mod keys;
pub mod noise;
pub mod ntt;
pub mod params;
pub mod plaintext;
pub mod ring;
pub mod units;
pub mod wire;
