//! Views become tensors of the graph where a layer reads them.

use peregrine_ir::tensor::TensorOp;
use peregrine_ir::{AxisMap, Separable, ValueId};

use super::error::{Refusal, shape_text};
use super::movement::{MAX_BLOCKS, NoForm, decompose};
use super::translate::Translator;
use super::view::{View, elements};

impl Translator {
    /// The tensor that a view stands for, read by layer `name`.
    pub(crate) fn settle(&mut self, name: &str, view: &View) -> Result<ValueId, Refusal> {
        if view.parts.is_empty() {
            return Err(Refusal::new("its operand does not depend on the input", "fold it into a constant"));
        }
        if let ([part], None) = (view.parts.as_slice(), &view.constants)
            && part.is_identity(elements(self.shape(part.base)))
            && self.keeps_map(part.base, &view.shape)
        {
            return self.reshaped(name, part.base, &view.shape);
        }
        let mut reason = None;
        for target in self.targets(view) {
            match self.blocks(view, target) {
                Ok(blocks) => return self.sum(name, view, target, blocks),
                Err(why) => reason = reason.or(Some(why)),
            }
        }
        Err(self.no_form(view, reason))
    }

    /// Whether a tensor that is read in another shape keeps its channels, rows and columns, or is no map then.
    fn keeps_map(&self, base: ValueId, shape: &[usize]) -> bool {
        shape.len() != 4 || shape[1..] == self.extents(base)
    }

    fn reshaped(&mut self, name: &str, x: ValueId, shape: &[usize]) -> Result<ValueId, Refusal> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.emit_as(name, TensorOp::Reshape { shape: shape.to_vec() }, &[x])
    }

    /// Extents of channels, rows and columns that a view may be written in, most natural first.
    fn targets(&self, view: &View) -> Vec<[usize; 3]> {
        let maps = view.parts.iter().map(|part| self.extents(part.base));
        let total = view.len();
        let mut targets = Vec::new();
        let mut offer = |target: [usize; 3]| {
            if elements(&target) == total && !targets.contains(&target) {
                targets.push(target);
            }
        };
        match view.shape[..] {
            [1, c, h, w] => offer([c, h, w]),
            [1, features] if maps.clone().all(|[_, h, w]| h * w == 1) => offer([features, 1, 1]),
            _ => {}
        }
        if view.shape.len() != 4 {
            maps.clone().for_each(|[_, h, w]| offer([total / (h * w), h, w]));
            if let ([1, c, length], true) = (view.shape.as_slice(), maps.clone().all(|[_, _, w]| w == 1)) {
                offer([*c, *length, 1]);
            }
            if let [.., h, w] = view.shape[..] {
                offer([total / (h * w), h, w]);
            }
        }
        targets
    }

    /// Channels, rows and columns of a tensor; features are channels.
    fn extents(&self, id: ValueId) -> [usize; 3] {
        match *self.shape(id) {
            [_, c, h, w] => [c, h, w],
            [_, c, n] => [c, n, 1],
            _ => [elements(self.shape(id)), 1, 1],
        }
    }

    fn blocks(&self, view: &View, target: [usize; 3]) -> Result<Vec<(ValueId, Vec<Separable>)>, NoForm> {
        let of = |part: &super::view::Part| {
            Ok((part.base, decompose(&part.table, self.extents(part.base), target)?))
        };
        view.parts.iter().map(of).collect()
    }

    fn sum(
        &mut self,
        name: &str,
        view: &View,
        target: [usize; 3],
        blocks: Vec<(ValueId, Vec<Separable>)>,
    ) -> Result<ValueId, Refusal> {
        let [c, h, w] = target;
        let shape = [1, c, h, w];
        let mut total: Option<ValueId> = None;
        for (base, maps) in blocks {
            let [bc, bh, bw] = self.extents(base);
            let base = self.reshaped(name, base, &[1, bc, bh, bw])?;
            for map in maps {
                let term = match map.is_identity() {
                    true => base,
                    false => self.emit_as(name, operation(map), &[base])?,
                };
                total = Some(match total {
                    None => term,
                    Some(so_far) => self.emit_as(name, TensorOp::Add, &[so_far, term])?,
                });
            }
        }
        let mut total = total.ok_or_else(|| {
            Refusal::new("its operand does not depend on the input", "fold it into a constant")
        })?;
        if let Some(constants) = &view.constants {
            let add = uniform(constants, h * w).ok_or_else(|| {
                let shape = shape_text(Some(&shape));
                Refusal::new(
                    format!("it puts constants into {shape} that vary within the channels"),
                    "pad with zeros; only one constant per channel can be added under encryption",
                )
            })?;
            let (mul, add) = (self.doubles(&[c], vec![1.0; c]), self.doubles(&[c], add));
            total = self.emit_as(name, TensorOp::ChannelAffine { mul, add }, &[total])?;
        }
        self.reshaped(name, total, &view.shape)
    }

    fn no_form(&self, view: &View, reason: Option<NoForm>) -> Refusal {
        let from: Vec<String> = view.parts.iter().map(|p| shape_text(Some(self.shape(p.base)))).collect();
        let why = match reason {
            Some(NoForm::Blocks(count)) => {
                format!(
                    "it needs {count} maps of channels, rows and columns, at most {MAX_BLOCKS} are possible"
                )
            }
            Some(NoForm::Axis(error)) => error.to_string(),
            None => "it has no channels, rows and columns".to_owned(),
        };
        Refusal::new(
            format!(
                "its operand {} is a movement of {}: {why}",
                shape_text(Some(&view.shape)),
                from.join(", ")
            ),
            "keep [1, C, H, W] order between layers; reshapes and transposes at the end of the model run on the client",
        )
    }
}

/// A zero padding of rows and columns as such: it folds into the convolution after it.
fn operation(map: Separable) -> TensorOp {
    let [c, rows, columns] = &map.maps;
    match (c.is_identity(), padding(rows), padding(columns)) {
        (true, Some([top, bottom]), Some([left, right])) => {
            TensorOp::Pad { pads: [top, left, bottom, right] }
        }
        _ => TensorOp::Separable(map),
    }
}

/// Zeros before and after all the coordinates, when that is all that a map does.
fn padding(map: &AxisMap) -> Option<[u32; 2]> {
    let before = map.entries().next()?.output;
    let after = map.output().checked_sub(map.input() + before)?;
    let shifted = map.entries().all(|e| e.factor == 1.0 && e.output == e.input + before);
    (shifted && map.len() == map.input() as usize).then_some([before, after])
}

/// One number per run of `map` equal ones.
fn uniform(values: &[f32], map: usize) -> Option<Vec<f64>> {
    values.chunks(map).map(|m| m.iter().all(|v| *v == m[0]).then_some(f64::from(m[0]))).collect()
}
