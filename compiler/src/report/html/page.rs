//! The page from top to bottom.

use super::super::model::{CheckReport, KeyPlan, Report, ValueKind};
use super::super::text::{Bytes, linear};
use super::plot::{Plot, radius};
use super::{escape, lanes, tables};

/// The report as a page.
pub fn page(report: &Report) -> String {
    let sections: String = [
        header(report),
        tiles(report),
        check(report),
        levels(report),
        cost(report),
        precision(report),
        activations(report),
        graph(report),
        keys(report),
        rest(report),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>{}: report</title><style>{}</style></head>\n<body>{sections}</body></html>\n",
        escape(&report.model.name),
        include_str!("style.css"),
    )
}

fn shape(extents: &[usize]) -> String {
    extents.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

fn header(report: &Report) -> String {
    let model = &report.model;
    let outputs: Vec<String> =
        model.outputs.iter().map(|o| format!("{} {}", escape(&o.name), shape(&o.shape))).collect();
    let picture = model.picture.as_ref().map_or_else(String::new, |p| {
        format!(
            "<p class=\"soft\">Pictures: {}×{}, divided by 255, mean {:?}, std {:?}.</p>",
            p.width, p.height, p.mean, p.std
        )
    });
    let client = match (model.head, model.tail) {
        (true, true) => "Head and tail of the model run on the client.",
        (true, false) => "The head of the model runs on the client, before encryption.",
        (false, true) => "The tail of the model runs on the client, after decryption.",
        (false, false) => "All of the model is encrypted.",
    };
    format!(
        "<h1>{}</h1><p class=\"soft\">Compiled by {} for encrypted inputs. Input {} {}, output {}. {client}</p>{picture}\
         <p class=\"soft mono\" style=\"overflow-wrap:anywhere\">BLAKE3 of the ONNX file {}</p>",
        escape(&model.name),
        escape(&model.compiler),
        escape(&model.input),
        shape(&model.input_shape),
        outputs.join(", "),
        escape(&model.hash),
    )
}

fn tiles(report: &Report) -> String {
    let (p, t) = (&report.parameters, &report.totals);
    let security = match p.security_bits {
        Some(bits) => format!("{bits:.0}-bit security"),
        None => "BELOW 128 bits".to_owned(),
    };
    let bootstraps = match t.bootstraps {
        0 => String::new(),
        1 => ", 1 bootstrap".to_owned(),
        n => format!(", {n} bootstraps"),
    };
    let mut tiles = vec![
        ("Time per input", format!("{:.2} s", t.seconds), "by the cost model".to_owned()),
        ("Memory", Bytes(t.peak_bytes).to_string(), "at most, by the cost model".to_owned()),
        ("Ring", format!("N = 2<sup>{}</sup>", p.log_n), format!("log QP = {:.0}, {security}", p.log_qp)),
        (
            "Levels",
            p.levels.to_string(),
            format!("{} + {} primes, log Q = {:.0}", p.chain_bits.len(), p.special_bits.len(), p.log_q),
        ),
        ("Keys", t.keys.to_string(), Bytes(t.key_bytes).to_string()),
        ("Rotations", t.rotations.to_string(), format!("{} linear calls{bootstraps}", t.linear_calls)),
        ("Plaintext products", t.products.to_string(), format!("{} of ciphertexts", t.multiplications)),
        ("Transfer", Bytes(t.input_bytes / 2).to_string(), format!("sent, {} back", Bytes(t.output_bytes))),
    ];
    if let Some(worst) = report.check.as_ref().and_then(worst) {
        tiles.push((
            "Precision",
            format!("{worst:.1} bits"),
            "of the output's range, on the check input".to_owned(),
        ));
    }
    let tile = |(title, value, note): (&str, String, String)| {
        format!("<div><dt>{title}</dt><dd>{value}<small>{note}</small></dd></div>")
    };
    format!("<dl class=\"tiles\">{}</dl>", tiles.into_iter().map(tile).collect::<String>())
}

/// Least bits of an output.
fn worst(check: &CheckReport) -> Option<f64> {
    check.outputs.iter().map(|o| o.bits).reduce(|a, b| if b < a || b.is_nan() { b } else { a })
}

fn check(report: &Report) -> String {
    let Some(check) = &report.check else {
        return "<h2>Check</h2><p class=\"soft\">The program was not run against the clear model.</p>"
            .to_owned();
    };
    let verdict = match check.passes {
        true => "<span class=\"good\">within the tolerance</span>",
        false => "<span class=\"bad\">above the tolerance: nothing was written</span>",
    };
    let line = |o: &super::super::model::OutputError| {
        let same = match o.same_top {
            true => "<td class=\"good\">same</td>",
            false => "<td class=\"bad\">different</td>",
        };
        format!(
            "<tr><td class=\"l\">{}</td><td>{}</td><td>{}</td><td>{:.1}</td>{same}</tr>",
            escape(&o.name),
            figure(o.error),
            figure(o.range),
            o.bits
        )
    };
    let lines: Vec<String> = check.outputs.iter().map(line).collect();
    format!(
        "<h2>Check</h2><p>The program, with the scheme's noise, against tract on the polynomial model, on one input: {verdict} \
         of {}.</p>{}",
        figure(check.tolerance),
        tables::table("", &["<output", "error", "range", "bits", "largest value"], &lines)
    )
}

/// A number of any size in a few digits.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e5).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

fn levels(report: &Report) -> String {
    let last = report.values.len().saturating_sub(1) as f64;
    let mut plot = Plot::new(
        [0.0, last],
        [0.0, f64::from(report.parameters.levels)],
        "level of each value, in order of evaluation",
    );
    let points: Vec<[f64; 2]> =
        report.values.iter().enumerate().filter_map(|(i, v)| Some([i as f64, f64::from(v.level?)])).collect();
    plot.line(&points);
    for (i, value) in report.values.iter().enumerate() {
        let Some(level) = value.level else { continue };
        let title = format!("{}: {} at level {level}", value.layer, value.kind.name());
        let class = lanes::class(value.kind);
        plot.dot([i as f64, f64::from(level)], class, radius(report.values.len()), &title);
    }
    format!(
        "<h2>Levels</h2>{}{}",
        plot.figure(
            "A linear layer takes one level, polynomials take the others; bootstraps raise the level again."
        ),
        kinds(report)
    )
}

/// Legend of the kinds that occur.
fn kinds(report: &Report) -> String {
    let present = ValueKind::ALL.into_iter().filter(|kind| report.values.iter().any(|v| v.kind == *kind));
    let entry = |kind: ValueKind| {
        format!(
            "<span><svg viewBox=\"0 0 10 10\"><circle class=\"{}\" cx=\"5\" cy=\"5\" r=\"5\"/></svg>{}</span>",
            lanes::class(kind),
            kind.name()
        )
    };
    format!("<div class=\"legend\">{}</div>", present.map(entry).collect::<String>())
}

fn cost(report: &Report) -> String {
    let t = &report.totals;
    let longest = report.layers.iter().map(|l| l.seconds).fold(0.0, f64::max);
    let count = report.layers.len();
    let mut plot = Plot::new([-0.6, count as f64 - 0.4], [0.0, longest], "seconds of each layer, in order");
    for (i, layer) in report.layers.iter().enumerate() {
        let title = format!(
            "{}: {:.3} s, {} rotations, {} products",
            layer.name, layer.seconds, layer.rotations, layer.products
        );
        plot.bar(i as f64, [0.0, layer.seconds], 0.8, "bar", &title);
    }
    let memory = tables::stack(&[
        ("keys", t.key_bytes),
        ("constants", t.constant_bytes),
        ("ciphertexts", t.ciphertext_bytes),
        ("scratch", t.scratch_bytes),
    ]);
    format!(
        "<h2>Cost</h2>{}<p>{}.</p><p>Memory, {} in all:</p>{memory}{}",
        plot.figure("Predicted time by layer, all cores."),
        linear(&report.linear),
        Bytes(t.peak_bytes),
        tables::layers(&report.layers)
    )
}

fn precision(report: &Report) -> String {
    let found: Vec<(usize, &str, f64)> = report
        .layers
        .iter()
        .enumerate()
        .filter_map(|(i, l)| Some((i, l.name.as_str(), l.error?.bits)))
        .filter(|(_, _, bits)| bits.is_finite())
        .collect();
    if found.is_empty() {
        return String::new();
    }
    let tolerance = report.check.as_ref().map_or(0.0, |c| -c.tolerance.log2());
    let best = found.iter().map(|f| f.2).fold(tolerance, f64::max);
    let lowest = found.iter().map(|f| f.2).fold(tolerance, f64::min).min(0.0);
    let last = report.layers.len().saturating_sub(1) as f64;
    let mut plot = Plot::new(
        [0.0, last],
        [lowest, best + 1.0],
        "bits of each layer's largest value that are right, in order",
    );
    plot.line(&found.iter().map(|f| [f.0 as f64, f.2]).collect::<Vec<_>>());
    for (i, name, bits) in &found {
        plot.dot([*i as f64, *bits], "bar", radius(found.len()), &format!("{name}: {bits:.1} bits"));
    }
    plot.limit(tolerance);
    format!(
        "<h2>Precision</h2>{}",
        plot.figure("Deviation of each layer from the clear model on the check input, with the scheme's noise; dashed: the tolerance of the output.")
    )
}

fn activations(report: &Report) -> String {
    if report.activations.is_empty() {
        return String::new();
    }
    let all = || report.activations.iter().flat_map(|a| a.range);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let count = report.activations.len() as f64;
    let mut plot =
        Plot::new([-0.6, count - 0.4], [low, high], "range of what enters each activation, in order");
    for (i, a) in report.activations.iter().enumerate() {
        let [from, to] = a.range;
        plot.bar(i as f64, a.range, 0.8, "allowed", &format!("{}: allowed {from:.2} to {to:.2}", a.layer));
        if let Some(seen) = a.seen {
            let title = format!("{}: seen {:.2} to {:.2}", a.layer, seen[0], seen[1]);
            plot.bar(i as f64, seen, 0.4, "seen", &title);
        }
    }
    let fit = report.fit.map_or_else(
        || "<p>The model was polynomial already.</p>".to_owned(),
        |fit| {
            format!(
                "<p>Fitted on the calibration inputs: the same largest output for {:.1} % of them, the output changed by {:.1} % (rms).</p>",
                100.0 * fit.agreement,
                100.0 * fit.output_error
            )
        },
    );
    format!(
        "<h2>Activations</h2>{fit}{}{}",
        plot.figure("Ranges over all channels: allowed (wide), seen in calibration (narrow)."),
        tables::activations(&report.activations)
    )
}

fn graph(report: &Report) -> String {
    format!(
        "<h2>Graph</h2><p class=\"soft\">Each row is a packed value; lines lead from a value to its uses. A layout sends digits \
         of channel, row and column to slot strides (s) or ciphertext strides (t).</p>{}{}",
        kinds(report),
        tables::graph(&report.values)
    )
}

fn keys(report: &Report) -> String {
    format!("<h2>Keys</h2>{}{}", key_plans(&report.key_plans), tables::keys(&report.keys))
}

/// Time over key bytes of the plans that were compared.
fn key_plans(plans: &[KeyPlan]) -> String {
    if plans.len() < 2 {
        return String::new();
    }
    let extremes = |of: fn(&KeyPlan) -> f64| {
        let (low, high) =
            plans.iter().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let margin = (high - low) * 0.05;
        [low - margin, high + margin]
    };
    let gib = |plan: &KeyPlan| plan.key_bytes as f64 / f64::from(1u32 << 30);
    let mut plot = Plot::new(extremes(gib), extremes(|p| p.seconds), "seconds, over GiB of keys");
    // The chosen one last, on top of the others.
    for plan in plans.iter().filter(|p| !p.chosen).chain(plans.iter().filter(|p| p.chosen)) {
        let class = if plan.chosen { "chosen" } else { "bar" };
        let title = format!("{}: {:.2} s, {}", plan.name, plan.seconds, Bytes(plan.key_bytes));
        plot.dot([gib(plan), plan.seconds], class, 5.0, &title);
    }
    plot.figure(
        "Plans that were compared: predicted time over key bytes; the program is made by the marked one.",
    )
}

fn rest(report: &Report) -> String {
    let bits = |bits: &[f64]| bits.iter().map(|b| format!("{b:.0}")).collect::<Vec<_>>().join(", ");
    format!(
        "<h2>Parameters and passes</h2><p>Bits of the primes from level 0: {}; special: {}.</p>{}",
        bits(&report.parameters.chain_bits),
        bits(&report.parameters.special_bits),
        tables::passes(report)
    )
}
