"""Packs of the suite: what is in them, that they suffice without Triton, and that planning asks for the same again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.gpu import artifacts, cases, pack
from bench.gpu.cases import Case
from bench.gpu.families import Family, all_families
from bench.gpu.probes import PROBES
from convc import errors
from convc.codegen.cubin import parse
from convc.compiler import compile_plan
from convc.ir import DType
from convc.program import Plan
from convc.runtime.artifact import read

ROOT = Path(__file__).parents[2]
CASES = (Case("lenet5", 2), Case("lenet5", 2, variant="unfused"))
FAMILIES = (Family("conv1x1", "fp16", "fused"),)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("triton", reason="packs are made with Triton")
    folder = tmp_path_factory.mktemp("packed") / "pack"
    pack.make_pack(folder, pack.Contents(CASES, FAMILIES, wheels=False))
    return folder


def test_a_pack_says_what_is_in_it(packed: Path) -> None:
    label = json.loads((packed / pack.LABEL).read_text())
    assert label["cases"] == [case.name for case in CASES] and label["families"] == ["conv1x1-fp16-fused"]
    assert label["bytes"].keys() == {pack.ARCHIVE, pack.OLDER}
    with tarfile.open(packed / pack.ARCHIVE) as files:
        assert len(files.getnames()) == label["kernels"] + 1 >= len(PROBES) + 3


def test_both_assemblers_are_there(packed: Path, tmp_path: Path) -> None:
    newer = artifacts.kernels_of(packed, tmp_path)
    older = artifacts.PackedKernels(artifacts.unpacked(packed, tmp_path, artifacts.OLDER))
    for probe in PROBES.values():
        cubins = [probe.compiled(kernels).cubin for kernels in (newer, older)]
        assert [parse(cubin).sm for cubin in cubins] == [90, 90]
        assert all(probe.name in parse(cubin).kernels for cubin in cubins)
        assert cubins[0][7:9] != cubins[1][7:9], "another ABI"


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
from pathlib import Path
from bench.gpu import artifacts
from bench.gpu.cases import Case
from bench.gpu.families import Family
from convc import ConvcError
from convc.compiler import compile_plan
pack, scratch = Path(sys.argv[1]), Path(sys.argv[2])
folder = artifacts.workshop(scratch, pack)
artifacts.use_pack(pack, folder)
for name in sys.argv[3:]:
    try:
        artifacts.opened(Case.of(name), pack, folder, 0.0)
        print(artifacts.file_of(Case.of(name), folder))
    except ConvcError as error:
        print("error:", error)
compile_plan(Family("conv1x1", "fp16", "fused").plan(), artifacts.kernels_of(pack, folder))
print(sorted(name for name in ("onnx", "rich", "click", "torch") if name in sys.modules))
"""


def test_a_pack_is_all_that_is_needed(packed: Path, tmp_path: Path) -> None:
    names = [*(case.name for case in CASES), "lenet5-b64-fp16-fused"]
    command = [sys.executable, "-c", WITHOUT_TRITON, str(packed), str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    *files, missing, imported = done.stdout.splitlines()
    for case, file in zip(CASES, files, strict=True):
        compile_plan(case.plan()).save(tmp_path / "here.convc")
        assert Path(file).read_bytes() == (tmp_path / "here.convc").read_bytes(), case.name
    assert missing.startswith("error: node '") and "not among the compiled kernels" in missing
    assert imported == "[]", "packages that no pack brings"


def test_what_is_missing_is_told_again_and_not_tried_again(packed: Path, tmp_path: Path) -> None:
    folder = artifacts.workshop(tmp_path, packed)
    case = Case("lenet5", 64)
    for _ in range(2):
        with pytest.raises(errors.CompileError, match="not among the compiled kernels"):
            artifacts.opened(case, packed, folder, 0.0)
    assert artifacts.failure_of(case, folder).exists()


def test_artifacts_are_made_by_several_processes(packed: Path, tmp_path: Path) -> None:
    folder = artifacts.workshop(tmp_path, packed)
    artifacts.make_all([*CASES, Case("lenet5", 64)], packed, folder, 2)
    assert [artifacts.file_of(case, folder).exists() for case in CASES] == [True, True]
    assert not artifacts.file_of(Case("lenet5", 64), folder).exists() and not (folder / artifacts.MAKING).exists()
    kept, equal = artifacts.distinct(
        (case.variant, read(artifacts.file_of(case, folder))) for case in (*CASES, CASES[0])
    )
    assert list(kept) == ["fused", "unfused"] and equal == {}


def test_only_what_is_being_made_is_waited_for(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A background process that is there and slow; one that has died; none."""
    folder = artifacts.workshop(tmp_path, packed)
    mark = folder / artifacts.MAKING
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout
    for said, waits in ((str(os.getpid()), True), (gone, False), (None, False)):
        artifacts.file_of(CASES[0], folder).unlink(missing_ok=True)
        mark.unlink(missing_ok=True)
        if said is not None:
            mark.write_text(said)
        slept: list[float] = []
        monkeypatch.setattr(artifacts, "time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
        artifacts.opened(CASES[0], packed, folder, 0.1)
        assert bool(slept) is waits


def test_other_sources_get_another_folder(packed: Path, tmp_path: Path) -> None:
    assert artifacts.workshop(tmp_path, packed) == artifacts.workshop(tmp_path, packed)
    assert artifacts.workshop(tmp_path, packed) != artifacts.workshop(tmp_path, None)


def test_nobodys_measured_tiles_decide_what_is_packed(tmp_path: Path) -> None:
    """Plans are made as if the new pack were the cache, which has no tables; afterwards everything is as before."""
    pytest.importorskip("triton", reason="packs are made with Triton")
    seen: list[str | None] = []

    class Watched(Case):
        def plan(self, weights: str = "random") -> Plan:
            seen.append(os.environ["CONVC_CACHE_DIR"])
            return Case.plan(self, weights)

    before = dict(os.environ)
    pack.make_pack(tmp_path / "pack", pack.Contents((Watched("lenet5", 2),), (), wheels=False))
    assert len(seen) == 1 and seen[0] != before.get("CONVC_CACHE_DIR") and dict(os.environ) == before


def test_two_processes_unpack_at_once(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = artifacts.workshop(tmp_path, packed)
    usual = tarfile.TarFile.extractall

    def slow(*given: object, **named: object) -> None:
        usual(*given, **named)
        if not (folder / "kernels").exists():
            (folder / "kernels").mkdir()
            (folder / "kernels" / "pack.json").write_text("{}")  # the other one was faster

    monkeypatch.setattr(tarfile.TarFile, "extractall", slow)
    assert artifacts.unpacked(packed, folder).name == "kernels"
    assert sorted(path.name for path in folder.iterdir()) == ["kernels"]


def test_a_pack_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="packs are made with Triton")
    monkeypatch.setattr(pack, "LIMIT_BYTES", 1000)
    with pytest.raises(SystemExit, match="name fewer networks"):
        pack.make_pack(tmp_path / "pack", pack.Contents(CASES[:1], (), wheels=False))


KERNEL_NAMES = """
import sys
from bench.gpu.cases import Case
for name in sys.argv[1:]:
    for weights in ("none", "random"):
        launches = Case.of(name).plan(weights).programs[0].launches
        print([(launch.kernel.name, launch.kernel.grid) for launch in launches])
"""


def test_planning_asks_for_the_same_kernels_in_every_process() -> None:
    """Whatever the order of sets, and without the weights: a pack is made in one process and used in another."""
    names = ["squeezenet1_1-b32-fp16-fused", "resnet20-b8-bf16-early-launch", "lenet5-b1-tf32-unfused"]
    said = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", KERNEL_NAMES, *names]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    assert said[0] == said[1]
    assert said[0][::2] == said[0][1::2], "the weights decide nothing"


def test_cases_have_names_of_their_own() -> None:
    everything = list(cases.all_cases())
    assert len({case.name for case in everything}) == len(everything)
    assert [Case.of(case.name) for case in everything] == everything
    families = list(all_families())
    assert len({family.name for family in families}) == len(families) > 100
    assert {case.network for case in everything} == set(cases.NETWORKS)
    assert {case.variant for case in everything} == set(cases.VARIANTS)


@pytest.mark.parametrize(("dtype", "images"), [("fp16", DType.FP16), ("bf16", DType.BF16), ("tf32", DType.FP32)])
def test_images_come_in_the_type_of_the_mode(dtype: str, images: DType) -> None:
    graph = cases.graph_of("lenet5", dtype, "none")
    (image,) = graph.graph_inputs
    assert image.outputs[0].dtype is images and len(graph.graph_outputs) == 1
