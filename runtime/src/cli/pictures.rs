//! Flags about pictures and detectors, shared by the main job and `eval`.

use clap::{Args, ValueEnum};
use peregrine_data::picture::Resize;
use peregrine_runtime::client::decode::{Anchors, DecodeSpec, Decoder, Thresholds};
use peregrine_runtime::client::{ClientError, Preprocessing};

/// How pictures become model inputs.
#[derive(Debug, Args)]
pub struct PictureFlags {
    /// Per-channel mean subtracted from pixel / 255, as 0.49,0.48,0.45; overrides the model's.
    #[arg(long, value_name = "M,...", value_delimiter = ',', allow_hyphen_values = true)]
    mean: Option<Vec<f32>>,
    /// Per-channel standard deviation that pixel / 255 - mean is divided by; overrides the model's.
    #[arg(long, value_name = "S,...", value_delimiter = ',', allow_hyphen_values = true)]
    std: Option<Vec<f32>>,
    /// How a picture of another size is brought to the model's; default: letterbox with --decoder, else stretch.
    #[arg(long, value_enum)]
    resize: Option<ResizeFlag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ResizeFlag {
    /// By one factor, centred between grey bars.
    Letterbox,
    /// Each axis on its own.
    Stretch,
}

impl PictureFlags {
    /// The preprocessing; detectors are letterboxed unless told otherwise.
    pub fn preprocessing(&self, detector: Option<&DecodeSpec>) -> Preprocessing {
        let resize = match (self.resize, detector) {
            (Some(ResizeFlag::Letterbox), _) | (None, Some(_)) => Resize::Letterbox,
            (Some(ResizeFlag::Stretch), _) | (None, None) => Resize::Stretch,
        };
        Preprocessing { mean: self.mean.clone(), std: self.std.clone(), resize }
    }
}

/// How a detector's outputs become boxes.
#[derive(Debug, Args)]
pub struct DetectorFlags {
    /// Decode the outputs as those of a detector of this family.
    #[arg(long, value_enum)]
    decoder: Option<DecoderFlag>,
    /// Anchors as w,h,w,h,... or a file of them, from the finest grid to the coarsest: pixels of the model's input, for
    /// yolov2 cells; default: those of the official model.
    #[arg(long, value_name = "LIST|FILE", requires = "decoder")]
    anchors: Option<String>,
    /// Least score of a box.
    #[arg(long, value_name = "S", requires = "decoder", value_parser = share)]
    score: Option<f64>,
    /// Overlap past which the weaker of two boxes of a class is dropped.
    #[arg(long, value_name = "IOU", requires = "decoder", value_parser = share)]
    iou: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DecoderFlag {
    Yolov2,
    Yolov3,
    Yolov5,
    Yolov8,
    Yolox,
}

impl DetectorFlags {
    /// The decoder asked for, with `defaults` where no threshold is given.
    ///
    /// # Errors
    /// When the anchors cannot be read.
    pub fn spec(&self, defaults: Thresholds) -> Result<Option<DecodeSpec>, ClientError> {
        let decoder = match self.decoder {
            None => return Ok(None),
            Some(DecoderFlag::Yolov2) => Decoder::YoloV2,
            Some(DecoderFlag::Yolov3) => Decoder::YoloV3,
            Some(DecoderFlag::Yolov5) => Decoder::YoloV5,
            Some(DecoderFlag::Yolov8) => Decoder::YoloV8,
            Some(DecoderFlag::Yolox) => Decoder::YoloX,
        };
        let anchors = self.anchors.as_deref().map(Anchors::of_flag).transpose()?;
        let thresholds = Thresholds {
            score: self.score.unwrap_or(defaults.score),
            iou: self.iou.unwrap_or(defaults.iou),
            most: defaults.most,
        };
        Ok(Some(DecodeSpec { decoder, anchors, thresholds }))
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|v: &f64| (0.0..=1.0).contains(v));
    value.ok_or_else(|| "a number from 0 to 1 is expected".to_owned())
}
