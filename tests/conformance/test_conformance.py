"""The part of `make conformance` that `make test` runs: all cases of T1 and T2 on the numpy executor."""

from __future__ import annotations

import contextlib
from collections import Counter

import numpy as np
import onnx
import pytest
from conformance import LEAST, PASSES, Case, Result, failures, recorded, run_all, table
from onnx import TensorProto, helper

from convc import backend, errors
from convc.runtime.interpreter_pool import idle

PARTS = 4
"""Tests that the part on the interpreter is spread over, so that they run side by side."""
SLOW = ("test_MaxPool1d_stride_padding_dilation", "test_MaxPool2d_stride_padding_dilation")
PROMISED = [case for case in recorded().values() if case.tier in LEAST["CPU"]]
QUICK = [case for case in PROMISED if case.kind != "real" and case.name not in SLOW]


def test_promised_tiers() -> None:
    assert Counter(case.tier for case in PROMISED) == LEAST["CPU"]
    assert not failures(run_all(PROMISED), "CPU", complete=True)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("part", range(PARTS))
def test_promised_tiers_on_the_interpreter(part: int) -> None:
    """All but whole networks and what takes seconds by itself; `make conformance` runs these, too."""
    assert not failures(run_all(QUICK[part::PARTS], "INTERPRETER"), "INTERPRETER", complete=False)


def test_what_is_promised_on_the_interpreter_is_recorded() -> None:
    passes = Counter(case.tier for case in PROMISED if case.interpreter in PASSES)
    assert all(passes[tier] >= least for tier, least in LEAST["INTERPRETER"].items())


def result(outcome: str, expected: str, tier: str = "T3", device: str = "CPU") -> Result:
    expectations = ("", expected) if device == "INTERPRETER" else (expected, "")
    return Result(Case("test_x", "node", tier, *expectations), outcome, "the message", 0.0, device)


def test_what_fails_a_run() -> None:
    worse = [result("refused", "pass"), result("wrong", "refused"), result("error", "wrong")]
    better = [result("pass", "refused"), result("refused", "error"), result("pass", "pass")]
    assert [each.gain < 0 for each in (*worse, *better)] == [True] * 3 + [False] * 3
    assert len(failures(worse[:1], "CPU", complete=False)) == 1
    assert "1 wrong answers: test_x" in failures([result("wrong", "wrong")], "CPU", complete=True)
    expected = ["T1: 1 passes, at least 266 are promised"]
    assert failures([result("pass", "pass", "T1")], "CPU", complete=True) == expected
    assert not failures([result("pass", "pass", "T1")], "CPU", complete=False)
    assert table([*worse, *better]).splitlines()[1].split() == ["T3", "6", "2", "0", "2", "1", "1"]


def test_steps_on_the_host_are_less_than_kernels() -> None:
    on_host = result("host", "pass", "T2", "INTERPRETER")
    assert on_host.gain < 0 < result("host", "refused", "T2", "INTERPRETER").gain
    assert failures([on_host], "INTERPRETER", complete=False) == [
        "test_x: host where pass is recorded: the message",
    ]
    assert table([on_host]).splitlines()[1].split() == ["T2", "1", "0", "1", "0", "0", "0"]
    assert result("pass", "", "T3", "INTERPRETER").gain == 0, "nothing is recorded of what does not run there"


@pytest.mark.parametrize(("op", "nodes"), [("Relu", ()), ("Det", ("det",))])
def test_what_ran_on_the_host_is_known(op: str, nodes: tuple[str, ...]) -> None:
    made = model(helper.make_node(op, ["x"], ["y"], name=op.lower()), x=(TensorProto.FLOAT, [2, 3, 3]))
    with contextlib.closing(backend.prepare(made, "INTERPRETER")) as prepared:
        prepared.run([np.ones((2, 3, 3), np.float32)])
        assert prepared.on_host == nodes


# -- the interface ----------------------------------------------------------------------------------------------------
def model(*nodes: onnx.NodeProto, **types: tuple[int, list]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, *type) for name, type in types.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


RESHAPED = model(
    helper.make_node("Reshape", ["x", "shape"], ["r"]),
    helper.make_node("Mul", ["r", "factor"], ["y"]),
    x=(TensorProto.FLOAT, ["N", 6]),
    shape=(TensorProto.INT64, [2]),
    factor=(TensorProto.FLOAT, []),
)


def test_values_that_decide_shapes_are_specialised_and_kept() -> None:
    prepared = backend.prepare(RESHAPED)
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    for shape, factor in (([3, 4], 2), ([4, 3], 2), ([3, 4], 5)):
        (y,) = prepared.run([x, np.array(shape), np.float32(factor)])
        np.testing.assert_array_equal(y, x.reshape(shape) * factor)
    assert len(prepared._kept) == 2, "the factor decides no shape"
    (y,) = prepared.run({"x": x[:1], "shape": np.array([2, 3]), "factor": np.float32(1)})
    assert y.shape == (2, 3) and len(prepared._kept) == 3


def test_results_are_arrays_of_their_own() -> None:
    """Not the arrays that were given, not one another, and not the constants of the model."""
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in ("y", "z")]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("x", "y", "z", "c")}
    constant = helper.make_tensor("c", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    graph = helper.make_graph(nodes, "g", [values["x"]], [values[name] for name in "yzc"], [constant])
    prepared = backend.prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    x = np.zeros(3, np.float32)
    for array in (results := prepared.run([x])):
        array += 5
    np.testing.assert_array_equal(results, [[5, 5, 5], [5, 5, 5], [6, 7, 8]])
    np.testing.assert_array_equal(prepared.run([x])[2], [1, 2, 3])
    assert not x.any()


def test_few_specialisations_are_kept() -> None:
    prepared = backend.prepare(RESHAPED)
    for rows in range(1, backend.MOST_KEPT + 4):
        prepared.run([np.zeros((rows, 6), np.float32), np.array([-1, 2]), np.float32(1)])
    assert len(prepared._kept) == backend.MOST_KEPT


def test_inputs_that_do_not_fit() -> None:
    prepared = backend.prepare(RESHAPED)
    x, shape, factor = np.zeros((1, 6), np.float32), np.array([2, 3]), np.float32(1)
    for inputs, message in (
        ([x, shape], "no array for input 'factor'"),
        ([x, shape, factor, x], "4 arrays given"),
        ([x.astype(np.float64), shape, factor], "expected dtype fp32, found float64"),
        ([x[:, :5], shape, factor], r"expected shape \[N, 6\], found \[1, 5\]"),
        ([x[0], shape, factor], r"expected 2 dimensions \[N, 6\]"),
        ({"x": x, "shape": shape, "factor": factor, "z": x}, "no input 'z'"),
    ):
        with pytest.raises(errors.InputError, match=message):
            prepared.run(inputs)


def test_refusals_come_early_and_name_the_operator() -> None:
    refused = model(helper.make_node("RandomNormalLike", ["x"], ["y"]), x=(TensorProto.FLOAT, [2, 3, 4]))
    with pytest.raises(errors.UnsupportedModelError, match="RandomNormalLike"):
        backend.prepare(refused)
    assert not backend.is_compatible(refused) and backend.is_compatible(RESHAPED)


def test_one_node() -> None:
    node = helper.make_node("TopK", ["x", "k"], ["values", "places"], axis=0)
    values, places = backend.run_node(node, [np.array([1.0, 3.0, 2.0]), np.array([2])])
    assert values.tolist() == [3.0, 2.0] and places.tolist() == [1, 2]


def test_devices() -> None:
    assert backend.supports_device("CPU") and not backend.supports_device("TPU")
    with pytest.raises(errors.UsageError, match="unknown device 'TPU'"):
        backend.prepare(RESHAPED, "TPU")
    node = helper.make_node("Relu", ["x"], ["y"])
    x = np.array([[-1.0, 2.0]], np.float32)
    (y,) = backend.run_node(node, [x], "INTERPRETER")
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_closing_gives_back_what_the_device_holds() -> None:
    prepared = backend.prepare(RESHAPED, "INTERPRETER")
    x = np.arange(6, dtype=np.float32).reshape(1, 6)
    for shape in ([2, 3], [3, 2], [2, 3]):
        (y,) = prepared.run([x, np.array(shape), np.float32(2)])
        np.testing.assert_array_equal(y, 2 * x.reshape(shape))
        if shape == [3, 2]:
            prepared.close()
            assert not prepared._kept and len(idle()) == 2
    prepared.close()


def test_what_is_not_kept_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    ready = lambda graph: backend.Ready(lambda feeds: [np.zeros(1)], lambda: closed.append(1))  # noqa: E731
    monkeypatch.setattr(backend, "_numpy", ready)
    prepared = backend.prepare(RESHAPED)
    for rows in range(1, backend.MOST_KEPT + 4):
        prepared.run([np.zeros((rows, 6), np.float32), np.array([-1, 2]), np.float32(1)])
    assert len(closed) == 3
    prepared.close()
    assert len(closed) == backend.MOST_KEPT + 3
