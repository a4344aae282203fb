"""Products of matrices as the definitions of operators compute them."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.operator import operator
from convc.ir.ops.arrays import matmul


@pytest.mark.parametrize("columns", [1, 7, 64, 1000])
def test_equal_columns_have_equal_sums(columns: int) -> None:
    """Sums of fp32 numbers that nearly cancel; a library adds those of edge columns in another order."""
    generator = np.random.default_rng(columns)
    a = (generator.standard_normal((5, 1003)) * 10.0 ** generator.integers(-3, 4, (5, 1003))).astype(np.float32)
    column = generator.standard_normal((1003, 1)).astype(np.float32)
    found = matmul(a, np.repeat(column, columns, axis=1))
    expected = (a.astype(np.longdouble) @ column.astype(np.longdouble)).astype(np.float32)
    np.testing.assert_array_equal(found, np.repeat(expected, columns, axis=1))


def test_convolutions_and_products_are_rounded_once() -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((1, 512, 3, 3)).astype(np.float32)
    w = generator.standard_normal((4, 512, 3, 3)).astype(np.float32)
    exact = (x.astype(np.longdouble) * w.astype(np.longdouble)).sum((1, 2, 3)).astype(np.float32)
    conv = operator("Conv")
    form = conv.complete({"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)})
    [found] = conv.evaluate(form, [x, w])
    np.testing.assert_array_equal(found.ravel(), exact)
    [found] = operator("MatMul").evaluate({}, [x.reshape(1, -1), w.reshape(4, -1).T])
    np.testing.assert_array_equal(found.ravel(), exact)
