//! The graph as lanes beside the rows of a table: every value has a lane from its row to its last use.

use std::fmt::Write;

use super::super::model::{ValueKind, ValueReport};

/// Width of a lane and height of a row, in pixels.
const LANE: f64 = 14.0;
const ROW: f64 = 28.0;
/// Lanes that are told apart; more are drawn on top of the last.
const MOST: usize = 16;

/// What is drawn beside one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Lane of the row's value.
    pub(super) lane: usize,
    /// Lanes of its operands.
    pub(super) from: Vec<usize>,
    /// Lanes of values that pass by, operands with later uses among them.
    pub(super) passing: Vec<usize>,
    /// Whether the value is used further down.
    pub(super) continues: bool,
}

/// Lanes of all rows.
pub(super) fn rows(values: &[ValueReport]) -> Vec<Row> {
    let mut last_use: Vec<usize> = (0..values.len()).collect();
    for (row, value) in values.iter().enumerate() {
        for &arg in &value.args {
            if let Some(last) = last_use.get_mut(arg) {
                *last = row;
            }
        }
    }
    let mut lane_of = vec![0; values.len()];
    let mut lanes: Vec<Option<usize>> = Vec::new();
    let mut rows = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        let from: Vec<usize> = value.args.iter().filter_map(|&arg| lane_of.get(arg).copied()).collect();
        for lane in &mut lanes {
            if lane.is_some_and(|held| last_use[held] <= row) {
                *lane = None;
            }
        }
        let passing = (0..lanes.len()).filter(|&lane| lanes[lane].is_some()).collect();
        let own = from.iter().copied().find(|&lane| lanes.get(lane) == Some(&None));
        let lane = own.or_else(|| lanes.iter().position(Option::is_none)).unwrap_or(lanes.len());
        if lane == lanes.len() {
            lanes.push(None);
        }
        let continues = last_use[row] > row;
        lanes[lane] = continues.then_some(row);
        lane_of[row] = lane;
        rows.push(Row { lane, from, passing, continues });
    }
    rows
}

/// Columns that the lanes take.
pub(super) fn width(rows: &[Row]) -> f64 {
    let most = rows.iter().map(|row| row.lane + 1).max().unwrap_or(1).min(MOST);
    LANE * (most as f64 + 0.5)
}

/// One row's drawing.
pub(super) fn draw(row: &Row, kind: ValueKind, width: f64) -> String {
    let x = |lane: usize| LANE * (lane.min(MOST - 1) as f64 + 0.75);
    let middle = ROW / 2.0;
    let mut out = format!(
        r#"<svg width="{width:.0}" height="{ROW}" viewBox="0 0 {width:.0} {ROW}" aria-hidden="true">"#
    );
    // Writing to a string cannot fail.
    for &lane in &row.passing {
        let _ = write!(out, r#"<path class="lane" d="M{0:.1} 0V{ROW}"/>"#, x(lane));
    }
    let to = x(row.lane);
    for &lane in &row.from {
        let from = x(lane);
        let _ = write!(
            out,
            r#"<path class="lane" d="M{from:.1} 0C{from:.1} {middle} {to:.1} 2 {to:.1} {middle}"/>"#
        );
    }
    if row.continues {
        let _ = write!(out, r#"<path class="lane" d="M{to:.1} {middle}V{ROW}"/>"#);
    }
    let _ = write!(out, r#"<circle class="{}" cx="{to:.1}" cy="{middle}" r="4.5"/></svg>"#, class(kind));
    out
}

/// CSS class of a kind.
pub(super) fn class(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Input => "k-input",
        ValueKind::Linear => "k-linear",
        ValueKind::Poly => "k-poly",
        ValueKind::Add => "k-add",
        ValueKind::Drop => "k-drop",
        ValueKind::Bootstrap => "k-bootstrap",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::value;
    use super::*;

    #[test]
    fn a_residual_block_takes_two_lanes() {
        // 0 -> 1 -> 2 -> 3 = 2 + 0 -> 4.
        let values: Vec<ValueReport> =
            [&[][..], &[0], &[1], &[2, 0], &[3]].iter().map(|args| value("v", args)).collect();
        let rows = rows(&values);
        let lanes: Vec<usize> = rows.iter().map(|row| row.lane).collect();
        assert_eq!(lanes, [0, 1, 1, 1, 1]);
        assert_eq!((rows[2].passing.as_slice(), rows[3].from.as_slice()), (&[0][..], &[1, 0][..]));
        assert_eq!(rows[3].passing, [0usize; 0], "the skip ends here");
        assert!(!rows[4].continues && rows[0].continues);
    }

    #[test]
    fn many_lanes_and_bad_operands_are_drawn() {
        let mut values: Vec<ValueReport> = (0..40).map(|_| value("v", &[])).collect();
        values.push(value("all", &(0..45).collect::<Vec<_>>()));
        let rows = rows(&values);
        assert_eq!(rows[39].lane, 39);
        assert!(width(&rows) <= LANE * (MOST as f64 + 0.5));
        assert!(draw(&rows[40], ValueKind::Add, width(&rows)).ends_with("</svg>"));
    }
}
