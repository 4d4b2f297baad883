//! What the verifiers of the three levels share: places, broken rules, and their collection.
//!
//! A verifier reports every broken rule, not the first, each at its place. Compiler passes treat a report as a bug of
//! the pass before; a loader treats it as a bad file.

mod problem;

pub use problem::{AnyStage, Contents, Counted, Entity, Key, Liveness, Problem, Site};

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use crate::consts::{ConstData, ConstId, ConstPool};
use crate::entity::{EntityId, PrimaryMap};
use crate::graph::{Dialect, Graph};
use crate::layout::Layout;
use crate::linear::{LayoutId, LinearMap};

/// Most broken rules that one report lists.
pub const MAX_REPORTED: usize = 100;

/// The IR level that a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrLevel {
    /// [`crate::tensor`]
    Tensor,
    /// [`crate::fhe`]
    Fhe,
    /// [`crate::program`]
    Program,
}

impl fmt::Display for IrLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tensor => "tensor graph",
            Self::Fhe => "fhe graph",
            Self::Program => "program",
        })
    }
}

/// A broken rule at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyError {
    /// Place.
    pub site: Site,
    /// Rule.
    pub problem: Problem,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.site, self.problem)
    }
}

/// Everything a verifier found, at least one error.
#[derive(Clone, Debug, PartialEq, Error)]
pub struct VerifyErrors {
    /// Level.
    pub level: IrLevel,
    /// The first [`MAX_REPORTED`] errors.
    pub errors: Vec<VerifyError>,
    /// Errors beyond those.
    pub more: usize,
}

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}:", self.level)?;
        for error in &self.errors {
            write!(f, "\n  {error}")?;
        }
        if self.more > 0 {
            write!(f, "\n  and {} more", self.more)?;
        }
        Ok(())
    }
}

/// Collects what a verifier finds.
pub(crate) struct Collector {
    level: IrLevel,
    errors: Vec<VerifyError>,
    more: usize,
}

impl Collector {
    pub(crate) fn new(level: IrLevel) -> Self {
        Self { level, errors: Vec::new(), more: 0 }
    }

    pub(crate) fn report(&mut self, site: Site, problem: Problem) {
        if self.errors.len() < MAX_REPORTED {
            self.errors.push(VerifyError { site, problem });
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    pub(crate) fn finish(self) -> Result<(), VerifyErrors> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(VerifyErrors { level: self.level, errors: self.errors, more: self.more })
        }
    }
}

/// Constants: as many numbers as the shape says, all finite.
pub(crate) fn check_consts(consts: &ConstPool, out: &mut Collector) {
    for (id, constant) in consts.iter() {
        let site = || Site::Entry(Entity::Const(id));
        let expected = constant.shape.iter().fold(1u64, |n, &extent| n.saturating_mul(extent as u64));
        if expected != constant.len() as u64 {
            let shape = constant.shape.clone();
            out.report(site(), Problem::ConstLength { shape, expected, found: constant.len() });
        }
        let not_finite = match &constant.data {
            ConstData::F32(data) => data.iter().position(|x| !x.is_finite()),
            ConstData::F64(data) => data.iter().position(|x| !x.is_finite()),
        };
        if let Some(index) = not_finite {
            out.report(site(), Problem::NotFinite { index });
        }
    }
}

/// The constant's shape is `expected`, or the reason why not.
pub(crate) fn const_shape(consts: &ConstPool, id: ConstId, expected: &[usize]) -> Result<(), Problem> {
    let constant = consts.get(id).ok_or(Problem::Unknown(Entity::Const(id)))?;
    if constant.shape == expected {
        return Ok(());
    }
    Err(Problem::ConstShape { constant: id, expected: expected.to_vec(), found: constant.shape.clone() })
}

/// A unit has one usable number per channel.
pub(crate) fn check_unit(consts: &ConstPool, id: ConstId, channels: u32) -> Result<(), Problem> {
    const_shape(consts, id, &[channels as usize])?;
    let constant = &consts[id];
    let usable = |x: f64| (2f64.powi(-100)..=2f64.powi(100)).contains(&x.abs());
    match (0..constant.len()).find(|&i| !usable(constant.at(i))) {
        Some(channel) => Err(Problem::Unit { constant: id, channel, value: constant.at(channel) }),
        None => Ok(()),
    }
}

/// Layouts: correct in themselves, within `slots`.
pub(crate) fn check_layout(layout: &Layout, slots: u32) -> Result<(), Problem> {
    layout.check()?;
    if layout.period.get() > slots {
        return Err(Problem::Period { period: layout.period.get(), slots });
    }
    Ok(())
}

/// A map's ids are live and its geometry, separable maps, weights and layouts agree. The layouts themselves are valid.
pub(crate) fn check_map(
    map: &LinearMap,
    layouts: &PrimaryMap<LayoutId, Layout>,
    consts: &ConstPool,
) -> Result<(), Problem> {
    let find = |id| layouts.get(id).ok_or(Problem::Unknown(Entity::Layout(id)));
    let (input, output) = (find(map.input)?, find(map.output)?);
    let weights = consts.get(map.weights).ok_or(Problem::Unknown(Entity::Const(map.weights)))?;
    let expected = map.between(input, output).check()?;
    if weights.shape != expected {
        let found = weights.shape.clone();
        return Err(Problem::ConstShape { constant: map.weights, expected, found });
    }
    Ok(())
}

/// Every operand is defined earlier; every result is a value; names are unique and there is a result.
pub(crate) fn check_structure<D: Dialect>(
    graph: &Graph<D>,
    input_name: impl Fn(&D::Op) -> Option<&str>,
    out: &mut Collector,
) {
    let mut inputs = BTreeSet::new();
    for (id, node) in graph.nodes.iter() {
        let site = || Site::Node { value: id, origin: node.origin.clone() };
        for &arg in &node.args {
            if arg.index() >= graph.nodes.len() {
                out.report(site(), Problem::Unknown(Entity::Value(arg)));
            } else if arg >= id {
                out.report(site(), Problem::NotDefinedBefore(arg));
            }
        }
        if let Some(name) = input_name(&node.op)
            && !inputs.insert(name)
        {
            out.report(site(), Problem::DuplicateName(name.to_owned()));
        }
    }
    if graph.outputs.is_empty() {
        out.report(Site::Whole, Problem::None(Counted::Outputs));
    }
    let mut outputs = BTreeSet::new();
    for (index, output) in graph.outputs.iter().enumerate() {
        let site = || Site::Entry(Entity::Output(index as u32));
        if graph.nodes.get(output.value).is_none() {
            out.report(site(), Problem::Unknown(Entity::Value(output.value)));
        }
        if !outputs.insert(output.name.as_str()) {
            out.report(site(), Problem::DuplicateName(output.name.clone()));
        }
    }
}
