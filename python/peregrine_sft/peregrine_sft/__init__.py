"""Single-stage fine-tuning of PyTorch models to low-degree polynomial activations."""

from .convert import ConvertError, convert
from .export import export
from .polyact import PolyAct, hermite, penalty

__all__ = ["ConvertError", "PolyAct", "convert", "export", "hermite", "penalty"]
