"""Softmax at the end of the kernel of a product: numbers, reasons to decline, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compiled import GROUPING, Builder, conv, evaluate, integers, run, same
from rule_checks import check_machine_code, emitted, kernel_checks, plan_apart, reasons
from small_networks import inside, weights

from convc.analysis.explain import explain
from convc.ir import Dim, DType, Graph, TensorType, Value
from convc.ir.plan import Tile
from convc.ir.problem import Contraction
from convc.passes import Switches, fuse, softmax, tiling
from convc.passes.softmax import RULE
from convc.passes.traffic import traffic
from convc.planner import optimise
from convc.program import Options, Plan

RANDOM = np.random.default_rng(5)


def ended(plan: Plan) -> list[Contraction]:
    return [p for p in plan.programs[0].problems if isinstance(p, Contraction) and p.normalise]


def gemm(b: Builder, x: Value, classes: int) -> Value:
    inputs = int(b.graph.type(x).shape[1])
    bias = b.constant(integers(RANDOM, (classes,)))
    w = b.constant(integers(RANDOM, (classes, inputs), 1))
    return b.add("Gemm", x, w, bias, trans_a=False, trans_b=True, alpha=1.0, beta=1.0)


def head(rows: int, inputs: int, classes: int, op: str = "Softmax") -> Builder:
    b = Builder()
    b.output(b.add(op, gemm(b, b.input(integers(RANDOM, (rows, inputs), 1)), classes), axis=1))
    return b


# -- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("rows", "inputs", "classes"), [(1, 20, 10), (5, 64, 100), (33, 17, 1), (3, 40, 256)])
def test_behind_a_matrix_product(rows: int, inputs: int, classes: int, op: str, dtype: str) -> None:
    """Logits are whole numbers, exact in every mode; outputs are fp32."""
    b = head(rows, inputs, classes, op)
    assert len(ended(plan_apart(b, dtype=dtype))) == 1
    found, wanted = run(b.graph, b.inputs, dtype=dtype)["y0"], evaluate(b.graph, b.inputs)["y0"]
    depth = 2.0 * np.abs(wanted).max() + 40.0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2.0**-24 * depth * 4)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_behind_a_convolution_with_a_chain(dtype: str) -> None:
    b = Builder()
    y = conv(b, inside(b, 2, 20, 5, 7), weights(12, 20, 3, 3), weights(12), pads=(1,) * 4)
    y = b.add("Relu", b.add("Add", y, b.input(integers(RANDOM, (2, 12, 5, 7)))))
    b.output(b.add("Softmax", y, axis=1))
    assert len(ended(plan_apart(b, dtype=dtype))) == 1
    found, wanted = run(b.graph, b.inputs, dtype=dtype)["y0"], evaluate(b.graph, b.inputs)["y0"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2.0**-24 * 400)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_special_values_stay_in_their_row(value: float) -> None:
    b = Builder()
    x = integers(RANDOM, (3, 4), 1)
    x[1, 2] = value
    y = b.add("MatMul", b.input(x), b.constant(np.ones((4, 6), np.float32)))
    residual = np.zeros((3, 6), np.float32)
    residual[0, 1] = -np.inf
    b.output(b.add("Softmax", b.add("Add", y, b.input(residual)), axis=1))
    assert len(ended(plan_apart(b))) == 1
    (found,) = run(b.graph, b.inputs).values()
    assert np.isnan(found[1]).all() and found[0, 1] == 0.0 and np.isclose(found[[0, 2]].sum(axis=1), 1.0).all()


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("split", [1, 2])
def test_tiles_that_a_gpu_runs(monkeypatch: pytest.MonkeyPatch, split: int) -> None:
    """Several tiles along the rows, and a reduction that is split."""
    monkeypatch.setattr(tiling, "ranked", lambda problem, target: [Tile(16, 32, 16, 1, 1, split)])
    b = head(40, 96, 20)
    assert plan_apart(b, "interpreter").programs[0].launches[0].steps[0].tile.split_k == split
    found, wanted = run(b.graph, b.inputs)["y0"], evaluate(b.graph, b.inputs)["y0"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2.0**-24 * 100)


@pytest.mark.parametrize("name", ["sm_80", "sm_90", "interpreter"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("classes", [10, 100, 256])
def test_tiles_hold_whole_rows(classes: int, dtype: str, name: str) -> None:
    for rows in (1, 40, 500):
        (launch,) = plan_apart(head(rows, 64, classes), name, dtype=dtype).programs[0].launches
        assert launch.steps[0].tile.cols >= classes


# -- what is said -----------------------------------------------------------------------------------------------------
def test_traffic_equation_and_explanation() -> None:
    plan = plan_apart(head(3, 20, 10))
    (problem,) = ended(plan)
    assert problem.equation == "y = softmax(gemm(x, w) + bias)" and problem.macs == 3 * 20 * 10
    assert traffic(problem).activations == 4 * 3 * (20 + 10)
    (edge,) = [edge for edge in explain(plan) if edge.target.startswith("softmax")]
    assert edge.fused and edge.rule == RULE


@pytest.mark.parametrize("device", ["interpreter", "numpy"])
def test_its_kernel_is_checked(device: str) -> None:
    b = head(3, 20, 10)
    plan = plan_apart(b, "interpreter", dtype="fp16")
    checks = kernel_checks(plan, b.inputs, device)
    assert [check.ok for check in checks] == [True]


# -- reasons ----------------------------------------------------------------------------------------------------------
def _read_elsewhere(b: Builder, x: Value) -> Value:
    return b.add("Softmax", b.output(gemm(b, x, 10)), axis=1)


def _behind(b: Builder, x: Value) -> Value:
    return b.add("Sqrt", b.add("Softmax", gemm(b, x, 10), axis=1))


def _image(b: Builder, filters: int, axis: int, groups: int = 1) -> Value:
    y = conv(b, b.input(weights(1, 8, 4, 4)), weights(filters, 8 // groups, 3, 3), groups=groups)
    return b.add("Softmax", y, axis=axis)


def _windows(b: Builder, x: Value) -> Value:
    y = conv(b, b.input(weights(1, 8, 4, 4)), weights(8, 1, 3, 3), groups=8, pads=(1,) * 4)
    return b.add("Softmax", conv(b, y, weights(6, 8, 1, 1)), axis=1)


REASONS: dict[str, tuple[str, Callable[[Builder, Value], Value]]] = {
    "read elsewhere": ("read elsewhere", _read_elsewhere),
    "operators behind": ("operators behind the softmax", _behind),
    "rows": ("not along the product's columns", lambda b, x: b.add("Softmax", gemm(b, x, 10), axis=0)),
    "pixels": ("not along the product's columns", lambda b, x: _image(b, 6, 3)),
    "groups": ("grouped", lambda b, x: _image(b, 32, 1, 2)),
    "wide": ("257 columns does not fit", lambda b, x: b.add("Softmax", gemm(b, x, 257), axis=1)),
    "windows": ("windows or another product", _windows),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    b = Builder()
    reason, build = REASONS[case]
    b.output(build(b, b.input(weights(4, 12))))
    canonical, _ = optimise(b.graph, Options(switches=Switches(disable=("merge-groups",))))
    said = reasons(fuse(canonical, Switches()), RULE)
    assert len(said) == 1 and reason in said[0]


def test_declines_what_has_no_known_shape() -> None:
    """Plans have none; what calls the rule itself may."""
    graph = Graph("rows")
    x = graph.add_input("x", TensorType(DType.FP32, (Dim.symbol("N"), 12)))
    y = graph.add("MatMul", [x, graph.add_constant(weights(12, 10))], {}, origins=["matmul"])
    z = graph.add("Softmax", [y], {"axis": 1}, origins=["softmax"])
    assert softmax.propose(graph, graph.node(z.node), {y.node: y.node, z.node: z.node}) == "its shape is not known"


def test_switched_off() -> None:
    b = head(3, 20, 10)
    plan = plan_apart(b, switches=Switches(disable=(*GROUPING, RULE)))
    assert len(plan.programs[0].launches) == 2 and ended(plan) == []
    assert reasons(plan.fused, RULE) == ["the rule is switched off"]
    same(run(b.graph, b.inputs), run(b.graph, b.inputs, disable=RULE))


# -- texts and machine code -------------------------------------------------------------------------------------------
def test_source(golden: Callable[[str, str], None]) -> None:
    (problem,) = ended(plan_apart(head(40, 64, 10)))
    kernel = emitted(problem, Tile(16, 16, 32, num_warps=4, num_stages=2))
    golden("kernels/gemm_softmax.py", kernel.source)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_no_spills(dtype: str, tmp_path: Path) -> None:
    b = Builder("heads")
    for rows, classes in ((1, 10), (128, 100), (64, 256)):
        b.output(b.add("Softmax", gemm(b, b.input(weights(rows, 512)), classes), axis=1))
    check_machine_code(plan_apart(b, "sm_80", "sm_90", dtype=dtype), tmp_path, 3)
