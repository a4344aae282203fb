"""What the kernel families share: the parts of a kernel, and the templates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from ..ir.problem import Axis, Operand, Problem


@dataclass(frozen=True)
class Argument:
    """What a kernel parameter is bound to: an operand, the ``partial`` results or the ``counters`` from byte ``value``
    on, or the number ``value``."""

    kind: str
    operand: Operand | None = None
    value: int = 0


@dataclass(frozen=True)
class Parts:
    """What a family contributes: a short word for the name, constants, the body, and parameters beyond the operands."""

    word: str
    constants: dict[str, Any]
    body: str
    grid: tuple[int, int, int]
    extra: tuple[tuple[str, str, Argument], ...] = ()
    workspace_bytes: int = 0
    counter_bytes: int = 0


@cache
def environment() -> jinja2.Environment:
    """The templates of the kernel families."""
    loader = jinja2.PackageLoader("convc.codegen", "templates")
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def render(template: str, **values: Any) -> str:
    """A family's template filled in."""
    return environment().get_template(template).render(**values)


def ragged(problem: Problem, axis: Axis, block: int) -> bool:
    """Whether blocks along an axis stick out past its end."""
    return problem.extent(axis) % block != 0


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
