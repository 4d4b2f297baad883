"""Every activation of a model at once becomes polynomial."""

from itertools import islice

import torch
import torch.nn.functional as F
from torch import fx, nn

from .fitted import SAMPLES, thinned
from .polyact import PolyAct, inputs_of

FIT_BATCHES = 20


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


def _expanded(module):
    """What the expansion of a module is made of: ReLU6 counts as ReLU, a PReLU has its mean slope."""
    if isinstance(module, (nn.ReLU, nn.ReLU6)):
        return F.relu
    if isinstance(module, nn.PReLU):
        slope = float(module.weight.detach().mean())
        return lambda x: F.leaky_relu(x, slope)
    return module


def _function(node, modules):
    """The activation that a node computes, for the expansion and exactly, on [n, C]; or None."""
    if node.op == "call_module" and isinstance(modules[node.target], MODULES):
        module = modules[node.target]
        return _expanded(module), lambda x: module(x.clone())  # some work in place
    if node.op == "call_function" and node.target in FUNCTIONS:
        options = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input")}
        arguments = [a for a in node.args[1:] if not isinstance(a, bool)]
        function = FUNCTIONS[node.target]
        if node.target is F.relu6:
            return F.relu, F.relu6
        return (lambda x: function(x, *arguments, **options),) * 2
    if node.op == "call_method" and node.target in METHODS:
        return (METHODS[node.target],) * 2
    return None


def _average(pool):
    return nn.AvgPool2d(
        pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode, count_include_pad=False
    )


def convert(model, degree=4, batches=None, learnable=False):
    """A copy of the model's graph whose activations are polynomials of this degree and whose max pools are average pools.

    `batches` are training inputs (tensors, or tuples that begin with one, such as a DataLoader of yours gives); of the first twenty it is
    learnt what each activation meets in evaluation, and its polynomials are fitted to that. Without them polynomials are PolyAct-RN:
    expansions, on ranges taken from each batch of the training.

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
    acts = [PolyAct(function, d, learnable) for (_, (function, _)), d in zip(found, degrees)]
    if batches is not None:
        operands = _operands(traced, [node for node, _ in found], islice(batches, FIT_BATCHES))
        for act, (node, (_, exact)) in zip(acts, found):
            if not operands[node]:
                raise ConvertError("there is no batch to fit the polynomials to")
            act.fit(torch.cat(operands.pop(node)), exact)
    for index, ((node, _), act) in enumerate(zip(found, acts)):
        name = f"poly_act_{index}"
        traced.add_submodule(name, act)
        with traced.graph.inserting_after(node):
            replacement = traced.graph.call_module(name, (_operand(node),))
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


class _Recorder(fx.Interpreter):
    """Runs a model and keeps what enters some of its nodes."""

    def __init__(self, model, nodes):
        super().__init__(model)
        self.operands = {node: [] for node in nodes}

    def run_node(self, node):
        if node in self.operands:
            self.operands[node].append(thinned(self.env[_operand(node)], SAMPLES // FIT_BATCHES))
        return super().run_node(node)


def _operand(node):
    return node.args[0] if node.args else node.kwargs["input"]


def _operands(model, nodes, batches):
    """What enters the nodes in evaluation.

    It is the original network that is asked: what earlier polynomials would hand on has longer tails, which the polynomials would follow by
    becoming straight. Training brings the network's operands into these ranges.
    """
    modes = {module: module.training for module in model.modules()}
    recorder = _Recorder(model.eval(), nodes)
    try:
        with torch.no_grad():
            for batch in batches:
                recorder.run(inputs_of(batch))
    finally:
        for module, training in modes.items():
            module.training = training
    return recorder.operands
