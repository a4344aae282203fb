"""What a walk over a model's nodes keeps: names with their values, and the lists of nodes that are being walked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from onnx import AttributeProto, NodeProto

from convc import errors

from .builder import Operand
from .sequences import Pieces


class _Unknown:
    """Stands for the output of a node that could not be imported."""


UNKNOWN = _Unknown()
Known = Operand | Pieces | _Unknown | None


@dataclass
class Scope:
    """Values by name; a subgraph also sees the scope around it."""

    values: dict[str, Known] = field(default_factory=dict)
    parent: Scope | None = None

    def find(self, name: str) -> Known:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        raise errors.undefined_value(name)


Finish = Callable[[Scope], None]


@dataclass
class Frame:
    """One list of nodes being walked, and what is done when it is at its end.

    read: names that are read somewhere in it. attributes: those of the function call that it belongs to. caller: the
    frame and the node that it was entered from; finish: takes its values from it, in the caller's name.
    """

    scope: Scope
    opsets: Mapping[str, int]
    nodes: Iterator[NodeProto] = field(default_factory=lambda: iter(()))
    read: set[str] = field(default_factory=set)
    prefix: str = ""
    attributes: Mapping[str, AttributeProto] = field(default_factory=dict)
    caller: tuple[Frame, NodeProto] | None = None
    finish: Finish = lambda scope: None
