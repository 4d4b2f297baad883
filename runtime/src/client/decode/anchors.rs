//! Anchors: widths and heights that predictions are relative to.

use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::{DecodeError, Decoder};

/// Anchors of all heads, from the finest grid to the coarsest: pixels of the model's input, for YOLOv2 cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Anchors(Vec<[f64; 2]>);

/// Text that is no list of anchors.
#[derive(Debug, Error)]
pub enum AnchorsError {
    /// A file that cannot be read.
    #[error("cannot read the anchors {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not an even number of positive numbers.
    #[error("`{0}` is no list of anchors: positive numbers w,h,w,h,... are expected, or a file of them")]
    List(String),
}

/// YOLOv3, tiny, at 416 pixels.
const YOLOV3_TINY: &[[f64; 2]] =
    &[[10., 14.], [23., 27.], [37., 58.], [81., 82.], [135., 169.], [344., 319.]];
/// YOLOv3 and YOLOv5.
const YOLOV3: &[[f64; 2]] = &[
    [10., 13.],
    [16., 30.],
    [33., 23.],
    [30., 61.],
    [62., 45.],
    [59., 119.],
    [116., 90.],
    [156., 198.],
    [373., 326.],
];
/// YOLOv2 on COCO, in cells.
const YOLOV2_COCO: &[[f64; 2]] =
    &[[0.57273, 0.677385], [1.87446, 2.06253], [3.33843, 5.47434], [7.88282, 3.52778], [9.77052, 9.16828]];
/// YOLOv2, tiny, on Pascal VOC, in cells.
const YOLOV2_TINY_VOC: &[[f64; 2]] =
    &[[1.08, 1.19], [3.42, 4.41], [6.63, 11.38], [9.42, 5.11], [16.62, 10.52]];
/// Classes of Pascal VOC.
const VOC_CLASSES: usize = 20;

impl Anchors {
    /// From a list `w,h,w,h,...` or the path of a file of numbers.
    ///
    /// # Errors
    /// [`AnchorsError`].
    pub fn of_flag(text: &str) -> Result<Self, AnchorsError> {
        if let Ok(anchors) = text.parse() {
            return Ok(anchors);
        }
        let path = PathBuf::from(text);
        if !path.exists() {
            return Err(AnchorsError::List(text.to_owned()));
        }
        let content = std::fs::read_to_string(&path).map_err(|source| AnchorsError::Read { path, source })?;
        content.parse().map_err(|_| AnchorsError::List(text.to_owned()))
    }

    /// Anchors of the official model of `heads` heads.
    pub(super) fn official(decoder: Decoder, heads: usize, channels: usize) -> Result<Self, DecodeError> {
        let anchors = match (decoder, heads) {
            (Decoder::YoloV2, 1) if channels == YOLOV2_TINY_VOC.len() * (5 + VOC_CLASSES) => YOLOV2_TINY_VOC,
            (Decoder::YoloV2, 1) => YOLOV2_COCO,
            (Decoder::YoloV3, 2) => YOLOV3_TINY,
            (Decoder::YoloV3 | Decoder::YoloV5, 3) => YOLOV3,
            (_, _) => return Err(DecodeError::NoDefault { decoder: decoder.name(), heads }),
        };
        Ok(Self(anchors.to_vec()))
    }

    /// The anchors of each of `heads` heads.
    pub(super) fn by_head(&self, heads: usize) -> Result<Vec<&[[f64; 2]]>, DecodeError> {
        let given = self.0.len();
        if heads == 0 || given == 0 || !given.is_multiple_of(heads) {
            return Err(DecodeError::Anchors { given, heads });
        }
        Ok(self.0.chunks(given / heads).collect())
    }
}

impl FromStr for Anchors {
    type Err = AnchorsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split(|c: char| c.is_whitespace() || ",;[]()".contains(c)).filter(|w| !w.is_empty());
        let numbers: Option<Vec<f64>> =
            words.map(|w| w.parse().ok().filter(|v: &f64| v.is_finite() && *v > 0.0)).collect();
        match numbers.as_deref().map(<[f64]>::as_chunks::<2>) {
            Some((pairs, [])) if !pairs.is_empty() => Ok(Self(pairs.to_vec())),
            _ => Err(AnchorsError::List(text.to_owned())),
        }
    }
}
