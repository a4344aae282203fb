"""Places of the largest and the least, products and logarithms of sums, on kernels, against the definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from compiled import Builder, evaluate, integers, run, same

from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.errors import UnsupportedModelError
from convc.planner import make_plan
from convc.program import Options

pytestmark = pytest.mark.usefixtures("interpreters")
FORMS = [
    {"keepdims": keep, "last": last, "op": op}
    for op, keep, last in itertools.product(("ArgMax", "ArgMin"), (False, True), (False, True))
]


def special(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Few distinct values, so that there are equals; rows with NaN, with infinities, of one value."""
    random = np.random.default_rng(seed)
    x = random.integers(-2, 3, shape).astype(np.float32)
    rows = x.reshape(-1, shape[-1])
    rows[::3] = np.where(random.random(rows[::3].shape) < 0.3, np.nan, rows[::3])
    rows[1::4] = random.choice([np.inf, -np.inf, 0.0], rows[1::4].shape)
    rows[2::5] = random.choice([np.inf, -np.inf, -0.0], (len(rows[2::5]), 1))
    return x


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_places(form: dict) -> None:
    b = Builder()
    for seed, (shape, axis) in enumerate((((5, 7), 1), ((3, 33, 4), 1), ((6, 1), 1), ((4, 3, 2), 0), ((17,), 0))):
        x = b.input(special(shape, seed))
        b.output(b.add(form["op"], x, axis=axis, keepdims=form["keepdims"], last=form["last"]))
    moved = b.add("Transpose", b.input(special((2, 9, 5), 9)), perm=(2, 0, 1))
    b.output(b.add(form["op"], moved, axis=2, keepdims=form["keepdims"], last=form["last"]))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.float16])
def test_places_of_narrow_numbers(dtype: type) -> None:
    b, random = Builder(), np.random.default_rng(1)
    limits = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    array = random.choice(np.array([limits.min, limits.max, 0, 1], dtype), (9, 6))
    for op in ("ArgMax", "ArgMin"):
        b.output(b.add(op, b.input(array), axis=1))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64])
def test_places_of_what_fp32_does_not_hold_have_no_kernel(dtype: type) -> None:
    b = Builder()
    b.output(b.add("ArgMax", b.input(np.array([[2**24, 2**24 + 1]], dtype)), axis=1))
    with pytest.raises(UnsupportedModelError, match="ArgMax on"):
        run(b.graph, b.inputs, disable="host-steps")
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_many_elements_take_several_steps() -> None:
    b = Builder()
    x = b.input(special((2, 9001), 3))
    for form in FORMS:
        b.output(b.add(form["op"], x, axis=1, keepdims=form["keepdims"], last=form["last"]))
    b.output(b.add("ReduceProd", b.input(np.tile(np.array([[1, -1, 1, 1, 1]], np.float32), (3, 1801))), axes=(1,)))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_products() -> None:
    """Of whole numbers that stay below 2^24: exact in any order."""
    b, random = Builder(), np.random.default_rng(2)
    for shape, axes in (((4, 6), (1,)), ((2, 3, 4), (0, 2)), ((5, 1), (1,)), ((7,), (0,)), ((3, 5, 2), (1,))):
        x = integers(random, shape)
        b.output(b.add("Neg", b.add("ReduceProd", b.input(x), axes=axes, keepdims=False)))
    b.output(b.add("ReduceProd", b.input(np.array([[1, np.nan], [np.inf, 2], [np.inf, 0]], np.float32)), axes=(1,)))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_logarithms_of_sums() -> None:
    b, random = Builder(), np.random.default_rng(2)
    for shape, axes in (((4, 6), (1,)), ((2, 3, 4), (0, 2)), ((3, 5, 2), (1,))):
        b.output(b.add("ReduceLogSum", b.input(np.abs(integers(random, shape, 9)) + 1), axes=axes))
    b.output(b.add("ReduceLogSum", b.input(np.array([[1, -1], [0, -1], [np.inf, 2]], np.float32)), axes=(1,)))
    found, wanted = run(b.graph, b.inputs), evaluate(b.graph, b.inputs)
    for name, array in found.items():
        np.testing.assert_array_max_ulp(array, wanted[name].astype(np.float32), maxulp=3)  # the logarithm's roundings


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_they_compile_for_gpus(target: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    b = Builder()
    x = b.input(np.zeros((40, 1000), np.float32))
    for last in (False, True):
        b.output(b.add("ArgMax", x, axis=1, last=last))
    b.output(b.add("ArgMin", b.input(np.zeros((8, 19, 64, 64), np.uint8)), axis=1))
    b.output(b.add("ReduceProd", x, axes=(1,)))
    artifact = compile_plan(
        make_plan(b.graph, Options((target,), "fp16")), KernelCache(tmp_path_factory.mktemp("kernels"))
    )
    kernels = artifact.manifest.programs[0].kernels
    assert len(kernels) == 4
    for kernel in kernels:
        assert kernel.binary.spill_bytes == 0 and kernel.binary.registers < 255
