"""Artifacts whose graph is not that of their manifest, or is none: refused when it is read, or when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

import convc
from convc import errors
from convc.runtime.artifact import Artifact, build
from convc.runtime.manifest import Manifest

X = np.ones((1, 4, 6, 6), np.float32)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    net = convc.nn.Network("net")
    graph = net.output(net.input(4, 6, 6).conv(8, 3, name="conv").relu()).graph
    return convc.compile(graph, target="interpreter", dtype="fp32").artifact


def changed(artifact: Artifact, text: Callable[[str], str] = str, **fields: Any) -> Artifact:
    blobs = {section.name: bytes(artifact.section(section.name)) for section in artifact.manifest.sections}
    blobs["graph.txt"] = text(blobs["graph.txt"].decode()).encode()
    return build(msgspec.structs.replace(artifact.manifest, **fields), blobs)


def renamed(manifest: Manifest, **fields: Any) -> Any:
    (spec,) = manifest.inputs
    return (msgspec.structs.replace(spec, **fields),)


def test_graphs_of_other_manifests(artifact: Artifact) -> None:
    manifest, output = artifact.manifest, "= Output("
    for lie, words in (
        (changed(artifact), ""),
        (changed(artifact, inputs=renamed(manifest, shape=(1, 5, 6, 6))), "'graph.txt': its inputs are not those of"),
        (changed(artifact, inputs=renamed(manifest, name="other")), "'graph.txt': its inputs are not those of"),
        (changed(artifact, inputs=renamed(manifest, dtype="fp16")), "'graph.txt': its inputs are not those of"),
        (changed(artifact, lambda text: "\n".join(x for x in text.split("\n") if output not in x)), "its outputs"),
        (changed(artifact, lambda text: text.replace(" : fp32[8, 4, 3, 3]", " : fp32[8, 4, 3, 5]")), "'graph.txt'"),
        (changed(artifact, lambda text: text.replace(" : fp32[8, 4, 3, 3]", " : fp32[8, k, 3, 3]")), "'graph.txt'"),
    ):
        network = convc.CompiledNetwork(lie)
        if not words:
            assert network.engine("numpy")(X).shape == (1, 8, 4, 4)
            continue
        with pytest.raises(errors.ArtifactError, match=words):
            network.engine("numpy")


def test_a_graph_that_cannot_be_evaluated(artifact: Artifact) -> None:
    lie = changed(artifact, lambda text: text.replace("pads=(0, 0, 0, 0)", "pads=(0, 0, 0)"))
    with convc.CompiledNetwork(lie).engine("numpy") as engine, pytest.raises(errors.DeviceError, match="conv"):
        engine(X)


def test_no_target() -> None:
    network = convc.compile("zoo:perceptron", target="")
    assert network.kernels == []
    for look in (lambda: network.plan, network.report):
        with pytest.raises(errors.UsageError, match="compiled for no target"):
            look()


def test_a_kernel_that_nobody_launches(artifact: Artifact) -> None:
    (program,) = artifact.manifest.programs
    more = msgspec.structs.replace(program.kernels[0], name="more")
    lie = changed(artifact, programs=(msgspec.structs.replace(program, kernels=(*program.kernels, more)),))
    assert [kernel.name for kernel in convc.CompiledNetwork(lie).kernels] == [k.name for k in program.kernels]
