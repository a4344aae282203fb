"""Operators that ONNX defines as functions of others, expanded where convc has no definition of its own.

The bodies stand in the onnx package; some depend on the types of the inputs and on the attributes, and are made for
the node at hand (attention, losses).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TypeProto, helper

from convc.ir.types import TensorType

from .tensors import DTYPES

Schema = Any
"""An ``onnx.defs.OpSchema``; its declaration leaves out what concerns functions."""
CODES = {dtype: code for code, dtype in DTYPES.items()}


def schema(domain: str, op: str, version: int) -> Schema | None:
    """The definition of an operator that has a function as its body; None for any other."""
    try:
        found: Schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None
    return found if found.has_function or found.has_context_dependent_function else None


def defaults(found: Schema) -> dict[str, AttributeProto]:
    """The attributes that a node may leave out, with what they then are."""
    values = {name: attribute.default_value for name, attribute in found.attributes.items()}
    return {name: value for name, value in values.items() if value.name}


def body(
    found: Schema, version: int, node: NodeProto, types: Sequence[TensorType | Sequence[TensorType] | None]
) -> FunctionProto | None:
    """The function for a node with these attributes and input types; None where it has none.

    types: one for each input, several for the members of a sequence, None for what is left out.
    """
    if found.has_function:
        made = found.get_function_with_opset_version(_nearest(found.function_opset_versions, version))
    else:
        nearest = _nearest(found.context_dependent_function_opset_versions, version)
        described = [_described(type).SerializeToString() for type in types]
        made = found.get_context_dependent_function_with_opset_version(nearest, node.SerializeToString(), described)
    return FunctionProto.FromString(made) if made else None


def _nearest(versions: Sequence[int], version: int) -> int:
    """The newest version of a body that is not newer than the model."""
    return max((known for known in versions if known <= version), default=min(versions))


def _described(type: TensorType | Sequence[TensorType] | None) -> TypeProto:
    if not type:
        return TypeProto()
    if not isinstance(type, TensorType):
        return helper.make_sequence_type_proto(_described(type[0]))
    return helper.make_tensor_type_proto(CODES[type.dtype], [d if isinstance(d, int) else str(d) for d in type.shape])
