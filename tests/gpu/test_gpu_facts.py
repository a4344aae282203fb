"""Facts and questions on the fake driver: every probe is loaded, bound and launched as the driver wants it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_driver import FakeDriver, LaunchRecord, floats

from bench.gpu import facts, pack, questions
from bench.gpu.probes import PROBES
from bench.gpu.setting import Setting
from convc import errors


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="the probes are compiled with Triton")
    monkeypatch.setattr(facts, "COPY_BYTES", 1 << 12)
    monkeypatch.setattr(facts, "READ_STEPS", (1, 2))
    monkeypatch.setattr(facts, "GAP_LAUNCHES", 7)
    monkeypatch.setattr(questions, "ROWS", (20, 100))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("triton", reason="packs are made with Triton")
    folder = tmp_path_factory.mktemp("packed") / "pack"
    pack.make_pack(folder, pack.Contents((), (), wheels=False))
    return folder


def rows(setting: Setting) -> dict[str, dict]:
    return {row["key"]: row for row in setting.journal.rows()}


def test_facts(fake: FakeDriver, setting) -> None:
    given: Setting = setting("facts")
    facts.facts(given)
    found = rows(given)
    assert found["versions"]["packages"]["numpy"] and found["device"]["name"] == "Fake GPU"
    assert found["device"]["multiprocessor_count"] == 132
    assert found["gap"]["us_per_kernel"] == found["gap programmatic"]["us_per_kernel"] == 1000.0, "7 ms for 7 launches"
    step = facts.READ_BYTES
    assert found[f"read {step / 1e6:.0f} MB"]["tb_per_s"] == pytest.approx(
        facts.READ_TOTAL // step * step / 1e9, rel=1e-6
    )
    assert {key for key, row in found.items() if "error" in row} <= {
        "copy",
        *(f"matmul {t}" for t in facts.MATRIX_TYPES),
    }
    waiting = [record for record in fake.replayed if record.name == "probe_waiting"]
    plain = [record for record in fake.replayed if record.name == "probe_empty"]
    assert any(record.programmatic for record in waiting) and not any(record.programmatic for record in plain)
    assert fake.violations == [] and not fake.allocations


def test_the_read_probe_reads_its_working_set(fake: FakeDriver, setting) -> None:
    arenas = []
    fake.hooks["probe_read"] = lambda record: arenas.append(
        next(found.nbytes for found in fake.allocations.values() if found.pointer == record.values[0])
    )
    facts.read(setting("facts"), 2)
    record = next(record for record in fake.replayed if record.name == "probe_read")
    _, _, steps, loops = record.values[:4]
    assert record.grid == (facts.READERS, 1, 1) and (steps, loops) == (2, facts.READ_TOTAL // arenas[0])
    assert set(arenas) == {record.grid[0] * steps * 4096 * 4}


def add(record: LaunchRecord) -> None:
    x, y, n = record.values[:3]
    floats(y, n)[:] = floats(x, n) + 1


def test_questions_that_are_answered_well(fake: FakeDriver, setting, packed: Path) -> None:
    fake.hooks |= {"probe_add": add, "probe_add_waiting": add}
    given: Setting = setting("questions", pack=packed)
    questions.questions(given)
    found = rows(given)
    for key in ("cubin", "cubin of the older assembler", "edges", "edges programmatic"):
        assert found[key]["ok"], found[key]
    assert found["cubin"]["abi"] != found["cubin of the older assembler"]["abi"]
    assert found["all cubins"] == found["all cubins"] | {"loaded": len(PROBES), "refused": {}, "ok": True}
    assert fake.violations == [] and not fake.allocations and not fake.libraries


def test_questions_that_are_not(fake: FakeDriver, setting, packed: Path) -> None:
    """Kernels that write nothing; a driver that refuses one cubin, or the code in one."""
    given: Setting = setting("questions", pack=packed)
    assert not questions.adds(given.kernels)["ok"]
    assert questions.chained(given.kernels, True)["wrong_runs"] == 100
    fake.fail("cuLibraryLoadData", 209, nth=2)
    found = questions.loads(given.kernels)
    assert found["loaded"] == len(PROBES) - 1 and len(found["refused"]) == 1 and not found["ok"]
    fake.fail("cuFuncGetAttribute", 209, nth=2)  # the code itself, when it is asked for
    assert len(questions.loads(given.kernels)["refused"]) == 1 and not fake.libraries


def test_without_a_pack_there_is_no_older_assembler(setting) -> None:
    with pytest.raises(errors.UsageError, match="without a pack"):
        questions.older(setting("questions"))


def test_copies_through_tensor_maps(fake: FakeDriver, setting) -> None:
    given: Setting = setting("questions")
    for dtype in ("fp16", "bf16", "fp32"):
        assert questions.copies(given.kernels, dtype, 100)["wrong_rows"] == 100, "nothing was written"
    record = fake.replayed[-1]
    assert record.grid == (2, 1, 1)
    source = record.values[0]
    assert source.shape == (100, 32) and source.strides == (128, 4) and source.box == (64, 32)
    assert fake.violations == []
