"""Manifests whose hash is right and whose contents are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from forging import forge, forged, refused
from tiny_network import COUNT

from convc.runtime.artifact import HEADER


def test_duplicate_keys(file):
    data = file.read_bytes()
    length = HEADER.unpack_from(data)[2]
    manifest = data[HEADER.size : HEADER.size + length]
    forge(file, b'{"convc":"a",' + manifest[1:])
    refused(file, "manifest.*a key occurs twice")


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format":[1,0]}', b"[" * 1_000_000, b"1" * 100_000, b'{"a":NaN}'],
)
def test_manifests_that_are_none(tmp_path, manifest):
    refused(forge(tmp_path / "m", manifest), "manifest")


def test_a_huge_manifest(tmp_path):
    refused(forge(tmp_path / "m", b" " * ((16 << 20) + 1)), "manifest")


@pytest.mark.parametrize("length", [1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_huge_claimed_manifest(tmp_path, length):
    refused(forge(tmp_path / "m", b"{}", length=length), "manifest.*length")


HUGE = 1 << 60


def _section(key, value):
    return lambda manifest: manifest["sections"][1].update({key: value})


def _launch(index, key, value):
    return lambda manifest: manifest["programs"][0]["launches"][index].update({key: value})


def _argument(index, key, value):
    return lambda manifest: manifest["programs"][0]["launches"][0]["arguments"][index].update({key: value})


def _kernel(key, value):
    return lambda manifest: manifest["programs"][0]["kernels"][0].update({key: value})


def _binary(key, value):
    return lambda manifest: manifest["programs"][0]["kernels"][0]["binary"].update({key: value})


LIES = {
    "overlapping sections": (_section("offset", 0), "at offset 0, expected"),
    "section far outside": (_section("offset", HUGE), "at offset"),
    "negative section": (_section("offset", -64), "offset"),
    "huge section": (_section("nbytes", HUGE), "past the end"),
    "NaN size": (_section("nbytes", float("nan")), "manifest"),
    "fractional size": (_section("nbytes", 0.5), "manifest"),
    "size of text": (_section("nbytes", "1"), "manifest"),
    "size beyond 64 bits": (_section("nbytes", 1 << 70), "manifest|past the end"),
    "short hash": (_section("sha256", "00"), "manifest"),
    "climbing name": (_section("name", "../relu.cubin"), "not allowed"),
    "absolute name": (_section("name", "/etc/passwd"), "not allowed"),
    "name twice": (lambda d: d["sections"][1].update(name=d["sections"][0]["name"]), "listed twice"),
    "missing section": (_kernel("source", "gone.py"), "'gone.py' is missing"),
    "unreferred section": (lambda d: d.pop("graph"), "'graph.txt' is not referred to"),
    "kernel index": (_launch(0, "kernel", 2), "launch 0 names kernel 2"),
    "negative kernel index": (_launch(0, "kernel", -1), "manifest"),
    "empty grid": (_launch(0, "grid", [0, 1, 1]), "manifest"),
    "huge grid": (_launch(0, "grid", [1, 70000, 1]), "grid"),
    "missing argument": (lambda d: d["programs"][0]["launches"][0]["arguments"].pop(), "3 arguments for the 4"),
    "unknown buffer": (_argument(0, "buffer", "input:1"), "unknown buffer 'input:1'"),
    "offset past the input": (_argument(0, "offset", 4 * COUNT), "offset 200 in 'input:0' of 200 bytes"),
    "offset past the weights": (_argument(1, "offset", 256), "offset 256 in 'weights' of 256 bytes"),
    "offset past the arena": (_argument(2, "offset", HUGE), "'arena' of 200 bytes"),
    "arena beyond 64 bits": (lambda d: d["programs"][0].update(arena_bytes=1 << 70), "the buffer 'arena' has"),
    "input beyond 64 bits": (lambda d: d["inputs"][0].update(shape=[1 << 31] * 3), "the buffer 'input:0' has"),
    "scratch beyond 64 bits": (_binary("global_scratch_bytes", 1 << 62), "bytes of scratch memory"),
    "odd offset": (_argument(2, "offset", 8), "not a multiple of 16"),
    "integer too large": (_argument(3, "value", 1 << 31), "does not fit i32"),
    "integer far too large": (_argument(3, "value", 1 << 80), "manifest"),
    "unknown argument": (_argument(3, "type", "code"), "manifest"),
    "integer for a pointer": (lambda d: d["programs"][0]["launches"][0]["arguments"].reverse(), "is an integer"),
    "kernel that is no symbol": (_kernel("name", "a b"), "not a symbol"),
    "no threads": (_binary("threads", 0), "manifest"),
    "odd threads": (_binary("threads", 100), "100 threads"),
    "threads": (_binary("threads", 2048), "2048 threads"),
    "dtype": (lambda d: d["inputs"][0].update(dtype="float33"), "unknown dtype 'float33'"),
    "negative shape": (lambda d: d["inputs"][0].update(shape=[-2, 5]), "manifest"),
    "open input": (lambda d: d["inputs"][0].update(shape=[-1, 5]), r"input 'x' has the shape \[-1, 5\]"),
    "open output": (lambda d: d["outputs"][0].update(shape=[-1, 5]), r"output 'y' has the shape \[-1, 5\]"),
    "rank": (lambda d: d["inputs"][0].update(shape=[1] * 17), "manifest"),
    "output twice": (lambda d: d["outputs"].append(d["outputs"][0]), "output 'y' is listed twice"),
    "weight offset": (lambda d: d["weights"][0].update(offset=HUGE), "weight 'w' is at offset"),
    "weight size": (lambda d: d["weights"][0].update(nbytes=HUGE), "weights buffer has 256 bytes"),
    "weights buffer": (lambda d: d.update(weights_bytes=HUGE), "weights buffer has"),
    "weight size, all agree": (lambda d: _grow(d), "the manifest says"),
    "constant of nothing": (lambda d: d["constants"]["c0"].update(weight="v"), "unknown weight 'v'"),
    "constant outside": (lambda d: d["constants"]["c0"].update(shape=[3, 5, 5]), "outside of weight"),
    "constant before": (lambda d: d["constants"]["c0"].update(strides=[25, 5, -1]), "outside of weight"),
    "constant strides": (lambda d: d["constants"]["c0"].update(strides=[1]), "1 strides"),
    "program twice": (lambda d: d["programs"].append(d["programs"][0]), "program 'sm_90' is listed twice"),
}


def _grow(manifest):
    manifest["weights"][0]["nbytes"] = manifest["weights_bytes"] = HUGE


@pytest.mark.parametrize("lie", LIES)
def test_lying_manifest(file, lie):
    change, words = LIES[lie]
    refused(forged(file, change), words)


LIMITED = """
import resource, sys
from convc.runtime.artifact import read
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
try:
    read(sys.argv[1])
except Exception as error:
    print(type(error).__name__)
"""


def test_a_claimed_size_allocates_nothing(file):
    """With 300 MB of address space left, a file that claims 2**60 bytes is refused like any other."""
    forged(file, lambda manifest: (_grow(manifest), manifest["programs"][0].update(arena_bytes=HUGE)))
    command = [sys.executable, "-c", LIMITED, file]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "ArtifactError\n", done.stderr
