"""A graph as it is after a pass, as text or as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .. import errors
from ..ir import Graph, print_graph
from ..passes import canonical_passes
from ..planner import divide, optimise
from ..program import Options, Plan
from ..runtime.manifest import ProgramSpec
from ..runtime.network import CompiledNetwork, traffic_bytes
from ..runtime.numpy_executor import stored_graph
from .models import Choices, is_compiled, load_compiled, make_plan, read_graph
from .picture import HOST, Step, draw

FIRST, LAST = "import", "fuse"


def stages() -> tuple[str, ...]:
    """What `--after` takes, in the order in which the passes run."""
    return (FIRST, *(step.name for step in canonical_passes()), LAST)


@dataclass(frozen=True)
class Stage:
    """A graph after a pass. steps: the launches of each region, where kernels are known."""

    after: str
    graph: Graph
    title: str
    steps: Mapping[int, Sequence[Step]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return print_graph(self.graph)


def read_stage(model: str, choices: Choices, after: str | None, target: str, pictured: bool) -> Stage:
    """The graph of MODEL after a pass. pictured: with the kernels, which the text does not need.

    Raises:
        UsageError: an unknown pass, or an early one of a compiled network.
    """
    if after is not None and after not in stages():
        raise errors.one_of(after, stages(), "pass")
    if is_compiled(model):
        return _of_compiled(model, choices, after)
    if after in (None, LAST) and pictured:
        plan = make_plan(model, choices, target, "fp16")
        return Stage(LAST, plan.graph, _title(plan.graph, LAST), planned_steps(plan))
    options = choices.options(target, "fp16")
    graph = graph_after(read_graph(model, choices.batch, choices.dims), options, after or LAST)
    return Stage(after or LAST, graph, _title(graph, after or LAST))


def graph_after(graph: Graph, options: Options, after: str) -> Graph:
    """The graph after a pass of `stages`; where that pass is switched off, after those before it."""
    order = stages()
    kept: list[Graph] = []

    def keep(name: str, now: Graph) -> None:
        if order.index(name) <= order.index(after):
            kept[:] = [now.copy()]

    canonical, _ = optimise(graph, options, keep)
    return divide(canonical, options).graph if after == LAST else kept[0]


def _of_compiled(model: str, choices: Choices, after: str | None) -> Stage:
    replace(choices, target=None).refuse(model)
    if after not in (None, LAST):
        raise errors.stage_not_kept(str(after), model)
    network = load_compiled(model)
    programs = {program.target: program for program in network.programs}
    if choices.target is not None and choices.target not in programs:
        raise errors.one_of(choices.target, programs, "target of this file")
    program = programs[choices.target] if choices.target is not None else network.plan
    graph = stored_graph(network.artifact)
    return Stage(LAST, graph, _title(graph, LAST), stored_steps(network, program, graph))


def _title(graph: Graph, after: str) -> str:
    return f"{graph.name} after {after}"


def planned_steps(plan: Plan) -> dict[int, list[Step]]:
    """The launches of a plan's first target by region."""
    found: dict[int, list[Step]] = defaultdict(list)
    for launch in plan.programs[0].launches:
        step = Step(
            kernel=launch.kernel.name,
            equation=launch.equation,
            rules=launch.all_rules,
            tile=launch.tile_reason,
            traffic_bytes=launch.traffic.activations + launch.traffic.weights,
            source=launch.kernel.source,
        )
        for region in launch.regions:
            found[region.id].append(step)
    for _, host in plan.programs[0].host_steps:
        found[host.region.id].append(_host_step(plan.graph, host.region.nodes, plan.reasons_of(host.region)))
    return found


def _host_step(graph: Graph, nodes: Sequence[int], reasons: Sequence[str]) -> Step:
    equation = " · ".join(graph.node(id).op.lower() for id in nodes)
    return Step(HOST, equation, (), "; ".join(reasons), 0, "")


def stored_steps(network: CompiledNetwork, program: ProgramSpec, graph: Graph) -> dict[int, list[Step]]:
    """The launches of a compiled program by region."""
    found: dict[int, list[Step]] = defaultdict(list)
    for launch in program.launches:
        kernel = program.kernels[launch.kernel]
        source = network.artifact.text(kernel.source)
        moved = traffic_bytes(launch)
        for region in launch.regions:
            found[region].append(Step(kernel.name, launch.equation, launch.rules, launch.tile, moved, source))
    for host in program.host_steps:
        found[host.region].append(_host_step(graph, host.nodes, host.reasons))
    return found


def drawn(stage: Stage, kind: str) -> str:
    """The contents of a ``.txt``, ``.svg`` or ``.html`` file."""
    return stage.text if kind == ".txt" else draw(stage.graph, stage.title, stage.steps, kind)
