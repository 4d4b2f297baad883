//! From an index map to operations: a map of elements is cut into blocks of channels, rows and columns inside which each output
//! coordinate alone decides the input coordinate; each block is one separable map, their sum is the movement. A channel shuffle
//! or a crop is one block, a space-to-depth of 2x2 four. What needs too many blocks is refused.

use std::collections::BTreeMap;

use peregrine_ir::{AxisEntry, AxisError, AxisMap, Separable};

use super::view::NOWHERE;

/// Most blocks of a movement.
pub(crate) const MAX_BLOCKS: usize = 64;

/// Why a movement has no separable form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NoForm {
    /// More than [`MAX_BLOCKS`] blocks.
    Blocks(usize),
    /// A map of a coordinate is refused.
    Axis(AxisError),
}

impl From<AxisError> for NoForm {
    fn from(error: AxisError) -> Self {
        Self::Axis(error)
    }
}

/// The separable maps whose sum moves element `table[i]` of a tensor of extents `from` to element i of one of extents `to`.
pub(crate) fn decompose(table: &[u32], from: [usize; 3], to: [usize; 3]) -> Result<Vec<Separable>, NoForm> {
    let sources = Sources { table, from, to };
    let classes = sources.classes();
    let [channels, rows, columns] = &classes;
    let mut blocks = Vec::new();
    for c in channels {
        for y in rows {
            for x in columns {
                if sources.at([c[0], y[0], x[0]]).is_some() {
                    blocks.push([c, y, x]);
                }
            }
        }
        if blocks.len() > MAX_BLOCKS {
            return Err(NoForm::Blocks(channels.len() * rows.len() * columns.len()));
        }
    }
    blocks.into_iter().map(|block| sources.separable(block)).collect()
}

struct Sources<'a> {
    table: &'a [u32],
    from: [usize; 3],
    to: [usize; 3],
}

impl Sources<'_> {
    /// Source coordinates of an output element.
    fn at(&self, [c, y, x]: [usize; 3]) -> Option<[u32; 3]> {
        let at = self.table[(c * self.to[1] + y) * self.to[2] + x];
        (at != NOWHERE).then(|| self.split(at))
    }

    fn split(&self, at: u32) -> [u32; 3] {
        let [_, h, w] = self.from.map(|e| e as u32);
        [at / (h * w), at / w % h, at % w]
    }

    /// Output coordinates of each axis by what the other two source coordinates are all over the plane: two channels are
    /// of one class when their planes read the same rows and columns, and so on.
    fn classes(&self) -> [Vec<Vec<usize>>; 3] {
        let mut keys = self.to.map(|extent| vec![0u64; extent]);
        let mut index = 0;
        for c in 0..self.to[0] {
            for y in 0..self.to[1] {
                for x in 0..self.to[2] {
                    let at = self.table[index];
                    index += 1;
                    let [sc, sy, sx] = if at == NOWHERE { [u32::MAX; 3] } else { self.split(at) };
                    mix(&mut keys[0][c], sy, sx);
                    mix(&mut keys[1][y], sc, sx);
                    mix(&mut keys[2][x], sc, sy);
                }
            }
        }
        keys.map(|keys| {
            let mut order: BTreeMap<u64, usize> = BTreeMap::new();
            let mut classes: Vec<Vec<usize>> = Vec::new();
            for (at, key) in keys.into_iter().enumerate() {
                let class = *order.entry(key).or_insert(classes.len());
                if class == classes.len() {
                    classes.push(Vec::new());
                }
                classes[class].push(at);
            }
            classes
        })
    }

    /// Inside a block each source coordinate depends on its own output coordinate only.
    fn separable(&self, block: [&Vec<usize>; 3]) -> Result<Separable, NoForm> {
        let first = block.map(|class| class[0]);
        let map = |axis: usize| -> Result<AxisMap, NoForm> {
            let entry = |&at: &usize| {
                let mut place = first;
                place[axis] = at;
                let source = self.at(place)?;
                Some(AxisEntry { output: at as u32, input: source[axis], factor: 1.0 })
            };
            let entries: Vec<AxisEntry> = block[axis].iter().filter_map(entry).collect();
            Ok(AxisMap::from_entries(self.from[axis] as u32, self.to[axis] as u32, &entries)?)
        };
        Ok(Separable { maps: [map(0)?, map(1)?, map(2)?] })
    }
}

/// Order matters: planes are walked in one order, so that equal planes have equal keys.
fn mix(key: &mut u64, a: u32, b: u32) {
    let word = u64::from(a) << 32 | u64::from(b);
    *key =
        (key.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x5851_f42d_4c95_7f2d);
}

#[cfg(test)]
mod tests {
    use peregrine_ir::ValueId;

    use super::super::view::View;
    use super::*;

    /// Decomposes and applies to the numbers 1, 2, ..: the sum must be the movement.
    fn blocks(view: &View, from: [usize; 3], to: [usize; 3]) -> usize {
        let table = &view.parts[0].table;
        let maps = decompose(table, from, to).unwrap();
        let mut found = vec![0.0f32; table.len()];
        for map in &maps {
            let rows = [0, 1, 2].map(|a| map.maps[a].rows());
            for (i, out) in found.iter_mut().enumerate() {
                let place = [i / (to[1] * to[2]), i / to[2] % to[1], i % to[2]];
                let read = |a: usize| rows[a][place[a]].first().map(|e| e.0 as usize);
                if let (Some(c), Some(y), Some(x)) = (read(0), read(1), read(2)) {
                    *out += ((c * from[1] + y) * from[2] + x + 1) as f32;
                }
            }
        }
        let expected: Vec<f32> =
            table.iter().map(|&at| if at == NOWHERE { 0.0 } else { (at + 1) as f32 }).collect();
        assert_eq!(found, expected);
        maps.len()
    }

    fn x(c: usize, h: usize, w: usize) -> View {
        View::of(ValueId(0), &[1, c, h, w])
    }

    #[test]
    fn shuffles_and_crops_are_one_block() {
        let shuffled = x(6, 2, 3).reshaped(vec![1, 2, 3, 2, 3]).permuted(&[0, 2, 1, 3, 4]);
        assert_eq!(blocks(&shuffled, [6, 2, 3], [6, 2, 3]), 1);
        let axes = [vec![0], vec![5, 0], vec![1, NOWHERE, 0], vec![2, 2]];
        assert_eq!(blocks(&x(6, 2, 3).indexed(&axes, 0.0), [6, 2, 3], [2, 3, 2]), 1);
    }

    #[test]
    fn space_to_depth_and_back_are_four() {
        let deep = x(3, 4, 6).reshaped(vec![1, 3, 2, 2, 3, 2]).permuted(&[0, 3, 5, 1, 2, 4]);
        assert_eq!(blocks(&deep, [3, 4, 6], [12, 2, 3]), 4);
        let wide = x(12, 2, 3).reshaped(vec![1, 2, 2, 3, 2, 3]).permuted(&[0, 3, 4, 1, 5, 2]);
        assert_eq!(blocks(&wide, [12, 2, 3], [3, 4, 6]), 4);
    }

    #[test]
    fn a_transpose_of_large_maps_is_refused() {
        let turned = x(1, 16, 16).permuted(&[0, 1, 3, 2]);
        assert!(matches!(
            decompose(&turned.parts[0].table, [1, 16, 16], [1, 16, 16]),
            Err(NoForm::Blocks(256))
        ));
    }
}
