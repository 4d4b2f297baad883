//! Pending linear terms: separable maps of packed values, and convolutions between two of them.
//!
//! A view costs nothing until something needs its value; a convolution of a view is the convolution of its source with the
//! view as its first part. Before a term becomes a linear map its channel maps are brought to a form in which each inner
//! channel has one channel of the operand and one of the result, so that units can go into the weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use peregrine_ir::layout::Chw;
use peregrine_ir::linear::ConvGeometry;
use peregrine_ir::{AxisEntry, AxisError, AxisMap, Separable, ValueId};

/// A separable map of a packed value.
#[derive(Clone, Debug)]
pub struct View {
    /// The packed value.
    pub source: ValueId,
    /// The map.
    pub map: Separable,
}

/// A convolution of a packed value, with separable maps around it.
#[derive(Clone, Debug)]
pub struct Term {
    /// The packed value.
    pub source: ValueId,
    /// Applied to the packed value.
    pub before: Separable,
    /// Geometry of the convolution.
    pub geometry: ConvGeometry,
    /// Weights `[c_out, c_in / groups, kh, kw]`.
    pub kernel: Arc<Vec<f64>>,
    /// Applied to the result.
    pub after: Separable,
}

/// What is added to a pending sum.
#[derive(Clone, Debug, PartialEq)]
pub enum Bias {
    /// One number per channel.
    Channels(Vec<f64>),
    /// One per element.
    Elements(Vec<f64>),
}

/// Extents as an array.
pub fn extents(shape: Chw) -> [u32; 3] {
    [shape.c, shape.h, shape.w]
}

impl View {
    /// The packed value itself.
    pub fn identity(source: ValueId, shape: Chw) -> Self {
        Self { source, map: Separable::identity(extents(shape)) }
    }

    /// The view as a term.
    pub fn term(&self) -> Term {
        let [c, h, w] = self.map.output();
        Term {
            source: self.source,
            before: self.map.clone(),
            geometry: ConvGeometry::channel_scaling(c),
            kernel: Arc::new(vec![1.0; c as usize]),
            after: Separable::identity([c, h, w]),
        }
    }

    /// Channels of the result that the view gives something to.
    pub fn channels(&self) -> usize {
        self.map.maps[0].rows().iter().filter(|row| !row.is_empty()).count()
    }
}

impl Bias {
    /// The sum, over maps of `map` pixels.
    pub fn plus(self, other: &Self, map: usize) -> Self {
        let add = |a: Vec<f64>, b: &[f64]| a.into_iter().zip(b).map(|(a, b)| a + b).collect();
        match (self, other) {
            (Self::Channels(a), Self::Channels(b)) => Self::Channels(add(a, b)),
            (Self::Elements(a), other) => Self::Elements(add(a, &other.elements(map))),
            (a, Self::Elements(b)) => Self::Elements(add(a.elements(map), b)),
        }
    }

    /// The bias under a separable map: per channel as long as every pixel has the same.
    pub fn mapped(&self, map: &Separable) -> Self {
        let [_, h, w] = map.input().map(|e| e as usize);
        let [channels, rows, columns] = &map.maps;
        let keeps = |axis: &AxisMap| axis.rows().iter().all(|r| (sum(r) - 1.0).abs() < 1e-6);
        match self {
            Self::Channels(bias) if bias.iter().all(|&b| b == 0.0) => {
                Self::Channels(vec![0.0; channels.output() as usize])
            }
            Self::Channels(bias) if keeps(rows) && keeps(columns) => Self::Channels(along(channels, bias, 1)),
            _ => {
                let mixed = along(channels, &self.elements(h * w), h * w);
                Self::Elements(along(columns, &along(rows, &mixed, w), 1))
            }
        }
    }

    /// One number per element of maps of `map` pixels.
    pub fn elements(&self, map: usize) -> Vec<f64> {
        match self {
            Self::Channels(bias) => bias.iter().flat_map(|&b| std::iter::repeat_n(b, map)).collect(),
            Self::Elements(bias) => bias.clone(),
        }
    }

    /// Whether nothing is added.
    pub fn is_zero(&self) -> bool {
        let (Self::Channels(bias) | Self::Elements(bias)) = self;
        bias.iter().all(|&b| b == 0.0)
    }
}

fn sum(row: &[(u32, f32)]) -> f64 {
    row.iter().map(|&(_, factor)| f64::from(factor)).sum()
}

/// One axis of `x`, which is `[.., map.input(), inner]`.
fn along(map: &AxisMap, x: &[f64], inner: usize) -> Vec<f64> {
    let (block_in, block_out) = (map.input() as usize * inner, map.output() as usize * inner);
    let mut out = vec![0.0; x.len() / block_in * block_out];
    for (out, x) in out.chunks_mut(block_out).zip(x.chunks(block_in)) {
        for entry in map.entries() {
            let x = &x[entry.input as usize * inner..][..inner];
            let out = &mut out[entry.output as usize * inner..][..inner];
            out.iter_mut().zip(x).for_each(|(o, x)| *o += f64::from(entry.factor) * x);
        }
    }
    out
}

/// Whether no number below `extent` occurs twice.
fn occur_once(mut numbers: impl Iterator<Item = u32>, extent: u32) -> bool {
    let mut seen = vec![false; extent as usize];
    numbers.all(|at| !std::mem::replace(&mut seen[at as usize], true))
}

impl Term {
    /// The term followed by a separable map.
    ///
    /// # Errors
    /// [`AxisError`] when the composition is too large.
    pub fn followed_by(&self, map: &Separable) -> Result<Self, AxisError> {
        Ok(Self { after: map.after(&self.after)?, ..self.clone() })
    }

    fn taps(&self) -> usize {
        self.geometry.kernel[0] as usize * self.geometry.kernel[1] as usize
    }

    /// The same map with at most one operand channel and one result channel for each inner channel; `None` if it is zero.
    ///
    /// # Errors
    /// [`AxisError`] when the form is too large.
    pub fn normal(&self) -> Result<Option<Self>, AxisError> {
        if self.before.maps.iter().chain(&self.after.maps).any(AxisMap::is_empty) {
            return Ok(None);
        }
        let (before, after) = (&self.before.maps[0], &self.after.maps[0]);
        if before.is_identity() && after.is_identity() {
            return Ok(Some(self.clone()));
        }
        let (groups, inner_in, inner_out) = (self.geometry.groups, before.output(), after.input());
        let by_channel = groups > 1 && groups == inner_in && groups == inner_out;
        if by_channel && let Ok(term) = self.normal_by_channel() {
            return Ok(term);
        }
        let one_in = occur_once(before.entries().map(|e| e.output), inner_in);
        let one_out = occur_once(after.entries().map(|e| e.input), inner_out);
        if groups > 1 && one_in && one_out {
            return Ok(Some(self.clone()));
        }
        self.dense().map(Some)
    }

    /// One group for each pair of an operand channel and a result channel.
    fn normal_by_channel(&self) -> Result<Option<Self>, AxisError> {
        let (before, after) = (&self.before.maps[0], &self.after.maps[0]);
        let sources = before.rows();
        let (taps, mut kernel, mut reads, mut writes) = (self.taps(), Vec::new(), Vec::new(), Vec::new());
        for (output, row) in (0u32..).zip(after.rows()) {
            for (inner, second) in row {
                for &(source, first) in &sources[inner as usize] {
                    let factor = f64::from(first) * f64::from(second);
                    let weights = &self.kernel[inner as usize * taps..][..taps];
                    kernel.extend(weights.iter().map(|w| w * factor));
                    writes.push(AxisEntry { output, input: writes.len() as u32, factor: 1.0 });
                    reads.push(source);
                }
            }
        }
        if reads.is_empty() {
            return Ok(None);
        }
        let count = reads.len() as u32;
        let reads = AxisMap::gather(before.input(), &reads)?;
        let writes = AxisMap::from_entries(count, after.output(), &writes)?;
        Ok(Some(self.with_channels(reads, writes, count, kernel)))
    }

    /// One group; operand and result channels that the term does not touch are left out.
    fn dense(&self) -> Result<Self, AxisError> {
        let (before, after) = (&self.before.maps[0], &self.after.maps[0]);
        let numbered = |used: &mut dyn Iterator<Item = u32>| -> BTreeMap<u32, usize> {
            let used: std::collections::BTreeSet<u32> = used.collect();
            used.into_iter().zip(0..).collect()
        };
        let reads = numbered(&mut before.entries().map(|e| e.input));
        let writes = numbered(&mut after.entries().map(|e| e.output));
        let (taps, groups) = (self.taps(), self.geometry.groups);
        let (in_per, out_per) = (before.output() / groups, after.input() / groups);
        let sources = before.rows();
        let mut kernel = vec![0.0; reads.len() * writes.len() * taps];
        for written in after.entries() {
            let row = writes[&written.output];
            for k in 0..in_per {
                let inner = written.input / out_per * in_per + k;
                let weights = &self.kernel[(written.input * in_per + k) as usize * taps..][..taps];
                for &(source, first) in &sources[inner as usize] {
                    let factor = f64::from(first) * f64::from(written.factor);
                    let at = (row * reads.len() + reads[&source]) * taps;
                    kernel[at..at + taps].iter_mut().zip(weights).for_each(|(sum, w)| *sum += w * factor);
                }
            }
        }
        let (before_extent, after_extent) = (before.input(), after.output());
        let reads: Vec<u32> = reads.into_keys().collect();
        let count = writes.len() as u32;
        let entry = |(output, input)| AxisEntry { output, input, factor: 1.0 };
        let writes: Vec<AxisEntry> = writes.into_keys().zip(0u32..).map(entry).collect();
        let reads = AxisMap::gather(before_extent, &reads)?;
        let writes = AxisMap::from_entries(count, after_extent, &writes)?;
        Ok(self.with_channels(reads, writes, 1, kernel))
    }

    fn with_channels(&self, reads: AxisMap, writes: AxisMap, groups: u32, kernel: Vec<f64>) -> Self {
        let mut term = self.clone();
        term.before.maps[0] = reads;
        term.after.maps[0] = writes;
        term.geometry.groups = groups;
        term.kernel = Arc::new(kernel);
        term
    }

    /// Weights in the units of operand and result, of a term in normal form: `w[co, ci] * unit_in[ci] / unit_out[co]`.
    pub fn scaled_weights(&self, unit_in: &[f64], unit_out: &[f64]) -> (Vec<usize>, Vec<f32>) {
        let (before, after) = (&self.before.maps[0], &self.after.maps[0]);
        let mut of_input = vec![1.0; before.output() as usize];
        before.entries().for_each(|e| of_input[e.output as usize] = unit_in[e.input as usize]);
        let mut of_output = vec![1.0; after.input() as usize];
        after.entries().for_each(|e| of_output[e.input as usize] = unit_out[e.output as usize]);
        let groups = self.geometry.groups as usize;
        let (in_per, out_per, taps) = (of_input.len() / groups, of_output.len() / groups, self.taps());
        let mut data = Vec::with_capacity(self.kernel.len());
        for (co, unit) in of_output.iter().enumerate() {
            for k in 0..in_per {
                let factor = of_input[(co / out_per) * in_per + k] / unit;
                let at = (co * in_per + k) * taps;
                data.extend(self.kernel[at..at + taps].iter().map(|w| (w * factor) as f32));
            }
        }
        let [kh, kw] = self.geometry.kernel.map(|k| k as usize);
        (vec![of_output.len(), in_per, kh, kw], data)
    }
}

#[cfg(test)]
mod tests {
    use peregrine_ir::EntityId;

    use super::*;

    fn axis(input: u32, output: u32, entries: &[(i64, i64, f32)]) -> AxisMap {
        AxisMap::collect(input, output, entries.iter().copied()).unwrap()
    }

    /// The dense matrix between channels, tap 0.
    fn matrix(term: &Term) -> Vec<Vec<f64>> {
        let (before, after) = (&term.before.maps[0], &term.after.maps[0]);
        let groups = term.geometry.groups;
        let (in_per, out_per) = (before.output() / groups, after.input() / groups);
        let mut dense = vec![vec![0.0; before.input() as usize]; after.output() as usize];
        for a in after.entries() {
            for b in before.entries() {
                if b.output / in_per == a.input / out_per {
                    let at = (a.input * in_per + b.output % in_per) as usize * term.taps();
                    dense[a.output as usize][b.input as usize] +=
                        f64::from(a.factor) * term.kernel[at] * f64::from(b.factor);
                }
            }
        }
        dense
    }

    fn check(groups: u32, per_group: [u32; 2], before: AxisMap, after: AxisMap) {
        let one = AxisMap::identity(1);
        let count = after.input() * per_group[0];
        let term = Term {
            source: ValueId::new(0),
            before: Separable { maps: [before, one.clone(), one.clone()] },
            geometry: ConvGeometry { groups, ..ConvGeometry::channel_scaling(1) },
            kernel: Arc::new((1..=count).map(f64::from).collect()),
            after: Separable { maps: [after, one.clone(), one] },
        };
        let normal = term.normal().unwrap().expect("not zero");
        assert_eq!(matrix(&normal), matrix(&term));
        let rows = normal.before.maps[0].rows();
        assert!(rows.iter().all(|row| row.len() <= 1));
        let mut written: Vec<u32> = normal.after.maps[0].entries().map(|e| e.input).collect();
        written.sort_unstable();
        assert!(written.windows(2).all(|w| w[0] != w[1]));
    }

    #[test]
    fn the_normal_form_is_the_same_map() {
        let mixed = axis(3, 4, &[(0, 0, 0.5), (0, 2, 0.25), (1, 1, 1.0), (3, 1, 2.0)]);
        let scattered = axis(4, 6, &[(1, 0, 1.0), (5, 0, 1.0), (2, 1, 0.5), (2, 3, 1.0)]);
        check(1, [4, 4], mixed.clone(), scattered.clone());
        check(4, [1, 1], mixed.clone(), scattered.clone());
        check(2, [2, 2], mixed.clone(), scattered.clone());
        check(2, [2, 2], AxisMap::gather(4, &[0, 2, 1, 3]).unwrap(), AxisMap::identity(4));
        check(1, [4, 4], AxisMap::window(9, 4, 3, 1).unwrap(), AxisMap::spread(4, 9, 2, 1).unwrap());
        check(4, [1, 1], AxisMap::spread(2, 4, 1, 1).unwrap(), AxisMap::identity(4));
    }

    #[test]
    fn biases_stay_per_channel_where_they_can() {
        let repeat = AxisMap::gather(2, &[0, 0, 1, 1]).unwrap();
        let channels = AxisMap::spread(2, 3, 1, 1).unwrap();
        let bias = Bias::Channels(vec![1.0, 2.0]);
        let resized = Separable { maps: [channels.clone(), repeat.clone(), repeat.clone()] };
        assert_eq!(bias.mapped(&resized), Bias::Channels(vec![0.0, 1.0, 2.0]));
        let padded =
            Separable { maps: [channels, AxisMap::identity(2), AxisMap::spread(2, 3, 0, 1).unwrap()] };
        let elements =
            vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0];
        assert_eq!(bias.mapped(&padded), Bias::Elements(elements.clone()));
        let sum = bias.mapped(&padded).plus(&Bias::Channels(vec![1.0; 3]), 6);
        assert_eq!(sum, Bias::Elements(elements.iter().map(|e| e + 1.0).collect()));
    }
}
