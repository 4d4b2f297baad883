//! The least-time placement of all operations: dynamic programming over the frontier.
//!
//! Operations are placed in graph order. A state is what the frontier holds: level and scale of every value that a later operation
//! reads, jointly, so that a skip connection and the branch beside it are decided together. Of states with equal scales, one that
//! costs no less and holds no value at a higher level is dropped. On series-parallel graphs the frontier is as wide as the graph
//! is nested and the search is exact; on others it may have to drop more states than that, and says what the optimum might be.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::rules::{Choice, Held, Rules, Step};

/// Most states that are kept after an operation.
pub const WIDTH: usize = 16384;
/// The same where many chains are compared.
pub const NARROW: usize = 1024;

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

type Key = SmallVec<[Held; 4]>;

struct State {
    key: Key,
    seconds: f64,
    last: usize,
}

/// How a state was reached: a chain through all operations before.
struct Link {
    before: usize,
    choice: Choice,
}

/// Places `steps` in order, of which those in `kept` are results of the whole; `None` if the chain is too short.
pub fn place(steps: &[Step], kept: &[usize], rules: &Rules, width: usize) -> Option<Placement> {
    let last_use = last_uses(steps, kept);
    let rest = least_rest(steps);
    let mut links: Vec<Link> = Vec::new();
    let mut frontier: Vec<usize> = Vec::new();
    let mut states = vec![State { key: Key::new(), seconds: 0.0, last: usize::MAX }];
    let mut dropped = f64::INFINITY;
    let mut choices = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let mut next: Vec<usize> = frontier.iter().copied().filter(|&v| last_use[v] > i).collect();
        let keep: Vec<usize> = next.iter().filter_map(|v| frontier.iter().position(|f| f == v)).collect();
        if last_use[i] > i {
            next.push(i);
        }
        let mut reached: BTreeMap<Key, (f64, usize, Choice)> = BTreeMap::new();
        for state in &states {
            let operand = |arg: &usize| frontier.iter().position(|f| f == arg).map(|at| state.key[at]);
            let operands: SmallVec<[Held; 4]> = step.args.iter().filter_map(operand).collect();
            rules.choices(step, &operands, &mut choices);
            for choice in &choices {
                let mut key: Key = keep.iter().map(|&at| state.key[at]).collect();
                if last_use[i] > i {
                    key.push(choice.held);
                }
                let seconds = state.seconds + choice.seconds;
                let entry = reached.entry(key).or_insert((f64::INFINITY, 0, *choice));
                if seconds < entry.0 {
                    *entry = (seconds, state.last, *choice);
                }
            }
        }
        states = undominated(reached, &mut links);
        if states.len() > width {
            dropped = states[width..].iter().map(|s| s.seconds + rest[i + 1]).fold(dropped, f64::min);
            states.truncate(width);
        }
        frontier = next;
    }
    let best = states.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
    let least_seconds = best.seconds.min(dropped);
    Some(Placement { choices: trace(&links, best.last, steps.len()), seconds: best.seconds, least_seconds })
}

/// The last operation that reads each value; one past all for results of the whole.
fn last_uses(steps: &[Step], kept: &[usize]) -> Vec<usize> {
    let mut last: Vec<usize> = (0..steps.len()).collect();
    for (i, step) in steps.iter().enumerate() {
        step.args.iter().for_each(|&arg| last[arg] = i);
    }
    kept.iter().for_each(|&value| last[value] = steps.len());
    last
}

/// Least time of the operations from each on, each at the level where it is fastest.
fn least_rest(steps: &[Step]) -> Vec<f64> {
    let mut rest = vec![0.0; steps.len() + 1];
    for (i, step) in steps.iter().enumerate().rev() {
        let least = step.seconds.iter().copied().skip(1).fold(f64::INFINITY, f64::min);
        rest[i] = rest[i + 1] + if least.is_finite() { least } else { 0.0 };
    }
    rest
}

/// The states that no other dominates, the fastest first.
fn undominated(reached: BTreeMap<Key, (f64, usize, Choice)>, links: &mut Vec<Link>) -> Vec<State> {
    let mut all: Vec<(Key, (f64, usize, Choice))> = reached.into_iter().collect();
    // Of equal times the one with more levels first; the map's order settles the rest.
    let levels = |key: &Key| key.iter().map(|held| held.level).sum::<u32>();
    all.sort_by(|a, b| a.1.0.total_cmp(&b.1.0).then_with(|| levels(&b.0).cmp(&levels(&a.0))));
    let mut by_scales: BTreeMap<SmallVec<[u32; 4]>, Front> = BTreeMap::new();
    let mut states = Vec::new();
    for (key, (seconds, before, choice)) in all {
        let front = by_scales.entry(key.iter().map(|held| held.scale).collect()).or_default();
        if !front.admits(&key) {
            continue;
        }
        links.push(Link { before, choice });
        states.push(State { key, seconds, last: links.len() - 1 });
    }
    states
}

/// The levels of the states of one group so far, all of which cost no more than the next.
#[derive(Default)]
struct Front {
    /// For keys of at most two values: by the level of the first the highest level of the second among states whose first is as
    /// high.
    stairs: Vec<u32>,
    /// Longer keys.
    keys: Vec<Key>,
}

impl Front {
    /// Whether no state has every value of `key` at its level or higher; then it becomes one of them.
    fn admits(&mut self, key: &Key) -> bool {
        let level = |at: usize| key.get(at).map_or(0, |held| held.level);
        if key.len() > 2 {
            let dominates = |other: &Key| other.iter().zip(key).all(|(o, k)| o.level >= k.level);
            let new = !self.keys.iter().any(dominates);
            if new {
                self.keys.push(key.clone());
            }
            return new;
        }
        // Heights are levels plus one, so that 0 is no state at all.
        let (first, height) = (level(0) as usize, level(1) + 1);
        if self.stairs.get(first).is_some_and(|&step| step >= height) {
            return false;
        }
        if self.stairs.len() <= first {
            self.stairs.resize(first + 1, 0);
        }
        self.stairs[..=first].iter_mut().for_each(|step| *step = height.max(*step));
        true
    }
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
