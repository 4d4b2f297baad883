//! Parameters together with every table that operations need.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::arith::{Modulus, ShoupFactor};
use crate::cost::{Shape, Work};
use crate::error::Error;
use crate::kernels::Kernels;
use crate::ntt::NttTable;
use crate::params::Params;
use crate::ring::automorphism::{Automorphism, AutomorphismCache};
use crate::ring::bconv::ConverterSet;
use crate::ring::poly::{Basis, Coeff, Domain, Ntt, RnsPoly};
use crate::units::{GaloisElement, Level};

struct Inner {
    params: Params,
    kernels: Kernels,
    q: Vec<NttTable>,
    p: Vec<NttTable>,
    q_moduli: Vec<Modulus>,
    p_moduli: Vec<Modulus>,
    converters: ConverterSet,
    automorphisms: AutomorphismCache,
    /// `inverse_q[l][i] = q_l^-1 mod q_i` for `i < l`.
    inverse_q: Vec<Vec<ShoupFactor>>,
    /// Work of all operations so far.
    done: Mutex<Work>,
}

/// Precomputed tables of one parameter set; cheap to clone, shared by encoder, key generator and evaluator.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("params", &self.0.params).field("kernels", &self.0.kernels).finish()
    }
}

fn tables(primes: &[u64], n: usize, kernels: Kernels) -> Result<Vec<NttTable>, Error> {
    let table = |&prime: &u64| {
        let error = Error::Ntt { modulus: prime, n };
        let Ok(modulus) = Modulus::new(prime) else { return Err(error) };
        NttTable::new(n, modulus, kernels).map_err(|_| error)
    };
    primes.par_iter().map(table).collect()
}

impl Context {
    /// Builds the tables, with the fastest kernels this machine has.
    ///
    /// # Errors
    /// [`Error::Ntt`] if a prime has no transform; checked parameters always have one.
    pub fn new(params: &Params) -> Result<Context, Error> {
        Context::with_kernels(params, Kernels::detect())
    }

    /// Like [`new`](Self::new) with a chosen instruction set, to compare the paths.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_kernels(params: &Params, kernels: Kernels) -> Result<Context, Error> {
        let n = params.n();
        let (q, p) = (tables(params.q(), n, kernels)?, tables(params.p(), n, kernels)?);
        let q_moduli: Vec<Modulus> = q.iter().map(|table| *table.modulus()).collect();
        let p_moduli: Vec<Modulus> = p.iter().map(|table| *table.modulus()).collect();
        let inverses = |l: usize| -> Vec<ShoupFactor> {
            let inverse = |m: &Modulus| m.factor(m.inv(m.reduce(q_moduli[l].value())));
            q_moduli[..l].iter().map(inverse).collect()
        };
        Ok(Context(Arc::new(Inner {
            params: params.clone(),
            kernels,
            inverse_q: (0..q.len()).map(inverses).collect(),
            converters: ConverterSet::new(&q_moduli, &p_moduli, n),
            automorphisms: AutomorphismCache::new(n),
            q,
            p,
            q_moduli,
            p_moduli,
            done: Mutex::default(),
        })))
    }

    /// Work that operations have done with these tables so far, for [`crate::cost`]. Counted once per operation.
    pub fn work(&self) -> Work {
        *self.0.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, work: Work) {
        *self.0.done.lock().unwrap_or_else(PoisonError::into_inner) += work;
    }

    pub(crate) fn shape(&self, q_limbs: usize) -> Shape {
        Shape::of_limbs(self.params(), q_limbs)
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.0.params
    }

    /// The ring degree `N`.
    pub fn n(&self) -> usize {
        self.0.params.n()
    }

    /// The instruction set in use.
    pub fn kernels(&self) -> Kernels {
        self.0.kernels
    }

    /// Transforms of the Q primes.
    pub fn q_tables(&self) -> &[NttTable] {
        &self.0.q
    }

    /// Transforms of the special primes.
    pub fn p_tables(&self) -> &[NttTable] {
        &self.0.p
    }

    /// The Q primes.
    pub fn q_moduli(&self) -> &[Modulus] {
        &self.0.q_moduli
    }

    /// The special primes.
    pub fn p_moduli(&self) -> &[Modulus] {
        &self.0.p_moduli
    }

    /// Base converters of hybrid key switching.
    pub fn converters(&self) -> &ConverterSet {
        &self.0.converters
    }

    /// `q_level^-1 mod q_i` for each `i` below `level`: the constants of an exact rescale.
    pub(crate) fn rescale_factors(&self, level: Level) -> &[ShoupFactor] {
        &self.0.inverse_q[level.0 as usize]
    }

    /// The permutation of NTT values for an automorphism.
    ///
    /// # Errors
    /// [`Error::ForeignGaloisElement`] if `element` is not below `2N`.
    pub fn automorphism(&self, element: GaloisElement) -> Result<Arc<Automorphism>, Error> {
        let n = self.n();
        if u64::from(element.get()) >= 2 * n as u64 {
            return Err(Error::ForeignGaloisElement { op: "automorphism", element, n });
        }
        Ok(self.0.automorphisms.get(element.get()))
    }

    /// The table of limb `i` of a polynomial with `q_limbs` limbs modulo Q primes.
    pub fn table(&self, q_limbs: usize, i: usize) -> &NttTable {
        if i < q_limbs { &self.0.q[i] } else { &self.0.p[i - q_limbs] }
    }

    /// A zero polynomial over a basis.
    pub fn zero<D: Domain>(&self, basis: Basis) -> RnsPoly<D> {
        let p_limbs = match basis {
            Basis::Q(_) => 0,
            Basis::Qp(_) => self.0.p.len(),
        };
        RnsPoly::zero(self.n(), basis.level().limbs(), p_limbs)
    }

    /// Coefficients to NTT values, limbs in parallel.
    pub fn forward(&self, mut poly: RnsPoly<Coeff>) -> RnsPoly<Ntt> {
        let q_limbs = poly.q_limbs();
        self.count(Work::transforms(self.n(), poly.limb_count() as f64));
        poly.par_limbs_mut().enumerate().for_each(|(i, limb)| self.table(q_limbs, i).forward(limb));
        poly.into_domain()
    }

    /// NTT values to coefficients, limbs in parallel.
    pub fn inverse(&self, mut poly: RnsPoly<Ntt>) -> RnsPoly<Coeff> {
        let q_limbs = poly.q_limbs();
        self.count(Work::transforms(self.n(), poly.limb_count() as f64));
        poly.par_limbs_mut().enumerate().for_each(|(i, limb)| self.table(q_limbs, i).inverse(limb));
        poly.into_domain()
    }

    /// Whether a level is in the chain.
    ///
    /// # Errors
    /// [`Error::LevelOutOfRange`] if not.
    pub fn check_level(&self, op: &'static str, level: Level) -> Result<(), Error> {
        let max = self.0.params.max_level();
        if level <= max { Ok(()) } else { Err(Error::LevelOutOfRange { op, level, max }) }
    }

    /// Whether a polynomial belongs to this ring and has exactly the Q limbs of `level`.
    ///
    /// # Errors
    /// [`Error::LevelOutOfRange`] or [`Error::Shape`] if not.
    pub fn check_poly<D: Domain>(
        &self,
        op: &'static str,
        poly: &RnsPoly<D>,
        level: Level,
    ) -> Result<(), Error> {
        self.check_level(op, level)?;
        let facts = [
            ("ring degree", poly.n(), self.n()),
            ("number of Q limbs", poly.q_limbs(), level.limbs()),
            ("number of P limbs", poly.p_limbs(), 0),
        ];
        match facts.into_iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => Err(Error::Shape { op, what, found, expected }),
            None => Ok(()),
        }
    }

    /// `a += b` limb by limb. Shapes agree.
    pub(crate) fn add_assign<D: Domain>(&self, a: &mut RnsPoly<D>, b: &RnsPoly<D>) {
        self.zip_limbs(a, b, |kernels, modulus, a, b| kernels.add_assign(modulus, a, b));
    }

    /// `a -= b` limb by limb. Shapes agree.
    pub(crate) fn sub_assign<D: Domain>(&self, a: &mut RnsPoly<D>, b: &RnsPoly<D>) {
        self.zip_limbs(a, b, |kernels, modulus, a, b| kernels.sub_assign(modulus, a, b));
    }

    /// `a *= b` limb by limb. Shapes agree.
    pub(crate) fn mul_assign(&self, a: &mut RnsPoly<Ntt>, b: &RnsPoly<Ntt>) {
        self.zip_limbs(a, b, |kernels, modulus, a, b| kernels.mul_assign(modulus, a, b));
    }

    /// `a = -a` limb by limb.
    pub(crate) fn neg_assign<D: Domain>(&self, a: &mut RnsPoly<D>) {
        let q_limbs = a.q_limbs();
        let negate = |(i, limb): (usize, &mut [u64])| {
            self.kernels().neg_assign(self.table(q_limbs, i).modulus(), limb);
        };
        a.par_limbs_mut().enumerate().for_each(negate);
    }

    fn zip_limbs<D: Domain>(
        &self,
        a: &mut RnsPoly<D>,
        b: &RnsPoly<D>,
        op: impl Fn(Kernels, &Modulus, &mut [u64], &[u64]) + Sync,
    ) {
        assert!(a.same_shape(b), "operands {a:?} and {b:?} differ in shape");
        let q_limbs = a.q_limbs();
        let apply = |(i, (a, b)): (usize, (&mut [u64], &[u64]))| {
            op(self.kernels(), self.table(q_limbs, i).modulus(), a, b);
        };
        self.count(Work::passes(self.n(), a.limb_count() as f64));
        a.par_limbs_mut().zip(b.par_limbs()).enumerate().for_each(apply);
    }
}
