"""Strides and index spaces: the arithmetic that layouts and kernels rest on, against NumPy and brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.ir import DType, Value
from convc.ir.plan import Border, Placement
from convc.ir.problem import Axis, Bound, Contraction, IterDim, Operand, Problem, Tap, WindowReduction
from convc.ir.rewriting import collapse
from convc.passes.layout import reshape_strides
from convc.passes.lowering.pointwise import _refinement
from convc.passes.traffic import touched

MANY = settings(max_examples=150, derandomize=True, deadline=None)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def addresses(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """Addresses of all elements in logical order."""
    indices = itertools.product(*map(range, shape))
    return [sum(i * s for i, s in zip(index, strides, strict=True)) for index in indices]


@MANY
@given(SHAPES, st.data())
def test_reshaped_strides_reach_the_same_elements_in_the_same_order(shape: tuple[int, ...], data: Any) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    outer = np.zeros([extent + data.draw(st.integers(0, 1)) for extent in shape]).transpose(order)
    steps = [data.draw(st.sampled_from([1, 2, -1])) for _ in order]
    part = outer[
        tuple(slice(0, shape[a], s) if s > 0 else slice(None, None, s) for a, s in zip(order, steps, strict=True))
    ]
    source, strides = part.shape, tuple(s // 8 for s in part.strides)
    target = regrouped(data, math.prod(source))
    found = reshape_strides(source, strides, target)
    if found is not None:
        assert addresses(target, found) == addresses(source, strides)
    else:
        assert not expressible(source, strides, target), "NumPy copies just where no strides exist"


def regrouped(data: Any, count: int) -> tuple[int, ...]:
    extents = [1] * data.draw(st.integers(1, 4))
    for prime in (2, 3, 5):
        while count % prime == 0:
            extents[data.draw(st.integers(0, len(extents) - 1))] *= prime
            count //= prime
    return tuple(extents)


def expressible(shape: tuple[int, ...], strides: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether the addresses, put in the target shape, step evenly along each dimension."""
    places = np.array(addresses(shape, strides)).reshape(target)
    return all(len(np.unique(np.diff(places, axis=axis))) <= 1 for axis in range(places.ndim))


@MANY
@given(SHAPES, st.data())
def test_a_refinement_merges_into_both_shapes(shape: tuple[int, ...], data: Any) -> None:
    target = regrouped(data, math.prod(shape))
    fine = _refinement(shape, target)
    if fine is not None:
        assert math.prod(fine) == math.prod(shape)
        for coarse in (shape, target):
            dense = np.arange(math.prod(shape)).reshape(coarse)
            element_strides = tuple(s // dense.itemsize for s in dense.strides)
            assert reshape_strides(coarse, element_strides, fine) is not None
        products = set(itertools.accumulate(fine, lambda a, b: a * b))
        for coarse in (shape, target):
            assert set(itertools.accumulate(coarse, lambda a, b: a * b)) <= products | {1}


# -- collapse -----------------------------------------------------------------------------------------------------
@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Operands with dense, broadcast, permuted or sliced strides over one iteration space."""
    extents = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    split = draw(st.integers(0, len(extents)))
    dims = tuple(IterDim(f"i{n}", e, Axis.ROW if n < split else Axis.COL) for n, e in enumerate(extents))

    def operand(name: str) -> Operand:
        strides, step = [0] * len(extents), 1
        order = list(range(len(extents)))
        if draw(st.booleans()):
            order = draw(st.permutations(order))
        for axis in reversed(order):
            strides[axis] = draw(st.sampled_from([step, step, step, 0]))
            step *= extents[axis] + draw(st.sampled_from([0, 0, 1]))
        return Operand(name, Value(0), DType.FP32, tuple(strides), draw(st.integers(0, 3)))

    x = operand("x")
    if draw(st.booleans()):
        dim = draw(st.integers(0, len(extents) - 1))
        bound = Bound(dim, 1, max(1, extents[dim] - 2), x.strides[dim], "edge")
        x = Operand(x.name, x.source, x.dtype, x.strides, x.offset, bounds=(bound,))
    return Problem("pointwise", "elementwise", dims, operand("y"), (x, operand("in1")))


def visited(problem: Problem) -> list[tuple[tuple[int, ...], ...]]:
    """For each iteration in order, sorted by (row, column): the addresses of all operands, and bounded indices."""
    positions = {axis: problem.positions(axis) for axis in (Axis.ROW, Axis.COL)}
    order = [*positions[Axis.ROW], *positions[Axis.COL]]
    found = []
    for index in itertools.product(*(range(problem.dims[p].extent) for p in order)):
        at = dict(zip(order, index, strict=True))
        found.append(tuple(_address(o, at) for o in (*problem.reads, problem.output)))
    return found


def _address(operand: Operand, at: dict[int, int]) -> tuple[int, ...]:
    bounded = [at[bound.dim] for bound in operand.bounds]
    return (operand.offset + sum(at[d] * stride for d, stride in enumerate(operand.strides)), *bounded)


@MANY
@given(problems())
def test_collapsing_visits_the_same_addresses_in_the_same_order(problem: Problem) -> None:
    collapsed = collapse(problem)
    assert visited(collapsed) == visited(problem)
    assert len(collapsed.dims) <= len(problem.dims)
    assert [collapsed.extent(axis) for axis in Axis] == [problem.extent(axis) for axis in Axis]


# -- traffic ------------------------------------------------------------------------------------------------------
@st.composite
def windowed(draw: st.DrawFn) -> WindowReduction | Contraction:
    size, step, dilation = (draw(st.integers(1, 3)) for _ in range(3))
    pad, limit, rows, channels = draw(st.integers(0, 2)), draw(st.integers(1, 9)), 0, draw(st.integers(1, 4))
    rows = (limit + 2 * pad - (size - 1) * dilation - 1) // step + 1
    if rows < 1:
        size, rows = 1, (limit + 2 * pad - 1) // step + 1
    tap = Tap("s", size, 1, step, pad, dilation, limit, channels * dilation, masked=pad > 0)
    if draw(st.booleans()):
        dims = (IterDim("n", 2, Axis.ROW), IterDim("q", rows, Axis.ROW), IterDim("c", channels, Axis.COL))
        x = Operand("x", Value(0), DType.FP32, (limit * channels, step * channels, 1))
        y = Operand("y", Value(1), DType.FP32, (rows * channels, channels, 1))
        return WindowReduction("window", "max", dims, y, x=x, taps=(tap,))
    dims = (IterDim("n", 2, Axis.ROW), IterDim("q", rows, Axis.ROW), IterDim("k", 5, Axis.COL))
    x = Operand("x", Value(0), DType.FP32, (limit * channels, step * channels, 0))
    w, y = Operand("w", Value(2), DType.FP32, (0, 0, 1)), Operand("y", Value(1), DType.FP32, (rows * 5, 5, 1))
    return Contraction("contraction", "conv", dims, y, x=x, w=w, depth=channels, x_depth=1, w_depth=5, taps=(tap,))


def positions_read(problem: WindowReduction | Contraction) -> Iterator[int]:
    (tap,) = problem.taps
    depth, x_depth = getattr(problem, "depth", 1), getattr(problem, "x_depth", 0)
    for index in itertools.product(*(range(dim.extent) for dim in problem.dims)):
        for j, d in itertools.product(range(tap.size), range(depth)):
            if 0 <= index[1] * tap.step - tap.pad + j * tap.dilation < tap.limit:
                base = sum(i * s for i, s in zip(index, problem.x.strides, strict=True)) + d * x_depth
                yield base + j * tap.x_stride - tap.pad * tap.x_stride // tap.dilation


@MANY
@given(windowed())
def test_traffic_of_windows_counts_each_element_once(problem: WindowReduction | Contraction) -> None:
    assert touched(problem, problem.x) == len(set(positions_read(problem)))
    assert touched(problem, problem.output) == math.prod(dim.extent for dim in problem.dims)


@MANY
@given(problems().filter(lambda p: not p.operands[0].bounds))
def test_traffic_of_elementwise_operands(problem: Problem) -> None:
    """Operands whose elements do not coincide: as many elements as addresses."""
    for position, operand in enumerate(problem.reads):
        distinct = {row[position] for row in visited(problem)}
        strided = [d.extent for d, s in zip(problem.dims, operand.strides, strict=True) if s]
        if len(distinct) == math.prod(strided):
            assert touched(problem, operand) == len(distinct)
        else:
            assert touched(problem, operand) >= len(distinct), "an upper bound where strides overlap"


def test_spans() -> None:
    assert Placement(0, DType.FP16, (2, 3), (-3, 5)).span == 1 + 3 + 10
    assert Placement(0, DType.FP16, (2, 0), (3, 1)).span == 0


@MANY
@given(st.data())
def test_zeros_between_images_cover_what_windows_reach_and_nothing_else(data: Any) -> None:
    """Every position that a window can reach is the pixel of its image, or one of the zeros; their numbers."""
    images, height, width = (data.draw(st.integers(1, most)) for most in (3, 5, 5))
    lines, columns = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    border = Border(images, height, width, lines, columns, 1)
    image, _, line, column = border.strides
    pixels = {
        (n, p, q): border.margin + n * image + p * line + q * column
        for n in range(images)
        for p in range(-lines, height + lines)
        for q in range(-columns, width + columns)
    }
    inside = {place for (n, p, q), place in pixels.items() if 0 <= p < height and 0 <= q < width}
    outside = {place for (n, p, q), place in pixels.items() if not (0 <= p < height and 0 <= q < width)}
    assert len(inside) == images * height * width and not inside & outside
    assert inside | outside == set(range(border.pixels))
    assert len(outside) == border.zeros == border.pixels - len(inside)
    assert border.around * images + border.margin == border.zeros


@MANY
@given(st.data())
def test_positions_of_a_window_between_zeros(data: Any) -> None:
    """Positions in front of a line are those behind the line before it, and counted once."""
    size, step, dilation = (data.draw(st.integers(1, 4)) for _ in range(3))
    pad, limit, places = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    tap = Tap("s", size, 0, step, pad, dilation, limit, 1)
    reached = [place * step + j * dilation - pad for place in range(places) for j in range(size)]
    after = tap.after(places)
    assert after == max(0, max(reached) - limit + 1)
    zeros = max(pad, after)
    lines = [(line * (limit + zeros) + position) for line in range(4) for position in reached]
    inner = {position for position in lines if limit + zeros <= position < 2 * (limit + zeros)}
    assert replace(tap, period=limit + zeros).covered(places) == len(inner)
