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

from peregrine_sft import ConvertError, PolyAct, convert, export, hermite, measure_ranges, penalty  # noqa: E402
from peregrine_sft.fitted import columns, least_squares, thinned  # noqa: E402


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


def batches(count=4):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(count)]


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


class LeastSquares(unittest.TestCase):
    def test_polynomials_are_found_again(self):
        x = torch.linspace(-1.5, 2.5, 200).unsqueeze(1)
        found = least_squares(x, lambda x: 0.5 - x + 0.25 * x**3, 4)
        np.testing.assert_allclose(found[0, :4], [0.5, -1, 0, 0.25], atol=5e-2)

    def test_higher_degrees_come_closer_in_every_channel(self):
        x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.1, 1.0, 30.0])

        def error(degree):
            powers = least_squares(x, F.relu, degree)
            y = sum(p * x.double() ** k for k, p in enumerate(powers.unbind(1)))
            return ((y - F.relu(x)) ** 2).mean(0).sqrt() / x.std(0)

        errors = [error(degree) for degree in (2, 4, 8)]
        self.assertTrue(bool((errors[1] < errors[0]).all() and (errors[2] < errors[1]).all()), errors)
        torch.testing.assert_close(errors[1][0], errors[1][2], rtol=0.2, atol=0)

    def test_a_relu_is_approached_as_closely_as_can_be(self):
        x = torch.linspace(-2, 2, 2001).unsqueeze(1)
        powers = least_squares(x, F.relu, 4)[0]
        y = sum(p * x[:, 0].double() ** k for k, p in enumerate(powers))
        rms = float(((y - F.relu(x[:, 0])) ** 2).mean().sqrt())
        # The Legendre series of |x|/2: 2/3 - (2/4 + 2/5 (5/8)^2 + 2/9 (3/16)^2) is left of its squared norm after degree 4.
        best = (0.5 * (2 / 3 - 0.5 - 0.15625 - 0.0078125)) ** 0.5
        self.assertLess(abs(rms / best - 1), 0.01)

    def test_the_leading_coefficient_keeps_its_floor(self):
        x = torch.stack([torch.linspace(-2, 2, 100), torch.zeros(100)], dim=1)
        for target in (lambda x: x, torch.zeros_like):
            powers = least_squares(x, target, 4)
            self.assertTrue(bool(torch.isfinite(powers).all() and (powers[:, 4].abs() > 0).all()), powers)
        line = least_squares(x, lambda x: x, 4)[0]
        # On the range with its margin, 2.3: a leading coefficient of 1/16 of the largest value.
        self.assertGreater(float(line[4].abs() * 2.3**4), 2.3 / 16 * 0.9)


class Fitted(unittest.TestCase):
    def test_samples_keep_the_largest(self):
        x = torch.arange(60.0).reshape(5, 2, 3, 2) - 40
        few = thinned(x, 4)
        self.assertLessEqual(len(few), 6)
        torch.testing.assert_close(few.abs().amax(0), x.abs().amax((0, 2, 3)))

    def test_channels_that_hardly_move_keep_a_share_of_the_widest(self):
        act = PolyAct(F.relu, 4)
        act.fit(torch.randn(500, 2) * torch.tensor([1e-3, 2.0]), F.relu)
        torch.testing.assert_close(act.running_max[0], 0.1 * act.running_max[1])
        self.assertTrue(bool(torch.isfinite(act.powers).all()))

    def fitted(self, degree=4):
        act = PolyAct(F.relu, degree)
        x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(3))
        act.fit(torch.cat([columns(x), 0.5 * columns(x)]), F.relu)
        return act, x

    def test_inside_of_the_range_training_is_evaluation(self):
        for degree in (2, 4, 8):
            act, x = self.fitted(degree)
            torch.testing.assert_close(act.running_max, x.abs().amax((0, 2, 3)))
            torch.testing.assert_close(act.train()(x), act.eval()(x), rtol=1e-4, atol=1e-5)
            self.assertLess(float((act(x) - F.relu(x)).abs().mean()), 0.15)

    def test_outside_it_goes_on_straight_in_training(self):
        act, x = self.fitted()
        act = act.double().train()
        edge = act.running_max * 1.25
        points = torch.stack([edge * f for f in (1.0, 2.0, 5.0)]).reshape(3, 3, 1, 1).requires_grad_()
        y = act(points)
        torch.testing.assert_close(y[2] - y[0], 4 * (y[1] - y[0]))
        (slopes,) = torch.autograd.grad(y.sum(), points)
        torch.testing.assert_close(slopes[1], slopes[2])
        torch.testing.assert_close((y[1] - y[0]).flatten(), slopes[1].flatten() * edge)
        inputs = (3 * x).double().requires_grad_()
        self.assertTrue(torch.autograd.gradcheck(act, (inputs,)))
        torch.testing.assert_close(act.running_max * 1.25, edge, msg="ranges are constants")

    def test_state_survives(self):
        act, x = self.fitted()
        act.reach = act.running_max * 1.1
        other = PolyAct(F.relu, 4)
        other.load_state_dict(act.state_dict())
        torch.testing.assert_close(other.train()(2 * x), act.train()(2 * x))
        torch.testing.assert_close(other.ranges(), act.ranges())


class Conversion(unittest.TestCase):
    def test_fitted_models_follow_the_original(self):
        torch.manual_seed(2)
        model = Residual()
        model.pool = nn.AvgPool2d(2)
        x = torch.cat(batches())
        model.train()(x)
        expected = model.eval()(x).detach()

        def error(converted):
            converted.train()(x)
            return float((converted.eval()(x) - expected).norm() / expected.norm())

        fitted, expanded = convert(model, 4, batches()), convert(model, 4)
        self.assertLess(error(fitted), 0.5 * error(expanded))

    def test_labels_in_batches_are_ignored_and_modes_kept(self):
        model = Residual().eval()
        model.norm.train()
        converted = convert(model, 2, [(x, torch.zeros(16)) for x in batches()])
        acts = [m for m in converted.modules() if isinstance(m, PolyAct)]
        self.assertTrue(all(bool(a.fitted) and a.degree == 2 for a in acts))
        self.assertFalse(converted.stem.training)
        self.assertTrue(converted.norm.training)
        with self.assertRaises(ConvertError):
            convert(model, 2, [])

    def test_ranges_are_measured(self):
        model = trained(batches=batches())
        measure_ranges(model, batches())
        seen = []
        acts = [m for m in model.modules() if isinstance(m, PolyAct)]
        acts[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().amax((0, 2, 3))))
        self.assertTrue(model.training)
        model.eval()(torch.cat(batches()))
        expected = torch.minimum(1.2 * seen[0], 1.5 * acts[0].running_max)
        torch.testing.assert_close(acts[0].ranges(), expected)

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
        for learnable in (False, True):
            torch.manual_seed(1)
            start = next(m for m in convert(Residual(), 4, batches()).modules() if isinstance(m, PolyAct)).powers
            model = trained(batches=batches(), learnable=learnable)
            act = next(m for m in model.modules() if isinstance(m, PolyAct))
            self.assertEqual(act.powers.shape, (8, 5))
            self.assertEqual(bool((act.powers != start).any()), learnable)


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
        for options in ({}, {"batches": batches()}):
            with self.subTest(options.keys()):
                self.functions_and_ranges(trained([2, 4, 4, 2], **options))

    def functions_and_ranges(self, model):
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
        model = trained(batches=batches())
        export(model, self.path, (1, 3, 8, 8))
        x = torch.randn(1, 3, 8, 8)
        (y,) = onnxruntime.InferenceSession(self.path).run(None, {"input": x.numpy()})
        np.testing.assert_allclose(y, model.eval()(x).detach().numpy(), rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    unittest.main()
