//! Small plots as inline SVG.

use std::fmt::{Display, Write};

use super::escape;

/// Extents of a plot and the margins of its axes.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 24.0;
/// About how many lines a grid has.
const LINES: f64 = 5.0;

/// A plot under construction; coordinates are the data's.
pub(super) struct Plot {
    x: [f64; 2],
    y: [f64; 2],
    body: String,
}

impl Plot {
    /// An empty plot over these ranges, with grid lines at round numbers of y. Ranges without width get some.
    pub(super) fn new(x: [f64; 2], y: [f64; 2], label: &str) -> Self {
        let mut plot = Self { x: widened(x), y: widened(y), body: String::new() };
        for value in ticks(plot.y) {
            let at = plot.down(value);
            plot.push(format_args!(
                r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#,
                WIDTH - RIGHT
            ));
            plot.push(format_args!(
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 6.0,
                at + 4.0,
                round(value)
            ));
        }
        plot.push(format_args!(r#"<text x="{LEFT}" y="{:.1}">{}</text>"#, HEIGHT - 6.0, escape(label)));
        plot
    }

    fn push(&mut self, item: impl Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.body, "{item}");
    }

    fn across(&self, x: f64) -> f64 {
        LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
    }

    fn down(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)
    }

    /// A line through points.
    pub(super) fn line(&mut self, points: &[[f64; 2]]) {
        let path: String =
            points.iter().map(|[x, y]| format!("{:.1},{:.1} ", self.across(*x), self.down(*y))).collect();
        self.push(format_args!(r#"<polyline class="path" points="{}"/>"#, path.trim_end()));
    }

    /// A dashed horizontal line.
    pub(super) fn limit(&mut self, y: f64) {
        let at = self.down(y);
        self.push(format_args!(
            r#"<line class="limit" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#,
            WIDTH - RIGHT
        ));
    }

    /// A dot with a text that is shown when it is pointed at.
    pub(super) fn dot(&mut self, [x, y]: [f64; 2], class: &str, radius: f64, title: &str) {
        let (x, y) = (self.across(x), self.down(y));
        self.push(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}"><title>{}</title></circle>"#,
            escape(title)
        ));
    }

    /// A bar between two heights, `share` of the distance between whole numbers wide.
    pub(super) fn bar(&mut self, x: f64, [low, high]: [f64; 2], share: f64, class: &str, title: &str) {
        let (left, right) = (self.across(x - share / 2.0), self.across(x + share / 2.0));
        let (top, bottom) = (self.down(low.max(high)), self.down(low.min(high)));
        self.push(format_args!(
            r#"<rect class="{class}" x="{left:.1}" y="{top:.1}" width="{:.2}" height="{:.2}"><title>{}</title></rect>"#,
            (right - left).max(0.6),
            (bottom - top).max(0.6),
            escape(title)
        ));
    }

    /// The plot as a figure.
    pub(super) fn figure(self, caption: &str) -> String {
        format!(
            r#"<figure><div class="scroll"><svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg></div><figcaption>{label}</figcaption></figure>"#,
            label = escape(caption),
            body = self.body
        )
    }
}

/// Radius of dots that are `count` to a plot.
pub(super) fn radius(count: usize) -> f64 {
    (260.0 / count.max(1) as f64).clamp(1.8, 4.0)
}

fn widened([low, high]: [f64; 2]) -> [f64; 2] {
    let sound = low.is_finite() && high.is_finite();
    match sound && high > low {
        true => [low, high],
        false if sound => [low - 0.5, low + 0.5],
        false => [0.0, 1.0],
    }
}

/// Round numbers inside a range.
fn ticks([low, high]: [f64; 2]) -> Vec<f64> {
    let raw = (high - low) / LINES;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw).unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).take(50).map(|i| i as f64 * step).collect()
}

fn round(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1e5 || (magnitude < 1e-3 && magnitude > 0.0) {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks([0.0, 22.0]), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(ticks([-0.3, 0.31]), [-0.2, 0.0, 0.2]);
        assert_eq!([round(0.2), round(-0.0), round(1e6), round(12.0)], ["0.2", "0", "1e6", "12"]);
    }

    #[test]
    fn ranges_without_width_are_drawn() {
        for range in [[3.0, 3.0], [f64::NAN, 1.0], [0.0, f64::INFINITY]] {
            let mut plot = Plot::new([0.0, 0.0], range, "x");
            plot.bar(0.0, [0.0, 1.0], 0.8, "bar", "one");
            let figure = plot.figure("a plot");
            assert!(!figure.contains("NaN") && !figure.contains("inf"), "{figure}");
        }
    }
}
