"""`convc show`: the graph after any pass, and pictures."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import networkx as nx
import pytest
from cli_support import Run, save_model
from onnx import helper

import convc
from convc.analysis.layered import arrange
from convc.analysis.stages import stages
from convc.ir import parse_graph
from convc.passes import canonical_passes

SVG = "{http://www.w3.org/2000/svg}"


class TestText:
    def test_stages_are_those_of_the_pipeline(self) -> None:
        assert ("import", *(step.name for step in canonical_passes()), "fuse") == stages()

    def test_import_is_the_graph_of_the_model(self, run: Run) -> None:
        text = run("show", "zoo:lenet5", "--after", "import").out
        assert text == str(convc.ir.print_graph(convc.zoo.build("lenet5").graph))

    def test_the_last_stage_is_fused(self, run: Run) -> None:
        ran = run("show", "zoo:lenet5")
        assert ran.out == run("show", "zoo:lenet5", "--after", "fuse").out
        graph = parse_graph(ran.out)
        regions = {node.region for node in graph.nodes()} - {None}
        assert graph.stage == "fused" and len(regions) < len([n for n in graph.nodes() if n.op != "Constant"])

    def test_batch_norm_goes_with_its_pass(self, run: Run) -> None:
        def ops(*options: str) -> list[str]:
            return [node.op for node in parse_graph(run("show", "zoo:resnet20", *options).out).nodes()]

        before, after = ops("--after", "fold-constants"), ops("--after", "fold-batch-norm")
        assert "BatchNormalization" in before and "BatchNormalization" not in after
        # A pass that is switched off leaves the graph as the passes before it did.
        assert ops("--after", "fold-batch-norm", "--disable", "fold-batch-norm") == before
        assert ops("--after", "fold-batch-norm", "--opt", "none") == before

    def test_artifact(self, run: Run, artifact: Path) -> None:
        assert run("show", artifact).out == run("show", "zoo:lenet5").out

    def test_file_and_json(self, run: Run, tmp_path: Path) -> None:
        ran = run("show", "zoo:lenet5", "-o", tmp_path / "g.txt", "--json")
        assert (tmp_path / "g.txt").read_text() == ran.json["graph"] == run("show", "zoo:lenet5").out
        assert (ran.json["after"], ran.json["file"]) == ("fuse", str(tmp_path / "g.txt"))

    def test_a_model_that_cannot_be_compiled_still_shows(self, run: Run, tmp_path: Path) -> None:
        model = save_model(tmp_path / "m.onnx", [helper.make_node("Tan", ["x"], ["y"], name="slope")], [2])
        refusing = ("--disable", "host-steps")
        assert run("compile", model, "-o", tmp_path / "m.convc", *refusing).status == 2
        assert "Tan" in run("show", model, *refusing).out


class Page(HTMLParser):
    """Links, anchors and what would be fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            if name == "id":
                self.anchors.add(value or "")


class TestPictures:
    @pytest.mark.parametrize("source", ["zoo:googlenet", "zoo:resnet18"])
    def test_one_box_a_region_with_its_kernel(self, run: Run, tmp_path: Path, source: str) -> None:
        assert run("show", source, "-o", tmp_path / "g.svg", "--target", "interpreter").status == 0
        picture = ET.parse(tmp_path / "g.svg").getroot()
        plan = convc.api.plan(source, target="interpreter")
        ends = [node for node in plan.graph.nodes() if node.op in ("Input", "Output")]
        boxes = [rect for rect in picture.iter(f"{SVG}rect") if rect.get("class", "").startswith("region")]
        assert len(boxes) == len(plan.fused.regions) + len(ends)
        shown = [text.text or "" for text in picture.iter(f"{SVG}text")]
        assert {launch.kernel.name for launch in plan.programs[0].launches} <= set(shown)
        assert {"×".join(map(str, node.outputs[0].shape)) for node in ends[:1]} <= {t.split()[-1] for t in shown if t}
        assert_disjoint(boxes)

    def test_page_is_self_contained_and_shows_every_kernel(self, run: Run, artifact: Path, tmp_path: Path) -> None:
        assert run("show", artifact, "-o", tmp_path / "g.html").status == 0
        text = (tmp_path / "g.html").read_text()
        page = Page(text)
        assert page.links and all(link.startswith("#") and link[1:] in page.anchors for link in page.links)
        assert not page.tags & {"script", "img", "link", "iframe", "object"}
        assert not re.search(r"url\((?!#head\))|@import", text)
        for kernel in convc.load(artifact).kernels:
            assert f"def {kernel.name}(" in text

    def test_names_are_escaped(self, run: Run, tmp_path: Path) -> None:
        name = "</text><script>alert(1)</script>&\x01\x1b"
        model = save_model(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], name=name)], [2])
        for suffix in (".svg", ".html"):
            path = tmp_path / f"g{suffix}"
            assert run("show", model, "-o", path, "--target", "interpreter").status == 0
            assert "<script" not in path.read_text()
        ET.parse(tmp_path / "g.svg")

    def test_before_fusion_each_operator_is_a_box(self, run: Run, tmp_path: Path) -> None:
        assert run("show", "zoo:lenet5", "--after", "import", "-o", tmp_path / "g.svg").status == 0
        boxes = [rect for rect in ET.parse(tmp_path / "g.svg").iter(f"{SVG}rect") if rect.get("class")]
        graph = convc.zoo.build("lenet5").graph
        assert len(boxes) == sum(node.op != "Constant" for node in graph.nodes())


def assert_disjoint(boxes: list[ET.Element]) -> None:
    places = [tuple(float(box.get(name, "")) for name in ("x", "y", "width", "height")) for box in boxes]
    for (x, y, w, h), (u, v, a, b) in itertools.combinations(places, 2):
        assert x + w <= u + 0.2 or u + a <= x + 0.2 or y + h <= v + 0.2 or v + b <= y + 0.2


class TestLayout:
    def test_a_chain_is_straight(self) -> None:
        graph = nx.path_graph(5, create_using=nx.DiGraph)
        layout = arrange(graph, {node: (40.0 + node, 20.0) for node in graph})
        assert len({round(x, 3) for x, _ in layout.centres.values()}) == 1
        assert [y for _, y in layout.centres.values()] == sorted(y for _, y in layout.centres.values())

    def test_edges_lead_down_and_around_boxes(self) -> None:
        graph = nx.DiGraph([(0, 1), (1, 2), (2, 3), (0, 3), (0, 4), (4, 3)])
        sizes = dict.fromkeys(graph, (100.0, 30.0))
        layout = arrange(graph, sizes)
        for (source, target), points in layout.paths.items():
            ys = [layout.centres[source][1], *(y for _, y in points), layout.centres[target][1]]
            assert ys == sorted(ys)
            for x, y in points:
                assert not any(abs(x - u) < 50 and abs(y - v) < 15 for u, v in layout.centres.values())

    def test_nothing_and_one(self) -> None:
        assert arrange(nx.DiGraph(), {}).height == 0
        one = nx.DiGraph()
        one.add_node("a")
        assert arrange(one, {"a": (10.0, 6.0)}).centres == {"a": (5.0, 3.0)}
