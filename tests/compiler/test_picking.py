"""Kernels that read where other tensors say, in Triton's interpreter against ONNX Runtime: equal, and nothing on the
host."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from compiled import Builder, evaluate, integers, run, same
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import inside, positions

from convc import errors
from convc.analysis.bounds import output_bounds
from convc.analysis.verify import reference_outputs
from convc.frontends.export import export_onnx
from convc.ir import DType, Value
from convc.planner import make_plan
from convc.program import Options

pytestmark = pytest.mark.usefixtures("interpreters")
FEW = settings(settings.get_profile("shared-process"), max_examples=3)
SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def on_kernels(b: Builder, dtype: str = "fp32") -> dict[str, np.ndarray]:
    return run(b.graph, b.inputs, dtype=dtype, disable=["host-steps"])


def expected(b: Builder) -> dict[str, np.ndarray]:
    return reference_outputs(export_onnx(b.graph, opset=22), b.inputs)


def data(b: Builder, random: np.random.Generator, shape: tuple[int, ...], kind: str) -> Value:
    """A tensor of the user's, one that a kernel made, or a constant."""
    array = integers(random, shape, 9)
    if kind == "constant":
        return b.constant(array)
    return b.add("Neg", b.input(array)) if kind == "made" else b.input(array)


def places(
    b: Builder, random: np.random.Generator, shape: tuple[int, ...], extents: Any, kind: str, dtype: DType
) -> Value:
    """Indices from −extent to extent − 1, given, constant, or computed."""
    array = random.integers(-np.asarray(extents), extents, shape)
    if kind == "constant":
        return b.constant(array)
    if kind == "made":
        return b.add("Cast", b.add("Neg", b.input(np.asarray(-array, np.float32))), dtype=dtype)
    return b.input(array)


KINDS = st.sampled_from(["given", "made", "constant"])
picks = st.fixed_dictionaries(
    {
        "shape": SHAPES,
        "more": st.lists(st.integers(1, 5), max_size=2),
        "axis": st.integers(0, 3),
        "data": KINDS,
        "places": KINDS,
        "seed": st.integers(0, 2**32 - 1),
    }
)


def add_picking(b: Builder, case: dict[str, Any], op: str) -> None:
    random, shape = np.random.default_rng(case["seed"]), tuple(case["shape"])
    axis = case["axis"] % len(shape)
    x = data(b, random, shape, "given" if case["places"] == "constant" else case["data"])
    if op == "GatherND":
        length = 1 + random.integers(len(shape) - axis) if axis < len(shape) else 1
        indices = (*shape[:axis], *case["more"], int(length))
        b.output(
            b.add(
                op,
                x,
                places(b, random, indices, shape[axis : axis + length], case["places"], DType.INT64),
                batch_dims=axis,
            )
        )
        return
    wanted = tuple(case["more"])
    if op == "GatherElements":
        wanted = tuple(int(random.integers(1, n + 1)) for n in shape)
        wanted = (*wanted[:axis], int(random.integers(1, 9)), *wanted[axis + 1 :])
    b.output(b.add(op, x, places(b, random, wanted, shape[axis], case["places"], DType.INT32), axis=axis))


def add_scattering(b: Builder, case: dict[str, Any], op: str) -> None:
    """Updates at distinct places: of equal ones any may win."""
    random, shape = np.random.default_rng(case["seed"]), tuple(case["shape"])
    x, axis = data(b, random, shape, case["data"]), case["axis"] % len(shape)
    if op == "ScatterND":
        length = 1 + axis
        count = int(random.integers(1, 1 + np.prod(shape[:length])))
        flat = random.permutation(int(np.prod(shape[:length])))[:count]
        array = np.stack(np.unravel_index(flat, shape[:length]), -1)
        wanted, attributes = (count, *shape[length:]), {}
    else:
        wanted = tuple(int(random.integers(1, n + 1)) for n in shape)
        array = np.argsort(random.random((*wanted[:axis], shape[axis], *wanted[axis + 1 :])), axis)
        array, attributes = np.take(array, range(wanted[axis]), axis), {"axis": axis}
    array = array - (random.random(array.shape) < 0.5) * np.asarray(
        shape[:length] if op == "ScatterND" else shape[axis]
    )
    made = b.add("Cast", b.add("Neg", b.input(-array.astype(np.float32))), dtype=DType.INT64)
    indices = {"given": b.input, "constant": b.constant, "made": lambda _: made}[case["places"]](array)
    updates = data(b, random, wanted, "given" if case["seed"] % 2 else "made")
    b.output(b.add(op, x, indices, updates, **attributes))


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
@FEW
@given(st.lists(picks, min_size=8, max_size=16))
def test_elements_put_in_place(op: str, cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        add_scattering(b, case, op)
    same(on_kernels(b), expected(b))


def test_elements_put_in_place_in_front_of_a_shuffle() -> None:
    """A channel shuffle is a copy then: places along the channels would not lie evenly."""
    b = Builder()
    indices = b.input(np.array([7, 0, 11]).reshape(1, 3, 1, 1))
    x = b.add("ScatterElements", inside(b, 1, 12, 2, 2), indices, inside(b, 1, 3, 1, 1), axis=1)
    y = b.add("Transpose", b.add("Reshape", x, shape=(1, 3, 4, 2, 2)), perm=(0, 2, 1, 3, 4))
    b.output(b.add("Relu", b.add("Reshape", y, shape=(1, 12, 2, 2))))
    same(on_kernels(b), expected(b))


def test_sums_in_place_are_the_hosts() -> None:
    """Kernels would add up in any order."""
    b = Builder()
    indices = b.input(np.array([[0], [0]]))
    b.output(b.add("ScatterND", inside(b, 3, 2), indices, inside(b, 2, 2), reduction="add"))
    with pytest.raises(errors.UnsupportedModelError, match="ScatterND with reduction add"):
        on_kernels(b)
    same(run(b.graph, b.inputs), expected(b))


@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND"])
@FEW
@given(st.lists(picks, min_size=8, max_size=16))
def test_picked_elements(op: str, cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        add_picking(b, case, op)
    same(on_kernels(b), expected(b))


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int8, np.uint16, np.bool_, np.float16])
def test_elements_of_any_type(dtype: Any) -> None:
    b = Builder()
    x = b.input(np.arange(24).reshape(4, 6).astype(dtype))
    b.output(b.add("Gather", x, b.input(np.array([[3, -1], [0, 2]])), axis=1))
    same(on_kernels(b), {"y0": b.inputs["x0"][:, [[3, -1], [0, 2]]]})


def test_outside_there_is_zero() -> None:
    """A kernel cannot refuse an index; it must not read there either."""
    b = Builder()
    x = inside(b, 3, 5)
    b.output(b.add("Gather", b.add("Add", x, b.constant(np.float32(9))), b.input(np.array([0, 3, -4, 2**40])), axis=0))
    (found,) = on_kernels(b).values()
    assert (found[0] >= 7).all() and (found[1:] == 0).all()


def test_what_is_picked_is_not_overwritten() -> None:
    """One element in each row: the strides of what is read and what is made are alike, their places are not."""
    b = Builder()
    x = inside(b, 2, 1, 40)
    b.output(b.add("Neg", b.add("Gather", x, positions(b, (40,), 40), axis=2)))
    y = inside(b, 40, 1)
    b.output(b.add("Neg", b.add("GatherElements", y, positions(b, (40, 1), 40), axis=0)))
    same(on_kernels(b), expected(b))


def test_nothing_is_stored_outside() -> None:
    b = Builder()
    x, updates = inside(b, 3, 5), b.input(np.full((4, 5), 7, np.float32))
    b.output(b.add("ScatterND", x, b.input(np.array([[1], [3], [-4], [2**40]])), updates))
    (found,) = on_kernels(b).values()
    same({"y": found[1:2]}, {"y": np.full((1, 5), 7)})
    assert (found[[0, 2]] == -b.inputs["x0"][[0, 2]]).all()


# -- sampling ---------------------------------------------------------------------------------------------------------
def sample(b: Builder, shape: tuple[int, ...], places: tuple[int, ...], **attributes: Any) -> None:
    """Places on eighths of the image, from outside it to outside it: whole steps of a sixteenth, exact in fp32."""
    random = np.random.default_rng(sum(shape))
    grid = random.integers(-13, 14, (shape[0], *places, len(shape) - 2)).astype(np.float32) / 8
    b.output(b.add("GridSample", b.add("Neg", b.input(integers(random, shape))), b.input(grid), **attributes))


PADDINGS = ("zeros", "border", "reflection")


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_sampled_images(mode: str) -> None:
    b = Builder()
    for padding, aligned in product(PADDINGS, (False, True)):
        attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
        sample(b, (2, 3, 5, 7), (4, 6), **attributes)
        sample(b, (1, 20, 1, 4), (3, 1), **attributes)
        sample(b, (1, 2, 3, 4, 5), (2, 3, 4), **attributes)
    same(on_kernels(b), expected(b))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_cubic_samples(dtype: str) -> None:
    b = Builder()
    for padding, aligned in product(PADDINGS, (False, True)):
        sample(b, (2, 3, 5, 7), (4, 6), mode="cubic", padding_mode=padding, align_corners=aligned)
    fused = make_plan(b.graph, Options((), dtype)).graph
    bounds, wanted = output_bounds(fused, dtype, b.inputs), expected(b)
    for name, found in on_kernels(b, dtype).items():
        assert np.abs(found - wanted[name]).max() <= bounds[name], name


def test_places_that_are_no_numbers() -> None:
    """What lies infinitely far outside weighs nothing, and no place is NaN, as the definition has it."""
    b = Builder()
    grid = np.zeros((5, 2), np.float32)
    grid[:, 0] = 0.5, np.inf, -np.inf, 3e38, np.nan
    b.output(b.add("GridSample", inside(b, 1, 2, 4, 4), b.input(grid.reshape(1, 1, 5, 2)), mode="nearest"))
    with np.errstate(all="ignore"):
        same(on_kernels(b), evaluate(b.graph, b.inputs, np.float32))
