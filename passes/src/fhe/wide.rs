//! Views that no convolution should read.
//!
//! A convolution of a view has diagonals for every sum of an offset of its kernel and one of the view, and for every offset between
//! channels. Where it mixes channels an average pool of 5x5 before a pointwise convolution takes 25 times its diagonals, three of them
//! in a row 169 times. Such views are made, each from what all of them are views of: a level, but one diagonal for each of their own
//! offsets. Maps of a single pixel are left alone: a global average costs its readers nothing but folds.

use peregrine_ir::tensor::{TensorGraph, TensorOp};
use peregrine_ir::{AxisMap, EntityId, Separable, ValueId};

use super::views::Term;

/// Beyond this many times the diagonals a level and the error that it adds are cheaper: pools of 3x3 are read, those of 5x5 made.
const MOST_GROWTH: f64 = 12.0;
/// Views of more elements than this are made of made ones.
const MOST_TAPS: u32 = 1 << 8;

/// Who reads the values of a graph.
pub(super) struct Readers<'a> {
    graph: &'a TensorGraph,
    users: Vec<Vec<ValueId>>,
}

impl<'a> Readers<'a> {
    pub(super) fn of(graph: &'a TensorGraph) -> Self {
        Self { graph, users: graph.users() }
    }

    /// Whether a convolution that reads a value as these views has too many diagonals.
    pub(super) fn find_wide<'m>(&self, value: ValueId, views: impl Iterator<Item = &'m Separable>) -> bool {
        let windows: Vec<[Window; 2]> =
            views.map(|view| [1, 2].map(|axis| Window::of(&view.maps[axis]))).collect();
        if windows.iter().all(|[rows, columns]| f64::from(rows.taps * columns.taps) <= MOST_GROWTH) {
            return false;
        }
        let kernels = self.kernels(value);
        let growth = |windows: &[Window; 2], kernel: &[u32; 2]| -> f64 {
            windows.iter().zip(kernel).map(|(window, &kernel)| window.growth(kernel)).product()
        };
        windows.iter().any(|windows| kernels.iter().any(|kernel| growth(windows, kernel) > MOST_GROWTH))
    }

    /// Kernels of the convolutions that mix channels for maps of more than one pixel and read a value as it is or parts of it.
    fn kernels(&self, value: ValueId) -> Vec<[u32; 2]> {
        let (mut kernels, mut left, mut seen) = (Vec::new(), vec![value], vec![false; self.users.len()]);
        while let Some(value) = left.pop() {
            if std::mem::replace(&mut seen[value.index()], true) {
                continue;
            }
            for &user in &self.users[value.index()] {
                let node = &self.graph.nodes[user];
                match &node.op {
                    TensorOp::Conv(conv) => {
                        let shape = &self.graph.tables.consts[conv.weights].shape;
                        if shape[1] > 1 && node.ty.shape[2..].iter().any(|&extent| extent > 1) {
                            kernels.push([shape[2] as u32, shape[3] as u32]);
                        }
                    }
                    // Others decide for themselves.
                    TensorOp::Separable(map) if map.maps[1..].iter().all(|m| Window::of(m).taps <= 1) => {
                        left.push(user);
                    }
                    TensorOp::Add | TensorOp::Reshape { .. } => left.push(user),
                    _ => {}
                }
            }
        }
        kernels
    }
}

/// Whether a map of a convolution's result makes its kernel too wide.
pub(super) fn widens(map: &Separable, terms: &[Term]) -> bool {
    let [_, rows, columns] = map.output();
    let growth = |term: &Term| -> f64 {
        let geometry = &term.geometry;
        let axis = |a: usize| {
            let (taps, kernel) = (Window::of(&map.maps[a + 1]).taps, geometry.kernel[a]);
            let reached = (taps.saturating_sub(1)) * geometry.stride[a] + kernel;
            f64::from(reached.min(taps.max(1) * kernel)) / f64::from(kernel)
        };
        if geometry.groups == 1 && term.before.maps[0].output() > 1 { axis(0) * axis(1) } else { 1.0 }
    };
    rows * columns > 1 && terms.iter().any(|term| growth(term) > MOST_GROWTH)
}

/// Whether a map reads few enough elements for each that it gives.
pub(super) fn reads_few(map: &Separable) -> bool {
    let [rows, columns] = [1, 2].map(|axis| Window::of(&map.maps[axis]).taps);
    rows * columns <= MOST_TAPS
}

/// What an axis of a map reads for each coordinate that it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// Most coordinates.
    taps: u32,
    /// How far apart the windows of neighbours are, at most.
    step: u32,
}

impl Window {
    fn of(map: &AxisMap) -> Self {
        let rows = map.rows();
        let first = |row: &Vec<(u32, f32)>| row.iter().map(|&(input, _)| input).min();
        let taps = rows.iter().map(|row| row.len() as u32).max().unwrap_or(0);
        let step = |pair: &[Vec<(u32, f32)>]| Some(first(&pair[1])?.abs_diff(first(&pair[0])?));
        Self { taps, step: rows.windows(2).filter_map(step).max().unwrap_or(0) }
    }

    /// How many times as many offsets a kernel over such windows has.
    fn growth(self, kernel: u32) -> f64 {
        if self.taps <= 1 {
            return 1.0;
        }
        let reached = (kernel - 1) * self.step + self.taps;
        f64::from(reached.min(kernel * self.taps)) / f64::from(kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(taps: u32, step: u32) -> Window {
        let windows = (0..8i64)
            .flat_map(|out| (0..i64::from(taps)).map(move |tap| (out, out * i64::from(step) + tap, 1.0)));
        Window::of(&AxisMap::collect(8 * step + taps, 8, windows).unwrap())
    }

    #[test]
    fn windows_grow_kernels_as_compositions_do() {
        assert_eq!(window(5, 1), Window { taps: 5, step: 1 });
        // (pool, its stride, kernel): the composed kernel over the kernel.
        for ((taps, step, kernel), composed) in
            [((5, 1, 1), 5), ((2, 2, 3), 6), ((3, 2, 3), 7), ((5, 1, 3), 7), ((1, 2, 3), 3), ((2, 5, 3), 6)]
        {
            assert_eq!(window(taps, step).growth(kernel), f64::from(composed) / f64::from(kernel));
        }
    }
}
