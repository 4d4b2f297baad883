//! The report of a run: one HTML page with plots, without scripts.

use std::fmt::Write;

use super::{Evaluation, Log};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 48.0;
/// Colours of curves, in turn.
const COLOURS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"];

/// A curve: its name and points.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The page of a run of the model `name`.
pub fn page(name: &str, log: &Log, result: &Evaluation) -> String {
    let mut html = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>");
    // Writing to a text cannot fail.
    let _ = write!(html, "{0}</title><style>{STYLE}</style><h1>{0}</h1>", escape(name));
    summary(&mut html, result);
    let of_records = |name: &str, value: &dyn Fn(&super::Record) -> Option<f64>| Curve {
        name: name.to_owned(),
        points: log.records.iter().filter_map(|r| Some((r.step as f64, value(r)?))).collect(),
    };
    let of_epochs = |name: &str, value: &dyn Fn(&Evaluation) -> Option<f64>| Curve {
        name: name.to_owned(),
        points: log.epochs.iter().filter_map(|(s, _, e)| Some((*s as f64, value(e)?))).collect(),
    };
    let loss = [of_records("loss", &|r| Some(r.loss)), of_records("range penalty", &|r| Some(r.penalty))];
    plot(&mut html, "Loss", &loss);
    if log.records.iter().any(|r| r.blend > 0.0) {
        plot(
            &mut html,
            "Original's part of what activations hand on",
            &[of_records("blend", &|r| Some(r.blend))],
        );
    }
    let accuracy = [
        of_records("batch", &|r| r.accuracy),
        of_epochs("test", &|e| e.accuracy),
        of_epochs("original, test", &|e| e.original),
        of_epochs("same class as the original", &|e| e.agreement),
    ];
    plot(&mut html, "Accuracy", &accuracy);
    let layers = log.records.first().map_or(0, |r| r.ranges.len());
    let names: Vec<&String> = result.overshoot.layers.iter().map(|(n, _)| n).collect();
    let ranges: Vec<Curve> = (0..layers)
        .map(|l| of_records(names.get(l).map_or("", |n| n), &|r| r.ranges.get(l).copied()))
        .collect();
    plot(&mut html, "Largest operand of each activation, relative to its running maximum", &ranges);
    table(&mut html, result);
    html
}

const STYLE: &str = "body{font:15px sans-serif;max-width:760px;margin:2em auto;color:#222}table{border-collapse:collapse}\
td,th{padding:2px 12px 2px 0;text-align:left}svg{background:#fafafa;border:1px solid #ddd}text{font:11px sans-serif}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn summary(html: &mut String, e: &Evaluation) {
    let percent = |x: Option<f64>| x.map_or("–".to_owned(), |x| format!("{:.2} %", 100.0 * x));
    let _ = write!(
        html,
        "<p>{} test images: accuracy {}, original {}, same class {}; {} not finite; operands reach {:.2} times their range \
         (99 %: {:.2}).</p>",
        e.images,
        percent(e.accuracy),
        percent(e.original),
        percent(e.agreement),
        e.broken,
        e.overshoot.worst(),
        e.overshoot.quantile(0.99),
    );
}

fn plot(html: &mut String, title: &str, curves: &[Curve]) {
    let points =
        || curves.iter().flat_map(|c| &c.points).filter(|(x, y)| x.is_finite() && y.is_finite()).copied();
    let (Some(right), Some(top)) =
        (points().map(|p| p.0).reduce(f64::max), points().map(|p| p.1).reduce(f64::max))
    else {
        return;
    };
    let (right, top) = (right.max(1e-9), (top * 1.05).max(1e-9));
    let at = |(x, y): (f64, f64)| {
        let column = MARGIN + x / right * (WIDTH - 2.0 * MARGIN);
        (column, HEIGHT - MARGIN / 2.0 - y.max(0.0) / top * (HEIGHT - MARGIN))
    };
    let _ = write!(html, "<h2>{}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\">", escape(title));
    for i in 0..=4 {
        let value = top * f64::from(i) / 4.0;
        let (_, y) = at((0.0, value));
        let end = WIDTH - MARGIN;
        let _ = write!(
            html,
            "<line x1=\"{MARGIN}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"4\" y=\"{y:.1}\">{value:.3}</text>"
        );
    }
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let finite = curve.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let path: Vec<String> = finite
            .map(|&p| {
                let (x, y) = at(p);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let name = escape(&curve.name);
        let points = path.join(" ");
        let _ = write!(
            html,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"><title>{name}</title></polyline>"
        );
    }
    let _ =
        write!(html, "<text x=\"{}\" y=\"{}\">step {right:.0}</text></svg><p>", WIDTH - 90.0, HEIGHT - 6.0);
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()).filter(|(c, _)| !c.points.is_empty()) {
        let _ = write!(html, "<span style=\"color:{colour}\">■ {}</span> ", escape(&curve.name));
    }
    html.push_str("</p>");
}

fn table(html: &mut String, e: &Evaluation) {
    html.push_str(
        "<h2>Ranges on the test images</h2><table><tr><th>activation<th>largest operand / range</tr>",
    );
    for (name, ratio) in &e.overshoot.layers {
        let _ = write!(html, "<tr><td>{}<td>{ratio:.3}</tr>", escape(name));
    }
    html.push_str("</table>");
}
