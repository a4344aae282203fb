"""Every error that convc raises on purpose, and every message that a user may see with it.

A message says, as far as they apply, the file, the node, the operator, what was expected, what was found and what to
do. The classes say what kind of thing went wrong; the functions hold the wording.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class ConvcError(Exception):
    """Base of all errors of convc.

    Attributes:
        kind: a short stable word for machines.
        file, node: where it happened, if that is known.
        unsupported: operators that cannot be compiled (see `UnsupportedModelError`).
    """

    kind = "error"

    def __init__(self, message: str, *, file: str | None = None, node: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.node = node
        self.unsupported: list[Unsupported] = []

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, f"node {self.node!r}" if self.node else None) if part)
        text = f"{place}: {self.message}" if place else self.message
        return " ".join(text.split())

    def as_json(self) -> dict[str, Any]:
        """The ``error`` object of the command line's JSON."""
        return {
            "kind": self.kind,
            "message": str(self),
            "file": self.file,
            "node": self.node,
            "unsupported": [vars(entry) | {"nodes": list(entry.nodes)} for entry in self.unsupported],
        }


class LoadError(ConvcError):
    """A model file that cannot be read as one."""

    kind = "load"


class ShapeError(ConvcError):
    """Shapes, dtypes or attributes that do not fit together."""

    kind = "shape"


class LimitError(ConvcError):
    """Something larger than convc accepts."""

    kind = "limit"


class InputError(ConvcError):
    """An array given to a compiled network that does not fit its inputs."""

    kind = "input"


class UsageError(ConvcError):
    """An option or argument that convc does not know."""

    kind = "usage"


class CompileError(ConvcError):
    """A kernel that could not be generated or compiled."""

    kind = "compile"


class PassError(ConvcError):
    """A pass broke an invariant of the graph: a bug in convc."""

    kind = "pass"


class ArtifactError(ConvcError):
    """A compiled file that is damaged, of another version, or not one."""

    kind = "artifact"


class DeviceError(ConvcError):
    """A device that is missing, of another kind than compiled for, or failing."""

    kind = "device"


class OutputError(ConvcError):
    """A result that could not be written."""

    kind = "output"


@dataclass(frozen=True)
class Unsupported:
    """One operator that convc cannot compile, with the nodes that use it."""

    op: str
    domain: str
    nodes: tuple[str, ...]


class UnsupportedModelError(ConvcError):
    """A model with operators, or forms of operators, that convc does not compile; it lists all of them."""

    kind = "unsupported"

    def __init__(self, unsupported: Sequence[Unsupported], *, file: str | None = None) -> None:
        super().__init__(_unsupported_message(unsupported), file=file)
        self.unsupported = list(unsupported)


def _unsupported_message(entries: Sequence[Unsupported]) -> str:
    def described(entry: Unsupported) -> str:
        name = f"{entry.domain}::{entry.op}" if entry.domain else entry.op
        shown = ", ".join(repr(node) for node in entry.nodes[:3])
        more = f" and {len(entry.nodes) - 3} more" if len(entry.nodes) > 3 else ""
        return f"{name} (node {shown}{more})"

    return "unsupported: " + "; ".join(described(entry) for entry in entries)


def one_of(found: object, choices: Iterable[object], what: str) -> UsageError:
    """An option outside its choices."""
    return UsageError(f"unknown {what} {str(found)!r}; choose from {', '.join(str(choice) for choice in choices)}")
