//! From samples to the network's input: augmentation, normalisation, the client's head.

use fastrand::Rng;
use peregrine_compiler::oracle::Tract;
use peregrine_data::picture::Resize;
use peregrine_data::set::InputFormat;
use peregrine_ir::client::{ClientTensor, ImageOrder, ImageSpec};
use rayon::prelude::*;

use super::{TrainError, mix};
use crate::data::augment::Augment;
use crate::data::{Dataset, Pixels, Sample};
use crate::tensor::{Pool, Shape, Tensor};

/// What happens to a sample before the network.
#[derive(Clone, Debug)]
pub struct Preprocessing {
    /// Normalisation of pictures.
    pub image: Option<ImageSpec>,
    /// Shape of the model's input.
    pub shape: Vec<usize>,
    /// ONNX model between the model's input and the network.
    pub head: Option<Tract>,
    /// The network's input.
    pub input: Shape,
}

/// Samples as inputs.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Samples.
    pub data: &'a Dataset,
    /// What happens to them.
    pub preprocessing: &'a Preprocessing,
}

impl Inputs<'_> {
    /// A batch; with a seed, augmented.
    ///
    /// # Errors
    /// A picture cannot be decoded, or the head fails.
    pub fn batch(
        &self,
        indices: &[usize],
        augment: Option<(Augment, u64)>,
        pool: &mut Pool,
    ) -> Result<Tensor, TrainError> {
        let mut batch = pool.take(Shape { n: indices.len(), ..self.preprocessing.input });
        batch.images_mut().zip(indices).enumerate().try_for_each(|(i, (out, &index))| {
            let mut sample = self.data.sample(index)?;
            if let (Sample::Pixels(bytes), Some((augment, seed)), Some(pixels)) =
                (&mut sample, augment, self.data.pixels())
            {
                *bytes = augment.apply(bytes, pixels, &mut Rng::with_seed(mix(seed, i as u64)));
            }
            self.preprocessing.write(&sample, out)
        })?;
        Ok(batch)
    }

    /// At most `most` batches of up to `size` samples, each spread over all data, without augmentation: data are often sorted
    /// by class, and a part of them would stand for some classes only.
    pub fn spread(&self, size: usize, most: usize) -> impl Iterator<Item = Result<Tensor, TrainError>> + '_ {
        let count = self.data.len();
        let taken = count.min(size * most);
        let batches = taken.div_ceil(size.max(1));
        (0..batches).map(move |first| {
            let indices: Vec<usize> = (first..taken).step_by(batches).map(|i| i * count / taken).collect();
            self.batch(&indices, None, &mut Pool::default())
        })
    }

    /// Batches of up to `size` samples, in order, without augmentation.
    pub fn batches(
        &self,
        size: usize,
    ) -> impl Iterator<Item = Result<(Vec<usize>, Tensor), TrainError>> + '_ {
        let count = self.data.len();
        (0..count).step_by(size).map(move |start| {
            let indices: Vec<usize> = (start..(start + size).min(count)).collect();
            let batch = self.batch(&indices, None, &mut Pool::default())?;
            Ok((indices, batch))
        })
    }
}

impl Preprocessing {
    /// Size of pictures that fit.
    pub fn pixels(&self) -> Option<Pixels> {
        self.image.as_ref().map(Pixels::of)
    }

    /// Whether samples become the same inputs; heads are taken to differ.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.image == other.image && self.shape == other.shape && self.head.is_none() && other.head.is_none()
    }

    /// What samples are turned into.
    pub fn format(&self) -> InputFormat<'_> {
        InputFormat { shape: &self.shape, image: self.image.as_ref(), resize: Resize::Stretch }
    }

    /// Writes the network's input for a sample: NHWC.
    fn write(&self, sample: &Sample, out: &mut [f32]) -> Result<(), TrainError> {
        let planes = |values: &[f32], out: &mut [f32]| {
            let (c, map) = (self.input.c, self.input.h * self.input.w);
            out.iter_mut().enumerate().for_each(|(i, o)| *o = values[i % c * map + i / c]);
        };
        match (sample, &self.head, &self.image) {
            (Sample::Pixels(bytes), None, Some(spec)) => normalise(bytes, spec, out),
            (Sample::Pixels(bytes), Some(head), Some(spec)) => {
                let mut pixels = vec![0.0; bytes.len()];
                normalise(bytes, spec, &mut pixels);
                let (c, map) = (spec.mean.len(), bytes.len() / spec.mean.len());
                let data = match spec.order {
                    ImageOrder::Nhwc => pixels,
                    ImageOrder::Nchw => (0..bytes.len()).map(|i| pixels[i % map * c + i / map]).collect(),
                };
                planes(&self.through(head, data)?, out);
            }
            (Sample::Input(values), Some(head), _) => planes(&self.through(head, values.clone())?, out),
            (Sample::Input(values), None, _) => planes(values, out),
            (Sample::Pixels(_), _, None) => out.fill(0.0),
        }
        Ok(())
    }

    fn through(&self, head: &Tract, data: Vec<f32>) -> Result<Vec<f32>, TrainError> {
        let input = ClientTensor { shape: self.shape.clone(), data };
        let mut outputs = head.run(&input).map_err(|e| TrainError::Head(e.to_string()))?;
        Ok(outputs.swap_remove(0).data)
    }
}

/// Divides by 255, subtracts the mean, divides by the standard deviation.
fn normalise(bytes: &[u8], spec: &ImageSpec, out: &mut [f32]) {
    let c = spec.mean.len();
    for (out, pixel) in out.chunks_exact_mut(c).zip(bytes.chunks_exact(c)) {
        for i in 0..c {
            out[i] = (f32::from(pixel[i]) / 255.0 - spec.mean[i]) / spec.std[i];
        }
    }
}
