//! Chains of primes worth trying: fixed at both ends by bootstrapping, free in the middle.

use peregrine_ckks::bootstrap::{BootstrapParams, BootstrapSpec, PrimeRun};
use peregrine_ckks::params::security;
use peregrine_ir::Level;

use super::Workload;
use super::chain_bits;
use crate::fhe::level::{MAX_PRIME_BITS, MIN_PRIME_BITS, Precision};

/// Bits of the prime by which a lifted refresh is rescaled: a small one, since all of it is lost.
const LIFT_BITS: u32 = 22;
/// Most special primes that are tried.
const MOST_SPECIAL: usize = 9;

/// A ring to place a graph on.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The ring.
    pub params: BootstrapParams,
    /// The level of fresh ciphertexts. Below the top, keys are smaller and the first refresh comes earlier.
    pub inputs_at: Level,
}

/// Rings of degree 2^`log_n` whose usable primes repeat what one block of the graph consumes.
pub fn candidates(log_n: u32, workload: &Workload<'_>) -> Vec<Candidate> {
    let Some(limit) = security::max_log_qp(log_n) else { return Vec::new() };
    let base = base_spec(log_n);
    let least = base.ephemeral_special;
    let most_factors = base.coeffs_to_slots.count;
    let frames = (least..=MOST_SPECIAL).rev().flat_map(|special| {
        // A factor less is a level more between refreshes, for more diagonals.
        [most_factors, most_factors - 1].map(|factors| BootstrapSpec {
            special: PrimeRun::new(special, base.special.bits),
            coeffs_to_slots: PrimeRun::new(factors, base.coeffs_to_slots.bits),
            usable: Vec::new(),
            ..base.clone()
        })
    });
    let mut found: Vec<Candidate> = Vec::new();
    for frame in frames {
        let special = frame.special.count;
        let taken: u32 = chain_bits(&frame).iter().sum::<u32>() + special as u32 * frame.special.bits;
        let Some(budget) = (limit as u32).checked_sub(taken) else { continue };
        for usable in usable_chains(budget, &workload.poly_levels(), workload.precision()) {
            let Ok(params) = (BootstrapSpec { usable, ..frame.clone() }).check() else { continue };
            let (top, output) = (params.main().max_level(), params.output_level());
            let candidate = |inputs_at| Candidate { params: params.clone(), inputs_at };
            found.extend([candidate(top), candidate(output)]);
        }
    }
    found
}

/// Everything but the usable and the special primes.
fn base_spec(log_n: u32) -> BootstrapSpec {
    match log_n {
        ..=15 => BootstrapSpec { log_n, ..BootstrapSpec::n15() },
        _ => BootstrapSpec { log_n, ..BootstrapSpec::n16() },
    }
}

/// Usable primes, the lowest first, of at most `budget` bits: from the top a lift or none, then what polynomial and map of one
/// block consume, over and over.
fn usable_chains(budget: u32, poly_levels: &[u32], precision: Precision) -> Vec<Vec<u32>> {
    let block = (precision.data_bits + precision.weight_bits).clamp(MIN_PRIME_BITS, MAX_PRIME_BITS);
    let power = precision.data_bits.max(MIN_PRIME_BITS);
    let mut units: Vec<Vec<u32>> = vec![vec![block]];
    for &levels in poly_levels.iter().filter(|&&levels| levels > 0) {
        units.push([vec![power; levels as usize], vec![block]].concat());
    }
    let mut chains = Vec::new();
    for unit in &units {
        for lift in [Some(LIFT_BITS), None] {
            let mut chain: Vec<u32> = lift.into_iter().collect();
            let mut left = budget.saturating_sub(lift.unwrap_or(0));
            for &bits in unit.iter().cycle() {
                if bits > left {
                    break;
                }
                chain.push(bits);
                left -= bits;
            }
            chain.reverse();
            if chain.len() > usize::from(lift.is_some()) {
                chains.push(chain);
            }
        }
    }
    chains
}
