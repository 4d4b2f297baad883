//! Predictions of raw grids.

use super::anchors::Anchors;
use super::boxes::{Detection, PixelBox};
use super::grid::Grid;
use super::{DecodeError, DecodeSpec, sigmoid};

/// Bins of a distance distribution of YOLOv8.
const BINS: usize = 16;

/// A cell's prediction for one anchor, channels `base..`.
struct Cell<'a> {
    grid: &'a Grid<'a>,
    base: usize,
    row: usize,
    column: usize,
}

impl Cell<'_> {
    fn raw(&self, k: usize) -> f64 {
        self.grid.at(self.base + k, self.row, self.column)
    }

    fn corner(&self) -> [f64; 2] {
        [self.column as f64, self.row as f64]
    }
}

/// Grids from fine to coarse with their anchors, and the number of classes.
type Anchored<'g> = (Vec<(&'g Grid<'g>, Vec<[f64; 2]>)>, usize);

fn anchored<'g>(spec: &DecodeSpec, grids: &'g [Grid<'g>]) -> Result<Anchored<'g>, DecodeError> {
    let sorted = by_stride(grids);
    let anchors = match &spec.anchors {
        Some(anchors) => anchors.clone(),
        None => Anchors::official(spec.decoder, grids.len(), sorted.first().map_or(0, |g| g.channels))?,
    };
    let anchors = anchors.by_head(grids.len())?;
    let classes = sorted.iter().zip(&anchors).map(|(grid, anchors)| {
        let fits = grid.channels.is_multiple_of(anchors.len()) && grid.channels / anchors.len() > 5;
        fits.then(|| grid.channels / anchors.len() - 5).ok_or_else(|| DecodeError::Channels {
            head: grid.name.to_owned(),
            channels: grid.channels,
            expected: format!("{} anchors of 5 + classes numbers are expected", anchors.len()),
        })
    });
    let classes = agreed(classes.collect::<Result<_, _>>()?)?;
    let pairs = sorted.into_iter().zip(anchors).map(|(grid, anchors)| (grid, anchors.to_vec()));
    Ok((pairs.collect(), classes))
}

fn by_stride<'g>(grids: &'g [Grid<'g>]) -> Vec<&'g Grid<'g>> {
    let mut sorted: Vec<&Grid<'_>> = grids.iter().collect();
    sorted.sort_by(|a, b| a.stride.total_cmp(&b.stride));
    sorted
}

fn agreed(counts: Vec<usize>) -> Result<usize, DecodeError> {
    match counts.first() {
        Some(&first) if counts.iter().all(|&c| c == first) => Ok(first),
        _ => Err(DecodeError::Classes { counts }),
    }
}

/// Detections of every class of every cell and anchor that reach `least`.
fn per_class(
    spec: &DecodeSpec,
    grids: &[Grid<'_>],
    least: f64,
    place: impl Fn(&Cell<'_>, [f64; 2]) -> PixelBox,
) -> Result<Vec<Detection>, DecodeError> {
    let (heads, classes) = anchored(spec, grids)?;
    let mut found = Vec::new();
    for (grid, anchors) in heads {
        for (a, anchor) in anchors.iter().enumerate() {
            for (row, column) in grid.cells() {
                let cell = Cell { grid, base: a * (5 + classes), row, column };
                let object = sigmoid(cell.raw(4));
                if object < least {
                    continue;
                }
                let at = place(&cell, *anchor);
                let scores = (0..classes).map(|class| (class, object * sigmoid(cell.raw(5 + class))));
                found.extend(scores.filter(|s| s.1 >= least).map(|(class, score)| Detection {
                    class,
                    score,
                    at,
                }));
            }
        }
    }
    Ok(found)
}

/// x = (column + σ(tx)) · stride, w = anchor · e^tw.
pub(super) fn yolov3(
    spec: &DecodeSpec,
    grids: &[Grid<'_>],
    least: f64,
) -> Result<Vec<Detection>, DecodeError> {
    per_class(spec, grids, least, |cell, anchor| {
        let [column, row] = cell.corner();
        let centre = [column + sigmoid(cell.raw(0)), row + sigmoid(cell.raw(1))];
        let size = [anchor[0] * cell.raw(2).exp(), anchor[1] * cell.raw(3).exp()];
        PixelBox::of_centre(centre.map(|v| v * cell.grid.stride), size)
    })
}

/// x = (column − ½ + 2σ(tx)) · stride, w = anchor · (2σ(tw))².
pub(super) fn yolov5(
    spec: &DecodeSpec,
    grids: &[Grid<'_>],
    least: f64,
) -> Result<Vec<Detection>, DecodeError> {
    per_class(spec, grids, least, |cell, anchor| {
        let [column, row] = cell.corner();
        let twice = |k: usize| 2.0 * sigmoid(cell.raw(k));
        let centre = [column - 0.5 + twice(0), row - 0.5 + twice(1)];
        let size = [anchor[0] * twice(2).powi(2), anchor[1] * twice(3).powi(2)];
        PixelBox::of_centre(centre.map(|v| v * cell.grid.stride), size)
    })
}

/// As YOLOv3 with anchors in cells, and one softmax over the classes of an anchor.
pub(super) fn yolov2(
    spec: &DecodeSpec,
    grids: &[Grid<'_>],
    least: f64,
) -> Result<Vec<Detection>, DecodeError> {
    let (heads, classes) = anchored(spec, grids)?;
    let mut found = Vec::new();
    for (grid, anchors) in heads {
        for (a, anchor) in anchors.iter().enumerate() {
            for (row, column) in grid.cells() {
                let cell = Cell { grid, base: a * (5 + classes), row, column };
                let object = sigmoid(cell.raw(4));
                if object < least {
                    continue;
                }
                let centre = [column as f64 + sigmoid(cell.raw(0)), row as f64 + sigmoid(cell.raw(1))];
                let size = [anchor[0] * cell.raw(2).exp(), anchor[1] * cell.raw(3).exp()];
                let scale = |v: f64| v * grid.stride;
                let at = PixelBox::of_centre(centre.map(scale), size.map(scale));
                let shares = softmax((0..classes).map(|class| cell.raw(5 + class)).collect());
                let scores = shares.into_iter().enumerate().map(|(class, share)| (class, object * share));
                found.extend(scores.filter(|s| s.1 >= least).map(|(class, score)| Detection {
                    class,
                    score,
                    at,
                }));
            }
        }
    }
    Ok(found)
}

/// Distances to the four sides as expected bins, in cells, from the cell's middle.
pub(super) fn yolov8(grids: &[Grid<'_>], least: f64) -> Result<Vec<Detection>, DecodeError> {
    let mut found = Vec::new();
    let grids = by_stride(grids);
    let classes = agreed(classes_beside(&grids, 4 * BINS, "64 bins and at least one class are expected")?)?;
    for grid in grids {
        for (row, column) in grid.cells() {
            let cell = Cell { grid, base: 0, row, column };
            let scores = (0..classes).map(|class| (class, sigmoid(cell.raw(4 * BINS + class))));
            let scores: Vec<(usize, f64)> = scores.filter(|s| s.1 >= least).collect();
            if scores.is_empty() {
                continue;
            }
            let distance = |side: usize| -> f64 {
                let shares = softmax((0..BINS).map(|bin| cell.raw(side * BINS + bin)).collect());
                shares.iter().enumerate().map(|(bin, share)| bin as f64 * share).sum()
            };
            let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
            let sides = [x - distance(0), y - distance(1), x + distance(2), y + distance(3)];
            let at = PixelBox(sides.map(|v| v * grid.stride));
            found.extend(scores.into_iter().map(|(class, score)| Detection { class, score, at }));
        }
    }
    Ok(found)
}

/// x = (column + tx) · stride, w = e^tw · stride; object and classes through a sigmoid.
pub(super) fn yolox(grids: &[Grid<'_>], least: f64) -> Result<Vec<Detection>, DecodeError> {
    let mut found = Vec::new();
    let grids = by_stride(grids);
    let classes = agreed(classes_beside(&grids, 5, "5 numbers and at least one class are expected")?)?;
    for grid in grids {
        for (row, column) in grid.cells() {
            let cell = Cell { grid, base: 0, row, column };
            let object = sigmoid(cell.raw(4));
            if object < least {
                continue;
            }
            let at = yolox_box([column, row], [0, 1, 2, 3].map(|k| cell.raw(k)), grid.stride);
            let scores = (0..classes).map(|class| (class, object * sigmoid(cell.raw(5 + class))));
            found.extend(scores.filter(|s| s.1 >= least).map(|(class, score)| Detection {
                class,
                score,
                at,
            }));
        }
    }
    Ok(found)
}

/// The box of a prediction of YOLOX in a cell.
pub(super) fn yolox_box(cell: [usize; 2], [tx, ty, tw, th]: [f64; 4], stride: f64) -> PixelBox {
    let centre = [cell[0] as f64 + tx, cell[1] as f64 + ty].map(|v| v * stride);
    PixelBox::of_centre(centre, [tw, th].map(|t| t.exp() * stride))
}

fn classes_beside(grids: &[&Grid<'_>], others: usize, expected: &str) -> Result<Vec<usize>, DecodeError> {
    let count = |grid: &&Grid<'_>| {
        grid.channels.checked_sub(others).filter(|&c| c > 0).ok_or_else(|| DecodeError::Channels {
            head: grid.name.to_owned(),
            channels: grid.channels,
            expected: expected.to_owned(),
        })
    };
    grids.iter().map(count).collect()
}

fn softmax(mut values: Vec<f64>) -> Vec<f64> {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter_mut().for_each(|v| *v = (*v - largest).exp());
    let sum: f64 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= sum);
    values
}
