//! Constant tensors: weights as `f32`, per-channel factors and polynomial coefficients as `f64`.

use std::sync::Arc;

use crate::entity::PrimaryMap;

crate::entity_id!(
    /// Names a constant of a [`ConstPool`]; prints as `c0`.
    ConstId, "c"
);

/// The numbers of a constant, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum ConstData {
    /// Weights and other numbers that come from a model.
    F32(Arc<[f32]>),
    /// Numbers that the compiler computes and that need more than 24 bits.
    F64(Arc<[f64]>),
}

/// A constant tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstTensor {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` numbers.
    pub data: ConstData,
}

impl ConstTensor {
    /// An `f32` tensor. The caller provides exactly `shape.iter().product()` numbers.
    pub fn f32(shape: impl Into<Vec<usize>>, data: impl Into<Arc<[f32]>>) -> Self {
        Self { shape: shape.into(), data: ConstData::F32(data.into()) }
    }
    /// An `f64` tensor. The caller provides exactly `shape.iter().product()` numbers.
    pub fn f64(shape: impl Into<Vec<usize>>, data: impl Into<Arc<[f64]>>) -> Self {
        Self { shape: shape.into(), data: ConstData::F64(data.into()) }
    }
    /// Number of elements held.
    pub fn len(&self) -> usize {
        match &self.data {
            ConstData::F32(d) => d.len(),
            ConstData::F64(d) => d.len(),
        }
    }
    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Element `i` of the row-major data.
    pub fn at(&self, i: usize) -> f64 {
        match &self.data {
            ConstData::F32(d) => f64::from(d[i]),
            ConstData::F64(d) => d[i],
        }
    }
    /// All elements as `f64`.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.at(i)).collect()
    }
    /// All elements as `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.data {
            ConstData::F32(d) => d.to_vec(),
            ConstData::F64(d) => d.iter().map(|&x| x as f32).collect(),
        }
    }
}

/// All constants of a graph or program.
pub type ConstPool = PrimaryMap<ConstId, ConstTensor>;
