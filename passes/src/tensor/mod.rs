//! Passes of the tensor level, from the imported graph to one of convolutions, sums and per-channel polynomials.
//!
//! | module | pass | does |
//! |---|---|---|
//! | [`fold_constants`] | `fold-constants` | merges chains of affine, pad and reshape nodes, drops neutral ones, shares equal constants |
//! | [`fold_polynomials`] | `fold-polynomials` | expressions in one tensor into one polynomial of it |
//! | [`fold_batch_norm`] | `fold-batch-norm` | batch norms into the linear op before, or the one after where exact |
//! | [`algebra`] | `algebra` | polynomial expressions into one polynomial, affine maps into their neighbours (egg) |
//! | [`normalise`] | `normalise` | pads, pools, flattening and fully connected layers into convolutions |
//! | [`fuse_separable`] | `fuse-separable` | separable maps into one another and into convolutions |
//! | [`fuse_linear`] | `fuse-linear` | two convolutions in a row into one where exact and cheap |
//! | [`fit`] | `fit-activations` | calibrated activations into per-channel polynomials |
//! | [`products`] | `products` | products of two tensors into differences of squares |
//! | [`dead_code`] | `dead-code` | unused nodes and constants away |
//! | [`check`] | `check-canonical`, `check-polynomial` | everything left that has no encrypted form, at once |
//!
//! [`interp`] runs a graph in the clear on a batch, [`ranges`] and [`moments`] measure every value on one. [`canonical`] and
//! [`polynomial`] run the passes in their order.

pub mod algebra;
pub mod check;
pub mod dead_code;
pub mod fit;
pub mod fold_batch_norm;
pub mod fold_constants;
pub mod fold_polynomials;
pub mod fuse_linear;
pub mod fuse_separable;
pub mod interp;
pub mod moments;
pub mod normalise;
pub mod poly;
pub mod products;
pub mod ranges;
mod rewrite;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
pub(crate) mod testing;

use peregrine_ir::tensor::{Tensor, TensorGraph};

use crate::error::PassError;
use crate::pass::PassManager;
use interp::Batch;

/// Brings an imported graph to stage canonical.
///
/// Batch norms fold first, which leaves less to the algebra; they fold before pads and pools become convolutions, because a batch norm commutes with an average pool but not with
/// a padded convolution; algebra runs again at the end, on what the new convolutions allow. Convolutions in a row are not
/// fused yet: the fit of activations refits single layers.
///
/// # Errors
/// [`PassError::Unsupported`] with every node that has no encrypted form.
pub fn canonical(graph: &mut TensorGraph, manager: &mut PassManager<'_, Tensor>) -> Result<(), PassError> {
    manager.run_all(
        &mut [
            &mut dead_code::DeadCode,
            &mut fold_constants::FoldConstants,
            &mut fold_polynomials::FoldPolynomials,
            &mut fold_batch_norm::FoldBatchNorm,
            &mut algebra::Algebra::default(),
            &mut normalise::Normalise,
            &mut algebra::Algebra::normal(),
            &mut dead_code::DeadCode,
            &mut check::CheckCanonical,
        ],
        graph,
    )
}

/// Brings a canonical graph whose activations are polynomials to stage polynomial. Products are balanced by ranges on `batch`.
///
/// Algebra runs before products are split, since a product of polynomials of one tensor is one polynomial.
///
/// # Errors
/// [`PassError::Unsupported`] when an activation is left.
pub fn polynomial(
    graph: &mut TensorGraph,
    batch: Option<&Batch>,
    manager: &mut PassManager<'_, Tensor>,
) -> Result<(), PassError> {
    manager.run_all(
        &mut [
            &mut algebra::Algebra::normal(),
            &mut products::Products { batch },
            &mut fuse_separable::FuseSeparable,
            &mut fuse_linear::FuseLinear,
            &mut dead_code::DeadCode,
            &mut check::CheckPolynomial,
        ],
        graph,
    )
}
