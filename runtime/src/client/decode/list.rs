//! Predictions that the model lists itself, as official exports do.

use super::super::tensor::NamedTensor;
use super::boxes::{Detection, PixelBox};
use super::heads::yolox_box;
use super::{DecodeError, Decoder};

/// Strides of the grids that YOLOX lists one after the other.
const STRIDES: [usize; 3] = [8, 16, 32];

/// A list of predictions of `values` numbers each.
pub(super) struct List<'a> {
    tensor: &'a NamedTensor,
    count: usize,
    values: usize,
    /// Distance in the data of neighbouring predictions and of their numbers.
    strides: [usize; 2],
}

/// The longest output that is a list of predictions. Exports of YOLOv8 put predictions last, the others first; a model has
/// more predictions than numbers in each, so that both orders are told apart.
pub(super) fn find<'a>(outputs: &'a [NamedTensor], decoder: Decoder) -> Option<List<'a>> {
    let least = match decoder {
        Decoder::YoloV8 => 5,
        Decoder::YoloV2 | Decoder::YoloV3 | Decoder::YoloV5 | Decoder::YoloX => 6,
    };
    let list = |tensor: &'a NamedTensor| match *tensor.shape.as_slice() {
        [1, a, b] | [a, b] if a.max(b) > a.min(b) && a.min(b) >= least => {
            let (count, values, strides) = if a > b { (a, b, [b, 1]) } else { (b, a, [1, b]) };
            Some(List { tensor, count, values, strides })
        }
        _ => None,
    };
    outputs.iter().filter_map(list).max_by_key(|list| list.count)
}

impl List<'_> {
    fn at(&self, prediction: usize, value: usize) -> f64 {
        self.tensor.data[prediction * self.strides[0] + value * self.strides[1]]
    }

    pub(super) fn decode(
        &self,
        decoder: Decoder,
        input: [u32; 2],
        least: f64,
    ) -> Result<Vec<Detection>, DecodeError> {
        let cells = match decoder {
            Decoder::YoloX => self.cells(input)?,
            Decoder::YoloV2 | Decoder::YoloV3 | Decoder::YoloV5 | Decoder::YoloV8 => Vec::new(),
        };
        let first = if decoder == Decoder::YoloV8 { 4 } else { 5 };
        let mut found = Vec::new();
        for i in 0..self.count {
            let object = if first == 5 { self.at(i, 4) } else { 1.0 };
            if object < least {
                continue;
            }
            let numbers = [0, 1, 2, 3].map(|k| self.at(i, k));
            let at = match cells.get(i) {
                Some(&(cell, stride)) => yolox_box(cell, numbers, stride),
                None => PixelBox::of_centre([numbers[0], numbers[1]], [numbers[2], numbers[3]]),
            };
            let scores = (first..self.values).map(|k| (k - first, object * self.at(i, k)));
            found.extend(scores.filter(|s| s.1 >= least).map(|(class, score)| Detection {
                class,
                score,
                at,
            }));
        }
        Ok(found)
    }

    /// Cell (column, row) and stride of each prediction.
    fn cells(&self, [width, height]: [u32; 2]) -> Result<Vec<([usize; 2], f64)>, DecodeError> {
        let mut cells = Vec::new();
        for stride in STRIDES {
            let (columns, rows) = (width as usize / stride, height as usize / stride);
            cells.extend((0..rows * columns).map(|i| ([i % columns, i / columns], stride as f64)));
        }
        if cells.len() == self.count {
            return Ok(cells);
        }
        let (head, found, expected) = (self.tensor.name.clone(), self.count, cells.len());
        Err(DecodeError::Length { head, found, expected })
    }
}
