//! A value of a graph as a function of another one, known at some points; one function for all channels or one for each.

use std::collections::BTreeMap;

use super::tensor::Constant;

/// Number of points.
const POINTS: usize = 61;
/// Largest difference between equal curves, relative to their value or 1.
const TOLERANCE: f64 = 1e-4;
/// Values that one value is kept as a function of.
const MAX_BASES: usize = 6;

/// A value as a function of each of several others, by their names.
pub(crate) type Samples = BTreeMap<String, Curve>;

/// Where curves are known.
pub(crate) fn points() -> impl Iterator<Item = f64> {
    (0..POINTS).map(|i| -6.1 + 12.3 * i as f64 / (POINTS - 1) as f64)
}

/// The curves that are finite everywhere, [`MAX_BASES`] of them.
pub(crate) fn bounded(samples: impl Iterator<Item = (String, Curve)>) -> Samples {
    samples.filter(|(_, curve)| curve.values.iter().all(|v| v.is_finite())).take(MAX_BASES).collect()
}

/// Values at the points, channel after channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curve {
    values: Vec<f64>,
    /// Shape of the constants that tell channels apart; empty when one function serves all.
    shape: Vec<usize>,
}

impl Curve {
    /// A function.
    pub(crate) fn of(f: impl Fn(f64) -> f64) -> Self {
        Self { values: points().map(f).collect(), shape: Vec::new() }
    }

    /// A number, or one per channel.
    pub(crate) fn constant(c: &Constant) -> Option<Self> {
        let numbers = c.to_f64();
        let axes = c.shape().iter().filter(|&&extent| extent != 1).count();
        let shape = match (numbers.len(), axes) {
            (1, _) => Vec::new(),
            (2.., 1) => c.shape().to_vec(),
            _ => return None,
        };
        let values = numbers.into_iter().flat_map(|n| [n; POINTS]).collect();
        Some(Self { values, shape })
    }

    /// The function after another one.
    pub(crate) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { values: self.values.iter().map(|&v| f(v)).collect(), shape: self.shape.clone() }
    }

    /// A function of both values; `None` when their channels do not correspond.
    pub(crate) fn with(&self, other: &Self, f: &impl Fn(f64, f64) -> f64) -> Option<Self> {
        let shape = match (self.shape.is_empty(), other.shape.is_empty()) {
            (_, true) => &self.shape,
            (true, false) => &other.shape,
            (false, false) if self.shape == other.shape => &self.shape,
            (false, false) => return None,
        };
        let count = self.values.len().max(other.values.len());
        let at = |c: &Self, i: usize| c.values[i % c.values.len()];
        let values = (0..count).map(|i| f(at(self, i), at(other, i))).collect();
        Some(Self { values, shape: shape.clone() })
    }

    /// The one function of all channels, when they are alike.
    pub(crate) fn single(&self) -> Option<Self> {
        let first = Self { values: self.values[..POINTS].to_vec(), shape: Vec::new() };
        let alike = self.channels().all(|c| close(c, &first.values));
        alike.then_some(first)
    }

    /// Value at the first point.
    pub(crate) fn first(&self) -> f64 {
        self.values[0]
    }

    /// Whether both are one function.
    pub(crate) fn is_close_to(&self, other: &Self) -> bool {
        self.values.len() == other.values.len() && close(&self.values, &other.values)
    }

    fn channels(&self) -> std::slice::Chunks<'_, f64> {
        self.values.chunks(POINTS)
    }

    /// The factor a of a single function that is x above 0 and a x below; not 1.
    pub(crate) fn slope(&self) -> Option<f64> {
        slope(&self.values)
    }

    /// The factors of all channels, as the constants that tell channels apart are laid out.
    pub(crate) fn slopes(&self) -> Option<Constant> {
        let slopes: Vec<f32> = self.channels().map(|c| slope(c).map(|a| a as f32)).collect::<Option<_>>()?;
        Some(Constant::floats(self.shape.clone(), &slopes))
    }

    /// The bounds of a single function that is x between them and constant beyond.
    pub(crate) fn bounds(&self) -> Option<[f64; 2]> {
        let extreme = |pick: fn(f64, f64) -> f64| self.values.iter().copied().reduce(pick);
        let (low, high) = (extreme(f64::min)?, extreme(f64::max)?);
        let (left, right) = (points().next()?, points().last()?);
        let inside = points().filter(|x| (low..high).contains(x)).count();
        let clamped: Vec<f64> = points().map(|x| x.clamp(low, high)).collect();
        (low > left && high < right && inside > 2 && close(&self.values, &clamped)).then_some([low, high])
    }

    /// The factor beta of a single function `x sigmoid(beta x)`.
    pub(crate) fn silu_scale(&self) -> Option<f64> {
        let (x, y) = points().zip(&self.values).find(|(x, _)| *x > 0.5)?;
        let gate = y / x;
        let beta = (gate / (1.0 - gate)).ln() / x;
        let target = Self::of(|x| x / (1.0 + (-beta * x).exp()));
        (beta.is_finite() && beta > 0.0 && self.is_close_to(&target)).then_some(beta)
    }
}

fn close(values: &[f64], target: &[f64]) -> bool {
    values.iter().zip(target).all(|(v, t)| (v - t).abs() <= TOLERANCE * t.abs().max(1.0))
}

fn slope(values: &[f64]) -> Option<f64> {
    let factor = values[0] / points().next()?;
    let factor = if factor.abs() < 1e-6 { 0.0 } else { factor };
    let target: Vec<f64> = points().map(|x| if x < 0.0 { factor * x } else { x }).collect();
    ((factor - 1.0).abs() > 1e-3 && close(values, &target)).then_some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_bounds_and_scales_are_read_off() {
        let leaky = Curve::of(|x| x.max(0.1 * x));
        assert!((leaky.slope().unwrap() - 0.1).abs() < 1e-12 && leaky.bounds().is_none());
        let relu6 = Curve::of(|x| x.clamp(0.0, 6.0));
        assert_eq!((relu6.bounds(), relu6.slope()), (Some([0.0, 6.0]), None));
        let scaled = Curve::of(|x| x / (1.0 + (-1.702 * x).exp()));
        assert!((scaled.silu_scale().unwrap() - 1.702).abs() < 1e-9);
        assert!(Curve::of(|x| x).slope().is_none() && Curve::of(f64::tanh).silu_scale().is_none());
    }

    #[test]
    fn channels_stay_apart() {
        let factors = Curve::constant(&Constant::floats(vec![1, 2, 1, 1], &[0.25, 0.5])).unwrap();
        let x = Curve::of(|x| x);
        let negative = factors.with(&x.map(|x| x.min(0.0)), &|a, x| a * x).unwrap();
        let both = negative.with(&x.map(|x| x.max(0.0)), &|a, b| a + b).unwrap();
        assert!(both.single().is_none());
        assert_eq!(both.slopes(), Some(Constant::floats(vec![1, 2, 1, 1], &[0.25, 0.5])));
        let other = Curve::constant(&Constant::floats(vec![3], &[0.0; 3])).unwrap();
        assert!(both.with(&other, &|a, b| a + b).is_none());
        assert!(Curve::constant(&Constant::floats(vec![2, 2], &[0.0; 4])).is_none());
    }
}
