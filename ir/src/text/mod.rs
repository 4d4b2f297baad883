//! The canonical text form of the three levels: one definition per line, and its reader.
//!
//! ```text
//! fhe @lenet stage=leveled slots=8192 chain=50,45,45
//!   c0 = f32[8,1,5,5] #89abcdef
//!   l0 = layout 1x28x28 c=1@s1024 y=28@s32 x=28@s1 period=1024 cts=1
//!   m0 = map l0 -> l1 c0 kernel=5x5 stride=2x2 pad=2x2 dilation=1x1 groups=1
//!   v0 = input "x" : l0 unit=c3 reach=1.0 level=2 scale=2^40 ; "x"
//!   v1 = linear m0(v0) bias=c2 : l1 unit=c4 reach=2.5 level=1 scale=2^40 ; "conv1"
//!   output "y" = v1
//! ```
//!
//! Ids are dense, so that the n-th definition of a kind has number n. Constants print as element type, shape and the first
//! four bytes of the BLAKE3 of their data; the reader takes them from a [`ConstPool`](crate::ConstPool) and compares.
//! A digit `28@s32` of a layout has radix 28 and slot stride 32, `2@t1` ciphertext stride 1; `-` is an axis without
//! digits. Numbers print so that they read back exactly: `parse(print(x)) = x`.
//!
//! Readers check form and ids only as far as they need to build the value; run the level's verifier on what they give.

mod bootstrap;
mod cursor;
mod fhe;
mod program;
mod tables;
mod tensor;
#[cfg(test)]
pub(crate) mod tests;

pub use cursor::{Expected, TextError, TextProblem};
pub use fhe::{parse_fhe, print_fhe};
pub use program::{parse_program, print_program};
pub use tensor::{parse_tensor, print_tensor};
