//! Fixed sparse maps of each coordinate: slices, concatenations, resizing.

use peregrine_ir::{AxisMap, Separable};
use rayon::prelude::*;

use crate::tensor::Tensor;

/// Non-zero factors of one coordinate's map: (written, read, factor).
type Entries = Vec<(usize, usize, f32)>;

/// A separable map of NHWC images.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The map, as the tensor level has it: channel, row, column.
    pub map: Separable,
}

impl Placement {
    /// `y = map x`.
    pub fn forward(&self, x: &Tensor, y: &mut Tensor) {
        let steps = [1, 2, 0].map(|axis| step(axis, &self.map.maps[axis], Direction::Forward));
        run(steps, x, y);
    }

    /// `dx` of the gradient `dy`.
    pub fn backward(&self, dy: &Tensor, dx: &mut Tensor) {
        let steps = [0, 2, 1].map(|axis| step(axis, &self.map.maps[axis], Direction::Adjoint));
        run(steps, dy, dx);
    }
}

/// One coordinate's part: axis, factors, extents read and written; no factors for the identity.
struct Step {
    axis: usize,
    entries: Option<Entries>,
    output: usize,
}

/// Which way values go through a map.
#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Adjoint,
}

fn step(axis: usize, map: &AxisMap, direction: Direction) -> Step {
    let forward = map.rows().into_iter().enumerate().flat_map(|(output, row)| {
        row.into_iter().map(move |(input, factor)| (output, input as usize, factor)).collect::<Vec<_>>()
    });
    let (entries, output): (Entries, u32) = match direction {
        Direction::Forward => (forward.collect(), map.output()),
        Direction::Adjoint => {
            (forward.map(|(output, input, factor)| (input, output, factor)).collect(), map.input())
        }
    };
    Step { axis, entries: (!map.is_identity()).then_some(entries), output: output as usize }
}

fn run(steps: [Step; 3], x: &Tensor, y: &mut Tensor) {
    let shape = x.shape;
    y.images_mut().zip(x.images()).for_each(|(y, x)| {
        // Channel, row, column.
        let mut extents = [shape.c, shape.h, shape.w];
        let mut values = x.to_vec();
        for Step { axis, entries, output } in &steps {
            let Some(entries) = entries else { continue };
            let [c, h, w] = extents;
            extents[*axis] = *output;
            let mut next = vec![0.0; extents.iter().product()];
            match axis {
                0 => strided(&values, &mut next, entries, h * w, [c, *output], 1),
                1 => strided(&values, &mut next, entries, 1, [h, *output], w * c),
                _ => strided(&values, &mut next, entries, h, [w, *output], c),
            }
            values = next;
        }
        y.copy_from_slice(&values);
    });
}

/// Maps the middle of three axes: `outer` blocks of `extents` (read, written) rows of `inner` numbers.
fn strided(x: &[f32], y: &mut [f32], entries: &Entries, outer: usize, extents: [usize; 2], inner: usize) {
    let [read, written] = extents.map(|e| e * inner);
    for (x, y) in x.chunks_exact(read).zip(y.chunks_exact_mut(written)).take(outer) {
        for &(output, input, factor) in entries {
            let from = &x[input * inner..][..inner];
            y[output * inner..][..inner].iter_mut().zip(from).for_each(|(y, x)| *y += factor * x);
        }
    }
}
