"""The network's inputs: declared types, with names of free sizes made into symbols."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping

from onnx import ValueInfoProto

from convc import errors
from convc.ir.dims import Dim, DimLike
from convc.ir.types import DType, TensorType

from . import limits
from .tensors import DTYPES, type_name


class Symbols:
    """Symbolic sizes by the model's names for them, and the numbers that the caller binds them to."""

    def __init__(self, bound: Mapping[str, int] | None) -> None:
        self._bound = dict(bound or {})
        self._symbols: dict[str, str] = {}
        self._used: set[str] = set()
        for name, value in self._bound.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise errors.bad_dim(name, value)

    def named(self, name: str) -> DimLike:
        """The size of that name: a number where it is bound."""
        if name not in self._symbols:
            self._symbols[name] = self._fresh(_identifier(name))
        symbol = self._symbols[name]
        for key in (name, symbol):
            if key in self._bound:
                self._used.add(key)
                return self._bound[key]
        return Dim.symbol(symbol)

    def unnamed(self) -> DimLike:
        """A size that the model leaves open without naming it."""
        count = sum(name.startswith("\0") for name in self._symbols)
        symbol = self._fresh(f"dim_{count}")
        self._symbols[f"\0{count}"] = symbol
        if symbol in self._bound:
            self._used.add(symbol)
            return self._bound[symbol]
        return Dim.symbol(symbol)

    def check_all_used(self) -> None:
        """Raises `UsageError` where the caller bound a size that the model does not have."""
        unknown = set(self._bound) - self._used
        if unknown:
            raise errors.unknown_dims(unknown, self._symbols.values())

    def _fresh(self, wanted: str) -> str:
        taken, symbol, number = set(self._symbols.values()), wanted, 1
        while symbol in taken:
            number += 1
            symbol = f"{wanted}_{number}"
        return symbol


def _identifier(name: str) -> str:
    text = re.sub(r"[^0-9A-Za-z_]", "_", name)[:64]
    if text[:1].isdigit():
        text = f"_{text}"
    return f"{text}_" if keyword.iskeyword(text) else text


def element_type(info: ValueInfoProto) -> DType:
    """The declared element type. Raises `LoadError` for anything but a tensor of a type that convc has."""
    if not info.type.HasField("tensor_type"):
        kind = info.type.WhichOneof("value") or "no type"
        raise errors.declared_kind(info.name, kind.replace("_", " "))
    code = info.type.tensor_type.elem_type
    if code not in DTYPES:
        raise errors.declared_element_type(info.name, type_name(code))
    return DTYPES[code]


def input_type(info: ValueInfoProto, symbols: Symbols) -> TensorType:
    """The type of a network input.

    Raises:
        LoadError: no tensor, no shape, a negative size. LimitError: past the budget.
    """
    dtype = element_type(info)
    if not info.type.tensor_type.HasField("shape"):
        raise errors.declared_without_shape(info.name)
    shape: list[DimLike] = []
    for dim in info.type.tensor_type.shape.dim:
        if dim.HasField("dim_value"):
            if dim.dim_value < 0:
                raise errors.declared_negative_size(info.name, dim.dim_value)
            shape.append(dim.dim_value)
        else:
            shape.append(symbols.named(dim.dim_param) if dim.dim_param else symbols.unnamed())
    if len(shape) > limits.RANK:
        raise errors.too_many(f"dimensions in input {info.name!r}", len(shape), limits.RANK)
    type = TensorType(dtype, tuple(shape))
    nbytes = type.nbytes
    if isinstance(nbytes, int) and nbytes > limits.TENSOR_BYTES:
        raise errors.tensor_too_large(shape, nbytes, limits.TENSOR_BYTES)
    return type


def check_declared(info: ValueInfoProto, found: TensorType) -> None:
    """Raises `LoadError` where an input that has a value already declares another type than the value has."""
    declared = element_type(info)
    dims = info.type.tensor_type.shape.dim
    shape_known = info.type.tensor_type.HasField("shape")
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    fits = len(sizes) == found.rank and all(a in (None, b) for a, b in zip(sizes, found.shape, strict=False))
    if declared is not found.dtype or (shape_known and not fits):
        raise errors.declared_otherwise(info.name, f"{declared}{sizes}", found)
