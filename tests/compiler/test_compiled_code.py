"""Machine code: registers, spills, tensor cores, parameters; the same bytes every time; a run through the driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiled import Builder, conv, evaluate
from interpreted_gpu import InterpretedGpu
from small_networks import KERNELS, inside, kernel_case, weights

from convc.codegen.cache import KernelCache
from convc.codegen.cubin import parse
from convc.compiler import compile_plan
from convc.ir import Graph
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.artifact import Artifact
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine
from convc.runtime.manifest import BufferArgument
from convc.runtime.tensor_maps import descriptor_type

TARGETS = ("sm_80", "sm_90")
CASES = ("conv3x3_bias_residual_relu", "conv_split_k", "depthwise_multiplier", "max_pool", "softmax", "copy_concat")


def together() -> Builder:
    """All the cases in one network, so that their kernels are compiled side by side."""
    b = Builder("kernels")
    for name in CASES:
        b.output(b.add("Abs", KERNELS[name][1](b)))
    return b


@pytest.fixture(scope="module")
def artifact(cache: KernelCache) -> Artifact:
    return compile_plan(make_plan(together().graph, Options(TARGETS, "fp16")), cache)


@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_spills_and_convolutions_use_tensor_cores(artifact: Artifact, target: str) -> None:
    (program,) = [p for p in artifact.manifest.programs if p.target == target]
    for kernel in program.kernels:
        assert kernel.binary.spill_bytes == 0, kernel.name
        assert 0 < kernel.binary.registers <= 255
        contracts = kernel.family == "contraction" or "conv" in kernel.name
        assert (kernel.binary.tensor_core_instructions > 0) == contracts, kernel.name


@pytest.mark.parametrize("target", TARGETS)
def test_parameters_of_the_code_are_those_of_the_manifest(artifact: Artifact, target: str) -> None:
    (program,) = [p for p in artifact.manifest.programs if p.target == target]
    for kernel in program.kernels:
        code = parse(bytes(artifact.section(kernel.binary.section))).kernels[kernel.name]
        declared = [each for parameter in kernel.parameters for each in _passed(parameter.type)]
        assert [(p.size, p.pointer) for p in code.parameters][:-2] == declared, "two scratch pointers follow"
        assert code.threads == (kernel.binary.threads, 1, 1)


def _passed(spelled: str) -> list[tuple[int, bool]]:
    """Bytes of what is passed for a parameter, and whether each is a pointer."""
    if (type := descriptor_type(spelled)) is not None:
        rank = len(type.block)
        return [(128, False), *[(4, False)] * rank, *[(8, False)] * rank]
    return [(8, True)] if spelled.startswith("*") else [({"i32": 4, "i64": 8}[spelled], False)]


def test_aligned_parameters_get_aligned_addresses(artifact: Artifact) -> None:
    for program in artifact.manifest.programs:
        for launch in program.launches:
            for parameter, argument in zip(program.kernels[launch.kernel].parameters, launch.arguments, strict=True):
                if isinstance(argument, BufferArgument):
                    assert argument.offset % parameter.align == 0


# -- the same bytes -----------------------------------------------------------------------------------------------
SCRIPT = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from small_networks import NETWORKS
from convc.compiler import compile_plan
from convc.planner import make_plan
from convc.program import Options
for name, build in NETWORKS.items():
    artifact = compile_plan(make_plan(build(), Options({targets!r}, "fp16")))
    artifact.save({file!r})
    print(name, hashlib.sha256(open({file!r}, "rb").read()).hexdigest())
"""


def test_artifacts_are_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    printed = []
    for seed in ("0", "1", "4242"):
        values = {"tests": str(Path(__file__).parent.parent), "targets": ("interpreter",), "file": str(tmp_path / seed)}
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(**values)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0].count("\n") == 4 and len(set(printed)) == 1


def test_machine_code_is_the_same_bytes_without_the_cache(tmp_path: Path, cache: KernelCache) -> None:
    saved = []
    for number, where in enumerate((cache, KernelCache(tmp_path / "other"))):
        plan = make_plan(kernel_case("conv1x1").graph, Options(("sm_90",), "fp16"))
        compile_plan(plan, where).save(tmp_path / str(number))
        saved.append((tmp_path / str(number)).read_bytes())
    assert saved[0] == saved[1]


# -- through the driver -------------------------------------------------------------------------------------------
def small() -> Builder:
    """Every kernel family, split-K, a concatenation in place, views, two outputs."""
    b = Builder("driver")
    x = inside(b, 1, 128, 4, 4)
    y = conv(b, x, weights(16, 128, 3, 3), weights(16), pads=(1,) * 4)
    y = b.add("Clip", y, min=-8.0, max=8.0)
    window = {"kernel_shape": (2, 2), "strides": (1, 1), "pads": (0, 0, 1, 1), "dilations": (1, 1), "ceil_mode": False}
    pooled = b.add("MaxPool", y, **window)
    joined = b.add("Concat", pooled, b.add("Relu", y), axis=1)
    b.output(b.add("ReduceMax", joined, axes=(2, 3), keepdims=False))
    b.output(b.add("Transpose", conv(b, joined, weights(32, 1, 3, 3), groups=32), perm=(0, 2, 3, 1)))
    return b


@pytest.mark.usefixtures("interpreters")
def test_what_reaches_the_driver_computes_the_network(cache: KernelCache) -> None:
    """Cubins' parameters, buffers, offsets and grids, as the driver sees them: the sources are run on exactly those."""
    b = small()
    artifact = compile_plan(make_plan(b.graph, Options(("sm_90",), "fp16")), cache)
    (program,) = artifact.manifest.programs
    gpu = InterpretedGpu(artifact, program)
    with Engine(artifact, CudaExecutor(driver=Driver(gpu))) as engine:
        for _ in range(2):
            found = engine.run(b.inputs)
            expected = evaluate(b.graph, b.inputs)
            for name, array in found.items():
                np.testing.assert_array_equal(array, expected[name].astype(np.float32))
    assert gpu.violations == [] and {r.name for r in gpu.replayed} == {k.name for k in program.kernels}


def test_graphs_are_not_changed_by_compiling() -> None:
    b = small()
    before: Graph = b.graph.copy()
    make_plan(b.graph, Options(("sm_80", "interpreter"), "bf16"))
    assert b.graph == before
