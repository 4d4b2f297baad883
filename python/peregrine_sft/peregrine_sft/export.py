"""Writes a converted model as ONNX, with the function PolyAct and the metadata that Peregrine reads."""

import io
import json
import os
import tempfile

import onnx
import torch
from onnx import helper

from .polyact import PolyAct

DOMAIN = "ai.peregrine"
IR_VERSION = 8


def _function(name, degree, opset):
    """PolyAct(X, C0, ..., Cd) by Horner's scheme."""
    nodes, current = [], f"C{degree}"
    for k in range(degree - 1, -1, -1):
        nodes.append(helper.make_node("Mul", [current, "X"], [f"P{k}"], name=f"P{k}"))
        current = "Y" if k == 0 else f"S{k}"
        nodes.append(helper.make_node("Add", [f"P{k}", f"C{k}"], [current], name=current))
    inputs = ["X"] + [f"C{k}" for k in range(degree + 1)]
    return helper.make_function(DOMAIN, name, inputs, ["Y"], nodes, [helper.make_opsetid("", opset)])


def export(model, path, input_shape, mean=None, std=None, labels=None, opset=13):
    """Writes the model. `input_shape` is [1, C, H, W]; mean and std are those of the pixels after division by 255.

    The file replaces another only when it is complete. The model is left in the mode it was in.
    """
    acts = [m for m in model.modules() if isinstance(m, PolyAct)]
    if any(not bool(m.started) for m in acts):
        raise ValueError("the model was neither fitted nor trained since it was converted: its ranges are not known")
    mode, buffer = model.training, io.BytesIO()
    model.eval()
    try:
        _freeze(model, acts, torch.zeros(*input_shape))
        torch.onnx.export(
            model, torch.zeros(*input_shape), buffer, opset_version=opset, custom_opsets={DOMAIN: 1},
            input_names=["input"], output_names=["output"],
        )
    finally:
        model.train(mode)
        for act in acts:
            act.constants = None
    proto = onnx.load_model_from_string(buffer.getvalue())
    calls = [n for n in proto.graph.node if n.domain == DOMAIN]
    degrees = sorted({len(n.input) - 2 for n in calls})
    ranges = []
    for call, act in zip(calls, _in_order(model, acts)):
        degree = len(call.input) - 2
        call.op_type = "PolyAct" if len(degrees) == 1 else f"PolyAct{degree}"
        limits = [float(m) for m in act.ranges()]
        ranges.append({"layer": call.name, "low": [-m for m in limits], "high": limits})
    for degree in degrees:
        name = "PolyAct" if len(degrees) == 1 else f"PolyAct{degree}"
        proto.functions.append(_function(name, degree, opset))
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    properties = {
        "peregrine.tune.ranges": json.dumps(ranges),
        "peregrine.tune.degree": ",".join(str(len(n.input) - 2) for n in calls),
        "peregrine.input.mean": mean and ",".join(map(str, mean)),
        "peregrine.input.std": std and ",".join(map(str, std)),
        "peregrine.labels": labels and json.dumps(list(labels)),
    }
    helper.set_model_props(proto, {k: v for k, v in properties.items() if v})
    _write(proto.SerializeToString(), path)


def _freeze(model, acts, x):
    """Computes every activation's coefficients once, so that the trace holds them as constants."""

    def hook(act, inputs):
        act.constants = act.coefficients(inputs[0])

    handles = [act.register_forward_pre_hook(hook) for act in acts]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()


def _in_order(model, acts):
    """Activations in the order in which the model calls them."""
    graph = getattr(model, "graph", None)
    if graph is None:
        return acts
    modules = dict(model.named_modules())
    called = [modules[n.target] for n in graph.nodes if n.op == "call_module"]
    return [m for m in called if isinstance(m, PolyAct)]


def _write(data, path):
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
