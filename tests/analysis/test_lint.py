"""The lint of compiled kernels: each check holds for a compiled convolution, and fails for one thing that is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from small_networks import kernel_case

from convc.analysis.lint import examine_artifact
from convc.analysis.lint_checks import (
    CHECKS,
    LARGE_TILE,
    MANY_CHANNELS,
    MOST_INSTRUCTIONS,
    REGISTER_FILE,
    Subject,
    findings,
    launch_record,
)
from convc.codegen.cache import KernelCache
from convc.codegen.sass import Loop
from convc.compiler import compile_plan
from convc.ir.plan import SHIFTED
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.manifest import KernelSpec, Parameter, StepSpec
from convc.targets import TARGETS

change = msgspec.structs.replace
MOST = 8 * int(MOST_INSTRUCTIONS)
"""Instructions of a loop with eight products of 64 x `LARGE_TILE`, or four of 256 columns."""


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    """Target → a 1x1 convolution in fp16."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    plan = make_plan(kernel_case("conv1x1").graph, Options(("sm_80", "sm_90"), "fp16"))
    found = examine_artifact(compile_plan(plan, KernelCache(tmp_path_factory.mktemp("kernels"))))
    return {subject.target.name: subject for subject in found}


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_compiled_convolution_holds_every_check(subjects: dict[str, Subject], target: str) -> None:
    subject = subjects[target]
    assert findings([subject]) == []
    (step,) = subject.spec.steps
    assert step.form == "matrix product" and step.products == "fp16" and step.channels > 0
    assert subject.origins and subject.launches == 1


def binary(subject: Subject, **changes: Any) -> Subject:
    return replace(subject, spec=change(subject.spec, binary=change(subject.binary, **changes)))


def large(subject: Subject, loop: Loop, access: str = "descriptors", **changes: Any) -> Subject:
    """The subject as a kernel of large tiles with this main loop."""
    values = {"rows": LARGE_TILE, "cols": LARGE_TILE, "channels": MANY_CHANNELS, **changes}
    step = change(subject.spec.steps[0], access=access, **values)
    return replace(subject, spec=change(subject.spec, steps=(step,)), code=replace(subject.code, loops=(loop,)))


WRONG = {
    "spills": lambda s: binary(s, spill_bytes=4),
    "registers": lambda s: binary(s, registers=REGISTER_FILE // s.binary.threads + 1),
    "shared-memory": lambda s: replace(s, cubin=replace(s.cubin, static_shared_bytes=s.target.shared_bytes + 1)),
    "scratch": lambda s: binary(s, global_scratch_bytes=128),
    "overlap": lambda s: binary(s, warnings=("(C7515) wgmma.mma_async instructions are serialized",)),
    "parameters": lambda s: replace(s, cubin=replace(s.cubin, parameters=s.cubin.parameters[:-1])),
    "tensor-cores": lambda s: replace(s, code=replace(s.code, tensor_core=0)),
    "main-loop": lambda s: large(s, Loop(MOST + 1, 8)),
}


@pytest.mark.parametrize("check", CHECKS)
def test_each_check_finds_what_it_is_for(subjects: dict[str, Subject], check: str) -> None:
    wrong = WRONG[check](subjects["sm_90"])
    (found,) = findings([wrong])
    assert found.check == check
    assert (found.target, found.kernel, found.origins) == ("sm_90", wrong.spec.name, wrong.origins)
    assert found.found and found.limit and found.remedy


def test_threads_are_those_of_the_launch(subjects: dict[str, Subject]) -> None:
    assert [f.check for f in findings([binary(subjects["sm_80"], threads=32)])] == ["parameters"]


def test_the_limits_themselves_hold(subjects: dict[str, Subject]) -> None:
    """The most instructions for each product, all shared memory, all registers."""
    subject = subjects["sm_90"]
    registers = REGISTER_FILE // subject.binary.threads
    full = binary(subject, shared_bytes=TARGETS["sm_90"].shared_bytes, registers=registers)
    assert findings([large(full, Loop(MOST, 8))]) == []
    assert [found.check for found in findings([large(full, Loop(MOST + 1, 8), SHIFTED)])] == ["main-loop"]
    assert findings([large(full, Loop(MOST, 4, columns=4 * 256))]) == [], "products of 256 columns count as two"
    assert [found.check for found in findings([large(full, Loop(MOST + 1, 4, columns=4 * 256))])] == ["main-loop"]
    assert [found.check for found in findings([large(full, Loop(MOST + 1, 8, columns=8 * LARGE_TILE))])] == [
        "main-loop"
    ]


@pytest.mark.parametrize(
    "changes",
    [{"access": "pointers"}, {"rows": LARGE_TILE // 2}, {"cols": LARGE_TILE // 2}, {"channels": MANY_CHANNELS - 1}],
)
def test_the_main_loop_is_limited_where_descriptors_fetch_large_tiles(
    subjects: dict[str, Subject], changes: dict[str, Any]
) -> None:
    assert findings([large(subjects["sm_90"], Loop(400, 8), **changes)]) == []
    assert findings([large(subjects["sm_80"], Loop(400, 8))]) == [], "mma.sync is not limited"


def test_ordinary_units_may_multiply_fp32(subjects: dict[str, Subject]) -> None:
    subject = subjects["sm_90"]
    step = change(subject.spec.steps[0], products="")
    plain = replace(subject, spec=change(subject.spec, steps=(step,)), code=replace(subject.code, tensor_core=0))
    assert findings([plain]) == []


def test_the_launch_record_is_triton_s() -> None:
    """A descriptor is a map of 128 bytes at a multiple of 64, extents as i32, strides as i64; two pointers follow."""
    types = ("*fp16", "tensordesc<fp16[128,64]>", "i32", "i64")
    parameters = tuple(Parameter(name, type) for name, type in zip("abcd", types, strict=True))
    record = launch_record(KernelSpec("k", "contraction", "k.py", parameters, steps=(StepSpec("form", 1, 1, 1),)))
    assert record == [
        (0, 8),
        *[(64, 128), (192, 4), (196, 4), (200, 8), (208, 8)],
        *[(216, 4), (224, 8)],
        *[(232, 8), (240, 8)],
    ]
    shifted = launch_record(KernelSpec("k", "contraction", "k.py", parameters[1:2]), base=528)
    assert shifted[:2] == [(48, 128), (176, 4)], "alignments count in constant memory: 576 is a multiple of 64"
