"""Softmax and its logarithm along the columns of a block."""

from __future__ import annotations

from .expressions import Body


def lines(value: str, mode: str) -> list[str]:
    """From a block that holds whole rows, −∞ past their ends, to its softmax, ``acc``. mode: ``softmax`` or
    ``log_softmax``."""
    result = "shifted - tl.log(total)[:, None]" if mode == "log_softmax" else "power / total[:, None]"
    return [
        f"largest = tl.max({value}, axis=1)",
        f"shifted = {value} - largest[:, None]",
        "power = tl.exp(shifted)",
        "total = tl.sum(power, axis=1)",
        f"acc = {result}",
    ]


def ending(body: Body, mode: str) -> list[str]:
    """Lines from the accumulator to the store of the softmax of what follows it."""
    result = body.values("acc")
    masked = [f'acc = tl.where({body.col_mask}, {result}, float("-inf"))'] if body.col_mask else []
    return [*body.lines, *masked, *lines("acc" if masked else result, mode), body.store("acc")]
