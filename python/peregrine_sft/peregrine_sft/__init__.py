"""Single-stage fine-tuning of PyTorch models to low-degree polynomial activations."""

from .convert import ConvertError, convert
from .export import export
from .polyact import PolyAct, hermite, measure_ranges, penalty

__all__ = ["ConvertError", "PolyAct", "convert", "export", "hermite", "measure_ranges", "penalty"]
