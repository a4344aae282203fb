"""Reading images at computed places: GridSample, in one kernel that computes the places, reads and interpolates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from ...ir import Node
from ...ir.ops.sampling import CUBIC_A
from ...ir.problem import Operand, Pick, Problem, Ref
from ...ir.rewriting import collapse
from .builder import Builder, Refused, over
from .picking import moving
from .pointwise import space


@dataclass(frozen=True)
class _Axis:
    """One dimension of the images: what a node's statements compute along it.

    size: of the images there. padding, aligned: as the operator has them. The formulas are those of
    `convc.ir.ops.sampling`, where they say more.
    """

    b: Builder
    node: Node
    size: int
    padding: str
    aligned: bool

    def op(self, name: str, *arguments: Ref | float, **attributes: float) -> Ref:
        refs = (a if isinstance(a, Ref) else Ref("number", number=float(a)) for a in arguments)
        return self.b.apply(self.node, name, *refs, **attributes)

    def place(self, coordinate: Ref) -> Ref:
        """From -1..1 to elements."""
        unit = self.op("Add", coordinate, 1)
        if self.aligned:
            return self.op("Mul", self.op("Mul", unit, 0.5), self.size - 1)
        return self.op("Mul", self.op("Sub", self.op("Mul", unit, self.size), 1), 0.5)

    def inside(self, at: Ref) -> Ref:
        """Places outside brought inside, where there are no zeros; those between the outermost elements and the edges
        of the image go to the elements, where it holds the same."""
        if self.padding == "reflection" and self.size > 1:
            low, span = (0.0, self.size - 1.0) if self.aligned else (-0.5, float(self.size))
            away = self.op("Abs", self.op("Sub", at, low))
            turns = self.op("Floor", self.op("Div", away, span))
            rest = self.op("Sub", away, self.op("Mul", turns, span))
            odd = self.op("Sub", turns, self.op("Mul", self.op("Floor", self.op("Mul", turns, 0.5)), 2))
            back = self.op("Sub", span, self.op("Mul", rest, 2))
            at = self.op("Add", self.op("Add", rest, low), self.op("Mul", odd, back))
        return at if self.padding == "zeros" else self.op("Clip", at, min=0.0, max=self.size - 1.0)

    def taps(self, coordinate: Ref, mode: str) -> list[tuple[Ref, Ref | None]]:
        """The elements that count along this dimension, and the weight of each, None for 1."""
        at = self.place(coordinate)
        if mode == "cubic":
            base = self.op("Floor", at)
            part = self.op("Sub", at, base)
            return [(self.inside(self.op("Add", base, tap)), self._cubic(part, tap)) for tap in (-1, 0, 1, 2)]
        if mode == "nearest":
            return [(self.inside(self.op("Round", at)), None)]
        at = self.inside(at)
        base = self.op("Floor", at)
        part = self.op("Sub", at, base)
        after = self.op("Add", base, 1)
        if self.padding != "zeros":
            after = self.op("Clip", after, min=0.0, max=self.size - 1.0)  # its weight is 0 where that moves it
        return [(base, self.op("Sub", 1, part)), (after, part)]

    def _cubic(self, part: Ref, tap: int) -> Ref:
        """The weight of an element ``tap`` behind the one in front of the place, by Horner's rule."""
        distance = self.op("Sub", part, tap) if tap <= 0 else self.op("Sub", tap, part)
        if tap in (0, 1):
            factors: Sequence[float] = (CUBIC_A + 2, -(CUBIC_A + 3), 0.0, 1.0)
        else:
            factors = (CUBIC_A, -5 * CUBIC_A, 8 * CUBIC_A, -4 * CUBIC_A)
        value = self.op("Add", self.op("Mul", distance, factors[0]), factors[1])
        for factor in factors[2:]:
            value = self.op("Mul", value, distance)
            value = self.op("Add", value, factor) if factor else value
        return value


def lower_grid_sample(b: Builder) -> Problem:
    """Σ over the neighbours of each place of weight · x there."""
    node = b.graph.node(b.region.output.node)
    output = b.placement(b.region.output)
    dims, b.maps = space(output)
    (data, placed), (grid, held) = (b.located(value) for value in b.graph.inputs(node))
    rank = len(placed.shape) - 2
    if any(len(parts) > 1 for parts in placed.all_parts[2:]):
        raise Refused(f"{node.op} of images that do not lie evenly")
    at = over("grid", grid, moving(held, (0, None, *range(1, 1 + rank)), output.shape), b.maps)
    x = over("x", data, moving(placed, (0, 1, *(None,) * rank), output.shape), b.maps)
    along = []
    for i in range(rank):
        last = rank - 1 - i  # the last axis comes first
        b.operands.append(replace(at, name=f"grid{last}", offset=at.offset + last * held.strides[-1]))
        attributes = node.attributes["padding_mode"], node.attributes["align_corners"]
        axis = _Axis(b, node, placed.shape[2 + i], *attributes)
        along.append(axis.taps(Ref("operand", len(b.operands) - 1), node.attributes["mode"]))
    _interpolate(b, node, x, placed.shape[2:], placed.strides[2:], along)
    output_operand = over("y", b.region.output, output, b.maps)
    operands, statements = tuple(b.operands), tuple(b.statements)
    return collapse(Problem("pointwise", "grid_sample", dims, output_operand, operands, statements))


def _interpolate(
    b: Builder,
    node: Node,
    x: Operand,
    sizes: Sequence[int],
    strides: Sequence[int],
    along: Sequence[Sequence[tuple[Ref, Ref | None]]],
) -> None:
    """The sum over all neighbours, as statements. along: for each dimension its positions and weights."""
    total = None
    for taps in product(*along):
        picks = tuple(Pick(at, n, step) for (at, _), n, step in zip(taps, sizes, strides, strict=True))
        b.operands.append(replace(x, picks=picks))
        term, weights = Ref("operand", len(b.operands) - 1), [weight for _, weight in taps if weight is not None]
        for position, weight in enumerate(weights):
            weights[position] = b.apply(node, "Mul", weights[position - 1], weight) if position else weight
        term = b.apply(node, "Mul", term, weights[-1]) if weights else b.apply(node, "Copy", term)
        total = term if total is None else b.apply(node, "Add", total, term)
