//! The report for the terminal.

use std::fmt::{self, Display, Write};

use peregrine_passes::fhe::LowerError;
use peregrine_passes::fhe::cost::Prediction;
use peregrine_passes::pipeline::Compiled;
use peregrine_passes::plan::{Outcome, Plan, Predicted};

use super::model::{BudgetReport, LevelUse, LinearReport, Report};

/// The full report as text.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    let written = model(&mut out, report)
        .and_then(|()| activations(&mut out, report))
        .and_then(|()| parameters(&mut out, report))
        .and_then(|()| program(&mut out, report))
        .and_then(|()| keys(&mut out, report))
        .and_then(|()| layers(&mut out, report))
        .and_then(|()| passes(&mut out, report));
    debug_assert!(written.is_ok(), "writing to a text cannot fail");
    out
}

/// One line: ring, depth, keys, memory, time.
pub fn summary(compiled: &Compiled) -> String {
    let (params, p) = (&compiled.params, &compiled.prediction);
    let plans: Vec<String> = compiled.outcomes.iter().map(outcome).collect();
    format!(
        "{}\nN = 2^{}, log QP = {:.0}, {} levels, {} keys ({}), about {} of memory and {:.2} s per image{}\n\
         foreseen error, if errors are independent: {}",
        plans.join("; "),
        params.log_n(),
        params.log_qp(),
        params.max_level().0,
        p.keys,
        Bytes(p.key_bytes),
        Bytes(p.peak_bytes()),
        p.seconds,
        encoding(p),
        foreseen(&super::collect::budget(compiled)),
    )
}

/// What the run takes where memory does not hold its constants, if that tells.
fn encoding(prediction: &Prediction) -> String {
    let (least, all) = (prediction.peak_bytes_encoding(), prediction.peak_bytes());
    if all.saturating_sub(least) < all / 4 {
        return String::new();
    }
    let seconds = prediction.seconds + prediction.encoding_seconds;
    format!(" (or {} and {seconds:.2} s with constants encoded when they are used)", Bytes(least))
}

/// Predicted precision and what takes it.
fn foreseen(budget: &BudgetReport) -> String {
    let mut sources = budget.sources.clone();
    sources.sort_by(|a, b| b.share.total_cmp(&a.share));
    let parts = sources.iter().filter(|s| s.share >= 0.01);
    let parts: Vec<String> = parts.map(|s| format!("{} {:.0} %", s.source, 100.0 * s.share)).collect();
    format!("{:.1} bits below the range of the outputs ({})", budget.bits, parts.join(", "))
}

/// One way to pay for the depth, in a few words.
fn outcome(outcome: &Outcome) -> String {
    let name = match outcome.plan {
        Plan::Auto | Plan::Leveled => "leveled",
        Plan::Bootstrapped => "bootstrapped",
    };
    match &outcome.result {
        Err(LowerError::KeysMemory { needed, .. }) => {
            format!("{name}: keys of at least {}, more than allowed", Bytes(*needed))
        }
        Err(LowerError::Slower { seconds }) => format!("{name}: about {seconds:.0} s, not planned further"),
        Err(_) => format!("{name}: no ring is large enough"),
        Ok(Predicted { seconds, key_bytes, bootstraps, gap }) => {
            let times = match outcome.plan {
                Plan::Bootstrapped => format!(" with {bootstraps} bootstrap(s)"),
                Plan::Auto | Plan::Leveled => String::new(),
            };
            let gap = if *gap > 0.0 {
                format!(", {:.1} % from the best at most", 100.0 * gap)
            } else {
                String::new()
            };
            format!("{name}: {seconds:.1} s{times}, keys of {}{gap}", Bytes(*key_bytes))
        }
    }
}

fn model(out: &mut String, report: &Report) -> fmt::Result {
    let model = &report.model;
    writeln!(out, "model {:?}: input {:?} {:?}", model.name, model.input, model.input_shape)?;
    let side = |on_client: bool| if on_client { "on the client" } else { "none" };
    writeln!(
        out,
        "  head before encryption: {}, tail after decryption: {}",
        side(model.head),
        side(model.tail)
    )?;
    match &model.picture {
        Some(image) => writeln!(
            out,
            "  pictures: {}x{}, divided by 255, mean {:?}, std {:?}",
            image.height, image.width, image.mean, image.std
        ),
        None => Ok(()),
    }
}

fn activations(out: &mut String, report: &Report) -> fmt::Result {
    let Some(fit) = &report.fit else {
        return writeln!(
            out,
            "activations: the model is polynomial already; without --calibrate its ranges come from the sample or a test pattern"
        );
    };
    writeln!(out, "activations, fitted on the calibration inputs:")?;
    for layer in &report.activations {
        let [low, high] = layer.range;
        write!(out, "  {:<44} degree {}, range {low:.2} to {high:.2}", layer.layer, layer.degree)?;
        if let Some(error) = layer.rms_error {
            write!(out, ", rms error {:.2} %", 100.0 * error)?;
        }
        if let Some(linear) = &layer.refitted {
            write!(out, ", {linear} refitted")?;
        }
        match layer.calibration.filter(|c| c.outside > 0) {
            Some(c) => writeln!(out, ", {} of {} values outside", c.outside, c.total)?,
            None => writeln!(out)?,
        }
    }
    writeln!(
        out,
        "  on the calibration inputs: same largest output for {:.1} %, output changed by {:.1} % (rms)",
        100.0 * fit.agreement,
        100.0 * fit.output_error
    )
}

fn parameters(out: &mut String, report: &Report) -> fmt::Result {
    let p = &report.parameters;
    let bits = |bits: &[f64]| bits.iter().map(|b| format!("{b:.0}")).collect::<Vec<_>>().join(",");
    writeln!(out, "parameters: N = 2^{}, log Q = {:.0}, log QP = {:.0}", p.log_n, p.log_q, p.log_qp)?;
    writeln!(out, "  {} levels; chain {}; special {}", p.levels, bits(&p.chain_bits), bits(&p.special_bits))?;
    match p.security_bits {
        Some(bits) => writeln!(
            out,
            "  security: {bits:.0} bits (uniform ternary secret, classical; at least 128 by check)"
        ),
        None => writeln!(out, "  security: BELOW 128 bits"),
    }
}

fn program(out: &mut String, report: &Report) -> fmt::Result {
    let t = &report.totals;
    writeln!(out, "program: {} instructions, {} linear calls", t.instructions, t.linear_calls)?;
    writeln!(out, "  {}", linear(&report.linear))?;
    write!(
        out,
        "  {} rotations, {} plaintext products, {} ciphertext products",
        t.rotations, t.products, t.multiplications
    )?;
    match t.bootstraps {
        0 => writeln!(out)?,
        n => writeln!(out, ", {n} bootstraps")?,
    }
    writeln!(
        out,
        "  ciphertexts in {} (half of it sent), out {}",
        Bytes(t.input_bytes),
        Bytes(t.output_bytes)
    )?;
    writeln!(out, "  evaluation keys: {}, {} in memory", t.keys, Bytes(t.key_bytes))?;
    writeln!(
        out,
        "  memory: about {} (keys {}, constants {}, ciphertexts {}, scratch {})",
        Bytes(t.peak_bytes),
        Bytes(t.key_bytes),
        Bytes(t.constant_bytes),
        Bytes(t.ciphertext_bytes),
        Bytes(t.scratch_bytes),
    )?;
    writeln!(out, "  time: about {:.2} s per image by the cost model", t.seconds)?;
    writeln!(out, "  foreseen error, if errors are independent: {}", foreseen(&report.budget))
}

/// What linear operators cost in levels, in one line.
pub(super) fn linear(report: &LinearReport) -> String {
    let of = |use_: &LevelUse| format!("{} with {} level(s) each", use_.values, use_.levels);
    let levels: Vec<String> = report.levels.iter().map(of).collect();
    format!(
        "{} linear operators: {}, {} as parts of these at no level",
        report.operators,
        levels.join(", "),
        report.free
    )
}

/// What `--keys-memory` chooses from, and the plans that were compared.
fn keys(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "keys against time (--keys-memory chooses):")?;
    report.key_plans.iter().try_for_each(|plan| {
        let chosen = if plan.chosen { " <- this program" } else { "" };
        let bytes = Bytes(plan.key_bytes).to_string();
        writeln!(out, "  {bytes:>10}  {:>8.2} s  {}{chosen}", plan.seconds, plan.name)
    })
}

fn layers(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "layers:")?;
    for layer in &report.layers {
        let level = layer.level_out.map_or_else(|| "-".to_owned(), |l| l.to_string());
        write!(
            out,
            "  {:<44} level {level:>3}  {:>5} rotations  {:>6} products  {:>8.3} s",
            layer.name, layer.rotations, layer.products, layer.seconds
        )?;
        match &layer.foreseen {
            Some(foreseen) => writeln!(
                out,
                "  error {:.1e}, makes {:>4.1} % of the outputs'",
                foreseen.error,
                100.0 * foreseen.share
            )?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

fn passes(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "passes:")?;
    report.passes.iter().try_for_each(|r| {
        let time = std::time::Duration::from_secs_f64(r.seconds);
        writeln!(out, "  {:<24} {:>6} nodes {time:>10.1?}", r.pass, r.nodes)
    })
}
/// A number of bytes, as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB"] {
            if value < 1024.0 {
                return write!(f, "{value:.0} {unit}");
            }
            value /= 1024.0;
        }
        write!(f, "{value:.2} GiB")
    }
}
