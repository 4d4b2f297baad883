//! The rewrite rules.

use egg::{Applier, EGraph, ENodeOrVar, Id, Pattern, PatternAst, RecExpr, Rewrite, Subst, Symbol, Var};

use super::term::{Tables, Term, TermOp};
use crate::error::DEGREES;
use crate::tensor::poly::ChannelPoly;

type Graph = EGraph<Term, Tables>;

/// A rule: from one e-node, terms equal to it. Terms it needs on the way are added to the e-graph.
type Rule = fn(&mut Graph, &Term) -> Vec<Equal>;

/// Something equal to an e-node.
enum Equal {
    Term(Term),
    Class(Id),
}

/// All rules.
pub(super) fn all() -> Vec<Rewrite<Term, Tables>> {
    let rules: [(&str, Rule); 6] = [
        ("merge-elementwise", merge_elementwise),
        ("compose-polynomials", compose),
        ("affine-into-convolution", affine_into_conv),
        ("convolution-takes-affine", conv_takes_affine),
        ("affine-through-sum", affine_through_sum),
        ("activation-takes-affine", activation_takes_affine),
    ];
    rules
        .into_iter()
        .map(|(name, rule)| {
            let any = RecExpr::from(vec![ENodeOrVar::Var(any_class())]);
            Rewrite::new(name, Pattern::new(any), PerNode(rule)).expect("the one variable is bound")
        })
        .collect()
}

fn any_class() -> Var {
    Var::from_u32(0)
}

struct PerNode(Rule);

impl Applier<Term, Tables> for PerNode {
    fn apply_one(
        &self,
        egraph: &mut Graph,
        class: Id,
        _: &Subst,
        _: Option<&PatternAst<Term>>,
        _: Symbol,
    ) -> Vec<Id> {
        let mut changed = Vec::new();
        for term in egraph[class].nodes.clone() {
            for equal in (self.0)(egraph, &term) {
                let other = match equal {
                    Equal::Term(term) => egraph.add(term),
                    Equal::Class(id) => id,
                };
                if egraph.union(class, other) {
                    changed.push(egraph.find(class));
                }
            }
        }
        changed
    }
}

fn terms(egraph: &Graph, class: Id) -> Vec<Term> {
    egraph[egraph.find(class)].nodes.clone()
}

fn poly_term(egraph: &mut Graph, poly: ChannelPoly, like: &Term, x: Id) -> Equal {
    if poly.is_identity() {
        return Equal::Class(x);
    }
    let origin = match like.op {
        TermOp::Poly(key) => egraph.analysis.poly_at(key).1.clone(),
        _ => peregrine_ir::Origin::new(""),
    };
    let key = egraph.analysis.poly(poly, &origin);
    Equal::Term(Term::new(TermOp::Poly(key), vec![x]))
}

/// A class as polynomials of other classes, itself included.
fn as_polynomials(egraph: &Graph, class: Id) -> Vec<(ChannelPoly, Id)> {
    let own = (ChannelPoly::identity(), egraph.find(class));
    let others = terms(egraph, class).into_iter().filter_map(|term| match term.op {
        TermOp::Poly(key) => Some((egraph.analysis.poly_at(key).0.clone(), egraph.find(term.args[0]))),
        _ => None,
    });
    std::iter::once(own).chain(others).collect()
}

fn merge_elementwise(egraph: &mut Graph, term: &Term) -> Vec<Equal> {
    let merge = match term.op {
        TermOp::Add => ChannelPoly::plus,
        TermOp::Mul => ChannelPoly::times,
        TermOp::Opaque(_) | TermOp::Activated { .. } | TermOp::Conv(_) | TermOp::Poly(_) => {
            return Vec::new();
        }
    };
    let (left, right) = (as_polynomials(egraph, term.args[0]), as_polynomials(egraph, term.args[1]));
    let mut found = Vec::new();
    for (p, x) in &left {
        for (q, y) in &right {
            let merged = merge(p, q);
            if x == y && merged.degree() <= DEGREES.1 as usize {
                found.push(poly_term(egraph, merged, term, *x));
            }
        }
    }
    found
}

fn compose(egraph: &mut Graph, term: &Term) -> Vec<Equal> {
    let TermOp::Poly(key) = term.op else { return Vec::new() };
    let outer = egraph.analysis.poly_at(key).0.clone();
    if outer.is_identity() {
        return vec![Equal::Class(term.args[0])];
    }
    as_polynomials(egraph, term.args[0])
        .into_iter()
        .skip(1)
        .filter(|(inner, _)| outer.degree() * inner.degree() <= DEGREES.1 as usize)
        .map(|(inner, x)| poly_term(egraph, outer.of(&inner), term, x))
        .collect()
}

/// The polynomial of an affine e-node.
fn affine_of(egraph: &Graph, term: &Term) -> Option<ChannelPoly> {
    match term.op {
        TermOp::Poly(key) => Some(egraph.analysis.poly_at(key).0.clone()).filter(|p| p.degree() == 1),
        TermOp::Opaque(_) | TermOp::Activated { .. } | TermOp::Conv(_) | TermOp::Add | TermOp::Mul => None,
    }
}

fn affine_into_conv(egraph: &mut Graph, term: &Term) -> Vec<Equal> {
    let Some(affine) = affine_of(egraph, term) else { return Vec::new() };
    let mut found = Vec::new();
    for inner in terms(egraph, term.args[0]) {
        if let TermOp::Conv(key) = inner.op {
            let (form, origin) = egraph.analysis.conv_at(key);
            let (form, origin) = (form.followed_by(&affine), origin.clone());
            let key = egraph.analysis.conv(form, &origin);
            found.push(Equal::Term(Term::new(TermOp::Conv(key), inner.args)));
        }
    }
    found
}

fn conv_takes_affine(egraph: &mut Graph, term: &Term) -> Vec<Equal> {
    let TermOp::Conv(key) = term.op else { return Vec::new() };
    let mut found = Vec::new();
    for inner in terms(egraph, term.args[0]) {
        let (form, origin) = egraph.analysis.conv_at(key);
        let taken = affine_of(egraph, &inner).and_then(|affine| form.after(&affine));
        if let Some(form) = taken {
            let origin = origin.clone();
            let key = egraph.analysis.conv(form, &origin);
            found.push(Equal::Term(Term::new(TermOp::Conv(key), inner.args)));
        }
    }
    found
}

fn affine_through_sum(egraph: &mut Graph, term: &Term) -> Vec<Equal> {
    let Some(affine) = affine_of(egraph, term) else { return Vec::new() };
    let rows = affine.rows();
    let factor = ChannelPoly::affine(&affine.column(1, rows), &vec![0.0; rows]);
    let mut found = Vec::new();
    for inner in terms(egraph, term.args[0]) {
        if inner.op != TermOp::Add {
            continue;
        }
        for offset_side in 0..2 {
            let args = (0..2)
                .map(|side| {
                    let poly = if side == offset_side { affine.clone() } else { factor.clone() };
                    match poly_term(egraph, poly, term, inner.args[side]) {
                        Equal::Term(term) => egraph.add(term),
                        Equal::Class(id) => id,
                    }
                })
                .collect();
            found.push(Equal::Term(Term::new(TermOp::Add, args)));
        }
    }
    found
}

fn activation_takes_affine(egraph: &mut Graph, term: &Term) -> Vec<Equal> {
    let TermOp::Opaque(node) = term.op else { return Vec::new() };
    if !egraph.analysis.is_activation(node) {
        return Vec::new();
    }
    terms(egraph, term.args[0])
        .into_iter()
        .filter(|inner| affine_of(egraph, inner).is_some())
        .filter_map(|inner| match inner.op {
            TermOp::Poly(affine) => {
                Some(Equal::Term(Term::new(TermOp::Activated { node, affine }, inner.args)))
            }
            _ => None,
        })
        .collect()
}
