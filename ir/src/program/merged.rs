//! Which rescales need no work of their own.

use super::Inst;
use crate::EntityId;

/// For each register: whether it is defined by an operation that ends in a division by the special primes, and read by one
/// rescale and nothing else. Such an operation divides by the top prime at the same time, and the rescale only moves its
/// result. The results of a linear call are rescaled together or not at all.
pub fn rescaled_at_once(insts: &[Inst]) -> Vec<bool> {
    let registers = insts.iter().flat_map(Inst::writes).map(|reg| reg.index() + 1).max().unwrap_or(0);
    let mut readers = vec![(0u32, 0u32); registers];
    for inst in insts {
        let rescales = u32::from(matches!(inst, Inst::Rescale { .. }));
        for reg in inst.reads() {
            if let Some((all, rescaling)) = readers.get_mut(reg.index()) {
                (*all, *rescaling) = (*all + 1, *rescaling + rescales);
            }
        }
    }
    let mut merged = vec![false; registers];
    for inst in insts {
        let divides = matches!(inst, Inst::Linear { .. } | Inst::Mul { .. } | Inst::Square { .. });
        if divides && inst.writes().iter().all(|reg| readers[reg.index()] == (1, 1)) {
            inst.writes().iter().for_each(|reg| merged[reg.index()] = true);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Reg;

    #[test]
    fn only_what_one_rescale_alone_reads_is_merged() {
        let reg = |index: usize| Reg::new(index);
        let square = |dst, src| Inst::Square { dst: reg(dst), src: reg(src) };
        let rescale = |dst, src| Inst::Rescale { dst: reg(dst), src: reg(src) };
        let insts = vec![
            Inst::Input { dst: reg(0), input: 0, cipher: 0 },
            square(1, 0),
            rescale(2, 1),
            square(3, 2),
            rescale(4, 3),
            Inst::Add { dst: reg(5), a: reg(3), b: reg(3) },
            rescale(6, 5),
            Inst::Free { reg: reg(1) },
        ];
        assert_eq!(rescaled_at_once(&insts), [false, true, false, false, false, false, false]);
    }
}
