//! Verifier of the fhe level.
//!
//! Rules:
//! 1. every operand is defined before its use, every result exists, names of inputs and of results are unique, there is a
//!    result;
//! 2. constants hold as many numbers as their shapes say, all finite;
//! 3. layouts are valid and fit N/2 slots; linear maps connect existing layouts and have weights of the right shape;
//! 4. operand counts; the layouts of operands and result are those of the operation: maps join them, `poly`, `add` and
//!    `drop` keep them;
//! 5. each unit has one usable number per channel, each reach is finite and positive; `add` and `drop` keep it; biases and polynomial coefficients have one row
//!    per channel; degrees are 2..=8;
//! 6. at [`Stage::Packed`] no value has a level and scale; at [`Stage::Leveled`] each has, the level is in the chain, the
//!    scale is at least 2^10 and leaves one bit of the modulus of its level;
//! 7. leveled operations keep the books exactly: a linear op takes operands of one level l and gives a lower one, with weights of
//!    scale at least 2; a polynomial gives level and scale as [`MonicPoly`] says; `add` takes and gives one level and one
//!    scale; `drop` goes down and keeps the scale;
//! 8. a leveled graph with a `bootstrap` says how its chain serves bootstrapping; the operand is at the input level, the result at
//!    the level and scale that follow from the specification.

use peregrine_ckks::units::{Level, Scale};

use super::{CipherTy, FheGraph, FheOp, MonicPoly, PackedTy, Stage};
use crate::consts::ConstId;
use crate::graph::{Node, ValueId};
use crate::linear::LinearMapId;
use crate::verify::{
    Collector, Counted, Entity, IrLevel, Problem, Site, VerifyErrors, check_consts, check_layout, check_map,
    check_structure, check_unit, const_shape,
};

/// Least log2 of a scale.
const LEAST_SCALE_BITS: f64 = 10.0;
/// Least log2 of the scale of a linear op's weights.
const LEAST_WEIGHT_BITS: f64 = 1.0;
/// Largest log2 of the scale of weights: encoded coefficients are 64-bit integers.
const MOST_WEIGHT_BITS: f64 = 62.0;
/// Largest size of an exponent of a scale.
const LARGEST_EXPONENT: i32 = 4096;

/// Checks every rule of the level.
///
/// # Errors
/// [`VerifyErrors`] lists every broken rule with its place.
pub fn verify(graph: &FheGraph) -> Result<(), VerifyErrors> {
    let mut out = Collector::new(IrLevel::Fhe);
    check_structure(graph, input_name, &mut out);
    check_consts(&graph.tables.consts, &mut out);
    check_tables(graph, &mut out);
    if out.is_clean() {
        for (value, node) in graph.nodes.iter() {
            let mut check = NodeCheck { graph, node, value, out: &mut out };
            check.run();
        }
    }
    out.finish()
}

fn input_name(op: &FheOp) -> Option<&str> {
    match op {
        FheOp::Input { name } => Some(name),
        _ => None,
    }
}

fn check_tables(graph: &FheGraph, out: &mut Collector) {
    let tables = &graph.tables;
    if !tables.slots.is_power_of_two() || !(8..=65536).contains(&tables.slots) {
        out.report(Site::Whole, Problem::Slots(tables.slots));
        return;
    }
    for (id, layout) in tables.layouts.iter() {
        if let Err(problem) = check_layout(layout, tables.slots) {
            out.report(Site::Entry(Entity::Layout(id)), problem);
        }
    }
    for (id, map) in tables.maps.iter() {
        if let Err(problem) = check_map(map, &tables.layouts, &tables.consts) {
            out.report(Site::Entry(Entity::Map(id)), problem);
        }
    }
    if tables.stage >= Stage::Leveled && tables.chain_bits.is_empty() {
        out.report(Site::Whole, Problem::None(Counted::Primes));
    }
}

struct NodeCheck<'a> {
    graph: &'a FheGraph,
    node: &'a Node<super::Fhe>,
    value: ValueId,
    out: &'a mut Collector,
}

impl NodeCheck<'_> {
    fn run(&mut self) {
        let before = self.check_type().and_then(|()| self.check_op());
        if let Err(problem) = before {
            self.report(problem);
            return;
        }
        if self.graph.tables.stage >= Stage::Leveled
            && let Err(problem) = self.check_levels()
        {
            self.report(problem);
        }
    }

    fn report(&mut self, problem: Problem) {
        let site = Site::Node { value: self.value, origin: self.node.origin.clone() };
        self.out.report(site, problem);
    }

    fn ty(&self, value: ValueId) -> &PackedTy {
        &self.graph.nodes[value].ty
    }

    fn channels(&self, ty: &PackedTy) -> Result<u32, Problem> {
        let layout = self.graph.tables.layouts.get(ty.layout);
        Ok(layout.ok_or(Problem::Unknown(Entity::Layout(ty.layout)))?.shape.c)
    }

    fn check_type(&self) -> Result<(), Problem> {
        let tables = &self.graph.tables;
        check_unit(&tables.consts, self.node.ty.unit, self.channels(&self.node.ty)?)?;
        let reach = self.node.ty.reach;
        if !(reach.is_finite() && reach > 0.0) {
            return Err(Problem::Reach(reach));
        }
        let leveled = tables.stage >= Stage::Leveled;
        match &self.node.ty.cipher {
            Some(cipher) if leveled => self.check_cipher(cipher),
            None if !leveled => Ok(()),
            found => Err(Problem::CipherTy { stage: tables.stage, present: found.is_some() }),
        }
    }

    fn check_cipher(&self, cipher: &CipherTy) -> Result<(), Problem> {
        let bits = &self.graph.tables.chain_bits;
        let max = Level(bits.len() as u32 - 1);
        if cipher.level > max {
            return Err(Problem::LevelTooHigh { level: cipher.level, max });
        }
        let high = bits[..cipher.level.limbs()].iter().map(|&b| f64::from(b)).sum::<f64>() - 1.0;
        let log2 = self.log2(&cipher.scale)?;
        if !(LEAST_SCALE_BITS..=high).contains(&log2) {
            let scale = Box::new(cipher.scale.clone());
            return Err(Problem::ScaleRange { scale, log2, low: LEAST_SCALE_BITS, high });
        }
        Ok(())
    }

    /// Log2 of a scale by the nominal sizes of the primes.
    fn log2(&self, scale: &Scale) -> Result<f64, Problem> {
        let bits = &self.graph.tables.chain_bits;
        let malformed = || Problem::MalformedScale(Box::new(scale.clone()));
        let small = |exponent: i32| exponent.unsigned_abs() <= LARGEST_EXPONENT as u32;
        if !small(scale.exponent_of_two()) {
            return Err(malformed());
        }
        let mut log2 = f64::from(scale.exponent_of_two());
        for &(index, exponent) in scale.prime_exponents() {
            let bits = bits.get(index as usize).filter(|_| small(exponent)).ok_or_else(malformed)?;
            log2 += f64::from(*bits) * f64::from(exponent);
        }
        Ok(log2)
    }

    fn check_op(&self) -> Result<(), Problem> {
        match &self.node.op {
            FheOp::Input { .. } => self.check_count(0),
            FheOp::Linear { maps, bias } => self.check_linear(maps, *bias),
            FheOp::Poly(poly) => self.check_poly(*poly),
            FheOp::Add => {
                self.check_count(2)?;
                self.check_same_layout()?;
                self.check_same_unit()
            }
            FheOp::Drop { .. } | FheOp::Bootstrap(_) => {
                self.check_count(1)?;
                self.check_same_layout()?;
                self.check_same_unit()
            }
        }
    }

    fn check_count(&self, expected: usize) -> Result<(), Problem> {
        let found = self.node.args.len();
        if found == expected {
            return Ok(());
        }
        Err(Problem::Count { what: Counted::Operands, expected, found })
    }

    fn check_same_layout(&self) -> Result<(), Problem> {
        let expected = self.node.ty.layout;
        for &arg in &self.node.args {
            let found = self.ty(arg).layout;
            if found != expected {
                return Err(Problem::LayoutMismatch { what: Entity::Value(arg), expected, found });
            }
        }
        Ok(())
    }

    fn check_same_unit(&self) -> Result<(), Problem> {
        let expected = self.node.ty.unit;
        let consts = &self.graph.tables.consts;
        for &arg in &self.node.args {
            let found = self.ty(arg).unit;
            if found != expected && consts.get(found) != consts.get(expected) {
                return Err(Problem::UnitMismatch { what: Entity::Value(arg), expected, found });
            }
        }
        Ok(())
    }

    fn check_linear(&self, maps: &[LinearMapId], bias: Option<ConstId>) -> Result<(), Problem> {
        if maps.is_empty() {
            return Err(Problem::None(Counted::Terms));
        }
        self.check_count(maps.len())?;
        for (&map, &arg) in maps.iter().zip(&self.node.args) {
            let table = self.graph.tables.maps.get(map).ok_or(Problem::Unknown(Entity::Map(map)))?;
            let found = self.ty(arg).layout;
            if found != table.input {
                return Err(Problem::LayoutMismatch {
                    what: Entity::Value(arg),
                    expected: table.input,
                    found,
                });
            }
            if table.output != self.node.ty.layout {
                let (expected, found) = (self.node.ty.layout, table.output);
                return Err(Problem::LayoutMismatch { what: Entity::Map(map), expected, found });
            }
        }
        match bias {
            Some(bias) => {
                let channels = self.channels(&self.node.ty)? as usize;
                const_shape(&self.graph.tables.consts, bias, &[channels])
            }
            None => Ok(()),
        }
    }

    fn check_poly(&self, poly: MonicPoly) -> Result<(), Problem> {
        self.check_count(1)?;
        self.check_same_layout()?;
        if !(2..=8).contains(&poly.degree) {
            return Err(Problem::Degree(poly.degree));
        }
        let channels = self.channels(&self.node.ty)? as usize;
        const_shape(&self.graph.tables.consts, poly.lower, &[channels, poly.degree as usize])
    }

    /// Level and scale of an operand; [`Self::check_type`] has reported an operand that has none.
    fn operand(&self, index: usize) -> Result<&CipherTy, Problem> {
        let missing = Problem::CipherTy { stage: Stage::Leveled, present: false };
        self.ty(self.node.args[index]).cipher.as_ref().ok_or(missing)
    }

    fn check_levels(&self) -> Result<(), Problem> {
        let Some(result) = &self.node.ty.cipher else { return Ok(()) };
        match &self.node.op {
            FheOp::Input { .. } => Ok(()),
            FheOp::Linear { .. } => self.check_linear_levels(result),
            FheOp::Poly(poly) => {
                let expected = self.poly_result(*poly)?;
                expect_level(result.level, expected.level)?;
                expect_scale(&result.scale, &expected.scale)
            }
            FheOp::Add => (0..2).try_for_each(|i| {
                expect_level(self.operand(i)?.level, result.level)?;
                expect_scale(&self.operand(i)?.scale, &result.scale)
            }),
            FheOp::Drop { to } => {
                let operand = self.operand(0)?;
                expect_level(result.level, *to)?;
                if *to > operand.level {
                    return Err(Problem::LevelTooHigh { level: *to, max: operand.level });
                }
                expect_scale(&result.scale, &operand.scale)
            }
            FheOp::Bootstrap(form) => {
                let spec = self.graph.tables.bootstrap.as_ref().ok_or(Problem::NoBootstrap)?;
                expect_level(self.operand(0)?.level, spec.input_level())?;
                let bounded = Some(form).filter(|form| form.is_bounded());
                let (level, scale) =
                    bounded.and_then(|form| form.result(spec)).ok_or(Problem::RefreshForm(*form))?;
                expect_level(result.level, level)?;
                expect_scale(&result.scale, &scale)
            }
        }
    }

    fn check_linear_levels(&self, result: &CipherTy) -> Result<(), Problem> {
        let level = self.operand(0)?.level;
        let below = level.below(1).ok_or(Problem::OutOfLevels { needed: 1, left: 0 })?;
        if result.level > below {
            return Err(Problem::LevelMismatch { expected: below, found: result.level });
        }
        let divisor = (result.level.0 + 1..=level.0)
            .fold(Scale::one(), |product, prime| product.mul(&Scale::prime(prime)));
        for i in 0..self.node.args.len() {
            let operand = self.operand(i)?;
            expect_level(operand.level, level)?;
            let weights = result.scale.mul(&divisor).div(&operand.scale);
            let (log2, high) = (self.log2(&weights)?, MOST_WEIGHT_BITS);
            if !(LEAST_WEIGHT_BITS..=high).contains(&log2) {
                let scale = Box::new(weights);
                return Err(Problem::ScaleRange { scale, log2, low: LEAST_WEIGHT_BITS, high });
            }
        }
        Ok(())
    }

    fn poly_result(&self, poly: MonicPoly) -> Result<CipherTy, Problem> {
        let operand = self.operand(0)?;
        let (mut level, mut scale) = (operand.level, operand.scale.clone());
        let needed = poly.levels();
        for _ in 0..needed {
            let below = level.below(1).ok_or(Problem::OutOfLevels { needed, left: operand.level.0 })?;
            scale = scale.square().div(&Scale::prime(level.0));
            level = below;
        }
        Ok(CipherTy { level, scale: scale.square() })
    }
}

fn expect_level(found: Level, expected: Level) -> Result<(), Problem> {
    if found == expected { Ok(()) } else { Err(Problem::LevelMismatch { expected, found }) }
}

fn expect_scale(found: &Scale, expected: &Scale) -> Result<(), Problem> {
    if found == expected {
        return Ok(());
    }
    Err(Problem::ScaleMismatch { expected: Box::new(expected.clone()), found: Box::new(found.clone()) })
}
