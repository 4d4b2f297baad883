//! Per-channel affine maps: batch normalisation and constants that broadcast over the map.

use std::sync::Arc;

use peregrine_ir::ValueId;
use peregrine_ir::tensor::TensorOp;

use super::column;
use crate::onnx::error::{Refusal, shape_text};
use crate::onnx::node::NodeView;
use crate::onnx::tensor::Constant;
use crate::onnx::translate::{Translator, Value};
use crate::onnx::view::{Part, View, elements};

/// An operand of an element-wise operation. A view that only permutes a tensor commutes with it: the operation is done on
/// the tensor and the view stays a view.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    /// The tensor.
    pub(super) x: ValueId,
    view: Option<Arc<View>>,
}

impl Operand {
    /// Input `i`.
    pub(super) fn read(t: &mut Translator, node: NodeView<'_>, i: usize) -> Result<Self, Refusal> {
        match Self::in_place(t, node, i)? {
            Some(operand) => Ok(operand),
            None => Ok(Self { x: t.data(node, i)?, view: None }),
        }
    }

    /// Input `i`, if it is a tensor or a permutation of one.
    pub(super) fn in_place(t: &Translator, node: NodeView<'_>, i: usize) -> Result<Option<Self>, Refusal> {
        Ok(match t.value(node, i)? {
            Value::Data(x) => Some(Self { x: *x, view: None }),
            Value::View(view) => match view.parts.first() {
                Some(part) if view.permutation(elements(t.shape(part.base))).is_some() => {
                    Some(Self { x: part.base, view: Some(view.clone()) })
                }
                _ => None,
            },
            Value::Constant(_) | Value::Unusable => None,
        })
    }

    /// Whether the tensor is read in another order or shape than its own.
    pub(super) fn is_moved(&self) -> bool {
        self.view.is_some()
    }

    /// A view of the operand's shape, in the order and shape of the operand's tensor.
    pub(super) fn in_its_order(&self, t: &Translator, view: &View) -> View {
        let Some(own) = &self.view else { return view.clone() };
        let table = &own.parts[0].table;
        let mut positions = vec![0; table.len()];
        for (i, &at) in table.iter().enumerate() {
            positions[at as usize] = i as u32;
        }
        view.picked(t.shape(self.x).to_vec(), &positions, 0.0)
    }

    /// A tensor that is not moved.
    pub(super) fn still(x: ValueId) -> Self {
        Self { x, view: None }
    }

    /// Whether both are moved alike.
    pub(super) fn moves_like(&self, other: &Self) -> bool {
        let table = |o: &Self| o.view.as_ref().map(|v| (v.shape.clone(), v.parts[0].table.clone()));
        table(self) == table(other)
    }

    /// The result of the operation on the tensor, moved as the operand is.
    pub(super) fn result(&self, t: &Translator, y: ValueId) -> Result<Value, Refusal> {
        match &self.view {
            None => Ok(Value::Data(y)),
            Some(view) => {
                let parts = vec![Part { base: y, table: view.parts[0].table.clone() }];
                t.moved(View { parts, ..(**view).clone() })
            }
        }
    }

    /// The constant as one value per channel of the tensor.
    fn per_channel(&self, t: &Translator, constant: &Constant) -> Result<Vec<f64>, Refusal> {
        let Some(view) = &self.view else { return per_channel(constant, t.shape(self.x)) };
        let values = constant.to_f64();
        let base = t.shape(self.x);
        if values.len() == 1 {
            return Ok(vec![values[0]; channels(base)?]);
        }
        let full =
            broadcast(constant.shape(), &values, &view.shape).ok_or_else(|| varies(constant, &view.shape))?;
        let mut placed = vec![0.0; full.len()];
        for (&at, value) in view.parts[0].table.iter().zip(full) {
            placed[at as usize] = value;
        }
        let map: usize = base.get(2..).map_or(1, elements);
        let uniform = placed.chunks(map).map(|m| m.iter().all(|v| *v == m[0]).then_some(m[0]));
        uniform.collect::<Option<_>>().ok_or_else(|| varies(constant, &view.shape))
    }
}

/// Input `i` and a constant that goes with it channel by channel.
pub(super) fn with_constant(
    t: &mut Translator,
    node: NodeView<'_>,
    i: usize,
    constant: &Constant,
) -> Result<(Operand, Vec<f64>), Refusal> {
    let operand = Operand::read(t, node, i)?;
    if let Ok(values) = operand.per_channel(t, constant) {
        return Ok((operand, values));
    }
    let operand = Operand::still(t.data(node, i)?);
    let values = operand.per_channel(t, constant)?;
    Ok((operand, values))
}

/// The numbers of a constant repeated to a larger shape.
fn broadcast(from: &[usize], values: &[f64], to: &[usize]) -> Option<Vec<f64>> {
    let lead = to.len().checked_sub(from.len())?;
    let extent = |axis: usize| if axis < lead { 1 } else { from[axis - lead] };
    if (0..to.len()).any(|axis| extent(axis) != 1 && extent(axis) != to[axis]) {
        return None;
    }
    let mut places = vec![0usize];
    for (axis, &size) in to.iter().enumerate() {
        let own = extent(axis);
        let step = |i: usize| if own == 1 { 0 } else { i };
        places = places.iter().flat_map(|p| (0..size).map(move |i| p * own + step(i))).collect();
    }
    Some(places.into_iter().map(|p| values[p]).collect())
}

/// BatchNormalization in inference mode.
pub(super) fn batch_norm(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    if node.int_or("training_mode", 0)? != 0 {
        return Err(Refusal::new(
            "it is in training mode",
            "export the model in evaluation mode (model.eval())",
        ));
    }
    if column::applies(t, node)? {
        return column::on_column(t, node, batch_norm);
    }
    let x = t.data(node, 0)?;
    let channels = channels(t.shape(x))?;
    let epsilon = f64::from(node.float("epsilon")?.unwrap_or(1e-5));
    let parameter = |i: usize| -> Result<Vec<f64>, Refusal> {
        let values = t.constant(node, i)?.to_f64();
        match values.len() == channels {
            true => Ok(values),
            false => Err(Refusal::new(
                format!("input {i} has {} values for {channels} channels", values.len()),
                "export the model again",
            )),
        }
    };
    let (gamma, beta, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    if variance.iter().any(|v| *v + epsilon <= 0.0) {
        return Err(Refusal::new("a variance is negative", "export the model again"));
    }
    let mul: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    let add = (0..channels).map(|c| beta[c] - mean[c] * mul[c]).collect();
    affine(t, node, &Operand::still(x), mul, add)
}

/// Neg.
pub(super) fn neg(t: &mut Translator, node: NodeView<'_>) -> Result<Value, Refusal> {
    let x = Operand::read(t, node, 0)?;
    let channels = channels(t.shape(x.x))?;
    affine(t, node, &x, vec![-1.0; channels], vec![0.0; channels])
}

/// `mul x + add`, per channel.
pub(super) fn affine(
    t: &mut Translator,
    node: NodeView<'_>,
    x: &Operand,
    mul: Vec<f64>,
    add: Vec<f64>,
) -> Result<Value, Refusal> {
    let shape = [mul.len()];
    let (mul, add) = (t.doubles(&shape, mul), t.doubles(&shape, add));
    let y = t.emit(node, TensorOp::ChannelAffine { mul, add }, &[x.x])?;
    x.result(t, y)
}

/// Extent of axis 1.
pub(super) fn channels(shape: &[usize]) -> Result<usize, Refusal> {
    shape.get(1).copied().ok_or_else(|| {
        Refusal::new("its input has no channel axis", "reshape to [1, C] or [1, C, H, W] before it")
    })
}

/// The constant as one value per channel, when it broadcasts so over a tensor of shape `data`.
pub(super) fn per_channel(constant: &Constant, data: &[usize]) -> Result<Vec<f64>, Refusal> {
    let channels = channels(data)?;
    let values = constant.to_f64();
    if values.len() == 1 && constant.shape().len() <= data.len() {
        return Ok(vec![values[0]; channels]);
    }
    let rank = constant.shape().len();
    let from_end = data.len().saturating_sub(1);
    let varies_only_over_channels = rank <= data.len()
        && constant
            .shape()
            .iter()
            .rev()
            .enumerate()
            .all(|(i, &d)| d == 1 || (i + 1 == from_end && d == channels));
    if varies_only_over_channels {
        return Ok(values);
    }
    if let Some(uniform) = uniform_maps(constant, data, &values) {
        return Ok(uniform);
    }
    Err(varies(constant, data))
}

fn varies(constant: &Constant, data: &[usize]) -> Refusal {
    let (given, data) = (shape_text(Some(constant.shape())), shape_text(Some(data)));
    Refusal::new(
        format!("its constant of shape {given} varies within the channels of {data}"),
        "only one value per channel is supported: fold it into a neighbouring layer",
    )
}

/// One value per channel when a full-size constant is equal all over each channel's map.
fn uniform_maps(constant: &Constant, data: &[usize], values: &[f64]) -> Option<Vec<f64>> {
    if constant.shape() != data && constant.shape() != data.get(1..)? {
        return None;
    }
    let map: usize = data[2..].iter().product();
    values.chunks(map).map(|m| m.iter().all(|v| v == &m[0]).then_some(m[0])).collect()
}
