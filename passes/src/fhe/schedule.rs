//! Order of instructions by ciphertext liveness: the next instruction is the ready one after which the fewest bytes are live.
//!
//! Greedy and so not always better than the order of emission: whichever has the lower peak is kept.

use std::collections::{BTreeMap, BTreeSet};

use peregrine_ckks::params::Params;
use peregrine_ir::Level;
use peregrine_ir::program::{Program, Reg};

use super::emit::level_after;

/// Reorders a program that frees no registers yet.
pub fn by_liveness(program: &mut Program, params: &Params) {
    let flow = Flow::of(program, params);
    let emitted: Vec<usize> = (0..program.insts.len()).collect();
    let order = flow.greedy();
    if flow.peak(&order) < flow.peak(&emitted) {
        reorder(program, &order);
    }
}

/// Who makes and who reads each register, and its size.
struct Flow {
    reads: Vec<BTreeSet<Reg>>,
    writes: Vec<Vec<Reg>>,
    readers: BTreeMap<Reg, Vec<usize>>,
    bytes: BTreeMap<Reg, u64>,
}

impl Flow {
    fn of(program: &Program, params: &Params) -> Self {
        let mut flow =
            Self { reads: Vec::new(), writes: Vec::new(), readers: BTreeMap::new(), bytes: BTreeMap::new() };
        let mut levels: BTreeMap<Reg, Level> = BTreeMap::new();
        for (index, inst) in program.insts.iter().enumerate() {
            let level = level_after(program, inst, &levels);
            for &reg in inst.writes() {
                levels.insert(reg, level);
                flow.bytes.insert(reg, params.ciphertext_bytes(level));
            }
            let reads: BTreeSet<Reg> = inst.reads().into_iter().collect();
            reads.iter().for_each(|reg| flow.readers.entry(*reg).or_default().push(index));
            flow.reads.push(reads);
            flow.writes.push(inst.writes().to_vec());
        }
        flow
    }

    /// Bytes that an instruction adds, and those that it lets go when `left` readers are still to come.
    fn change(&self, index: usize, left: &BTreeMap<Reg, usize>) -> (i64, i64) {
        let size = |reg: &Reg| self.bytes.get(reg).map_or(0, |&bytes| bytes as i64);
        let added = self.writes[index].iter().map(size).sum();
        let last = self.reads[index].iter().filter(|reg| left.get(reg) == Some(&1));
        (added, last.map(size).sum())
    }

    fn readers_left(&self) -> BTreeMap<Reg, usize> {
        self.readers.iter().map(|(&reg, readers)| (reg, readers.len())).collect()
    }

    /// Largest sum of live registers when instructions run in this order.
    fn peak(&self, order: &[usize]) -> i64 {
        let mut left = self.readers_left();
        let (mut live, mut peak) = (0, 0);
        for &index in order {
            let (added, freed) = self.change(index, &left);
            live += added;
            peak = peak.max(live);
            live -= freed;
            self.reads[index].iter().for_each(|reg| *left.entry(*reg).or_default() -= 1);
        }
        peak
    }

    fn greedy(&self) -> Vec<usize> {
        let mut left = self.readers_left();
        let mut missing: Vec<usize> = self.reads.iter().map(BTreeSet::len).collect();
        let mut ready: BTreeSet<usize> = (0..missing.len()).filter(|&i| missing[i] == 0).collect();
        let mut order = Vec::with_capacity(missing.len());
        let growth = |index: usize, left: &BTreeMap<Reg, usize>| {
            let (added, freed) = self.change(index, left);
            (added - freed, index)
        };
        while let Some((_, index)) = ready.iter().map(|&index| growth(index, &left)).min() {
            ready.remove(&index);
            order.push(index);
            self.reads[index].iter().for_each(|reg| *left.entry(*reg).or_default() -= 1);
            for reader in self.writes[index].iter().filter_map(|reg| self.readers.get(reg)).flatten() {
                missing[*reader] -= 1;
                if missing[*reader] == 0 {
                    ready.insert(*reader);
                }
            }
        }
        order
    }
}

/// Puts the instructions in this order; a probe looks when the last of its registers is there.
fn reorder(program: &mut Program, order: &[usize]) {
    program.insts = order.iter().map(|&i| program.insts[i].clone()).collect();
    program.inst_layers = order.iter().map(|&i| program.inst_layers[i]).collect();
    let made: BTreeMap<Reg, u32> = (0u32..)
        .zip(&program.insts)
        .flat_map(|(i, inst)| inst.writes().iter().map(move |r| (*r, i)))
        .collect();
    for probe in &mut program.probes {
        let at = probe.regs.iter().filter_map(|reg| made.get(reg)).max();
        probe.after = at.copied().unwrap_or(probe.after);
    }
}

#[cfg(test)]
mod tests {
    use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
    use peregrine_ir::ConstId;
    use peregrine_ir::Scale;
    use peregrine_ir::linear::LayoutId;
    use peregrine_ir::program::{Inst, ProgramInput};

    use super::*;

    /// Two inputs, each squared and given out: emitted breadth first.
    fn program() -> (Program, Params) {
        let literal =
            ParamsLiteral { log_n: 12, q: vec![PrimeSpec::Bits(30); 2], p: vec![PrimeSpec::Bits(31)] };
        let params = literal.check().unwrap();
        let mut program = Program::new("p".into(), params.to_literal());
        let input = ProgramInput {
            name: "x".into(),
            layout: LayoutId(0),
            level: Level(1),
            scale: Scale::pow2(20),
            unit: ConstId(0),
        };
        program.inputs.push(input);
        let load = |dst| Inst::Input { dst: Reg(dst), input: 0, cipher: dst };
        let square = |dst, src| Inst::Square { dst: Reg(dst), src: Reg(src) };
        let give = |cipher, src| Inst::Output { output: 0, cipher, src: Reg(src) };
        program.insts = vec![load(0), load(1), square(2, 0), square(3, 1), give(0, 2), give(1, 3)];
        program.inst_layers = vec![0; 6];
        (program, params)
    }

    #[test]
    fn depth_first_where_it_keeps_less_alive() {
        let (mut program, params) = program();
        let emitted = program.insts.clone();
        by_liveness(&mut program, &params);
        let places = |insts: &[usize]| insts.iter().map(|&i| emitted[i].clone()).collect::<Vec<_>>();
        assert_eq!(program.insts, places(&[0, 2, 4, 1, 3, 5]));
        let flow = Flow::of(&program, &params);
        let one = params.ciphertext_bytes(Level(1)) as i64;
        assert_eq!(flow.peak(&[0, 1, 2, 3, 4, 5]), 2 * one);
    }
}
