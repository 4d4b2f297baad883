//! Generalized interleaved packing: the layouts that a value can have.
//!
//! All maps of a network lie on one pixel grid, as large as its largest map. A value whose pixels are `gap` grid pixels apart
//! (the product of the strides before it, over that of the resizes) fills the gaps with its low channel digits (g < 1).
//! A [`Family`] thins the grid by a factor: low digits of row and column then count blocks of slots instead of pixels (g > 1),
//! which makes maps fit ciphertexts that no power of two fits. So a strided convolution moves no pixel: its diagonals
//! depend on kernel taps and channel digits only.

use std::fmt;

use peregrine_ir::layout::{Blocks, Chw, Digit, Layout, Place};
use peregrine_ir::tensor::{TensorGraph, TensorOp};
use peregrine_ir::{AxisMap, EntityId, Slots};

use super::LowerError;
use super::compact::{Filling, Thin};

/// Most pixels of a network's slot grid: far above any ring, small enough for slot arithmetic in 32 bits.
const MAX_GRID: u64 = 1 << 28;
/// Finest grid: grid pixels per pixel of the input.
const MAX_FINENESS: u32 = 64;

/// Extents of a value and the distance of its neighbouring pixels on the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// Extents.
    pub shape: Chw,
    /// Grid pixels between rows and between columns.
    pub gap: [u32; 2],
}

/// How values are laid out on the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// The grid thinned by `factor` in rows and in columns.
    Grid {
        /// Powers of two.
        factor: [u32; 2],
        /// Slots of a block.
        block: BlockSize,
        /// Order of the blocks.
        order: BlockOrder,
    },
    /// One pixel only: channel after channel.
    Dense,
}

/// Slots of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockSize {
    /// The least power of two: channel offsets wrap around the period, which halves the diagonals.
    PowerOfTwo,
    /// What the thinned grid takes: more blocks fit a ciphertext.
    Tight,
}

/// Which blocks share a ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockOrder {
    /// Several channels of one low digit of row and column, or of few where channels do not fill a ciphertext.
    Channels,
    /// All blocks in one row, without a gap at the end of a ciphertext.
    Joint,
    /// As channels, and where pixels are more than one slot apart they move together, so that channels lie above all of them.
    Compact,
    /// As channels, but where channels do not fill a ciphertext their copies do: more ciphertexts, fewer diagonals. For inputs.
    Repeated,
}

impl Family {
    /// Whether pixels move together, those of one pixel into the lowest slots.
    pub fn is_compact(self) -> bool {
        matches!(self, Self::Grid { order: BlockOrder::Compact, .. })
    }

    /// What an input may be besides, where other values are in this family.
    pub fn repeated(self) -> Option<Self> {
        match self {
            Self::Grid { factor, block: BlockSize::PowerOfTwo, .. } => {
                Some(Self::Grid { factor, block: BlockSize::PowerOfTwo, order: BlockOrder::Repeated })
            }
            Self::Grid { block: BlockSize::Tight, .. } | Self::Dense => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grid { factor, block, order } => {
                let block = match block {
                    BlockSize::PowerOfTwo => "pow2",
                    BlockSize::Tight => "tight",
                };
                let order = match order {
                    BlockOrder::Channels => "channels",
                    BlockOrder::Joint => "joint",
                    BlockOrder::Compact => "compact",
                    BlockOrder::Repeated => "repeated",
                };
                match factor {
                    [rows, columns] if rows == columns => write!(f, "grid/{rows} {block} {order}"),
                    [rows, columns] => write!(f, "grid/{rows}x{columns} {block} {order}"),
                }
            }
            Self::Dense => f.write_str("dense"),
        }
    }
}

/// The spreads of all values of a graph, found from extents, strides and separable maps.
///
/// # Errors
/// A value that is no `[1, C, H, W]` or `[1, F]` tensor, or a grid that is too large.
pub fn spreads(graph: &TensorGraph) -> Result<Vec<Spread>, LowerError> {
    let mut pitches: Vec<[Ratio; 2]> = Vec::with_capacity(graph.nodes.len());
    let mut shapes = Vec::with_capacity(graph.nodes.len());
    for (_, node) in graph.nodes.iter() {
        let shape = chw(&node.ty.shape).ok_or_else(|| LowerError::Unsupported {
            layer: node.origin.as_str().to_owned(),
            what: format!("a tensor of shape {:?} cannot be packed", node.ty.shape),
            way_out: "export the model with batch 1 and image tensors [1, C, H, W]".to_owned(),
        })?;
        let of_arg = node.args.first().map_or([Ratio::ONE; 2], |a| pitches[a.index()]);
        let pitch = match &node.op {
            TensorOp::Conv(conv) => [0, 1].map(|a| of_arg[a].times(conv.stride[a], 1)),
            TensorOp::Separable(map) => [0, 1].map(|a| {
                let axis = &map.maps[a + 1];
                // What one pixel is spread over lies where other maps of these extents do: the pool before it may be part of another layer.
                let lies = |(_, s): &(&[Ratio; 2], &Chw)| [s.h, s.w][a] == axis.output();
                let known = pitches.iter().zip(&shapes).rev().find(lies).map(|(pitch, _)| pitch[a]);
                let (up, down) = step(axis);
                let spread = axis.input() == 1 && axis.output() > 1;
                known.filter(|_| spread).unwrap_or_else(|| of_arg[a].times(up, down))
            }),
            _ => of_arg,
        };
        pitches.push(pitch);
        shapes.push(shape);
    }
    // Rows and columns that are one pixel wide need no fine grid.
    let finest = |axis: usize| {
        let wide = pitches.iter().zip(&shapes).filter(|(_, s)| [s.h, s.w][axis] > 1);
        wide.map(|(p, _)| p[axis].down).fold(1, |a, b| lcm(a, b).min(MAX_FINENESS))
    };
    let fineness = [finest(0), finest(1)];
    let spread = |(pitch, &shape): (&[Ratio; 2], &Chw)| {
        let gap = [0, 1].map(|a| (pitch[a].up.saturating_mul(fineness[a]) / pitch[a].down).max(1));
        Spread { shape, gap }
    };
    let spreads: Vec<Spread> = pitches.iter().zip(&shapes).map(spread).collect();
    let [rows, columns] = grid_of(&spreads);
    if rows * columns > MAX_GRID {
        return Err(LowerError::Unsupported {
            layer: graph.name.clone(),
            what: format!("its maps span a grid of {rows}x{columns} pixels"),
            way_out: format!("use a smaller input or smaller strides: {MAX_GRID} pixels are the limit"),
        });
    }
    Ok(spreads)
}

/// A reduced fraction.
#[derive(Clone, Copy)]
struct Ratio {
    up: u32,
    down: u32,
}

impl Ratio {
    const ONE: Self = Self { up: 1, down: 1 };

    fn times(self, up: u32, down: u32) -> Self {
        let (up, down) = (self.up.saturating_mul(up.max(1)), self.down.saturating_mul(down.max(1)));
        let divisor = gcd(up, down);
        Self { up: up / divisor, down: (down / divisor).min(MAX_FINENESS) }
    }
}

/// Input pixels per output pixel of a map of rows or columns, by its longest run.
fn step(map: &AxisMap) -> (u32, u32) {
    let longest = map.runs().iter().filter(|r| r.output_step != 0 && r.input_step != 0);
    match longest.max_by_key(|r| r.count) {
        Some(run) => (run.input_step.unsigned_abs(), run.output_step.unsigned_abs()),
        None => (map.input().div_ceil(map.output()), map.output().div_ceil(map.input())),
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: u32, b: u32) -> u32 {
    (a / gcd(a, b)).saturating_mul(b)
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

/// Rows and columns of the grid: values of one pixel do not widen it.
fn grid_of(spreads: &[Spread]) -> [u64; 2] {
    let mut grid = [1, 1];
    for Spread { shape, gap } in spreads.iter().filter(|s| s.shape.h > 1 || s.shape.w > 1) {
        grid[0] = grid[0].max(u64::from(shape.h) * u64::from(gap[0]));
        grid[1] = grid[1].max(u64::from(shape.w) * u64::from(gap[1]));
    }
    grid
}

/// A grid for ciphertexts of a number of slots.
#[derive(Clone, Debug)]
pub struct Grid {
    spreads: Vec<Spread>,
    slots: u32,
}

/// The thinned grid of one family: rows and columns of a block, its slots.
#[derive(Clone, Copy)]
struct Thinned {
    factor: [u32; 2],
    rows: u32,
    columns: u32,
    block: u32,
}

impl Grid {
    /// The grid that the values of `spreads` lie on.
    pub fn new(spreads: &[Spread], slots: u32) -> Self {
        Self { spreads: spreads.to_vec(), slots }
    }

    /// Slots of a ciphertext.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Blocks and their orders that families are made of.
    const WAYS: [(BlockSize, BlockOrder); 5] = [
        (BlockSize::PowerOfTwo, BlockOrder::Channels),
        (BlockSize::PowerOfTwo, BlockOrder::Joint),
        (BlockSize::PowerOfTwo, BlockOrder::Compact),
        (BlockSize::Tight, BlockOrder::Channels),
        (BlockSize::Tight, BlockOrder::Joint),
    ];

    /// The families whose blocks fit a ciphertext: least thinned first, at most three factors, and between them twice as thin in
    /// rows as in columns.
    pub fn families(&self) -> Vec<Family> {
        let fits = |factor: [u32; 2], block: BlockSize| self.thinned(factor, block).is_some();
        let first = (0..14).map(|log| 1 << log).find(|&f| fits([f, f], BlockSize::PowerOfTwo));
        let Some(first) = first else { return Vec::new() };
        let mut families = Vec::new();
        let (second, third) = (2 * first, 4 * first);
        let factors = [[first; 2], [second, first], [second; 2], [third, second], [third; 2]];
        for factor in factors {
            for (block, order) in Self::WAYS {
                let square = factor[0] == factor[1];
                let closes = order != BlockOrder::Compact || self.closes(factor, block);
                let considered = square || block == BlockSize::PowerOfTwo && order != BlockOrder::Joint;
                let splits = factor == [first; 2] || self.split(factor);
                if closes && considered && splits && fits(factor, block) {
                    families.push(Family::Grid { factor, block, order });
                }
            }
        }
        families
    }

    /// Whether thinning by `factor` still splits a map: beyond that families repeat.
    fn split(&self, [rows, columns]: [u32; 2]) -> bool {
        self.spreads.iter().any(|Spread { shape, gap }| {
            (gap[0] < rows || gap[1] < columns) && (shape.h > rows || shape.w > columns)
        })
    }

    /// Whether gaps between pixels can be closed: blocks are powers of two in both directions.
    fn closes(&self, factor: [u32; 2], block: BlockSize) -> bool {
        let square = |thinned: Thinned| {
            let [rows, columns] = [thinned.rows, thinned.columns].map(u32::next_power_of_two);
            u64::from(rows) * u64::from(columns) <= u64::from(thinned.block)
        };
        block == BlockSize::PowerOfTwo && self.thinned(factor, block).is_some_and(square)
    }

    fn thinned(&self, factor: [u32; 2], block: BlockSize) -> Option<Thinned> {
        let mut extents = [1u64, 1];
        for Spread { shape, gap } in self.spreads.iter().filter(|s| s.shape.h > 1 || s.shape.w > 1) {
            for (axis, extent) in [shape.h, shape.w].into_iter().enumerate() {
                let (radix, inner) = thin(gap[axis], factor[axis]);
                extents[axis] = extents[axis].max(u64::from(extent.div_ceil(radix)) * u64::from(inner));
            }
        }
        let pixels = extents[0] * extents[1];
        let block = match block {
            BlockSize::PowerOfTwo => pixels.next_power_of_two(),
            BlockSize::Tight => pixels,
        };
        let fits = block <= u64::from(self.slots);
        let [rows, columns] = extents.map(|extent| extent as u32);
        fits.then_some(Thinned { factor, rows, columns, block: block as u32 })
    }

    /// The layout of a value in a family.
    ///
    /// # Errors
    /// A bug: a family that [`Self::families`] does not list.
    pub fn layout(&self, spread: Spread, family: Family) -> Result<Layout, LowerError> {
        let layout = match family {
            Family::Dense if spread.shape.h == 1 && spread.shape.w == 1 => self.dense(spread.shape),
            Family::Dense => return Err(LowerError::bug("a dense layout of more than one pixel")),
            Family::Grid { factor, block, order } => {
                let thinned = self
                    .thinned(factor, block)
                    .ok_or_else(|| LowerError::bug(format!("{family} does not fit a ciphertext")))?;
                self.on_grid(spread, thinned, order)
            }
        };
        layout.check().map_err(|e| LowerError::bug(format!("{family} of {}: {e}", spread.shape)))?;
        Ok(layout)
    }

    fn dense(&self, shape: Chw) -> Layout {
        let ones = vec![Digit { radix: 1, place: Place::Slot(1) }];
        let in_slots = shape.c.min(self.slots);
        let (period, ciphertexts) = (in_slots.next_power_of_two(), shape.c.div_ceil(in_slots));
        let channel = vec![
            Digit { radix: in_slots, place: Place::Slot(1) },
            Digit { radix: ciphertexts, place: Place::Cipher(1) },
        ];
        let channel = channel.into_iter().take(if ciphertexts > 1 { 2 } else { 1 }).collect();
        finish(shape, [channel, ones.clone(), ones], period, ciphertexts, Blocks::default())
    }

    fn on_grid(&self, Spread { shape, gap }: Spread, thinned: Thinned, order: BlockOrder) -> Layout {
        let [(rows, row_gap), (columns, column_gap)] =
            [0, 1].map(|axis| thin(gap[axis], thinned.factor[axis]));
        // A value of one pixel has room for channels in its gaps only as far as the block reaches.
        let width = match order {
            BlockOrder::Compact => thinned.columns.next_power_of_two(),
            BlockOrder::Channels | BlockOrder::Joint | BlockOrder::Repeated => thinned.columns,
        };
        let row_gap = row_gap.min((thinned.block / width).max(1));
        let column_gap = column_gap.min(width);
        let (rows, columns) = (rows.min(shape.h), columns.min(shape.w));
        if thinned.block.is_power_of_two() {
            let (block, gaps) = (thinned.block, [row_gap, column_gap]);
            let thin = Thin { shape, low: [rows, columns], gaps, columns: width, block, slots: self.slots };
            match order {
                BlockOrder::Compact => return thin.compact(),
                BlockOrder::Channels => return thin.nested(Filling::LowDigits),
                BlockOrder::Repeated => return thin.nested(Filling::Copies),
                BlockOrder::Joint if rows * columns == 1 => return thin.nested(Filling::LowDigits),
                BlockOrder::Joint => {}
            }
        }
        let mut channel = Vec::new();
        for (radix, stride) in [(column_gap, 1), (row_gap, thinned.columns)] {
            if radix > 1 {
                channel.push(Digit { radix, place: Place::Slot(stride) });
            }
        }
        let counted = Counted {
            count: shape.c.div_ceil(row_gap * column_gap),
            block: thinned.block,
            per_cipher: self.slots / thinned.block,
            parities: rows * columns,
            slots: self.slots,
        };
        let (in_slots, joint) = (counted.all_in_slots(), counted.joint());
        let digits = |channel: Vec<Digit>, row: Place, column: Place| {
            let split = |radix: u32, place: Place, extent: u32, stride: u32| {
                let rest = Digit { radix: extent.div_ceil(radix), place: Place::Slot(stride) };
                if radix > 1 { vec![Digit { radix, place }, rest] } else { vec![rest] }
            };
            let y = split(rows, row, shape.h, thinned.columns * row_gap);
            [channel, y, split(columns, column, shape.w, column_gap)]
        };
        let place = |stride: u32| match in_slots {
            Some(_) => Place::Slot(stride * thinned.block),
            None => Place::Block(stride),
        };
        // Channels next to each other, or the blocks of a channel.
        let (of_channel, of_parity) = match order {
            BlockOrder::Channels | BlockOrder::Repeated => (1, counted.count),
            BlockOrder::Joint | BlockOrder::Compact => (counted.parities, 1),
        };
        channel.push(Digit { radix: counted.count, place: place(of_channel) });
        let digits = digits(channel, place(of_parity * columns), place(of_parity));
        match in_slots {
            Some(period) => finish(shape, digits, period, 1, Blocks::default()),
            None => finish(shape, digits, self.slots, joint.1, joint.0),
        }
    }
}

/// Blocks to be placed: `count` of channels for each of `parities` row and column digits.
#[derive(Clone, Copy)]
struct Counted {
    count: u32,
    block: u32,
    per_cipher: u32,
    parities: u32,
    slots: u32,
}

impl Counted {
    /// The period when all blocks fit one ciphertext.
    fn all_in_slots(&self) -> Option<u32> {
        let blocks = u64::from(self.count) * u64::from(self.parities);
        let period = (blocks * u64::from(self.block)).next_power_of_two();
        (blocks <= u64::from(self.per_cipher)).then_some(period.min(u64::from(self.slots)) as u32)
    }

    /// Blocks one after the other over all ciphertexts.
    fn joint(&self) -> (Blocks, u32) {
        let blocks = self.count.saturating_mul(self.parities);
        (Blocks { slots: self.block, per_cipher: self.per_cipher }, blocks.div_ceil(self.per_cipher))
    }
}

/// A gap on a grid thinned by `factor`: radix of the digit that counts blocks, and the gap that is left.
fn thin(gap: u32, factor: u32) -> (u32, u32) {
    let common = gcd(gap, factor);
    (factor / common, gap / common)
}

pub(super) fn finish(
    shape: Chw,
    digits: [Vec<Digit>; 3],
    period: u32,
    ciphertexts: u32,
    blocks: Blocks,
) -> Layout {
    let period = Slots::new(period).expect("periods are powers of two within the slots");
    Layout { shape, digits, period, ciphertexts, blocks }
}

#[cfg(test)]
mod tests {
    use peregrine_ir::Separable;

    use super::*;
    use crate::tensor::testing::Net;

    fn spread(c: u32, side: u32, gap: u32) -> Spread {
        Spread { shape: Chw { c, h: side, w: side }, gap: [gap, gap] }
    }

    /// Twice: a pool that became part of the layer after it, and its result spread over the map again.
    #[test]
    fn channel_attention_leaves_the_grid_as_it_is() {
        let mut net = Net::new(&[4, 8, 8]);
        let mut x = net.input;
        for _ in 0..2 {
            let a = net.conv(x, 4, 8, 1, [0; 4], 1);
            let rows = || AxisMap::gather(1, &[0; 8]).unwrap();
            let map = Separable { maps: [AxisMap::identity(4), rows(), rows()] };
            let up = net.add(TensorOp::Separable(map), &[a]);
            x = net.add(TensorOp::Add, &[up, x]);
        }
        let spreads = spreads(&net.output(x)).unwrap();
        let gaps: Vec<[u32; 2]> = spreads.iter().map(|s| s.gap).collect();
        assert_eq!(gaps, [[1, 1]; 7]);
        assert_eq!(grid_of(&spreads), [8, 8]);
    }

    #[test]
    fn every_family_lays_out_every_value() {
        let nets: [&[Spread]; 5] = [
            &[spread(3, 224, 1), spread(32, 112, 2), spread(320, 7, 32), spread(1280, 1, 32)],
            &[spread(3, 96, 1), spread(8, 32, 3), spread(40, 11, 9), spread(5, 1, 9)],
            &[spread(1, 33, 1), spread(6, 17, 2), spread(3, 66, 1)],
            &[spread(3, 320, 1), spread(16, 160, 2), spread(64, 20, 16), spread(16, 40, 8)],
            &[spread(7, 1, 1), spread(3, 1, 1)],
        ];
        for net in nets {
            for slots in [1 << 12, 1 << 15] {
                let grid = Grid::new(net, slots);
                assert!(!grid.families().is_empty());
                let repeated = grid.families().into_iter().filter_map(Family::repeated);
                for family in grid.families().into_iter().chain(repeated) {
                    for &value in net {
                        let layout = grid.layout(value, family).unwrap();
                        assert!(layout.period.get() <= slots, "{family} {layout:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn large_maps_fill_nine_slots_of_ten() {
        for (side, channels) in [(112, 32), (112, 96), (160, 16), (160, 64), (512, 3), (512, 16)] {
            let value = spread(channels, side, 1);
            let grid = Grid::new(&[value], 1 << 15);
            let of = |family| grid.layout(value, family).unwrap().occupancy();
            let best = grid.families().into_iter().map(of).fold(0.0, f64::max);
            assert!(best >= 0.9, "{channels}x{side}x{side}: {best}");
        }
    }
}
