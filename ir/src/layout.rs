//! Layouts: where each logical index (channel, y, x) of a tensor lives among ciphertexts and slots.
//!
//! A layout writes each coordinate in mixed radix, least significant digit first, and sends every digit either to a
//! slot stride or to a ciphertext stride. Generalized interleaved packing (arXiv 2511.18976) is three instances:
//! digits of y and x that pick the ciphertext (g > 1), plain raster with several channels per ciphertext (g = 1), and low
//! channel digits that fill the gaps of the slot grid (g < 1). The slots of a ciphertext repeat with `period`: a tensor
//! smaller than the ciphertext is replicated over it for free, and its plaintexts live in a subring.
//!
//! Radices need not divide extents: the product of an axis' radices may exceed the extent, the excess is padding.
//! Padding slots hold unspecified values; linear maps never read them.

use std::fmt;

use peregrine_ckks::units::Slots;
use thiserror::Error;

/// Where a digit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Multiplied by this stride and added to the slot index.
    Slot(u32),
    /// Multiplied by this stride and added to the ciphertext index.
    Cipher(u32),
}

/// One mixed-radix digit of a coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digit {
    /// Number of values of the digit, at least 1.
    pub radix: u32,
    /// Where it goes.
    pub place: Place,
}

/// Extents of a tensor on the fhe level: channels, rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chw {
    /// Channels.
    pub c: u32,
    /// Rows.
    pub h: u32,
    /// Columns.
    pub w: u32,
}

impl Chw {
    /// Number of elements.
    pub fn len(self) -> usize {
        (self.c as usize).saturating_mul(self.h as usize).saturating_mul(self.w as usize)
    }
    /// Whether an extent is zero.
    pub fn is_empty(self) -> bool {
        self.c == 0 || self.h == 0 || self.w == 0
    }
}

impl fmt::Display for Chw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.c, self.h, self.w)
    }
}

/// A logical coordinate axis of a packed tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// Channel.
    C,
    /// Row.
    Y,
    /// Column.
    X,
}

impl Axis {
    /// All axes, in the order of `Layout::digits`.
    pub const ALL: [Self; 3] = [Self::C, Self::Y, Self::X];
}

/// Slot and ciphertext contribution of one coordinate, or the position of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Ciphertext index.
    pub cipher: u32,
    /// Slot index, below the period.
    pub slot: u32,
}

/// Why a layout is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// An extent of the tensor is zero.
    #[error("layout of an empty tensor {0}")]
    Empty(Chw),
    /// A digit has radix 0.
    #[error("layout digit of axis {axis:?} has radix 0")]
    ZeroRadix {
        /// The axis.
        axis: Axis,
    },
    /// The digits of an axis do not cover its extent.
    #[error("layout digits of axis {axis:?} cover {covered} coordinates, the tensor has {extent}")]
    Uncovered {
        /// The axis.
        axis: Axis,
        /// Product of the radices.
        covered: u64,
        /// Extent of the tensor.
        extent: u32,
    },
    /// Two digits overlap, so two elements could share a place.
    #[error("layout digits overlap at stride {stride}: the digits below it reach {reach}")]
    Overlap {
        /// Stride of the digit that overlaps.
        stride: u32,
        /// One more than the largest index the smaller strides reach.
        reach: u64,
    },
    /// The digits reach past the period or the number of ciphertexts.
    #[error("layout reaches {what} {reach}, of {limit}")]
    TooLarge {
        /// `slot` or `ciphertext`.
        what: &'static str,
        /// One more than the largest index.
        reach: u64,
        /// The limit.
        limit: u32,
    },
}

/// A digit-map layout of a [`Chw`] tensor over `ciphertexts` ciphertexts whose slots repeat with `period`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Extents.
    pub shape: Chw,
    /// Digits of channel, row, column; least significant first.
    pub digits: [Vec<Digit>; 3],
    /// Slots after which the contents repeat.
    pub period: Slots,
    /// Number of ciphertexts.
    pub ciphertexts: u32,
}

impl Layout {
    /// Checks that every element has a place of its own within the period and the ciphertexts.
    ///
    /// # Errors
    /// The first rule that is broken; sufficient, not necessary: the digits of one kind of place must nest.
    pub fn check(&self) -> Result<(), LayoutError> {
        if self.shape.is_empty() {
            return Err(LayoutError::Empty(self.shape));
        }
        for axis in Axis::ALL {
            let mut covered = 1u64;
            for digit in self.axis_digits(axis) {
                if digit.radix == 0 {
                    return Err(LayoutError::ZeroRadix { axis });
                }
                covered = covered.saturating_mul(u64::from(digit.radix));
            }
            if covered < u64::from(self.extent(axis)) {
                return Err(LayoutError::Uncovered { axis, covered, extent: self.extent(axis) });
            }
        }
        self.check_nesting("slot", self.period.get(), |p| match p {
            Place::Slot(stride) => Some(stride),
            Place::Cipher(_) => None,
        })?;
        self.check_nesting("ciphertext", self.ciphertexts, |p| match p {
            Place::Cipher(stride) => Some(stride),
            Place::Slot(_) => None,
        })
    }

    fn check_nesting(
        &self,
        what: &'static str,
        limit: u32,
        stride_of: impl Fn(Place) -> Option<u32>,
    ) -> Result<(), LayoutError> {
        let mut strided: Vec<(u32, u32)> = self
            .digits
            .iter()
            .flatten()
            .filter(|d| d.radix > 1)
            .filter_map(|d| stride_of(d.place).map(|stride| (stride, d.radix)))
            .collect();
        strided.sort_unstable();
        let mut reach = 1u64;
        for (stride, radix) in strided {
            if u64::from(stride) < reach {
                return Err(LayoutError::Overlap { stride, reach });
            }
            reach = reach.saturating_add(u64::from(stride).saturating_mul(u64::from(radix) - 1));
        }
        if reach > u64::from(limit) {
            return Err(LayoutError::TooLarge { what, reach, limit });
        }
        Ok(())
    }

    /// Digits of an axis, least significant first.
    pub fn axis_digits(&self, axis: Axis) -> &[Digit] {
        &self.digits[axis as usize]
    }

    /// Extent of an axis.
    pub fn extent(&self, axis: Axis) -> u32 {
        match axis {
            Axis::C => self.shape.c,
            Axis::Y => self.shape.h,
            Axis::X => self.shape.w,
        }
    }

    /// Contribution of coordinate `index` of `axis` to the position of an element.
    pub fn contribution(&self, axis: Axis, index: u32) -> Position {
        let mut rest = index;
        let mut position = Position::default();
        for digit in self.axis_digits(axis) {
            let value = rest % digit.radix;
            rest /= digit.radix;
            match digit.place {
                Place::Slot(stride) => position.slot += value * stride,
                Place::Cipher(stride) => position.cipher += value * stride,
            }
        }
        position
    }

    /// Contributions of all coordinates of an axis.
    pub fn contributions(&self, axis: Axis) -> Vec<Position> {
        (0..self.extent(axis)).map(|i| self.contribution(axis, i)).collect()
    }

    /// Position of element (c, y, x).
    pub fn position(&self, c: u32, y: u32, x: u32) -> Position {
        let parts =
            [self.contribution(Axis::C, c), self.contribution(Axis::Y, y), self.contribution(Axis::X, x)];
        Position { cipher: parts.iter().map(|p| p.cipher).sum(), slot: parts.iter().map(|p| p.slot).sum() }
    }

    /// Writes a row-major CHW tensor into slot vectors, one per ciphertext, each of `period` slots; padding is 0.
    pub fn pack(&self, tensor: &[f64]) -> Vec<Vec<f64>> {
        let mut slots = vec![vec![0.0; self.period.get() as usize]; self.ciphertexts as usize];
        self.for_each(|index, at| slots[at.cipher as usize][at.slot as usize] = tensor[index]);
        slots
    }

    /// Reads a row-major CHW tensor from slot vectors (each of at least `period` slots).
    pub fn unpack(&self, slots: &[Vec<f64>]) -> Vec<f64> {
        let mut tensor = vec![0.0; self.shape.len()];
        self.for_each(|index, at| tensor[index] = slots[at.cipher as usize][at.slot as usize]);
        tensor
    }

    /// Slot vector of ciphertext `cipher` that holds `values[c]` (or `values[0]` when there is one) at every element of
    /// channel c, and 0 at padding.
    pub fn spread_channels(&self, values: &[f64], cipher: u32) -> Vec<f64> {
        let mut slots = vec![0.0; self.period.get() as usize];
        let map = self.shape.h as usize * self.shape.w as usize;
        self.for_each(|index, at| {
            if at.cipher == cipher {
                slots[at.slot as usize] = if values.len() == 1 { values[0] } else { values[index / map] };
            }
        });
        slots
    }

    /// Calls `visit(row-major index, position)` for every element.
    pub fn for_each(&self, mut visit: impl FnMut(usize, Position)) {
        let [cs, ys, xs] = Axis::ALL.map(|a| self.contributions(a));
        let mut index = 0;
        for c in &cs {
            for y in &ys {
                for x in &xs {
                    visit(
                        index,
                        Position { cipher: c.cipher + y.cipher + x.cipher, slot: c.slot + y.slot + x.slot },
                    );
                    index += 1;
                }
            }
        }
    }

    /// Share of the slots of all ciphertexts' periods that hold an element.
    pub fn occupancy(&self) -> f64 {
        self.shape.len() as f64 / (f64::from(self.period.get()) * f64::from(self.ciphertexts))
    }
}

#[cfg(test)]
mod tests;
