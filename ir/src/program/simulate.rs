//! The verifier's re-simulation of a program: registers with level, scale and contents, and the keys that are used.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::params::Params;
use peregrine_ckks::units::{GaloisElement, Level, Rotation, Scale};

use super::verify::{Facts, UsedKeys, check_plain_scale, check_scale};
use super::{CallId, Inst, Probe, Program, RefreshId, Reg, VectorId};
use crate::layout::Layout;
use crate::linear::LayoutId;
use crate::verify::{Collector, Contents, Counted, Entity, Key, Liveness, Problem, Site, check_unit};

/// A register that holds a value.
#[derive(Clone)]
struct Live {
    level: Level,
    scale: Scale,
    contents: Contents,
}

pub(super) struct Simulation<'a> {
    program: &'a Program,
    params: &'a Params,
    facts: &'a Facts,
    live: BTreeMap<Reg, Live>,
    freed: BTreeSet<Reg>,
    read: BTreeSet<(u32, u32)>,
    given: BTreeSet<(u32, u32)>,
    used: UsedKeys,
}

impl<'a> Simulation<'a> {
    /// Runs the program; gives the keys that it uses. After the first wrong instruction nothing more is simulated: what
    /// follows would be errors about the error.
    pub(super) fn run(
        program: &'a Program,
        params: &'a Params,
        facts: &'a Facts,
        out: &mut Collector,
    ) -> UsedKeys {
        let mut this = Self {
            program,
            params,
            facts,
            live: BTreeMap::new(),
            freed: BTreeSet::new(),
            read: BTreeSet::new(),
            given: BTreeSet::new(),
            used: UsedKeys::default(),
        };
        let mut probes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (index, probe) in program.probes.iter().enumerate() {
            probes.entry(probe.after).or_default().push(index as u32);
        }
        for (index, inst) in program.insts.iter().enumerate() {
            if let Err(problem) = this.step(inst) {
                out.report(Site::Entry(Entity::Inst(index as u32)), problem);
                return this.used;
            }
            for probe in probes.remove(&(index as u32)).unwrap_or_default() {
                if let Err(problem) = this.check_probe(&program.probes[probe as usize]) {
                    out.report(Site::Entry(Entity::Probe(probe)), problem);
                }
            }
        }
        for (after, late) in probes {
            for probe in late {
                out.report(Site::Entry(Entity::Probe(probe)), Problem::Unknown(Entity::Inst(after)));
            }
        }
        this.check_given(out);
        this.used
    }

    fn step(&mut self, inst: &Inst) -> Result<(), Problem> {
        match inst {
            Inst::Input { dst, input, cipher } => self.input(*dst, *input, *cipher),
            Inst::Linear { dsts, call, args, scale } => self.linear(dsts, *call, args, scale),
            Inst::AddVector { dst, src, vector } => self.add_vector(*dst, *src, *vector),
            Inst::MulVector { dst, src, vector, scale } => self.mul_vector(*dst, *src, *vector, scale),
            Inst::Add { dst, a, b } | Inst::Sub { dst, a, b } => self.add(*dst, *a, *b),
            Inst::Mul { dst, a, b } => self.mul(*dst, *a, *b),
            Inst::Square { dst, src } => self.mul(*dst, *src, *src),
            Inst::Rescale { dst, src } => self.rescale(*dst, *src),
            Inst::ModDrop { dst, src, to } => self.mod_drop(*dst, *src, *to),
            Inst::Rotate { dst, src, rotation } => self.rotate(*dst, *src, *rotation),
            Inst::Conjugate { dst, src } => {
                let live = self.get(*src)?.clone();
                self.need_galois(GaloisElement::conjugation(self.params.n()), live.level)?;
                self.assign(*dst, live)
            }
            Inst::Bootstrap { dst, src, refresh } => self.refresh(&[*dst], &[*src], *refresh),
            Inst::BootstrapPair { dsts, srcs, refresh } => self.refresh(dsts, srcs, *refresh),
            Inst::Output { output, cipher, src } => self.output(*output, *cipher, *src),
            Inst::Free { reg } => {
                self.get(*reg)?;
                self.live.remove(reg);
                self.freed.insert(*reg);
                Ok(())
            }
        }
    }

    fn get(&self, reg: Reg) -> Result<&Live, Problem> {
        let state = if self.freed.contains(&reg) { Liveness::Freed } else { Liveness::Unassigned };
        self.live.get(&reg).ok_or(Problem::NotLive { reg, state })
    }

    fn assign(&mut self, dst: Reg, value: Live) -> Result<(), Problem> {
        check_scale(self.params, value.level, &value.scale)?;
        if self.freed.contains(&dst) || self.live.contains_key(&dst) {
            return Err(Problem::Reassigned(dst));
        }
        self.live.insert(dst, value);
        Ok(())
    }

    fn layout(&self, id: LayoutId) -> Result<&'a Layout, Problem> {
        self.program.layouts.get(id).ok_or(Problem::Unknown(Entity::Layout(id)))
    }

    fn period(&self, contents: Contents) -> Result<u32, Problem> {
        match contents {
            Contents::Packed { layout, .. } => Ok(self.layout(layout)?.period.get()),
            Contents::Raw { period } => Ok(period),
        }
    }

    /// Contents agree if they are the same ciphertext of equal layouts; slots of no known layout agree with any contents
    /// of their period.
    fn agree(&self, a: Contents, b: Contents) -> Result<bool, Problem> {
        match (a, b) {
            (Contents::Packed { layout: l, cipher: c }, Contents::Packed { layout: m, cipher: d }) => {
                Ok(c == d && (l == m || self.layout(l)? == self.layout(m)?))
            }
            _ => Ok(self.period(a)? == self.period(b)?),
        }
    }

    fn expect(&self, reg: Reg, expected: Contents) -> Result<(), Problem> {
        let found = self.get(reg)?.contents;
        if self.agree(found, expected)? { Ok(()) } else { Err(Problem::Contents { reg, expected, found }) }
    }

    fn input(&mut self, dst: Reg, input: u32, cipher: u32) -> Result<(), Problem> {
        let port = Entity::Input(input);
        let found = self.program.inputs.get(input as usize).ok_or(Problem::Unknown(port))?;
        if cipher >= self.layout(found.layout)?.ciphertexts {
            return Err(Problem::Unknown(Entity::Cipher(cipher)));
        }
        if !self.read.insert((input, cipher)) {
            return Err(Problem::Repeated { port, cipher: Entity::Cipher(cipher) });
        }
        let contents = Contents::Packed { layout: found.layout, cipher };
        self.assign(dst, Live { level: found.level, scale: found.scale.clone(), contents })
    }

    fn linear(&mut self, dsts: &[Reg], call: CallId, args: &[Reg], scale: &Scale) -> Result<(), Problem> {
        let facts = self.facts.calls.get(&call).ok_or(Problem::Unknown(Entity::Call(call)))?;
        let mut next = 0;
        let mut level = None;
        for &layout in &facts.operands {
            let mut operand_scale = None;
            for cipher in 0..self.layout(layout)?.ciphertexts {
                let Some(&arg) = args.get(next) else { break };
                next += 1;
                self.expect(arg, Contents::Packed { layout, cipher })?;
                let live = self.get(arg)?;
                expect_level(live.level, *level.get_or_insert(live.level))?;
                expect_scale(&live.scale, operand_scale.get_or_insert(&live.scale))?;
                check_plain_scale(self.params, &scale.div(&live.scale))?;
            }
        }
        let expected = facts.operands.iter().map(|&l| self.program.layouts[l].ciphertexts as usize).sum();
        if args.len() != expected || next != expected {
            return Err(Problem::Count { what: Counted::Operands, expected, found: args.len() });
        }
        let results = self.layout(facts.output)?.ciphertexts as usize;
        if dsts.len() != results {
            return Err(Problem::Count { what: Counted::Registers, expected: results, found: dsts.len() });
        }
        let level = level.ok_or(Problem::None(Counted::Operands))?;
        for &element in &facts.galois {
            self.need_galois(element, level)?;
        }
        let layout = facts.output;
        for (&dst, cipher) in dsts.iter().zip(0..) {
            let contents = Contents::Packed { layout, cipher };
            self.assign(dst, Live { level, scale: scale.clone(), contents })?;
        }
        Ok(())
    }

    fn vector(&self, src: Reg, vector: VectorId) -> Result<Live, Problem> {
        let recipe = self.program.vectors.get(vector).ok_or(Problem::Unknown(Entity::Vector(vector)))?;
        let contents = Contents::Packed { layout: recipe.layout, cipher: recipe.cipher };
        self.expect(src, contents)?;
        Ok(Live { contents, ..self.get(src)?.clone() })
    }

    fn add_vector(&mut self, dst: Reg, src: Reg, vector: VectorId) -> Result<(), Problem> {
        let live = self.vector(src, vector)?;
        self.assign(dst, live)
    }

    fn mul_vector(&mut self, dst: Reg, src: Reg, vector: VectorId, scale: &Scale) -> Result<(), Problem> {
        let live = self.vector(src, vector)?;
        check_plain_scale(self.params, scale)?;
        let scale = live.scale.mul(scale);
        self.assign(dst, Live { scale, ..live })
    }

    /// The operands of a sum or product: one level and one place; the place is that of `a`, unless only `b` has a layout.
    fn pair(&self, a: Reg, b: Reg) -> Result<(&Live, &Live, Contents), Problem> {
        let (left, right) = (self.get(a)?, self.get(b)?);
        expect_level(right.level, left.level)?;
        self.expect(b, left.contents)?;
        let contents = match left.contents {
            Contents::Packed { .. } => left.contents,
            Contents::Raw { .. } => right.contents,
        };
        Ok((left, right, contents))
    }

    fn add(&mut self, dst: Reg, a: Reg, b: Reg) -> Result<(), Problem> {
        let (left, right, contents) = self.pair(a, b)?;
        expect_scale(&right.scale, &left.scale)?;
        let live = Live { contents, ..left.clone() };
        self.assign(dst, live)
    }

    fn mul(&mut self, dst: Reg, a: Reg, b: Reg) -> Result<(), Problem> {
        let (left, right, contents) = self.pair(a, b)?;
        let live = Live { level: left.level, scale: left.scale.mul(&right.scale), contents };
        self.need_relin(live.level)?;
        self.assign(dst, live)
    }

    fn rescale(&mut self, dst: Reg, src: Reg) -> Result<(), Problem> {
        let live = self.get(src)?.clone();
        let level = live.level.below(1).ok_or(Problem::OutOfLevels { needed: 1, left: 0 })?;
        let scale = live.scale.div(&Scale::prime(live.level.0));
        self.assign(dst, Live { level, scale, ..live })
    }

    fn mod_drop(&mut self, dst: Reg, src: Reg, to: Level) -> Result<(), Problem> {
        let live = self.get(src)?.clone();
        if to > live.level {
            return Err(Problem::LevelTooHigh { level: to, max: live.level });
        }
        self.assign(dst, Live { level: to, ..live })
    }

    fn rotate(&mut self, dst: Reg, src: Reg, rotation: Rotation) -> Result<(), Problem> {
        let slots = self.params.max_slots().get();
        if rotation.get() >= slots {
            return Err(Problem::Rotation { rotation: rotation.get(), slots });
        }
        let live = self.get(src)?.clone();
        if !rotation.is_zero() {
            self.need_galois(GaloisElement::from_rotation(rotation, self.params.n()), live.level)?;
        }
        let contents = Contents::Raw { period: self.period(live.contents)? };
        self.assign(dst, Live { contents, ..live })
    }

    fn refresh(&mut self, dsts: &[Reg], srcs: &[Reg], refresh: RefreshId) -> Result<(), Problem> {
        let unknown = || Problem::Unknown(Entity::Refresh(refresh));
        let recipe = self.program.refreshes.get(refresh).ok_or_else(unknown)?;
        let facts = self.facts.refreshes.get(&refresh).ok_or_else(unknown)?;
        let mut refreshed = Vec::with_capacity(srcs.len());
        for &src in srcs {
            let live = self.get(src)?;
            expect_level(live.level, facts.input_level)?;
            expect_scale(&live.scale, &recipe.scale)?;
            let period = self.period(live.contents)?;
            if period != recipe.slots.get() {
                let expected = Contents::Raw { period: recipe.slots.get() };
                return Err(Problem::Contents { reg: src, expected, found: live.contents });
            }
            let (level, scale) = facts.result.clone();
            refreshed.push(Live { level, scale, contents: live.contents });
        }
        self.need_relin(facts.relin)?;
        for &(element, level) in &facts.galois {
            self.need_galois(element, level)?;
        }
        dsts.iter().zip(refreshed).try_for_each(|(&dst, live)| self.assign(dst, live))
    }

    fn output(&mut self, output: u32, cipher: u32, src: Reg) -> Result<(), Problem> {
        let port = Entity::Output(output);
        let found = self.program.outputs.get(output as usize).ok_or(Problem::Unknown(port))?;
        if cipher >= self.layout(found.layout)?.ciphertexts {
            return Err(Problem::Unknown(Entity::Cipher(cipher)));
        }
        self.expect(src, Contents::Packed { layout: found.layout, cipher })?;
        let live = self.get(src)?;
        expect_level(live.level, found.level)?;
        expect_scale(&live.scale, &found.scale)?;
        if !self.given.insert((output, cipher)) {
            return Err(Problem::Repeated { port, cipher: Entity::Cipher(cipher) });
        }
        Ok(())
    }

    fn need_relin(&mut self, level: Level) -> Result<(), Problem> {
        let manifest = self.program.manifest.relin;
        if manifest.is_none_or(|highest| highest < level) {
            return Err(Problem::MissingKey { key: Key::Relin, level, manifest });
        }
        self.used.relin = self.used.relin.max(Some(level));
        Ok(())
    }

    fn need_galois(&mut self, element: GaloisElement, level: Level) -> Result<(), Problem> {
        let manifest = self.program.manifest.galois.get(&element).copied();
        if manifest.is_none_or(|highest| highest < level) {
            return Err(Problem::MissingKey { key: Key::Galois(element), level, manifest });
        }
        let used = self.used.galois.entry(element).or_insert(level);
        *used = level.max(*used);
        Ok(())
    }

    fn check_probe(&self, probe: &Probe) -> Result<(), Problem> {
        let layout = self.layout(probe.layout)?;
        let (expected, found) = (layout.ciphertexts as usize, probe.regs.len());
        if expected != found {
            return Err(Problem::Count { what: Counted::Registers, expected, found });
        }
        check_unit(&self.program.consts, probe.unit, layout.shape.c)?;
        for (&reg, cipher) in probe.regs.iter().zip(0..) {
            self.expect(reg, Contents::Packed { layout: probe.layout, cipher })?;
        }
        Ok(())
    }

    fn check_given(&self, out: &mut Collector) {
        for (index, output) in self.program.outputs.iter().enumerate() {
            let index = index as u32;
            let ciphertexts = self.program.layouts[output.layout].ciphertexts;
            for cipher in (0..ciphertexts).filter(|&cipher| !self.given.contains(&(index, cipher))) {
                let problem = Problem::OutputMissing(Entity::Cipher(cipher));
                out.report(Site::Entry(Entity::Output(index)), problem);
            }
        }
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
