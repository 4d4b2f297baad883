//! Measuring this machine.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use peregrine_ckks::calibrate::calibrate;
use peregrine_ckks::cost::Machine;

use super::print;

/// Flags of `calibrate`.
#[derive(Debug, Args)]
pub struct Flags {
    /// File for the figures (JSON), which peregrinec --machine and --profile --machine read.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads of the measurement on all of them; default: one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// Measures, prints, writes.
pub(super) fn execute(flags: &Flags) -> anyhow::Result<()> {
    let threads = flags.threads.map_or(0, usize::from);
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("cannot start threads")?;
    let tell = |what: &str| {
        // A closed standard error must not change the outcome.
        let _ = writeln!(std::io::stderr(), "measuring {what}");
    };
    let machine = pool.install(|| calibrate(&tell)).context("cannot measure this machine")?;
    print(&text(&machine))?;
    if let Some(path) = &flags.output {
        let json = serde_json::to_string_pretty(&machine).context("cannot write the figures as JSON")? + "\n";
        write(path, json.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Reads the figures of a machine.
///
/// # Errors
/// A message that names the file, and what is wrong with it.
pub(super) fn read(path: &Path) -> anyhow::Result<Machine> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let machine: Machine =
        serde_json::from_str(&text).with_context(|| format!("{name} has no figures of a machine"))?;
    machine.check().map_err(|what| anyhow!("{name}: {what}; measure again with peregrine-run calibrate"))?;
    Ok(machine)
}

/// Through a temporary file in the same folder.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

fn text(machine: &Machine) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, machine);
    out
}

fn write_text(out: &mut String, m: &Machine) -> std::fmt::Result {
    writeln!(out, "{}, {}, nanoseconds on a core while all are at work", m.name, m.kernels)?;
    let kernels = [
        ("butterfly", m.butterfly),
        ("product of a base conversion", m.conversion),
        ("product with a word of a key", m.key_word),
        ("product with a plaintext weight", m.plain_product),
        ("word of another pass", m.word),
    ];
    for (name, seconds) in kernels {
        writeln!(out, "  {name:<32} {:.3}", 1e9 * seconds)?;
    }
    writeln!(out, "whole operations reach {:.0} % of that", 100.0 * m.efficiency)?;
    writeln!(out, "measured on {} threads at once", m.threads)?;
    writeln!(out, "\n{:<36} {:>5} {:>8} {:>10} {:>10}", "operation", "ring", "limbs", "ms", "predicted")?;
    for o in &m.operations {
        let limbs = format!("{}+{}", o.limbs, o.special);
        let (ms, predicted) = (1e3 * o.seconds, 1e3 * o.predicted);
        writeln!(out, "{:<36} 2^{:<3} {limbs:>8} {ms:>10.2} {predicted:>10.2}", o.operation, o.log_n)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_round_trip_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        let machine = Machine { butterfly: 1.25e-10, ..Machine::default() };
        write(&path, &serde_json::to_vec(&machine).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), machine);
        let broken = Machine { efficiency: 0.0, ..machine };
        write(&path, &serde_json::to_vec(&broken).unwrap()).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("efficiency is 0"));
        write(&path, b"{}").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("has no figures"));
        assert!(read(Path::new("no-such.json")).unwrap_err().to_string().contains("cannot read"));
    }
}
