//! Refreshes (bootstraps) as the fhe level and the program level state them.

use peregrine_ckks::bootstrap::BootstrapSpec;
use peregrine_ckks::units::{Level, Scale};

/// Largest [`RefreshForm::range_bits`].
pub const MAX_RANGE_BITS: u32 = 16;
/// Largest [`RefreshForm::lift_bits`].
pub const MAX_LIFT_BITS: u32 = 40;

/// How a refresh reads its operand and hands out its result.
///
/// The operand is at the input level of the ring's bootstrapping; the result is the same values at its output level, or one
/// level below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefreshForm {
    /// Values are at most `2^range_bits` in magnitude. Larger ones come out wrong, by a little at first, then as noise; each bit
    /// costs a bit of precision.
    pub range_bits: u32,
    /// If there, the result is multiplied by `2^lift_bits` (exactly, in scale and number) and rescaled by the prime of the output
    /// level, which brings its scale down to that of other data.
    pub lift_bits: Option<u32>,
}

impl RefreshForm {
    /// Level and exact scale of the result; `None` if the chain has no level to rescale to.
    pub fn result(self, spec: &BootstrapSpec) -> Option<(Level, Scale)> {
        let (level, scale) = (spec.output_level(), spec.output_scale());
        let scale = scale.mul(&Scale::pow2(-(self.range_bits as i32)));
        match self.lift_bits {
            None => Some((level, scale)),
            Some(bits) => {
                let lifted = scale.mul(&Scale::pow2(bits as i32));
                Some((level.below(1)?, lifted.div(&Scale::prime(level.0))))
            }
        }
    }

    /// The scale at which the operand's values are at most 1 in magnitude.
    pub fn unit_scale(self, scale: &Scale) -> Scale {
        scale.mul(&Scale::pow2(self.range_bits as i32))
    }

    /// Whether the numbers are in range.
    pub fn is_bounded(self) -> bool {
        self.range_bits <= MAX_RANGE_BITS && self.lift_bits.is_none_or(|bits| bits <= MAX_LIFT_BITS)
    }
}
