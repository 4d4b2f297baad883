//! Mean average precision at an overlap of one half, as COCO measures it: 101 points of recall, pictures matched greedily
//! from the best score down.

use std::collections::BTreeMap;

use crate::client::decode::Detection;

/// Overlap from which a detection is right.
const OVERLAP: f64 = 0.5;
/// Points of recall that precision is averaged over.
const POINTS: usize = 101;

/// Detections and objects of one picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoredPicture {
    /// What was found.
    pub found: Vec<Detection>,
    /// What is there; scores do not count.
    pub truth: Vec<Detection>,
}

/// Average precision of each class that has objects, with their number.
pub fn mean_average_precision(pictures: &[ScoredPicture]) -> BTreeMap<usize, (usize, f64)> {
    let mut objects: BTreeMap<usize, usize> = BTreeMap::new();
    let mut scored: BTreeMap<usize, Vec<(f64, bool)>> = BTreeMap::new();
    for picture in pictures {
        for object in &picture.truth {
            *objects.entry(object.class).or_default() += 1;
        }
        for (detection, right) in picture.found.iter().zip(judged(picture)) {
            scored.entry(detection.class).or_default().push((detection.score, right));
        }
    }
    objects
        .into_iter()
        .map(|(class, count)| {
            (class, (count, average_precision(scored.remove(&class).unwrap_or_default(), count)))
        })
        .collect()
}

/// Which detections of a picture are right: from the best down, each takes the object of its class that it overlaps most
/// and that is still free.
fn judged(picture: &ScoredPicture) -> Vec<bool> {
    let mut order: Vec<usize> = (0..picture.found.len()).collect();
    order.sort_by(|&a, &b| picture.found[b].score.total_cmp(&picture.found[a].score));
    let mut taken = vec![false; picture.truth.len()];
    let mut right = vec![false; picture.found.len()];
    for i in order {
        let detection = &picture.found[i];
        let free = picture.truth.iter().enumerate().filter(|(j, t)| !taken[*j] && t.class == detection.class);
        let best = free.map(|(j, t)| (j, detection.at.iou(&t.at))).max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((j, _)) = best.filter(|(_, iou)| *iou >= OVERLAP) {
            taken[j] = true;
            right[i] = true;
        }
    }
    right
}

/// Average precision of one class: of scores, each right or not, and the number of objects there are.
pub fn average_precision(mut scored: Vec<(f64, bool)>, objects: usize) -> f64 {
    if objects == 0 {
        return 0.0;
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut right = 0;
    let mut curve: Vec<(f64, f64)> = Vec::with_capacity(scored.len());
    for (i, (_, is_right)) in scored.iter().enumerate() {
        right += usize::from(*is_right);
        curve.push((right as f64 / objects as f64, right as f64 / (i + 1) as f64));
    }
    // Precision at a recall is the best at that recall or beyond.
    for i in (1..curve.len()).rev() {
        curve[i - 1].1 = curve[i - 1].1.max(curve[i].1);
    }
    let at =
        |recall: f64| curve[curve.partition_point(|point| point.0 < recall)..].first().map_or(0.0, |p| p.1);
    (0..POINTS).map(|i| at(i as f64 / (POINTS - 1) as f64)).sum::<f64>() / POINTS as f64
}
