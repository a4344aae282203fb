"""One ONNX node as its adapter sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from convc import errors
from convc.ir.dims import Dim, DimLike
from convc.ir.graph import Value
from convc.ir.types import DType, Shape, TensorType

from . import limits, symbolic
from .attributes import Schema
from .builder import Builder, Operand
from .registry import UnsupportedForm
from .tensors import DTYPES, type_name


@dataclass(frozen=True)
class Call:
    """A node with its operands resolved.

    op, opset: the ONNX operator and the version of its operator set. inputs: operands, None where left out; trailing
    omissions are cut off. used: for each output, whether something reads it.
    """

    op: str
    opset: int
    inputs: tuple[Operand | None, ...]
    used: tuple[bool, ...]
    attributes: dict[str, Any]
    schema: Schema
    builder: Builder

    # -- attributes ---------------------------------------------------------------------------------------------------
    def has(self, name: str) -> bool:
        return name in self.attributes

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute as given, else ONNX's default for this opset, else ``default``."""
        if name in self.attributes:
            return self.attributes[name]
        return self.schema.defaults.get(name, default)

    def flag(self, name: str, default: int = 0) -> bool:
        """An attribute that is 0 or 1.

        Raises:
            ShapeError: another number, which implementations read differently.
        """
        value = self.attr(name, default)
        if value not in (0, 1):
            raise errors.wrong_attribute(self.op, name, "0 or 1", value)
        return bool(value)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """An attribute that names one of a few things; the first of them where it is left out.

        Raises:
            ShapeError: another name.
        """
        value: str = self.attr(name, choices[0])
        if value not in choices:
            raise errors.wrong_attribute(self.op, name, f"one of {', '.join(choices)}", value)
        return value

    def dtype(self, name: str, default: DType | None = None) -> DType:
        """An attribute that is ONNX's number of an element type; ``default`` where it is 0 or left out.

        Raises:
            UnsupportedForm: an element type that convc does not have.
        """
        code = self.attr(name, 0)
        if not code and default is not None:
            return default
        if code not in DTYPES:
            raise UnsupportedForm(errors.FORM_DTYPE.format(dtype=type_name(code)))
        return DTYPES[code]

    # -- operands -----------------------------------------------------------------------------------------------------
    def input(self, position: int) -> Operand | None:
        """The operand, or None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    @property
    def x(self) -> Operand:
        """The first input, which every operator that asks for it requires."""
        return self.required(0)

    def required(self, position: int) -> Operand:
        operand = self.input(position)
        if operand is None:
            raise errors.operand_missing(self.op, position)
        return operand

    @property
    def operands(self) -> list[Operand]:
        """All inputs of an operator that takes none as optional."""
        return [self.required(position) for position in range(len(self.inputs))]

    def type(self, operand: Operand) -> TensorType:
        return self.builder.type(operand)

    def shape(self, operand: Operand) -> Shape:
        return self.type(operand).shape

    @cached_property
    def rank(self) -> int:
        """Rank of the first input."""
        return self.type(self.x).rank

    def known(self, position: int, what: str) -> np.ndarray | None:
        """The array at an optional input; it must be known.

        Raises:
            UnsupportedForm: it is computed from the network's inputs.
        """
        operand = self.input(position)
        if isinstance(operand, Value):
            raise UnsupportedForm(errors.FORM_RUNTIME.format(what=what), [operand])
        return operand

    def sizes(self, position: int, what: str) -> tuple[DimLike, ...] | None:
        """The known integers (some perhaps symbolic) at an optional input."""
        array = self.known(position, what)
        if array is None:
            return None
        if array.ndim > 1 or array.dtype.kind not in "iuO":
            raise errors.operand_shape(what, list(array.shape), "a vector of integers")
        return tuple(item if isinstance(item, Dim) else int(item) for item in array.reshape(-1))

    def integers(self, position: int, what: str) -> tuple[int, ...] | None:
        """The known plain integers at an optional input."""
        sizes = self.sizes(position, what)
        return None if sizes is None else tuple(symbolic.number(what, size) for size in sizes)

    def integers_or_attr(self, name: str, position: int, since: int) -> tuple[int, ...] | None:
        """Integers that are an attribute before opset ``since`` and an input from then on."""
        return self.integers(position, name) if self.opset >= since else self.attr(name)

    def axis(self, axis: int, rank: int) -> int:
        """``axis`` counted from the front.

        Raises:
            ShapeError: outside the rank.
        """
        if not -rank <= axis < rank:
            raise errors.axis_out_of_range(axis, rank)
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """``axes`` counted from the front, each at most once, in their order."""
        counted = tuple(self.axis(axis, rank) for axis in axes)
        if len(set(counted)) != len(counted):
            raise errors.axes_repeated(counted)
        return counted

    # -- building -----------------------------------------------------------------------------------------------------
    def emit(self, op: str, *inputs: Operand, **attributes: Any) -> Operand:
        return self.builder.emit(op, *inputs, **attributes)

    def scalar(self, number: float, like: Operand) -> np.ndarray:
        """A constant of rank 0 in the element type of ``like``."""
        return np.asarray(number).astype(self.type(like).dtype.numpy)

    def reshape(self, x: Operand, shape: Sequence[DimLike]) -> Operand:
        """``x`` under another shape; itself where that is its shape."""
        return x if self.shape(x) == tuple(shape) else self.emit("Reshape", x, shape=tuple(shape))

    def expand(self, x: Operand, shape: Sequence[DimLike]) -> Operand:
        """``x`` broadcast to a shape; itself where that is its shape."""
        return x if self.shape(x) == tuple(shape) else self.emit("Expand", x, shape=tuple(shape))

    def cast(self, x: Operand, dtype: DType) -> Operand:
        return x if self.type(x).dtype is dtype else self.emit("Cast", x, dtype=dtype)

    def affordable(self, *shape: DimLike, dtype: DType = DType.INT64) -> None:
        """Raises `LimitError` where an array of this shape, which importing is about to make, is past the budget."""
        self.builder.within(TensorType(dtype, shape), limits.FOLDED_BYTES)

    # -- refusing -----------------------------------------------------------------------------------------------------
    def only_first_output(self) -> None:
        """Refuses a node that has a second output in use."""
        for position, used in enumerate(self.used):
            if position and used:
                raise UnsupportedForm(errors.FORM_OUTPUT.format(position=position))

    def without(self, name: str, value: object) -> None:
        """Refuses an attribute with any other value than ``value``."""
        found = self.attr(name, value)
        if found != value:
            raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name=name, value=found))
