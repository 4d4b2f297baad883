//! Boxes from the outputs of detectors: raw heads of the YOLO families to detections in the model's input, class-wise
//! non-maximum suppression, and matching.
//!
//! A head is a tensor of one grid, `[1, K, H, W]` or `[1, H, W, K]` (for YOLOv5 also `[1, A, H, W, 5 + C]`), or a list of
//! predictions, `[1, N, K]` or `[1, K, N]`. Grids hold raw numbers, before any sigmoid. Lists are what official exports
//! give: for YOLOv5 and YOLOv8 boxes in pixels and probabilities; for YOLOX probabilities, and boxes relative to their
//! cells.

mod anchors;
mod boxes;
mod grid;
mod heads;
mod list;
#[cfg(test)]
mod tests;

pub use anchors::{Anchors, AnchorsError};
pub use boxes::{Detection, PixelBox, matches, suppress};

use thiserror::Error;

use super::tensor::{NamedTensor, shape_text};
use grid::Grid;

/// Family of a detector: what its raw outputs mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decoder {
    /// YOLOv2: anchors in cells, softmax over classes.
    YoloV2,
    /// YOLOv3: anchors in pixels, independent classes.
    YoloV3,
    /// YOLOv5 (and v7): anchors in pixels, squared sizes.
    YoloV5,
    /// YOLOv8 (and v11): no anchors, distances to the sides as distributions.
    YoloV8,
    /// YOLOX: no anchors, one prediction per cell.
    YoloX,
}

impl Decoder {
    /// Name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::YoloV2 => "yolov2",
            Self::YoloV3 => "yolov3",
            Self::YoloV5 => "yolov5",
            Self::YoloV8 => "yolov8",
            Self::YoloX => "yolox",
        }
    }
}

/// Which detections are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Least score.
    pub score: f64,
    /// Intersection over union past which the weaker of two boxes of a class goes.
    pub iou: f64,
    /// Most detections of a picture.
    pub most: usize,
}

impl Default for Thresholds {
    /// What is shown to people.
    fn default() -> Self {
        Self { score: 0.25, iou: 0.45, most: 300 }
    }
}

/// How outputs become detections.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeSpec {
    /// Family.
    pub decoder: Decoder,
    /// Anchors; those of the official models when `None`.
    pub anchors: Option<Anchors>,
    /// Which detections are kept.
    pub thresholds: Thresholds,
}

/// Why outputs cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// No output looks like a head.
    #[error(
        "none of the outputs ({found}) is a head of {decoder} for an input of {width}x{height} pixels: {expected} is expected"
    )]
    NoHead {
        /// Family.
        decoder: &'static str,
        /// Names and shapes of the outputs.
        found: String,
        /// Columns of the model's input.
        width: u32,
        /// Rows of the model's input.
        height: u32,
        /// What a head looks like.
        expected: &'static str,
    },
    /// The channels of a head do not divide into anchors and classes.
    #[error("head `{head}` has {channels} channels: {expected}")]
    Channels {
        /// ONNX name.
        head: String,
        /// Its channels.
        channels: usize,
        /// What would fit.
        expected: String,
    },
    /// Heads disagree on the number of classes.
    #[error("the heads disagree on the number of classes: {counts:?}")]
    Classes {
        /// Classes by head.
        counts: Vec<usize>,
    },
    /// Anchors do not fit the heads.
    #[error(
        "{given} anchors were given for {heads} heads; give the same number for each head, from the finest grid to the coarsest"
    )]
    Anchors {
        /// Anchors.
        given: usize,
        /// Heads.
        heads: usize,
    },
    /// There are no default anchors.
    #[error("the official {decoder} models have no {heads} heads; give --anchors")]
    NoDefault {
        /// Family.
        decoder: &'static str,
        /// Heads.
        heads: usize,
    },
    /// A list of predictions of a length that no set of grids has.
    #[error("output `{head}` lists {found} predictions; strides 8, 16 and 32 of the input give {expected}")]
    Length {
        /// ONNX name.
        head: String,
        /// Predictions.
        found: usize,
        /// Cells of the usual grids.
        expected: usize,
    },
}

impl DecodeSpec {
    /// Detections of one picture, best first, in pixels of the model's input of `input` columns and rows.
    ///
    /// # Errors
    /// [`DecodeError`] when the outputs are none of this family.
    pub fn decode(&self, outputs: &[NamedTensor], input: [u32; 2]) -> Result<Vec<Detection>, DecodeError> {
        let grids: Vec<Grid<'_>> = outputs.iter().filter_map(|output| Grid::of(output, input)).collect();
        let least = self.thresholds.score;
        let candidates = match self.decoder {
            Decoder::YoloV2 | Decoder::YoloV3 if grids.is_empty() => return Err(self.no_head(outputs, input)),
            Decoder::YoloV2 => heads::yolov2(self, &grids, least)?,
            Decoder::YoloV3 => heads::yolov3(self, &grids, least)?,
            Decoder::YoloV5 if !grids.is_empty() => heads::yolov5(self, &grids, least)?,
            Decoder::YoloV8 if !grids.is_empty() => heads::yolov8(&grids, least)?,
            Decoder::YoloX if !grids.is_empty() => heads::yolox(&grids, least)?,
            Decoder::YoloV5 | Decoder::YoloV8 | Decoder::YoloX => {
                let list = list::find(outputs, self.decoder).ok_or_else(|| self.no_head(outputs, input))?;
                list.decode(self.decoder, input, least)?
            }
        };
        Ok(suppress(candidates, self.thresholds))
    }

    fn no_head(&self, outputs: &[NamedTensor], [width, height]: [u32; 2]) -> DecodeError {
        let found: Vec<String> =
            outputs.iter().map(|o| format!("`{}` {}", o.name, shape_text(&o.shape))).collect();
        let expected = match self.decoder {
            Decoder::YoloV2 | Decoder::YoloV3 => "[1, A*(5+C), H, W] with H and W dividing the input's",
            Decoder::YoloV5 => "[1, A*(5+C), H, W], [1, A, H, W, 5+C] or a list [1, N, 5+C]",
            Decoder::YoloV8 => "[1, 64+C, H, W] or a list [1, 4+C, N]",
            Decoder::YoloX => "[1, 5+C, H, W] or a list [1, N, 5+C]",
        };
        DecodeError::NoHead { decoder: self.decoder.name(), found: found.join(", "), width, height, expected }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
