//! The client section.

use prost::Message;

use super::decode::{DecodeError, shape};
use super::proto;
use crate::client::{ClientPart, ClientTensor, ImageOrder, ImageSpec, PixelFormat, RangeRecord};

pub(super) fn encode(client: &ClientPart) -> Vec<u8> {
    let extents = |shape: &[usize]| shape.iter().map(|&extent| extent as u64).collect();
    let range =
        |r: &RangeRecord| proto::Range { layer: r.layer.clone(), low: r.low.clone(), high: r.high.clone() };
    let sample = client.sample.as_ref();
    let message = proto::Client {
        image: client.image.as_ref().map(encode_image),
        input_name: client.input_name.clone(),
        input_shape: extents(&client.input_shape),
        head: client.head.clone(),
        tail: client.tail.clone(),
        labels: client.labels.clone(),
        sample: sample.map(|s| proto::Tensor { shape: extents(&s.shape), data: s.data.clone() }),
        ranges: client.ranges.iter().map(range).collect(),
        model_hash: client.model_hash.to_vec(),
        compiler: client.compiler.clone(),
    };
    message.encode_to_vec()
}

fn encode_image(image: &ImageSpec) -> proto::Image {
    let format = match image.format {
        PixelFormat::Gray => proto::PixelFormat::Gray,
        PixelFormat::Rgb => proto::PixelFormat::Rgb,
    };
    let order = match image.order {
        ImageOrder::Nchw => proto::ImageOrder::Nchw,
        ImageOrder::Nhwc => proto::ImageOrder::Nhwc,
    };
    proto::Image {
        format: format.into(),
        order: order.into(),
        height: image.height,
        width: image.width,
        mean: image.mean.clone(),
        std: image.std.clone(),
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<ClientPart, DecodeError> {
    let client = proto::Client::decode(bytes)?;
    let hash_length = client.model_hash.len() as u64;
    let model_hash = <[u8; 32]>::try_from(client.model_hash).map_err(|_| DecodeError::Length {
        part: "the model's hash",
        expected: 32,
        found: hash_length,
    })?;
    Ok(ClientPart {
        image: client.image.map(decode_image).transpose()?,
        input_name: client.input_name,
        input_shape: shape(&client.input_shape, "input shape", 0)?.0,
        head: client.head,
        tail: client.tail,
        labels: client.labels,
        sample: client.sample.map(decode_sample).transpose()?,
        ranges: client.ranges.into_iter().enumerate().map(decode_range).collect::<Result<_, _>>()?,
        model_hash,
        compiler: client.compiler,
    })
}

fn decode_image(image: proto::Image) -> Result<ImageSpec, DecodeError> {
    let missing = |field| DecodeError::Missing { part: "image", index: 0, field };
    let (format, channels) = match image.format() {
        proto::PixelFormat::Gray => (PixelFormat::Gray, 1),
        proto::PixelFormat::Rgb => (PixelFormat::Rgb, 3),
        proto::PixelFormat::Unspecified => return Err(missing("pixel format")),
    };
    let order = match image.order() {
        proto::ImageOrder::Nchw => ImageOrder::Nchw,
        proto::ImageOrder::Nhwc => ImageOrder::Nhwc,
        proto::ImageOrder::Unspecified => return Err(missing("axis order")),
    };
    let per_channel = image.mean.len() == channels && image.std.len() == channels;
    let usable =
        image.mean.iter().all(|m| m.is_finite()) && image.std.iter().all(|s| s.is_finite() && *s > 0.0);
    if !per_channel || !usable {
        return Err(missing("mean and positive standard deviation per channel"));
    }
    for (field, value) in [("height", image.height), ("width", image.width)] {
        if !(1..=1 << 16).contains(&value) {
            return Err(DecodeError::Range { part: "image", index: 0, field, value: u64::from(value) });
        }
    }
    let (height, width) = (image.height, image.width);
    Ok(ImageSpec { format, order, height, width, mean: image.mean, std: image.std })
}

fn decode_sample(sample: proto::Tensor) -> Result<ClientTensor, DecodeError> {
    let (shape, elements) = shape(&sample.shape, "sample", 0)?;
    let found = 4 * sample.data.len() as u64;
    if found != 4 * elements {
        return Err(DecodeError::Length { part: "the sample", expected: 4 * elements, found });
    }
    Ok(ClientTensor { shape, data: sample.data })
}

fn decode_range((index, range): (usize, proto::Range)) -> Result<RangeRecord, DecodeError> {
    if range.low.len() != range.high.len() {
        return Err(DecodeError::Missing { part: "range", index, field: "lower or upper bounds" });
    }
    Ok(RangeRecord { layer: range.layer, low: range.low, high: range.high })
}
