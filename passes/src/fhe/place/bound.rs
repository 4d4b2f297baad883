//! The least time that is still to come, whatever is done: what guides the search and what it is cut by.
//!
//! Every operation continues the path of one of its operands, its owner; what the other operands hold is left open. So the
//! operations form a forest, on which the least time from each value on, by its scale and level, follows from the leaves to the
//! roots. On chains and trees it is exact; where branches join it is below the truth by what the shorter branch forbids.

use std::collections::BTreeSet;

use super::rules::{Choice, Held, Rules, Step};

/// Least time to come, by operation and by what its owner holds.
#[derive(Debug)]
pub struct Bound {
    owners: Vec<Option<usize>>,
    /// Place of each scale in the tables, by bits.
    places: Vec<u8>,
    levels: usize,
    /// By operation: its own time and all that continues it.
    own: Vec<Vec<f64>>,
    /// By operation: all that continues it, by what it holds itself.
    onward: Vec<Vec<f64>>,
}

/// A choice as the tables need it.
struct Outcome {
    /// Place of the owner's scale.
    scale: usize,
    runs_at: usize,
    seconds: f64,
    held: usize,
}

impl Bound {
    /// The bound for operations on a chain.
    pub fn of(steps: &[Step], rules: &Rules) -> Self {
        let owners = owners(steps);
        let levels = rules.bits.len();
        let (scales, choices) = reachable(steps, rules, &owners);
        let mut places = vec![0u8; 1 + scales.last().map_or(0, |&most| most as usize)];
        scales.iter().enumerate().for_each(|(place, &scale)| places[scale as usize] = place as u8);
        let entries = scales.len() * levels;
        let onward = vec![vec![0.0; entries]; steps.len()];
        let mut bound = Self { owners, places, levels, own: vec![Vec::new(); steps.len()], onward };
        for (i, choices) in choices.into_iter().enumerate().rev() {
            let outcomes = choices.iter().map(|(scale, choice)| bound.outcome(*scale, choice));
            let outcomes: Vec<Outcome> = outcomes.collect();
            let own = bound.table(entries, &outcomes, i);
            if let Some(owner) = bound.owners[i] {
                bound.onward[owner].iter_mut().zip(&own).for_each(|(sum, own)| *sum += own);
            }
            bound.own[i] = own;
        }
        bound
    }

    fn outcome(&self, scale: u32, choice: &Choice) -> Outcome {
        Outcome {
            scale: self.places[scale as usize] as usize,
            runs_at: choice.runs_at as usize,
            seconds: choice.seconds,
            held: self.entry(choice.held),
        }
    }

    /// By scale and level of the owner: the least of what can be done there or below.
    fn table(&self, entries: usize, outcomes: &[Outcome], step: usize) -> Vec<f64> {
        let mut table = vec![f64::INFINITY; entries];
        for outcome in outcomes {
            let least = &mut table[outcome.scale * self.levels + outcome.runs_at];
            *least = least.min(outcome.seconds + self.onward[step][outcome.held]);
        }
        for of_scale in table.chunks_mut(self.levels) {
            let mut least = f64::INFINITY;
            for entry in of_scale {
                least = least.min(*entry);
                *entry = least;
            }
        }
        table
    }

    fn entry(&self, held: Held) -> usize {
        self.places[held.scale as usize] as usize * self.levels + held.level as usize
    }

    /// The operand whose path an operation continues; `None` for inputs.
    pub fn owner(&self, step: usize) -> Option<usize> {
        self.owners[step]
    }

    /// Least time of an operation and all that continues it, when its owner holds this; inputs have none.
    pub fn own(&self, step: usize, owner: Option<Held>) -> f64 {
        match owner {
            Some(held) => self.own[step][self.entry(held)],
            None => self.root(step),
        }
    }

    /// Least time of all that continues an operation when it holds this.
    pub fn onward(&self, step: usize, held: Held) -> f64 {
        self.onward[step][self.entry(held)]
    }

    /// An input: made once, at one place.
    fn root(&self, step: usize) -> f64 {
        self.own[step].iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// No placement takes less.
    pub fn least(&self) -> f64 {
        (0..self.own.len()).filter(|&i| self.owners[i].is_none()).map(|i| self.root(i)).sum()
    }
}

/// The operand with the longest path from an input, the last one of several: there levels run out first.
fn owners(steps: &[Step]) -> Vec<Option<usize>> {
    let mut depths: Vec<usize> = Vec::with_capacity(steps.len());
    let mut owners = Vec::with_capacity(steps.len());
    for step in steps {
        let owner = step.args.iter().copied().max_by_key(|&arg| depths[arg]);
        depths.push(owner.map_or(0, |owner| depths[owner] + 1));
        owners.push(owner);
    }
    owners
}

/// All scales in use, ascending, and for each operation its choices by the scale of its owner.
fn reachable(steps: &[Step], rules: &Rules, owners: &[Option<usize>]) -> (Vec<u32>, Vec<Vec<(u32, Choice)>>) {
    let top = rules.bits.len() as u32 - 1;
    let (mut all, mut found) = (BTreeSet::from([0]), Vec::with_capacity(steps.len()));
    let mut scales: Vec<BTreeSet<u32>> = Vec::with_capacity(steps.len());
    let mut choices = Vec::new();
    for (step, owner) in steps.iter().zip(owners) {
        let mut of_step: Vec<(u32, Choice)> = Vec::new();
        match owner {
            None => {
                rules.choices(step, &[], &mut choices);
                of_step.extend(choices.iter().map(|choice| (0, *choice)));
            }
            Some(owner) => {
                for &scale in &scales[*owner] {
                    rules.relaxed(step, Held { scale, level: top }, &mut choices);
                    of_step.extend(choices.iter().map(|choice| (scale, *choice)));
                }
            }
        }
        let held: BTreeSet<u32> = of_step.iter().map(|(_, choice)| choice.held.scale).collect();
        all.extend(&held);
        scales.push(held);
        found.push(of_step);
    }
    (all.into_iter().collect(), found)
}
