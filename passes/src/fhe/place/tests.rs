//! The search against brute force on chains and residual networks, and what placements look like.

use proptest::prelude::*;
use smallvec::{SmallVec, smallvec};

use super::rules::{Choice, Held, RefreshRules, Rules, Step, StepKind};
use super::search::{Placement, Problem, WIDTH};

/// A ring whose refreshes give two or three levels to compute with.
fn rules(bits: &[u32], refreshes: bool) -> Rules {
    let refresh = refreshes.then_some(RefreshRules {
        input_level: 1,
        output_level: bits.len() as u32 - 2,
        scale_bits: 39,
    });
    Rules::new(bits.to_vec(), (28, 22), refresh, &[0, 1])
}

fn step(kind: StepKind, args: &[usize], slope: f64, refresh: f64) -> Step {
    let seconds = (0..16).map(|level| slope * f64::from(level + 1)).collect();
    let refresh = (kind == StepKind::Linear).then_some((refresh, 1));
    Step { kind, args: args.iter().copied().collect(), seconds, refresh }
}

fn place(steps: &[Step], rules: &Rules, width: usize) -> Option<Placement> {
    Problem::new(steps.to_vec(), rules.clone()).place(width, f64::INFINITY)
}

/// Every placement of everything, one by one.
fn brute_force(steps: &[Step], rules: &Rules) -> Option<f64> {
    fn go(steps: &[Step], rules: &Rules, held: &mut Vec<Held>, seconds: f64, best: &mut Option<f64>) {
        let Some(step) = steps.get(held.len()) else {
            *best = Some(best.map_or(seconds, |b| b.min(seconds)));
            return;
        };
        if best.is_some_and(|best| seconds >= best) {
            return;
        }
        let operands: SmallVec<[Held; 4]> = step.args.iter().map(|&arg| held[arg]).collect();
        let mut choices = Vec::new();
        rules.choices(step, &operands, &mut choices);
        for choice in choices {
            held.push(choice.held);
            go(steps, rules, held, seconds + choice.seconds, best);
            held.pop();
        }
    }
    let mut best = None;
    go(steps, rules, &mut Vec::new(), 0.0, &mut best);
    best
}

/// Whether each choice of a placement is one that its operands admit, and the times add up.
fn assert_valid(steps: &[Step], rules: &Rules, found: &Placement) {
    let mut choices = Vec::new();
    for (i, (step, choice)) in steps.iter().zip(&found.choices).enumerate() {
        let operands: SmallVec<[Held; 4]> = step.args.iter().map(|&arg| found.choices[arg].held).collect();
        rules.choices(step, &operands, &mut choices);
        assert!(choices.contains(choice), "operation {i}: {choice:?}");
    }
    let sum: f64 = found.choices.iter().map(|choice| choice.seconds).sum();
    assert!((sum - found.seconds).abs() < 1e-9 && found.choices.len() == steps.len());
}

#[derive(Clone, Debug)]
enum Block {
    Plain { levels: u32 },
    Residual { levels: u32, projected: bool },
}

fn network(blocks: &[Block], slopes: &[f64], refresh: f64) -> Vec<Step> {
    let mut steps = vec![step(StepKind::Input { scale: 56 }, &[], 0.0, 0.0)];
    let mut at = 0;
    let mut add = |kind, args: &[usize]| {
        steps.push(step(kind, args, slopes[steps.len() % slopes.len()], refresh));
        steps.len() - 1
    };
    for block in blocks {
        match *block {
            Block::Plain { levels } => {
                let linear = add(StepKind::Linear, &[at]);
                at = add(StepKind::Poly { levels }, &[linear]);
            }
            Block::Residual { levels, projected } => {
                let first = add(StepKind::Linear, &[at]);
                let inner = add(StepKind::Poly { levels }, &[first]);
                let skip = if projected { add(StepKind::Linear, &[at]) } else { at };
                let sum = add(StepKind::Linear, &[inner, skip]);
                at = add(StepKind::Poly { levels }, &[sum]);
            }
        }
    }
    add(StepKind::Linear, &[at]);
    steps
}

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![
        (0u32..2).prop_map(|levels| Block::Plain { levels }),
        (0u32..2, any::<bool>()).prop_map(|(levels, projected)| Block::Residual { levels, projected }),
    ]
}

/// Maps of one to three of the values before, some followed by a polynomial: branches that part and join anywhere.
fn branching(layers: &[([usize; 3], Option<u32>)], slopes: &[f64], refresh: f64) -> Vec<Step> {
    let mut steps = vec![step(StepKind::Input { scale: 56 }, &[], 0.0, 0.0)];
    let mut values = vec![0];
    for (reads, levels) in layers {
        let mut args: Vec<usize> =
            reads.iter().map(|back| values[values.len() - 1 - back % values.len()]).collect();
        args.dedup();
        let slope = slopes[steps.len() % slopes.len()];
        steps.push(step(StepKind::Linear, &args, slope, refresh * slope));
        if let Some(levels) = *levels {
            steps.push(step(StepKind::Poly { levels }, &[steps.len() - 1], slope, 0.0));
        }
        values.push(steps.len() - 1);
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn branching_graphs_are_placed_as_brute_force_does(
        layers in prop::collection::vec((prop::array::uniform3(0usize..5), prop::option::of(0u32..2)), 2..5),
        slopes in prop::collection::vec(0.1f64..2.0, 5),
        refresh in 0.5f64..20.0,
        chain in prop::sample::select(vec![vec![50u32, 40, 50, 28, 50], vec![50, 40, 50, 50, 50]]),
    ) {
        let (rules, steps) = (rules(&chain, true), branching(&layers, &slopes, refresh));
        let problem = Problem::new(steps.clone(), rules.clone());
        let (found, narrow) = (problem.place(WIDTH, f64::INFINITY), problem.place(1, f64::INFINITY));
        let expected = brute_force(&steps, &rules);
        prop_assert_eq!(found.is_some(), expected.is_some());
        let Some((found, expected)) = found.zip(expected) else { return Ok(()) };
        assert_valid(&steps, &rules, &found);
        prop_assert!((found.seconds - expected).abs() < 1e-9, "{} instead of {}", found.seconds, expected);
        prop_assert!(found.gap() == 0.0 && problem.least_seconds() <= expected + 1e-9);
        let narrow = narrow.map_or((0.0, f64::INFINITY), |narrow| (narrow.least_seconds, narrow.seconds));
        prop_assert!(narrow.0 <= expected + 1e-9 && expected <= narrow.1 + 1e-9);
        // What is no faster than a known placement is not looked for.
        prop_assert!(problem.place(WIDTH, expected).is_none());
    }

    #[test]
    fn the_search_finds_what_brute_force_finds(
        blocks in prop::collection::vec(block(), 1..3),
        slopes in prop::collection::vec(0.1f64..2.0, 5),
        refresh in 0.5f64..20.0,
        refreshes in any::<bool>(),
        chain in prop::sample::select(vec![
            vec![50u32, 40, 50, 28, 50],
            vec![50, 40, 50, 50, 50],
            vec![50, 40, 50, 28, 50, 28],
        ]),
    ) {
        let rules = rules(&chain, refreshes);
        let steps = network(&blocks, &slopes, refresh);
        let found = place(&steps, &rules, WIDTH);
        let expected = brute_force(&steps, &rules);
        prop_assert_eq!(found.is_some(), expected.is_some());
        if let (Some(found), Some(expected)) = (found, expected) {
            assert_valid(&steps, &rules, &found);
            prop_assert!((found.seconds - expected).abs() < 1e-9, "{} instead of {}", found.seconds, expected);
            prop_assert_eq!(found.gap(), 0.0);
        }
    }

    /// A narrow search may miss the best, but never by more than it says.
    #[test]
    fn a_narrow_search_reports_its_gap(
        blocks in prop::collection::vec(block(), 2..5),
        slopes in prop::collection::vec(0.1f64..2.0, 5),
        refresh in 0.5f64..20.0,
    ) {
        let rules = rules(&[50, 40, 50, 28, 50, 28], true);
        let steps = network(&blocks, &slopes, refresh);
        let exact = place(&steps, &rules, WIDTH).expect("refreshes make any depth possible");
        prop_assert_eq!(exact.gap(), 0.0);
        if let Some(narrow) = place(&steps, &rules, 2) {
            assert_valid(&steps, &rules, &narrow);
            prop_assert!(narrow.least_seconds <= exact.seconds + 1e-9 && exact.seconds <= narrow.seconds + 1e-9);
        }
    }
}

fn refreshed(placement: &Placement) -> Vec<usize> {
    let refreshes = placement.choices.iter().enumerate().filter(|(_, choice)| choice.refresh.is_some());
    refreshes.map(|(i, _)| i).collect()
}

#[test]
fn nothing_is_refreshed_where_the_chain_is_long_enough() {
    let steps = network(&vec![Block::Plain { levels: 0 }; 3], &[1.0], 100.0);
    let placement = place(&steps, &rules(&[50; 8], true), WIDTH).expect("fits");
    assert_eq!(refreshed(&placement), Vec::<usize>::new());
    // Levels that nothing needs are dropped before the first operation.
    assert_eq!(placement.choices[1].runs_at, 4);
}

#[test]
fn a_residual_network_is_cut_where_one_value_is_alive() {
    let blocks = vec![Block::Residual { levels: 0, projected: false }; 4];
    let steps = network(&blocks, &[0.1], 10.0);
    let placement = place(&steps, &rules(&[50; 6], true), WIDTH).expect("refreshes");
    assert_eq!(placement.gap(), 0.0);
    for value in refreshed(&placement) {
        assert!(steps[value].args.len() == 2 || value == 1, "{value} is inside a block");
    }
}

#[test]
fn a_long_skip_is_carried_or_recomputed_whichever_is_cheaper() {
    // Value 2 is read again by operation 7.
    let kinds: [(StepKind, SmallVec<[usize; 2]>); 8] = [
        (StepKind::Input { scale: 56 }, smallvec![]),
        (StepKind::Linear, smallvec![0]),
        (StepKind::Poly { levels: 0 }, smallvec![1]),
        (StepKind::Linear, smallvec![2]),
        (StepKind::Poly { levels: 0 }, smallvec![3]),
        (StepKind::Linear, smallvec![4]),
        (StepKind::Poly { levels: 0 }, smallvec![5]),
        (StepKind::Linear, smallvec![6, 2]),
    ];
    let steps: Vec<Step> = kinds.into_iter().map(|(kind, args)| step(kind, &args, 0.1, 5.0)).collect();
    let long = place(&steps, &rules(&[50; 5], true), WIDTH).expect("fits");
    assert_eq!(refreshed(&long), Vec::<usize>::new());
    let rules = rules(&[50, 40, 50, 50], true);
    let short = place(&steps, &rules, WIDTH);
    let expected = brute_force(&steps, &rules);
    assert_eq!(short.map(|placement| placement.seconds), expected);
}

#[test]
fn scales_are_never_below_what_is_asked_for() {
    let rules = rules(&[50, 40, 50, 28, 50, 28], true);
    let steps = network(&[Block::Plain { levels: 1 }, Block::Plain { levels: 1 }], &[1.0], 1.0);
    let placement = place(&steps, &rules, WIDTH).expect("fits");
    let at_least = |choice: &Choice| choice.made.scale >= 28;
    assert!(placement.choices.iter().all(at_least), "{placement:?}");
}

#[test]
fn candidate_rings_are_secure_and_hold_whole_blocks() {
    use peregrine_ir::fhe::{FheGraph, FheTables, Stage};
    use peregrine_ir::{ConstPool, PrimaryMap, Slots};

    let tables = FheTables {
        consts: ConstPool::new(),
        layouts: PrimaryMap::new(),
        maps: PrimaryMap::new(),
        slots: 1 << 14,
        chain_bits: Vec::new(),
        bootstrap: None,
        stage: Stage::Packed,
    };
    let graph = FheGraph::new("empty", tables);
    let search = crate::fhe::plan_keys::KeySearch::of(
        &graph,
        Slots::new(1 << 14).expect("a power of two"),
        crate::pipeline::Products::Shared,
    );
    let workload = super::Workload::of(&graph, crate::fhe::level::Precision::of_degree(2), &search)
        .expect("no operations");
    for log_n in [15, 16] {
        let candidates = super::chains::candidates(log_n, &workload);
        assert!(candidates.len() >= 4, "N = 2^{log_n}: {}", candidates.len());
        for candidate in candidates {
            let spec = candidate.params.spec();
            let main = candidate.params.main();
            assert!(main.is_secure() && candidate.params.ephemeral().is_secure());
            assert!(candidate.params.failure_log2(main.max_slots()) < -128.0);
            assert!(candidate.inputs_at <= main.max_level() && candidate.inputs_at >= spec.output_level());
            assert!(spec.usable.iter().all(|bits| [50, 22].contains(bits)), "{:?}", spec.usable);
            assert_eq!(super::chain_bits(spec).len(), main.q().len());
        }
    }
    assert!(super::chains::candidates(11, &workload).is_empty());
}
