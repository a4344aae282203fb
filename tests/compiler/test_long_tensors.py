"""Tensors of more elements than 32 bits number: planned, and never run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from compiled import APART, Builder, conv

from convc.ir import DType, TensorType, Value
from convc.passes.policies import Always
from convc.planner import make_plan
from convc.program import Options, Plan


def long(b: Builder, *shape: int) -> Value:
    return b.graph.add_input(f"x{len(b.graph.graph_inputs)}", TensorType(DType.FP32, shape))


def plan_of(build: Callable[[Builder], Value]) -> Plan:
    b = Builder()
    b.output(build(b))
    return make_plan(b.graph, Options(("sm_90",), switches=APART, policy=Always()))


def lines_of(plan: Plan) -> list[str]:
    return [line.strip() for launch in plan.programs[0].launches for line in launch.kernel.source.split("\n")]


def test_rows_are_64_bits_wide_and_columns_where_they_step_far() -> None:
    plan = plan_of(lambda b: conv(b, long(b, 1, 3, 8192, 8192), np.ones((64, 3, 1, 1), np.float32)))
    lines = lines_of(plan)
    assert "row = row.to(tl.int64)" in lines
    assert any("y + pq[:, None] + (k.to(tl.int64) * 67108864)[None, :]" in line for line in lines)
    assert not any("w + " in line and "int64" in line for line in lines)


def test_tensors_that_32_bits_number_have_no_wider_indices() -> None:
    plan = plan_of(lambda b: conv(b, long(b, 1, 3, 4096, 4096), np.ones((64, 3, 1, 1), np.float32)))
    assert not any("int64" in line for line in lines_of(plan))


HOSTED: dict[str, tuple[str, Callable[[Builder], Value]]] = {
    "rows": ("along one side", lambda b: b.add("Relu", long(b, 1 << 16, 1 << 15, 2))),
    "columns": ("along one side", lambda b: b.add("Relu", long(b, 1 << 31))),
    "reduced": ("along one side", lambda b: b.add("ReduceSum", long(b, 1 << 16, 1 << 15), axes=(0, 1), keepdims=True)),
    "channels": (
        "of memory",
        lambda b: conv(b, long(b, 1, 64, 8192, 8192), np.ones((8, 64, 1, 1), np.float32)),
    ),
    "stretched": (
        "of memory",
        lambda b: b.add("ReduceMax", long(b, 1 << 12, 1 << 20), axes=(0,), keepdims=True),
    ),
}


@pytest.mark.parametrize("case", HOSTED)
def test_what_cannot_be_numbered_is_the_host_s(case: str) -> None:
    reason, build = HOSTED[case]
    assert any(reason in said for said in plan_of(build).fused.hosted.values())
