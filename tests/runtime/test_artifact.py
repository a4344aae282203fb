"""The container: what is written is read back, and nothing that is damaged is."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_network import COUNT, GRAPH

from convc import errors
from convc.runtime import manifest as m
from convc.runtime.artifact import ALIGN, HEADER, MAGIC, build, load_weights, pack_weights, read, write
from convc.runtime.dtypes import numpy_dtype


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / "tiny.convc"
    network.build().save(path)
    return path


def refused(path: Path, words: str | None = None) -> str:
    """The message with which reading a file is refused, within a second."""
    start = time.monotonic()
    with pytest.raises(errors.ArtifactError, match=words) as raised:
        read(path)
    assert time.monotonic() - start < 1
    message = str(raised.value)
    assert str(path) in message and "\n" not in message
    return message


VERSION = m.FORMAT_MAJOR << 16 | m.FORMAT_MINOR


def forge(path: Path, manifest: bytes, rest: bytes = b"", version: int = VERSION, length: int | None = None) -> Path:
    """A file with a right header for any manifest, so that what is tested is behind the hash."""
    length = len(manifest) if length is None else length
    head = HEADER.pack(MAGIC, version, length, hashlib.sha256(manifest).digest()) + manifest
    path.write_bytes(head + bytes(-len(head) % ALIGN) * bool(rest) + rest)
    return path


def forged(path: Path, change) -> Path:
    """The file with its manifest, as a dictionary, changed; the hash fits again."""
    data = path.read_bytes()
    length = HEADER.unpack_from(data)[2]
    manifest = json.loads(data[HEADER.size : HEADER.size + length])
    change(manifest)
    start = -(-(HEADER.size + length) // ALIGN) * ALIGN
    return forge(path, json.dumps(manifest).encode(), data[start:])


# -- Round trip


def test_round_trip(network, file):
    artifact, built = read(file), network.build()
    assert artifact.manifest == built.manifest
    assert [s.name for s in artifact.manifest.sections] == sorted(network.blobs)
    for name, blob in network.blobs.items():
        assert artifact.section(name) == bytes(blob) and artifact.section(name).readonly
    assert artifact.text("graph.txt") == GRAPH.decode()


def test_sections_are_aligned(file):
    data = file.read_bytes()
    for name in ("sm_90/relu.cubin", "sm_90/add_weights.cubin", "weights.safetensors", "graph.txt"):
        assert data.index(bytes(read(file).section(name))) % ALIGN == 0


def test_same_content_same_bytes(network, file, tmp_path):
    shuffled = dict(reversed(network.blobs.items()))
    write(tmp_path / "again.convc", network.manifest, shuffled)
    assert (tmp_path / "again.convc").read_bytes() == file.read_bytes()


def test_blobs_may_be_any_bytes(network, tmp_path):
    blobs = {name: np.frombuffer(bytes(blob), np.uint8) for name, blob in network.blobs.items()}
    write(tmp_path / "arrays.convc", network.manifest, blobs)
    assert read(tmp_path / "arrays.convc").section("graph.txt") == GRAPH


def test_a_file_without_sections(tmp_path):
    empty = m.Manifest((m.FORMAT_MAJOR, m.FORMAT_MINOR), "", "", "", "fp32", "fuse", (), (), (), (), 0, ())
    write(tmp_path / "empty.convc", empty, {})
    assert read(tmp_path / "empty.convc").manifest == empty


def test_a_new_file_has_the_usual_permissions(file):
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_closed_artifact_lets_go(file):
    artifact = read(file)
    view = artifact.section("graph.txt")
    artifact.close()
    assert bytes(view) == GRAPH
    with pytest.raises(errors.ArtifactError, match=r"graph.txt"):
        artifact.section("graph.txt")


# -- Weights

DTYPES = [
    "fp64",
    "fp32",
    "fp16",
    "bf16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
]


def test_weights_of_every_dtype(network, tmp_path):
    rng = np.random.default_rng(0)
    weights = {name: rng.integers(0, 2, (3, 7)).astype(numpy_dtype(name)) for name in DTYPES}
    weights |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float16)}
    weights |= {"turned": rng.standard_normal((4, 6)).astype(np.float32).T}
    section, specs, total = pack_weights(weights)
    assert all(spec.offset % 256 == 0 for spec in specs) and [spec.name for spec in specs] == list(weights)
    manifest = msgspec.structs.replace(network.manifest, weights=specs, weights_bytes=total, constants={})
    write(tmp_path / "w.convc", manifest, network.blobs | {"weights.safetensors": section})
    buffer = bytearray(total)
    load_weights(read(tmp_path / "w.convc"), buffer)
    for spec in specs:
        array = weights[spec.name]
        found = np.ndarray(array.shape, array.dtype, buffer, spec.offset)
        np.testing.assert_array_equal(found, array)


def test_weights_of_another_model(network, tmp_path):
    other, _, _ = pack_weights({"w": np.zeros(49, np.float32)})
    with pytest.raises(errors.ArtifactError, match=r"weights.safetensors.*'w' has 196 bytes, the manifest says 200"):
        build(network.manifest, network.blobs | {"weights.safetensors": other})
    renamed, _, _ = pack_weights({"v": np.zeros(50, np.float32)})
    with pytest.raises(errors.ArtifactError, match=r"weights.safetensors.*'w' is missing"):
        build(network.manifest, network.blobs | {"weights.safetensors": renamed})
    more, _, _ = pack_weights({"w": np.zeros(50, np.float32), "v": np.zeros(1)})
    with pytest.raises(errors.ArtifactError, match=r"weights.safetensors.*holds 2 tensors, the manifest lists 1"):
        build(network.manifest, network.blobs | {"weights.safetensors": more})


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b'{"w":3}', b'{"w":{"data_offsets":[0]}}', b"[" * 100000])
def test_weights_with_a_broken_header(network, header):
    section = len(header).to_bytes(8, "little") + header + bytes(200)
    with pytest.raises(errors.ArtifactError, match=r"weights.safetensors"):
        build(network.manifest, network.blobs | {"weights.safetensors": section})


def test_weights_that_reach_outside(network):
    section, _, _ = pack_weights({"w": network.weights})
    with pytest.raises(errors.ArtifactError, match=r"weights.safetensors.*lies outside"):
        build(network.manifest, network.blobs | {"weights.safetensors": section[:-1]})
    with pytest.raises(errors.ArtifactError, match=r"weights.safetensors.*cut off"):
        build(network.manifest, network.blobs | {"weights.safetensors": b"\xff" * 8})


# -- Damage


def test_every_flipped_byte_is_found(file):
    """Every byte of the header, every third of the manifest, and in every section both ends and every 97th."""
    data = bytearray(file.read_bytes())
    artifact = read(file)
    length = HEADER.unpack_from(data)[2]
    base = -(-(HEADER.size + length) // ALIGN) * ALIGN
    owner = dict.fromkeys(range(base), "manifest")
    places = set(range(0, base, 3)) | set(range(HEADER.size))
    for section in artifact.manifest.sections:
        begin = base + section.offset
        owner |= dict.fromkeys(range(begin, begin + -(-section.nbytes // ALIGN) * ALIGN), section.name)
        places |= {begin, begin + section.nbytes - 1} | set(range(begin, begin + section.nbytes, 97))
    for place in sorted(places):
        data[place] ^= 0x10
        file.write_bytes(data)
        message = refused(file)
        assert place < HEADER.size or repr(owner[place]) in message, (place, message)
        data[place] ^= 0x10
    file.write_bytes(data)
    read(file)


def test_padding_must_be_zero(file):
    data = bytearray(file.read_bytes())
    end = HEADER.size + HEADER.unpack_from(data)[2]
    assert end % ALIGN
    data[end] = 1
    file.write_bytes(data)
    refused(file, "padding")


def test_without_verification_only_section_hashes_are_skipped(network, file):
    data = bytearray(file.read_bytes())
    place = data.index(GRAPH)
    data[place] ^= 1
    file.write_bytes(data)
    refused(file, "graph.txt")
    assert read(file, verify=False).section("graph.txt") != GRAPH
    data[HEADER.size + 5] ^= 1
    file.write_bytes(data)
    with pytest.raises(errors.ArtifactError, match="manifest"):
        read(file, verify=False)


@pytest.mark.parametrize("sixteenth", range(16))
def test_truncated(file, sixteenth):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * sixteenth // 16])
    refused(file)


def test_one_byte_short_and_one_too_many(file):
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    refused(file, "past the end")
    file.write_bytes(data + b"\0")
    refused(file, "1 bytes follow after the last section")


def test_swapped_sections(network, file):
    first, second = (bytes(network.blobs[f"sm_90/{name}.cubin"]) for name in ("add_weights", "relu"))
    swapped = dict(network.blobs) | {"sm_90/add_weights.cubin": second, "sm_90/relu.cubin": first}
    data, sections = file.read_bytes(), build(network.manifest, network.blobs).manifest.sections
    other = build(network.manifest, swapped)
    pieces = [bytes(other.section(s.name)) for s in sections]
    length = HEADER.unpack_from(data)[2]
    body = b"".join(piece + bytes(-len(piece) % ALIGN) for piece in pieces[:-1]) + pieces[-1]
    forge(file, data[HEADER.size : HEADER.size + length], body)
    refused(file, "sm_90/")


@pytest.mark.parametrize("content", [b"", b"\0", b"PK\x03\x04" + bytes(100), MAGIC, b"version https://git-lfs" * 4])
def test_not_an_artifact(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    refused(path, "not a compiled network")


def test_not_a_file(tmp_path):
    refused(tmp_path, "not a compiled network")
    refused(tmp_path / "missing", "No such file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    with pytest.raises(errors.ArtifactError, match="null"):
        read("a\0b")


# -- Versions


def _set_version(path: Path, major: int, minor: int) -> None:
    forged(path, lambda manifest: manifest.update(format=[major, minor], from_the_future={"a": 1}))
    data = bytearray(path.read_bytes())
    data[8:12] = (major << 16 | minor).to_bytes(4, "little")
    path.write_bytes(data)


def test_a_newer_major_version_is_refused(file):
    _set_version(file, 3, 0)
    refused(file, r"format version 3\.0, but this convc reads 1\.x and 2\.x")


def test_a_newer_minor_version_is_accepted(file):
    _set_version(file, 1, 7)
    assert read(file).manifest.format == (1, 7)


def test_only_a_newer_minor_version_may_have_unknown_sections(network, file):
    """Otherwise bytes could hide in a file."""
    blobs = network.blobs | {"future.bin": b"x"}
    with pytest.raises(errors.ArtifactError, match=r"'future.bin' is not referred to"):
        build(network.manifest, blobs)


def test_header_and_manifest_agree_on_the_version(file):
    forged(file, lambda manifest: manifest.update(format=[1, 3]))
    refused(file, "header")


# -- Manifests that lie


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


# -- Writing


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _fails(artifact, path, words=None):
    with pytest.raises(errors.OutputError, match=words) as raised:
        artifact.save(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_a_folder_that_is_not_there(network, tmp_path):
    _fails(network.build(), tmp_path / "no" / "m.convc", "No such file")


def test_a_path_that_is_a_folder(network, tmp_path):
    (tmp_path / "m.convc").mkdir()
    _fails(network.build(), tmp_path / "m.convc", "directory")
    assert listed(tmp_path) == ["m.convc"]


def test_a_folder_that_cannot_be_written(network):
    _fails(network.build(), Path("/proc/m.convc"))


def test_a_very_long_name(network, tmp_path):
    _fails(network.build(), tmp_path / ("m" * 300), "too long")
    network.build().save(tmp_path / ("m" * 250))
    assert listed(tmp_path) == ["m" * 250]


@pytest.mark.parametrize("eighth", range(8))
def test_no_space(network, file, tmp_path, eighth):
    """A limit on the size of files stands in for a full disk."""
    artifact, before = network.build(), resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = file.stat().st_size * eighth // 8
    file.unlink()
    old = tmp_path / "m.convc"
    old.write_bytes(b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        _fails(artifact, old, "too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert listed(tmp_path) == ["m.convc"] and old.read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(network, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        network.build().save(tmp_path / "m.convc")
    assert listed(tmp_path) == []


def test_a_wrong_manifest_is_not_written(network, tmp_path):
    with pytest.raises(errors.ArtifactError, match="names kernel 9"):
        write(tmp_path / "m.convc", network.with_launch(0, kernel=9).manifest, network.blobs)
    assert listed(tmp_path) == []


def _write_often(path: str, manifest: bytes, blobs: dict[str, bytes]) -> None:
    for _ in range(10):
        write(path, m.decode(manifest), blobs)


def test_concurrent_writers(network, tmp_path):
    """Four processes write one path while it is read: every read sees a whole file."""
    path, context = tmp_path / "m.convc", multiprocessing.get_context("spawn")
    network.build().save(path)
    expected = path.read_bytes()
    arguments = (str(path), m.encode(network.manifest), dict(network.blobs))
    writers = [context.Process(target=_write_often, args=arguments) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert bytes(read(path).section("graph.txt")) == GRAPH
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert path.read_bytes() == expected and listed(tmp_path) == ["m.convc"]


def test_a_reader_keeps_the_file_that_it_opened(network, file):
    artifact = read(file)
    network.build().save(file)
    assert bytes(artifact.section("graph.txt")) == GRAPH
