//! Sparse linear maps of one coordinate, and separable maps: one such map for each of channel, row and column.
//!
//! `out[c, y, x] = sum C[c, c'] Y[y, y'] X[x, x'] in[c', y', x']` covers slices, zero padding, splits, nearest and bilinear
//! resizing, average pools whose windows are cut by the border, channel shuffles and zero insertion. A concatenation is a
//! sum of embeddings, a space-to-depth or depth-to-space a sum of strided selections.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// Largest extent of a coordinate.
pub const MAX_AXIS_EXTENT: u32 = 1 << 20;
/// Largest number of non-zero factors of a map.
pub const MAX_AXIS_ENTRIES: usize = 1 << 20;
/// Entries that are tried as the second of a run.
const CANDIDATES: usize = 32;

/// One non-zero factor: `out[output] += factor * in[input]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AxisEntry {
    /// Coordinate written.
    pub output: u32,
    /// Coordinate read.
    pub input: u32,
    /// Factor, finite and not zero.
    pub factor: f32,
}

/// The entries `(output + i output_step, input + i input_step, factor)` for `i < count`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AxisRun {
    /// First coordinate written.
    pub output: u32,
    /// Step of the coordinate written.
    pub output_step: i32,
    /// First coordinate read.
    pub input: u32,
    /// Step of the coordinate read.
    pub input_step: i32,
    /// Number of entries, at least 1.
    pub count: u32,
    /// Factor of all, finite and not zero.
    pub factor: f32,
}

/// Why a map of one coordinate is refused.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum AxisError {
    /// An extent of zero or too large a one.
    #[error("an axis map from {input} to {output} coordinates: 1 to {MAX_AXIS_EXTENT} are possible")]
    Extent {
        /// Coordinates read.
        input: u32,
        /// Coordinates written.
        output: u32,
    },
    /// An entry outside the extents.
    #[error("an axis map from {input} to {output} coordinates with the entry {entry_output}<{entry_input}")]
    Range {
        /// Coordinates read.
        input: u32,
        /// Coordinates written.
        output: u32,
        /// Coordinate of the entry.
        entry_output: i64,
        /// Coordinate of the entry.
        entry_input: i64,
    },
    /// A factor that is no usable number, or a run without entries.
    #[error("an axis map with a factor that is not finite, or an empty run")]
    Entry,
    /// Too many entries.
    #[error("an axis map with more than {MAX_AXIS_ENTRIES} entries")]
    TooMany,
}

/// A sparse matrix between two coordinate ranges, in one canonical form: equal matrices are equal maps.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisMap {
    input: u32,
    output: u32,
    runs: Vec<AxisRun>,
}

impl AxisMap {
    /// The map of `entries`; equal places add up, factors of zero go.
    ///
    /// # Errors
    /// [`AxisError`] when an extent, a place or a factor is unusable, or there are too many entries.
    pub fn from_entries(input: u32, output: u32, entries: &[AxisEntry]) -> Result<Self, AxisError> {
        if ![input, output].iter().all(|e| (1..=MAX_AXIS_EXTENT).contains(e)) {
            return Err(AxisError::Extent { input, output });
        }
        if entries.len() > MAX_AXIS_ENTRIES {
            return Err(AxisError::TooMany);
        }
        let mut places: BTreeMap<(u32, u32), f64> = BTreeMap::new();
        for entry in entries {
            if entry.input >= input || entry.output >= output {
                let (entry_output, entry_input) = (i64::from(entry.output), i64::from(entry.input));
                return Err(AxisError::Range { input, output, entry_output, entry_input });
            }
            *places.entry((entry.output, entry.input)).or_default() += f64::from(entry.factor);
        }
        let mut rounded = BTreeMap::new();
        for (place, factor) in places {
            let factor = factor as f32;
            if !factor.is_finite() {
                return Err(AxisError::Entry);
            }
            if factor != 0.0 {
                rounded.insert(place, factor);
            }
        }
        Ok(Self { input, output, runs: compress(rounded) })
    }

    /// The map of `runs`.
    ///
    /// # Errors
    /// Those of [`Self::from_entries`].
    pub fn from_runs(input: u32, output: u32, runs: &[AxisRun]) -> Result<Self, AxisError> {
        let total: u64 = runs.iter().map(|r| u64::from(r.count)).sum();
        if total > MAX_AXIS_ENTRIES as u64 {
            return Err(AxisError::TooMany);
        }
        let mut entries = Vec::with_capacity(total as usize);
        for run in runs {
            if run.count == 0 || !run.factor.is_finite() {
                return Err(AxisError::Entry);
            }
            let last = i64::from(run.count) - 1;
            let end = |start: u32, step: i32| i64::from(start) + last * i64::from(step);
            let (entry_output, entry_input) =
                (end(run.output, run.output_step), end(run.input, run.input_step));
            if !(0..i64::from(output)).contains(&entry_output)
                || !(0..i64::from(input)).contains(&entry_input)
            {
                return Err(AxisError::Range { input, output, entry_output, entry_input });
            }
            entries.extend(run.entries());
        }
        Self::from_entries(input, output, &entries)
    }

    /// `out[i] = in[i]`. The extent is at least 1 and at most [`MAX_AXIS_EXTENT`].
    pub fn identity(extent: u32) -> Self {
        let extent = extent.clamp(1, MAX_AXIS_EXTENT);
        let step = i32::from(extent > 1);
        let run =
            AxisRun { output: 0, output_step: step, input: 0, input_step: step, count: extent, factor: 1.0 };
        Self { input: extent, output: extent, runs: vec![run] }
    }

    /// `out[i] = in[start + i step]` for `i < output` where that exists, else 0: a slice, a reversal, a zero padding
    /// (`start < 0`), or both.
    ///
    /// # Errors
    /// [`AxisError::Extent`].
    pub fn window(input: u32, output: u32, start: i64, step: i64) -> Result<Self, AxisError> {
        let of = |i: u32| start.saturating_add(i64::from(i).saturating_mul(step));
        Self::collect(input, output, (0..output).map(|i| (i64::from(i), of(i), 1.0)))
    }

    /// `out[start + i step] = in[i]`, the rest 0: zero insertion, or a part of a concatenation.
    ///
    /// # Errors
    /// [`AxisError::Extent`].
    pub fn spread(input: u32, output: u32, start: i64, step: i64) -> Result<Self, AxisError> {
        let of = |i: u32| start.saturating_add(i64::from(i).saturating_mul(step));
        Self::collect(input, output, (0..input).map(|i| (of(i), i64::from(i), 1.0)))
    }

    /// `out[i] = in[indices[i]]`.
    ///
    /// # Errors
    /// [`AxisError`] when an index is outside the input.
    pub fn gather(input: u32, indices: &[u32]) -> Result<Self, AxisError> {
        let output = u32::try_from(indices.len()).map_err(|_| AxisError::TooMany)?;
        let entry = |(output, &input)| AxisEntry { output, input, factor: 1.0 };
        let entries: Vec<AxisEntry> = (0u32..).zip(indices).map(entry).collect();
        Self::from_entries(input, output, &entries)
    }

    /// The map whose entries `(output, input, factor)` are given; those outside the extents are left out.
    ///
    /// # Errors
    /// [`AxisError`] when an extent or a factor is unusable, or there are too many entries.
    pub fn collect(
        input: u32,
        output: u32,
        entries: impl Iterator<Item = (i64, i64, f32)>,
    ) -> Result<Self, AxisError> {
        if ![input, output].iter().all(|e| (1..=MAX_AXIS_EXTENT).contains(e)) {
            return Err(AxisError::Extent { input, output });
        }
        let inside = |at: i64, extent: u32| u32::try_from(at).ok().filter(|&at| at < extent);
        let entries: Vec<AxisEntry> = entries
            .filter_map(|(o, i, factor)| {
                Some(AxisEntry { output: inside(o, output)?, input: inside(i, input)?, factor })
            })
            .take(MAX_AXIS_ENTRIES + 1)
            .collect();
        Self::from_entries(input, output, &entries)
    }

    /// `self` after `first`.
    ///
    /// # Errors
    /// [`AxisError::TooMany`], or [`AxisError::Range`] when `first` does not give what `self` takes.
    pub fn after(&self, first: &Self) -> Result<Self, AxisError> {
        if self.input != first.output {
            let (entry_output, entry_input) = (i64::from(first.output), i64::from(self.input));
            let (input, output) = (first.input, self.output);
            return Err(AxisError::Range { input, output, entry_output, entry_input });
        }
        if self.is_identity() {
            return Ok(first.clone());
        }
        if first.is_identity() {
            return Ok(self.clone());
        }
        let rows = first.rows();
        let mut entries = Vec::new();
        for entry in self.entries() {
            for &(input, factor) in &rows[entry.input as usize] {
                entries.push(AxisEntry { output: entry.output, input, factor: entry.factor * factor });
            }
            if entries.len() > MAX_AXIS_ENTRIES {
                return Err(AxisError::TooMany);
            }
        }
        Self::from_entries(first.input, self.output, &entries)
    }

    /// Coordinates read.
    pub fn input(&self) -> u32 {
        self.input
    }
    /// Coordinates written.
    pub fn output(&self) -> u32 {
        self.output
    }
    /// The runs.
    pub fn runs(&self) -> &[AxisRun] {
        &self.runs
    }
    /// All entries, run by run.
    pub fn entries(&self) -> impl Iterator<Item = AxisEntry> + '_ {
        self.runs.iter().flat_map(AxisRun::entries)
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|r| r.count as usize).sum()
    }
    /// Whether the map is zero.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
    /// For each coordinate written the coordinates read, ascending, with their factors.
    pub fn rows(&self) -> Vec<Vec<(u32, f32)>> {
        let mut rows = vec![Vec::new(); self.output as usize];
        for entry in self.entries() {
            rows[entry.output as usize].push((entry.input, entry.factor));
        }
        rows.iter_mut().for_each(|row| row.sort_unstable_by_key(|e| e.0));
        rows
    }
    /// Whether it is the identity.
    pub fn is_identity(&self) -> bool {
        self.input == self.output && *self == Self::identity(self.input)
    }
    /// The one coordinate that each written coordinate reads with factor 1, if the map is such a selection.
    pub fn selection(&self) -> Option<Vec<u32>> {
        let mut indices = vec![None; self.output as usize];
        for entry in self.entries() {
            if entry.factor != 1.0 || indices[entry.output as usize].replace(entry.input).is_some() {
                return None;
            }
        }
        indices.into_iter().collect()
    }
}

impl AxisRun {
    fn entries(&self) -> impl Iterator<Item = AxisEntry> + use<> {
        let run = *self;
        let at = |start: u32, step: i32, i: u32| (i64::from(start) + i64::from(i) * i64::from(step)) as u32;
        (0..run.count).map(move |i| AxisEntry {
            output: at(run.output, run.output_step, i),
            input: at(run.input, run.input_step, i),
            factor: run.factor,
        })
    }

    /// The place after the last; (u32::MAX, u32::MAX), which no map has, when it is negative.
    fn after_last(&self) -> (u32, u32) {
        let at = |start: u32, step: i32| {
            u32::try_from(i64::from(start) + i64::from(self.count) * i64::from(step)).unwrap_or(u32::MAX)
        };
        (at(self.output, self.output_step), at(self.input, self.input_step))
    }
}

/// Entries as runs: from the first entry left on, the longest run whose second entry is among the next ones.
fn compress(mut left: BTreeMap<(u32, u32), f32>) -> Vec<AxisRun> {
    let mut runs = Vec::new();
    while let Some((&(output, input), &factor)) = left.iter().next() {
        let single = AxisRun { output, output_step: 0, input, input_step: 0, count: 1, factor };
        let mut best = single;
        for (&(o, i), _) in left.iter().skip(1).take(CANDIDATES).filter(|e| *e.1 == factor) {
            let (output_step, input_step) = ((o - output) as i32, i as i32 - input as i32);
            let mut run = AxisRun { output_step, input_step, count: 2, ..single };
            while left.get(&run.after_last()) == Some(&factor) {
                run.count += 1;
            }
            if run.count > best.count {
                best = run;
            }
        }
        for entry in best.entries() {
            left.remove(&(entry.output, entry.input));
        }
        runs.push(best);
    }
    runs
}

impl fmt::Display for AxisRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |f: &mut fmt::Formatter<'_>, start: u32, step: i32| match step {
            0 => write!(f, "{start}"),
            _ => write!(f, "{start}{step:+}"),
        };
        place(f, self.output, self.output_step)?;
        f.write_str("<")?;
        place(f, self.input, self.input_step)?;
        if self.count > 1 {
            write!(f, "#{}", self.count)?;
        }
        if self.factor != 1.0 {
            write!(f, "*{:?}", self.factor)?;
        }
        Ok(())
    }
}

/// `16` for the identity, else `8>16:0+2<0+1#8,1+2<0+1#8`.
impl fmt::Display for AxisMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_identity() {
            return write!(f, "{}", self.input);
        }
        write!(f, "{}>{}:", self.input, self.output)?;
        for (i, run) in self.runs.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{run}")?;
        }
        Ok(())
    }
}

/// A map of each coordinate: channel, row, column.
#[derive(Clone, Debug, PartialEq)]
pub struct Separable {
    /// Maps of channel, row, column.
    pub maps: [AxisMap; 3],
}

impl Separable {
    /// The identity of a tensor of these extents.
    pub fn identity(extents: [u32; 3]) -> Self {
        Self { maps: extents.map(AxisMap::identity) }
    }
    /// Extents read.
    pub fn input(&self) -> [u32; 3] {
        [0, 1, 2].map(|a| self.maps[a].input())
    }
    /// Extents written.
    pub fn output(&self) -> [u32; 3] {
        [0, 1, 2].map(|a| self.maps[a].output())
    }
    /// Whether it is the identity.
    pub fn is_identity(&self) -> bool {
        self.maps.iter().all(AxisMap::is_identity)
    }
    /// `self` after `first`.
    ///
    /// # Errors
    /// Those of [`AxisMap::after`].
    pub fn after(&self, first: &Self) -> Result<Self, AxisError> {
        let [c, y, x] = &self.maps;
        let [fc, fy, fx] = &first.maps;
        Ok(Self { maps: [c.after(fc)?, y.after(fy)?, x.after(fx)?] })
    }
}

#[cfg(test)]
mod tests;
