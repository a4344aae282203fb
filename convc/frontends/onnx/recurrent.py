"""Recurrent layers, written out: one product with all elements of the sequence, then a step for each of them.

The equations are those of ONNX's operators. A state is [batch, hidden]; what is fed is [length, batch, gates · hidden].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from convc import errors

from . import limits, symbolic
from .builder import Operand
from .call import Call
from .movement import along
from .registry import UnsupportedForm, adapter
from .sequences import side_by_side

ACTIVATIONS = ("Relu", "Sigmoid", "Softsign", "Tanh")
"""Those without parameters; the graph calls them the same."""
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Whether each direction goes backwards."""
States = tuple[Operand, ...]


@dataclass(frozen=True)
class _Cell:
    """One direction of a layer. r: [hidden, gates · hidden]; bias: that of products with the state, where it is not
    among what is fed; peepholes: [3, hidden]."""

    call: Call
    activations: Sequence[str]
    r: Operand
    bias: Operand | None
    peepholes: Operand | None

    def activated(self, number: int, x: Operand) -> Operand:
        return self.call.emit(self.activations[number], x)

    def add(self, a: Operand, b: Operand) -> Operand:
        return self.call.emit("Add", a, b)

    def mul(self, a: Operand, b: Operand) -> Operand:
        return self.call.emit("Mul", a, b)

    def product(self, state: Operand, r: Operand) -> Operand:
        made = self.call.emit("MatMul", state, r)
        return made if self.bias is None else self.add(made, self.bias)

    def gates(self, x: Operand, count: int) -> list[Operand]:
        """The gates, which stand side by side along the last axis of a matrix."""
        hidden = self.call.shape(self.r)[0]
        return [along(self.call, x, 1, gate * hidden, hidden) for gate in range(count)]

    def peeped(self, gate: Operand, number: int, state: Operand) -> Operand:
        if self.peepholes is None:
            return gate
        return self.add(gate, self.mul(_row(self.call, self.peepholes, number), state))


def _row(call: Call, x: Operand, number: int) -> Operand:
    """An element of the first axis, without that axis."""
    return call.reshape(along(call, x, 0, number, 1), call.shape(x)[1:])


# -- steps -------------------------------------------------------------------------------------------------------------
def _rnn(cell: _Cell, fed: Operand, states: States) -> States:
    return (cell.activated(0, cell.add(fed, cell.product(states[0], cell.r))),)


def _gru(cell: _Cell, fed: Operand, states: States) -> States:
    """Gates z, r, h. With `linear_before_reset` the cell has a bias, and r scales a product, not the state."""
    [h] = states
    z, r, new = cell.gates(fed, 3)
    if cell.bias is None:
        hidden = cell.call.shape(cell.r)[0]
        both, last = (along(cell.call, cell.r, 1, *part) for part in ((0, 2 * hidden), (2 * hidden, hidden)))
        of_z, of_r = cell.gates(cell.product(h, both), 2)
        r = cell.activated(0, cell.add(r, of_r))
        proposed = cell.product(cell.mul(r, h), last)
    else:
        of_z, of_r, of_new = cell.gates(cell.product(h, cell.r), 3)
        r = cell.activated(0, cell.add(r, of_r))
        proposed = cell.mul(r, of_new)
    z = cell.add(z, of_z)
    proposed = cell.activated(1, cell.add(new, proposed))
    return (cell.add(proposed, cell.mul(cell.activated(0, z), cell.call.emit("Sub", h, proposed))),)


def _lstm(cell: _Cell, fed: Operand, states: States) -> States:
    """Gates i, o, f, c; peepholes i, o, f."""
    h, c = states
    i, o, f, new = cell.gates(cell.add(fed, cell.product(h, cell.r)), 4)
    i, f = (cell.activated(0, cell.peeped(gate, number, c)) for gate, number in ((i, 0), (f, 2)))
    c = cell.add(cell.mul(f, c), cell.mul(i, cell.activated(1, new)))
    o = cell.activated(0, cell.peeped(o, 1, c))
    return cell.mul(o, cell.activated(2, c)), c


@dataclass(frozen=True)
class _Kind:
    step: Callable[[_Cell, Operand, States], States]
    activations: tuple[str, ...]
    states: int = 1


def _kind(op: str) -> _Kind:
    kinds = {
        "RNN": _Kind(_rnn, ("Tanh",)),
        "GRU": _Kind(_gru, ("Sigmoid", "Tanh")),
        "LSTM": _Kind(_lstm, ("Sigmoid", "Tanh", "Tanh"), states=2),
    }
    return kinds[op]


# -- layers ------------------------------------------------------------------------------------------------------------
@adapter("RNN", "GRU", "LSTM")
def recurrent(call: Call) -> list[Operand]:
    """A step for each element of the sequences, which must be as long as the input; no `clip`, no `input_forget`."""
    call.without("clip", None)
    call.without("input_forget", 0)
    kind, batch_first = _kind(call.op), call.flag("layout")
    backwards = DIRECTIONS[call.choice("direction", tuple(DIRECTIONS))]
    x = call.emit("Transpose", call.x, perm=(1, 0, 2)) if batch_first else call.x
    length = _length(call, x)
    starts = [call.input(position) for position in (5, 6)[: kind.states]]
    if batch_first:
        starts = [start if start is None else call.emit("Transpose", start, perm=(1, 0, 2)) for start in starts]
    activations = _activations(call, kind, len(backwards))
    states, outputs = [], []
    for number, back in enumerate(backwards):
        cell, fed = _direction(call, x, number, activations[number])
        carried = tuple(_start(call, cell, fed, start, number) for start in starts)
        made: list[Operand] = []
        for place in range(length)[:: -1 if back else 1]:
            carried = kind.step(cell, _row(call, fed, place), carried)
            made.append(carried[0])
        outputs.append(side_by_side(call, made[:: -1 if back else 1], 0, raised=True))
        states.append(carried)
    y = side_by_side(call, outputs, 1, raised=True)
    last = [side_by_side(call, ends, 0, raised=True) for ends in zip(*states, strict=True)]
    if not batch_first:
        return [y, *last]
    return [
        call.emit("Transpose", y, perm=(2, 0, 1, 3)),
        *(call.emit("Transpose", end, perm=(1, 0, 2)) for end in last),
    ]


def _length(call: Call, x: Operand) -> int:
    shape = call.shape(x)
    length = symbolic.number("length", shape[0])
    if len(shape) != 3 or length < 1:
        raise errors.operand_shape("the input", list(shape), "[length, batch, input]")
    if length > limits.TURNS:
        raise errors.too_many("elements of a sequence", length, limits.TURNS)
    given = call.known(4, "sequence lengths")
    if given is not None and any(size != length for size in given.flat):
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="sequence_lens", value=given.tolist()))
    return length


def _activations(call: Call, kind: _Kind, directions: int) -> list[Sequence[str]]:
    """The functions of each direction; those that are left over, as in RNN's own default, are nobody's."""
    for name in ("activation_alpha", "activation_beta"):
        call.without(name, None)
    count = len(kind.activations)
    names: Sequence[str] = call.attr("activations") or kind.activations * directions
    if len(names) < count * directions:
        raise errors.attribute_length("activations", len(names), count * directions)
    for name in names:
        if name not in ACTIVATIONS:
            raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="activations", value=name))
    return [names[start : start + count] for start in range(0, count * directions, count)]


def _direction(call: Call, x: Operand, number: int, activations: Sequence[str]) -> tuple[_Cell, Operand]:
    """A direction's cell, and its product with all elements, biases included where they are no part of the cell."""
    w, r = (call.emit("Transpose", _row(call, call.required(place), number), perm=(1, 0)) for place in (1, 2))
    fed = call.emit("MatMul", x, w)
    width = symbolic.number("gates", call.shape(r)[1])
    given = call.input(3)
    biases = np.zeros(2 * width, call.type(x).dtype.numpy) if given is None else _row(call, given, number)
    of_input, of_state = (along(call, biases, 0, start, width) for start in (0, width))
    apart = call.attr("linear_before_reset", 0)
    fed = call.emit("Add", fed, of_input if apart else call.emit("Add", of_input, of_state))
    peepholes = call.input(7)
    peeped = None if peepholes is None else call.reshape(_row(call, peepholes, number), (3, call.shape(r)[0]))
    return _Cell(call, activations, r, of_state if apart else None, peeped), fed


def _start(call: Call, cell: _Cell, fed: Operand, start: Operand | None, number: int) -> Operand:
    if start is not None:
        return _row(call, start, number)
    nothing = np.zeros((1, 1), call.type(fed).dtype.numpy)
    return call.expand(nothing, (call.shape(fed)[1], call.shape(cell.r)[0]))
