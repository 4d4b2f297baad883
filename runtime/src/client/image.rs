//! How pictures become this model's input: what the artefact says, and the flags that override it.

use peregrine_data::picture::{Resize, channels, guessed_spec, tensor_shape};
use peregrine_ir::client::{ClientPart, ImageSpec};

use super::error::ClientError;
use super::tensor::shape_text;

/// Preprocessing given by flags; overrides what the model says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preprocessing {
    /// Per-channel mean after division by 255, or one for all.
    pub mean: Option<Vec<f32>>,
    /// Per-channel standard deviation after division by 255, or one for all.
    pub std: Option<Vec<f32>>,
    /// How pictures of another size are brought to the model's.
    pub resize: Resize,
}

/// How pixels become this model's input: the model's own [`ImageSpec`] or one guessed from the input's shape, with the
/// flags applied. `None` when the input is no picture.
///
/// # Errors
/// [`ClientError::Normalisation`] and [`ClientError::NormalisationValue`] when the flags do not fit.
pub fn image_spec(client: &ClientPart, flags: &Preprocessing) -> Result<Option<ImageSpec>, ClientError> {
    let Some(mut spec) = client.image.clone().or_else(|| guessed_spec(&client.input_shape)) else {
        return Ok(None);
    };
    let channels = channels(spec.format);
    spec.mean = normalised(flags.mean.as_ref().unwrap_or(&spec.mean), channels, "mean")?;
    spec.std = normalised(flags.std.as_ref().unwrap_or(&spec.std), channels, "std")?;
    Ok(Some(spec))
}

fn normalised(values: &[f32], channels: usize, flag: &'static str) -> Result<Vec<f32>, ClientError> {
    if let Some(&value) = values.iter().find(|v| !v.is_finite() || (flag == "std" && **v <= 0.0)) {
        return Err(ClientError::NormalisationValue { flag, value });
    }
    match values.len() {
        1 => Ok(vec![values[0]; channels]),
        found if found == channels => Ok(values.to_vec()),
        found => Err(ClientError::Normalisation { flag, found, channels }),
    }
}

/// Checks that an image specification of an artefact describes the model's input.
///
/// # Errors
/// [`ClientError::Shape`].
pub fn check_spec(spec: &ImageSpec, client: &ClientPart) -> Result<(), ClientError> {
    let shape = tensor_shape(spec);
    if shape == client.input_shape {
        return Ok(());
    }
    Err(ClientError::Shape {
        what: "the artefact's image specification".to_owned(),
        found: shape_text(&shape),
        input: client.input_name.clone(),
        expected: shape_text(&client.input_shape),
    })
}
