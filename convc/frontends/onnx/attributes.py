"""What ONNX says about an operator at an opset, and the attributes of a node read by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto

from convc import errors

from . import limits

_READ: dict[int, Any] = {
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.STRING: lambda a: a.s.decode("utf-8", "replace"),
    AttributeProto.TENSOR: lambda a: a.t,
    AttributeProto.GRAPH: lambda a: a.g,
    AttributeProto.SPARSE_TENSOR: lambda a: a.sparse_tensor,
    AttributeProto.FLOATS: lambda a: tuple(a.floats),
    AttributeProto.INTS: lambda a: tuple(a.ints),
    AttributeProto.STRINGS: lambda a: tuple(s.decode("utf-8", "replace") for s in a.strings),
}


_OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional
_STILL_MEANT = ("GroupNormalization",)
"""Operators whose first form was deprecated when another came, and is read nevertheless: exporters have written it."""


@dataclass(frozen=True)
class Schema:
    """An operator at one opset: attribute types and defaults, and the counts of inputs and outputs.

    needed: positions of inputs that must not be left out.
    """

    types: Mapping[str, int]
    defaults: Mapping[str, Any]
    required: frozenset[str]
    inputs: tuple[int, int]
    needed: tuple[int, ...]
    outputs: tuple[int, int]


def read_attribute(attribute: AttributeProto) -> Any:
    """The value in Python; tensors and graphs stay protobuf messages.

    Raises:
        LoadError: a kind of attribute that no supported operator has.
    """
    reader = _READ.get(attribute.type)
    if reader is None:
        raise errors.attribute_kind(attribute.name, _type_name(attribute.type))
    return reader(attribute)


def _type_name(code: int) -> str:
    return AttributeProto.AttributeType.Name(code) if code in AttributeProto.AttributeType.values() else str(code)


@cache
def schema_of(op: str, opset: int) -> Schema | None:
    """The operator of the default domain at an opset; None where ONNX never had one of that name.

    Raises:
        LoadError: an operator that this opset does not have yet, or has no more.
    """
    try:
        found = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        versions = [s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == op and not s.domain]
        if not versions:
            return None
        raise errors.operator_version(op, opset, min(versions)) from None
    if found.deprecated and op not in _STILL_MEANT:
        raise errors.operator_removed(op, opset, found.since_version)
    if opset < limits.OLDEST_OPSET:
        _check_same_later(op, opset, found.since_version)
    given = {name: attribute.default_value for name, attribute in found.attributes.items()}
    return Schema(
        types={name: int(attribute.type.value) for name, attribute in found.attributes.items()},  # type: ignore[attr-defined]
        defaults={name: read_attribute(default) for name, default in given.items() if default.name},
        required=frozenset(name for name, attribute in found.attributes.items() if attribute.required),
        inputs=(found.min_input, found.max_input),
        needed=tuple(i for i, given in enumerate(found.inputs[: found.min_input]) if given.option is not _OPTIONAL),
        outputs=(found.min_output, found.max_output),
    )


def _check_same_later(op: str, opset: int, since: int) -> None:
    """An operator set older than convc reads is fine for operators that had not changed by the oldest that it reads."""
    if schema_of(op, limits.OLDEST_OPSET) is None:
        raise errors.operator_version(op, opset, limits.OLDEST_OPSET)
    if onnx.defs.get_schema(op, limits.OLDEST_OPSET, "").since_version != since:
        raise errors.operator_too_old(op, opset, limits.OLDEST_OPSET)


def check_attributes(attributes: Mapping[str, AttributeProto], schema: Schema) -> dict[str, Any]:
    """The attributes of a node by name.

    Raises:
        LoadError: an attribute that the operator does not have, or lacks, or has with another type.
    """
    values: dict[str, Any] = {}
    for name, attribute in attributes.items():
        expected = schema.types.get(name)
        if expected is None:
            raise errors.attribute_unknown(name, schema.types)
        if attribute.type != expected:
            raise errors.attribute_type(name, _type_name(attribute.type), _type_name(expected))
        values[name] = read_attribute(attribute)
    for name in schema.required - set(values):
        raise errors.attribute_missing(name)
    return values
