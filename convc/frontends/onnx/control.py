"""Branches and loops: the branch that is taken, and the body as often as the loop runs, written into the graph.

A branch whose condition is computed has both sides in the graph, and `Where` picks. A loop's number of turns, and the
condition that ends it, must be known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import GraphProto, NodeProto

from convc import errors
from convc.ir.graph import Value

from . import limits, symbolic
from .builder import Operand
from .call import Call
from .frames import UNKNOWN, Frame, Known, Scope
from .inputs import element_type
from .movement import along
from .registry import UnsupportedForm
from .sequences import Pieces, side_by_side

if TYPE_CHECKING:
    from .importer import Importer


Results = Callable[[list[Any]], None]


@dataclass(frozen=True)
class Site:
    """A node with subgraphs, and where it stands."""

    importer: Importer
    frame: Frame
    node: NodeProto
    call: Call

    def enter(self, graph: GraphProto, inputs: Sequence[Known], place: str, finish: Results) -> None:
        """Walks a subgraph next and hands its outputs to ``finish``.

        place: what stands behind the node's name in the names of the subgraph's nodes; nothing for a branch.

        Raises:
            LoadError: a subgraph of more or fewer inputs.
        """
        names = [info.name for info in graph.input]
        if len(names) != len(inputs):
            raise errors.operand_count("inputs of the subgraph", len(names), len(inputs), len(inputs))
        scope = Scope(dict(zip(names, inputs, strict=True)), self.frame.scope)
        outputs = [info.name for info in graph.output]
        prefix = f"{self.importer.builder.origin}{place}/" if place else self.frame.prefix
        self.importer.enter(
            (self.frame, self.node), graph, scope, prefix, lambda done: finish([done.find(name) for name in outputs])
        )

    def define(self, results: Sequence[Known]) -> None:
        self.importer.define(self.frame, self.node, list(results))


# -- branches ---------------------------------------------------------------------------------------------------------
def branch(site: Site) -> None:
    """The branch that a known condition takes; of a computed one both, which must be alike in shape and type."""
    condition, branches = site.call.x, site.call.attributes
    graphs = [branches["then_branch"], branches["else_branch"]]
    for graph in graphs:
        if len(graph.output) != len(site.node.output):
            count = len(site.node.output)
            raise errors.operand_count("outputs of the branch", len(graph.output), count, count)
    if isinstance(condition, Value):
        return _both(site, condition, graphs)
    site.enter(graphs[0] if _truth(condition) else graphs[1], [], "", site.define)


def _truth(condition: np.ndarray) -> bool:
    if condition.dtype == object:
        raise UnsupportedForm(errors.FORM_RUNTIME.format(what="condition"), open=True)
    if condition.size != 1 or condition.dtype != np.bool_:
        raise errors.operand_shape("the condition", list(condition.shape), "one boolean")
    return bool(condition.item())


def _both(site: Site, condition: Value, graphs: Sequence[GraphProto]) -> None:
    def with_first(first: list[Known]) -> None:
        site.enter(graphs[1], [], "", lambda second: site.define(_picked(site, condition, first, second)))

    site.enter(graphs[0], [], "", with_first)


def _picked(site: Site, condition: Value, first: Sequence[Known], second: Sequence[Known]) -> list[Known]:
    picked: list[Known] = []
    for a, b in zip(first, second, strict=True):
        if a is UNKNOWN or b is UNKNOWN:
            picked.append(UNKNOWN)
        elif isinstance(a, (Value, np.ndarray)) and isinstance(b, (Value, np.ndarray)) and _alike(site.call, a, b):
            picked.append(site.call.emit("Where", site.call.reshape(condition, ()), a, b))
        else:
            raise UnsupportedForm(errors.FORM_RUNTIME.format(what="condition"), [condition])
    return picked


def _alike(call: Call, a: Operand, b: Operand) -> bool:
    return call.type(a) == call.type(b)


# -- loops ------------------------------------------------------------------------------------------------------------
class _Turns:
    """A body that is walked again and again, its results carried from one turn to the next or collected."""

    def __init__(self, site: Site, body: GraphProto, carried: Sequence[Known], leading: int) -> None:
        self.site, self.body, self.carried, self.leading = site, body, list(carried), leading
        needed = leading + max(len(carried), len(site.node.output))
        if len(body.output) < needed:
            raise errors.operand_count("outputs of the body", len(body.output), needed, needed)
        self.collected: list[list[Known]] = [[] for _ in body.output[leading + len(carried) :]]
        self.number = 0

    def turn(self, before: Sequence[Known], behind: Sequence[Known], then: Results) -> None:
        """Once more; ``then`` gets the outputs in front of the carried ones. Raises `LimitError` after too many."""
        if self.number >= limits.TURNS:
            raise errors.too_many("turns of a loop", self.number + 1, limits.TURNS)

        def finish(results: list[Known]) -> None:
            if any(result is UNKNOWN for result in results):
                return self.site.define([UNKNOWN] * len(self.site.node.output))
            last = self.leading + len(self.carried)
            self.carried = results[self.leading : last]
            for kept, result in zip(self.collected, results[last:], strict=True):
                kept.append(result)
            self.number += 1
            then(results[: self.leading])

        self.site.enter(self.body, [*before, *self.carried, *behind], f"[{self.number}]", finish)

    def done(self, axes: Sequence[int], backwards: Sequence[int]) -> None:
        """Gives the node its outputs: what was carried, and what was collected side by side along a new axis."""
        infos = self.body.output[self.leading + len(self.carried) :]
        stacked = [
            self._stacked(pieces[::-1] if back else pieces, axis, info)
            for pieces, axis, back, info in zip(self.collected, axes, backwards, infos, strict=True)
        ]
        self.site.define([*self.carried, *stacked])

    def _stacked(self, pieces: Sequence[Known], axis: int, info: Any) -> Operand:
        call = self.site.call
        if not pieces:
            dims = info.type.tensor_type.shape.dim
            if not info.type.tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
                raise UnsupportedForm(errors.FORM_NO_TURN)
            shape = [dim.dim_value for dim in dims]
            shape.insert(call.axis(axis, len(shape) + 1), 0)
            return np.zeros(shape, element_type(info).numpy)
        if not all(isinstance(piece, (Value, np.ndarray)) for piece in pieces):
            raise UnsupportedForm(errors.FORM_SEQUENCE)
        return side_by_side(call, pieces, axis, raised=True)  # type: ignore[arg-type]


def loop(site: Site) -> None:
    """As many turns as the trip count says, as long as the condition holds; both must be known when importing."""
    call = site.call
    limit, holds = call.integers(0, "trip count"), call.known(1, "condition")
    turns = _Turns(site, call.attr("body"), call.inputs[2:], leading=1)

    def again(results: Sequence[Known]) -> None:
        [condition] = results
        if isinstance(condition, Value):
            raise UnsupportedForm(errors.FORM_RUNTIME.format(what="condition"), [condition])
        assert isinstance(condition, np.ndarray)
        if not _truth(condition) or (limit is not None and turns.number >= limit[0]):
            return turns.done([0] * len(turns.collected), [0] * len(turns.collected))
        turns.turn([np.asarray(turns.number, np.int64), condition], [], again)

    again([np.asarray(True) if holds is None else holds])


def scan(site: Site) -> None:
    """A turn for each element of its last inputs along their axes. The form of opset 8 is refused."""
    call = site.call
    if call.opset < 9:
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="opset", value=call.opset))
    count = call.attr("num_scan_inputs")
    operands = call.operands
    states, scanned = operands[: len(operands) - count], operands[len(operands) - count :]
    axes = [
        call.axis(a, len(call.shape(x))) for a, x in zip(_each(call, "scan_input_axes", count), scanned, strict=True)
    ]
    back = _each(call, "scan_input_directions", count)
    lengths = [symbolic.number("length", call.shape(x)[axis]) for x, axis in zip(scanned, axes, strict=True)]
    if not lengths or len(set(lengths)) != 1:
        raise errors.operand_shape("the scanned inputs", lengths, "one length")
    turns = _Turns(site, call.attr("body"), states, leading=0)
    outputs = len(turns.collected)

    def again(_: Sequence[Known]) -> None:
        if turns.number == lengths[0]:
            return turns.done(_each(call, "scan_output_axes", outputs), _each(call, "scan_output_directions", outputs))
        places = (lengths[0] - 1 - turns.number if b else turns.number for b in back)
        slices = [_element(call, *part) for part in zip(scanned, axes, places, strict=True)]
        turns.turn([], slices, again)

    again([])


def _each(call: Call, name: str, count: int) -> Sequence[int]:
    """A list attribute with a number for each; zeros where it is left out."""
    values: Sequence[int] = call.attr(name) or (0,) * count
    if len(values) != count:
        raise errors.attribute_length(name, len(values), count)
    return values


def _element(call: Call, x: Operand, axis: int, place: int) -> Operand:
    shape = call.shape(x)
    return call.reshape(along(call, x, axis, place, 1), (*shape[:axis], *shape[axis + 1 :]))


def sequence_map(site: Site) -> None:
    """A turn for each member of the first sequence; tensors among the other inputs are read whole by every turn."""
    call = site.call
    first, *others = call.inputs
    if not isinstance(first, Pieces):
        raise UnsupportedForm(errors.FORM_SEQUENCE)
    lengths = [len(other) for other in others if isinstance(other, Pieces)]
    if any(length != len(first) for length in lengths):
        raise errors.operand_shape("the sequences", [len(first), *lengths], "one length")
    turns = _Turns(site, call.attr("body"), [], leading=0)

    def again(_: Sequence[Known]) -> None:
        if turns.number == len(first):
            return site.define([_sequence(members) for members in turns.collected])
        turns.turn([x[turns.number] if isinstance(x, Pieces) else x for x in (first, *others)], [], again)

    again([])


def _sequence(members: Sequence[Known]) -> Pieces:
    if not all(isinstance(member, (Value, np.ndarray)) for member in members):
        raise UnsupportedForm(errors.FORM_SEQUENCE)
    return Pieces(members)  # type: ignore[arg-type]


CONTROL: dict[str, Callable[[Site], None]] = {"If": branch, "Loop": loop, "Scan": scan, "SequenceMap": sequence_map}
