//! Text of bootstrapping specifications and of refreshes, which two levels share.

use peregrine_ckks::bootstrap::{Arcsine, BootstrapSpec, EvalModSpec, PrimeRun};

use super::cursor::{Cursor, Expected, Join, TextError};
use crate::refresh::RefreshForm;

type Result<T> = std::result::Result<T, TextError>;

/// A specification on one line; the ring degree is that of the parameters.
pub(super) fn bootstrap_text(spec: &BootstrapSpec) -> String {
    let run = |run: PrimeRun| format!("{}x{}", run.count, run.bits);
    let EvalModSpec { prime_bits, boost_bits, degree, double_angles, arcsine } = spec.eval_mod;
    let usable = if spec.usable.is_empty() { "-".to_owned() } else { Join(&spec.usable, ",").to_string() };
    format!(
        "bootstrap base={} s2c={} usable={usable} mod={prime_bits}+{boost_bits} degree={degree} angles={double_angles} arcsine={} c2s={} special={} ephemeral={} ratio={}",
        spec.base_bits,
        run(spec.slots_to_coeffs),
        arcsine.degree(),
        run(spec.coeffs_to_slots),
        run(spec.special),
        spec.ephemeral_special,
        spec.ratio_bits
    )
}

/// What follows `bootstrap`.
pub(super) fn parse_bootstrap(line: &mut Cursor<'_>, log_n: u32) -> Result<BootstrapSpec> {
    line.key("base")?;
    let base_bits = line.integer()?;
    let slots_to_coeffs = parse_run(line, "s2c")?;
    line.key("usable")?;
    let usable = if line.eat("-") { Vec::new() } else { line.list(|line| line.integer())? };
    let eval_mod = parse_eval_mod(line)?;
    let coeffs_to_slots = parse_run(line, "c2s")?;
    let special = parse_run(line, "special")?;
    line.key("ephemeral")?;
    let ephemeral_special = line.integer()?;
    line.key("ratio")?;
    Ok(BootstrapSpec {
        log_n,
        base_bits,
        slots_to_coeffs,
        usable,
        eval_mod,
        coeffs_to_slots,
        special,
        ephemeral_special,
        ratio_bits: line.integer()?,
    })
}

fn parse_run(line: &mut Cursor<'_>, key: &'static str) -> Result<PrimeRun> {
    line.key(key)?;
    let before = *line;
    match line.extents()?[..] {
        [count, bits] => {
            let bits = u32::try_from(bits).map_err(|_| before.expected(Expected::Integer))?;
            Ok(PrimeRun { count, bits })
        }
        _ => Err(before.expected(Expected::Integer)),
    }
}

fn parse_eval_mod(line: &mut Cursor<'_>) -> Result<EvalModSpec> {
    line.key("mod")?;
    let prime_bits = line.integer()?;
    line.literal("+")?;
    let boost_bits = line.integer()?;
    line.key("degree")?;
    let degree = line.integer()?;
    line.key("angles")?;
    let double_angles = line.integer()?;
    line.key("arcsine")?;
    let before = *line;
    let arcsine = Arcsine::of_degree(line.integer()?).ok_or_else(|| before.expected(Expected::Integer))?;
    Ok(EvalModSpec { prime_bits, boost_bits, degree, double_angles, arcsine })
}

/// Range and lift of a refresh.
pub(super) fn form_text(form: RefreshForm) -> String {
    let lift = form.lift_bits.map_or("-".to_owned(), |bits| bits.to_string());
    format!("range={} lift={lift}", form.range_bits)
}

/// What [`form_text`] prints.
pub(super) fn parse_form(line: &mut Cursor<'_>) -> Result<RefreshForm> {
    line.key("range")?;
    let range_bits = line.integer()?;
    line.key("lift")?;
    let lift_bits = if line.eat("-") { None } else { Some(line.integer()?) };
    Ok(RefreshForm { range_bits, lift_bits })
}
