//! Boxes, non-maximum suppression, and matching of two sets of boxes.

use serde::{Deserialize, Serialize};

use super::Thresholds;

/// Most candidates that suppression looks at: a model without an answer must not take minutes.
const MOST_CANDIDATES: usize = 20_000;

/// Left, top, right, bottom in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PixelBox(pub [f64; 4]);

impl PixelBox {
    /// From centre and size.
    pub fn of_centre([x, y]: [f64; 2], [w, h]: [f64; 2]) -> Self {
        Self([x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0])
    }

    /// Area; zero when a side is reversed.
    pub fn area(&self) -> f64 {
        let [left, top, right, bottom] = self.0;
        (right - left).max(0.0) * (bottom - top).max(0.0)
    }

    /// Intersection over union.
    pub fn iou(&self, other: &Self) -> f64 {
        let ([l, t, r, b], [ol, ot, or, ob]) = (self.0, other.0);
        let inside = Self([l.max(ol), t.max(ot), r.min(or), b.min(ob)]).area();
        let union = self.area() + other.area() - inside;
        if union > 0.0 { inside / union } else { 0.0 }
    }
}

/// An object found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Class.
    pub class: usize,
    /// Score in 0..=1.
    pub score: f64,
    /// Where it is.
    pub at: PixelBox,
}

impl Detection {
    /// Whether every number is one.
    pub fn is_finite(&self) -> bool {
        self.score.is_finite() && self.at.0.iter().all(|v| v.is_finite())
    }
}

/// Class-wise non-maximum suppression: from the best score down, a box goes when a better one of its class overlaps it by
/// more than the threshold. Equal scores keep their order; boxes that are no numbers go.
pub fn suppress(mut candidates: Vec<Detection>, thresholds: Thresholds) -> Vec<Detection> {
    candidates.retain(|d| d.is_finite() && d.score >= thresholds.score);
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    candidates.truncate(MOST_CANDIDATES);
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in candidates {
        if kept.len() == thresholds.most {
            break;
        }
        let covered = |k: &Detection| k.class == candidate.class && k.at.iou(&candidate.at) > thresholds.iou;
        if !kept.iter().any(covered) {
            kept.push(candidate);
        }
    }
    kept
}

/// Pairs of boxes of one class from `a` and `b` that overlap by at least `least`, with their overlap: best overlap first,
/// each box once.
pub fn matches(a: &[Detection], b: &[Detection], least: f64) -> Vec<(usize, usize, f64)> {
    let mut pairs: Vec<(usize, usize, f64)> = (0..a.len())
        .flat_map(|i| (0..b.len()).map(move |j| (i, j)))
        .filter(|&(i, j)| a[i].class == b[j].class)
        .map(|(i, j)| (i, j, a[i].at.iou(&b[j].at)))
        .filter(|&(_, _, iou)| iou >= least)
        .collect();
    pairs.sort_by(|x, y| y.2.total_cmp(&x.2).then((x.0, x.1).cmp(&(y.0, y.1))));
    let (mut left, mut right) = (vec![false; a.len()], vec![false; b.len()]);
    pairs.retain(|&(i, j, _)| {
        let free = !left[i] && !right[j];
        if free {
            (left[i], right[j]) = (true, true);
        }
        free
    });
    pairs.sort_by_key(|&(i, _, _)| i);
    pairs
}
