"""PolyAct-RN: a low-degree polynomial on a range that is normalised per channel.

y = s P(x / s) with s = m / B + eps. In training m is the largest |x| of the channel in the batch, and the gradient flows through it; in
evaluation it is a running average of these. P is the expansion of an activation in probabilists' Hermite polynomials.
"""

import math

import torch
from torch import nn

BOUND = 3.0
EPSILON = 1e-3
MOMENTUM = 0.1
DEGREES = (2, 4, 8)


def hermite(function, degree, steps=80_000, reach=20.0):
    """Coefficients of the powers 0 to degree of the Hermite expansion of an activation (of a tensor, element by element).

    a_n = E[f(Z) He_n(Z)] / n! for a standard normal Z, by midpoints on [-reach, reach].
    """
    width = 2 * reach / steps
    x = -reach + (torch.arange(steps, dtype=torch.float64) + 0.5) * width
    with torch.no_grad():
        weight = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) * width * function(x).double()
    powers = [0.0] * (degree + 1)
    previous, current = [0.0] * (degree + 2), [1.0] + [0.0] * (degree + 1)
    values_before, values = torch.zeros_like(x), torch.ones_like(x)
    for n in range(degree + 1):
        a = float((weight * values).sum()) / math.factorial(n)
        powers = [p + a * h for p, h in zip(powers, current)]
        values_before, values = values, x * values - n * values_before
        shifted = [0.0] + current[:-1]
        previous, current = current, [s - n * h for s, h in zip(shifted, previous)]
    return powers


class _Folded(torch.autograd.Function):
    """The polynomial with folded coefficients; in an ONNX export a call of the function PolyAct."""

    @staticmethod
    def forward(_ctx, x, *coefficients):
        y = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            y = y * x + c
        return y

    @staticmethod
    def symbolic(g, x, *coefficients):
        return g.op("ai.peregrine::PolyAct", x, *coefficients).setType(x.type())


class PolyAct(nn.Module):
    """A polynomial activation with range normalisation. Channels are axis 1 and are learnt from the first batch."""

    def __init__(self, function, degree=4, learnable=False):
        super().__init__()
        if degree not in DEGREES:
            raise ValueError(f"degree {degree} is not supported: choose one of {DEGREES}")
        powers = torch.tensor(hermite(function, degree), dtype=torch.float32)
        if learnable:
            self.powers = nn.Parameter(powers)
        else:
            self.register_buffer("powers", powers)
        self.register_buffer("running_max", torch.ones(1))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.last_input = None
        self.constants = None

    @property
    def degree(self):
        return len(self.powers) - 1

    def _per_channel(self, values, x):
        return values.reshape([1, -1] + [1] * (x.dim() - 2))

    def forward(self, x):
        if self.training:
            self.last_input = x
            axes = [a for a in range(x.dim()) if a != 1]
            largest = x.abs().amax(dim=axes)
            with torch.no_grad():
                new = largest.detach().to(self.running_max.dtype)
                if bool(self.started):
                    self.running_max.lerp_(new, MOMENTUM)
                else:
                    self.running_max = new.clone()
                    self.started.fill_(True)
            scale = self._per_channel(largest / BOUND + EPSILON, x)
            u, y = x / scale, self.powers[-1]
            for p in reversed(self.powers[:-1]):
                y = y * u + p
            return scale * y
        constants = self.constants
        if constants is None:
            constants = self.coefficients(x)
        return _Folded.apply(x, *constants)

    def coefficients(self, x):
        """Folded coefficients, shaped to broadcast over x."""
        return [self._per_channel(c, x).to(x.dtype) for c in self.folded(x.shape[1])]

    def folded(self, channels):
        """Coefficients per channel of the powers of x itself: p_k / s^(k - 1)."""
        scale = (self.running_max.double() / BOUND + EPSILON).expand(channels)
        return [(p.double() * scale ** (1 - k)).float() for k, p in enumerate(self.powers.detach())]

    def _load_from_state_dict(self, state, prefix, *arguments):
        stored = state.get(prefix + "running_max")
        if stored is not None:
            self.running_max = torch.ones_like(stored)
        super()._load_from_state_dict(state, prefix, *arguments)


def penalty(model, start=0.8):
    """Mean squared excess of the last training batch over `start` times the running ranges: add it to the loss with a weight.

    Needed at degree 2, where inputs outside the ranges grow without bound.
    """
    total = 0.0
    for module in model.modules():
        if isinstance(module, PolyAct) and module.last_input is not None:
            x = module.last_input
            limit = module._per_channel(module.running_max * start, x)
            excess = torch.relu(x.abs() / limit - 1.0) ** 2
            total = total + excess.sum() / (x.shape[0] * x.shape[1])
    return total
