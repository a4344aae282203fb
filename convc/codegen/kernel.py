"""What the kernel families share: the parts of a kernel, and the templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jinja2

from ..ir.problem import Axis, Operand, Problem

LOOP_ENDS = "#: the main loop ends here"
"""A line of templates, behind which a kernel reads little more; it stands in no kernel's text."""


@dataclass(frozen=True)
class Descriptor:
    """An operand that a kernel reads by boxes out of an array: their block, and the array's shape and strides, in
    elements, the outermost dimension first.

    layout: of a box in shared memory, where the kernel's text and not the compiler decides it. Of boxes along a walk
    over windows, for images of (N, H, W, C), lower, upper: corners of the walk along H and W, from the first and the
    last pixel; steps: elements from place to place, along all dimensions.
    """

    block: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    layout: str = ""
    lower: tuple[int, ...] = ()
    upper: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    def type(self, element: str) -> str:
        """Triton's spelling of its type, for an element type such as ``fp16``."""
        block = f"{element}[{','.join(map(str, self.block))}]"
        if not self.layout:
            return f"tensordesc<{block}>"
        walks = f"_im2col<{block},input_rank={len(self.shape)}" if self.steps else f"<{block}"
        return f"tensordesc{walks},{self.layout}>"


@dataclass(frozen=True)
class Argument:
    """What a kernel parameter is bound to: an operand, the ``partial`` results or the ``counters`` from byte ``value``
    on, or the number ``value``; or for a ``descriptor`` of an operand how it ``reads`` it."""

    kind: str
    operand: Operand | None = None
    value: int = 0
    reads: Descriptor | None = None


@dataclass(frozen=True)
class Parts:
    """What a family contributes: a short word for the name, constants, the body, parameters beyond the operands,
    which operands, by name, come through descriptors, and lines of import beyond Triton's own."""

    word: str
    constants: dict[str, Any]
    body: str
    grid: tuple[int, int, int]
    extra: tuple[tuple[str, str, Argument], ...] = ()
    workspace_bytes: int = 0
    counter_bytes: int = 0
    descriptors: Mapping[str, Descriptor] = field(default_factory=dict)
    imports: tuple[str, ...] = ()


@cache
def environment() -> jinja2.Environment:
    """The templates of the kernel families."""
    loader = jinja2.PackageLoader("convc.codegen", "templates")
    found = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    found.globals["LOOP_ENDS"] = LOOP_ENDS
    return found


def render(template: str, **values: Any) -> str:
    """A family's template filled in."""
    return environment().get_template(template).render(**values)


def ragged(problem: Problem, axis: Axis, block: int) -> bool:
    """Whether blocks along an axis stick out past its end."""
    return problem.extent(axis) % block != 0


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
