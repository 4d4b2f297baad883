//! Least cost of choices whose cost is a sum of tables over few of them: elimination, one choice at a time.

use std::collections::BTreeSet;

/// Largest table that elimination makes; beyond it a choice is fixed instead.
const MOST_ENTRIES: usize = 1 << 16;

/// A cost that depends on some variables: row-major over their values.
#[derive(Clone, Debug)]
pub struct Factor {
    scope: Vec<usize>,
    costs: Vec<f64>,
}

/// Variables with 0, 1, ... values each, and costs.
#[derive(Clone, Debug)]
pub struct Model {
    /// Number of values of each variable.
    pub domains: Vec<usize>,
    /// Costs.
    pub factors: Vec<Factor>,
}

/// Values of least cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// One per variable.
    pub values: Vec<usize>,
    /// Whether nothing was fixed on the way.
    pub exact: bool,
}

/// How an eliminated variable follows from others.
struct Eliminated {
    variable: usize,
    scope: Vec<usize>,
    best: Vec<usize>,
}

impl Factor {
    /// A cost of one variable.
    pub fn unary(variable: usize, costs: Vec<f64>) -> Self {
        Self { scope: vec![variable], costs }
    }

    /// A cost of two variables, the second one with `columns` values.
    pub fn pair([a, b]: [usize; 2], columns: usize, costs: Vec<f64>) -> Self {
        if a == b {
            let diagonal = costs.into_iter().step_by(columns + 1).collect();
            return Self { scope: vec![a], costs: diagonal };
        }
        Self { scope: vec![a, b], costs }
    }

    fn at(&self, domains: &[usize], values: &[usize]) -> f64 {
        let index = self.scope.iter().fold(0, |index, &v| index * domains[v] + values[v]);
        self.costs[index]
    }
}

impl Model {
    /// Cost of an assignment.
    pub fn cost(&self, values: &[usize]) -> f64 {
        self.factors.iter().map(|f| f.at(&self.domains, values)).sum()
    }

    /// A cost that no assignment is below: each table's least entry.
    pub fn lower_bound(&self) -> f64 {
        self.factors.iter().map(|f| f.costs.iter().copied().fold(f64::INFINITY, f64::min)).sum()
    }

    /// The assignment of least cost; where tables would grow too large a good one, no worse than all zeros.
    pub fn solve(&self) -> Solution {
        let mut factors = self.factors.clone();
        let mut domains = self.domains.clone();
        let mut left: BTreeSet<usize> = (0..domains.len()).collect();
        let (mut order, mut exact) = (Vec::new(), true);
        // A variable that is fixed keeps one value, the shift to its own numbering.
        let mut shift = vec![0; domains.len()];
        while !left.is_empty() {
            let (variable, scope) = least_connected(&left, &factors, &domains);
            let entries: usize = scope.iter().map(|&v| domains[v]).product();
            if entries.saturating_mul(domains[variable]) > MOST_ENTRIES {
                exact = false;
                let fixed = most_connected(&left, &factors, &domains);
                shift[fixed] = self.alone(fixed);
                factors = factors.into_iter().map(|f| restrict(f, &domains, fixed, shift[fixed])).collect();
                domains[fixed] = 1;
                continue;
            }
            let (own, others): (Vec<Factor>, Vec<Factor>) =
                factors.into_iter().partition(|f| f.scope.contains(&variable));
            factors = others;
            let (factor, best) = eliminate(variable, &scope, &own, &domains);
            factors.push(factor);
            order.push(Eliminated { variable, scope, best });
            left.remove(&variable);
        }
        let mut values = vec![0; domains.len()];
        for step in order.into_iter().rev() {
            let index = step.scope.iter().fold(0, |index, &v| index * domains[v] + values[v]);
            values[step.variable] = step.best[index];
        }
        values.iter_mut().zip(&shift).for_each(|(value, shift)| *value += shift);
        if exact {
            return Solution { values, exact };
        }
        let found = [values, vec![0; self.domains.len()]].map(|values| self.descended(values));
        let [values, other] = found;
        Solution { values: if self.cost(&values) <= self.cost(&other) { values } else { other }, exact }
    }

    /// An assignment that no change of a single variable improves.
    fn descended(&self, mut values: Vec<usize>) -> Vec<usize> {
        loop {
            let before = values.clone();
            for variable in 0..values.len() {
                let touching: Vec<&Factor> =
                    self.factors.iter().filter(|f| f.scope.contains(&variable)).collect();
                let mut least = (f64::INFINITY, values[variable]);
                for value in std::iter::once(values[variable]).chain(0..self.domains[variable]) {
                    values[variable] = value;
                    let cost: f64 = touching.iter().map(|f| f.at(&self.domains, &values)).sum();
                    if cost < least.0 {
                        least = (cost, value);
                    }
                }
                values[variable] = least.1;
            }
            if values == before {
                return values;
            }
        }
    }

    /// The value of a variable whose tables have the least averages.
    fn alone(&self, variable: usize) -> usize {
        let cost = |value: usize| -> f64 {
            let of_factor = |f: &Factor| {
                let kept = restrict(f.clone(), &self.domains, variable, value).costs;
                kept.iter().sum::<f64>() / kept.len().max(1) as f64
            };
            self.factors.iter().filter(|f| f.scope.contains(&variable)).map(of_factor).sum()
        };
        (0..self.domains[variable]).min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(0)
    }
}

fn neighbours(variable: usize, factors: &[Factor]) -> Vec<usize> {
    let touching = factors.iter().filter(|f| f.scope.contains(&variable));
    let others: BTreeSet<usize> =
        touching.flat_map(|f| f.scope.iter().copied()).filter(|&v| v != variable).collect();
    others.into_iter().collect()
}

/// The variable whose elimination makes the smallest table, and the scope of that.
fn least_connected(left: &BTreeSet<usize>, factors: &[Factor], domains: &[usize]) -> (usize, Vec<usize>) {
    let candidates = left.iter().map(|&v| (v, neighbours(v, factors)));
    let size = |(_, scope): &(usize, Vec<usize>)| -> usize {
        scope.iter().fold(1, |product, &v| product.saturating_mul(domains[v]))
    };
    candidates.min_by_key(size).unwrap_or_default()
}

/// The variable, of those with a choice, that most others depend on.
fn most_connected(left: &BTreeSet<usize>, factors: &[Factor], domains: &[usize]) -> usize {
    let degree = |&&v: &&usize| neighbours(v, factors).len();
    left.iter().filter(|&&v| domains[v] > 1).max_by_key(degree).copied().unwrap_or_default()
}

/// The factor with one variable fixed to a value; its domain shrinks to one.
fn restrict(factor: Factor, domains: &[usize], variable: usize, value: usize) -> Factor {
    let Some(at) = factor.scope.iter().position(|&v| v == variable) else { return factor };
    let inner: usize = factor.scope[at + 1..].iter().map(|&v| domains[v]).product();
    let block = inner * domains[variable];
    let kept = |chunk: &[f64]| chunk[value * inner..][..inner].to_vec();
    let costs = factor.costs.chunks(block).flat_map(kept).collect();
    Factor { scope: factor.scope, costs }
}

/// Least sum of `factors` over one variable for each assignment of `scope`, and the value that gives it.
fn eliminate(
    variable: usize,
    scope: &[usize],
    factors: &[Factor],
    domains: &[usize],
) -> (Factor, Vec<usize>) {
    let entries: usize = scope.iter().map(|&v| domains[v]).product();
    let mut values = vec![0; domains.len()];
    let (mut costs, mut best) = (Vec::with_capacity(entries), Vec::with_capacity(entries));
    for entry in 0..entries {
        let mut rest = entry;
        for &v in scope.iter().rev() {
            values[v] = rest % domains[v];
            rest /= domains[v];
        }
        let mut least = (f64::INFINITY, 0);
        for value in 0..domains[variable] {
            values[variable] = value;
            let cost: f64 = factors.iter().map(|f| f.at(domains, &values)).sum();
            if cost < least.0 {
                least = (cost, value);
            }
        }
        costs.push(least.0);
        best.push(least.1);
    }
    (Factor { scope: scope.to_vec(), costs }, best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn models() -> impl Strategy<Value = Model> {
        let domains = prop::collection::vec(1usize..4, 1..7);
        let pairs = prop::collection::vec((0usize..7, 0usize..7), 0..9);
        (domains, pairs, any::<u32>()).prop_map(|(domains, pairs, mut seed)| {
            let mut next = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(seed >> 16)
            };
            let count = domains.len();
            let mut factors: Vec<Factor> =
                (0..count).map(|v| Factor::unary(v, (0..domains[v]).map(|_| next()).collect())).collect();
            for (a, b) in pairs {
                let (a, b) = (a % count, b % count);
                let costs = (0..domains[a] * domains[b]).map(|_| next()).collect();
                factors.push(Factor::pair([a, b], domains[b], costs));
            }
            Model { domains, factors }
        })
    }

    proptest! {
        #[test]
        fn elimination_finds_the_least_cost(model in models()) {
            let total: usize = model.domains.iter().product();
            let assignment = |mut index: usize| -> Vec<usize> {
                model.domains.iter().map(|&d| { let v = index % d; index /= d; v }).collect()
            };
            let least = (0..total).map(|i| model.cost(&assignment(i))).fold(f64::INFINITY, f64::min);
            let solution = model.solve();
            prop_assert!(solution.exact);
            prop_assert_eq!(model.cost(&solution.values), least);
            prop_assert!(model.lower_bound() <= least);
        }
    }

    #[test]
    fn a_graph_too_dense_is_solved_with_fixed_choices() {
        let (count, values) = (24, 3);
        let mut factors = Vec::new();
        for a in 0..count {
            for b in a + 1..count {
                let costs = (0..9).map(|i| f64::from((i * 7 + a as u32 * 3 + b as u32) % 11)).collect();
                factors.push(Factor::pair([a, b], values, costs));
            }
        }
        let model = Model { domains: vec![values; count], factors };
        let solution = model.solve();
        assert!(!solution.exact && solution.values.iter().all(|&v| v < values));
        let zero = model.cost(&vec![0; count]);
        assert!(model.cost(&solution.values) <= zero && model.lower_bound() <= zero);
    }
}
