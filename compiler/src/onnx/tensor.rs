//! Constant ONNX tensors: checked once, decoded on use.

use std::sync::Arc;

use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::prelude::{DatumType, Tensor};

use super::error::ImportError;

/// Most elements one constant may have.
pub(crate) const MAX_ELEMENTS: usize = 1 << 29;

/// A constant of the model; its data has been checked against its shape and type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Constant {
    proto: Arc<TensorProto>,
    shape: Vec<usize>,
    kind: DataType,
}

impl Constant {
    /// Checks type, dimensions and amount of data.
    pub(crate) fn new(proto: TensorProto) -> Result<Self, ImportError> {
        let bad = |why: String| ImportError::BadTensor { tensor: proto.name.clone(), why };
        if proto.data_location == Some(DataLocation::External as i32) || !proto.external_data.is_empty() {
            return Err(ImportError::ExternalData { tensor: proto.name.clone() });
        }
        let kind = DataType::try_from(proto.data_type)
            .map_err(|_| bad(format!("unknown type {}", proto.data_type)))?;
        let shape = proto.dims.iter().map(|&d| usize::try_from(d));
        let shape = shape.collect::<Result<Vec<usize>, _>>().map_err(|_| bad("negative dimension".into()))?;
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d).filter(|&n| n <= MAX_ELEMENTS));
        let len = len.ok_or_else(|| bad(format!("more than {MAX_ELEMENTS} elements")))?;
        let width = width(kind)
            .ok_or_else(|| bad(format!("element type {} is not supported", kind.as_str_name())))?;
        let held =
            if proto.raw_data.is_empty() { typed_len(&proto, kind) } else { proto.raw_data.len() / width };
        if held != len || !proto.raw_data.len().is_multiple_of(width) {
            return Err(bad(format!("its shape has {len} elements, its data {held}")));
        }
        Ok(Self { proto: Arc::new(proto), shape, kind })
    }

    /// Integers (a shape).
    pub(crate) fn ints(shape: Vec<usize>, values: &[i64]) -> Self {
        let proto = TensorProto {
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: DataType::Int64 as i32,
            int64_data: values.to_vec(),
            ..TensorProto::default()
        };
        Self { proto: Arc::new(proto), shape, kind: DataType::Int64 }
    }

    /// Floats.
    pub(crate) fn floats(shape: Vec<usize>, values: &[f32]) -> Self {
        let proto = TensorProto {
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: DataType::Float as i32,
            raw_data: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            ..TensorProto::default()
        };
        Self { proto: Arc::new(proto), shape, kind: DataType::Float }
    }

    /// A tract tensor of a plain numeric type.
    pub(crate) fn from_tract(tensor: &Tensor) -> Option<Self> {
        let shape = tensor.shape().to_vec();
        if tensor.datum_type() == DatumType::F32 {
            return Some(Self::floats(
                shape,
                tensor.to_plain_array_view::<f32>().ok()?.as_standard_layout().as_slice()?,
            ));
        }
        if tensor.datum_type() == DatumType::Bool {
            let ints = tensor.cast_to::<u8>().ok()?;
            let raw_data = ints.to_plain_array_view::<u8>().ok()?.iter().copied().collect();
            let dims = shape.iter().map(|&d| d as i64).collect();
            let proto =
                TensorProto { dims, data_type: DataType::Bool as i32, raw_data, ..TensorProto::default() };
            return Self::new(proto).ok();
        }
        if tensor.datum_type().is_float() {
            let floats = tensor.cast_to::<f32>().ok()?;
            return Some(Self::floats(
                shape,
                floats.to_plain_array_view::<f32>().ok()?.as_standard_layout().as_slice()?,
            ));
        }
        let ints = tensor.cast_to::<i64>().ok()?;
        Some(Self::ints(shape, ints.to_plain_array_view::<i64>().ok()?.as_standard_layout().as_slice()?))
    }

    /// The tensor as an initialiser called `name`.
    pub(crate) fn initializer(&self, name: &str) -> TensorProto {
        TensorProto { name: name.to_owned(), ..(*self.proto).clone() }
    }

    /// Extents.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// All elements as `f64`, row-major.
    pub(crate) fn to_f64(&self) -> Vec<f64> {
        let p = &*self.proto;
        let raw = &p.raw_data;
        if raw.is_empty() {
            return match self.kind {
                DataType::Float => p.float_data.iter().map(|&x| f64::from(x)).collect(),
                DataType::Double => p.double_data.clone(),
                DataType::Int64 => p.int64_data.iter().map(|&x| x as f64).collect(),
                DataType::Uint32 | DataType::Uint64 => p.uint64_data.iter().map(|&x| x as f64).collect(),
                DataType::Float16 => p.int32_data.iter().map(|&x| half_to_f64(x as u16)).collect(),
                DataType::Bfloat16 => p.int32_data.iter().map(|&x| bfloat_to_f64(x as u16)).collect(),
                _ => p.int32_data.iter().map(|&x| f64::from(x)).collect(),
            };
        }
        match self.kind {
            DataType::Float => le(raw, |b| f64::from(f32::from_le_bytes(b))),
            DataType::Double => le(raw, f64::from_le_bytes),
            DataType::Float16 => le(raw, |b| half_to_f64(u16::from_le_bytes(b))),
            DataType::Bfloat16 => le(raw, |b| bfloat_to_f64(u16::from_le_bytes(b))),
            DataType::Uint32 => le(raw, |b| f64::from(u32::from_le_bytes(b))),
            DataType::Uint64 => le(raw, |b| u64::from_le_bytes(b) as f64),
            _ => self.to_i64().into_iter().map(|x| x as f64).collect(),
        }
    }

    /// All elements as `f32`, row-major.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        if self.kind == DataType::Float && !self.proto.raw_data.is_empty() {
            return le(&self.proto.raw_data, f32::from_le_bytes);
        }
        self.to_f64().into_iter().map(|x| x as f32).collect()
    }

    /// All elements as integers; floats are truncated.
    pub(crate) fn to_i64(&self) -> Vec<i64> {
        let p = &*self.proto;
        let raw = &p.raw_data;
        match (self.kind, raw.is_empty()) {
            (DataType::Int64, true) => p.int64_data.clone(),
            (DataType::Int64, false) => le(raw, i64::from_le_bytes),
            (DataType::Int32, false) => le(raw, |b| i64::from(i32::from_le_bytes(b))),
            (DataType::Int16, false) => le(raw, |b| i64::from(i16::from_le_bytes(b))),
            (DataType::Uint16, false) => le(raw, |b| i64::from(u16::from_le_bytes(b))),
            (DataType::Int8, false) => raw.iter().map(|&b| i64::from(b as i8)).collect(),
            (DataType::Uint8 | DataType::Bool, false) => raw.iter().map(|&b| i64::from(b)).collect(),
            _ => self.to_f64().into_iter().map(|x| x as i64).collect(),
        }
    }

    /// The only element, when there is one.
    pub(crate) fn scalar(&self) -> Option<f64> {
        (self.len() == 1).then(|| self.to_f64()[0])
    }
}

/// Little-endian words of `N` bytes.
fn le<const N: usize, T>(raw: &[u8], word: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|b| word(*b)).collect()
}

/// Bytes of an element in `raw_data`; `None` for types that no constant here may have.
fn width(kind: DataType) -> Option<usize> {
    Some(match kind {
        DataType::Uint8 | DataType::Int8 | DataType::Bool => 1,
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => 2,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
        _ => return None,
    })
}

fn typed_len(proto: &TensorProto, kind: DataType) -> usize {
    match kind {
        DataType::Float => proto.float_data.len(),
        DataType::Double => proto.double_data.len(),
        DataType::Int64 => proto.int64_data.len(),
        DataType::Uint32 | DataType::Uint64 => proto.uint64_data.len(),
        _ => proto.int32_data.len(),
    }
}

/// IEEE 754 binary16.
fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

fn bfloat_to_f64(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_decode() {
        assert_eq!([0x3c00, 0xc000, 0x0001, 0x7bff].map(half_to_f64), [1.0, -2.0, 2f64.powi(-24), 65504.0]);
        assert!(half_to_f64(0x7c00).is_infinite() && half_to_f64(0x7e00).is_nan());
        assert_eq!(bfloat_to_f64(0x3fc0), 1.5);
    }

    #[test]
    fn a_shape_that_contradicts_the_data_is_refused() {
        let proto = TensorProto {
            name: "w".into(),
            dims: vec![2, 3],
            data_type: 1,
            float_data: vec![0.0; 5],
            ..TensorProto::default()
        };
        assert!(matches!(Constant::new(proto), Err(ImportError::BadTensor { tensor, .. }) if tensor == "w"));
        let proto = TensorProto { dims: vec![1 << 40, 1 << 40], data_type: 1, ..TensorProto::default() };
        assert!(matches!(Constant::new(proto), Err(ImportError::BadTensor { .. })));
        let proto = TensorProto { dims: vec![-1], data_type: 1, ..TensorProto::default() };
        assert!(matches!(Constant::new(proto), Err(ImportError::BadTensor { .. })));
    }
}
