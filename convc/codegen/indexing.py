"""Index expressions: iteration dimensions as variables of a kernel, and operands as pointer offsets over them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..ir.problem import INT32_LIMIT, Axis, Bound, Operand, Problem


def is_wide(problem: Problem) -> bool:
    """Whether some operand spans more elements than 32-bit offsets reach."""
    operands = (*problem.reads, *problem.stores)
    return any(_span(problem.owner_of(operand), operand) > INT32_LIMIT for operand in operands)


def _span(problem: Problem, operand: Operand) -> int:
    if operand.unravel:
        return sum((extent - 1) * abs(stride) for extent, stride in operand.unravel)
    steps = zip(problem.dims, operand.strides, strict=True)
    span = sum((dim.extent - 1) * abs(stride) for dim, stride in steps)
    if operand.border is not None:
        span = max(span, operand.border.pixels * operand.border.channels)
    span += sum((extent - 1) * abs(stride) for split in operand.splits for extent, stride in split.parts)
    span += sum(pick.extent * abs(pick.stride) for pick in operand.picks)
    taps = getattr(problem, "taps", ())
    depth = getattr(problem, "depth", 1) * max(getattr(problem, "x_depth", 0), getattr(problem, "w_depth", 0))
    return span + depth + sum(tap.size * abs(tap.x_stride) for tap in taps)


def dimensions(problem: Problem, axis: Axis, linear: str) -> list[str]:
    """Statements that take the linear index of an axis apart into one variable per dimension."""
    positions = problem.positions(axis)
    if not positions:
        return []
    names = [problem.dims[position].name for position in positions]
    extents = [problem.dims[position].extent for position in positions]
    lines = []
    for index, name in enumerate(names):
        inner = math.prod(extents[index + 1 :])
        text = linear if inner == 1 else f"{linear} // {inner}"
        if index > 0:
            text = f"{text} % {extents[index]}" if inner == 1 else f"({text}) % {extents[index]}"
        if text != name:
            lines.append(f"{name} = {text}")
    return lines


def group_lines(problem: Problem) -> list[str]:
    """The dimensions of the program's group; where it is the only one, of those along which something steps: a part of
    a batch may be one image."""
    if problem.extent(Axis.GROUP) == 1:
        operands = (*problem.reads, *problem.stores)
        stepped = (i for i in problem.positions(Axis.GROUP) if any(operand.strides[i] for operand in operands))
        return [f"{problem.dims[index].name} = 0" for index in stepped]
    wide = ["group = group.to(tl.int64)"] if is_wide(problem) else []
    return [*wide, *dimensions(problem, Axis.GROUP, "group")]


def tile_lines(groups: int, row_tiles: int, col_tiles: int) -> list[str]:
    """The program's tile: columns change fastest, so that neighbouring programs read the same rows."""
    lines, inner = [], 1
    for name, count in (("tile_col", col_tiles), ("tile_row", row_tiles), ("group", groups)):
        if count == 1:
            continue
        text = "pid" if inner == 1 else f"pid // {inner}"
        outermost = inner * count == groups * row_tiles * col_tiles
        lines.append(f"{name} = {text}" if outermost else f"{name} = {text} % {count}")
        inner *= count
    return lines


def block_starts(problem: Problem, row_tiles: int, col_tiles: int) -> tuple[list[str], str, str]:
    """Lines before the rows and columns of a memory-bound kernel, and where both begin: in blocks, and in columns."""
    groups = problem.extent(Axis.GROUP)
    if problem.pool is None or groups * row_tiles == 1:
        col = "" if col_tiles == 1 else f"pid % {col_tiles} * BLOCK_COLS + "
        return [], "pid" if col_tiles == 1 else f"pid // {col_tiles}", col
    lines = tile_lines(groups, row_tiles, col_tiles)
    return lines, "tile_row" if row_tiles > 1 else "0", "tile_col * BLOCK_COLS + " if col_tiles > 1 else ""


@dataclass(frozen=True)
class Offsets:
    """An operand's offset, in elements: the parts that vary along rows, along columns, and along neither."""

    rows: str
    cols: str
    scalar: str

    def joined(self, row_suffix: str = "[:, None]", col_suffix: str = "[None, :]") -> str:
        """The whole offset, shaped to a tile; ``0`` where nothing varies."""
        parts = [shaped(self.rows, row_suffix)] if self.rows else []
        parts += [shaped(self.cols, col_suffix)] if self.cols else []
        parts += [self.scalar] if self.scalar else []
        return " + ".join(parts).replace("+ -", "- ") or "0"

    def filled(self, rows: str = "", cols: str = "") -> Offsets:
        """With a part that does not vary written as zeros like the block of that name, so that the address has the
        tile's shape."""
        return Offsets(
            self.rows or (f"tl.zeros_like({rows})" if rows else ""),
            self.cols or (f"tl.zeros_like({cols})" if cols else ""),
            self.scalar,
        )

    def moved(self, origin: int) -> Offsets:
        """With a constant added: to the rows where they vary, so that it is in the addresses that a kernel makes of
        them before its loop. Copies to shared memory have no room for it, and would add it in every step."""
        if self.rows and origin:
            return replace(self, rows=f"{self.rows} + {origin}".replace("+ -", "- "))
        constant = [str(origin)] if origin else []
        return replace(self, scalar=" + ".join([*([self.scalar] if self.scalar else []), *constant]))


def shaped(text: str, suffix: str) -> str:
    """An index expression with the suffix that shapes it, in parentheses where it needs them."""
    return f"{text}{suffix}" if text.isidentifier() or not suffix else f"({text}){suffix}"


def offsets(problem: Problem, operand: Operand, origin: int = 0) -> Offsets:
    """Offsets of an operand over the tile; ``origin`` is a constant added to them."""
    if operand.unravel:
        return Offsets(unravelled("row", operand.unravel), "", "")
    group = _terms(problem, operand, Axis.GROUP)
    rows, cols = _terms(problem, operand, Axis.ROW), _terms(problem, operand, Axis.COL)
    constant = [str(origin)] if origin else []
    return Offsets(" + ".join(rows), " + ".join(cols), " + ".join([*group, *constant]))


def _terms(problem: Problem, operand: Operand, axis: Axis) -> list[str]:
    """What the dimensions of an axis add. Where a tensor needs 64 bits, rows and groups have them; columns take them
    where they step so far."""
    bounded = {bound.dim: bound for bound in operand.bounds}
    split = {split.dim: split.parts for split in operand.splits}
    terms = []
    for position in problem.positions(axis):
        dim, stride = problem.dims[position], operand.strides[position]
        far = axis is Axis.COL and _reach(operand, position, dim.extent) > INT32_LIMIT
        name = f"{dim.name}.to(tl.int64)" if far else dim.name
        if position in bounded:
            terms.append(scaled(shifted(name, bounded[position]), stride))
        elif position in split:
            terms.append(unravelled(name, split[position]))
        elif stride:
            terms.append(scaled(name, stride))
    return terms


def _reach(operand: Operand, position: int, extent: int) -> int:
    """Elements from the first to the last index of a dimension."""
    pairs = next((split.parts for split in operand.splits if split.dim == position), None)
    return sum((n - 1) * abs(stride) for n, stride in pairs or ((extent, operand.strides[position]),))


def shifted(name: str, bound: Bound) -> str:
    """The index that a padded read uses: moved by the padding, and for reflection and repetition kept inside."""
    index = f"({name} - {bound.before})" if bound.before else name
    last = bound.extent - 1
    if bound.mode == "edge":
        return f"tl.minimum(tl.maximum({index}, 0), {last})"
    if bound.mode == "reflect":
        return f"({last} - tl.abs({last} - tl.abs({index})))"
    return index


def scaled(text: str, factor: int) -> str:
    return text if factor == 1 else f"{text} * {factor}"


def unravelled(linear: str, pairs: Sequence[tuple[int, int]]) -> str:
    """Offset of a tensor whose own (extent, stride) pairs run over a linear index."""
    terms = []
    for index, (extent, stride) in enumerate(pairs):
        inner = math.prod(e for e, _ in pairs[index + 1 :])
        text = linear if inner == 1 else f"{linear} // {inner}"
        if index > 0:
            text = f"{text if text.isidentifier() else f'({text})'} % {extent}"
        terms.append(scaled(f"({text})", stride))
    return " + ".join(terms)


def joined_masks(masks: Iterable[str]) -> str:
    """The conjunction of masks; empty where there is none."""
    return " & ".join(masks)
