//! Extraction: one e-node per class, by least depth, then least work with shared classes counted once; where depth is to spare,
//! by least work on classes that are needed anyway.
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
    let mut choices = choose(egraph);
    let deepest = sorted(egraph, &choices, roots);
    relax(egraph, &mut choices, &deepest);
    sorted(egraph, &choices, roots).into_iter().map(|class| (class, choices[&class].term.clone())).collect()
}

/// The classes that `roots` need, operands first.
fn sorted(egraph: &EGraph<Term, Tables>, choices: &BTreeMap<Id, Choice>, roots: &[Id]) -> Vec<Id> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    let mut stack: Vec<(Id, bool)> = roots.iter().rev().map(|&r| (egraph.find(r), false)).collect();
    while let Some((class, ready)) = stack.pop() {
        if ready {
            out.push(class);
        } else if seen.insert(class) {
            stack.push((class, true));
            stack.extend(choices[&class].term.args.iter().rev().map(|&a| (egraph.find(a), false)));
        }
    }
    out
}

/// Replaces choices, of `order` (operands first), by cheaper ones that read classes which are needed anyway and make nothing deeper:
/// an affine map of a polynomial that others read too stays one, where it would otherwise be a second polynomial.
fn relax(egraph: &EGraph<Term, Tables>, choices: &mut BTreeMap<Id, Choice>, order: &[Id]) {
    let place: BTreeMap<Id, usize> = (0..).zip(order).map(|(place, &class)| (class, place)).collect();
    let operands = |term: &Term| -> Vec<Id> { term.args.iter().map(|&a| egraph.find(a)).collect() };
    let mut users: BTreeMap<Id, usize> = BTreeMap::new();
    order
        .iter()
        .flat_map(|class| operands(&choices[class].term))
        .for_each(|o| *users.entry(o).or_default() += 1);
    // What nobody reads keeps its depth.
    let mut allowed: BTreeMap<Id, u32> = BTreeMap::new();
    for (at, class) in order.iter().enumerate().rev() {
        let depth = *allowed.get(class).unwrap_or(&choices[class].depth);
        let current = &choices[class].term;
        let own = operands(current);
        let fits = |term: &Term| {
            operands(term).iter().all(|operand| {
                let others =
                    users.get(operand).copied().unwrap_or(0) - own.iter().filter(|o| *o == operand).count();
                let before = place.get(operand).is_some_and(|&place| place < at);
                before && others > 0 && choices[operand].depth + price(&egraph.analysis, term).0 <= depth
            })
        };
        let work = |term: &Term| price(&egraph.analysis, term).1;
        let cheaper = egraph[*class].nodes.iter().filter(|term| work(term) < work(current) && fits(term));
        if let Some(term) = cheaper.min_by(|a, b| (work(a), *a).cmp(&(work(b), *b))).cloned() {
            own.iter().for_each(|operand| *users.entry(*operand).or_default() -= 1);
            operands(&term).iter().for_each(|operand| *users.entry(*operand).or_default() += 1);
            choices.entry(*class).and_modify(|choice| choice.term = term);
        }
        let term = &choices[class].term;
        let left = depth - price(&egraph.analysis, term).0;
        for operand in operands(term) {
            let known = allowed.entry(operand).or_insert(left);
            *known = left.min(*known);
        }
    }
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
