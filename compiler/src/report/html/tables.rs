//! Tables of the page.

use std::fmt::Write;

use super::super::model::{
    ActivationReport, KeyKind, KeyReport, LayerReport, OutsideReport, Report, ValueReport,
};
use super::super::text::Bytes;
use super::{escape, lanes};

/// Tables of more rows are folded at first.
const FOLDED: usize = 60;

/// A table: headings (left-aligned ones start with `<`), rows of cells that are HTML already.
pub(super) fn table(class: &str, heads: &[&str], rows: &[String]) -> String {
    let head: String = heads
        .iter()
        .map(|head| match head.strip_prefix('<') {
            Some(left) => format!(r#"<th class="l">{left}</th>"#),
            None => format!("<th>{head}</th>"),
        })
        .collect();
    format!(
        r#"<div class="scroll"><table class="{class}"><thead><tr>{head}</tr></thead><tbody>{}</tbody></table></div>"#,
        rows.concat()
    )
}

/// The table, folded away when it is long.
pub(super) fn foldable(title: &str, count: usize, table: &str) -> String {
    let open = if count > FOLDED { "" } else { " open" };
    format!("<details{open}><summary>{title} ({count})</summary>{table}</details>")
}

fn name(text: &str) -> String {
    let text = escape(text);
    format!(r#"<td class="l name" title="{text}">{text}</td>"#)
}

fn number<T: ToString>(value: Option<T>) -> String {
    format!("<td>{}</td>", value.map_or_else(|| "–".to_owned(), |v| v.to_string()))
}

/// A zero is no news: it is left blank.
fn counted(value: u64) -> String {
    if value == 0 { "<td></td>".to_owned() } else { format!("<td>{value}</td>") }
}

fn meter(share: f64) -> String {
    format!(r#"<span class="meter"><i style="width:{:.1}%"></i></span>"#, 100.0 * share.clamp(0.0, 1.0))
}

/// The graph, a row per value.
pub(super) fn graph(values: &[ValueReport]) -> String {
    let rows = lanes::rows(values);
    let width = lanes::width(&rows);
    let line = |(value, row): (&ValueReport, &lanes::Row)| {
        let degree = value.degree.map_or_else(String::new, |d| format!(" of degree {d}"));
        let output = value.output.as_ref().map_or_else(String::new, |o| format!(" → {o}"));
        let [c, h, w] = value.shape;
        format!(
            r#"<tr><td class="g">{}</td>{}<td class="l">{}{degree}</td>{}{}<td>{c}×{h}×{w}</td><td>{}</td><td>{:.1} %{}</td><td>{}</td><td class="l mono">{}</td></tr>"#,
            lanes::draw(row, value.kind, width),
            name(&format!("{}{output}", value.layer)),
            value.kind.name(),
            number(value.level),
            number(value.log_scale.map(|s| format!("{s:.1}"))),
            value.ciphertexts,
            100.0 * value.occupancy,
            meter(value.occupancy),
            value.period,
            escape(&value.layout),
        )
    };
    let lines: Vec<String> = values.iter().zip(&rows).map(line).collect();
    let heads = [
        "<",
        "<layer",
        "<operation",
        "level",
        "scale, bits",
        "C×H×W",
        "ciphertexts",
        "slots used",
        "period",
        "<layout",
    ];
    foldable("Values", values.len(), &table("lanes", &heads, &lines))
}

/// The program, a row per layer.
pub(super) fn layers(layers: &[LayerReport]) -> String {
    let longest = layers.iter().map(|l| l.seconds).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let line = |layer: &LayerReport| {
        let levels = match (layer.level_in, layer.level_out) {
            (Some(from), Some(to)) if from != to => format!("{from} → {to}"),
            (Some(level), _) | (None, Some(level)) => level.to_string(),
            (None, None) => "–".to_owned(),
        };
        let bytes = if layer.key_bytes == 0 { String::new() } else { Bytes(layer.key_bytes).to_string() };
        format!(
            "<tr>{}<td>{levels}</td>{}{}{}{}{}<td>{bytes}</td><td>{:.3}{}</td>{}</tr>",
            name(&layer.name),
            counted(layer.rotations),
            counted(layer.products),
            counted(layer.multiplications),
            counted(layer.bootstraps),
            counted(layer.keys as u64),
            layer.seconds,
            meter(layer.seconds / longest),
            number(layer.error.map(|e| format!("{:.1}", e.bits))),
        )
    };
    let lines: Vec<String> = layers.iter().map(line).collect();
    let heads = [
        "<layer",
        "level",
        "rotations",
        "plaintext products",
        "ciphertext products",
        "bootstraps",
        "keys",
        "key bytes",
        "seconds",
        "precision, bits",
    ];
    foldable("Layers", layers.len(), &table("", &heads, &lines))
}

/// Activations, their ranges and what leaves them.
pub(super) fn activations(activations: &[ActivationReport]) -> String {
    let outside = |found: Option<OutsideReport>| match found {
        None => "<td>–</td>".to_owned(),
        Some(OutsideReport { outside: 0, .. }) => r#"<td class="good">none</td>"#.to_owned(),
        Some(found) => format!(
            r#"<td class="bad">{} of {}, worst {:.2} half widths</td>"#,
            found.outside, found.total, found.worst
        ),
    };
    let line = |a: &ActivationReport| {
        let range = |[low, high]: [f64; 2]| format!("{low:.2} … {high:.2}");
        format!(
            "<tr>{}<td>{}</td><td>{}</td><td>{}</td>{}{}{}{}{}</tr>",
            name(&a.layer),
            a.degree,
            a.channels,
            range(a.range),
            number(a.seen.map(range)),
            number(a.rms_error.map(|e| format!("{:.2} %", 100.0 * e))),
            counted(a.floored as u64),
            outside(a.calibration),
            outside(a.check),
        )
    };
    let lines: Vec<String> = activations.iter().map(line).collect();
    let heads = [
        "<layer",
        "degree",
        "channels",
        "range",
        "seen",
        "fit error, rms",
        "floored",
        "outside in calibration",
        "outside on the check input",
    ];
    foldable("Activations", activations.len(), &table("", &heads, &lines))
}

/// Evaluation keys, largest first.
pub(super) fn keys(keys: &[KeyReport]) -> String {
    let mut sorted: Vec<&KeyReport> = keys.iter().collect();
    sorted.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.element.cmp(&b.element)));
    let line = |key: &&KeyReport| {
        let kind = match (key.kind, key.rotation) {
            (KeyKind::Relinearisation, _) => "relinearisation".to_owned(),
            (KeyKind::Galois, Some(by)) => format!("rotation by {by}"),
            (KeyKind::Galois, None) => "automorphism".to_owned(),
            (KeyKind::Ephemeral, _) => "ephemeral secret, both ways".to_owned(),
        };
        format!(
            r#"<tr><td class="l">{kind}</td>{}<td>{}</td><td>{}</td><td>{}</td></tr>"#,
            number(key.element),
            key.level,
            Bytes(key.bytes),
            if key.layers == 0 { "bootstrapping".to_owned() } else { key.layers.to_string() }
        )
    };
    let lines: Vec<String> = sorted.iter().map(line).collect();
    let heads = ["<key", "Galois element", "up to level", "size", "layers that use it"];
    foldable("Keys", keys.len(), &table("", &heads, &lines))
}

/// Passes and their times.
pub(super) fn passes(report: &Report) -> String {
    let line = |p: &super::super::model::PassReport| {
        format!(
            r#"<tr><td class="l">{}</td><td>{}</td><td>{:.4}</td></tr>"#,
            escape(p.pass),
            p.nodes,
            p.seconds
        )
    };
    let lines: Vec<String> = report.passes.iter().map(line).collect();
    foldable("Passes", report.passes.len(), &table("", &["<pass", "nodes", "seconds"], &lines))
}

/// Bytes that stack up to a whole, with a legend.
pub(super) fn stack(parts: &[(&str, u64)]) -> String {
    let whole = parts.iter().map(|(_, bytes)| bytes).sum::<u64>().max(1) as f64;
    let (mut bar, mut legend) = (String::new(), String::new());
    for (i, (title, bytes)) in parts.iter().enumerate() {
        // Writing to a string cannot fail.
        let share = 100.0 * *bytes as f64 / whole;
        let _ = write!(
            bar,
            r#"<i class="s{i}" style="width:{share:.2}%" title="{title}: {}"></i>"#,
            Bytes(*bytes)
        );
        let _ = write!(
            legend,
            r#"<span><svg viewBox="0 0 10 10"><rect class="s{i}" width="10" height="10" rx="2"/></svg>{title} {}</span>"#,
            Bytes(*bytes)
        );
    }
    format!(r#"<div class="stack">{bar}</div><div class="legend">{legend}</div>"#)
}
