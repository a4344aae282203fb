"""Networks of tiny kernels, as the compiler would hand them to the runtime.

`tiny_network`: ``y = max(x + w, 0)`` over fp32 in two kernels. `rows_network`: ``y = max(x, 0)`` through a descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from convc.runtime import manifest as m
from convc.runtime.artifact import Artifact, build, pack_weights

SHAPE = (2, 5, 5)
COUNT = 50
BLOCK = 16
GRAPH = b"add; relu"
ROWS, PADDED_ROWS, COLS = 13, 16, 8
"""Rows of x, rows of y (where x ends, y is zero), and columns of both."""


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
    blobs = {f"{target}/{name}.cubin": cubins[name] for name in ("add_weights", "relu")}
    blobs |= {f"{name}.py": f"# {name}".encode() for name in ("add_weights", "relu")}
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


def rows_network(cubins: Mapping[str, bytes], target: str = "sm_90") -> Network:
    """One kernel that copies blocks of 8 x 8 elements by a tensor map, also past the last row of x."""
    x = m.TensorMapArgument("input:0", 0, (ROWS, COLS), (COLS, 1))
    spec = m.TensorMapSpec(swizzle=1, elem_size=4, elem_type=7, block_size=(8, 8))
    kernel = tiny_kernel("relu_rows", target, x="tensordesc<fp32[8,8]>", y="*fp32", pitch="i32")
    kernel = msgspec.structs.replace(kernel, binary=msgspec.structs.replace(kernel.binary, tensor_maps=(spec,)))
    launch = m.LaunchSpec(0, (2, 1, 1), (x, m.BufferArgument("output:0"), m.IntegerArgument(COLS)), origins=("relu",))
    manifest = m.Manifest(
        format=(m.FORMAT_MAJOR, m.FORMAT_MINOR),
        convc="test",
        triton="test",
        model="rows.onnx",
        dtype="fp32",
        opt="fuse",
        disabled=(),
        inputs=(m.TensorSpec("x", "fp32", (ROWS, COLS)),),
        outputs=(m.TensorSpec("y", "fp32", (PADDED_ROWS, COLS)),),
        weights=(),
        weights_bytes=0,
        programs=(m.ProgramSpec(target, (kernel,), (launch,), arena_bytes=0, arena_lower_bound=0),),
    )
    blobs = {f"{target}/relu_rows.cubin": cubins["relu_rows"], "relu_rows.py": b"# relu_rows"}
    return Network(manifest, blobs, np.zeros(0, np.float32))


def interface_only(array: Any, **changes: Any) -> Any:
    """An array of the device that has the CUDA array interface and nothing else; ``changes`` of its entries."""
    return SimpleNamespace(__cuda_array_interface__=array.__cuda_array_interface__ | changes, owner=array)
