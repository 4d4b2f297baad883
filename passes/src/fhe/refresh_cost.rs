//! Predicted time and memory of refreshes: the operations of one bootstrap, counted.

use peregrine_ckks::bootstrap::BootstrapParams;
use peregrine_ckks::units::Slots;
use peregrine_ir::Level;

use super::cost::{LinearCounts, Machine};

/// How many ciphertexts go through one bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    /// One real ciphertext.
    Single,
    /// Two, as `x + iy`.
    Pair,
}

/// Measured time over counted time: small steps between the counted ones, and keys that are streamed from memory.
const OVERHEAD: f64 = 1.3;

/// Seconds of one bootstrap on one core.
pub fn bootstrap_seconds(
    machine: &Machine,
    params: &BootstrapParams,
    slots: Slots,
    together: Together,
) -> f64 {
    let (main, spec) = (params.main(), params.spec());
    let top = main.max_level();
    let transform = |(plan, level): &(peregrine_ckks::evaluator::linear::LinearPlan, Level)| {
        let counts = plan.counts();
        let counts = LinearCounts {
            turns: counts.turns as u64,
            sums: (counts.giant_rotations + counts.outputs) as u64,
            inputs: counts.decompositions as u64,
            outputs: counts.outputs as u64,
            babies: counts.baby_rotations as u64,
            giants: counts.giant_rotations as u64,
            folds: counts.fold_rotations as u64,
            products: counts.products as u64,
            product_slots: counts.products as u64 * u64::from(slots.get()),
        };
        machine.linear_seconds(&counts, main, *level)
    };
    let transforms: f64 = params.transforms(slots).unwrap_or_default().iter().map(transform).sum();
    let trace = main.max_slots().log2() - slots.log2();
    // The trace, the switch back from the ephemeral secret, the conjugation; the lift to the whole chain is about one rescale.
    let switches = f64::from(trace + 2) * machine.key_switch_seconds(main, top);
    let halves = match together {
        Together::Single => 1.0,
        Together::Pair => 2.0,
    };
    let start = params.eval_mod_level().0;
    let product = |depth: u32| {
        let level = Level(start.saturating_sub(depth));
        machine.key_switch_seconds(main, level)
    };
    // Degree 31: products at each depth, by the baby-step giant-step recursion of `ckks::evaluator::polynomial`.
    const COSINE: [f64; 5] = [1.0, 2.0, 3.0, 3.0, 1.0];
    let share = f64::from(spec.eval_mod.degree + 1) / 32.0;
    let cosine: f64 = (0u32..).zip(COSINE).map(|(depth, count)| share * count * product(depth)).sum();
    let later = spec.eval_mod.double_angles + spec.eval_mod.arcsine.depth();
    let angles: f64 = (0..later).map(|i| product(spec.eval_mod.cosine_depth() + i)).sum();
    OVERHEAD * (transforms + switches + machine.rescale_seconds(main, top) + halves * (cosine + angles))
}

/// Seconds of refreshing a value of so many ciphertexts on one core: in pairs, the odd one alone.
pub fn refresh_seconds(machine: &Machine, params: &BootstrapParams, slots: Slots, ciphertexts: u32) -> f64 {
    let (pairs, single) = (f64::from(ciphertexts / 2), f64::from(ciphertexts % 2));
    let mut seconds = 0.0;
    if ciphertexts / 2 > 0 {
        seconds += pairs * bootstrap_seconds(machine, params, slots, Together::Pair);
    }
    if !ciphertexts.is_multiple_of(2) {
        seconds += single * bootstrap_seconds(machine, params, slots, Together::Single);
    }
    seconds
}

/// Bytes of the keys of the ephemeral secret.
pub fn ephemeral_key_bytes(params: &BootstrapParams) -> u64 {
    let main = params.main();
    let small = 16 * main.n() as u64 * (1 + params.spec().ephemeral_special as u64);
    main.key_bytes(main.max_level()) + small
}

/// Bytes of the encoded diagonals of bootstraps of `slots` slots.
pub fn diagonal_bytes(params: &BootstrapParams, slots: Slots) -> u64 {
    let plans = params.transforms(slots).unwrap_or_default();
    let diagonals: usize = plans.iter().map(|(plan, _)| plan.counts().products).sum();
    16 * u64::from(slots.get()) * diagonals as u64
}
