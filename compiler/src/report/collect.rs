//! The report of a compilation, from what the pipeline and the check made.

use std::collections::BTreeMap;

use peregrine_ckks::params::security::estimated_bits;
use peregrine_ir::EntityId;
use peregrine_ir::fhe::{Fhe, FheOp};
use peregrine_ir::graph::Node;
use peregrine_ir::layout::{Digit, Layout, Place};
use peregrine_ir::program::Inst;
use peregrine_ir::tensor::TensorOp;
use peregrine_passes::fhe::budget::Source;
use peregrine_passes::fhe::key_front::FrontPoint;
use peregrine_passes::pipeline::{Compiled, PipelineError};
use peregrine_passes::plan::{Outcome, Plan};

use super::model::{
    ActivationReport, BudgetReport, CheckReport, ErrorReport, FitSummary, ForeseenReport, KeyPlan,
    LayerReport, LevelUse, LinearReport, ModelReport, OutputError, OutputReport, OutsideReport,
    ParametersReport, PassReport, PictureReport, Report, SourceReport, Totals, ValueKind, ValueReport,
};
use super::{calibration, layers};
use crate::driver::{Lowered, Prepared};
use crate::error::CompileError;
use crate::gate::GateReport;

impl Report {
    /// The report of a compilation; `check` is that of the gate, when it ran.
    ///
    /// # Errors
    /// When the polynomial model cannot be run on the calibration inputs.
    pub fn of(
        prepared: &Prepared,
        lowered: &Lowered,
        check: Option<&GateReport>,
    ) -> Result<Self, CompileError> {
        let compiled = &lowered.compiled;
        let (mut layers, keys) = layers::of_program(compiled);
        if let Some(check) = check {
            add_errors(&mut layers, check);
        }
        add_foreseen(&mut layers, compiled);
        let outside = match &prepared.calibration {
            Some(batch) => calibration::outside(&compiled.polynomial, &lowered.ranges, batch)
                .map_err(PipelineError::Tensor)?,
            None => BTreeMap::new(),
        };
        Ok(Self {
            model: model(prepared, compiled),
            parameters: parameters(compiled),
            totals: totals(compiled, &layers),
            linear: linear(compiled),
            values: values(compiled),
            budget: budget(compiled),
            activations: activations(lowered, &outside, check),
            fit: compiled
                .fit
                .as_ref()
                .map(|fit| FitSummary { agreement: fit.agreement, output_error: fit.output_error }),
            check: check.map(check_report),
            layers,
            keys,
            key_plans: key_plans(compiled),
            passes: compiled
                .records
                .iter()
                .map(|r| PassReport { pass: r.pass, nodes: r.nodes, seconds: r.time.as_secs_f64() })
                .collect(),
        })
    }
}

/// The plans that were predicted, the one of the program marked, and what `--keys-memory` chooses from.
fn key_plans(compiled: &Compiled) -> Vec<KeyPlan> {
    let p = &compiled.prediction;
    let plan = |outcome: &Outcome| {
        let predicted = outcome.result.as_ref().ok()?;
        Some(KeyPlan {
            name: match outcome.plan {
                Plan::Auto | Plan::Leveled => "leveled".to_owned(),
                Plan::Bootstrapped => format!("bootstrapped, {} bootstraps", predicted.bootstraps),
            },
            seconds: predicted.seconds,
            key_bytes: predicted.key_bytes,
            chosen: predicted.seconds == p.seconds && predicted.key_bytes == p.key_bytes,
        })
    };
    let of_front = |point: &FrontPoint| KeyPlan {
        name: format!("{} special primes, log QP = {:.0}", point.alpha, point.log_qp),
        seconds: point.seconds,
        key_bytes: point.key_bytes,
        chosen: false,
    };
    let outcomes = compiled.outcomes.iter().filter_map(plan);
    outcomes.chain(compiled.key_front.iter().map(of_front)).collect()
}

fn model(prepared: &Prepared, compiled: &Compiled) -> ModelReport {
    let (imported, program) = (&prepared.imported, &compiled.program);
    let output = |o: &peregrine_ir::program::ProgramOutput| OutputReport {
        name: o.name.clone(),
        shape: o.shape.clone(),
        ciphertexts: program.layouts[o.layout].ciphertexts,
        level: o.level.0,
    };
    ModelReport {
        name: imported.graph.name.clone(),
        hash: prepared.model_hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        compiler: concat!("peregrinec ", env!("CARGO_PKG_VERSION")).to_owned(),
        input: imported.input.name.clone(),
        input_shape: imported.input.shape.clone(),
        picture: imported.image.as_ref().map(|image| PictureReport {
            height: image.height,
            width: image.width,
            mean: image.mean.clone(),
            std: image.std.clone(),
        }),
        head: imported.head.is_some(),
        tail: imported.tail.is_some(),
        outputs: program.outputs.iter().map(output).collect(),
    }
}

fn parameters(compiled: &Compiled) -> ParametersReport {
    let params = &compiled.params;
    let bits = |primes: &[u64]| primes.iter().map(|&q| (q as f64).log2()).collect();
    ParametersReport {
        log_n: params.log_n(),
        slots: params.max_slots().get(),
        log_q: params.log_q(),
        log_qp: params.log_qp(),
        levels: params.max_level().0,
        chain_bits: bits(params.q()),
        special_bits: bits(params.p()),
        security_bits: estimated_bits(params.log_n(), params.log_qp()).filter(|_| params.is_secure()),
    }
}

fn totals(compiled: &Compiled, layers: &[LayerReport]) -> Totals {
    let (program, p, params) = (&compiled.program, &compiled.prediction, &compiled.params);
    let bytes =
        |layout, level| params.ciphertext_bytes(level) * u64::from(program.layouts[layout].ciphertexts);
    Totals {
        instructions: program.insts.len(),
        linear_calls: program.insts.iter().filter(|i| matches!(i, Inst::Linear { .. })).count(),
        rotations: p.rotations,
        products: p.products,
        multiplications: p.multiplications,
        bootstraps: layers.iter().map(|layer| layer.bootstraps).sum(),
        seconds: p.seconds,
        keys: p.keys,
        key_bytes: p.key_bytes,
        constant_bytes: p.constant_bytes,
        ciphertext_bytes: p.ciphertext_bytes,
        scratch_bytes: p.scratch_bytes,
        peak_bytes: p.peak_bytes(),
        input_bytes: program.inputs.iter().map(|i| bytes(i.layout, i.level)).sum(),
        output_bytes: program.outputs.iter().map(|o| bytes(o.layout, o.level)).sum(),
    }
}

fn linear(compiled: &Compiled) -> LinearReport {
    let graph = &compiled.fhe;
    let level = |id: peregrine_ir::ValueId| graph.nodes[id].ty.cipher.as_ref().map(|c| c.level.0);
    let mut levels: BTreeMap<u32, usize> = BTreeMap::new();
    for (id, node) in graph.nodes.iter().filter(|(_, node)| matches!(node.op, FheOp::Linear { .. })) {
        let operands = node.args.iter().filter_map(|&arg| level(arg)).min();
        if let (Some(from), Some(to)) = (operands, level(id)) {
            *levels.entry(from.saturating_sub(to)).or_default() += 1;
        }
    }
    let is_linear = |op: &TensorOp| matches!(op, TensorOp::Conv(_) | TensorOp::Add | TensorOp::Separable(_));
    let operators = compiled.polynomial.nodes.values().filter(|node| is_linear(&node.op)).count();
    let values: usize = levels.values().sum();
    let levels = levels.into_iter().map(|(levels, values)| LevelUse { levels, values }).collect();
    LinearReport { operators, free: operators.saturating_sub(values), levels }
}

fn values(compiled: &Compiled) -> Vec<ValueReport> {
    let graph = &compiled.fhe;
    let value = |(id, node): (peregrine_ir::ValueId, &Node<Fhe>)| {
        let layout = &graph.tables.layouts[node.ty.layout];
        let shape = layout.shape;
        let places = f64::from(layout.period.get()) * f64::from(layout.ciphertexts);
        let cipher = node.ty.cipher.as_ref();
        ValueReport {
            kind: kind(&node.op),
            layer: node.origin.as_str().to_owned(),
            args: node.args.iter().map(|arg| arg.index()).collect(),
            shape: [shape.c, shape.h, shape.w],
            layout: layout_text(layout),
            ciphertexts: layout.ciphertexts,
            period: layout.period.get(),
            occupancy: shape.len() as f64 / places,
            level: cipher.map(|c| c.level.0),
            log_scale: cipher.map(|c| c.scale.log2(&compiled.params)),
            degree: match &node.op {
                FheOp::Poly(poly) => Some(poly.degree),
                _ => None,
            },
            output: graph.outputs.iter().find(|o| o.value == id).map(|o| o.name.clone()),
        }
    };
    graph.nodes.iter().map(value).collect()
}

fn kind(op: &FheOp) -> ValueKind {
    match op {
        FheOp::Input { .. } => ValueKind::Input,
        FheOp::Linear { .. } => ValueKind::Linear,
        FheOp::Poly(_) => ValueKind::Poly,
        FheOp::Add => ValueKind::Add,
        FheOp::Drop { .. } => ValueKind::Drop,
        FheOp::Bootstrap(_) => ValueKind::Bootstrap,
    }
}

fn layout_text(layout: &Layout) -> String {
    let digit = |digit: &Digit| match digit.place {
        Place::Slot(stride) => format!("{}@s{stride}", digit.radix),
        Place::Cipher(stride) => format!("{}@t{stride}", digit.radix),
        Place::Block(stride) => format!("{}@b{stride}", digit.radix),
    };
    let axis = |digits: &Vec<Digit>| match digits.is_empty() {
        true => "-".to_owned(),
        false => digits.iter().map(digit).collect::<Vec<_>>().join(","),
    };
    let axes =
        ["c", "y", "x"].iter().zip(&layout.digits).map(|(name, digits)| format!("{name}={}", axis(digits)));
    axes.collect::<Vec<_>>().join(" ")
}

fn activations(
    lowered: &Lowered,
    outside: &BTreeMap<String, OutsideReport>,
    check: Option<&GateReport>,
) -> Vec<ActivationReport> {
    let extremes = |low: &[f32], high: &[f32]| {
        let low = low.iter().copied().fold(f32::INFINITY, f32::min);
        let high = high.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        [f64::from(low), f64::from(high)]
    };
    let on_check = |layer: &str| {
        let none = OutsideReport::default();
        let found = check?.violations.iter().find(|v| v.layer == layer);
        Some(found.map_or(none, |v| OutsideReport {
            outside: v.outside as u64,
            total: v.total as u64,
            worst: v.worst,
        }))
    };
    let degrees = degrees(&lowered.compiled);
    let fits = lowered.compiled.fit.as_ref();
    let report = |record: &peregrine_ir::client::RangeRecord| {
        let fit = fits.and_then(|fit| fit.layers.iter().find(|l| l.layer == record.layer));
        ActivationReport {
            layer: record.layer.clone(),
            degree: fit.map(|f| f.degree).or_else(|| degrees.get(&record.layer).copied()).unwrap_or(0),
            channels: record.low.len(),
            range: extremes(&record.low, &record.high),
            seen: fit.map(|f| extremes(&f.seen.low, &f.seen.high)),
            rms_error: fit.map(|f| f.rms_error),
            floored: fit.map_or(0, |f| f.floored),
            refitted: fit.and_then(|f| f.refitted.clone()),
            calibration: outside.get(&record.layer).copied(),
            check: on_check(&record.layer),
        }
    };
    lowered.ranges.iter().map(report).collect()
}

fn degrees(compiled: &Compiled) -> BTreeMap<String, u32> {
    let degree = |node: &Node<Fhe>| match &node.op {
        FheOp::Poly(poly) => Some((node.origin.as_str().to_owned(), poly.degree)),
        _ => None,
    };
    compiled.fhe.nodes.values().filter_map(degree).collect()
}

/// Errors by layer; of a layer that is looked at several times the worst counts.
fn add_errors(layers: &mut [LayerReport], check: &GateReport) {
    for found in &check.layers {
        let Some(layer) = layers.iter_mut().find(|layer| layer.name == found.layer) else { continue };
        let bits = bits(found.error, found.magnitude);
        if layer.error.is_none_or(|e| bits < e.bits || bits.is_nan()) {
            layer.error = Some(ErrorReport { error: found.error, magnitude: found.magnitude, bits });
        }
    }
}

/// Foreseen errors by layer: the shares of its values, the error of its last.
fn add_foreseen(layers: &mut [LayerReport], compiled: &Compiled) {
    for (node, value) in compiled.fhe.nodes.values().zip(&compiled.budget.values) {
        let name = node.origin.as_str();
        let Some(layer) = layers.iter_mut().find(|layer| layer.name == name) else { continue };
        let share = layer.foreseen.map_or(0.0, |foreseen| foreseen.share) + value.share;
        layer.foreseen = Some(ForeseenReport { error: value.largest, share });
    }
}

pub(super) fn budget(compiled: &Compiled) -> BudgetReport {
    let sources = Source::ALL.into_iter().zip(compiled.budget.sources);
    BudgetReport {
        bits: compiled.budget.bits(),
        sources: sources.map(|(source, share)| SourceReport { source: source.name(), share }).collect(),
    }
}

fn check_report(check: &GateReport) -> CheckReport {
    let output = |o: &crate::gate::OutputError| OutputError {
        name: o.name.clone(),
        error: o.error,
        range: o.range,
        bits: bits(o.error, o.range),
        same_top: o.same_top,
    };
    CheckReport {
        outputs: check.outputs.iter().map(output).collect(),
        tolerance: check.tolerance.get(),
        passes: check.passes(),
    }
}

/// Bits of `range` that an error leaves; at most those of `f64`.
fn bits(error: f64, range: f64) -> f64 {
    (-(error / range.max(f64::MIN_POSITIVE)).log2()).min(53.0)
}
