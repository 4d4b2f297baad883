//! Counts of the program by layer, and who uses which key.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::params::Params;
use peregrine_ckks::units::{GaloisElement, Level};
use peregrine_ir::linear::plan_call;
use peregrine_ir::program::{Inst, Program, Reg};
use peregrine_passes::fhe::split::resolve;
use peregrine_passes::pipeline::Compiled;

use super::model::{KeyKind, KeyReport, LayerReport};

/// The program by layer, and its keys.
pub(super) fn of_program(compiled: &Compiled) -> (Vec<LayerReport>, Vec<KeyReport>) {
    let (program, params) = (&compiled.program, &compiled.params);
    let mut users = Users::default();
    let levels = register_levels(program);
    let mut layers: Vec<LayerReport> =
        program.layers.iter().zip(&compiled.prediction.layer_seconds).map(|(n, s)| empty(n, *s)).collect();
    for (inst, &layer) in program.insts.iter().zip(&program.inst_layers) {
        let index = layer as usize;
        let Some(report) = layers.get_mut(index) else { continue };
        report.instructions += 1;
        let level = |reg: &Reg| levels.get(reg).copied();
        report.level_in = report.level_in.or_else(|| inst.reads().first().and_then(level));
        report.level_out = inst.writes().first().and_then(level).or(report.level_out);
        count(program, params, inst, report, |element, rotation| users.add(element, rotation, index));
    }
    for (index, report) in layers.iter_mut().enumerate() {
        let used = users.0.iter().filter(|(_, user)| user.layers.contains(&index));
        let bytes = used.filter_map(|(element, _)| program.manifest.galois.get(element));
        let sizes: Vec<u64> = bytes.map(|&level| params.key_bytes(level)).collect();
        (report.keys, report.key_bytes) = (sizes.len(), sizes.iter().sum());
    }
    (layers, keys(program, params, &users, compiled.prediction.key_bytes))
}

fn empty(name: &str, seconds: f64) -> LayerReport {
    LayerReport {
        name: name.to_owned(),
        level_in: None,
        level_out: None,
        instructions: 0,
        rotations: 0,
        products: 0,
        multiplications: 0,
        bootstraps: 0,
        keys: 0,
        key_bytes: 0,
        seconds,
        error: None,
        foreseen: None,
    }
}

/// Who rotates by an automorphism, and by how many slots.
#[derive(Default)]
struct User {
    rotation: Option<u32>,
    layers: BTreeSet<usize>,
}

#[derive(Default)]
struct Users(BTreeMap<GaloisElement, User>);

impl Users {
    fn add(&mut self, element: GaloisElement, rotation: Option<u32>, layer: usize) {
        let user = self.0.entry(element).or_default();
        user.rotation = user.rotation.or(rotation);
        user.layers.insert(layer);
    }
}

fn count(
    program: &Program,
    params: &Params,
    inst: &Inst,
    report: &mut LayerReport,
    mut uses: impl FnMut(GaloisElement, Option<u32>),
) {
    match inst {
        Inst::Linear { call, .. } => {
            let call = &program.calls[*call];
            let terms = resolve(&call.terms, &program.maps, &program.layouts);
            let plan = plan_call(&terms, call.recipe(), params.max_slots()).plan;
            let counts = plan.counts();
            let rotations = counts.rotations();
            report.rotations += rotations as u64;
            report.products += counts.products as u64;
            plan.galois_elements(params.n()).into_iter().for_each(|element| uses(element, None));
            let later =
                plan.stages.iter().flat_map(|s| s.giants.iter().map(|g| g.rotation).chain(s.fold.clone()));
            for rotation in plan.babies.iter().flatten().copied().chain(later).filter(|r| !r.is_zero()) {
                uses(GaloisElement::from_rotation(rotation, params.n()), Some(rotation.get()));
            }
        }
        Inst::Mul { .. } | Inst::Square { .. } => report.multiplications += 1,
        Inst::Rotate { rotation, .. } => {
            report.rotations += 1;
            uses(GaloisElement::from_rotation(*rotation, params.n()), Some(rotation.get()));
        }
        Inst::Conjugate { .. } => {
            report.rotations += 1;
            uses(GaloisElement::conjugation(params.n()), None);
        }
        Inst::MulVector { .. } => report.products += 1,
        Inst::Bootstrap { .. } | Inst::BootstrapPair { .. } => report.bootstraps += 1,
        Inst::Input { .. }
        | Inst::AddVector { .. }
        | Inst::Add { .. }
        | Inst::Sub { .. }
        | Inst::Rescale { .. }
        | Inst::ModDrop { .. }
        | Inst::Output { .. }
        | Inst::Free { .. } => {}
    }
}

fn keys(program: &Program, params: &Params, users: &Users, total_bytes: u64) -> Vec<KeyReport> {
    let relin = program.manifest.relin.iter().map(|&level| KeyReport {
        kind: KeyKind::Relinearisation,
        element: None,
        rotation: None,
        level: level.0,
        bytes: params.key_bytes(level),
        layers: multiplying_layers(program),
    });
    let galois = program.manifest.galois.iter().map(|(element, &level): (_, &Level)| {
        let user = users.0.get(element);
        KeyReport {
            kind: KeyKind::Galois,
            element: Some(u64::from(element.get())),
            rotation: user.and_then(|u| u.rotation),
            level: level.0,
            bytes: params.key_bytes(level),
            layers: user.map_or(0, |u| u.layers.len()),
        }
    });
    let mut keys: Vec<KeyReport> = relin.chain(galois).collect();
    if program.bootstrap.is_some() {
        // The prediction counts them, the manifest does not list them.
        let others: u64 = keys.iter().map(|key| key.bytes).sum();
        keys.push(KeyReport {
            kind: KeyKind::Ephemeral,
            element: None,
            rotation: None,
            level: params.max_level().0,
            bytes: total_bytes.saturating_sub(others),
            layers: 0,
        });
    }
    keys
}

fn multiplying_layers(program: &Program) -> usize {
    let multiplies = |inst: &Inst| matches!(inst, Inst::Mul { .. } | Inst::Square { .. });
    let layers = program.insts.iter().zip(&program.inst_layers).filter(|(inst, _)| multiplies(inst));
    layers.map(|(_, layer)| layer).collect::<BTreeSet<_>>().len()
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
