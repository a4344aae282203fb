"""The adapters by ONNX operator, and how one says that it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convc.ir.graph import Value

    from .call import Call

Adapter = Callable[["Call"], Any]
ADAPTERS: dict[str, Adapter] = {}


class UnsupportedForm(Exception):
    """Raised by an adapter for a form of its operator that convc does not compile; the argument says which.

    computed: the values on which it depends, where the form would be another if they were known. open: whether it
    would be another if symbolic sizes were numbers.
    """

    def __init__(self, form: str, computed: Sequence[Value] = (), open: bool = False) -> None:
        super().__init__(form)
        self.computed, self.open = tuple(computed), open


def adapter(*ops: str) -> Callable[[Adapter], Adapter]:
    """Registers a function as the adapter of these operators of the default domain.

    An adapter takes a `Call` and returns its output, or a list of its outputs.
    """

    def register(function: Adapter) -> Adapter:
        for op in ops:
            if op in ADAPTERS:
                raise ValueError(f"operator {op} has two adapters")
            ADAPTERS[op] = function
        return function

    return register
