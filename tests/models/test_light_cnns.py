"""The nine CNNs of onnx's backend tests with seeded weights: the logits agree, and those of mutants do not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
import pytest
from light_cnns import NAMES, mutants, reweighted

import convc
from convc.analysis.verify import reference_outputs, verify
from convc.runtime.numpy_executor import GraphRunner

TOLERANCE = 1e-4
"""Largest error of a logit over the largest logit. The bounds from the networks' rounding are tighter
(2e-6 to 4e-5) and hold, too; this one is to tell mutants by."""
QUICK = ("squeezenet", "shufflenet", "inception_v1", "densenet121")
BY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
MUTANTS, SURVIVORS = 65, 2
"""How many there are over all nine, and how many may look right."""


def error(found: Mapping[str, np.ndarray], expected: np.ndarray) -> float:
    (logits,) = found.values()
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@cache
def reference(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    """The network, inputs, and what ONNX Runtime makes of them."""
    model = reweighted(name)
    (spec,) = convc.graph_of(model).graph_inputs
    shape = tuple(int(size) for size in spec.outputs[0].shape)
    inputs = {spec.attributes["name"]: np.random.default_rng(0).standard_normal(shape, np.float32)}
    (expected,) = reference_outputs(model, inputs).values()
    return model, inputs, expected


@pytest.mark.parametrize("name", BY)
def test_logits(name: str) -> None:
    model, inputs, expected = reference(name)
    checked = verify(model, "numpy", "fp32")
    assert checked.ok, checked.outputs
    with convc.compile(model, target="", dtype="fp32").engine("numpy") as engine:
        assert error(engine.run(inputs), expected) <= TOLERANCE


def surviving(name: str) -> tuple[list[str], int]:
    """The mutants of a network that the comparison lets pass, and how many there are."""
    model, inputs, expected = reference(name)
    errors = {label: error(_logits(mutant, inputs), expected) for label, mutant in mutants(model)}
    return [f"{name}: {label}" for label, found in errors.items() if found <= TOLERANCE], len(errors)


def _logits(mutant: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By the operators' definitions, not fused: a mutant is judged for itself, not for what fusion makes of it."""
    return {"logits": GraphRunner(convc.graph_of(mutant)).run(dict(inputs))[0]}


@pytest.mark.parametrize("name", QUICK)
def test_mutants_are_caught(name: str) -> None:
    survivors, count = surviving(name)
    assert count >= 6 and not survivors


@pytest.mark.slow
def test_nearly_all_mutants_are_caught() -> None:
    found = [surviving(name) for name in NAMES]
    survivors = [label for labels, _ in found for label in labels]
    assert sum(count for _, count in found) == MUTANTS
    assert len(survivors) <= SURVIVORS, survivors
