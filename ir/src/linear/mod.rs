//! Linear maps between two layouts, as recipes, and their generalized diagonals.
//!
//! A [`LinearMap`] is a convolution between two layouts, with a separable map before and after it. Pooling, fully connected
//! layers and identity skips are convolutions too; slices, padding, concatenation, shuffles, resizing and zero insertion are
//! separable maps, so whatever surrounds a convolution becomes part of it. On each axis the composition is a list of
//! (output, input, kernel tap, factor), so the non-zero generalized diagonals are enumerated structurally (kernel tap x
//! channel-digit offset, [`Diagonals`]), never by scanning a dense matrix, and expanded one by one on demand.

mod apply;
mod contents;
mod diagonals;
mod keys;
mod pairs;
mod plan;
mod share;
mod split;
mod spread;
#[cfg(test)]
mod tests;

pub use apply::{AddErrors, CallNoise, apply_clear};
pub use contents::distinct_share;
pub use diagonals::{DiagonalKey, Diagonals};
pub use keys::diagonal_keys;
pub use pairs::{Pair, axis_pairs};
pub use plan::{CallPlan, DiagonalSlots, PlannedDiagonal, Recipe, plan_call};
pub use share::{Imaginary, MAX_SHIFTS, SharedDiagonal, Sharing, pairs_count, pairs_of, shared, shared_keys};
pub use split::{BsgsSplit, MAX_SPLIT, Parts, SplitTable};

use std::sync::Arc;

use thiserror::Error;

use crate::axis::Separable;
use crate::consts::ConstId;
use crate::entity::PrimaryMap;
use crate::layout::{Axis, Chw, Layout};

/// Most (output, kernel tap) pairs of one axis, and most channel pairs.
pub const MAX_PAIRS: u64 = 1 << 24;

/// Why a linear map is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// A kernel extent, stride, dilation or the group count is zero.
    #[error("linear map with a zero kernel extent, stride, dilation or group count")]
    Zero,
    /// Groups do not divide the channels.
    #[error("{groups} groups do not divide {input} input and {output} output channels")]
    Groups {
        /// Groups.
        groups: u32,
        /// Input channels.
        input: u32,
        /// Output channels.
        output: u32,
    },
    /// A separable map of other extents than the layout beside it.
    #[error("separable map of extents {found} beside a layout of {expected}")]
    Separable {
        /// Of the map.
        found: Chw,
        /// Of the layout.
        expected: Chw,
    },
    /// The map is too large to plan.
    #[error("linear map pairs {pairs} coordinates of one axis, the limit is {MAX_PAIRS}")]
    TooLarge {
        /// Pairs.
        pairs: u64,
    },
}

crate::entity_id!(
    /// Names a layout; prints as `l0`.
    LayoutId, "l"
);
crate::entity_id!(
    /// Names a linear map; prints as `m0`.
    LinearMapId, "m"
);

/// A convolution-shaped linear map `out[co,yo,xo] = sum w[co,ci,ky,kx] * in[ci, yo*sy + ky*dy - top, xo*sx + kx*dx - left]`.
///
/// Taps that fall outside the input count as zero. With `groups` g, `ci` runs over the input channels of `co`'s group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    /// Kernel extents (rows, columns).
    pub kernel: [u32; 2],
    /// Strides (rows, columns).
    pub stride: [u32; 2],
    /// Padding before the first row and the first column.
    pub pad: [u32; 2],
    /// Dilations (rows, columns).
    pub dilation: [u32; 2],
    /// Channel groups.
    pub groups: u32,
}

impl ConvGeometry {
    /// A 1x1 map with one group per channel: a per-channel scaling.
    pub fn channel_scaling(channels: u32) -> Self {
        Self { kernel: [1, 1], stride: [1, 1], pad: [0, 0], dilation: [1, 1], groups: channels }
    }
    /// A kernel as large as the whole `input` map, without padding: a fully connected layer.
    pub fn whole_map(input: Chw) -> Self {
        Self { kernel: [input.h, input.w], stride: [1, 1], pad: [0, 0], dilation: [1, 1], groups: 1 }
    }

    /// Checks the geometry against the extents it connects; gives the shape of the weights.
    ///
    /// # Errors
    /// [`MapError`] names the first rule that is broken.
    pub fn check(&self, input: Chw, output: Chw) -> Result<Vec<usize>, MapError> {
        let positive = [self.kernel, self.stride, self.dilation].iter().flatten().all(|&x| x > 0);
        if !positive || self.groups == 0 {
            return Err(MapError::Zero);
        }
        if !input.c.is_multiple_of(self.groups) || !output.c.is_multiple_of(self.groups) {
            return Err(MapError::Groups { groups: self.groups, input: input.c, output: output.c });
        }
        let c_in = input.c / self.groups;
        let products = [(output.c, c_in), (output.h, self.kernel[0]), (output.w, self.kernel[1])];
        let pairs = products.map(|(a, b)| u64::from(a) * u64::from(b)).into_iter().max().unwrap_or(0);
        if pairs > MAX_PAIRS {
            return Err(MapError::TooLarge { pairs });
        }
        Ok([output.c, c_in, self.kernel[0], self.kernel[1]].map(|x| x as usize).to_vec())
    }
}

/// A linear map between two layouts: a separable map, a convolution, a separable map.
///
/// Each separable map is the identity if absent. Weights are those of the convolution, `[c_out, c_in / groups, kernel rows,
/// kernel columns]`, row-major; its extents are those that `before` gives and `after` takes.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearMap {
    /// Layout of the operand.
    pub input: LayoutId,
    /// Layout of the result.
    pub output: LayoutId,
    /// Geometry of the convolution.
    pub geometry: ConvGeometry,
    /// Weights.
    pub weights: ConstId,
    /// Applied to the operand.
    pub before: Option<Arc<Separable>>,
    /// Applied to the result of the convolution.
    pub after: Option<Arc<Separable>>,
}

impl LinearMap {
    /// A convolution without separable maps around it.
    pub fn new(input: LayoutId, output: LayoutId, geometry: ConvGeometry, weights: ConstId) -> Self {
        Self { input, output, geometry, weights, before: None, after: None }
    }

    /// Whether the maps differ in nothing but their weights.
    pub fn is_shaped_as(&self, other: &Self) -> bool {
        let ends = |map: &Self| (map.input, map.output, map.geometry);
        ends(self) == ends(other) && self.before == other.before && self.after == other.after
    }

    /// The map with its layouts looked up; they exist.
    pub fn resolve<'a>(&'a self, layouts: &'a PrimaryMap<LayoutId, Layout>) -> ResolvedMap<'a> {
        self.between(&layouts[self.input], &layouts[self.output])
    }

    /// The map with its layouts.
    pub fn between<'a>(&'a self, input: &'a Layout, output: &'a Layout) -> ResolvedMap<'a> {
        let (before, after) = (self.before.as_deref(), self.after.as_deref());
        ResolvedMap { input, output, geometry: self.geometry, before, after }
    }
}

/// A linear map with its tables looked up.
#[derive(Clone, Copy, Debug)]
pub struct ResolvedMap<'a> {
    /// Layout of the operand.
    pub input: &'a Layout,
    /// Layout of the result.
    pub output: &'a Layout,
    /// Geometry of the convolution.
    pub geometry: ConvGeometry,
    /// Applied to the operand.
    pub before: Option<&'a Separable>,
    /// Applied to the result of the convolution.
    pub after: Option<&'a Separable>,
}

impl<'a> ResolvedMap<'a> {
    /// A convolution without separable maps around it.
    pub fn convolution(input: &'a Layout, output: &'a Layout, geometry: ConvGeometry) -> Self {
        Self { input, output, geometry, before: None, after: None }
    }

    /// Extents of the operand of the convolution.
    pub fn inner_input(&self) -> Chw {
        self.before.map_or(self.input.shape, |map| extents(map.output()))
    }

    /// Extents of the result of the convolution.
    pub fn inner_output(&self) -> Chw {
        self.after.map_or(self.output.shape, |map| extents(map.input()))
    }

    /// Checks that the parts fit each other and the layouts; gives the shape of the weights.
    ///
    /// # Errors
    /// [`MapError`] names the first rule that is broken.
    pub fn check(&self) -> Result<Vec<usize>, MapError> {
        if let Some(map) = self.before.filter(|map| extents(map.input()) != self.input.shape) {
            return Err(MapError::Separable { found: extents(map.input()), expected: self.input.shape });
        }
        if let Some(map) = self.after.filter(|map| extents(map.output()) != self.output.shape) {
            return Err(MapError::Separable { found: extents(map.output()), expected: self.output.shape });
        }
        let shape = self.geometry.check(self.inner_input(), self.inner_output())?;
        let pairs = self.pairs();
        if pairs > MAX_PAIRS { Err(MapError::TooLarge { pairs }) } else { Ok(shape) }
    }

    /// Pairs of coordinates of the convolution alone, summed over the axes: what [`Self::pairs`] goes through.
    pub fn convolution_pairs(&self) -> u64 {
        let (input, output, g) = (self.inner_input(), self.inner_output(), self.geometry);
        let channels = u64::from(output.c) * u64::from(input.c / g.groups.max(1));
        channels + u64::from(output.h) * u64::from(g.kernel[0]) + u64::from(output.w) * u64::from(g.kernel[1])
    }

    /// Pairs of coordinates that the enumeration of the diagonals goes through, summed over the axes.
    pub fn pairs(&self) -> u64 {
        if self.before.is_none() && self.after.is_none() {
            return self.convolution_pairs();
        }
        Axis::ALL.into_iter().map(|axis| pairs::count(self, axis)).fold(0, u64::saturating_add)
    }
}

fn extents([c, h, w]: [u32; 3]) -> Chw {
    Chw { c, h, w }
}
