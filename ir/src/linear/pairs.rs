//! Pairs of coordinates that a linear map joins on one axis.

use super::ResolvedMap;
use crate::axis::AxisMap;
use crate::layout::Axis;

/// A pair of coordinates of one axis. `tap` is the kernel coordinate, for channels the row `co * (c_in / groups) + ci` of
/// the weights; `factor` is that of the separable maps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Coordinate written.
    pub out: u32,
    /// Coordinate read.
    pub input: u32,
    /// Where the weight is.
    pub tap: u32,
    /// What the weight is multiplied by.
    pub factor: f32,
}

/// Number of pairs of an axis.
pub(super) fn count(map: &ResolvedMap<'_>, axis: Axis) -> u64 {
    let ends = Ends::of(map, axis);
    let mut total = 0u64;
    convolution_pairs(map, axis, |out, input, _| {
        total = total.saturating_add(ends.outputs(out) as u64 * ends.inputs(input) as u64);
    });
    total
}

/// The pairs of an axis: a result's coordinate is the sum over its pairs of weight times factor times operand.
pub fn axis_pairs(map: &ResolvedMap<'_>, axis: Axis) -> Vec<Pair> {
    let ends = Ends::of(map, axis);
    let mut pairs = Vec::new();
    convolution_pairs(map, axis, |out, input, tap| match (&ends.after, &ends.before) {
        (None, None) => pairs.push(Pair { out, input, tap, factor: 1.0 }),
        _ => ends.extend(out, input, tap, &mut pairs),
    });
    pairs
}

/// Coordinates beyond the convolution that its own ones lead to, with factors; `None` for the identity.
struct Ends {
    before: Option<Vec<Vec<(u32, f32)>>>,
    after: Option<Vec<Vec<(u32, f32)>>>,
}

impl Ends {
    fn of(map: &ResolvedMap<'_>, axis: Axis) -> Self {
        let of_axis = |maps: &[AxisMap; 3]| Some(maps[axis as usize].clone()).filter(|m| !m.is_identity());
        Self {
            before: map.before.and_then(|m| of_axis(&m.maps)).map(|m| m.rows()),
            after: map.after.and_then(|m| of_axis(&m.maps)).map(|m| columns(&m)),
        }
    }

    fn outputs(&self, out: u32) -> usize {
        self.after.as_ref().map_or(1, |after| after[out as usize].len())
    }

    fn inputs(&self, input: u32) -> usize {
        self.before.as_ref().map_or(1, |before| before[input as usize].len())
    }

    fn extend(&self, out: u32, input: u32, tap: u32, pairs: &mut Vec<Pair>) {
        let (one_out, one_in) = ([(out, 1.0)], [(input, 1.0)]);
        let outs = self.after.as_ref().map_or(&one_out[..], |after| &after[out as usize]);
        let ins = self.before.as_ref().map_or(&one_in[..], |before| &before[input as usize]);
        for &(out, after) in outs {
            for &(input, before) in ins {
                pairs.push(Pair { out, input, tap, factor: after * before });
            }
        }
    }
}

/// For each coordinate read the coordinates written, with factors.
fn columns(map: &AxisMap) -> Vec<Vec<(u32, f32)>> {
    let mut columns = vec![Vec::new(); map.input() as usize];
    for entry in map.entries() {
        columns[entry.input as usize].push((entry.output, entry.factor));
    }
    columns
}

/// Calls `visit(out, input, tap)` for the pairs of the convolution alone.
fn convolution_pairs(map: &ResolvedMap<'_>, axis: Axis, visit: impl FnMut(u32, u32, u32)) {
    match axis {
        Axis::C => channel_pairs(map, visit),
        Axis::Y => spatial_pairs(map, 0, visit),
        Axis::X => spatial_pairs(map, 1, visit),
    }
}

fn channel_pairs(map: &ResolvedMap<'_>, mut visit: impl FnMut(u32, u32, u32)) {
    let groups = map.geometry.groups.max(1);
    let (input, output) = (map.inner_input().c, map.inner_output().c);
    let (in_per, out_per) = (input / groups, (output / groups).max(1));
    for out in 0..output {
        for k in 0..in_per {
            visit(out, (out / out_per) * in_per + k, out * in_per + k);
        }
    }
}

fn spatial_pairs(map: &ResolvedMap<'_>, at: usize, mut visit: impl FnMut(u32, u32, u32)) {
    let g = map.geometry;
    let (input, output) = (map.inner_input(), map.inner_output());
    let (extent_in, extent_out) = if at == 0 { (input.h, output.h) } else { (input.w, output.w) };
    for out in 0..extent_out {
        for tap in 0..g.kernel[at] {
            let reach = i64::from(out) * i64::from(g.stride[at]) + i64::from(tap) * i64::from(g.dilation[at]);
            let input = reach - i64::from(g.pad[at]);
            if (0..i64::from(extent_in)).contains(&input) {
                visit(out, input as u32, tap);
            }
        }
    }
}
