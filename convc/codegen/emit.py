"""From a problem and a tile to the Triton source of one kernel.

The source names what it computes and how it is tiled, and nothing of the user's model: identical kernels of different
layers are the same text, which is compiled once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..ir import DType
from ..ir.chained import ChainedContraction
from ..ir.flat import flattened
from ..ir.plan import IM2COL, POINTERS, SHIFTED, PackedWeight, Tile
from ..ir.problem import AxisReduction, Contraction, Operand, Problem, WindowReduction
from ..ir.separable import SeparableContraction
from . import chained, contraction, descriptors, global_pool, im2col, overlap, pointwise, reduction, separable, window
from .kernel import LOOP_ENDS, Argument, Parts, render

POINTER_TYPES = {
    DType.FP64: "*fp64",
    DType.FP32: "*fp32",
    DType.FP16: "*fp16",
    DType.BF16: "*bf16",
    DType.BOOL: "*i1",
    **{dtype: "*i8" for dtype in DType if dtype.is_tiny},
    **{dtype: f"*i{dtype.itemsize * 8}" for dtype in DType if dtype.value.startswith("int")},
    **{dtype: f"*u{dtype.itemsize * 8}" for dtype in DType if dtype.value.startswith("uint")},
}
POINTER_ALIGNMENT = 16
Aligned = Callable[[Operand], bool]


@dataclass(frozen=True)
class EmittedKernel:
    """A kernel as text, and how to launch it.

    parameters: (name, type in Triton's spelling, whether it is a multiple of 16). arguments: one per parameter.
    workspace_bytes, counter_bytes: scratch of split-K and of global pooling. programmatic: whether it waits by itself
    for the kernel before it, so that it may start early.
    """

    name: str
    family: str
    source: str
    parameters: tuple[tuple[str, str, bool], ...]
    arguments: tuple[Argument, ...]
    grid: tuple[int, int, int]
    num_warps: int
    num_stages: int
    workspace_bytes: int = 0
    counter_bytes: int = 0
    programmatic: bool = False


def emit(problem: Problem, tile: Tile, aligned: Aligned, programmatic: bool = False) -> EmittedKernel:
    """The kernel for a problem. ``aligned``: whether an operand's first element lies at a multiple of 16 bytes.

    programmatic: whether it may start before the kernel in front of it has ended; see `convc.codegen.overlap`.

    Raises:
        NoText: an elementwise operator without a Triton expression.
    """
    programmatic = programmatic and tile.access != IM2COL
    function = written(problem, tile, aligned, entry=True, programmatic=programmatic)
    parts = function.parts
    imports, helpers = overlap.preamble(function.parameters, function.arguments) if programmatic else ([], [])
    return EmittedKernel(
        name=function.name,
        family=problem.family,
        source=module(problem.equation, function.description, [*helpers, function.text], [*parts.imports, *imports]),
        parameters=function.parameters,
        arguments=function.arguments,
        grid=parts.grid,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        workspace_bytes=parts.workspace_bytes,
        counter_bytes=parts.counter_bytes,
        programmatic=programmatic,
    )


@dataclass(frozen=True)
class Function:
    """A problem as the text of one function: a kernel of its own, or, called with ``pid`` and where the reduction is
    split ``part``, a step of one."""

    name: str
    text: str
    description: str
    parts: Parts
    parameters: tuple[tuple[str, str, bool], ...]
    arguments: tuple[Argument, ...]


def written(problem: Problem, tile: Tile, aligned: Aligned, entry: bool, programmatic: bool = False) -> Function:
    """The function of a problem. entry: whether it is a kernel of its own. programmatic: as in `emit`."""
    if isinstance(problem, Contraction) and tile.access == SHIFTED:
        problem = flattened(problem)
    parts = global_pool.with_scratch(_parts(problem, tile), problem, tile)
    operands = _operands(problem)
    parameters = [_parameter(operand, parts, aligned) for operand in operands]
    parameters += [(name, type, type.startswith("*")) for name, type, _ in parts.extra]
    arguments = [_argument(operand, parts) for operand in operands] + [a for _, _, a in parts.extra]
    description = _description(problem, tile, parameters, parts)
    if entry and programmatic:
        for parameter, argument in overlap.pointers_to_weights(parameters, arguments):
            parameters.append(parameter)
            arguments.append(argument)
    opening = _opening(parts, parameters, arguments, programmatic) if entry else []

    def text(name: str) -> str:
        if tile.access == IM2COL and isinstance(problem, Contraction):
            return im2col.text(problem, tile, parts, name, [parameter for parameter, _, _ in parameters])
        return _function_text(name, parts, parameters, opening, programmatic)

    seen = (problem.equation, description, text("KERNEL"), parameters, tile.num_warps)
    name = f"{parts.word}_{hashlib.sha256(repr(seen).encode()).hexdigest()[:8]}"
    return Function(name, text(name), description, parts, tuple(parameters), tuple(arguments))


def _parameter(operand: Operand, parts: Parts, aligned: Aligned) -> tuple[str, str, bool]:
    pointer = POINTER_TYPES[operand.dtype]
    if operand.name not in parts.descriptors:
        return operand.name, pointer, aligned(operand)
    return operand.name, parts.descriptors[operand.name].type(pointer[1:]), True


def _argument(operand: Operand, parts: Parts) -> Argument:
    if operand.name not in parts.descriptors:
        return Argument("operand", operand)
    return Argument("descriptor", operand, reads=parts.descriptors[operand.name])


def _opening(
    parts: Parts, parameters: Sequence[tuple[str, str, bool]], arguments: Sequence[Argument], programmatic: bool
) -> list[str]:
    """The first lines of a kernel."""
    tiles, splits, _ = parts.grid
    lines = ["pid = tl.program_id(0)", *(["part = tl.program_id(1)"] if splits > 1 else [])]
    if not programmatic:
        return lines
    block = f"(part * {tiles} + pid)" if splits > 1 else "pid"
    loops = LOOP_ENDS in parts.body
    return [*lines, *overlap.opening(parameters, arguments, block, tiles * splits, loops)]


def _function_text(
    name: str, parts: Parts, parameters: Sequence[tuple[str, str, bool]], opening: Sequence[str], programmatic: bool
) -> str:
    """opening: the first lines of a kernel; none for a function that is called by one."""
    indices = ["pid", *(["part"] if parts.grid[1] > 1 else [])]
    names = [parameter for parameter, _, _ in parameters]
    text = render(
        "function.py.j2",
        name=name,
        parameters=names if opening else [*indices, *names],
        constants=parts.constants,
        entry=opening,
        body=overlap.resolved(parts.body, programmatic).lstrip("\n"),
    )
    return re.sub(r"\n{3,}(?=    )", "\n\n", text).rstrip()


def module(equation: str, description: str, functions: Sequence[str], imports: Sequence[str]) -> str:
    """The file of a kernel; the kernel is the last of its functions. imports: lines beyond Triton's own."""
    values = {"equation": equation, "description": description, "imports": imports, "functions": functions}
    return render("kernel.py.j2", **values).rstrip() + "\n"


def _parts(problem: Problem, tile: Tile) -> Parts:
    if isinstance(problem, ChainedContraction):
        return chained.parts(problem, tile)
    if isinstance(problem, SeparableContraction):
        return separable.parts(problem, tile)
    if isinstance(problem, Contraction) and tile.access == IM2COL:
        return im2col.parts(problem, tile)
    if isinstance(problem, Contraction) and tile.access != POINTERS:
        return descriptors.parts(problem, tile)
    if isinstance(problem, Contraction):
        return contraction.parts(problem, tile)
    if isinstance(problem, WindowReduction):
        return window.parts(problem, tile)
    if isinstance(problem, AxisReduction):
        return reduction.parts(problem, tile)
    return pointwise.parts(problem, tile)


def _operands(problem: Problem) -> list[Operand]:
    """The operands in the order of the parameters, what is stored last; those that no statement reads are left out, and
    a tensor that is picked from at several places is there once."""
    picks = (pick.at for operand in (*problem.operands, *problem.stores) for pick in operand.picks)
    arguments = (ref for statement in problem.statements for ref in statement.arguments)
    read = {ref.index for ref in (*arguments, *picks) if ref.kind == "operand"}
    copies = not problem.statements and problem.family == "pointwise"
    used = [operand for index, operand in enumerate(problem.operands) if index in read or copies]
    several = {operand.name: operand for operand in used if operand.picks}  # one tensor, read at several places
    used = [operand for operand in used if several.get(operand.name, operand) is operand]
    anchors = [getattr(problem, name, None) for name in ("x", "filter", "w")]
    expansion = getattr(problem, "expansion", None)
    before = _operands(problem.first)[:-1] if isinstance(problem, ChainedContraction) else []
    return [
        *before,
        *(anchor for anchor in anchors if anchor is not None),
        *(expansion.reads if expansion else ()),
        *getattr(problem, "prologue_operands", ()),
        *used,
        *problem.stores,
    ]


def _description(problem: Problem, tile: Tile, parameters: Sequence[tuple[str, str, bool]], parts: Parts) -> str:
    """Iteration space, operands with dtype and strides, and the tile."""
    space = ", ".join(f"{dim.name}={dim.extent} ({dim.axis.value})" for dim in problem.dims) or "one element"
    if isinstance(problem, ChainedContraction):
        space += f"; {problem.middle} channels between the products"
    lines = [f"Over {space}."]
    for operand in _operands(problem):
        home = "weights" if isinstance(operand.source, PackedWeight) else "tensor"
        uneven = {split.dim: " and ".join(f"{s} x{e}" for e, s in split.parts) for split in operand.splits}
        owner = problem.owner_of(operand)
        steps = [
            f"{dim.name}: {uneven.get(index, stride)}"
            for index, (dim, stride) in enumerate(zip(owner.dims, operand.strides, strict=False))
            if stride
        ]
        strides = ", ".join([*steps, *([f"depth: {operand.depth}"] if operand.depth else [])])
        picked = f", picked out of {' x '.join(str(pick.extent) for pick in operand.picks)}" if operand.picks else ""
        lines.append(f"{operand.name}: {operand.dtype} {home}, strides {strides or 'none'}{picked}{_around(operand)}")
    boxes = [f"{name} as {'x'.join(map(str, found.shape))}" for name, found in parts.descriptors.items()]
    if boxes:
        lines.append(f"Matrices that boxes are fetched out of: {', '.join(boxes)}.")
    unaligned = [name for name, type, is_aligned in parameters if type.startswith("*") and not is_aligned]
    if unaligned:
        lines.append(f"Not at multiples of {POINTER_ALIGNMENT} bytes: {', '.join(unaligned)}.")
    blocks = f"{tile.rows} rows x {tile.cols} columns" + (f" x {tile.depth} deep" if tile.depth > 1 else "")
    split = f", split-K {tile.split_k}" if tile.split_k > 1 else ""
    split += f", {tile.col_blocks} blocks of columns a program" if tile.col_blocks > 1 else ""
    lines.append(f"Tile: {blocks}{split}, {tile.num_warps} warps, {tile.num_stages} stages.")
    return "\n".join(lines)


def _around(operand: Operand) -> str:
    border = operand.border
    return "" if border is None else f", between zeros: {border.lines} below an image, {border.columns} right of a line"


def is_aligned(itemsize: int, offset: int) -> bool:
    """Whether an element offset keeps a 16-byte aligned block aligned."""
    return offset * itemsize % POINTER_ALIGNMENT == 0
