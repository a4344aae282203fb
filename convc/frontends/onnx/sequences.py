"""Sequences, as far as exporters use them for a split whose pieces are then picked by constant indices."""

from __future__ import annotations

import numpy as np

from convc import errors
from convc.ir.dims import DimLike

from . import symbolic
from .builder import Operand
from .call import Call
from .movement import along
from .registry import UnsupportedForm, adapter

SEQUENCE_READERS = {"SequenceAt", "SequenceLength"}


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
        sizes = tuple(min(sizes[0], extent - start) for start in range(0, extent, sizes[0]))
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        raise errors.split_misfit(sizes, extent)
    starts = [sum(sizes[:position]) for position in range(len(sizes))]
    pieces = [along(call, call.x, axis, start, size) for start, size in zip(starts, sizes, strict=True)]
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


@adapter("SequenceAt")
def sequence_at(call: Call) -> Operand:
    pieces = _pieces(call)
    [index] = call.integers(1, "index") or (0,)
    if not -len(pieces) <= index < len(pieces):
        raise errors.index_out_of_range(index, len(pieces))
    return pieces[index]


@adapter("SequenceLength")
def sequence_length(call: Call) -> Operand:
    return np.asarray(len(_pieces(call)), np.int64)
