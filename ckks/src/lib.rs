//! Leveled RNS-CKKS: parameters, keys, evaluator, linear transforms.

pub mod params;
pub mod units;
