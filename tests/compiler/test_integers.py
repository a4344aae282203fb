"""Integers and truth values in kernels: every operator on every element type, with the values at their ends.

Results must be equal to the operators' definitions, in Triton's interpreter; the same texts compile for GPUs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiled import Builder, evaluate, planned, run, same

from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.errors import UnsupportedModelError
from convc.ir import DType, Kind, Value, operators
from convc.ir.ops.integer_text import has_integer_text
from convc.planner import make_plan
from convc.program import Options

pytestmark = pytest.mark.usefixtures("interpreters")
INTEGERS = tuple(dtype for dtype in DType if dtype.is_integer)
UNARY = ("Copy", "Relu", "Abs", "Neg", "Sign", "BitwiseNot")
BINARY = ("Add", "Sub", "Mul", "Max", "Min", "PRelu", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
LOGIC = ("And", "Or", "Xor", "Equal")
FUNCTIONS_OF_REALS = {"BatchNormalization", "BitCast", "Pow", "IsNaN", "IsInf"}


def ends(dtype: DType, seed: int = 0, size: int = 140) -> np.ndarray:
    """The least and largest values, those around zero and around the halves, and random ones of all sizes."""
    limits, random = np.iinfo(dtype.numpy), np.random.default_rng(seed)
    bits = 8 * dtype.itemsize
    special = [0, 1, 2, 3, -1, -2, 7, limits.min, limits.min + 1, limits.max, limits.max - 1]
    special += [
        sign * ((1 << shift) + step) for shift in (7, 8, 24, 31, 32, 53) for step in (-1, 0, 1) for sign in (1, -1)
    ]
    kept = [value for value in special if limits.min <= value <= limits.max]
    drawn = [
        int(random.integers(0, 1 << 62)) << 2 >> int(random.integers(64 - bits, 64)) for _ in range(size - len(kept))
    ]
    values = [value if value <= limits.max else value - (1 << bits) for value in (*kept, *drawn)]
    return random.permutation(np.array([max(limits.min, value) for value in values], dtype.numpy)).reshape(5, -1)


def nonzero(array: np.ndarray) -> np.ndarray:
    """Divisors; −1 would take the least integer past the largest."""
    return np.where((array == 0) | (array == np.array(-1).astype(array.dtype)), array.dtype.type(3), array)


def add_all(b: Builder, dtype: DType) -> None:
    x, y = b.input(ends(dtype)), b.input(ends(dtype, 1))
    for op in UNARY:
        b.output(b.add(op, x))
    for op in (*BINARY, *COMPARISONS):
        b.output(b.add(op, x, y))
    divisor = b.input(nonzero(ends(dtype, 2)))
    b.output(b.add("Div", x, divisor))
    for fmod in (False, True):
        b.output(b.add("Mod", x, divisor, fmod=fmod))
    least = -3 if dtype.numpy.kind == "i" else 0
    by = b.input(np.resize(np.arange(least, 8 * dtype.itemsize + 3), (5, 28)).astype(dtype.numpy))
    for direction in ("LEFT", "RIGHT"):
        b.output(b.add("BitShift", x, by, direction=direction))
    b.output(b.add("Clip", x, min=-100.5, max=99.5))
    b.output(b.add("Clip", x, min=2.0))
    b.output(b.add("Where", b.add("Less", x, y), x, y))
    largest = b.constant(np.array(np.iinfo(dtype.numpy).max - 1, dtype.numpy))
    b.output(b.add("Min", x, largest))
    b.output(b.add("Where", b.add("Equal", x, largest), b.constant(np.array([5], dtype.numpy)), largest))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_arithmetic(dtype: DType) -> None:
    b = Builder()
    add_all(b, dtype)
    with np.errstate(all="ignore"):
        same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_conversions() -> None:
    b = Builder()
    for source in INTEGERS:
        x = b.input(ends(source))
        for target in DType:
            if target is not DType.FP64 and not target.is_tiny:
                b.output(b.add("Cast", x, dtype=target))
    random = np.random.default_rng(3)
    truths = b.input(random.random((3, 4)) < 0.5)
    for target in INTEGERS:
        b.output(b.add("Cast", truths, dtype=target))
        limits = np.iinfo(target.numpy)
        inside = random.uniform(max(limits.min, -(2.0**62)), min(limits.max, 2.0**62), (3, 4))
        for scale in (1.0, 100 / limits.max):
            b.output(b.add("Cast", b.input((scale * inside).astype(np.float32)), dtype=target))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_logic() -> None:
    b, random = Builder(), np.random.default_rng(0)
    x, y, z = (b.input(random.random((3, 7)) < 0.5) for _ in range(3))
    numbers = b.input(np.array([[0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -3.5]] * 3, np.float32))
    others = b.input(random.standard_normal((3, 7)).astype(np.float32))
    for op in LOGIC:
        b.output(b.add(op, x, y))
    b.output(b.add("Not", x))
    b.output(b.add("Where", x, y, z))
    b.output(b.add("Xor", x, b.constant(np.array(True))))
    b.output(b.add("IsNaN", numbers))
    for signs in ((True, True), (True, False), (False, True), (False, False)):
        b.output(b.add("IsInf", numbers, negative=signs[0], positive=signs[1]))
    for op in COMPARISONS:
        b.output(b.add(op, numbers, others))
    chosen = b.add("Where", b.add("And", b.add("Greater", numbers, others), x), numbers, b.constant(0.25))
    b.output(b.add("Relu", chosen))
    b.output(b.add("Where", x, b.constant(1.0), b.constant(-1.0)))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_a_chain_of_mixed_types_is_one_kernel() -> None:
    b, random = Builder(), np.random.default_rng(0)
    x = b.input(random.standard_normal((2, 5, 4, 4)).astype(np.float16))
    zero, hundred = b.constant(np.array(0, np.float16)), b.constant(np.array(100, np.float16))
    masked = b.add("Where", b.add("Not", b.add("Less", x, zero)), x, zero)
    whole = b.add("Cast", b.add("Mul", masked, hundred), dtype=DType.INT32)
    b.output(b.add("BitwiseAnd", whole, b.constant(np.array(0x55, np.int32))))
    plan = make_plan(b.graph, Options(("interpreter",), "fp32"))
    assert len(plan.programs[0].launches) == 1
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_integers_end_no_other_kernel() -> None:
    b, random = Builder(), np.random.default_rng(0)
    x = b.input(random.standard_normal((2, 4, 6, 6)).astype(np.float32))
    mean = b.add("ReduceMean", x, axes=(2, 3), keepdims=True)
    b.output(b.add("Where", b.add("Not", b.add("Less", mean, b.constant(0.0))), x, b.constant(0.0)))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32], ids=lambda dtype: dtype.__name__)
def test_padding_of_integers_and_what_follows_it_are_kernels(dtype: type) -> None:
    b = Builder()
    y = b.add("Pad", b.input(np.arange(6, dtype=dtype).reshape(2, 3)), pads=(0, 1, 1, 0), value=9)
    b.output(b.add("Mul", b.add("Cast", y, dtype=DType.FP32), b.constant(0.5)))
    assert not planned(b.graph).fused.hosted
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_every_operator_on_integers_has_a_case() -> None:
    elementwise = {
        name for name, each in operators().items() if each.kind is Kind.ELEMENTWISE and has_integer_text(each)
    }
    cases = {*UNARY, *BINARY, *COMPARISONS, *LOGIC, "Div", "Mod", "BitShift", "Clip", "Where", "Cast", "Not"}
    assert elementwise == cases


@pytest.mark.parametrize(
    ("op", "dtype"), [("Pow", DType.INT32), ("Exp", DType.FP64), ("Add", DType.FP64), ("Mod", DType.FP32)]
)
def test_what_is_computed_for_narrow_reals_alone(op: str, dtype: DType) -> None:
    b = Builder()
    x = b.input(np.ones((2, 3), dtype.numpy))
    two = b.constant(np.full((1,), 2, dtype.numpy))
    b.output(b.add(op, *([x] if op == "Exp" else [x, two])))
    with pytest.raises(UnsupportedModelError, match=f"{op} on {dtype}"):
        run(b.graph, b.inputs, disable="host-steps")


def chained(b: Builder, dtype: DType) -> Value:
    """Nearly all operators behind one another: one kernel."""
    x, y = b.input(ends(dtype)), b.input(nonzero(ends(dtype, 1)))
    value = x
    steps: list[tuple[str, dict[str, Any]]] = [(op, {}) for op in (*UNARY[1:], *BINARY, "Div")]
    steps += [("Mod", {"fmod": False}), ("Mod", {"fmod": True}), ("Clip", {"min": -100.0, "max": 99.0})]
    steps += [("BitShift", {"direction": "LEFT"}), ("BitShift", {"direction": "RIGHT"})]
    for op, attributes in steps:
        value = b.add(op, *([value] if op in UNARY or op == "Clip" else [value, y]), **attributes)
    compared = b.add("Not", b.add("Less", value, y))
    return b.add("Cast", b.add("Cast", compared, dtype=DType.FP16), dtype=dtype)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_texts_compile_for_gpus(target: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    b = Builder()
    for dtype in (DType.INT8, DType.UINT8, DType.INT32, DType.INT64, DType.UINT64):
        b.output(chained(b, dtype))
    plan = make_plan(b.graph, Options((target,), "fp16"))
    assert len(plan.programs[0].launches) == 5
    artifact = compile_plan(plan, KernelCache(tmp_path_factory.mktemp("kernels")))
    for kernel in artifact.manifest.programs[0].kernels:
        assert kernel.binary.spill_bytes == 0 and kernel.binary.registers < 128
