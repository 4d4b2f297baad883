"""Polynomials fitted by least squares to what the activations of a model meet, before training.

A range that is the largest operand of a batch is mostly made by a few images, far outside of where most operands are; an expansion for such
a range is nearly a straight line there. Least squares on the operands themselves give the polynomial its bend where it is needed. The
constants are those of Peregrine's compiler and of `peregrine-tune`.
"""

import torch

SAMPLES = 1 << 16  # most operands of a channel that a polynomial is fitted to
UNIFORM_POINTS = 128
SCAN_POINTS = 401
RIDGE = 1e-6
LEADING_FLOOR = 1 / 16
FLOOR_ROUNDS = 8
LEAST_SHARE = 1e-3
CHUNK = 4096


def margin_and_uniform_weight(degree):
    """How far ranges are widened, and the weight of the widened range beside the operands seen."""
    return (1.15, 2e-4) if degree <= 5 else (1.4, 5e-3)


def chebyshev(t, degree):
    """T_0(t) to T_degree(t), along a new last axis."""
    values = [torch.ones_like(t), t]
    while len(values) <= degree:
        values.append(2 * t * values[-1] - values[-2])
    return torch.stack(values[: degree + 1], dim=-1)


def _to_powers(degree):
    """Row k: the coefficients of the powers in T_k."""
    table = torch.zeros(degree + 1, degree + 1, dtype=torch.float64)
    table[0, 0] = table[1, 1] = 1.0
    for k in range(2, degree + 1):
        table[k, 1:] = 2 * table[k - 1, :-1]
        table[k] -= table[k - 2]
    return table


def least_squares(x, target, degree, reach=None):
    """Coefficients [C, degree + 1] of the powers of x, in place of `target` for operands distributed like the columns of x, [n, C].

    `reach` are the largest |x| that columns are made for, if larger than those in x. `target` maps a tensor of that kind element by element. Every polynomial keeps a leading coefficient that it can be divided by.
    """
    x = x.double()
    reach = x.abs().amax(0) if reach is None else reach
    margin, uniform = margin_and_uniform_weight(degree)
    low, high = x.amin(0).clamp(max=0), x.amax(0).clamp(min=0)
    middle, half = (low + high) / 2, margin * (high - low) / 2
    allowed = middle - half, middle + half
    least = LEAST_SHARE * reach.double()
    radius = torch.maximum(allowed[0].abs(), allowed[1].abs())
    radius = torch.where(least > 0, torch.maximum(radius, least), radius.clamp(min=1.0))
    size = degree + 1
    gram = torch.zeros(x.shape[1], size, size, dtype=torch.float64)
    right = torch.zeros(x.shape[1], size, dtype=torch.float64)

    def add(part, weight):
        basis = chebyshev(part / radius, degree)
        gram.add_(torch.einsum("nci,ncj->cij", basis, basis), alpha=weight)
        right.add_(torch.einsum("nci,nc->ci", basis, target(part.float()).double()), alpha=weight)

    for part in x.split(CHUNK):
        add(part, 1 / len(x))
    steps = ((torch.arange(UNIFORM_POINTS, dtype=torch.float64) + 0.5) / UNIFORM_POINTS).unsqueeze(1)
    add(allowed[0] + (allowed[1] - allowed[0]) * steps, uniform / UNIFORM_POINTS)
    trace = gram.diagonal(dim1=1, dim2=2).sum(1) / size
    gram += RIDGE * trace[:, None, None] * torch.eye(size, dtype=torch.float64)
    series = torch.linalg.solve(gram, right.unsqueeze(2)).squeeze(2)
    series = _raise_leading(gram, right, series, LEAST_SHARE * radius)
    return series @ _to_powers(degree) / radius.unsqueeze(1) ** torch.arange(size)


def _raise_leading(gram, right, series, least):
    """Fixes leading coefficients at the floor where they are below, and fits the others anew."""
    degree = series.shape[1] - 1
    scan = chebyshev(torch.linspace(-1, 1, SCAN_POINTS, dtype=torch.float64), degree)
    for _ in range(FLOOR_ROUNDS):
        largest = (series @ scan.T).abs().amax(1)
        wanted = LEADING_FLOOR * torch.maximum(largest, least) / 2 ** (degree - 1)
        below = series[:, -1].abs() < wanted * (1 - 1e-9)
        if not bool(below.any()):
            break
        fixed = torch.where(series[:, -1] < 0, -wanted, wanted).unsqueeze(1)
        moved = right[:, :-1] - fixed * gram[:, :-1, -1]
        rest = torch.linalg.solve(gram[:, :-1, :-1], moved.unsqueeze(2)).squeeze(2)
        series = torch.where(below.unsqueeze(1), torch.cat([rest, fixed], dim=1), series)
    return series


def columns(x):
    """A tensor with channels in axis 1 as [n, C]."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def thinned(x, most):
    """About `most` rows of the tensor as [n, C], and in them the largest of every channel."""
    table = columns(x)
    peaks = table.gather(0, table.abs().argmax(0, keepdim=True))
    return torch.cat([table[:: max(1, -(-len(table) // most))], peaks])
