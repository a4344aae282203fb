"""Graphs built by hand, compiled and run on the emitted kernels, beside references of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import convc
from convc.compiler import compile_plan
from convc.ir import DType, Graph, TensorType, Value
from convc.ir.plan import Tile
from convc.ir.problem import Contraction, Problem
from convc.passes import Launch, Switches
from convc.passes.choice import Choice
from convc.passes.policies import Always
from convc.passes.slices import GROUPING
from convc.planner import assemble, make_plan
from convc.program import Options, Plan
from convc.runtime.network import CompiledNetwork
from convc.runtime.numpy_executor import GraphRunner

Arrays = dict[str, np.ndarray]


class Builder:
    """A graph and the arrays that its inputs take."""

    def __init__(self, name: str = "test") -> None:
        self.graph = Graph(name)
        self.inputs: Arrays = {}

    def input(self, array: np.ndarray, name: str | None = None) -> Value:
        name = name or f"x{len(self.inputs)}"
        self.inputs[name] = array
        return self.graph.add_input(name, TensorType(DType.of(array.dtype), array.shape))

    def constant(self, array: Any) -> Value:
        return self.graph.add_constant(np.asarray(array, np.float32) if not isinstance(array, np.ndarray) else array)

    def add(self, op: str, *inputs: Value, **attributes: Any) -> Value:
        name = f"{op.lower()}{len(self.graph)}"
        return self.graph.add(op, list(inputs), attributes, origins=[name])

    def output(self, value: Value) -> Value:
        self.graph.add_output(f"y{len(self.graph.graph_outputs)}", value)
        return value

    def constants_of(self, op: str) -> list[np.ndarray]:
        return [self.graph.constant(self.graph.inputs(node)[1]) for node in self.graph.of_kind(op)]


def integers(random: np.random.Generator, shape: Sequence[int], most: int = 2) -> np.ndarray:
    """Small whole numbers in fp32: their products and sums are exact in every numeric mode."""
    return random.integers(-most, most + 1, tuple(shape)).astype(np.float32)


def run(graph: Graph, inputs: Mapping[str, np.ndarray], device: str = "interpreter", **options: Any) -> Arrays:
    """Outputs of the emitted kernels in Triton's interpreter."""
    network = convc.compile(graph, target="interpreter", **{"dtype": "fp32", **options})
    with network.engine(device) as engine:
        return engine.run(inputs)


APART = Switches(disable=GROUPING)
"""Every kernel in a launch of its own."""


def planned(graph: Graph, *targets: str, dtype: str = "fp32") -> Plan:
    """A plan in which every legal fusion takes place, each kernel apart; for the interpreter unless told."""
    return make_plan(graph, Options(targets or ("interpreter",), dtype, switches=APART, policy=Always()))


def contractions(plan: Plan) -> list[tuple[Contraction, Tile]]:
    """The contractions of a plan for one target, with their tiles."""
    steps = [step for launch in plan.programs[0].launches for step in launch.steps]
    return [(s.work.problem, s.tile) for s in steps if isinstance(s.work.problem, Contraction)]


class Taking:
    """A policy that takes the choices of these rules, and no others."""

    name = "taking"

    def __init__(self, *rules: str) -> None:
        self.rules = rules

    def refusal(self, choice: Choice, graph: Graph) -> str | None:
        return None if choice.rule in self.rules else "not this one"


Retile = Callable[[Problem, Tile], Tile]


def retiled(plan: Plan, change: Retile) -> Plan:
    """The plan with other tiles for its kernels, those that a last block runs aside; it must have no stages."""
    (program,) = plan.programs

    def changed(launch: Launch) -> Launch:
        steps = (s if s.alone else replace(s, tile=change(s.work.problem, s.tile)) for s in launch.steps)
        return replace(launch, steps=tuple(steps))

    schedule = [changed(entry) for entry in program.schedule if isinstance(entry, Launch)]
    again = assemble(schedule, plan.layouts, program.target, plan.options, program.declines)
    return replace(plan, programs=(again,))


def run_planned(plan: Plan, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of a plan's kernels in Triton's interpreter."""
    with CompiledNetwork(compile_plan(plan)).engine("interpreter") as engine:
        return engine.run(inputs)


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray], dtype: Any = np.float64) -> Arrays:
    """Outputs by the operators' definitions, floats widened to ``dtype``."""
    wide = graph.copy()
    for node in list(wide.of_kind("Constant")):
        if node.array.dtype.kind == "f":
            from convc.ir import Payload

            wide.update(node, payload=Payload(node.array.astype(dtype)))
    given = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in inputs.items()}
    names = [node.attributes["name"] for node in wide.graph_outputs]
    return dict(zip(names, GraphRunner(wide).run(given), strict=True))


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Equal shapes and elements, NaN like NaN."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.shape == expected[name].shape, name
        np.testing.assert_array_equal(array, expected[name].astype(array.dtype), err_msg=name)


def conv(b: Builder, x: Value, weights: np.ndarray, *bias: np.ndarray, **attributes: Any) -> Value:
    """A convolution with constant weights, stride 1 and no padding unless told."""
    rank = weights.ndim - 2
    defaults = {"strides": (1,) * rank, "pads": (0,) * 2 * rank, "dilations": (1,) * rank, "groups": 1}
    return b.add("Conv", x, b.constant(weights), *map(b.constant, bias), **{**defaults, **attributes})


def inputs_of(graph: Graph, seed: int = 0) -> Arrays:
    """Normal deviates for every input."""
    random = np.random.default_rng(seed)
    types = {node.attributes["name"]: node.outputs[0] for node in graph.graph_inputs}
    return {
        name: random.standard_normal(tuple(int(dim) for dim in type.shape)).astype(type.dtype.numpy)
        for name, type in types.items()
    }
