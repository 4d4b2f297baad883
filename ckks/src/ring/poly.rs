//! Polynomials as residues: one limb of `N` words per prime, limbs one after the other.

use std::fmt;
use std::marker::PhantomData;
use std::slice::{ChunksExact, ChunksExactMut};

use rayon::slice::{
    ChunksExact as ParChunks, ChunksExactMut as ParChunksMut, ParallelSlice, ParallelSliceMut,
};
use zeroize::Zeroize;

use super::words::Words;
use crate::units::Level;

/// Bytes that a polynomial of so many words takes in memory.
pub fn polynomial_bytes(words: usize) -> u64 {
    super::words::resident_bytes(words)
}

mod sealed {
    pub trait Sealed {}
}

/// The representation of a polynomial: [`Coeff`] or [`Ntt`].
pub trait Domain: sealed::Sealed + Copy + fmt::Debug + Default + Send + Sync + 'static {
    /// For messages.
    const NAME: &'static str;
}

/// Coefficients of `1, X, .., X^(N-1)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coeff;

/// Values at the primitive `2N`-th roots of unity, in bit-reversed order (see [`crate::ntt`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ntt;

impl sealed::Sealed for Coeff {}
impl sealed::Sealed for Ntt {}

impl Domain for Coeff {
    const NAME: &'static str = "coefficient";
}

impl Domain for Ntt {
    const NAME: &'static str = "ntt";
}

/// Which primes a polynomial is reduced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Basis {
    /// `q_0..=q_level`.
    Q(Level),
    /// `q_0..=q_level` and every special prime.
    Qp(Level),
}

impl Basis {
    /// The level.
    pub const fn level(self) -> Level {
        match self {
            Basis::Q(level) | Basis::Qp(level) => level,
        }
    }
}

/// A polynomial modulo `q_0..q_(q_limbs-1)` and the first `p_limbs` special primes, in this order.
///
/// Every word is a canonical residue, below its prime.
#[derive(Clone)]
pub struct RnsPoly<D: Domain> {
    n: usize,
    q_limbs: usize,
    p_limbs: usize,
    words: Words,
    domain: PhantomData<D>,
}

impl<D: Domain> RnsPoly<D> {
    /// The zero polynomial of degree below `n`.
    ///
    /// # Panics
    /// If `n` is zero.
    pub fn zero(n: usize, q_limbs: usize, p_limbs: usize) -> RnsPoly<D> {
        assert!(n > 0, "a ring has at least degree 1");
        RnsPoly { n, q_limbs, p_limbs, words: Words::zeroed(n * (q_limbs + p_limbs)), domain: PhantomData }
    }

    /// A polynomial of unspecified content, for callers that write every limb. It may show words of polynomials
    /// dropped earlier, never of secret ones, which are cleared before.
    pub(crate) fn unspecified(n: usize, q_limbs: usize, p_limbs: usize) -> RnsPoly<D> {
        let words = Words::unspecified(n * (q_limbs + p_limbs));
        RnsPoly { n, q_limbs, p_limbs, words, domain: PhantomData }
    }

    /// The ring degree.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Number of limbs modulo Q primes; they come first.
    pub fn q_limbs(&self) -> usize {
        self.q_limbs
    }

    /// Number of limbs modulo special primes; they come last.
    pub fn p_limbs(&self) -> usize {
        self.p_limbs
    }

    /// Number of all limbs.
    pub fn limb_count(&self) -> usize {
        self.q_limbs + self.p_limbs
    }

    /// Limb `i`, counting Q limbs first.
    ///
    /// # Panics
    /// If there is no such limb.
    pub fn limb(&self, i: usize) -> &[u64] {
        &self.words[i * self.n..(i + 1) * self.n]
    }

    /// Limb `i`, mutable.
    ///
    /// # Panics
    /// If there is no such limb.
    pub fn limb_mut(&mut self, i: usize) -> &mut [u64] {
        &mut self.words[i * self.n..(i + 1) * self.n]
    }

    /// The limb modulo special prime `k`.
    ///
    /// # Panics
    /// If there is no such limb.
    pub fn p_limb(&self, k: usize) -> &[u64] {
        self.limb(self.q_limbs + k)
    }

    /// All limbs in order.
    pub fn limbs(&self) -> ChunksExact<'_, u64> {
        self.words.chunks_exact(self.n)
    }

    /// All limbs in order, mutable.
    pub fn limbs_mut(&mut self) -> ChunksExactMut<'_, u64> {
        self.words.chunks_exact_mut(self.n)
    }

    /// All limbs as a parallel iterator.
    pub fn par_limbs(&self) -> ParChunks<'_, u64> {
        self.words.par_chunks_exact(self.n)
    }

    /// All limbs as a parallel iterator, mutable.
    pub fn par_limbs_mut(&mut self) -> ParChunksMut<'_, u64> {
        let n = self.n;
        self.words.par_chunks_exact_mut(n)
    }

    /// All words, limb by limb.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// All words, limb by limb, mutable.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Whether both have the same degree and limbs.
    pub fn same_shape(&self, other: &RnsPoly<D>) -> bool {
        (self.n, self.q_limbs, self.p_limbs) == (other.n, other.q_limbs, other.p_limbs)
    }

    /// The first `q_limbs` limbs modulo Q primes, without special primes: the polynomial at a lower level.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn truncated(&self, q_limbs: usize) -> RnsPoly<D> {
        assert!(q_limbs <= self.q_limbs, "cannot take {q_limbs} of {} limbs", self.q_limbs);
        let words = Words::copied(&self.words[..q_limbs * self.n]);
        RnsPoly { n: self.n, q_limbs, p_limbs: 0, words, domain: PhantomData }
    }

    /// Forgets all limbs but the first `q_limbs`, without a copy.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn truncate(&mut self, q_limbs: usize) {
        assert!(q_limbs <= self.q_limbs, "cannot take {q_limbs} of {} limbs", self.q_limbs);
        self.words.truncate(q_limbs * self.n);
        (self.q_limbs, self.p_limbs) = (q_limbs, 0);
    }

    /// Reinterprets the words after an in-place transform of every limb.
    pub(crate) fn into_domain<E: Domain>(self) -> RnsPoly<E> {
        let RnsPoly { n, q_limbs, p_limbs, words, .. } = self;
        RnsPoly { n, q_limbs, p_limbs, words, domain: PhantomData }
    }
}

impl<D: Domain> PartialEq for RnsPoly<D> {
    fn eq(&self, other: &RnsPoly<D>) -> bool {
        self.same_shape(other) && self.words[..] == other.words[..]
    }
}

impl<D: Domain> Eq for RnsPoly<D> {}

impl<D: Domain> fmt::Debug for RnsPoly<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RnsPoly { n, q_limbs, p_limbs, .. } = self;
        write!(f, "RnsPoly<{}>(n = {n}, limbs = {q_limbs} + {p_limbs})", D::NAME)
    }
}

impl<D: Domain> Zeroize for RnsPoly<D> {
    fn zeroize(&mut self) {
        self.words.zeroize();
    }
}
