"""A network of two kernels, as the compiler would hand it to the runtime: ``y = max(x + w, 0)`` over fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from convc.runtime import manifest as m
from convc.runtime.artifact import Artifact, build, pack_weights

SHAPE = (2, 5, 5)
COUNT = 50
BLOCK = 16
GRAPH = b"add; relu"


@dataclass
class Network:
    """The manifest, not yet with its sections, and the blobs. weights: what ``w`` holds."""

    manifest: m.Manifest
    blobs: dict[str, Any]
    weights: np.ndarray

    def build(self) -> Artifact:
        return build(self.manifest, self.blobs)

    def expected(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x + self.weights, np.float32(0))

    def with_program(self, **changes: Any) -> Network:
        program = msgspec.structs.replace(self.manifest.programs[0], **changes)
        return Network(msgspec.structs.replace(self.manifest, programs=(program,)), self.blobs, self.weights)

    def with_launch(self, index: int, **changes: Any) -> Network:
        launches = list(self.manifest.programs[0].launches)
        launches[index] = msgspec.structs.replace(launches[index], **changes)
        return self.with_program(launches=tuple(launches))

    def with_binary(self, index: int, **changes: Any) -> Network:
        kernels = list(self.manifest.programs[0].kernels)
        binary = msgspec.structs.replace(kernels[index].binary, **changes)
        kernels[index] = msgspec.structs.replace(kernels[index], binary=binary)
        return self.with_program(kernels=tuple(kernels))


def tiny_network(cubins: Mapping[str, bytes], target: str = "sm_90", seed: int = 0) -> Network:
    weights = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    section, specs, total = pack_weights({"w": weights})
    manifest = m.Manifest(
        format=(m.FORMAT_MAJOR, m.FORMAT_MINOR),
        convc="test",
        triton="test",
        model="tiny.onnx",
        dtype="fp32",
        opt="fuse",
        disabled=(),
        inputs=(m.TensorSpec("x", "fp32", SHAPE),),
        outputs=(m.TensorSpec("y", "fp32", SHAPE),),
        weights=specs,
        weights_bytes=total,
        programs=(tiny_program(target),),
        constants={"c0": m.ViewSpec("w", "fp32", SHAPE, (25, 5, 1))},
        graph="graph.txt",
    )
    blobs = {f"{target}/{name}.cubin": code for name, code in cubins.items()}
    blobs |= {f"{name}.py": f"# {name}".encode() for name in cubins}
    return Network(manifest, blobs | {"weights.safetensors": section, "graph.txt": GRAPH}, weights)


def tiny_program(target: str) -> m.ProgramSpec:
    pointer, grid = m.BufferArgument, (-(-COUNT // BLOCK), 1, 1)
    add = (pointer("input:0"), pointer("weights"), pointer("arena"), m.IntegerArgument(COUNT))
    clamp = (pointer("arena"), pointer("output:0"), m.IntegerArgument(COUNT))
    return m.ProgramSpec(
        target=target,
        kernels=(
            tiny_kernel("add_weights", target, x="*fp32", w="*fp32", y="*fp32", n="i32"),
            tiny_kernel("relu", target, x="*fp32", y="*fp32", n="i64"),
        ),
        launches=(m.LaunchSpec(0, grid, add, origins=("add",)), m.LaunchSpec(1, grid, clamp, origins=("relu",))),
        arena_bytes=4 * COUNT,
        arena_lower_bound=4 * COUNT,
    )


def tiny_kernel(name: str, target: str, **parameters: str) -> m.KernelSpec:
    return m.KernelSpec(
        name=name,
        family="elementwise",
        source=f"{name}.py",
        parameters=tuple(m.Parameter(*each) for each in parameters.items()),
        binary=m.Binary(f"{target}/{name}.cubin", 128, 0, registers=16, spill_bytes=0, tensor_core_instructions=0),
    )
