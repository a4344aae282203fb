"""Programmatic dependent launch: what stands before the wait and behind it, in the text and in the machine code."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, run
from interpreted_gpu import InterpretedGpu
from small_networks import NETWORKS, inside, kernel_case, weights
from test_compiled_code import small

from convc.codegen.cache import KernelCache
from convc.codegen.cubin import parse
from convc.codegen.emit import EmittedKernel
from convc.codegen.kernel import LOOP_ENDS
from convc.codegen.overlap import BLOCKS, WORTH_FETCHING
from convc.codegen.sass import disassemble
from convc.compiler import compile_plan
from convc.ir.plan import PackedWeight
from convc.passes import Switches
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.artifact import Artifact
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine
from convc.runtime.manifest import Binary

sys.path.append(str(Path(__file__).parent.parent / "runtime"))

ON = Switches(enable=("programmatic-launch",))
CASES = ("conv3x3_bias_residual_relu", "conv_split_k", "depthwise_multiplier", "max_pool", "softmax", "copy_concat")


def descriptors() -> Builder:
    """A product whose operands come through tensor maps."""
    b = Builder("descriptors")
    b.output(b.add("Neg", b.add("Softmax", conv(b, inside(b, 1, 128, 32, 32), weights(256, 128, 1, 1)), axis=1)))
    return b


def siblings() -> Builder:
    """Two of them in one launch."""
    b = Builder("siblings")
    x = inside(b, 1, 64, 16, 16)
    for _ in range(2):
        b.output(b.add("Softmax", conv(b, x, weights(128, 64, 1, 1)), axis=1))
    return b


BUILT = {"descriptors": descriptors, "siblings": siblings}


def planned(name: str, *targets: str, switches: Switches = ON) -> Plan:
    made = BUILT[name]().graph if name in BUILT else None
    graph = made or (NETWORKS[name]() if name in NETWORKS else kernel_case(name).graph)
    return make_plan(graph, Options(targets or ("sm_90",), "fp16", switches=switches))


def kernels_of(name: str) -> list[EmittedKernel]:
    return list(planned(name).programs[0].kernels.values())


@pytest.mark.parametrize("name", [*NETWORKS, *CASES, *BUILT])
def test_nothing_is_read_or_stored_before_the_wait(name: str) -> None:
    """In the kernel itself only the block's number and fetches of weights stand in front of the one wait."""
    for kernel in kernels_of(name):
        *helpers, entry = [node for node in ast.parse(kernel.source).body if isinstance(node, ast.FunctionDef)]
        statements = [ast.unparse(statement) for statement in entry.body]
        wait = statements.index("gdc_wait()")
        for statement in statements[:wait]:
            assert re.fullmatch(
                r"(if .* < \d+:\n    )?fetch\(\w+, .*\)|(pid|part) = tl\.program_id\(\d\)|[A-Z_]+: tl\.constexpr = \d+",
                statement,
            )
        assert kernel.source.count("gdc_wait()") == 1 and kernel.source.count("gdc_launch_dependents()") >= 1
        assert not any("gdc_wait" in ast.unparse(helper) for helper in helpers)
        assert LOOP_ENDS not in kernel.source and kernel.programmatic


@pytest.mark.parametrize("name", [*NETWORKS, *CASES, *BUILT])
def test_only_weights_are_fetched_and_each_byte_once(name: str) -> None:
    fetched = 0
    for kernel in kernels_of(name):
        sources = {
            p[0]: a.operand.source for p, a in zip(kernel.parameters, kernel.arguments, strict=True) if a.operand
        }
        blocks = kernel.grid[0] * kernel.grid[1]
        for guard, name_of, block, piece, size in FETCH.findall(kernel.source):
            fetched += 1
            packed = sources[name_of]
            assert isinstance(packed, PackedWeight)
            nbytes = -(-int(np.prod(packed.physical_shape)) * packed.dtype.itemsize // 16) * 16
            assert nbytes >= WORTH_FETCHING
            count = int(guard.split(" < ")[1][:-2]) if guard else blocks
            assert count <= min(blocks, BLOCKS)
            sizes = [_size(size, block, number) for number in range(count)]
            assert sum(sizes) == nbytes and min(sizes) > 0
            assert all(each == int(piece) for each in sizes[:-1]) and all(each % 16 == 0 for each in sizes)
    assert fetched or name not in ("residual_block", "lenet5", "conv_split_k", *BUILT)


@pytest.mark.parametrize("name", BUILT)
def test_weights_behind_descriptors_are_fetched_by_pointers_of_their_own(name: str) -> None:
    seen: set[str] = set()
    for kernel in kernels_of(name):
        types = {parameter: type for parameter, type, _ in kernel.parameters}
        fetched = {found for _, found, *_ in FETCH.findall(kernel.source)}
        mapped = {
            p[0]
            for p, a in zip(kernel.parameters, kernel.arguments, strict=True)
            if a.kind == "descriptor" and isinstance(a.operand.source, PackedWeight)
        }
        seen |= mapped
        assert {parameter for parameter in fetched if types[parameter] == "*fp16"} == fetched
        assert {parameter for parameter in fetched if parameter.endswith("_at")} == {f"{each}_at" for each in mapped}
    plain = {
        p for kernel in planned(name, switches=Switches()).programs[0].kernels.values() for p, *_ in kernel.parameters
    }
    assert not any(parameter.endswith("_at") for parameter in plain)


FETCH = re.compile(
    r"^    (if \S.* < \d+:\n        )?fetch\((\w+), (pid|\(part \* \d+ \+ pid\)) \* (\d+), (.+)\)$", re.MULTILINE
)


def _size(text: str, block: str, number: int) -> int:
    """The bytes that a block fetches."""
    return int(eval(text.replace("tl.minimum", "min").replace(block, str(number))))


@pytest.mark.parametrize("name", NETWORKS)
def test_off_unless_asked_for(name: str) -> None:
    plan = planned(name, switches=Switches())
    for kernel in plan.programs[0].kernels.values():
        assert not kernel.programmatic and "gdc" not in kernel.source and LOOP_ENDS not in kernel.source


def test_below_sm_90_nothing_changes() -> None:
    old, new = (planned("residual_block", "sm_80", switches=switches).programs[0] for switches in (Switches(), ON))
    assert old.kernels.keys() == new.kernels.keys()


def test_source(golden: Callable[[str, str], None]) -> None:
    """A grid with blocks that fetch nothing, and a split reduction."""
    golden("kernels/overlap_split_k.py", kernels_of("conv_split_k")[-1].source)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("name", [*CASES, *BUILT])
def test_computes_the_same(name: str) -> None:
    """Waits and fetches do nothing in the interpreter; everything else is as without."""
    b = BUILT[name]() if name in BUILT else kernel_case(name)
    plain, early = (run(b.graph, b.inputs, enable=on, dtype="fp16") for on in ((), ("programmatic-launch",)))
    for output, array in plain.items():
        np.testing.assert_array_equal(early[output], array)


@pytest.mark.parametrize("name", ["residual_block", "descriptors"])
def test_machine_code_waits_and_lets_go(cache: KernelCache, name: str) -> None:
    artifact = compile_plan(planned(name), cache)
    for kernel in artifact.manifest.programs[0].kernels:
        assert kernel.binary is not None and kernel.binary.programmatic_launch and not kernel.binary.spill_bytes
        code = names_of(artifact, kernel.binary)
        before = code[: code.index("ACQBULK")]
        assert not {"LDG", "LDGSTS", "STG", "UTMALDG"} & {*before}, "no load or store in front of the wait"
        assert "PREEXIT" in code
        assert ("UBLKPF" in code) == ("fetch(" in artifact.text(kernel.source))


def test_machine_code_without(cache: KernelCache) -> None:
    artifact = compile_plan(planned("conv3x3_bias_residual_relu", switches=Switches()), cache)
    for kernel in artifact.manifest.programs[0].kernels:
        assert kernel.binary is not None and not kernel.binary.programmatic_launch
        assert "ACQBULK" not in names_of(artifact, kernel.binary)


def names_of(artifact: Artifact, binary: Binary) -> list[str]:
    """The instructions of a compiled kernel, in order."""
    (kernel,) = parse(bytes(artifact.section(binary.section))).kernels.values()
    (code,) = disassemble([kernel.code], 90)
    return [instruction.name for instruction in code]


@pytest.mark.usefixtures("interpreters")
def test_launches_start_early_behind_another_launch_only(cache: KernelCache) -> None:
    b = small()
    apart = Switches(enable=ON.enable, disable=("last-block",))
    artifact = compile_plan(make_plan(b.graph, Options(("sm_90",), "fp16", switches=apart)), cache)
    gpu = InterpretedGpu(artifact, artifact.manifest.programs[0])
    with Engine(artifact, CudaExecutor(driver=Driver(gpu))) as engine:
        captured = list(gpu.launches)
        assert len(captured) > 1
        assert [record.programmatic for record in captured] == [False] + [True] * (len(captured) - 1)
        found = engine.run(b.inputs)
        engine.profile(b.inputs)
        assert not any(record.programmatic for record in gpu.launches[len(captured) :]), "events lie between these"
    expected = evaluate(b.graph, b.inputs)
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name].astype(np.float32))
    assert gpu.violations == []
