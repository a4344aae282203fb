"""The batch: a symbolic one is fixed when compiling, a fixed one stays."""

from __future__ import annotations

import numpy as np
import pytest

import convc
from convc import errors, nn


def network(batch: int | str) -> nn.Network:
    net = nn.Network("tiny")
    return net.output(net.input(3, 8, 8, batch=batch).conv(4, 3).relu())


def test_a_symbolic_batch_takes_the_size_asked():
    compiled = convc.compile(network("N"), target="interpreter", dtype="fp32", batch=3)
    assert compiled.inputs[0].shape == (3, 3, 8, 8)
    assert compiled(np.ones((3, 3, 8, 8), np.float32)).shape == (3, 4, 6, 6)


def test_a_fixed_batch_is_kept():
    assert convc.compile(network(2), target="interpreter").inputs[0].shape == (2, 3, 8, 8)


def test_another_batch_than_the_fixed_one_is_refused():
    with pytest.raises(errors.UsageError, match="fixed at 2"):
        convc.compile(network(2), target="interpreter", batch=5)


def test_the_number_of_processes_must_be_one(monkeypatch):
    from convc.codegen.pool import worker_count

    monkeypatch.setenv("CONVC_JOBS", "3")
    assert worker_count() == 3
    for given in ("many", "0", "-1", "²"):
        monkeypatch.setenv("CONVC_JOBS", given)
        with pytest.raises(errors.UsageError, match=given):
            worker_count()
