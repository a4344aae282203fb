"""bf16 in Triton's interpreter: it keeps bits, so rounding and products are ours to get right."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from compiled import Builder, run

from convc.runtime.interpreter_worker import bfloat16_bits


def test_rounds_to_nearest_even_like_the_type_itself() -> None:
    high = np.arange(0, 2**16, dtype=np.uint32)[:, None] << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (high | low).view(np.float32)
    expected, found = values.astype(ml_dtypes.bfloat16), bfloat16_bits(values).view(ml_dtypes.bfloat16)
    numbers = ~np.isnan(values)
    assert np.isnan(found[~numbers].astype(np.float32)).all()
    np.testing.assert_array_equal(found[numbers].view(np.uint16), expected[numbers].view(np.uint16))


@pytest.mark.usefixtures("interpreters")
def test_stored_values_and_operands_are_rounded_as_on_a_gpu() -> None:
    random = np.random.default_rng(0)
    b = Builder()
    array = random.standard_normal((4, 40)).astype(np.float32)
    x = b.input(array)
    b.output(b.add("Mul", b.add("Abs", x), b.constant(np.float32(1))))
    hidden = b.add("Softmax", b.add("Neg", x), axis=1)
    b.output(b.add("MatMul", hidden, b.constant(np.eye(40, dtype=np.float32))))
    found = run(b.graph, b.inputs, dtype="bf16", opt="none")
    stored = np.abs(array).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found["y0"], stored)
    assert (found["y1"] == found["y1"].astype(ml_dtypes.bfloat16).astype(np.float32)).all()
    np.testing.assert_allclose(found["y1"].sum(axis=1), 1.0, atol=40 * 2.0**-8 * found["y1"].max())
