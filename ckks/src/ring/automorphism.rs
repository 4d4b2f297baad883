//! Galois automorphisms `X -> X^g` as permutations of the bit-reversed NTT domain.
//!
//! Position `i` holds `f(psi^e)` with `e = 2*brv(i) + 1`, so the image of `f` under `X -> X^g` has at `i`
//! the value of `f` at exponent `g*e mod 2N`. Eight neighbouring, aligned positions differ only in the top three
//! bits of the exponent and therefore come from eight neighbouring, aligned positions again: the permutation is a
//! gather of whole lines followed by one of eight shuffles within the line.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// Positions per line.
pub const LINE: usize = 8;

/// The permutation of one Galois element for one ring degree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Automorphism {
    element: u32,
    /// Per output line: `source line << 3 | shuffle`.
    lines: Box<[u32]>,
    shuffles: [[u64; LINE]; LINE],
}

impl Automorphism {
    /// The permutation of `X -> X^element` over `X^n + 1`.
    ///
    /// # Panics
    /// If `n` is not a power of two `>= 16` or `element` is even.
    pub fn new(n: usize, element: u32) -> Self {
        assert!(n.is_power_of_two() && n >= 16, "ring degree {n} is not a power of two >= 16");
        assert!(element % 2 == 1, "Galois element {element} is even");
        let log_n = n.trailing_zeros();
        let mask = 2 * n as u64 - 1;
        let element = (u64::from(element) & mask) as u32;
        let lines = (0..n / LINE)
            .map(|line| {
                let exponent = 2 * reverse_bits((line * LINE) as u64, log_n) + 1;
                let image = (exponent * u64::from(element)) & mask;
                // The top three exponent bits select the place within the source line.
                let carry = image >> (log_n - 2);
                let source = reverse_bits(image >> 1, log_n) as usize / LINE;
                (source as u32) << 3 | carry as u32
            })
            .collect();
        Self { element, lines, shuffles: shuffles(element) }
    }

    /// The Galois element, reduced modulo `2n`.
    pub fn element(&self) -> u32 {
        self.element
    }

    /// Ring degree.
    pub fn n(&self) -> usize {
        self.lines.len() * LINE
    }

    /// Source position of output position `i`.
    #[inline]
    pub fn source(&self, i: usize) -> usize {
        let entry = self.lines[i / LINE];
        (entry >> 3) as usize * LINE + self.shuffles[(entry & 7) as usize][i % LINE] as usize
    }

    /// Per output line: `source line << 3 | index into shuffles`.
    #[inline]
    pub(crate) fn lines(&self) -> &[u32] {
        &self.lines
    }

    /// The eight shuffles within a line: output place -> source place.
    #[inline]
    pub(crate) fn shuffles(&self) -> &[[u64; LINE]; LINE] {
        &self.shuffles
    }
}

fn shuffles(element: u32) -> [[u64; LINE]; LINE] {
    let mut table = [[0; LINE]; LINE];
    for (carry, shuffle) in table.iter_mut().enumerate() {
        for (place, source) in shuffle.iter_mut().enumerate() {
            let digit = reverse_bits(place as u64, 3) * u64::from(element) + carry as u64;
            *source = reverse_bits(digit & 7, 3);
        }
    }
    table
}

fn reverse_bits(x: u64, bits: u32) -> u64 {
    x.reverse_bits() >> (64 - bits)
}

/// Permutations by Galois element, built at first use and shared.
#[derive(Debug)]
pub struct AutomorphismCache {
    n: usize,
    tables: RwLock<HashMap<u32, Arc<Automorphism>>>,
}

impl AutomorphismCache {
    /// An empty cache for ring degree `n`.
    pub fn new(n: usize) -> Self {
        Self { n, tables: RwLock::new(HashMap::new()) }
    }

    /// The permutation of `element` (odd).
    pub fn get(&self, element: u32) -> Arc<Automorphism> {
        let read = self.tables.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(table) = read.get(&element) {
            return Arc::clone(table);
        }
        drop(read);
        let built = Arc::new(Automorphism::new(self.n, element));
        let mut write = self.tables.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(write.entry(element).or_insert(built))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_exponent_map() {
        for n in [16usize, 64, 1024] {
            let log_n = n.trailing_zeros();
            for element in [1u32, 3, 5, 25, 2 * n as u32 - 1, n as u32 + 1] {
                let table = Automorphism::new(n, element);
                for i in 0..n {
                    let exponent =
                        (2 * reverse_bits(i as u64, log_n) + 1) * u64::from(element) % (2 * n as u64);
                    let expected = reverse_bits((exponent - 1) / 2, log_n) as usize;
                    assert_eq!(table.source(i), expected, "n {n} element {element} position {i}");
                }
            }
        }
    }

    #[test]
    fn composition_multiplies_elements() {
        let n = 64;
        let (a, b, ab) = (Automorphism::new(n, 5), Automorphism::new(n, 27), Automorphism::new(n, 135));
        for i in 0..n {
            assert_eq!(ab.source(i), a.source(b.source(i)));
        }
    }

    #[test]
    fn cache_returns_one_shared_table() {
        let cache = AutomorphismCache::new(32);
        assert!(Arc::ptr_eq(&cache.get(5), &cache.get(5)));
    }
}
