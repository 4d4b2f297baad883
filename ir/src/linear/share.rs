//! Sharing: products that do the work of several diagonals.
//!
//! A diagonal weighs one shift of an operand in every slot by one real number. But slots hold complex numbers, and a tensor that is
//! smaller than a ciphertext is there several times over. Both are room: an operand is first joined with shifted copies of
//! itself (or with the next ciphertext), `y = sum over parts j of X^e_j rotate(x, s_j)`, where powers of `X` cost neither a level
//! nor noise. Let P be the larger period of operand and result, R the number of copies used (a power of two), W = R P the
//! period of the diagonals. The powers are such that `X^e_j` in the slots t, t + P, t + 2P, ... runs through different roots of
//! unity of order R for different j < R, and the other R parts are times `X^(N/2)`, the imaginary unit. So a diagonal that
//! holds `1/R sum_j w_j conj(X^e_j)` leaves `sum_j w_j rotate(x, s_j)` when the copies are summed and the real part is taken: 2R
//! diagonals in one product, for `log2(2R)` rotations before and as many afterwards, folds that also replicate the result.

use std::collections::BTreeMap;

use peregrine_ckks::units::{GaloisElement, Rotation, Slots};

use super::{DiagonalKey, Diagonals};

/// What takes the imaginary parts of an operand's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Imaginary {
    /// Nothing.
    #[default]
    Nothing,
    /// The next ciphertext: those of the operand are joined two by two.
    Next,
    /// The ciphertext itself, rotated.
    Rotated(i32),
}

/// How the ciphertexts of an operand are joined before they meet diagonals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sharing {
    /// What takes the imaginary parts.
    pub imaginary: Imaginary,
    /// Each joins the operand with itself rotated, and doubles the copies that share the work.
    pub shifts: Vec<i32>,
}

/// Most shifts: copies double with each.
pub const MAX_SHIFTS: usize = 8;

/// One summand of a joined operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Ciphertext after the first of the joined ones.
    cipher: u32,
    /// Rotation of it.
    pub(super) shift: i64,
    /// Exponent of `X^(N/2W)`, modulo 4W.
    pub(super) power: u32,
}

impl Sharing {
    /// Whether nothing is joined.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the results are real parts.
    pub fn is_complex(&self) -> bool {
        self.imaginary != Imaginary::Nothing
    }

    /// Copies that share the work.
    pub fn copies(&self) -> u32 {
        1 << self.shifts.len().min(MAX_SHIFTS)
    }

    /// Ciphertexts that are joined to one.
    pub fn ciphers(&self) -> u32 {
        match self.imaginary {
            Imaginary::Next => 2,
            Imaginary::Nothing | Imaginary::Rotated(_) => 1,
        }
    }

    /// Exponents of `X^(N/2W)` that the shifts come with.
    pub(super) fn powers(&self) -> impl Iterator<Item = u32> {
        let copies = self.copies();
        (1..=self.shifts.len() as u32).map(move |j| copies >> j)
    }

    /// The summands of a joined operand whose diagonals have period `work`; doubled by each join.
    pub(super) fn parts(&self, work: u32) -> Vec<Part> {
        let mut parts = vec![Part { cipher: 0, shift: 0, power: 0 }];
        match self.imaginary {
            Imaginary::Nothing => {}
            Imaginary::Next => parts.push(Part { cipher: 1, shift: 0, power: work }),
            Imaginary::Rotated(shift) => parts.push(Part { cipher: 0, shift: shift.into(), power: work }),
        }
        let ring = 2 * work as usize;
        for (&shift, power) in self.shifts.iter().zip(self.powers()) {
            // Rotations take X to a power of it.
            let rotated = match Slots::new(work) {
                Ok(slots) => GaloisElement::from_rotation(Rotation::new(shift.into(), slots), ring).get(),
                Err(_) => 1,
            };
            let turned = |part: &Part| Part {
                cipher: part.cipher,
                shift: part.shift + i64::from(shift),
                power: ((u64::from(part.power) * u64::from(rotated) + u64::from(power)) % (2 * ring as u64))
                    as u32,
            };
            let more: Vec<Part> = parts.iter().map(turned).collect();
            parts.extend(more);
        }
        parts
    }
}

/// One product of a shared map: a joined ciphertext, its rotation, and the diagonals that the product does the work of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDiagonal {
    /// Ciphertext of the result.
    pub cipher_out: u32,
    /// First of the ciphertexts of the operand that are joined.
    pub cipher_in: u32,
    /// Rotation of the joined ciphertext, modulo the smaller period.
    pub rotation: u32,
    /// Index of the part and the diagonal it stands for.
    pub(super) members: Vec<(u32, DiagonalKey)>,
}

/// Members by the rotation they start from.
type Bases = BTreeMap<u32, Vec<(u32, DiagonalKey)>>;

/// The products that the diagonals of a map become, by result, operand and rotation.
pub fn shared(diagonals: &Diagonals, sharing: &Sharing) -> Vec<SharedDiagonal> {
    let modulus = diagonals.modulus();
    let mut groups: BTreeMap<(u32, u32), Bases> = BTreeMap::new();
    let joined = sharing.ciphers();
    for key in diagonals.keys() {
        let bases = groups.entry((key.cipher_out, key.cipher_in / joined * joined)).or_default();
        bases.entry(key.rotation).or_default().push((key.cipher_in % joined, key));
    }
    let mut found = Vec::with_capacity(diagonals.len());
    for ((cipher_out, cipher_in), mut bases) in groups {
        let mut bit = joined;
        let own = match sharing.imaginary {
            Imaginary::Nothing | Imaginary::Next => None,
            Imaginary::Rotated(shift) => Some(shift),
        };
        for shift in own.iter().chain(&sharing.shifts) {
            bases = paired(bases, residue(*shift, modulus), modulus, bit);
            bit *= 2;
        }
        let product = |(rotation, members)| SharedDiagonal { cipher_out, cipher_in, rotation, members };
        found.extend(bases.into_iter().map(product));
    }
    found
}

/// The products that diagonals with these keys (ascending) become, as [`shared`] has them but without what they do the work of:
/// what costs are counted on. Ciphertexts of the operand are the first of those that are joined.
pub fn shared_keys(keys: &[DiagonalKey], modulus: u32, sharing: &Sharing) -> Vec<DiagonalKey> {
    let joined = sharing.ciphers();
    let first = |key: &DiagonalKey| key.cipher_in / joined * joined;
    let own = match sharing.imaginary {
        Imaginary::Nothing | Imaginary::Next => None,
        Imaginary::Rotated(shift) => Some(shift),
    };
    let shifts: Vec<u32> = own.iter().chain(&sharing.shifts).map(|&shift| residue(shift, modulus)).collect();
    let mut found = Vec::with_capacity(keys.len());
    for group in keys.chunk_by(|a, b| (a.cipher_out, first(a)) == (b.cipher_out, first(b))) {
        let mut rotations: Vec<u32> = group.iter().map(|key| key.rotation).collect();
        rotations.sort_unstable();
        rotations.dedup();
        for &shift in &shifts {
            rotations = pairs_of(&rotations, shift, modulus);
        }
        let (cipher_out, cipher_in) = (group[0].cipher_out, first(&group[0]));
        found.extend(rotations.into_iter().map(|rotation| DiagonalKey { cipher_out, cipher_in, rotation }));
    }
    found
}

fn residue(shift: i32, modulus: u32) -> u32 {
    i64::from(shift).rem_euclid(i64::from(modulus)) as u32
}

/// Where the products of `rotations` (ascending, distinct) start once those `shift` apart are paired, ascending.
pub fn pairs_of(rotations: &[u32], shift: u32, modulus: u32) -> Vec<u32> {
    let mut starts = Vec::with_capacity(rotations.len());
    each_pair(rotations, shift, modulus, |start| starts.push(start));
    starts.sort_unstable();
    starts
}

/// How many products [`pairs_of`] finds.
pub fn pairs_count(rotations: &[u32], shift: u32, modulus: u32) -> usize {
    let mut count = 0;
    each_pair(rotations, shift, modulus, |_| count += 1);
    count
}

/// The first of each pair that [`paired`] makes.
fn each_pair(rotations: &[u32], shift: u32, modulus: u32, mut visit: impl FnMut(u32)) {
    if shift == 0 {
        return rotations.iter().copied().for_each(visit);
    }
    let mut left = vec![false; modulus as usize];
    rotations.iter().for_each(|&r| left[r as usize] = true);
    let after = |r: u32| if r >= modulus - shift { r - (modulus - shift) } else { r + shift };
    let before = |r: u32| if r >= shift { r - shift } else { r + (modulus - shift) };
    let starts: Vec<u32> = rotations.iter().copied().filter(|&r| !left[before(r) as usize]).collect();
    for mut at in starts.into_iter().chain(rotations.iter().copied()) {
        while std::mem::take(&mut left[at as usize]) {
            visit(at);
            let next = after(at);
            left[next as usize] = false;
            at = after(next);
        }
    }
}

/// Pairs rotations that are `shift` apart: chains of them two by two from their start, cycles from their least.
fn paired(mut bases: Bases, shift: u32, modulus: u32, bit: u32) -> Bases {
    if shift == 0 {
        return bases;
    }
    let before = |r: u32| (r + modulus - shift) % modulus;
    let starts: Vec<u32> = bases.keys().copied().filter(|&r| !bases.contains_key(&before(r))).collect();
    let mut found = Bases::new();
    let mut walk = |bases: &mut Bases, mut at: u32| {
        while let Some(mut members) = bases.remove(&at) {
            let next = (at + shift) % modulus;
            if let Some(others) = bases.remove(&next) {
                members.extend(others.into_iter().map(|(part, key)| (part | bit, key)));
            }
            found.insert(at, members);
            at = (next + shift) % modulus;
        }
    };
    starts.into_iter().for_each(|start| walk(&mut bases, start));
    while let Some((&least, _)) = bases.first_key_value() {
        walk(&mut bases, least);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_pair_from_their_start_and_cycles_from_their_least() {
        let pairs = |rotations: &[u32], shift| {
            let mut rotations = rotations.to_vec();
            rotations.sort_unstable();
            let found = pairs_of(&rotations, shift, 64);
            assert_eq!(pairs_count(&rotations, shift, 64), found.len());
            let bases: Bases = rotations.iter().map(|&base| (base, Vec::new())).collect();
            assert_eq!(paired(bases, shift, 64, 1).into_keys().collect::<Vec<_>>(), found);
            found
        };
        assert_eq!(pairs(&[63, 0, 1], 1), [1, 63]);
        assert_eq!(pairs(&[0, 16, 32, 48], 32), [0, 16]);
        assert_eq!(pairs(&[0, 16, 32, 48], 16), [0, 32]);
        assert_eq!(pairs(&[5], 7), [5]);
        assert_eq!(pairs(&[5, 6], 0), [5, 6]);
        // Row taps around 0, two of seven rows a step apart.
        assert_eq!(pairs(&[61, 62, 63, 0, 1, 2, 3], 4), [0, 61, 62, 63]);
        // Cycles of odd and even length, chains across the end.
        for shift in 1..64 {
            pairs(&(0..64).collect::<Vec<_>>(), shift);
            pairs(&(0..64).filter(|r| r % 3 != 0).collect::<Vec<_>>(), shift);
        }
    }
}
