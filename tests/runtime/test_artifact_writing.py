"""A file is written whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import resource
from pathlib import Path

import pytest
from tiny_network import GRAPH

from convc import errors
from convc.runtime import manifest as m
from convc.runtime.artifact import read, write


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
    for name in ("m" * 250, "é" * 125, "漢" * 85):
        network.build().save(tmp_path / name)
        assert listed(tmp_path) == [name]
        (tmp_path / name).unlink()


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
