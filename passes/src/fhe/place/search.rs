//! The least-time placement of all operations: dynamic programming over the frontier, guided by a bound.
//!
//! Operations are placed in graph order. A state is what the frontier holds: level and scale of every value that a later operation
//! reads, jointly, so that a skip connection and the branch beside it are decided together. Of states with equal scales, one that
//! costs no less and holds no value at a higher level is dropped. States go by their time so far plus the least that is still to
//! come ([`Bound`]); those that cannot beat a placement already known are left out. As long as no more states than the width of
//! the search remain, it is exact; else it says what the optimum might be.

use std::collections::HashMap;

use super::bound::Bound;
use super::lanes::Lanes;
use super::rules::{Choice, Held, Rules, Step, StepKind};

/// Most states that are kept after an operation.
pub const WIDTH: usize = 1024;
/// The same where many chains are compared.
pub const NARROW: usize = 64;
/// A placement must be faster than the one known by this share to be looked for.
const SLACK: f64 = 1e-9;

/// A placement.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// What each operation does.
    pub choices: Vec<Choice>,
    /// Its time.
    pub seconds: f64,
    /// No placement takes less than this.
    pub least_seconds: f64,
}

impl Placement {
    /// Whether anything is refreshed.
    pub fn refreshes(&self) -> bool {
        self.choices.iter().any(|choice| choice.refresh.is_some())
    }

    /// How far the placement may be from the best, as a share of its time; 0 if it is the best.
    pub fn gap(&self) -> f64 {
        if self.seconds > 0.0 { (self.seconds - self.least_seconds) / self.seconds } else { 0.0 }
    }
}

/// Operations to be placed on a chain.
#[derive(Debug)]
pub struct Problem {
    steps: Vec<Step>,
    rules: Rules,
    bound: Bound,
    /// The last operation that reads each value.
    last_use: Vec<usize>,
    /// The least level of each value with which all that read it may be placed.
    needs: Vec<u32>,
}

/// What a pass over the operations found.
struct Found {
    best: Option<(f64, Vec<Choice>)>,
    /// The least that a placement which was not followed up can take.
    dropped: f64,
}

/// A way to have placed the operations so far.
struct State {
    scales: Lanes,
    levels: Lanes,
    seconds: f64,
    /// Time so far and the least to come.
    bound: f64,
    last: usize,
}

/// A state followed by a choice.
struct Reached {
    bound: f64,
    seconds: f64,
    state: usize,
    choice: usize,
}

/// How a state was reached: a chain through all operations before.
struct Link {
    before: usize,
    choice: Choice,
}

impl Problem {
    /// Operations and the rules of a chain.
    pub fn new(steps: Vec<Step>, rules: Rules) -> Self {
        let (bound, last_use) = (Bound::of(&steps, &rules), last_uses(&steps));
        let needs = needs(&steps, &rules);
        Self { steps, rules, bound, last_use, needs }
    }

    /// No placement takes less time; infinite if the chain is too short for any.
    pub fn least_seconds(&self) -> f64 {
        self.bound.least()
    }

    /// The fastest placement that a search of this width finds, if it takes less than `limit`; a narrow pass first, for the wide
    /// one to be cut by.
    pub fn place(&self, width: usize, limit: f64) -> Option<Placement> {
        let narrow = self.pass(width.min(NARROW), limit);
        let (mut best, mut dropped) = (narrow.best, narrow.dropped);
        let known = best.as_ref().map_or(limit, |(seconds, _)| *seconds);
        if dropped < known * (1.0 - SLACK) && width > NARROW {
            let wide = self.pass(width, known);
            best = wide.best.or(best);
            dropped = dropped.max(wide.dropped);
        }
        let (seconds, choices) = best?;
        let least_seconds = seconds.min(dropped).max(self.least_seconds().min(seconds));
        // Rounding is no gap.
        let exact = least_seconds >= seconds * (1.0 - SLACK);
        Some(Placement { choices, seconds, least_seconds: if exact { seconds } else { least_seconds } })
    }

    fn pass(&self, width: usize, limit: f64) -> Found {
        let cut = limit * (1.0 - SLACK);
        let (mut links, mut dropped) = (Vec::new(), f64::INFINITY);
        let mut frontier: Vec<usize> = Vec::new();
        let start = State {
            scales: Lanes::default(),
            levels: Lanes::default(),
            seconds: 0.0,
            bound: self.least_seconds(),
            last: usize::MAX,
        };
        let mut states = vec![start];
        for i in 0..self.steps.len() {
            let mut followed = Followed::new(self, i, &frontier);
            let mut reached: Vec<Reached> = Vec::new();
            (0..states.len()).for_each(|at| followed.by_choices(at, &states[at], cut, &mut reached));
            reached.sort_unstable_by(|a, b| followed.order(a, b));
            let next = followed.admit(&states, &reached, width, &mut links);
            states = next.0;
            dropped = next.1.min(dropped);
            frontier.retain(|&value| self.last_use[value] > i);
            frontier.extend((self.last_use[i] > i).then_some(i));
        }
        let best = states.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        Found { best: best.map(|best| (best.seconds, trace(&links, best.last, self.steps.len()))), dropped }
    }
}

/// One operation, as the states before it meet it.
struct Followed<'a> {
    problem: &'a Problem,
    index: usize,
    /// Places of the operands in the frontier, and of the operand that the operation continues.
    operands: Vec<usize>,
    owner: Option<usize>,
    /// Places of the values that a later operation reads.
    kept: Vec<usize>,
    /// Whether a later operation reads the result.
    lives: bool,
    choices: Vec<Choice>,
    /// Seconds of each choice and the least that continues it.
    ahead: Vec<f64>,
    /// Range of choices by level, highest and lowest scale of the operands.
    known: HashMap<[u32; 3], std::ops::Range<usize>>,
}

impl<'a> Followed<'a> {
    fn new(problem: &'a Problem, index: usize, frontier: &[usize]) -> Self {
        let place = |value: &usize| frontier.iter().position(|at| at == value);
        let last_use = &problem.last_use;
        Self {
            problem,
            index,
            operands: problem.steps[index].args.iter().filter_map(place).collect(),
            owner: problem.bound.owner(index).as_ref().and_then(place),
            kept: (0..frontier.len()).filter(|&at| last_use[frontier[at]] > index).collect(),
            lives: last_use[index] > index,
            choices: Vec::new(),
            ahead: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// What a state becomes by each choice, as far as that may take less than `cut`.
    fn by_choices(&mut self, at: usize, state: &State, cut: f64, reached: &mut Vec<Reached>) {
        let held = |place: usize| Held { scale: state.scales.get(place), level: state.levels.get(place) };
        let operands = self.operands.iter().map(|&place| held(place));
        let level = operands.clone().map(|held| held.level).min().unwrap_or_default();
        let high = operands.clone().map(|held| held.scale).max().unwrap_or_default();
        let low = operands.map(|held| held.scale).min().unwrap_or_default();
        let expected = self.problem.bound.own(self.index, self.owner.map(held));
        let before = state.bound - expected;
        for choice in self.choices_of([level, high, low]) {
            let bound = before + self.ahead[choice];
            if bound < cut {
                let seconds = state.seconds + self.choices[choice].seconds;
                reached.push(Reached { bound, seconds, state: at, choice });
            }
        }
    }

    /// The choices that operands of this level and these scales admit.
    fn choices_of(&mut self, key @ [level, high, low]: [u32; 3]) -> std::ops::Range<usize> {
        if let Some(range) = self.known.get(&key) {
            return range.clone();
        }
        let (step, first) = (&self.problem.steps[self.index], self.choices.len());
        let operands = [Held { scale: high, level }, Held { scale: low, level }];
        let operands = if self.operands.is_empty() { &[][..] } else { &operands[..] };
        let mut choices = Vec::new();
        self.problem.rules.choices(step, operands, &mut choices);
        choices.retain(|choice| choice.held.level >= self.problem.needs[self.index]);
        let bound = &self.problem.bound;
        self.ahead.extend(choices.iter().map(|c| c.seconds + bound.onward(self.index, c.held)));
        self.choices.append(&mut choices);
        self.known.insert(key, first..self.choices.len());
        first..self.choices.len()
    }

    /// The least bound first; of equal ones the one with more levels.
    fn order(&self, a: &Reached, b: &Reached) -> std::cmp::Ordering {
        let level = |reached: &Reached| self.choices[reached.choice].held.level;
        let by_bound = a.bound.total_cmp(&b.bound).then(a.seconds.total_cmp(&b.seconds));
        by_bound.then(level(b).cmp(&level(a))).then((a.state, a.choice).cmp(&(b.state, b.choice)))
    }

    /// The first states that no earlier one dominates, at most `width`, and the bound of the first one left out.
    fn admit(
        &self,
        states: &[State],
        reached: &[Reached],
        width: usize,
        links: &mut Vec<Link>,
    ) -> (Vec<State>, f64) {
        let mut admitted: Vec<State> = Vec::new();
        let mut fronts: HashMap<Lanes, Vec<(Lanes, f64)>> = HashMap::new();
        for &Reached { bound, seconds, state, choice } in reached {
            let (scales, levels) = self.held(&states[state], self.choices[choice].held);
            let front = fronts.entry(scales.clone()).or_default();
            if front.iter().any(|(others, least)| *least <= seconds && others.covers(&levels)) {
                continue;
            }
            if admitted.len() == width {
                return (admitted, bound);
            }
            front.push((levels.clone(), seconds));
            links.push(Link { before: states[state].last, choice: self.choices[choice] });
            admitted.push(State { scales, levels, seconds, bound, last: links.len() - 1 });
        }
        (admitted, f64::INFINITY)
    }

    /// What the frontier holds after a choice.
    fn held(&self, state: &State, result: Held) -> (Lanes, Lanes) {
        let count = self.kept.len() + usize::from(self.lives);
        let (mut scales, mut levels) = (Lanes::zeros(count), Lanes::zeros(count));
        for (at, &place) in self.kept.iter().enumerate() {
            scales.put(at, state.scales.get(place));
            levels.put(at, state.levels.get(place));
        }
        if self.lives {
            scales.put(count - 1, result.scale);
            levels.put(count - 1, result.level);
        }
        (scales, levels)
    }
}

/// The last operation that reads each value; its own for one that nothing reads.
fn last_uses(steps: &[Step]) -> Vec<usize> {
    let mut last: Vec<usize> = (0..steps.len()).collect();
    for (i, step) in steps.iter().enumerate() {
        step.args.iter().for_each(|&arg| last[arg] = i);
    }
    last
}

/// The least level of each value with which all that read it may be placed: the bound follows deepest operands only, and states with
/// others too low would crowd out the rest.
fn needs(steps: &[Step], rules: &Rules) -> Vec<u32> {
    let mut needs = vec![0; steps.len()];
    for (i, step) in steps.iter().enumerate().rev() {
        let needed = match (step.kind, rules.refresh, step.refresh) {
            (StepKind::Input { .. }, ..) => continue,
            (StepKind::Poly { levels }, ..) => needs[i] + levels,
            (StepKind::Linear, Some(refresh), Some(_)) => (needs[i] + 1).min(refresh.input_level + 1),
            (StepKind::Linear, ..) => needs[i] + 1,
        };
        step.args.iter().for_each(|&arg| needs[arg] = needed.max(needs[arg]));
    }
    needs
}

fn trace(links: &[Link], last: usize, count: usize) -> Vec<Choice> {
    let mut choices = Vec::with_capacity(count);
    let mut at = last;
    while let Some(link) = links.get(at) {
        choices.push(link.choice);
        at = link.before;
    }
    choices.reverse();
    choices
}
