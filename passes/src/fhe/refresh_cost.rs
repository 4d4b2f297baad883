//! Predicted time and memory of refreshes: the operations of one bootstrap, counted.

use peregrine_ckks::bootstrap::BootstrapParams;
pub use peregrine_ckks::bootstrap::Together;
use peregrine_ckks::units::Slots;

use super::cost::Machine;

/// Seconds of one bootstrap on one core.
pub fn bootstrap_seconds(
    machine: &Machine,
    params: &BootstrapParams,
    slots: Slots,
    together: Together,
) -> f64 {
    machine.seconds(&params.work(slots, together).unwrap_or_default())
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
