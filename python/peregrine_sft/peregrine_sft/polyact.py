"""A low-degree polynomial on a range that is normalised per channel: y = s P(x / s) with s = m / B + eps.

Fitted (see `fitted`), every channel has its own P, and m is the largest |x| met before training, a constant. A little outside of its range a
polynomial in training goes on as a straight line, so that single operands cannot end a run; in evaluation it is the polynomial alone.

As PolyAct-RN, m is the largest |x| of the channel in the batch in training, and the gradient flows through it; in evaluation it is a running
average of these. P is the expansion of an activation in probabilists' Hermite polynomials.
"""

import math

import torch
from torch import nn

from .fitted import least_squares

BOUND = 3.0
EPSILON = 1e-3
MOMENTUM = 0.1
LEAST_SHARE = 0.1  # channels that hardly move get this share of the widest channel's range: they may wake up in training
HOLDS = 1.25  # range up to which fitted polynomials hold in training, relative to that of the channel
MARGIN = 1.2  # measured ranges are the largest operands times this
MOST_REACH = 1.5  # and at most the ranges of the fit times this: an image that runs away must not define a range
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
    """A polynomial activation with range normalisation. Channels are axis 1; PolyAct-RN learns them from the first batch."""

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
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("reach", torch.zeros(0))
        self.last_input = None
        self.constants = None

    @property
    def degree(self):
        return self.powers.shape[-1] - 1

    def fit(self, x, target):
        """Takes the place of `target`, an activation, for operands [n, C]."""
        largest = x.abs().amax(0)
        largest = largest.clamp(min=LEAST_SHARE * float(largest.max()))
        powers = least_squares(x, target, self.degree, largest)
        scale = (largest.double() / BOUND + EPSILON).unsqueeze(1)
        self._set_powers((powers * scale ** torch.arange(-1, self.degree)).to(self.powers.dtype))
        self.running_max = largest
        self.started.fill_(True)
        self.fitted.fill_(True)

    def _set_powers(self, powers):
        if isinstance(self.powers, nn.Parameter):
            self.powers = nn.Parameter(powers)
        else:
            self.powers = powers

    def ranges(self):
        """Largest |x| to be expected of each channel."""
        return self.reach if len(self.reach) else self.running_max

    def _per_channel(self, values, x):
        return values.reshape([1, -1] + [1] * (x.dim() - 2))

    def forward(self, x):
        if self.training and bool(self.fitted):
            self.last_input = x
            return self._straightened(x)
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

    def _straightened(self, x):
        """The polynomials, and their tangents outside of HOLDS times their ranges."""
        scale = self._per_channel(self.running_max / BOUND + EPSILON, x)
        bound = self._per_channel(HOLDS * self.running_max, x) / scale
        u = x / scale
        held = torch.minimum(torch.maximum(u, -bound), bound)
        powers = [self._per_channel(p, x) for p in self.powers.unbind(-1)]
        value, slope = powers[-1], 0.0
        for p in reversed(powers[:-1]):
            value, slope = value * held + p, slope * held + value
        return scale * (value + slope * (u - held))

    def coefficients(self, x):
        """Folded coefficients, shaped to broadcast over x."""
        return [self._per_channel(c, x).to(x.dtype) for c in self.folded(x.shape[1])]

    def folded(self, channels):
        """Coefficients per channel of the powers of x itself: p_k / s^(k - 1)."""
        scale = (self.running_max.double() / BOUND + EPSILON).expand(channels)
        return [(p.double() * scale ** (1 - k)).float() for k, p in enumerate(self.powers.detach().unbind(-1))]

    def _load_from_state_dict(self, state, prefix, *arguments):
        for name in ("running_max", "reach"):
            if prefix + name in state:
                setattr(self, name, torch.ones_like(state[prefix + name]))
        if prefix + "powers" in state and state[prefix + "powers"].shape != self.powers.shape:
            self._set_powers(torch.ones_like(state[prefix + "powers"]))
        super()._load_from_state_dict(state, prefix, *arguments)


def measure_ranges(model, batches):
    """Measures what enters the activations in evaluation: the ranges that an export tells. Without, it tells those of training.

    `batches` are training inputs, or tuples that begin with them.
    """
    acts = [m for m in model.modules() if isinstance(m, PolyAct)]
    seen = {}

    def hook(act, inputs):
        x = inputs[0].abs().amax([a for a in range(inputs[0].dim()) if a != 1])
        seen[act] = torch.maximum(seen[act], x) if act in seen else x

    handles = [act.register_forward_pre_hook(hook) for act in acts]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                model(inputs_of(batch))
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    for act, largest in seen.items():
        act.reach = torch.minimum(largest * MARGIN, act.running_max * MOST_REACH)


def inputs_of(batch):
    """The inputs of a batch that may have labels too."""
    return batch if torch.is_tensor(batch) else batch[0]


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
