"""The example of a policy and a rule of one's own: what it prints, and that the rule keeps what a network computes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, integers, run, same

import convc

EXAMPLE = Path(__file__).parents[1] / "examples" / "fusion_policy.py"


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("fusion_policy", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_compares_policies_and_the_rule(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:28].strip(): [float(figure) for figure in line[28:].split()] for line in lines[3:8]}
    assert list(rows) == ["never", "cost-model", "always", "saves-200000", "cost-model, pool-before-conv"]
    launches = {name: figures[0] for name, figures in rows.items()}
    assert launches["always"] <= launches["cost-model"] < launches["saves-200000"] < launches["never"]
    assert rows["cost-model, pool-before-conv"][2] < rows["cost-model"][2], "fewer multiply-adds"
    assert "pool-before-conv rewrote:" in lines and lines[-1].startswith("  ")
    assert "pool-before-conv" not in convc.RULES


def test_the_rule_keeps_what_the_network_computes(example: ModuleType, interpreters: None) -> None:
    random = np.random.default_rng(0)
    b = Builder()
    x = b.input(integers(random, (2, 8, 6, 6)))
    weights, bias = 4 * integers(random, (16, 8, 1, 1)), integers(random, (16,))
    window = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
    pooled = b.add("AveragePool", conv(b, x, weights, bias), count_include_pad=False, ceil_mode=False, **window)
    b.output(pooled)
    with convc.registered(example.RULE):
        (moved,) = convc.plan(b.graph).graph.of_kind("Conv")
        assert moved.outputs[0].shape == (2, 16, 3, 3)
        same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))
