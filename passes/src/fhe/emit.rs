//! Emission: a leveled fhe graph becomes straight-line instructions on registers, with probes and a key manifest.

use std::collections::BTreeMap;

use peregrine_ckks::bootstrap::BootstrapParams;
use peregrine_ckks::params::Params;
use peregrine_ir::fhe::{CipherTy, Fhe, FheGraph, FheOp, MonicPoly};
use peregrine_ir::linear::{BsgsSplit, LayoutId};
use peregrine_ir::program::{
    CallId, Inst, KeyManifest, LinearCall, Probe, Program, ProgramInput, ProgramOutput, Refresh, Reg,
    VectorId, VectorRecipe,
};
use peregrine_ir::{ConstId, ConstTensor, EntityId, GaloisElement, Level, Node, RefreshForm, Scale, ValueId};

use super::LowerError;
use super::calls::{Calls, operands, terms};
use super::poly_eval::{Operand, PolyEval};
use super::schedule::by_liveness;

/// Emits the program of `graph` for `params`. `output_shapes[i]` is the ONNX shape of output i. Linear calls are not split yet
/// and the manifest is empty: see [`plan_keys`](super::plan_keys) and [`manifest`].
///
/// # Errors
/// Only bugs: a leveled graph always has a program.
pub fn emit(graph: &FheGraph, params: &Params, output_shapes: &[Vec<usize>]) -> Result<Program, LowerError> {
    let mut emitter = Emitter::new(graph, params);
    for (id, node) in graph.nodes.iter() {
        emitter.node(id, node)?;
    }
    emitter.outputs(output_shapes)?;
    Ok(emitter.finish(params))
}

pub(super) struct Emitter<'a> {
    graph: &'a FheGraph,
    program: Program,
    regs: Vec<Vec<Reg>>,
    next: u32,
    layer: u32,
}

impl<'a> Emitter<'a> {
    fn new(graph: &'a FheGraph, params: &Params) -> Self {
        let mut program = Program::new(graph.name.clone(), params.to_literal());
        program.consts = graph.tables.consts.clone();
        program.layouts = graph.tables.layouts.clone();
        program.maps = graph.tables.maps.clone();
        Self { graph, program, regs: Vec::new(), next: 0, layer: 0 }
    }

    pub(super) fn fresh(&mut self) -> Reg {
        self.next += 1;
        Reg(self.next - 1)
    }

    pub(super) fn push(&mut self, inst: Inst) {
        self.program.insts.push(inst);
        self.program.inst_layers.push(self.layer);
    }

    pub(super) fn vector(&mut self, values: &[f64], layout: LayoutId, cipher: u32) -> VectorId {
        let values = self.program.consts.intern(ConstTensor::f64(vec![values.len()], values.to_vec()));
        self.program.vectors.intern(VectorRecipe { values, layout, cipher })
    }

    fn node(&mut self, id: ValueId, node: &Node<Fhe>) -> Result<(), LowerError> {
        self.enter_layer(node.origin.as_str());
        let regs = match &node.op {
            FheOp::Input { name } => self.input(name, node)?,
            FheOp::Linear { bias, .. } => self.linear(node, *bias)?,
            FheOp::Poly(poly) => self.polynomial(*poly, node)?,
            FheOp::Drop { to } => self.drop_to(*to, node),
            FheOp::Add => self.add(node),
            FheOp::Bootstrap(form) => self.bootstrap(*form, node)?,
        };
        if matches!(node.op, FheOp::Linear { .. } | FheOp::Poly(_) | FheOp::Add) {
            self.probe(node, &regs);
        }
        debug_assert_eq!(self.regs.len(), id.index());
        self.regs.push(regs);
        Ok(())
    }

    fn enter_layer(&mut self, name: &str) {
        let known = self.program.layers.iter().position(|l| l == name);
        self.layer = known.unwrap_or_else(|| {
            self.program.layers.push(name.to_owned());
            self.program.layers.len() - 1
        }) as u32;
    }

    fn input(&mut self, name: &str, node: &Node<Fhe>) -> Result<Vec<Reg>, LowerError> {
        let cipher = cipher_of(node)?;
        let input = self.program.inputs.len() as u32;
        self.program.inputs.push(ProgramInput {
            name: name.to_owned(),
            layout: node.ty.layout,
            level: cipher.level,
            scale: cipher.scale.clone(),
            unit: node.ty.unit,
        });
        let count = self.program.layouts[node.ty.layout].ciphertexts;
        Ok((0..count)
            .map(|cipher| {
                let dst = self.fresh();
                self.push(Inst::Input { dst, input, cipher });
                dst
            })
            .collect())
    }

    fn linear(&mut self, node: &Node<Fhe>, bias: Option<ConstId>) -> Result<Vec<Reg>, LowerError> {
        let cipher = cipher_of(node)?;
        let level = cipher_of(&self.graph.nodes[node.args[0]])?.level;
        let divisors = cipher.level.0 + 1..=level.0;
        let scale =
            divisors.clone().fold(cipher.scale.clone(), |scale, prime| scale.mul(&Scale::prime(prime)));
        let (call, args) = self.call(node)?;
        let count = self.program.layouts[node.ty.layout].ciphertexts;
        let dsts: Vec<Reg> = (0..count).map(|_| self.fresh()).collect();
        self.push(Inst::Linear { dsts: dsts.clone(), call, args, scale });
        let bias = bias.map(|b| self.program.consts[b].to_f64());
        let mut results = Vec::with_capacity(dsts.len());
        for (k, mut src) in dsts.into_iter().enumerate() {
            for _ in divisors.clone() {
                let dst = self.fresh();
                self.push(Inst::Rescale { dst, src });
                src = dst;
            }
            if let Some(bias) = &bias {
                let vector = self.vector(bias, node.ty.layout, k as u32);
                let dst = self.fresh();
                self.push(Inst::AddVector { dst, src, vector });
                src = dst;
            }
            results.push(src);
        }
        Ok(results)
    }

    /// The recipe of a linear node and its argument registers; operands that are the same value are given once.
    fn call(&mut self, node: &Node<Fhe>) -> Result<(CallId, Vec<Reg>), LowerError> {
        let terms = terms(node).ok_or_else(|| LowerError::bug("not a linear node"))?;
        let (split, shared) = (BsgsSplit::default(), Vec::new());
        let call = self.program.calls.push(LinearCall { terms, split, shared });
        let args = operands(node).iter().flat_map(|o| self.regs[o.index()].iter().copied()).collect();
        Ok((call, args))
    }

    fn polynomial(&mut self, poly: MonicPoly, node: &Node<Fhe>) -> Result<Vec<Reg>, LowerError> {
        let arg = node.args[0];
        let operand = cipher_of(&self.graph.nodes[arg])?.clone();
        let expected = cipher_of(node)?.clone();
        let lower = self.program.consts[poly.lower].clone();
        let mut results = Vec::new();
        for (k, reg) in self.regs[arg.index()].clone().into_iter().enumerate() {
            let x = Operand { reg, level: operand.level, scale: operand.scale.clone() };
            let eval = PolyEval::new(self, node.ty.layout, k as u32, x, poly.degree)?;
            let result = eval.monic(&lower, poly.degree)?;
            if result.level != expected.level || result.scale != expected.scale {
                return Err(LowerError::bug(format!(
                    "{}: polynomial ends at level {} scale {}, planned level {} scale {}",
                    node.origin.as_str(),
                    result.level,
                    result.scale,
                    expected.level,
                    expected.scale
                )));
            }
            results.push(result.reg);
        }
        Ok(results)
    }

    fn drop_to(&mut self, to: Level, node: &Node<Fhe>) -> Vec<Reg> {
        let sources = self.regs[node.args[0].index()].clone();
        sources
            .into_iter()
            .map(|src| {
                let dst = self.fresh();
                self.push(Inst::ModDrop { dst, src, to });
                dst
            })
            .collect()
    }

    /// Refreshes the ciphertexts of a value two by two, the odd one alone.
    fn bootstrap(&mut self, form: RefreshForm, node: &Node<Fhe>) -> Result<Vec<Reg>, LowerError> {
        let arg = node.args[0];
        let scale = cipher_of(&self.graph.nodes[arg])?.scale.clone();
        let slots = self.program.layouts[node.ty.layout].period;
        let refresh = self.program.refreshes.intern(Refresh { slots, scale, form });
        self.program.bootstrap = self.graph.tables.bootstrap.clone();
        let mut results = Vec::new();
        for sources in self.regs[arg.index()].clone().chunks(2) {
            let dst = self.fresh();
            results.push(dst);
            match *sources {
                [x, y] => {
                    let other = self.fresh();
                    results.push(other);
                    self.push(Inst::BootstrapPair { dsts: [dst, other], srcs: [x, y], refresh });
                }
                _ => self.push(Inst::Bootstrap { dst, src: sources[0], refresh }),
            }
        }
        Ok(results)
    }

    fn add(&mut self, node: &Node<Fhe>) -> Vec<Reg> {
        let pairs: Vec<(Reg, Reg)> = {
            let (a, b) = (&self.regs[node.args[0].index()], &self.regs[node.args[1].index()]);
            a.iter().copied().zip(b.iter().copied()).collect()
        };
        pairs
            .into_iter()
            .map(|(a, b)| {
                let dst = self.fresh();
                self.push(Inst::Add { dst, a, b });
                dst
            })
            .collect()
    }

    fn probe(&mut self, node: &Node<Fhe>, regs: &[Reg]) {
        self.program.probes.push(Probe {
            layer: node.origin.as_str().to_owned(),
            after: self.program.insts.len() as u32 - 1,
            regs: regs.to_vec(),
            layout: node.ty.layout,
            unit: node.ty.unit,
        });
    }

    fn outputs(&mut self, shapes: &[Vec<usize>]) -> Result<(), LowerError> {
        for (port, shape) in self.graph.outputs.iter().zip(shapes) {
            let node = &self.graph.nodes[port.value];
            let cipher = cipher_of(node)?.clone();
            let output = self.program.outputs.len() as u32;
            self.program.outputs.push(ProgramOutput {
                name: port.name.clone(),
                shape: shape.clone(),
                layout: node.ty.layout,
                level: cipher.level,
                scale: cipher.scale,
                unit: node.ty.unit,
            });
            for (k, src) in self.regs[port.value.index()].clone().into_iter().enumerate() {
                self.push(Inst::Output { output, cipher: k as u32, src });
            }
        }
        Ok(())
    }

    fn finish(mut self, params: &Params) -> Program {
        by_liveness(&mut self.program, params);
        insert_frees(&mut self.program);
        self.program
    }
}

fn cipher_of(node: &Node<Fhe>) -> Result<&CipherTy, LowerError> {
    node.ty.cipher.as_ref().ok_or_else(|| LowerError::bug(format!("{}: no level", node.origin.as_str())))
}

/// Frees every register right after its last use (or definition), but not before a probe has seen it.
fn insert_frees(program: &mut Program) {
    let mut last: BTreeMap<Reg, usize> = BTreeMap::new();
    for (i, inst) in program.insts.iter().enumerate() {
        for reg in inst.reads().into_iter().chain(inst.writes().iter().copied()) {
            last.insert(reg, i);
        }
    }
    for probe in &program.probes {
        for reg in &probe.regs {
            let at = last.entry(*reg).or_insert(0);
            *at = (*at).max(probe.after as usize);
        }
    }
    let mut dying: BTreeMap<usize, Vec<Reg>> = BTreeMap::new();
    for (reg, at) in last {
        dying.entry(at).or_default().push(reg);
    }
    let mut moved = Vec::with_capacity(program.insts.len());
    let (mut insts, mut layers) = (Vec::new(), Vec::new());
    for (i, inst) in program.insts.drain(..).enumerate() {
        let layer = program.inst_layers[i];
        insts.push(inst);
        layers.push(layer);
        moved.push(insts.len() as u32 - 1);
        for reg in dying.remove(&i).unwrap_or_default() {
            insts.push(Inst::Free { reg });
            layers.push(layer);
        }
    }
    for probe in &mut program.probes {
        probe.after = moved[probe.after as usize];
    }
    program.insts = insts;
    program.inst_layers = layers;
}

/// The keys a program needs: each up to the highest level it is used at.
///
/// # Errors
/// A bug: a program with other calls.
pub fn manifest(program: &Program, params: &Params, calls: &Calls) -> Result<KeyManifest, LowerError> {
    let mut manifest = keys_besides_calls(program, params);
    for (call, level) in call_levels(program) {
        let call = &program.calls[call];
        for element in calls.shape(call)?.cost(&call.split).elements(params.n()) {
            let known = manifest.galois.entry(element).or_insert(level);
            *known = level.max(*known);
        }
    }
    Ok(manifest)
}

/// Highest level that each call runs at.
pub fn call_levels(program: &Program) -> BTreeMap<CallId, Level> {
    let mut found: BTreeMap<CallId, Level> = BTreeMap::new();
    let mut levels: BTreeMap<Reg, Level> = BTreeMap::new();
    for inst in &program.insts {
        let level = level_after(program, inst, &levels);
        if let Inst::Linear { call, .. } = inst {
            let known = found.entry(*call).or_insert(level);
            *known = level.max(*known);
        }
        levels.extend(inst.writes().iter().map(|reg| (*reg, level)));
    }
    found
}

/// The keys that everything but linear calls needs.
pub fn keys_besides_calls(program: &Program, params: &Params) -> KeyManifest {
    let n = params.n();
    let mut manifest = KeyManifest::default();
    let mut levels: BTreeMap<Reg, Level> = BTreeMap::new();
    let mut galois = |element: GaloisElement, level: Level| {
        let known = manifest.galois.entry(element).or_insert(level);
        *known = (*known).max(level);
    };
    let mut relin: Option<Level> = None;
    for inst in &program.insts {
        let level = level_after(program, inst, &levels);
        match inst {
            Inst::Rotate { src, rotation, .. } => {
                galois(GaloisElement::from_rotation(*rotation, n), levels[src])
            }
            Inst::Conjugate { src, .. } => galois(GaloisElement::conjugation(n), levels[src]),
            Inst::Mul { a, .. } => relin = relin.max(Some(levels[a])),
            Inst::Square { src, .. } => relin = relin.max(Some(levels[src])),
            Inst::Bootstrap { refresh, .. } | Inst::BootstrapPair { refresh, .. } => {
                let checked = program.bootstrap.clone().and_then(|spec| spec.check_for(params).ok());
                let keys = |c: &BootstrapParams| c.galois_elements(program.refreshes[*refresh].slots).ok();
                let elements = checked.as_ref().and_then(keys).unwrap_or_default();
                elements.into_iter().for_each(|(element, level)| galois(element, level));
                relin = relin.max(checked.map(|checked| checked.eval_mod_level()));
            }
            _ => {}
        }
        for reg in inst.writes() {
            levels.insert(*reg, level);
        }
    }
    manifest.relin = relin;
    manifest
}

/// Level of what an instruction defines, from the levels of the registers defined before it.
pub(super) fn level_after(program: &Program, inst: &Inst, levels: &BTreeMap<Reg, Level>) -> Level {
    match inst {
        Inst::Input { input, .. } => program.inputs[*input as usize].level,
        Inst::ModDrop { to, .. } => *to,
        Inst::Bootstrap { refresh, .. } | Inst::BootstrapPair { refresh, .. } => {
            program.refreshed(*refresh).map_or(Level(0), |(level, _)| level)
        }
        Inst::Rescale { src, .. } => Level(levels[src].0 - 1),
        other => other.reads().first().map_or(Level(0), |r| levels[r]),
    }
}
