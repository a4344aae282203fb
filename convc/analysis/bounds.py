"""How far a correct result may be from the reference, from the dtype and the lengths of the reductions.

Worst-case bounds on rounding grow exponentially with depth and say nothing. Instead the network itself is asked how it
passes rounding errors on (Monte Carlo arithmetic: D. Stott Parker, 1997): it is evaluated in fp32 with every value that
a kernel stores moved by a random part of its rounding unit, every weight by its own, and every sum by the error of its
additions, √K unit roundoffs of fp32 for K addends. The largest deviation that this causes at an output, times
`SAFETY`, bounds what a correct implementation shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..ir import DType, Graph, Kind, Node, Payload
from ..ir.ops.arrays import narrow, widen
from ..runtime.numpy_executor import GraphRunner
from .comparison import relative_error

SAFETY = 4.0
"""Twice for the scatter of a maximum between draws, twice because implementations round in different places (a fused
kernel once, an unfused one several times)."""
DRAWS = 2
DEVIATIONS = 10
"""So many are seen of each output at least; the largest of few says little, so small outputs get more draws."""
TRIES = 4
"""So many times the draws are made, where values decide how large an output is and some draws give another size."""

UNITS = {"fp32": DType.FP32.epsilon, "tf32": 2.0**-11, "fp16": DType.FP16.epsilon, "bf16": DType.BF16.epsilon}
"""Unit roundoff of a multiplied or stored value in each numeric mode; tf32 keeps 10 bits of fraction."""


@dataclass(frozen=True)
class _Perturbation:
    """Moves values at random by their rounding errors."""

    unit: float
    random: np.random.Generator

    def stored(self, array: np.ndarray) -> np.ndarray:
        """x·(1 + u·ξ), ξ uniform in [−1, 1]; u is that of the array's own type where the mode has a smaller one."""
        type = DType.of(array.dtype)
        if not type.is_float:
            return array
        wide, unit = widen(array), max(self.unit, type.epsilon)
        noise = self.random.random(array.shape, np.float32) * np.float32(2 * unit) - np.float32(unit)
        with np.errstate(all="ignore"):
            return narrow(wide + wide * noise.astype(wide.dtype, copy=False), array.dtype)

    def summed(self, array: np.ndarray, addends: int) -> np.ndarray:
        """x + √K·u₃₂·rms(x)·ξ for a sum of K addends."""
        finite = array[np.isfinite(array)]
        if array.dtype.kind != "f" or not finite.size:
            return array
        scale = math.sqrt(addends) * DType.FP32.epsilon * float(np.sqrt(np.mean(np.square(finite, dtype=np.float64))))
        noise = self.random.random(array.shape, np.float32) * np.float32(2 * scale) - np.float32(scale)
        return array + noise.astype(array.dtype, copy=False)


def reduction_length(graph: Graph, node: Node) -> int:
    """Addends per output element: 1 for operators that add nothing."""
    if node.kind is Kind.CONTRACTION:
        inputs = [graph.type(value) for value in graph.inputs(node)]
        macs = node.operator.macs(node.attributes, inputs, node.outputs)
        return max(1, int(macs) // max(1, int(node.outputs[0].size)))  # type: ignore[call-overload,arg-type]
    if node.kind is Kind.WINDOW:
        return math.prod(node.attributes["kernel_shape"])
    if node.kind is Kind.REDUCTION:
        source = graph.type(graph.inputs(node)[0])
        return max(1, int(source.size) // max(1, int(node.outputs[0].size)))  # type: ignore[call-overload,arg-type]
    return 1


def output_bounds(graph: Graph, dtype: str, inputs: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, float]:
    """Largest absolute error that a correct run in a numeric mode may show at each output, by name.

    graph: fused, so that values are moved where kernels store them. Where values decide how large an output is, draws
    that give it another size say nothing of it; NaN where all of them do: there is no bound then.
    """
    return _worst(graph, dtype, inputs, seed, _largest)


def relative_bounds(graph: Graph, dtype: str, inputs: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, float]:
    """The same in the Euclidean norm: ‖error‖/‖result‖ of each output. It hardly depends on the images nor on their
    number, so that the bound of one serves for a batch."""
    return _worst(graph, dtype, inputs, seed, relative_error)


def _worst(
    graph: Graph,
    dtype: str,
    inputs: Mapping[str, np.ndarray],
    seed: int,
    measure: Callable[[np.ndarray, np.ndarray], float],
) -> dict[str, float]:
    """`SAFETY` times what a measure finds between the network and its perturbed runs, by output."""
    runner = GraphRunner(graph)
    exact = runner.run(dict(inputs))
    sized = graph.bind(runner.sizes.found) if runner.sizes.found else graph
    names = [node.attributes["name"] for node in graph.graph_outputs]
    deviations: dict[str, list[float]] = {name: [] for name in names}
    fewest = min((array.size for array in exact if array.size), default=DEVIATIONS)
    wanted = max(DRAWS, -(-DEVIATIONS // fewest))
    for draw in range(TRIES * wanted):
        if all(len(found) >= wanted for found in deviations.values()):
            break
        perturbed = _perturbed_run(graph, sized, dtype, inputs, np.random.default_rng((seed, draw)))
        for name, reference, moved in zip(names, exact, perturbed, strict=True):
            if reference.shape == moved.shape:
                deviations[name].append(measure(reference, moved))
    return {name: SAFETY * max(found, default=math.nan) for name, found in deviations.items()}


def _largest(reference: np.ndarray, moved: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        difference = np.abs(moved.astype(np.float64) - reference.astype(np.float64))
    finite = difference[np.isfinite(difference)]
    return float(finite.max()) if finite.size else 0.0


def _perturbed_run(
    graph: Graph, sized: Graph, dtype: str, inputs: Mapping[str, np.ndarray], random: np.random.Generator
) -> list[np.ndarray]:
    """sized: the graph with the sizes that the run has found."""
    noise = _Perturbation(UNITS[dtype], random)
    moved = graph.copy()
    for node in list(moved.of_kind("Constant")):
        if node.array.ndim >= 2:
            moved.update(node, payload=Payload(noise.stored(node.array)))

    def observe(node: Node, array: np.ndarray) -> np.ndarray:
        addends = max(reduction_length(sized, sized.node(id)) for id in _region(moved, node))
        return noise.stored(noise.summed(array, addends) if addends > 1 else array)

    runner = GraphRunner(moved, observe=observe)
    return runner.run({name: noise.stored(array) for name, array in inputs.items()})


def _region(graph: Graph, node: Node) -> list[int]:
    """The nodes of the region that ``node`` ends: itself and what it was fused with."""
    members, stack = {node.id}, [node.id]
    while stack:
        for value in graph.inputs(stack.pop()):
            producer = graph.producer(value)
            if producer.region is not None and producer.region == node.region and producer.id not in members:
                members.add(producer.id)
                stack.append(producer.id)
    return sorted(members)
