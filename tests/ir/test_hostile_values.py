"""No attribute and no shape brings a definition down: it is refused, or what was inferred is what comes out.

Every operator is asked about the sample that the page of operators has of it, with one attribute, one entry of one, or
one shape replaced by something that a broken model might say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from operators_page import script

from convc.errors import ShapeError
from convc.ir import DType, Kind, Operator, TensorType, operators

HOSTILE = (None, "", "nonsense", 0, -1, 7, math.nan, math.inf, -math.inf, 0.0, -0.5, True, (), (0,), (-1,), (None,))
ENTRIES = (0, -1, 100, math.nan, math.inf, None, 1.5)
FOUND_BY_THE_RUN = "count"
"""A size that the data decide; a number there is a claim about them, which no inference can check."""
MOST_ELEMENTS = 1 << 16


PAGE = script()
SUBJECTS = [operator for operator in operators().values() if operator.kind is not Kind.STRUCTURAL]
Form = tuple[dict[str, Any], list[tuple[int, ...]]]


def replaced(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


def hostile_attributes(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in given.items():
        if name == FOUND_BY_THE_RUN:
            continue
        bad: list[Any] = list(HOSTILE)
        if isinstance(value, tuple):
            bad += [value[:-1], (*value, 1), list(value)]
            bad += [replaced(value, place, entry) for place in range(len(value)) for entry in ENTRIES]
        yield from ({**given, name: entry} for entry in bad)


def hostile_shapes(shapes: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    yield [*shapes, (2,)]
    for place, shape in enumerate(shapes):
        bad = [(), shape[:-1], (*shape, 1), (1, *shape), (*shape, 2)]
        bad += [replaced(shape, axis, size) for axis in range(len(shape)) for size in (0, 1, 3, 5)]
        yield from ([*shapes[:place], entry, *shapes[place + 1 :]] for entry in bad)


def types_of(operator: Operator, shapes: list[tuple[int, ...]], dtype: DType) -> list[TensorType]:
    dtypes = [DType.INT64 if PAGE.INDEX_INPUT.get(operator.name) == i else dtype for i in range(len(shapes))]
    if operator.name == "Where":
        dtypes[0] = DType.BOOL
    return [TensorType(*pair) for pair in zip(dtypes, shapes, strict=True)]


def check(operator: Operator, attributes: dict[str, Any], types: list[TensorType]) -> bool:
    """Whether it is accepted; what is accepted must run, and to what was inferred."""
    try:
        inferred = operator.infer(attributes, types)
        if any(type.is_static and type.size > MOST_ELEMENTS for type in inferred):
            return True
        fill = (0 if type.dtype is DType.INT64 else 1 for type in types)
        arrays = [np.full(type.shape, value, type.dtype.numpy) for value, type in zip(fill, types, strict=True)]
        results = operator.evaluate(attributes, arrays)
    except ShapeError:
        return False
    for array, type in zip(results, inferred, strict=True):
        assert DType.of(array.dtype) is type.dtype
        assert not type.is_static or array.shape == type.shape
    return True


@pytest.mark.parametrize("operator", SUBJECTS, ids=str)
def test_refused_or_as_inferred(operator: Operator) -> None:
    shapes, given = PAGE.sample(operator)
    full = operator.complete(given)
    for dtype in (DType.FP32, DType.FP16, DType.INT64, DType.BOOL):
        for form in hostile_shapes(shapes):
            check(operator, full, types_of(operator, form, dtype))
    dtype = next(dtype for dtype in DType if check(operator, full, types_of(operator, shapes, dtype)))
    for attributes in hostile_attributes(full):
        check(operator, attributes, types_of(operator, shapes, dtype))
