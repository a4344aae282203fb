"""Every operator's ONNX spelling in several opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from export_cases import CASES, FIRST_OPSET, IMAGE, Case, single
from graph_reference import (
    evaluate,
    onnxruntime_outputs,
    outputs,
    random_inputs,
    relative_error,
    rounding_bound,
)
from onnx.reference import ReferenceEvaluator

from convc import errors
from convc.frontends import dsl
from convc.frontends.export import OPSETS, export_onnx
from convc.frontends.onnx import import_onnx
from convc.frontends.spellings import SPELLINGS
from convc.ir import parse_graph, print_graph
from convc.ir.graph import Node
from convc.ir.operator import operators
from convc.ir.types import DType


def test_every_operator_has_a_case() -> None:
    structural = {"Input", "Constant", "Output"}
    assert {op for op, _, _ in CASES} == operators().keys() - structural
    assert SPELLINGS.keys() <= operators().keys()


@pytest.mark.parametrize("opset", [13, 17, 18, 20, 23])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{sorted(case[2].items())}"[:60])
def test_operator(case: Case, opset: int) -> None:
    graph, arrays = single(*case)
    least = FIRST_OPSET.get(case[0], 16 if case[2].get("reduction") == "add" else 13)
    if opset < least:
        with pytest.raises(errors.UsageError, match=f"opset {least}"):
            export_onnx(graph, opset=opset)
        return
    model = export_onnx(graph, opset=opset)
    assert model.opset_import[0].version == opset
    beyond = case[0] == "RoiAlign" and opset >= 22  # ONNX Runtime 1.31 stops at the older form
    found = ReferenceEvaluator(model).run(None, arrays)[0] if beyond else onnxruntime_outputs(model, arrays)["y"]
    expected = outputs(graph, evaluate(graph, arrays))["y"]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "f":
        assert relative_error(found, expected) <= 8 * rounding_bound(graph, DType.FP32.epsilon)
    else:
        assert (found == expected).all()


WRITTEN_OUT = {"Silu", "Copy", "PRelu", "Slice", "Einsum", "ConvInteger", "MatMulInteger"}
"""Operators that come back as others, some of their forms at least."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{sorted(case[2].items())}"[:60])
def test_operator_comes_back(case: Case) -> None:
    """From its text equal, from ONNX as itself."""
    graph, _ = single(*case)
    assert parse_graph(print_graph(graph)) == graph
    if FIRST_OPSET.get(case[0], 13) <= 22 and case[0] not in WRITTEN_OUT:
        (node,) = (node for node in import_onnx(export_onnx(graph, opset=22)).nodes() if node.op == case[0])
        (given,) = (node for node in graph.nodes() if node.op == case[0])
        assert in_fp32(node) == in_fp32(given)


def in_fp32(node: Node) -> dict[str, Any]:
    """A node's attributes, numbers as ONNX holds them; without a size that the run finds, which has the node's name."""
    return {
        name: np.float32(v) if isinstance(v, float) else v for name, v in node.attributes.items() if name != "count"
    }


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_passes_the_checker(opset: int) -> None:
    """Also those that ONNX Runtime does not have yet."""
    net = dsl.Network(batch="N")
    x = net.input(4, 9, 8).conv(6, 3, padding=1).batch_norm().silu().gelu().hard_swish().activation("Mish")
    x = x.max_pool(2, ceil=True).avg_pool(2).lrn().global_avg_pool().dense(10).softmax()
    onnx.checker.check_model(export_onnx(net.output(x).graph, opset=opset), full_check=True)


@pytest.mark.parametrize("opset", [12, 0, OPSETS[-1] + 1])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(errors.UsageError, match=f"opset {opset} .* 13 to {OPSETS[-1]}"):
        export_onnx(dsl.Network().graph, opset=opset)


@pytest.mark.parametrize("opset", [13, 18])
def test_a_reduction_along_no_axes_is_nothing(opset: int) -> None:
    """ONNX takes no axes for all of them."""
    for op in ("ReduceMean", "ReduceMax"):
        graph, arrays = single(op, {"x": (3, 4)}, {"axes": ()})
        np.testing.assert_array_equal(onnxruntime_outputs(export_onnx(graph, opset=opset), arrays)["y"], arrays["x"])
    graph, _ = single("ReduceL2", {"x": (3, 4)}, {"axes": ()})
    with pytest.raises(errors.UsageError, match="no form for ReduceL2 along no axes"):
        export_onnx(graph, opset=opset)


def test_dilated_average_pooling_needs_its_opset() -> None:
    net = dsl.Network()
    net.output(net.input(1, 9, 9).avg_pool(2, stride=1, dilation=2, name="wide"))
    with pytest.raises(errors.UsageError, match=r"wide.*opset 19"):
        export_onnx(net.graph, opset=17)
    inputs = random_inputs(net.graph)
    found = onnxruntime_outputs(export_onnx(net.graph, opset=19), inputs)["output"]
    expected = outputs(net.graph, evaluate(net.graph, inputs))["output"]
    assert relative_error(found, expected) <= 4 * DType.FP32.epsilon


def test_ceil_mode_where_old_opsets_count_a_window_too_many() -> None:
    """Width 5 by windows of 1 and stride 3 in ceil mode: old shape inference counts one at 6, past the end."""
    net = dsl.Network()
    net.output(net.input(1, 5, 5).max_pool(1, stride=3, ceil=True, name="sparse"))
    assert net.graph.graph_outputs[0].outputs[0].shape == (1, 1, 2, 2)
    with pytest.raises(errors.UsageError, match=r"sparse.*opset 22"):
        export_onnx(net.graph, opset=17)
    inputs = random_inputs(net.graph)
    found = onnxruntime_outputs(export_onnx(net.graph, opset=22), inputs)["output"]
    assert (found == inputs["input"][:, :, ::3, ::3]).all()


def test_chains_below_the_opset_of_their_operator() -> None:
    def ops(op: str, opset: int, **attributes: Any) -> list[str]:
        graph, _ = single(op, {"x": IMAGE}, attributes)
        return [node.op_type for node in export_onnx(graph, opset=opset).graph.node]

    assert (ops("Silu", 23), ops("Silu", 24)) == (["Sigmoid", "Mul"], ["Swish"])
    assert (ops("Mish", 17), ops("Mish", 18)) == (["Softplus", "Tanh", "Mul"], ["Mish"])
    assert (ops("HardSwish", 13), ops("HardSwish", 14)) == (["HardSigmoid", "Mul"], ["HardSwish"])
    assert "Erf" in ops("Gelu", 19) and "Tanh" in ops("Gelu", 19, approximate="tanh")
    assert ops("Gelu", 20) == ops("Gelu", 20, approximate="tanh") == ["Gelu"]
