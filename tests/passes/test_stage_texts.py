"""Golden texts of small networks as they go through the stages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_networks import NETWORKS

from convc.ir import Graph, parse_graph, print_graph
from convc.passes import Switches
from convc.planner import make_plan, optimise
from convc.program import Options


def stages(graph: Graph) -> dict[str, Graph]:
    options = Options(("sm_90",), "fp16", switches=Switches("fuse"), verify_passes=True)
    return {"imported": graph, "canonical": optimise(graph, options)[0], "fused": make_plan(graph, options).graph}


@pytest.mark.parametrize("stage", ["imported", "canonical", "fused"])
@pytest.mark.parametrize("name", NETWORKS)
def test_text_of_a_stage(name: str, stage: str, golden: Callable[[str, str], None]) -> None:
    graph = stages(NETWORKS[name]())[stage]
    golden(f"ir/{name}.{stage}.txt", print_graph(graph))
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
