"""The report, from rows that are made up here. None of these numbers was measured, and none is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.gpu import report
from bench.gpu.journal import Journal
from bench.markdown import marks

SYNTHETIC = "SYNTHETIC GPU"
BEGIN, END = marks(report.PART)


def contestant(kind: str, us: float, **more: object) -> dict:
    return {"kind": kind, "warm": {"us": us}, "cold": {"us": 2 * us}, "roofline_us": us / 4, "ok": True, **more}


def add_cell(journal: Journal, network: str, batch: int, dtype: str = "fp16", **contestants: dict) -> None:
    found = {name.replace("_", " "): each for name, each in contestants.items()}
    key = f"{network}-b{batch}-{dtype}"
    journal.put(f"speed:{network}:{dtype}", key, network=network, batch=batch, dtype=dtype, contestants=found)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "results" / "gpu")
    versions = {"packages": {"torch": "2.0", "triton": "3.0"}, "nvidia_smi": {"name": SYNTHETIC, "driver_version": "1"}}
    journal.put("facts", "versions", **versions)
    journal.put("facts", "device", name=SYNTHETIC)
    journal.put("facts", "copy", tb_per_s=4.5)
    add_cell(
        journal,
        "resnet50",
        32,
        convc_fused=contestant("convc", 100.0),
        convc_unfused=contestant("convc", 150.0),
        convc_pointers=contestant("convc", 80.0),
        eager=contestant("peer", 400.0),
        inductor=contestant("peer", 200.0),
    )
    add_cell(journal, "alexnet", 32, convc_fused=contestant("convc", 100.0), eager=contestant("peer", 50.0))
    add_cell(journal, "resnet50", 1, "bf16", convc_fused=contestant("convc", 10.0))
    wrong = {"kind": "convc", "ok": False, "roofline_us": 1.0}
    add_cell(journal, "vgg16", 1, convc_fused=wrong, eager=contestant("peer", 50.0))
    journal.put("numerics:families", "conv1x1", ok=True)
    journal.put("numerics:families", "conv3x3", ok=False)
    journal.put("numerics:families", "pool", error="its process did not survive")
    tile = {"rows": 64, "cols": 64, "depth": 32, "num_warps": 4, "num_stages": 3, "split_k": 1, "col_blocks": 1}
    launch = {"layers": ["conv1"], "measured_us": 5.0, "predicted_us": 4.0, "roofline_us": 2.0, "kernel": "k"}
    journal.put(
        "kernels:resnet50",
        "resnet50-b32-fp16-fused",
        network="resnet50",
        batch=32,
        dtype="fp16",
        launches=[{**launch, "tile": tile}, {**launch, "tile": None}],
        ok=True,
    )
    return tmp_path / "results" / "gpu"


def readme(tmp_path: Path) -> Path:
    file = tmp_path / "README.md"
    file.write_text("\n".join(["before", BEGIN, "last year's", END, "after", ""]))
    return file


def test_tables(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.make_report(results, readme=False) == 0
    said = capsys.readouterr().out
    assert (
        "| resnet50, 32 | 100.0 | 200.0 | 320,000 | 200.0 (inductor) | 400.0 (inductor) | 2.00 | 2.00 | 1.50 | 25% |"
        in said
    )
    assert "| resnet50, 1, bf16 | 10.0 |" in said
    assert "| vgg16, 1 | – | – | – | 50.0 (eager) |" in said, "what is wrong has no time"
    assert f"| 32 | 2 | {math.sqrt(2 * 0.5):.2f} |" in said
    assert "| pointers | 1 | 1 | 0.80 | 0.80 |" in said
    assert "| numerics:families | 1 of 3 | conv3x3, pool |" in said
    assert "| speed:vgg16:fp16 | 1 of 2 | vgg16-b1-fp16 convc fused |" in said
    assert "| copy | 4.5 TB/s |" in said and SYNTHETIC in said
    assert (results / report.TABLES).read_text() in said


def test_what_won_is_kept_for_machines(results: Path) -> None:
    report.make_report(results, readme=False)
    found = json.loads((results / report.SUMMARY).read_text())
    assert {"network": "resnet50", "variant": "pointers"}.items() <= found["variants"][1].items()
    assert found["variants"][1]["time_over_fused"] == {"warm": 0.8, "cold": 0.8}
    cell = next(cell for cell in found["cells"] if (cell["network"], cell["dtype"]) == ("resnet50", "fp16"))
    assert cell["times_faster_than_best_peer"] == 2.0 and cell["us"]["convc fused"] == {"warm": 100.0, "cold": 200.0}


def test_single_kernels_become_the_cost_models_records(results: Path) -> None:
    report.make_report(results, readme=False)
    recorded = json.loads((results.parent / "measured_sm_90.json").read_text())
    (row,) = recorded["rows"]
    assert recorded["device"] == SYNTHETIC and row["measured_us"] == 5.0 and row["layers"] == ["conv1"]
    assert (row["network"], row["dtype"], row["batch"], row["tile"]["rows"]) == ("resnet50", "fp16", 32, 64)


def test_plots(results: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are drawn with matplotlib")
    report.make_report(results, readme=False)
    for name in ("speed.png", "kernels-resnet50-b32-fp16-fused.png"):
        assert (results / name).read_bytes()[:4] == b"\x89PNG"


def test_the_readme_says_what_was_measured(results: Path, tmp_path: Path) -> None:
    file = readme(tmp_path)
    report.make_report(results, readme=True, root=tmp_path)
    text = file.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "last year" not in text
    assert SYNTHETIC in text and "| resnet50, 32 | 100.0 |" in text and "not measured" not in text


def test_without_results_the_readme_says_so(tmp_path: Path) -> None:
    file = readme(tmp_path)
    assert report.make_report(tmp_path / "nothing", readme=True, root=tmp_path) == 0
    assert "not measured yet" in file.read_text() and "last year" not in file.read_text()
    assert not (tmp_path / "nothing").exists()


def test_facts_alone_are_no_speed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gpu")
    journal.put("facts", "copy", tb_per_s=4.5)
    assert report.readme_section(journal.rows()) == report.NOT_MEASURED
    assert "## Speed\n\nNot measured." in "\n".join(report.full_report(journal.rows()))


def test_a_cell_that_was_measured_twice_counts_once(results: Path) -> None:
    journal = Journal(results)
    add_cell(journal, "alexnet", 32, convc_fused=contestant("convc", 25.0), eager=contestant("peer", 50.0))
    cells = report.cells_of(journal.rows())
    assert [cell.over_peer() for cell in cells if cell.network == "alexnet"] == [2.0]


def test_a_cell_is_measured_against_the_most_peers(results: Path) -> None:
    """Inductor's search for the fastest kernels has a step of its own, which may have no time for the other peers."""
    before = report.cells_of(report.read_rows([results]))
    journal = Journal(results)
    add_cell(journal, "resnet50", 32, convc_fused=contestant("convc", 1.0), eager=contestant("peer", 400.0))
    assert report.cells_of(journal.rows()) == before
    found = dict.fromkeys(("eager", "inductor", "inductor_max"), contestant("peer", 150.0))
    add_cell(journal, "resnet50", 32, convc_fused=contestant("convc", 100.0), **found)
    cells = report.cells_of(journal.rows())
    assert [cell.over_peer() for cell in cells if cell.network == "resnet50" and cell.batch == 32] == [1.5]


def test_what_the_readme_of_the_project_says_is_what_the_report_writes() -> None:
    root = Path(__file__).parents[2]
    text = (root / "README.md").read_text(encoding="utf-8")
    section = text.split(BEGIN, 1)[1].split(END, 1)[0].strip()
    rows = report.read_rows([root / "bench" / "results" / "gpu"])
    assert section == report.readme_section(rows).strip(), "make gpu-report writes it"
