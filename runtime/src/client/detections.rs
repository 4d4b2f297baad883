//! From the outputs of a detector to boxes on the user's picture.

use peregrine_data::picture::Placement;

use super::decode::{DecodeSpec, Detection, PixelBox};
use super::error::ClientError;
use super::tensor::NamedTensor;

/// Detections in pixels of the picture (of the model's input where there is no picture), best first.
///
/// # Errors
/// [`ClientError::NoPicture`] when the model's input is no picture, [`ClientError::Decode`] when the outputs are not those
/// of the decoder's family.
pub fn detections(
    spec: &DecodeSpec,
    outputs: &[NamedTensor],
    input: Option<[u32; 2]>,
    placement: Option<Placement>,
) -> Result<Vec<Detection>, ClientError> {
    let input = input.ok_or(ClientError::NoPicture { flag: "decoder" })?;
    let found = spec.decode(outputs, input)?;
    Ok(match placement {
        None => found,
        Some(placement) => found.into_iter().map(|d| on_picture(d, &placement)).collect(),
    })
}

fn on_picture(detection: Detection, placement: &Placement) -> Detection {
    let [left, top, right, bottom] = detection.at.0;
    let at = PixelBox([
        placement.to_picture(0, left),
        placement.to_picture(1, top),
        placement.to_picture(0, right),
        placement.to_picture(1, bottom),
    ]);
    Detection { at, ..detection }
}

#[cfg(test)]
mod tests {
    use peregrine_data::picture::Resize;

    use super::super::decode::{Decoder, Thresholds};
    use super::*;

    #[test]
    fn boxes_are_mapped_back_through_the_letterbox_and_clipped() {
        // A 200x100 picture in 64x64: factor 0.32, 16 rows above.
        let (placement, _) = Placement::of([200, 100], [64, 64], Resize::Letterbox);
        let list = NamedTensor {
            name: "y".to_owned(),
            shape: vec![1, 5, 6],
            data: [
                [32.0, 32.0, 16.0, 16.0, 0.9],
                [0.0; 5],
                [60.0, 32.0, 32.0, 48.0, 0.8],
                [0.0; 5],
                [0.0; 5],
                [0.0; 5],
            ]
            .iter()
            .enumerate()
            .fold(vec![0.0; 30], |mut data, (i, values)| {
                values.iter().enumerate().for_each(|(k, v)| data[k * 6 + i] = *v);
                data
            }),
        };
        let spec = DecodeSpec { decoder: Decoder::YoloV8, anchors: None, thresholds: Thresholds::default() };
        let found =
            detections(&spec, std::slice::from_ref(&list), Some([64, 64]), Some(placement)).expect("boxes");
        assert_eq!(found[0].at, PixelBox([75.0, 25.0, 125.0, 75.0]));
        assert_eq!(found[1].at, PixelBox([137.5, 0.0, 200.0, 100.0]));
        assert!(matches!(detections(&spec, &[list], None, None), Err(ClientError::NoPicture { .. })));
    }
}
