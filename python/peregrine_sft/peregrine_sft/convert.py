"""Every activation of a model at once becomes polynomial."""

import torch
import torch.nn.functional as F
from torch import fx, nn

from .polyact import PolyAct


class ConvertError(ValueError):
    """A model that cannot be converted, and why."""


MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.Hardswish, nn.GELU, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh,
)
FUNCTIONS = {
    F.relu: F.relu, torch.relu: F.relu, F.relu6: F.relu, F.leaky_relu: F.leaky_relu, F.silu: F.silu, F.hardswish: F.hardswish,
    F.gelu: F.gelu, torch.sigmoid: torch.sigmoid, F.sigmoid: torch.sigmoid, F.hardsigmoid: F.hardsigmoid, torch.tanh: torch.tanh,
    F.tanh: torch.tanh,
}
METHODS = {"relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


def _of_module(module):
    """What a module computes, element by element."""
    if isinstance(module, (nn.ReLU, nn.ReLU6)):
        return F.relu
    if isinstance(module, nn.PReLU):
        slope = float(module.weight.detach().mean())
        return lambda x: F.leaky_relu(x, slope)
    return module


def _function(node, modules):
    """The activation that a node computes, or None."""
    if node.op == "call_module" and isinstance(modules[node.target], MODULES):
        return _of_module(modules[node.target])
    if node.op == "call_function" and node.target in FUNCTIONS:
        options = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input")}
        arguments = [a for a in node.args[1:] if not isinstance(a, bool)]
        function = FUNCTIONS[node.target]
        return lambda x: function(x, *arguments, **options) if node.target is not F.relu6 else F.relu(x)
    if node.op == "call_method" and node.target in METHODS:
        return METHODS[node.target]
    return None


def _average(pool):
    return nn.AvgPool2d(
        pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode, count_include_pad=False
    )


def convert(model, degree=4, learnable=False):
    """A copy of the model's graph whose activations are polynomials of this degree and whose max pools are average pools.

    `degree` is 2, 4 or 8, or a list with one for each activation in the order of the network. The parameters are shared with `model`.
    Raises ConvertError when the model cannot be traced by torch.fx, or has nothing to convert.
    """
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:  # torch.fx raises what the model raises
        raise ConvertError(
            f"the model cannot be traced ({error}); put its activations into modules without control flow on values"
        ) from error
    modules = dict(traced.named_modules())
    found = [(n, f) for n in traced.graph.nodes for f in [_function(n, modules)] if f is not None]
    if not found:
        raise ConvertError("the model has no activation to convert")
    degrees = [degree] * len(found) if isinstance(degree, int) else list(degree)
    if len(degrees) != len(found):
        raise ConvertError(f"{len(degrees)} degrees were given for {len(found)} activations")
    for index, ((node, function), d) in enumerate(zip(found, degrees)):
        name = f"poly_act_{index}"
        traced.add_submodule(name, PolyAct(function, d, learnable))
        operand = node.args[0] if node.args else node.kwargs["input"]
        with traced.graph.inserting_after(node):
            replacement = traced.graph.call_module(name, (operand,))
        node.replace_all_uses_with(replacement)
        traced.graph.erase_node(node)
    for name, module in modules.items():
        if isinstance(module, nn.MaxPool2d):
            traced.add_submodule(name, _average(module))
    for node in traced.graph.nodes:
        if node.op == "call_function" and node.target in (F.max_pool2d, torch.max_pool2d):
            raise ConvertError("a max pool is called as a function; use torch.nn.MaxPool2d")
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
