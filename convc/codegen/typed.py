"""Element types of the values that a kernel computes with, and their conversions and literals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir import DType
from ..ir.ops.elementwise import TRUTH
from ..ir.ops.triton_text import literal
from ..ir.problem import Problem, Ref

TRITON_TYPES = {
    DType.FP64: "float64",
    DType.FP32: "float32",
    DType.FP16: "float16",
    DType.BF16: "bfloat16",
    DType.INT64: "int64",
    DType.INT32: "int32",
    DType.INT16: "int16",
    DType.INT8: "int8",
    DType.UINT64: "uint64",
    DType.UINT32: "uint32",
    DType.UINT16: "uint16",
    DType.UINT8: "uint8",
    DType.BOOL: "int1",
    **{dtype: "int8" for dtype in DType if dtype.is_tiny},
}


def only_floats(problem: Problem) -> bool:
    """Whether statements compute with floats alone, but for conversions of what fp32 holds exactly."""

    def fits(ref: Ref, converted: bool) -> bool:
        dtype = type_of(ref, problem, types)
        return dtype is None or dtype.is_float or (converted and dtype.fits_fp32)

    types = value_types(problem)
    for statement, dtype in zip(problem.statements, types, strict=True):
        converted = statement.operator.name == "Cast"
        if not all(fits(ref, converted) for ref in statement.arguments):
            return False
        if not (dtype.is_float or (converted and dtype.fits_fp32)):
            return False
    return True


def value_types(problem: Problem) -> list[DType]:
    """The element type of each statement's value; FP32 for all floats."""
    types: list[DType] = []
    for statement in problem.statements:
        arguments = [type_of(ref, problem, types) for ref in statement.arguments]
        known = [dtype for dtype in arguments if dtype is not None]
        if statement.operator.name == "Cast":
            types.append(computed(statement.attributes["dtype"]))
        elif statement.operator.name in TRUTH:
            types.append(DType.BOOL)
        else:
            types.append(known[-1] if known else DType.FP32)
    return types


def type_of(ref: Ref, problem: Problem, types: Sequence[DType]) -> DType | None:
    """The element type of an argument, None for a number, which takes that of the others."""
    if ref.kind == "operand":
        return computed(problem.operands[ref.index].dtype)
    if ref.kind == "statement":
        return types[ref.index]
    return getattr(problem, "sums", DType.FP32) if ref.kind == "accumulator" else None


def computed(dtype: DType) -> DType:
    """What values of a type are computed in."""
    return DType.FP32 if dtype.is_float else dtype


def converted(value: str, source: DType, target: DType) -> str:
    """A value of one type in another. Fractions are cut off towards zero, and what a narrower type cannot hold wraps
    around."""
    if target.is_float:
        return cast(value if source is DType.FP32 else f"{value}.to(tl.float32)", target)
    if target is DType.BOOL:
        return value if source is DType.BOOL else f"{value} != 0"
    wide = ""
    if source is DType.FP32 and target.itemsize < 8:
        wide = ".to(tl.int64)" if target is DType.UINT32 else ".to(tl.int32)"
    return f"{value}{wide}.to(tl.{TRITON_TYPES[target]})"


def cast(value: str, dtype: DType) -> str:
    """An fp32 value with what a conversion leaves of it. Whole numbers go through int32: fractions are cut off towards
    zero, and what a narrower type cannot hold wraps around."""
    whole = ".to(tl.int32)" if dtype.fits_fp32 and dtype is not DType.BOOL else ""
    narrowed = "" if dtype is DType.FP32 else f".to(tl.{TRITON_TYPES[dtype]})"
    return f"{value}{whole}{narrowed}.to(tl.float32)" if narrowed else value


def whole(value: float, dtype: DType) -> str:
    """A number as a literal of a type."""
    if dtype is DType.BOOL:
        return str(bool(value))
    return number(value) if dtype.is_float else literal(int(value))


def number(value: float) -> str:
    """A float literal that Triton reads, in fp32."""
    if math.isfinite(value):
        return repr(float(value)) if value >= 0 else f"({float(value)!r})"
    return f'float("{value}")'
