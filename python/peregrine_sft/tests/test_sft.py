"""Tests of peregrine_sft with PyTorch on the CPU."""

import json
import os
import sys
import tempfile
import unittest

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from peregrine_sft import ConvertError, PolyAct, convert, export, hermite, penalty  # noqa: E402


class Residual(nn.Module):
    """One ReLU module used twice, one as a function, one as a method, and a max pool."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.body, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.stem(x))))
        x = self.act(self.body(x)) + x
        x = F.leaky_relu(x, 0.1).tanh()
        return self.head(x.mean((2, 3)))


def trained(degree=4, **options):
    torch.manual_seed(1)
    model = convert(Residual(), degree, **options).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(6):
        x = torch.randn(16, 3, 8, 8)
        loss = F.cross_entropy(model(x), (x.mean((1, 2, 3)) > 0).long()) + 0.1 * penalty(model)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model


class Expansion(unittest.TestCase):
    def test_the_literature(self):
        np.testing.assert_allclose(hermite(F.relu, 2), [0.199471, 0.5, 0.199471], atol=1e-6)
        np.testing.assert_allclose(hermite(F.relu, 4), [0.149603, 0.5, 0.299207, 0, -0.016623], atol=1e-6)
        np.testing.assert_allclose(hermite(F.silu, 4), [0.008047, 0.5, 0.221724, 0, -0.007717], atol=1e-6)


class Activation(unittest.TestCase):
    def test_definition_and_running_maxima(self):
        act = PolyAct(F.relu, 4).train()
        x = torch.randn(5, 3, 4, 4)
        largest = x.abs().amax((0, 2, 3))
        s = (largest / 3 + 1e-3).reshape(1, 3, 1, 1)
        expected = sum(p * (x / s) ** k for k, p in enumerate(act.powers)) * s
        torch.testing.assert_close(act(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(act.running_max, largest)
        act(2 * x)
        torch.testing.assert_close(act.running_max, 1.1 * largest)

    def test_evaluation_equals_training_at_the_same_range(self):
        act = PolyAct(F.silu, 8).train()
        x = torch.randn(5, 3, 4, 4)
        y = act(x)
        torch.testing.assert_close(act.eval()(x), y, rtol=1e-4, atol=1e-5)

    def test_the_gradient_flows_through_the_maximum(self):
        act = PolyAct(F.relu, 4).double().train()
        x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
        self.assertTrue(torch.autograd.gradcheck(act, (x,)))

    def test_degrees(self):
        with self.assertRaises(ValueError):
            PolyAct(F.relu, 3)

    def test_state_survives(self):
        act = PolyAct(F.relu, 2).train()
        act(torch.randn(5, 3, 4, 4))
        other = PolyAct(F.relu, 2)
        other.load_state_dict(act.state_dict())
        torch.testing.assert_close(other.running_max, act.running_max)


class Conversion(unittest.TestCase):
    def test_every_activation_and_pool(self):
        model = convert(Residual(), [2, 4, 8, 2])
        acts = [m.degree for m in model.modules() if isinstance(m, PolyAct)]
        self.assertEqual(acts, [2, 4, 8, 2])
        self.assertFalse(any(isinstance(m, (nn.ReLU, nn.MaxPool2d)) for m in model.modules()))

    def test_refusals(self):
        with self.assertRaises(ConvertError):
            convert(nn.Linear(3, 3))
        with self.assertRaises(ConvertError):
            convert(Residual(), [2, 4])

    def test_learnable_coefficients_move(self):
        model = trained(learnable=True)
        act = next(m for m in model.modules() if isinstance(m, PolyAct))
        start = torch.tensor(hermite(F.relu, 4), dtype=torch.float32)
        self.assertGreater(float((act.powers - start).abs().max()), 0)


def evaluate_function(function, values):
    """Runs a body of Mul and Add."""
    values = dict(zip(function.input, values))
    for node in function.node:
        a, b = (values[i] for i in node.input)
        values[node.output[0]] = {"Mul": a * b, "Add": a + b}[node.op_type]
    return values[function.output[0]]


class Export(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "model.onnx")

    def tearDown(self):
        self.folder.cleanup()

    def test_functions_and_ranges(self):
        model = trained([2, 4, 4, 2])
        export(model, self.path, (1, 3, 8, 8), mean=[0.5] * 3, std=[0.25] * 3, labels="abcd")
        proto = onnx.load(self.path)
        onnx.checker.check_model(proto)
        properties = {p.key: p.value for p in proto.metadata_props}
        self.assertEqual(properties["peregrine.tune.degree"], "2,4,4,2")
        self.assertEqual(properties["peregrine.input.std"], "0.25,0.25,0.25")
        ranges = json.loads(properties["peregrine.tune.ranges"])
        calls = [n for n in proto.graph.node if n.domain == "ai.peregrine"]
        self.assertEqual([n.op_type for n in calls], ["PolyAct2", "PolyAct4", "PolyAct4", "PolyAct2"])
        acts = [m for m in model.modules() if isinstance(m, PolyAct)]
        constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant":
                constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        functions = {f.name: f for f in proto.functions}
        x = np.random.default_rng(1).normal(size=(1, 8, 4, 4)).astype(np.float32)
        for call, act, record in zip(calls, acts, ranges):
            self.assertEqual((record["layer"], len(record["high"])), (call.name, 8))
            np.testing.assert_allclose(record["high"], act.running_max.numpy(), rtol=1e-6)
            y = evaluate_function(functions[call.op_type], [x] + [constants[i] for i in call.input[1:]])
            np.testing.assert_allclose(y, act.eval()(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)

    def test_untrained_models_are_refused(self):
        with self.assertRaises(ValueError):
            export(convert(Residual()), self.path, (1, 3, 8, 8))
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_runtime(self):
        try:
            import onnxruntime
        except ImportError:
            self.skipTest("onnxruntime is not installed")
        model = trained()
        export(model, self.path, (1, 3, 8, 8))
        x = torch.randn(1, 3, 8, 8)
        (y,) = onnxruntime.InferenceSession(self.path).run(None, {"input": x.numpy()})
        np.testing.assert_allclose(y, model.eval()(x).detach().numpy(), rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    unittest.main()
