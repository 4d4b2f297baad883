//! Handing the network over from the original: how much of the original's values is handed on at which step.

use super::{Joins, Objective, TrainError, Trainer};
use crate::net::{Blend, Net, NodeId, Op, Tape};

/// How the network is handed over from the original at the start of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blending {
    /// Part of the run in which the original's share falls from 1 to 0.
    pub part: f64,
    /// Weight of each activation's distance from the original's; with labels alone it falls with the share.
    pub features: f64,
}

impl Blending {
    /// The original's share once a part `done` of the run is over: it falls like a parabola, since errors build up over many
    /// layers only when little of the original is left.
    pub fn share(&self, done: f64) -> f64 {
        if done < self.part { (1.0 - done / self.part).powi(2) } else { 0.0 }
    }
}

impl Joins {
    /// Values that replacing changed, and the teacher's.
    pub(super) fn of_blending(net: &Net, original: &Net, teacher: &Net) -> Result<Self, TrainError> {
        let (all, theirs) = (original.replaceable(), teacher.replaceable());
        let shapes =
            |net: &Net, ids: &[NodeId]| ids.iter().map(|&id| net.nodes[id].shape).collect::<Vec<_>>();
        if shapes(original, &all) != shapes(teacher, &theirs) {
            return Err(TrainError::Teacher {
                what: "activations or max pools (--blend 0 does without them)",
            });
        }
        // A comparison run keeps its activations.
        let changed = |id: NodeId| !matches!(net.nodes[id].op, Op::Activation(_));
        let (own, taught) = all.into_iter().zip(theirs).filter(|(own, _)| changed(*own)).unzip();
        Ok(Self { own, taught })
    }
}

impl Trainer<'_> {
    /// The original's share in the next step, a part `done` of `steps` being over. Running statistics forget blended batches.
    pub(super) fn hand_over(&mut self, done: f64, steps: usize) -> f64 {
        let Some(blend) = self.options.blend.filter(|_| !self.places.own.is_empty()) else { return 0.0 };
        let share = blend.share(done);
        let alone = if share > 0.0 { steps } else { ((done - blend.part) * steps as f64) as usize };
        self.net.follow_statistics(alone);
        share
    }

    /// Where values are blended or at least compared while the original's share is this.
    pub(super) fn blended(&self, share: f64) -> Option<&Joins> {
        let compared = share > 0.0 || self.options.objective != Objective::Labels;
        (compared && !self.places.own.is_empty()).then_some(&self.places)
    }

    /// Takes the teacher's values that are handed on in part, or compared, from its run on the batch.
    pub(super) fn blend(&self, taught: &mut Tape, share: f64) -> Option<Blend> {
        let features = self.options.blend?.features;
        let weight = match self.options.objective {
            Objective::Labels => features * share,
            Objective::Distil(_) | Objective::Both(_) => features,
        };
        let places = self.blended(share)?;
        let pairs = places.own.iter().zip(&places.taught);
        let values = pairs.filter_map(|(&own, &theirs)| {
            // An average pool cannot become the max pool that it stands for.
            let weight = if let Op::PolyAct(_) = self.net.nodes[own].op { weight } else { 0.0 };
            Some((own, weight, taught.take(theirs)?))
        });
        Some(Blend::new(share as f32, values.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_falls_from_one_to_nothing() {
        let blending = Blending { part: 0.5, features: 1.0 };
        let shares: Vec<f64> = (0..=20).map(|i| blending.share(f64::from(i) / 20.0)).collect();
        assert_eq!((shares[0], shares[5]), (1.0, 0.25));
        assert!(shares[..11].windows(2).all(|w| w[1] < w[0]), "{shares:?}");
        assert!(shares[10..].iter().all(|s| *s == 0.0), "{shares:?}");
        assert_eq!(Blending { part: 0.0, features: 1.0 }.share(0.0), 0.0);
    }
}
