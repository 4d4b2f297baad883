//! Coefficients: one number, or one for each slot of a period.

use std::sync::Arc;

use crate::error::Error;
use crate::units::Slots;

/// A coefficient of a polynomial.
#[derive(Debug, Clone, PartialEq)]
pub enum Coefficient {
    /// The same for all slots.
    Scalar(f64),
    /// One for each slot, repeating; as many as a power of two.
    Slots(Arc<[f64]>),
}

impl From<f64> for Coefficient {
    fn from(value: f64) -> Coefficient {
        Coefficient::Scalar(value)
    }
}

impl Coefficient {
    pub(super) const ZERO: Coefficient = Coefficient::Scalar(0.0);

    fn values(&self) -> &[f64] {
        match self {
            Coefficient::Scalar(value) => std::slice::from_ref(value),
            Coefficient::Slots(values) => values,
        }
    }

    /// The value for a slot.
    pub fn at(&self, slot: usize) -> f64 {
        let values = self.values();
        values[slot % values.len()]
    }

    pub(super) fn is_zero(&self) -> bool {
        self.values().iter().all(|&value| value == 0.0)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        Slots::new(self.values().len() as u32)?;
        match self.values().iter().enumerate().find(|(_, value)| !value.is_finite()) {
            Some((slot, &value)) => Err(Error::NotFinite { op: "polynomial coefficient", slot, value }),
            None => Ok(()),
        }
    }

    pub(super) fn doubled(&self) -> Coefficient {
        self.combine(&Coefficient::ZERO, |x, _| 2.0 * x)
    }

    pub(super) fn minus(&self, other: &Coefficient) -> Coefficient {
        self.combine(other, |x, y| x - y)
    }

    fn combine(&self, other: &Coefficient, op: fn(f64, f64) -> f64) -> Coefficient {
        match (self, other) {
            (Coefficient::Scalar(x), Coefficient::Scalar(y)) => Coefficient::Scalar(op(*x, *y)),
            _ => {
                let period = self.values().len().max(other.values().len());
                Coefficient::Slots((0..period).map(|slot| op(self.at(slot), other.at(slot))).collect())
            }
        }
    }
}
