"""A plan after compiling: where code did not suit, the tiles, kernels and places in memory of what really runs."""

from __future__ import annotations

import pytest
from small_networks import kernel_case

from convc import compiler
from convc.codegen.cache import KernelCache
from convc.codegen.worker import Compiled
from convc.compiler import compile_plan, settled
from convc.passes.retile import Shortage
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.targets import Target


@pytest.fixture
def plan() -> Plan:
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    return make_plan(kernel_case("conv_split_k").graph, Options(("sm_90",), "fp16"))


def names(plan: Plan) -> list[str]:
    return [launch.kernel.name for launch in plan.programs[0].launches]


def test_a_plan_whose_code_suits_stays_as_it_is(plan: Plan) -> None:
    assert names(settled(plan)) == names(plan)


def test_a_plan_follows_the_tiles_that_were_replaced(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, *_), usual = plan.programs[0].launches, compiler.shortage
    unsuited = compiler.compile_programs(plan, KernelCache())[1]["sm_90", first.kernel.name]

    def shortage(compiled: Compiled, target: Target) -> Shortage | None:
        return Shortage.REGISTERS if compiled.cubin == unsuited.cubin else usual(compiled, target)

    monkeypatch.setattr(compiler, "shortage", shortage)
    real = settled(plan)
    artifact = compile_plan(plan)
    (program,) = artifact.manifest.programs
    ran = [program.kernels[launch.kernel].name for launch in program.launches]
    assert names(real) == ran != names(plan)
    assert real.programs[0].arena.nbytes == program.arena_bytes
    assert compile_plan(real).manifest == artifact.manifest, "compiling it again changes nothing"
