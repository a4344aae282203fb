"""Sequences and optional values whose members are all at hand: they are made, changed and taken apart while importing.

A sequence is no value of the graph; an index into it must be known. An optional value is the value itself, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from convc import errors
from convc.ir.dims import DimLike

from . import limits, symbolic
from .builder import Operand
from .call import Call
from .movement import along
from .registry import UnsupportedForm, adapter

SEQUENCE_READERS = {
    "ConcatFromSequence", "Identity", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt",
    "SequenceErase", "SequenceInsert", "SequenceLength",
}  # fmt: skip


class Pieces(tuple[Operand, ...]):
    """A sequence whose members are all at hand; only `SEQUENCE_READERS` take one."""


@adapter("SplitToSequence")
def split_to_sequence(call: Call) -> Pieces:
    """Pieces of size 1 (without their axis where ``keepdims`` is 0), of one size, or of the sizes listed."""
    axis = call.axis(call.attr("axis"), call.rank)
    extent = symbolic.number("parts", call.shape(call.x)[axis])
    given = call.input(1)
    sizes = call.integers(1, "split") or (1,)
    if given is None or not call.shape(given):
        if sizes[0] < 1:
            raise errors.attribute_below("split", sizes[0], 1)
        if extent > limits.NODES * sizes[0]:
            raise errors.too_many("members of a sequence", -(-extent // sizes[0]), limits.NODES)
        sizes = tuple(min(sizes[0], extent - start) for start in range(0, extent, sizes[0]))
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        raise errors.split_misfit(sizes, extent)
    starts = accumulate(sizes, initial=0)
    pieces = [along(call, call.x, axis, start, size) for start, size in zip(starts, sizes, strict=False)]
    if given is None and not call.attr("keepdims"):
        pieces = [_without_axis(call, piece, axis) for piece in pieces]
    return Pieces(pieces)


def _without_axis(call: Call, x: Operand, axis: int) -> Operand:
    shape: tuple[DimLike, ...] = call.shape(x)
    return call.reshape(x, (*shape[:axis], *shape[axis + 1 :]))


def _pieces(call: Call) -> Pieces:
    sequence = call.x
    if not isinstance(sequence, Pieces):
        raise UnsupportedForm(errors.FORM_SEQUENCE)
    return sequence


def _position(call: Call, position: int, size: int, default: int) -> int:
    """The index at an optional input, counted from the front. Raises `ShapeError` for one outside ``size`` places."""
    [index] = call.integers(position, "index") or (default,)
    if not -size <= index < size:
        raise errors.index_out_of_range(index, size)
    return index % size


@adapter("SequenceAt")
def sequence_at(call: Call) -> Operand:
    pieces = _pieces(call)
    return pieces[_position(call, 1, len(pieces), 0)]


@adapter("SequenceConstruct")
def sequence_construct(call: Call) -> Pieces:
    return Pieces(call.operands)


@adapter("SequenceEmpty")
def sequence_empty(call: Call) -> Pieces:
    return Pieces()


@adapter("SequenceInsert")
def sequence_insert(call: Call) -> Pieces:
    """In front of the member at an index, which may be one behind the last; at the end where none is given."""
    pieces = _pieces(call)
    [index] = call.integers(2, "index") or (len(pieces),)
    if not -len(pieces) <= index <= len(pieces):
        raise errors.index_out_of_range(index, len(pieces))
    place = index if index >= 0 else index + len(pieces)
    return Pieces((*pieces[:place], call.required(1), *pieces[place:]))


@adapter("SequenceErase")
def sequence_erase(call: Call) -> Pieces:
    pieces = _pieces(call)
    place = _position(call, 1, len(pieces), -1)
    return Pieces((*pieces[:place], *pieces[place + 1 :]))


@adapter("ConcatFromSequence")
def concat_from_sequence(call: Call) -> Operand:
    """Side by side along an axis, or along a new one."""
    pieces = _pieces(call)
    if not pieces:
        raise errors.operand_shape("the sequence", [], "one member or more")
    return side_by_side(call, pieces, call.attr("axis"), call.flag("new_axis"))


def side_by_side(call: Call, pieces: Sequence[Operand], axis: int, raised: bool) -> Operand:
    """Pieces one behind the other along an axis, a new one (``raised``) or one that they have."""
    rank = len(call.shape(pieces[0])) + raised
    place = call.axis(axis, rank)
    if raised:
        shapes = [call.shape(piece) for piece in pieces]
        parts = zip(pieces, shapes, strict=True)
        pieces = [call.reshape(piece, (*shape[:place], 1, *shape[place:])) for piece, shape in parts]
    return pieces[0] if len(pieces) == 1 else call.emit("Concat", *pieces, axis=place)


@adapter("SequenceLength")
def sequence_length(call: Call) -> Operand:
    return np.asarray(len(_pieces(call)), np.int64)


# -- optional values --------------------------------------------------------------------------------------------------
@adapter("Optional", "OptionalGetElement")
def optional(call: Call) -> Operand:
    """The value itself, which must be there."""
    if not call.inputs:
        raise UnsupportedForm(errors.FORM_NOTHING)
    return call.x


@adapter("OptionalHasElement")
def optional_has_element(call: Call) -> Operand:
    return np.asarray(bool(call.inputs))
