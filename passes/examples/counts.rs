//! Rotations and plaintext products of whole networks with random weights, beside those that the formulas of
//! generalized interleaved packing's reference implementation give (one network per argument, such as `mobilenetv2:256`).
//!
//! `cargo run --release -p peregrine-passes --example counts -- resnet20 mobilenetv2:256 yolov5n:512 [--greedy] [--shared] [--fastest] [--layers] [--run]`
//!
//! Layouts and products are those that `peregrinec` takes in this ring where nothing is too rough: up to eight copies share products,
//! and narrow values that a placement of bootstraps does not refresh are made in two parts. With `--shared` two copies share, and all
//! values are whole. Counted are, of splits at most 4 % slower than the fastest, those of
//! fewest rotations. `--layers` shows each layer beside the products that would be left if all of them used every slot and its imaginary part.
//!
//! `--run` also computes every layer in the clear, rotation by rotation, and compares with the tensor interpreter.
#![allow(clippy::print_stdout)]

#[path = "counts/nets.rs"]
mod nets;
#[path = "counts/reference.rs"]
mod reference;

use std::collections::BTreeMap;
use std::time::Instant;

use peregrine_ir::fhe::{Fhe, FheGraph, FheOp};
use peregrine_ir::layout::Axis;
use peregrine_ir::linear::{BsgsSplit, ResolvedMap, apply_clear, axis_pairs, plan_call};
use peregrine_ir::tensor::TensorGraph;
use peregrine_ir::{EntityId, Node, ValueId};
use peregrine_passes::fhe::assign::{LayoutSearch, typical_parameters};
use peregrine_passes::fhe::cost::{LinearCounts, Machine};
use peregrine_passes::fhe::level::Precision;
use peregrine_passes::fhe::pack::{Packed, pack};
use peregrine_passes::fhe::place::Workload;
use peregrine_passes::fhe::plan_keys::{KeySearch, fast_counts};
use peregrine_passes::fhe::share::{Variant, variants};
use peregrine_passes::fhe::split::terms_of;
use peregrine_passes::pipeline::Products;
use peregrine_passes::tensor::interp::{self, Batch};
use peregrine_passes::tensor::ranges;

const SLOTS: u32 = 1 << 15;
/// What splits of fewer rotations may cost, relative to the fastest. Rotations need keys, for which compiled programs give as much time:
/// the tuned ResNet-20, leveled, 3.7 %.
const SLACK: f64 = 1.04;

/// What is counted, and how.
struct Way {
    machine: Machine,
    search: LayoutSearch,
    products: Products,
    slack: f64,
    detail: Detail,
}

/// What is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Totals,
    Layers,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|a| a == name);
    let machine = Machine::default();
    let products = if flag("--shared") { Products::Shared } else { Products::Deep };
    let search = match flag("--greedy") {
        true => LayoutSearch::Greedy,
        false => LayoutSearch::Search(machine.clone(), products),
    };
    let slack = if flag("--fastest") { 1.0 } else { SLACK };
    let detail = if flag("--layers") { Detail::Layers } else { Detail::Totals };
    let way = Way { machine, search, products, slack, detail };
    for name in arguments.iter().filter(|a| !a.starts_with("--")) {
        let Some(graph) = nets::build(name) else {
            println!("{name}: resnet20, mobilenetv2:SIDE, yolov5n:SIDE or yolov8n:SIDE");
            continue;
        };
        report(name, &graph, &way, flag("--run"));
    }
}

fn report(name: &str, graph: &TensorGraph, way: &Way, run: bool) {
    let image = nets::image(graph);
    let ranges = if run {
        ranges::measure(graph, &image).expect("ranges")
    } else {
        graph.nodes.values().map(|n| vec![1.0; n.ty.shape[1]]).collect()
    };
    let start = Instant::now();
    let packed = packed(graph, &ranges, way);
    println!("{name}: packed in {:.2} s", start.elapsed().as_secs_f64());
    for (family, seconds) in &packed.layouts.uniform_seconds {
        println!("  all {family}: {seconds:.1} s predicted on one core");
    }
    println!("  chosen: {:.1} s, gap {:.1} %", packed.layouts.seconds, 100.0 * packed.layouts.gap);
    for (family, values) in &packed.layouts.families {
        println!("    {family}: {values} values");
    }
    let start = Instant::now();
    let total = counts(&packed.graph, way);
    let rotations = rotations_of(&total);
    println!("  counted in {:.2} s", start.elapsed().as_secs_f64());
    occupancy(&packed.graph);
    let theirs = reference::counts(graph);
    println!("  rotations {rotations}, plaintext products {}", total.products);
    println!("  reference formulas: rotations {}, plaintext products {}", theirs.rotations, theirs.products);
    let ratio = |theirs: u64, ours: u64| theirs as f64 / ours.max(1) as f64;
    println!(
        "  ratios {:.2} and {:.2}; {} multiply-accumulates, {} products if every slot were used",
        ratio(theirs.rotations, rotations),
        ratio(theirs.products, total.products),
        theirs.macs,
        theirs.macs.div_ceil(u64::from(SLOTS)),
    );
    if run {
        let start = Instant::now();
        let error = run_in_the_clear(graph, &packed.graph, &image);
        println!(
            "  in the clear: {:.1} s, largest relative error {error:.1e}",
            start.elapsed().as_secs_f64()
        );
    }
}

/// Packed as the compiler does: what the fastest placement of bootstraps refreshes stays whole.
fn packed(graph: &TensorGraph, ranges: &[Vec<f64>], way: &Way) -> Packed {
    let whole = pack(graph, ranges, SLOTS, &way.search).expect("packs");
    if !matches!(way.search, LayoutSearch::Search(_, Products::Deep)) {
        return whole;
    }
    let degrees = whole.graph.nodes.values().filter_map(|node| match node.op {
        FheOp::Poly(poly) => Some(poly.degree),
        _ => None,
    });
    let precision = Precision::of_degree(degrees.max().unwrap_or(2));
    let search = KeySearch::of(&whole.graph, slots(), way.products);
    let workload = Workload::of(&whole.graph, precision, &search).expect("packed");
    let placed = workload.best(SLOTS.ilog2() + 1, &way.machine, 1);
    let refreshed = placed.first().map(|(_, placement)| whole.refreshed(placement)).unwrap_or_default();
    println!("{} values are refreshed", refreshed.len());
    let parted = whole.in_parts(graph, ranges, &way.search, &refreshed).expect("packs");
    parted.filter(|parted| parted.layouts.seconds < whole.layouts.seconds).unwrap_or(whole)
}

fn terms<'a>(graph: &'a FheGraph, node: ValueId) -> Option<Vec<(ResolvedMap<'a>, u32)>> {
    let node = &graph.nodes[node];
    let FheOp::Linear { maps, .. } = &node.op else { return None };
    let mut operands: Vec<ValueId> = Vec::new();
    let tables = &graph.tables;
    let term = |(&map, &arg)| {
        let operand = operands.iter().position(|&o| o == arg).unwrap_or_else(|| {
            operands.push(arg);
            operands.len() - 1
        });
        (tables.maps[map].resolve(&tables.layouts), operand as u32)
    };
    Some(maps.iter().zip(&node.args).map(term).collect())
}

fn counts(graph: &FheGraph, way: &Way) -> LinearCounts {
    let (params, level) = typical_parameters(SLOTS).expect("parameters");
    let mut total = LinearCounts::default();
    let mut total_seconds = 0.0;
    for node in graph.nodes.values().filter(|node| matches!(node.op, FheOp::Linear { .. })) {
        let ways = variants(&terms_of(graph, node), params.max_slots(), way.products);
        let seconds = |counts: &LinearCounts| way.machine.linear_seconds(counts, &params, level);
        let costs: Vec<(f64, LinearCounts)> =
            fast_counts(&ways).into_iter().map(|counts| (seconds(&counts), counts)).collect();
        let least = costs.iter().map(|(seconds, _)| *seconds).fold(f64::INFINITY, f64::min);
        let near = costs.into_iter().filter(|(seconds, _)| *seconds <= way.slack * least);
        let best = near.min_by(|a, b| rotations_of(&a.1).cmp(&rotations_of(&b.1)).then(a.0.total_cmp(&b.0)));
        let (seconds, counts) = best.expect("at least one split");
        total_seconds += seconds;
        if way.detail == Detail::Layers {
            let least = least_products(&terms_of(graph, node));
            println!("    {}: {}, {seconds:.2} s", described(graph, node), detailed(&counts, &ways, least));
        }
        total.turns += counts.turns;
        total.babies += counts.babies;
        total.giants += counts.giants;
        total.folds += counts.folds;
        total.products += counts.products;
    }
    println!("  linear calls: {total_seconds:.1} s predicted on one core at level {}", level.0);
    total
}

/// Products if every slot and its imaginary part were used.
fn least_products(terms: &[(ResolvedMap<'_>, u32)]) -> f64 {
    let macs = |map: &ResolvedMap<'_>| -> f64 {
        Axis::ALL.into_iter().map(|axis| axis_pairs(map, axis).len() as f64).product()
    };
    terms.iter().map(|(map, _)| macs(map)).sum::<f64>() / f64::from(2 * SLOTS)
}

fn described(graph: &FheGraph, node: &Node<Fhe>) -> String {
    let layout = &graph.tables.layouts[node.ty.layout];
    let full = 100.0 * layout.occupancy();
    format!("{} {}: {} cts {full:.0} % full", node.origin.as_str(), layout.shape, layout.ciphertexts)
}

fn detailed(counts: &LinearCounts, ways: &[Variant], least: f64) -> String {
    format!(
        "{} rotations ({} turns, {} babies, {} giants, {} folds), {} products of {} diagonals, {least:.0} at least",
        rotations_of(counts),
        counts.turns,
        counts.babies,
        counts.giants,
        counts.folds,
        counts.products,
        ways[0].shape.products(),
    )
}

fn rotations_of(counts: &LinearCounts) -> u64 {
    counts.turns + counts.babies + counts.giants + counts.folds
}

fn occupancy(graph: &FheGraph) {
    let (mut used, mut held) = (0.0, 0.0);
    for node in graph.nodes.values().filter(|n| !matches!(n.op, FheOp::Poly(_))) {
        let layout = &graph.tables.layouts[node.ty.layout];
        if layout.ciphertexts > 1 {
            used += layout.shape.len() as f64;
            held += f64::from(layout.ciphertexts) * f64::from(layout.period.get());
        }
    }
    if held > 0.0 {
        println!(
            "  {:.1} % of the slots of values of several ciphertexts hold elements",
            100.0 * used / held
        );
    }
}

/// Runs the packed graph on slots; the largest error of an output, relative to its largest number.
fn run_in_the_clear(graph: &TensorGraph, packed: &FheGraph, image: &Batch) -> f64 {
    let expected = interp::run(graph, image).expect("interpreter");
    let consts = &packed.tables.consts;
    let mut values: BTreeMap<ValueId, Vec<Vec<f64>>> = BTreeMap::new();
    let users = packed.users();
    for (id, node) in packed.nodes.iter() {
        let layout = &packed.tables.layouts[node.ty.layout];
        let unit = consts[node.ty.unit].to_f64();
        let value = match &node.op {
            FheOp::Input { .. } => {
                let map = image.data().len() / unit.len();
                let tensor: Vec<f64> =
                    image.data().iter().enumerate().map(|(i, &x)| f64::from(x) / unit[i / map]).collect();
                layout.pack(&tensor)
            }
            FheOp::Linear { maps, bias } => {
                let terms = terms(packed, id).expect("linear");
                let call = plan_call(&terms, &BsgsSplit::by_modulus(256, SLOTS), slots());
                let weights: Vec<Vec<f32>> =
                    maps.iter().map(|&m| consts[packed.tables.maps[m].weights].to_f32()).collect();
                let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
                let mut seen = Vec::new();
                let mut inputs: Vec<&[f64]> = Vec::new();
                for arg in &node.args {
                    if !seen.contains(arg) {
                        seen.push(*arg);
                        inputs.extend(values[arg].iter().map(Vec::as_slice));
                    }
                }
                let mut results = apply_clear(&call, &weights, &inputs, None);
                for (cipher, result) in (0u32..).zip(&mut results) {
                    result.truncate(layout.period.get() as usize);
                    if let Some(bias) = bias {
                        let addend = layout.spread_channels(&consts[*bias].to_f64(), cipher);
                        result.iter_mut().zip(addend).for_each(|(x, b)| *x += b);
                    }
                }
                results
            }
            FheOp::Poly(poly) => {
                let lower = consts[poly.lower].to_f64();
                let degree = poly.degree as usize;
                let columns: Vec<Vec<f64>> =
                    (0..degree).map(|k| lower.iter().skip(k).step_by(degree).copied().collect()).collect();
                let operand = &values[&node.args[0]];
                (0u32..)
                    .zip(operand)
                    .map(|(cipher, x)| {
                        let spread: Vec<Vec<f64>> =
                            columns.iter().map(|c| layout.spread_channels(c, cipher)).collect();
                        let at = |s: usize| {
                            (0..degree).map(|k| spread[k][s] * x[s].powi(k as i32)).sum::<f64>()
                                + x[s].powi(degree as i32)
                        };
                        (0..x.len()).map(at).collect()
                    })
                    .collect()
            }
            FheOp::Add | FheOp::Drop { .. } | FheOp::Bootstrap(_) => unreachable!("packing makes none"),
        };
        values.insert(id, value);
        let needed = |v: &ValueId| packed.is_output(*v) || users[v.index()].iter().any(|u| *u > id);
        values.retain(|v, _| needed(v));
    }
    let mut worst = 0.0f64;
    for (port, expected) in packed.outputs.iter().zip(&expected) {
        let ty = &packed.nodes[port.value].ty;
        let unit = consts[ty.unit].to_f64();
        let found = packed.tables.layouts[ty.layout].unpack(&values[&port.value]);
        let map = found.len() / unit.len();
        let largest = expected.iter().fold(1e-30f64, |m, x| m.max(f64::from(x.abs())));
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            worst = worst.max((a * unit[i / map] - f64::from(*b)).abs() / largest);
        }
    }
    worst
}

fn slots() -> peregrine_ir::Slots {
    peregrine_ir::Slots::new(SLOTS).expect("a power of two")
}
