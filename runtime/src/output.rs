//! The report as text for people and as JSON for programs.

use std::fmt::Write;

use crate::bytes::ByteSize;
use crate::report::{BoxReport, ClassScore, DetectionReport, OutputError, RunReport, SpentReport};

/// The report as one JSON object on one line.
///
/// # Errors
/// When a number cannot be written (never for finite reports).
pub fn json(report: &RunReport) -> Result<String, serde_json::Error> {
    serde_json::to_string(report)
}

/// The report as text.
pub fn text(report: &RunReport) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, report);
    out
}

fn write_text(out: &mut String, report: &RunReport) -> std::fmt::Result {
    writeln!(out, "{} on {} ({} backend)", report.model, report.input, report.backend)?;
    match &report.detections {
        Some(detections) => write_boxes(out, detections, report.backend)?,
        None if report.top.is_empty() => write_outputs(out, report)?,
        None => write_classes(out, report)?,
    }
    writeln!(out)?;
    if report.backend != "clear" {
        writeln!(out, "error      {:.1} bits below the range of the clear outputs", report.error_bits)?;
        for error in report.output_errors.iter().filter(|_| report.output_errors.len() > 1) {
            let OutputError { name, bits, largest } = error;
            writeln!(out, "           {bits:.1} bits, {largest:.2e} at most, in `{name}`")?;
        }
    }
    let p = &report.parameters;
    writeln!(
        out,
        "parameters N = {}, log Q = {:.0}, log QP = {:.0} ({}+{} primes), {}-bit security, {} keys of {}",
        p.n,
        p.log_q,
        p.log_qp,
        p.limbs,
        p.special_limbs,
        p.security_bits,
        p.keys,
        ByteSize(p.key_bytes)
    )?;
    let s = &report.seconds;
    writeln!(
        out,
        "seconds    keygen {:.2}, load {:.2}, encrypt {:.2}, online {:.2}, decrypt {:.2}",
        s.keygen, s.load, s.encrypt, s.online, s.decrypt
    )?;
    if let Some(peak) = report.peak_bytes {
        writeln!(out, "memory     {} at most", ByteSize(peak))?;
    }
    if let Some(profile) = &report.profile {
        write_spent(out, "operation", &profile.by_op)?;
        write_spent(out, "layer", &profile.by_layer)?;
        if let Some(efficiency) = &profile.efficiency {
            writeln!(out, "\nefficiency {}", efficiency.line)?;
        }
    }
    Ok(())
}

fn write_classes(out: &mut String, report: &RunReport) -> std::fmt::Result {
    let name = |score: &ClassScore| match &score.label {
        Some(label) => format!("{} ({})", label, score.class),
        None => score.class.to_string(),
    };
    let entry = |score: Option<&ClassScore>| {
        score.map_or((String::new(), String::new()), |s| (name(s), format!("{:.5}", s.score)))
    };
    let width =
        |scores: &[ClassScore]| scores.iter().map(|s| name(s).chars().count()).max().unwrap_or(0).max(10);
    let (left, right) = (width(&report.top), width(&report.clear_top));
    let found = if report.backend == "ckks" { "encrypted" } else { report.backend };
    writeln!(out, "\n    {found:<left$}  {:>10}    {:<right$}  {:>10}", "score", "in clear", "score")?;
    for i in 0..report.top.len().max(report.clear_top.len()) {
        let (a, a_score) = entry(report.top.get(i));
        let (b, b_score) = entry(report.clear_top.get(i));
        writeln!(out, " {}. {a:<left$}  {a_score:>10}    {b:<right$}  {b_score:>10}", i + 1)?;
    }
    Ok(())
}

/// Boxes of the backend beside those in the clear that they match; the unmatched ones in the clear at the end.
fn write_boxes(out: &mut String, report: &DetectionReport, backend: &str) -> std::fmt::Result {
    let found = if backend == "ckks" { "encrypted" } else { backend };
    let left: Vec<String> = report.boxes.iter().map(box_text).collect();
    let width = left.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(24);
    writeln!(out, "\n     {found:<width$}  {:>7}  in clear", "overlap")?;
    for (i, text) in left.iter().enumerate() {
        let pair = report.matched.iter().find(|m| m.found == i);
        let (iou, clear) = match pair.and_then(|m| Some((m.iou, report.clear.get(m.clear)?))) {
            Some((iou, clear)) => (format!("{:.1} %", 100.0 * iou), box_text(clear)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        writeln!(out, "{:>3}. {text:<width$}  {iou:>7}  {clear}", i + 1)?;
    }
    let unmatched = (0..report.clear.len()).filter(|&j| report.matched.iter().all(|m| m.clear != j));
    for clear in unmatched.map(|j| &report.clear[j]) {
        writeln!(out, "     {:<width$}  {:>7}  {}", "-", "-", box_text(clear))?;
    }
    if report.boxes.is_empty() && report.clear.is_empty() {
        writeln!(out, "     no box reaches the score")?;
    }
    Ok(())
}

fn box_text(report: &BoxReport) -> String {
    let [left, top, right, bottom] = report.corners;
    let name = report.label.as_ref().map_or_else(|| report.class.to_string(), Clone::clone);
    format!("{name} {:.3} at {left:.0},{top:.0} to {right:.0},{bottom:.0}", report.score)
}

fn write_outputs(out: &mut String, report: &RunReport) -> std::fmt::Result {
    const SHOWN: usize = 8;
    let numbers = |data: &[f64]| {
        let shown: Vec<String> = data.iter().take(SHOWN).map(|x| format!("{x:.5}")).collect();
        format!("{}{}", shown.join(" "), if data.len() > SHOWN { " ..." } else { "" })
    };
    for (output, clear) in report.outputs.iter().zip(&report.clear) {
        writeln!(out, "\n`{}` {:?}", output.name, output.shape)?;
        writeln!(out, "  {:<9} {}", report.backend, numbers(&output.data))?;
        writeln!(out, "  {:<9} {}", "in clear", numbers(&clear.data))?;
    }
    Ok(())
}

fn write_spent(out: &mut String, title: &str, lines: &[SpentReport]) -> std::fmt::Result {
    let total: f64 = lines.iter().map(|line| line.seconds).sum();
    let width = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0).max(title.len());
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title:<width$}  {:>6}  {:>9}  {:>5}", "count", "seconds", "share")?;
    for line in lines {
        let share = if total > 0.0 { 100.0 * line.seconds / total } else { 0.0 };
        writeln!(out, "{:<width$}  {:>6}  {:>9.3}  {share:>4.1}%", line.name, line.count, line.seconds)?;
    }
    Ok(())
}
