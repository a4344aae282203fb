"""Programmatic dependent launch: a kernel starts while the one before it still runs.

The kernel first asks for its weights in the L2 cache, which no kernel writes, then waits until the kernel before it has
ended. Only behind the wait does it read or store anything else: what it reads was written, and the memory that it
writes was read, by kernels that have ended then. When its main loop is done it lets the next kernel start.

Every block fetches a piece of the weights, so that they are asked for once and by all multiprocessors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.plan import PackedWeight
from .kernel import LOOP_ENDS, Argument, ceil_div

WAIT, LAUNCH = "gdc_wait()", "gdc_launch_dependents()"
IMPORT = f"from triton.language.extra.cuda import {LAUNCH[:-2]}, {WAIT[:-2]}"
BLOCKS = 128
"""Blocks that fetch weights, at most: about the multiprocessors of the GPUs that can do this. A guess, not measured."""
LINE = 128
"""Bytes that a piece is a multiple of: a line of the L2 cache."""
WORTH_FETCHING = 4096
"""Bytes of weights from which on they are fetched, so that biases are not. A guess, not measured."""
FETCH = '''@triton.jit
def fetch(weights, first, bytes):
    """Has one thread of the block ask for a piece of the weights in the L2 cache."""
    tl.inline_asm_elementwise(
        "{ .reg .pred one; .reg .u32 thread; mov.u32 thread, %tid.x; setp.eq.u32 one, thread, 0;"
        " @one cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0; }",
        "=r,l,r",
        [weights.to(tl.pointer_type(tl.int8)) + first, bytes],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )'''


def resolved(text: str, overlap: bool) -> str:
    """A function's text with what stands for `LOOP_ENDS`: the next kernel is let go, or nothing."""
    lines = text.split("\n")
    if overlap:
        return "\n".join(line.replace(LOOP_ENDS, LAUNCH) for line in lines)
    return "\n".join(line for line in lines if line.strip() != LOOP_ENDS)


Parameter = tuple[str, str, bool]
"""Name, type in Triton's spelling, whether it is a multiple of 16."""


def pointers_to_weights(
    parameters: Sequence[Parameter], arguments: Sequence[Argument]
) -> list[tuple[Parameter, Argument]]:
    """Parameters beyond these, so that weights which come through descriptors can be fetched: where each one lies."""
    found = []
    for (name, type, _), argument in zip(parameters, arguments, strict=True):
        if not type.startswith("*") and _weight_bytes(argument) >= WORTH_FETCHING:
            pointer = "*" + type.partition("<")[2].partition("[")[0]
            found.append(((f"{name}_at", pointer, True), Argument("operand", argument.operand)))
    return found


def opening(
    parameters: Sequence[Parameter], arguments: Sequence[Argument], block: str, blocks: int, loops: bool
) -> list[str]:
    """What a kernel begins with. block, blocks: the number of a block, as an expression, and how many there are.

    loops: whether the next kernel is let go further down; if not, it is here.
    """
    lines: list[str] = []
    for name, nbytes in _fetched(parameters, arguments):
        lines += _fetching(name, nbytes, block, blocks)
    return [*lines, WAIT, *([] if loops else [LAUNCH])]


def preamble(parameters: Sequence[Parameter], arguments: Sequence[Argument]) -> tuple[list[str], list[str]]:
    """What stands in front of a kernel with such an opening: imports, and functions."""
    return [IMPORT], [FETCH] if _fetched(parameters, arguments) else []


def _fetched(parameters: Sequence[Parameter], arguments: Sequence[Argument]) -> list[tuple[str, int]]:
    """The pointers to weights that are fetched, and how many bytes."""
    pairs = (
        (name, _weight_bytes(a)) for (name, type, _), a in zip(parameters, arguments, strict=True) if type[0] == "*"
    )
    return [(name, nbytes) for name, nbytes in pairs if nbytes >= WORTH_FETCHING]


def _weight_bytes(argument: Argument) -> int:
    """Bytes of the weights that an argument points at, to a multiple of 16; they are packed at multiples of 256."""
    operand = argument.operand
    if operand is None or not isinstance(operand.source, PackedWeight):
        return 0
    return ceil_div(math.prod(operand.source.physical_shape) * operand.source.dtype.itemsize, 16) * 16


def _fetching(name: str, nbytes: int, block: str, blocks: int) -> list[str]:
    """Every block fetches an equal piece, the last one what is left."""
    piece = ceil_div(nbytes, min(blocks, BLOCKS) * LINE) * LINE
    pieces = ceil_div(nbytes, piece)
    size = str(piece) if nbytes % piece == 0 else f"tl.minimum({piece}, {nbytes} - {block} * {piece})"
    if pieces == 1:
        size = str(nbytes)
    call = f"fetch({name}, {block} * {piece}, {size})"
    return [call] if pieces == blocks else [f"if {block} < {pieces}:", f"    {call}"]
