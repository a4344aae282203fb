"""`convc ablate`: the figures, the table, the page and the pictures."""

from __future__ import annotations

import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_support import Run, save_model
from onnx import helper

import convc
from convc.passes import RULES

KEYS = {
    "configuration",
    "disabled",
    "kernels",
    "launches",
    "traffic_bytes",
    "arena_bytes",
    "macs",
    "recomputed_macs",
    "predicted_us",
    "measured_us",
    "max_error",
}
NASTY = "</title></text><script>document.title='owned'</script>&\x01\"'"


class TestFigures:
    def test_every_rule_is_left_out_and_left_alone(self, run: Run) -> None:
        report = run("ablate", "zoo:lenet5", "--json").json
        rows = {row["configuration"]: row for row in report["rows"]}
        names = {
            "none",
            "fold",
            "all",
            "nothing",
            *(f"{kind} {rule}" for kind in ("without", "only") for rule in RULES),
        }
        assert set(rows) == names and len(report["rows"]) == len(names)
        assert all(row.keys() >= KEYS for row in report["rows"])
        assert rows["all"]["disabled"] == [] and set(rows["nothing"]["disabled"]) == set(RULES)
        for rule in RULES:
            assert rows[f"without {rule}"]["disabled"] == [rule]
            assert set(rows[f"only {rule}"]["disabled"]) == set(RULES) - {rule}

    def test_rows_are_the_plans_of_these_switches(self, run: Run) -> None:
        rows = {row["configuration"]: row for row in run("ablate", "zoo:resnet20", "--json").json["rows"]}
        cases = {
            "none": {"opt": "none"},
            "fold": {"opt": "fold"},
            "all": {},
            "without conv-epilogue": {"disable": "conv-epilogue"},
            "only conv-epilogue": {"only": "conv-epilogue"},
        }
        for name, switches in cases.items():
            program = convc.plan("zoo:resnet20", **switches).programs[0]
            moved = program.traffic
            assert rows[name]["launches"] == len(program.launches), name
            assert rows[name]["kernels"] == len(program.kernels), name
            assert rows[name]["traffic_bytes"] == moved.activations + moved.weights, name
            assert rows[name]["arena_bytes"] == program.arena.nbytes, name
            assert rows[name]["predicted_us"] == pytest.approx(program.predicted_us, abs=1e-3), name

    def test_worth_is_the_difference_that_a_rule_makes(self, run: Run) -> None:
        report = run("ablate", "zoo:resnet20", "--json").json
        rows = {row["configuration"]: row for row in report["rows"]}
        worth = {entry["rule"]: entry for entry in report["worth"]}
        assert set(worth) == set(RULES)
        for rule, entry in worth.items():
            without, only = rows[f"without {rule}"], rows[f"only {rule}"]
            for key in ("launches", "traffic_bytes", "arena_bytes", "predicted_us"):
                assert entry[key] == pytest.approx(without[key] - rows["all"][key], abs=1e-3)
                assert entry[f"alone_{key}"] == pytest.approx(rows["nothing"][key] - only[key], abs=1e-3)
        saved = [entry["predicted_us"] for entry in report["worth"]]
        assert saved == sorted(saved, reverse=True) and worth["conv-epilogue"]["launches"] > 0

    def test_nothing_is_measured_without_a_gpu(self, run: Run) -> None:
        if convc.api.present_target() != "interpreter":
            pytest.skip("there is a GPU, so that times are measured")
        ran = run("ablate", "zoo:lenet5", "--json").json
        assert all(row["measured_us"] is None and row["max_error"] is None for row in ran["rows"])
        assert "nothing was measured" in run("ablate", "zoo:lenet5").out

    def test_error_against_onnx_runtime(self, run: Run) -> None:
        pytest.importorskip("onnxruntime", reason="the reference")
        rows = run("ablate", "zoo:lenet5", "--device", "numpy", "--dtype", "fp32", "--json").json["rows"]
        verified = run("verify", "zoo:lenet5", "--device", "numpy", "--dtype", "fp32", "--json").json["outputs"][0]
        errors = {row["configuration"]: row["max_error"] for row in rows}
        assert {"all", "nothing"} <= errors.keys()
        assert all(0 < error <= verified["bound"] for error in (*errors.values(), verified["max_abs"]))

    def test_text_names_every_rule(self, run: Run) -> None:
        out = run("ablate", "zoo:lenet5", "--target", "sm_80", "--batch", 4).out
        assert "sm_80 (A100)" in out and "batch 4" in out
        assert all(rule in out for rule in RULES)

    def test_unusable_input(self, run: Run, artifact: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        for words, text in (
            (("zoo:lenet5", "--target", "sm_80,sm_90"), "one"),
            ((artifact,), "compiled network"),
            (("zoo:lenet5", "-o", tmp_path / "a.txt"), ".html"),
            (("zoo:lenet5", "--dtype", "fp8"), "fp8"),
            (("no.onnx", "--png", tmp_path / "file" / "charts"), "cannot write"),  # looked at before the model
        ):
            ran = run("ablate", *words)
            assert ran.status == 2 and text in ran.err and ran.err.count("\n") == 1


class Page(HTMLParser):
    """What a browser would look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


@pytest.fixture(scope="module")
def written(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the page and the pictures of a network whose layer has a nasty name."""
    pytest.importorskip("matplotlib", reason="charts are drawn with matplotlib")
    folder = tmp_path_factory.mktemp("ablation")
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name=NASTY),
        helper.make_node("Sigmoid", ["a"], ["b"], name="$x^{2}$"),
        helper.make_node("Softmax", ["b"], ["y"], name="s"),
    ]
    model = save_model(folder / "model $_^{.onnx", nodes, [4, 8])
    ran = run("ablate", model, "-o", folder / "a.html", "--png", folder / "png")
    assert ran.status == 0, ran.err
    assert str(folder / "a.html") in ran.out.splitlines()
    return folder


class TestPage:
    def test_it_is_self_contained(self, written: Path) -> None:
        text = (written / "a.html").read_text()
        page = Page(text)
        assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)
        assert len(page.ids) == len(set(page.ids)), "ids of the charts collide"
        assert not set(page.tags) & {"script", "img", "link", "iframe", "object"}
        assert _referred(text) <= set(page.ids)
        assert "PREDICTED" in text and "Nothing was measured" in text

    def test_every_launch_is_on_the_roofline_and_leads_to_its_source(self, written: Path) -> None:
        text = (written / "a.html").read_text()
        program = convc.plan(str(written / "model $_^{.onnx")).programs[0]
        points = re.findall(r'<a [^>]*href="#(box\d+)">\s*<g id="roofline-kernel\d+"', text)
        assert len(points) == len(program.launches)
        for box in points:
            assert f'<section id="{box}">' in text
        for kernel in program.kernels:
            assert f"def {kernel}(" in text

    def test_launches_of_one_kernel_lead_to_their_own_layers(self, run: Run, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="charts are drawn with matplotlib")
        assert run("ablate", "zoo:squeezenet1_1", "-o", tmp_path / "a.html").status == 0
        text = (tmp_path / "a.html").read_text()
        points = re.findall(r'<a [^>]*href="#(box\d+)">\s*<g id="roofline-kernel\d+"', text)
        assert len(set(points)) == len(points) == len(convc.plan("zoo:squeezenet1_1").programs[0].launches)

    def test_png(self, written: Path) -> None:
        for name in ("bytes", "launches", "time", "roofline"):
            data = (written / "png" / f"{name}.png").read_bytes()
            width, height = struct.unpack(">II", data[16:24])
            assert data[:8] == b"\x89PNG\r\n\x1a\n" and width > 1000 and height > 600
            assert len(data) > 10_000, "the picture is empty"


def _referred(text: str) -> set[str]:
    return set(re.findall(r"url\(#([^)]+)\)", text))


def test_without_matplotlib_the_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = run("ablate", "zoo:lenet5", "-o", tmp_path / "a.html")
    assert ran.status == 2 and "convc[report]" in ran.err and not (tmp_path / "a.html").exists()
    assert run("ablate", "zoo:lenet5").status == 0
