//! Checks that a run stays where the compiler calibrated it. Inputs outside calibrated ranges are the usual way encrypted
//! inference fails without a word: polynomials grow fast outside the interval they were fitted on.

use std::collections::HashMap;

use peregrine_ir::client::RangeRecord;
use peregrine_ir::program::{Inst, Probe, Program, Refreshed, Reg};
use serde::{Deserialize, Serialize};

/// How far, as a share of a channel's calibrated width, a value may leave its range before it is worth a warning.
const TOLERATED: f64 = 0.02;

/// A layer whose values left the calibrated range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RangeViolation {
    /// ONNX node name.
    pub layer: String,
    /// Channels that leave their range by more than the tolerated share.
    pub channels: usize,
    /// All channels.
    pub of: usize,
    /// The channel that leaves its range furthest.
    pub worst_channel: usize,
    /// How far, as a share of the range's width.
    pub overshoot: f64,
}

impl std::fmt::Display for RangeViolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "layer `{}`: {} of {} channels leave the calibrated range, channel {} by ",
            self.layer, self.channels, self.of, self.worst_channel
        )?;
        match self.overshoot {
            far if far > 10.0 => write!(f, "more than ten times its width; the answer is meaningless"),
            near => write!(f, "{:.0} % of its width; the answer may be wrong", 100.0 * near),
        }
    }
}

/// A refresh whose operand is larger than it is made for.
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshOverflow {
    /// ONNX node name.
    pub layer: String,
    /// Largest magnitude over the one that is allowed.
    pub excess: f64,
}

impl RefreshOverflow {
    /// The overflow of an operand, if it is one.
    pub fn of(refreshed: &Refreshed<'_>) -> Option<Self> {
        let excess = refreshed.largest / refreshed.allowed;
        (excess > 1.0).then(|| Self { layer: refreshed.layer.to_owned(), excess })
    }
}

impl std::fmt::Display for RefreshOverflow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { layer, excess } = self;
        let verdict = if *excess > 8.0 { "the answer is meaningless" } else { "the answer may be wrong" };
        write!(f, "layer `{layer}`: values reach {excess:.1} times what bootstrapping is made for; {verdict}")
    }
}

/// Compares the values that enter activations with their calibrated ranges.
#[derive(Debug)]
pub struct RangeCheck<'a> {
    /// By the first register of the operand of the activation.
    records: HashMap<Reg, &'a RangeRecord>,
    violations: Vec<RangeViolation>,
}

impl<'a> RangeCheck<'a> {
    /// A check of a program against these records. Records of layers that the program does not have are left out.
    pub fn new(program: &Program, records: &'a [RangeRecord]) -> Self {
        let operands = operands(program);
        let records = records
            .iter()
            .filter_map(|record| Some((*operands.get(record.layer.as_str())?, record)))
            .collect();
        Self { records, violations: Vec::new() }
    }

    /// Looks at the values (row-major, channel outermost) of a probe; those that enter no activation pass.
    pub fn observe(&mut self, probe: &Probe, values: &[f64]) {
        let record = probe.regs.first().and_then(|reg| self.records.get(reg));
        self.violations.extend(record.and_then(|record| violation(record, values)));
    }

    /// All violations so far.
    pub fn into_violations(self) -> Vec<RangeViolation> {
        self.violations
    }
}

/// For each layer the first register of the probed value that its instructions start from.
fn operands(program: &Program) -> HashMap<&str, Reg> {
    let layers =
        program.inst_layers.iter().map(|&layer| program.layers.get(layer as usize).map(String::as_str));
    starts(&program.probes, program.insts.iter().zip(layers))
}

/// The same for instructions with the names of their layers.
fn starts<'p>(
    probes: &'p [Probe],
    insts: impl Iterator<Item = (&'p Inst, Option<&'p str>)>,
) -> HashMap<&'p str, Reg> {
    // For each register the probed value that it holds: that value's first register and layer.
    let mut held: HashMap<Reg, (Reg, &str)> = HashMap::new();
    for probe in probes {
        let Some(&first) = probe.regs.first() else { continue };
        held.extend(probe.regs.iter().map(|&reg| (reg, (first, probe.layer.as_str()))));
    }
    let mut starts = HashMap::new();
    for (inst, layer) in insts.filter(|(inst, _)| !matches!(inst, Inst::Linear { .. })) {
        let reads = inst.reads();
        let (Some(operand), Some(layer)) = (reads.first(), layer) else { continue };
        let Some(&(first, made_by)) = held.get(operand) else { continue };
        // Dropped, refreshed, or lifted by the layer that made it, it is the same value.
        let dropped =
            matches!(inst, Inst::ModDrop { .. } | Inst::Bootstrap { .. } | Inst::BootstrapPair { .. });
        if dropped || made_by == layer {
            for &dst in inst.writes() {
                held.entry(dst).or_insert((first, made_by));
            }
        }
        starts.entry(layer).or_insert(first);
    }
    starts
}

fn violation(record: &RangeRecord, values: &[f64]) -> Option<RangeViolation> {
    let of = record.low.len().min(record.high.len());
    if of == 0 || values.is_empty() || !values.len().is_multiple_of(of) {
        return None;
    }
    let span = |c: usize| (f64::from(record.low[c]), f64::from(record.high[c]));
    // A channel that was constant in calibration has no width of its own; the widest channel's stands in, scaled down.
    let widest = (0..of).map(|c| span(c).1 - span(c).0).fold(0.0, f64::max);
    let overshoots: Vec<f64> = values
        .chunks(values.len() / of)
        .enumerate()
        .map(|(c, channel)| {
            let (low, high) = span(c);
            let width = (high - low).max(widest * 1e-3).max(f64::MIN_POSITIVE);
            channel.iter().map(|&x| beyond(x, low, high) / width).fold(0.0, f64::max)
        })
        .collect();
    let channels = overshoots.iter().filter(|&&o| o > TOLERATED).count();
    let (worst_channel, &overshoot) = overshoots.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    (channels > 0).then(|| RangeViolation {
        layer: record.layer.clone(),
        channels,
        of,
        worst_channel,
        overshoot,
    })
}

/// How far `x` is outside `low..=high`; infinitely far when it is no number.
fn beyond(x: f64, low: f64, high: f64) -> f64 {
    if x.is_finite() { (low - x).max(x - high).max(0.0) } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use peregrine_ir::linear::LayoutId;
    use peregrine_ir::program::RefreshId;
    use peregrine_ir::{ConstId, Level};

    use super::*;

    fn record() -> RangeRecord {
        RangeRecord { layer: "relu".to_owned(), low: vec![-1.0, 0.0], high: vec![1.0, 4.0] }
    }

    #[test]
    fn an_activation_starts_from_what_was_refreshed_before_it() {
        let [made, refreshed, lifted, squared, dropped] = [1, 2, 3, 4, 5].map(Reg);
        let probe = |layer: &str, reg| Probe {
            layer: layer.to_owned(),
            after: 0,
            regs: vec![reg],
            layout: LayoutId(0),
            unit: ConstId(0),
        };
        let probes = [probe("conv", made), probe("act", squared)];
        let insts = [
            (Inst::Rescale { dst: made, src: Reg(0) }, "conv"),
            (Inst::Bootstrap { dst: refreshed, src: made, refresh: RefreshId(0) }, "conv"),
            (Inst::Rescale { dst: lifted, src: refreshed }, "conv"),
            (Inst::Square { dst: squared, src: lifted }, "act"),
            (Inst::ModDrop { dst: dropped, src: squared, to: Level(1) }, "act"),
        ];
        let found = starts(&probes, insts.iter().map(|(inst, layer)| (inst, Some(*layer))));
        assert_eq!(found["act"], made, "not its own result");
    }

    #[test]
    fn inside_passes() {
        assert_eq!(violation(&record(), &[-1.0, 1.0, 0.0, 4.0]), None);
        assert_eq!(violation(&record(), &[1.0; 3]), None);
    }

    #[test]
    fn overflow_is_the_worst_violation() {
        let found = violation(&record(), &[f64::NAN, 1.0, 0.0, 4.0]).expect("channel 0 is no number");
        assert_eq!((found.channels, found.worst_channel, found.overshoot), (1, 0, f64::INFINITY));
        assert!(found.to_string().ends_with("the answer is meaningless"), "{found}");
    }

    #[test]
    fn overshoot_names_layer_and_channel() {
        let found = violation(&record(), &[-1.0, 1.0, 0.0, 4.6]).expect("channel 1 leaves its range");
        assert_eq!((found.channels, found.of, found.worst_channel), (1, 2, 1));
        assert!((found.overshoot - 0.15).abs() < 1e-9);
        assert!(found.to_string().contains("`relu`"));
    }
}
