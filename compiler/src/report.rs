//! What `peregrinec` tells about a compilation before anything is run.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

use peregrine_ckks::params::security::estimated_bits;
use peregrine_ir::program::{Inst, Program, Reg};
use peregrine_passes::pipeline::Compiled;
use peregrine_passes::plan::{Outcome, Plan, Predicted};

use crate::driver::{Lowered, Prepared};

/// The full report as text.
pub fn report(prepared: &Prepared, lowered: &Lowered) -> String {
    let mut out = String::new();
    let written = model(&mut out, prepared)
        .and_then(|()| activations(&mut out, &lowered.compiled))
        .and_then(|()| parameters(&mut out, &lowered.compiled))
        .and_then(|()| program(&mut out, &lowered.compiled))
        .and_then(|()| layers(&mut out, &lowered.compiled))
        .and_then(|()| passes(&mut out, &lowered.compiled));
    debug_assert!(written.is_ok(), "writing to a text cannot fail");
    out
}

/// One line: ring, depth, keys, memory, time.
pub fn summary(compiled: &Compiled) -> String {
    let (params, p) = (&compiled.params, &compiled.prediction);
    let plans: Vec<String> = compiled.outcomes.iter().map(outcome).collect();
    format!(
        "{}\nN = 2^{}, log QP = {:.0}, {} levels, {} keys ({}), about {} of memory and {:.2} s per image",
        plans.join("; "),
        params.log_n(),
        params.log_qp(),
        params.max_level().0,
        p.keys,
        Bytes(p.key_bytes),
        Bytes(p.peak_bytes()),
        p.seconds,
    )
}

/// One way to pay for the depth, in a few words.
fn outcome(outcome: &Outcome) -> String {
    let name = match outcome.plan {
        Plan::Auto | Plan::Leveled => "leveled",
        Plan::Bootstrapped => "bootstrapped",
    };
    match &outcome.result {
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

fn model(out: &mut String, prepared: &Prepared) -> fmt::Result {
    let imported = &prepared.imported;
    writeln!(
        out,
        "model {:?}: input {:?} {:?}",
        imported.graph.name, imported.input.name, imported.input.shape
    )?;
    let side = |part: &Option<Vec<u8>>| if part.is_some() { "on the client" } else { "none" };
    writeln!(
        out,
        "  head before encryption: {}, tail after decryption: {}",
        side(&imported.head),
        side(&imported.tail)
    )?;
    match &imported.image {
        Some(image) => writeln!(
            out,
            "  pictures: {}x{}, divided by 255, mean {:?}, std {:?}",
            image.height, image.width, image.mean, image.std
        ),
        None => Ok(()),
    }
}

fn activations(out: &mut String, compiled: &Compiled) -> fmt::Result {
    let Some(fit) = &compiled.fit else {
        return writeln!(
            out,
            "activations: the model is polynomial already; without --calibrate its ranges come from the sample or a test pattern"
        );
    };
    writeln!(out, "activations, fitted on the calibration inputs:")?;
    for layer in &fit.layers {
        let low = layer.allowed.low.iter().copied().fold(f32::INFINITY, f32::min);
        let high = layer.allowed.high.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        write!(
            out,
            "  {:<44} degree {}, range {low:.2} to {high:.2}, rms error {:.2} %",
            layer.layer,
            layer.degree,
            100.0 * layer.rms_error
        )?;
        match &layer.refitted {
            Some(linear) => writeln!(out, ", {linear} refitted")?,
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

fn parameters(out: &mut String, compiled: &Compiled) -> fmt::Result {
    let params = &compiled.params;
    let bits = |primes: &[u64]| {
        primes.iter().map(|&q| format!("{:.0}", (q as f64).log2())).collect::<Vec<_>>().join(",")
    };
    writeln!(
        out,
        "parameters: N = 2^{}, log Q = {:.0}, log QP = {:.0}",
        params.log_n(),
        params.log_q(),
        params.log_qp()
    )?;
    writeln!(
        out,
        "  {} levels; chain {}; special {}",
        params.max_level().0,
        bits(params.q()),
        bits(params.p())
    )?;
    match estimated_bits(params.log_n(), params.log_qp()) {
        Some(bits) if params.is_secure() => writeln!(
            out,
            "  security: {bits:.0} bits (uniform ternary secret, classical; at least 128 by check)"
        ),
        _ => writeln!(out, "  security: BELOW 128 bits"),
    }
}

fn program(out: &mut String, compiled: &Compiled) -> fmt::Result {
    let (program, p, params) = (&compiled.program, &compiled.prediction, &compiled.params);
    let calls = program.insts.iter().filter(|i| matches!(i, Inst::Linear { .. })).count();
    writeln!(out, "program: {} instructions, {calls} linear calls", program.insts.len())?;
    writeln!(
        out,
        "  {} rotations, {} plaintext products, {} ciphertext products",
        p.rotations, p.products, p.multiplications
    )?;
    let input: u64 = program
        .inputs
        .iter()
        .map(|i| params.ciphertext_bytes(i.level) * u64::from(program.layouts[i.layout].ciphertexts))
        .sum();
    let output: u64 = program
        .outputs
        .iter()
        .map(|o| params.ciphertext_bytes(o.level) * u64::from(program.layouts[o.layout].ciphertexts))
        .sum();
    writeln!(out, "  ciphertexts in {} (half of it sent), out {}", Bytes(input), Bytes(output))?;
    writeln!(out, "  evaluation keys: {}, {} in memory", p.keys, Bytes(p.key_bytes))?;
    writeln!(
        out,
        "  memory: about {} (keys {}, constants {}, ciphertexts {}, scratch {})",
        Bytes(p.peak_bytes()),
        Bytes(p.key_bytes),
        Bytes(p.constant_bytes),
        Bytes(p.ciphertext_bytes),
        Bytes(p.scratch_bytes),
    )?;
    writeln!(out, "  time: about {:.2} s per image by the cost model", p.seconds)
}

fn layers(out: &mut String, compiled: &Compiled) -> fmt::Result {
    let program = &compiled.program;
    let level = levels(program);
    writeln!(out, "layers:")?;
    for (i, (layer, seconds)) in program.layers.iter().zip(&compiled.prediction.layer_seconds).enumerate() {
        let level = level.get(i).copied().flatten().map_or_else(|| "-".to_owned(), |l| l.to_string());
        writeln!(out, "  {layer:<44} level {level:>3}  {seconds:>8.3} s")?;
    }
    Ok(())
}

/// Level of each layer's value, where it can be probed.
fn levels(program: &Program) -> Vec<Option<u32>> {
    let levels = register_levels(program);
    let of_layer = |layer: &String| {
        let probe = program.probes.iter().find(|probe| probe.layer == *layer)?;
        levels.get(probe.regs.first()?).copied()
    };
    program.layers.iter().map(of_layer).collect()
}

/// Level of every register; registers are assigned once.
fn register_levels(program: &Program) -> BTreeMap<Reg, u32> {
    let mut levels: BTreeMap<Reg, u32> = BTreeMap::new();
    for inst in &program.insts {
        let of = |reg: &Reg| levels.get(reg).copied();
        let (dst, level) = match inst {
            Inst::Input { dst, input, .. } => (dst, program.inputs.get(*input as usize).map(|i| i.level.0)),
            Inst::Linear { dsts, args, .. } => {
                let level = args.first().and_then(of);
                levels.extend(dsts.iter().zip(level.iter().cycle()).map(|(dst, level)| (*dst, *level)));
                continue;
            }
            Inst::Rescale { dst, src } => (dst, of(src).map(|l| l.saturating_sub(1))),
            Inst::ModDrop { dst, to, .. } => (dst, Some(to.0)),
            Inst::Bootstrap { dst, refresh, .. } => (dst, program.refreshed(*refresh).map(|(l, _)| l.0)),
            Inst::BootstrapPair { dsts, refresh, .. } => {
                let level = program.refreshed(*refresh).map(|(l, _)| l.0);
                levels.extend(dsts.iter().zip(level.iter().cycle()).map(|(dst, level)| (*dst, *level)));
                continue;
            }
            Inst::AddVector { dst, src, .. }
            | Inst::MulVector { dst, src, .. }
            | Inst::Square { dst, src }
            | Inst::Rotate { dst, src, .. }
            | Inst::Conjugate { dst, src } => (dst, of(src)),
            Inst::Add { dst, a, .. } | Inst::Sub { dst, a, .. } | Inst::Mul { dst, a, .. } => (dst, of(a)),
            Inst::Output { .. } | Inst::Free { .. } => continue,
        };
        levels.extend(level.map(|l| (*dst, l)));
    }
    levels
}

fn passes(out: &mut String, compiled: &Compiled) -> fmt::Result {
    writeln!(out, "passes:")?;
    compiled
        .records
        .iter()
        .try_for_each(|r| writeln!(out, "  {:<24} {:>6} nodes {:>10.1?}", r.pass, r.nodes, r.time))
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
