//! Data movement that has not happened yet: Reshape, Transpose, Slice, Gather, Pad, Concat and their like compose into one index
//! map from the elements of a shape to those of tensors, whatever axes lie between. Only where a layer reads the result does
//! the map become operations ([`super::movement`]): what two Transposes or a Slice of a Concat undo costs nothing.

use std::sync::Arc;

use peregrine_ir::ValueId;

/// Index of an element that no source gives.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Most elements of a view.
pub(crate) const MAX_VIEW: usize = 1 << 27;

/// Elements that come from one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// The tensor.
    pub(crate) base: ValueId,
    /// For each element of the view, row-major, the element of the tensor or [`NOWHERE`].
    pub(crate) table: Arc<[u32]>,
}

/// A tensor of `shape`: the sum of its parts and of constants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) shape: Vec<usize>,
    pub(crate) parts: Vec<Part>,
    pub(crate) constants: Option<Arc<[f32]>>,
}

impl View {
    /// The tensor itself.
    pub(crate) fn of(base: ValueId, shape: &[usize]) -> Self {
        let table = (0..elements(shape) as u32).collect();
        Self { shape: shape.to_vec(), parts: vec![Part { base, table }], constants: None }
    }

    /// Known numbers.
    pub(crate) fn constant(shape: &[usize], values: Vec<f32>) -> Self {
        Self { shape: shape.to_vec(), parts: Vec::new(), constants: Some(values.into()) }
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        elements(&self.shape)
    }

    /// The same elements in another shape of as many.
    pub(crate) fn reshaped(&self, shape: Vec<usize>) -> Self {
        debug_assert_eq!(elements(&shape), self.len());
        Self { shape, ..self.clone() }
    }

    /// Element i of the result is element `positions[i]` of this view, or `fill`.
    pub(crate) fn picked(&self, shape: Vec<usize>, positions: &[u32], fill: f32) -> Self {
        let follow = |table: &[u32]| {
            positions.iter().map(|&p| table.get(p as usize).copied().unwrap_or(NOWHERE)).collect()
        };
        let parts =
            self.parts.iter().map(|part| Part { base: part.base, table: follow(&part.table) }).collect();
        let filled = fill != 0.0 && positions.contains(&NOWHERE);
        let constants = (filled || self.constants.is_some()).then(|| {
            let known = |p: u32| self.constants.as_ref().map_or(0.0, |c| c[p as usize]);
            positions.iter().map(|&p| if p == NOWHERE { fill } else { known(p) }).collect()
        });
        Self { shape, parts, constants }
    }

    /// Coordinate i along axis a is coordinate `axes[a][i]` of this view, or `fill` where that is [`NOWHERE`].
    pub(crate) fn indexed(&self, axes: &[Vec<u32>], fill: f32) -> Self {
        let mut positions = vec![0u32];
        for (axis, indices) in axes.iter().enumerate() {
            let extent = self.shape[axis] as u32;
            let step =
                |&p: &u32, &i: &u32| if p == NOWHERE || i == NOWHERE { NOWHERE } else { p * extent + i };
            positions = positions.iter().flat_map(|p| indices.iter().map(move |i| step(p, i))).collect();
        }
        self.picked(axes.iter().map(Vec::len).collect(), &positions, fill)
    }

    /// Axis a of the result is axis `order[a]` of this view.
    pub(crate) fn permuted(&self, order: &[usize]) -> Self {
        let mut strides = vec![1u32; self.shape.len()];
        for axis in (1..self.shape.len()).rev() {
            strides[axis - 1] = strides[axis] * self.shape[axis] as u32;
        }
        let mut positions = vec![0u32];
        for &axis in order {
            let (extent, stride) = (self.shape[axis] as u32, strides[axis]);
            positions = positions.iter().flat_map(|p| (0..extent).map(move |i| p + i * stride)).collect();
        }
        self.picked(order.iter().map(|&axis| self.shape[axis]).collect(), &positions, 0.0)
    }

    /// Views side by side along `axis`; their other extents agree.
    pub(crate) fn joined(views: &[Self], axis: usize) -> Self {
        let mut shape = views[0].shape.clone();
        shape[axis] = views.iter().map(|v| v.shape[axis]).sum();
        let (outer, inner) = (elements(&shape[..axis]), elements(&shape[axis + 1..]));
        let row = shape[axis] * inner;
        let mut tables: Vec<(ValueId, Vec<u32>)> = Vec::new();
        let mut constants: Option<Vec<f32>> = None;
        let mut offset = 0;
        for view in views {
            let width = view.shape[axis] * inner;
            let rows = |o: usize| (o * row + offset..o * row + offset + width, o * width..(o + 1) * width);
            for part in &view.parts {
                let at = tables.iter().position(|(base, _)| *base == part.base).unwrap_or_else(|| {
                    tables.push((part.base, vec![NOWHERE; outer * row]));
                    tables.len() - 1
                });
                for (to, from) in (0..outer).map(rows) {
                    merge(&mut tables[at].1[to], &part.table[from]);
                }
            }
            if let Some(values) = &view.constants {
                let all = constants.get_or_insert_with(|| vec![0.0; outer * row]);
                for (to, from) in (0..outer).map(rows) {
                    all[to].copy_from_slice(&values[from]);
                }
            }
            offset += width;
        }
        let parts = tables.into_iter().map(|(base, table)| Part { base, table: table.into() }).collect();
        Self { shape, parts, constants: constants.map(Into::into) }
    }

    /// The one part of a view that permutes all the elements of a tensor of `elements` elements.
    pub(crate) fn permutation(&self, elements: usize) -> Option<&Part> {
        let [part] = self.parts.as_slice() else { return None };
        if self.constants.is_some() || part.table.len() != elements {
            return None;
        }
        let mut seen = vec![false; elements];
        let all =
            part.table.iter().all(|&at| at != NOWHERE && !std::mem::replace(&mut seen[at as usize], true));
        all.then_some(part)
    }
}

impl Part {
    /// Whether the elements are those of the tensor in their order.
    pub(crate) fn is_identity(&self, elements: usize) -> bool {
        self.table.len() == elements && self.table.iter().enumerate().all(|(i, &at)| at as usize == i)
    }
}

fn merge(into: &mut [u32], from: &[u32]) {
    for (into, &from) in into.iter_mut().zip(from) {
        *into = (*into).min(from);
    }
}

/// Product of extents.
pub(crate) fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x() -> View {
        View::of(ValueId(0), &[1, 2, 3])
    }

    fn table(view: &View) -> Vec<u32> {
        view.parts[0].table.to_vec()
    }

    #[test]
    fn movements_compose() {
        let turned = x().permuted(&[0, 2, 1]);
        assert_eq!((turned.shape.clone(), table(&turned)), (vec![1, 3, 2], vec![0, 3, 1, 4, 2, 5]));
        assert!(turned.permuted(&[0, 2, 1]).parts[0].is_identity(6));
        let last = turned.reshaped(vec![6]).indexed(&[vec![5, NOWHERE, 0]], 7.0);
        assert_eq!(
            (table(&last), last.constants.as_deref()),
            (vec![5, NOWHERE, 0], Some(&[0.0, 7.0, 0.0][..]))
        );
        assert!(turned.permutation(6).is_some() && last.permutation(6).is_none());
    }

    #[test]
    fn parts_of_one_tensor_join_into_one_part() {
        let halves = [
            x().indexed(&[vec![0], vec![1], vec![0, 1, 2]], 0.0),
            x().indexed(&[vec![0], vec![0], vec![2, 1, 0]], 0.0),
        ];
        let joined = View::joined(&halves, 1);
        assert_eq!((joined.parts.len(), table(&joined)), (1, vec![3, 4, 5, 2, 1, 0]));
        let padded = View::joined(&[x(), View::constant(&[1, 1, 3], vec![1.0; 3])], 1);
        assert_eq!(table(&padded)[6..], [NOWHERE; 3]);
        assert_eq!(
            padded.constants.as_deref().map(|c| c.to_vec()),
            Some(vec![0., 0., 0., 0., 0., 0., 1., 1., 1.])
        );
    }
}
