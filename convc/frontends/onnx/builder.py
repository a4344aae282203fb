"""A graph under construction that evaluates what it can.

An operand is a graph value or a known array. `Builder.emit` applies a canonical operator: where every input is known
the operator's reference is evaluated, otherwise a node is added and known inputs become constants. So adapters are
written once, and constant folding and shape arithmetic follow from them. What would take too many bytes or too long to
evaluate stays in the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np

from convc import errors
from convc.ir.dims import Dim
from convc.ir.graph import Graph, Value
from convc.ir.operator import Operator, operator
from convc.ir.types import DType, TensorType

from . import limits, symbolic
from .registry import UnsupportedForm

Operand = Union[Value, np.ndarray]
_VIEWS = {"Reshape", "Transpose", "Slice"}
"""Operators that show a constant differently and take no memory for it."""


class Builder:
    """Wraps a `Graph`. ``origin`` names the user's node that is being imported."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.origin = ""
        self._constants: dict[int, tuple[np.ndarray, Value]] = {}
        self._names: dict[int, tuple[np.ndarray, str]] = {}
        self._symbolic_dtypes: dict[int, tuple[np.ndarray, DType]] = {}
        self._folded_bytes = 0
        self._found: Counter[str] = Counter()

    def type(self, operand: Operand) -> TensorType:
        """Element type and shape; arrays with symbolic elements are int64 unless they were converted."""
        if isinstance(operand, Value):
            return self.graph.type(operand)
        if operand.dtype == object:
            _, dtype = self._symbolic_dtypes.get(id(operand), (operand, DType.INT64))
            return TensorType(dtype, operand.shape)
        return TensorType(DType.of(operand.dtype), operand.shape)

    def found_size(self) -> Dim:
        """A size that only the run of the node that is being imported finds out. No other size is called so: nodes of
        both sides of a branch may share a name."""
        name = f"{self.origin}.count"
        self._found[name] += 1
        return Dim.symbol(name if self._found[name] == 1 else f"{name}_{self._found[name]}")

    def name(self, array: np.ndarray, name: str) -> None:
        """Remembers the user's name of an array, for the constant that it may become."""
        self._names.setdefault(id(array), (array, name))

    def value(self, operand: Operand) -> Value:
        """The operand in the graph; an array becomes one constant however often it is used."""
        if isinstance(operand, Value):
            return operand
        if operand.dtype == object:
            raise UnsupportedForm(errors.FORM_SYMBOLIC_DATA, open=True)
        key = id(operand)
        if key not in self._constants:
            name = self._names[key][1] if key in self._names else self.origin
            self._constants[key] = (operand, self.graph.add_constant(operand, origins=[name]))
        return self._constants[key][1]

    def emit(self, op: str, *inputs: Operand, **attributes: Any) -> Operand:
        """The first output of a canonical operator on these inputs.

        Raises:
            ShapeError: inputs that do not fit. LimitError: a result past the budget.
        """
        arrays = [operand for operand in inputs if isinstance(operand, np.ndarray)]
        known = len(arrays) == len(inputs)
        if known and any(array.dtype == object for array in arrays):
            return self._symbolic(op, arrays, attributes)
        definition = operator(op)
        if known:
            full = definition.complete(attributes)
            types = [self.type(array) for array in arrays]
            result = definition.infer(full, types)[0]
            self.within(result, limits.TENSOR_BYTES)
            if "count" in full or _worth_folding(definition, full, types, result):
                with np.errstate(all="ignore"):
                    return self._evaluated(definition.evaluate(full, arrays)[0])
        values = [self.value(operand) for operand in inputs]
        value = self.graph.add(definition, values, attributes, origins=[self.origin])
        self.within(self.graph.type(value), limits.TENSOR_BYTES)
        return value

    def _evaluated(self, array: Any) -> np.ndarray:
        result = np.asarray(array)
        self._folded_bytes += result.nbytes if result.base is None else 0
        if self._folded_bytes > limits.FOLDED_TOTAL_BYTES:
            raise errors.too_many("bytes of folded constants", self._folded_bytes, limits.FOLDED_TOTAL_BYTES)
        return result

    def within(self, type: TensorType, limit: int) -> None:
        """Raises `LimitError` for a tensor of too many dimensions, or of more bytes than ``limit``."""
        if type.rank > limits.RANK:
            raise errors.too_many("dimensions in one tensor", type.rank, limits.RANK)
        nbytes = type.nbytes
        if not isinstance(nbytes, Dim) and nbytes > limit:
            raise errors.tensor_too_large(type.shape, nbytes, limit)

    def _symbolic(self, op: str, arrays: Sequence[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
        full = operator(op).complete(attributes)
        result = operator(op).infer(full, [self.type(array) for array in arrays])[0]
        if not result.is_static:
            raise UnsupportedForm(errors.FORM_SYMBOLIC_DATA, open=True)
        self.within(result, limits.FOLDED_BYTES)
        if op in symbolic.ELEMENTWISE:
            array = symbolic.elementwise(op, arrays)
        elif op in symbolic.REDUCTIONS:
            array = symbolic.reduced(op, arrays[0], full["axes"], full["keepdims"])
        elif op in symbolic.MOVING:
            array = np.array(operator(op).evaluate(full, arrays)[0], dtype=object)
        elif op == "Cast" and result.dtype in (DType.INT64, DType.INT32):
            array = arrays[0].copy()
        else:
            raise UnsupportedForm(errors.FORM_SYMBOLIC_DATA, open=True)
        settled = symbolic.settle(array, result.dtype)
        self._symbolic_dtypes[id(settled)] = (settled, result.dtype)
        return settled


def _worth_folding(
    definition: Operator, attributes: Mapping[str, Any], inputs: Sequence[TensorType], result: TensorType
) -> bool:
    """Whether a constant result is known, small enough and quick enough to evaluate now."""
    limit = limits.TENSOR_BYTES if definition.name in _VIEWS else limits.FOLDED_BYTES
    nbytes, macs = result.nbytes, definition.macs(attributes, inputs, [result])
    return isinstance(nbytes, int) and nbytes <= limit and isinstance(macs, int) and macs <= limits.FOLDED_MACS
