//! Layouts on blocks of a power of two slots, where channels take the slots above the pixels and wrap around.
//!
//! Offsets between channels cost one diagonal each where channels wrap around, up to twice as many on every digit where they do
//! not. So channels belong above all pixels of a ciphertext. Two things stand in the way. Maps larger than a block have low
//! digits of row and column that count blocks: those pick the ciphertext as long as channels fill the slots ([`Thin::nested`]).
//! Maps smaller than a block by strides leave gaps between their pixels: there the pixels whose slots lie highest move into
//! the gaps ([`Thin::compact`]). Few move at each stride: of 32x32 pixels 16x16 are left, the two highest bits of the row
//! move, and a convolution across the stride takes four times as many diagonals, less than channels in the gaps cost each
//! layer after it. Channels stay where they are; the slots that become free take those of further ciphertexts.

use peregrine_ir::layout::{Blocks, Chw, Digit, Layout, Place};

use super::layouts::finish;

/// A value on a thinned grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thin {
    /// Extents.
    pub(super) shape: Chw,
    /// Radices of the low digits of row and column that count blocks.
    pub(super) low: [u32; 2],
    /// Rows and columns of a block from one pixel to the next.
    pub(super) gaps: [u32; 2],
    /// Columns of a block.
    pub(super) columns: u32,
    /// Slots of a block, a power of two.
    pub(super) block: u32,
    /// Slots of a ciphertext.
    pub(super) slots: u32,
}

/// What takes the blocks of a ciphertext that channels leave empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    /// Low digits of row and column.
    LowDigits,
    /// Copies of the channels.
    Copies,
}

/// Slot bits of a block once strides have thinned its pixels.
struct Bits {
    /// Of the row and of the column, least significant first.
    pixels: [Vec<u32>; 2],
    /// Lowest slot bit and number of bits for channels, in the order in which channels take them.
    channels: Vec<[u32; 2]>,
}

impl Thin {
    /// Low digits of row and column pick the ciphertext; where channels leave blocks of a ciphertext empty the high ones of these
    /// digits may take them, below the channels. Channels fill gaps first.
    pub(super) fn nested(&self, filling: Filling) -> Layout {
        let Self { shape, low: [rows, columns], gaps: [row_gap, column_gap], block, slots, .. } = *self;
        let count = shape.c.div_ceil(row_gap * column_gap);
        let bits = |radix: u32| radix.next_power_of_two().ilog2();
        let (room, rows_of, columns_of) = ((slots / block).ilog2(), bits(rows), bits(columns));
        let below = match filling {
            Filling::LowDigits => room.saturating_sub(bits(count)).min(rows_of + columns_of),
            Filling::Copies => 0,
        };
        let rows_below = below.div_ceil(2).clamp(below.saturating_sub(columns_of), rows_of);
        let columns_below = below - rows_below;
        let [rows_apart, columns_apart] =
            [(rows, rows_below), (columns, columns_below)].map(|(radix, below)| radix.div_ceil(1 << below));
        let in_slots = count.min(1 << (room - below));
        let ciphers = count.div_ceil(in_slots);
        let channel = [
            digit(column_gap, Place::Slot(1)),
            digit(row_gap, Place::Slot(self.columns)),
            Some(Digit { radix: in_slots, place: Place::Slot(block << below) }),
            digit(ciphers, Place::Cipher(rows_apart * columns_apart)),
        ];
        let rest = |extent: u32, low: u32, stride: u32| {
            Some(Digit { radix: extent.div_ceil(low), place: Place::Slot(stride) })
        };
        let row = [
            digit(rows_apart, Place::Cipher(columns_apart)),
            digit(1 << rows_below, Place::Slot(block << columns_below)),
            rest(shape.h, rows_apart << rows_below, self.columns * row_gap),
        ];
        let column = [
            digit(columns_apart, Place::Cipher(1)),
            digit(1 << columns_below, Place::Slot(block)),
            rest(shape.w, columns_apart << columns_below, column_gap),
        ];
        let period = block << (below + bits(in_slots));
        let digits = [channel.into_iter().flatten().collect(), collect(row), collect(column)];
        finish(shape, digits, period, ciphers * rows_apart * columns_apart, Blocks::default())
    }

    /// As [`Self::nested`], but pixels leave no gaps; the channels of a single pixel lie next to each other.
    pub(super) fn compact(&self) -> Layout {
        let pixel = self.shape.h == 1 && self.shape.w == 1;
        let apart = pixel || self.gaps != [1, 1];
        if !apart || self.low != [1, 1] || !self.gaps.iter().all(|gap| gap.is_power_of_two()) {
            return self.nested(Filling::LowDigits);
        }
        let bits = self.bits();
        if pixel {
            return self.pixel(&bits);
        }
        let (mut rest, mut channel) = (self.shape.c, Vec::new());
        for &[at, count] in &bits.channels {
            channel.extend(digit(rest.min(1 << count), Place::Slot(1 << at)));
            rest = rest.div_ceil(1 << count);
        }
        channel.extend(digit(rest, Place::Cipher(1)));
        let reach = |digit: &Digit| match digit.place {
            Place::Slot(stride) => stride * digit.radix.next_power_of_two(),
            Place::Cipher(_) | Place::Block(_) => 1,
        };
        let [row, column] = bits.pixels.map(|bits| runs(&bits));
        let pixels = row.iter().chain(&column).map(reach).fold(1, u32::max);
        let period = channel.iter().map(reach).fold(pixels, u32::max);
        finish(self.shape, [at_least_one(channel), row, column], period, rest, Blocks::default())
    }

    /// Slot bits once every gap has been closed, one halving of the pixels after the other.
    fn bits(&self) -> Bits {
        let (width, whole) = (self.columns.ilog2(), self.block.ilog2());
        let mut pixels: [Vec<u32>; 2] = [(width..whole).collect(), (0..width).collect()];
        let gaps = self.gaps.map(u32::ilog2);
        let mut channels = vec![[whole, self.slots.ilog2() - whole]];
        for step in 0..gaps[0].max(gaps[1]) {
            let before = pixels.iter().map(Vec::len).sum::<usize>() as u32;
            for (bits, gap) in pixels.iter_mut().zip(gaps) {
                if step < gap && !bits.is_empty() {
                    bits.remove(0);
                }
            }
            let left = pixels.iter().map(Vec::len).sum::<usize>() as u32;
            let mut holes: Vec<u32> =
                (0..left).filter(|at| !pixels.iter().flatten().any(|b| b == at)).collect();
            holes.reverse();
            for bit in pixels.iter_mut().rev().flatten().filter(|bit| **bit >= left) {
                *bit = holes.pop().unwrap_or(*bit);
            }
            channels.push([left, before - left]);
        }
        let above = channels.last().map_or(whole, |last| last[0]);
        // Half a ciphertext or less: one after the other, so that the tensor repeats.
        if 2 * self.shape.c <= self.slots >> above {
            channels = vec![[above, self.shape.c.next_power_of_two().ilog2()]];
        }
        Bits { pixels, channels }
    }

    /// A single pixel: channels in the lowest slots. Bits of the channel that are there stay, the others come to where they fit.
    fn pixel(&self, bits: &Bits) -> Layout {
        let size = self.shape.c.next_power_of_two().ilog2();
        let mut places: Vec<Option<u32>> = Vec::new();
        for &[at, count] in &bits.channels {
            let left = size - places.len() as u32;
            places.extend((at..at + count.min(left)).map(|bit| (bit < size).then_some(bit)));
        }
        places.resize(size as usize, None);
        let mut holes = (0..size).filter(|bit| !places.contains(&Some(*bit))).collect::<Vec<_>>().into_iter();
        let taken: Vec<u32> = places.iter().filter_map(|place| place.or_else(|| holes.next())).collect();
        let one = || vec![Digit { radix: 1, place: Place::Slot(1) }];
        let (period, shape) = (1u32 << size, self.shape);
        if period <= self.slots {
            return finish(
                shape,
                [reaching(runs(&taken), shape.c), one(), one()],
                period,
                1,
                Blocks::default(),
            );
        }
        let place = |bit: u32| match (1 << bit) / self.slots {
            0 => Place::Slot(1 << bit),
            stride => Place::Cipher(stride),
        };
        let channel = taken.iter().map(|&bit| Digit { radix: 2, place: place(bit) }).collect();
        finish(shape, [channel, one(), one()], self.slots, period / self.slots, Blocks::default())
    }
}

/// A digit that counts something.
fn digit(radix: u32, place: Place) -> Option<Digit> {
    (radix > 1).then_some(Digit { radix, place })
}

fn collect(digits: impl IntoIterator<Item = Option<Digit>>) -> Vec<Digit> {
    digits.into_iter().flatten().collect()
}

fn at_least_one(mut digits: Vec<Digit>) -> Vec<Digit> {
    if digits.is_empty() {
        digits.push(Digit { radix: 1, place: Place::Slot(1) });
    }
    digits
}

/// Digits of which the last one goes no further than an extent.
fn reaching(mut digits: Vec<Digit>, extent: u32) -> Vec<Digit> {
    let last = digits.pop().map(|last| {
        let before: u32 = digits.iter().map(|digit| digit.radix).product();
        Digit { radix: extent.div_ceil(before), ..last }
    });
    digits.extend(last);
    digits
}

/// Digits for slot bits, those next to each other as one.
fn runs(bits: &[u32]) -> Vec<Digit> {
    let runs = bits.chunk_by(|a, b| a + 1 == *b);
    let digit = |run: &[u32]| Digit { radix: 1 << run.len(), place: Place::Slot(1 << run[0]) };
    at_least_one(runs.map(digit).collect())
}

#[cfg(test)]
mod tests;
