//! Layouts: where each logical index (channel, y, x) of a tensor lives among ciphertexts and slots.
//!
//! A layout writes each coordinate in mixed radix, least significant digit first, and sends every digit either to a
//! slot stride or to a ciphertext stride. Generalized interleaved packing (arXiv 2511.18976) is three instances:
//! digits of y and x that pick the ciphertext (g > 1), plain raster with several channels per ciphertext (g = 1), and low
//! channel digits that fill the gaps of the slot grid (g < 1). The slots of a ciphertext repeat with `period`: a tensor
//! smaller than the ciphertext is replicated over it for free, and its plaintexts live in a subring.
//!
//! Where neither a power of two fits a map nor a map a ciphertext, maps are blocks: a ciphertext holds a number of them that
//! need not be a power of two, one after the other, and [`Place::Block`] digits count blocks across ciphertexts.
//!
//! Radices need not divide extents: the product of an axis' radices may exceed the extent, the excess is padding.
//! Padding slots hold unspecified values; linear maps never read them.

use std::fmt;
use std::ops::RangeInclusive;

use peregrine_ckks::units::Slots;
use thiserror::Error;

/// Where a digit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Multiplied by this stride and added to the slot index.
    Slot(u32),
    /// Multiplied by this stride and added to the ciphertext index.
    Cipher(u32),
    /// Multiplied by this stride and added to the block index; see [`Blocks`].
    Block(u32),
}

/// How blocks fall on ciphertexts: block b is in ciphertext `b / per_cipher`, from slot `b % per_cipher * slots` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blocks {
    /// Slots of a block.
    pub slots: u32,
    /// Blocks of a ciphertext.
    pub per_cipher: u32,
}

impl Default for Blocks {
    /// Of a layout without blocks.
    fn default() -> Self {
        Self { slots: 1, per_cipher: 1 }
    }
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

/// The position of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Ciphertext index.
    pub cipher: u32,
    /// Slot index, below the period.
    pub slot: u32,
}

/// What one coordinate adds to ciphertext, block and slot index of its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Contribution {
    /// To the ciphertext index.
    pub cipher: u32,
    /// To the block index.
    pub block: u32,
    /// To the slot index.
    pub slot: u32,
}

impl std::ops::Add for Contribution {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            cipher: self.cipher + other.cipher,
            block: self.block + other.block,
            slot: self.slot + other.slot,
        }
    }
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
    /// Digits of blocks beside digits of ciphertexts, or blocks of no slots.
    #[error("layout has block digits beside ciphertext digits, or blocks of no slots")]
    Mixed,
    /// The digits reach past the period or the number of ciphertexts.
    #[error("layout reaches {what} {reach}, of {limit}")]
    TooLarge {
        /// `slot`, `block` or `ciphertext`.
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
    /// Blocks, if digits count them.
    pub blocks: Blocks,
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
        let Blocks { slots, per_cipher } = self.blocks;
        let block_slots = if per_cipher > 1 { slots } else { self.period.get() };
        let (blocks, in_blocks) = (
            u64::from(per_cipher) * u64::from(self.ciphertexts),
            u64::from(per_cipher) * u64::from(block_slots),
        );
        if slots == 0 || per_cipher == 0 || self.has_blocks() && self.digits.iter().flatten().any(is_cipher) {
            return Err(LayoutError::Mixed);
        }
        if in_blocks > u64::from(self.period.get()) {
            return Err(LayoutError::TooLarge { what: "slot", reach: in_blocks, limit: self.period.get() });
        }
        self.check_nesting("slot", u64::from(block_slots), |p| match p {
            Place::Slot(stride) => Some(stride),
            Place::Cipher(_) | Place::Block(_) => None,
        })?;
        self.check_nesting("ciphertext", u64::from(self.ciphertexts), |p| match p {
            Place::Cipher(stride) => Some(stride),
            Place::Slot(_) | Place::Block(_) => None,
        })?;
        self.check_nesting("block", blocks, |p| match p {
            Place::Block(stride) => Some(stride),
            Place::Slot(_) | Place::Cipher(_) => None,
        })
    }

    fn has_blocks(&self) -> bool {
        self.digits.iter().flatten().any(|d| d.radix > 1 && matches!(d.place, Place::Block(_)))
    }

    fn check_nesting(
        &self,
        what: &'static str,
        limit: u64,
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
        if reach > limit {
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
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

    /// What coordinate `index` of `axis` adds to the position of an element.
    pub fn contribution(&self, axis: Axis, index: u32) -> Contribution {
        let mut rest = index;
        let mut position = Contribution::default();
        for digit in self.axis_digits(axis) {
            let value = rest % digit.radix;
            rest /= digit.radix;
            match digit.place {
                Place::Slot(stride) => position.slot += value * stride,
                Place::Cipher(stride) => position.cipher += value * stride,
                Place::Block(stride) => position.block += value * stride,
            }
        }
        position
    }

    /// The position that contributions add up to.
    pub fn place(&self, sum: Contribution) -> Position {
        let Blocks { slots, per_cipher } = self.blocks;
        Position {
            cipher: sum.cipher + sum.block / per_cipher,
            slot: sum.slot + sum.block % per_cipher * slots,
        }
    }

    /// Contributions of all coordinates of an axis.
    pub fn contributions(&self, axis: Axis) -> Vec<Contribution> {
        (0..self.extent(axis)).map(|i| self.contribution(axis, i)).collect()
    }

    /// Position of element (c, y, x).
    pub fn position(&self, c: u32, y: u32, x: u32) -> Position {
        let sum =
            self.contribution(Axis::C, c) + self.contribution(Axis::Y, y) + self.contribution(Axis::X, x);
        self.place(sum)
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
    /// channel c, `values[element]` when there is one for each element, and 0 at padding.
    pub fn spread_channels(&self, values: &[f64], cipher: u32) -> Vec<f64> {
        let mut slots = vec![0.0; self.period.get() as usize];
        let map = self.shape.h as usize * self.shape.w as usize;
        self.for_each_in(cipher..=cipher, |index, at| {
            slots[at.slot as usize] = match values {
                [value] => *value,
                _ if values.len() == self.shape.len() => values[index],
                _ => values[index / map],
            };
        });
        slots
    }

    /// Calls `visit(row-major index, position)` for every element.
    pub fn for_each(&self, visit: impl FnMut(usize, Position)) {
        self.for_each_in(0..=u32::MAX, visit);
    }

    /// Calls `visit(row-major index, position)` for every element of these ciphertexts. Channels and rows that are elsewhere are
    /// passed over: no contribution is negative, so that the first and the last ciphertext of each are known.
    fn for_each_in(&self, ciphers: RangeInclusive<u32>, mut visit: impl FnMut(usize, Position)) {
        let [cs, ys, xs] = Axis::ALL.map(|a| self.contributions(a));
        let furthest = |of: &[Contribution]| {
            of.iter().fold(Contribution::default(), |far, &c| Contribution {
                cipher: far.cipher.max(c.cipher),
                block: far.block.max(c.block),
                slot: 0,
            })
        };
        let (along_row, along_column) = (furthest(&xs), furthest(&ys));
        let meets = |from: Contribution, reach: Contribution| {
            let (first, last) = (self.place(from).cipher, self.place(from + reach).cipher);
            first <= *ciphers.end() && *ciphers.start() <= last
        };
        let map = ys.len() * xs.len();
        for (c, of_channel) in cs.iter().zip((0..).step_by(map.max(1))) {
            if !meets(*c, along_column + along_row) {
                continue;
            }
            for (y, of_row) in ys.iter().zip((of_channel..).step_by(xs.len().max(1))) {
                let row = *c + *y;
                if !meets(row, along_row) {
                    continue;
                }
                for (x, index) in xs.iter().zip(of_row..) {
                    let at = self.place(row + *x);
                    if ciphers.contains(&at.cipher) {
                        visit(index, at);
                    }
                }
            }
        }
    }

    /// Share of the slots of all ciphertexts' periods that hold an element.
    pub fn occupancy(&self) -> f64 {
        self.shape.len() as f64 / (f64::from(self.period.get()) * f64::from(self.ciphertexts))
    }
}

fn is_cipher(digit: &Digit) -> bool {
    digit.radix > 1 && matches!(digit.place, Place::Cipher(_))
}

#[cfg(test)]
mod tests;
