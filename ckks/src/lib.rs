//! RNS-CKKS with bootstrapping: approximate arithmetic on encrypted real vectors.
//!
//! The scheme is CKKS (eprint 2016/421) in its full-RNS variant (eprint 2018/931) with hybrid key switching (eprint
//! 2019/688) over `Z[X]/(X^N + 1)`, `N = 2^12..2^17`, with primes below `2^50` and a uniform ternary secret.
//!
//! * [`params`]: a literal becomes an immutable, checked set; the security table cannot be passed by accident.
//! * [`context`]: the tables of a parameter set, shared by everything below.
//! * [`encoder`], [`encrypt`], [`keys`]: the client's side; [`noise`] predicts its error and that of a rescale.
//! * [`evaluator`]: the server's side, which cannot name a secret key. Scales are exact ([`units::Scale`]): operands
//!   that do not agree are an error, never "approximately equal".
//! * [`wire`]: files and messages, validated before use.
//! * [`arith`], [`kernels`], [`ntt`], [`ring`]: residues, vector instructions, transforms, polynomials.
//!
//! Security is 128 bits against an honest-but-curious server. A CKKS decryption carries noise that depends on the key:
//! shared with others it leaks (IND-CPA-D, eprint 2020/1533), so that results stay with the key's owner.
//!
//! ```
//! use peregrine_ckks::context::Context;
//! use peregrine_ckks::encoder::Encoder;
//! use peregrine_ckks::encrypt::{decrypt, encrypt_secret};
//! use peregrine_ckks::evaluator::Evaluator;
//! use peregrine_ckks::keys::{EvalKeys, KeyGenerator};
//! use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
//! use peregrine_ckks::units::{GaloisElement, Rotation, Scale, Slots};
//!
//! let literal = ParamsLiteral { log_n: 13, q: vec![PrimeSpec::Bits(40); 3], p: vec![PrimeSpec::Bits(41); 2] };
//! let params = literal.check()?;
//! let ctx = Context::new(&params)?;
//!
//! // The client makes keys, encodes and encrypts.
//! let generator = KeyGenerator::new(&ctx);
//! let sk = generator.secret();
//! let left = Rotation::new(1, params.max_slots());
//! let element = GaloisElement::from_rotation(left, params.n());
//! let top = params.max_level();
//! let keys: EvalKeys = [generator.relin(&sk, top)?, generator.galois(&sk, element, top)?].into_iter().collect();
//! let encoder = Encoder::new(&ctx);
//! let slots = Slots::new(4)?;
//! let message = encoder.encode(&[0.5, 1.0, 1.5, 2.0], slots, &Scale::pow2(35))?;
//! let encrypted = encrypt_secret(&ctx, &sk, &message, top)?;
//!
//! // The server squares and rotates.
//! let ev = Evaluator::new(&ctx);
//! let square = ev.rescale(&ev.square_relin(&encrypted.expand(&ctx)?, &keys)?)?;
//! let rotated = ev.rotate(&square, left, &keys)?;
//! assert_eq!(rotated.scale().to_string(), "2^70*q2^-1");
//!
//! // The client decrypts.
//! let result = encoder.decode(&decrypt(&ctx, &sk, &rotated)?, rotated.scale(), slots)?;
//! for (found, expected) in result.iter().zip([1.0, 2.25, 4.0, 0.25]) {
//!     assert!((found - expected).abs() < 1e-4);
//! }
//! # Ok::<(), peregrine_ckks::error::Error>(())
//! ```

pub mod arith;
pub mod bootstrap;
pub mod calibrate;
pub mod ciphertext;
pub mod context;
pub mod cost;
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
#[cfg(test)]
mod test_support;
pub mod units;
pub mod wire;
