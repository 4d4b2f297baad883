//! Batches of images, NHWC in `f32`, and a pool that recycles their memory: a training step would otherwise spend a fifth of
//! its time in page faults.

use std::collections::BTreeMap;

use rayon::prelude::*;

/// Extents of a batch of images: pixels are rows of `c` consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images.
    pub n: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl Shape {
    /// Numbers of one image.
    pub fn image(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Numbers of all images.
    pub fn len(&self) -> usize {
        self.n * self.image()
    }

    /// Whether there is no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pixels of all images.
    pub fn pixels(&self) -> usize {
        self.n * self.h * self.w
    }

    /// The same images with other channels.
    pub fn with_channels(self, c: usize) -> Self {
        Self { c, ..self }
    }
}

/// A batch of images, image after image.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents.
    pub shape: Shape,
    /// `shape.len()` numbers.
    pub data: Vec<f32>,
}

impl Tensor {
    /// All zero.
    pub fn zeros(shape: Shape) -> Self {
        Self { shape, data: vec![0.0; shape.len()] }
    }

    /// Images, in parallel.
    pub fn images(&self) -> rayon::slice::Chunks<'_, f32> {
        self.data.par_chunks(self.shape.image().max(1))
    }

    /// Images, in parallel, to be written.
    pub fn images_mut(&mut self) -> rayon::slice::ChunksMut<'_, f32> {
        self.data.par_chunks_mut(self.shape.image().max(1))
    }
}

/// Recycled memory of tensors.
#[derive(Debug, Default)]
pub struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
}

impl Pool {
    /// A tensor with unspecified numbers, for operations that write every one.
    pub fn take(&mut self, shape: Shape) -> Tensor {
        match self.free.get_mut(&shape.len()).and_then(Vec::pop) {
            Some(data) => Tensor { shape, data },
            None => Tensor::zeros(shape),
        }
    }

    /// A copy of a tensor.
    pub fn copy(&mut self, tensor: &Tensor) -> Tensor {
        let mut copy = self.take(tensor.shape);
        copy.data.copy_from_slice(&tensor.data);
        copy
    }

    /// Takes a tensor back.
    pub fn give(&mut self, tensor: Tensor) {
        self.free.entry(tensor.data.len()).or_default().push(tensor.data);
    }
}
