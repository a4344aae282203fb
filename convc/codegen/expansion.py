"""Expansions: what a kernel does to make the input of its windows from fewer channels, under each tap.

The weights of the block's channels are loaded once. Under a tap, the pixels of x meet them in a short product; what
lies between follows; the padding becomes zero, and the result is rounded as a store would have done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir import DType
from ..ir.expansion import ExpandedWindow, Expansion
from ..ir.problem import Tap
from ..ir.separable import SeparableContraction
from .expressions import Body
from .indexing import joined_masks, offsets, scaled, shaped
from .typed import TRITON_TYPES

INDEX = "i = tl.arange(0, BLOCK_INPUTS)"
Expanding = ExpandedWindow | SeparableContraction


def constants(expansion: Expansion) -> dict[str, Any]:
    """Constants of the kernel."""
    whole = expansion.inputs == expansion.block
    return {"BLOCK_INPUTS": expansion.block} | ({} if whole else {"INPUTS": expansion.inputs})


def x_offset(problem: Expanding, expansion: Expansion, origin: int) -> str:
    """Pixels along the rows, channels of x along the columns."""
    place = offsets(problem, problem.x, origin).filled(rows="row").joined()
    return f"{place} + {shaped(scaled('i', expansion.x_step), '[None, :]')}"


def weights_address(expansion: Expansion, channels: str) -> str:
    """Inputs along the rows, expanded channels along the columns."""
    return f"we + {shaped(scaled('i', expansion.w_step), '[:, None]')} + {channels}"


def load_weights(problem: Expanding, expansion: Expansion, address: str, channels: str) -> str:
    """The weights at ``address``; ``channels``: the mask of those that exist, empty where all do."""
    masks = [*_inputs(expansion, "[:, None]"), *([channels] if channels else [])]
    mask = f", mask={joined_masks(masks)}, other=0.0" if masks else ""
    return f"expand = tl.load({address}{mask}){_converted(problem, expansion.w.dtype)}"


def loop_head(taps: Sequence[Tap], count: int) -> list[str]:
    """One loop over all positions of a window, so that the loads of the next ones run ahead."""
    lines = [f"for tap in range({count}):"]
    for index, tap in enumerate(taps):
        count //= tap.size
        text = "tap" if count == 1 else f"tap // {count}"
        lines.append(f"    {tap.name} = {text}" + (f" % {tap.size}" if index else ""))
    return lines


def value_lines(problem: Expanding, expansion: Expansion, address: str, inside: str) -> list[str]:
    """The expanded values under a tap whose pixels of x lie at ``address``; ``inside``: the mask of those that are no
    padding, empty where none are."""
    mask = joined_masks([*([inside] if inside else []), *_inputs(expansion, "[None, :]")])
    load = f"tl.load({address}, mask={mask}, other=0.0)" if mask else f"tl.load({address})"
    precision = f', input_precision="{problem.precision}"' if problem.compute is DType.FP32 else ""
    body = Body(problem, prefix="e")
    body.lines = [
        f"pixels = {load}{_converted(problem, problem.x.dtype)}",
        f"value = tl.dot(pixels, expand{precision})",
    ]
    result = body.apply(expansion.statements, expansion.operands, "value")
    result = f"tl.where({inside}, {result}, 0.0)" if inside else result
    if problem.compute is not DType.FP32:
        result = f"{result}.to(tl.{TRITON_TYPES[problem.compute]}).to(tl.float32)"
    return body.lines if result == "value" else [*body.lines, f"value = {result}"]


def _inputs(expansion: Expansion, suffix: str) -> list[str]:
    return [] if expansion.inputs == expansion.block else [f"(i < INPUTS){suffix}"]


def _converted(problem: Expanding, dtype: DType) -> str:
    return "" if dtype is problem.compute else f".to(tl.{TRITON_TYPES[problem.compute]})"
