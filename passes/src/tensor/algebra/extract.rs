//! Extraction: one e-node per class, by least depth, then least work with shared classes counted once.
//!
//! egg's own extractor counts a shared class once per use, which is exponential in the residual blocks of a network. Here
//! each class keeps the set of classes that its choice needs (the greedy DAG extraction of the extraction gym).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use egg::{EGraph, Id};

use super::term::{Tables, Term, TermOp};

#[derive(Clone)]
struct Choice {
    term: Term,
    depth: u32,
    work: u64,
    /// Own work of every class that the choice needs, itself included.
    needs: Rc<BTreeMap<Id, u64>>,
}

/// The chosen e-node of every class that `roots` need, operands first.
pub(super) fn order(egraph: &EGraph<Term, Tables>, roots: &[Id]) -> Vec<(Id, Term)> {
    let choices = choose(egraph);
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    let mut stack: Vec<(Id, bool)> = roots.iter().rev().map(|&r| (egraph.find(r), false)).collect();
    while let Some((class, ready)) = stack.pop() {
        let term = &choices[&class].term;
        if ready {
            out.push((class, term.clone()));
        } else if seen.insert(class) {
            stack.push((class, true));
            stack.extend(term.args.iter().rev().map(|&a| (egraph.find(a), false)));
        }
    }
    out
}

/// Costs only fall from round to round, so that a choice never needs itself.
fn choose(egraph: &EGraph<Term, Tables>) -> BTreeMap<Id, Choice> {
    let mut classes: Vec<Id> = egraph.classes().map(|c| c.id).collect();
    classes.sort_unstable();
    let mut choices: BTreeMap<Id, Choice> = BTreeMap::new();
    loop {
        let mut changed = false;
        for &class in &classes {
            let mut terms = egraph[class].nodes.clone();
            terms.sort_unstable();
            for term in terms {
                let Some(choice) = priced(egraph, &choices, class, term) else { continue };
                let cost = (choice.depth, choice.work);
                if choices.get(&class).is_none_or(|best| cost < (best.depth, best.work)) {
                    choices.insert(class, choice);
                    changed = true;
                }
            }
        }
        if !changed {
            return choices;
        }
    }
}

fn priced(
    egraph: &EGraph<Term, Tables>,
    choices: &BTreeMap<Id, Choice>,
    class: Id,
    term: Term,
) -> Option<Choice> {
    let operands = term.args.iter().map(|&a| choices.get(&egraph.find(a))).collect::<Option<Vec<_>>>()?;
    if operands.iter().any(|o| o.needs.contains_key(&class)) {
        return None;
    }
    let (levels, own) = price(&egraph.analysis, &term);
    let depth = operands.iter().map(|o| o.depth).max().unwrap_or(0) + levels;
    let mut needs: BTreeMap<Id, u64> = operands.first().map(|o| (*o.needs).clone()).unwrap_or_default();
    for operand in operands.iter().skip(1) {
        needs.extend(operand.needs.iter());
    }
    needs.insert(class, own);
    let work = needs.values().sum();
    Some(Choice { term, depth, work, needs: Rc::new(needs) })
}

/// Levels and work (weights to multiply by, with a constant for the node itself) of an e-node.
fn price(tables: &Tables, term: &Term) -> (u32, u64) {
    match term.op {
        TermOp::Opaque(_) => (1, 1),
        TermOp::Activated { .. } => (1, 100),
        TermOp::Add => (0, 1),
        // Dearer than any polynomial: a product of two tensors has no encrypted form, `x x` as a polynomial has.
        TermOp::Mul => (1, 1_000_000),
        TermOp::Conv(key) => (1, 100 + tables.conv_at(key).0.weight_count() as u64),
        TermOp::Poly(key) => {
            let (poly, _) = tables.poly_at(key);
            let degree = poly.degree() as u32;
            if degree == 1 {
                (1, 100)
            } else {
                (degree.next_power_of_two().ilog2(), 1000 * u64::from(degree))
            }
        }
    }
}
