//! Generalized interleaved packing: a layout for every value of a tensor graph.
//!
//! All maps of a network share one slot grid, as large as its largest map. A value whose map is smaller by `gap` (the product of
//! the strides before it) keeps its pixels `gap` apart and fills the gaps with its low channel digits (g < 1). A map larger
//! than the ciphertext spreads its low row and column digits over ciphertexts (g > 1). Values without spatial extent are dense
//! in the channel. So a strided convolution moves no pixel: its diagonals depend on kernel taps and channel digits only.

use peregrine_ir::layout::{Chw, Digit, Layout, Place};
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use peregrine_ir::{EntityId, Slots, ValueId};

use super::LowerError;

/// Most pixels of a network's slot grid: far above any ring, small enough for slot arithmetic in 32 bits.
const MAX_GRID: u64 = 1 << 28;

/// Distance of neighbouring pixels of a value on the network's slot grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// Rows and columns are this far apart.
    Gap([u32; 2]),
    /// One pixel only: channels are dense.
    Dense,
}

/// The layouts of all values of a graph, found from extents and strides alone.
#[derive(Debug)]
pub struct LayoutPlan {
    spreads: Vec<Spread>,
    shapes: Vec<Chw>,
    grid: [u32; 2],
    slots: u32,
}

impl LayoutPlan {
    /// Plans layouts for ciphertexts of `slots` slots.
    ///
    /// # Errors
    /// A value that is no `[1, C, H, W]` or `[1, F]` tensor.
    pub fn of(graph: &TensorGraph, slots: u32) -> Result<Self, LowerError> {
        let mut spreads: Vec<Spread> = Vec::with_capacity(graph.nodes.len());
        let mut shapes = Vec::with_capacity(graph.nodes.len());
        for (_, node) in graph.nodes.iter() {
            let shape = chw(&node.ty.shape).ok_or_else(|| LowerError::Unsupported {
                layer: node.origin.as_str().to_owned(),
                what: format!("a tensor of shape {:?} cannot be packed", node.ty.shape),
                way_out: "export the model with batch 1 and image tensors [1, C, H, W]".to_owned(),
            })?;
            let of_arg = |i: usize| node.args.get(i).map(|a| spreads[a.index()]);
            let spread = match &node.op {
                TensorOp::Input { .. } => Spread::Gap([1, 1]),
                TensorOp::Conv(conv) => match of_arg(0) {
                    Some(Spread::Gap([y, x])) => {
                        Spread::Gap([y.saturating_mul(conv.stride[0]), x.saturating_mul(conv.stride[1])])
                    }
                    _ => Spread::Dense,
                },
                _ => of_arg(0).unwrap_or(Spread::Gap([1, 1])),
            };
            spreads.push(if shape.h == 1 && shape.w == 1 { Spread::Dense } else { spread });
            shapes.push(shape);
        }
        let grid = grid_of(&spreads, &shapes);
        if u64::from(grid[0]) * u64::from(grid[1]) > MAX_GRID {
            return Err(LowerError::Unsupported {
                layer: graph.name.clone(),
                what: format!("its maps span a grid of {}x{} pixels", grid[0], grid[1]),
                way_out: format!("use a smaller input or smaller strides: {MAX_GRID} pixels are the limit"),
            });
        }
        Ok(Self { spreads, shapes, grid, slots })
    }

    /// Layout of `value`.
    ///
    /// # Errors
    /// A map that would have to be split over ciphertexts by a stride that is no power of two.
    pub fn layout(&self, value: ValueId, layer: &str) -> Result<Layout, LowerError> {
        let shape = self.shapes[value.index()];
        let layout = match self.spreads[value.index()] {
            Spread::Dense => self.dense(shape),
            Spread::Gap(gap) => {
                let factor = self.split_factor();
                if factor == 1 {
                    self.gapped(shape, gap, self.grid)
                } else {
                    self.interleaved(shape, gap, factor, layer)?
                }
            }
        };
        layout.check().map_err(|e| LowerError::bug(format!("{layer}: {e}")))?;
        Ok(layout)
    }

    /// Smallest power of two g such that a map of the grid, thinned by g in rows and columns, fits the slots.
    fn split_factor(&self) -> u32 {
        let fits = |g: u32| block_of(self.grid.map(|e| e.div_ceil(g))) <= self.slots;
        std::iter::successors(Some(1u32), |g| Some(g * 2)).find(|&g| fits(g)).unwrap_or(1)
    }

    fn dense(&self, shape: Chw) -> Layout {
        let channels = channel_digits(shape.c, 1, self.slots, 1);
        let ones = vec![Digit { radix: 1, place: Place::Slot(1) }];
        self.finish(shape, [channels.0, ones.clone(), ones], channels.1, channels.2)
    }

    fn gapped(&self, shape: Chw, gap: [u32; 2], grid: [u32; 2]) -> Layout {
        let (row, block) = (grid[1], block_of(grid));
        let mut channel = Vec::new();
        for (radix, stride) in [(gap[1], 1), (gap[0], row)] {
            if radix > 1 {
                channel.push(Digit { radix, place: Place::Slot(stride) });
            }
        }
        let (blocks, period, ciphertexts) =
            channel_digits(shape.c.div_ceil(gap[0] * gap[1]), block, self.slots, 1);
        channel.extend(blocks);
        let y = vec![Digit { radix: shape.h, place: Place::Slot(row * gap[0]) }];
        let x = vec![Digit { radix: shape.w, place: Place::Slot(gap[1]) }];
        self.finish(shape, [channel, y, x], period, ciphertexts)
    }

    fn interleaved(&self, shape: Chw, gap: [u32; 2], factor: u32, layer: &str) -> Result<Layout, LowerError> {
        let grid = self.grid.map(|e| e.div_ceil(factor));
        if gap.iter().all(|&g| g % factor == 0) {
            return Ok(self.gapped(shape, gap.map(|g| g / factor), grid));
        }
        if gap[0] != gap[1] || !factor.is_multiple_of(gap[0]) {
            return Err(LowerError::Unsupported {
                layer: layer.to_owned(),
                what: format!("a map {shape} at stride {}x{} does not fit one ciphertext", gap[0], gap[1]),
                way_out: "use equal power-of-two strides in rows and columns, or a smaller input".to_owned(),
            });
        }
        let ratio = factor / gap[0];
        let (row, block) = (grid[1], block_of(grid));
        let split = |extent: u32, cipher: u32, slot: u32| {
            vec![
                Digit { radix: ratio, place: Place::Cipher(cipher) },
                Digit { radix: extent.div_ceil(ratio), place: Place::Slot(slot) },
            ]
        };
        let (channel, period, ciphertexts) = channel_digits(shape.c, block, self.slots, ratio * ratio);
        let digits = [channel, split(shape.h, ratio, row), split(shape.w, 1, 1)];
        Ok(self.finish(shape, digits, period, ciphertexts))
    }

    fn finish(&self, shape: Chw, digits: [Vec<Digit>; 3], period: u32, ciphertexts: u32) -> Layout {
        let period = Slots::new(period).expect("periods are products of powers of two");
        Layout { shape, digits, period, ciphertexts }
    }
}

/// `[1, C, H, W]` or `[1, F]` as channels, rows, columns.
pub fn chw(shape: &[usize]) -> Option<Chw> {
    let extent = |e: usize| u32::try_from(e).ok().filter(|&e| e > 0);
    match *shape {
        [1, c, h, w] => Some(Chw { c: extent(c)?, h: extent(h)?, w: extent(w)? }),
        [1, f] => Some(Chw { c: extent(f)?, h: 1, w: 1 }),
        _ => None,
    }
}

fn grid_of(spreads: &[Spread], shapes: &[Chw]) -> [u32; 2] {
    let mut grid = [1, 1];
    for (spread, shape) in spreads.iter().zip(shapes) {
        if let Spread::Gap([y, x]) = spread {
            grid = [grid[0].max(shape.h.saturating_mul(*y)), grid[1].max(shape.w.saturating_mul(*x))];
        }
    }
    grid
}

/// Slots that one thinned map takes: a power of two, so that channel offsets wrap around the period.
fn block_of(grid: [u32; 2]) -> u32 {
    (grid[0] * grid[1]).next_power_of_two()
}

/// Digits for `count` channel blocks of `block` slots: slots first, then ciphertexts at `cipher_stride`.
/// Also the period and the number of ciphertexts.
fn channel_digits(count: u32, block: u32, slots: u32, cipher_stride: u32) -> (Vec<Digit>, u32, u32) {
    let per_cipher = slots / block;
    if count <= per_cipher {
        let digit = Digit { radix: count, place: Place::Slot(block) };
        let period = if cipher_stride == 1 { count.next_power_of_two() * block } else { slots };
        return (vec![digit], period, cipher_stride);
    }
    let ciphers = count.div_ceil(per_cipher);
    let digits = vec![
        Digit { radix: per_cipher, place: Place::Slot(block) },
        Digit { radix: ciphers, place: Place::Cipher(cipher_stride) },
    ];
    (digits, slots, ciphers * cipher_stride)
}
