//! Separable maps of a batch: one coordinate after the other.

use peregrine_ir::{AxisMap, Separable};
use rayon::prelude::*;

/// Applies the map to every image of `x`.
pub(super) fn apply(map: &Separable, x: &[f32]) -> Vec<f32> {
    // Coordinates that shrink go first, so that those that grow meet less.
    let mut axes = [0, 1, 2];
    axes.sort_by_key(|&axis| growth(&map.maps[axis]));
    let mut extents = map.input().map(|e| e as usize);
    let mut values = x.to_vec();
    for axis in axes {
        if !map.maps[axis].is_identity() {
            let inner: usize = extents[axis + 1..].iter().product();
            values = apply_axis(&map.maps[axis], &values, inner);
            extents[axis] = map.maps[axis].output() as usize;
        }
    }
    values
}

/// Output extent in 1/1024 of the input extent.
fn growth(map: &AxisMap) -> u64 {
    u64::from(map.output()) * 1024 / u64::from(map.input())
}

/// One coordinate: `x` is `[.., map.input(), inner]`.
fn apply_axis(map: &AxisMap, x: &[f32], inner: usize) -> Vec<f32> {
    let rows = map.rows();
    let (block_in, block_out) = (map.input() as usize * inner, map.output() as usize * inner);
    let mut out = vec![0.0; x.len() / block_in * block_out];
    out.par_chunks_mut(block_out).zip(x.par_chunks(block_in)).for_each(|(out, x)| {
        for (row, out) in rows.iter().zip(out.chunks_mut(inner)) {
            for &(input, factor) in row {
                let x = &x[input as usize * inner..][..inner];
                out.iter_mut().zip(x).for_each(|(o, &v)| *o += factor * v);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use peregrine_ir::Separable;

    use super::*;

    #[test]
    fn coordinates_are_mapped_independently() {
        let window = |input, output, start, step| AxisMap::window(input, output, start, step).unwrap();
        let repeat = AxisMap::gather(2, &[0, 0, 1, 1]).unwrap();
        let mean = AxisMap::collect(4, 2, (0..4).map(|i| (i / 2, i, 0.5))).unwrap();
        let map = Separable { maps: [window(2, 3, -1, 1), repeat, mean] };
        let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let two: Vec<f32> = x.iter().chain(&x).copied().collect();
        let image = [
            [0.0; 8],
            [0.5, 2.5, 0.5, 2.5, 4.5, 6.5, 4.5, 6.5],
            [8.5, 10.5, 8.5, 10.5, 12.5, 14.5, 12.5, 14.5],
        ];
        assert_eq!(apply(&map, &x), image.concat());
        assert_eq!(apply(&map, &two), [image.concat(), image.concat()].concat());
    }
}
