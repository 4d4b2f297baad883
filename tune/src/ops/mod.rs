//! Differentiable operations on NHWC batches: forward, gradient by the operand, gradient by the parameters.
//!
//! Every operation gives the same numbers for every number of threads: work is cut by images into pieces that do not depend on
//! the threads, and partial sums are added in order.

pub mod activation;
pub mod batch_norm;
pub mod channels;
pub mod conv;
pub mod elementwise;
pub mod poly_act;
pub mod pool;
pub mod separable;
pub mod shape;
pub mod straight;
#[cfg(test)]
mod tests;
