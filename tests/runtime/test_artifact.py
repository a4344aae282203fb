"""The container: what is written is read back, and nothing that is damaged is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import numpy as np
import pytest
from forging import forge, forged, refused
from tiny_network import GRAPH

from convc import errors
from convc.runtime import manifest as m
from convc.runtime.artifact import ALIGN, HEADER, MAGIC, build, load_weights, pack_weights, read, write
from convc.runtime.dtypes import numpy_dtype

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


OFFSETS = ("[0]", "[0,Infinity]", "[NaN,200]", "[0.5,200.5]", '["0","200"]', "[false,200]")
BROKEN = (b"", b"{", b"[]", b'{"w":3}', b"[" * 100000, *(b'{"w":{"data_offsets":%s}}' % o.encode() for o in OFFSETS))


@pytest.mark.parametrize("header", BROKEN)
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
