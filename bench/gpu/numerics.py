"""Are the results right? Kernel by kernel against float64, and whole networks against fp32, within derived bounds.

- **families**: small networks and one graph for each kind of kernel, in every numeric mode and variant, launch by
  launch against float64 (`convc.analysis.kernel_check`).
- **a network**: whole runs, on poisoned memory, on several images, twice each: bit-identical, and as near to fp32 as
  rounding allows (`convc.analysis.bounds.relative_bounds`); then its launches in the same way as those of the small
  ones, all at batch 1, and as many as time allows at batch 32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from convc.analysis.bounds import relative_bounds
from convc.analysis.comparison import relative_error
from convc.analysis.kernel_check import KernelCheck, check_kernels
from convc.compiler import compile_plan, settled
from convc.passes import Switches
from convc.planner import bind_batch, make_plan
from convc.program import Options, Plan
from convc.runtime.artifact import Artifact
from convc.runtime.cuda import CudaExecutor
from convc.runtime.executor import Executor
from convc.runtime.network import CompiledNetwork
from convc.runtime.numpy_executor import GraphRunner

from . import artifacts
from .cases import IMAGES, STEPPED, TARGET, VARIANTS, Case, graph_of, variants_of
from .families import all_families
from .setting import Setting

SEEDS = (0, 1, 2)
EXAMINED = 3
"""Images of a batch that are compared with NumPy where torch is not there."""
STEPPED_BATCHES = (1, 32)
STEPPING_S = 10.0
"""What is kept of the step's time when launches are compared: the next one is begun with at least this much left."""
SAME_BITS = ("early-launch",)
"""Variants that compute what `fused` does, in the same order: their results are the same bit by bit."""


def families(setting: Setting) -> None:
    """A row for each small graph, numeric mode and variant."""
    for family in all_families():
        if setting.todo(family.name):
            with setting.measuring(family.name) as found:
                plan = settled(family.plan(setting.kernels), setting.kernels)
                network = CompiledNetwork(compile_plan(plan, setting.kernels))
                arrays = drawn(plan, 0)
                found |= told(list(check_kernels(plan, network, CudaExecutor(), arrays)))


def told(checks: Sequence[KernelCheck]) -> dict[str, Any]:
    """How many launches were compared, which depart, and how much of its bound the worst of the others uses."""
    departing = [
        {"kernel": check.kernel, "layers": list(check.origins), "max_abs": check.max_abs, "bound": check.bound}
        for check in checks
        if not check.ok
    ]
    used = max((check.max_abs / check.bound for check in checks if check.ok and check.bound), default=0.0)
    return {
        "launches": len(checks),
        "departing": departing[:5],
        "bound_used": used,
        "ok": bool(checks) and not departing,
    }


def drawn(plan: Plan, seed: int) -> dict[str, np.ndarray]:
    """Normal deviates for every input of a plan."""
    random = np.random.default_rng(seed)
    return {
        node.attributes["name"]: random.standard_normal(tuple(map(int, node.outputs[0].shape))).astype(  # type: ignore[arg-type]
            node.outputs[0].dtype.numpy
        )
        for node in plan.graph.graph_inputs
    }


def network(setting: Setting, name: str, batches: Sequence[int], dtype: str = "fp16") -> None:
    """Rows for one network of the zoo."""
    for batch in batches:
        for variant in variants_of(name, dtype, batch):
            case = Case(name, batch, dtype, variant)
            if setting.todo(case.name):
                with setting.measuring(case.name) as found:
                    artifact = setting.artifact(case)
                    found |= whole(case, artifact)
                    if variant in SAME_BITS:
                        found |= compared_bits(setting, found, artifact, Case(name, batch, dtype))
    for batch in STEPPED_BATCHES:
        key = f"{name}-b{batch}-{dtype} kernel by kernel"
        if dtype == "fp16" and batch in batches and setting.left_s > STEPPING_S and setting.todo(key):
            with setting.measuring(key) as found:
                found |= stepped(setting, Case(name, batch, dtype, STEPPED))


def compared_bits(setting: Setting, found: Mapping[str, Any], artifact: Artifact, fused: Case) -> dict[str, Any]:
    """Whether results are those of `fused`, where these are known and its kernels have the same tiles: a kernel that
    spilled registers got another one."""
    if artifacts.schedule(artifact) != artifacts.schedule(setting.artifact(fused)):
        return {"same_as_fused": None}
    rows = [row for row in setting.journal.rows() if row["step"] == setting.step and row["key"] == fused.name]
    digests = [row["digest"] for row in rows if "digest" in row]
    same = found["digest"] == digests[-1] if digests else None
    return {"same_as_fused": same, "ok": found["ok"] and same is not False}


def stepped(setting: Setting, case: Case) -> dict[str, Any]:
    """Launches against float64, as many as time allows. The batch is not cut into parts, so that every tensor is in
    memory as a whole."""
    plan = settled(case.plan(cache=setting.kernels), setting.kernels)
    compiled = CompiledNetwork(compile_plan(plan, setting.kernels))
    checks = []
    for check in check_kernels(plan, compiled, CudaExecutor(), drawn(plan, 0)):
        checks.append(check)
        if setting.left_s < STEPPING_S:
            break
    return {**told(checks), "of": len(plan.programs[0].launches)}


def whole(case: Case, artifact: Artifact, executor: Executor | None = None) -> dict[str, Any]:
    """Whole runs on several images. executor: the GPU's unless given."""
    gpu = executor or CudaExecutor()
    try:
        program = gpu.choose(artifact, None) if hasattr(gpu, "choose") else None
        gpu.prepare(artifact, program)
        bound = bound_of(case)
        rows = [_run(case, gpu, seed) for seed in SEEDS]
    finally:
        gpu.close()
    worst = max(row["rel_l2"] for row in rows)
    identical, top1 = all(row["identical"] for row in rows), min(row["top1"] for row in rows)
    ok = worst <= bound and identical
    return {
        "rel_l2": worst,
        "bound": bound,
        "identical": identical,
        "top1": top1,
        "digest": rows[0]["digest"],
        "ok": ok,
    }


def _run(case: Case, gpu: Any, seed: int) -> dict[str, Any]:
    images, picked, expected = examined(case.network, case.dtype, case.batch, seed)
    found = []
    for byte in (0xFF, 0x7F):
        gpu.poison(byte)
        found.append(np.array(gpu.run([images])[0]))
    error = relative_error(expected, found[0][picked])
    agreeing = found[0][picked].argmax(axis=1) == expected.argmax(axis=1)
    digest = hashlib.sha256(found[0].tobytes()).hexdigest()
    return {"rel_l2": error, "identical": same_bits(*found), "top1": float(agreeing.mean()), "digest": digest}


@lru_cache(maxsize=len(SEEDS))
def examined(network: str, dtype: str, batch: int, seed: int) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Images, which of them are compared, and what fp32 makes of those."""
    images = images_of(network, dtype, batch, seed)
    return images, *reference(network, dtype, images)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def images_of(network: str, dtype: str, batch: int, seed: int) -> np.ndarray:
    """Random images, N×C×H×W, in the type of the mode."""
    (image,) = graph_of(network, dtype, "none").graph_inputs
    shape = (batch, *map(int, image.outputs[0].shape[1:]))  # type: ignore[arg-type]
    random = np.random.default_rng((seed, batch))
    return random.standard_normal(shape, np.float32).astype(IMAGES[dtype].numpy)


def reference(network: str, dtype: str, images: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The network in fp32: which images, and their results. All of them on the GPU where torch is there."""
    try:
        from .torch_reference import in_fp32
    except ImportError:
        picked = sorted({0, len(images) // 2, len(images) - 1})[:EXAMINED]
        return picked, in_numpy(network, dtype, images[picked])
    return list(range(len(images))), in_fp32(network, dtype, images)


def in_numpy(network: str, dtype: str, images: np.ndarray) -> np.ndarray:
    """The network's definition, evaluated by NumPy in fp32."""
    graph = bind_batch(graph_of(network, dtype), len(images))
    (image,) = graph.graph_inputs
    return GraphRunner(graph).run({image.attributes["name"]: images})[0]


def bound_of(case: Case) -> float:
    """How far from fp32 a correct run may be, relative, in the Euclidean norm: that of one image."""
    return _bound(case.network, case.dtype, VARIANTS[case.variant].opt)


def bound_of_peers(network: str, dtype: str) -> float:
    """The same for a run that rounds behind every operator, batch normalisation included."""
    return _bound(network, dtype, "none")


@cache
def _bound(network: str, dtype: str, opt: str) -> float:
    """Where values are rounded follows from the regions alone, which no feature changes."""
    plan = make_plan(graph_of(network, dtype), Options((TARGET,), dtype, 1, Switches(opt)))
    return max(relative_bounds(plan.graph, dtype, drawn(plan, 0)).values())
